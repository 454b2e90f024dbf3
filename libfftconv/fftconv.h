/* libfftconv: long convolutions as matrix products.
 *
 * Every call computes, or differentiates, one operation on (B, H, L) rows:
 *
 *     z = in_gate . u                   pre-gate
 *     p = z * k + skip . z              long convolution and skip
 *     y = out_gate . mask . act(p)      activation, mask, post-gate
 *
 * where `*` is causal (linear, cut to L), two-sided (k for the past, k_rev for
 * the future) or circular modulo fft_size, and a dot is a product per element.
 * The convolution runs through the order-p Monarch decomposition of the DFT
 * (FlashFFTConv, arXiv 2311.05908, section 3).
 *
 * Manner of use, as in FFTW and cuFFT: make a plan for shapes and types, make a
 * spectrum of the kernel for that plan, execute as often as you like.  A plan
 * and a spectrum are immutable and may be shared between threads; nothing is
 * allocated inside execute where the caller gives the workspace.
 *
 * Every function that can fail returns a status; fftconv_last_error() then
 * holds, for this thread, a message that names the argument, its value and what
 * is allowed.  Arguments are checked before anything is written.
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

/* The binary interface's number; fftconv_abi() returns the library's own. */
#define FFTCONV_ABI 3

/* The most stages a caller may name, and the largest radix of one stage. */
#define FFTCONV_MAX_ORDER 16
#define FFTCONV_MAX_RADIX 128

typedef enum fftconv_status {
    FFTCONV_OK = 0,
    FFTCONV_INVALID = 1,     /* an argument is wrong: see the message */
    FFTCONV_NO_MEMORY = 2,   /* an allocation failed */
    FFTCONV_UNSUPPORTED = 3, /* right, but not to be had on this machine */
} fftconv_status;

typedef enum fftconv_dtype {
    FFTCONV_FLOAT64 = 1,
    FFTCONV_FLOAT32 = 2,
    FFTCONV_FLOAT16 = 3,
    FFTCONV_BFLOAT16 = 4,
    FFTCONV_COMPLEX128 = 5, /* interleaved (re, im) */
    FFTCONV_COMPLEX64 = 6,
} fftconv_dtype;

typedef enum fftconv_mode {
    FFTCONV_CAUSAL = 0,    /* y[t] = sum_{s<=t} k[s] z[t-s] */
    FFTCONV_CIRCULAR = 1,  /* the same with t-s modulo fft_size */
    FFTCONV_TWO_SIDED = 2, /* causal, plus sum_s k_rev[s] z[t+s]; both count
                              lag 0 (hyena-dna's bidirectional convention) */
} fftconv_mode;

/* How a real row becomes a complex one of M points. */
typedef enum fftconv_form {
    FFTCONV_FORM_AUTO = 0,
    FFTCONV_RIGHT_ANGLE = 1, /* modulo t^M - i: a linear convolution of 2M */
    FFTCONV_FOLDED = 2,      /* circular: right angles of fft_size/4, /8, ...
                                points, and a rest */
    FFTCONV_COMPLEX = 3,     /* imaginary part zero, fft_size = M */
    FFTCONV_EVEN_ODD = 4,    /* even samples, and i times odd ones: circular
                                of 2M; GPUs choose it, none is to ask */
} fftconv_form;

typedef enum fftconv_activation {
    FFTCONV_IDENTITY = 0,
    FFTCONV_GELU = 1, /* x Phi(x), by erf */
    FFTCONV_SILU = 2, /* x / (1 + exp(-x)) */
} fftconv_activation;

typedef enum fftconv_direction {
    FFTCONV_FORWARD = 0,
    FFTCONV_BACKWARD = 1,
} fftconv_direction;

typedef struct fftconv_plan fftconv_plan;
typedef struct fftconv_spectrum fftconv_spectrum;

/* An array the caller owns.  data == NULL: the operand is absent.
 * shape and stride are of (B, H, L); strides count elements, not bytes, and a
 * stride of 0 repeats an input along that axis (an output must not).  Any
 * strides will do: rows that are not contiguous while channels are, (B, L, H),
 * pass through the workspace a tile of channels at a time.
 * A kernel is (1 or B, G, Lk), skip is (1, H, 1), mask is (B, H, 1). */
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
/* The last failure's message on this thread; "" where there was none. */
FFTCONV_API const char *fftconv_last_error(void);
/* Instruction sets this build knows, by number from 0; NULL past the last. */
FFTCONV_API const char *fftconv_isa_name(int index);
/* 1 if this machine can run it, else 0. */
FFTCONV_API int fftconv_isa_available(const char *name);
/* The processors a thread count of 0 means. */
FFTCONV_API int fftconv_default_threads(void);

/* ---- Plans -------------------------------------------------------------- */

/* Zero it, set `size` to sizeof(fftconv_plan_desc), fill in what you know:
 * zero always means "the library's choice". */
typedef struct fftconv_plan_desc {
    size_t size;
    int64_t batch, channels, length; /* B, H, L >= 1; L <= 2^40 */
    int64_t kernel_length;           /* Lk >= 1; circular: Lk <= fft_size */
    int64_t reverse_length;          /* two-sided: of k_rev, >= 1 */
    int64_t kernels;                 /* G, a divisor of H; 0 means H.  Channel
                                        h has kernel h / (H / G) */
    int64_t kernel_batch;            /* 1, or B: kernels for each of the batch;
                                        0 means 1 */
    int64_t fft_size;                /* circular only: N >= L; 0 means L */
    int32_t mode;                    /* fftconv_mode */
    int32_t dtype;                   /* of u, gates, y; float64 computes in
                                        float64, the others in float32 */
    int32_t form;                    /* fftconv_form */
    int32_t dense;                   /* 1: every stage a dense complex matrix
                                        product instead of a codelet */
    int32_t threads;                 /* of a call that names none; 0: all */
    int32_t order;                   /* p; radices' length if those are given */
    const int64_t *radices;          /* N_1 (outermost) ... N_p, each in
                                        1 ... 128; their product is M, the
                                        complex transform's length */
    const char *isa;                 /* NULL: the best of this machine */
    int32_t single_block;            /* 1: each row in one transform, as the
                                        three primitives need it; 0: short
                                        kernels in blocks (overlap-save) where
                                        that costs less.  Radices of less than
                                        a row needs ask for blocks. */
    int32_t history;                 /* 1: causal, forward only: operands give
                                        the Lk - 1 samples of z before u, and
                                        rows of 1 ... `length` samples; few of
                                        them, with a spectrum, are summed */
    const double *weights;           /* circular, real types: fft_size/2 + 1
                                        factors of K's rfft bins (0 removes a
                                        bin and what only it needs); NULL: 1.
                                        fft_size must have no prime factor
                                        above 7 */
} fftconv_plan_desc;

/* Errors: INVALID (any field), UNSUPPORTED (isa), NO_MEMORY. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_plan_create(fftconv_plan **plan,
                                                       const fftconv_plan_desc *desc);
/* NULL is allowed. */
FFTCONV_API void fftconv_plan_destroy(fftconv_plan *plan);

#define FFTCONV_MAX_STAGES 40

/* What was chosen, and what it costs.  Counts are of one forward call, all
 * rows, without the kernel's own transform.  Set `size` before the call. */
typedef struct fftconv_plan_info {
    size_t size;
    int32_t form, mode, dtype, dense, threads, lanes;
    int64_t fft_size;         /* circular: N; else what a block is linear in:
                                 2M, complex types M */
    int64_t transform_length; /* M; folded: of its first part, fft_size/4 */
    int32_t order;            /* its decomposition, as named or chosen */
    int32_t stages;           /* the steps it runs as: 32 may run as 4 and 8 */
    int64_t radices[FFTCONV_MAX_ORDER];
    int64_t stage_radices[FFTCONV_MAX_STAGES];
    double stage_flops[FFTCONV_MAX_STAGES]; /* both directions, real flops;
                                               folded: of all parts */
    double product_flops;                   /* spectra times spectrum */
    double io_bytes;                        /* u in, y out: the caller's arrays */
    double l1_bytes;                        /* moved by stages whose data sit in L1 */
    double l2_bytes;                        /* ... in L2 */
    double memory_bytes;                    /* ... beyond L2 */
    int64_t spectrum_bytes;                 /* a spectrum of all channels */
    int64_t spectra_row_bytes;              /* one row of fftconv_rows_to_spectra */
    int64_t forward_workspace_bytes;        /* with this plan's thread count */
    int64_t backward_workspace_bytes;
    double predicted_seconds; /* the planner's own estimate, one thread */
    const char *isa;
    int64_t blocks;       /* transforms a row is cut into */
    int64_t block_length; /* outputs of each, the last one's fewer */
    double kept;          /* of fft_size's bins, the part with a weight other than 0 */
    double computed;      /* of the points visited without weights, those that are */
    double fold_flops;    /* folded: sums and differences, both directions */
} fftconv_plan_info;

FFTCONV_API FFTCONV_MUST_CHECK int fftconv_plan_get_info(const fftconv_plan *plan,
                                                         fftconv_plan_info *info);

/* Bytes of workspace for one call on `threads` threads (0: the plan's), its rows
 * contiguous and y not u; see fftconv_operands_workspace_bytes for others.
 * Workspace must be aligned to 64 bytes. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_workspace_bytes(const fftconv_plan *plan, int direction,
                                                           int threads, int64_t *bytes);

/* ---- Spectra ------------------------------------------------------------ */

/* The transform of k (1 or B, G, Lk), in the order in which the plan's stages
 * leave it, scaled, ready for any number of calls.  k's dtype: the plan's, or
 * float32 beside 16 bits.  k_rev: of a two-sided plan, with its own length;
 * else NULL. */
FFTCONV_API FFTCONV_MUST_CHECK int
fftconv_spectrum_create(fftconv_spectrum **spectrum, const fftconv_plan *plan,
                        const fftconv_tensor *k, const fftconv_tensor *k_rev, int threads);
/* NULL is allowed. */
FFTCONV_API void fftconv_spectrum_destroy(fftconv_spectrum *spectrum);

/* ---- The convolution ---------------------------------------------------- */

/* Zero it, set `size`, fill in what takes part.  u, gates, y and their
 * gradients have the plan's dtype and shape (B, H, L).  Kernels, skip and mask
 * and their gradients may be float32 where the plan is 16-bit. */
typedef struct fftconv_operands {
    size_t size;
    int32_t activation; /* fftconv_activation; complex types: identity */
    int32_t threads;    /* 0: the plan's */
    fftconv_tensor u;
    fftconv_tensor k, k_rev; /* where no spectrum is given */
    fftconv_tensor in_gate, out_gate;
    fftconv_tensor skip;    /* (1, H, 1) */
    fftconv_tensor mask;    /* (B, H, 1) */
    fftconv_tensor history; /* (B, H, Lk - 1): z before u, the latest last;
                                float32 beside 16 bits, too */
    fftconv_tensor y;       /* forward: the result; may be u itself */
    fftconv_tensor dy;      /* backward: the gradient of y */
    fftconv_tensor du, dk, dk_rev, din_gate, dout_gate, dskip; /* what you want */
    void *workspace; /* NULL: the call allocates its own and frees it */
    int64_t workspace_bytes;
} fftconv_operands;

/* y from u.  spectrum NULL: k must be given, and is transformed channel by
 * channel inside the call. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_forward(const fftconv_plan *plan,
                                                   const fftconv_spectrum *spectrum,
                                                   const fftconv_operands *operands);

/* Gradients from dy; u, gates, skip, mask, activation as in forward, which is
 * recomputed.  dk, dk_rev and dskip have their operand's shape, and are summed
 * over what shares it in an order that shapes and strides fix, not threads.  Of
 * complex x, dx is the derivative by Re x plus i times that by Im x. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_backward(const fftconv_plan *plan,
                                                    const fftconv_spectrum *spectrum,
                                                    const fftconv_operands *operands);

/* Bytes of workspace for just this call, whatever its strides, from dtypes, shapes
 * and strides as they stand: the call itself checks them. */
FFTCONV_API FFTCONV_MUST_CHECK int
fftconv_operands_workspace_bytes(const fftconv_plan *plan, const fftconv_spectrum *spectrum,
                                 const fftconv_operands *operands, int direction, int64_t *bytes);

/* ---- The three primitives ------------------------------------------------
 * A convolution is spectra_to_rows(multiply(rows_to_spectra(u))), for a plan of
 * one block.  Spectra are consecutive rows of info.spectra_row_bytes, in stage
 * order, 64-byte aligned. */

/* Which rows: those of u and its gradient, or those of y and its gradient.
 * They differ where u is read in more places than one (circular plans of the
 * right-angle form), and each direction is the other's adjoint. */
typedef enum fftconv_side {
    FFTCONV_INPUT = 0,
    FFTCONV_OUTPUT = 1,
} fftconv_side;

/* rows: (n0, n1, L) of the plan's dtype, n0 and n1 any; n0 n1 rows of spectra. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_rows_to_spectra(const fftconv_plan *plan, int side,
                                                           const fftconv_tensor *rows,
                                                           void *spectra, int threads);
/* The inverse DFT without its 1/M, which a spectrum carries (folded, each part its
 * own); spectra are overwritten, and those of a real plan must be some real row's. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_spectra_to_rows(const fftconv_plan *plan, int side,
                                                           void *spectra,
                                                           const fftconv_tensor *rows, int threads);
/* out = spectrum . in per frequency, B H rows; out may be in. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_multiply(const fftconv_plan *plan,
                                                    const fftconv_spectrum *spectrum,
                                                    const void *in, void *out, int threads);

/* Kernels (n0, n1, Lk) to spectra, without a spectrum's 1/M, and the adjoint;
 * k_rev as in fftconv_spectrum_create.  Not for the folded form, or weights. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_kernels_to_spectra(const fftconv_plan *plan,
                                                              const fftconv_tensor *k,
                                                              const fftconv_tensor *k_rev,
                                                              void *spectra, int threads);
FFTCONV_API FFTCONV_MUST_CHECK int
fftconv_spectra_to_kernels(const fftconv_plan *plan, void *spectra, const fftconv_tensor *dk,
                           const fftconv_tensor *dk_rev, int threads);

/* A matrix product at every frequency: with rows of spectra as entries,
 *     out[r, c] = scale sum_d a[r, d] b[d, c]   (accumulate: added to out)
 * for r < rows, c < columns, d < depth; strides count entries, and a, b and out
 * may begin at any row of spectra.  Not for the
 * folded form, or weights. */
typedef struct fftconv_contraction {
    size_t size;
    int64_t rows, columns, depth;
    const void *a, *b;
    void *out; /* overlaps neither */
    int64_t a_stride[2], b_stride[2], out_stride[2];
    double scale;
    int32_t conjugate_a, conjugate_b, accumulate;
    int32_t threads;
} fftconv_contraction;

FFTCONV_API FFTCONV_MUST_CHECK int fftconv_contract(const fftconv_plan *plan,
                                                    const fftconv_contraction *contraction);

/* Where a frequency lies: offset[m] counts real numbers from the row's start to
 * Re X[m]; Im X[m] lies info.lanes further on.  For m = 0 ... M-1; in the
 * right-angle form X[m] is the value at frequency (m - 1/4)/M.  Folded, for the
 * rfft bins m = 0 ... fft_size/2.  Where offset[m] is negative, the conjugate lies
 * at -1 - offset[m]: folded, and in the complex form of real rows. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_spectra_offsets(const fftconv_plan *plan,
                                                           int64_t *offset);

/* ---- The transform by itself -------------------------------------------- */

/* count DFTs of n = prod radices points, by decimation in frequency, through
 * the stage code the convolutions run; interleaved complex64 (FFTCONV_FLOAT32)
 * or complex128 (FFTCONV_FLOAT64).
 *
 * stages < 0: all of them, result in natural order (inverse: with its 1/n).
 * Otherwise stages 1 ... `stages` only, twiddles included, result in place:
 * after stage i, digits k_1 ... k_i stand where n_1 ... n_i stood, most
 * significant first. */
typedef struct fftconv_dft_desc {
    size_t size;
    int64_t n, count;
    int32_t dtype, inverse, dense, stages;
    int32_t order;
    int32_t reserved;
    const int64_t *radices; /* each in 1 ... 128 */
    const char *isa;
    const void *in;
    void *out; /* may be in itself; both aligned to their reals */
} fftconv_dft_desc;

FFTCONV_API FFTCONV_MUST_CHECK int fftconv_dft(const fftconv_dft_desc *desc);

/* ---- Cost model: Equation 2 of the paper --------------------------------- */

/* A machine in the paper's four numbers (Table 19). */
typedef struct fftconv_hardware {
    size_t size;
    char name[32];
    double sigma_h;      /* bytes/s of main memory (HBM) */
    double sigma_s;      /* bytes/s of the fast memory (SRAM; a CPU's L2) */
    double tau_m;        /* flop/s of matrix products */
    double tau_g;        /* flop/s of everything else */
    int64_t mu;          /* smallest radix that runs at tau_m */
    int64_t fast_points; /* the longest sub-transform kept in fast memory */
    int32_t measured;    /* 0: from a datasheet */
    int32_t reserved;
} fftconv_hardware;

/* "A100" (Table 19), "H100" (datasheet), "host" (measured now, about half a
 * second).  NULL past the last for the names by number. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_hardware_get(const char *name,
                                                        fftconv_hardware *hardware);
FFTCONV_API const char *fftconv_hardware_name(int index);

/* Seconds for B = H = 1 of N = prod radices:
 *   C = sum_i 16 N N_i / gamma(N_i) + 4 N / omega(i),
 * gamma = tau_m if N_i >= mu else tau_g; omega(i) = sigma_h while the length
 * still to be transformed, N / prod_{j<i} N_j, exceeds fast_points. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_monarch_cost(const int64_t *radices, int order,
                                                        const fftconv_hardware *hardware,
                                                        double *seconds);
/* The most equal powers of two, largest outermost (Figure 4); n = 2^a. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_balanced_radices(int64_t n, int order, int64_t *radices);
/* The cheapest powers of two by the model; order <= 6. */
FFTCONV_API FFTCONV_MUST_CHECK int
fftconv_best_radices(int64_t n, int order, const fftconv_hardware *hardware, int64_t *radices);

/* ---- Real DFTs, bins in natural order -------------------------------------- */

/* Of any even length: how filters given as half spectra come in, and their
 * gradients go out.  Immutable, shared freely between threads. */
typedef struct fftconv_rdft fftconv_rdft;

/* n even, 2 ... 2^40; dtype of rows: float32 or float64; isa as in a plan.
 * Errors: INVALID, UNSUPPORTED (isa), NO_MEMORY. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_rdft_create(fftconv_rdft **rdft, int64_t n, int dtype,
                                                       const char *isa);
/* NULL is allowed. */
FFTCONV_API void fftconv_rdft_destroy(fftconv_rdft *rdft);
/* bins[m] = scale sum_j rows[j] exp(-2 pi i j m / n), m = 0 ... n/2.  rows:
 * (n0, n1, n) of the rdft's dtype; bins: (n0, n1, n/2 + 1), complex of the same
 * precision. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_rdft_forward(const fftconv_rdft *rdft,
                                                        const fftconv_tensor *rows,
                                                        const fftconv_tensor *bins, double scale,
                                                        int threads);
/* rows[j] = scale sum_m bins[m] exp(2 pi i j m / n) over all n bins, those above
 * n/2 by symmetry; the imaginary parts of bins 0 and n/2 do not act.  scale is 1/n
 * for forward's inverse. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_rdft_inverse(const fftconv_rdft *rdft,
                                                        const fftconv_tensor *bins,
                                                        const fftconv_tensor *rows, double scale,
                                                        int threads);

/* ---- Heads: H3's outer products, convolved and contracted ------------------
 *
 * Channels come in groups of head_dim = h, one kernel each.  For lanes i, j of a
 * group g, with u' = gelu(u) where gelu_u, q' = gelu(q) where gelu_q:
 *
 *     z_ij = u'_i . v_j,    p_ij = z_ij * k_g + skip_g . z_ij
 *     y_j = sum_i q'_i . mask_bg . act(p_ij)
 *
 * (hyena-dna's fftconv; H3, arXiv 2212.14052).  Nothing of size h L per lane is
 * stored: memory beside the operands is that of one group a thread, whatever B. */

/* Zero it, set `size`, fill in what takes part.  Rows have dtype float64 where the
 * plan has, else any real type but float64, each its own. */
typedef struct fftconv_heads {
    size_t size;
    int32_t activation; /* fftconv_activation */
    int32_t gelu_u, gelu_q;
    int32_t threads;                              /* 0: the plan's */
    fftconv_tensor u, v, q;                       /* (B, H, L); h = 1 may leave out v and q */
    fftconv_tensor k, k_rev;                      /* (1, H/h, Lk), of the plan's dtype */
    fftconv_tensor skip;                          /* (1, H/h, 1), of any row's dtype */
    fftconv_tensor mask;                          /* (B, H/h, 1), the same */
    fftconv_tensor y;                             /* forward: (B, H, L) */
    fftconv_tensor dy;                            /* backward: the gradient of y */
    fftconv_tensor du, dv, dq, dk, dk_rev, dskip; /* what you want */
} fftconv_heads;

/* plan: of one group, batch 1, channels h, kernels 1, any mode, float32 or float64.
 * No output may overlap another operand. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_heads_forward(const fftconv_plan *plan,
                                                         const fftconv_heads *heads);
/* Gradients from dy, forward being recomputed; sums in an order that shapes fix,
 * not threads. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_heads_backward(const fftconv_plan *plan,
                                                          const fftconv_heads *heads);

/* ---- Short depthwise convolutions -------------------------------------------
 *
 *     y[b, d, l] = act(bias[d] + sum_k weight[d, k] x[b, d, l - left + k])
 *
 * for l < Lout, k < K: a cross-correlation as torch's conv1d, x zero outside its L
 * samples, or, given `state`, after those.  left = K - 1 and Lout = L is causal;
 * padding P on both sides is left = P, Lout = L + 2P - K + 1.  Rows whose samples
 * are neighbours (B, D, L) and rows whose channels are (B, L, D) go equally fast. */

/* Zero it, set `size`, fill in what takes part.  Every tensor has any real dtype of
 * its own; sums run in float32, or in float64 where an input is. */
typedef struct fftconv_depthwise {
    size_t size;
    int32_t activation; /* fftconv_activation */
    int32_t threads;    /* 0: all */
    const char *isa;    /* NULL: the best of this machine */
    int64_t left;
    fftconv_tensor x;                          /* (B, D, L) */
    fftconv_tensor weight;                     /* (1, D, K) */
    fftconv_tensor bias;                       /* (1, D, 1) */
    fftconv_tensor state;                      /* (B, D, K - 1): x before element 0, for
                                  left = K - 1 only */
    fftconv_tensor y;                          /* (B, D, Lout) */
    fftconv_tensor next_state;                 /* (B, D, K - 1): x's end; may be state */
    fftconv_tensor dy;                         /* backward: the gradient of y */
    fftconv_tensor dx, dweight, dbias, dstate; /* what you want */
} fftconv_depthwise;

/* No output may overlap another operand, but next_state, which may be state. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_depthwise_forward(const fftconv_depthwise *depthwise);
/* Gradients from dy; where there is an activation, forward is recomputed.  Sums in
 * float64 over parts that the shapes fix, not threads. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_depthwise_backward(const fftconv_depthwise *depthwise);

/* ---- Kernels of state-space models ---------------------------------------- */

typedef enum fftconv_discretization {
    FFTCONV_ZOH = 0,      /* Abar = e^A, Bbar = (e^A - 1) A^-1 B */
    FFTCONV_BILINEAR = 1, /* (I - A/2)^-1 (I + A/2), (I - A/2)^-1 B */
    FFTCONV_DSS = 2,      /* zoh's over e^(AL) - 1 (DSS_softmax, arXiv
                             2203.14343), the sum without the 2 in k */
} fftconv_discretization;

/* Zero it, set `size`, fill in what takes part.  The kernel of a state space of
 * conjugate pairs, of which N states stand for 2N:
 *
 *     k[i, c, h, l] = 2 Re sum_n C[c, h, n] (Abar^l Bbar)[i, h, n]
 *
 * with A = diag(A) - sum_j P_j Q_j*, in units of one time step: A is Delta A,
 * B is Delta B, P Q* is Delta P Q*.  rank 0 is S4D (arXiv 2206.11893), rank >= 1
 * S4 (arXiv 2111.00396), bilinear only.  Parameters are complex128, interleaved,
 * contiguous; k and dk contiguous, of `dtype`. */
typedef struct fftconv_ssm {
    size_t size;
    int64_t inputs, channels, heads, states, length; /* I, C, H, N, L >= 1 */
    int64_t rank;                                    /* 0 ... 8 */
    int32_t dtype;                                   /* of k: FFTCONV_FLOAT32 or FFTCONV_FLOAT64 */
    int32_t discretization;                          /* fftconv_discretization */
    int32_t state;                                   /* 1: B holds states s before the first sample,
                               and k[l] = 2 Re C Abar^(l+1) s; not with dss */
    int32_t threads;                                 /* 0: all; results do not depend on it */
    const char *isa;                                 /* NULL: the best of this machine */
    const double *A;                                 /* (H, N), real parts negative */
    const double *B;                                 /* (I, H, N) */
    const double *C;                                 /* (C, H, N) */
    const double *P, *Q;                             /* (rank, H, N) */
    void *k;                                         /* (I, C, H, L) */
    const void *dk;                                  /* backward: the gradient of k */
    double *dA, *dB, *dC, *dP, *dQ;                  /* backward: what you want, else NULL */
} fftconv_ssm;

/* Memory: a few rows of L and, with rank, a matrix of (2N, 2N) for each thread.
 * Errors: INVALID, UNSUPPORTED (isa), NO_MEMORY. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_ssm_kernel(const fftconv_ssm *ssm);
/* Gradients, d/dRe + i d/dIm, of sum(dk . k).  With dk a signal backwards in
 * time, conj(dC) / 2 is the state it leaves: sum_l dk[l] Abar^l Bbar. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_ssm_kernel_backward(const fftconv_ssm *ssm);

/* Projections around kernels, at every frequency (Centaurus' opt_ssm_forward,
 * arXiv 2409.03377):
 *     out[b, o] = sum_n C[o, n] kernels[n] sum_i B[n, i] in[b, i]
 * in, kernels and out are consecutive rows of spectra.  B (states, inputs) and
 * C (outputs, states) are contiguous matrices of the spectra's real type, for all
 * frequencies; with `imaginary` each is followed by its imaginary part, in a plan
 * of a complex type: those of a real one need not hold every frequency.  The inverse DFT's 1/M is C's.  Not for the folded form,
 * or weights. */
typedef struct fftconv_projection {
    size_t size;
    int64_t batch, inputs, states, outputs;
    const void *in, *kernels, *B, *C;
    void *out; /* overlaps neither in nor kernels */
    int32_t imaginary;
    int32_t threads; /* 0: the plan's */
} fftconv_projection;

FFTCONV_API FFTCONV_MUST_CHECK int fftconv_project(const fftconv_plan *plan,
                                                   const fftconv_projection *projection);

/* ---- GPUs -----------------------------------------------------------------
 *
 * The same operation on a CUDA device, by one of two engines:
 *   "fused"  a row in one launch: float32 in rows of up to 16,384 samples, float16
 *            and bfloat16 (float16 inside, with an exponent for each row) of up to
 *            32,768, where the device's shared memory holds them;
 *   "cufft"  padded rows through cuFFT in float32, or in float64 for float64, up to
 *            2^30 points each, a tile of rows at a time.  The library libcufft.so is
 *            looked up when a plan first needs it; the environment's FFTCONV_CUFFT
 *            names another file.
 * All arrays, and the workspace, are the device's; `stream` is a cudaStream_t, NULL
 * the default one.  Calls return when they are launched, allocate nothing where the
 * caller gives the workspace and the spectrum, never wait, and may be captured in a
 * graph; by cuFFT best after a first call of the plan, when its kernels are loaded.
 * Threads may share a plan and a spectrum. */

typedef struct fftconv_cuda_plan fftconv_cuda_plan;
typedef struct fftconv_cuda_spectrum fftconv_cuda_spectrum;

/* Devices there are; 0 without a driver, or in a build without CUDA. */
FFTCONV_API int fftconv_cuda_devices(void);

/* desc as of fftconv_plan_create, but that isa names an engine; NULL is the first
 * that holds such rows.  dense, order, radices, history, weights and a form other
 * than right_angle must be left out.  Errors: INVALID, NO_MEMORY, UNSUPPORTED (no
 * device; a type or length it does not hold; no cuFFT). */
FFTCONV_API FFTCONV_MUST_CHECK int
fftconv_cuda_plan_create(fftconv_cuda_plan **plan, const fftconv_plan_desc *desc, int device);
/* NULL is allowed.  The caller sees to it that no call is running. */
FFTCONV_API void fftconv_cuda_plan_destroy(fftconv_cuda_plan *plan);
/* Workspace: what any call of the direction needs; on the device. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_plan_get_info(const fftconv_cuda_plan *plan,
                                                              fftconv_plan_info *info);

FFTCONV_API FFTCONV_MUST_CHECK int
fftconv_cuda_spectrum_create(fftconv_cuda_spectrum **spectrum, const fftconv_cuda_plan *plan,
                             const fftconv_tensor *k, const fftconv_tensor *k_rev, void *stream);
/* NULL is allowed. */
FFTCONV_API void fftconv_cuda_spectrum_destroy(fftconv_cuda_spectrum *spectrum);

/* As fftconv_forward and fftconv_backward. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_forward(const fftconv_cuda_plan *plan,
                                                        const fftconv_cuda_spectrum *spectrum,
                                                        const fftconv_operands *operands,
                                                        void *stream);
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_backward(const fftconv_cuda_plan *plan,
                                                         const fftconv_cuda_spectrum *spectrum,
                                                         const fftconv_operands *operands,
                                                         void *stream);

/* What a caller without the CUDA runtime, such as the Python package, needs beside.
 * Errors: INVALID, NO_MEMORY, UNSUPPORTED (no device). */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_allocate(void **memory, int64_t bytes, int device);
/* Waits for the device.  NULL is allowed. */
FFTCONV_API void fftconv_cuda_release(void *memory, int device);
/* Between the host and the device, or within either, behind what is on the stream;
 * returns when it is done. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_copy(void *to, const void *from, int64_t bytes,
                                                     int device, void *stream);
/* The device that memory is on; INVALID for the host's. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_device_of(const void *memory, int *device);
/* What is put on `stream` from now on waits for all that is on `other` so far. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_wait(int device, void *stream, void *other);
/* The caller waits for all that is on `stream`. */
FFTCONV_API FFTCONV_MUST_CHECK int fftconv_cuda_synchronize(int device, void *stream);

#ifdef __cplusplus
}
#endif
#endif
