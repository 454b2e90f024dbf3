/* Stages by codelets: the butterflies of one stage, on vectors of columns.
 *
 * Phase 1 works on columns of the matrix X, phase 2 on rows of the matrix T (transform.h).
 * Forward, a stage is a DFT of radix R across the R inputs of a butterfly, and then its
 * twiddles, decimation in frequency.  Inverse, it is the twiddles and then the DFT, decimation
 * in time, both with the real and the imaginary parts exchanged: this turns a product by w to
 * one by conj(w), as it turns the codelet to its inverse (codelets.h).  So one set of tables
 * serves both directions, and nothing is ever permuted. */

/* What a stage of phase 1 works on: `count` columns, one vector each, of a group of
 * butterflies. */
struct N_(columns) {
    int R;
    REAL *x; /* the first of the columns in X */
    int64_t sub, count;
    const REAL *fine, *coarse; /* the twiddles of the first column (struct twiddle) */
    const REAL *matrix;        /* of a dense stage */
    /* Middle stages: the same columns of so many groups, which follow one another.  live says
     * of each of their outputs (inverse: inputs) whether it is live; NULL: all are. */
    int64_t groups;
    const uint8_t *live;
    /* The first and the last stage: */
    bool imag;         /* the rows of the source or sink have an imaginary plane */
    bool half;         /* of the outputs of stage 1, only those up to R/2 are computed */
    const REAL *shift; /* right angle: exp(2 pi i r / (4 R)); else NULL */
    /* The R rows of the source or sink in each plane, from element `offset` on.  They stand in
     * row[plane][r], or, where `rows` is given, sub vectors apart from there on; the imaginary
     * plane then begins `plane` numbers further on. */
    REAL *const *row[2];
    REAL *rows;
    int64_t plane, offset;
    REAL *squares; /* stage 1: of each lane, the sum of the squares of its inputs, which it adds */
};

/* The functions below copy this structure first.  The compiler must assume that a store to X
 * changes what a pointer leads to, and would read each member anew. */

/* Multiplies by twiddle k of column j, where each column has K twiddles. */
INLINE void N_(twiddle)(const struct N_(columns) * a, int64_t j, int K, int k, V *r, V *i)
{
    const REAL *f = a->fine + (j * K + k) * 2 * W;
    V c = N_(load)(f), s = N_(load)(f + W);
    if (a->coarse)
        MULTIPLY(c, s, a->coarse[2 * k], a->coarse[2 * k + 1]);
    MULTIPLY(*r, *i, c, s);
}

/* The stages of phase 1 after the first, in place.  sparse: outputs that are not live are not
 * written; inverse, inputs that are not live are zeros, and are not read. */
INLINE void N_(middle_columns)(int R, bool inverse, bool sparse, const struct N_(columns) * given)
{
    const struct N_(columns) a = *given;
    const int64_t step = a.sub * 2 * W;
    const int re = inverse ? LANES : 0, im = inverse ? 0 : LANES;
    const uint8_t *live = a.live;
    REAL *group = a.x;
    for (int64_t g = 0; g < a.groups; g++, group += R * step, live += sparse ? R : 0)
        for (int64_t j = 0; j < a.count; j++) {
            V r[16], i[16];
            REAL *x = group + j * 2 * W;
            UNROLL
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
            UNROLL
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

/* Row k of a plane of the source or sink, at the first of the columns. */
INLINE REAL *N_(strip_row)(const struct N_(columns) * a, int plane, int k)
{
    return (a->rows ? a->rows + plane * a->plane + k * a->sub * W : a->row[plane][k]) + a->offset;
}

/* Stage 1, from the rows of the source to X.  shift: the frequencies are k - 1/4, those of the
 * right angle, so that input r is multiplied by exp(2 pi i r / (4 R)) first. */
INLINE void N_(first_columns)(int R, bool imag, bool shift, bool half,
                              const struct N_(columns) * given)
{
    const struct N_(columns) a = *given;
    const int64_t step = a.sub * 2 * W;
    const REAL *row[2][16];
    UNROLL
    for (int k = 0; k < R; k++) {
        row[0][k] = N_(strip_row)(&a, 0, k);
        row[1][k] = imag ? N_(strip_row)(&a, 1, k) : NULL;
    }
    V squares[2] = {{0}, {0}}; /* two sums are independent */
    for (int64_t j = 0; j < a.count; j++) {
        V r[16], i[16];
        REAL *x = a.x + j * 2 * W;
        UNROLL
        for (int k = 0; k < R; k++) {
            r[k] = *(const VU *)(row[0][k] + j * W), i[k] = (V){0};
            squares[k % 2] += r[k] * r[k];
            if (imag) {
                i[k] = *(const VU *)(row[1][k] + j * W);
                squares[1 - k % 2] += i[k] * i[k];
            }
            if (shift && k > 0) {
                const REAL c = a.shift[2 * k], s = a.shift[2 * k + 1];
                if (imag)
                    MULTIPLY(r[k], i[k], c, s);
                else
                    i[k] = r[k] * s, r[k] *= c;
            }
        }
        N_(dft)(R, r, i);
        UNROLL
        for (int k = 0; k < R; k++) {
            if (half && 2 * k > R)
                continue;
            N_(twiddle)(&a, j, R, k, &r[k], &i[k]);
            N_(store)(x + k * step, r[k]);
            N_(store)(x + k * step + W, i[k]);
        }
    }
    *(VU *)a.squares += squares[0] + squares[1];
}

/* The inverse of stage 1, from X to the rows of the sink.  half: the terms above R/2 are the
 * conjugates of those below, and the result is real, so that terms between 0 and R/2 count
 * twice. */
INLINE void N_(last_columns)(int R, bool imag, bool shift, bool half,
                             const struct N_(columns) * given)
{
    const struct N_(columns) a = *given;
    const int64_t step = a.sub * 2 * W;
    REAL *row[2][16];
    UNROLL
    for (int k = 0; k < R; k++) {
        row[0][k] = N_(strip_row)(&a, 0, k);
        row[1][k] = imag ? N_(strip_row)(&a, 1, k) : NULL;
    }
    for (int64_t j = 0; j < a.count; j++) {
        V r[16], i[16]; /* exchanged: r holds the imaginary parts */
        const REAL *x = a.x + j * 2 * W;
        UNROLL
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
        UNROLL
        for (int k = 0; k < R; k++) {
            V yr = i[k], yi = r[k];
            if (shift && k > 0) { /* y *= conj(shift) */
                const REAL c = a.shift[2 * k], s = a.shift[2 * k + 1];
                V real = yr * c + yi * s;
                if (imag)
                    yi = yi * c - yr * s;
                yr = real;
            }
            *(VU *)(row[0][k] + j * W) = yr;
            if (imag)
                *(VU *)(row[1][k] + j * W) = yi;
        }
    }
}

/* A stage of phase 2, in place: `count` columns, one vector each, of T, whose rows have `width`
 * vectors.  The twiddles are scalars, twiddle[m][k - 1] for row m of a group. */
INLINE void N_(phase2_rows)(int R, bool inverse, REAL *T, int64_t width, int64_t count, int64_t sub,
                            int64_t groups, const REAL *twiddle)
{
    const int64_t step = sub * width * 2 * W;
    const int re = inverse ? LANES : 0, im = inverse ? 0 : LANES;
    for (int64_t g = 0; g < groups; g++, T += R * step)
        for (int64_t m = 0; m < sub; m++) {
            const REAL *w = twiddle + m * (R - 1) * 2;
            for (int64_t j = 0; j < count; j++) {
                REAL *x = T + (m * width + j) * 2 * W;
                V r[16], i[16];
                UNROLL
                for (int k = 0; k < R; k++) {
                    r[k] = N_(load)(x + k * step + re);
                    i[k] = N_(load)(x + k * step + im);
                    if (inverse && k > 0)
                        MULTIPLY(r[k], i[k], w[2 * k - 2], w[2 * k - 1]);
                }
                N_(dft)(R, r, i);
                UNROLL
                for (int k = 0; k < R; k++) {
                    if (!inverse && k > 0)
                        MULTIPLY(r[k], i[k], w[2 * k - 2], w[2 * k - 1]);
                    N_(store)(x + k * step + re, r[k]);
                    N_(store)(x + k * step + im, i[k]);
                }
            }
        }
}

/* The last stage of phase 2, which has sub = 1 and no twiddles, the product with the spectrum,
 * and the inverse of that stage, without storing what lies between. */
INLINE void N_(innermost_rows)(int R, REAL *T, int64_t width, int64_t count, int64_t groups,
                               const REAL *spectrum)
{
    const int64_t step = width * 2 * W;
    for (int64_t g = 0; g < groups; g++, T += R * step, spectrum += R * step)
        for (int64_t j = 0; j < count; j++) {
            REAL *x = T + j * 2 * W;
            const REAL *f = spectrum + j * 2 * W;
            V r[16], i[16];
            UNROLL
            for (int k = 0; k < R; k++) {
                r[k] = N_(load)(x + k * step);
                i[k] = N_(load)(x + k * step + W);
            }
            N_(dft)(R, r, i);
            UNROLL
            for (int k = 0; k < R; k++)
                MULTIPLY(r[k], i[k], N_(load)(f + k * step), N_(load)(f + k * step + W));
            N_(dft)(R, i, r);
            UNROLL
            for (int k = 0; k < R; k++) {
                N_(store)(x + k * step, r[k]);
                N_(store)(x + k * step + W, i[k]);
            }
        }
}

/* For each radix, a function for each kind of stage.  It chooses among copies of the code in
 * which the bools above are constants, so that no loop tests them.  FFTCONV_COMPACT asks for
 * one copy with variables, which takes less time to compile. */
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
    static void N_(phase2_rows_##R)(REAL * T, int64_t width, int64_t count, int64_t sub, \
                                    int64_t groups, const REAL *w, bool inverse) \
    { \
        inverse ? N_(phase2_rows)(R, true, T, width, count, sub, groups, w) \
                : N_(phase2_rows)(R, false, T, width, count, sub, groups, w); \
    } \
    static void N_(innermost_rows_##R)(REAL * T, int64_t width, int64_t count, int64_t groups, \
                                       const REAL *spectrum) \
    { \
        N_(innermost_rows)(R, T, width, count, groups, spectrum); \
    }
CODELETS(KERNELS)
#undef KERNELS
#undef PLANES

static const struct N_(stage_kernels) {
    void (*middle)(const struct N_(columns) *, bool inverse);
    void (*first)(const struct N_(columns) *);
    void (*last)(const struct N_(columns) *);
    void (*rows)(REAL *, int64_t, int64_t, int64_t, int64_t, const REAL *, bool inverse);
    void (*innermost)(REAL *, int64_t, int64_t, int64_t, const REAL *);
} N_(kernels_of_radix)[] = {
#define ROW(R) \
    [R] = {N_(middle_columns_##R), N_(first_columns_##R), N_(last_columns_##R), \
           N_(phase2_rows_##R), N_(innermost_rows_##R)},
    CODELETS(ROW)
#undef ROW
};

INLINE const struct N_(stage_kernels) * N_(codelet_stage)(int R)
{
    return &N_(kernels_of_radix)[R];
}
