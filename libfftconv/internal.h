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

int fail(int status, const char *format, ...)
    __attribute__((format(printf, 2, 3), cold));
int fail_memory(int64_t bytes);
/* An fftconv_dtype's bytes and name; NULL for a number that is none. */
int dtype_size(int dtype);
const char *dtype_name(int dtype);
/* Aligned memory; NULL where there is none. */
void *aligned_new(int64_t bytes);
void aligned_free(void *p);

/* ---- threads.c ------------------------------------------------------------ */

typedef void task_fn(void *context, int64_t index, int worker);
/* Calls fn(context, i, worker) once for each i in [0, n), worker in
 * [0, threads); returns when all are done. */
void parallel_for(int threads, int64_t n, task_fn *fn, void *context);

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

struct stage {
    int radix;
    bool dense;
    int64_t sub;    /* from one input of a butterfly to the next: vectors of
                       X, or rows of T                                        */
    int64_t blocks; /* butterfly blocks in all of X, or in one T              */
    struct twiddle twiddle;
    void *matrix; /* dense: exp(-2 pi i r (k - shift) / radix), [k][r]        */
};

/* Two places of a row's spectrum whose frequencies are each other's negative */
struct mirror_pair {
    int64_t a, b;
};

struct xform {
    int form;
    int lanes;
    int real_bytes;
    int64_t M, P, Q, Qv, Pl, Plv, leaves;
    int stages, split, depth; /* leaves begin below stage `depth`             */
    bool square; /* a leaf ends in two stages of radix `lanes`, one a phase   */
    struct stage stage[MAX_STAGES];
    void *shift;          /* right angle: exp(2 pi i r / (4 r_1)), r < r_1    */
    int64_t x_reals;      /* of X                                             */
    int64_t leaf_reals;   /* of T                                             */
    int64_t spectra_reals;/* of one row's spectrum                            */
    int64_t tile_columns; /* vectors a first or last stage takes at a time    */
    int64_t scratch_reals;/* T and the tiles                                  */
    /* even/odd only */
    void *roots;                /* exp(-2 pi i m / M) in spectrum order       */
    struct mirror_pair *groups; /* whole vectors, lanes reversed; a <= b      */
    struct mirror_pair *points; /* what is left, one by one                   */
    int64_t group_count, point_count;
};

/* ---- Rows in the caller's memory ------------------------------------------ */

struct array {
    const void *data;
    int dtype;
    int64_t stride;
};

/* How the numbers of a row lie in the M complex points. */
enum packing {
    LINEAR,   /* point n: x[n] + i x[n + M]                                   */
    PAIRS,    /* x[2n] + i x[2n + 1]                                          */
    PERIODIC, /* in: LINEAR of x[n mod N], n < extent; out: LINEAR, then
                 y[n] = p[n] + p[n + N] while n + N < extent                  */
};

struct source {
    int packing;
    int64_t length; /* x[n] = 0 from here on                                  */
    int64_t period, extent; /* PERIODIC: N and L + Lk - 1 <= 2N - 1           */
    struct array x, gate;
};

struct sink {
    int packing;
    int64_t length; /* y[n] is wanted below this                              */
    int64_t period, extent;
    double scale; /* applied first                                            */
    void *data;
    int dtype;
    int64_t stride;
    struct array x, gate, out_gate; /* z = x gate, for the skip               */
    bool has_skip;
    double skip, mask;
    int activation;
    void *fold; /* PERIODIC: 2M reals to collect p in                         */
};

/* One row of backward between the two transforms. */
struct gradient {
    int64_t length;
    int activation;
    double mask;
    const void *p; /* act's argument; NULL where nothing needs it             */
    void *g;       /* out: dy out_gate mask act'(p); may be p                 */
    struct array dy, out_gate, x, gate;
    void *dout_gate;
    int dout_gate_dtype;
    int64_t dout_gate_stride;
    double *dskip; /* += sum g z                                              */
};

enum { FORWARD = 1, INVERSE = 2 };

/* One instruction set at one precision: engine_body.h compiled once. */
struct engine {
    const char *isa;
    int lanes, real_bytes;
    /* Source to X, columns [c0, c1) of stage 1. */
    void (*first)(const struct xform *, const struct source *, void *X,
                  int64_t c0, int64_t c1, void *scratch);
    /* Everything between, for the subtrees [j0, j1) below stage 1, in
     * `directions`: FORWARD leaves spectra in S, INVERSE begins there.  Both:
     * multiplies by `spectrum` between and needs no S. */
    void (*middle)(const struct xform *, int directions, void *X, void *S,
                   const void *spectrum, int64_t j0, int64_t j1, void *scratch);
    /* X to sink, columns [c0, c1) of stage 1. */
    void (*last)(const struct xform *, void *X, const struct sink *, int64_t c0,
                 int64_t c1, void *scratch);
    /* PERIODIC: fold what `last` collected, y[n0 ... n1). */
    void (*fold)(const struct xform *, const struct sink *, int64_t n0,
                 int64_t n1);
    /* Spectra; part i of n, so that threads can share a row. */
    void (*multiply)(const struct xform *, const void *spectrum, const void *in,
                     void *out, bool adjoint, int64_t part, int64_t parts);
    void (*accumulate)(const struct xform *, void *dspectrum, const void *Z,
                       const void *G, int64_t part, int64_t parts);
    /* dspectrum += other */
    void (*add)(const struct xform *, void *dspectrum, const void *other);
    /* The transform of k, in S, to a spectrum; and its adjoint. */
    void (*prepare)(const struct xform *, const void *S, void *spectrum);
    void (*pullback)(const struct xform *, const void *dspectrum, void *S);
    /* Rows */
    void (*gradient)(const struct gradient *);
    /* to[n] = (dz[n] + skip g[n]) factor[n] */
    void (*spread)(int64_t length, const void *dz, double skip, const void *g,
                   const struct array *factor, void *to, int dtype,
                   int64_t stride);
    /* a[0]; data[0] = value */
    double (*get)(const struct array *a);
    void (*set)(void *data, int dtype, double value);
    /* One group of `lanes` DFTs, stages [0, count) of st, on T. */
    void (*transform)(const struct stage *st, int count, void *T);
};

/* cpu/isa.c: the best engine, or the named one; NULL and a status if not. */
int find_engine(const char *isa, int real_bytes, const struct engine **engine);

/* ---- planner.c ------------------------------------------------------------ */

struct request {
    int form; /* never AUTO */
    int lanes, real_bytes;
    bool dense;
    int order;              /* 0: any */
    const int64_t *radices; /* NULL: any */
};

/* Radices, split and depth of the cheapest transform of M points; seconds by
 * the planner's model, or < 0 where M has no decomposition as asked. */
double plan_xform(struct xform *xf, int64_t M, const struct request *request,
                  int *order, int64_t *radices);
/* The tables plan_xform's choice needs.  Free with xform_clear. */
int xform_build(struct xform *xf);
void xform_clear(struct xform *xf);
/* Stages of any radices with scalar twiddles, as phase 2 runs them. */
int stages_build(struct stage *st, int count, const int64_t *radices,
                 bool dense, int real_bytes);
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
bool is_smooth(int64_t n); /* no prime factor above 7 */
/* Which memory a stage's data sit in: 0 L1, 1 L2, 2 beyond. */
int stage_level(const struct xform *xf, int l);

/* ---- plan.c --------------------------------------------------------------- */

struct fftconv_plan {
    const struct engine *engine;
    struct xform xf;
    int64_t B, H, L, Lk;
    int64_t N;      /* circular: fft_size */
    int64_t taps;   /* of k that act: min(Lk, L) where causal */
    int64_t extent; /* places of the linear convolution: L + taps - 1 */
    int mode, dtype, threads;
    bool dense;
    int packing; /* of u, k, y: LINEAR, PAIRS or PERIODIC (fold)              */
    int order;
    int64_t radices[FFTCONV_MAX_ORDER];
    double predicted;
    int64_t chunks; /* the batch is summed in this many fixed parts           */
};

struct fftconv_spectrum {
    void *data; /* H rows of spectrum_reals */
    int64_t H, row_reals;
    int form, lanes, real_bytes, stages, split, depth, packing;
    int64_t M, taps;
    int radix[MAX_STAGES];
};

/* Reals of a prepared spectrum's row: (A, B), or A alone. */
int64_t spectrum_reals(const struct fftconv_plan *plan);
/* Radices of stages, 1 ... 128 each, with a product of at most 2^bits. */
int check_radices(const int64_t *radices, int order, int bits, int64_t *product);
int resolve_threads(const struct fftconv_plan *plan, int threads, int *out);

/* How one call shares its memory out; sizes in bytes, multiples of ALIGNMENT. */
struct layout {
    int threads, inside; /* workers over rows; threads inside one row         */
    int64_t x, spectra, spectrum, row, fold, scratch; /* one of each          */
    int64_t worker, shared, total;
    bool by_channel; /* kernels' spectra are made by the worker that uses them */
};
struct layout layout_of(const struct fftconv_plan *plan, int direction, int threads,
                        bool prepared);

#endif
