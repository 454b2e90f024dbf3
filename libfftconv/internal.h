/* What the library's files share and nobody else sees. */
#ifndef FFTCONV_INTERNAL_H
#define FFTCONV_INTERNAL_H

#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "fftconv.h"

#include <stdbool.h>

#define MAX_STAGES FFTCONV_MAX_STAGES
#define ALIGNMENT 64

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/* ---- status.c: every failure says what, and returns its status ------------ */

enum { MESSAGE_BYTES = 512 };
int fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3), cold));
int fail_memory(int64_t bytes);
/* An fftconv_dtype's name and bytes; NULL and 0 for a number that is none. */
const char *dtype_name(int dtype);
static inline int dtype_size(int dtype)
{
    static const signed char size[] = {0, 8, 4, 2, 2, 16, 8};
    return dtype > 0 && dtype < (int)sizeof size ? size[dtype] : 0;
}
static inline bool is_complex(int dtype) { return dtype >= FFTCONV_DTYPE_COMPLEX128; }
/* Aligned memory; NULL where there is none. */
void *aligned_new(int64_t bytes);
void aligned_free(void *p);

/* ---- threads.c ------------------------------------------------------------ */

typedef int task_fn(void *context, int64_t index, int worker);
/* Calls fn(context, i, worker) once for each i in [0, n), worker in [0, threads), and
 * returns when all are done.  Once a task has returned a status other than OK, no more
 * are begun; that status is returned, and its message is then the calling thread's. */
int parallel_for(int threads, int64_t n, task_fn *fn, void *context);

/* ---- The transform --------------------------------------------------------
 *
 * M = r_1 r_2 ... r_n points, decimation in frequency, M = P Q with
 * P = r_1 ... r_split (phase 1) and Q the rest (phase 2).
 *
 * Phase 1 holds point n = p Q + q at row p, column q of X, lanes along q, rows
 * padded to Qv vectors.  A leaf is Pl consecutive rows, the part of X that
 * stays in cache; it is transposed, and phase 2 holds it as T[q][p], lanes
 * along p, rows padded to Plv vectors.  So every stage is vertical: lanes never
 * meet outside the transposition.  Everywhere a vector of real parts is
 * followed by one of imaginary parts.
 *
 * Spectra keep that order: leaf after leaf, Q rows of Plv vectors.  Row p of X
 * and row q of T count frequency digits, most significant first:
 *     p = (k_1, ..., k_split), q = (k_split+1, ..., k_n),
 *     m = k_1 + r_1 (k_2 + r_2 (k_3 + ...)).
 */

/* exp(-2 pi i k m / S) for column (or row) m and output k of a stage.
 * Phase 1: vectors fine[m][k], times scalars coarse[m / period][k] where the
 * whole table would be too large for a cache.  Phase 2: scalars fine[m][k]. */
struct twiddle {
    void *fine;
    void *coarse;
    int64_t period;
};

enum { NOTHING, SOME, ALL };

struct stage {
    int radix;
    uint8_t *live; /* phase 1, frequency-sparse: of each block, NOTHING, SOME or
                      ALL of its outputs are not zero; NULL: all of all */
    bool masked;   /* its dead outputs are neither written nor read */
    bool dense;
    int64_t sub;    /* from one input of a butterfly to the next: vectors of
                       X, or rows of T */
    int64_t blocks; /* butterfly blocks in all of X, or in one T */
    struct twiddle twiddle;
    void *matrix; /* dense: exp(-2 pi i r (k - shift) / radix), [k][r] */
};

struct xform {
    int form;
    int lanes;
    int real_bytes;
    int64_t M, P, Q, Qv, Pl, Plv, leaves;
    int stages, split, depth; /* leaves begin below stage `depth` */
    bool square;              /* a leaf ends in two stages of radix `lanes`, one a phase */
    int kept;                 /* of stage 1's outputs, those computed: k_1 < kept.  All of them, but
                    of real rows in complex form up to r_1 / 2: the others are these
                    ones' conjugates, in reverse, and go without saying */
    struct stage stage[MAX_STAGES];
    void *shift;                  /* right angle: exp(2 pi i r / (4 r_1)), r < r_1 */
    int64_t x_reals;              /* of X */
    int64_t leaf_reals;           /* of T */
    int64_t spectra_reals;        /* of one row's spectrum */
    int64_t tile_columns;         /* vectors a first or last stage takes at a time */
    int64_t ahead, ahead_columns; /* rows that no cache holds: how many elements before
                                     their time such a stage, or a folded row's first and
                                     last pass, asks for them, or 0; the vectors that a
                                     stage then takes at a time */
    int64_t scratch_reals;        /* T and the tiles */
    /* Frequency-sparse: vectors of p, leaf after leaf, that are computed at all,
     * NOTHING or ALL; and the weights of the bins, in spectrum order, one a point:
     * a vector of them for two of a spectrum. */
    uint8_t *live;
    void *weights;
    double computed;      /* the part of P that is */
    int64_t row, spectra; /* folded: where its reals begin in the folded row,
                             and in a row's spectra */
};

static inline bool is_half(const struct xform *xf) { return xf->kept < xf->stage[0].radix; }

/* ---- Rows in the caller's memory ------------------------------------------ */

/* Element n is at data + (n - origin) stride. */
struct array {
    const void *data;
    int dtype;
    int64_t stride, origin;
};

struct scalar {
    double re, im;
};

/* How the numbers of a row lie in the M complex points. */
enum packing {
    LINEAR,      /* point n: x[n] + i x[n + M] */
    COMPLEX_ROW, /* x[n], complex */
};

/* Place n of a transform takes element n + shift of z = x gate. */
struct source {
    int packing;
    int64_t shift;
    int64_t from, to; /* elements; zeros elsewhere */
    struct array x, gate;
    /* elements below 0: what came before, or, circular, what comes round;
     * zeros again from before_to <= 0 on */
    struct array before, before_gate;
    int64_t before_to;
};

/* Place n gives element n + shift of y. */
struct sink {
    int packing;
    int64_t shift;
    int64_t from, to; /* elements wanted */
    struct array y;
    struct array x, gate, out_gate; /* z = x gate, for the skip */
    /* where given, twin = twin_gate v as well: real, and no skip beside it */
    struct array twin, twin_gate;
    bool has_skip, has_mask;
    struct scalar skip, mask;
    int activation;
};

/* Backward between two transforms, elements [from, from + count). */
struct gradient {
    int64_t from, count;
    int activation;
    bool has_mask;
    struct scalar mask;
    const void *p; /* act's argument; NULL where nothing needs it */
    void *g;       /* out: dy conj(out_gate mask) act'(p); may be p */
    struct array dy, out_gate, x, gate, dout_gate;
    struct scalar *dskip; /* += sum g conj(z) */
};

/* Taps of a kernel in a row of `places`: k[s] at s, and k_rev[s] at places - s
 * times `sign`, which is what t^places is worth. */
struct taps {
    struct array k, k_rev;
    int64_t count, rev_count, places;
    int sign;
};

/* out[r, c] = scale sum_d a[r, d] b[d, c] at every point of rows of spectra. */
struct contraction {
    int64_t rows, columns, depth;
    const void *a, *b;
    void *out;
    int64_t a_stride[2], b_stride[2], out_stride[2]; /* in reals */
    double scale;
    bool conjugate_a, conjugate_b, accumulate;
    /* a block: what is packed at a time, and stays in cache */
    int64_t block_rows, block_columns, block_depth, block_vectors;
};

/* The channels of a correlation's tile are at most so many. */
enum { BAND = 512 };

/* y[d, l] = act(bias[d] + sum_k w[d, k] x[d, l - left + k]), a short convolution of
 * rows by themselves; x is what `state` holds before element 0, else zeros. */
struct correlation {
    bool across; /* lanes go over channels, which are neighbours there */
    bool direct; /* x and y, of one type, are read and written without a
                           copy between */
    enum { AS_REALS, AS_PAIRS, AS_HALVES } as; /* how: depthwise.h */
    int64_t taps, left;                        /* left may be below 0 */
    int64_t L, Lout, D;
    int activation;
    const void *w;      /* [D][taps], across [taps][D padded to whole vectors] */
    const void *bias;   /* [D], padded too */
    const void *blocks; /* across and direct: of channels first + n unit, a vector's
                           worth, their taps and bias, for n = 0, 1, ... */
    int64_t first;      /* the start of a line of y where that is far, else 0 */
    bool far;           /* y goes past the caches, as whole lines */
    /* (B, D, L), (B, D, taps - 1), (B, D, Lout) */
    const fftconv_tensor *x, *state, *y, *dy, *dx, *dstate;
    int64_t tile_channels, tile_length; /* a tile, one channel unless across; a
                                           row's last may have 2 lanes more */
};

/* out[r, c] = sum_d a[r, d] b[d, c], matrices of the engine's reals whose rows lie
 * `step` apart; columns are a multiple of the lanes. */
struct matmul {
    int64_t rows, columns, depth;
    const void *a, *b;
    void *out;
    int64_t a_step, b_step, out_step;
};

/* ---- State-space kernels (ssm.c), in float64, `lanes` heads beside each other --- */

enum { CAUCHY = 4, MAX_RANK = 8 };

/* R[v] = sum_n v_n / (2is - c x_n) + conj(v_n) / (2is - c conj(x_n)) at the nodes
 * (2s, c), for CAUCHY vectors v at a time. */
struct cauchy {
    int64_t states, nodes; /* nodes: a multiple of the lanes */
    const double *s2, *c;
    const double *terms; /* of each state: Re x, Im x, CAUCHY times
                              Re(v conj x), CAUCHY times Re v */
    double *out;         /* of each v: re[nodes], im[nodes] */
};

/* w = D x - sum_j column_j Re(row_j . x), arrays [state][re, im][lane]. */
struct solver {
    double *diagonal, *rows, *columns;
};

struct recurrence {
    int64_t states, rank, channels;
    struct solver forward, adjoint; /* (I - A/2)^-1 and its adjoint */
    double *C, *P, *Q;
    double *dA, *dC, *dP, *dQ; /* added to; dC may be NULL */
    bool states_too;           /* false: dC alone is wanted */
};

enum { FORWARD = 1, INVERSE = 2, KEPT = 4 };

/* Rows wanted soon, `step` bytes of each fetched with every tile of the row at work,
 * so that memory is busy while arithmetic is. */
struct ahead {
    const char *at[4];
    int rows;
    int64_t step;
};

/* One instruction set at one precision: engine_body.h compiled once. */
struct engine {
    const char *isa;
    int lanes, real_bytes;
    /* Source to X, columns [c0, c1) of stage 1. */
    void (*first)(const struct xform *, const struct source *, void *X, int64_t c0, int64_t c1,
                  void *scratch);
    /* Everything between, for the subtrees [j0, j1) below stage 1, in
     * `directions`: FORWARD leaves spectra in S, INVERSE begins there.  Both:
     * multiplies by `spectrum` between and needs no S; with KEPT, which xf->square
     * can do, the spectra before that are left in S.  ahead may be NULL. */
    void (*middle)(const struct xform *, int directions, void *X, void *S, const void *spectrum,
                   int64_t j0, int64_t j1, void *scratch, struct ahead *ahead);
    /* X to sink, columns [c0, c1) of stage 1. */
    void (*last)(const struct xform *, void *X, const struct sink *, int64_t c0, int64_t c1,
                 void *scratch);
    /* One or two levels of a folded row of `length`, there or back, elements
     * [i0, i1) of its halves or quarters; the first level from a source, the last
     * one back to a sink, all others in place.  `ahead` is the first part's. */
    void (*fold)(bool back, int levels, int64_t length, int64_t ahead, const struct source *,
                 const struct sink *, void *row, int64_t i0, int64_t i1);
    /* Few outputs of a real row by their sum: y[j] = sum_i taps[i] z[j + i], taps
     * in reverse and padded to whole vectors, z the source's places from 0 on;
     * work holds count + n and two vectors. */
    void (*direct)(const struct source *, const void *taps, int64_t count, int64_t n,
                   const struct sink *, void *work);
    void (*reverse_taps)(const struct array *k, int64_t count, int64_t padded, void *taps);
    /* Spectra, of places that are computed at all; part i of n, so that threads can
     * share a row. */
    void (*multiply)(const struct xform *, const void *spectrum, const void *in, void *out,
                     bool adjoint, int64_t part, int64_t parts);
    /* dspectrum += scale weights conj(Z) G, or begins with that; then G *=
     * conj(spectrum) if that is given */
    void (*accumulate)(const struct xform *, double scale, bool begin, void *dspectrum,
                       const void *Z, void *G, const void *spectrum, int64_t part, int64_t parts);
    /* dspectrum += other */
    void (*add)(const struct xform *, void *dspectrum, const void *other);
    /* scale weights S in all places, zeros where the weights are */
    void (*weigh)(const struct xform *, double scale, void *S);
    /* Rows */
    void (*gradient)(const struct gradient *);
    /* to[n] = dz[n] conj(factor[n]) for elements [from, from + count) */
    void (*spread)(int64_t from, int64_t count, const struct array *dz, const struct array *factor,
                   const struct array *to);
    /* y += a x, rows of the engine's own numbers, complex or not */
    void (*axpy)(bool complex, int64_t count, struct scalar a, const void *x, void *y);
    /* a matrix's transpose, steps in reals */
    void (*turn)(const void *from, int64_t from_step, void *to, int64_t to_step, int64_t rows,
                 int64_t columns);
    /* taps, k_rev among them, to a row; and a row's to taps */
    void (*place_taps)(const struct taps *, void *row);
    void (*take_taps)(const struct taps *, void *row);
    /* a[0]; a[0] = value */
    struct scalar (*get)(const struct array *a);
    void (*set)(const struct array *a, struct scalar value);
    /* contract.h: vectors [v0, v1) of every row, at most a block of them; work
     * holds the packed blocks */
    void (*contract)(const struct contraction *, int64_t v0, int64_t v1, void *work);
    /* out[i] = act(in[i]) of the engine's own numbers, or act'(in[i]); out may be in */
    void (*activate)(int activation, bool slope, int64_t count, const void *in, void *out);
    /* depthwise.h: y, of one tile (b, channels [d0, d1), outputs [l0, l1)); work holds
     * correlation_work reals, aligned */
    void (*correlate)(const struct correlation *, int64_t b, int64_t d0, int64_t d1, int64_t l0,
                      int64_t l1, void *work);
    /* c->blocks, from w and bias */
    void (*correlate_blocks)(const struct correlation *, void *to);
    /* dx of a tile of x's elements, where those below 0 are the state's; flipped: w
     * with its taps in reverse */
    void (*correlate_dx)(const struct correlation *, const void *flipped, int64_t b, int64_t d0,
                         int64_t d1, int64_t l0, int64_t l1, void *work);
    /* sums[d - d0][k] += sum_l g[d, l] x[d, l - left + k], g = dy act', and for
     * k = taps sum_l g[d, l], of a tile of outputs */
    void (*correlate_dw)(const struct correlation *, int64_t b, int64_t d0, int64_t d1, int64_t l0,
                         int64_t l1, double *sums, void *work);
    /* ssm.h: out = a b; of vectors of spectra, x *= k and x += i y */
    void (*matmul)(const struct matmul *);
    void (*scale_spectra)(int64_t reals, const void *k, void *x);
    void (*add_turned)(int64_t reals, const void *y, void *x);
    /* float64 only: start p^r for r < count; Cauchy sums; the recurrence forward
     * from x[0], and backwards (work for mu and y) */
    void (*powers)(const double (*square)[2], const double *start, int64_t count, double *re,
                   double *im);
    void (*cauchy)(const struct cauchy *);
    void (*recur)(const struct recurrence *, int64_t steps, double *x);
    void (*recur_back)(const struct recurrence *, int64_t steps, const double *x, const double *g,
                       double *a, double *mu, double *y);
    /* One group of `lanes` DFTs, stages [0, count) of st, on T. */
    void (*transform)(const struct stage *st, int count, void *T);
};

/* Reals of a worker's memory for tiles of a correlation. */
static inline int64_t correlation_work(const struct correlation *c, int lanes)
{
    const int64_t width = c->across ? round_up(c->tile_channels, lanes) + 2 * lanes : 1;
    return 4 * (round_up((c->tile_length + 2 * c->taps) * width, lanes) + 16 * lanes);
}

/* cpu/isa.c: the best engine, or the named one; NULL and a status if not. */
int find_engine(const char *isa, int real_bytes, const struct engine **engine);

/* ---- planner.c ------------------------------------------------------------ */

/* What of a spectrum is kept: weights of bins 0 ... N/2 of a real row; `level`:
 * of the parts of a folded row, whose bins are (4m - 1) 2^level in the right
 * angle, else m 2^level. */
struct sparsity {
    int64_t N;
    int level;
    const double *weights;
};

struct request {
    int form; /* never AUTO */
    int lanes, real_bytes;
    bool dense;
    int order;                       /* 0: any */
    const int64_t *radices;          /* NULL: any */
    bool both_planes;                /* rows reach the second */
    const struct sparsity *sparsity; /* NULL: dense */
};

/* Radices, split and depth of the cheapest transform of M points; seconds by
 * the planner's model, or < 0 where M has no decomposition as asked, or, then
 * *status says so, memory ran out. */
double plan_xform(struct xform *xf, int64_t M, const struct request *request, int *order,
                  int64_t *radices, int *status);
/* The tables plan_xform's choice needs.  Free with xform_clear. */
int xform_build(struct xform *xf, const struct sparsity *sparsity);
void xform_clear(struct xform *xf);
/* Stages of any radices with scalar twiddles, as phase 2 runs them. */
int stages_build(struct stage *st, int count, const int64_t *radices, bool dense, int real_bytes);
void stages_clear(struct stage *st, int count);
/* The steps one radix runs as, and their number: a chain of codelets, or itself
 * where it is to be dense or has a prime factor above 7. */
int steps_of(int64_t radix, bool dense, int *chain);
/* Real flops per complex point of one direction, twiddles apart. */
double radix_flops(int radix, bool dense);
/* The place of point n of a decomposition's output, digits reversed. */
int64_t digit_reverse(int64_t place, const int *radices, int count);
/* Reals from a spectrum's start to Re X at row v of X and row q of T. */
static inline int64_t spectrum_offset(const struct xform *xf, int64_t v, int64_t q)
{
    int64_t p = v % xf->Pl;
    return v / xf->Pl * xf->leaf_reals + (q * xf->Plv + p / xf->lanes) * 2 * xf->lanes +
           p % xf->lanes;
}
/* The frequency of place (p, q) is low[p] + high[q].  Free with aligned_free(low). */
int frequencies_build(const struct xform *xf, int64_t **low, int64_t **high);
/* Which bin of a row of N place m of a folded row's part at `level` has; below 0:
 * -1 - bin has the conjugate. */
int64_t signed_bin(int form, int64_t N, int level, int64_t m);
bool is_smooth(int64_t n); /* no prime factor above 7 */
/* Of this machine's level 1 or 2. */
int64_t cache_bytes(int level);
/* Which memory a stage's data sit in: 0 L1, 1 L2, 2 beyond. */
int stage_level(const struct xform *xf, int l);

/* ---- plan.c --------------------------------------------------------------- */

/* Folded: t^N - 1 = (t^(N/2) - 1) (t^(N/2) + 1), so a row of N splits into the sums
 * x[n] + x[n + N/2], circular of N/2, and the differences, of the right angle with
 * M = N/4; the sums split again, and the last of them go in as complex numbers. */
enum { MAX_PARTS = 10 };

/* A row goes through its transforms in blocks: block j reads elements
 * j V - lead ... of z, as many as there are places, and gives the V elements of
 * y from j V on.  A whole row in one block needs no lead where the places behind
 * its end are free: what wraps falls there. */
struct fftconv_plan {
    struct cuda_plan *cuda; /* cuda/engine.h, of a plan on a GPU, for which only the shapes, the
                               type and the mode below are set; else NULL */
    const struct engine *engine;
    int64_t B, H, L, Lk, Lrev;
    int64_t G, KB;          /* kernels: of a row of the batch; KB = B or 1 */
    int64_t members;        /* channels that share a kernel: H / G */
    int64_t N;              /* circular: fft_size */
    int64_t taps, rev_taps; /* of k and k_rev that act */
    int64_t behind, ahead;  /* how far y[t] sees */
    bool history;
    int mode, dtype, threads;
    bool dense;
    /* What the planner chose, from here to `chosen`; the tables belong to it, and
     * are those of every plan of this size */
    struct xform part[MAX_PARTS]; /* one, unless the form is folded */
    int parts, form;
    int packing; /* of u, k, y */
    int64_t places, lead, V, blocks;
    bool wrap; /* circular, by reading round */
    int order;
    int64_t radices[FFTCONV_MAX_ORDER];
    double predicted; /* seconds of a row */
    struct choice *chosen;
    int64_t chunks;        /* a kernel's rows are summed in this many fixed parts */
    uint64_t pattern;      /* a hash of the weights; 0: none */
    struct filter *filter; /* these act on the kernel beforehand: filter.c; else NULL */
    int status;            /* while it is made: NO_MEMORY where a search met that */
    double kept;           /* of the bins, those with a weight */
    int64_t direct;        /* history: as many outputs cost less as sums */
    int64_t fetched;       /* bytes of a row, with each tile of the one before */
};

struct fftconv_spectrum {
    struct cuda_spectrum *cuda; /* of a plan on a GPU, with nothing below; else NULL */
    void *data;                 /* KB G rows of spectra_reals */
    int64_t KB, G, taps, rev_taps;
    int form, parts, packing;
    uint64_t pattern;
    struct xform part[MAX_PARTS]; /* their shapes; the tables are the plan's */
    void *reversed;               /* history: the taps themselves, last first, in whole vectors */
    int64_t reversed_bytes;       /* of one kernel */
};

/* Reals of a row's spectra, all parts. */
int64_t spectra_reals(const struct fftconv_plan *plan);
/* Radices of stages, 1 ... 128 each, with a product of at most 2^bits. */
int check_radices(const int64_t *radices, int order, int bits, int64_t *product);
/* Every field by itself, and those that belong together. */
int check_desc(const fftconv_plan_desc *desc);
int resolve_threads(const struct fftconv_plan *plan, int threads, int *out);

/* Channels whose rows are copied together where they are not contiguous: a
 * cache line's worth of float32. */
enum { TILE = 16 };

/* The operands that are rows. */
enum row_operand { U, IN_GATE, OUT_GATE, Y, DY, DU, DIN_GATE, DOUT_GATE, ROW_OPERANDS };

/* What of a call decides its memory. */
struct shape_of_call {
    int direction, threads;
    bool prepared;             /* a spectrum is given */
    bool staged[ROW_OPERANDS]; /* copied to the workspace first */
    bool tiled;                /* by tiles of channels */
    bool in_place;             /* y is u: the blocks of a row go in order */
    int64_t rows;              /* of a primitive; 0: the plan's B H */
};

/* How a call shares its memory out: sizes in bytes, and where in a worker's part
 * each begins. */
struct layout {
    struct shape_of_call call;
    int threads, inside;  /* workers over tasks; threads inside one row */
    int tile;             /* channels staged together; 1 where none are */
    int kernels;          /* kernels a task takes at a time */
    int64_t kernel_tasks; /* groups of so many kernels */
    int64_t runs;         /* of a kernel's rows: one each, a tile of members */
    int64_t segments;     /* of a row's blocks, forward */
    int64_t spectra;      /* of one row, and of one kernel */
    int64_t scratch_bytes, stage_bytes[ROW_OPERANDS], carry_bytes, wrap_bytes;
    int64_t x, row, scratch, z, g, made, sum, dskips, p, dz, taps, filter, carry, wrapped, direct,
        stage[ROW_OPERANDS];
    int64_t worker; /* bytes of one worker */
    /* shared by all workers */
    int64_t shared_spectra, shared_sums, shared_dskips, shared;
    bool split;     /* backward: a kernel's sums are of more tasks than one */
    bool by_kernel; /* spectra are made by the worker that uses them */
    bool whole;     /* forward: a task takes all rows of its kernels */
    int64_t total;
};
struct layout layout_of(const struct fftconv_plan *plan, const struct shape_of_call *call);
/* Bytes of any call of the direction whose rows are contiguous and whose y is not u. */
int64_t plain_workspace_bytes(const struct fftconv_plan *plan, int direction, int threads);

/* ---- rdft.c --------------------------------------------------------------------------------- */

/* fftconv_rdft_forward or, `inverse`, fftconv_rdft_inverse, on this many threads. */
int rdft_run(const fftconv_rdft *rdft, const fftconv_tensor *rows, const fftconv_tensor *bins,
             double scale, bool inverse, int threads);

/* ---- filter.c: a pattern on a circle whose length has no stages ----------------------------- */

struct filter;
/* weights: of the bins 0 ... N/2 of real rows of N samples. */
int filter_create(struct filter **filter, int64_t N, const double *weights, const char *isa);
/* NULL is allowed. */
void filter_destroy(struct filter *filter);
/* row = irfft(weights rfft(row)), N samples in place; bins: N/2 + 1 complex numbers. */
int filter_apply(const struct filter *filter, double *row, double *bins, int threads);

/* ---- cuda/call.c: the same calls on a GPU ---------------------------------------------------- */

int cuda_plan_create(struct fftconv_plan *plan, const fftconv_plan_desc *desc);
/* NULL is allowed. */
void cuda_plan_destroy(struct cuda_plan *plan);
void cuda_plan_describe(const struct fftconv_plan *plan, fftconv_plan_info *info);
int64_t cuda_workspace_bytes(const struct fftconv_plan *plan, int direction, bool prepared);
int cuda_spectrum_create(struct fftconv_spectrum *spectrum, const struct fftconv_plan *plan,
                         const fftconv_operands *operands);
/* NULL is allowed. */
void cuda_spectrum_destroy(struct cuda_spectrum *spectrum);
int cuda_check_spectrum(const struct fftconv_plan *plan, const struct fftconv_spectrum *spectrum);
/* Operands and spectrum are checked already. */
int cuda_execute(const struct fftconv_plan *plan, const struct fftconv_spectrum *spectrum,
                 const fftconv_operands *operands, int direction);

/* ---- operands.c ------------------------------------------------------------- */

int check_operands(const struct fftconv_plan *plan, const struct fftconv_spectrum *spectrum,
                   const fftconv_operands *operands, int direction);
int check_spectrum(const struct fftconv_plan *plan, const struct fftconv_spectrum *spectrum);
/* UNSUPPORTED for a plan on a GPU. */
int check_on_cpu(const struct fftconv_plan *plan);
/* INVALID for a plan whose spectra do not hold every frequency once, as they stand. */
int check_whole_spectra(const struct fftconv_plan *plan);
int check_launch(const struct fftconv_plan *plan, const fftconv_operands *operands);
/* One tensor by itself, of a known dtype: its shape, alignment, strides. */
int check_layout(const char *name, const fftconv_tensor *t, const int64_t shape[3], bool output);
/* The same, and its dtype: the plan's (float32 too beside 16 bits where `kernel`). */
int check_tensor(const struct fftconv_plan *plan, const char *name, const fftconv_tensor *t,
                 const int64_t shape[3], bool output, bool kernel);
/* Both of a spectrum's kernels, k_rev as the plan's mode asks. */
int check_kernels(const struct fftconv_plan *plan, const fftconv_tensor *k,
                  const fftconv_tensor *k_rev);
/* Does the operand touch any of these bytes? */
bool touches(const fftconv_tensor *t, const void *memory, int64_t bytes);
/* Do two share memory? */
bool tensors_overlap(const fftconv_tensor *a, const fftconv_tensor *b);
const fftconv_tensor *row_tensor(const fftconv_operands *operands, int row_operand);

#endif
