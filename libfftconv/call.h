/* What the files that run a plan share: forward.c, backward.c, spectrum.c, primitives.c.
 *
 * A call's work is cut three ways: into tasks, which threads share; in a task, into groups
 * of rows, which share what there is to set up, and are copied together where the caller's
 * rows are not contiguous; in a group, into the blocks of its rows. */
#ifndef FFTCONV_CALL_H
#define FFTCONV_CALL_H

#include "plan.h"

/* The memory of one worker, through which its rows pass. */
struct worker {
    const struct fftconv_plan *plan;
    const struct layout *layout;
    int inside; /* threads within the row */
    char *memory, *x, *row, *scratch, *z, *g, *p, *dz, *taps, *filter;
    int64_t scratch_bytes; /* of each thread */
};

/* The rows of an operand, in bytes from one to the next along the batch and the channels. */
struct rows {
    struct array first; /* row (0, 0) */
    int64_t step_b, step_h;
};

struct call {
    const struct fftconv_plan *plan;
    const fftconv_operands *o;
    struct rows rows[ROW_OPERANDS];
    int64_t L; /* of this call's rows */
    struct layout layout;
    char *workers, *shared;
    const char *spectra;                   /* of all kernels, or NULL: each worker makes its own */
    const struct fftconv_spectrum *direct; /* whose taps are summed directly, or NULL */
    int64_t prefetch_bytes;                /* of a row, with each square of the row before */
};

/* Block j: outputs [t0, t1) from the elements [s, s + padded_length) of z. */
struct block {
    int64_t j, t0, t1, s;
};

/* ---- row.c: one row, on one thread or several ------------------------------------------------ */

struct array array_of(const fftconv_tensor *t, int64_t b, int64_t h);
/* A row of the plan's own numbers in the workspace, from element `origin` on. */
struct array own_row(const struct fftconv_plan *plan, const void *p, int64_t origin);

/* S = the spectra of a row. */
void row_to_spectra(const struct worker *w, const struct source *source, void *S,
                    struct prefetch *prefetch);
/* A row from its spectra S, which are overwritten. */
void spectra_to_row(const struct worker *w, void *S, const struct sink *sink,
                    struct prefetch *prefetch);
/* All three at once, the product never leaving the leaf.  Where S is given and
 * keeps_spectra(plan), the spectra of the row are left there. */
void convolve_row(const struct worker *w, const struct source *source, void *S,
                  const void *spectrum, const struct sink *sink, struct prefetch *prefetch);
bool keeps_spectra(const struct fftconv_plan *plan);
/* out = spectrum S at every frequency, or conj(spectrum) S; out may be S. */
void multiply_row(const struct worker *w, const void *spectrum, void *S, void *out, bool adjoint);
/* sum += weights conj(Z) G and the factor that the way back leaves out, or begins with that;
 * where a spectrum is given, G *= conj(spectrum). */
void accumulate_row(const struct worker *w, bool begin, void *sum, void *Z, void *G,
                    const void *spectrum);
/* The transform of k, S, becomes a spectrum: times the weights, and the factor that the way
 * back leaves out. */
void weigh_row(const struct fftconv_plan *plan, void *S);

/* ---- taps.c: kernels to spectra, and gradients back -------------------------------------------- */

struct scalar get_element(const struct fftconv_plan *plan, const struct array *a, int64_t n);
void set_element(const struct fftconv_plan *plan, const struct array *a, int64_t n,
                 struct scalar value);
struct taps taps_of(const struct fftconv_plan *plan, const fftconv_tensor *k,
                    const fftconv_tensor *k_rev, int64_t b, int64_t g);
/* S = the transform of a kernel. */
int taps_to_spectra(const struct worker *w, const struct taps *taps, void *S);
/* The taps of a kernel's gradient from its spectrum S, which is overwritten. */
int spectra_to_taps(const struct worker *w, const struct taps *taps, void *S);
/* The spectrum of kernel (b, g) of the operands. */
int make_spectrum(const struct worker *w, const fftconv_operands *o, int64_t b, int64_t g,
                  void *spectrum);
/* Those of all kernels, into consecutive rows. */
int make_all_spectra(const struct call *c, char *to);

/* ---- groups.c: rows of a call ------------------------------------------------------------------ */

/* Prepares a call, with its workspace, the caller's or its own: *owned is to be freed.  rows:
 * of a primitive; 0: the plan's. */
int begin_call(struct call *c, const struct fftconv_plan *plan, const fftconv_operands *o,
               int direction, bool has_spectrum, int64_t rows, void **owned);
struct worker worker_of(const struct call *c, int index);
struct block block_of(const struct fftconv_plan *plan, int64_t L, int64_t j);

/* Kernels [g0, g1) of batch row kb, and their spectra. */
struct kernels {
    int64_t kb, g0, g1;
    const char *spectra;
};
/* Those of a task; spectra as the call has them, or made here and now. */
int kernels_of_task(struct kernels *k, const struct call *c, const struct worker *w, int64_t task);
/* Rows that a kernel serves: those of its channels, in one row of the batch or in all. */
int64_t rows_of_kernel(const struct fftconv_plan *plan);

/* Rows (b, h0 ... h0 + count) of every operand, or rows (b ... b + count, h0), which are
 * worked on block by block.  What is copied stands in the workspace, row after row. */
struct row_group {
    const struct call *call;
    const struct worker *worker;
    const struct kernels *kernels;
    int64_t b, h0, count;
    int64_t step_b, step_h; /* from row to row: one is 1, the other 0 */
    int64_t next_b, next_h; /* the row after these, a guess for prefetching; h = H: none */
    struct {
        int64_t from, to; /* elements in the workspace */
    } copied[ROW_OPERANDS];
    /* The rows still to come: next_group alone reads these. */
    int64_t row, row_end, first_b, first_m, at_b, at_m;
    bool along_batch;
};
/* The groups of rows [row0, row1) of those that each of these kernels serves.  along_batch:
 * rows of one kernel in several rows of the batch may be one group. */
struct row_group groups_of(const struct call *c, const struct worker *w, const struct kernels *k,
                           int64_t row0, int64_t row1, bool along_batch);
/* Makes the next group of them; false after the last. */
bool next_group(struct row_group *group);

/* What of a block's operands is copied comes in; what is known of an operand goes out. */
void copy_in(struct row_group *group, const struct block *block);
void copy_out(const struct row_group *group, int operand, int64_t from, int64_t to);
/* Row i of the group, of an operand, by value; see row_to below. */
struct array row_of(const struct row_group *group, int operand, int64_t i);
/* skip (b = 0) or mask of a row; 0 where there is none. */
struct scalar scalar_of(const struct fftconv_plan *plan, const fftconv_tensor *t, int64_t b,
                        int64_t h);

/* The places of a block's inputs, of a row yet to be named; and then of row i. */
void input_source(struct source *s, const struct fftconv_plan *plan, int64_t L,
                  const struct block *block);
void source_of_row(struct source *s, const struct row_group *group, const struct block *block,
                   int64_t i);
/* A row in the places of a block's outputs, zeros around it. */
struct source output_source(const struct fftconv_plan *plan, const struct block *block,
                            struct array x);
struct sink output_sink(const struct fftconv_plan *plan, const struct block *block, struct array y);
/* All the places that a block's inputs may have come from. */
struct sink input_sink(const struct fftconv_plan *plan, int64_t L, const struct block *block,
                       struct array y);

/* What follows is done for every row.  It stands here to be compiled into its callers, since
 * a row of 256 samples is done in 300 ns, and ten calls more would be felt. */

/* Row i of the group, of an operand.  Written through a pointer: to return the structure would
 * copy it as a whole just after it was written member by member, and that stalls on store
 * forwarding. */
static inline void row_to(struct array *a, const struct row_group *group, int operand, int64_t i)
{
    const struct layout *l = group->worker->layout;
    const struct rows *rows = &group->call->rows[operand];
    a->dtype = rows->first.dtype;
    if (l->call.copied[operand]) {
        a->data = group->worker->memory + l->copy[operand] + i * l->copy_bytes[operand];
        a->stride = 1;
        a->origin = group->copied[operand].from;
    } else {
        a->data = (const char *)rows->first.data + (group->b + i * group->step_b) * rows->step_b +
                  (group->h0 + i * group->step_h) * rows->step_h;
        a->stride = rows->first.stride;
        a->origin = 0;
    }
}

/* The spectrum that row i meets. */
static inline const char *spectrum_of(const struct row_group *group, int64_t i)
{
    const bool own = group->call->plan->channels_per_kernel == 1 && group->step_h;
    return group->kernels->spectra + (own ? i : 0) * group->call->layout.spectra_bytes;
}

/* Row (b, h) of an operand is wanted, or written, soon. */
static inline void prefetch_row_at(struct prefetch *p, const struct row_group *group, int operand,
                                   int64_t b, int64_t h)
{
    const struct rows *rows = &group->call->rows[operand];
    if (rows->first.data && rows->first.stride == 1 && !group->worker->layout->call.copied[operand])
        p->at[p->rows++] = (const char *)rows->first.data + b * rows->step_b + h * rows->step_h;
}

/* Row i of the group; and below, the row after it. */
static inline void prefetch_row(struct prefetch *p, const struct row_group *group, int operand,
                                int64_t i)
{
    prefetch_row_at(p, group, operand, group->b + i * group->step_b, group->h0 + i * group->step_h);
}

static inline void prefetch_next_row(struct prefetch *p, const struct row_group *group, int operand,
                                     int64_t i)
{
    if (i + 1 < group->count)
        prefetch_row(p, group, operand, i + 1);
    else if (group->next_h < group->call->plan->H)
        prefetch_row_at(p, group, operand, group->next_b, group->next_h);
}

/* ---- backward.c -------------------------------------------------------------------------------- */

/* Overlap-add: dz of block j of row i, as its transform left it, plus what came before; the
 * elements [*from, *to) of it are then finished. */
void overlap_add(const struct call *c, const struct worker *w, const struct block *block, int64_t i,
                 char *dz, int64_t *from, int64_t *to);

#endif
