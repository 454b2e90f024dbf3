/* Calls as launches.  Everything here is arithmetic on shapes and addresses: it
 * runs, and is tested, without a GPU. */
#include "engine.h"

#include <stdio.h>
#include <string.h>

enum {
    PART = 256, /* alignment of what a workspace holds */
    HOUSE_BLOCKS = 512,
};

int cuda_plan_init(struct cuda_plan *p, const fftconv_plan_desc *d,
                   const struct cuda_machine *machine)
{
    static const struct cuda_engine *const engines[] = {&cuda_fused, &cuda_padded};
    enum { COUNT = sizeof engines / sizeof *engines };
    *p = (struct cuda_plan){.machine = machine,
                            .device = d->device_index,
                            .mode = d->mode,
                            .dtype = d->dtype,
                            .B = d->batch,
                            .H = d->channels,
                            .L = d->length,
                            .Lk = d->k_length,
                            .Lrev = d->k_rev_length,
                            .G = d->kernels ? d->kernels : d->channels,
                            .KB = d->kernel_batch ? d->kernel_batch : 1,
                            .N = d->fft_size ? d->fft_size : d->length,
                            .right_angle = d->form == FFTCONV_FORM_RIGHT_ANGLE};
    p->circle = d->mode == FFTCONV_MODE_CIRCULAR && p->L + p->Lk - 1 > p->N;
    p->taps = p->circle ? p->Lk : min64(p->Lk, p->L);
    p->rev_taps = min64(p->Lrev, p->L);
    char before[256] = "";
    for (int i = 0; i < COUNT; i++) {
        if (d->engine && strcmp(d->engine, engines[i]->name) != 0)
            continue;
        p->engine = engines[i];
        const int status = p->engine->init(p);
        if (!status)
            return FFTCONV_STATUS_OK;
        cuda_plan_clear(p);
        if (status != FFTCONV_STATUS_UNSUPPORTED || d->engine)
            return status;
        char why[sizeof before];
        snprintf(why, sizeof why, "%s", fftconv_last_error());
        if (i == COUNT - 1)
            return fail(FFTCONV_STATUS_UNSUPPORTED, "%s; %s", before, why);
        memcpy(before, why, sizeof before);
    }
    return fail(FFTCONV_STATUS_INVALID, "engine is \"%.32s\", must be NULL, \"fused\" or \"cufft\"",
                d->engine);
}

void cuda_plan_clear(struct cuda_plan *p)
{
    if (p->engine)
        p->engine->destroy(p);
    p->engine = NULL;
}

int64_t cuda_take(int64_t *total, int64_t bytes)
{
    const int64_t at = *total;
    *total += round_up(bytes, PART);
    return at;
}

Operand cuda_operand(const fftconv_tensor *t)
{
    Operand o = {.data = t->data, .type = t->dtype};
    memcpy(o.stride, t->stride, sizeof o.stride);
    return o;
}

/* ---- What any engine does --------------------------------------------------- */

/* A pass over z = u in_gate. */
static Pass over_inputs(const struct cuda_plan *p, const fftconv_operands *o, int flags, int sink)
{
    return (Pass){.flags = flags,
                  .sink = sink,
                  .to = (int32_t)p->L,
                  .sink_to = (int32_t)p->L,
                  .add = -1,
                  .activation = o->activation,
                  .x = cuda_operand(&o->u),
                  .gate = cuda_operand(&o->in_gate),
                  .skip = cuda_operand(&o->skip),
                  .mask = cuda_operand(&o->mask),
                  .u = cuda_operand(&o->u),
                  .in_gate = cuda_operand(&o->in_gate),
                  .out_gate = cuda_operand(&o->out_gate)};
}

int cuda_forward_passes(const struct cuda_plan *p, const fftconv_operands *o, Pass *pass)
{
    *pass = over_inputs(p, o, TRANSFORM | MULTIPLY | BACK, OUTPUT);
    pass->y = cuda_operand(&o->y);
    return 1;
}

bool cuda_need_dk(const fftconv_operands *o) { return o->dk.data || o->dk_rev.data; }

/* g = dy mask out_gate act'(p), and with Z, G the transforms of z and g:
 *     dz = inverse(conj(K) G) + skip g, du = dz in_gate, din_gate = dz u,
 *     dk = taps of the sum over rows of conj(Z) G, dskip = sum g z.
 * Twice through a row: z, whose Z is kept, and p, which gives g and dout_gate; then
 * g. */
int cuda_backward_passes(const struct cuda_plan *p, const fftconv_operands *o, Pass *pass)
{
    const Pass *const first = pass;
    const bool need_p = o->activation != FFTCONV_ACTIVATION_IDENTITY || o->dout_gate.data;
    const bool need_dk = cuda_need_dk(o);
    const bool need_dz = o->du.data || o->din_gate.data || o->dskip.data;
    if (need_p || need_dk) {
        *pass = over_inputs(p, o, TRANSFORM | (need_dk ? KEEP : 0) | (need_p ? MULTIPLY | BACK : 0),
                            GRADIENT);
        pass->dy = cuda_operand(&o->dy);
        pass++->dout_gate = cuda_operand(&o->dout_gate);
    }
    if (need_dz || need_dk) {
        *pass = over_inputs(
            p, o, TRANSFORM | (need_dk ? SUM : 0) | (need_dz ? MULTIPLY | ADJOINT | BACK : 0),
            SPREAD);
        pass->own = need_p;
        pass->x = pass->dy = cuda_operand(&o->dy);
        pass->gate = cuda_operand(&o->out_gate);
        pass->scale = cuda_operand(&o->mask);
        pass->du = cuda_operand(&o->du);
        pass->din_gate = cuda_operand(&o->din_gate);
        if (need_p) /* they are in g already */
            pass->scale = (Operand){0};
        pass++;
    }
    return (int)(pass - first);
}

/* ---- The fused engine: a launch per call ------------------------------------- */

/* Is a circular plan one modulo `points` as well? */
static bool is_circle_of(const struct cuda_plan *p, int64_t points)
{
    return p->mode == FFTCONV_MODE_CIRCULAR &&
           (p->circle ? p->N == points : p->L + p->taps - 1 <= points);
}

static int fused_init(struct cuda_plan *p)
{
    const struct cuda_machine *m = p->machine;
    int64_t shared_bytes, tile_bytes, blocks;
    int status = m->limits(p->device, &shared_bytes, &tile_bytes);
    if (status)
        return status;
    if (p->dtype != FFTCONV_DTYPE_FLOAT32 && p->dtype != FFTCONV_DTYPE_FLOAT16 &&
        p->dtype != FFTCONV_DTYPE_BFLOAT16)
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "dtype is %s, must be float32, float16 or bfloat16 for "
                    "fused rows",
                    dtype_name(p->dtype));
    if (p->B > MOST_ROWS || p->H > MOST_ROWS)
        return fail(FFTCONV_STATUS_UNSUPPORTED, "%s is %lld, must be at most %d for fused rows",
                    p->B > MOST_ROWS ? "batch" : "channels",
                    (long long)(p->B > MOST_ROWS ? p->B : p->H), MOST_ROWS);
    p->single = p->dtype == FFTCONV_DTYPE_FLOAT32;
    const int64_t places = p->circle ? p->N : p->L;
    for (; (p->shape = cuda_shape_of(p->single, p->index)); p->index++) {
        const int64_t M = p->shape->M;
        p->even_odd = M < places && !p->right_angle && is_circle_of(p, 2 * M);
        if ((M >= places || p->even_odd) && p->shape->shared_bytes <= shared_bytes)
            break;
    }
    if (!p->shape)
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "%s is %lld, more than this device's shared memory of "
                    "%lld bytes a block holds in %s",
                    p->circle ? "fft_size" : "length", (long long)places, (long long)shared_bytes,
                    dtype_name(p->dtype));
    const int64_t groups = ceil_div(p->B, p->shape->rows);
    p->chunks = p->KB > 1 ? groups : min64(groups, ceil_div(m->tasks, p->H));
    p->per = round_up(ceil_div(p->B, p->chunks), p->shape->rows);
    p->chunks = ceil_div(p->B, p->per);
    if (p->chunks > MOST_ROWS / p->H)
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "batch * channels is %lld * %lld, more than one launch "
                    "of fused rows takes",
                    (long long)p->B, (long long)p->H);
    if ((status = m->prepare_rows(p->device, p->single, p->index, &blocks)))
        return status;
    p->blocks = max64(1, blocks);
    const int64_t bytes = p->shape->table_bytes;
    unsigned char *tables = aligned_new(bytes);
    if (!tables)
        return fail_memory(bytes);
    p->shape->build_tables(tables, p->even_odd);
    if (!(status = m->allocate(&p->tables, bytes)))
        status = m->copy(p->tables, tables, bytes, NULL);
    aligned_free(tables);
    return status;
}

static void fused_destroy(struct cuda_plan *p)
{
    if (p->tables)
        p->machine->release(p->tables);
    p->tables = NULL;
    p->even_odd = false; /* where another engine follows, it is as if named */
}

static int64_t making_bytes(const struct cuda_plan *p)
{
    return p->KB * p->G * p->shape->M * 2 * (int64_t)sizeof(float);
}

static int64_t launch_blocks(const struct cuda_plan *p, int64_t tasks)
{
    return min64(tasks, p->blocks);
}

/* A spectrum: points of all kernels, then their exponents. */
static int64_t points_bytes(const struct cuda_plan *p)
{
    return round_up(p->KB * p->G * p->shape->M * p->shape->point_bytes, PART);
}

static int64_t spectrum_bytes(const struct cuda_plan *p)
{
    return points_bytes(p) + round_up(p->KB * p->G * (int64_t)sizeof(int32_t), PART);
}

static int32_t *exponents_of(const struct cuda_plan *p, const void *spectrum)
{
    return (int32_t *)((char *)spectrum + points_bytes(p));
}

/* Offsets into the workspace. */
struct areas {
    int64_t wide;     /* spectra of the kernels in float32 */
    int64_t spectrum; /* made here, of k and then of dk */
    int64_t sums, dskip, own, kept, total;
};

static struct areas areas_of(const struct cuda_plan *p, int direction, bool prepared)
{
    const bool back = direction == FFTCONV_DIRECTION_BACKWARD;
    const int64_t M = p->shape->M, complex = 2 * sizeof(float);
    const int64_t blocks = max64(launch_blocks(p, p->H * p->chunks),
                                 launch_blocks(p, p->G * p->KB)) *
                           p->shape->rows;
    struct areas a = {0};
    if (!prepared || back)
        a.spectrum = cuda_take(&a.total, spectrum_bytes(p));
    if (!prepared)
        a.wide = cuda_take(&a.total, making_bytes(p));
    if (back) {
        a.sums = cuda_take(&a.total, p->H * p->chunks * p->shape->rows * M * complex);
        a.dskip = cuda_take(&a.total, p->H * p->chunks * (int64_t)sizeof(float));
        a.own = cuda_take(&a.total, blocks * (M << p->even_odd) * (int64_t)sizeof(float));
        a.kept = cuda_take(&a.total, blocks * M * p->shape->point_bytes);
    }
    return a;
}

static int64_t workspace_bytes(const struct cuda_plan *p, int direction, bool prepared)
{
    return areas_of(p, direction, prepared).total;
}

/* Place n holds what element n - shift, or, backwards, shift - n has. */
static Operand moved(const fftconv_tensor *t, int64_t shift, bool backwards)
{
    Operand o = cuda_operand(t);
    const int64_t step = backwards ? -o.stride[2] : o.stride[2];
    o.data = (char *)o.data - shift * step * dtype_size(t->dtype);
    o.stride[2] = step;
    return o;
}

/* A launch over kernels: each its own spectrum. */
static struct fftconv_cuda_rows over_kernels(const struct cuda_plan *p, int role)
{
    return (struct fftconv_cuda_rows){.batch = p->KB,
                                      .channels = p->G,
                                      .members = 1,
                                      .groups = p->G,
                                      .spectrum_batch = p->KB,
                                      .chunks = 1,
                                      .per = p->KB,
                                      .role = role,
                                      .even_odd = p->even_odd,
                                      .tables = p->tables};
}

static Pass over_taps(int flags, Operand x, int64_t from, int64_t to)
{
    return (Pass){.flags = flags, .from = (int32_t)from, .to = (int32_t)to, .x = x, .add = -1};
}

/* On a circle in right angles tap s has lag s - N as well. */
static bool comes_round(const struct cuda_plan *p) { return p->circle && !p->even_odd; }

/* Even/odd, tap s stands at place s.  In right angles taps of lag s >= 0 stand at place
 * s, of lag -s at place M - s, times -i; lag 0 of k_rev at place 0. */
static int make_spectrum(const struct cuda_plan *p, const fftconv_tensor *k,
                         const fftconv_tensor *k_rev, void *spectrum, void *workspace, void *stream)
{
    const int64_t M = p->shape->M;
    struct fftconv_cuda_rows r = over_kernels(p, ROWS_SPECTRA);
    r.spectra = workspace;
    r.pass[r.passes++] = over_taps(TRANSFORM | PUT, cuda_operand(k), 0, p->taps);
    if (comes_round(p))
        r.pass[r.passes++] = over_taps(TRANSFORM | PUT | ADD | PUT_TURNED,
                                       moved(k, M - p->N, false), M - p->N + 1, M - p->N + p->taps);
    if (p->rev_taps) {
        r.pass[r.passes++] = over_taps(TRANSFORM | PUT | ADD, cuda_operand(k_rev), 0, 1);
        r.pass[r.passes++] = over_taps(TRANSFORM | PUT | ADD | PUT_TURNED, moved(k_rev, M, true),
                                       M - p->rev_taps + 1, M);
    }
    const struct fftconv_cuda_pack pack = {.rows = {p->KB, p->G},
                                           .step = {p->G * M, M},
                                           .count = {1, 1},
                                           .points = M,
                                           .from = workspace,
                                           .to = spectrum,
                                           .exponents = exponents_of(p, spectrum),
                                           .shift = -p->shape->shift};
    const int status = p->machine->rows(p->single, p->index, &r, launch_blocks(p, p->G), stream);
    return status ? status
                  : p->machine->pack(p->single, &pack, min64(p->KB * p->G, HOUSE_BLOCKS), stream);
}

/* The call's rows with their kernels. */
static struct fftconv_cuda_rows over_rows(const struct cuda_plan *p, int role, const void *spectrum)
{
    return (struct fftconv_cuda_rows){.role = role,
                                      .even_odd = p->even_odd,
                                      .batch = p->B,
                                      .channels = p->H,
                                      .members = p->H / p->G,
                                      .groups = p->G,
                                      .spectrum_batch = p->KB,
                                      .chunks = p->chunks,
                                      .per = p->per,
                                      .tables = p->tables,
                                      .spectrum = spectrum,
                                      .exponents = exponents_of(p, spectrum)};
}

/* The given spectrum, or k's, made at the workspace's beginning. */
static int spectrum_of(const struct cuda_plan *p, const fftconv_operands *o, const struct areas *a,
                       const void **spectrum, char *workspace, void *stream)
{
    if (*spectrum)
        return FFTCONV_STATUS_OK;
    *spectrum = workspace + a->spectrum;
    return make_spectrum(p, &o->k, &o->k_rev, workspace + a->spectrum, workspace + a->wide, stream);
}

static int forward(const struct cuda_plan *p, const void *spectrum, const fftconv_operands *o,
                   void *workspace, void *stream)
{
    const struct areas a = areas_of(p, FFTCONV_DIRECTION_FORWARD, spectrum != NULL);
    const int status = spectrum_of(p, o, &a, &spectrum, workspace, stream);
    if (status)
        return status;
    struct fftconv_cuda_rows r = over_rows(p, ROWS_FORWARD, spectrum);
    r.passes = cuda_forward_passes(p, o, r.pass);
    return p->machine->rows(p->single, p->index, &r, launch_blocks(p, p->H * p->chunks), stream);
}

/* dk and dk_rev from the sums of conj(Z) G: the adjoint of make_spectrum. */
static int make_taps(const struct cuda_plan *p, const fftconv_operands *o, const struct areas *a,
                     char *workspace, void *stream)
{
    const int64_t M = p->shape->M, rows = p->shape->rows, members = p->H / p->G;
    const int64_t of_channel = p->chunks * rows * M;
    void *spectrum = workspace + a->spectrum;
    struct fftconv_cuda_pack pack = {.rows = {p->KB, p->G},
                                     .step = {0, members * of_channel},
                                     .count = {members, p->chunks * rows},
                                     .sum_step = {of_channel, M},
                                     .points = M,
                                     .from = (float *)(workspace + a->sums),
                                     .to = spectrum,
                                     .exponents = exponents_of(p, spectrum),
                                     .shift = -p->shape->shift};
    if (p->KB > 1) { /* each row of the batch was a sum of its own */
        pack.step[0] = M;
        pack.count[1] = 1;
    }
    int status = FFTCONV_STATUS_OK;
    if (members > 1 && p->KB == 1) { /* first each channel's: by many blocks */
        struct fftconv_cuda_pack each = pack;
        each.rows[1] = p->H;
        each.step[1] = of_channel;
        each.count[0] = pack.count[1];
        each.count[1] = pack.count[1] = 1;
        each.sum_step[0] = M;
        each.to = NULL;
        status = p->machine->pack(p->single, &each, min64(p->H, HOUSE_BLOCKS), stream);
    }
    struct fftconv_cuda_rows r = over_kernels(p, ROWS_TAPS);
    r.spectrum = spectrum;
    r.exponents = exponents_of(p, spectrum);
    r.own = (float *)(workspace + a->own);
    const Operand none = {0};
    enum { TAKE = MULTIPLY | BACK };
    Pass *pass = r.pass;
    if (o->dk.data) {
        if (comes_round(p)) {
            *pass = over_taps(TAKE | TURNED, none, 0, 0);
            pass->sink = HOLD;
            pass++->sink_to = (int32_t)M;
        }
        *pass = over_taps(TAKE, none, 0, 0);
        pass->sink = TAPS;
        pass->add = comes_round(p) ? (int32_t)(M - p->N) : -1;
        pass->sink_to = (int32_t)p->taps;
        pass++->y = cuda_operand(&o->dk);
    }
    if (o->dk_rev.data) {
        *pass = over_taps(TAKE, none, 0, 0);
        pass->sink = TAPS;
        pass->sink_to = 1;
        pass++->y = cuda_operand(&o->dk_rev);
        *pass = over_taps(TAKE | TURNED, none, 0, 0);
        pass->sink = TAPS;
        pass->sink_from = (int32_t)(M - p->rev_taps + 1);
        pass->sink_to = (int32_t)M;
        pass++->y = moved(&o->dk_rev, M, true);
    }
    r.passes = (int32_t)(pass - r.pass);
    if (status ||
        (status = p->machine->pack(p->single, &pack, min64(p->KB * p->G, HOUSE_BLOCKS), stream)) ||
        (status = p->machine->rows(p->single, p->index, &r, launch_blocks(p, p->G), stream)))
        return status;
    /* taps that never act */
    const struct {
        const fftconv_tensor *t;
        int64_t from;
    } rest[] = {{&o->dk, p->taps}, {&o->dk_rev, p->rev_taps}};
    for (int i = 0; i < 2; i++) {
        if (!rest[i].t->data || rest[i].t->shape[2] <= rest[i].from)
            continue;
        const struct fftconv_cuda_fill fill = {.batch = p->KB,
                                               .channels = p->G,
                                               .length = rest[i].t->shape[2] - rest[i].from,
                                               .to = moved(rest[i].t, -rest[i].from, false)};
        if ((status = p->machine->fill(&fill, HOUSE_BLOCKS, stream)))
            return status;
    }
    return FFTCONV_STATUS_OK;
}

static int backward(const struct cuda_plan *p, const void *spectrum, const fftconv_operands *o,
                    void *workspace, void *stream)
{
    char *memory = workspace;
    const struct areas a = areas_of(p, FFTCONV_DIRECTION_BACKWARD, spectrum != NULL);
    int status = spectrum_of(p, o, &a, &spectrum, workspace, stream);
    if (status)
        return status;
    struct fftconv_cuda_rows r = over_rows(p, ROWS_BACKWARD, spectrum);
    r.sums = (float *)(memory + a.sums);
    r.own = (float *)(memory + a.own);
    r.kept = memory + a.kept;
    r.dskip = o->dskip.data ? (float *)(memory + a.dskip) : NULL;
    r.passes = cuda_backward_passes(p, o, r.pass);
    if ((status = p->machine->rows(p->single, p->index, &r, launch_blocks(p, p->H * p->chunks),
                                   stream)))
        return status;
    if (cuda_need_dk(o) && (status = make_taps(p, o, &a, memory, stream)))
        return status;
    if (o->dskip.data) {
        const struct fftconv_cuda_fill fill = {.batch = 1,
                                               .channels = p->H,
                                               .length = 1,
                                               .count = p->chunks,
                                               .from = r.dskip,
                                               .to = cuda_operand(&o->dskip)};
        return p->machine->fill(&fill, HOUSE_BLOCKS, stream);
    }
    return FFTCONV_STATUS_OK;
}

static void describe(const struct cuda_plan *p, fftconv_plan_info *info)
{
    const double points = (double)p->B * (double)p->H * p->shape->M;
    const int whole = 1 + p->even_odd;
    info->form = p->even_odd ? FFTCONV_FORM_EVEN_ODD : FFTCONV_FORM_RIGHT_ANGLE;
    info->dense = 1;
    info->padded_length = 2 * (int64_t)p->shape->M;
    info->transform_length = p->shape->M;
    info->order = info->stages = 3;
    for (int i = 0; i < 3; i++) {
        const int radix = p->shape->radices[i];
        info->radices[i] = info->stage_radices[i] = radix;
        /* complex products, of which right angles' stage 1 and its inverse need half;
         * and twiddles */
        info->stage_flops[i] = 2 * points * (radix * (i ? 8 : 4 * whole) + (i < 2 ? 6 : 0));
    }
    /* even/odd, of two frequencies: W, W Ko and four products, and 20 sums and halves */
    info->product_flops = (p->even_odd ? (6 * 6 + 20) / 2 : 6) * points;
    /* shared memory, both directions; even/odd, Z and the product too */
    info->l1_bytes = 4 * whole * points * p->shape->point_bytes;
    info->spectra_row_bytes = (int64_t)p->shape->M * p->shape->point_bytes;
}

const struct cuda_engine cuda_fused = {.name = "fused",
                                       .init = fused_init,
                                       .destroy = fused_destroy,
                                       .describe = describe,
                                       .spectrum_bytes = spectrum_bytes,
                                       .making_bytes = making_bytes,
                                       .workspace_bytes = workspace_bytes,
                                       .make_spectrum = make_spectrum,
                                       .forward = forward,
                                       .backward = backward};
