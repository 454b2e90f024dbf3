/* Dense stages: the same stages as in stage_codelets.h for any radix, whose DFT is the product
 * of a complex matrix and vectors. */

/* y[k] = sum_r F[k][r] x[r], where F[k][r] is element k kstep + r rstep of the matrix.
 * real_in: x has no imaginary part; real_out: only the real part of y is wanted. */
INLINE void N_(dense_dft)(int R, const REAL *matrix, int kstep, int rstep, bool real_in,
                          bool real_out, const V *xr, const V *xi, V *yr, V *yi)
{
    for (int k = 0; k < R; k++) {
        const REAL *f = matrix + 2 * (int64_t)k * kstep;
        V ar = {0}, ai = {0}, br = {0}, bi = {0};
        for (int r = 0; r < R; r++, f += 2 * rstep) {
            ar += xr[r] * f[0];
            if (!real_out)
                ai += xr[r] * f[1];
            if (!real_in) {
                br += xi[r] * f[1];
                if (!real_out)
                    bi += xi[r] * f[0];
            }
        }
        yr[k] = ar - br;
        if (!real_out)
            yi[k] = ai + bi;
    }
}

#define DENSE_LOCALS \
    V xr[FFTCONV_MAX_RADIX], xi[FFTCONV_MAX_RADIX], yr[FFTCONV_MAX_RADIX], yi[FFTCONV_MAX_RADIX]

static void N_(middle_dense)(const struct N_(columns) * a, bool inverse)
{
    const int R = a->R;
    const int re = inverse ? LANES : 0, im = inverse ? 0 : LANES;
    REAL *group = a->x;
    DENSE_LOCALS;
    for (int64_t g = 0; g < a->groups; g++, group += R * a->sub * 2 * W)
        for (int64_t j = 0; j < a->count; j++) {
            REAL *x = group + j * 2 * W;
            for (int k = 0; k < R; k++) {
                xr[k] = N_(load)(x + k * a->sub * 2 * W + re);
                xi[k] = N_(load)(x + k * a->sub * 2 * W + im);
                if (inverse && k > 0)
                    N_(twiddle)(a, j, R - 1, k - 1, &xr[k], &xi[k]);
            }
            N_(dense_dft)(R, a->matrix, R, 1, false, false, xr, xi, yr, yi);
            for (int k = 0; k < R; k++) {
                if (!inverse && k > 0)
                    N_(twiddle)(a, j, R - 1, k - 1, &yr[k], &yi[k]);
                N_(store)(x + k * a->sub * 2 * W + re, yr[k]);
                N_(store)(x + k * a->sub * 2 * W + im, yi[k]);
            }
        }
}

/* In the right angle, F[k][r] = exp(-2 pi i r (k - 1/4) / R) includes the shift. */
static void N_(first_dense)(const struct N_(columns) * a)
{
    const int R = a->R;
    V squares = {0};
    DENSE_LOCALS;
    for (int64_t j = 0; j < a->count; j++) {
        for (int k = 0; k < R; k++) {
            xr[k] = *(const VU *)(N_(strip_row)(a, 0, k) + j * W);
            squares += xr[k] * xr[k];
            if (a->imag) {
                xi[k] = *(const VU *)(N_(strip_row)(a, 1, k) + j * W);
                squares += xi[k] * xi[k];
            }
        }
        if (a->imag)
            N_(dense_dft)(R, a->matrix, R, 1, false, false, xr, xi, yr, yi);
        else
            N_(dense_dft)(R, a->matrix, R, 1, true, false, xr, xi, yr, yi);
        REAL *x = a->x + j * 2 * W;
        for (int k = 0; k < R; k++) {
            N_(twiddle)(a, j, R, k, &yr[k], &yi[k]);
            N_(store)(x + k * a->sub * 2 * W, yr[k]);
            N_(store)(x + k * a->sub * 2 * W + W, yi[k]);
        }
    }
    *(VU *)a->squares += squares;
}

/* x[r] = sum_k conj(F[k][r]) X[k]: the product with the transposed matrix, real and imaginary
 * parts exchanged.  Where only the real part of x is wanted, that is the imaginary part of the
 * exchanged product, Im(F z) = Re(F (-i z)). */
static void N_(last_dense)(const struct N_(columns) * a)
{
    const int R = a->R;
    DENSE_LOCALS;
    for (int64_t j = 0; j < a->count; j++) {
        const REAL *x = a->x + j * 2 * W;
        for (int k = 0; k < R; k++) {
            xi[k] = N_(load)(x + k * a->sub * 2 * W);
            xr[k] = N_(load)(x + k * a->sub * 2 * W + W);
            N_(twiddle)(a, j, R, k, &xr[k], &xi[k]);
        }
        if (a->imag) {
            N_(dense_dft)(R, a->matrix, 1, R, false, false, xr, xi, yr, yi);
        } else {
            /* -i (xr + i xi) = xi - i xr */
            for (int k = 0; k < R; k++)
                xr[k] = -xr[k];
            N_(dense_dft)(R, a->matrix, 1, R, false, true, xi, xr, yi, yr);
        }
        for (int k = 0; k < R; k++) {
            *(VU *)(N_(strip_row)(a, 0, k) + j * W) = yi[k];
            if (a->imag)
                *(VU *)(N_(strip_row)(a, 1, k) + j * W) = yr[k];
        }
    }
}

static void N_(phase2_dense)(const struct stage *st, REAL *T, int64_t width, int64_t count,
                             bool inverse)
{
    const int R = st->radix;
    const REAL *matrix = st->matrix, *twiddle = st->twiddle.fine;
    const int64_t step = st->sub * width * 2 * W;
    const int re = inverse ? LANES : 0, im = inverse ? 0 : LANES;
    DENSE_LOCALS;
    for (int64_t g = 0; g < st->groups; g++, T += R * step)
        for (int64_t m = 0; m < st->sub; m++) {
            const REAL *w = twiddle + m * (R - 1) * 2;
            for (int64_t j = 0; j < count; j++) {
                REAL *x = T + (m * width + j) * 2 * W;
                for (int k = 0; k < R; k++) {
                    xr[k] = N_(load)(x + k * step + re);
                    xi[k] = N_(load)(x + k * step + im);
                    if (inverse && k > 0)
                        MULTIPLY(xr[k], xi[k], w[2 * k - 2], w[2 * k - 1]);
                }
                N_(dense_dft)(R, matrix, R, 1, false, false, xr, xi, yr, yi);
                for (int k = 0; k < R; k++) {
                    if (!inverse && k > 0)
                        MULTIPLY(yr[k], yi[k], w[2 * k - 2], w[2 * k - 1]);
                    N_(store)(x + k * step + re, yr[k]);
                    N_(store)(x + k * step + im, yi[k]);
                }
            }
        }
}
#undef DENSE_LOCALS
