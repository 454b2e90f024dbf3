/* The fused engine: rows that fit into the shared memory of one block are convolved by one
 * launch of this library's own kernel (kernel.h), which reads each row once and writes each
 * result once.  This file chooses the transform's length and fills in the launches; no
 * arithmetic on samples is done here. */
#include "engine.h"

enum { HELPER_BLOCKS = 512 }; /* at most so many blocks for a launch that packs or fills */

/* ---- The choice of a shape ------------------------------------------------------------------- */

/* Is the plan's convolution also one modulo t^points - 1?  It is where the circle has just
 * this length, and where nothing comes round in it. */
static bool is_circle_of(const struct cuda_plan *p, int64_t points)
{
    return p->mode == FFTCONV_MODE_CIRCULAR &&
           (p->wraps ? p->N == points : p->L + p->taps - 1 <= points);
}

static int check_supported(const struct cuda_plan *p)
{
    if (p->dtype != FFTCONV_DTYPE_FLOAT32 && p->dtype != FFTCONV_DTYPE_FLOAT16 &&
        p->dtype != FFTCONV_DTYPE_BFLOAT16)
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "dtype is %s, must be float32, float16 or bfloat16 for the fused engine",
                    dtype_name(p->dtype));
    if (p->B > MOST_ROWS || p->H > MOST_ROWS)
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "%s is %lld, must be at most %d for the fused engine",
                    p->B > MOST_ROWS ? "batch" : "channels",
                    (long long)(p->B > MOST_ROWS ? p->B : p->H), MOST_ROWS);
    return FFTCONV_STATUS_OK;
}

/* The shortest shape that holds a row and fits into a block: M >= places in the right angle,
 * 2 M >= places in the even/odd form, which needs a circle of exactly that length. */
static int choose_shape(struct cuda_plan *p, int64_t shared_bytes)
{
    const int64_t places = p->wraps ? p->N : p->L;
    p->single = p->dtype == FFTCONV_DTYPE_FLOAT32;
    for (; (p->shape = cuda_shape_of(p->single, p->shape_index)); p->shape_index++) {
        const int64_t M = p->shape->M;
        p->even_odd = M < places && !p->only_right_angle && is_circle_of(p, 2 * M);
        if ((M >= places || p->even_odd) && p->shape->shared_bytes <= shared_bytes)
            return FFTCONV_STATUS_OK;
    }
    return fail(FFTCONV_STATUS_UNSUPPORTED,
                "%s is %lld, too long in %s for the %lld bytes of shared memory that a block of "
                "this device has",
                p->wraps ? "fft_size" : "length", (long long)places, dtype_name(p->dtype),
                (long long)shared_bytes);
}

/* The batch is cut into as few chunks as keep the device busy, each of whole groups of the
 * rows that a block takes at once. */
static int choose_chunks(struct cuda_plan *p)
{
    const int64_t groups = ceil_div(p->B, p->shape->rows);
    p->chunks = p->KB > 1 ? groups : min64(groups, ceil_div(p->machine->tasks, p->H));
    p->rows_per_chunk = round_up(ceil_div(p->B, p->chunks), p->shape->rows);
    p->chunks = ceil_div(p->B, p->rows_per_chunk);
    if (p->chunks > MOST_ROWS / p->H)
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "batch * channels is %lld * %lld, more than one launch of the fused engine "
                    "takes",
                    (long long)p->B, (long long)p->H);
    return FFTCONV_STATUS_OK;
}

static int upload_tables(struct cuda_plan *p)
{
    const int64_t bytes = p->shape->table_bytes;
    unsigned char *tables = aligned_new(bytes);
    if (!tables)
        return fail_memory(bytes);
    p->shape->build_tables(tables, p->even_odd);
    int status = p->machine->allocate(&p->tables, bytes);
    if (!status)
        status = p->machine->copy(p->tables, tables, bytes, NULL);
    aligned_free(tables);
    return status;
}

static int fused_init(struct cuda_plan *p)
{
    const struct cuda_machine *m = p->machine;
    int64_t shared_bytes, tile_bytes, blocks;
    int status;
    if ((status = m->limits(p->device, &shared_bytes, &tile_bytes)) ||
        (status = check_supported(p)) || (status = choose_shape(p, shared_bytes)) ||
        (status = choose_chunks(p)) ||
        (status = m->prepare_rows(p->device, p->single, p->shape_index, &blocks)))
        return status;
    p->resident_blocks = max64(1, blocks);
    return upload_tables(p);
}

static void fused_destroy(struct cuda_plan *p)
{
    if (p->tables)
        p->machine->release(p->tables);
    p->tables = NULL;
    p->even_odd = false; /* an engine that is tried after this one must not find it set */
}

/* ---- Spectra and workspaces ------------------------------------------------------------------ */

static int64_t launch_blocks(const struct cuda_plan *p, int64_t tasks)
{
    return min64(tasks, p->resident_blocks);
}

/* While spectra are made, they stand in the workspace as complex float32. */
static int64_t spectrum_workspace_bytes(const struct cuda_plan *p)
{
    return size_mul(size_mul(p->KB, p->G), p->shape->M * 2 * (int64_t)sizeof(float));
}

/* A spectrum in memory: the points of all kernels, and then an exponent for each kernel. */
static int64_t points_bytes(const struct cuda_plan *p)
{
    return round_up(size_mul(size_mul(p->KB, p->G), p->shape->M * p->shape->point_bytes),
                    WORKSPACE_ALIGNMENT);
}

static int64_t spectrum_bytes(const struct cuda_plan *p)
{
    const int64_t exponents = size_mul(size_mul(p->KB, p->G), sizeof(int32_t));
    return size_add(points_bytes(p), round_up(exponents, WORKSPACE_ALIGNMENT));
}

static int32_t *exponents_of(const struct cuda_plan *p, const void *spectrum)
{
    return (int32_t *)((char *)spectrum + points_bytes(p));
}

/* Where each buffer of a call begins in its workspace, in bytes. */
struct workspace {
    int64_t spectrum; /* the spectra of k where the call makes them, and later those of dk */
    int64_t wide;     /* the same in float32, while they are made */
    int64_t sums;     /* the sums of conj(Z) G, of each channel and chunk */
    int64_t dskip;    /* dskip of each channel and chunk */
    int64_t own;      /* of each block, rows of real numbers from one pass to the next */
    int64_t kept;     /* of each block, transforms from one pass to the next */
    int64_t total;
};

static struct workspace workspace_of(const struct cuda_plan *p, int direction, bool prepared)
{
    const bool back = direction == FFTCONV_DIRECTION_BACKWARD;
    const int64_t M = p->shape->M, complex = 2 * sizeof(float);
    const int64_t block_rows = p->shape->rows * max64(launch_blocks(p, p->H * p->chunks),
                                                      launch_blocks(p, p->G * p->KB));
    struct workspace w = {0};
    if (!prepared || back)
        w.spectrum = cuda_take(&w.total, spectrum_bytes(p));
    if (!prepared)
        w.wide = cuda_take(&w.total, spectrum_workspace_bytes(p));
    if (back) {
        const int64_t sums = size_mul(p->H, p->chunks);
        w.sums = cuda_take(&w.total, size_mul(sums, p->shape->rows * M * complex));
        w.dskip = cuda_take(&w.total, size_mul(sums, sizeof(float)));
        w.own = cuda_take(&w.total, block_rows * (M << p->even_odd) * (int64_t)sizeof(float));
        w.kept = cuda_take(&w.total, block_rows * M * p->shape->point_bytes);
    }
    return w;
}

static int64_t workspace_bytes(const struct cuda_plan *p, int direction, bool prepared)
{
    return workspace_of(p, direction, prepared).total;
}

/* ---- Taps to spectra, and back --------------------------------------------------------------- */

/* The operand whose element n is the tensor's element n - shift, or, backwards, shift - n. */
static Operand moved(const fftconv_tensor *t, int64_t shift, bool backwards)
{
    Operand o = cuda_operand(t);
    const int64_t step = backwards ? -o.stride[2] : o.stride[2];
    o.data = (char *)o.data - shift * step * dtype_size(t->dtype);
    o.stride[2] = step;
    return o;
}

/* A launch whose rows are the kernels, each of which has a spectrum of its own. */
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

/* Adds the pass that transforms elements [from, to) of x and puts the result into the
 * spectra in float32, or with ADD adds it to them. */
static void add_taps_in(struct fftconv_cuda_rows *r, int flags, Operand x, int64_t from, int64_t to)
{
    r->pass[r->passes++] = (Pass){.flags = TRANSFORM | PUT | flags,
                                  .from = (int32_t)from,
                                  .to = (int32_t)to,
                                  .x = x,
                                  .add = -1};
}

/* Adds the pass that takes places [from, to) of the kernels' rows back from their spectra. */
static Pass *add_taps_out(struct fftconv_cuda_rows *r, int flags, int sink, int64_t from,
                          int64_t to)
{
    Pass *pass = &r->pass[r->passes++];
    *pass = (Pass){.flags = MULTIPLY | BACK | flags,
                   .sink = sink,
                   .sink_from = (int32_t)from,
                   .sink_to = (int32_t)to,
                   .add = -1};
    return pass;
}

/* On a circle of N, tap s has the lags s and s - N.  The even/odd form is such a circle
 * itself; in the right angle both lags must be put down. */
static bool has_negative_lags(const struct cuda_plan *p) { return p->wraps && !p->even_odd; }

/* Even/odd, tap s stands at place s.  In the right angle a tap of lag s >= 0 stands at place
 * s, and one of lag -s at place M - s, times -i.  Lag 0 of k_rev stands at place 0. */
static int make_spectrum(const struct cuda_plan *p, const fftconv_tensor *k,
                         const fftconv_tensor *k_rev, void *spectrum, void *workspace, void *stream)
{
    const int64_t M = p->shape->M;
    struct fftconv_cuda_rows r = over_kernels(p, ROWS_SPECTRA);
    r.spectra = workspace;
    add_taps_in(&r, 0, cuda_operand(k), 0, p->taps);
    if (has_negative_lags(p))
        add_taps_in(&r, ADD | PUT_TURNED, moved(k, M - p->N, false), M - p->N + 1,
                    M - p->N + p->taps);
    if (p->rev_taps) {
        add_taps_in(&r, ADD, cuda_operand(k_rev), 0, 1);
        add_taps_in(&r, ADD | PUT_TURNED, moved(k_rev, M, true), M - p->rev_taps + 1, M);
    }
    const struct fftconv_cuda_pack pack = {.rows = {p->KB, p->G},
                                           .step = {p->G * M, M},
                                           .count = {1, 1},
                                           .points = M,
                                           .from = workspace,
                                           .to = spectrum,
                                           .exponents = exponents_of(p, spectrum),
                                           .shift = -p->shape->shift};
    const int status = p->machine->rows(p->single, p->shape_index, &r, launch_blocks(p, p->G),
                                        stream);
    return status ? status
                  : p->machine->pack(p->single, &pack, min64(p->KB * p->G, HELPER_BLOCKS), stream);
}

/* The spectrum of dk: for each kernel, the sum of conj(Z) G over all rows that it serves. */
static int add_up_products(const struct cuda_plan *p, const struct workspace *w, char *memory,
                           void *stream)
{
    const int64_t M = p->shape->M, rows = p->shape->rows, members = p->H / p->G;
    const int64_t channel_step = p->chunks * rows * M;
    void *spectrum = memory + w->spectrum;
    struct fftconv_cuda_pack pack = {.rows = {p->KB, p->G},
                                     .step = {0, members * channel_step},
                                     .count = {members, p->chunks * rows},
                                     .sum_step = {channel_step, M},
                                     .points = M,
                                     .from = (float *)(memory + w->sums),
                                     .to = spectrum,
                                     .exponents = exponents_of(p, spectrum),
                                     .shift = -p->shape->shift};
    if (p->KB > 1) { /* kernels differ over the batch, so each row of it is a sum of its own */
        pack.step[0] = M;
        pack.count[1] = 1;
    } else if (members > 1) { /* first add up each channel, to have work for more blocks */
        struct fftconv_cuda_pack channels = pack;
        channels.rows[1] = p->H;
        channels.step[1] = channel_step;
        channels.count[0] = pack.count[1];
        channels.count[1] = pack.count[1] = 1;
        channels.sum_step[0] = M;
        channels.to = NULL;
        const int status = p->machine->pack(p->single, &channels, min64(p->H, HELPER_BLOCKS),
                                            stream);
        if (status)
            return status;
    }
    return p->machine->pack(p->single, &pack, min64(p->KB * p->G, HELPER_BLOCKS), stream);
}

/* dk and dk_rev from their spectra: the adjoint of make_spectrum. */
static int spectra_to_taps(const struct cuda_plan *p, const fftconv_operands *o,
                           const struct workspace *w, char *memory, void *stream)
{
    const int64_t M = p->shape->M;
    const bool both_lags = has_negative_lags(p);
    struct fftconv_cuda_rows r = over_kernels(p, ROWS_TAPS);
    r.spectrum = memory + w->spectrum;
    r.exponents = exponents_of(p, r.spectrum);
    r.own = (float *)(memory + w->own);
    if (o->dk.data) {
        if (both_lags)
            add_taps_out(&r, TURNED, HOLD, 0, M);
        Pass *pass = add_taps_out(&r, 0, TAPS, 0, p->taps);
        pass->add = both_lags ? (int32_t)(M - p->N) : -1;
        pass->y = cuda_operand(&o->dk);
    }
    if (o->dk_rev.data) {
        add_taps_out(&r, 0, TAPS, 0, 1)->y = cuda_operand(&o->dk_rev);
        add_taps_out(&r, TURNED, TAPS, M - p->rev_taps + 1, M)->y = moved(&o->dk_rev, M, true);
    }
    return p->machine->rows(p->single, p->shape_index, &r, launch_blocks(p, p->G), stream);
}

/* Zeros for the gradients of taps from `from` on, which reach no sample. */
static int clear_idle_taps(const struct cuda_plan *p, const fftconv_tensor *t, int64_t from,
                           void *stream)
{
    if (!t->data || t->shape[2] <= from)
        return FFTCONV_STATUS_OK;
    const struct fftconv_cuda_fill fill = {.batch = p->KB,
                                           .channels = p->G,
                                           .length = t->shape[2] - from,
                                           .to = moved(t, -from, false)};
    return p->machine->fill(&fill, HELPER_BLOCKS, stream);
}

static int make_dk(const struct cuda_plan *p, const fftconv_operands *o, const struct workspace *w,
                   char *memory, void *stream)
{
    int status;
    if ((status = add_up_products(p, w, memory, stream)) ||
        (status = spectra_to_taps(p, o, w, memory, stream)) ||
        (status = clear_idle_taps(p, &o->dk, p->taps, stream)))
        return status;
    return clear_idle_taps(p, &o->dk_rev, p->rev_taps, stream);
}

/* ---- Calls ----------------------------------------------------------------------------------- */

/* A launch whose rows are those of the call. */
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
                                      .per = p->rows_per_chunk,
                                      .tables = p->tables,
                                      .spectrum = spectrum,
                                      .exponents = exponents_of(p, spectrum)};
}

static int launch_rows(const struct cuda_plan *p, const struct fftconv_cuda_rows *r, void *stream)
{
    return p->machine->rows(p->single, p->shape_index, r, launch_blocks(p, p->H * p->chunks),
                            stream);
}

/* Where the caller gave no spectrum, makes that of k in the workspace. */
static int find_spectrum(const struct cuda_plan *p, const fftconv_operands *o,
                         const struct workspace *w, const void **spectrum, char *memory,
                         void *stream)
{
    if (*spectrum)
        return FFTCONV_STATUS_OK;
    *spectrum = memory + w->spectrum;
    return make_spectrum(p, &o->k, &o->k_rev, memory + w->spectrum, memory + w->wide, stream);
}

static int forward(const struct cuda_plan *p, const void *spectrum, const fftconv_operands *o,
                   void *workspace, void *stream)
{
    const struct workspace w = workspace_of(p, FFTCONV_DIRECTION_FORWARD, spectrum != NULL);
    const int status = find_spectrum(p, o, &w, &spectrum, workspace, stream);
    if (status)
        return status;
    struct fftconv_cuda_rows r = over_rows(p, ROWS_FORWARD, spectrum);
    r.passes = cuda_forward_passes(p, o, r.pass);
    return launch_rows(p, &r, stream);
}

/* dskip, which stands in the workspace as one number for each channel and chunk. */
static int add_up_dskip(const struct cuda_plan *p, const fftconv_operands *o, const float *parts,
                        void *stream)
{
    const struct fftconv_cuda_fill fill = {.batch = 1,
                                           .channels = p->H,
                                           .length = 1,
                                           .count = p->chunks,
                                           .from = parts,
                                           .to = cuda_operand(&o->dskip)};
    return p->machine->fill(&fill, HELPER_BLOCKS, stream);
}

static int backward(const struct cuda_plan *p, const void *spectrum, const fftconv_operands *o,
                    void *workspace, void *stream)
{
    char *memory = workspace;
    const struct workspace w = workspace_of(p, FFTCONV_DIRECTION_BACKWARD, spectrum != NULL);
    int status = find_spectrum(p, o, &w, &spectrum, memory, stream);
    if (status)
        return status;
    struct fftconv_cuda_rows r = over_rows(p, ROWS_BACKWARD, spectrum);
    r.sums = (float *)(memory + w.sums);
    r.own = (float *)(memory + w.own);
    r.kept = memory + w.kept;
    r.dskip = o->dskip.data ? (float *)(memory + w.dskip) : NULL;
    r.passes = cuda_backward_passes(p, o, r.pass);
    if ((status = launch_rows(p, &r, stream)))
        return status;
    if (cuda_wants_dk(o) && (status = make_dk(p, o, &w, memory, stream)))
        return status;
    return r.dskip ? add_up_dskip(p, o, r.dskip, stream) : FFTCONV_STATUS_OK;
}

static void describe(const struct cuda_plan *p, fftconv_plan_info *info)
{
    const double points = (double)p->B * (double)p->H * p->shape->M;
    const int complex_input = 1 + p->even_odd;
    info->form = p->even_odd ? FFTCONV_FORM_EVEN_ODD : FFTCONV_FORM_RIGHT_ANGLE;
    info->dense = 1;
    info->padded_length = 2 * (int64_t)p->shape->M;
    info->transform_length = p->shape->M;
    info->order = info->stages = 3;
    for (int i = 0; i < 3; i++) {
        const int radix = p->shape->radices[i];
        info->radices[i] = info->stage_radices[i] = radix;
        /* Each point takes `radix` complex products in a stage, of 8 operations with their
         * sums, and 6 for a twiddle.  Stage 1 of the right angle, and its inverse, have real
         * numbers on one side and need half as many. */
        info->stage_flops[i] = 2 * points * (radix * (i ? 8 : 4 * complex_input) + (i < 2 ? 6 : 0));
    }
    /* The right angle takes a complex product for each point.  Even/odd, two frequencies take
     * together W, W Ko and four products of 6 operations, and 20 sums and halves. */
    info->product_flops = (p->even_odd ? (6 * 6 + 20) / 2 : 6) * points;
    /* Shared memory is written and read after stage 1 and before its inverse; even/odd, also
     * before and after the product. */
    info->l1_bytes = 4 * complex_input * points * p->shape->point_bytes;
    info->spectra_row_bytes = (int64_t)p->shape->M * p->shape->point_bytes;
}

const struct cuda_engine cuda_fused = {.name = "fused",
                                       .init = fused_init,
                                       .destroy = fused_destroy,
                                       .describe = describe,
                                       .spectrum_bytes = spectrum_bytes,
                                       .spectrum_workspace_bytes = spectrum_workspace_bytes,
                                       .workspace_bytes = workspace_bytes,
                                       .make_spectrum = make_spectrum,
                                       .forward = forward,
                                       .backward = backward};
