/* libfftconv: long convolutions as matrix products.
 *
 * Every call computes, or differentiates, one operation on rows of shape (B, H, L):
 * B sequences of H channels, each L samples long.
 *
 *     z = in_gate . u                   pre-gate
 *     p = z * k + skip . z              long convolution and skip
 *     y = out_gate . mask . act(p)      activation, mask, post-gate
 *
 * Here `*` is a convolution along the last axis: causal (linear, cut to L samples),
 * two-sided (k for the past, k_rev for the future), or circular modulo fft_size.  A dot is
 * a product element by element.  The convolution runs through the order-p Monarch
 * decomposition of the DFT (FlashFFTConv, arXiv 2311.05908, section 3).
 *
 * The library is used as FFTW and cuFFT are: make a plan for shapes and types, make a
 * spectrum of the kernel for that plan, and execute as often as you like.  A plan and a
 * spectrum never change once they are made, and threads may share them.  Where the caller
 * gives the workspace, a call that has a spectrum allocates nothing (but see weights).
 *
 * The same functions serve CPUs and GPUs.  A plan belongs to one device, which its
 * descriptor names, and all the arrays of its calls are in that device's memory.
 *
 * On CPUs, fftconv_forward and fftconv_backward take numbers of every magnitude, denormal ones
 * too: rows, kernels, gates, skip and mask that are very large or very small are scaled by powers
 * of two in between, so that the precision of results is the same, and one is infinite only where
 * the true one is.  All other calls compute with numbers as they stand: denormal ones count as
 * zeros, and the largest number of a row or of a kernel should be between 2^-40 and 2^40 (float64:
 * 2^-400 and 2^400), for which no transform or product leaves the range of its type.  A number that
 * is not finite spoils its own row, before it and after it, and never another one; in the direct
 * form, only those sums that it is a term of.  The floating-point state of the calling thread
 * (rounding, exceptions) neither acts on a call nor is changed by it.
 *
 * Every function that can fail returns a fftconv_status.  fftconv_last_error() then holds,
 * for the calling thread, a message that names the argument, its value and what is
 * allowed.  Arguments are checked before anything is written.
 *
 * A structure with a member `size` is set to zero, `size` is set to its sizeof, and then
 * the members that matter are filled in: zero always means absent, or the library's choice.
 */
#ifndef FFTCONV_H
#define FFTCONV_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define FFTCONV_API
#elif defined(__GNUC__)
#define FFTCONV_API __attribute__((visibility("default")))
#else
#define FFTCONV_API
#endif

#if defined(__GNUC__)
#define FFTCONV_MUST_CHECK __attribute__((warn_unused_result))
#else
#define FFTCONV_MUST_CHECK
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The number of this binary interface; fftconv_abi() returns that of the library loaded. */
#define FFTCONV_ABI 4

/* The most stages that a caller may name, and the largest radix of one stage. */
#define FFTCONV_MAX_ORDER 16
#define FFTCONV_MAX_RADIX 128

typedef enum fftconv_status {
    FFTCONV_STATUS_OK = 0,
    FFTCONV_STATUS_INVALID = 1,     /* an argument is wrong: the message says which */
    FFTCONV_STATUS_NO_MEMORY = 2,   /* an allocation failed */
    FFTCONV_STATUS_UNSUPPORTED = 3, /* a right request that this machine or build cannot serve */
} fftconv_status;

typedef enum fftconv_dtype {
    FFTCONV_DTYPE_FLOAT64 = 1,
    FFTCONV_DTYPE_FLOAT32 = 2,
    FFTCONV_DTYPE_FLOAT16 = 3,
    FFTCONV_DTYPE_BFLOAT16 = 4,
    FFTCONV_DTYPE_COMPLEX128 = 5, /* pairs of float64: (re, im) */
    FFTCONV_DTYPE_COMPLEX64 = 6,  /* pairs of float32 */
} fftconv_dtype;

typedef enum fftconv_mode {
    FFTCONV_MODE_CAUSAL = 0,    /* y[t] = sum_{s<=t} k[s] z[t-s] */
    FFTCONV_MODE_CIRCULAR = 1,  /* the same, with t-s taken modulo fft_size */
    FFTCONV_MODE_TWO_SIDED = 2, /* causal, plus sum_{s>=0} k_rev[s] z[t+s]: lag 0 counts in
                                   both, as in hyena-dna's bidirectional convolution */
} fftconv_mode;

/* How a row becomes the M complex points of a transform. */
typedef enum fftconv_form {
    FFTCONV_FORM_AUTO = 0,
    FFTCONV_FORM_RIGHT_ANGLE = 1, /* real rows modulo t^M - i: a linear convolution of 2M */
    FFTCONV_FORM_FOLDED = 2,      /* a real circle of fft_size, split into right angles of
                                     fft_size/4, fft_size/8, ... points and a rest */
    FFTCONV_FORM_COMPLEX = 3,     /* as it stands, M = fft_size; a real row's imaginary part
                                     is zero */
    FFTCONV_FORM_EVEN_ODD = 4,    /* a real circle of 2M: even samples plus i times odd ones.
                                     GPUs choose it; it cannot be asked for */
    FFTCONV_FORM_DIRECT = 5,      /* no transform: each output of a real row is a sum over the
                                     taps, on CPUs.  For few taps; it must be asked for */
} fftconv_form;

typedef enum fftconv_activation {
    FFTCONV_ACTIVATION_IDENTITY = 0,
    FFTCONV_ACTIVATION_GELU = 1, /* x Phi(x), by erf */
    FFTCONV_ACTIVATION_SILU = 2, /* x / (1 + exp(-x)) */
} fftconv_activation;

typedef enum fftconv_direction {
    FFTCONV_DIRECTION_FORWARD = 0,
    FFTCONV_DIRECTION_BACKWARD = 1,
} fftconv_direction;

typedef enum fftconv_device {
    FFTCONV_DEVICE_CPU = 0,
    FFTCONV_DEVICE_CUDA = 1,
} fftconv_device;

typedef struct fftconv_plan fftconv_plan;
typedef struct fftconv_spectrum fftconv_spectrum;

/* An array that the caller owns.  data == NULL: the operand is absent.
 *
 * shape and stride are those of (B, H, L).  Strides count elements, not bytes; a stride of
 * 0 repeats an input along that axis, which an output must not do.  Repeated elements
 * included, there are at most 2^58 of them.  Any strides will do:
 * rows that are not contiguous while channels are, as in (B, L, H), pass through the
 * workspace, a tile of channels at a time.
 *
 * A kernel has shape (1 or B, G, Lk), skip has (1, H, 1), mask has (B, H, 1). */
typedef struct fftconv_tensor {
    void *data;
    int32_t dtype; /* fftconv_dtype */
    int32_t reserved;
    int64_t shape[3];
    int64_t stride[3];
} fftconv_tensor;

/* ---- Library ------------------------------------------------------------ */

FFTCONV_API const char *fftconv_version(void);
FFTCONV_API int fftconv_abi(void);
/* The message of this thread's last failure; "" where there was none. */
FFTCONV_API const char *fftconv_last_error(void);
/* The instruction sets that this build has, by number from 0; NULL past the last. */
FFTCONV_API const char *fftconv_isa_name(int index);
/* 1 if this machine can run the instruction set of that name, else 0. */
FFTCONV_API int fftconv_isa_available(const char *name);
/* What a thread count of 0 means, 1 ... 255; the first of these that is given:
 *   1. the number of fftconv_set_default_threads;
 *   2. the environment variable FFTCONV_NUM_THREADS, then OMP_NUM_THREADS, the first number of a
 *      list such as "4,2".  They are read once.  A value that is no number from 1 is ignored;
 *   3. the processors that this process may run on, or as many as its container's quota pays
 *      for (of control groups, versions 1 and 2; rounded up), if those are fewer. */
FFTCONV_API int fftconv_default_threads(void);
/* Sets it for all threads of the process; 0 takes the setting back.  A plan keeps the number
 * with which it was made.  Errors: INVALID (threads is not 0 ... 255). */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_set_default_threads(int threads);

/* ---- Plans -------------------------------------------------------------- */

typedef struct fftconv_plan_desc {
    size_t size;
    int64_t batch, channels, length; /* B, H, L, each at least 1; L is at most 2^40 */
    int64_t k_length;                /* Lk, at least 1; circular: at most fft_size */
    int64_t k_rev_length;            /* two-sided only: taps of k_rev, at least 1 */
    int64_t kernels;                 /* G, a divisor of H; 0 means H.  Channel h is convolved
                                        with kernel h / (H / G) */
    int64_t kernel_batch;            /* 1, or B where each sequence of the batch has kernels
                                        of its own; 0 means 1 */
    int64_t fft_size;                /* circular only: N >= L; 0 means L */
    int32_t mode;                    /* fftconv_mode */
    int32_t dtype;                   /* of u, the gates and y.  float64 computes in float64,
                                        all the other real types in float32 */
    int32_t form;                    /* fftconv_form */
    int32_t dense;                   /* 1: every stage is a dense complex matrix product
                                        instead of a codelet */
    int32_t threads;                 /* of a call that names none, at most 255, as everywhere
                                        here; 0 means all processors */
    int32_t order;                   /* p, the number of stages; that of radices if given */
    const int64_t *radices;          /* N_1 (outermost) ... N_p, each 1 ... 128; their product
                                        is M, the length of the complex transform, at most 16
                                        times what a row needs, or 2^16 */
    const char *isa;                 /* CPU: the instruction set; NULL means the best there is */
    int32_t single_block;            /* 1: each row goes through one transform, which the three
                                        primitives need.  0: short kernels work in blocks
                                        (overlap-save) where that costs less.  Radices whose
                                        product is below what a row needs ask for blocks. */
    int32_t history;                 /* 1, causal and forward only: the operands give the
                                        Lk - 1 samples of z that came before u, and rows may
                                        have 1 ... `length` samples.  Few samples are then
                                        summed directly, where a spectrum is given. */
    const double *weights;           /* circular and real types only: factors of the
                                        fft_size/2 + 1 rfft bins of k; 0 removes a bin, and
                                        the stages' work that only it needs.  NULL: all 1.
                                        Where fft_size has a prime factor above 7, the kernel
                                        is filtered beforehand and nothing is saved; a call
                                        without a spectrum, or for dk, then allocates
                                        memory. */
    int32_t device;                  /* fftconv_device */
    int32_t device_index;            /* CUDA: the number of the device, from 0 */
    const char *engine;              /* CUDA: "fused" or "cufft", see GPUs below; NULL means
                                        the first of them that holds such rows */
} fftconv_plan_desc;

/* Errors: INVALID (any member), UNSUPPORTED (isa; device, engine), NO_MEMORY. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_plan_create(fftconv_plan **plan,
                                                       const fftconv_plan_desc *desc);
/* NULL is allowed.  The caller sees to it that no call of the plan is running. */
FFTCONV_API void fftconv_plan_destroy(fftconv_plan *plan);

#define FFTCONV_MAX_STAGES 40

/* What was chosen, and what it costs.  Counts are those of one forward call, all rows,
 * without the transform of the kernel. */
typedef struct fftconv_plan_info {
    size_t size;
    int32_t form, mode, dtype, dense, threads, lanes;
    int32_t device, device_index;
    const char *isa;          /* CPU, else NULL */
    const char *engine;       /* CUDA, else NULL */
    int64_t fft_size;         /* circular: N; else 0 */
    int64_t padded_length;    /* the samples that one transform holds, the zeros behind a row
                                 included: 2M for real rows, M for complex ones; folded: N;
                                 direct: those that a block reads */
    int64_t transform_length; /* M; folded: that of the first part, fft_size/4; direct: 0 */
    int32_t order;            /* the decomposition of M, as named or as chosen */
    int32_t stages;           /* the steps it runs as: a radix of 32 may run as 4 and 8 */
    int64_t radices[FFTCONV_MAX_ORDER];
    int64_t stage_radices[FFTCONV_MAX_STAGES];
    double stage_flops[FFTCONV_MAX_STAGES]; /* real flops, both directions; folded: all parts */
    double product_flops;                   /* spectra times spectrum; direct: all */
    double fold_flops;                      /* folded: the sums and differences, both directions */
    double io_bytes;                        /* u in and y out: the caller's arrays */
    double l1_bytes;                        /* moved by stages whose data are in the first cache */
    double l2_bytes;                        /* ... in the second */
    double memory_bytes;                    /* ... beyond it */
    int64_t spectrum_bytes;                 /* a spectrum of all channels */
    int64_t spectra_row_bytes;              /* one row of fftconv_rows_to_spectra */
    int64_t forward_workspace_bytes;        /* on the plan's threads, rows contiguous, y not u */
    int64_t backward_workspace_bytes;
    double predicted_seconds; /* the planner's own estimate, on one thread */
    int64_t blocks;           /* transforms that a row is cut into */
    int64_t block_length;     /* outputs of each; the last one may have fewer */
    double kept;              /* of the fft_size bins, the part whose weight is not 0 */
    double computed;          /* of the points visited without weights, the part still visited */
} fftconv_plan_info;

FFTCONV_API FFTCONV_MUST_CHECK int fftconv_plan_get_info(const fftconv_plan *plan,
                                                         fftconv_plan_info *info);

/* ---- The convolution ---------------------------------------------------- */

/* The arrays of one call.  u, the gates, y and their gradients have the plan's dtype and
 * shape (B, H, L).  Kernels, skip, mask and their gradients have it too, or float32 beside
 * a plan of 16 bits. */
typedef struct fftconv_operands {
    size_t size;
    int32_t activation; /* fftconv_activation; complex types: identity */
    int32_t threads;    /* 0 means the plan's */
    fftconv_tensor u;
    fftconv_tensor k, k_rev; /* where no spectrum is given; k_rev in two-sided mode only */
    fftconv_tensor in_gate, out_gate;
    fftconv_tensor skip;    /* (1, H, 1) */
    fftconv_tensor mask;    /* (B, H, 1) */
    fftconv_tensor history; /* (B, H, Lk - 1): the samples of z before u, the latest last */
    fftconv_tensor y;       /* forward: the result; it may be u itself */
    fftconv_tensor dy;      /* backward: the gradient of y */
    fftconv_tensor du, dk, dk_rev, din_gate, dout_gate, dskip; /* those that you want */
    void *workspace; /* aligned to 64 bytes.  NULL: the call allocates its own and frees it */
    int64_t workspace_bytes;
    void *stream; /* CUDA: a cudaStream_t, NULL the default one */
} fftconv_operands;

/* The transform of k (1 or B, G, Lk), and of k_rev in two-sided mode, in the order in which
 * the plan's stages leave it, scaled, and ready for any number of calls.  Of the operands,
 * k, k_rev, threads and stream are read. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_spectrum_create(fftconv_spectrum **spectrum,
                                                           const fftconv_plan *plan,
                                                           const fftconv_operands *operands);
/* NULL is allowed. */
FFTCONV_API void fftconv_spectrum_destroy(fftconv_spectrum *spectrum);

/* y from u.  spectrum NULL: k must be given, and is transformed inside the call, channel by
 * channel. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_forward(const fftconv_plan *plan,
                                                   const fftconv_spectrum *spectrum,
                                                   const fftconv_operands *operands);

/* Gradients from dy.  u, gates, skip, mask and activation are those of the forward call,
 * which is computed again.  dk, dk_rev and dskip have the shape of what they are gradients
 * of; they are summed over the rows that share it, in an order which shapes and strides fix
 * and threads do not.  The gradient of a complex x is that by Re x plus i times that by
 * Im x. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_backward(const fftconv_plan *plan,
                                                    const fftconv_spectrum *spectrum,
                                                    const fftconv_operands *operands);

/* The bytes of workspace that the call with just these operands needs, whatever their
 * strides; direction is a fftconv_direction.  Dtypes, shapes and strides are taken as they
 * stand: the call itself checks them. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_workspace_bytes(const fftconv_plan *plan,
                                                           const fftconv_spectrum *spectrum,
                                                           const fftconv_operands *operands,
                                                           int direction, int64_t *bytes);

/* ---- The three primitives ------------------------------------------------
 * A convolution is rows_to_spectra, multiply, spectra_to_rows, for a plan of one block on
 * the CPU, not of the direct form.  Spectra are consecutive rows of info.spectra_row_bytes, in
 * stage order, aligned to 64 bytes.  They hold the numbers themselves, and have no powers of two
 * beside them. */

/* Which rows are meant: those of u and its gradient, or those of y and its gradient.  They
 * differ where u is read in more places than one (circular plans of the right-angle form),
 * and each direction is the adjoint of the other. */
typedef enum fftconv_side {
    FFTCONV_SIDE_INPUT = 0,
    FFTCONV_SIDE_OUTPUT = 1,
} fftconv_side;

typedef struct fftconv_spectra_desc {
    size_t size;
    int32_t side;         /* fftconv_side, of rows */
    int32_t threads;      /* 0 means the plan's */
    fftconv_tensor rows;  /* (n0, n1, L) of the plan's dtype, any n0 and n1 */
    fftconv_tensor k;     /* (n0, n1, Lk): kernels, or their gradients */
    fftconv_tensor k_rev; /* two-sided only: k's first axes and its own length */
    const void *in;       /* multiply: spectra of B H rows */
    void *spectra;        /* n0 n1 rows of spectra; multiply: the result, which may be in */
} fftconv_spectra_desc;

/* spectra from rows. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_rows_to_spectra(const fftconv_plan *plan,
                                                           const fftconv_spectra_desc *desc);
/* rows from spectra, which are overwritten: the inverse DFT without its factor 1/M, which a
 * spectrum carries (folded: each part its own).  The spectra of a real plan must be those of
 * some real row. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_spectra_to_rows(const fftconv_plan *plan,
                                                           const fftconv_spectra_desc *desc);
/* spectra = spectrum . in, at every frequency of all B H rows. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_multiply(const fftconv_plan *plan,
                                                    const fftconv_spectrum *spectrum,
                                                    const fftconv_spectra_desc *desc);
/* spectra from k and k_rev, without the factor 1/M of a spectrum; and its adjoint, k and
 * k_rev from spectra, which are overwritten.  Not for the folded form, or weights. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_kernels_to_spectra(const fftconv_plan *plan,
                                                              const fftconv_spectra_desc *desc);
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_spectra_to_kernels(const fftconv_plan *plan,
                                                              const fftconv_spectra_desc *desc);

/* A matrix product at every frequency, with rows of spectra as entries:
 *     out[r, c] = scale sum_d a[r, d] b[d, c]   (accumulate: added to out)
 * for r < rows, c < columns, d < depth.  Strides count entries; a, b and out may begin at
 * any row of spectra, and out overlaps neither a nor b.  Not for the folded form, or
 * weights. */
typedef struct fftconv_contraction_desc {
    size_t size;
    int64_t rows, columns, depth;
    const void *a, *b;
    void *out;
    int64_t a_stride[2], b_stride[2], out_stride[2];
    double scale;
    int32_t conjugate_a, conjugate_b, accumulate; /* 0 or 1 */
    int32_t threads;                              /* 0 means the plan's */
} fftconv_contraction_desc;

FFTCONV_API FFTCONV_MUST_CHECK int fftconv_contract(const fftconv_plan *plan,
                                                    const fftconv_contraction_desc *desc);

/* Where each frequency lies: offset[m] counts real numbers from the start of a row of
 * spectra to Re X[m], and Im X[m] lies info.lanes further on, for m = 0 ... M-1.  In the
 * right-angle form X[m] is the value at frequency (m - 1/4)/M; folded, m counts the rfft
 * bins 0 ... fft_size/2.  Where offset[m] is negative, the conjugate of X[m] lies at
 * -1 - offset[m]: folded, and in the complex form of real rows. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_spectra_offsets(const fftconv_plan *plan,
                                                           int64_t *offset);

/* ---- The transform by itself -------------------------------------------- */

/* `count` DFTs of n = prod radices points each, by decimation in frequency, through the
 * stage code that the convolutions run; interleaved complex64 (dtype float32) or complex128
 * (float64).
 *
 * stages < 0: all of them, and the result in natural order (inverse: with its factor 1/n).
 * Otherwise stages 1 ... `stages` only, twiddles included, and the result where they leave
 * it: after stage i the digits k_1 ... k_i stand where n_1 ... n_i stood, most significant
 * first. */
typedef struct fftconv_dft_desc {
    size_t size;
    int64_t n, count;
    int32_t dtype, inverse, dense, stages;
    int32_t order;
    int32_t reserved;
    const int64_t *radices; /* each 1 ... 128 */
    const char *isa;
    const void *in;
    void *out; /* may be in itself; both are aligned to their reals */
} fftconv_dft_desc;

FFTCONV_API FFTCONV_MUST_CHECK int fftconv_dft(const fftconv_dft_desc *desc);

/* ---- Cost model: Equation 2 of the paper --------------------------------- */

/* A machine in the paper's four numbers (Table 19). */
typedef struct fftconv_hardware {
    size_t size;
    char name[32];
    double sigma_h;      /* bytes/s of main memory (HBM) */
    double sigma_s;      /* bytes/s of the fast memory (SRAM; a CPU's second cache) */
    double tau_m;        /* flop/s of matrix products */
    double tau_g;        /* flop/s of everything else */
    int64_t mu;          /* the smallest radix that runs at tau_m */
    int64_t fast_points; /* the longest sub-transform kept in fast memory */
    int32_t measured;    /* 1: measured; 0: from a datasheet */
    int32_t reserved;
} fftconv_hardware;

/* "A100" (Table 19), "H100" (datasheet), "host" (measured now, in about half a second).
 * fftconv_hardware_name gives the names by number, NULL past the last. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_hardware_get(const char *name,
                                                        fftconv_hardware *hardware);
FFTCONV_API const char *fftconv_hardware_name(int index);

/* Seconds for B = H = 1 and N = prod radices:
 *     C = sum_i 16 N N_i / gamma(N_i) + 4 N / omega(i),
 * where gamma is tau_m if N_i >= mu, else tau_g; and omega(i) is sigma_h while the length
 * still to be transformed, N / prod_{j<i} N_j, exceeds fast_points, then sigma_s. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_monarch_cost(const int64_t *radices, int order,
                                                        const fftconv_hardware *hardware,
                                                        double *seconds);
/* The most equal powers of two, the largest outermost (Figure 4); n = 2^a. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_balanced_radices(int64_t n, int order, int64_t *radices);
/* The cheapest powers of two by the model; order is at most 6. */
FFTCONV_API FFTCONV_MUST_CHECK int
fftconv_best_radices(int64_t n, int order, const fftconv_hardware *hardware, int64_t *radices);

/* ---- Real DFTs, bins in natural order -------------------------------------- */

/* How filters that are given as half spectra come in, and their gradients go out.  An rdft
 * never changes once it is made, and threads may share it. */
typedef struct fftconv_rdft fftconv_rdft;

typedef struct fftconv_rdft_desc {
    size_t size;
    int64_t n;       /* samples of a row: 1 ... 2^40 */
    int32_t dtype;   /* of rows: float32 or float64 */
    int32_t threads; /* of every call; 0 means all processors */
    const char *isa; /* NULL means the best of this machine */
} fftconv_rdft_desc;

/* Errors: INVALID, UNSUPPORTED (isa), NO_MEMORY. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_rdft_create(fftconv_rdft **rdft,
                                                       const fftconv_rdft_desc *desc);
/* NULL is allowed. */
FFTCONV_API void fftconv_rdft_destroy(fftconv_rdft *rdft);
/* bins[m] = scale sum_j rows[j] exp(-2 pi i j m / n), m = 0 ... n/2.  rows: (n0, n1, n) of
 * the rdft's dtype; bins: (n0, n1, n/2 + 1), complex of the same precision. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_rdft_forward(const fftconv_rdft *rdft,
                                                        const fftconv_tensor *rows,
                                                        const fftconv_tensor *bins, double scale);
/* rows[j] = scale sum_m bins[m] exp(2 pi i j m / n) over all n bins, of which those above
 * n/2 are the mirrored conjugates; the imaginary parts of bin 0 and, n even, of bin n/2 do
 * not act.  A scale of 1/n makes it the inverse of forward. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_rdft_inverse(const fftconv_rdft *rdft,
                                                        const fftconv_tensor *bins,
                                                        const fftconv_tensor *rows, double scale);

/* ---- Heads: H3's outer products, convolved and contracted ------------------
 *
 * Channels come in groups of head_dim = h, with one kernel for each group.  For channels i and
 * j of a group g, with u' = gelu(u) where gelu_u, q' = gelu(q) where gelu_q:
 *
 *     z_ij = u'_i . v_j,    p_ij = z_ij * k_g + skip_g . z_ij
 *     y_j = sum_i q'_i . mask_bg . act(p_ij)
 *
 * (hyena-dna's fftconv; H3, arXiv 2212.14052).  The h L numbers of a channel's products are
 * never stored: beside the operands, each thread needs the memory of one group, whatever B.
 */

/* Rows have dtype float64 where the plan has; otherwise each has any real type but float64. */
typedef struct fftconv_heads_desc {
    size_t size;
    int32_t activation;      /* fftconv_activation */
    int32_t gelu_u, gelu_q;  /* 0 or 1 */
    int32_t threads;         /* 0 means the plan's */
    fftconv_tensor u, v, q;  /* (B, H, L); with h = 1, v and q may be left out */
    fftconv_tensor k, k_rev; /* (1, H/h, Lk), of the plan's dtype */
    fftconv_tensor skip;     /* (1, H/h, 1), of any dtype that rows may have */
    fftconv_tensor mask;     /* (B, H/h, 1), likewise */
    fftconv_tensor y;        /* forward: (B, H, L) */
    fftconv_tensor dy;       /* backward: the gradient of y */
    fftconv_tensor du, dv, dq, dk, dk_rev, dskip; /* those that you want */
} fftconv_heads_desc;

/* plan: that of one group, batch 1, channels h, kernels 1, any mode, float32 or float64, on
 * the CPU, not of the direct form.  No output may overlap another operand. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_heads_forward(const fftconv_plan *plan,
                                                         const fftconv_heads_desc *desc);
/* Gradients from dy, the forward call being computed again.  Sums are made in an order that
 * shapes fix and threads do not. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_heads_backward(const fftconv_plan *plan,
                                                          const fftconv_heads_desc *desc);

/* ---- Short depthwise convolutions -------------------------------------------
 *
 *     y[b, h, l] = act(bias[h] + sum_k weight[h, k] x[b, h, l - left + k])
 *
 * for l < Lout, k < K: a cross-correlation, as torch's conv1d.  x is zero outside its L
 * samples, or what `state` holds before them.  left = K - 1 and Lout = L is causal; padding
 * P on both sides is left = P, Lout = L + 2P - K + 1.  Rows whose samples are neighbours,
 * (B, H, L), and rows whose channels are, (B, L, H), go equally fast. */

/* Every tensor has any real dtype of its own.  Sums are made in float32, or in float64 where
 * an input has it. */
typedef struct fftconv_depthwise_desc {
    size_t size;
    int32_t activation; /* fftconv_activation */
    int32_t threads;    /* 0 means all processors */
    const char *isa;    /* NULL means the best of this machine */
    int64_t left;
    fftconv_tensor x;          /* (B, H, L) */
    fftconv_tensor weight;     /* (1, H, K) */
    fftconv_tensor bias;       /* (1, H, 1) */
    fftconv_tensor state;      /* (B, H, K - 1): x before its first sample, where
                                  left = K - 1 */
    fftconv_tensor y;          /* (B, H, Lout) */
    fftconv_tensor next_state; /* (B, H, K - 1): the end of x; it may be state itself */
    fftconv_tensor dy;         /* backward: the gradient of y */
    fftconv_tensor dx, dweight, dbias, dstate; /* those that you want */
} fftconv_depthwise_desc;

/* No output may overlap another operand, but next_state may be state. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_depthwise_forward(const fftconv_depthwise_desc *desc);
/* Gradients from dy; where there is an activation, the forward call is computed again.  Sums
 * are made in float64, over parts that shapes fix and threads do not. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_depthwise_backward(const fftconv_depthwise_desc *desc);

/* ---- Kernels of state-space models ---------------------------------------- */

typedef enum fftconv_discretization {
    FFTCONV_DISCRETIZATION_ZOH = 0,      /* Abar = e^A, Bbar = (e^A - 1) A^-1 B */
    FFTCONV_DISCRETIZATION_BILINEAR = 1, /* (I - A/2)^-1 (I + A/2), (I - A/2)^-1 B */
    FFTCONV_DISCRETIZATION_DSS = 2,      /* zoh's over e^(AL) - 1 (DSS_softmax, arXiv
                                            2203.14343), and the sum without the 2 of k */
} fftconv_discretization;

/* The kernel of a state space of conjugate pairs, of which N states stand for 2N:
 *
 *     k[i, c, h, l] = 2 Re sum_n C[c, h, n] (Abar^l Bbar)[i, h, n]
 *
 * with A = diag(A) - sum_j P_j Q_j*, in units of one time step: A means Delta A, B means
 * Delta B, P Q* means Delta P Q*.  rank 0 is S4D (arXiv 2206.11893), rank >= 1 is S4 (arXiv
 * 2111.00396), bilinear only.  Parameters are interleaved complex128 and contiguous; k and
 * dk are contiguous, of `dtype`. */
typedef struct fftconv_ssm_desc {
    size_t size;
    int64_t inputs, channels, heads, states, length; /* I, C, H, N, L, each at least 1 */
    int64_t rank;                                    /* 0 ... 8 */
    int32_t dtype;                                   /* of k: float32 or float64 */
    int32_t discretization;         /* fftconv_discretization; with dss |A| is at least 1e-100 */
    int32_t state;                  /* 1: B holds states s before the first sample, and
                               k[l] = 2 Re C Abar^(l+1) s; not with dss */
    int32_t threads;                /* 0 means all processors; the result does not depend on it */
    const char *isa;                /* NULL means the best of this machine */
    const double *A;                /* (H, N), real parts negative; parts to 1e60, as P's, Q's */
    const double *B;                /* (I, H, N) */
    const double *C;                /* (C, H, N) */
    const double *P, *Q;            /* (rank, H, N) */
    void *k;                        /* (I, C, H, L) */
    const void *dk;                 /* backward: the gradient of k */
    double *dA, *dB, *dC, *dP, *dQ; /* backward: those that you want, else NULL */
} fftconv_ssm_desc;

/* Each thread needs the memory of a few rows of L and, where rank > 0, of a matrix of
 * (2N, 2N).  Errors: INVALID, UNSUPPORTED (isa), NO_MEMORY. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_ssm_kernel(const fftconv_ssm_desc *desc);
/* Gradients, d/dRe + i d/dIm, of sum(dk . k).  With dk a signal backwards in time,
 * conj(dC) / 2 is the state that it leaves: sum_l dk[l] Abar^l Bbar. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_ssm_kernel_backward(const fftconv_ssm_desc *desc);

/* Products of matrices, out[i] = a[i] b[i]: a (batch, rows, depth), b (batch, depth, columns),
 * out (batch, rows, columns), with any strides; a or b is the same for all i where its first
 * stride is 0.  All are float32, float64, complex64 or complex128; or a and b are complex, and
 * out is of their real type and gets the real parts.  Sums are made in an order that the sizes
 * fix and threads do not.  Errors: INVALID, UNSUPPORTED (isa), NO_MEMORY. */
typedef struct fftconv_matmul_desc {
    size_t size;
    const char *isa; /* NULL means the best of this machine */
    int32_t threads; /* 0 means all processors */
    int32_t reserved;
    fftconv_tensor a, b, out; /* out overlaps neither a nor b */
} fftconv_matmul_desc;

FFTCONV_API FFTCONV_MUST_CHECK int fftconv_matmul(const fftconv_matmul_desc *desc);

/* Projections around kernels, at every frequency (Centaurus' opt_ssm_forward, arXiv
 * 2409.03377):
 *     out[b, o] = sum_n C[o, n] kernels[n] sum_i B[n, i] in[b, i]
 * in, kernels and out are consecutive rows of spectra.  B (states, inputs) and C (outputs,
 * states) are contiguous matrices of the spectra's real type, the same at all frequencies.
 * imaginary = 1 needs a plan of a complex type, since the spectra of real plans omit
 * conjugates: each matrix is then followed by its imaginary part.  The inverse DFT's factor
 * 1/M is not applied: fold it into C.  Not for the folded form, or weights. */
typedef struct fftconv_projection_desc {
    size_t size;
    int64_t batch, inputs, states, outputs;
    const void *in, *kernels, *B, *C;
    void *out;         /* overlaps neither in nor kernels */
    int32_t imaginary; /* 0 or 1 */
    int32_t threads;   /* 0 means the plan's */
} fftconv_projection_desc;

FFTCONV_API FFTCONV_MUST_CHECK int fftconv_project(const fftconv_plan *plan,
                                                   const fftconv_projection_desc *desc);

/* ---- GPUs -----------------------------------------------------------------
 *
 * A plan whose device is cuda computes the same operation there, by one of two engines:
 *   "fused"  a row in one launch of our own kernels: float32 in rows of up to 16,384
 *            samples, float16 and bfloat16 (float16 inside, with an exponent for each row)
 *            of up to 32,768, where the device's shared memory holds them;
 *   "cufft"  padded rows through cuFFT, in float32, or in float64 for float64, up to 2^30
 *            points each, a tile of rows at a time.  The library libcufft.so is looked up
 *            when a plan first needs it; the environment variable FFTCONV_CUFFT names
 *            another file.
 * dense, order, radices, history, weights, isa and a form other than right_angle must be
 * left out, and complex types are refused.  plan_create, plan_get_info, spectrum_create,
 * forward, backward, workspace_bytes and the destroy functions take such plans; the other
 * functions refuse them as UNSUPPORTED.
 *
 * All arrays, and the workspace, are in the device's memory.  Calls return when they are
 * launched on operands.stream; they allocate nothing where the caller gives the workspace
 * and the spectrum, never wait, and may be captured in a graph (by cuFFT best after a first
 * call of the plan, when its kernels are loaded). */

/* The number of devices; 0 without a driver, or in a build without CUDA. */
FFTCONV_API int fftconv_cuda_devices(void);

/* What a caller without the CUDA runtime, such as the Python package, needs besides.
 * Errors: INVALID, NO_MEMORY, UNSUPPORTED (no device). */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_allocate(void **memory, int64_t bytes,
                                                         int device_index);
/* Waits for the device.  NULL is allowed. */
FFTCONV_API void fftconv_cuda_release(void *memory, int device_index);
/* Copies between the host and the device, or within either, behind what is on the stream,
 * and returns when it is done. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_copy(void *to, const void *from, int64_t bytes,
                                                     int device_index, void *stream);
/* The number of the device that memory is on; INVALID for the host's memory. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_device_of(const void *memory, int *device_index);
/* What is put on `stream` from now on waits for all that is on `other` so far. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_wait(int device_index, void *stream, void *other);
/* The caller waits for all that is on `stream`. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_synchronize(int device_index, void *stream);

#ifdef __cplusplus
}
#endif
#endif
