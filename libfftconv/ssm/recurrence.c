/* S4: the gradients of a diagonal plus low rank kernel, by the recurrence
 *     x[m] = Abar x[m-1],    k[l] = 2 Re C x[l+1],
 * run forwards, and its adjoint run backwards (struct recurrence), with a head in each lane.
 *
 * Going backwards needs every x[m].  Those are too many to keep: the forward run keeps one
 * checkpoint for each interval of about sqrt(L) steps, and the backward run computes the
 * states of an interval again from its checkpoint. */
#include "ssm.h"

#include <string.h>

struct recurrence_job {
    struct ssm_call *call;
    int64_t steps;     /* of an interval */
    int64_t intervals; /* the last may have fewer steps */
};

/* A bundle holds the states of all heads of a group (struct recurrence). */
struct recurrence_memory {
    struct head_solver head;
    struct recurrence r;
    double *a, *mu, *y;  /* a bundle each, for recur_back; mu is free before that */
    double *x;           /* a bundle for each step of an interval, and x[0] before them */
    double *checkpoints; /* a bundle for each interval */
    double *g;           /* [steps][channels][lanes]: dk of an interval */
};

static int64_t bundle_doubles(const struct ssm_call *call)
{
    return 2 * call->d->states * call->lanes;
}
static size_t bundle_bytes(const struct ssm_call *call)
{
    return (size_t)bundle_doubles(call) * sizeof(double);
}

static double *take_bundles(struct arena *arena, const struct ssm_call *call, int64_t count)
{
    return take_doubles(arena, size_mul(count, bundle_doubles(call)));
}

static struct solver take_solver(struct arena *arena, const struct ssm_call *call)
{
    return (struct solver){.diagonal = take_bundles(arena, call, 1),
                           .rows = take_bundles(arena, call, call->d->rank),
                           .columns = take_bundles(arena, call, call->d->rank)};
}

static struct recurrence_memory take_memory(struct arena *arena, const struct recurrence_job *j)
{
    const struct ssm_call *call = j->call;
    const fftconv_ssm_desc *d = call->d;
    return (struct recurrence_memory){
        .head = take_head_solver(arena, d),
        .r = {.states = d->states,
              .rank = d->rank,
              .channels = d->channels,
              .dC_only = !(d->dA || d->dB || d->dP || d->dQ),
              .forward = take_solver(arena, call),
              .adjoint = take_solver(arena, call),
              .C = take_bundles(arena, call, d->channels),
              .P = take_bundles(arena, call, d->rank),
              .Q = take_bundles(arena, call, d->rank),
              .dA = take_bundles(arena, call, 1),
              .dC = take_bundles(arena, call, d->channels),
              .dP = take_bundles(arena, call, d->rank),
              .dQ = take_bundles(arena, call, d->rank)},
        .a = take_bundles(arena, call, 1),
        .mu = take_bundles(arena, call, 1),
        .y = take_bundles(arena, call, 1),
        .x = take_bundles(arena, call, j->steps + 1),
        .checkpoints = take_bundles(arena, call, j->intervals),
        .g = take_doubles(arena, size_mul(size_mul(j->steps, d->channels), call->lanes))};
}

/* ---- Heads to lanes, and back --------------------------------------------------------------- */

/* Lane `lane` of `to`, entries [0, count). */
static void to_lane(const struct complex *from, int64_t count, double *to, int64_t lanes,
                    int64_t lane)
{
    for (int64_t n = 0; n < count; n++) {
        to[2 * n * lanes + lane] = from[n].re;
        to[(2 * n + 1) * lanes + lane] = from[n].im;
    }
}

/* The head in a lane of a group.  Lanes past the last head repeat it. */
static int64_t head_of(const struct ssm_call *call, int64_t group, int64_t lane)
{
    return min64(group * call->lanes + lane, call->d->heads - 1);
}

/* Entries [0, count) of a parameter, for the heads of a group: a bundle each. */
static void to_lanes(const struct ssm_call *call, const double *x, int64_t count, int64_t group,
                     double *to)
{
    const fftconv_ssm_desc *d = call->d;
    for (int64_t i = 0; i < count; i++, to += bundle_doubles(call))
        for (int64_t lane = 0; lane < call->lanes; lane++)
            to_lane((const struct complex *)x +
                        (i * d->heads + head_of(call, group, lane)) * d->states,
                    d->states, to, call->lanes, lane);
}

/* Entry i of a gradient, where that is wanted. */
static void from_lanes(const struct ssm_call *call, const double *from, double *x, int64_t i,
                       int64_t group)
{
    const fftconv_ssm_desc *d = call->d;
    const int64_t W = call->lanes;
    for (int64_t lane = 0; x && lane < W && group * W + lane < d->heads; lane++)
        for (int64_t n = 0; n < d->states; n++)
            set_entry(d, x, i, group * W + lane, n,
                      (struct complex){from[2 * n * W + lane], from[(2 * n + 1) * W + lane]});
}

/* g = samples [from, from + steps) of dk for input i, with zeros in lanes without a head. */
static void load_gradient(const struct ssm_call *call, int64_t i, int64_t group, int64_t from,
                          int64_t steps, double *g)
{
    const fftconv_ssm_desc *d = call->d;
    const int64_t W = call->lanes;
    for (int64_t c = 0; c < d->channels; c++)
        for (int64_t lane = 0; lane < W; lane++) {
            const int64_t h = group * W + lane;
            const void *dk = h < d->heads ? (const char *)d->dk + row_offset(d, i, c, h) : NULL;
            for (int64_t m = 0; m < steps; m++)
                g[(m * d->channels + c) * W + lane] = dk ? sample(d, dk, from + m) : 0;
        }
}

/* ---- A group of heads ----------------------------------------------------------------------- */

static int load_solver(const struct ssm_call *call, int64_t group, bool adjoint,
                       const struct head_solver *head, const struct solver *s)
{
    const fftconv_ssm_desc *d = call->d;
    const int64_t N = d->states, W = call->lanes;
    for (int64_t lane = 0; lane < W; lane++) {
        const int status = build_head_solver(d, head_of(call, group, lane), adjoint, head);
        if (status)
            return status;
        to_lane(head->diagonal, N, s->diagonal, W, lane);
        to_lane(head->rows, N * d->rank, s->rows, W, lane);
        to_lane(head->columns, N * d->rank, s->columns, W, lane);
    }
    return FFTCONV_STATUS_OK;
}

/* The parameters of a group; the sums of its gradients begin with zeros. */
static int load_group(const struct ssm_call *call, int64_t group, const struct recurrence_memory *m)
{
    const fftconv_ssm_desc *d = call->d;
    const size_t bytes = bundle_bytes(call);
    int status = load_solver(call, group, false, &m->head, &m->r.forward);
    if (status || (status = load_solver(call, group, true, &m->head, &m->r.adjoint)))
        return status;
    to_lanes(call, d->C, d->channels, group, m->r.C);
    to_lanes(call, d->P, d->rank, group, m->r.P);
    to_lanes(call, d->Q, d->rank, group, m->r.Q);
    memset(m->r.dA, 0, bytes);
    memset(m->r.dC, 0, (size_t)d->channels * bytes);
    memset(m->r.dP, 0, (size_t)d->rank * bytes);
    memset(m->r.dQ, 0, (size_t)d->rank * bytes);
    return FFTCONV_STATUS_OK;
}

static void store_group(const struct ssm_call *call, int64_t group,
                        const struct recurrence_memory *m)
{
    const fftconv_ssm_desc *d = call->d;
    const int64_t size = bundle_doubles(call);
    from_lanes(call, m->r.dA, d->dA, 0, group);
    for (int64_t c = 0; c < d->channels; c++)
        from_lanes(call, m->r.dC + c * size, d->dC, c, group);
    for (int64_t i = 0; i < d->rank; i++) {
        from_lanes(call, m->r.dP + i * size, d->dP, i, group);
        from_lanes(call, m->r.dQ + i * size, d->dQ, i, group);
    }
}

/* ---- The recurrence ------------------------------------------------------------------------- */

/* The first checkpoint: x[0], which is the state that is given for B, or else x[1], which is
 *     (I - A/2)^-1 B = (2 (I - A/2)^-1 (B/2) - B/2) + B/2,
 * a step of the recurrence from B/2, and that once more. */
static void first_checkpoint(const struct ssm_call *call, int64_t i, int64_t group,
                             const struct recurrence_memory *m)
{
    const fftconv_ssm_desc *d = call->d;
    const int64_t size = bundle_doubles(call);
    to_lanes(call, d->B + i * d->heads * d->states * 2, 1, group,
             d->state ? m->checkpoints : m->mu);
    if (d->state)
        return;
    for (int64_t n = 0; n < size; n++)
        m->mu[n] /= 2;
    memcpy(m->x, m->mu, bundle_bytes(call));
    call->engine->ssm.recur(&m->r, 1, m->x);
    for (int64_t n = 0; n < size; n++)
        m->checkpoints[n] = m->x[size + n] + m->mu[n];
}

static int64_t steps_of(const struct recurrence_job *j, int64_t interval)
{
    return min64(j->steps, j->call->d->length - interval * j->steps);
}

/* x[0 ... steps] of an interval, from its checkpoint.  That is x[0], but for the first one
 * where B is an input: before the first step the state is then zero, and x[1] is known. */
static void run_forward(const struct recurrence_job *j, int64_t interval,
                        const struct recurrence_memory *m)
{
    const int64_t size = bundle_doubles(j->call);
    const int64_t known = interval == 0 && !j->call->d->state;
    if (known)
        memset(m->x, 0, bundle_bytes(j->call));
    memcpy(m->x + known * size, m->checkpoints + interval * size, bundle_bytes(j->call));
    j->call->engine->ssm.recur(&m->r, steps_of(j, interval) - known, m->x + known * size);
}

/* The gradients' sums over an interval, whose states are in x. */
static void run_backward(const struct recurrence_job *j, int64_t i, int64_t group, int64_t interval,
                         const struct recurrence_memory *m)
{
    const int64_t steps = steps_of(j, interval);
    load_gradient(j->call, i, group, interval * j->steps, steps, m->g);
    j->call->engine->ssm.recur_back(&m->r, steps, m->x, m->g, m->a, m->mu, m->y);
}

static int gradients_task(void *context, int64_t group, int worker)
{
    const struct recurrence_job *j = context;
    const struct ssm_call *call = j->call;
    const fftconv_ssm_desc *d = call->d;
    const int64_t size = bundle_doubles(call);
    struct arena arena = worker_arena(call, worker);
    const struct recurrence_memory m = take_memory(&arena, j);
    const int status = load_group(call, group, &m);
    if (status)
        return status;
    for (int64_t i = 0; i < d->inputs; i++) {
        first_checkpoint(call, i, group, &m);
        for (int64_t n = 0; n < j->intervals; n++) {
            run_forward(j, n, &m);
            if (n + 1 < j->intervals)
                memcpy(m.checkpoints + (n + 1) * size, m.x + j->steps * size, bundle_bytes(call));
            if (m.r.dC_only) /* needs nothing that comes from later steps */
                run_backward(j, i, group, n, &m);
        }
        if (m.r.dC_only)
            continue;
        memset(m.a, 0, bundle_bytes(call));
        for (int64_t n = j->intervals; n-- > 0;) {
            run_forward(j, n, &m);
            run_backward(j, i, group, n, &m);
        }
        /* of x[0], or of B through x[1] = (I - A/2)^-1 B */
        from_lanes(call, d->state ? m.a : m.mu, d->dB, i, group);
    }
    store_group(call, group, &m);
    return FFTCONV_STATUS_OK;
}

int low_rank_gradients(struct ssm_call *call)
{
    const int64_t length = call->d->length;
    struct recurrence_job j = {.call = call, .steps = 1};
    struct arena needed = {0};
    while (j.steps * j.steps < length)
        j.steps *= 2;
    j.intervals = ceil_div(length, j.steps);
    take_memory(&needed, &j);
    return run_tasks(call, call->head_groups, needed.used, gradients_task, &j);
}
