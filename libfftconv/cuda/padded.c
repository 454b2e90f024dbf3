/* The padded engine: rows of any length, by cuFFT.
 *
 * Real transforms by cuFFT of rows padded with zeros, in float32, or in float64 for float64,
 * with kernels of our own between them (padded.h).  It takes the rows that the fused engine
 * cannot hold, and is the baseline and second opinion for those that it can.
 *
 * A row is padded to P points, P of factors 2, 3, 5 and 7 with P >= L + t - 1, where t counts
 * the taps of k or of k_rev, whichever has more: then nothing that comes round reaches the
 * first L samples.  A circular convolution modulo N, where taps do come round, takes P = N;
 * or, where N is longer than 2 L - 1 or has other factors, P >= 2 L - 1 and tap s at both lags
 * s and s - N, since any two of the L samples are less than L apart.
 *
 * The workspace is bounded, because rows go through it a tile at a time.  A tile has g_tile
 * kernels (of each of b_tile batch rows, where kernels differ over the batch), m_tile channels
 * of each kernel, and b_tile batch rows.  Tiles follow in that order, the batch innermost, and
 * all sums are in a fixed order. */
#include "engine.h"

#include <string.h>

enum {
    MOST_BLOCKS = 4096,      /* of a launch: more than any device holds at once */
    MOST_POINTS = 1 << 30,   /* of a row */
    LEAST_STRETCH = 1024,    /* elements of a row that a warp takes at a time, at least */
    SUM_STRETCH_BYTES = 512, /* of a spectrum, that a warp sums: 16 for each lane */
    LEAST_ROWS_SUMMED = 16,  /* by one warp, while there are as many */
    MOST_SUM_WARPS = 8192,   /* of a launch of sums, about: more than any device holds at once */
};

/* ---- The choice of a padded length and a tile ------------------------------------------------ */

/* The least even n >= least whose factors are 2, 3, 5 and 7. */
static int64_t padded_length(int64_t least)
{
    int64_t n = round_up(max64(least, 2), 2);
    while (!is_smooth(n))
        n += 2;
    return n;
}

static int is_wide(const struct cuda_plan *p) { return p->dtype == FFTCONV_DTYPE_FLOAT64; }
static int64_t real_bytes(const struct cuda_plan *p) { return is_wide(p) ? 8 : 4; }
static int64_t row_bytes(const struct cuda_plan *p) { return p->pitch * 2 * real_bytes(p); }
static int64_t tile_kernels(const struct cuda_plan *p)
{
    return p->g_tile * (p->KB > 1 ? p->b_tile : 1);
}
static int64_t tile_rows(const struct cuda_plan *p) { return p->g_tile * p->m_tile * p->b_tile; }
/* Of the rows, or of the kernels, of a tile. */
static int64_t bytes_of(const struct cuda_plan *p, int64_t rows)
{
    return size_mul(rows, row_bytes(p));
}

/* n cut into as few shares of at most `most` as will do, which are as even as can be: the
 * largest of them. */
static int64_t even_share(int64_t n, int64_t most)
{
    return ceil_div(n, ceil_div(n, max64(1, most)));
}

static int choose_points(struct cuda_plan *p)
{
    p->wrapped_from = INT64_MAX;
    if (p->L > MOST_POINTS || (p->wraps && p->N > MOST_POINTS)) {
        p->points = INT64_MAX;
    } else if (!p->wraps) {
        p->points = padded_length(p->L + max64(p->taps, p->rev_taps) - 1);
    } else {
        p->points = padded_length(2 * p->L - 1);
        if (p->N <= p->points && is_smooth(p->N)) {
            p->points = p->N;
        } else {
            p->taps = min64(p->Lk, p->L);
            p->wrapped_from = p->N - p->L + 1;
        }
    }
    const int64_t longest_kernel = max64(p->Lk, p->Lk_rev);
    if (p->points > MOST_POINTS || longest_kernel > MOST_POINTS)
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "length is %lld and the longer kernel has %lld taps: a padded row, and a "
                    "kernel, may have at most %d points for cuFFT",
                    (long long)p->L, (long long)longest_kernel, MOST_POINTS);
    p->pitch = round_up(p->points / 2 + 1, 16);
    p->stretch = max64(LEAST_STRETCH, round_up(ceil_div(p->L, 1024), 256));
    return FFTCONV_STATUS_OK;
}

/* A buffer of tile_bytes, about, should hold a tile's rows. */
static void choose_tile(struct cuda_plan *p, int64_t tile_bytes)
{
    const int64_t members = p->H / p->G, most = max64(1, tile_bytes / row_bytes(p));
    p->b_tile = even_share(p->B, most);
    const int64_t channels = max64(1, most / p->b_tile);
    p->g_tile = channels < members ? 1 : even_share(p->G, channels / members);
    p->m_tile = channels < members ? even_share(members, channels) : members;
}

static int padded_init(struct cuda_plan *p)
{
    int64_t shared_bytes, tile_bytes;
    int status = p->machine->limits(p->device, &shared_bytes, &tile_bytes);
    if (status)
        return status;
    if (is_complex(p->dtype))
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "dtype is %s, must be float64, float32, float16 or bfloat16 on a GPU",
                    dtype_name(p->dtype));
    if ((status = choose_points(p)) || (status = p->machine->prepare_padded(p->device, is_wide(p))))
        return status;
    choose_tile(p, tile_bytes);
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

/* ---- Spectra and workspaces ------------------------------------------------------------------ */

/* The work area of cuFFT, large enough for each of the plan's transforms. */
static int64_t spectrum_workspace_bytes(const struct cuda_plan *p)
{
    int64_t bytes = 0;
    for (int inverse = 0; inverse < 2; inverse++)
        bytes = max64(bytes, max64(cufft_rows_bytes(p->row_fft[inverse]),
                                   cufft_rows_bytes(p->kernel_fft[inverse])));
    return bytes;
}

/* Kernels are transformed where their spectra stand, a whole tile of them at a time. */
static int64_t spectrum_bytes(const struct cuda_plan *p)
{
    return bytes_of(p, round_up(size_mul(p->KB, p->G), tile_kernels(p)));
}

/* Where each buffer of a call begins in its workspace, in bytes. */
struct workspace {
    int64_t fft;      /* the work area of cuFFT */
    int64_t x;        /* the tile's rows and their transforms */
    int64_t spectrum; /* the spectra of the tile's kernels, where the call makes them */
    int64_t kept;     /* the transforms Z of the tile's rows z */
    int64_t own;      /* the tile's rows g */
    int64_t sums;     /* the sums of conj(Z) G of the tile's kernels */
    int64_t dskip;    /* the sums of g z over each stretch of each row */
    int64_t total;
};

static struct workspace workspace_of(const struct cuda_plan *p, int direction, bool prepared)
{
    struct workspace w = {0};
    w.fft = cuda_take(&w.total, spectrum_workspace_bytes(p));
    w.x = cuda_take(&w.total, bytes_of(p, tile_rows(p)));
    if (!prepared)
        w.spectrum = cuda_take(&w.total, bytes_of(p, tile_kernels(p)));
    if (direction == FFTCONV_DIRECTION_BACKWARD) {
        w.kept = cuda_take(&w.total, bytes_of(p, tile_rows(p)));
        w.own = cuda_take(&w.total, size_mul(tile_rows(p), round_up(p->L, 8) * real_bytes(p)));
        w.sums = cuda_take(&w.total, bytes_of(p, tile_kernels(p)));
        w.dskip = cuda_take(
            &w.total, size_mul(size_mul(p->H, p->B), ceil_div(p->L, p->stretch) * real_bytes(p)));
    }
    return w;
}

static int64_t workspace_bytes(const struct cuda_plan *p, int direction, bool prepared)
{
    return workspace_of(p, direction, prepared).total;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* Launches a step over rows of `length` elements, with a warp for each `stretch` of them. */
static int launch(const struct cuda_plan *p, int kernel, const struct fftconv_cuda_padded *a,
                  int64_t rows, int64_t length, int64_t stretch, void *stream)
{
    const int64_t tasks = rows * ceil_div(length, stretch);
    return p->machine->padded(is_wide(p), kernel, a,
                              min64(ceil_div(tasks, PADDED_WARPS), MOST_BLOCKS), stream);
}

static struct fftconv_cuda_padded arguments_of(const struct cuda_plan *p)
{
    return (struct fftconv_cuda_padded){.points = p->points,
                                        .pitch = p->pitch,
                                        .stretch = p->stretch,
                                        .members = p->H / p->G,
                                        .own_pitch = round_up(p->L, 8),
                                        .dskip_batch = p->B,
                                        .k_length = p->Lk,
                                        .k_used = p->taps,
                                        .rev_used = p->rev_taps,
                                        .wrapped_from = p->wrapped_from,
                                        .fft_size = p->N,
                                        .scale = 1.0 / (double)p->points};
}

/* The transforms, over P, of a tile's kernels, from number a.first_kernel on. */
static int make_tile(const struct cuda_plan *p, struct fftconv_cuda_padded a,
                     const fftconv_tensor *k, const fftconv_tensor *k_rev, void *spectrum,
                     void *fft_work, void *stream)
{
    a.x = spectrum;
    a.x_rows = tile_kernels(p);
    a.k = cuda_operand(k);
    if (p->rev_taps)
        a.k_rev = cuda_operand(k_rev);
    const int status = launch(p, PADDED_PLACE, &a, a.x_rows, 2 * a.pitch, a.stretch, stream);
    return status ? status : cufft_rows_run(p->kernel_fft[0], spectrum, fft_work, stream);
}

static int make_spectrum(const struct cuda_plan *p, const fftconv_tensor *k,
                         const fftconv_tensor *k_rev, void *spectrum, void *workspace, void *stream)
{
    struct fftconv_cuda_padded a = arguments_of(p);
    int status = FFTCONV_STATUS_OK;
    a.kernels = p->G;
    a.kernel_batch = p->KB;
    for (; !status && a.first_kernel < p->KB * p->G; a.first_kernel += tile_kernels(p))
        status = make_tile(p, a, k, k_rev, (char *)spectrum + a.first_kernel * row_bytes(p),
                           workspace, stream);
    return status;
}

/* A call, and the passes that it makes over each tile of rows. */
struct padded_call {
    const struct cuda_plan *p;
    const fftconv_operands *o;
    const char *spectrum; /* of all kernels, or NULL: the spectra of each tile are made */
    char *memory;
    struct workspace at;
    Pass pass[MOST_PASSES];
    int passes;
    void *stream;
};

/* Adds conj(Z) G of the tile's rows to the sums of their kernels.  It takes two steps, so that
 * few kernels of many rows are work for many warps as well: the first sums the products of
 * rows_per_sum rows each, and leaves the sums in Z's place; the second adds those up. */
static int sum_tile(const struct padded_call *c, struct fftconv_cuda_padded a)
{
    const struct cuda_plan *p = c->p;
    const int64_t kernels = a.kernels * a.kernel_batch;
    const int64_t width = SUM_STRETCH_BYTES / (2 * real_bytes(p));
    const int64_t rows = a.channels * a.batch / kernels; /* of each kernel */
    const int64_t sums = min64(ceil_div(rows, LEAST_ROWS_SUMMED),
                               ceil_div(MOST_SUM_WARPS, kernels * ceil_div(a.pitch, width)));
    a.rows_per_sum = ceil_div(rows, sums);
    const int status = launch(p, PADDED_SUM, &a, kernels * ceil_div(rows, a.rows_per_sum), a.pitch,
                              width, c->stream);
    a.join = 1;
    return status ? status : launch(p, PADDED_SUM, &a, kernels, a.pitch, width, c->stream);
}

static int run_pass(const struct padded_call *c, struct fftconv_cuda_padded a, const Pass *pass)
{
    const struct cuda_plan *p = c->p;
    const int64_t rows = a.channels * a.batch;
    void *const x = c->memory + c->at.x, *const fft_work = c->memory + c->at.fft;
    void *const loaded = pass->flags & KEEP ? c->memory + c->at.kept : x;
    int status;
    a.pass = *pass;
    a.x = loaded;
    if ((status = launch(p, PADDED_LOAD, &a, a.x_rows, 2 * a.pitch, a.stretch, c->stream)) ||
        (status = cufft_rows_run(p->row_fft[0], loaded, fft_work, c->stream)))
        return status;
    a.x = x;
    a.z = c->memory + c->at.kept;
    if (pass->flags & SUM && (status = sum_tile(c, a)))
        return status;
    if (!(pass->flags & BACK))
        return FFTCONV_STATUS_OK;
    a.from = loaded;
    if (pass->sink != SPREAD)
        a.dskip = NULL;
    if ((status = launch(p, PADDED_PRODUCT, &a, rows, a.pitch, a.stretch, c->stream)) ||
        (status = cufft_rows_run(p->row_fft[1], x, fft_work, c->stream)))
        return status;
    return launch(p, PADDED_STORE, &a, rows, p->L, a.stretch, c->stream);
}

/* dk and dk_rev of a tile's kernels from their sums: the adjoint of make_tile. */
static int take_taps(const struct padded_call *c, struct fftconv_cuda_padded a)
{
    const struct cuda_plan *p = c->p;
    const fftconv_tensor *const gradients[2] = {&c->o->dk, &c->o->dk_rev};
    int status = cufft_rows_run(p->kernel_fft[1], a.sums, c->memory + c->at.fft, c->stream);
    a.x = a.sums;
    for (int reversed = 0; reversed < 2 && !status; reversed++) {
        if (!gradients[reversed]->data)
            continue;
        a.dk = cuda_operand(gradients[reversed]);
        a.dk_length = gradients[reversed]->shape[2];
        a.dk_used = reversed ? p->rev_taps : p->taps;
        a.reversed = reversed;
        status = launch(p, PADDED_TAKE, &a, a.kernels * a.kernel_batch, a.dk_length, a.stretch,
                        c->stream);
    }
    return status;
}

/* Points a.spectrum at the spectra of a tile's kernels, which are made where none are given. */
static int find_spectrum(const struct padded_call *c, struct fftconv_cuda_padded *a)
{
    const struct cuda_plan *p = c->p;
    if (c->spectrum) {
        a->spectrum = c->spectrum + (a->kernel_b * p->G + a->g) * row_bytes(p);
        a->spectrum_step = p->KB > 1 ? p->G : 0;
        return FFTCONV_STATUS_OK;
    }
    a->spectrum = c->memory + c->at.spectrum;
    a->spectrum_step = p->KB > 1 ? a->kernels : 0;
    return make_tile(p, *a, &c->o->k, &c->o->k_rev, c->memory + c->at.spectrum,
                     c->memory + c->at.fft, c->stream);
}

/* A tile's kernels, and all rows that they serve, tile after tile. */
static int run_kernels(const struct padded_call *c, struct fftconv_cuda_padded a)
{
    const struct cuda_plan *p = c->p;
    const int64_t members = p->H / p->G;
    const int64_t end = p->KB > 1 ? a.kernel_b + a.kernel_batch : p->B;
    int status = find_spectrum(c, &a);
    if (status)
        return status;
    a.first_tile = 1;
    for (int64_t m = 0; m < members; m += p->m_tile) {
        a.h = a.g * members + m;
        a.channels = a.kernels * min64(p->m_tile, members - m);
        for (a.b = a.kernel_b; a.b < end; a.b += p->b_tile) {
            a.batch = min64(p->b_tile, end - a.b);
            for (int i = 0; i < c->passes; i++)
                if ((status = run_pass(c, a, &c->pass[i])))
                    return status;
            a.first_tile = 0;
        }
    }
    return cuda_wants_dk(c->o) && a.sums ? take_taps(c, a) : FFTCONV_STATUS_OK;
}

static int run_all(const struct padded_call *c, struct fftconv_cuda_padded a)
{
    const struct cuda_plan *p = c->p;
    int status;
    a.x_rows = tile_rows(p);
    for (a.g = 0; a.g < p->G; a.g += p->g_tile) {
        a.kernels = min64(p->g_tile, p->G - a.g);
        for (a.kernel_b = 0; a.kernel_b < p->KB; a.kernel_b += p->KB > 1 ? p->b_tile : 1) {
            a.kernel_batch = p->KB > 1 ? min64(p->b_tile, p->B - a.kernel_b) : 1;
            if ((status = run_kernels(c, a)))
                return status;
        }
    }
    return FFTCONV_STATUS_OK;
}

/* ---- Calls ----------------------------------------------------------------------------------- */

static int forward(const struct cuda_plan *p, const void *spectrum, const fftconv_operands *o,
                   void *workspace, void *stream)
{
    struct padded_call c = {.p = p,
                            .o = o,
                            .spectrum = spectrum,
                            .memory = workspace,
                            .at = workspace_of(p, FFTCONV_DIRECTION_FORWARD, spectrum != NULL),
                            .stream = stream};
    c.passes = cuda_forward_passes(p, o, c.pass);
    return run_all(&c, arguments_of(p));
}

static int backward(const struct cuda_plan *p, const void *spectrum, const fftconv_operands *o,
                    void *workspace, void *stream)
{
    struct padded_call c = {.p = p,
                            .o = o,
                            .spectrum = spectrum,
                            .memory = workspace,
                            .at = workspace_of(p, FFTCONV_DIRECTION_BACKWARD, spectrum != NULL),
                            .stream = stream};
    struct fftconv_cuda_padded a = arguments_of(p);
    c.passes = cuda_backward_passes(p, o, c.pass);
    a.own = c.memory + c.at.own;
    a.sums = c.memory + c.at.sums;
    a.dskip = o->dskip.data ? c.memory + c.at.dskip : NULL;
    const int status = run_all(&c, a);
    if (status || !o->dskip.data)
        return status;
    a.channels = p->H;
    a.dskip_parts = p->B * ceil_div(p->L, p->stretch);
    a.dskip_out = cuda_operand(&o->dskip);
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
    /* about 2.5 P log2 P operations for a real FFT, there and back */
    info->stage_flops[0] = 2 * 2.5 * rows * points * levels;
    info->product_flops = 3 * rows * points;
    /* A row is written padded, read and written by both transforms and the product, and read
     * at the end. */
    info->memory_bytes = 8 * rows * points * (double)real_bytes(p);
    info->spectra_row_bytes = row_bytes(p);
}

const struct cuda_engine cuda_padded = {.name = "cufft",
                                        .init = padded_init,
                                        .destroy = padded_destroy,
                                        .describe = describe,
                                        .spectrum_bytes = spectrum_bytes,
                                        .spectrum_workspace_bytes = spectrum_workspace_bytes,
                                        .workspace_bytes = workspace_bytes,
                                        .make_spectrum = make_spectrum,
                                        .forward = forward,
                                        .backward = backward};
