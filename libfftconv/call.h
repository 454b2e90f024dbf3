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
    int inside; /* how many threads share one row; 1 unless kernels and rows are few */
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

/* S = the spectra of a row.  With a place for an exponent, the source's is chosen and set, and S is
 * the spectra of 2^-exponent z; ALL_ZEROS in that place says that all of z is zero. */
void row_to_spectra(const struct worker *w, struct source *source, int *exponent, void *S,
                    struct prefetch *prefetch);
/* The same for a kernel in a row, as taps.c places it. */
void kernel_to_spectra(const struct worker *w, struct source *source, int *exponent, void *S);
/* A row from its spectra S, which are overwritten. */
void spectra_to_row(const struct worker *w, void *S, const struct sink *sink,
                    struct prefetch *prefetch);
/* The transform of a row, its product with a spectrum and the transform back in one pass, in
 * which the product stays in the cache that its leaf is in.  If S is given and
 * keeps_spectra(plan) is true, the spectra of the row are written to S.  The source's exponent is
 * chosen as above; the sink's is set to the sum of it and of the spectrum's. */
void convolve_row(const struct worker *w, struct source *source, int *exponent, void *S,
                  const void *spectrum, struct sink *sink, struct prefetch *prefetch);
bool keeps_spectra(const struct fftconv_plan *plan);
/* out = spectrum S at every frequency, or conj(spectrum) S; out may be S. */
void multiply_row(const struct worker *w, const void *spectrum, void *S, void *out, bool adjoint);
/* sum += power scale weights conj(Z) G, or sum = that if `begin` is true.  The scale is the factor
 * that the inverse transform leaves out (scale_of_part in row.c).  If a spectrum is given, G is
 * also multiplied by conj(spectrum). */
void accumulate_row(const struct worker *w, bool begin, double power, void *sum, void *Z, void *G,
                    const void *spectrum);
/* Turns S, the transform of a kernel, into a spectrum: multiplies it by the weights and by the
 * factor that the inverse transform leaves out (scale_of_part in row.c). */
void weigh_row(const struct fftconv_plan *plan, void *S);

/* ---- taps.c: kernels to spectra, and gradients back -------------------------------------------- */

struct scalar get_element(const struct fftconv_plan *plan, const struct array *a, int64_t n);
void set_element(const struct fftconv_plan *plan, const struct array *a, int64_t n,
                 struct scalar value);
struct taps taps_of(const struct fftconv_plan *plan, const fftconv_tensor *k,
                    const fftconv_tensor *k_rev, int64_t b, int64_t g);
/* S = the transform of a kernel; where there is a place for an exponent, that of 2^-exponent
 * times the kernel. */
int taps_to_spectra(const struct worker *w, const struct taps *taps, int *exponent, void *S);
/* The taps of a kernel's gradient from its spectrum 2^exponent S; S is overwritten. */
int spectra_to_taps(const struct worker *w, const struct taps *taps, int exponent, void *S);
/* The spectrum of kernel (b, g) of the operands. */
int make_spectrum(const struct worker *w, const fftconv_operands *o, int64_t b, int64_t g,
                  void *spectrum);
/* The spectra of all kernels, one after the other from `to` on. */
int make_all_spectra(const struct call *c, char *to);

/* ---- scale.c: powers of two -------------------------------------------------------------------- */

/* The spectrum of a kernel, and a sum of spectra, stand for 2^exponent times their numbers. */
int *exponent_of(const struct fftconv_plan *plan, const void *spectrum);
/* The exponent of the largest number at places [n, n + count) of a source (struct row_kernels). */
int largest_of_places(const struct fftconv_plan *plan, const struct source *source, int64_t n,
                      int64_t count);
/* Numbers between 2^-e and 2^e need no power of two, where e is this exponent. */
static inline int ordinary_exponent(const struct fftconv_plan *plan)
{
    return plan->engine->real_bytes == 8 ? ORDINARY_DOUBLE : ORDINARY_SINGLE;
}
/* The exponent with which a row is read whose largest number has this one: 0 mostly. */
int exponent_if_needed(const struct fftconv_plan *plan, int largest);
/* The exponent of a number; ALL_ZEROS for 0. */
int exponent_of_scalar(struct scalar s);
/* Is a factor one by which ordinary numbers may be multiplied, between 2^-20 and 2^20? */
bool is_moderate(const struct fftconv_plan *plan, struct scalar s);
/* Are all elements [from, to) less than the ordinary numbers?  Not where there are none. */
bool is_tiny(const struct fftconv_plan *plan, const struct array *a, int64_t from, int64_t to);
/* Whether a sink of z * k needs care; its y_exponent if so. */
void choose_care(const struct fftconv_plan *plan, struct sink *s, const struct source *z);
/* accumulate_row for rows of z and g that row_to_spectra gave these two exponents. */
void accumulate_scaled(const struct worker *w, bool begin, void *sum, int z, void *Z, int g,
                       void *G, const void *spectrum);
/* sum += other, which is overwritten. */
void add_sums(const struct fftconv_plan *plan, void *sum, void *other);
/* S = 2^exponent S */
void scale_spectra(const struct fftconv_plan *plan, int exponent, void *S);

/* ---- groups.c: rows of a call ------------------------------------------------------------------ */

/* Prepares a call and its workspace.  The workspace is the caller's if there is one; otherwise
 * it is allocated here, and the caller of this function frees *owned.  rows: the number of rows
 * that a primitive is given; 0 means the plan's B H rows. */
int begin_call(struct call *c, const struct fftconv_plan *plan, const fftconv_operands *o,
               int direction, bool has_spectrum, int64_t rows, void **owned);
struct worker worker_of(const struct call *c, int index);
struct block block_of(const struct fftconv_plan *plan, int64_t L, int64_t j);

/* Kernels [g0, g1) of batch row kb, and their spectra. */
struct kernels {
    int64_t kb, g0, g1;
    const char *spectra;
};
/* The kernels of a task.  Their spectra are the call's if it has them; otherwise they are made
 * here, in the worker's memory. */
int kernels_of_task(struct kernels *k, const struct call *c, const struct worker *w, int64_t task);
/* Rows that a kernel serves: those of its channels, in one row of the batch or in all. */
int64_t rows_of_kernel(const struct fftconv_plan *plan);

/* Rows (b, h0 ... h0 + count) of every operand, or rows (b ... b + count, h0), which are
 * worked on block by block.  Operands that are copied lie in the workspace, row after row. */
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
/* Moves on to the next group of rows; returns false after the last group. */
bool next_group(struct row_group *group);

/* Copies into the workspace what a block reads of the operands that must be copied: those whose
 * rows are not contiguous, and u where y overwrites it. */
void copy_in(struct row_group *group, const struct block *block);
/* Copies elements [from, to) of such an operand from the workspace to the caller's array. */
void copy_out(const struct row_group *group, int operand, int64_t from, int64_t to);
/* Row i of the group in an operand.  row_to, below, does the same through a pointer. */
struct array row_of(const struct row_group *group, int operand, int64_t i);
/* The number of skip (with b = 0) or of mask that belongs to a row; 0 if the operand is absent. */
struct scalar scalar_of(const struct fftconv_plan *plan, const fftconv_tensor *t, int64_t b,
                        int64_t h);

/* Prepares a source for a block: which elements it reads.  source_of_row then says from which
 * row. */
void input_source(struct source *s, const struct fftconv_plan *plan, int64_t L,
                  const struct block *block);
void source_of_row(struct source *s, const struct row_group *group, const struct block *block,
                   int64_t i);
/* A source that reads row x at the positions of a block's outputs, with zeros around it. */
struct source output_source(const struct fftconv_plan *plan, const struct block *block,
                            struct array x);
struct sink output_sink(const struct fftconv_plan *plan, const struct block *block, struct array y);
/* A sink that writes every element which the block's source may have read. */
struct sink input_sink(const struct fftconv_plan *plan, int64_t L, const struct block *block,
                       struct array y);

/* What follows is done for every row.  It stands here to be compiled into its callers, since
 * a row of 256 samples is done in 300 ns, and ten calls more would be felt. */

/* Row i of the group in an operand.  Written through a pointer: to return the structure would
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

/* Sets the exponents of a sink of z * k, where the kernel has this one, and whether it needs
 * care. */
static inline void scale_sink(const struct fftconv_plan *plan, struct sink *s,
                              const struct source *z, int kernel)
{
    const bool bare = !s->has_mask && !s->has_skip && !s->out_gate.data && !s->twin.data &&
                      s->activation == FFTCONV_ACTIVATION_IDENTITY;
    s->exponent = z->exponent + kernel;
    s->y_exponent = 0;
    s->careful = false;
    if (!bare)
        choose_care(plan, s, z);
    else if (s->own)
        s->y_exponent = s->exponent, s->exponent = 0;
}

/* The spectrum that row i is multiplied by. */
static inline const char *spectrum_of(const struct row_group *group, int64_t i)
{
    const bool own = group->call->plan->channels_per_kernel == 1 && group->step_h;
    return group->kernels->spectra + (own ? i : 0) * group->call->layout.spectra_bytes;
}

/* Adds row (b, h) of an operand to the rows to prefetch, since it is read or written soon. */
static inline void prefetch_row_at(struct prefetch *p, const struct row_group *group, int operand,
                                   int64_t b, int64_t h)
{
    const struct rows *rows = &group->call->rows[operand];
    if (rows->first.data && rows->first.stride == 1 && !group->worker->layout->call.copied[operand])
        p->at[p->rows++] = (const char *)rows->first.data + b * rows->step_b + h * rows->step_h;
}

/* The same for row i of the group, and, below, for the row that follows it. */
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

/* The exponents of what overlap-add holds of a row: of dz, of what goes to the next block, and of
 * what comes round at the end. */
struct overlap {
    int dz, carry, wrapped;
};
/* Overlap-add: adds to dz, the result of block j of row i, what earlier blocks contributed to
 * the same elements.  Elements [*from, *to) are then complete. */
void overlap_add(const struct call *c, const struct worker *w, const struct block *block, int64_t i,
                 char *dz, struct overlap *overlap, int64_t *from, int64_t *to);

#endif
