/* Squares: where the last stage of phase 1 and the only stage of phase 2 have radix LANES, the
 * LANES x LANES points of a square go through both stages, the product and the way back in
 * registers.
 *
 * outer: the square does both stages, and w are the twiddles of the one of phase 1.  Else that
 * one is stage 1, which is done elsewhere, and the square does the other alone. */

/* r, i = the real and imaginary parts of the square at x, after its stages. */
INLINE void N_(square_forward)(bool outer, const REAL *w, const REAL *x, V *r, V *i)
{
    UNROLL
    for (int k = 0; k < LANES; k++)
        r[k] = N_(load)(x + k * 2 * W), i[k] = N_(load)(x + k * 2 * W + W);
    if (outer)
        N_(dft)(LANES, r, i);
    UNROLL
    for (int k = 1; outer && k < LANES; k++) {
        const REAL *f = w + (k - 1) * 2 * W;
        MULTIPLY(r[k], i[k], N_(load)(f), N_(load)(f + W));
    }
    TRANSPOSE(r);
    TRANSPOSE(i);
    N_(dft)(LANES, r, i);
}

/* And back: r and i are exchanged in the codelets and products (stage_codelets.h). */
INLINE void N_(square_inverse)(bool outer, const REAL *w, V *r, V *i, REAL *x)
{
    N_(dft)(LANES, i, r);
    TRANSPOSE(r);
    TRANSPOSE(i);
    UNROLL
    for (int k = 1; outer && k < LANES; k++) {
        const REAL *f = w + (k - 1) * 2 * W;
        MULTIPLY(i[k], r[k], N_(load)(f), N_(load)(f + W));
    }
    if (outer)
        N_(dft)(LANES, i, r);
    UNROLL
    for (int k = 0; k < LANES; k++) {
        N_(store)(x + k * 2 * W, r[k]);
        N_(store)(x + k * 2 * W + W, i[k]);
    }
}

/* Squares that stand beside each other.  A square is LANES consecutive vectors of X, and one
 * vector of each row of T, where its spectra are, and of the spectrum; these rows have `width`
 * vectors. */
INLINE void N_(squares)(int directions, bool outer, const REAL *w, REAL *x, REAL *T, int64_t count,
                        int64_t width, const REAL *spectrum, struct prefetch *prefetch)
{
    const int64_t step = width * 2 * W;
    for (int64_t n = 0; n < count; n++, x += 2 * W * W, T += 2 * W, spectrum += 2 * W) {
        V r[LANES], i[LANES];
        for (int row = 0; prefetch && row < prefetch->rows; row++) {
            for (int64_t byte = 0; byte < prefetch->step; byte += ALIGNMENT)
                __builtin_prefetch(prefetch->at[row] + byte, 0, 2);
            prefetch->at[row] += prefetch->step;
        }
        if (directions & FORWARD)
            N_(square_forward)(outer, w, x, r, i);
        UNROLL
        for (int k = 0; k < LANES; k++) {
            const REAL *f = spectrum + k * step;
            REAL *y = T + k * step;
            if (directions == FORWARD || directions & KEEP_SPECTRA)
                N_(store)(y, r[k]), N_(store)(y + W, i[k]);
            if (directions & FORWARD && directions & INVERSE)
                MULTIPLY(r[k], i[k], N_(load)(f), N_(load)(f + W));
            else if (directions & INVERSE)
                r[k] = N_(load)(y), i[k] = N_(load)(y + W);
        }
        if (directions & INVERSE)
            N_(square_inverse)(outer, w, r, i, x);
    }
}

/* The same, with directions and `outer` as constants.  Without a spectrum, T stands in its place,
 * since its address is computed all the same. */
static void N_(run_squares)(int directions, const struct transform *t, REAL *x, REAL *T,
                            int64_t count, const REAL *spectrum, struct prefetch *prefetch)
{
    const REAL *w = t->stage[t->split - 1].twiddle.fine;
#define SQUARES(directions, outer, f) \
    N_(squares)(directions, outer, w, x, T, count, t->Plv, f, prefetch)
#define EITHER(directions, f) \
    t->split > 1 ? SQUARES(directions, true, f) : SQUARES(directions, false, f)
    switch (directions) {
    case FORWARD: EITHER(FORWARD, T); break;
    case INVERSE: EITHER(INVERSE, T); break;
    case FORWARD | INVERSE: EITHER(FORWARD | INVERSE, spectrum); break;
    default: EITHER(FORWARD | INVERSE | KEEP_SPECTRA, spectrum);
    }
#undef EITHER
#undef SQUARES
}
