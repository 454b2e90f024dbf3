/* Everything between the first and the last stage: the stages of phase 1 that remain, phase 2,
 * the product with a spectrum, and the way back.
 *
 * The stages form a tree: below each output of a stage lies a transform of its own, a node of
 * the next level.  It is done depth first, to the product and back, before the next node is
 * touched, so that it stays in cache.  From level `depth` on, a node is a leaf, whose stages
 * are done one after the other. */

/* Of `all` things in a leaf, those that are computed.  Only a leaf that is the whole transform
 * lies below all the outputs of stage 1. */
INLINE int64_t N_(computed_in_leaf)(const struct transform *t, int64_t all)
{
    return t->depth == 0 ? N_(computed_of)(t, all) : all;
}

/* Stage l of phase 1, in one leaf. */
INLINE void N_(leaf_stage)(const struct transform *t, int l, bool inverse, REAL *x, int64_t leaf)
{
    const int64_t groups = t->stage[l].groups / t->leaves;
    N_(middle_stage)(&t->stage[l], inverse, x, leaf * groups, N_(computed_in_leaf)(t, groups));
}

/* Inverse, phase 2 writes only the live vectors of X.  The others become zeros, unless no
 * stage of the leaf reads them. */
INLINE void N_(clear_dead_vectors)(const struct transform *t, int top, int bottom,
                                   const uint8_t *live, int64_t vectors, REAL *x)
{
    bool unread = t->square && t->depth > 0;
    for (int l = top; l < bottom; l++)
        unread &= t->stage[l].skips_dead_outputs;
    if (unread)
        return;
    for (int64_t v = 0; v < vectors; v++)
        if (!live[v])
            memset(x + v * W * t->Qv * 2 * W, 0,
                   (size_t)(min64(W, t->Pl - v * W) * t->Qv * 2 * W) * sizeof(REAL));
}

/* Phase 2 of `run` vectors, from vector v on, of the rows of T. */
INLINE void N_(leaf_phase2)(const struct transform *t, int directions, REAL *x, REAL *T,
                            const REAL *spectrum, int64_t v, int64_t run)
{
    const struct stage *st = t->stage;
    const int n = t->stages;
    const bool both = directions == (FORWARD | INVERSE);
    /* the product is done within the last stage where that is a codelet */
    const bool fused = both && n > t->split && !st[n - 1].dense;
    REAL *columns = T + v * 2 * W;
    const REAL *f = spectrum ? spectrum + v * 2 * W : NULL;
    if (directions & FORWARD) {
        N_(leaf_to_T)(t, x, T, v, v + run);
        for (int l = t->split; l < n - fused; l++)
            N_(phase2_stage)(&st[l], false, columns, t->Plv, run);
    }
    if (fused)
        N_(codelet_stage)(st[n - 1].radix)->innermost(columns, t->Plv, run, st[n - 1].groups, f);
    else if (both)
        for (int64_t q = 0; q < t->Q; q++) {
            REAL *row = columns + q * t->Plv * 2 * W;
            N_(multiply_run)(f + q * t->Plv * 2 * W, row, row, run, false);
        }
    if (directions & INVERSE) {
        for (int l = n - 1 - fused; l >= t->split; l--)
            N_(phase2_stage)(&st[l], true, columns, t->Plv, run);
        N_(leaf_from_T)(t, T, x, v, v + run);
    }
}

static void N_(leaf)(const struct transform *t, int directions, REAL *x, REAL *T,
                     const REAL *spectrum, int64_t leaf, struct prefetch *prefetch)
{
    const int top = t->depth > 1 ? t->depth : 1;
    const int bottom = t->split - t->square; /* squares do the last stage of phase 1 too */
    const int64_t vectors = N_(computed_in_leaf)(t, t->Plv);
    if (directions & FORWARD)
        for (int l = top; l < bottom; l++)
            N_(leaf_stage)(t, l, false, x, leaf);
    const uint8_t *live = t->live ? t->live + leaf * t->Plv : NULL;
    if (live && directions & INVERSE)
        N_(clear_dead_vectors)(t, top, bottom, live, vectors, x);
    for (int64_t v = 0, run; (run = N_(next_run)(live, vectors, &v)) > 0; v += run) {
        if (t->square)
            N_(run_squares)(directions, t, x + v * 2 * W * W, T + v * 2 * W, run,
                            spectrum ? spectrum + v * 2 * W : NULL, prefetch);
        else
            N_(leaf_phase2)(t, directions, x, T, spectrum, v, run);
    }
    if (directions & INVERSE)
        for (int l = bottom - 1; l >= top; l--)
            N_(leaf_stage)(t, l, true, x, leaf);
}

static void N_(subtree)(const struct transform *t, int level, int directions, REAL *x, REAL *S,
                        const REAL *spectrum, REAL *T, int64_t node, struct prefetch *prefetch);

/* Descends into a node if any frequency below it is live.  Else it stays as it is, or, inverse,
 * is cleared, unless the stage above does not read it. */
INLINE void N_(live_subtree)(const struct transform *t, int level, int directions, REAL *x, REAL *S,
                             const REAL *spectrum, REAL *T, int64_t node, struct prefetch *prefetch)
{
    /* below the last stage of phase 1, a node is a vector */
    const uint8_t *live = level < t->split ? t->stage[level].live : t->live;
    if (!live || live[node])
        N_(subtree)(t, level, directions, x, S, spectrum, T, node, prefetch);
    else if (directions & INVERSE && !t->stage[level - 1].skips_dead_outputs)
        memset(x, 0, (size_t)(t->stage[level - 1].sub * 2 * W) * sizeof(REAL));
}

/* A node of a level is a group of butterflies of that stage.  x, S and spectrum point to what
 * belongs to it; S may be NULL, and T is then the scratch memory of the leaves. */
static void N_(subtree)(const struct transform *t, int level, int directions, REAL *x, REAL *S,
                        const REAL *spectrum, REAL *T, int64_t node, struct prefetch *prefetch)
{
    if (level >= t->depth) {
        N_(leaf)(t, directions, x, S ? S : T, spectrum, node, prefetch);
        return;
    }
    const struct stage *st = &t->stage[level];
    int64_t leaves = 1; /* below each output */
    for (int l = level + 1; l < t->depth; l++)
        leaves *= t->stage[l].radix;
    const int64_t reals = leaves * t->leaf_reals;
    if (directions & FORWARD)
        N_(middle_stage)(st, false, x, node, 1);
    for (int k = 0; k < st->radix; k++)
        N_(live_subtree)(t, level + 1, directions, x + k * st->sub * 2 * W,
                         S ? S + k * reals : NULL, spectrum ? spectrum + k * reals : NULL, T,
                         node * st->radix + k, prefetch);
    if (directions & INVERSE)
        N_(middle_stage)(st, true, x, node, 1);
}

static void N_(inner_stages)(const struct transform *t, int directions, void *X, void *S,
                             const void *spectrum, int64_t k0, int64_t k1, void *scratch,
                             struct prefetch *prefetch)
{
    const struct stage *st = &t->stage[0];
    if (t->depth == 0) {
        /* the shortest rows have nothing but squares below stage 1 */
        if (t->square && t->split <= 2 && !t->live)
            N_(run_squares)(directions, t, X, S ? S : scratch, N_(computed_of)(t, t->Plv), spectrum,
                            prefetch);
        else
            N_(leaf)(t, directions, X, S ? S : scratch, spectrum, 0, prefetch);
        return;
    }
    const int64_t reals = t->leaves / st->radix * t->leaf_reals;
    for (int64_t k = k0; k < k1; k++)
        N_(live_subtree)(
            t, 1, directions, (REAL *)X + k * st->sub * 2 * W, S ? (REAL *)S + k * reals : NULL,
            spectrum ? (const REAL *)spectrum + k * reals : NULL, scratch, k, prefetch);
}
