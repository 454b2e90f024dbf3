/* Products of matrices at every frequency (struct contraction).
 *
 * This is a matrix product whose numbers are vectors of LANES frequencies each.  Neighbouring
 * entries of a matrix are a row of spectra apart in memory, often a power of two, and a cache
 * would hold few of them.  So panels of a and b are packed first, and the innermost loop reads
 * the packed numbers in order.
 *
 * The result is computed in tiles of EDGE x EDGE sums.  A panel of a is packed in slices of EDGE
 * rows, packed[slice][v][d][row], and a panel of b in slices of EDGE columns.  At vector v, the
 * sums of a tile then read consecutive numbers of a slice of each, as d grows. */

enum { N_(EDGE) = 2 };

/* Where vector v begins in the slice whose first row (or column) is i, and which has `edge` of
 * them. */
INLINE const REAL *N_(packed_slice)(const REAL *packed, int64_t i, int64_t edge, int64_t depth,
                                    int64_t vectors, int64_t v)
{
    return packed + (i * vectors + edge * v) * depth * 2 * W;
}

/* Packs entries [i, d], i < rows, d < depth, of `vectors` vectors. */
static void N_(pack)(const REAL *from, int64_t row_stride, int64_t depth_stride, int64_t rows,
                     int64_t depth, int64_t vectors, bool conjugate, REAL *packed)
{
    const REAL sign = conjugate ? -1 : 1;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t first = i - i % N_(EDGE), edge = min64(N_(EDGE), rows - first);
        for (int64_t d = 0; d < depth; d++) {
            const REAL *x = from + i * row_stride + d * depth_stride;
            const int64_t next = d + 2 < depth ? 2 * depth_stride : 0;
            REAL *p = (REAL *)N_(packed_slice)(packed, first, edge, depth, vectors, 0) +
                      (d * edge + i - first) * 2 * W;
            for (int64_t v = 0; v < vectors; v++, x += 2 * W, p += edge * depth * 2 * W) {
                __builtin_prefetch(x + next);
                N_(store)(p, N_(load)(x));
                N_(store)(p + W, N_(load)(x + W) * sign);
            }
        }
    }
}

/* sum[i, j] = sum_d a[i, d] b[d, j] for one tile, from a slice of each; add: += instead of =. */
INLINE void N_(tile_product)(int rows, int columns, int64_t depth, bool add, const REAL *a,
                             const REAL *b, REAL *sum, int64_t row_step)
{
    V re[N_(EDGE)][N_(EDGE)] = {0}, im[N_(EDGE)][N_(EDGE)] = {0};
    for (int64_t d = 0; d < depth; d++, a += rows * 2 * W, b += columns * 2 * W) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            const V ar = N_(load)(a + 2 * i * W), ai = N_(load)(a + (2 * i + 1) * W);
            UNROLL
            for (int j = 0; j < columns; j++) {
                const V br = N_(load)(b + 2 * j * W), bi = N_(load)(b + (2 * j + 1) * W);
                re[i][j] += ar * br;
                re[i][j] -= ai * bi;
                im[i][j] += ar * bi;
                im[i][j] += ai * br;
            }
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < columns; j++) {
            REAL *s = sum + i * row_step + 2 * j * W;
            if (add)
                re[i][j] += N_(load)(s), im[i][j] += N_(load)(s + W);
            N_(store)(s, re[i][j]);
            N_(store)(s + W, im[i][j]);
        }
    }
}

/* The same for two packed panels, at vector v. */
static void N_(panel_product)(int64_t rows, int64_t columns, int64_t depth, int64_t vectors,
                              int64_t v, bool add, const REAL *a, const REAL *b, REAL *sum)
{
    const int64_t step = columns * 2 * W;
    for (int64_t c = 0; c < columns; c += N_(EDGE)) {
        const bool two_columns = columns - c > 1;
        const REAL *pb = N_(packed_slice)(b, c, 1 + two_columns, depth, vectors, v);
        for (int64_t r = 0; r < rows; r += N_(EDGE)) {
            const bool two_rows = rows - r > 1;
            const REAL *pa = N_(packed_slice)(a, r, 1 + two_rows, depth, vectors, v);
            REAL *s = sum + r * step + c * 2 * W;
            if (two_rows && two_columns)
                N_(tile_product)(2, 2, depth, add, pa, pb, s, step);
            else if (two_rows)
                N_(tile_product)(2, 1, depth, add, pa, pb, s, step);
            else if (two_columns)
                N_(tile_product)(1, 2, depth, add, pa, pb, s, step);
            else
                N_(tile_product)(1, 1, depth, add, pa, pb, s, step);
        }
    }
}

/* out[r, c] = scale sum[v][r][c]; accumulate: += instead of =. */
static void N_(unpack)(const REAL *sum, int64_t rows, int64_t columns, int64_t vectors, REAL scale,
                       bool accumulate, REAL *out, const int64_t stride[2])
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            const REAL *s = sum + (r * columns + c) * 2 * W;
            REAL *x = out + r * stride[0] + c * stride[1];
            for (int64_t v = 0; v < vectors; v++, x += 2 * W, s += rows * columns * 2 * W) {
                V re = N_(load)(s) * scale, im = N_(load)(s + W) * scale;
                if (accumulate)
                    re += N_(load)(x), im += N_(load)(x + W);
                N_(store)(x, re);
                N_(store)(x + W, im);
            }
        }
}

static void N_(contract)(const struct contraction *c, int64_t v0, int64_t v1, void *work)
{
    const int64_t vectors = v1 - v0, at = v0 * 2 * W;
    const REAL *from_a = (const REAL *)c->a + at, *from_b = (const REAL *)c->b + at;
    REAL *a = work;
    REAL *b = a + c->panel_rows * c->panel_depth * c->panel_vectors * 2 * W;
    REAL *sum = b + c->panel_columns * c->panel_depth * c->panel_vectors * 2 * W;
    for (int64_t r = 0; r < c->rows; r += c->panel_rows)
        for (int64_t j = 0; j < c->columns; j += c->panel_columns) {
            const int64_t rows = min64(c->panel_rows, c->rows - r);
            const int64_t columns = min64(c->panel_columns, c->columns - j);
            for (int64_t d = 0; d < c->depth; d += c->panel_depth) {
                const int64_t depth = min64(c->panel_depth, c->depth - d);
                /* a panel that is still packed from the step before is not packed again */
                if (j == 0 || c->depth > depth)
                    N_(pack)(from_a + r * c->a_stride[0] + d * c->a_stride[1], c->a_stride[0],
                             c->a_stride[1], rows, depth, vectors, c->conjugate_a, a);
                if (r == 0 || c->depth > depth || c->columns > columns)
                    N_(pack)(from_b + d * c->b_stride[0] + j * c->b_stride[1], c->b_stride[1],
                             c->b_stride[0], columns, depth, vectors, c->conjugate_b, b);
                for (int64_t v = 0; v < vectors; v++)
                    N_(panel_product)(rows, columns, depth, vectors, v, d > 0, a, b,
                                      sum + v * rows * columns * 2 * W);
            }
            N_(unpack)(sum, rows, columns, vectors, (REAL)c->scale, c->accumulate,
                       (REAL *)c->out + at + r * c->out_stride[0] + j * c->out_stride[1],
                       c->out_stride);
        }
}
