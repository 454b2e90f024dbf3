/* Kernels of state-space models, and their gradients.
 *
 *     k[l] = 2 Re C Abar^l Bbar,   Abar, Bbar from A, B in units of one step
 *
 * Diagonal A (S4D): powers of e^x or its bilinear likeness meet weights, a
 * Vandermonde product.  With l = a R + b, p^l = p^(aR) p^b: two tables of float64
 * powers, a column of about sqrt(L) entries each, whose product is the kernel.
 *
 * Diagonal plus low rank (S4): the generating function sum_l k[l] z^l at the M
 * points where z^M = i, so that its inverse DFT gives k[l] + i k[l + M] times
 * exp(pi i l / 2M); Cauchy sums there, in a form without the pole at z = -1.
 *
 * Nothing has H N L entries. */
#include "engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct complex {
    double re, im;
};

static struct complex times(struct complex a, struct complex b)
{
    return (struct complex){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
static struct complex over(struct complex a, struct complex b)
{
    const double size = b.re * b.re + b.im * b.im;
    return (struct complex){(a.re * b.re + a.im * b.im) / size, (a.im * b.re - a.re * b.im) / size};
}
static struct complex plus(struct complex a, struct complex b)
{
    return (struct complex){a.re + b.re, a.im + b.im};
}
static struct complex scaled(double s, struct complex a)
{
    return (struct complex){s * a.re, s * a.im};
}
static struct complex conjugate(struct complex a) { return (struct complex){a.re, -a.im}; }

/* Entry [i, h, n] of parameters (any, H, N). */
static struct complex entry(const fftconv_ssm_desc *d, const double *x, int64_t i, int64_t h,
                            int64_t n)
{
    const double *at = x + 2 * ((i * d->heads + h) * d->states + n);
    return (struct complex){at[0], at[1]};
}
static void put(const fftconv_ssm_desc *d, double *x, int64_t i, int64_t h, int64_t n,
                struct complex value)
{
    double *at = x + 2 * ((i * d->heads + h) * d->states + n);
    at[0] = value.re, at[1] = value.im;
}

/* Bytes from the start of k or dk to row [input, channel, head]. */
static int64_t row_offset(const fftconv_ssm_desc *d, int64_t i, int64_t c, int64_t h)
{
    return ((i * d->channels + c) * d->heads + h) * d->length * dtype_size(d->dtype);
}

/* dk's samples as float64 */
static double sample(const fftconv_ssm_desc *d, const void *row, int64_t l)
{
    return d->dtype == FFTCONV_DTYPE_FLOAT64 ? ((const double *)row)[l]
                                             : (double)((const float *)row)[l];
}

struct job {
    const fftconv_ssm_desc *d;
    const struct engine *engine; /* of float64 */
    int64_t W;                   /* its lanes */
    int threads;
    char *work;
    int64_t work_bytes; /* of each worker */
    /* diagonal */
    const struct engine *product; /* of k's type, or of float64 */
    int64_t R, rows;              /* l = a R + b, b < R, a < rows */
    int squares;                  /* powers 2^0 ... of p that tables need */
    /* low rank */
    int64_t M, groups;
    int64_t nodes; /* M, in whole vectors */
    double *s2, *c, *Ct;
    struct stage stage[MAX_STAGES];
    int stages;
    int64_t *place;        /* of T: which sample it holds */
    double *untwist;       /* exp(-pi i l / 2M) / M, by place */
    int64_t steps, blocks; /* of the recurrence, and of how many at a time */
};

/* ---- The diagonal kernel ---------------------------------------------------------- */

/* (e^x - 1) / x and, where wanted, its derivative; series where e^x - 1 cancels. */
static struct complex phi(struct complex x, struct complex *derivative)
{
    const struct complex one = {1, 0};
    if (fabs(x.re) + fabs(x.im) < 1) {
        struct complex sum = {0, 0}, slope = {0, 0}, power = one;
        double factorial = 1; /* 1 / (k + 1)! */
        for (int k = 0; k < 22; k++) {
            sum = plus(sum, scaled(factorial, power));
            slope = plus(slope, scaled(factorial * (k + 1) / (k + 2), power));
            power = times(power, x);
            factorial /= k + 2;
        }
        if (derivative)
            *derivative = slope; /* sum (k + 1) x^k / (k + 2)! */
        return sum;
    }
    const double r = exp(x.re), s = sin(x.im / 2);
    const struct complex e1 = {expm1(x.re) * cos(x.im) - 2 * s * s, r * sin(x.im)};
    const struct complex f = over(e1, x);
    if (derivative) /* (e^x - phi) / x */
        *derivative = over(plus(plus(e1, one), scaled(-1, f)), x);
    return f;
}

/* What one state's x = A brings: the powers p^(2^i), in long double since errors
 * double with each; the factor f of C B, and derivatives of p and f by x. */
struct pole {
    struct complex f, df, dp;
};

static struct pole pole_of(const fftconv_ssm_desc *d, struct complex x, int count,
                           double (*square)[2])
{
    const struct complex one = {1, 0}, half = {1 - x.re / 2, -x.im / 2};
    struct pole q;
    long double pr, pi;
    if (d->discretization == FFTCONV_DISCRETIZATION_BILINEAR) { /* p = (1 + x/2) / (1 - x/2) */
        const long double ar = 1 + (long double)x.re / 2, br = 1 - (long double)x.re / 2,
                          bi = (long double)x.im / 2, size = br * br + bi * bi;
        pr = (ar * br - bi * bi) / size, pi = (bi * br + ar * bi) / size;
        q.f = over(one, half);
        q.dp = times(q.f, q.f);
        q.df = scaled(0.5, q.dp);
    } else {
        const long double size = expl(x.re);
        pr = size * cosl(x.im), pi = size * sinl(x.im);
        q.f = phi(x, &q.df);
        q.dp = (struct complex){(double)pr, (double)pi};
    }
    const struct complex p = {(double)pr, (double)pi};
    for (int i = 0; i < count; i++) {
        square[i][0] = (double)pr, square[i][1] = (double)pi;
        const long double re = pr * pr - pi * pi;
        pi = 2 * pr * pi, pr = re;
    }
    if (d->discretization == FFTCONV_DISCRETIZATION_DSS) {
        /* over e^(xL) - 1 = xL phi(xL), whose derivative is L e^(xL) */
        const double L = (double)d->length;
        const struct complex xl = scaled(L, x), e1 = times(xl, phi(xl, NULL));
        const struct complex slope = scaled(L, plus(e1, one));
        q.df = over(plus(q.df, scaled(-1, over(times(q.f, slope), e1))), e1);
        q.f = over(q.f, e1);
    }
    if (d->state) /* B is a state: k[l] = 2 Re C p^(l+1) B */
        q.f = p, q.df = q.dp;
    return q;
}

/* dss sums all of its states, the others half of conjugate pairs. */
static double factor_of(const fftconv_ssm_desc *d)
{
    return d->discretization == FFTCONV_DISCRETIZATION_DSS ? 1 : 2;
}

/* to[i step] = value; in float32 what would be subnormal is 0 */
static void put_real(int real_bytes, void *to, int64_t i, double value)
{
    if (real_bytes == 8)
        ((double *)to)[i] = value;
    else
        ((float *)to)[i] = fabs(value) < 1e-30 ? 0 : (float)value;
}

static int64_t bytes_of(int64_t reals, int real_bytes)
{
    return round_up(reals * real_bytes, ALIGNMENT);
}

static void *take(char **cursor, int64_t bytes)
{
    void *p = *cursor;
    *cursor += bytes;
    return p;
}

static int log2_of(int64_t power_of_two)
{
    return __builtin_ctzll((unsigned long long)power_of_two);
}

static int64_t diagonal_bytes(const struct job *j)
{
    const fftconv_ssm_desc *d = j->d;
    const int real = j->product->real_bytes;
    const int64_t N = d->states;
    return bytes_of(N * j->squares * 2, 8) + 2 * bytes_of(max64(j->R, j->rows), 8) +
           bytes_of(N * (int64_t)sizeof(struct pole) / 8, 8) + bytes_of(2 * N * j->R, real) +
           bytes_of(j->rows * 2 * N, real) + bytes_of(j->R, real);
}

/* k[i, c, h] for all i, c: rows a of [Re, Im](w p^(aR)), times columns b of
 * [Re, -Im](2 p^b). */
static int diagonal_task(void *context, int64_t h, int worker)
{
    const struct job *j = context;
    const fftconv_ssm_desc *d = j->d;
    const int64_t N = d->states, R = j->R, rows = j->rows, full = d->length / R;
    const int real = j->product->real_bytes;
    char *cursor = j->work + worker * j->work_bytes;
    double (*square)[2] = take(&cursor, bytes_of(N * j->squares * 2, 8));
    double *re = take(&cursor, bytes_of(max64(R, rows), 8));
    double *im = take(&cursor, bytes_of(max64(R, rows), 8));
    struct pole *poles = take(&cursor, bytes_of(N * (int64_t)sizeof *poles / 8, 8));
    void *columns = take(&cursor, bytes_of(2 * N * R, real));
    void *weighted = take(&cursor, bytes_of(rows * 2 * N, real));
    void *last = take(&cursor, bytes_of(R, real));
    const double factor = factor_of(d);
    for (int64_t n = 0; n < N; n++) {
        const double start[2] = {factor, 0};
        poles[n] = pole_of(d, entry(d, d->A, 0, h, n), j->squares, square + n * j->squares);
        j->engine->ssm.powers((const double (*)[2])(square + n * j->squares), start, R, re, im);
        for (int64_t b = 0; b < R; b++) {
            put_real(real, columns, 2 * n * R + b, re[b]);
            put_real(real, columns, (2 * n + 1) * R + b, -im[b]);
        }
    }
    for (int64_t i = 0; i < d->inputs; i++)
        for (int64_t c = 0; c < d->channels; c++) {
            for (int64_t n = 0; n < N; n++) {
                const struct complex w = times(
                    poles[n].f, times(entry(d, d->B, i, h, n), entry(d, d->C, c, h, n)));
                const double start[2] = {w.re, w.im};
                j->engine->ssm.powers((const double (*)[2])(square + n * j->squares + log2_of(R)),
                                      start, rows, re, im);
                for (int64_t a = 0; a < rows; a++) {
                    put_real(real, weighted, 2 * (a * N + n), re[a]);
                    put_real(real, weighted, 2 * (a * N + n) + 1, im[a]);
                }
            }
            char *k = (char *)d->k + row_offset(d, i, c, h);
            struct matmul p = {.rows = full,
                               .columns = R,
                               .depth = 2 * N,
                               .a = weighted,
                               .b = columns,
                               .out = k,
                               .a_step = 2 * N,
                               .b_step = R,
                               .out_step = R};
            j->product->matrix.multiply(&p);
            if (full < rows) {
                p.rows = 1, p.a = (char *)weighted + full * 2 * N * real, p.out = last;
                j->product->matrix.multiply(&p);
                const int size = dtype_size(d->dtype);
                if (size == real)
                    memcpy(k + full * R * real, last, (size_t)((d->length - full * R) * real));
                for (int64_t l = 0; size < real && l < d->length; l++)
                    ((float *)k)[l] = (float)((const double *)last)[l];
            }
        }
    return FFTCONV_STATUS_OK;
}

/* to += factor conj(value), where wanted */
static void add_gradient(const fftconv_ssm_desc *d, double *to, int64_t i, int64_t h, int64_t n,
                         struct complex value)
{
    if (to)
        put(d, to, i, h, n, plus(entry(d, to, i, h, n), scaled(factor_of(d), conjugate(value))));
}

static int64_t diagonal_back_bytes(const struct job *j)
{
    const int64_t N = j->d->states, wide = round_up(4 * N, j->W);
    return bytes_of(N * j->squares * 2, 8) + 2 * bytes_of(max64(j->R, j->rows), 8) +
           bytes_of(N * (int64_t)sizeof(struct pole) / 8, 8) + bytes_of(j->R * wide, 8) +
           2 * bytes_of(N * j->rows, 8) + bytes_of(2 * N, 8) + bytes_of(j->rows * j->R, 8) +
           bytes_of(j->rows * wide, 8);
}

/* From the moments sum_l g[l] p^l and sum_l l g[l] p^(l-1) of every row. */
static int diagonal_back_task(void *context, int64_t h, int worker)
{
    const struct job *j = context;
    const fftconv_ssm_desc *d = j->d;
    const int64_t N = d->states, R = j->R, rows = j->rows, wide = round_up(4 * N, j->W);
    char *cursor = j->work + worker * j->work_bytes;
    double (*square)[2] = take(&cursor, bytes_of(N * j->squares * 2, 8));
    double *re = take(&cursor, bytes_of(max64(R, rows), 8));
    double *im = take(&cursor, bytes_of(max64(R, rows), 8));
    struct pole *poles = take(&cursor, bytes_of(N * (int64_t)sizeof *poles / 8, 8));
    double *columns = take(&cursor, bytes_of(R * wide, 8));
    double *high_re = take(&cursor, bytes_of(N * rows, 8));
    double *high_im = take(&cursor, bytes_of(N * rows, 8));
    struct complex *last = take(&cursor, bytes_of(2 * N, 8));
    double *g = take(&cursor, bytes_of(rows * R, 8));
    double *sums = take(&cursor, bytes_of(rows * wide, 8));
    const double one[2] = {1, 0};
    memset(columns, 0, (size_t)(R * wide * 8));
    for (int64_t n = 0; n < N; n++) {
        const double (*sq)[2] = (const double (*)[2])(square + n * j->squares);
        poles[n] = pole_of(d, entry(d, d->A, 0, h, n), j->squares, square + n * j->squares);
        j->engine->ssm.powers(sq, one, R, re, im);
        j->engine->ssm.powers(sq + log2_of(R), one, rows, high_re + n * rows, high_im + n * rows);
        for (int64_t b = 0; b < R; b++) {
            double *to = columns + b * wide + 4 * n;
            to[0] = re[b], to[1] = im[b];
            if (b > 0) /* b p^(b-1) */
                to[2] = (double)b * re[b - 1], to[3] = (double)b * im[b - 1];
        }
        last[n] = (struct complex){re[R - 1], im[R - 1]};
    }
    for (int64_t i = 0; i < d->inputs; i++)
        for (int64_t c = 0; c < d->channels; c++) {
            const void *dk = (const char *)d->dk + row_offset(d, i, c, h);
            for (int64_t l = 0; l < rows * R; l++)
                g[l] = l < d->length ? sample(d, dk, l) : 0;
            const struct matmul p = {.rows = rows,
                                     .columns = wide,
                                     .depth = R,
                                     .a = g,
                                     .b = columns,
                                     .out = sums,
                                     .a_step = R,
                                     .b_step = wide,
                                     .out_step = wide};
            j->engine->matrix.multiply(&p);
            for (int64_t n = 0; n < N; n++) {
                const double *pr = high_re + n * rows, *pi = high_im + n * rows;
                struct complex zeroth = {0, 0}, first = {0, 0}, before = {0, 0};
                for (int64_t a = 0; a < rows; a++) {
                    const double *t = sums + a * wide + 4 * n;
                    const struct complex high = {pr[a], pi[a]}, low = {t[0], t[1]},
                                         slope = {t[2], t[3]};
                    zeroth = plus(zeroth, times(high, low));
                    first = plus(first, times(high, slope));
                    if (a > 0) /* d/dp of p^(aR): aR p^((a-1)R) p^(R-1) */
                        before = plus(before,
                                      scaled((double)(a * R),
                                             times(low, (struct complex){pr[a - 1], pi[a - 1]})));
                }
                first = plus(first, times(before, last[n]));
                const struct complex B = entry(d, d->B, i, h, n), C = entry(d, d->C, c, h, n);
                const struct pole *q = &poles[n];
                const struct complex fm = times(q->f, zeroth);
                add_gradient(d, d->dB, i, h, n, times(C, fm));
                add_gradient(d, d->dC, c, h, n, times(B, fm));
                add_gradient(d, d->dA, 0, h, n,
                             times(times(B, C),
                                   plus(times(q->df, zeroth), times(q->f, times(q->dp, first)))));
            }
        }
    return FFTCONV_STATUS_OK;
}

/* ---- Diagonal plus low rank: A x = Lambda x - P 2 Re(Q* x) ------------------------ */

/* (I - A/2)^-1 of one head, or its adjoint: see struct solver.  Arrays of N, of
 * rank N, and rank N; false where it is singular. */
struct head_solver {
    struct complex *diagonal, *rows, *columns;
};

static bool solver_of(const fftconv_ssm_desc *d, int64_t h, bool adjoint, struct head_solver *s)
{
    const int64_t N = d->states, r = d->rank;
    const double *P = adjoint ? d->Q : d->P, *Q = adjoint ? d->P : d->Q;
    double S[MAX_RANK][2 * MAX_RANK] = {{0}}; /* I + Re(Q* D P), then its inverse beside I */
    for (int64_t n = 0; n < N; n++) {
        struct complex x = entry(d, d->A, 0, h, n);
        x = adjoint ? conjugate(x) : x;
        s->diagonal[n] = over((struct complex){1, 0}, (struct complex){1 - x.re / 2, -x.im / 2});
        for (int64_t i = 0; i < r; i++) {
            const struct complex q = times(conjugate(entry(d, Q, i, h, n)), s->diagonal[n]);
            s->rows[i * N + n] = scaled(2, q);
            for (int64_t k = 0; k < r; k++)
                S[i][k] += times(q, entry(d, P, k, h, n)).re;
        }
    }
    for (int64_t i = 0; i < r; i++)
        S[i][i] += 1, S[i][r + i] = 1;
    for (int64_t i = 0; i < r; i++) { /* Gauss and Jordan, the largest pivot first */
        int64_t best = i;
        for (int64_t k = i + 1; k < r; k++)
            best = fabs(S[k][i]) > fabs(S[best][i]) ? k : best;
        if (!(fabs(S[best][i]) > 0))
            return false;
        for (int64_t k = 0; k < 2 * r; k++) {
            const double t = S[i][k];
            S[i][k] = S[best][k], S[best][k] = t;
        }
        for (int64_t k = 0; k < r; k++) {
            const double ratio = S[k][i] / S[i][i];
            for (int64_t m = 0; k != i && m < 2 * r; m++)
                S[k][m] -= ratio * S[i][m];
        }
    }
    for (int64_t k = 0; k < r; k++)
        for (int64_t n = 0; n < N; n++) {
            struct complex sum = {0, 0};
            for (int64_t i = 0; i < r; i++)
                sum = plus(sum, scaled(S[i][r + k] / S[i][i] / 2,
                                       times(s->diagonal[n], entry(d, P, i, h, n))));
            s->columns[k * N + n] = sum;
        }
    return true;
}

/* w = (I - A/2)^-1 x; w is not x */
static void head_solve(const fftconv_ssm_desc *d, const struct head_solver *s,
                       const struct complex *x, struct complex *w)
{
    const int64_t N = d->states;
    for (int64_t n = 0; n < N; n++)
        w[n] = times(s->diagonal[n], x[n]);
    for (int64_t i = 0; i < d->rank; i++) {
        double sum = 0;
        for (int64_t n = 0; n < N; n++)
            sum += times(s->rows[i * N + n], x[n]).re;
        for (int64_t n = 0; n < N; n++)
            w[n] = plus(w[n], scaled(-sum, s->columns[i * N + n]));
    }
}

/* y = A x, and y = (I + A/2) x with half */
static void head_apply(const fftconv_ssm_desc *d, int64_t h, bool half, const struct complex *x,
                       struct complex *y)
{
    const double factor = half ? 0.5 : 1;
    for (int64_t n = 0; n < d->states; n++) {
        y[n] = scaled(factor, times(entry(d, d->A, 0, h, n), x[n]));
        y[n] = half ? plus(y[n], x[n]) : y[n];
    }
    for (int64_t i = 0; i < d->rank; i++) {
        double sum = 0;
        for (int64_t n = 0; n < d->states; n++)
            sum += 2 * times(conjugate(entry(d, d->Q, i, h, n)), x[n]).re;
        for (int64_t n = 0; n < d->states; n++)
            y[n] = plus(y[n], scaled(-factor * sum, entry(d, d->P, i, h, n)));
    }
}

static int64_t head_solver_bytes(const fftconv_ssm_desc *d)
{
    return bytes_of(2 * d->states * (1 + 2 * d->rank), 8);
}

static struct head_solver head_solver_at(const fftconv_ssm_desc *d, void *memory)
{
    struct complex *at = memory;
    return (struct head_solver){at, at + d->states, at + d->states * (1 + d->rank)};
}

static int fail_singular(void)
{
    return fail(FFTCONV_STATUS_INVALID,
                "A, P, Q are such that I - A/2 is singular: A must have no eigenvalue 2");
}

/* C (I + Abar^(2M)), in place of C: with z^(2M) = -1, what cuts the sum off at 2M.
 * Abar^n - I in real form, (Re, Im) columns, by squaring: small steps keep their
 * digits. */
static int64_t cut_bytes(const struct job *j)
{
    const int64_t n2 = 2 * j->d->states, step = round_up(n2, j->W);
    return head_solver_bytes(j->d) + 3 * bytes_of(n2 * step, 8) +
           3 * bytes_of(2 * j->d->states, 8) + 2 * bytes_of(step, 8);
}

static int cut_task(void *context, int64_t h, int worker)
{
    struct job *j = context;
    const fftconv_ssm_desc *d = j->d;
    const int64_t N = d->states, n2 = 2 * N, step = round_up(n2, j->W);
    char *cursor = j->work + worker * j->work_bytes;
    struct head_solver s = head_solver_at(d, take(&cursor, head_solver_bytes(d)));
    double *first = take(&cursor, bytes_of(n2 * step, 8));
    double *power = take(&cursor, bytes_of(n2 * step, 8));
    double *next = take(&cursor, bytes_of(n2 * step, 8));
    struct complex *x = take(&cursor, bytes_of(n2, 8)), *y = take(&cursor, bytes_of(n2, 8)),
                   *w = take(&cursor, bytes_of(n2, 8));
    double *row = take(&cursor, bytes_of(step, 8)), *cut = take(&cursor, bytes_of(step, 8));
    if (!solver_of(d, h, false, &s))
        return fail_singular();
    /* Abar - I = (I - A/2)^-1 A */
    memset(first, 0, (size_t)(n2 * step * 8));
    memset(x, 0, (size_t)(n2 * 8));
    for (int64_t i = 0; i < n2; i++) {
        x[i % N] = i < N ? (struct complex){1, 0} : (struct complex){0, 1};
        head_apply(d, h, false, x, y);
        head_solve(d, &s, y, w);
        x[i % N] = (struct complex){0, 0};
        for (int64_t n = 0; n < N; n++)
            first[n * step + i] = w[n].re, first[(N + n) * step + i] = w[n].im;
    }
    memcpy(power, first, (size_t)(n2 * step * 8));
    struct matmul p = {
        .rows = n2, .columns = step, .depth = n2, .a_step = step, .b_step = step, .out_step = step};
    for (int bit = 62 - __builtin_clzll((unsigned long long)(2 * j->M)); bit >= 0; bit--) {
        /* (I + D)^2 = I + 2D + D^2, and (I + D)(I + F) = I + D + F + D F */
        for (int more = 0; more <= ((2 * j->M) >> bit & 1); more++) {
            const double *other = more ? first : power;
            p.a = power, p.b = other, p.out = next;
            j->engine->matrix.multiply(&p);
            for (int64_t i = 0; i < n2 * step; i++)
                next[i] += power[i] + other[i];
            double *swap = power;
            power = next, next = swap;
        }
    }
    for (int64_t c = 0; c < d->channels; c++) { /* 2 Re C x = row . (Re x, Im x) */
        for (int64_t n = 0; n < N; n++) {
            const struct complex C = entry(d, d->C, c, h, n);
            row[n] = 2 * C.re, row[N + n] = -2 * C.im;
        }
        p.rows = 1, p.a = row, p.b = power, p.out = cut;
        j->engine->matrix.multiply(&p);
        for (int64_t n = 0; n < N; n++)
            put(d, j->Ct, c, h, n,
                (struct complex){row[n] + cut[n] / 2, -row[N + n] - cut[N + n] / 2});
    }
    return FFTCONV_STATUS_OK;
}

/* How many nodes are worked on together. */
enum { NODES = 256 };

static int64_t low_rank_bytes(const struct job *j)
{
    const fftconv_ssm_desc *d = j->d;
    const int64_t sums = round_up((1 + d->rank) * (1 + d->rank), CAUCHY);
    return bytes_of(j->M * 2 * j->W, 8) + bytes_of(d->states * (2 + 2 * CAUCHY), 8) +
           bytes_of(sums * 2 * NODES, 8) + 2 * bytes_of(2 * d->states, 8);
}

/* X_0 = R00 - sum_k R_k0 X_k where (I + c R11) X = c R10, in place: entry (i, j) of
 * R is at i (1 + rank) + j, right factor i, left factor j.  No pivots: R11 is
 * accretive where Q = P. */
static void eliminate(int64_t rank, int64_t nodes, const double *c, double (*R)[2][NODES])
{
    const int64_t side = 1 + rank;
    for (int64_t i = 0; i < side; i++)
        for (int64_t k = 1; k < side; k++)
            for (int64_t m = 0; m < nodes; m++) {
                double (*r)[NODES] = R[i * side + k];
                r[0][m] *= c[m], r[1][m] *= c[m];
            }
    for (int64_t k = 1; k < side; k++)
        for (int64_t m = 0; m < nodes; m++)
            R[k * side + k][0][m] += 1;
    /* row k: sum_i R(i, k) X_i = R(0, k) */
    for (int64_t k = rank; k > 0; k--)
        for (int64_t row = 0; row < k; row++)
            for (int64_t m = 0; m < nodes; m++) {
                const double (*pivot)[NODES] = R[k * side + k];
                const double (*from)[NODES] = R[k * side + row];
                const struct complex ratio = over((struct complex){from[0][m], from[1][m]},
                                                  (struct complex){pivot[0][m], pivot[1][m]});
                for (int64_t i = 0; i < k; i++) {
                    double (*to)[NODES] = R[i * side + row];
                    const double (*by)[NODES] = R[i * side + k];
                    const struct complex t = times(ratio, (struct complex){by[0][m], by[1][m]});
                    to[0][m] -= t.re, to[1][m] -= t.im;
                }
            }
}

/* A group of heads, one input and channel: khat at the nodes
 *     z = exp(-2i t), t = pi (m - 1/4) / M, s = sin t, c = cos t,
 *     khat = e^(it) (R00 - c R01 (I + c R11)^-1 R10), R of struct cauchy,
 * and back. */
static int low_rank_task(void *context, int64_t task, int worker)
{
    const struct job *j = context;
    const fftconv_ssm_desc *d = j->d;
    const int64_t group = task % j->groups, pair = task / j->groups;
    const int64_t i = pair / d->channels, c = pair % d->channels;
    const int64_t N = d->states, W = j->W, side = 1 + d->rank, count = side * side;
    char *cursor = j->work + worker * j->work_bytes;
    double *T = take(&cursor, bytes_of(j->M * 2 * W, 8));
    double *terms = take(&cursor, bytes_of(N * (2 + 2 * CAUCHY), 8));
    double (*R)[2][NODES] = take(&cursor, bytes_of(round_up(count, CAUCHY) * 2 * NODES, 8));
    struct complex *B = take(&cursor, bytes_of(2 * N, 8)), *s = take(&cursor, bytes_of(2 * N, 8));
    for (int64_t lane = 0; lane < W; lane++) {
        const int64_t h = group * W + lane;
        if (h >= d->heads) {
            for (int64_t m = 0; m < j->M; m++)
                T[m * 2 * W + lane] = T[(m * 2 + 1) * W + lane] = 0;
            continue;
        }
        for (int64_t n = 0; n < N; n++)
            s[n] = entry(d, d->B, i, h, n);
        if (d->state) /* so that Bbar = Abar s */
            head_apply(d, h, true, s, B);
        else
            memcpy(B, s, (size_t)(N * (int64_t)sizeof *B));
        for (int64_t m0 = 0; m0 < j->nodes; m0 += NODES) {
            const int64_t nodes = min64(NODES, j->nodes - m0), wanted = min64(NODES, j->M - m0);
            for (int64_t v0 = 0; v0 < count; v0 += CAUCHY) {
                for (int64_t n = 0; n < N; n++) {
                    double *t = terms + n * (2 + 2 * CAUCHY);
                    const struct complex x = entry(d, d->A, 0, h, n);
                    t[0] = x.re, t[1] = x.im;
                    for (int64_t v = v0; v < v0 + CAUCHY; v++) {
                        struct complex value = {0, 0};
                        if (v < count) {
                            const int64_t right = v / side, left = v % side;
                            value = times(right ? entry(d, d->P, right - 1, h, n) : B[n],
                                          left ? conjugate(entry(d, d->Q, left - 1, h, n))
                                               : entry(d, j->Ct, c, h, n));
                        }
                        t[2 + v - v0] = times(value, conjugate(x)).re;
                        t[2 + CAUCHY + v - v0] = value.re;
                    }
                }
                double out[CAUCHY * 2 * NODES] __attribute__((aligned(ALIGNMENT)));
                const struct cauchy f = {.states = N,
                                         .nodes = nodes,
                                         .s2 = j->s2 + m0,
                                         .c = j->c + m0,
                                         .terms = terms,
                                         .out = out};
                j->engine->ssm.cauchy(&f);
                for (int64_t v = v0; v < min64(v0 + CAUCHY, count); v++)
                    for (int part = 0; part < 2; part++)
                        memcpy(R[v][part], out + (2 * (v - v0) + part) * nodes,
                               (size_t)(nodes * 8));
            }
            eliminate(d->rank, wanted, j->c + m0, R);
            for (int64_t m = 0; m < wanted; m++) {
                const struct complex turn = {j->c[m0 + m], j->s2[m0 + m] / 2};
                const struct complex khat = times(turn, (struct complex){R[0][0][m], R[0][1][m]});
                /* re and im exchanged: the DFT becomes its inverse */
                T[(m0 + m) * 2 * W + lane] = khat.im;
                T[((m0 + m) * 2 + 1) * W + lane] = khat.re;
            }
        }
    }
    j->engine->transform.column_stages(j->stage, j->stages, T);
    for (int64_t p = 0; p < j->M; p++) {
        const int64_t l = j->place[p];
        const struct complex u = {j->untwist[2 * p], j->untwist[2 * p + 1]};
        for (int64_t lane = 0; lane < W && group * W + lane < d->heads; lane++) {
            char *k = (char *)d->k + row_offset(d, i, c, group * W + lane);
            const struct complex q = times(
                u, (struct complex){T[(p * 2 + 1) * W + lane], T[p * 2 * W + lane]});
            for (int part = 0; part < 2; part++) {
                const int64_t at = l + part * j->M;
                const double value = part ? q.im : q.re;
                if (at < d->length && d->dtype == FFTCONV_DTYPE_FLOAT64)
                    ((double *)k)[at] = value;
                else if (at < d->length)
                    ((float *)k)[at] = (float)value;
            }
        }
    }
    return FFTCONV_STATUS_OK;
}

/* 2M >= L points, M a power of two times 1, 3 or 5, and its stages. */
static int low_rank_tables(struct job *j)
{
    const int64_t least = max64(2, ceil_div(j->d->length, 2));
    for (int odd = 1; odd <= 5; odd += 2) {
        int64_t M = 2 * odd;
        while (M < least)
            M *= 2;
        if (!j->M || M < j->M)
            j->M = M;
    }
    const int64_t M = j->M;
    int64_t steps[MAX_STAGES];
    int radices[MAX_STAGES];
    int64_t rest = M;
    for (int r = 3; r <= 5; r += 2)
        if (rest % r == 0)
            steps[j->stages++] = r, rest /= r;
    for (; rest > 1; rest /= steps[j->stages - 1])
        steps[j->stages++] = rest == 2 || rest == 4 ? rest : rest == 16 ? 4 : 8;
    for (int l = 0; l < j->stages; l++)
        radices[l] = (int)steps[l];
    int status = stages_build(j->stage, j->stages, steps, false, 8);
    if (status)
        return status;

    j->nodes = round_up(M, j->W);
    j->s2 = aligned_new(j->nodes * 8);
    j->c = aligned_new(j->nodes * 8);
    j->place = aligned_new(M * 8);
    j->untwist = aligned_new(2 * M * 8);
    j->Ct = aligned_new(j->d->channels * j->d->heads * j->d->states * 16);
    if (!j->s2 || !j->c || !j->place || !j->untwist || !j->Ct)
        return fail_memory(6 * M * 8);
    for (int64_t m = 0; m < j->nodes; m++) {
        /* t = pi (4m - 1) / 4M, the angle below pi/2, so that a small sine keeps
         * its digits */
        const int64_t part = 4 * min64(m, M - 1) - 1;
        const bool high = part > 2 * M;
        const double t = M_PI * (double)(high ? 4 * M - part : part) / (double)(4 * M);
        j->s2[m] = 2 * sin(t);
        j->c[m] = high ? -cos(t) : cos(t);
    }
    for (int64_t p = 0; p < M; p++) {
        const int64_t l = j->place[p] = digit_reverse(p, radices, j->stages);
        const double t = -M_PI * (double)l / (double)(2 * M);
        j->untwist[2 * p] = cos(t) / (double)M, j->untwist[2 * p + 1] = sin(t) / (double)M;
    }
    return FFTCONV_STATUS_OK;
}

/* ---- Its gradient: the recurrence, forwards and back ------------------------------ */

/* Reals of a vector of states of a group, and of the whole scratch. */
static int64_t group_reals(const struct job *j) { return 2 * j->d->states * j->W; }

static int64_t recurrence_bytes(const struct job *j)
{
    const fftconv_ssm_desc *d = j->d;
    const int64_t size = group_reals(j);
    /* solvers; C, P, Q; dA, dC, dP, dQ; a, mu, y; x at every step of a block and
     * at the start of every block; g */
    const int64_t vectors = 2 * (1 + 2 * d->rank) + 2 * d->channels + 4 * d->rank + 1 + 3 +
                            j->steps + 1 + j->blocks;
    return head_solver_bytes(d) + bytes_of(vectors * size, 8) +
           bytes_of(j->steps * d->channels * j->W, 8);
}

/* Lane `lane` of to, entries [0, count). */
static void to_lane(const struct complex *from, int64_t count, double *to, int64_t W, int64_t lane)
{
    for (int64_t n = 0; n < count; n++)
        to[2 * n * W + lane] = from[n].re, to[(2 * n + 1) * W + lane] = from[n].im;
}

/* Parameters [i] of the group's heads, the last one repeated. */
static void to_lanes(const struct job *j, const double *x, int64_t i, int64_t group, double *to)
{
    const fftconv_ssm_desc *d = j->d;
    for (int64_t lane = 0; lane < j->W; lane++)
        to_lane((const struct complex *)x +
                    (i * d->heads + min64(group * j->W + lane, d->heads - 1)) * d->states,
                d->states, to, j->W, lane);
}

static void from_lanes(const struct job *j, const double *from, double *x, int64_t i, int64_t group)
{
    const fftconv_ssm_desc *d = j->d;
    for (int64_t lane = 0; x && lane < j->W && group * j->W + lane < d->heads; lane++)
        for (int64_t n = 0; n < d->states; n++)
            put(d, x, i, group * j->W + lane, n,
                (struct complex){from[2 * n * j->W + lane], from[(2 * n + 1) * j->W + lane]});
}

static void gather(const struct job *j, int64_t i, int64_t group, int64_t from, int64_t steps,
                   double *g)
{
    const fftconv_ssm_desc *d = j->d;
    for (int64_t c = 0; c < d->channels; c++)
        for (int64_t lane = 0; lane < j->W; lane++) {
            const int64_t h = group * j->W + lane;
            const void *dk = h < d->heads ? (const char *)d->dk + row_offset(d, i, c, h) : NULL;
            for (int64_t m = 0; m < steps; m++)
                g[(m * d->channels + c) * j->W + lane] = dk ? sample(d, dk, from + m) : 0;
        }
}

static int recurrence_task(void *context, int64_t group, int worker)
{
    struct job *j = context;
    const fftconv_ssm_desc *d = j->d;
    const int64_t N = d->states, W = j->W, size = group_reals(j), steps = j->steps;
    char *cursor = j->work + worker * j->work_bytes;
    struct head_solver head = head_solver_at(d, take(&cursor, head_solver_bytes(d)));
    double *at = (double *)cursor;
#define TAKE(vectors) (at += (vectors) * size, at - (vectors) * size)
    struct recurrence r = {.states = N, .rank = d->rank, .channels = d->channels};
    struct solver *solvers[2] = {&r.forward, &r.adjoint};
    for (int i = 0; i < 2; i++) {
        struct solver *s = solvers[i];
        s->diagonal = TAKE(1), s->rows = TAKE(d->rank), s->columns = TAKE(d->rank);
        for (int64_t lane = 0; lane < W; lane++) {
            if (!solver_of(d, min64(group * W + lane, d->heads - 1), i == 1, &head))
                return fail_singular();
            to_lane(head.diagonal, N, s->diagonal, W, lane);
            to_lane(head.rows, N * d->rank, s->rows, W, lane);
            to_lane(head.columns, N * d->rank, s->columns, W, lane);
        }
    }
    r.C = TAKE(d->channels), r.P = TAKE(d->rank), r.Q = TAKE(d->rank);
    for (int64_t c = 0; c < d->channels; c++)
        to_lanes(j, d->C, c, group, r.C + c * size);
    for (int64_t i = 0; i < d->rank; i++) {
        to_lanes(j, d->P, i, group, r.P + i * size);
        to_lanes(j, d->Q, i, group, r.Q + i * size);
    }
    const int64_t sums = 1 + d->channels + 2 * d->rank;
    r.dA = TAKE(sums);
    r.dC = r.dA + size, r.dP = r.dC + d->channels * size, r.dQ = r.dP + d->rank * size;
    memset(r.dA, 0, (size_t)(sums * size * 8));
    double *a = TAKE(1), *mu = TAKE(1), *y = TAKE(1);
    double *x = TAKE(steps + 1), *starts = TAKE(j->blocks), *g = at;
#undef TAKE
    r.states_too = d->dA || d->dB || d->dP || d->dQ;
    for (int64_t i = 0; i < d->inputs; i++) {
        for (int64_t b = 0; b < j->blocks; b++) {
            const int64_t count = min64(steps, d->length - b * steps);
            int64_t known = 0; /* x[0 ... known]; x[0] is that before the block */
            if (b > 0) {
                memcpy(x, x + steps * size, (size_t)(size * 8));
            } else if (d->state) {
                to_lanes(j, d->B, i, group, x);
            } else {
                to_lanes(j, d->B, i, group, mu);
                memset(x, 0, (size_t)(size * 8));
                known = 1; /* x[1] = (I - A/2)^-1 B, by one step of recur */
                memcpy(x + size, mu, (size_t)(size * 8));
                for (int64_t n = 0; n < size; n++)
                    mu[n] /= 2;
                memcpy(x, mu, (size_t)(size * 8));
                j->engine->ssm.recur(&r, 1, x); /* 2 (I - A/2)^-1 (B/2) - B/2 */
                for (int64_t n = 0; n < size; n++)
                    x[size + n] += mu[n], x[n] = 0;
            }
            memcpy(starts + b * size, known ? x + size : x, (size_t)(size * 8));
            j->engine->ssm.recur(&r, count - known, x + known * size);
            if (!r.states_too) {
                gather(j, i, group, b * steps, count, g);
                j->engine->ssm.recur_back(&r, count, x, g, a, mu, y);
            }
        }
        if (!r.states_too)
            continue;
        memset(a, 0, (size_t)(size * 8));
        for (int64_t b = j->blocks - 1; b >= 0; b--) {
            const int64_t count = min64(steps, d->length - b * steps);
            const int64_t known = b == 0 && !d->state;
            if (known)
                memset(x, 0, (size_t)(size * 8));
            memcpy(x + known * size, starts + b * size, (size_t)(size * 8));
            j->engine->ssm.recur(&r, count - known, x + known * size);
            gather(j, i, group, b * steps, count, g);
            j->engine->ssm.recur_back(&r, count, x, g, a, mu, y);
        }
        /* of x[0] = (I - A/2)^-1 B, or of Abar s */
        from_lanes(j, d->state ? a : mu, d->dB, i, group);
    }
    from_lanes(j, r.dA, d->dA, 0, group);
    for (int64_t c = 0; c < d->channels; c++)
        from_lanes(j, r.dC + c * size, d->dC, c, group);
    for (int64_t i = 0; i < d->rank; i++) {
        from_lanes(j, r.dP + i * size, d->dP, i, group);
        from_lanes(j, r.dQ + i * size, d->dQ, i, group);
    }
    return FFTCONV_STATUS_OK;
}

/* ---- Checks and calls ---------------------------------------------------------------- */

static int check_sizes(const fftconv_ssm_desc *d)
{
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {{"inputs", d->inputs},
                 {"channels", d->channels},
                 {"heads", d->heads},
                 {"states", d->states},
                 {"length", d->length}};
    for (int i = 0; i < 5; i++)
        if (sizes[i].value < 1 || sizes[i].value > (int64_t)1 << 40)
            return fail(FFTCONV_STATUS_INVALID, "%s is %lld, must be 1 ... 2^40", sizes[i].name,
                        (long long)sizes[i].value);
    int64_t rows = d->inputs, parameters = max64(d->inputs, max64(d->channels, d->rank));
    if (__builtin_mul_overflow(rows, d->channels, &rows) ||
        __builtin_mul_overflow(rows, d->heads, &rows) ||
        __builtin_mul_overflow(rows, d->length, &rows) || rows > (int64_t)1 << 56 ||
        __builtin_mul_overflow(parameters, d->heads, &parameters) ||
        __builtin_mul_overflow(parameters, d->states, &parameters) ||
        parameters > (int64_t)1 << 56 || d->states > (int64_t)1 << 24)
        return fail(FFTCONV_STATUS_INVALID,
                    "sizes are inputs %lld, channels %lld, heads %lld, states "
                    "%lld, length %lld, must keep every array below 2^56 elements",
                    (long long)d->inputs, (long long)d->channels, (long long)d->heads,
                    (long long)d->states, (long long)d->length);
    return FFTCONV_STATUS_OK;
}

static int check(const fftconv_ssm_desc *d, bool backward)
{
    if (!d)
        return fail(FFTCONV_STATUS_INVALID, "desc is NULL");
    if (d->size != sizeof *d)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", d->size, sizeof *d);
    if (d->rank < 0 || d->rank > MAX_RANK)
        return fail(FFTCONV_STATUS_INVALID, "rank is %lld, must be 0 (diagonal) ... %d",
                    (long long)d->rank, MAX_RANK);
    int status = check_sizes(d);
    if (status)
        return status;
    if (d->dtype != FFTCONV_DTYPE_FLOAT64 && d->dtype != FFTCONV_DTYPE_FLOAT32)
        return fail(FFTCONV_STATUS_INVALID, "dtype is %d, must be float64 (1) or float32 (2)",
                    d->dtype);
    if (d->discretization < FFTCONV_DISCRETIZATION_ZOH ||
        d->discretization > FFTCONV_DISCRETIZATION_DSS)
        return fail(FFTCONV_STATUS_INVALID,
                    "discretization is %d, must be zoh (0), bilinear (1) or "
                    "dss (2)",
                    d->discretization);
    if (d->rank && d->discretization != FFTCONV_DISCRETIZATION_BILINEAR)
        return fail(FFTCONV_STATUS_INVALID,
                    "discretization is %d, must be bilinear (1) with rank %lld", d->discretization,
                    (long long)d->rank);
    if (d->state < 0 || d->state > 1 ||
        (d->state && d->discretization == FFTCONV_DISCRETIZATION_DSS))
        return fail(FFTCONV_STATUS_INVALID, "state is %d, must be 0 or 1, and 0 with dss",
                    d->state);
    if (d->threads < 0 || d->threads > 255)
        return fail(FFTCONV_STATUS_INVALID, "threads is %d, must be 0 (all) ... 255", d->threads);
    const struct {
        const char *name;
        const void *data;
        bool needed;
    } arrays[] = {{"A", d->A, true},        {"B", d->B, true},        {"C", d->C, true},
                  {"P", d->P, d->rank > 0}, {"Q", d->Q, d->rank > 0}, {"k", d->k, !backward},
                  {"dk", d->dk, backward}};
    for (int i = 0; i < 7; i++)
        if (arrays[i].needed && !arrays[i].data)
            return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given", arrays[i].name);
    for (int64_t i = 0; i < d->heads * d->states; i++)
        if (!(d->A[2 * i] < 0) || !isfinite(d->A[2 * i]) || !isfinite(d->A[2 * i + 1]))
            return fail(FFTCONV_STATUS_INVALID,
                        "A[%lld, %lld] is %g%+gi, must be finite with a "
                        "negative real part",
                        (long long)(i / d->states), (long long)(i % d->states), d->A[2 * i],
                        d->A[2 * i + 1]);
    return FFTCONV_STATUS_OK;
}

static int prepare(struct job *j, const fftconv_ssm_desc *d)
{
    *j = (struct job){.d = d, .threads = d->threads ? d->threads : fftconv_default_threads()};
    int status = find_engine(d->isa, 8, &j->engine);
    if (status || (status = find_engine(d->isa, dtype_size(d->dtype), &j->product)))
        return status;
    j->W = j->engine->lanes;
    /* about sqrt(L), in whole pairs of vectors */
    j->R = 64;
    while (j->R < 512 && j->R * j->R < d->length)
        j->R *= 2;
    j->rows = ceil_div(d->length, j->R);
    if (d->length < j->R) /* few samples may all be small beside their terms */
        j->product = j->engine;
    j->squares = log2_of(j->R) + 1;
    while ((int64_t)1 << (j->squares - log2_of(j->R)) < j->rows)
        j->squares++;
    j->groups = ceil_div(d->heads, j->W);
    /* checkpoints and the steps between them: about as many of each */
    j->steps = 1;
    while (j->steps * j->steps < d->length)
        j->steps *= 2;
    j->blocks = ceil_div(d->length, j->steps);
    return FFTCONV_STATUS_OK;
}

/* One parallel loop, each worker with memory of its own. */
static int run(struct job *j, int64_t tasks, int64_t bytes, task_fn *fn)
{
    const int threads = (int)min64(j->threads, tasks);
    j->work_bytes = bytes;
    if (!(j->work = aligned_new(bytes * threads)))
        return fail_memory(bytes * threads);
    const int status = parallel_for(threads, tasks, fn, j);
    aligned_free(j->work);
    return status;
}

int fftconv_ssm_kernel(const fftconv_ssm_desc *d)
{
    struct job j;
    int status = check(d, false);
    if (status || (status = prepare(&j, d)))
        return status;
    if (!d->rank)
        return run(&j, d->heads, diagonal_bytes(&j), diagonal_task);
    if (!(status = low_rank_tables(&j)) && !(status = run(&j, d->heads, cut_bytes(&j), cut_task)))
        status = run(&j, d->inputs * d->channels * j.groups, low_rank_bytes(&j), low_rank_task);
    stages_clear(j.stage, j.stages);
    aligned_free(j.s2);
    aligned_free(j.c);
    aligned_free(j.place);
    aligned_free(j.untwist);
    aligned_free(j.Ct);
    return status;
}

int fftconv_ssm_kernel_backward(const fftconv_ssm_desc *d)
{
    struct job j;
    int status = check(d, true);
    if (status || (status = prepare(&j, d)))
        return status;
    if (d->rank)
        return run(&j, j.groups, recurrence_bytes(&j), recurrence_task);
    const struct {
        double *gradient;
        int64_t count;
    } sums[] = {{d->dA, 1}, {d->dB, d->inputs}, {d->dC, d->channels}};
    for (int i = 0; i < 3; i++)
        if (sums[i].gradient)
            memset(sums[i].gradient, 0, (size_t)(sums[i].count * d->heads * d->states * 16));
    return run(&j, d->heads, diagonal_back_bytes(&j), diagonal_back_task);
}
