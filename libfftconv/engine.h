/* The engine: what is compiled once for each instruction set and precision (cpu/engine.c),
 * as tables of functions, one table for each kind of work; and the words in which they are
 * told what to do. */
#ifndef FFTCONV_ENGINE_H
#define FFTCONV_ENGINE_H

#include "transform.h"

/* ---- Rows in the caller's memory --------------------------------------------------------- */

/* Element n is at data + (n - origin) stride. */
struct array {
    const void *data;
    int dtype;
    int64_t stride, origin;
};

struct scalar {
    double re, im;
};

/* How the numbers of a row lie in the M complex points of a transform. */
enum packing {
    LINEAR,      /* point n is x[n] + i x[n + M] */
    COMPLEX_ROW, /* point n is x[n], complex */
};

/* Where a transform reads: place n takes element n + shift of z = 2^-exponent x gate. */
struct source {
    int packing;
    int64_t shift;
    int64_t from, to; /* elements there are; zeros elsewhere */
    struct array x, gate;
    /* Elements below 0: what came before the row or, circular, what comes round to it; zeros
     * again from element before_to <= 0 on. */
    struct array before, before_gate;
    int64_t before_to;
    int exponent;
    bool careful; /* x gate is computed as x and gate may be of any magnitude */
};

/* Where a transform writes: place n gives 2^-exponent v, from v element n + shift of
 *     y = 2^-y_exponent out_gate mask act(v + skip x gate)
 * is made. */
struct sink {
    int packing;
    int64_t shift;
    int64_t from, to; /* elements wanted */
    struct array y;
    struct array x, gate, out_gate;
    /* Where given, twin = twin_gate v is written too: real rows only, and without a skip. */
    struct array twin, twin_gate;
    bool has_skip, has_mask;
    struct scalar skip, mask;
    int activation, exponent, y_exponent;
    bool careful; /* operands may be of any magnitude */
    bool own;     /* y is memory of the worker, whose numbers may keep an exponent: y_exponent */
};

/* Numbers between 2^-e and 2^e are ordinary: rows and kernels whose largest number is one need no
 * exponent (scale.c). */
enum { ORDINARY_SINGLE = 40, ORDINARY_DOUBLE = 400 };

/* What the first pass over a row has seen in the sum of squares of the numbers it read: that the
 * largest is surely not below the ordinary ones, and that it may be above them, or not finite.
 * What threads see is combined by `or`, and a row with LARGE_ENOUGH alone is ordinary. */
enum { LARGE_ENOUGH = 1, PERHAPS_TOO_LARGE = 2 };

/* What `largest` says of rows that have no exponent. */
enum { ALL_ZEROS = -16384, NOT_FINITE = 16384 };

/* Backward between two transforms, elements [from, from + count) of a row: from dy and p to
 *     g = dy conj(out_gate mask) act'(p),   dout_gate = dy conj(mask act(p)),
 *     dskip += sum g conj(x gate).
 * With care, operands may be of any magnitude, what stands in p is 2^-p_exponent p, and in g comes
 * 2^-g_exponent g. */
struct gradient {
    int64_t from, count;
    int activation;
    bool has_mask;
    struct scalar mask;
    const void *p; /* NULL where nothing needs it */
    void *g;       /* may be p */
    bool careful;
    int p_exponent, g_exponent;
    struct array dy, out_gate, x, gate, dout_gate;
    struct scalar *dskip;
};

/* The taps of a kernel in a row of padded_length places: k[s] at place s, and k_rev[s] at
 * padded_length - s times `sign`, which is what t^padded_length is worth. */
struct taps {
    struct array k, k_rev;
    int64_t count, rev_count, padded_length;
    int sign;
};

/* Rows that are wanted soon: `step` bytes of each are prefetched with every square of the
 * row at work, so that memory is busy while the arithmetic is. */
struct prefetch {
    const char *at[4];
    int rows;
    int64_t step;
};

/* ---- Transforms -------------------------------------------------------------------------- */

/* Directions of the inner stages; KEEP_SPECTRA: what lies between the two is kept, which
 * transform.square makes possible. */
enum { FORWARD = 1, INVERSE = 2, KEEP_SPECTRA = 4 };

struct transform_kernels {
    /* Stage 1 from the source to X, columns [c0, c1) of it.  Returns what it has seen. */
    int (*first_stage)(const struct transform *, const struct source *, void *X, int64_t c0,
                       int64_t c1, void *scratch);
    /* Everything below the outputs [k0, k1) of stage 1.  FORWARD leaves spectra in S, INVERSE
     * begins with those there.  Both: multiplies by `spectrum` between, and needs no S; with
     * KEEP_SPECTRA, the spectra before the product are left in S.  prefetch may be NULL. */
    void (*inner_stages)(const struct transform *, int directions, void *X, void *S,
                         const void *spectrum, int64_t k0, int64_t k1, void *scratch,
                         struct prefetch *prefetch);
    /* The inverse of stage 1, columns [c0, c1), from X to the sink. */
    void (*last_stage)(const struct transform *, void *X, const struct sink *, int64_t c0,
                       int64_t c1, void *scratch);
    /* One or two levels of a folded row of `length`, there or back, elements [i0, i1) of its
     * halves or quarters: the first level reads a source, the last level back writes a sink,
     * and all others are done in place.  Returns what it has seen. */
    int (*fold)(bool back, int levels, int64_t length, int64_t prefetch_distance,
                const struct source *, const struct sink *, void *row, int64_t i0, int64_t i1);
    /* A group of `lanes` DFTs: stages [0, count), on T. */
    void (*column_stages)(const struct stage *, int count, void *T);
};

/* Spectra of rows, at the places that are computed; piece i of n, so that threads can share
 * a row. */
struct spectrum_kernels {
    /* out = spectrum in, or conj(spectrum) in. */
    void (*multiply)(const struct transform *, const void *spectrum, const void *in, void *out,
                     bool adjoint, int64_t piece, int64_t pieces);
    /* sum += scale weights conj(Z) G, or begins with that; then G *= conj(spectrum), where a
     * spectrum is given. */
    void (*accumulate)(const struct transform *, double scale, bool begin, void *sum, const void *Z,
                       void *G, const void *spectrum, int64_t piece, int64_t pieces);
    /* sum += other. */
    void (*add)(const struct transform *, void *sum, const void *other);
    /* S *= scale weights; zeros where a weight is zero. */
    void (*weigh)(const struct transform *, double scale, void *S);
};

/* ---- Rows -------------------------------------------------------------------------------- */

struct row_kernels {
    void (*differentiate)(const struct gradient *);
    /* to[n] = from[n] conj(factor[n]), elements [start, start + count), each array in its own
     * dtype; a plain conversion where factor has no data.  With care, 2^exponent times that, and
     * the factors may be of any magnitude; `from` has the engine's own numbers. */
    void (*write_product)(int64_t start, int64_t count, const struct array *from, bool careful,
                          int exponent, const struct array *factor, const struct array *to);
    /* y += a x, rows of the engine's own numbers, complex or not. */
    void (*add_scaled)(bool complex, int64_t count, struct scalar a, const void *x, void *y);
    /* v *= 2^exponent, a row of so many of the engine's own numbers. */
    void (*scale_by_power)(int exponent, int64_t reals, void *v);
    /* to[c][r] = from[r][c]; steps count numbers. */
    void (*transpose)(const void *from, int64_t from_step, void *to, int64_t to_step, int64_t rows,
                      int64_t columns);
    /* out[i] = act(in[i]), or act'(in[i]), the engine's own numbers; out may be in. */
    void (*activate)(int activation, bool slope, int64_t count, const void *in, void *out);
    /* The exponent e of the largest of elements [from, to) of x gate, which is 2^e or more and less
     * than 2^(e + 1), or, with a gate, than 2^(e + 2), whatever its sign; or ALL_ZEROS or
     * NOT_FINITE.  Denormal numbers count as if they had one less than the least normal number. */
    int (*largest)(const struct array *x, const struct array *gate, int64_t from, int64_t to);
    /* Are all of these elements less than the ordinary numbers? */
    bool (*is_tiny)(const struct array *a, int64_t from, int64_t to);
    /* Are the largest of x and the largest of x gate surely ordinary? */
    bool (*is_ordinary)(const struct array *x, const struct array *gate, int64_t from, int64_t to);
    struct scalar (*load_scalar)(const struct array *a);
    void (*store_scalar)(const struct array *a, struct scalar value);
    /* Taps, k_rev among them, to a row; and a row to taps. */
    void (*place_taps)(const struct taps *, void *row);
    void (*take_taps)(const struct taps *, void *row);
    /* k in reverse, padded with zeros to whole vectors. */
    void (*reverse_taps)(const struct array *k, int64_t count, int64_t padded, void *taps);
    /* A few outputs of a real row by their sums, y[j] = sum_i taps[i] z[j + i] with reversed
     * taps and z the source's places from 0 on; work holds count + n numbers and two
     * vectors. */
    void (*direct_sum)(const struct source *, const void *taps, int64_t count, int64_t n,
                       const struct sink *, void *work);
    /* Places [n, n + count) of a source, and to a sink. */
    void (*read_places)(const struct source *, int64_t n, int64_t count, void *to);
    void (*write_places)(const struct sink *, int64_t n, int64_t count, void *from);
};

/* ---- The direct form --------------------------------------------------------------------- */

/* Numbers of which those in [from, to) are a row's, and all others zeros.  They stand ALIGNMENT
 * bytes behind the address of this structure. */
struct direct_row {
    int64_t from, to;
};
static inline void *direct_numbers(const struct direct_row *row) { return (char *)row + ALIGNMENT; }

/* Terms with numbers that are not the row's are left out of all sums: times a number that is not
 * finite, a zero would not be zero. */
struct direct_kernels {
    /* Places [n, n + count) of the sink get v[j] = sum_i taps[i] x[first + j + i].  The sink may
     * write over x, where v[j] replaces x[first + j] or an earlier number. */
    void (*convolve)(int64_t count_of_taps, const void *taps, const struct direct_row *x,
                     int64_t first, int64_t n, int64_t count, const struct sink *);
    /* sums[i] += scale sum_j g[j] x[j - lead + i] for i < taps. */
    void (*correlate)(int64_t taps, const struct direct_row *g, const struct direct_row *x,
                      int64_t lead, double scale, double *sums);
};

/* ---- Matrices ---------------------------------------------------------------------------- */

/* out[r, c] = scale sum_d a[r, d] b[d, c] at every point of rows of spectra. */
struct contraction {
    int64_t rows, columns, depth;
    const void *a, *b;
    void *out;
    int64_t a_stride[2], b_stride[2], out_stride[2]; /* in numbers */
    double scale;
    bool conjugate_a, conjugate_b, accumulate;
    /* A panel: what is packed at a time, and stays in cache. */
    int64_t panel_rows, panel_columns, panel_depth, panel_vectors;
};

/* out[r, c] = sum_d a[r, d] b[d, c], real matrices whose rows lie `step` numbers apart; the
 * columns are a multiple of the lanes.  accumulate: += instead of =. */
struct matmul {
    int64_t rows, columns, depth;
    const void *a, *b;
    void *out;
    int64_t a_step, b_step, out_step;
    bool accumulate;
};

/* A product of real or complex matrices with any steps along rows and columns, which count real
 * numbers.  It is made in blocks of `out`; block_columns is a multiple of the lanes. */
struct product {
    int64_t depth;
    bool is_complex, real_part; /* are a and b complex; is `out` the product's real part? */
    int64_t a_step[2], b_step[2], out_step[2];
    int64_t block_rows, block_columns, block_depth;
};
/* The real numbers of memory that a block needs. */
static inline int64_t product_work(const struct product *p, int lanes)
{
    const int parts = p->is_complex ? 2 : 1;
    return parts * (p->block_depth + p->block_rows) * (p->block_columns + lanes) +
           parts * parts * p->block_rows * p->block_depth;
}

struct matrix_kernels {
    /* Vectors [v0, v1) of every row, at most a panel of them; work holds the packed panels. */
    void (*contract)(const struct contraction *, int64_t v0, int64_t v1, void *work);
    void (*multiply)(const struct matmul *);
    /* One block, of at most block_rows and block_columns; a, b and out are its first numbers. */
    void (*multiply_block)(const struct product *, int64_t rows, int64_t columns, const void *a,
                           const void *b, void *out, void *work);
    /* Vectors of spectra: x *= k, and x += i y. */
    void (*scale_spectra)(int64_t reals, const void *k, void *x);
    void (*add_turned)(int64_t reals, const void *y, void *x);
};

/* ---- Short convolutions (depthwise.c) ---------------------------------------------------- */

/* A band is a run of neighbouring channels that are worked on together: at most so many. */
enum { BAND = 512 };

/* y[h, l] = act(bias[h] + sum_k w[h, k] x[h, l - left + k]), where x is zero outside its L
 * elements, or before element 0 what `state` holds. */
struct short_conv {
    /* Channels are contiguous, and the lanes of a vector are channels of one element.
     * Otherwise elements are contiguous, and the lanes are elements of one channel. */
    bool channels_last;
    bool uncopied; /* x and y have one dtype, and are read and written where they are */
    /* What one vector of x or y holds, where it is uncopied: the engine's own numbers, pairs of
     * bfloat16, or float16; see cpu/depthwise_sums.h. */
    enum { AS_REALS, AS_BFLOAT16, AS_FLOAT16 } as;
    int64_t taps, left; /* left may be negative */
    int64_t L, Lout, H;
    int activation;
    const void *w;    /* [H][taps]; channels last: [taps][H, padded to whole vectors] */
    const void *bias; /* [H], padded likewise */
    /* Channels last and uncopied: the taps and the bias of each slice, a vector's worth of
     * channels, one slice after the other from channel first_slice on. */
    const void *slices;
    bool streamed; /* y is too large for the caches and is written past them, by whole lines */
    int64_t first_slice; /* streamed: the channel at which a cache line of y begins; else 0 */
    /* (B, H, L), (B, H, taps - 1), (B, H, Lout) */
    const fftconv_tensor *x, *state, *y, *dy, *dx, *dstate;
    /* A tile has at most tile_length outputs of one channel or, channels last, of a band of
     * tile_channels; the last band of a row may be up to two vectors wider. */
    int64_t tile_channels, tile_length;
};

/* Elements [l0, l1) of channels [h0, h1) of row b of the batch. */
struct short_conv_tile {
    int64_t b, h0, h1, l0, l1;
};

/* The buffers in a worker's memory, each of which holds a tile of x, of y or dx, of y before
 * its activation, or of the gradient of that. */
enum { TILE_X, TILE_OUT, TILE_P, TILE_G, TILE_BUFFERS };

/* Numbers of one buffer, and of all. */
static inline int64_t short_conv_buffer(const struct short_conv *c, int lanes)
{
    const int64_t width = c->channels_last ? round_up(c->tile_channels, lanes) + 2 * lanes : 1;
    const int64_t length = c->tile_length + 2 * c->taps;
    return size_add(round_up(size_mul(length, width), lanes), 16 * lanes);
}
static inline int64_t short_conv_work(const struct short_conv *c, int lanes)
{
    return size_mul(TILE_BUFFERS, short_conv_buffer(c, lanes));
}

/* work: short_conv_work numbers, aligned to ALIGNMENT. */
struct depthwise_kernels {
    /* A tile of y. */
    void (*forward)(const struct short_conv *, const struct short_conv_tile *, void *work);
    /* The table c->slices, from w and bias. */
    void (*pack_slices)(const struct short_conv *, void *slices);
    /* A tile of dx, of which the elements below 0 are dstate's; flipped: w with its taps in
     * reverse. */
    void (*dx)(const struct short_conv *, const struct short_conv_tile *, const void *flipped,
               void *work);
    /* sums[h - h0][k] += sum_l g[h, l] x[h, l - left + k] with g = dy act', and for k = taps
     * sum_l g[h, l], over a tile of outputs. */
    void (*dweight)(const struct short_conv *, const struct short_conv_tile *, double *sums,
                    void *work);
};

/* ---- State-space kernels (ssm/), all in float64 ------------------------------------------ */

enum { CAUCHY_SUMS = 4, MAX_RANK = 8 };

/* CAUCHY_SUMS sums over the states n, each with numerators v_n of its own, at the nodes
 * (2s, c):
 *     R = sum_n v_n / (2is - c x_n) + conj(v_n) / (2is - c conj(x_n)). */
struct cauchy {
    int64_t states, nodes; /* nodes: a multiple of the lanes */
    const double *s2, *c;
    const struct cauchy_term *terms; /* of each state */
    double *out;                     /* of each sum: re[nodes], im[nodes] */
};
struct cauchy_term {
    double x_re, x_im;
    double v_conj_x[CAUCHY_SUMS], v_re[CAUCHY_SUMS]; /* Re(v conj(x)) and Re v, of each sum */
};

/* The recurrence of a group of `lanes` heads.  A bundle is [state][re, im][lane]; the
 * diagonal and dA are one, and all others several that follow one another.
 *
 * A solver computes w = D x - sum_j column_j Re(row_j . x), D diagonal. */
struct solver {
    double *diagonal, *rows, *columns;
};

struct recurrence {
    int64_t states, rank, channels;
    struct solver forward, adjoint; /* (I - A/2)^-1 and its adjoint */
    double *C, *P, *Q;
    double *dA, *dC, *dP, *dQ; /* the gradients, which are added to */
    bool dC_only;              /* no other gradient is wanted */
};

/* The functions are NULL in float32. */
struct ssm_kernels {
    /* re + i im = start p^r for r < count, where square[i] is p^(2^i). */
    void (*powers)(const double (*square)[2], const double *start, int64_t count, double *re,
                   double *im);
    void (*cauchy)(const struct cauchy *);
    /* x[1 ... steps] from x[0]. */
    void (*recur)(const struct recurrence *, int64_t steps, double *x);
    /* The adjoint, from the last step to the first: g holds the gradients of the samples, a
     * comes from the steps after these and goes on to those before.  mu and y: room for a
     * bundle each; mu leaves (I - A/2)^-* a of the first step. */
    void (*recur_back)(const struct recurrence *, int64_t steps, const double *x, const double *g,
                       double *a, double *mu, double *y);
};

/* ---- All of them ------------------------------------------------------------------------- */

struct engine {
    const char *isa;
    int lanes, real_bytes;
    struct transform_kernels transform;
    struct spectrum_kernels spectra;
    struct row_kernels rows;
    struct direct_kernels direct;
    struct matrix_kernels matrix;
    struct depthwise_kernels depthwise;
    struct ssm_kernels ssm;
};

/* cpu/isa.c: the best engine of this machine, or the named one; a status if there is none. */
int find_engine(const char *isa, int real_bytes, const struct engine **engine);

#endif
