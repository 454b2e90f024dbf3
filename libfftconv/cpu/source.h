/* Reading a source: what a transform has at its places (struct source). */

/* dst = places [n, n + count) of the source. */
static void N_(read_places)(const struct source *s, int64_t n, int64_t count, REAL *dst)
{
    const int64_t reals = 1 + is_complex(s->x.dtype), e = n + s->shift;
    if (e >= max64(0, s->from) && e + count <= s->to) {
        N_(read_scaled)(&s->x, &s->gate, s->careful, s->exponent, e, count, dst);
        return;
    }
    /* Zeros up to `from`, what came before the row up to `before`, zeros up to `row`, the row
     * itself up to `to`, and zeros. */
#define UP_TO(element) max64(0, min64(count, (element) - e))
    const int64_t from = UP_TO(s->from), to = max64(from, UP_TO(s->to));
    const int64_t before = min64(to, max64(from, UP_TO(s->before_to)));
    const int64_t row = min64(to, max64(before, UP_TO(0)));
#undef UP_TO
    memset(dst, 0, (size_t)(from * reals) * sizeof(REAL));
    N_(read_scaled)(&s->before, &s->before_gate, s->careful, s->exponent, e + from, before - from,
                    dst + from * reals);
    memset(dst + before * reals, 0, (size_t)((row - before) * reals) * sizeof(REAL));
    N_(read_scaled)(&s->x, &s->gate, s->careful, s->exponent, e + row, to - row, dst + row * reals);
    memset(dst + to * reals, 0, (size_t)((count - to) * reals) * sizeof(REAL));
}

/* Points [n, n + count) of a complex row, the real and the imaginary parts apart. */
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

/* Where places [n, n + count) of the source lie as contiguous REALs: in the caller's row, or in
 * `buffer`, to which they are read. */
INLINE const REAL *N_(places_of)(const struct source *s, int64_t n, int64_t count, REAL *buffer)
{
    const int64_t e = n + s->shift;
    if (!s->gate.data && !s->exponent && e >= max64(0, s->from) && e + count <= s->to) {
        const REAL *contiguous = N_(in_place)(&s->x, e);
        if (contiguous)
            return contiguous;
    }
    N_(read_places)(s, n, count, buffer);
    return buffer;
}
