/* A stage of a transform, by codelets (stage_codelets.h) or dense (stage_dense.h), over all its
 * groups of butterflies. */

/* Which stage of phase 1: the first, the last of the way back, or one between. */
enum N_(step) { N_(FIRST), N_(MIDDLE), N_(MIDDLE_INVERSE), N_(LAST) };

/* Columns [c0, c0 + count) of the group of butterflies at a->x.  They are cut where the coarse
 * twiddle changes. */
static void N_(run_columns)(const struct stage *st, enum N_(step) step, struct N_(columns) * a,
                            int64_t c0, int64_t count)
{
    const int R = st->radix;
    const int K = step == N_(FIRST) || step == N_(LAST) ? R : R - 1;
    const struct N_(stage_kernels) *codelet = N_(codelet_stage)(st->dense ? 0 : R);
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
        switch (step) {
        case N_(FIRST): st->dense ? N_(first_dense)(a) : codelet->first(a); break;
        case N_(LAST): st->dense ? N_(last_dense)(a) : codelet->last(a); break;
        default:
            st->dense ? N_(middle_dense)(a, step == N_(MIDDLE_INVERSE))
                      : codelet->middle(a, step == N_(MIDDLE_INVERSE));
        }
    }
    a->x = x;
}

/* Looks for the next live entry of n, from *at on, which moves there.  Returns how many entries
 * from there on have the same flag; 0 if there is none.  Without flags, all are live. */
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

/* Groups [g0, g0 + groups) of a stage of phase 1 that is not the first; group g0 lies at x. */
static void N_(middle_stage)(const struct stage *st, bool inverse, REAL *x, int64_t g0,
                             int64_t groups)
{
    const uint8_t *live = st->live ? st->live + g0 : NULL;
    for (int64_t g = 0, run; (run = N_(next_run)(live, groups, &g)) > 0; g += run) {
        /* Coarse twiddles change within a group, so that each group needs calls of its own. */
        const int64_t together = st->twiddle.coarse ? 1 : run;
        for (int64_t i = g; i < g + run; i += together) {
            struct N_(columns) a = {.x = x + i * st->radix * st->sub * 2 * W, .groups = together};
            if (live && st->skips_dead_outputs && live[g] == SOME)
                a.live = st[1].live + (g0 + i) * st->radix;
            N_(run_columns)(st, inverse ? N_(MIDDLE_INVERSE) : N_(MIDDLE), &a, 0, st->sub);
        }
    }
}

/* A stage of phase 2 on `count` columns of T, whose rows have `width` vectors. */
static void N_(phase2_stage)(const struct stage *st, bool inverse, REAL *T, int64_t width,
                             int64_t count)
{
    if (st->dense)
        N_(phase2_dense)(st, T, width, count, inverse);
    else
        N_(codelet_stage)(st->radix)->rows(T, width, count, st->sub, st->groups, st->twiddle.fine,
                                           inverse);
}

/* The stages of a DFT without a phase 1: LANES transforms beside each other. */
static void N_(column_stages)(const struct stage *st, int count, void *T)
{
    for (int l = 0; l < count; l++)
        N_(phase2_stage)(&st[l], false, T, 1, 1);
}
