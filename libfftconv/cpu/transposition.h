/* Transpositions: between phase 1 and phase 2, and of matrices anywhere in memory. */

/* A tile of LANES x LANES numbers, transposed.  Its rows lie `from_step` apart, and those of the
 * result `to_step`.  Of the tile, `rows` are there, and the others are zeros; of the result,
 * `columns` rows are wanted. */
INLINE void N_(transpose_tile)(const REAL *from, int64_t from_step, int64_t rows, REAL *to,
                               int64_t to_step, int64_t columns)
{
    V v[LANES];
    if (rows == W) {
        UNROLL
        for (int i = 0; i < LANES; i++)
            v[i] = N_(load)(from + i * from_step);
    } else {
        for (int i = 0; i < LANES; i++)
            v[i] = i < rows ? N_(load)(from + i * from_step) : (V){0};
    }
    TRANSPOSE(v);
    if (columns == W) {
        UNROLL
        for (int i = 0; i < LANES; i++)
            N_(store)(to + i * to_step, v[i]);
    } else {
        for (int i = 0; i < columns; i++)
            N_(store)(to + i * to_step, v[i]);
    }
}

/* A matrix of `rows` rows of from_width complex vectors to its transpose, which has `columns`
 * rows of to_width vectors: vectors [r0, r1) of the rows of the result, from vectors [c0, c1) of
 * the rows of the matrix. */
INLINE void N_(transpose_tiles)(const REAL *from, int64_t rows, int64_t from_width, REAL *to,
                                int64_t columns, int64_t to_width, int64_t r0, int64_t r1,
                                int64_t c0, int64_t c1)
{
    const int64_t from_step = from_width * 2 * W, to_step = to_width * 2 * W;
    for (int64_t r = r0; r < r1; r++)
        for (int64_t c = c0; c < c1; c++) {
            const REAL *in = from + r * W * from_step + c * 2 * W;
            REAL *out = to + c * W * to_step + r * 2 * W;
            if (rows % W == 0 && columns % W == 0) {
                N_(transpose_tile)(in, from_step, W, out, to_step, W);
                N_(transpose_tile)(in + W, from_step, W, out + W, to_step, W);
            } else {
                const int64_t there = min64(W, rows - r * W);
                const int64_t wanted = min64(W, columns - c * W);
                N_(transpose_tile)(in, from_step, there, out, to_step, wanted);
                N_(transpose_tile)(in + W, from_step, there, out + W, to_step, wanted);
            }
        }
}

/* The rows p of X in a leaf become columns of T[q][p], vectors [v0, v1) of these; and back. */
static void N_(leaf_to_T)(const struct transform *t, const REAL *x, REAL *T, int64_t v0, int64_t v1)
{
    N_(transpose_tiles)(x, t->Pl, t->Qv, T, t->Q, t->Plv, v0, v1, 0, t->Qv);
}

static void N_(leaf_from_T)(const struct transform *t, const REAL *T, REAL *x, int64_t v0,
                            int64_t v1)
{
    N_(transpose_tiles)(T, t->Q, t->Plv, x, t->Pl, t->Qv, 0, t->Qv, v0, v1);
}

/* to[c][r] = from[r][c], real numbers; the steps count numbers. */
static void N_(transpose_matrix)(const void *from_, int64_t from_step, void *to_, int64_t to_step,
                                 int64_t rows, int64_t columns)
{
    const REAL *from = from_;
    REAL *to = to_;
    for (int64_t r = 0; r < rows; r += W)
        for (int64_t c = 0; c < columns; c += W) {
            if (r + W <= rows && c + W <= columns) {
                V v[LANES];
                UNROLL
                for (int i = 0; i < LANES; i++)
                    v[i] = *(const VU *)(from + (r + i) * from_step + c);
                TRANSPOSE(v);
                UNROLL
                for (int i = 0; i < LANES; i++)
                    *(VU *)(to + (c + i) * to_step + r) = v[i];
                continue;
            }
            for (int64_t i = r; i < min64(rows, r + W); i++)
                for (int64_t j = c; j < min64(columns, c + W); j++)
                    to[j * to_step + i] = from[i * from_step + j];
        }
}
