/* Products of real matrices, and blocks of products of real or complex ones (matmul.c).
 * engine_body.h includes this file. */

/* A tile of out = a b of so many rows, and so many vectors of columns; its sums stay in
 * registers. */
INLINE void N_(product_tile)(int rows, int vectors, const struct matmul *p, const REAL *a,
                             const REAL *b, REAL *out)
{
    const int64_t depth = p->depth, a_step = p->a_step, b_step = p->b_step;
    const int64_t out_step = p->out_step;
    V sum[4][2] = {0};
    if (p->accumulate) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            UNROLL
            for (int j = 0; j < vectors; j++)
                sum[i][j] = *(const VU *)(out + i * out_step + j * W);
        }
    }
    for (int64_t d = 0; d < depth; d++, b += b_step) {
        V column[2] = {0};
        UNROLL
        for (int j = 0; j < vectors; j++)
            column[j] = *(const VU *)(b + j * W);
        UNROLL
        for (int i = 0; i < rows; i++) {
            UNROLL
            for (int j = 0; j < vectors; j++)
                sum[i][j] += column[j] * a[i * a_step + d];
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < vectors; j++)
            *(VU *)(out + i * out_step + j * W) = sum[i][j];
    }
}

/* out = a b (struct matmul), in tiles of 4 rows and 2 vectors, or less at the edges. */
static void N_(matmul)(const struct matmul *p)
{
    const REAL *a = p->a, *b = p->b;
    REAL *out = p->out;
    for (int64_t c = 0; c < p->columns; c += 2 * W) {
        const bool two = p->columns - c > W;
        for (int64_t r = 0; r < p->rows;) {
            const REAL *ar = a + r * p->a_step, *bc = b + c;
            REAL *to = out + r * p->out_step + c;
            const bool four = p->rows - r >= 4;
            if (four && two)
                N_(product_tile)(4, 2, p, ar, bc, to);
            else if (four)
                N_(product_tile)(4, 1, p, ar, bc, to);
            else if (two)
                N_(product_tile)(1, 2, p, ar, bc, to);
            else
                N_(product_tile)(1, 1, p, ar, bc, to);
            r += four ? 4 : 1;
        }
    }
}

/* to = sign from, in squares that touch few cache lines whichever way the matrices lie. */
static void N_(copy_matrix)(int64_t rows, int64_t columns, REAL sign, const REAL *from,
                            const int64_t from_step[2], REAL *to, const int64_t to_step[2])
{
    enum { EDGE = 16 };
    for (int64_t r0 = 0; r0 < rows; r0 += EDGE)
        for (int64_t c0 = 0; c0 < columns; c0 += EDGE)
            for (int64_t r = r0; r < min64(r0 + EDGE, rows); r++) {
                const REAL *f = from + r * from_step[0] + c0 * from_step[1];
                REAL *t = to + r * to_step[0] + c0 * to_step[1];
                const int64_t count = min64(EDGE, columns - c0);
                for (int64_t c = 0; c < count; c++)
                    t[c * to_step[1]] = sign * f[c * from_step[1]];
            }
}

/* A complex product is a real one:
 *     (re, im) of out = ((re, -im), (im, re)) of a . (re, im) of b,
 * where the outer matrix has two rows and columns of blocks, and the second row of them is left
 * out where the imaginary part is not wanted. */
static void N_(multiply_block)(const struct product *p, int64_t rows, int64_t columns,
                               const void *a_at, const void *b_at, void *out_at, void *work)
{
    const REAL *a = a_at, *b = b_at;
    REAL *out = out_at;
    const int parts = p->is_complex ? 2 : 1, results = p->real_part ? 1 : parts;
    const int64_t padded = round_up(columns, W);
    const int64_t row = p->block_columns + W; /* rows do not meet in one set of a cache */
    const int64_t b_row[2] = {row, 1}, out_row[2] = {row, 1};
    REAL *pb = work, *sums = pb + parts * p->block_depth * row;
    REAL *pa = sums + results * p->block_rows * row;
    for (int64_t d = 0; d < p->depth; d += p->block_depth) {
        const int64_t depth = min64(p->block_depth, p->depth - d);
        struct matmul m = {.rows = results * rows,
                           .columns = padded,
                           .depth = parts * depth,
                           .a = a + d * p->a_step[1],
                           .b = pb,
                           .out = sums,
                           .a_step = p->a_step[0],
                           .b_step = row,
                           .out_step = row,
                           .accumulate = d > 0};
        for (int i = 0; i < parts; i++) {
            REAL *to = pb + i * depth * row;
            N_(copy_matrix)(depth, columns, 1, b + d * p->b_step[0] + i, p->b_step, to, b_row);
            for (int64_t r = 0; r < depth && padded > columns; r++)
                for (int64_t c = columns; c < padded; c++)
                    to[r * row + c] = 0;
        }
        if (p->is_complex || p->a_step[1] != 1) {
            const int64_t a_row[2] = {m.depth, 1};
            for (int i = 0; i < results; i++)
                for (int j = 0; j < parts; j++)
                    N_(copy_matrix)(rows, depth, i == 0 && j == 1 ? -1 : 1,
                                    (const REAL *)m.a + (i ^ j), p->a_step,
                                    pa + i * rows * m.depth + j * depth, a_row);
            m.a = pa, m.a_step = m.depth;
        }
        N_(matmul)(&m);
    }
    for (int i = 0; i < results; i++)
        N_(copy_matrix)(rows, columns, 1, sums + i * rows * row, out_row, out + i, p->out_step);
}
