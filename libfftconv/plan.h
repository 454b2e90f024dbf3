/* Plans, spectra, and how the files that make and run them share the work. */
#ifndef FFTCONV_PLAN_H
#define FFTCONV_PLAN_H

#include "engine.h"

/* Folded: t^N - 1 = (t^(N/2) - 1) (t^(N/2) + 1), so a row of N splits into the sums
 * x[n] + x[n + N/2], circular of N/2, and the differences, a right angle with M = N/4.  The
 * sums split again, and the last of them go in as complex numbers. */
enum { MAX_PARTS = 10 };

/* What the planner chose.
 *
 * A row goes through its transforms in blocks (overlap-save): block j reads elements
 * j block_length - lead ... of z, as many as the transform holds, and gives the block_length
 * elements of y from j block_length on.  A whole row in one block needs no lead where the
 * positions after its end are unused: what wraps round falls on those. */
struct choice {
    struct transform part[MAX_PARTS]; /* one; several in the folded form, none in the direct one */
    int parts, form;
    int packing; /* of u, k, y */
    int64_t padded_length, lead, block_length, blocks;
    bool wrap; /* circular, by reading round the end of the row */
    int order;
    int64_t radices[FFTCONV_MAX_ORDER];
    double predicted; /* seconds of a row */
};

struct fftconv_plan {
    /* The shapes: those of the descriptor, and what follows from it on any device. */
    int64_t B, H, L, N; /* N: fft_size, circular */
    int64_t Lk, Lk_rev;
    int64_t G, KB;               /* kernels of one row of the batch; KB = B or 1 */
    int64_t channels_per_kernel; /* H / G */
    int64_t taps, rev_taps;      /* those of k and k_rev that act */
    int mode, dtype, threads;
    bool dense, history;

    struct cuda_plan *cuda; /* a plan on a GPU has this, and nothing of the following */

    const struct engine *engine;
    int64_t past_taps, future_taps; /* how far y[t] sees into the past and the future */
    struct choice chosen;
    struct shared_choice *shared; /* owns the tables of `chosen`; see choices.c */
    int64_t chunks;               /* the rows of a kernel are summed in so many fixed chunks */
    uint64_t pattern;             /* a hash of the weights; 0: there are none */
    struct filter *filter;        /* if not NULL, it applies the weights to kernels; filter.c */
    double kept;                  /* the fraction of bins whose weight is not 0 */
    int64_t direct_outputs;       /* history: up to so many outputs, direct sums are cheaper */
    int64_t prefetch_bytes;       /* bytes of the next row to prefetch with each square */
};

/* What a spectrum must have in common with the plan that runs it. */
struct spectrum_key {
    int64_t KB, G, taps, rev_taps;
    int32_t form, parts, packing, lanes, real_bytes;
    uint64_t pattern;
    struct {
        int64_t M;
        int32_t stages, split, depth, stage1_outputs;
        uint8_t radices[MAX_STAGES];
    } part[MAX_PARTS];
};

struct fftconv_spectrum {
    struct cuda_spectrum *cuda; /* of a plan on a GPU, with nothing of the following */
    struct spectrum_key key;
    void *data;             /* KB G rows of spectra_bytes */
    void *reversed;         /* history: the taps themselves, last first, in whole vectors */
    int64_t reversed_bytes; /* of one kernel */
};

/* ---- plan.c ------------------------------------------------------------------------------ */

/* Numbers of a row's spectra, all parts; and their bytes, rounded up to ALIGNMENT, with so many
 * more for an exponent (scale.c). */
int64_t spectra_reals(const struct fftconv_plan *plan);
int64_t spectra_bytes(const struct fftconv_plan *plan);
/* In the direct form a kernel's spectrum is its taps by their lags, last first, and then first one
 * first; a sum of spectra is a double for each of these taps, last first; and the spectra of a row
 * are a struct direct_row of so many bytes. */
static inline bool is_direct(const struct fftconv_plan *plan)
{
    return plan->chosen.form == FFTCONV_FORM_DIRECT;
}
int64_t direct_taps(const struct fftconv_plan *plan);
int64_t direct_row_bytes(const struct fftconv_plan *plan);
/* Where the spectra of part i begin within a row's spectra. */
void *spectra_of_part(const struct fftconv_plan *plan, int i, const void *spectra);
/* Bytes of an element of the plan's own arithmetic. */
int64_t element_bytes(const struct fftconv_plan *plan);
int resolve_threads(const struct fftconv_plan *plan, int threads, int *out);

/* ---- choices.c: forms, lengths and blocks --------------------------------------------------- */

/* The cheapest way to compute the plan's operation: plan->chosen, with its tables, which
 * plans of the same size share.  d: the descriptor, whose weights decide which stages have work. */
int choose(struct fftconv_plan *plan, const fftconv_plan_desc *d);
void leave_choice(struct fftconv_plan *plan);

/* ---- workspace.c ---------------------------------------------------------------------------- */

/* Channels whose rows are copied together where they are not contiguous: a cache line's
 * worth of float32. */
enum { GROUP_CHANNELS = 16 };

/* The operands that are rows. */
enum row_operand { U, IN_GATE, OUT_GATE, Y, DY, DU, DIN_GATE, DOUT_GATE, ROW_OPERANDS };

/* The properties of a call that decide how much memory it needs. */
struct call_shape {
    int direction, threads;
    bool has_spectrum;
    bool copied[ROW_OPERANDS]; /* rows of this operand are copied to the workspace first */
    bool scattered;            /* because channels are contiguous, and rows are not */
    bool in_place;             /* y is u: the blocks of a row go in order */
    int64_t rows;              /* of a primitive; 0: the plan's B H */
};

/* How a call shares its work and its memory out.  Sizes are in bytes; the offsets say where
 * each piece begins in the memory of a worker, or in what all share. */
struct layout {
    struct call_shape call;
    int threads, inside;  /* workers over tasks; threads inside one row */
    int group_channels;   /* channels copied together; 1 where none are */
    int group_kernels;    /* kernels that a task takes at a time */
    int64_t kernel_tasks; /* groups of so many kernels */
    int64_t row_tasks;    /* forward: tasks that the rows of such a group make */
    int64_t segments;     /* forward: tasks that the blocks of a row make */
    bool split;           /* backward: more tasks than one sum to a kernel */
    bool by_kernel;       /* spectra are made by the worker that uses them */
    bool whole;           /* forward: a task takes all the rows of its kernels */
    int64_t spectra_bytes, scratch_bytes, carry_bytes, wrap_bytes, copy_bytes[ROW_OPERANDS];
    int64_t x, row, scratch, z, g, made, sum, dskips, p, dz, taps, filter, carry, wrapped,
        direct_work, copy[ROW_OPERANDS];
    int64_t worker_bytes;
    int64_t shared_spectra, shared_sums, shared_dskips, shared_bytes;
    int64_t total_bytes;
};
struct layout layout_of(const struct fftconv_plan *plan, const struct call_shape *call);
int check_layout_bytes(const struct fftconv_plan *plan, const struct layout *layout);
/* Bytes of any call of the direction whose rows are contiguous and whose y is not u. */
int64_t plain_workspace_bytes(const struct fftconv_plan *plan, int direction, int threads);
struct call_shape call_shape_of(const struct fftconv_plan *plan, const fftconv_operands *o,
                                int direction, int threads, bool has_spectrum);

/* ---- check.c: operands, before anything is written -------------------------------------------- */

int check_desc(const fftconv_plan_desc *desc);
/* Radices of stages, 1 ... 128 each, with a product of at most 2^bits. */
int check_radices(const int64_t *radices, int order, int bits, int64_t *product);
int check_operands(const struct fftconv_plan *plan, const struct fftconv_spectrum *spectrum,
                   const fftconv_operands *operands, int direction);
int check_spectrum(const struct fftconv_plan *plan, const struct fftconv_spectrum *spectrum);
struct spectrum_key spectrum_key_of(const struct fftconv_plan *plan);
/* UNSUPPORTED for a plan on a GPU, INVALID for one of the direct form. */
int check_has_transforms(const struct fftconv_plan *plan);
/* INVALID for a plan whose spectra do not hold every frequency once, as they stand. */
int check_whole_spectra(const struct fftconv_plan *plan);
/* Threads and stream: where a call runs. */
int check_launch(const struct fftconv_plan *plan, const fftconv_operands *operands);
/* One tensor by itself, of a known dtype: its shape, alignment, strides. */
int check_layout(const char *name, const fftconv_tensor *t, const int64_t shape[3], bool output);
/* The same, and its dtype: the plan's (float32 too beside 16 bits where `kernel`). */
int check_tensor(const struct fftconv_plan *plan, const char *name, const fftconv_tensor *t,
                 const int64_t shape[3], bool output, bool kernel);
/* Both of a spectrum's kernels, k_rev as the plan's mode asks. */
int check_kernels(const struct fftconv_plan *plan, const fftconv_tensor *k,
                  const fftconv_tensor *k_rev);
/* Do two ranges of memory, each of at least one byte, share one? */
bool bytes_overlap(const void *a, int64_t a_bytes, const void *b, int64_t b_bytes);
/* How far the entries of an axis reach, where each step is stride times unit. */
int64_t stride_reach(int64_t shape, int64_t stride, int64_t unit);
/* The bytes that an array touches, whatever the signs of its strides: the first, and their number.
 * A check by stride_reach must have bounded both. */
const void *bytes_spanned(const void *data, int axes, const int64_t *shape, const int64_t *stride,
                          int64_t entry_bytes, int64_t *bytes);
/* Does the operand touch any of these bytes? */
bool touches(const fftconv_tensor *t, const void *memory, int64_t bytes);
/* Do two share memory? */
bool tensors_overlap(const fftconv_tensor *a, const fftconv_tensor *b);
const fftconv_tensor *row_tensor(const fftconv_operands *operands, int row_operand);
/* The operand of a single row, whose n elements are contiguous. */
fftconv_tensor contiguous_row(const void *data, int dtype, int64_t n);

/* ---- filter.c: a pattern on a circle whose length has no stages -------------------------------- */

/* weights: of the bins 0 ... N/2 of real rows of N samples. */
int filter_create(struct filter **filter, int64_t N, const double *weights, const char *isa);
/* NULL is allowed. */
void filter_destroy(struct filter *filter);
/* row = irfft(weights rfft(row)), N samples in place. */
int filter_apply(const struct filter *filter, double *row, int threads);

/* ---- cuda/call.c: the same calls on a GPU ------------------------------------------------------- */

int cuda_plan_create(struct fftconv_plan *plan, const fftconv_plan_desc *desc);
/* NULL is allowed. */
void cuda_plan_destroy(struct cuda_plan *plan);
void cuda_plan_describe(const struct fftconv_plan *plan, fftconv_plan_info *info);
int64_t cuda_workspace_bytes(const struct fftconv_plan *plan, int direction, bool has_spectrum);
int cuda_spectrum_create(struct fftconv_spectrum *spectrum, const struct fftconv_plan *plan,
                         const fftconv_operands *operands);
/* NULL is allowed. */
void cuda_spectrum_destroy(struct cuda_spectrum *spectrum);
int cuda_check_spectrum(const struct fftconv_plan *plan, const struct fftconv_spectrum *spectrum);
/* Operands and spectrum are checked already. */
int cuda_execute(const struct fftconv_plan *plan, const struct fftconv_spectrum *spectrum,
                 const fftconv_operands *operands, int direction);

#endif
