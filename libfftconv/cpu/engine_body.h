/* The stages, at one precision and vector width: see engine.c for the
 * parameters and internal.h ("The transform") for the layout.
 *
 * Forward, a stage is a butterfly, then its twiddles (decimation in frequency);
 * inverse, its twiddles, then the butterfly (decimation in time), with re and
 * im exchanged, since swap(w* x) = w swap(x) up to the i of codelets.h.  Hence
 * one set of tables for both, and no permutation anywhere. */

#include "vec.h"
#define W ((int64_t)LANES)
#include "codelets.h"
#include "activation.h"
#include "rowio.h"

INLINE V N_(load)(const REAL *p) { return *(const V *)p; }
INLINE void N_(store)(REAL *p, V v) { *(V *)p = v; }

/* (r + i im) *= (c + i s); s = sin, c = cos of the twiddle */
#define MULTIPLY(r, im, c, s) \
    do { \
        V t_ = (r) * (c) - (im) * (s); \
        (im) = (r) * (s) + (im) * (c); \
        (r) = t_; \
    } while (0)

/* ---- The dense stage: a complex matrix times vectors ------------------------ */

/* out[k] = sum_r F[k][r] x[r] with F[k][r] at matrix[k kstep + r rstep];
 * real_in: x has no imaginary part; real_out: only the real part is wanted. */
INLINE void N_(matrix_product)(int R, const REAL *matrix, int kstep, int rstep, bool real_in,
                               bool real_out, const V *xr, const V *xi, V *yr, V *yi)
{
    for (int k = 0; k < R; k++) {
        const REAL *f = matrix + 2 * (int64_t)k * kstep;
        V ar = {0}, ai = {0}, br = {0}, bi = {0};
        for (int r = 0; r < R; r++, f += 2 * rstep) {
            ar += xr[r] * f[0];
            if (!real_out)
                ai += xr[r] * f[1];
            if (!real_in) {
                br += xi[r] * f[1];
                if (!real_out)
                    bi += xi[r] * f[0];
            }
        }
        yr[k] = ar - br;
        if (!real_out)
            yi[k] = ai + bi;
    }
}

/* ---- Stage kernels ---------------------------------------------------------- */

/* What a kernel works on: `count` columns of one butterfly block of X.
 * fine and coarse point at the first column's constants. */
struct N_(columns) {
    int R;
    REAL *x;
    int64_t sub, count;
    int64_t blocks;      /* middle: consecutive blocks sharing these constants */
    const uint8_t *live; /* middle, of each block: the outputs forward, inputs
                            inverse, that are not zero; NULL: all */
    const REAL *fine, *coarse;
    const REAL *shift;  /* first and last: exp(2 pi i r / (4 R)), or none */
    const REAL *matrix; /* dense */
    /* first and last: the rows of source or sink, of one plane or two, and the reals
     * into each.  They are named one by one, or lie sub vectors apart from `rows` on,
     * the planes `plane` reals. */
    bool imag;
    bool half; /* nor are there outputs above R/2 (struct transform, kept) */
    REAL *const *row[2];
    REAL *rows;
    int64_t plane, offset;
};

/* Kernels take it by value: what a store to X might change is read anew after it. */

/* Twiddle k of column j: K of them a column. */
INLINE void N_(twiddle)(const struct N_(columns) * a, int64_t j, int K, int k, V *r, V *i)
{
    const REAL *f = a->fine + (j * K + k) * 2 * W;
    V c = N_(load)(f), s = N_(load)(f + W);
    if (a->coarse)
        MULTIPLY(c, s, a->coarse[2 * k], a->coarse[2 * k + 1]);
    MULTIPLY(*r, *i, c, s);
}

INLINE void N_(middle_columns)(int R, bool inverse, bool sparse, const struct N_(columns) * given)
{
    const struct N_(columns) a = *given;
    const int64_t step = a.sub * 2 * W;
    const int re = inverse ? LANES : 0, im = inverse ? 0 : LANES;
    const uint8_t *live = a.live;
    REAL *block = a.x;
    for (int64_t b = 0; b < a.blocks; b++, block += R * step, live += sparse ? R : 0)
        for (int64_t j = 0; j < a.count; j++) {
            V r[16], i[16];
            REAL *x = block + j * 2 * W;
#pragma GCC unroll 16
            for (int k = 0; k < R; k++) {
                r[k] = i[k] = (V){0};
                if (inverse && sparse && !live[k])
                    continue;
                r[k] = N_(load)(x + k * step + re);
                i[k] = N_(load)(x + k * step + im);
                if (inverse && k > 0)
                    N_(twiddle)(&a, j, R - 1, k - 1, &r[k], &i[k]);
            }
            N_(dft)(R, r, i);
#pragma GCC unroll 16
            for (int k = 0; k < R; k++) {
                if (!inverse && sparse && !live[k])
                    continue;
                if (!inverse && k > 0)
                    N_(twiddle)(&a, j, R - 1, k - 1, &r[k], &i[k]);
                N_(store)(x + k * step + re, r[k]);
                N_(store)(x + k * step + im, i[k]);
            }
        }
}

/* Row k of a plane of source or sink, where these columns begin. */
INLINE REAL *N_(row_of)(const struct N_(columns) * a, int plane, int k)
{
    return (a->rows ? a->rows + plane * a->plane + k * a->sub * W : a->row[plane][k]) + a->offset;
}

/* Stage 1 from the source: imag, the rows have an imaginary plane; shift, the
 * frequencies are k - 1/4 (right angle); half, only those up to R/2 are wanted. */
INLINE void N_(first_columns)(int R, bool imag, bool shift, bool half,
                              const struct N_(columns) * given)
{
    const struct N_(columns) a = *given;
    const int64_t step = a.sub * 2 * W;
    const REAL *row[2][16];
#pragma GCC unroll 16
    for (int k = 0; k < R; k++) {
        row[0][k] = N_(row_of)(&a, 0, k);
        row[1][k] = imag ? N_(row_of)(&a, 1, k) : NULL;
    }
    for (int64_t j = 0; j < a.count; j++) {
        V r[16], i[16];
        REAL *x = a.x + j * 2 * W;
#pragma GCC unroll 16
        for (int k = 0; k < R; k++) {
            r[k] = *(const VU *)(row[0][k] + j * W), i[k] = (V){0};
            if (imag)
                i[k] = *(const VU *)(row[1][k] + j * W);
            if (shift && k > 0) {
                const REAL c = a.shift[2 * k], s = a.shift[2 * k + 1];
                if (imag)
                    MULTIPLY(r[k], i[k], c, s);
                else
                    i[k] = r[k] * s, r[k] *= c;
            }
        }
        N_(dft)(R, r, i);
#pragma GCC unroll 16
        for (int k = 0; k < R; k++) {
            if (half && 2 * k > R)
                continue;
            N_(twiddle)(&a, j, R, k, &r[k], &i[k]);
            N_(store)(x + k * step, r[k]);
            N_(store)(x + k * step + W, i[k]);
        }
    }
}

/* half: each part of the sum between k = 0 and R/2 stands for its conjugate too. */
INLINE void N_(last_columns)(int R, bool imag, bool shift, bool half,
                             const struct N_(columns) * given)
{
    const struct N_(columns) a = *given;
    const int64_t step = a.sub * 2 * W;
    REAL *row[2][16];
#pragma GCC unroll 16
    for (int k = 0; k < R; k++) {
        row[0][k] = N_(row_of)(&a, 0, k);
        row[1][k] = imag ? N_(row_of)(&a, 1, k) : NULL;
    }
    for (int64_t j = 0; j < a.count; j++) {
        V r[16], i[16]; /* exchanged: r holds imaginary parts */
        const REAL *x = a.x + j * 2 * W;
#pragma GCC unroll 16
        for (int k = 0; k < R; k++) {
            r[k] = i[k] = (V){0};
            if (half && 2 * k > R)
                continue;
            i[k] = N_(load)(x + k * step);
            r[k] = N_(load)(x + k * step + W);
            N_(twiddle)(&a, j, R, k, &r[k], &i[k]);
            if (half && k > 0 && 2 * k < R)
                r[k] += r[k], i[k] += i[k];
        }
        N_(dft)(R, r, i);
#pragma GCC unroll 16
        for (int k = 0; k < R; k++) {
            V yr = i[k], yi = r[k];
            if (shift && k > 0) { /* times the conjugate of first's shift */
                const REAL c = a.shift[2 * k], s = a.shift[2 * k + 1];
                V t = yr * c + yi * s;
                if (imag)
                    yi = yi * c - yr * s;
                yr = t;
            }
            *(VU *)(row[0][k] + j * W) = yr;
            if (imag)
                *(VU *)(row[1][k] + j * W) = yi;
        }
    }
}

/* Phase 2: `count` columns of T[q][p], rows of `width` vectors; the twiddles are
 * scalars [m][k - 1]. */
INLINE void N_(stage_rows)(int R, bool inverse, REAL *t, int64_t width, int64_t count, int64_t sub,
                           int64_t blocks, const REAL *twiddle)
{
    const int64_t step = sub * width * 2 * W;
    const int re = inverse ? LANES : 0, im = inverse ? 0 : LANES;
    for (int64_t b = 0; b < blocks; b++, t += R * step)
        for (int64_t m = 0; m < sub; m++) {
            const REAL *w = twiddle + m * (R - 1) * 2;
            for (int64_t j = 0; j < count; j++) {
                REAL *x = t + (m * width + j) * 2 * W;
                V r[16], i[16];
#pragma GCC unroll 16
                for (int k = 0; k < R; k++) {
                    r[k] = N_(load)(x + k * step + re);
                    i[k] = N_(load)(x + k * step + im);
                    if (inverse && k > 0)
                        MULTIPLY(r[k], i[k], w[2 * k - 2], w[2 * k - 1]);
                }
                N_(dft)(R, r, i);
#pragma GCC unroll 16
                for (int k = 0; k < R; k++) {
                    if (!inverse && k > 0)
                        MULTIPLY(r[k], i[k], w[2 * k - 2], w[2 * k - 1]);
                    N_(store)(x + k * step + re, r[k]);
                    N_(store)(x + k * step + im, i[k]);
                }
            }
        }
}

/* The innermost stage (sub = 1, no twiddles), times the spectrum, and back. */
INLINE void N_(product_rows)(int R, REAL *t, int64_t width, int64_t count, int64_t blocks,
                             const REAL *spectrum)
{
    const int64_t step = width * 2 * W;
    for (int64_t b = 0; b < blocks; b++, t += R * step, spectrum += R * step)
        for (int64_t j = 0; j < count; j++) {
            REAL *x = t + j * 2 * W;
            const REAL *f = spectrum + j * 2 * W;
            V r[16], i[16];
#pragma GCC unroll 16
            for (int k = 0; k < R; k++) {
                r[k] = N_(load)(x + k * step);
                i[k] = N_(load)(x + k * step + W);
            }
            N_(dft)(R, r, i);
#pragma GCC unroll 16
            for (int k = 0; k < R; k++)
                MULTIPLY(r[k], i[k], N_(load)(f + k * step), N_(load)(f + k * step + W));
            N_(dft)(R, i, r);
#pragma GCC unroll 16
            for (int k = 0; k < R; k++) {
                N_(store)(x + k * step, r[k]);
                N_(store)(x + k * step + W, i[k]);
            }
        }
}

/* One function per codelet; the direction and the planes are constants in it,
 * unless FFTCONV_COMPACT asks for less to compile. */
#ifdef FFTCONV_COMPACT
#define PLANES(kernel, R, a) kernel(R, (a)->imag, (a)->shift, (a)->half, a)
#else
#define PLANES(kernel, R, a) \
    ((a)->shift  ? (a)->imag ? kernel(R, true, true, false, a) : kernel(R, false, true, false, a) \
     : (a)->half ? kernel(R, false, false, true, a) \
     : (a)->imag ? kernel(R, true, false, false, a) \
                 : kernel(R, false, false, false, a))
#endif
#define KERNELS(R) \
    static void N_(middle_columns_##R)(const struct N_(columns) * a, bool inverse) \
    { \
        !a->live  ? inverse ? N_(middle_columns)(R, true, false, a) \
                            : N_(middle_columns)(R, false, false, a) \
        : inverse ? N_(middle_columns)(R, true, true, a) \
                  : N_(middle_columns)(R, false, true, a); \
    } \
    static void N_(first_columns_##R)(const struct N_(columns) * a) \
    { \
        PLANES(N_(first_columns), R, a); \
    } \
    static void N_(last_columns_##R)(const struct N_(columns) * a) \
    { \
        PLANES(N_(last_columns), R, a); \
    } \
    static void N_(stage_rows_##R)(REAL * t, int64_t width, int64_t count, int64_t sub, \
                                   int64_t blocks, const REAL *w, bool inverse) \
    { \
        inverse ? N_(stage_rows)(R, true, t, width, count, sub, blocks, w) \
                : N_(stage_rows)(R, false, t, width, count, sub, blocks, w); \
    } \
    static void N_(product_rows_##R)(REAL * t, int64_t width, int64_t count, int64_t blocks, \
                                     const REAL *spectrum) \
    { \
        N_(product_rows)(R, t, width, count, blocks, spectrum); \
    }
CODELETS(KERNELS)
#undef KERNELS
#undef PLANES

static const struct N_(kernels) {
    void (*middle)(const struct N_(columns) *, bool inverse);
    void (*first)(const struct N_(columns) *);
    void (*last)(const struct N_(columns) *);
    void (*rows)(REAL *, int64_t, int64_t, int64_t, int64_t, const REAL *, bool inverse);
    void (*product)(REAL *, int64_t, int64_t, int64_t, const REAL *);
} N_(kernel)[] = {
#define ROW(R) \
    [R] = {N_(middle_columns_##R), N_(first_columns_##R), N_(last_columns_##R), \
           N_(stage_rows_##R), N_(product_rows_##R)},
    CODELETS(ROW)
#undef ROW
};

/* ---- The same steps, dense ------------------------------------------------- */

#define DENSE_LOCALS \
    V xr[FFTCONV_MAX_RADIX], xi[FFTCONV_MAX_RADIX], yr[FFTCONV_MAX_RADIX], yi[FFTCONV_MAX_RADIX]

static void N_(middle_dense)(const struct N_(columns) * a, bool inverse)
{
    const int R = a->R;
    const int re = inverse ? LANES : 0, im = inverse ? 0 : LANES;
    REAL *block = a->x;
    DENSE_LOCALS;
    for (int64_t b = 0; b < a->blocks; b++, block += R * a->sub * 2 * W)
        for (int64_t j = 0; j < a->count; j++) {
            REAL *x = block + j * 2 * W;
            for (int k = 0; k < R; k++) {
                xr[k] = N_(load)(x + k * a->sub * 2 * W + re);
                xi[k] = N_(load)(x + k * a->sub * 2 * W + im);
                if (inverse && k > 0)
                    N_(twiddle)(a, j, R - 1, k - 1, &xr[k], &xi[k]);
            }
            N_(matrix_product)(R, a->matrix, R, 1, false, false, xr, xi, yr, yi);
            for (int k = 0; k < R; k++) {
                if (!inverse && k > 0)
                    N_(twiddle)(a, j, R - 1, k - 1, &yr[k], &yi[k]);
                N_(store)(x + k * a->sub * 2 * W + re, yr[k]);
                N_(store)(x + k * a->sub * 2 * W + im, yi[k]);
            }
        }
}

/* The matrix carries the right angle: F[k][r] = exp(-2 pi i r (k - 1/4) / R). */
static void N_(first_dense)(const struct N_(columns) * a)
{
    const int R = a->R;
    DENSE_LOCALS;
    for (int64_t j = 0; j < a->count; j++) {
        for (int k = 0; k < R; k++) {
            xr[k] = *(const VU *)(N_(row_of)(a, 0, k) + j * W);
            if (a->imag)
                xi[k] = *(const VU *)(N_(row_of)(a, 1, k) + j * W);
        }
        if (a->imag)
            N_(matrix_product)(R, a->matrix, R, 1, false, false, xr, xi, yr, yi);
        else
            N_(matrix_product)(R, a->matrix, R, 1, true, false, xr, xi, yr, yi);
        REAL *x = a->x + j * 2 * W;
        for (int k = 0; k < R; k++) {
            N_(twiddle)(a, j, R, k, &yr[k], &yi[k]);
            N_(store)(x + k * a->sub * 2 * W, yr[k]);
            N_(store)(x + k * a->sub * 2 * W + W, yi[k]);
        }
    }
}

/* x[r] = sum_k conj(F[k][r]) X[k]: re and im exchanged, F transposed.  Where
 * only the real part is wanted, only the exchanged imaginary part is. */
static void N_(last_dense)(const struct N_(columns) * a)
{
    const int R = a->R;
    DENSE_LOCALS;
    for (int64_t j = 0; j < a->count; j++) {
        const REAL *x = a->x + j * 2 * W;
        for (int k = 0; k < R; k++) {
            xi[k] = N_(load)(x + k * a->sub * 2 * W);
            xr[k] = N_(load)(x + k * a->sub * 2 * W + W);
            N_(twiddle)(a, j, R, k, &xr[k], &xi[k]);
        }
        if (a->imag) {
            N_(matrix_product)(R, a->matrix, 1, R, false, false, xr, xi, yr, yi);
        } else {
            /* Im(F x) = Re(F (-i x)) and -i (xr + i xi) = xi - i xr */
            for (int k = 0; k < R; k++)
                xr[k] = -xr[k];
            N_(matrix_product)(R, a->matrix, 1, R, false, true, xi, xr, yi, yr);
        }
        for (int k = 0; k < R; k++) {
            *(VU *)(N_(row_of)(a, 0, k) + j * W) = yi[k];
            if (a->imag)
                *(VU *)(N_(row_of)(a, 1, k) + j * W) = yr[k];
        }
    }
}

static void N_(rows_dense)(const struct stage *st, REAL *t, int64_t width, int64_t count,
                           bool inverse)
{
    const int R = st->radix;
    const REAL *matrix = st->matrix, *twiddle = st->twiddle.fine;
    const int64_t step = st->sub * width * 2 * W;
    const int re = inverse ? LANES : 0, im = inverse ? 0 : LANES;
    DENSE_LOCALS;
    for (int64_t b = 0; b < st->groups; b++, t += R * step)
        for (int64_t m = 0; m < st->sub; m++) {
            const REAL *w = twiddle + m * (R - 1) * 2;
            for (int64_t j = 0; j < count; j++) {
                REAL *x = t + (m * width + j) * 2 * W;
                for (int k = 0; k < R; k++) {
                    xr[k] = N_(load)(x + k * step + re);
                    xi[k] = N_(load)(x + k * step + im);
                    if (inverse && k > 0)
                        MULTIPLY(xr[k], xi[k], w[2 * k - 2], w[2 * k - 1]);
                }
                N_(matrix_product)(R, matrix, R, 1, false, false, xr, xi, yr, yi);
                for (int k = 0; k < R; k++) {
                    if (!inverse && k > 0)
                        MULTIPLY(yr[k], yi[k], w[2 * k - 2], w[2 * k - 1]);
                    N_(store)(x + k * step + re, yr[k]);
                    N_(store)(x + k * step + im, yi[k]);
                }
            }
        }
}
#undef DENSE_LOCALS

/* ---- Stages over whole blocks ----------------------------------------------- */

enum N_(step) { N_(FIRST), N_(MIDDLE), N_(MIDDLE_INVERSE), N_(LAST) };

/* Columns [c0, c0 + count) of one butterfly block, cut where the coarse twiddle
 * changes. */
static void N_(run_columns)(const struct stage *st, enum N_(step) step, struct N_(columns) * a,
                            int64_t c0, int64_t count)
{
    const int R = st->radix;
    const int K = step == N_(FIRST) || step == N_(LAST) ? R : R - 1;
    REAL *x = a->x;
    a->R = R;
    a->sub = st->sub;
    a->matrix = st->matrix;
    for (int64_t c = c0; c < c0 + count; c += a->count) {
        const int64_t m = st->twiddle.coarse ? c % st->twiddle.period : c;
        a->count = min64(c0 + count - c, st->twiddle.period - m);
        a->fine = (const REAL *)st->twiddle.fine + m * K * 2 * W;
        if (st->twiddle.coarse)
            a->coarse = (const REAL *)st->twiddle.coarse + c / st->twiddle.period * K * 2;
        a->x = x + c * 2 * W;
        a->offset = (c - c0) * W;
        const struct N_(kernels) *kernel = &N_(kernel)[st->dense ? 0 : R];
        switch (step) {
        case N_(FIRST): st->dense ? N_(first_dense)(a) : kernel->first(a); break;
        case N_(LAST): st->dense ? N_(last_dense)(a) : kernel->last(a); break;
        default:
            st->dense ? N_(middle_dense)(a, step == N_(MIDDLE_INVERSE))
                      : kernel->middle(a, step == N_(MIDDLE_INVERSE));
        }
    }
    a->x = x;
}

/* The next run of n entries that are live alike, from *at on: its length, 0 past the
 * last.  No flags: all are live. */
INLINE int64_t N_(next_run)(const uint8_t *live, int64_t n, int64_t *at)
{
    if (!live)
        return n - *at;
    while (*at < n && live[*at] == NOTHING)
        ++*at;
    int64_t end = *at;
    while (end < n && live[end] == live[*at])
        end++;
    return end - *at;
}

/* Blocks [b0, b0 + blocks) of a stage of phase 1, the first at x. */
static void N_(middle_stage)(const struct stage *st, bool inverse, REAL *x, int64_t b0,
                             int64_t blocks)
{
    const uint8_t *live = st->live ? st->live + b0 : NULL;
    for (int64_t b = 0, run; (run = N_(next_run)(live, blocks, &b)) > 0; b += run) {
        /* whole blocks in one call, unless their constants change on the way */
        const int64_t together = st->twiddle.coarse ? 1 : run;
        for (int64_t i = b; i < b + run; i += together) {
            struct N_(columns) a = {.x = x + i * st->radix * st->sub * 2 * W, .blocks = together};
            if (live && st->skips_dead_outputs && live[b] == SOME)
                a.live = st[1].live + (b0 + i) * st->radix;
            N_(run_columns)(st, inverse ? N_(MIDDLE_INVERSE) : N_(MIDDLE), &a, 0, st->sub);
        }
    }
}

static void N_(row_stage)(const struct stage *st, bool inverse, REAL *t, int64_t width,
                          int64_t count)
{
    if (st->dense)
        N_(rows_dense)(st, t, width, count, inverse);
    else
        N_(kernel)[st->radix].rows(t, width, count, st->sub, st->groups, st->twiddle.fine, inverse);
}

static void N_(multiply_run)(const REAL *f, const REAL *in, REAL *out, int64_t vectors,
                             bool adjoint)
{
    for (int64_t v = 0; v < vectors; v++, f += 2 * W, in += 2 * W, out += 2 * W) {
        V r = N_(load)(in), i = N_(load)(in + W), c = N_(load)(f), s = N_(load)(f + W);
        if (adjoint)
            s = -s;
        MULTIPLY(r, i, c, s);
        N_(store)(out, r);
        N_(store)(out + W, i);
    }
}

/* ---- Leaves ----------------------------------------------------------------- */

/* A tile of LANES vectors `from_step` apart to as many `to_step` apart,
 * transposed: `rows` of them are there (others read as zero), `columns` wanted. */
INLINE void N_(tile)(const REAL *from, int64_t from_step, int64_t rows, REAL *to, int64_t to_step,
                     int64_t columns)
{
    V v[LANES];
    if (rows == W) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            v[i] = N_(load)(from + i * from_step);
    } else {
        for (int i = 0; i < LANES; i++)
            v[i] = i < rows ? N_(load)(from + i * from_step) : (V){0};
    }
    TRANSPOSE(v);
    if (columns == W) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            N_(store)(to + i * to_step, v[i]);
    } else {
        for (int i = 0; i < columns; i++)
            N_(store)(to + i * to_step, v[i]);
    }
}

/* Tiles of `from`, which has `rows` rows of from_width vectors, to `to`, which has
 * as many rows as `from` has columns: vectors [r0, r1) of its rows, and of `from`
 * the vectors [c0, c1). */
INLINE void N_(transpose_leaf)(const REAL *from, int64_t rows, int64_t from_width, REAL *to,
                               int64_t columns, int64_t to_width, int64_t r0, int64_t r1,
                               int64_t c0, int64_t c1)
{
    const int64_t from_step = from_width * 2 * W, to_step = to_width * 2 * W;
    for (int64_t r = r0; r < r1; r++)
        for (int64_t c = c0; c < c1; c++) {
            const REAL *f = from + r * W * from_step + c * 2 * W;
            REAL *t = to + c * W * to_step + r * 2 * W;
            if (rows % W == 0 && columns % W == 0) {
                N_(tile)(f, from_step, W, t, to_step, W);
                N_(tile)(f + W, from_step, W, t + W, to_step, W);
            } else {
                const int64_t there = min64(W, rows - r * W);
                const int64_t wanted = min64(W, columns - c * W);
                N_(tile)(f, from_step, there, t, to_step, wanted);
                N_(tile)(f + W, from_step, there, t + W, to_step, wanted);
            }
        }
}

/* X's rows p to columns of T[q][p], vectors [v0, v1) of them; and back */
static void N_(to_rows)(const struct transform *xf, const REAL *x, REAL *t, int64_t v0, int64_t v1)
{
    N_(transpose_leaf)(x, xf->Pl, xf->Qv, t, xf->Q, xf->Plv, v0, v1, 0, xf->Qv);
}

static void N_(from_rows)(const struct transform *xf, const REAL *t, REAL *x, int64_t v0,
                          int64_t v1)
{
    N_(transpose_leaf)(t, xf->Q, xf->Plv, x, xf->Pl, xf->Qv, 0, xf->Qv, v0, v1);
}

/* to[c][r] = from[r][c], steps in reals; anywhere in memory. */
static void N_(transpose_matrix)(const void *from_, int64_t from_step, void *to_, int64_t to_step,
                                 int64_t rows, int64_t columns)
{
    const REAL *from = from_;
    REAL *to = to_;
    for (int64_t r = 0; r < rows; r += W)
        for (int64_t c = 0; c < columns; c += W) {
            if (r + W <= rows && c + W <= columns) {
                V v[LANES];
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++)
                    v[i] = *(const VU *)(from + (r + i) * from_step + c);
                TRANSPOSE(v);
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++)
                    *(VU *)(to + (c + i) * to_step + r) = v[i];
                continue;
            }
            for (int64_t i = r; i < min64(rows, r + W); i++)
                for (int64_t j = c; j < min64(columns, c + W); j++)
                    to[j * to_step + i] = from[i * from_step + j];
        }
}

/* A leaf's last stage of phase 1 and only stage of phase 2, where both have
 * radix LANES: the LANES x LANES points of a tile go through both stages, and the
 * product and back, without leaving the registers' reach.  Or through the second alone:
 * `outer`, the first of them is not stage 1, which is done elsewhere. */
INLINE void N_(square_forward)(bool outer, const REAL *w, const REAL *x, V *r, V *i)
{
#pragma GCC unroll 16
    for (int k = 0; k < LANES; k++)
        r[k] = N_(load)(x + k * 2 * W), i[k] = N_(load)(x + k * 2 * W + W);
    if (outer)
        N_(dft)(LANES, r, i);
#pragma GCC unroll 16
    for (int k = 1; outer && k < LANES; k++) {
        const REAL *f = w + (k - 1) * 2 * W;
        MULTIPLY(r[k], i[k], N_(load)(f), N_(load)(f + W));
    }
    TRANSPOSE(r);
    TRANSPOSE(i);
    N_(dft)(LANES, r, i);
}

INLINE void N_(square_inverse)(bool outer, const REAL *w, V *r, V *i, REAL *x)
{
    N_(dft)(LANES, i, r);
    TRANSPOSE(r);
    TRANSPOSE(i);
#pragma GCC unroll 16
    for (int k = 1; outer && k < LANES; k++) {
        const REAL *f = w + (k - 1) * 2 * W;
        MULTIPLY(i[k], r[k], N_(load)(f), N_(load)(f + W));
    }
    if (outer)
        N_(dft)(LANES, i, r);
#pragma GCC unroll 16
    for (int k = 0; k < LANES; k++) {
        N_(store)(x + k * 2 * W, r[k]);
        N_(store)(x + k * 2 * W + W, i[k]);
    }
}

/* Tiles beside each other: of X; and of T, `t`, and the spectrum, whose rows have
 * `width` vectors. */
INLINE void N_(square_tiles)(int directions, bool outer, const REAL *w, REAL *x, REAL *t,
                             int64_t tiles, int64_t width, const REAL *spectrum,
                             struct prefetch *ahead)
{
    const int64_t step = width * 2 * W;
    for (int64_t g = 0; g < tiles; g++, x += 2 * W * W, t += 2 * W, spectrum += 2 * W) {
        V r[LANES], i[LANES];
        for (int a = 0; ahead && a < ahead->rows; a++) {
            for (int64_t byte = 0; byte < ahead->step; byte += ALIGNMENT)
                __builtin_prefetch(ahead->at[a] + byte, 0, 2);
            ahead->at[a] += ahead->step;
        }
        if (directions & FORWARD)
            N_(square_forward)(outer, w, x, r, i);
#pragma GCC unroll 16
        for (int k = 0; k < LANES; k++) {
            const REAL *f = spectrum + k * step;
            REAL *y = t + k * step;
            if (directions == FORWARD || directions & KEEP_SPECTRA)
                N_(store)(y, r[k]), N_(store)(y + W, i[k]);
            if (directions & FORWARD && directions & INVERSE)
                MULTIPLY(r[k], i[k], N_(load)(f), N_(load)(f + W));
            else if (directions & INVERSE)
                r[k] = N_(load)(y), i[k] = N_(load)(y + W);
        }
        if (directions & INVERSE)
            N_(square_inverse)(outer, w, r, i, x);
    }
}

static void N_(square_runs)(int directions, const struct transform *xf, REAL *x, REAL *t,
                            int64_t tiles, const REAL *spectrum, struct prefetch *ahead)
{
    const REAL *w = xf->stage[xf->split - 1].twiddle.fine;
#define TILES(directions, outer, f) \
    N_(square_tiles)(directions, outer, w, x, t, tiles, xf->Plv, f, ahead)
#define EITHER(directions, f) \
    xf->split > 1 ? TILES(directions, true, f) : TILES(directions, false, f)
    switch (directions) {
    case FORWARD: EITHER(FORWARD, t); break;
    case INVERSE: EITHER(INVERSE, t); break;
    case FORWARD | INVERSE: EITHER(FORWARD | INVERSE, spectrum); break;
    default: EITHER(FORWARD | INVERSE | KEEP_SPECTRA, spectrum);
    }
#undef EITHER
#undef TILES
}

/* Of `all` that lie below stage 1's outputs, those below the ones that are kept. */
INLINE int64_t N_(kept_of)(const struct transform *xf, int64_t all)
{
    return is_half(xf) ? all / xf->stage[0].radix * xf->stage1_outputs : all;
}

static void N_(leaf_stages)(const struct transform *xf, int directions, REAL *x, REAL *t,
                            const REAL *spectrum, int64_t leaf, struct prefetch *ahead)
{
    const struct stage *st = xf->stage;
    const int top = xf->depth > 1 ? xf->depth : 1, n = xf->stages;
    const bool both = directions == (FORWARD | INVERSE);
    /* the product rides on the innermost stage where that is a codelet */
    const bool fused = both && n > xf->split && !st[n - 1].dense;
    /* all of stage 1's outputs are in this leaf, or else it is below one */
#define KEPT_OF(all) (xf->depth == 0 ? N_(kept_of)(xf, all) : (all))
#define BLOCKS(l) leaf *(st[l].groups / xf->leaves), KEPT_OF(st[l].groups / xf->leaves)
    const int64_t vectors = KEPT_OF(xf->Plv);

    const int bottom = xf->split - xf->square; /* what comes before the tiles */
    if (directions & FORWARD)
        for (int l = top; l < bottom; l++)
            N_(middle_stage)(&st[l], false, x, BLOCKS(l));

    const uint8_t *live = xf->live ? xf->live + leaf * xf->Plv : NULL;
    /* what no vector writes below, unless no stage of the leaf reads it either */
    bool unread = xf->square && xf->depth > 0;
    for (int l = top; l < bottom; l++)
        unread &= st[l].skips_dead_outputs;
    if (live && directions & INVERSE && !unread)
        for (int64_t v = 0; v < vectors; v++)
            if (!live[v])
                memset(x + v * W * xf->Qv * 2 * W, 0,
                       (size_t)(min64(W, xf->Pl - v * W) * xf->Qv * 2 * W) * sizeof(REAL));
    for (int64_t v = 0, run; (run = N_(next_run)(live, vectors, &v)) > 0; v += run) {
        REAL *columns = t + v * 2 * W;
        const REAL *f = spectrum ? spectrum + v * 2 * W : NULL;
        if (xf->square) {
            N_(square_runs)(directions, xf, x + v * 2 * W * W, columns, run, f, ahead);
            continue;
        }
        if (directions & FORWARD) {
            N_(to_rows)(xf, x, t, v, v + run);
            for (int l = xf->split; l < n - fused; l++)
                N_(row_stage)(&st[l], false, columns, xf->Plv, run);
        }
        if (fused)
            N_(kernel)[st[n - 1].radix].product(columns, xf->Plv, run, st[n - 1].groups, f);
        else if (both)
            for (int64_t q = 0; q < xf->Q; q++) {
                REAL *row = columns + q * xf->Plv * 2 * W;
                N_(multiply_run)(f + q * xf->Plv * 2 * W, row, row, run, false);
            }
        if (directions & INVERSE) {
            for (int l = n - 1 - fused; l >= xf->split; l--)
                N_(row_stage)(&st[l], true, columns, xf->Plv, run);
            N_(from_rows)(xf, t, x, v, v + run);
        }
    }
    if (directions & INVERSE)
        for (int l = bottom - 1; l >= top; l--)
            N_(middle_stage)(&st[l], true, x, BLOCKS(l));
#undef BLOCKS
#undef KEPT_OF
}

static void N_(subtree)(const struct transform *xf, int level, int directions, REAL *x, REAL *s,
                        const REAL *spectrum, REAL *t, int64_t node, struct prefetch *ahead);

/* Child k of node `parent` above stage `level`; dead, it stays as it is forward,
 * and is zeros inverse. */
INLINE void N_(child)(const struct transform *xf, int level, int directions, REAL *x, REAL *s,
                      const REAL *spectrum, REAL *t, int64_t node, struct prefetch *ahead)
{
    const uint8_t *live = level < xf->split ? xf->stage[level].live : xf->live;
    if (!live || live[node]) /* below the last stage of phase 1, a node is a vector */
        N_(subtree)(xf, level, directions, x, s, spectrum, t, node, ahead);
    else if (directions & INVERSE && !xf->stage[level - 1].skips_dead_outputs)
        memset(x, 0, (size_t)(xf->stage[level - 1].sub * 2 * W) * sizeof(REAL));
}

/* Depth first: a block is transformed, multiplied and transformed back before
 * the next is touched, and so stays in cache.  A node at a level is a block of
 * that stage. */
static void N_(subtree)(const struct transform *xf, int level, int directions, REAL *x, REAL *s,
                        const REAL *spectrum, REAL *t, int64_t node, struct prefetch *ahead)
{
    if (level >= xf->depth) {
        N_(leaf_stages)(xf, directions, x, s ? s : t, spectrum, node, ahead);
        return;
    }
    const struct stage *st = &xf->stage[level];
    int64_t leaves = 1; /* below each child */
    for (int l = level + 1; l < xf->depth; l++)
        leaves *= xf->stage[l].radix;
    const int64_t reals = leaves * xf->leaf_reals;
    if (directions & FORWARD)
        N_(middle_stage)(st, false, x, node, 1);
    for (int k = 0; k < st->radix; k++)
        N_(child)(xf, level + 1, directions, x + k * st->sub * 2 * W, s ? s + k * reals : NULL,
                  spectrum ? spectrum + k * reals : NULL, t, node * st->radix + k, ahead);
    if (directions & INVERSE)
        N_(middle_stage)(st, true, x, node, 1);
}

static void N_(inner_stages)(const struct transform *xf, int directions, void *X, void *S,
                             const void *spectrum, int64_t j0, int64_t j1, void *scratch,
                             struct prefetch *ahead)
{
    const struct stage *st = &xf->stage[0];
    if (xf->depth == 0) {
        /* the shortest rows: nothing but squares below stage 1 */
        if (xf->square && xf->split <= 2 && !xf->live)
            N_(square_runs)(directions, xf, X, S ? S : scratch, N_(kept_of)(xf, xf->Plv), spectrum,
                            ahead);
        else
            N_(leaf_stages)(xf, directions, X, S ? S : scratch, spectrum, 0, ahead);
        return;
    }
    const int64_t reals = xf->leaves / st->radix * xf->leaf_reals;
    for (int64_t j = j0; j < j1; j++)
        N_(child)(xf, 1, directions, (REAL *)X + j * st->sub * 2 * W,
                  S ? (REAL *)S + j * reals : NULL,
                  spectrum ? (const REAL *)spectrum + j * reals : NULL, scratch, j, ahead);
}

/* ---- Rows in, rows out -------------------------------------------------------- */

/* Calls act(n, count, at) for each run of real points in columns [c, c + count)
 * of input r of stage 1: one run, unless rows of X end in padding. */
#define FOR_RUNS(xf, vector, columns, n_, count_, at_, action) \
    do { \
        if ((xf)->Q % W == 0) { \
            const int64_t n_ = (vector) * W, count_ = (columns) * W, at_ = 0; \
            action; \
        } else { \
            int64_t v_ = (vector), left_ = (columns); \
            while (left_ > 0) { \
                const int64_t p_ = v_ / (xf)->Qv, q_ = v_ % (xf)->Qv; \
                const int64_t take_ = min64(left_, (xf)->Qv - q_); \
                const int64_t n_ = p_ * (xf)->Q + q_ * W; \
                const int64_t count_ = min64(take_ * W, (xf)->Q - q_ * W); \
                const int64_t at_ = ((columns) - left_) * W; \
                action; \
                v_ += take_, left_ -= take_; \
            } \
        } \
    } while (0)

/* Do elements below `to` reach the second plane? */
static bool N_(has_imaginary)(int packing, int64_t to, int64_t shift, int64_t M)
{
    return packing != LINEAR || to - shift > M;
}

/* Points [n, n + count) of complex elements */
static void N_(read_pairs)(const struct source *s, int64_t n, int64_t count, REAL *re, REAL *im)
{
    REAL both[CHUNK];
    for (int64_t i = 0; i < count; i += CHUNK / 2) {
        int64_t m = min64(CHUNK / 2, count - i);
        N_(read_places)(s, n + i, m, both);
        for (int64_t j = 0; j < m; j++)
            re[i + j] = both[2 * j], im[i + j] = both[2 * j + 1];
    }
}

/* Places [n, n + count) of a source: where they lie, or read to `buffer`. */
INLINE const REAL *N_(places)(const struct source *s, int64_t n, int64_t count, REAL *buffer)
{
    const int64_t e = n + s->shift;
    if (!s->gate.data && e >= max64(0, s->from) && e + count <= s->to) {
        const REAL *own = N_(in_place)(&s->x, e);
        if (own)
            return own;
    }
    N_(read_places)(s, n, count, buffer);
    return buffer;
}

/* Does a stage that reads or writes a row through scratch ask for it before its time? */
INLINE bool N_(asks_ahead)(const struct transform *xf, int packing)
{
    return xf->prefetch_distance && packing == LINEAR && xf->Q % W == 0;
}

/* Scratch holds the rows of one plane, then those of the other.  Where a tile has
 * every column, a plane is one run of places. */
static void N_(first_stage_by_strips)(const struct transform *xf, const struct source *s, void *X,
                                      int64_t c0, int64_t c1, void *scratch)
{
    const struct stage *st = &xf->stage[0];
    const int R = st->radix;
    const bool imag = N_(has_imaginary)(s->packing, s->to, s->shift, xf->M);
    const bool padded = xf->Q % W != 0;
    const bool ahead = N_(asks_ahead)(xf, s->packing) && (s->gate.data || !N_(in_place)(&s->x, 0));
    const int64_t tile = ahead ? xf->prefetch_columns : xf->strip_columns;
    struct N_(streams) streams;
    streams.count = 0;
    if (ahead)
        N_(add_stream)(&streams, &s->x), N_(add_stream)(&streams, &s->gate);
    const REAL *z[2][FFTCONV_MAX_RADIX];
    for (int64_t c = c0; c < c1; c += tile) {
        const int64_t columns = min64(tile, c1 - c), run = columns * W;
        const int runs = columns == st->sub && !padded ? 1 : R;
        if (padded)
            memset(scratch, 0, (size_t)(2 * R * run) * sizeof(REAL));
        for (int r = 0; r < runs; r++) {
            const int64_t vector = r * st->sub + c;
            REAL *to[2] = {(REAL *)scratch + r * run, (REAL *)scratch + (R + r) * run};
            z[0][r] = to[0], z[1][r] = to[1];
            if (s->packing != LINEAR) {
                FOR_RUNS(xf, vector, columns * (R / runs), n, count, at,
                         N_(read_pairs)(s, n, count, to[0] + at, to[1] + at));
                continue;
            }
            for (int plane = 0; plane <= imag; plane++) {
                const int64_t place = vector * W + plane * xf->M;
                if (ahead)
                    N_(fetch)(&streams, place + s->shift + xf->prefetch_distance, run);
                if (padded)
                    FOR_RUNS(xf, vector, columns, n, count, at,
                             N_(read_places)(s, n + plane * xf->M, count, to[plane] + at));
                else
                    z[plane][r] = N_(places)(s, place, run * (R / runs), to[plane]);
            }
        }
        for (int r = runs; r < R; r++)
            z[0][r] = z[0][0] + r * run, z[1][r] = z[1][0] + r * run;
        struct N_(columns) a = {.x = X,
                                .shift = xf->shift,
                                .imag = imag,
                                .half = is_half(xf),
                                .row = {(REAL *const *)z[0], (REAL *const *)z[1]}};
        N_(run_columns)(st, N_(FIRST), &a, c, columns);
    }
}

static void N_(write_pairs)(const struct sink *s, int64_t n, int64_t count, const REAL *re,
                            const REAL *im)
{
    REAL both[CHUNK];
    for (int64_t i = 0; i < count; i += CHUNK / 2) {
        int64_t m = min64(CHUNK / 2, count - i);
        for (int64_t j = 0; j < m; j++)
            both[2 * j] = re[i + j], both[2 * j + 1] = im[i + j];
        N_(write_run)(s, n + i, m, both);
    }
}

/* y from a tile's rows of v together, where they are real, and nothing beside them has to
 * be converted. */
static bool N_(write_tile)(const struct transform *xf, const struct sink *s, int64_t c, int64_t run,
                           bool imag, const REAL *v)
{
    const int64_t R = xf->stage[0].radix, step = xf->stage[0].sub * W;
    bool written = s->packing == LINEAR && xf->Q % W == 0 && run % (2 * W) == 0;
    for (int plane = 0; plane <= imag && written; plane++)
        written = N_(write_vectors)(s, c * W + plane * xf->M + s->shift, R, step, run,
                                    v + plane * R * run);
    return written;
}

static void N_(last_stage_by_strips)(const struct transform *xf, void *X, const struct sink *s,
                                     int64_t c0, int64_t c1, void *scratch)
{
    const struct stage *st = &xf->stage[0];
    const int R = st->radix;
    const bool imag = N_(has_imaginary)(s->packing, s->to, s->shift, xf->M);
    const bool direct = N_(sink_is_plain)(s) && xf->Q % W == 0;
    const bool ahead = N_(asks_ahead)(xf, s->packing) && !direct;
    const int64_t tile = ahead ? xf->prefetch_columns : xf->strip_columns;
    struct N_(streams) streams;
    streams.count = 0;
    if (ahead)
        N_(add_stream)(&streams, &s->y), N_(add_stream)(&streams, &s->out_gate);
    if (ahead && s->twin.data)
        N_(add_stream)(&streams, &s->twin), N_(add_stream)(&streams, &s->twin_gate);
    else if (ahead && s->has_skip)
        N_(add_stream)(&streams, &s->x), N_(add_stream)(&streams, &s->gate);
    REAL *y[2][FFTCONV_MAX_RADIX];
    for (int64_t c = c0; c < c1; c += tile) {
        const int64_t columns = min64(tile, c1 - c), run = columns * W;
        const int runs = columns == st->sub && !direct && xf->Q % W == 0 ? 1 : R;
        bool wanted = true;
        for (int r = 0; r < runs; r++)
            for (int plane = 0; plane <= imag; plane++) {
                const int64_t e = (r * st->sub + c) * W + plane * xf->M + s->shift;
                const int64_t count = run * (R / runs);
                const bool whole = e >= s->from && e + count <= s->to;
                if (ahead)
                    N_(fetch)(&streams, e + xf->prefetch_distance, count);
                y[plane][r] = direct && whole ? (REAL *)s->y.data + (e - s->y.origin)
                                              : (REAL *)scratch + (plane * R + r) * run;
                wanted &= whole;
            }
        for (int r = runs; r < R; r++)
            y[0][r] = y[0][0] + r * run, y[1][r] = (REAL *)scratch + (R + r) * run;
        struct N_(columns) a = {
            .x = X, .shift = xf->shift, .imag = imag, .half = is_half(xf), .row = {y[0], y[1]}};
        N_(run_columns)(st, N_(LAST), &a, c, columns);
        if (wanted && (direct || (runs == R && N_(write_tile)(xf, s, c, run, imag, scratch))))
            continue;
        for (int r = 0; r < runs; r++) {
            const int64_t vector = r * st->sub + c, all = columns * (R / runs);
            REAL *from[2] = {(REAL *)scratch + r * run, (REAL *)scratch + (R + r) * run};
            if (s->packing != LINEAR) {
                FOR_RUNS(xf, vector, all, n, count, at,
                         N_(write_pairs)(s, n, count, from[0] + at, from[1] + at));
                continue;
            }
            for (int plane = 0; plane <= imag; plane++)
                if (y[plane][r] == from[plane])
                    FOR_RUNS(xf, vector, all, n, count, at,
                             N_(write_run)(s, n + plane * xf->M, count, from[plane] + at));
        }
    }
}

/* ---- Rows that stage 1 takes and gives as they lie in the caller's memory ---------- */

static void N_(stage_in_place)(const struct transform *xf, enum N_(step) step, void *X, REAL *rows,
                               bool imag, int64_t c0, int64_t c1)
{
    struct N_(columns) a = {.x = X,
                            .shift = xf->shift,
                            .imag = imag,
                            .half = is_half(xf),
                            .rows = rows + c0 * W,
                            .plane = xf->M};
    N_(run_columns)(&xf->stage[0], step, &a, c0, c1 - c0);
}

static void N_(first_stage)(const struct transform *xf, const struct source *s, void *X, int64_t c0,
                            int64_t c1, void *scratch)
{
    const bool imag = N_(has_imaginary)(s->packing, s->to, s->shift, xf->M);
    const bool plain = s->packing == LINEAR && !s->gate.data && xf->Q % W == 0 &&
                       s->shift >= max64(0, s->from) && s->shift + xf->M * (1 + imag) <= s->to;
    REAL *z = plain ? N_(in_place)(&s->x, s->shift) : NULL;
    if (z)
        N_(stage_in_place)(xf, N_(FIRST), X, z, imag, c0, c1);
    else
        N_(first_stage_by_strips)(xf, s, X, c0, c1, scratch);
}

static void N_(last_stage)(const struct transform *xf, void *X, const struct sink *s, int64_t c0,
                           int64_t c1, void *scratch)
{
    const bool imag = N_(has_imaginary)(s->packing, s->to, s->shift, xf->M);
    if (N_(sink_is_plain)(s) && xf->Q % W == 0 && s->shift >= s->from &&
        s->shift + xf->M * (1 + imag) <= s->to)
        N_(stage_in_place)(xf, N_(LAST), X, N_(in_place)(&s->y, s->shift), imag, c0, c1);
    else
        N_(last_stage_by_strips)(xf, X, s, c0, c1, scratch);
}

/* ---- Sums ----------------------------------------------------------------------- */

static void N_(reverse_taps)(const struct array *k, int64_t count, int64_t padded, void *taps)
{
    REAL *t = taps;
    N_(read)(k, 0, count, t);
    for (int64_t i = 0; i < count / 2; i++) {
        const REAL first = t[i];
        t[i] = t[count - 1 - i];
        t[count - 1 - i] = first;
    }
    memset(t + count, 0, (size_t)(padded - count) * sizeof(REAL));
}

/* `outputs` neighbours at once, which share the taps' loads. */
INLINE void N_(dots)(int outputs, const REAL *taps, int64_t count, const REAL *z, REAL *y)
{
    V even[4] = {0}, odd[4] = {0};
    int64_t i = 0;
    for (; i + 2 * W <= count; i += 2 * W)
        for (int m = 0; m < outputs; m++) {
            even[m] += *(const VU *)(taps + i) * *(const VU *)(z + m + i);
            odd[m] += *(const VU *)(taps + i + W) * *(const VU *)(z + m + i + W);
        }
    for (int m = 0; m < outputs; m++) {
        if (i < count)
            even[m] += *(const VU *)(taps + i) * *(const VU *)(z + m + i);
        even[m] += odd[m];
        y[m] = 0;
        for (int j = 0; j < LANES; j++)
            y[m] += even[m][j];
    }
}

static void N_(direct_sum)(const struct source *s, const void *taps, int64_t count, int64_t n,
                           const struct sink *sink, void *work)
{
    const int64_t padded = round_up(count, W);
    REAL *z = work, y[CHUNK];
    N_(read_places)(s, 0, count - 1 + n, z);
    memset(z + count - 1 + n, 0, (size_t)(2 * W) * sizeof(REAL));
    for (int64_t j = 0, m; j < n; j += m) {
        m = min64(CHUNK, n - j);
        int64_t i = 0;
        for (; i + 4 <= m; i += 4)
            N_(dots)(4, taps, padded, z + j + i, y + i);
        for (; i < m; i++)
            N_(dots)(1, taps, padded, z + j + i, y + i);
        N_(write_run)(sink, j, m, y);
    }
}

/* ---- Folded rows ---------------------------------------------------------------
 *
 * A level leaves the sums of a row's halves in the lower and the differences in the
 * upper; two levels go through in one pass, of quarters a, b, c, d:
 *     (a + c) + (b + d),  (a + c) - (b + d),  a - c,  b - d
 * Each is its own way back, but for a factor of 2 a level. */

enum { N_(QUARTERS) = 4 };

/* At element j, a vector of them or one; y may be x. */
#define AT(T, p) (*(T *)((p) + j))
#define FOLD_HALVES(T) \
    const T a = AT(T, x[0]), b = AT(T, x[1]); \
    AT(T, y[0]) = a + b, AT(T, y[1]) = a - b;
#define FOLD_QUARTERS(T) \
    const T a = AT(T, x[0]), b = AT(T, x[1]), c = AT(T, x[2]), d = AT(T, x[3]); \
    const T even = a + c, odd = b + d; \
    AT(T, y[0]) = even + odd, AT(T, y[1]) = even - odd; \
    AT(T, y[2]) = a - c, AT(T, y[3]) = b - d;
#define UNFOLD_QUARTERS(T) \
    const T a = AT(T, x[0]), b = AT(T, x[1]), c = AT(T, x[2]), d = AT(T, x[3]); \
    const T even = a + b, odd = a - b; \
    AT(T, y[0]) = even + c, AT(T, y[1]) = odd + d; \
    AT(T, y[2]) = even - c, AT(T, y[3]) = odd - d;
#define RUN(kind) \
    do { \
        int64_t j = 0; \
        for (; j + W <= count; j += W) { \
            kind(VU) \
        } \
        for (; j < count; j++) { \
            kind(REAL) \
        } \
    } while (0)

/* [i0, i1) of each of the 2^levels pieces of a row of `length`; source: it is read
 * from there, sink: it is written there, else in the row.  `ahead` as of a transform. */
static void N_(fold)(bool back, int levels, int64_t length, int64_t ahead,
                     const struct source *source, const struct sink *sink, void *row_, int64_t i0,
                     int64_t i1)
{
    REAL *row = row_;
    const int pieces = 1 << levels;
    const int64_t step = length >> levels;
    const bool from_x = source && source->x.dtype == REAL_DTYPE && source->x.stride == 1 &&
                        !source->gate.data && source->shift == 0 && source->from == 0 &&
                        source->to == length;
    const bool to_y = sink && N_(sink_is_plain)(sink) && sink->shift == 0 && sink->from == 0 &&
                      sink->to == length;
    struct N_(streams) streams;
    streams.count = 0;
    if (ahead && source && !from_x)
        N_(add_stream)(&streams, &source->x), N_(add_stream)(&streams, &source->gate);
    if (ahead && sink)
        N_(add_stream)(&streams, &sink->out_gate), N_(add_stream)(&streams, &sink->twin_gate);
    if (ahead && sink && sink->has_skip)
        N_(add_stream)(&streams, &sink->x), N_(add_stream)(&streams, &sink->gate);
    for (int64_t i = i0; i < i1; i += CHUNK) {
        const int64_t count = min64(CHUNK, i1 - i);
        REAL buffer[2][N_(QUARTERS)][CHUNK], *x[N_(QUARTERS)], *y[N_(QUARTERS)];
        for (int k = 0; k < pieces; k++) {
            N_(fetch)(&streams, i + k * step + ahead, count);
            x[k] = y[k] = row + i + k * step;
            if (from_x)
                x[k] = (REAL *)source->x.data + (i + k * step - source->x.origin);
            else if (source)
                N_(read_places)(source, i + k * step, count, x[k] = buffer[0][k]);
            if (to_y)
                y[k] = (REAL *)sink->y.data + (i + k * step - sink->y.origin);
            else if (sink)
                y[k] = buffer[1][k];
        }
        if (levels == 1)
            RUN(FOLD_HALVES);
        else if (back)
            RUN(UNFOLD_QUARTERS);
        else
            RUN(FOLD_QUARTERS);
        for (int k = 0; sink && !to_y && k < pieces; k++)
            N_(write_run)(sink, i + k * step, count, y[k]);
    }
}

#undef AT
#undef FOLD_HALVES
#undef FOLD_QUARTERS
#undef UNFOLD_QUARTERS
#undef RUN

/* ---- Spectra: place by place ---------------------------------------------------- */

/* The next run of vectors that are computed at all, from *v on and below `end`: how
 * many, 0 past the last. */
INLINE int64_t N_(computed_run)(const struct transform *xf, int64_t end, int64_t *v)
{
    if (!xf->live) {
        /* of every leaf; or of a row of T, where there is but one leaf */
        const int64_t all = xf->depth > 0 ? xf->spectra_reals / (2 * W) : xf->Plv;
        const int64_t kept = N_(kept_of)(xf, all);
        if (kept == all)
            return end - *v;
        if (*v % all >= kept)
            *v += all - *v % all;
        return max64(0, min64(kept - *v % all, end - *v));
    }
    while (*v < end) {
        const int64_t row = *v / xf->Plv;
        int64_t p = *v % xf->Plv;
        const int64_t n = N_(next_run)(xf->live + row / xf->Q * xf->Plv, xf->Plv, &p);
        *v = row * xf->Plv + p;
        if (n > 0)
            return min64(n, end - *v);
    }
    return 0;
}

/* Part i of n of a row of spectra, by such runs: of `n` vectors from `v` on. */
#define FOR_COMPUTED(xf, part, parts, v, n) \
    for (int64_t vectors_ = (xf)->spectra_reals / (2 * W), v = vectors_ * (part) / (parts), \
                 end_ = vectors_ * ((part) + 1) / (parts), n; \
         (n = N_(computed_run)(xf, end_, &v)) > 0; v += n)

static void N_(multiply_spectra)(const struct transform *xf, const void *spectrum, const void *in,
                                 void *out, bool adjoint, int64_t part, int64_t parts)
{
    FOR_COMPUTED(xf, part, parts, v, n)
    N_(multiply_run)((const REAL *)spectrum + v * 2 * W, (const REAL *)in + v * 2 * W,
                     (REAL *)out + v * 2 * W, n, adjoint);
}

/* Weights: one a point, or NULL. */
INLINE void N_(accumulate_run)(bool begin, REAL scale, const REAL *weights, int64_t vectors,
                               REAL *d, const REAL *z, REAL *g, const REAL *f)
{
    for (int64_t o = 0; o < vectors * 2 * W; o += 2 * W) {
        V zr = N_(load)(z + o) * scale, zi = N_(load)(z + o + W) * scale;
        V gr = N_(load)(g + o), gi = N_(load)(g + o + W), dr = {0}, di = {0};
        if (weights) {
            const V w = N_(load)(weights + o / 2);
            zr *= w, zi *= w;
        }
        if (!begin)
            dr = N_(load)(d + o), di = N_(load)(d + o + W);
        N_(store)(d + o, dr + (zr * gr + zi * gi));
        N_(store)(d + o + W, di + (zr * gi - zi * gr));
        if (f) {
            MULTIPLY(gr, gi, N_(load)(f + o), -N_(load)(f + o + W));
            N_(store)(g + o, gr);
            N_(store)(g + o + W, gi);
        }
    }
}

static void N_(accumulate_spectra)(const struct transform *xf, double scale, bool begin,
                                   void *dspectrum, const void *Z, void *G, const void *spectrum,
                                   int64_t part, int64_t parts)
{
    const REAL *f = spectrum, *weights = xf->weights;
    FOR_COMPUTED(xf, part, parts, v, n)
    {
        const int64_t o = v * 2 * W;
        REAL *d = (REAL *)dspectrum + o, *g = (REAL *)G + o;
        const REAL *z = (const REAL *)Z + o, *w = weights ? weights + v * W : NULL;
        if (begin)
            N_(accumulate_run)(true, (REAL)scale, w, n, d, z, g, f ? f + o : NULL);
        else
            N_(accumulate_run)(false, (REAL)scale, w, n, d, z, g, f ? f + o : NULL);
    }
}

static void N_(add_spectra)(const struct transform *xf, void *dspectrum, const void *other)
{
    REAL *d = dspectrum;
    const REAL *o = other;
    FOR_COMPUTED(xf, 0, 1, v, n)
    for (int64_t i = v * 2 * W; i < (v + n) * 2 * W; i++)
        d[i] += o[i];
}

static void N_(weigh_spectra)(const struct transform *xf, double scale, void *S)
{
    REAL *s = S;
    const REAL *weights = xf->weights, c = (REAL)scale;
    if (!weights) {
        int64_t done = 0; /* vectors */
        FOR_COMPUTED(xf, 0, 1, v, n)
        {
            memset(s + done * 2 * W, 0, (size_t)((v - done) * 2 * W) * sizeof(REAL));
            for (int64_t i = v * 2 * W; i < (v + n) * 2 * W; i++)
                s[i] *= c;
            done = v + n;
        }
        memset(s + done * 2 * W, 0, (size_t)(xf->spectra_reals - done * 2 * W) * sizeof(REAL));
        return;
    }
    for (int64_t i = 0; i < xf->spectra_reals; i += 2 * W, weights += W) {
        const V w = N_(load)(weights) * c;
        const VI any = w != 0; /* what is not computed is anything, NaN too */
        N_(store)(s + i, (V)((VI)(N_(load)(s + i) * w) & any));
        N_(store)(s + i + W, (V)((VI)(N_(load)(s + i + W) * w) & any));
    }
}

#include "contract.h"
#include "depthwise.h"
#include "ssm.h"

static void N_(column_stages)(const struct stage *st, int count, void *T)
{
    for (int l = 0; l < count; l++)
        N_(row_stage)(&st[l], false, T, 1, 1);
}

extern const struct engine ENGINE;
const struct engine ENGINE = {
    .isa = STRING(FFTCONV_ISA),
    .lanes = LANES,
    .real_bytes = sizeof(REAL),
    .transform = {.first_stage = N_(first_stage),
                  .inner_stages = N_(inner_stages),
                  .last_stage = N_(last_stage),
                  .fold = N_(fold),
                  .column_stages = N_(column_stages)},
    .spectra = {.multiply = N_(multiply_spectra),
                .accumulate = N_(accumulate_spectra),
                .add = N_(add_spectra),
                .weigh = N_(weigh_spectra)},
    .rows = {.differentiate = N_(gradient),
             .write_product = N_(spread),
             .add_scaled = N_(axpy),
             .transpose = N_(transpose_matrix),
             .activate = N_(apply),
             .load_scalar = N_(get),
             .store_scalar = N_(set),
             .place_taps = N_(place_taps),
             .take_taps = N_(take_taps),
             .reverse_taps = N_(reverse_taps),
             .direct_sum = N_(direct_sum)},
    .matrix = {.contract = N_(contract),
               .multiply = N_(matmul),
               .scale_spectra = N_(scale_spectra),
               .add_turned = N_(add_turned)},
    .depthwise = {.forward = N_(depthwise),
                  .pack_slices = N_(pack_slices),
                  .dx = N_(depthwise_dx),
                  .dweight = N_(depthwise_dweight)},
#if IN_DOUBLE
    .ssm = {.powers = N_(powers),
            .cauchy = N_(cauchy),
            .recur = N_(recur),
            .recur_back = N_(recur_back)},
#endif
};

#undef W
#undef V
#undef VU
#undef VI
#undef LANES
#undef SPLAT
#undef TRANSPOSE
#undef MULTIPLY
#undef FOR_RUNS
#undef FOR_COMPUTED
