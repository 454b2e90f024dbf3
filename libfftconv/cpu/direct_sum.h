/* Outputs as sums over the taps, where that is less work than transforms: a few outputs of a row,
 * with many taps, and in the direct form all of them, with few. */

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

/* y[m] = sum_i taps[i] z[m + i] for m < outputs, which share the loads of the taps.  Two sums
 * for each, of even and of odd vectors, are independent. */
INLINE void N_(neighbouring_outputs)(int outputs, const REAL *taps, int64_t count, const REAL *z,
                                     REAL *y)
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
            N_(neighbouring_outputs)(4, taps, padded, z + j + i, y + i);
        for (; i < m; i++)
            N_(neighbouring_outputs)(1, taps, padded, z + j + i, y + i);
        N_(write_run)(sink, j, m, y);
    }
}

/* ---- The direct form: all outputs of a row as sums over few taps ------------------------------ */

static void N_(read_places_to)(const struct source *s, int64_t n, int64_t count, void *to)
{
    N_(read_places)(s, n, count, to);
}

static void N_(write_places_from)(const struct sink *s, int64_t n, int64_t count, void *from)
{
    N_(write_run)(s, n, count, from);
}

/* v[j] = sum_i taps[i] x[j + i] for so many vectors, which share the loads of the taps. */
INLINE void N_(neighbouring_vectors)(int vectors, int64_t count, const REAL *taps, const REAL *x,
                                     REAL *v)
{
    V sum[4] = {0};
    for (int64_t i = 0; i < count; i++) {
        UNROLL
        for (int m = 0; m < vectors; m++)
            sum[m] += taps[i] * *(const VU *)(x + i + m * W);
    }
    UNROLL
    for (int m = 0; m < vectors; m++)
        *(VU *)(v + m * W) = sum[m];
}

static void N_(convolve_directly)(int64_t count_of_taps, const void *taps_,
                                  const struct direct_row *row, int64_t first, int64_t n,
                                  int64_t count, const struct sink *sink)
{
    const REAL *taps = taps_, *x = direct_numbers(row);
    REAL v[CHUNK], zero = 0;
    for (int64_t i = 0; i < count_of_taps; i++)
        zero += 0 * taps[i];
    for (int64_t j = 0, m; j < count; j += m, first += m) {
        m = min64(CHUNK, count - j);
        int64_t i = 0;
        for (; i + 4 * W <= m; i += 4 * W)
            N_(neighbouring_vectors)(4, count_of_taps, taps, x + first + i, v + i);
        for (; i < m; i += W)
            N_(neighbouring_vectors)(1, count_of_taps, taps, x + first + i, v + i);
        for (i = 0; zero != 0 && i < m; i++) { /* since a tap is not finite */
            const int64_t end = min64(count_of_taps, row->to - first - i);
            v[i] = 0;
            for (int64_t l = max64(0, row->from - first - i); l < end; l++)
                v[i] += taps[l] * x[first + i + l];
        }
        N_(write_run)(sink, n + j, m, v);
    }
}

/* In turn each lane gets that of the lane 8, 4, 2 and 1 further on, round the vector's end, so that
 * at last every lane holds the sum of all. */
#define AHEAD(i, half) (((i) + (half)) % LANES)
INLINE REAL N_(sum_of_lanes)(V v)
{
#if LANES > 8
    v += PICK(v, v, AHEAD, 8);
#endif
#if LANES > 4
    v += PICK(v, v, AHEAD, 4);
#endif
#if LANES > 2
    v += PICK(v, v, AHEAD, 2);
#endif
    v += PICK(v, v, AHEAD, 1);
    return v[0];
}
#undef AHEAD

/* sums[i] = sum_j g[j] x[j + i] for four i at once. */
INLINE void N_(four_lags)(int64_t count, const REAL *g, const REAL *x, double *sums)
{
    V even[4] = {0}, odd[4] = {0};
    int64_t j = 0;
    for (; j + 2 * W <= count; j += 2 * W) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            even[i] += *(const VU *)(g + j) * *(const VU *)(x + j + i);
            odd[i] += *(const VU *)(g + j + W) * *(const VU *)(x + j + W + i);
        }
    }
    for (int i = 0; i < 4; i++) {
        sums[i] = (double)N_(sum_of_lanes)(even[i] + odd[i]);
        for (int64_t l = j; l < count; l++)
            sums[i] += (double)g[l] * (double)x[l + i];
    }
}

static void N_(correlate_directly)(int64_t taps, const struct direct_row *g_row,
                                   const struct direct_row *x_row, int64_t lead, double scale,
                                   double *sums)
{
    const int64_t from = g_row->from, count = g_row->to - from, first = from - lead;
    const REAL *g = (const REAL *)direct_numbers(g_row) + from;
    const REAL *x = (const REAL *)direct_numbers(x_row) + first;
    double four[4] = {0};
    for (int64_t i = 0; i < taps; i++) {
        if (i % 4 == 0)
            N_(four_lags)(count, g, x + i, four);
        double sum = four[i % 4];
        if (sum - sum != 0) { /* since a number is not finite */
            const int64_t end = min64(count, x_row->to - first - i);
            sum = 0;
            for (int64_t j = max64(0, x_row->from - first - i); j < end; j++)
                sum += (double)g[j] * (double)x[j + i];
        }
        sums[i] += scale * sum;
    }
}
