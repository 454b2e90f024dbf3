/* Spectra of rows: products and sums, vector by vector, of what of them is computed. */

/* out = f in, or conj(f) in. */
static void N_(multiply_run)(const REAL *f, const REAL *in, REAL *out, int64_t vectors,
                             bool adjoint)
{
    for (int64_t v = 0; v < vectors; v++, f += 2 * W, in += 2 * W, out += 2 * W) {
        V r = N_(load)(in), i = N_(load)(in + W), c = N_(load)(f), s = N_(load)(f + W);
        if (adjoint)
            s = -s;
        MULTIPLY(r, i, c, s);
        N_(store)(out, r);
        N_(store)(out + W, i);
    }
}

/* ---- What is computed -------------------------------------------------------------------- */

/* Of `all` things that lie below the outputs of stage 1, those below the outputs that are
 * computed. */
INLINE int64_t N_(computed_of)(const struct transform *t, int64_t all)
{
    return is_half(t) ? all / t->stage[0].radix * t->stage1_outputs : all;
}

/* Looks for the next vector that is computed, from *v on and below `end`, and moves *v there.
 * Returns how many from there on are computed; 0 if there is none. */
INLINE int64_t N_(computed_run)(const struct transform *t, int64_t end, int64_t *v)
{
    if (!t->live) {
        /* a transform of one leaf: of each row of T; else of the whole spectrum */
        const int64_t all = t->depth > 0 ? t->spectra_reals / (2 * W) : t->Plv;
        const int64_t computed = N_(computed_of)(t, all);
        if (computed == all)
            return end - *v;
        if (*v % all >= computed)
            *v += all - *v % all;
        return max64(0, min64(computed - *v % all, end - *v));
    }
    while (*v < end) {
        const int64_t row = *v / t->Plv;
        int64_t p = *v % t->Plv;
        const int64_t n = N_(next_run)(t->live + row / t->Q * t->Plv, t->Plv, &p);
        *v = row * t->Plv + p;
        if (n > 0)
            return min64(n, end - *v);
    }
    return 0;
}

/* Takes a piece of a row of spectra by such runs, of `n` vectors from vector `v` on. */
#define FOR_COMPUTED(t, piece, pieces, v, n) \
    for (int64_t vectors_ = (t)->spectra_reals / (2 * W), v = vectors_ * (piece) / (pieces), \
                 end_ = vectors_ * ((piece) + 1) / (pieces), n; \
         (n = N_(computed_run)(t, end_, &v)) > 0; v += n)

/* ---- Products and sums ------------------------------------------------------------------- */

static void N_(multiply_spectra)(const struct transform *t, const void *spectrum, const void *in,
                                 void *out, bool adjoint, int64_t piece, int64_t pieces)
{
    FOR_COMPUTED(t, piece, pieces, v, n)
    N_(multiply_run)((const REAL *)spectrum + v * 2 * W, (const REAL *)in + v * 2 * W,
                     (REAL *)out + v * 2 * W, n, adjoint);
}

/* d += scale weights conj(z) g, or begins with that; then g *= conj(f).  weights, one for each
 * point, and f may be NULL. */
INLINE void N_(accumulate_run)(bool begin, REAL scale, const REAL *weights, int64_t vectors,
                               REAL *d, const REAL *z, REAL *g, const REAL *f)
{
    for (int64_t o = 0; o < vectors * 2 * W; o += 2 * W) {
        V zr = N_(load)(z + o) * scale, zi = N_(load)(z + o + W) * scale;
        V gr = N_(load)(g + o), gi = N_(load)(g + o + W), dr = {0}, di = {0};
        if (weights) {
            const V w = N_(load)(weights + o / 2);
            zr *= w, zi *= w;
        }
        if (!begin)
            dr = N_(load)(d + o), di = N_(load)(d + o + W);
        N_(store)(d + o, dr + (zr * gr + zi * gi));
        N_(store)(d + o + W, di + (zr * gi - zi * gr));
        if (f) {
            MULTIPLY(gr, gi, N_(load)(f + o), -N_(load)(f + o + W));
            N_(store)(g + o, gr);
            N_(store)(g + o + W, gi);
        }
    }
}

static void N_(accumulate_spectra)(const struct transform *t, double scale, bool begin, void *sum,
                                   const void *Z, void *G, const void *spectrum, int64_t piece,
                                   int64_t pieces)
{
    const REAL *f = spectrum, *weights = t->weights;
    FOR_COMPUTED(t, piece, pieces, v, n)
    {
        const int64_t o = v * 2 * W;
        REAL *d = (REAL *)sum + o, *g = (REAL *)G + o;
        const REAL *z = (const REAL *)Z + o, *w = weights ? weights + v * W : NULL;
        if (begin)
            N_(accumulate_run)(true, (REAL)scale, w, n, d, z, g, f ? f + o : NULL);
        else
            N_(accumulate_run)(false, (REAL)scale, w, n, d, z, g, f ? f + o : NULL);
    }
}

static void N_(add_spectra)(const struct transform *t, void *sum, const void *other)
{
    REAL *d = sum;
    const REAL *o = other;
    FOR_COMPUTED(t, 0, 1, v, n)
    for (int64_t i = v * 2 * W; i < (v + n) * 2 * W; i++)
        d[i] += o[i];
}

static void N_(weigh_spectra)(const struct transform *t, double scale, void *S)
{
    REAL *s = S;
    const REAL *weights = t->weights, c = (REAL)scale;
    if (!weights) {
        int64_t done = 0; /* vectors */
        FOR_COMPUTED(t, 0, 1, v, n)
        {
            memset(s + done * 2 * W, 0, (size_t)((v - done) * 2 * W) * sizeof(REAL));
            for (int64_t i = v * 2 * W; i < (v + n) * 2 * W; i++)
                s[i] *= c;
            done = v + n;
        }
        memset(s + done * 2 * W, 0, (size_t)(t->spectra_reals - done * 2 * W) * sizeof(REAL));
        return;
    }
    /* where a weight is zero, nothing was computed, and memory may hold NaN: it is masked out */
    for (int64_t i = 0; i < t->spectra_reals; i += 2 * W, weights += W) {
        const V w = N_(load)(weights) * c;
        const VI wanted = w != 0;
        N_(store)(s + i, (V)((VI)(N_(load)(s + i) * w) & wanted));
        N_(store)(s + i + W, (V)((VI)(N_(load)(s + i + W) * w) & wanted));
    }
}
