/* State-space kernels: their work on vectors.  Included by engine_body.h. */

/* ---- Matrix products -------------------------------------------------------- */

/* One tile of out = a b: `rows` rows, `vectors` vectors of columns. */
INLINE void N_(product_tile)(int rows, int vectors, int64_t depth, const REAL *a, int64_t a_step,
                             const REAL *b, int64_t b_step, REAL *out, int64_t out_step)
{
    V sum[4][2] = {0};
    for (int64_t d = 0; d < depth; d++, b += b_step) {
        V column[2] = {0};
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            column[j] = *(const VU *)(b + j * W);
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++)
                sum[i][j] += column[j] * a[i * a_step + d];
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            *(VU *)(out + i * out_step + j * W) = sum[i][j];
}

/* struct matmul of internal.h */
static void N_(matmul)(const struct matmul *p)
{
    const REAL *a = p->a, *b = p->b;
    REAL *out = p->out;
    for (int64_t c = 0; c < p->columns; c += 2 * W) {
        const bool two = p->columns - c > W;
        for (int64_t r = 0; r < p->rows;) {
            const REAL *ar = a + r * p->a_step, *bc = b + c;
            REAL *to = out + r * p->out_step + c;
            const bool four = p->rows - r >= 4;
            if (four && two)
                N_(product_tile)(4, 2, p->depth, ar, p->a_step, bc, p->b_step, to, p->out_step);
            else if (four)
                N_(product_tile)(4, 1, p->depth, ar, p->a_step, bc, p->b_step, to, p->out_step);
            else if (two)
                N_(product_tile)(1, 2, p->depth, ar, p->a_step, bc, p->b_step, to, p->out_step);
            else
                N_(product_tile)(1, 1, p->depth, ar, p->a_step, bc, p->b_step, to, p->out_step);
            r += four ? 4 : 1;
        }
    }
}

/* x *= k, complex numbers */
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

/* x += i y */
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

/* ---- Vandermonde ------------------------------------------------------------ */

/* re + i im = start p^r, r < count, by doubling: square[i] is p^(2^i). */
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

/* ---- Cauchy ------------------------------------------------------------------- */

/* struct cauchy of internal.h, W nodes at a time:
 *     v / (2is - cx) + conj(v) / (2is - c conj(x))
 *         = (4is Re v - 2c Re(v conj x)) / ((c Re x)^2 - (2s - c Im x)(2s + c Im x)
 *                                           - 4isc Re x) */
static void N_(cauchy)(const struct cauchy *f)
{
    for (int64_t j = 0; j < f->nodes; j += W) {
        const V s2 = N_(load)(f->s2 + j), c = N_(load)(f->c + j);
        V re[CAUCHY] = {0}, im[CAUCHY] = {0};
        const double *term = f->terms;
        for (int64_t n = 0; n < f->states; n++, term += 2 + 2 * CAUCHY) {
            const V cr = c * term[0], ci = c * term[1];
            const V dr = cr * cr - (s2 - ci) * (s2 + ci), di = -2 * s2 * cr;
            const V inverse = 1 / (dr * dr + di * di);
            const V ir = dr * inverse, ii = -di * inverse;
            const V ar = -2 * c * ir, ai = -2 * c * ii, br = -2 * s2 * ii, bi = 2 * s2 * ir;
#pragma GCC unroll 4
            for (int v = 0; v < CAUCHY; v++) {
                re[v] += ar * term[2 + v];
                im[v] += ai * term[2 + v];
                re[v] += br * term[2 + CAUCHY + v];
                im[v] += bi * term[2 + CAUCHY + v];
            }
        }
        for (int v = 0; v < CAUCHY; v++) {
            N_(store)(f->out + 2 * v * f->nodes + j, re[v]);
            N_(store)(f->out + (2 * v + 1) * f->nodes + j, im[v]);
        }
    }
}

/* ---- The recurrence, a lane for each head ------------------------------------- */

/* w = (I - A/2)^-1 x = D x - sum_j column_j Re(row_j . x) */
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

/* x[m] = 2 (I - A/2)^-1 x[m - 1] - x[m - 1], m = 1 ... steps */
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

/* Backwards over x[1 ... steps], g[m - 1] the gradient of sample m: with
 *     k_c[m] = 2 Re C_c x[m],    x[m] = x[m-1] + A y / 2,    y = x[m] + x[m-1],
 *     a[m] = sum_c 2 g_c[m] conj(C_c) + (2 mu - a)[m+1],    mu = (I - A/2)^-* a */
static void N_(recur_back)(const struct recurrence *r, int64_t steps, const double *x,
                           const double *g, double *a, double *mu, double *y)
{
    const int64_t N = r->states, size = 2 * N * W;
    for (int64_t m = steps; m > 0; m--) {
        const double *now = x + m * size, *before = now - size;
        const double *gm = g + (m - 1) * r->channels * W;
        for (int64_t c = 0; c < r->channels; c++) {
            const V g2 = 2 * N_(load)(gm + c * W);
            const double *C = r->C + c * size;
            double *dC = r->dC ? r->dC + c * size : NULL;
            for (int64_t i = 0; i < size; i += 2 * W) {
                if (dC) {
                    N_(store)(dC + i, N_(load)(dC + i) + g2 * N_(load)(now + i));
                    N_(store)(dC + i + W, N_(load)(dC + i + W) - g2 * N_(load)(now + i + W));
                }
                if (!r->states_too)
                    continue;
                N_(store)(a + i, N_(load)(a + i) + g2 * N_(load)(C + i));
                N_(store)(a + i + W, N_(load)(a + i + W) - g2 * N_(load)(C + i + W));
            }
        }
        if (!r->states_too)
            continue;
        N_(solve)(&r->adjoint, N, r->rank, a, mu);
        for (int64_t i = 0; i < size; i += 2 * W) {
            const V mr = N_(load)(mu + i), mi = N_(load)(mu + i + W);
            const V yr = N_(load)(now + i) + N_(load)(before + i);
            const V yi = N_(load)(now + i + W) + N_(load)(before + i + W);
            N_(store)(y + i, yr);
            N_(store)(y + i + W, yi);
            N_(store)(a + i, 2 * mr - N_(load)(a + i));
            N_(store)(a + i + W, 2 * mi - N_(load)(a + i + W));
            /* dA = mu conj(y) / 2 */
            N_(add_conjugate)(r->dA + i, mr / 2, mi / 2, yr, yi);
        }
        /* dP = -mu Re(conj(Q) . y), dQ = -y Re(conj(P) . mu) */
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
}
#endif
