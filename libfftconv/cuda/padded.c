/* Rows of any length by cuFFT: padded real transforms of float32 (float64 for float64)
 * with kernels of our own between them (padded.h).  The baseline, the second opinion,
 * and what takes the rows that one fused launch does not hold.
 *
 * A row is padded to a length P of factors 2, 3, 5 and 7 with P >= L + lags - 1, lags
 * counting the taps of either side: then nothing that comes round reaches the first L
 * samples.  Circular modulo N, where taps do come round, is either P = N or, where that
 * is longer or has other factors, P >= 2 L - 1 with tap s at the lags s and s - N: of
 * two of the L samples no lag is L or more apart.
 *
 * Rows go through a tile at a time, of g_tile kernels (of each of b_tile of the batch
 * where kernels differ over it), m_tile channels of each and b_tile of the batch, so
 * that the workspace is bounded; in that order, with sums in a fixed one. */
#include "engine.h"

#include <string.h>

enum {
    MOST_BLOCKS = 4096,    /* of a launch: more than fill any device */
    MOST_POINTS = 1 << 30, /* of a row */
    STRETCH = 1024,
    BINS = 256,        /* ... over a real's bytes: a warp's part in a sum */
    SUMMED = 16,       /* rows by a warp, at least */
    MOST_WARPS = 8192, /* of a sum, about: more than any device holds */
};

/* The least even n >= least of factors 2, 3, 5, 7. */
static int64_t padded_length(int64_t least)
{
    int64_t n = round_up(max64(least, 2), 2);
    while (!is_smooth(n))
        n += 2;
    return n;
}

static int wide_of(const struct cuda_plan *p) { return p->dtype == FFTCONV_DTYPE_FLOAT64; }
static int64_t real_bytes(const struct cuda_plan *p) { return wide_of(p) ? 8 : 4; }
static int64_t row_bytes(const struct cuda_plan *p) { return p->pitch * 2 * real_bytes(p); }
static int64_t tile_kernels(const struct cuda_plan *p)
{
    return p->g_tile * (p->KB > 1 ? p->b_tile : 1);
}
static int64_t tile_rows(const struct cuda_plan *p) { return p->g_tile * p->m_tile * p->b_tile; }

/* n in parts of at most `most`: the size of each, as even as can be. */
static int64_t part_of(int64_t n, int64_t most) { return ceil_div(n, ceil_div(n, max64(1, most))); }

static int padded_init(struct cuda_plan *p)
{
    int64_t shared_bytes, tile_bytes;
    int status = p->machine->limits(p->device, &shared_bytes, &tile_bytes);
    if (status)
        return status;
    if (is_complex(p->dtype))
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "dtype is %s, must be float64, float32, float16 or "
                    "bfloat16 on a GPU",
                    dtype_name(p->dtype));
    p->turn = INT64_MAX;
    if (p->L > MOST_POINTS || (p->circle && p->N > MOST_POINTS)) {
        p->points = INT64_MAX;
    } else if (!p->circle) {
        p->points = padded_length(p->L + max64(p->taps, p->rev_taps) - 1);
    } else {
        p->points = padded_length(2 * p->L - 1);
        if (p->N <= p->points && is_smooth(p->N)) {
            p->points = p->N;
        } else {
            p->taps = min64(p->Lk, p->L);
            p->turn = p->N - p->L + 1;
        }
    }
    const int64_t kernel = max64(p->Lk, p->Lrev);
    if (p->points > MOST_POINTS || kernel > MOST_POINTS)
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "length is %lld and k_length %lld: padded rows, and "
                    "kernels, by cuFFT may have %d points",
                    (long long)p->L, (long long)kernel, MOST_POINTS);
    if ((status = p->machine->prepare_padded(p->device, wide_of(p))))
        return status;
    p->pitch = round_up(p->points / 2 + 1, 16);
    p->stretch = max64(STRETCH, round_up(ceil_div(p->L, 1024), 256));
    const int64_t members = p->H / p->G, most = max64(1, tile_bytes / row_bytes(p));
    p->b_tile = part_of(p->B, most);
    const int64_t channels = max64(1, most / p->b_tile);
    p->g_tile = channels < members ? 1 : part_of(p->G, channels / members);
    p->m_tile = channels < members ? part_of(members, channels) : members;
    for (int inverse = 0; inverse < 2; inverse++)
        if ((status = cufft_rows_create(&p->row_fft[inverse], p->dtype, inverse, p->points,
                                        p->pitch, tile_rows(p))) ||
            (status = cufft_rows_create(&p->kernel_fft[inverse], p->dtype, inverse, p->points,
                                        p->pitch, tile_kernels(p))))
            return status;
    return FFTCONV_STATUS_OK;
}

static void padded_destroy(struct cuda_plan *p)
{
    for (int inverse = 0; inverse < 2; inverse++) {
        cufft_rows_destroy(p->row_fft[inverse]);
        cufft_rows_destroy(p->kernel_fft[inverse]);
        p->row_fft[inverse] = p->kernel_fft[inverse] = NULL;
    }
}

/* The work area, for any of the transforms. */
static int64_t making_bytes(const struct cuda_plan *p)
{
    int64_t bytes = 0;
    for (int inverse = 0; inverse < 2; inverse++)
        bytes = max64(bytes, max64(cufft_rows_bytes(p->row_fft[inverse]),
                                   cufft_rows_bytes(p->kernel_fft[inverse])));
    return bytes;
}

/* Whole tiles of kernels: they are transformed where they stand. */
static int64_t spectrum_bytes(const struct cuda_plan *p)
{
    return round_up(p->KB * p->G, tile_kernels(p)) * row_bytes(p);
}

/* Offsets into the workspace. */
struct areas {
    int64_t work, x, spectrum; /* of a tile's kernels */
    int64_t kept, own, sums, dskip, total;
};

static struct areas areas_of(const struct cuda_plan *p, int direction, bool prepared)
{
    struct areas a = {0};
    a.work = cuda_take(&a.total, making_bytes(p));
    a.x = cuda_take(&a.total, tile_rows(p) * row_bytes(p));
    if (!prepared)
        a.spectrum = cuda_take(&a.total, tile_kernels(p) * row_bytes(p));
    if (direction == FFTCONV_DIRECTION_BACKWARD) {
        a.kept = cuda_take(&a.total, tile_rows(p) * row_bytes(p));
        a.own = cuda_take(&a.total, tile_rows(p) * round_up(p->L, 8) * real_bytes(p));
        a.sums = cuda_take(&a.total, tile_kernels(p) * row_bytes(p));
        a.dskip = cuda_take(&a.total, p->H * p->B * ceil_div(p->L, p->stretch) * real_bytes(p));
    }
    return a;
}

static int64_t workspace_bytes(const struct cuda_plan *p, int direction, bool prepared)
{
    return areas_of(p, direction, prepared).total;
}

/* rows of `length` elements, a warp for each `stretch`. */
static int launch(const struct cuda_plan *p, int kernel, const struct fftconv_cuda_padded *a,
                  int64_t rows, int64_t length, int64_t stretch, void *stream)
{
    const int64_t tasks = rows * ceil_div(length, stretch);
    return p->machine->padded(wide_of(p), kernel, a,
                              min64(ceil_div(tasks, PADDED_WARPS), MOST_BLOCKS), stream);
}

static struct fftconv_cuda_padded padded_of(const struct cuda_plan *p)
{
    return (struct fftconv_cuda_padded){.points = p->points,
                                        .pitch = p->pitch,
                                        .stretch = p->stretch,
                                        .members = p->H / p->G,
                                        .own_pitch = round_up(p->L, 8),
                                        .dskip_batch = p->B,
                                        .count = p->taps,
                                        .rev_count = p->rev_taps,
                                        .turn = p->turn,
                                        .circle = p->N,
                                        .length = p->Lk,
                                        .scale = 1.0 / (double)p->points};
}

/* K / P of the tile's kernels from number `first` on, at `spectrum`. */
static int make_tile(const struct cuda_plan *p, struct fftconv_cuda_padded a,
                     const fftconv_tensor *k, const fftconv_tensor *k_rev, void *spectrum,
                     void *work, void *stream)
{
    a.x = spectrum;
    a.rows = tile_kernels(p);
    a.taps = cuda_operand(k);
    if (p->rev_taps)
        a.rev_taps = cuda_operand(k_rev);
    const int status = launch(p, PADDED_PLACE, &a, a.rows, 2 * a.pitch, a.stretch, stream);
    return status ? status : cufft_rows_run(p->kernel_fft[0], spectrum, work, stream);
}

static int make_spectrum(const struct cuda_plan *p, const fftconv_tensor *k,
                         const fftconv_tensor *k_rev, void *spectrum, void *work, void *stream)
{
    struct fftconv_cuda_padded a = padded_of(p);
    int status = FFTCONV_STATUS_OK;
    a.kernels = p->G;
    a.kernel_batch = p->KB;
    for (; !status && a.first < p->KB * p->G; a.first += tile_kernels(p))
        status = make_tile(p, a, k, k_rev, (char *)spectrum + a.first * row_bytes(p), work, stream);
    return status;
}

/* A call. */
struct run {
    const struct cuda_plan *p;
    const fftconv_operands *o;
    const char *spectrum; /* of all kernels, or NULL */
    char *memory;
    struct areas at;
    Pass pass[MOST_PASSES];
    int passes;
    void *stream;
};

/* conj(kept) x over the tile's rows of each kernel: first of some rows each, where
 * they were kept, so that few kernels of many rows are many sums as well. */
static int run_sum(const struct run *r, struct fftconv_cuda_padded a)
{
    const struct cuda_plan *p = r->p;
    const int64_t kernels = a.kernels * a.kernel_batch, width = BINS / real_bytes(p);
    const int64_t rows = a.channels * a.batch / kernels;
    const int64_t parts = min64(ceil_div(rows, SUMMED),
                                ceil_div(MOST_WARPS, kernels * ceil_div(a.pitch, width)));
    a.count = ceil_div(rows, parts);
    const int status = launch(p, PADDED_SUM, &a, kernels * ceil_div(rows, a.count), a.pitch, width,
                              r->stream);
    a.x = NULL;
    return status ? status : launch(p, PADDED_SUM, &a, kernels, a.pitch, width, r->stream);
}

static int run_pass(const struct run *r, struct fftconv_cuda_padded a, const Pass *pass)
{
    const struct cuda_plan *p = r->p;
    const int64_t rows = a.channels * a.batch;
    void *const x = r->memory + r->at.x, *const work = r->memory + r->at.work;
    void *const loaded = pass->flags & KEEP ? r->memory + r->at.kept : x;
    int status;
    a.pass = *pass;
    a.x = loaded;
    if ((status = launch(p, PADDED_LOAD, &a, a.rows, 2 * a.pitch, a.stretch, r->stream)) ||
        (status = cufft_rows_run(p->row_fft[0], loaded, work, r->stream)))
        return status;
    a.x = x;
    a.from = r->memory + r->at.kept;
    if (pass->flags & SUM && (status = run_sum(r, a)))
        return status;
    if (!(pass->flags & BACK))
        return FFTCONV_STATUS_OK;
    a.from = loaded;
    if (pass->sink != SPREAD)
        a.dskip = NULL;
    if ((status = launch(p, PADDED_PRODUCT, &a, rows, a.pitch, a.stretch, r->stream)) ||
        (status = cufft_rows_run(p->row_fft[1], x, work, r->stream)))
        return status;
    return launch(p, PADDED_STORE, &a, rows, p->L, a.stretch, r->stream);
}

/* dk and dk_rev of a tile's kernels: the adjoint of make_tile. */
static int take_taps(const struct run *r, struct fftconv_cuda_padded a)
{
    const struct cuda_plan *p = r->p;
    const fftconv_tensor *const taps[2] = {&r->o->dk, &r->o->dk_rev};
    int status = cufft_rows_run(p->kernel_fft[1], a.sums, r->memory + r->at.work, r->stream);
    a.x = a.sums;
    for (int i = 0; i < 2 && !status; i++) {
        if (!taps[i]->data)
            continue;
        a.taps = cuda_operand(taps[i]);
        a.length = taps[i]->shape[2];
        a.reversed = i;
        a.count = i ? p->rev_taps : p->taps;
        status = launch(p, PADDED_TAKE, &a, a.kernels * a.kernel_batch, a.length, a.stretch,
                        r->stream);
    }
    return status;
}

/* A tile's kernels, and all rows that are theirs. */
static int run_kernels(const struct run *r, struct fftconv_cuda_padded a)
{
    const struct cuda_plan *p = r->p;
    const int64_t members = p->H / p->G;
    const int64_t end = p->KB > 1 ? a.b + a.kernel_batch : p->B;
    const int64_t first = (p->KB > 1 ? a.b * p->G : 0) + a.g;
    int status;
    if (r->spectrum) {
        a.spectrum = r->spectrum + first * row_bytes(p);
        a.spectrum_step = p->KB > 1 ? p->G : 0;
    } else {
        a.spectrum = r->memory + r->at.spectrum;
        a.spectrum_step = p->KB > 1 ? a.kernels : 0;
        if ((status = make_tile(p, a, &r->o->k, &r->o->k_rev, r->memory + r->at.spectrum,
                                r->memory + r->at.work, r->stream)))
            return status;
    }
    struct fftconv_cuda_padded t = a;
    t.begin = 1;
    for (int64_t m = 0; m < members; m += p->m_tile) {
        t.h = a.g * members + m;
        t.channels = a.kernels * min64(p->m_tile, members - m);
        for (t.b = a.b; t.b < end; t.b += p->b_tile) {
            t.batch = min64(p->b_tile, end - t.b);
            for (int i = 0; i < r->passes; i++)
                if ((status = run_pass(r, t, &r->pass[i])))
                    return status;
            t.begin = 0;
        }
    }
    return cuda_need_dk(r->o) && a.sums ? take_taps(r, a) : FFTCONV_STATUS_OK;
}

static int run_all(const struct run *r, struct fftconv_cuda_padded a)
{
    const struct cuda_plan *p = r->p;
    int status;
    a.rows = tile_rows(p);
    for (a.g = 0; a.g < p->G; a.g += p->g_tile) {
        a.kernels = min64(p->g_tile, p->G - a.g);
        for (a.b = 0; a.b < p->KB; a.b += p->KB > 1 ? p->b_tile : 1) {
            a.kernel_batch = p->KB > 1 ? min64(p->b_tile, p->B - a.b) : 1;
            if ((status = run_kernels(r, a)))
                return status;
        }
    }
    return FFTCONV_STATUS_OK;
}

static int forward(const struct cuda_plan *p, const void *spectrum, const fftconv_operands *o,
                   void *workspace, void *stream)
{
    struct run r = {.p = p,
                    .o = o,
                    .spectrum = spectrum,
                    .memory = workspace,
                    .at = areas_of(p, FFTCONV_DIRECTION_FORWARD, spectrum != NULL),
                    .stream = stream};
    r.passes = cuda_forward_passes(p, o, r.pass);
    return run_all(&r, padded_of(p));
}

static int backward(const struct cuda_plan *p, const void *spectrum, const fftconv_operands *o,
                    void *workspace, void *stream)
{
    struct run r = {.p = p,
                    .o = o,
                    .spectrum = spectrum,
                    .memory = workspace,
                    .at = areas_of(p, FFTCONV_DIRECTION_BACKWARD, spectrum != NULL),
                    .stream = stream};
    struct fftconv_cuda_padded a = padded_of(p);
    r.passes = cuda_backward_passes(p, o, r.pass);
    a.own = r.memory + r.at.own;
    a.sums = r.memory + r.at.sums;
    a.dskip = o->dskip.data ? r.memory + r.at.dskip : NULL;
    const int status = run_all(&r, a);
    if (status || !o->dskip.data)
        return status;
    a.channels = p->H;
    a.count = p->B * ceil_div(p->L, p->stretch);
    a.taps = cuda_operand(&o->dskip);
    return launch(p, PADDED_SKIP, &a, p->H, 1, 1, stream);
}

static void describe(const struct cuda_plan *p, fftconv_plan_info *info)
{
    const double rows = (double)p->B * (double)p->H, points = (double)p->points;
    double levels = 0;
    for (int64_t n = p->points; n > 1; n /= 2)
        levels++;
    info->form = FFTCONV_FORM_COMPLEX;
    info->padded_length = p->points;
    info->transform_length = p->points;
    info->order = info->stages = 1;
    info->radices[0] = info->stage_radices[0] = p->points;
    info->stage_flops[0] = 2 * 2.5 * rows * points * levels; /* about: a real FFT's */
    info->product_flops = 3 * rows * points;
    /* written padded, read and written by each transform and the product, read */
    info->memory_bytes = 8 * rows * points * (double)real_bytes(p);
    info->spectra_row_bytes = row_bytes(p);
}

const struct cuda_engine cuda_padded = {.name = "cufft",
                                        .init = padded_init,
                                        .destroy = padded_destroy,
                                        .describe = describe,
                                        .spectrum_bytes = spectrum_bytes,
                                        .making_bytes = making_bytes,
                                        .workspace_bytes = workspace_bytes,
                                        .make_spectrum = make_spectrum,
                                        .forward = forward,
                                        .backward = backward};
