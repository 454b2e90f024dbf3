/* A few outputs of a row as sums over the taps, which for so few is less work than transforms. */

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
