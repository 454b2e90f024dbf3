/* Rows through a plan: forward, backward, spectra, the three primitives. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- One row, on one thread or several --------------------------------------- */

/* The memory one row passes through. */
struct lane {
    const struct fftconv_plan *plan;
    int inside; /* threads within the row */
    char *x, *fold, *scratch, *z, *g, *spectrum, *p, *dz;
    int64_t scratch_bytes; /* of each thread */
};

struct row_job {
    const struct lane *lane;
    const struct source *source;
    const struct sink *sink;
    int directions;
    void *S;
    const void *spectrum;
    const void *other;
    bool adjoint;
    int64_t parts;
};

static void first_task(void *context, int64_t i, int worker)
{
    const struct row_job *j = context;
    const struct lane *lane = j->lane;
    const struct xform *xf = &lane->plan->xf;
    const int64_t columns = xf->stage[0].sub;
    lane->plan->engine->first(xf, j->source, lane->x, columns * i / j->parts,
                              columns * (i + 1) / j->parts,
                              lane->scratch + worker * lane->scratch_bytes);
}

static void middle_task(void *context, int64_t i, int worker)
{
    const struct row_job *j = context;
    const struct lane *lane = j->lane;
    lane->plan->engine->middle(&lane->plan->xf, j->directions, lane->x, j->S, j->spectrum,
                               i, i + 1, lane->scratch + worker * lane->scratch_bytes);
}

static void last_task(void *context, int64_t i, int worker)
{
    const struct row_job *j = context;
    const struct lane *lane = j->lane;
    const struct xform *xf = &lane->plan->xf;
    const int64_t columns = xf->stage[0].sub;
    lane->plan->engine->last(xf, lane->x, j->sink, columns * i / j->parts,
                             columns * (i + 1) / j->parts,
                             lane->scratch + worker * lane->scratch_bytes);
}

static void fold_task(void *context, int64_t i, int worker)
{
    const struct row_job *j = context;
    const int64_t length = j->sink->length;
    (void)worker;
    j->lane->plan->engine->fold(&j->lane->plan->xf, j->sink, length * i / j->parts,
                                length * (i + 1) / j->parts);
}

static void multiply_task(void *context, int64_t i, int worker)
{
    const struct row_job *j = context;
    (void)worker;
    j->lane->plan->engine->multiply(&j->lane->plan->xf, j->spectrum, j->S, j->S, j->adjoint,
                                    i, j->parts);
}

static void accumulate_task(void *context, int64_t i, int worker)
{
    const struct row_job *j = context;
    (void)worker;
    j->lane->plan->engine->accumulate(&j->lane->plan->xf, (void *)j->spectrum, j->other,
                                      j->S, i, j->parts);
}

static void run(const struct lane *lane, struct row_job *job, task_fn *task, int64_t n)
{
    job->lane = lane;
    job->parts = n;
    parallel_for(lane->inside, n, task, job);
}

static int64_t parts_of(const struct lane *lane)
{
    return lane->inside > 1 ? min64(4 * lane->inside, lane->plan->xf.stage[0].sub) : 1;
}

static int64_t units_of(const struct lane *lane)
{
    return lane->plan->xf.depth > 0 ? lane->plan->xf.stage[0].radix : 1;
}

static void read_row(const struct lane *lane, const struct source *source)
{
    struct row_job job = {.source = source};
    run(lane, &job, first_task, parts_of(lane));
}

static void write_row(const struct lane *lane, struct sink *sink)
{
    struct row_job job = {.sink = sink};
    sink->fold = lane->fold;
    run(lane, &job, last_task, parts_of(lane));
    if (sink->packing == PERIODIC)
        run(lane, &job, fold_task, parts_of(lane));
}

static void middle(const struct lane *lane, int directions, void *S, const void *spectrum)
{
    struct row_job job = {.directions = directions, .S = S, .spectrum = spectrum};
    run(lane, &job, middle_task, units_of(lane));
}

/* rows -> spectra */
static void transform(const struct lane *lane, const struct source *source, void *S)
{
    read_row(lane, source);
    middle(lane, FORWARD, S, NULL);
}

/* spectra -> rows; S is overwritten */
static void transform_back(const struct lane *lane, void *S, struct sink *sink)
{
    middle(lane, INVERSE, S, NULL);
    write_row(lane, sink);
}

/* The contraction per frequency. */
static void multiply(const struct lane *lane, const void *spectrum, void *S, bool adjoint)
{
    struct row_job job = {.S = S, .spectrum = spectrum, .adjoint = adjoint};
    run(lane, &job, multiply_task, parts_of(lane));
}

/* All three at once; with no mirror in it, the product never leaves the leaf. */
static void convolve(const struct lane *lane, const struct source *source,
                     const void *spectrum, struct sink *sink)
{
    if (lane->plan->xf.form == FFTCONV_EVEN_ODD) {
        transform(lane, source, lane->z);
        multiply(lane, spectrum, lane->z, false);
        transform_back(lane, lane->z, sink);
        return;
    }
    read_row(lane, source);
    middle(lane, FORWARD | INVERSE, NULL, spectrum);
    write_row(lane, sink);
}

/* ---- Operands -------------------------------------------------------------------- */

static struct array array_of(const fftconv_tensor *t, int64_t b, int64_t h)
{
    struct array a = {.dtype = t->dtype, .stride = t->stride[2]};
    if (t->data)
        a.data = (const char *)t->data +
                 (b * t->stride[0] + h * t->stride[1]) * dtype_size(t->dtype);
    return a;
}

static int packing_of_input(const struct fftconv_plan *plan)
{
    return plan->packing == PERIODIC ? LINEAR : plan->packing;
}

static struct source source_of(const struct fftconv_plan *plan, int packing, int64_t length,
                               struct array x, struct array gate)
{
    return (struct source){.packing = packing, .length = length, .period = plan->N,
                           .extent = plan->extent, .x = x, .gate = gate};
}

static struct sink sink_of(const struct fftconv_plan *plan, int packing, int64_t length,
                           struct array to)
{
    return (struct sink){.packing = packing, .length = length, .period = plan->N,
                         .extent = plan->extent, .scale = 1, .mask = 1,
                         .data = (void *)to.data, .dtype = to.dtype, .stride = to.stride};
}

/* A row of the plan's own arithmetic type in the workspace. */
static struct array real_row(const struct fftconv_plan *plan, void *p)
{
    return (struct array){p, plan->xf.real_bytes == 8 ? FFTCONV_FLOAT64 : FFTCONV_FLOAT32, 1};
}

static void prepare(const struct lane *lane, const fftconv_tensor *k, int64_t h, void *spectrum)
{
    const struct fftconv_plan *plan = lane->plan;
    struct source source = source_of(plan, packing_of_input(plan), plan->taps,
                                     array_of(k, 0, h), (struct array){0});
    transform(lane, &source, lane->z);
    plan->engine->prepare(&plan->xf, lane->z, spectrum);
}

/* skip and mask of a row, where there are any */
static double value_of(const struct fftconv_plan *plan, const fftconv_tensor *t, int64_t b,
                       int64_t h, double otherwise)
{
    struct array a = array_of(t, b, h);
    return a.data ? plan->engine->get(&a) : otherwise;
}

/* ---- Checks ------------------------------------------------------------------------ */

/* First and one-past-last byte an operand touches, for any strides. */
static void span(const fftconv_tensor *t, intptr_t *low, intptr_t *high)
{
    intptr_t a = (intptr_t)t->data, b = a + dtype_size(t->dtype);
    for (int i = 0; i < 3; i++) {
        intptr_t reach = (intptr_t)((t->shape[i] - 1) * t->stride[i] * dtype_size(t->dtype));
        if (reach < 0)
            a += reach;
        else
            b += reach;
    }
    *low = a, *high = b;
}

/* Does the operand touch any of these bytes? */
static bool touches(const fftconv_tensor *t, const void *memory, int64_t bytes)
{
    intptr_t low, high, from = (intptr_t)memory;
    span(t, &low, &high);
    return low < from + bytes && from < high;
}

struct operand {
    const char *name;
    const fftconv_tensor *t;
    int64_t shape[3];
    bool output, kernel; /* kernel: float32 is allowed beside a 16-bit plan    */
};

static int check_operand(const struct fftconv_plan *plan, const struct operand *o)
{
    const fftconv_tensor *t = o->t;
    const bool wide = o->kernel && plan->dtype >= FFTCONV_FLOAT16;
    if (t->dtype != plan->dtype && !(wide && t->dtype == FFTCONV_FLOAT32))
        return fail(FFTCONV_INVALID, "%s has dtype %s, must be %s%s", o->name,
                    dtype_name(t->dtype) ? dtype_name(t->dtype) : "unknown",
                    dtype_name(plan->dtype), wide ? " or float32" : "");
    for (int i = 0; i < 3; i++)
        if (t->shape[i] != o->shape[i])
            return fail(FFTCONV_INVALID,
                        "%s has shape (%lld, %lld, %lld), must be (%lld, %lld, %lld)",
                        o->name, (long long)t->shape[0], (long long)t->shape[1],
                        (long long)t->shape[2], (long long)o->shape[0],
                        (long long)o->shape[1], (long long)o->shape[2]);
    if ((uintptr_t)t->data % (unsigned)dtype_size(t->dtype))
        return fail(FFTCONV_INVALID, "%s is at %p, must be aligned to its %d-byte elements",
                    o->name, t->data, dtype_size(t->dtype));
    int64_t total = 0;
    for (int i = 0; i < 3; i++) {
        int64_t reach;
        if (t->stride[i] == INT64_MIN ||
            __builtin_mul_overflow(t->shape[i] - 1, t->stride[i] < 0 ? -t->stride[i] : t->stride[i],
                                   &reach) ||
            __builtin_add_overflow(total, reach, &total) || total > (int64_t)1 << 58)
            return fail(FFTCONV_INVALID, "%s has stride[%d] %lld, must stay within 2^58 "
                        "elements", o->name, i, (long long)t->stride[i]);
    }
    if (!o->output)
        return FFTCONV_OK;
    /* each axis must step over all that smaller steps reach */
    int axis[3] = {0, 1, 2};
    for (int i = 0; i < 3; i++)
        for (int j = i + 1; j < 3; j++)
            if (llabs(t->stride[axis[j]]) < llabs(t->stride[axis[i]])) {
                int s = axis[i];
                axis[i] = axis[j];
                axis[j] = s;
            }
    int64_t reach = 0;
    for (int i = 0; i < 3; i++) {
        const int a = axis[i];
        if (t->shape[a] == 1)
            continue;
        if (llabs(t->stride[a]) <= reach)
            return fail(FFTCONV_INVALID,
                        "%s has strides (%lld, %lld, %lld), must give each of its elements "
                        "a place of its own", o->name, (long long)t->stride[0],
                        (long long)t->stride[1], (long long)t->stride[2]);
        reach += (t->shape[a] - 1) * llabs(t->stride[a]);
    }
    return FFTCONV_OK;
}

/* Is some b s0 + h s1 + l s2 = delta with |b| < shape0, ...?  The strides of an
 * output nest, so that the quotient or its successor is the only candidate. */
static bool reaches(const int64_t *shape, const int64_t *stride, int axes, int64_t delta)
{
    int widest = -1;
    for (int i = 0; i < axes; i++)
        if (shape[i] > 1 && (widest < 0 || llabs(stride[i]) > llabs(stride[widest])))
            widest = i;
    if (widest < 0)
        return delta == 0;
    int64_t rest_shape[3], rest_stride[3];
    memcpy(rest_shape, shape, sizeof rest_shape);
    memcpy(rest_stride, stride, sizeof rest_stride);
    rest_shape[widest] = 1;
    const int64_t s = llabs(stride[widest]);
    if (s == 0)
        return reaches(rest_shape, rest_stride, axes, delta);
    for (int64_t n = delta / s - 1; n <= delta / s + 1; n++)
        if (llabs(n) < shape[widest] &&
            reaches(rest_shape, rest_stride, axes, delta - n * s))
            return true;
    return false;
}

/* The same steps, where there is a step to make. */
static bool same_strides(const struct operand *a, const struct operand *b)
{
    for (int i = 0; i < 3; i++)
        if (a->shape[i] != b->shape[i] ||
            (a->shape[i] > 1 && a->t->stride[i] != b->t->stride[i]))
            return false;
    return a->t->dtype == b->t->dtype;
}

static bool overlap(const struct operand *a, const struct operand *b)
{
    intptr_t alow, ahigh, blow, bhigh;
    span(a->t, &alow, &ahigh);
    span(b->t, &blow, &bhigh);
    if (ahigh <= blow || bhigh <= alow)
        return false;
    const int size = dtype_size(a->t->dtype);
    const int64_t delta = (intptr_t)b->t->data - (intptr_t)a->t->data;
    if (same_strides(a, b) && delta % size == 0)
        return reaches(a->shape, a->t->stride, 3, delta / size);
    return true;
}

enum { OPERANDS = 13 };

static int check_operands(const struct fftconv_plan *plan,
                          const struct fftconv_spectrum *spectrum,
                          const fftconv_operands *o, int direction)
{
    int status;
    if (!plan)
        return fail(FFTCONV_INVALID, "plan is NULL");
    if (!o)
        return fail(FFTCONV_INVALID, "operands is NULL");
    if (o->size != sizeof *o)
        return fail(FFTCONV_INVALID, "operands->size is %zu, must be %zu", o->size, sizeof *o);
    if (o->activation < FFTCONV_IDENTITY || o->activation > FFTCONV_SILU)
        return fail(FFTCONV_INVALID, "activation is %d, must be identity (0), gelu (1) or "
                    "silu (2)", o->activation);
    const bool back = direction == FFTCONV_BACKWARD;
#define ROWS {plan->B, plan->H, plan->L}
#define KERNEL {1, plan->H, plan->Lk}
#define CHANNEL {1, plan->H, 1}
    const struct operand all[OPERANDS] = {
        {"u", &o->u, ROWS, false, false},
        {"k", &o->k, KERNEL, false, true},
        {"in_gate", &o->in_gate, ROWS, false, false},
        {"out_gate", &o->out_gate, ROWS, false, false},
        {"skip", &o->skip, CHANNEL, false, true},
        {"mask", &o->mask, {plan->B, plan->H, 1}, false, true},
        {"dy", &o->dy, ROWS, false, false},
        {"y", &o->y, ROWS, true, false},
        {"du", &o->du, ROWS, true, false},
        {"dk", &o->dk, KERNEL, true, true},
        {"din_gate", &o->din_gate, ROWS, true, false},
        {"dout_gate", &o->dout_gate, ROWS, true, false},
        {"dskip", &o->dskip, CHANNEL, true, true},
    };
#undef ROWS
#undef KERNEL
#undef CHANNEL
    bool used[OPERANDS];
    for (int i = 0; i < OPERANDS; i++) {
        const bool forward_only = i == 7, backward_only = i == 6 || i > 7;
        used[i] = all[i].t->data && !(forward_only && back) && !(backward_only && !back) &&
                  !(i == 1 && spectrum);
        if (used[i] && (status = check_operand(plan, &all[i])))
            return status;
    }
    if (!o->u.data)
        return fail(FFTCONV_INVALID, "u is NULL, must be given");
    if (!spectrum && !o->k.data)
        return fail(FFTCONV_INVALID, "k is NULL, must be given where spectrum is NULL");
    if (!back && !o->y.data)
        return fail(FFTCONV_INVALID, "y is NULL, must be given");
    if (back && !o->dy.data)
        return fail(FFTCONV_INVALID, "dy is NULL, must be given");
    if (o->din_gate.data && back && !o->in_gate.data)
        return fail(FFTCONV_INVALID, "din_gate is given, must be NULL where in_gate is NULL");
    if (o->dout_gate.data && back && !o->out_gate.data)
        return fail(FFTCONV_INVALID, "dout_gate is given, must be NULL where out_gate is NULL");
    if (o->dskip.data && back && !o->skip.data)
        return fail(FFTCONV_INVALID, "dskip is given, must be NULL where skip is NULL");
    /* y may be u: each row is read before it is written */
    for (int i = 7; i < OPERANDS; i++)
        for (int j = 0; j < i; j++)
            if (used[i] && used[j] && overlap(&all[i], &all[j]) &&
                !(i == 7 && j == 0 && o->y.data == o->u.data &&
                  same_strides(&all[i], &all[j])))
                return fail(FFTCONV_INVALID, "%s overlaps %s, must not%s", all[i].name,
                            all[j].name, i == 7 && j == 0 ? " unless it is the same array" : "");
    if (o->workspace && (uintptr_t)o->workspace % ALIGNMENT)
        return fail(FFTCONV_INVALID, "workspace is at %p, must be aligned to %d bytes",
                    o->workspace, ALIGNMENT);
    for (int i = 0; i < OPERANDS; i++)
        if (o->workspace && used[i] &&
            touches(all[i].t, o->workspace, max64(0, o->workspace_bytes)))
            return fail(FFTCONV_INVALID, "workspace overlaps %s, must not", all[i].name);
    return FFTCONV_OK;
}

static int check_spectrum(const struct fftconv_plan *plan,
                          const struct fftconv_spectrum *s)
{
    const struct xform *xf = &plan->xf;
    bool fits = s->H == plan->H && s->row_reals == spectrum_reals(plan) && s->M == xf->M &&
                s->form == xf->form && s->lanes == xf->lanes &&
                s->real_bytes == xf->real_bytes && s->stages == xf->stages &&
                s->split == xf->split && s->depth == xf->depth &&
                s->packing == plan->packing && s->taps == plan->taps;
    for (int l = 0; fits && l < xf->stages; l++)
        fits = s->radix[l] == xf->stage[l].radix;
    if (!fits)
        return fail(FFTCONV_INVALID,
                    "spectrum was made for another plan (%lld channels, %lld taps, M %lld, "
                    "form %d, %d lanes), must be of this one (%lld, %lld, %lld, %d, %d) or "
                    "one that chose the same stages", (long long)s->H, (long long)s->taps,
                    (long long)s->M, s->form, s->lanes, (long long)plan->H,
                    (long long)plan->taps, (long long)xf->M, xf->form, xf->lanes);
    return FFTCONV_OK;
}

/* ---- Calls -------------------------------------------------------------------------- */

struct call {
    const struct fftconv_plan *plan;
    const fftconv_operands *o;
    struct layout layout;
    char *workers, *shared;
    const char *spectra; /* of all channels, or NULL: each worker makes its own */
    char *sums;          /* backward, chunks > 1: partial dk                    */
    double *dskips;      /* backward: [h][chunk]                                */
    char *made;          /* backward: a spectrum for each worker                */
};

static struct lane lane_of(const struct call *c, int worker)
{
    const struct layout *l = &c->layout;
    struct lane lane = {.plan = c->plan, .inside = l->inside, .scratch_bytes = l->scratch};
    char *p = c->workers + worker * l->worker;
    /* in the order of layout_of's sums; what a direction lacks is never touched */
    lane.x = p, p += l->x;
    lane.fold = p, p += l->fold;
    lane.scratch = p, p += l->scratch * l->inside;
    lane.z = p, p += l->spectra;
    lane.spectrum = p; /* forward: the channel's; backward: the sum over b */
    if (c->dskips)
        p += l->spectrum, lane.g = p, p += l->spectra, lane.p = p, p += l->row, lane.dz = p;
    return lane;
}

static int begin(struct call *c, const struct fftconv_plan *plan, const fftconv_operands *o,
                 int direction, bool prepared, void **owned)
{
    int threads, status = resolve_threads(plan, o->threads, &threads);
    if (status)
        return status;
    c->plan = plan;
    c->o = o;
    c->layout = layout_of(plan, direction, threads, prepared);
    *owned = NULL;
    char *memory = o->workspace;
    if (memory && o->workspace_bytes < c->layout.total)
        return fail(FFTCONV_INVALID, "workspace_bytes is %lld, must be at least %lld",
                    (long long)o->workspace_bytes, (long long)c->layout.total);
    if (!memory && !(memory = *owned = aligned_new(c->layout.total)))
        return fail_memory(c->layout.total);
    c->shared = memory;
    c->workers = memory + c->layout.shared;
    return FFTCONV_OK;
}

/* Spectra of every channel, into consecutive rows. */
struct prepare_job {
    const struct call *call;
    const fftconv_tensor *k;
    char *to;
};

static void prepare_task(void *context, int64_t h, int worker)
{
    const struct prepare_job *job = context;
    struct lane lane = lane_of(job->call, worker);
    prepare(&lane, job->k, h, job->to + h * job->call->layout.spectrum);
}

static void prepare_all(const struct call *c, const fftconv_tensor *k, char *to)
{
    struct prepare_job job = {c, k, to};
    parallel_for(c->layout.threads, c->plan->H, prepare_task, &job);
}

static void forward_row(const struct call *c, const struct lane *lane, int64_t b, int64_t h,
                        const void *spectrum)
{
    const struct fftconv_plan *plan = c->plan;
    const fftconv_operands *o = c->o;
    struct source source = source_of(plan, packing_of_input(plan), plan->L,
                                     array_of(&o->u, b, h), array_of(&o->in_gate, b, h));
    struct sink sink = sink_of(plan, plan->packing, plan->L, array_of(&o->y, b, h));
    sink.x = source.x;
    sink.gate = source.gate;
    sink.out_gate = array_of(&o->out_gate, b, h);
    sink.has_skip = o->skip.data;
    sink.skip = value_of(plan, &o->skip, 0, h, 0);
    sink.mask = value_of(plan, &o->mask, b, h, 1);
    sink.activation = o->activation;
    convolve(lane, &source, spectrum, &sink);
}

/* A row, channel by channel so that a channel's spectrum stays in cache. */
static void forward_task(void *context, int64_t i, int worker)
{
    const struct call *c = context;
    struct lane lane = lane_of(c, worker);
    const int64_t B = c->plan->B;
    forward_row(c, &lane, i % B, i / B, c->spectra + i / B * c->layout.spectrum);
}

static void forward_channel_task(void *context, int64_t h, int worker)
{
    const struct call *c = context;
    struct lane lane = lane_of(c, worker);
    prepare(&lane, &c->o->k, h, lane.spectrum);
    for (int64_t b = 0; b < c->plan->B; b++)
        forward_row(c, &lane, b, h, lane.spectrum);
}

int fftconv_forward(const fftconv_plan *plan, const fftconv_spectrum *spectrum,
                    const fftconv_operands *o)
{
    struct call c = {0};
    void *owned;
    int status = check_operands(plan, spectrum, o, FFTCONV_FORWARD);
    if (status || (spectrum && (status = check_spectrum(plan, spectrum))) ||
        (status = begin(&c, plan, o, FFTCONV_FORWARD, spectrum != NULL, &owned)))
        return status;
    if (c.layout.by_channel) {
        parallel_for(c.layout.threads, plan->H, forward_channel_task, &c);
    } else {
        c.spectra = spectrum ? spectrum->data : c.shared;
        if (!spectrum)
            prepare_all(&c, &o->k, c.shared);
        parallel_for(c.layout.threads, plan->B * plan->H, forward_task, &c);
    }
    aligned_free(owned);
    return FFTCONV_OK;
}

/* ---- Backward --------------------------------------------------------------------------
 *
 * With g = dy out_gate mask act'(p), Z and G the transforms of z and g:
 *     dz = inverse(adjoint spectrum . G) + skip g, du = dz in_gate, ...
 *     dk = pullback(sum over b of conj(Z) G)
 * and z, p recomputed, not stored. */

static void backward_row(const struct call *c, const struct lane *lane, int64_t b, int64_t h,
                         const void *spectrum, void *sum, double *dskip)
{
    const struct fftconv_plan *plan = c->plan;
    const struct engine *e = plan->engine;
    const fftconv_operands *o = c->o;
    const struct array u = array_of(&o->u, b, h), gate = array_of(&o->in_gate, b, h);
    const double skip = value_of(plan, &o->skip, 0, h, 0);
    const bool need_p = o->activation != FFTCONV_IDENTITY || o->dout_gate.data;
    const bool need_dz = o->du.data || o->din_gate.data;

    if (need_p || o->dk.data) {
        struct source source = source_of(plan, packing_of_input(plan), plan->L, u, gate);
        transform(lane, &source, lane->z);
    }
    if (need_p) {
        struct sink sink = sink_of(plan, plan->packing, plan->L, real_row(plan, lane->p));
        sink.x = u;
        sink.gate = gate;
        sink.has_skip = o->skip.data;
        sink.skip = skip;
        memcpy(lane->g, lane->z, (size_t)plan->xf.spectra_reals * plan->xf.real_bytes);
        multiply(lane, spectrum, lane->g, false);
        transform_back(lane, lane->g, &sink);
    }
    struct array dout = array_of(&o->dout_gate, b, h);
    struct gradient gradient = {.length = plan->L, .activation = o->activation,
                                .mask = value_of(plan, &o->mask, b, h, 1),
                                .p = need_p ? lane->p : NULL, .g = lane->p,
                                .dy = array_of(&o->dy, b, h),
                                .out_gate = array_of(&o->out_gate, b, h), .x = u,
                                .gate = gate, .dout_gate = (void *)dout.data,
                                .dout_gate_dtype = dout.dtype,
                                .dout_gate_stride = dout.stride,
                                .dskip = o->dskip.data ? dskip : NULL};
    e->gradient(&gradient);

    if (!need_dz && !o->dk.data)
        return;
    struct source source = source_of(plan, plan->packing, plan->L, real_row(plan, lane->p),
                                     (struct array){0});
    transform(lane, &source, lane->g);
    if (o->dk.data) {
        struct row_job job = {.S = lane->g, .spectrum = sum, .other = lane->z};
        run(lane, &job, accumulate_task, parts_of(lane));
    }
    if (!need_dz)
        return;
    struct sink sink = sink_of(plan, packing_of_input(plan), plan->L,
                               real_row(plan, lane->dz));
    multiply(lane, spectrum, lane->g, true);
    transform_back(lane, lane->g, &sink);
    const struct {
        const fftconv_tensor *t;
        struct array factor;
    } wanted[] = {{&o->du, gate}, {&o->din_gate, u}};
    for (int i = 0; i < 2; i++) {
        struct array to = array_of(wanted[i].t, b, h);
        if (to.data)
            e->spread(plan->L, lane->dz, skip, lane->p, &wanted[i].factor, (void *)to.data,
                      to.dtype, to.stride);
    }
}

/* dk and dskip of a channel from their sums over the batch */
static void finish_channel(const struct call *c, const struct lane *lane, int64_t h,
                           const void *sum)
{
    const struct fftconv_plan *plan = c->plan;
    const struct engine *e = plan->engine;
    struct array dk = array_of(&c->o->dk, 0, h), dskip = array_of(&c->o->dskip, 0, h);
    if (dk.data) {
        struct sink sink = sink_of(plan, packing_of_input(plan), plan->taps, dk);
        sink.scale = 1 / (double)plan->xf.M; /* a spectrum carries it; this is none */
        e->pullback(&plan->xf, sum, lane->g);
        transform_back(lane, lane->g, &sink);
        for (int64_t s = plan->taps; s < plan->Lk; s++) /* taps that never act */
            e->set((char *)dk.data + s * dk.stride * dtype_size(dk.dtype), dk.dtype, 0);
    }
    if (dskip.data) {
        double total = 0;
        for (int64_t i = 0; i < plan->chunks; i++)
            total += c->dskips[h * plan->chunks + i];
        e->set((void *)dskip.data, dskip.dtype, total);
    }
}

/* One channel's chunk of the batch; the chunks are the shape's, not the
 * threads', so the sums come out the same to the bit. */
static void backward_task(void *context, int64_t i, int worker)
{
    const struct call *c = context;
    const struct fftconv_plan *plan = c->plan;
    struct lane lane = lane_of(c, worker);
    const int64_t h = i / plan->chunks, chunk = i % plan->chunks;
    const char *spectrum = c->spectra + h * c->layout.spectrum;
    char *sum = c->sums ? c->sums + i * c->layout.spectrum : lane.spectrum;
    if (!c->spectra) {
        char *made = c->made + worker * c->layout.spectrum;
        prepare(&lane, &c->o->k, h, made);
        spectrum = made;
    }
    memset(sum, 0, (size_t)c->layout.spectrum);
    c->dskips[i] = 0;
    for (int64_t b = plan->B * chunk / plan->chunks; b < plan->B * (chunk + 1) / plan->chunks;
         b++)
        backward_row(c, &lane, b, h, spectrum, sum, &c->dskips[i]);
    if (plan->chunks == 1)
        finish_channel(c, &lane, h, sum);
}

static void finish_task(void *context, int64_t h, int worker)
{
    const struct call *c = context;
    struct lane lane = lane_of(c, worker);
    char *sum = c->sums + h * c->plan->chunks * c->layout.spectrum;
    if (c->o->dk.data)
        for (int64_t i = 1; i < c->plan->chunks; i++)
            c->plan->engine->add(&c->plan->xf, sum, sum + i * c->layout.spectrum);
    finish_channel(c, &lane, h, sum);
}

int fftconv_backward(const fftconv_plan *plan, const fftconv_spectrum *spectrum,
                     const fftconv_operands *o)
{
    struct call c = {0};
    void *owned;
    int status = check_operands(plan, spectrum, o, FFTCONV_BACKWARD);
    if (status || (spectrum && (status = check_spectrum(plan, spectrum))) ||
        (status = begin(&c, plan, o, FFTCONV_BACKWARD, spectrum != NULL, &owned)))
        return status;
    const int64_t tasks = plan->H * plan->chunks;
    char *p = c.shared;
    c.dskips = (double *)p;
    p += round_up(tasks * (int64_t)sizeof(double), ALIGNMENT);
    if (plan->chunks > 1)
        c.sums = p, p += tasks * c.layout.spectrum;
    if (spectrum) {
        c.spectra = spectrum->data;
    } else if (plan->chunks > 1 || c.layout.inside > 1) {
        c.spectra = p;
        prepare_all(&c, &o->k, p);
    } else {
        c.made = p;
    }
    parallel_for(c.layout.threads, tasks, backward_task, &c);
    if (plan->chunks > 1)
        parallel_for(c.layout.threads, plan->H, finish_task, &c);
    aligned_free(owned);
    return FFTCONV_OK;
}

/* ---- Spectra ------------------------------------------------------------------------------ */

int fftconv_spectrum_create(fftconv_spectrum **out, const fftconv_plan *plan,
                            const fftconv_tensor *k, int threads)
{
    int status;
    if (!out)
        return fail(FFTCONV_INVALID, "spectrum is NULL, must point at a place for it");
    *out = NULL;
    if (!plan || !k)
        return fail(FFTCONV_INVALID, "%s is NULL", plan ? "k" : "plan");
    if (!k->data)
        return fail(FFTCONV_INVALID, "k is NULL, must be given");
    const struct operand operand = {"k", k, {1, plan->H, plan->Lk}, false, true};
    fftconv_operands o = {.size = sizeof o, .threads = threads};
    if ((status = check_operand(plan, &operand)))
        return status;

    struct call c = {0};
    void *owned;
    int64_t bytes;
    if (__builtin_mul_overflow(spectrum_reals(plan) * plan->xf.real_bytes + ALIGNMENT, plan->H,
                               &bytes))
        return fail_memory(INT64_MAX);
    struct fftconv_spectrum *s = calloc(1, sizeof *s);
    if (!s)
        return fail_memory(sizeof *s);
    const int64_t row = round_up(spectrum_reals(plan) * plan->xf.real_bytes, ALIGNMENT);
    *s = (struct fftconv_spectrum){
        .data = aligned_new(plan->H * row), .H = plan->H, .row_reals = spectrum_reals(plan),
        .form = plan->xf.form, .lanes = plan->xf.lanes, .real_bytes = plan->xf.real_bytes,
        .stages = plan->xf.stages, .split = plan->xf.split, .depth = plan->xf.depth,
        .packing = plan->packing, .M = plan->xf.M, .taps = plan->taps};
    for (int l = 0; l < s->stages; l++)
        s->radix[l] = plan->xf.stage[l].radix;
    if (!s->data) {
        free(s);
        return fail_memory(plan->H * row);
    }
    if ((status = begin(&c, plan, &o, FFTCONV_FORWARD, false, &owned))) {
        fftconv_spectrum_destroy(s);
        return status;
    }
    prepare_all(&c, k, s->data);
    aligned_free(owned);
    *out = s;
    return FFTCONV_OK;
}

void fftconv_spectrum_destroy(fftconv_spectrum *spectrum)
{
    if (spectrum)
        aligned_free(spectrum->data);
    free(spectrum);
}

/* ---- The three primitives -------------------------------------------------------------------- */

struct primitive {
    struct call call;
    const fftconv_tensor *rows;
    const fftconv_spectrum *spectrum;
    const char *in;
    char *out;
    int64_t row_bytes;
};

static void rows_to_spectra_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct fftconv_plan *plan = p->call.plan;
    struct lane lane = lane_of(&p->call, worker);
    struct source source = source_of(plan, packing_of_input(plan), plan->L,
                                     array_of(p->rows, i / plan->H, i % plan->H),
                                     (struct array){0});
    transform(&lane, &source, p->out + i * p->row_bytes);
}

static void spectra_to_rows_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct fftconv_plan *plan = p->call.plan;
    struct lane lane = lane_of(&p->call, worker);
    struct sink sink = sink_of(plan, plan->packing, plan->L,
                               array_of(p->rows, i / plan->H, i % plan->H));
    transform_back(&lane, p->out + i * p->row_bytes, &sink);
}

static void multiply_rows_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct fftconv_plan *plan = p->call.plan;
    (void)worker;
    plan->engine->multiply(&plan->xf,
                           (char *)p->spectrum->data + i % plan->H * p->call.layout.spectrum,
                           p->in + i * p->row_bytes, p->out + i * p->row_bytes, false, 0, 1);
}

static int check_spectra(const char *name, const void *spectra)
{
    if (!spectra)
        return fail(FFTCONV_INVALID, "%s is NULL, must be given", name);
    if ((uintptr_t)spectra % ALIGNMENT)
        return fail(FFTCONV_INVALID, "%s is at %p, must be aligned to %d bytes", name, spectra,
                    ALIGNMENT);
    return FFTCONV_OK;
}

static int run_primitive(const struct fftconv_plan *plan, struct primitive *p, task_fn *task,
                         int threads, const fftconv_tensor *rows, bool output)
{
    int status;
    if (!plan)
        return fail(FFTCONV_INVALID, "plan is NULL");
    if ((status = check_spectra(rows ? "spectra" : "in", p->in)) ||
        (status = check_spectra(rows ? "spectra" : "out", p->out)))
        return status;
    const int64_t bytes = plan->B * plan->H * plan->xf.spectra_reals * plan->xf.real_bytes;
    if (rows) {
        if (!rows->data)
            return fail(FFTCONV_INVALID, "rows is NULL, must be given");
        const struct operand operand = {"rows", rows, {plan->B, plan->H, plan->L}, output, false};
        if ((status = check_operand(plan, &operand)))
            return status;
        if (touches(rows, p->out, bytes))
            return fail(FFTCONV_INVALID, "rows overlap spectra, must not");
    } else if (p->in != p->out && p->in < p->out + bytes && p->out < p->in + bytes) {
        return fail(FFTCONV_INVALID, "out overlaps in, must not unless it is the same array");
    }
    fftconv_operands o = {.size = sizeof o, .threads = threads};
    void *owned;
    if ((status = begin(&p->call, plan, &o, FFTCONV_FORWARD, true, &owned)))
        return status;
    p->rows = rows;
    p->row_bytes = plan->xf.spectra_reals * plan->xf.real_bytes;
    parallel_for(p->call.layout.threads, plan->B * plan->H, task, p);
    aligned_free(owned);
    return FFTCONV_OK;
}

int fftconv_rows_to_spectra(const fftconv_plan *plan, const fftconv_tensor *rows,
                            void *spectra, int threads)
{
    struct primitive p = {.in = spectra, .out = spectra};
    if (!rows)
        return fail(FFTCONV_INVALID, "rows is NULL, must be given");
    return run_primitive(plan, &p, rows_to_spectra_task, threads, rows, false);
}

int fftconv_spectra_to_rows(const fftconv_plan *plan, void *spectra,
                            const fftconv_tensor *rows, int threads)
{
    struct primitive p = {.in = spectra, .out = spectra};
    if (!rows)
        return fail(FFTCONV_INVALID, "rows is NULL, must be given");
    return run_primitive(plan, &p, spectra_to_rows_task, threads, rows, true);
}

int fftconv_multiply(const fftconv_plan *plan, const fftconv_spectrum *spectrum,
                     const void *in, void *out, int threads)
{
    struct primitive p = {.in = in, .out = out, .spectrum = spectrum};
    int status;
    if (!plan || !spectrum)
        return fail(FFTCONV_INVALID, "%s is NULL", plan ? "spectrum" : "plan");
    if ((status = check_spectrum(plan, spectrum)))
        return status;
    return run_primitive(plan, &p, multiply_rows_task, threads, NULL, true);
}

int fftconv_spectra_offsets(const fftconv_plan *plan, int64_t *offset)
{
    if (!plan || !offset)
        return fail(FFTCONV_INVALID, "%s is NULL", plan ? "offset" : "plan");
    const struct xform *xf = &plan->xf;
    int radices[MAX_STAGES];
    for (int l = 0; l < xf->stages; l++)
        radices[l] = xf->stage[l].radix;
    for (int64_t v = 0; v < xf->P; v++) {
        const int64_t low = digit_reverse(v, radices, xf->split);
        for (int64_t q = 0; q < xf->Q; q++)
            offset[low + xf->P * digit_reverse(q, radices + xf->split,
                                               xf->stages - xf->split)] =
                spectrum_offset(xf, v, q);
    }
    return FFTCONV_OK;
}
