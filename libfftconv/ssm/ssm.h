/* What the files of this folder share.
 *
 * A state-space model's kernel is
 *     k[l] = 2 Re C Abar^l Bbar,
 * with Abar and Bbar from A and B, which are given in units of one time step.
 *   ssm.c         checks and the two public calls
 *   diagonal.c    S4D, whose A is diagonal: the kernel and its gradients
 *   low_rank.c    S4, whose A is diagonal plus low rank: the kernel
 *   recurrence.c  S4: the gradients
 *   solver.c      S4: the inverse of I - A/2
 * Nothing has heads x states x length entries. */
#ifndef FFTCONV_SSM_H
#define FFTCONV_SSM_H

#include "../engine.h"

/* ---- Complex numbers ------------------------------------------------------------------------ */

struct complex {
    double re, im;
};

static inline struct complex times(struct complex a, struct complex b)
{
    return (struct complex){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
static inline struct complex over(struct complex a, struct complex b)
{
    const double size = b.re * b.re + b.im * b.im;
    return (struct complex){(a.re * b.re + a.im * b.im) / size, (a.im * b.re - a.re * b.im) / size};
}
static inline struct complex plus(struct complex a, struct complex b)
{
    return (struct complex){a.re + b.re, a.im + b.im};
}
static inline struct complex scaled(double s, struct complex a)
{
    return (struct complex){s * a.re, s * a.im};
}
static inline struct complex conjugate(struct complex a) { return (struct complex){a.re, -a.im}; }

/* ---- The caller's arrays -------------------------------------------------------------------- */

/* Entry [i, h, n] of a parameter of shape (any, heads, states). */
static inline struct complex entry(const fftconv_ssm_desc *d, const double *x, int64_t i, int64_t h,
                                   int64_t n)
{
    const double *at = x + 2 * ((i * d->heads + h) * d->states + n);
    return (struct complex){at[0], at[1]};
}
static inline void set_entry(const fftconv_ssm_desc *d, double *x, int64_t i, int64_t h, int64_t n,
                             struct complex value)
{
    double *at = x + 2 * ((i * d->heads + h) * d->states + n);
    at[0] = value.re, at[1] = value.im;
}

/* Bytes from the start of k or dk to its row [i, c, h]. */
static inline int64_t row_offset(const fftconv_ssm_desc *d, int64_t i, int64_t c, int64_t h)
{
    return ((i * d->channels + c) * d->heads + h) * d->length * dtype_size(d->dtype);
}

/* Sample l of a row of dk. */
static inline double sample(const fftconv_ssm_desc *d, const void *row, int64_t l)
{
    return d->dtype == FFTCONV_DTYPE_FLOAT64 ? ((const double *)row)[l]
                                             : (double)((const float *)row)[l];
}

/* ---- A call, and the memory of its workers -------------------------------------------------- */

struct ssm_call {
    const fftconv_ssm_desc *d;
    const struct engine *engine; /* of float64 */
    int64_t lanes;               /* of that engine */
    int64_t head_groups;         /* a group is `lanes` heads, each in a lane of its own */
    int threads;
    char *memory;         /* of all workers */
    int64_t memory_bytes; /* of each worker */
};

/* Memory that is given out from its start.  An arena without memory gives out NULL and counts
 * all the same, so that one function both says how much a task needs and hands it out. */
struct arena {
    char *memory;
    int64_t used;
};

static inline void *take(struct arena *arena, int64_t count, int64_t size)
{
    const int64_t at = take_bytes(&arena->used, size_mul(count, size));
    return arena->memory ? arena->memory + at : NULL;
}
static inline double *take_doubles(struct arena *arena, int64_t count)
{
    return take(arena, count, (int64_t)sizeof(double));
}

static inline struct arena worker_arena(const struct ssm_call *call, int worker)
{
    return (struct arena){.memory = call->memory + worker * call->memory_bytes};
}

/* parallel_for over the tasks, where each worker has an arena of so many bytes. */
int run_tasks(struct ssm_call *call, int64_t tasks, int64_t arena_bytes, task_fn *fn,
              void *context);

/* ---- The inverse of I - A/2: solver.c ------------------------------------------------------- */

/* (I - A/2)^-1 of one head, or its adjoint, as struct solver applies it: the diagonal has
 * `states` entries, the rows and the columns `rank` times as many. */
struct head_solver {
    struct complex *diagonal, *rows, *columns;
};

struct head_solver take_head_solver(struct arena *arena, const fftconv_ssm_desc *d);
/* Computes the solver of head h; INVALID, with a message, where I - A/2 is singular. */
int build_head_solver(const fftconv_ssm_desc *d, int64_t h, bool adjoint,
                      const struct head_solver *s);
/* w = (I - A/2)^-1 x; w must not be x. */
void head_solve(const fftconv_ssm_desc *d, const struct head_solver *s, const struct complex *x,
                struct complex *w);
/* y = A x, or y = (I + A/2) x where `half` is set. */
void head_apply(const fftconv_ssm_desc *d, int64_t h, bool half, const struct complex *x,
                struct complex *y);

/* ---- Kernels and gradients ------------------------------------------------------------------ */

int diagonal_kernel(struct ssm_call *call);
int diagonal_gradients(struct ssm_call *call);
int low_rank_kernel(struct ssm_call *call);
int low_rank_gradients(struct ssm_call *call); /* recurrence.c */

#endif
