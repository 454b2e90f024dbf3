/* Rows through a plan: forward, backward, spectra, the three primitives.
 *
 * A call's work is cut three ways: into tasks, which threads share; in a task,
 * into tiles of channels, whose rows are copied together where the caller's are
 * not contiguous; in a tile, into the blocks of its rows. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- One row, on one thread or several --------------------------------------- */

/* The memory one row passes through. */
struct lane {
    const struct fftconv_plan *plan;
    const struct layout *layout;
    int inside; /* threads within the row */
    char *memory, *x, *row, *scratch, *z, *g, *p, *dz, *taps, *filter;
    int64_t scratch_bytes; /* of each thread */
};

struct row_job {
    const struct lane *lane;
    const struct xform *xf;
    const struct source *source;
    const struct sink *sink;
    int directions;
    void *S, *sum;
    const void *spectrum;
    void *other;
    bool adjoint, begin;
    double scale;
    int levels; /* of a fold */
    int64_t length, parts;
};

static int first_task(void *context, int64_t i, int worker)
{
    const struct row_job *j = context;
    const struct lane *lane = j->lane;
    const int64_t columns = j->xf->stage[0].sub;
    lane->plan->engine->first(j->xf, j->source, lane->x, columns * i / j->parts,
                              columns * (i + 1) / j->parts,
                              lane->scratch + worker * lane->scratch_bytes);
    return FFTCONV_STATUS_OK;
}

static int middle_task(void *context, int64_t i, int worker)
{
    const struct row_job *j = context;
    const struct lane *lane = j->lane;
    lane->plan->engine->middle(j->xf, j->directions, lane->x, j->S, j->spectrum, i, i + 1,
                               lane->scratch + worker * lane->scratch_bytes, NULL);
    return FFTCONV_STATUS_OK;
}

static int last_task(void *context, int64_t i, int worker)
{
    const struct row_job *j = context;
    const struct lane *lane = j->lane;
    const int64_t columns = j->xf->stage[0].sub;
    lane->plan->engine->last(j->xf, lane->x, j->sink, columns * i / j->parts,
                             columns * (i + 1) / j->parts,
                             lane->scratch + worker * lane->scratch_bytes);
    return FFTCONV_STATUS_OK;
}

static int fold_task(void *context, int64_t i, int worker)
{
    const struct row_job *j = context;
    const int64_t step = j->length >> j->levels;
    (void)worker;
    j->lane->plan->engine->fold(j->adjoint, j->levels, j->length, j->lane->plan->part[0].ahead,
                                j->source, j->sink, j->lane->row, step * i / j->parts,
                                step * (i + 1) / j->parts);
    return FFTCONV_STATUS_OK;
}

static int multiply_task(void *context, int64_t i, int worker)
{
    const struct row_job *j = context;
    (void)worker;
    j->lane->plan->engine->multiply(j->xf, j->spectrum, j->S, j->other, j->adjoint, i, j->parts);
    return FFTCONV_STATUS_OK;
}

static int accumulate_task(void *context, int64_t i, int worker)
{
    const struct row_job *j = context;
    (void)worker;
    j->lane->plan->engine->accumulate(j->xf, j->scale, j->begin, j->sum, j->S, j->other,
                                      j->spectrum, i, j->parts);
    return FFTCONV_STATUS_OK;
}

static void run(const struct lane *lane, struct row_job *job, task_fn *task, int64_t n)
{
    job->lane = lane;
    job->parts = n;
    (void)parallel_for(lane->inside, n, task, job); /* tasks within a row cannot fail */
}

static int64_t parts_of(const struct lane *lane, const struct xform *xf)
{
    return lane->inside > 1 ? min64(4 * lane->inside, xf->stage[0].sub) : 1;
}

/* On one thread straight to the engine: a short row is done in less time than a
 * job takes to set up. */
static void read_row(const struct lane *lane, const struct xform *xf, const struct source *source)
{
    if (lane->inside <= 1) {
        lane->plan->engine->first(xf, source, lane->x, 0, xf->stage[0].sub, lane->scratch);
        return;
    }
    struct row_job job = {.xf = xf, .source = source};
    run(lane, &job, first_task, parts_of(lane, xf));
}

static void write_row(const struct lane *lane, const struct xform *xf, const struct sink *sink)
{
    if (lane->inside <= 1) {
        lane->plan->engine->last(xf, lane->x, sink, 0, xf->stage[0].sub, lane->scratch);
        return;
    }
    struct row_job job = {.xf = xf, .sink = sink};
    run(lane, &job, last_task, parts_of(lane, xf));
}

static void middle(const struct lane *lane, const struct xform *xf, int directions, void *S,
                   const void *spectrum, struct ahead *ahead)
{
    if (lane->inside <= 1) {
        lane->plan->engine->middle(xf, directions, lane->x, S, spectrum, 0,
                                   xf->depth > 0 ? xf->kept : 1, lane->scratch, ahead);
        return;
    }
    struct row_job job = {.xf = xf, .directions = directions, .S = S, .spectrum = spectrum};
    run(lane, &job, middle_task, xf->depth > 0 ? xf->kept : 1);
}

/* ---- A row and its parts -------------------------------------------------------
 *
 * The parts are done from the last, smallest one on: what was folded last is in cache. */

/* Two levels a pass, what is left last. */
static void fold(const struct lane *lane, const struct source *source)
{
    const int levels = lane->plan->parts - 1;
    for (int l = 0; l < levels; l += 2) {
        struct row_job job = {.source = l == 0 ? source : NULL,
                              .levels = (int)min64(2, levels - l),
                              .length = lane->plan->places >> l};
        run(lane, &job, fold_task, lane->inside > 1 ? 4 * lane->inside : 1);
    }
}

/* The pass back that part i, done after all below it, completes: the row's small end is
 * whole again while it is still in cache. */
static void unfold(const struct lane *lane, const struct sink *sink, int i)
{
    const int levels = lane->plan->parts - 1;
    if (i % 2 || i >= levels)
        return;
    struct row_job job = {.sink = i == 0 ? sink : NULL,
                          .adjoint = true,
                          .levels = (int)min64(2, levels - i),
                          .length = lane->plan->places >> i};
    run(lane, &job, fold_task, lane->inside > 1 ? 4 * lane->inside : 1);
}

static struct array own_row(const struct fftconv_plan *plan, const void *p, int64_t origin);

/* Part i of the folded row; of a source or sink, what it takes to say no more. */
static void part_source(const struct lane *lane, int i, struct source *s)
{
    const struct xform *xf = &lane->plan->part[i];
    s->packing = LINEAR;
    s->shift = s->from = s->before_to = 0;
    s->to = xf->form == FFTCONV_FORM_RIGHT_ANGLE ? 2 * xf->M : xf->M;
    s->x = own_row(lane->plan, lane->row + xf->row * xf->real_bytes, 0);
    s->gate.data = s->before.data = s->before_gate.data = NULL;
}

static void part_sink(const struct lane *lane, int i, struct sink *s)
{
    const struct xform *xf = &lane->plan->part[i];
    s->packing = LINEAR;
    s->shift = s->from = 0;
    s->to = xf->form == FFTCONV_FORM_RIGHT_ANGLE ? 2 * xf->M : xf->M;
    s->y = own_row(lane->plan, lane->row + xf->row * xf->real_bytes, 0);
    s->out_gate.data = s->twin.data = NULL;
    s->has_skip = s->has_mask = false;
    s->activation = FFTCONV_ACTIVATION_IDENTITY;
}

static void *at_part(const struct fftconv_plan *plan, int i, const void *spectra)
{
    return (char *)spectra + plan->part[i].spectra * plan->part[i].real_bytes;
}

/* rows -> spectra */
static void transform(const struct lane *lane, const struct source *source, void *S,
                      struct ahead *ahead)
{
    const struct fftconv_plan *plan = lane->plan;
    if (plan->parts > 1)
        fold(lane, source);
    for (int i = plan->parts; i-- > 0;) {
        struct source part;
        if (plan->parts > 1)
            part_source(lane, i, &part);
        read_row(lane, &plan->part[i], plan->parts > 1 ? &part : source);
        middle(lane, &plan->part[i], FORWARD, at_part(plan, i, S), NULL, ahead);
    }
}

/* spectra -> rows; S is overwritten */
static void transform_back(const struct lane *lane, void *S, const struct sink *sink,
                           struct ahead *ahead)
{
    const struct fftconv_plan *plan = lane->plan;
    for (int i = plan->parts; i-- > 0;) {
        struct sink part;
        if (plan->parts > 1)
            part_sink(lane, i, &part);
        middle(lane, &plan->part[i], INVERSE, at_part(plan, i, S), NULL, ahead);
        write_row(lane, &plan->part[i], plan->parts > 1 ? &part : sink);
        unfold(lane, sink, i);
    }
}

/* The contraction per frequency: to = spectrum S; to may be S. */
static void multiply(const struct lane *lane, const void *spectrum, void *S, void *to, bool adjoint)
{
    const struct fftconv_plan *plan = lane->plan;
    for (int i = 0; i < plan->parts; i++) {
        if (lane->inside <= 1) {
            plan->engine->multiply(&plan->part[i], at_part(plan, i, spectrum), at_part(plan, i, S),
                                   at_part(plan, i, to), adjoint, 0, 1);
            continue;
        }
        struct row_job job = {.xf = &plan->part[i],
                              .S = at_part(plan, i, S),
                              .other = at_part(plan, i, to),
                              .spectrum = at_part(plan, i, spectrum),
                              .adjoint = adjoint};
        run(lane, &job, multiply_task, parts_of(lane, job.xf));
    }
}

/* May a sink's own memory hold the folded row, the way back ending in place?  Not
 * where it is the source's, and a skip reads that once more. */
static bool holds_row(const struct fftconv_plan *plan, const struct sink *s)
{
    return s->y.dtype == own_row(plan, NULL, 0).dtype && s->y.stride == 1 &&
           s->to - s->from == plan->places && !(s->has_skip && s->x.data == s->y.data);
}

/* All three at once: the product never leaves the leaf.  S: the row's spectra are left
 * there, where keeps_spectra. */
static void convolve_part(const struct lane *lane, int i, const struct source *source, void *S,
                          const void *spectrum, const struct sink *sink, struct ahead *ahead)
{
    const struct xform *xf = &lane->plan->part[i];
    read_row(lane, xf, source);
    middle(lane, xf, FORWARD | INVERSE | (S ? KEPT : 0), S ? at_part(lane->plan, i, S) : NULL,
           at_part(lane->plan, i, spectrum), ahead);
    write_row(lane, xf, sink);
}

static bool keeps_spectra(const struct fftconv_plan *plan)
{
    bool all = true;
    for (int i = 0; i < plan->parts; i++)
        all &= plan->part[i].square;
    return all;
}

static void convolve(const struct lane *given, const struct source *source, void *S,
                     const void *spectrum, const struct sink *sink, struct ahead *ahead)
{
    const struct fftconv_plan *plan = given->plan;
    if (plan->parts == 1) {
        convolve_part(given, 0, source, S, spectrum, sink, ahead);
        return;
    }
    struct lane lane = *given;
    if (holds_row(plan, sink))
        lane.row = (char *)sink->y.data;
    fold(&lane, source);
    for (int i = plan->parts; i-- > 0;) {
        struct source from;
        struct sink to;
        part_source(&lane, i, &from);
        part_sink(&lane, i, &to);
        convolve_part(&lane, i, &from, S, spectrum, &to, ahead);
        unfold(&lane, sink, i);
    }
}

/* What the way back leaves out: 1/M, and a half for each level unfolded. */
static double part_scale(const struct fftconv_plan *plan, int i)
{
    const int levels = plan->parts > 1 ? (int)min64(i + 1, plan->parts - 1) : 0;
    return 1 / ((double)plan->part[i].M * (double)((int64_t)1 << levels));
}

/* sum += weights conj(Z) G and what the way back leaves out, or begins with that; and
 * where a spectrum is given G *= conj(spectrum) */
static void accumulate(const struct lane *lane, bool begin, void *sum, void *Z, void *G,
                       const void *spectrum)
{
    const struct fftconv_plan *plan = lane->plan;
    for (int i = 0; i < plan->parts; i++) {
        const double scale = part_scale(plan, i);
        const void *by = spectrum ? at_part(plan, i, spectrum) : NULL;
        if (lane->inside <= 1) {
            plan->engine->accumulate(&plan->part[i], scale, begin, at_part(plan, i, sum),
                                     at_part(plan, i, Z), at_part(plan, i, G), by, 0, 1);
            continue;
        }
        struct row_job job = {.xf = &plan->part[i],
                              .begin = begin,
                              .scale = scale,
                              .sum = at_part(plan, i, sum),
                              .S = at_part(plan, i, Z),
                              .other = at_part(plan, i, G),
                              .spectrum = by};
        run(lane, &job, accumulate_task, parts_of(lane, job.xf));
    }
}

/* The transform of k, S, becomes a spectrum: times the weights and what the way back
 * leaves out. */
static void weigh(const struct fftconv_plan *plan, void *S)
{
    for (int i = 0; i < plan->parts; i++)
        plan->engine->weigh(&plan->part[i], part_scale(plan, i), at_part(plan, i, S));
}

/* ---- Sources and sinks -------------------------------------------------------------- */

static struct array array_of(const fftconv_tensor *t, int64_t b, int64_t h)
{
    struct array a = {.dtype = t->dtype, .stride = t->stride[2]};
    if (t->data)
        a.data = (const char *)t->data +
                 (b * t->stride[0] + h * t->stride[1]) * dtype_size(t->dtype);
    return a;
}

/* A row of the plan's own arithmetic type in the workspace, from element
 * `origin` on. */
static struct array own_row(const struct fftconv_plan *plan, const void *p, int64_t origin)
{
    const bool wide = plan->part[0].real_bytes == 8;
    const int dtype = is_complex(plan->dtype)
                          ? (wide ? FFTCONV_DTYPE_COMPLEX128 : FFTCONV_DTYPE_COMPLEX64)
                          : (wide ? FFTCONV_DTYPE_FLOAT64 : FFTCONV_DTYPE_FLOAT32);
    return (struct array){p, dtype, 1, origin};
}

/* Block j: y[t0 ... t1) from z[s ... s + places). */
struct block {
    int64_t j, t0, t1, s;
};

static struct block block_of(const struct fftconv_plan *plan, int64_t L, int64_t j)
{
    return (struct block){j, j * plan->V, min64(L, (j + 1) * plan->V), j * plan->V - plan->lead};
}

/* The places of a block's inputs, of a row yet to be named. */
static void input_source(struct source *s, const struct fftconv_plan *plan, int64_t L,
                         const struct block *block)
{
    s->packing = plan->packing;
    s->shift = block->s;
    s->from = max64(0, block->s);
    s->to = min64(L, block->s + plan->places);
    s->gate.data = s->before.data = s->before_gate.data = NULL;
    s->before_to = 0;
}

/* A row in the places of a block's outputs, zeros around it. */
static struct source output_source(const struct fftconv_plan *plan, const struct block *block,
                                   struct array x)
{
    return (struct source){
        .packing = plan->packing, .shift = block->s, .from = block->t0, .to = block->t1, .x = x};
}

static struct sink output_sink(const struct fftconv_plan *plan, const struct block *block,
                               struct array y)
{
    return (struct sink){
        .packing = plan->packing, .shift = block->s, .from = block->t0, .to = block->t1, .y = y};
}

/* All places a block's inputs may have come from. */
static struct sink input_sink(const struct fftconv_plan *plan, int64_t L, const struct block *block,
                              struct array y)
{
    return (struct sink){.packing = plan->packing,
                         .shift = block->s,
                         .from = block->s,
                         .to = min64(L, block->s + plan->places),
                         .y = y};
}

/* ---- Kernels ---------------------------------------------------------------------------- */

static struct array element_of(const struct array *a, int64_t n)
{
    struct array one = *a;
    one.data = (const char *)a->data + n * a->stride * dtype_size(a->dtype);
    return one;
}

static struct scalar get_element(const struct fftconv_plan *plan, const struct array *a, int64_t n)
{
    const struct array one = element_of(a, n);
    return plan->engine->get(&one);
}

static void set_element(const struct fftconv_plan *plan, const struct array *a, int64_t n,
                        struct scalar value)
{
    const struct array one = element_of(a, n);
    plan->engine->set(&one, value);
}

static struct taps taps_of(const struct fftconv_plan *plan, const fftconv_tensor *k,
                           const fftconv_tensor *k_rev, int64_t b, int64_t g)
{
    struct taps taps = {.count = plan->taps,
                        .places = plan->places,
                        .sign = plan->form == FFTCONV_FORM_RIGHT_ANGLE ? -1 : 1};
    if (k)
        taps.k = array_of(k, b, g);
    if (plan->rev_taps && k_rev) {
        taps.rev_count = plan->rev_taps;
        taps.k_rev = array_of(k_rev, b, g);
    }
    return taps;
}

/* A pattern on a circle whose length has no stages acts on the kernel's own taps: theirs,
 * fft_size of them, to lane->taps; or back, from there to the first Lk of the gradient.
 * Both ways it is the same filter, which is its own adjoint (filter.c). */
static int filter_taps(const struct lane *lane, const struct array *k, bool back)
{
    const struct fftconv_plan *plan = lane->plan;
    const struct array own = own_row(plan, lane->taps, 0);
    const int64_t given = back ? plan->N : plan->Lk, wanted = back ? plan->Lk : plan->N;
    const struct array *from = back ? &own : k, *to = back ? k : &own;
    double *row = (double *)lane->filter;
    for (int64_t n = 0; n < plan->N; n++)
        row[n] = n < given ? get_element(plan, from, n).re : 0;
    const int status = filter_apply(plan->filter, row, row + plan->N, lane->inside);
    for (int64_t n = 0; !status && n < wanted; n++)
        set_element(plan, to, n, (struct scalar){row[n], 0});
    return status;
}

/* The transform of a kernel, to S. */
static int transform_taps(const struct lane *lane, const struct taps *taps, void *S)
{
    const struct fftconv_plan *plan = lane->plan;
    struct source source = {.packing = plan->packing, .to = taps->count, .x = taps->k};
    int status = FFTCONV_STATUS_OK;
    if (plan->filter) {
        status = filter_taps(lane, &taps->k, false);
        source.x = own_row(plan, lane->taps, 0);
    } else if (taps->k_rev.data) {
        plan->engine->place_taps(taps, lane->taps);
        source.to = taps->places;
        source.x = own_row(plan, lane->taps, 0);
    }
    if (!status)
        transform(lane, &source, S, NULL);
    return status;
}

/* The taps of a kernel's gradient from its spectrum S, which is overwritten. */
static int transform_back_taps(const struct lane *lane, const struct taps *taps, void *S)
{
    const struct fftconv_plan *plan = lane->plan;
    struct sink sink = {.packing = plan->packing, .to = taps->count, .y = taps->k};
    if (taps->k_rev.data)
        sink.to = taps->places;
    if (taps->k_rev.data || plan->filter)
        sink.y = own_row(plan, lane->taps, 0);
    transform_back(lane, S, &sink, NULL);
    if (taps->k_rev.data)
        plan->engine->take_taps(taps, lane->taps);
    return plan->filter && taps->k.data ? filter_taps(lane, &taps->k, true) : FFTCONV_STATUS_OK;
}

static void zero_elements(const struct fftconv_plan *plan, const struct array *a, int64_t from,
                          int64_t to)
{
    for (int64_t n = from; a->data && n < to; n++)
        set_element(plan, a, n, (struct scalar){0, 0});
}

/* ---- Calls ------------------------------------------------------------------------------- */

struct call {
    const struct fftconv_plan *plan;
    const fftconv_operands *o;
    struct rows {
        struct array first; /* row (0, 0) */
        int64_t b, h;       /* bytes from a row to the next of either */
    } rows[ROW_OPERANDS];
    int64_t L; /* of this call's rows */
    struct layout layout;
    char *workers, *shared;
    const char *spectra;                   /* of all kernels, or NULL: each worker makes its own */
    const struct fftconv_spectrum *direct; /* whose taps are summed, or NULL */
    int64_t ahead; /* bytes of a row fetched with each tile of the one before */
};

static struct lane lane_of(const struct call *c, int worker)
{
    const struct layout *l = &c->layout;
    char *m = c->workers + worker * l->worker;
    return (struct lane){.plan = c->plan,
                         .layout = l,
                         .inside = l->inside,
                         .memory = m,
                         .x = m + l->x,
                         .row = m + l->row,
                         .scratch = m + l->scratch,
                         .z = m + l->z,
                         .g = m + l->g,
                         .p = m + l->p,
                         .dz = m + l->dz,
                         .taps = m + l->taps,
                         .filter = m + l->filter,
                         .scratch_bytes = l->scratch_bytes};
}

/* Rows that are not contiguous while channels are: an element a cache line. */
static bool is_scattered(const fftconv_tensor *t)
{
    const int64_t size = dtype_size(t->dtype);
    const int64_t n = t->stride[2], h = t->stride[1], far = size ? 32 / size : 0;
    return t->data && t->shape[1] > 1 && t->shape[2] > 1 && size && h != 0 && h < 64 / size &&
           h > -64 / size && (n >= far || n <= -far);
}

static struct shape_of_call shape_of(const struct fftconv_plan *plan, const fftconv_operands *o,
                                     int direction, int threads, bool prepared)
{
    struct shape_of_call call = {.direction = direction, .threads = threads, .prepared = prepared};
    const bool forward = direction == FFTCONV_DIRECTION_FORWARD;
    for (int i = 0; i < ROW_OPERANDS; i++)
        if (i <= OUT_GATE || (forward ? i == Y : i >= DY))
            call.tiled |= call.staged[i] = is_scattered(row_tensor(o, i));
    if (forward && plan->blocks > 1 && o->u.data && o->y.data == o->u.data)
        call.in_place = call.staged[U] = true;
    return call;
}

/* rows: of a primitive; 0: the plan's */
static int begin(struct call *c, const struct fftconv_plan *plan, const fftconv_operands *o,
                 int direction, bool prepared, int64_t rows, void **owned)
{
    int threads, status = resolve_threads(plan, o->threads, &threads);
    if (status)
        return status;
    c->plan = plan;
    c->o = o;
    c->L = plan->history && o->u.data ? o->u.shape[2] : plan->L;
    struct shape_of_call call = shape_of(plan, o, direction, threads, prepared);
    call.rows = rows;
    c->layout = layout_of(plan, &call);
    for (int i = 0; i < ROW_OPERANDS; i++) {
        const fftconv_tensor *t = row_tensor(o, i);
        const int64_t size = t->data ? dtype_size(t->dtype) : 0;
        /* a stride of an axis of 1 is anything */
        c->rows[i] = (struct rows){array_of(t, 0, 0), t->shape[0] > 1 ? t->stride[0] * size : 0,
                                   t->shape[1] > 1 ? t->stride[1] * size : 0};
    }
    *owned = NULL;
    char *memory = o->workspace;
    if (memory && o->workspace_bytes < c->layout.total)
        return fail(FFTCONV_STATUS_INVALID, "workspace_bytes is %lld, must be at least %lld",
                    (long long)o->workspace_bytes, (long long)c->layout.total);
    if (!memory && !(memory = *owned = aligned_new(c->layout.total)))
        return fail_memory(c->layout.total);
    c->shared = memory;
    c->workers = memory + c->layout.shared;
    return FFTCONV_STATUS_OK;
}

int fftconv_workspace_bytes(const fftconv_plan *plan, const fftconv_spectrum *spectrum,
                            const fftconv_operands *o, int direction, int64_t *bytes)
{
    int threads, status;
    if (!plan || !o || !bytes)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL",
                    !plan ? "plan"
                    : !o  ? "operands"
                          : "bytes");
    if (o->size != sizeof *o)
        return fail(FFTCONV_STATUS_INVALID, "operands->size is %zu, must be %zu", o->size,
                    sizeof *o);
    if (direction != FFTCONV_DIRECTION_FORWARD && direction != FFTCONV_DIRECTION_BACKWARD)
        return fail(FFTCONV_STATUS_INVALID, "direction is %d, must be forward (0) or backward (1)",
                    direction);
    if ((status = resolve_threads(plan, o->threads, &threads)))
        return status;
    if (plan->cuda) {
        *bytes = cuda_workspace_bytes(plan, direction, spectrum != NULL);
        return FFTCONV_STATUS_OK;
    }
    const struct shape_of_call call = shape_of(plan, o, direction, threads, spectrum != NULL);
    *bytes = layout_of(plan, &call).total;
    return FFTCONV_STATUS_OK;
}

/* skip and mask of a row, where there are any */
static struct scalar scalar_of(const struct fftconv_plan *plan, const fftconv_tensor *t, int64_t b,
                               int64_t h)
{
    if (!t->data)
        return (struct scalar){0, 0};
    const struct array a = array_of(t, b, h);
    return plan->engine->get(&a);
}

static int prepare(const struct lane *lane, const fftconv_operands *o, int64_t b, int64_t g,
                   void *spectrum)
{
    const struct taps taps = taps_of(lane->plan, &o->k, &o->k_rev, b, g);
    const int status = transform_taps(lane, &taps, spectrum);
    if (!status)
        weigh(lane->plan, spectrum);
    return status;
}

/* Spectra of every kernel, into consecutive rows. */
struct prepare_job {
    const struct call *call;
    char *to;
};

static int prepare_task(void *context, int64_t i, int worker)
{
    const struct prepare_job *job = context;
    const struct call *c = job->call;
    struct lane lane = lane_of(c, worker);
    return prepare(&lane, c->o, i / c->plan->G, i % c->plan->G, job->to + i * c->layout.spectra);
}

static int prepare_all(const struct call *c, char *to)
{
    struct prepare_job job = {c, to};
    return parallel_for(c->layout.threads, c->plan->KB * c->plan->G, prepare_task, &job);
}

/* ---- Tiles -------------------------------------------------------------------------------
 *
 * Rows (b, h0 ... h0 + count) of every operand, block by block; or rows (b ... b + count,
 * h0) of one kernel, which share what there is to set up.  What is staged stands in the
 * workspace, row after row, from element `from` on. */

struct tile {
    const struct call *call;
    const struct lane *lane;
    int64_t b, h0, count;
    int64_t step_b, step_h; /* from row to row: one is 1, the other 0 */
    int64_t next_b, next_h; /* the row after the last of these, a guess; h = H: none */
    struct {
        int64_t from, to; /* elements there */
    } staged[ROW_OPERANDS];
};

/* By squares, so that a line of memory is visited once on either side. */
#define COPY_TILE(type) \
    for (int64_t n0 = 0; n0 < elements; n0 += TILE) { \
        type square[TILE][TILE]; \
        const int64_t m = min64(TILE, elements - n0); \
        const int64_t far_n = t->stride[2], far_h = t->stride[1]; \
        type *far = (type *)data + n0 * far_n; \
        for (int64_t i = 0; !in && i < count; i++) \
            memcpy(square[i], stage + i * row_bytes + n0 * size, (size_t)(m * size)); \
        for (int64_t n = 0; n < m; n++) \
            for (int64_t i = 0; i < count; i++) \
                if (in) \
                    square[i][n] = far[n * far_n + i * far_h]; \
                else \
                    far[n * far_n + i * far_h] = square[i][n]; \
        for (int64_t i = 0; in && i < count; i++) \
            memcpy(stage + i * row_bytes + n0 * size, square[i], (size_t)(m * size)); \
    }

static void copy_tile(const struct fftconv_plan *plan, const fftconv_tensor *t, int64_t b,
                      int64_t h0, int64_t count, int64_t from, int64_t elements, char *stage,
                      int64_t row_bytes, bool in)
{
    typedef struct {
        uint32_t half[2];
    } pair_of_4;
    typedef struct {
        uint64_t half[2];
    } pair_of_8;
    const int size = dtype_size(t->dtype);
    char *data = (char *)t->data +
                 (b * t->stride[0] + h0 * t->stride[1] + from * t->stride[2]) * size;
    if (size == plan->part[0].real_bytes && t->stride[1] == 1) {
        const int64_t far = t->stride[2], near = row_bytes / size;
        if (in)
            plan->engine->turn(data, far, stage, near, elements, count);
        else
            plan->engine->turn(stage, near, data, far, count, elements);
        return;
    }
    switch (t->dtype) { /* complex numbers are aligned to their halves */
    case FFTCONV_DTYPE_COMPLEX128: COPY_TILE(pair_of_8) break;
    case FFTCONV_DTYPE_COMPLEX64: COPY_TILE(pair_of_4) break;
    case FFTCONV_DTYPE_FLOAT64: COPY_TILE(uint64_t) break;
    case FFTCONV_DTYPE_FLOAT32: COPY_TILE(uint32_t) break;
    default: COPY_TILE(uint16_t)
    }
}
#undef COPY_TILE

/* Which elements of an operand a block touches. */
static void reach_of(const struct call *c, const struct block *block, int operand, int64_t *from,
                     int64_t *to)
{
    const struct fftconv_plan *plan = c->plan;
    *from = block->t0, *to = block->t1;
    if (operand == U || operand == IN_GATE || operand == DU || operand == DIN_GATE) {
        *from = max64(0, block->s);
        *to = min64(c->L, block->s + plan->places);
    }
}

static void stage_in(struct tile *tile, const struct block *block)
{
    const struct layout *l = tile->lane->layout;
    for (int i = 0; (l->call.tiled || l->call.in_place) && i < ROW_OPERANDS; i++) {
        if (!l->call.staged[i])
            continue;
        const fftconv_tensor *t = row_tensor(tile->call->o, i);
        char *stage = tile->lane->memory + l->stage[i];
        int64_t from, to, have = 0;
        reach_of(tile->call, block, i, &from, &to);
        if (l->call.in_place && i == U && block->j > 0) {
            /* the last block has written over what the two share */
            have = max64(0, tile->staged[i].to - from);
            const int64_t size = dtype_size(t->dtype);
            for (int64_t h = 0; h < tile->count; h++)
                memmove(stage + h * l->stage_bytes[i],
                        stage + h * l->stage_bytes[i] + (from - tile->staged[i].from) * size,
                        (size_t)(have * size));
        }
        tile->staged[i].from = from;
        tile->staged[i].to = to;
        if (i <= OUT_GATE || i == DY)
            copy_tile(tile->call->plan, t, tile->b, tile->h0, tile->count, from + have,
                      to - from - have, stage + have * dtype_size(t->dtype), l->stage_bytes[i],
                      true);
    }
}

/* What operand's elements [from, to) of this block are now known. */
static void stage_out(const struct tile *tile, int operand, int64_t from, int64_t to)
{
    const struct layout *l = tile->lane->layout;
    if (!l->call.staged[operand] || from >= to)
        return;
    const fftconv_tensor *t = row_tensor(tile->call->o, operand);
    copy_tile(tile->call->plan, t, tile->b, tile->h0, tile->count, from, to - from,
              tile->lane->memory + l->stage[operand] +
                  (from - tile->staged[operand].from) * dtype_size(t->dtype),
              l->stage_bytes[operand], false);
}

/* Row i of the tile.  Through a pointer, as the next ones: what is copied as a
 * whole just after it was written in pieces is waited for. */
static void row_to(struct array *a, const struct tile *tile, int operand, int64_t i)
{
    const struct layout *l = tile->lane->layout;
    const struct rows *rows = &tile->call->rows[operand];
    a->dtype = rows->first.dtype;
    if (l->call.staged[operand]) {
        a->data = tile->lane->memory + l->stage[operand] + i * l->stage_bytes[operand];
        a->stride = 1;
        a->origin = tile->staged[operand].from;
    } else {
        a->data = (const char *)rows->first.data + (tile->b + i * tile->step_b) * rows->b +
                  (tile->h0 + i * tile->step_h) * rows->h;
        a->stride = rows->first.stride;
        a->origin = 0;
    }
}

static struct array row_of(const struct tile *tile, int operand, int64_t i)
{
    struct array a;
    row_to(&a, tile, operand, i);
    return a;
}

/* Elements below 0 are read from the caller's row: in place, those that come
 * round are not written before the last block. */
static void read_before(struct source *s, const struct tile *tile, int64_t i)
{
    const struct fftconv_plan *plan = tile->call->plan;
    const fftconv_operands *o = tile->call->o;
    const int64_t b = tile->b + i * tile->step_b, h = tile->h0 + i * tile->step_h;
    if (plan->wrap) {
        s->before = array_of(&o->u, b, h);
        s->before_gate = array_of(&o->in_gate, b, h);
        s->before.origin = s->before_gate.origin = -plan->N;
        s->before_to = tile->call->L - plan->N;
    } else if (plan->history && plan->behind > 0) {
        s->before = array_of(&o->history, b, h);
        s->before.origin = -plan->behind;
    }
}

/* What a block of row i of the tile is made from; `s` has what all its rows share. */
static void source_of_row(struct source *s, const struct tile *tile, const struct block *block,
                          int64_t i)
{
    row_to(&s->x, tile, U, i);
    if (tile->call->o->in_gate.data)
        row_to(&s->gate, tile, IN_GATE, i);
    read_before(s, tile, i);
    if (s->before.data)
        s->from = block->s;
}

/* Kernels [g0, g1) of batch row kb, and their spectra. */
struct kernels {
    int64_t kb, g0, g1;
    const char *spectra;
};

/* Those of a task; spectra as the call has them, or made here and now. */
static int kernels_of(struct kernels *k, const struct call *c, const struct lane *lane,
                      int64_t task)
{
    const struct layout *l = &c->layout;
    const struct fftconv_plan *plan = c->plan;
    const int64_t tasks = l->kernel_tasks / plan->KB; /* of a batch row */
    *k = (struct kernels){.kb = task / tasks, .g0 = task % tasks * l->kernels};
    k->g1 = min64(plan->G, k->g0 + l->kernels);
    if (c->spectra) {
        k->spectra = c->spectra + (k->kb * plan->G + k->g0) * l->spectra;
        return FFTCONV_STATUS_OK;
    }
    char *made = lane->memory + l->made;
    int status = FFTCONV_STATUS_OK;
    for (int64_t g = k->g0; !status && g < k->g1; g++)
        status = prepare(lane, c->o, k->kb, g, made + (g - k->g0) * l->spectra);
    k->spectra = made;
    return status;
}

/* Rows a kernel serves: its members', in one row of the batch or in all. */
static int64_t rows_of_kernel(const struct fftconv_plan *plan)
{
    return plan->members * (plan->B / plan->KB);
}

typedef void tile_fn(struct tile *tile, const char *spectra, void *context);

/* Rows [row0, row1) of those that each of these kernels serves, tile by tile; `batch`: those
 * of one kernel may be a tile, where none is staged. */
static void each_tile(const struct call *c, const struct lane *lane, const struct kernels *k,
                      int64_t row0, int64_t row1, bool batch, tile_fn *fn, void *context)
{
    const int64_t members = c->plan->members, h0 = k->g0 * members, first_m = row0 % members;
    const int64_t first_b = k->kb + row0 / members;
    struct tile tile = {.call = c, .lane = lane, .count = k->g1 - k->g0, .step_h = 1};
    int64_t b = first_b, m = first_m;
    const bool along = batch && members == 1 && tile.count == 1 && !c->layout.call.tiled;
    if (along)
        tile.step_b = 1, tile.step_h = 0, tile.count = row1 - row0;
    for (int64_t r = row0, n = along ? tile.count : 1; r < row1; r += n) {
        tile.b = b;
        tile.h0 = h0 + m;
        if (members > 1)
            tile.count = n = min64(min64(c->layout.tile, members - m), row1 - r);
        if ((m += n) == members)
            m = 0, b++;
        tile.next_b = b;
        tile.next_h = h0 + m;
        if (r + n >= row1) { /* the next kernel's, which on one thread come next */
            tile.next_b = first_b;
            tile.next_h = c->layout.threads == 1 ? k->g1 * members + first_m : c->plan->H;
        }
        fn(&tile, k->spectra, context);
    }
}

/* The spectrum of row i of a tile: its kernel's, of those the task holds. */
static const char *spectrum_of(const struct tile *tile, const char *spectra, int64_t i)
{
    const bool own = tile->call->plan->members == 1 && tile->step_h;
    return spectra + (own ? i : 0) * tile->call->layout.spectra;
}

/* ---- Rows ahead of the one at work --------------------------------------------------------- */

static void fetch_row(struct ahead *a, const struct tile *tile, int operand, int64_t b, int64_t h)
{
    const struct rows *rows = &tile->call->rows[operand];
    if (rows->first.data && rows->first.stride == 1 && !tile->lane->layout->call.staged[operand])
        a->at[a->rows++] = (const char *)rows->first.data + b * rows->b + h * rows->h;
}

/* Row i of the tile, which is wanted or written later; and the row after it. */
static void fetch(struct ahead *a, const struct tile *tile, int operand, int64_t i)
{
    fetch_row(a, tile, operand, tile->b + i * tile->step_b, tile->h0 + i * tile->step_h);
}

static void fetch_next(struct ahead *a, const struct tile *tile, int operand, int64_t i)
{
    if (i + 1 < tile->count)
        fetch(a, tile, operand, i + 1);
    else if (tile->next_h < tile->call->plan->H)
        fetch_row(a, tile, operand, tile->next_b, tile->next_h);
}

/* ---- Forward --------------------------------------------------------------------------- */

struct segment {
    int64_t block0, block1;
};

static void forward_tile(struct tile *tile, const char *spectra, void *context)
{
    const struct segment *segment = context;
    const struct call *c = tile->call;
    const struct fftconv_plan *plan = c->plan;
    const fftconv_operands *o = c->o;
    for (int64_t j = segment->block0; j < segment->block1; j++) {
        const struct block block = block_of(plan, c->L, j);
        stage_in(tile, &block);
        struct source source;
        struct sink sink = {.packing = plan->packing,
                            .shift = block.s,
                            .from = block.t0,
                            .to = block.t1,
                            .has_skip = o->skip.data,
                            .has_mask = o->mask.data,
                            .activation = o->activation};
        input_source(&source, plan, c->L, &block);
        for (int64_t i = 0; i < tile->count; i++) {
            const int64_t b = tile->b + i * tile->step_b, h = tile->h0 + i * tile->step_h;
            struct ahead ahead = {.step = c->ahead};
            source_of_row(&source, tile, &block, i);
            row_to(&sink.y, tile, Y, i);
            if (o->out_gate.data)
                row_to(&sink.out_gate, tile, OUT_GATE, i);
            if (sink.has_skip) {
                row_to(&sink.x, tile, U, i);
                row_to(&sink.gate, tile, IN_GATE, i);
                sink.skip = scalar_of(plan, &o->skip, 0, h);
            }
            if (sink.has_mask)
                sink.mask = scalar_of(plan, &o->mask, b, h);
            if (c->direct) {
                /* the taps of the kernel whose spectrum this row would meet */
                const int64_t kernel = (spectrum_of(tile, spectra, i) - c->spectra) /
                                       c->layout.spectra;
                sink.shift = 0; /* of the only block */
                plan->engine->direct(
                    &source, (char *)c->direct->reversed + kernel * c->direct->reversed_bytes,
                    plan->taps, c->L, &sink, tile->lane->memory + tile->lane->layout->direct);
            } else {
                if (c->ahead) {
                    fetch_next(&ahead, tile, U, i);
                    fetch_next(&ahead, tile, IN_GATE, i);
                    fetch(&ahead, tile, OUT_GATE, i);
                    fetch(&ahead, tile, Y, i);
                }
                convolve(tile->lane, &source, NULL, spectrum_of(tile, spectra, i), &sink, &ahead);
            }
        }
        stage_out(tile, Y, block.t0, block.t1);
    }
}

/* Blocks that this call's rows have. */
static int64_t blocks_of(const struct call *c) { return ceil_div(c->L, c->plan->V); }

/* One run of rows with one kernel, or a tile of kernels; one segment of blocks. */
static int forward_task(void *context, int64_t index, int worker)
{
    const struct call *c = context;
    const struct layout *l = &c->layout;
    const struct fftconv_plan *plan = c->plan;
    const struct lane lane = lane_of(c, worker);
    const int64_t s = index % l->segments, run = index / l->segments % l->runs;
    struct kernels k;
    const int status = kernels_of(&k, c, &lane, index / l->segments / l->runs);
    if (status)
        return status;
    const int64_t blocks = blocks_of(c);
    struct segment segment = {blocks * s / l->segments, blocks * (s + 1) / l->segments};
    /* runs of one batch row: pieces of its members, each a tile long */
    const int64_t pieces = ceil_div(plan->members, plan->members > 1 ? l->tile : 1);
    const int64_t row0 = run / pieces * plan->members + run % pieces * l->tile;
    const int64_t row1 = min64(run / pieces * plan->members + plan->members,
                               row0 + (plan->members > 1 ? l->tile : 1));
    each_tile(c, &lane, &k, row0, row1, false, forward_tile, &segment);
    return FFTCONV_STATUS_OK;
}

/* Kernels made, then all their rows. */
static int forward_kernel_task(void *context, int64_t task, int worker)
{
    const struct call *c = context;
    const struct lane lane = lane_of(c, worker);
    struct kernels k;
    const int status = kernels_of(&k, c, &lane, task);
    if (status)
        return status;
    struct segment all = {0, blocks_of(c)};
    /* of rows in blocks, one row after the other */
    each_tile(c, &lane, &k, 0, rows_of_kernel(c->plan), all.block1 == 1, forward_tile, &all);
    return FFTCONV_STATUS_OK;
}

int fftconv_forward(const fftconv_plan *plan, const fftconv_spectrum *spectrum,
                    const fftconv_operands *o)
{
    struct call c = {0};
    void *owned;
    int status = check_operands(plan, spectrum, o, FFTCONV_DIRECTION_FORWARD);
    if (status)
        return status;
    if (plan->cuda)
        return cuda_execute(plan, spectrum, o, FFTCONV_DIRECTION_FORWARD);
    if ((status = begin(&c, plan, o, FFTCONV_DIRECTION_FORWARD, spectrum != NULL, 0, &owned)))
        return status;
    const struct layout *l = &c.layout;
    c.spectra = spectrum ? spectrum->data : NULL;
    if (spectrum && spectrum->reversed && c.L <= plan->direct)
        c.direct = spectrum;
    if (!spectrum && !l->by_kernel) {
        status = prepare_all(&c, c.shared + l->shared_spectra);
        c.spectra = c.shared + l->shared_spectra;
    }
    c.ahead = l->inside > 1 ? 0 : plan->fetched;
    if (!status && l->whole)
        status = parallel_for(l->threads, l->kernel_tasks, forward_kernel_task, &c);
    else if (!status)
        status = parallel_for(l->threads, l->kernel_tasks * l->runs * l->segments, forward_task,
                              &c);
    aligned_free(owned);
    return status;
}

/* ---- Backward --------------------------------------------------------------------------
 *
 * With g = dy conj(out_gate mask) act'(p), Z and G the transforms of z and g:
 *     dz = inverse(adjoint spectrum . G) + conj(skip) g, du = dz conj(in_gate), ...
 *     dk = pullback(sum over rows of conj(Z) G)
 * and z, p recomputed, not stored.  In blocks, the adjoint of overlap-save is
 * overlap-add: a block's dz reaches `behind` + `ahead` elements into the next,
 * which are carried over; and what lies below element 0 comes round at the end. */

struct backward {
    char *sums; /* of the task's kernels, layout.spectra each, or chunks apart */
    int64_t sum_step;
    bool begun;            /* each sum holds a row already */
    struct scalar *dskips; /* of this task's channels, from h0 on */
    int64_t h0;
};

/* Block j of row i: dz from its places, overlapped with what came before, to du
 * and din_gate as far as it is finished. */
static void add_up(const struct tile *tile, const struct block *block, int64_t i, char *dz,
                   int64_t *from, int64_t *to)
{
    const struct call *c = tile->call;
    const struct fftconv_plan *plan = c->plan;
    const struct engine *e = plan->engine;
    const struct layout *l = &c->layout;
    const bool complex = is_complex(plan->dtype), last = block->t1 == c->L;
    const int64_t element = (1 + complex) * plan->part[0].real_bytes;
    const int64_t span = min64(c->L, block->s + plan->places) - block->s;
    const int64_t halo = plan->behind + plan->ahead;
    char *carry = tile->lane->memory + l->carry + i * l->carry_bytes;
    char *wrapped = tile->lane->memory + l->wrapped + i * l->wrap_bytes;
    const struct scalar one = {1, 0};
    if (block->j > 0)
        e->axpy(complex, min64(halo, span), one, carry, dz);
    if (!last)
        memcpy(carry, dz + plan->V * element, (size_t)(halo * element));
    *from = max64(0, block->s);
    *to = last ? c->L : max64(0, block->s + plan->V);
    if (!plan->wrap)
        return;
    /* elements s ... 0 come round to N + s ...; a later block adds to those left */
    const int64_t below = max64(0, min64(plan->V, -block->s));
    memcpy(wrapped + (block->s + plan->behind) * element, dz,
           below > 0 ? (size_t)(below * element) : 0);
    if (last) {
        const int64_t count = max64(0, min64(plan->behind, c->L - plan->N + plan->behind));
        e->axpy(complex, count, one, wrapped, dz + (plan->N - plan->behind - block->s) * element);
    }
}

static void backward_tile(struct tile *tile, const char *spectra, void *context)
{
    struct backward *task = context;
    const struct call *c = tile->call;
    const struct lane *lane = tile->lane;
    const struct fftconv_plan *plan = c->plan;
    const struct engine *e = plan->engine;
    const fftconv_operands *o = c->o;
    const bool complex = is_complex(plan->dtype);
    const int64_t element = (1 + complex) * plan->part[0].real_bytes;
    const bool need_p = o->activation != FFTCONV_ACTIVATION_IDENTITY || o->dout_gate.data;
    const bool need_dz = o->du.data || o->din_gate.data;
    const bool need_dk = o->dk.data || o->dk_rev.data;
    /* p and g are not stored, dout_gate = dy p and g = dy out_gate being a sink and a source;
     * nor is dz, where no block but one has a part in it */
    const bool real = !complex && !o->skip.data;
    const bool p_passes = real && !o->mask.data && o->activation == FFTCONV_ACTIVATION_IDENTITY;
    const bool at_once = need_p && keeps_spectra(plan);
    const bool dz_passes = real && plan->blocks == 1 && !plan->wrap;

    for (int64_t j = 0; j < plan->blocks; j++) {
        const struct block block = block_of(plan, c->L, j);
        int64_t from = max64(0, block.s), to = c->L; /* elements of dz that this block finishes */
        stage_in(tile, &block);
        /* what all rows share */
        const struct array own_p = own_row(plan, lane->p, block.t0);
        const struct array dz = own_row(plan, lane->dz, block.s);
        struct source input, output = output_source(plan, &block, own_p);
        struct sink p_sink = output_sink(plan, &block, own_p);
        struct sink dz_sink = input_sink(plan, c->L, &block, dz);
        input_source(&input, plan, c->L, &block);
        p_sink.has_skip = o->skip.data;
        if (dz_passes)
            dz_sink.from = from;
        for (int64_t i = 0; i < tile->count; i++) {
            const int64_t h = tile->h0 + i;
            const char *spectrum = spectrum_of(tile, spectra, i);
            const struct scalar skip = scalar_of(plan, &o->skip, 0, h);
            struct ahead now = {.step = c->ahead}, next = {.step = c->ahead};
            if (c->ahead) {
                fetch(&now, tile, DY, i);
                fetch(&now, tile, OUT_GATE, i);
                fetch(&now, tile, DOUT_GATE, i);
                fetch(&next, tile, DU, i);
                fetch(&next, tile, DIN_GATE, i);
                fetch_next(&next, tile, U, i);
                fetch_next(&next, tile, IN_GATE, i);
            }
            source_of_row(&input, tile, &block, i);
            if (p_passes) {
                row_to(&p_sink.y, tile, DOUT_GATE, i);
                row_to(&p_sink.out_gate, tile, DY, i);
                row_to(&output.x, tile, DY, i);
                row_to(&output.gate, tile, OUT_GATE, i);
            }
            if (p_sink.has_skip) {
                p_sink.x = input.x;
                p_sink.gate = input.gate;
                p_sink.skip = skip;
            }
            if (at_once)
                convolve(lane, &input, lane->z, spectrum, &p_sink, &now);
            else if (need_p || need_dk)
                transform(lane, &input, lane->z, &now);
            if (need_p && !at_once) {
                multiply(lane, spectrum, lane->z, lane->g, false);
                transform_back(lane, lane->g, &p_sink, NULL);
            }
            if (!p_passes) {
                const struct gradient gradient = {
                    .from = block.t0,
                    .count = block.t1 - block.t0,
                    .activation = o->activation,
                    .has_mask = o->mask.data,
                    .mask = scalar_of(plan, &o->mask, tile->b, h),
                    .p = need_p ? lane->p : NULL,
                    .g = lane->p,
                    .dy = row_of(tile, DY, i),
                    .out_gate = row_of(tile, OUT_GATE, i),
                    .x = input.x,
                    .gate = input.gate,
                    .dout_gate = row_of(tile, DOUT_GATE, i),
                    .dskip = o->dskip.data ? &task->dskips[h - task->h0] : NULL};
                e->gradient(&gradient);
            }

            if (!need_dz && !need_dk)
                continue;
            transform(lane, &output, lane->g, NULL);
            if (need_dk) {
                char *sum = task->sums + (plan->members > 1 ? 0 : i) * task->sum_step;
                const bool begin = !task->begun && j == 0 && (plan->members == 1 || i == 0);
                accumulate(lane, begin, sum, lane->z, lane->g, need_dz ? spectrum : NULL);
            } else {
                multiply(lane, spectrum, lane->g, lane->g, true);
            }
            if (!need_dz)
                continue;
            if (dz_passes) {
                row_to(&dz_sink.y, tile, o->du.data ? DU : DIN_GATE, i);
                row_to(&dz_sink.out_gate, tile, o->du.data ? IN_GATE : U, i);
                if (o->du.data && o->din_gate.data) {
                    row_to(&dz_sink.twin, tile, DIN_GATE, i);
                    row_to(&dz_sink.twin_gate, tile, U, i);
                }
                transform_back(lane, lane->g, &dz_sink, &next);
                continue;
            }
            transform_back(lane, lane->g, &dz_sink, &next);
            if (o->skip.data)
                e->axpy(complex, block.t1 - block.t0, (struct scalar){skip.re, -skip.im}, lane->p,
                        lane->dz + (block.t0 - block.s) * element);
            add_up(tile, &block, i, lane->dz, &from, &to);
            const struct array du = row_of(tile, DU, i), din_gate = row_of(tile, DIN_GATE, i);
            if (du.data)
                e->spread(from, to - from, &dz, &input.gate, &du);
            if (din_gate.data)
                e->spread(from, to - from, &dz, &input.x, &din_gate);
        }
        stage_out(tile, DOUT_GATE, block.t0, block.t1);
        stage_out(tile, DU, from, to);
        stage_out(tile, DIN_GATE, from, to);
    }
    task->begun = true;
}

/* dk and dk_rev of a kernel from its sum over rows, which is overwritten */
static int finish_kernel(const struct call *c, const struct lane *lane, int64_t kb, int64_t g,
                         void *sum)
{
    const struct fftconv_plan *plan = c->plan;
    const fftconv_operands *o = c->o;
    if (!o->dk.data && !o->dk_rev.data)
        return FFTCONV_STATUS_OK;
    const struct taps taps = taps_of(plan, &o->dk, o->dk_rev.data ? &o->dk_rev : NULL, kb, g);
    const int status = transform_back_taps(lane, &taps, sum);
    zero_elements(plan, &taps.k, plan->taps, plan->Lk); /* taps that never act */
    zero_elements(plan, &taps.k_rev, plan->rev_taps, plan->Lrev);
    return status;
}

/* Sums of all channels, where more tasks than one have a part in each. */
static struct scalar *dskips_of(const struct call *c, int64_t part)
{
    return (struct scalar *)(c->shared + c->layout.shared_dskips) + part * c->plan->H;
}

static void set_dskip(const struct call *c, int64_t h, struct scalar total)
{
    const struct array dskip = array_of(&c->o->dskip, 0, h);
    c->plan->engine->set(&dskip, total);
}

static char *sums_of(const struct call *c, int64_t kernel)
{
    return c->shared + c->layout.shared_sums + kernel * c->plan->chunks * c->layout.spectra;
}

/* A tile of kernels, and one chunk of each one's rows; the chunks are the shape's,
 * not the threads', so the sums come out the same to the bit. */
static int backward_task(void *context, int64_t index, int worker)
{
    const struct call *c = context;
    const struct layout *l = &c->layout;
    const struct fftconv_plan *plan = c->plan;
    const struct lane lane = lane_of(c, worker);
    const int64_t chunk = index % plan->chunks, rows = rows_of_kernel(plan);
    struct kernels k;
    int status = kernels_of(&k, c, &lane, index / plan->chunks);
    if (status)
        return status;
    const int64_t channels = (k.g1 - k.g0) * plan->members;
    struct backward task = {
        .sums = lane.memory + l->sum, .sum_step = l->spectra, .h0 = k.g0 * plan->members};
    task.dskips = l->split ? dskips_of(c, k.kb * plan->chunks + chunk) + task.h0
                           : (struct scalar *)(lane.memory + l->dskips);
    if (plan->chunks > 1) {
        task.sums = sums_of(c, k.kb * plan->G + k.g0) + chunk * l->spectra;
        task.sum_step = plan->chunks * l->spectra;
    }
    memset(task.dskips, 0, (size_t)channels * sizeof *task.dskips);
    each_tile(c, &lane, &k, rows * chunk / plan->chunks, rows * (chunk + 1) / plan->chunks, false,
              backward_tile, &task);
    if (plan->chunks == 1)
        for (int64_t g = k.g0; !status && g < k.g1; g++)
            status = finish_kernel(c, &lane, k.kb, g, task.sums + (g - k.g0) * task.sum_step);
    for (int64_t i = 0; c->o->dskip.data && !l->split && i < channels; i++)
        set_dskip(c, task.h0 + i, task.dskips[i]);
    return status;
}

static int finish_task(void *context, int64_t kernel, int worker)
{
    const struct call *c = context;
    const struct fftconv_plan *plan = c->plan;
    const struct lane lane = lane_of(c, worker);
    char *sum = sums_of(c, kernel);
    for (int64_t i = 1; i < plan->chunks; i++)
        for (int part = 0; part < plan->parts; part++)
            plan->engine->add(&plan->part[part], at_part(plan, part, sum),
                              at_part(plan, part, sum + i * c->layout.spectra));
    return finish_kernel(c, &lane, kernel / plan->G, kernel % plan->G, sum);
}

int fftconv_backward(const fftconv_plan *plan, const fftconv_spectrum *spectrum,
                     const fftconv_operands *o)
{
    struct call c = {0};
    void *owned;
    int status = check_operands(plan, spectrum, o, FFTCONV_DIRECTION_BACKWARD);
    if (status)
        return status;
    if (plan->cuda)
        return cuda_execute(plan, spectrum, o, FFTCONV_DIRECTION_BACKWARD);
    if ((status = begin(&c, plan, o, FFTCONV_DIRECTION_BACKWARD, spectrum != NULL, 0, &owned)))
        return status;
    const struct layout *l = &c.layout;
    if (spectrum) {
        c.spectra = spectrum->data;
    } else if (!l->by_kernel) {
        status = prepare_all(&c, c.shared + l->shared_spectra);
        c.spectra = c.shared + l->shared_spectra;
    }
    c.ahead = l->inside > 1 ? 0 : plan->fetched;
    if (!status)
        status = parallel_for(l->threads, l->kernel_tasks * plan->chunks, backward_task, &c);
    if (!status && plan->chunks > 1)
        status = parallel_for(l->threads, plan->KB * plan->G, finish_task, &c);
    for (int64_t h = 0; !status && o->dskip.data && l->split && h < plan->H; h++) {
        struct scalar total = {0, 0};
        for (int64_t i = 0; i < plan->KB * plan->chunks; i++) {
            total.re += dskips_of(&c, i)[h].re;
            total.im += dskips_of(&c, i)[h].im;
        }
        set_dskip(&c, h, total);
    }
    aligned_free(owned);
    return status;
}

/* ---- Spectra ------------------------------------------------------------------------------ */

/* The taps themselves in reverse, in whole vectors, for rows of so few samples that their sum
 * costs less than a transform. */
static int reverse_taps(struct fftconv_spectrum *s, const struct fftconv_plan *plan,
                        const fftconv_tensor *k)
{
    const int64_t kernels = plan->KB * plan->G;
    const int64_t padded = round_up(plan->taps, plan->part[0].lanes);
    s->reversed_bytes = padded * plan->part[0].real_bytes;
    if (!(s->reversed = aligned_new(kernels * s->reversed_bytes)))
        return fail_memory(kernels * s->reversed_bytes);
    for (int64_t i = 0; i < kernels; i++) {
        const struct array taps = array_of(k, i / plan->G, i % plan->G);
        plan->engine->reverse_taps(&taps, plan->taps, padded,
                                   (char *)s->reversed + i * s->reversed_bytes);
    }
    return FFTCONV_STATUS_OK;
}

static int make_spectrum(struct fftconv_spectrum *s, const struct fftconv_plan *plan,
                         const fftconv_operands *given)
{
    const fftconv_operands o = {
        .size = sizeof o, .threads = given->threads, .k = given->k, .k_rev = given->k_rev};
    const int64_t kernels = plan->KB * plan->G;
    struct call c = {0};
    void *owned;
    int status;
    s->KB = plan->KB;
    s->G = plan->G;
    s->taps = plan->taps;
    s->rev_taps = plan->rev_taps;
    s->form = plan->form;
    s->parts = plan->parts;
    s->packing = plan->packing;
    s->pattern = plan->pattern;
    memcpy(s->part, plan->part, sizeof s->part);
    const int64_t bytes = kernels *
                          round_up(spectra_reals(plan) * plan->part[0].real_bytes, ALIGNMENT);
    if (!(s->data = aligned_new(bytes)))
        return fail_memory(bytes);
    if ((plan->direct && (status = reverse_taps(s, plan, &o.k))) ||
        (status = begin(&c, plan, &o, FFTCONV_DIRECTION_FORWARD, false, kernels, &owned)))
        return status;
    status = prepare_all(&c, s->data);
    aligned_free(owned);
    return status;
}

int fftconv_spectrum_create(fftconv_spectrum **out, const fftconv_plan *plan,
                            const fftconv_operands *o)
{
    int status;
    if (!out)
        return fail(FFTCONV_STATUS_INVALID, "spectrum is NULL, must point at a place for it");
    *out = NULL;
    if (!plan || !o)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL", plan ? "operands" : "plan");
    if (o->size != sizeof *o)
        return fail(FFTCONV_STATUS_INVALID, "operands->size is %zu, must be %zu", o->size,
                    sizeof *o);
    if ((status = check_kernels(plan, &o->k, &o->k_rev)) || (status = check_launch(plan, o)))
        return status;
    struct fftconv_spectrum *s = calloc(1, sizeof *s);
    if (!s)
        return fail_memory(sizeof *s);
    status = plan->cuda ? cuda_spectrum_create(s, plan, o) : make_spectrum(s, plan, o);
    if (status)
        fftconv_spectrum_destroy(s);
    else
        *out = s;
    return status;
}

void fftconv_spectrum_destroy(fftconv_spectrum *spectrum)
{
    if (spectrum) {
        cuda_spectrum_destroy(spectrum->cuda);
        aligned_free(spectrum->data);
        aligned_free(spectrum->reversed);
    }
    free(spectrum);
}

/* ---- The three primitives -------------------------------------------------------------------- */

struct primitive {
    struct call call;
    int side;
    const fftconv_tensor *rows, *rev;
    const fftconv_spectrum *spectrum;
    const char *in;
    char *out;
    int64_t row_bytes;
};

/* Row i of (n0, n1, L). */
static struct array nth_row(const fftconv_tensor *t, int64_t i)
{
    return array_of(t, i / t->shape[1], i % t->shape[1]);
}

/* What the stages leave out of a row's spectra is zeros where a caller sees them. */
static void zero_spectra(const struct fftconv_plan *plan, void *S, int64_t bytes)
{
    bool all = true;
    for (int i = 0; i < plan->parts; i++)
        all &= !plan->part[i].live && !is_half(&plan->part[i]);
    if (!all)
        memset(S, 0, (size_t)bytes);
}

static int rows_to_spectra_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct fftconv_plan *plan = p->call.plan;
    const struct lane lane = lane_of(&p->call, worker);
    const struct block block = block_of(plan, plan->L, 0);
    const struct array x = nth_row(p->rows, i);
    struct source source;
    if (p->side == FFTCONV_SIDE_OUTPUT) {
        source = output_source(plan, &block, x);
    } else {
        input_source(&source, plan, plan->L, &block);
        source.x = x;
        if (plan->wrap) { /* before element 0 comes the end of the circle */
            source.from = block.s;
            source.before = x;
            source.before.origin = -plan->N;
            source.before_to = plan->L - plan->N;
        }
    }
    zero_spectra(plan, p->out + i * p->row_bytes, p->row_bytes);
    transform(&lane, &source, p->out + i * p->row_bytes, NULL);
    return FFTCONV_STATUS_OK;
}

static int spectra_to_rows_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct fftconv_plan *plan = p->call.plan;
    const struct lane lane = lane_of(&p->call, worker);
    const struct block block = block_of(plan, plan->L, 0);
    const struct array y = nth_row(p->rows, i);
    void *S = p->out + i * p->row_bytes;
    if (p->side == FFTCONV_SIDE_OUTPUT || !plan->wrap) {
        const struct sink sink = p->side == FFTCONV_SIDE_OUTPUT
                                     ? output_sink(plan, &block, y)
                                     : input_sink(plan, plan->L, &block, y);
        transform_back(&lane, S, &sink, NULL);
        return FFTCONV_STATUS_OK;
    }
    const struct array dz = own_row(plan, lane.dz, block.s);
    const struct sink sink = input_sink(plan, plan->L, &block, dz);
    const struct tile tile = {.call = &p->call, .lane = &lane};
    int64_t from, to;
    transform_back(&lane, S, &sink, NULL);
    add_up(&tile, &block, 0, lane.dz, &from, &to);
    plan->engine->spread(from, to - from, &dz, &(struct array){0}, &y);
    return FFTCONV_STATUS_OK;
}

static int kernels_to_spectra_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct lane lane = lane_of(&p->call, worker);
    const int64_t n1 = p->rows->shape[1];
    const struct taps taps = taps_of(p->call.plan, p->rows, p->rev, i / n1, i % n1);
    zero_spectra(p->call.plan, p->out + i * p->row_bytes, p->row_bytes);
    return transform_taps(&lane, &taps, p->out + i * p->row_bytes);
}

static int spectra_to_kernels_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct fftconv_plan *plan = p->call.plan;
    const struct lane lane = lane_of(&p->call, worker);
    const int64_t n1 = p->rows->shape[1];
    const struct taps taps = taps_of(plan, p->rows, p->rev, i / n1, i % n1);
    const int status = transform_back_taps(&lane, &taps, p->out + i * p->row_bytes);
    zero_elements(plan, &taps.k, plan->taps, plan->Lk);
    zero_elements(plan, &taps.k_rev, plan->rev_taps, plan->Lrev);
    return status;
}

static int multiply_rows_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct fftconv_plan *plan = p->call.plan;
    const int64_t b = plan->KB > 1 ? i / plan->H : 0, g = i % plan->H / plan->members;
    (void)worker;
    const char *spectrum = (char *)p->spectrum->data + (b * plan->G + g) * p->call.layout.spectra;
    for (int part = 0; part < plan->parts; part++) {
        struct xform all = plan->part[part]; /* zeros are part of the answer */
        all.live = NULL;
        all.kept = all.stage[0].radix;
        plan->engine->multiply(&all, at_part(plan, part, spectrum),
                               at_part(plan, part, p->in + i * p->row_bytes),
                               at_part(plan, part, p->out + i * p->row_bytes), false, 0, 1);
    }
    return FFTCONV_STATUS_OK;
}

static int check_spectra(const char *name, const void *spectra)
{
    if (!spectra)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given", name);
    if ((uintptr_t)spectra % ALIGNMENT)
        return fail(FFTCONV_STATUS_INVALID, "%s is at %p, must be aligned to %d bytes", name,
                    spectra, ALIGNMENT);
    return FFTCONV_STATUS_OK;
}

/* A plan that has the three primitives, and a descriptor of them. */
static int check_primitive(const struct fftconv_plan *plan, const fftconv_spectra_desc *d)
{
    int status;
    if (!plan || !d)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL", plan ? "desc" : "plan");
    if (d->size != sizeof *d)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", d->size, sizeof *d);
    if ((status = check_on_cpu(plan)))
        return status;
    if (plan->history)
        return fail(FFTCONV_STATUS_INVALID, "plan was made with history, must be without");
    if (plan->blocks > 1)
        return fail(FFTCONV_STATUS_INVALID,
                    "plan works in %lld blocks, must be made with single_block",
                    (long long)plan->blocks);
    return FFTCONV_STATUS_OK;
}

/* Rows or kernels of any number, (n0, n1, n), checked against their spectra. */
static int check_rows(const struct fftconv_plan *plan, const char *name, const fftconv_tensor *t,
                      int64_t n, bool kernel, bool output, const void *spectra)
{
    int status;
    if (!t || !t->data)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given", name);
    int64_t count;
    if (t->shape[0] < 1 || t->shape[1] < 1 ||
        __builtin_mul_overflow(t->shape[0], t->shape[1], &count) ||
        count > ((int64_t)1 << 58) / (spectra_reals(plan) * plan->part[0].real_bytes))
        return fail(FFTCONV_STATUS_INVALID,
                    "%s has shape (%lld, %lld, %lld), must have 1 ... 2^58 "
                    "bytes of spectra",
                    name, (long long)t->shape[0], (long long)t->shape[1], (long long)t->shape[2]);
    const int64_t shape[3] = {t->shape[0], t->shape[1], n};
    if ((status = check_tensor(plan, name, t, shape, output, kernel)))
        return status;
    if (touches(t, spectra, count * spectra_reals(plan) * plan->part[0].real_bytes))
        return fail(FFTCONV_STATUS_INVALID, "%s overlaps spectra, must not", name);
    return FFTCONV_STATUS_OK;
}

/* With the memory of a call of that kind. */
static int run_primitive(const struct fftconv_plan *plan, struct primitive *p, task_fn *task,
                         int threads, int64_t rows, int direction, bool prepared)
{
    fftconv_operands o = {.size = sizeof o, .threads = threads};
    void *owned;
    const int status = begin(&p->call, plan, &o, direction, prepared, rows, &owned);
    if (status)
        return status;
    p->row_bytes = spectra_reals(plan) * plan->part[0].real_bytes;
    const int done = parallel_for(p->call.layout.threads, rows, task, p);
    aligned_free(owned);
    return done;
}

static int rows_primitive(const fftconv_plan *plan, const fftconv_spectra_desc *d, bool output)
{
    int status;
    if ((status = check_primitive(plan, d)) || (status = check_spectra("spectra", d->spectra)))
        return status;
    if (d->side != FFTCONV_SIDE_INPUT && d->side != FFTCONV_SIDE_OUTPUT)
        return fail(FFTCONV_STATUS_INVALID, "side is %d, must be input (0) or output (1)", d->side);
    if ((status = check_rows(plan, "rows", &d->rows, plan->L, false, output, d->spectra)))
        return status;
    struct primitive p = {.side = d->side, .rows = &d->rows, .out = d->spectra};
    return run_primitive(plan, &p, output ? spectra_to_rows_task : rows_to_spectra_task, d->threads,
                         d->rows.shape[0] * d->rows.shape[1],
                         output ? FFTCONV_DIRECTION_BACKWARD : FFTCONV_DIRECTION_FORWARD, true);
}

int fftconv_rows_to_spectra(const fftconv_plan *plan, const fftconv_spectra_desc *desc)
{
    return rows_primitive(plan, desc, false);
}

int fftconv_spectra_to_rows(const fftconv_plan *plan, const fftconv_spectra_desc *desc)
{
    return rows_primitive(plan, desc, true);
}

static int kernels_primitive(const fftconv_plan *plan, const fftconv_spectra_desc *d, bool output)
{
    int status;
    const fftconv_tensor *k = &d->k, *k_rev = &d->k_rev;
    if ((status = check_primitive(plan, d)) || (status = check_spectra("spectra", d->spectra)) ||
        (status = check_whole_spectra(plan)) ||
        (status = check_rows(plan, "k", k, plan->Lk, true, output, d->spectra)))
        return status;
    const bool rev = k_rev->data;
    if (rev != (plan->mode == FFTCONV_MODE_TWO_SIDED))
        return fail(FFTCONV_STATUS_INVALID, "k_rev is %s, must be %s", rev ? "given" : "NULL",
                    rev ? "NULL unless mode is two_sided (2)" : "given: mode is two_sided (2)");
    if (rev && (status = check_rows(plan, "k_rev", k_rev, plan->Lrev, true, output, d->spectra)))
        return status;
    if (rev && (k_rev->shape[0] != k->shape[0] || k_rev->shape[1] != k->shape[1]))
        return fail(FFTCONV_STATUS_INVALID,
                    "k_rev has shape (%lld, %lld, ...), must be as k's, (%lld, %lld, ...)",
                    (long long)k_rev->shape[0], (long long)k_rev->shape[1], (long long)k->shape[0],
                    (long long)k->shape[1]);
    if (rev && output && tensors_overlap(k, k_rev))
        return fail(FFTCONV_STATUS_INVALID, "k_rev overlaps k, must not");
    struct primitive p = {.rows = k, .rev = rev ? k_rev : NULL, .out = d->spectra};
    return run_primitive(plan, &p, output ? spectra_to_kernels_task : kernels_to_spectra_task,
                         d->threads, k->shape[0] * k->shape[1], FFTCONV_DIRECTION_FORWARD, false);
}

int fftconv_kernels_to_spectra(const fftconv_plan *plan, const fftconv_spectra_desc *desc)
{
    return kernels_primitive(plan, desc, false);
}

int fftconv_spectra_to_kernels(const fftconv_plan *plan, const fftconv_spectra_desc *desc)
{
    return kernels_primitive(plan, desc, true);
}

int fftconv_multiply(const fftconv_plan *plan, const fftconv_spectrum *spectrum,
                     const fftconv_spectra_desc *d)
{
    int threads, status;
    if (plan && !spectrum)
        return fail(FFTCONV_STATUS_INVALID, "spectrum is NULL");
    if ((status = check_primitive(plan, d)) || (status = check_spectrum(plan, spectrum)) ||
        (status = check_spectra("in", d->in)) || (status = check_spectra("spectra", d->spectra)))
        return status;
    const char *in = d->in;
    char *out = d->spectra;
    const int64_t rows = plan->B * plan->H;
    const int64_t bytes = rows * spectra_reals(plan) * plan->part[0].real_bytes;
    if (in != out && in < out + bytes && out < in + bytes)
        return fail(FFTCONV_STATUS_INVALID,
                    "spectra overlaps in, must not unless it is the same array");
    if ((status = resolve_threads(plan, d->threads, &threads)))
        return status;
    struct primitive p = {.call = {.plan = plan},
                          .in = in,
                          .out = out,
                          .spectrum = spectrum,
                          .row_bytes = spectra_reals(plan) * plan->part[0].real_bytes};
    p.call.layout.spectra = round_up(spectra_reals(plan) * plan->part[0].real_bytes, ALIGNMENT);
    return parallel_for(threads, rows, multiply_rows_task, &p);
}

int fftconv_spectra_offsets(const fftconv_plan *plan, int64_t *offset)
{
    if (!plan || !offset)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL", plan ? "offset" : "plan");
    const int on_cpu = check_on_cpu(plan);
    if (on_cpu)
        return on_cpu;
    for (int i = 0; i < plan->parts; i++) {
        const struct xform *xf = &plan->part[i];
        int64_t *low, *high;
        const int status = frequencies_build(xf, &low, &high);
        if (status)
            return status;
        for (int64_t p = 0; p < xf->P; p++)
            for (int64_t q = 0; q < xf->Q; q++) {
                const int64_t m = low[p] + high[q], at = xf->spectra + spectrum_offset(xf, p, q);
                const int64_t bin = plan->parts > 1 ? signed_bin(xf->form, plan->N, i, m) : m;
                const int R = xf->stage[0].radix, k = (int)(m % R);
                if (k >= xf->kept) /* its mirror is there */
                    continue;
                if (is_half(xf) && plan->parts == 1 && k > 0 && 2 * k < R)
                    offset[xf->M - m] = -1 - at;
                if (bin >= 0)
                    offset[bin] = at;
                else
                    offset[-1 - bin] = -1 - at;
            }
        aligned_free(low);
    }
    return FFTCONV_STATUS_OK;
}
