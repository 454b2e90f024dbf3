/* S4D: the kernel of a diagonal state space, and its gradients.
 *
 *     k[l] = factor Re sum_n w_n p_n^l,    w_n = f_n B_n C_n,
 *
 * where the pole p_n and the factor f_n follow from x = A_n by the discretization.  This is
 * a product with a Vandermonde matrix.  A row of samples is folded into a matrix of about
 * sqrt(L) columns, l = a width + b, and p^l = p^(a width) p^b: then the kernel is the
 * product of two small tables of powers, which are computed in float64. */
#include "ssm.h"

#include <math.h>
#include <string.h>

struct diagonal_job {
    struct ssm_call *call;
    const struct engine *product; /* multiplies: in k's type, or in float64 */
    int64_t width, rows;          /* of a row of samples as a matrix */
    int squares;                  /* how many of the powers p^(2^i) the tables need */
};

/* ---- Poles ---------------------------------------------------------------------------------- */

/* The factor f of a state's weight, and the derivatives of f and of the pole p by x. */
struct pole {
    struct complex f, df, dp;
};

/* (e^x - 1) / x and, where a place for it is given, its derivative.  Near 0, where e^x - 1
 * would cancel, both are series: sum x^k / (k + 1)! and sum (k + 1) x^k / (k + 2)!. */
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
            *derivative = slope;
        return sum;
    }
    const double r = exp(x.re), s = sin(x.im / 2);
    const struct complex e1 = {expm1(x.re) * cos(x.im) - 2 * s * s, r * sin(x.im)};
    const struct complex f = over(e1, x);
    if (derivative) /* (e^x - phi) / x */
        *derivative = over(plus(plus(e1, one), scaled(-1, f)), x);
    return f;
}

/* DSS divides the weight by e^(xL) - 1 = xL phi(xL), whose derivative is L e^(xL). */
static void normalize_dss(struct pole *q, struct complex x, double L)
{
    const struct complex one = {1, 0};
    const struct complex xl = scaled(L, x), e1 = times(xl, phi(xl, NULL));
    const struct complex slope = scaled(L, plus(e1, one));
    q->df = over(plus(q->df, scaled(-1, over(times(q->f, slope), e1))), e1);
    q->f = over(q->f, e1);
}

/* The pole of x = A, and its powers p^(2^i) for i < count.  Those are in long double, since
 * an error doubles with each squaring. */
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
    if (d->discretization == FFTCONV_DISCRETIZATION_DSS)
        normalize_dss(&q, x, (double)d->length);
    if (d->state) /* B is a state, not an input: k[l] = 2 Re C p^(l+1) B */
        q.f = p, q.df = q.dp;
    return q;
}

/* DSS sums all of its states; elsewhere a state stands for a conjugate pair. */
static double factor_of(const fftconv_ssm_desc *d)
{
    return d->discretization == FFTCONV_DISCRETIZATION_DSS ? 1 : 2;
}

/* ---- Tables of powers ----------------------------------------------------------------------- */

/* The poles of a head, with room for a column or a row of powers. */
struct powers {
    struct pole *pole;   /* [states] */
    double (*square)[2]; /* [states][squares]: p^(2^i) */
    double *re, *im;
};

static struct powers take_powers(struct arena *arena, const struct diagonal_job *j)
{
    const int64_t N = j->call->d->states, longest = max64(j->width, j->rows);
    return (struct powers){.pole = take(arena, N, (int64_t)sizeof(struct pole)),
                           .square = take(arena, N * j->squares, 2 * (int64_t)sizeof(double)),
                           .re = take_doubles(arena, longest),
                           .im = take_doubles(arena, longest)};
}

static void find_pole(const struct diagonal_job *j, int64_t h, int64_t n, const struct powers *m)
{
    const fftconv_ssm_desc *d = j->call->d;
    m->pole[n] = pole_of(d, entry(d, d->A, 0, h, n), j->squares, m->square + n * j->squares);
}

static int log2_of(int64_t power_of_two)
{
    return __builtin_ctzll((unsigned long long)power_of_two);
}

/* start p_n^b for b < width. */
static void column_powers(const struct diagonal_job *j, const struct powers *m, int64_t n,
                          struct complex start, double *re, double *im)
{
    const double from[2] = {start.re, start.im};
    j->call->engine->ssm.powers((const double (*)[2])(m->square + n * j->squares), from, j->width,
                                re, im);
}

/* start p_n^(a width) for a < rows. */
static void row_powers(const struct diagonal_job *j, const struct powers *m, int64_t n,
                       struct complex start, double *re, double *im)
{
    const double from[2] = {start.re, start.im};
    j->call->engine->ssm.powers(
        (const double (*)[2])(m->square + n * j->squares + log2_of(j->width)), from, j->rows, re,
        im);
}

/* ---- The kernel ----------------------------------------------------------------------------- */

/* Matrices of the product's type. */
struct forward_memory {
    struct powers powers;
    void *columns;  /* [2 states][width]: rows 2n and 2n + 1 are Re and -Im of factor p_n^b */
    void *weighted; /* [rows][2 states]: Re and Im of w_n p_n^(a width) */
    void *last_row; /* [width] */
};

static struct forward_memory take_forward(struct arena *arena, const struct diagonal_job *j)
{
    const int64_t N = j->call->d->states, real = j->product->real_bytes;
    return (struct forward_memory){.powers = take_powers(arena, j),
                                   .columns = take(arena, size_mul(2 * N, j->width), real),
                                   .weighted = take(arena, size_mul(2 * N, j->rows), real),
                                   .last_row = take(arena, j->width, real)};
}

/* to[i] = value.  Subnormal numbers of float32 would make the product slow, and are 0. */
static void store_power(int real_bytes, void *to, int64_t i, double value)
{
    if (real_bytes == 8)
        ((double *)to)[i] = value;
    else
        ((float *)to)[i] = fabs(value) < 1e-30 ? 0 : (float)value;
}

static void make_columns(const struct diagonal_job *j, int64_t h, const struct forward_memory *m)
{
    const fftconv_ssm_desc *d = j->call->d;
    const struct powers *powers = &m->powers;
    const int real = j->product->real_bytes;
    for (int64_t n = 0; n < d->states; n++) {
        find_pole(j, h, n, powers);
        column_powers(j, powers, n, (struct complex){factor_of(d), 0}, powers->re, powers->im);
        for (int64_t b = 0; b < j->width; b++) {
            store_power(real, m->columns, 2 * n * j->width + b, powers->re[b]);
            store_power(real, m->columns, (2 * n + 1) * j->width + b, -powers->im[b]);
        }
    }
}

static void make_weighted_rows(const struct diagonal_job *j, int64_t i, int64_t c, int64_t h,
                               const struct forward_memory *m)
{
    const fftconv_ssm_desc *d = j->call->d;
    const struct powers *powers = &m->powers;
    const int64_t N = d->states;
    const int real = j->product->real_bytes;
    for (int64_t n = 0; n < N; n++) {
        const struct complex w = times(powers->pole[n].f,
                                       times(entry(d, d->B, i, h, n), entry(d, d->C, c, h, n)));
        row_powers(j, powers, n, w, powers->re, powers->im);
        for (int64_t a = 0; a < j->rows; a++) {
            store_power(real, m->weighted, 2 * (a * N + n), powers->re[a]);
            store_power(real, m->weighted, 2 * (a * N + n) + 1, powers->im[a]);
        }
    }
}

/* k = weighted columns.  A last row that is not full is made beside k. */
static void multiply_tables(const struct diagonal_job *j, const struct forward_memory *m, char *k)
{
    const fftconv_ssm_desc *d = j->call->d;
    const int64_t N = d->states, width = j->width, full = d->length / width;
    const int real = j->product->real_bytes, size = dtype_size(d->dtype);
    struct matmul p = {.rows = full,
                       .columns = width,
                       .depth = 2 * N,
                       .a = m->weighted,
                       .b = m->columns,
                       .out = k,
                       .a_step = 2 * N,
                       .b_step = width,
                       .out_step = width};
    j->product->matrix.multiply(&p);
    if (full == j->rows)
        return;
    p.rows = 1, p.a = (char *)m->weighted + full * 2 * N * real, p.out = m->last_row;
    j->product->matrix.multiply(&p);
    if (size == real)
        memcpy(k + full * width * real, m->last_row, (size_t)((d->length - full * width) * real));
    else /* a short row that was made in float64: there is no full row */
        for (int64_t l = 0; l < d->length; l++)
            ((float *)k)[l] = (float)((const double *)m->last_row)[l];
}

static int kernel_task(void *context, int64_t h, int worker)
{
    const struct diagonal_job *j = context;
    const fftconv_ssm_desc *d = j->call->d;
    struct arena arena = worker_arena(j->call, worker);
    const struct forward_memory m = take_forward(&arena, j);
    make_columns(j, h, &m);
    for (int64_t i = 0; i < d->inputs; i++)
        for (int64_t c = 0; c < d->channels; c++) {
            make_weighted_rows(j, i, c, h, &m);
            multiply_tables(j, &m, (char *)d->k + row_offset(d, i, c, h));
        }
    return FFTCONV_STATUS_OK;
}

/* ---- Gradients ------------------------------------------------------------------------------ */

/* They follow from two moments of each row g of dk, for every state:
 *     M0 = sum_l g[l] p^l,    M1 = sum_l l g[l] p^(l-1) = dM0/dp.
 * g as a matrix times `columns` gives the sums over b, which the powers p^(a width) weigh. */
struct backward_memory {
    struct powers powers;
    double *columns;           /* [width][stride]: Re and Im of p^b and of b p^(b-1) */
    double *high_re, *high_im; /* [states][rows]: p^(a width) */
    struct complex *last;      /* [states]: p^(width-1) */
    double *g;                 /* [rows][width] */
    double *sums;              /* [rows][stride] */
};

/* Numbers from one row of `columns` to the next: four for each state, in whole vectors. */
static int64_t stride_of(const struct diagonal_job *j)
{
    return round_up(4 * j->call->d->states, j->call->lanes);
}

static struct backward_memory take_backward(struct arena *arena, const struct diagonal_job *j)
{
    const int64_t N = j->call->d->states, stride = stride_of(j);
    return (struct backward_memory){.powers = take_powers(arena, j),
                                    .columns = take_doubles(arena, size_mul(j->width, stride)),
                                    .high_re = take_doubles(arena, size_mul(N, j->rows)),
                                    .high_im = take_doubles(arena, size_mul(N, j->rows)),
                                    .last = take(arena, N, (int64_t)sizeof(struct complex)),
                                    .g = take_doubles(arena, j->rows * j->width),
                                    .sums = take_doubles(arena, size_mul(j->rows, stride))};
}

static void make_moment_tables(const struct diagonal_job *j, int64_t h,
                               const struct backward_memory *m)
{
    const int64_t N = j->call->d->states, stride = stride_of(j);
    const int64_t width = j->width;
    const struct complex one = {1, 0};
    const double *re = m->powers.re, *im = m->powers.im;
    memset(m->columns, 0, (size_t)(j->width * stride) * sizeof(double));
    for (int64_t n = 0; n < N; n++) {
        find_pole(j, h, n, &m->powers);
        column_powers(j, &m->powers, n, one, m->powers.re, m->powers.im);
        row_powers(j, &m->powers, n, one, m->high_re + n * j->rows, m->high_im + n * j->rows);
        for (int64_t b = 0; b < width; b++) {
            double *to = m->columns + b * stride + 4 * n;
            to[0] = re[b], to[1] = im[b];
            if (b > 0)
                to[2] = (double)b * re[b - 1], to[3] = (double)b * im[b - 1];
        }
        m->last[n] = (struct complex){re[width - 1], im[width - 1]};
    }
}

/* The sums over b of a row of dk. */
static void sum_columns(const struct diagonal_job *j, const void *dk,
                        const struct backward_memory *m)
{
    const fftconv_ssm_desc *d = j->call->d;
    const int64_t stride = stride_of(j), length = d->length, padded = j->rows * j->width;
    double *g = m->g;
    for (int64_t l = 0; l < length; l++)
        g[l] = sample(d, dk, l);
    for (int64_t l = length; l < padded; l++)
        g[l] = 0;
    const struct matmul p = {.rows = j->rows,
                             .columns = stride,
                             .depth = j->width,
                             .a = g,
                             .b = m->columns,
                             .out = m->sums,
                             .a_step = j->width,
                             .b_step = stride,
                             .out_step = stride};
    j->call->engine->matrix.multiply(&p);
}

/* The moments of state n, by the product rule:
 *     d/dp p^(a width + b) = p^(a width) b p^(b-1)
 *                            + p^b a width p^((a-1) width) p^(width-1). */
static void moments_of(const struct diagonal_job *j, int64_t n, const struct backward_memory *m,
                       struct complex *zeroth, struct complex *first)
{
    const double *pr = m->high_re + n * j->rows, *pi = m->high_im + n * j->rows;
    struct complex sum = {0, 0}, inner = {0, 0}, outer = {0, 0};
    const int64_t stride = stride_of(j);
    for (int64_t a = 0; a < j->rows; a++) {
        const double *sums = m->sums + a * stride + 4 * n;
        const struct complex high = {pr[a], pi[a]}, low = {sums[0], sums[1]},
                             slope = {sums[2], sums[3]};
        sum = plus(sum, times(high, low));
        inner = plus(inner, times(high, slope));
        if (a > 0)
            outer = plus(outer, scaled((double)(a * j->width),
                                       times(low, (struct complex){pr[a - 1], pi[a - 1]})));
    }
    *zeroth = sum;
    *first = plus(inner, times(outer, m->last[n]));
}

/* to += factor conj(value), where that gradient is wanted. */
static void add_gradient(const fftconv_ssm_desc *d, double *to, int64_t i, int64_t h, int64_t n,
                         struct complex value)
{
    if (to)
        set_entry(d, to, i, h, n,
                  plus(entry(d, to, i, h, n), scaled(factor_of(d), conjugate(value))));
}

static int gradients_task(void *context, int64_t h, int worker)
{
    const struct diagonal_job *j = context;
    const fftconv_ssm_desc *d = j->call->d;
    struct arena arena = worker_arena(j->call, worker);
    const struct backward_memory m = take_backward(&arena, j);
    make_moment_tables(j, h, &m);
    for (int64_t i = 0; i < d->inputs; i++)
        for (int64_t c = 0; c < d->channels; c++) {
            sum_columns(j, (const char *)d->dk + row_offset(d, i, c, h), &m);
            for (int64_t n = 0; n < d->states; n++) {
                struct complex zeroth, first;
                moments_of(j, n, &m, &zeroth, &first);
                const struct complex B = entry(d, d->B, i, h, n), C = entry(d, d->C, c, h, n);
                const struct pole *q = &m.powers.pole[n];
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

/* ---- Both ----------------------------------------------------------------------------------- */

static int prepare_job(struct diagonal_job *j, struct ssm_call *call)
{
    const fftconv_ssm_desc *d = call->d;
    *j = (struct diagonal_job){.call = call, .width = 64};
    const int status = find_engine(d->isa, dtype_size(d->dtype), &j->product);
    if (status)
        return status;
    while (j->width < 512 && j->width * j->width < d->length)
        j->width *= 2;
    j->rows = ceil_div(d->length, j->width);
    if (d->length < j->width) /* so few samples may all be small beside the terms of their sums */
        j->product = call->engine;
    j->squares = log2_of(j->width) + 1;
    while ((int64_t)1 << (j->squares - log2_of(j->width)) < j->rows)
        j->squares++;
    return FFTCONV_STATUS_OK;
}

int diagonal_kernel(struct ssm_call *call)
{
    struct diagonal_job j;
    struct arena needed = {0};
    const int status = prepare_job(&j, call);
    if (status)
        return status;
    take_forward(&needed, &j);
    return run_tasks(call, call->d->heads, needed.used, kernel_task, &j);
}

int diagonal_gradients(struct ssm_call *call)
{
    const fftconv_ssm_desc *d = call->d;
    struct diagonal_job j;
    struct arena needed = {0};
    const int status = prepare_job(&j, call);
    if (status)
        return status;
    const struct {
        double *gradient;
        int64_t count;
    } sums[] = {{d->dA, 1}, {d->dB, d->inputs}, {d->dC, d->channels}};
    for (int i = 0; i < 3; i++)
        if (sums[i].gradient)
            memset(sums[i].gradient, 0,
                   (size_t)(sums[i].count * d->heads * d->states) * sizeof(struct complex));
    take_backward(&needed, &j);
    return run_tasks(call, d->heads, needed.used, gradients_task, &j);
}
