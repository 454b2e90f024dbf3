/* The engine's part of state-space kernels, and of projections (project.c).  engine_body.h
 * includes this file. */

/* x *= k, vectors of complex numbers. */
static void N_(scale_spectra)(int64_t reals, const void *k, void *x)
{
    const REAL *b = k;
    REAL *a = x;
    for (int64_t i = 0; i < reals; i += 2 * W) {
        const V br = *(const VU *)(b + i), bi = *(const VU *)(b + i + W);
        const V ar = *(VU *)(a + i), ai = *(VU *)(a + i + W);
        *(VU *)(a + i) = ar * br - ai * bi;
        *(VU *)(a + i + W) = ar * bi + ai * br;
    }
}

/* x += i y, vectors of complex numbers. */
static void N_(add_turned)(int64_t reals, const void *y, void *x)
{
    const REAL *b = y;
    REAL *a = x;
    for (int64_t i = 0; i < reals; i += 2 * W) {
        *(VU *)(a + i) -= *(const VU *)(b + i + W);
        *(VU *)(a + i + W) += *(const VU *)(b + i);
    }
}

#if IN_DOUBLE

/* ---- Powers --------------------------------------------------------------------------------- */

/* re + i im = start p^r for r < count, where square[i] is p^(2^i).  All powers so far, times
 * the next square, are as many again. */
static void N_(powers)(const double (*square)[2], const double *start, int64_t count,
                       double *restrict re, double *restrict im)
{
    re[0] = start[0], im[0] = start[1];
    for (int64_t have = 1; have < count; have *= 2, square++) {
        const double qr = (*square)[0], qi = (*square)[1];
        const int64_t more = min64(have, count - have);
        double *restrict to_re = re + have, *restrict to_im = im + have;
        for (int64_t r = 0; r < more; r++) {
            to_re[r] = re[r] * qr - im[r] * qi;
            to_im[r] = re[r] * qi + im[r] * qr;
        }
    }
}

/* ---- Cauchy sums ---------------------------------------------------------------------------- */

/* The sums of struct cauchy, W nodes at a time.  A state's two fractions are one real
 * combination of two complex numbers, a and b, which all sums share:
 *     v / (2is - cx) + conj(v) / (2is - c conj(x))
 *         = (4is Re v - 2c Re(v conj x)) / ((c Re x)^2 - (2s - c Im x)(2s + c Im x)
 *                                           - 4isc Re x) */
static void N_(cauchy)(const struct cauchy *f)
{
    for (int64_t j = 0; j < f->nodes; j += W) {
        const V s2 = N_(load)(f->s2 + j), c = N_(load)(f->c + j);
        V re[CAUCHY_SUMS] = {0}, im[CAUCHY_SUMS] = {0};
        const struct cauchy_term *term = f->terms;
        for (int64_t n = 0; n < f->states; n++, term++) {
            const V cr = c * term->x_re, ci = c * term->x_im;
            const V dr = cr * cr - (s2 - ci) * (s2 + ci), di = -2 * s2 * cr;
            const V inverse = 1 / (dr * dr + di * di);
            const V ir = dr * inverse, ii = -di * inverse;
            const V ar = -2 * c * ir, ai = -2 * c * ii, br = -2 * s2 * ii, bi = 2 * s2 * ir;
            UNROLL
            for (int v = 0; v < CAUCHY_SUMS; v++) {
                re[v] += ar * term->v_conj_x[v];
                im[v] += ai * term->v_conj_x[v];
                re[v] += br * term->v_re[v];
                im[v] += bi * term->v_re[v];
            }
        }
        for (int v = 0; v < CAUCHY_SUMS; v++) {
            N_(store)(f->out + 2 * v * f->nodes + j, re[v]);
            N_(store)(f->out + (2 * v + 1) * f->nodes + j, im[v]);
        }
    }
}

/* ---- The recurrence, with a head in each lane ----------------------------------------------- */

/* w = D x - sum_j column_j Re(row_j . x) */
INLINE void N_(solve)(const struct solver *s, int64_t states, int64_t rank, const double *x,
                      double *w)
{
    for (int64_t n = 0; n < states; n++) {
        const double *d = s->diagonal + 2 * n * W, *xn = x + 2 * n * W;
        const V dr = N_(load)(d), di = N_(load)(d + W), xr = N_(load)(xn), xi = N_(load)(xn + W);
        N_(store)(w + 2 * n * W, dr * xr - di * xi);
        N_(store)(w + (2 * n + 1) * W, dr * xi + di * xr);
    }
    V sums[MAX_RANK];
    for (int64_t j = 0; j < rank; j++) {
        const double *row = s->rows + 2 * j * states * W;
        V even = {0}, odd = {0};
        for (int64_t n = 0; n < states; n++) {
            even += N_(load)(row + 2 * n * W) * N_(load)(x + 2 * n * W);
            odd += N_(load)(row + (2 * n + 1) * W) * N_(load)(x + (2 * n + 1) * W);
        }
        sums[j] = even - odd;
    }
    for (int64_t j = 0; j < rank; j++) {
        const double *column = s->columns + 2 * j * states * W;
        for (int64_t i = 0; i < 2 * states; i++)
            N_(store)(w + i * W, N_(load)(w + i * W) - N_(load)(column + i * W) * sums[j]);
    }
}

/* x[m] = Abar x[m-1] = 2 (I - A/2)^-1 x[m-1] - x[m-1] for m = 1 ... steps. */
static void N_(recur)(const struct recurrence *r, int64_t steps, double *x)
{
    const int64_t size = 2 * r->states * W;
    for (int64_t m = 0; m < steps; m++, x += size) {
        N_(solve)(&r->forward, r->states, r->rank, x, x + size);
        for (int64_t i = 0; i < size; i += W)
            N_(store)(x + size + i, 2 * N_(load)(x + size + i) - N_(load)(x + i));
    }
}

/* to += a conj(b) */
INLINE void N_(add_conjugate)(double *to, V ar, V ai, V br, V bi)
{
    N_(store)(to, N_(load)(to) + ar * br + ai * bi);
    N_(store)(to + W, N_(load)(to + W) + ai * br - ar * bi);
}

/* Re(sum conj(a) b) */
INLINE V N_(real_inner)(int64_t states, const double *a, const double *b)
{
    V even = {0}, odd = {0};
    for (int64_t n = 0; n < states; n++) {
        even += N_(load)(a + 2 * n * W) * N_(load)(b + 2 * n * W);
        odd += N_(load)(a + (2 * n + 1) * W) * N_(load)(b + (2 * n + 1) * W);
    }
    return even + odd;
}

/* With now = x[m] and the gradients g_c of sample m: dC_c += 2 g_c conj(x[m]) and, unless
 * dC alone is wanted, a += sum_c 2 g_c conj(C_c). */
INLINE void N_(add_sample)(const struct recurrence *r, const double *now, const double *g,
                           double *a)
{
    const int64_t size = 2 * r->states * W;
    for (int64_t c = 0; c < r->channels; c++) {
        const V g2 = 2 * N_(load)(g + c * W);
        const double *C = r->C + c * size;
        double *dC = r->dC + c * size;
        for (int64_t i = 0; i < size; i += 2 * W) {
            N_(store)(dC + i, N_(load)(dC + i) + g2 * N_(load)(now + i));
            N_(store)(dC + i + W, N_(load)(dC + i + W) - g2 * N_(load)(now + i + W));
            if (r->dC_only)
                continue;
            N_(store)(a + i, N_(load)(a + i) + g2 * N_(load)(C + i));
            N_(store)(a + i + W, N_(load)(a + i + W) - g2 * N_(load)(C + i + W));
        }
    }
}

/* dP -= mu Re(conj(Q) . y) and dQ -= y Re(conj(P) . mu). */
INLINE void N_(add_low_rank)(const struct recurrence *r, const double *mu, const double *y)
{
    const int64_t N = r->states, size = 2 * N * W;
    for (int64_t j = 0; j < r->rank; j++) {
        const V qy = N_(real_inner)(N, r->Q + j * size, y);
        const V pm = N_(real_inner)(N, r->P + j * size, mu);
        double *dP = r->dP + j * size, *dQ = r->dQ + j * size;
        for (int64_t i = 0; i < size; i += W) {
            N_(store)(dP + i, N_(load)(dP + i) - qy * N_(load)(mu + i));
            N_(store)(dQ + i, N_(load)(dQ + i) - pm * N_(load)(y + i));
        }
    }
}

/* The adjoint recurrence, from step m = steps down to 1, where g[m-1] is the gradient of
 * k_c[m] = 2 Re C_c x[m].  A step is x[m] = x[m-1] + A y / 2 with y = x[m] + x[m-1], so that
 *     a[m] = sum_c 2 g_c[m] conj(C_c) + (2 mu - a)[m+1],    mu = (I - A/2)^-* a,
 *     dA += mu conj(y) / 2. */
static void N_(recur_back)(const struct recurrence *r, int64_t steps, const double *x,
                           const double *g, double *a, double *mu, double *y)
{
    const int64_t size = 2 * r->states * W;
    for (int64_t m = steps; m > 0; m--) {
        const double *now = x + m * size, *before = now - size;
        N_(add_sample)(r, now, g + (m - 1) * r->channels * W, a);
        if (r->dC_only)
            continue;
        N_(solve)(&r->adjoint, r->states, r->rank, a, mu);
        for (int64_t i = 0; i < size; i += 2 * W) {
            const V mr = N_(load)(mu + i), mi = N_(load)(mu + i + W);
            const V yr = N_(load)(now + i) + N_(load)(before + i);
            const V yi = N_(load)(now + i + W) + N_(load)(before + i + W);
            N_(store)(y + i, yr);
            N_(store)(y + i + W, yi);
            N_(store)(a + i, 2 * mr - N_(load)(a + i));
            N_(store)(a + i + W, 2 * mi - N_(load)(a + i + W));
            N_(add_conjugate)(r->dA + i, mr / 2, mi / 2, yr, yi);
        }
        N_(add_low_rank)(r, mu, y);
    }
}
#endif
