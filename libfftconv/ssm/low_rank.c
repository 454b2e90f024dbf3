/* S4: the kernel of a diagonal plus low rank state space, by its generating function.
 *
 * At the M nodes z with z^M = i, M >= L / 2,
 *     khat(z) = sum_{l < 2M} k[l] z^l = sum_{l < M} (k[l] + i k[l + M]) z^l,
 * so that an inverse DFT of M points gives all samples.  Truncation: since z^(2M) = -1, the
 * sum over l < 2M is that over all l with C (I + Abar^(2M)), written Ct, in place of C.  The
 * infinite sum is a resolvent, and that is made of Cauchy sums (arXiv 2111.00396, C.3), here
 * in a form without its pole at z = -1:
 *     z = exp(-2i t),    t = pi (m - 1/4) / M,    s = sin t,    c = cos t,
 *     khat = e^(it) (R00 - c R10 (I + c R11)^-1 R01),
 * where R are the sums of struct cauchy, with x = A and with
 *     R00: v = Ct B,    R10: v = Ct P,    R01: v = conj(Q) B,    R11: v = conj(Q) P. */
#include "ssm.h"

#include <math.h>
#include <string.h>

/* How many nodes are worked on together. */
enum { NODES = 256 };

struct low_rank_job {
    struct ssm_call *call;
    int64_t M;
    int64_t nodes;  /* M, in whole vectors */
    double *s2, *c; /* 2 sin t and cos t, by node */
    double *Ct;     /* (channels, heads, states) */
    struct stage stage[MAX_STAGES];
    int stages;
    int64_t *sample_at; /* which sample the stages leave at each place */
    double *untwist;    /* exp(-pi i l / 2M) / M for that sample l */
};

/* ---- Truncation: C (I + Abar^(2M)) of one head ---------------------------------------------- */

/* Matrices act on vectors of all real parts, followed by all imaginary parts: their side is
 * twice the states, and their rows lie `step` numbers apart. */
struct truncation {
    struct head_solver solver;
    int64_t side, step;
    double *first, *power, *next; /* Abar - I, Abar^n - I, and what that becomes */
    struct complex *x, *y, *w;
    double *row, *product;
};

static struct truncation take_truncation(struct arena *arena, const struct low_rank_job *j)
{
    const fftconv_ssm_desc *d = j->call->d;
    const int64_t side = 2 * d->states, step = round_up(side, j->call->lanes);
    const int64_t size = (int64_t)sizeof(struct complex);
    return (struct truncation){.solver = take_head_solver(arena, d),
                               .side = side,
                               .step = step,
                               .first = take_doubles(arena, size_mul(side, step)),
                               .power = take_doubles(arena, size_mul(side, step)),
                               .next = take_doubles(arena, size_mul(side, step)),
                               .x = take(arena, d->states, size),
                               .y = take(arena, d->states, size),
                               .w = take(arena, d->states, size),
                               .row = take_doubles(arena, step),
                               .product = take_doubles(arena, step)};
}

/* first = Abar - I = (I - A/2)^-1 A, column after column. */
static void make_first(const struct low_rank_job *j, int64_t h, const struct truncation *t)
{
    const fftconv_ssm_desc *d = j->call->d;
    const int64_t N = d->states;
    memset(t->first, 0, (size_t)(t->side * t->step) * sizeof(double));
    memset(t->x, 0, (size_t)N * sizeof *t->x);
    for (int64_t i = 0; i < t->side; i++) {
        t->x[i % N] = i < N ? (struct complex){1, 0} : (struct complex){0, 1};
        head_apply(d, h, false, t->x, t->y);
        head_solve(d, &t->solver, t->y, t->w);
        t->x[i % N] = (struct complex){0, 0};
        for (int64_t n = 0; n < N; n++) {
            t->first[n * t->step + i] = t->w[n].re;
            t->first[(N + n) * t->step + i] = t->w[n].im;
        }
    }
}

/* power = Abar^exponent - I, by squaring and multiplying.  Small steps keep their digits, as
 * the identity is never added:
 *     (I + D)^2 - I = 2D + D^2,    (I + D)(I + F) - I = D + F + D F. */
static void raise_first(const struct low_rank_job *j, int64_t exponent, struct truncation *t)
{
    struct matmul p = {.rows = t->side,
                       .columns = t->step,
                       .depth = t->side,
                       .a_step = t->step,
                       .b_step = t->step,
                       .out_step = t->step};
    memcpy(t->power, t->first, (size_t)(t->side * t->step) * sizeof(double));
    for (int bit = 62 - __builtin_clzll((unsigned long long)exponent); bit >= 0; bit--)
        for (int more = 0; more <= (exponent >> bit & 1); more++) {
            const double *other = more ? t->first : t->power;
            p.a = t->power, p.b = other, p.out = t->next;
            j->call->engine->matrix.multiply(&p);
            for (int64_t i = 0; i < t->side * t->step; i++)
                t->next[i] += t->power[i] + other[i];
            double *swap = t->power;
            t->power = t->next, t->next = swap;
        }
}

static int truncation_task(void *context, int64_t h, int worker)
{
    const struct low_rank_job *j = context;
    const fftconv_ssm_desc *d = j->call->d;
    const int64_t N = d->states;
    struct arena arena = worker_arena(j->call, worker);
    struct truncation t = take_truncation(&arena, j);
    const int status = build_head_solver(d, h, false, &t.solver);
    if (status)
        return status;
    make_first(j, h, &t);
    raise_first(j, 2 * j->M, &t);
    const struct matmul p = {.rows = 1,
                             .columns = t.step,
                             .depth = t.side,
                             .a = t.row,
                             .b = t.power,
                             .out = t.product,
                             .a_step = t.step,
                             .b_step = t.step,
                             .out_step = t.step};
    for (int64_t c = 0; c < d->channels; c++) { /* 2 Re C x = row . (Re x, Im x) */
        for (int64_t n = 0; n < N; n++) {
            const struct complex C = entry(d, d->C, c, h, n);
            t.row[n] = 2 * C.re, t.row[N + n] = -2 * C.im;
        }
        j->call->engine->matrix.multiply(&p);
        for (int64_t n = 0; n < N; n++)
            set_entry(d, j->Ct, c, h, n,
                      (struct complex){t.row[n] + t.product[n] / 2,
                                       -t.row[N + n] - t.product[N + n] / 2});
    }
    return FFTCONV_STATUS_OK;
}

/* ---- The generating function of a head ------------------------------------------------------ */

/* Sum R(i, j) is at i (1 + rank) + j: i chooses the right factor of v, which is B for 0
 * and else P_i, and j the left one, which is Ct for 0 and else conj(Q_j). */
struct evaluation {
    double *T; /* [M][re, im][lanes]: khat, a head in each lane */
    struct cauchy_term *terms;
    double (*R)[2][NODES];
    struct complex *B;
    struct complex *s; /* a state, where B is given as one */
};

static struct evaluation take_evaluation(struct arena *arena, const struct low_rank_job *j)
{
    const fftconv_ssm_desc *d = j->call->d;
    const int64_t sums = round_up((1 + d->rank) * (1 + d->rank), CAUCHY_SUMS);
    const int64_t size = (int64_t)sizeof(struct complex);
    return (struct evaluation){.T = take_doubles(arena, j->M * 2 * j->call->lanes),
                               .terms = take(arena, d->states, (int64_t)sizeof(struct cauchy_term)),
                               .R = take(arena, sums, 2 * NODES * (int64_t)sizeof(double)),
                               .B = take(arena, d->states, size),
                               .s = take(arena, d->states, size)};
}

/* B of a head, or (I + A/2) s, so that Bbar = Abar s. */
static void load_input(const struct low_rank_job *j, int64_t i, int64_t h,
                       const struct evaluation *e)
{
    const fftconv_ssm_desc *d = j->call->d;
    struct complex *to = d->state ? e->s : e->B;
    for (int64_t n = 0; n < d->states; n++)
        to[n] = entry(d, d->B, i, h, n);
    if (d->state)
        head_apply(d, h, true, e->s, e->B);
}

/* The terms of sums [v0, v0 + CAUCHY_SUMS), with zeros past the last sum. */
static void make_terms(const struct low_rank_job *j, int64_t c, int64_t h, int64_t v0,
                       const struct evaluation *e)
{
    const fftconv_ssm_desc *d = j->call->d;
    const int64_t side = 1 + d->rank;
    for (int64_t n = 0; n < d->states; n++) {
        struct cauchy_term *t = &e->terms[n];
        const struct complex x = entry(d, d->A, 0, h, n);
        t->x_re = x.re, t->x_im = x.im;
        for (int64_t k = 0; k < CAUCHY_SUMS; k++) {
            struct complex v = {0, 0};
            if (v0 + k < side * side) {
                const int64_t right = (v0 + k) / side, left = (v0 + k) % side;
                v = times(right ? entry(d, d->P, right - 1, h, n) : e->B[n],
                          left ? conjugate(entry(d, d->Q, left - 1, h, n))
                               : entry(d, j->Ct, c, h, n));
            }
            t->v_conj_x[k] = times(v, conjugate(x)).re;
            t->v_re[k] = v.re;
        }
    }
}

/* R at nodes [m0, m0 + nodes). */
static void make_sums(const struct low_rank_job *j, int64_t c, int64_t h, int64_t m0, int64_t nodes,
                      const struct evaluation *e)
{
    const fftconv_ssm_desc *d = j->call->d;
    const int64_t count = (1 + d->rank) * (1 + d->rank);
    double out[CAUCHY_SUMS * 2 * NODES] __attribute__((aligned(ALIGNMENT)));
    const struct cauchy f = {.states = d->states,
                             .nodes = nodes,
                             .s2 = j->s2 + m0,
                             .c = j->c + m0,
                             .terms = e->terms,
                             .out = out};
    for (int64_t v0 = 0; v0 < count; v0 += CAUCHY_SUMS) {
        make_terms(j, c, h, v0, e);
        j->call->engine->ssm.cauchy(&f);
        for (int64_t v = v0; v < min64(v0 + CAUCHY_SUMS, count); v++)
            for (int part = 0; part < 2; part++)
                memcpy(e->R[v][part], out + (2 * (v - v0) + part) * nodes,
                       (size_t)nodes * sizeof(double));
    }
}

/* R(0, 0) becomes R(0, 0) - sum_k R(k, 0) X_k, where X solves the equations
 *     X_k + c sum_i R(i, k) X_i = c R(0, k),    i, k = 1 ... rank,
 * by elimination from the last equation to the first.  No pivots are chosen: the matrix
 * R(i, k) is accretive where Q = P. */
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

/* khat of head h, into a lane of T. */
static void evaluate_head(const struct low_rank_job *j, int64_t i, int64_t c, int64_t h,
                          int64_t lane, const struct evaluation *e)
{
    const int64_t W = j->call->lanes;
    load_input(j, i, h, e);
    for (int64_t m0 = 0; m0 < j->nodes; m0 += NODES) {
        const int64_t wanted = min64(NODES, j->M - m0);
        make_sums(j, c, h, m0, min64(NODES, j->nodes - m0), e);
        eliminate(j->call->d->rank, wanted, j->c + m0, e->R);
        for (int64_t m = 0; m < wanted; m++) {
            const struct complex turn = {j->c[m0 + m], j->s2[m0 + m] / 2}; /* e^(it) */
            const struct complex khat = times(turn, (struct complex){e->R[0][0][m], e->R[0][1][m]});
            /* With re and im exchanged, before and after, a DFT is the inverse one. */
            e->T[(m0 + m) * 2 * W + lane] = khat.im;
            e->T[((m0 + m) * 2 + 1) * W + lane] = khat.re;
        }
    }
}

/* ---- Samples -------------------------------------------------------------------------------- */

static void store_sample(const fftconv_ssm_desc *d, char *k, int64_t l, double value)
{
    if (l < d->length && d->dtype == FFTCONV_DTYPE_FLOAT64)
        ((double *)k)[l] = value;
    else if (l < d->length)
        ((float *)k)[l] = (float)value;
}

/* Rows [i, c] of a group of heads, from the inverse DFTs in T. */
static void write_rows(const struct low_rank_job *j, int64_t i, int64_t c, int64_t group,
                       const double *T)
{
    const fftconv_ssm_desc *d = j->call->d;
    const int64_t W = j->call->lanes, h0 = group * W;
    for (int64_t p = 0; p < j->M; p++) {
        const struct complex u = {j->untwist[2 * p], j->untwist[2 * p + 1]};
        for (int64_t lane = 0; lane < W && h0 + lane < d->heads; lane++) {
            char *k = (char *)d->k + row_offset(d, i, c, h0 + lane);
            const struct complex two = times(
                u, (struct complex){T[(p * 2 + 1) * W + lane], T[p * 2 * W + lane]});
            store_sample(d, k, j->sample_at[p], two.re);
            store_sample(d, k, j->sample_at[p] + j->M, two.im);
        }
    }
}

/* A group of heads, for one input and one channel. */
static int kernel_task(void *context, int64_t task, int worker)
{
    const struct low_rank_job *j = context;
    const struct ssm_call *call = j->call;
    const fftconv_ssm_desc *d = call->d;
    const int64_t group = task % call->head_groups, pair = task / call->head_groups;
    const int64_t i = pair / d->channels, c = pair % d->channels, W = call->lanes;
    struct arena arena = worker_arena(call, worker);
    const struct evaluation e = take_evaluation(&arena, j);
    for (int64_t lane = 0; lane < W; lane++) {
        if (group * W + lane < d->heads)
            evaluate_head(j, i, c, group * W + lane, lane, &e);
        else
            for (int64_t m = 0; m < j->M; m++)
                e.T[m * 2 * W + lane] = e.T[(m * 2 + 1) * W + lane] = 0;
    }
    call->engine->transform.column_stages(j->stage, j->stages, e.T);
    write_rows(j, i, c, group, e.T);
    return FFTCONV_STATUS_OK;
}

/* ---- Tables --------------------------------------------------------------------------------- */

/* The least M >= L / 2 that is a power of two times 1, 3 or 5. */
static int64_t points_for(int64_t length)
{
    const int64_t least = max64(2, ceil_div(length, 2));
    int64_t best = 0;
    for (int odd = 1; odd <= 5; odd += 2) {
        int64_t M = 2 * odd;
        while (M < least)
            M *= 2;
        if (!best || M < best)
            best = M;
    }
    return best;
}

static int build_stages(struct low_rank_job *j, int *radices)
{
    int64_t steps[MAX_STAGES], rest = j->M;
    for (int r = 3; r <= 5; r += 2)
        if (rest % r == 0)
            steps[j->stages++] = r, rest /= r;
    for (; rest > 1; rest /= steps[j->stages - 1])
        steps[j->stages++] = rest == 2 || rest == 4 ? rest : rest == 16 ? 4 : 8;
    for (int l = 0; l < j->stages; l++)
        radices[l] = (int)steps[l];
    return stages_build(j->stage, j->stages, steps, false, 8);
}

static int build_tables(struct low_rank_job *j)
{
    const fftconv_ssm_desc *d = j->call->d;
    const int64_t M = j->M, size = (int64_t)sizeof(double);
    int radices[MAX_STAGES];
    const int status = build_stages(j, radices);
    if (status)
        return status;
    j->s2 = aligned_new(j->nodes * size);
    j->c = aligned_new(j->nodes * size);
    j->sample_at = aligned_new(M * (int64_t)sizeof *j->sample_at);
    j->untwist = aligned_new(2 * M * size);
    j->Ct = aligned_new(
        size_mul(size_mul(size_mul(d->channels, d->heads), d->states), sizeof(struct complex)));
    if (!j->s2 || !j->c || !j->sample_at || !j->untwist || !j->Ct)
        return fail_memory(6 * M * size);
    for (int64_t m = 0; m < j->nodes; m++) {
        /* t = pi (4m - 1) / 4M is mirrored to below pi/2, so that a small sine keeps its
         * digits.  Nodes past M repeat the last one. */
        const int64_t part = 4 * min64(m, M - 1) - 1;
        const bool high = part > 2 * M;
        const double t = M_PI * (double)(high ? 4 * M - part : part) / (double)(4 * M);
        j->s2[m] = 2 * sin(t);
        j->c[m] = high ? -cos(t) : cos(t);
    }
    for (int64_t p = 0; p < M; p++) {
        const int64_t l = j->sample_at[p] = digit_reverse(p, radices, j->stages);
        const double t = -M_PI * (double)l / (double)(2 * M);
        j->untwist[2 * p] = cos(t) / (double)M, j->untwist[2 * p + 1] = sin(t) / (double)M;
    }
    return FFTCONV_STATUS_OK;
}

static void clear_tables(struct low_rank_job *j)
{
    stages_clear(j->stage, j->stages);
    aligned_free(j->s2);
    aligned_free(j->c);
    aligned_free(j->sample_at);
    aligned_free(j->untwist);
    aligned_free(j->Ct);
}

int low_rank_kernel(struct ssm_call *call)
{
    const fftconv_ssm_desc *d = call->d;
    struct low_rank_job j = {.call = call, .M = points_for(d->length)};
    struct arena truncation = {0}, evaluation = {0};
    j.nodes = round_up(j.M, call->lanes);
    take_truncation(&truncation, &j);
    take_evaluation(&evaluation, &j);
    int status = build_tables(&j);
    if (!status)
        status = run_tasks(call, d->heads, truncation.used, truncation_task, &j);
    if (!status)
        status = run_tasks(call, d->inputs * d->channels * call->head_groups, evaluation.used,
                           kernel_task, &j);
    clear_tables(&j);
    return status;
}
