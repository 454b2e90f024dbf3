/* The first and the last stage: rows of the caller to X, and X to rows of the caller.
 *
 * Row p, column q of X is point n = p Q + q of the row, and stage 1 combines the rows of X that
 * lie P/R apart, where R is its radix: its input r is the r-th of R equal stretches of the row.
 * Where these are contiguous REALs in memory, the stage works there.  Else it takes a strip of
 * columns at a time, whose numbers pass through scratch memory: there, the R rows of the strip
 * follow one another, first those of the real plane, then those of the imaginary one. */

/* Runs `action` for each run of consecutive points in so many columns from `vector` on, counted
 * through all of X: for `count` points from point n on, which stand in the strip from number
 * `at` on.  There is one run, unless the rows of X end in padding. */
#define FOR_RUNS(t, vector, columns, n_, count_, at_, action) \
    do { \
        if ((t)->Q % W == 0) { \
            const int64_t n_ = (vector) * W, count_ = (columns) * W, at_ = 0; \
            action; \
        } else { \
            int64_t v_ = (vector), left_ = (columns); \
            while (left_ > 0) { \
                const int64_t p_ = v_ / (t)->Qv, q_ = v_ % (t)->Qv; \
                const int64_t take_ = min64(left_, (t)->Qv - q_); \
                const int64_t n_ = p_ * (t)->Q + q_ * W; \
                const int64_t count_ = min64(take_ * W, (t)->Q - q_ * W); \
                const int64_t at_ = ((columns) - left_) * W; \
                action; \
                v_ += take_, left_ -= take_; \
            } \
        } \
    } while (0)

/* Do the elements below `to` reach the imaginary plane? */
static bool N_(has_imaginary)(int packing, int64_t to, int64_t shift, int64_t M)
{
    return packing != LINEAR || to - shift > M;
}

/* Are rows that pass through scratch memory prefetched? */
INLINE bool N_(prefetches)(const struct transform *t, int packing)
{
    return t->prefetch_distance && packing == LINEAR && t->Q % W == 0;
}

/* ---- Strips ------------------------------------------------------------------------------ */

/* A strip has `length` numbers in each row.  A strip of every column is the whole of X, and its R
 * rows are one run of places. */
static void N_(first_stage_by_strips)(const struct transform *t, const struct source *s, void *X,
                                      int64_t c0, int64_t c1, void *scratch, REAL *squares)
{
    const struct stage *st = &t->stage[0];
    const int R = st->radix;
    const bool imag = N_(has_imaginary)(s->packing, s->to, s->shift, t->M);
    const bool padded = t->Q % W != 0;
    const bool prefetch = N_(prefetches)(t, s->packing) &&
                          (s->gate.data || !N_(in_place)(&s->x, 0));
    const int64_t strip = prefetch ? t->prefetch_columns : t->strip_columns;
    struct N_(prefetched_rows) soon;
    soon.count = 0;
    if (prefetch)
        N_(add_prefetched)(&soon, &s->x), N_(add_prefetched)(&soon, &s->gate);
    const REAL *z[2][FFTCONV_MAX_RADIX];
    for (int64_t c = c0; c < c1; c += strip) {
        const int64_t columns = min64(strip, c1 - c), length = columns * W;
        const int runs = columns == st->sub && !padded ? 1 : R;
        if (padded)
            memset(scratch, 0, (size_t)(2 * R * length) * sizeof(REAL));
        for (int r = 0; r < runs; r++) {
            const int64_t vector = r * st->sub + c;
            REAL *to[2] = {(REAL *)scratch + r * length, (REAL *)scratch + (R + r) * length};
            z[0][r] = to[0], z[1][r] = to[1];
            if (s->packing != LINEAR) {
                FOR_RUNS(t, vector, columns * (R / runs), n, count, at,
                         N_(read_pairs)(s, n, count, to[0] + at, to[1] + at));
                continue;
            }
            for (int plane = 0; plane <= imag; plane++) {
                const int64_t place = vector * W + plane * t->M;
                if (prefetch)
                    N_(prefetch)(&soon, place + s->shift + t->prefetch_distance, length);
                if (padded)
                    FOR_RUNS(t, vector, columns, n, count, at,
                             N_(read_places)(s, n + plane * t->M, count, to[plane] + at));
                else
                    z[plane][r] = N_(places_of)(s, place, length * (R / runs), to[plane]);
            }
        }
        for (int r = runs; r < R; r++)
            z[0][r] = z[0][0] + r * length, z[1][r] = z[1][0] + r * length;
        struct N_(columns) a = {.x = X,
                                .shift = t->shift,
                                .imag = imag,
                                .half = is_half(t),
                                .row = {(REAL *const *)z[0], (REAL *const *)z[1]},
                                .squares = squares};
        N_(run_columns)(st, N_(FIRST), &a, c, columns);
    }
}

/* Writes all the rows of a strip to the sink at once.  Returns false, and there may still be
 * everything to write, where the rows are complex or padded, or an operand of the sink would
 * have to be converted. */
static bool N_(write_strip)(const struct transform *t, const struct sink *s, int64_t c,
                            int64_t length, bool imag, const REAL *v)
{
    const int64_t R = t->stage[0].radix, step = t->stage[0].sub * W;
    bool written = s->packing == LINEAR && !s->exponent && !s->careful && t->Q % W == 0 &&
                   length % (2 * W) == 0;
    for (int plane = 0; plane <= imag && written; plane++)
        written = N_(write_vectors)(s, c * W + plane * t->M + s->shift, R, step, length,
                                    v + plane * R * length);
    return written;
}

/* Writes a strip run by run: those rows y[plane][r] of it that are in scratch memory. */
INLINE void N_(write_strip_by_runs)(const struct transform *t, const struct sink *s, int64_t c,
                                    int64_t columns, int runs, bool imag, void *scratch,
                                    REAL *(*y)[FFTCONV_MAX_RADIX])
{
    const int R = t->stage[0].radix;
    const int64_t length = columns * W, all = columns * (R / runs);
    for (int r = 0; r < runs; r++) {
        const int64_t vector = r * t->stage[0].sub + c;
        REAL *from[2] = {(REAL *)scratch + r * length, (REAL *)scratch + (R + r) * length};
        if (s->packing != LINEAR) {
            FOR_RUNS(t, vector, all, n, count, at,
                     N_(write_pairs)(s, n, count, from[0] + at, from[1] + at));
            continue;
        }
        for (int plane = 0; plane <= imag; plane++)
            if (y[plane][r] == from[plane])
                FOR_RUNS(t, vector, all, n, count, at,
                         N_(write_run)(s, n + plane * t->M, count, from[plane] + at));
    }
}

/* Where y = v, and all of a row of the strip is wanted, the stage writes that row where y is. */
static void N_(last_stage_by_strips)(const struct transform *t, void *X, const struct sink *s,
                                     int64_t c0, int64_t c1, void *scratch)
{
    const struct stage *st = &t->stage[0];
    const int R = st->radix;
    const bool imag = N_(has_imaginary)(s->packing, s->to, s->shift, t->M);
    const bool plain = N_(sink_is_plain)(s) && t->Q % W == 0;
    const bool prefetch = N_(prefetches)(t, s->packing) && !plain;
    const int64_t strip = prefetch ? t->prefetch_columns : t->strip_columns;
    struct N_(prefetched_rows) soon;
    soon.count = 0;
    if (prefetch)
        N_(add_prefetched)(&soon, &s->y), N_(add_prefetched)(&soon, &s->out_gate);
    if (prefetch && s->twin.data)
        N_(add_prefetched)(&soon, &s->twin), N_(add_prefetched)(&soon, &s->twin_gate);
    else if (prefetch && s->has_skip)
        N_(add_prefetched)(&soon, &s->x), N_(add_prefetched)(&soon, &s->gate);
    REAL *y[2][FFTCONV_MAX_RADIX];
    for (int64_t c = c0; c < c1; c += strip) {
        const int64_t columns = min64(strip, c1 - c), length = columns * W;
        const int runs = columns == st->sub && !plain && t->Q % W == 0 ? 1 : R;
        bool wanted = true;
        for (int r = 0; r < runs; r++)
            for (int plane = 0; plane <= imag; plane++) {
                const int64_t e = (r * st->sub + c) * W + plane * t->M + s->shift;
                const int64_t count = length * (R / runs);
                const bool whole = e >= s->from && e + count <= s->to;
                if (prefetch)
                    N_(prefetch)(&soon, e + t->prefetch_distance, count);
                y[plane][r] = plain && whole ? (REAL *)s->y.data + (e - s->y.origin)
                                             : (REAL *)scratch + (plane * R + r) * length;
                wanted &= whole;
            }
        for (int r = runs; r < R; r++)
            y[0][r] = y[0][0] + r * length, y[1][r] = (REAL *)scratch + (R + r) * length;
        struct N_(columns)
            a = {.x = X, .shift = t->shift, .imag = imag, .half = is_half(t), .row = {y[0], y[1]}};
        N_(run_columns)(st, N_(LAST), &a, c, columns);
        if (!wanted || !(plain || (runs == R && N_(write_strip)(t, s, c, length, imag, scratch))))
            N_(write_strip_by_runs)(t, s, c, columns, runs, imag, scratch, y);
    }
}

/* ---- The two stages ---------------------------------------------------------------------- */

/* Columns of X, from c0 on, beside rows that the stage reads or writes where they are. */
INLINE struct N_(columns)
    N_(columns_in_place)(const struct transform *t, void *X, REAL *rows, bool imag, int64_t c0)
{
    return (struct N_(columns)){.x = X,
                                .shift = t->shift,
                                .imag = imag,
                                .half = is_half(t),
                                .rows = rows + c0 * W,
                                .plane = t->M};
}

static int N_(first_stage)(const struct transform *t, const struct source *s, void *X, int64_t c0,
                           int64_t c1, void *scratch)
{
    V squares = {0};
    const bool imag = N_(has_imaginary)(s->packing, s->to, s->shift, t->M);
    const bool plain = s->packing == LINEAR && !s->gate.data && !s->exponent && t->Q % W == 0 &&
                       s->shift >= max64(0, s->from) && s->shift + t->M * (1 + imag) <= s->to;
    REAL *z = plain ? N_(in_place)(&s->x, s->shift) : NULL;
    if (z) {
        struct N_(columns) a = N_(columns_in_place)(t, X, z, imag, c0);
        a.squares = (REAL *)&squares;
        N_(run_columns)(&t->stage[0], N_(FIRST), &a, c0, c1 - c0);
    } else {
        N_(first_stage_by_strips)(t, s, X, c0, c1, scratch, (REAL *)&squares);
    }
    return N_(seen)(squares, 2 * t->M);
}

static void N_(last_stage)(const struct transform *t, void *X, const struct sink *s, int64_t c0,
                           int64_t c1, void *scratch)
{
    const bool imag = N_(has_imaginary)(s->packing, s->to, s->shift, t->M);
    const bool plain = N_(sink_is_plain)(s) && t->Q % W == 0 && s->shift >= s->from &&
                       s->shift + t->M * (1 + imag) <= s->to;
    if (!plain) {
        N_(last_stage_by_strips)(t, X, s, c0, c1, scratch);
        return;
    }
    struct N_(columns) a = N_(columns_in_place)(t, X, N_(in_place)(&s->y, s->shift), imag, c0);
    N_(run_columns)(&t->stage[0], N_(LAST), &a, c0, c1 - c0);
}
