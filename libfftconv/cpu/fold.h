/* Folding rows.
 *
 * One level of folding replaces the two halves of a row by their sum and their difference.  The
 * difference stays as it is, and the next level folds the sum.  So two levels, done in one pass,
 * replace the quarters a, b, c, d of a row by
 *     (a + c) + (b + d),  (a + c) - (b + d),  a - c,  b - d.
 * A level done twice gives the row times 2: the way back is made of the same sums. */

enum { N_(QUARTERS) = 4 };

/* Sums of the halves or quarters x[k] at element j, of type T: a vector of REALs, or one.  y
 * may be x.  On the way there, the squares of x are added to `squares`. */
#define AT(T, p) (*(T *)((p) + j))
#define FOLD_HALVES(T, squares) \
    const T a = AT(T, x[0]), b = AT(T, x[1]); \
    squares += a * a + b * b; \
    AT(T, y[0]) = a + b, AT(T, y[1]) = a - b;
#define FOLD_QUARTERS(T, squares) \
    const T a = AT(T, x[0]), b = AT(T, x[1]), c = AT(T, x[2]), d = AT(T, x[3]); \
    const T even = a + c, odd = b + d; \
    squares += (a * a + b * b) + (c * c + d * d); \
    AT(T, y[0]) = even + odd, AT(T, y[1]) = even - odd; \
    AT(T, y[2]) = a - c, AT(T, y[3]) = b - d;
#define UNFOLD_QUARTERS(T, squares) \
    const T a = AT(T, x[0]), b = AT(T, x[1]), c = AT(T, x[2]), d = AT(T, x[3]); \
    const T even = a + b, odd = a - b; \
    AT(T, y[0]) = even + c, AT(T, y[1]) = odd + d; \
    AT(T, y[2]) = even - c, AT(T, y[3]) = odd - d;
/* Elements [0, count): vectors, and then what is left. */
#define FOR_ELEMENTS(kind) \
    do { \
        int64_t j = 0; \
        for (; j + W <= count; j += W) { \
            kind(VU, squares) \
        } \
        for (; j < count; j++) { \
            kind(REAL, squares_of_rest) \
        } \
    } while (0)

/* Elements [i0, i1) of each half or quarter.  The row is read from the source, where there is one,
 * and written to the sink, where there is one; else it stays in place. */
static int N_(fold)(bool back, int levels, int64_t length, int64_t prefetch_distance,
                    const struct source *source, const struct sink *sink, void *row_, int64_t i0,
                    int64_t i1)
{
    REAL *row = row_, squares_of_rest = 0;
    V squares = {0};
    const int quarters = 1 << levels; /* or halves */
    const int64_t step = length >> levels;
    const bool from_x = source && source->x.dtype == REAL_DTYPE && source->x.stride == 1 &&
                        !source->gate.data && !source->exponent && source->shift == 0 &&
                        source->from == 0 && source->to == length;
    const bool to_y = sink && N_(sink_is_plain)(sink) && sink->shift == 0 && sink->from == 0 &&
                      sink->to == length;
    struct N_(prefetched_rows) soon;
    soon.count = 0;
    if (prefetch_distance && source && !from_x)
        N_(add_prefetched)(&soon, &source->x), N_(add_prefetched)(&soon, &source->gate);
    if (prefetch_distance && sink)
        N_(add_prefetched)(&soon, &sink->out_gate), N_(add_prefetched)(&soon, &sink->twin_gate);
    if (prefetch_distance && sink && sink->has_skip)
        N_(add_prefetched)(&soon, &sink->x), N_(add_prefetched)(&soon, &sink->gate);
    for (int64_t i = i0; i < i1; i += CHUNK) {
        const int64_t count = min64(CHUNK, i1 - i);
        REAL buffer[2][N_(QUARTERS)][CHUNK], *x[N_(QUARTERS)], *y[N_(QUARTERS)];
        for (int k = 0; k < quarters; k++) {
            N_(prefetch)(&soon, i + k * step + prefetch_distance, count);
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
            FOR_ELEMENTS(FOLD_HALVES);
        else if (back)
            FOR_ELEMENTS(UNFOLD_QUARTERS);
        else
            FOR_ELEMENTS(FOLD_QUARTERS);
        for (int k = 0; sink && !to_y && k < quarters; k++)
            N_(write_run)(sink, i + k * step, count, y[k]);
    }
    squares[0] += squares_of_rest;
    return N_(seen)(squares, length);
}

#undef AT
#undef FOLD_HALVES
#undef FOLD_QUARTERS
#undef UNFOLD_QUARTERS
#undef FOR_ELEMENTS
