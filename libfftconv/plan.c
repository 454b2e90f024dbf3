/* Plans: checked arguments, a form, a length, a transform. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* Every size a call derives must fit: B H L elements of 8 bytes, twice over, and
 * whatever padding a row's transform adds. */
enum { SIZE_BITS = 58, ROW_BITS = 40 };

static int check_size(const char *name, int64_t value, int bits)
{
    if (value < 1 || value > (int64_t)1 << bits)
        return fail(FFTCONV_INVALID, "%s is %lld, must be 1 ... 2^%d", name,
                    (long long)value, bits);
    return FFTCONV_OK;
}

static int check_choice(const char *name, int value, int low, int high,
                        const char *allowed)
{
    if (value < low || value > high)
        return fail(FFTCONV_INVALID, "%s is %d, must be %s", name, value, allowed);
    return FFTCONV_OK;
}

int check_radices(const int64_t *radices, int order, int bits, int64_t *product)
{
    *product = 1;
    for (int i = 0; i < order; i++) {
        if (radices[i] < 1 || radices[i] > FFTCONV_MAX_RADIX)
            return fail(FFTCONV_INVALID, "radices[%d] is %lld, must be 1 ... %d", i,
                        (long long)radices[i], FFTCONV_MAX_RADIX);
        if (*product > ((int64_t)1 << bits) / radices[i])
            return fail(FFTCONV_INVALID,
                        "radices have a product above 2^%d, must be at most that", bits);
        *product *= radices[i];
    }
    return FFTCONV_OK;
}

static int check_desc(const fftconv_plan_desc *d)
{
    int status;
    if (!d)
        return fail(FFTCONV_INVALID, "desc is NULL");
    if (d->size != sizeof *d)
        return fail(FFTCONV_INVALID, "desc->size is %zu, must be %zu", d->size, sizeof *d);
    if ((status = check_size("batch", d->batch, SIZE_BITS)) ||
        (status = check_size("channels", d->channels, SIZE_BITS)) ||
        (status = check_size("length", d->length, ROW_BITS)) ||
        (status = check_size("kernel_length", d->kernel_length, ROW_BITS)) ||
        (status = check_choice("mode", d->mode, FFTCONV_CAUSAL, FFTCONV_CIRCULAR,
                               "causal (0) or circular (1)")) ||
        (status = check_choice("dtype", d->dtype, FFTCONV_FLOAT64, FFTCONV_BFLOAT16,
                               "float64 (1), float32 (2), float16 (3) or bfloat16 (4)")) ||
        (status = check_choice("form", d->form, FFTCONV_FORM_AUTO, FFTCONV_COMPLEX,
                               "auto (0), right_angle (1), even_odd (2) or complex (3)")) ||
        (status = check_choice("dense", d->dense, 0, 1, "0 or 1")) ||
        (status = check_choice("threads", d->threads, 0, 255, "0 (all) ... 255")) ||
        (status = check_choice("order", d->order, 0, FFTCONV_MAX_ORDER,
                               "0 (any) ... 16")))
        return status;
    int64_t elements;
    if (__builtin_mul_overflow(d->batch, d->channels, &elements) ||
        __builtin_mul_overflow(elements, d->length, &elements) || elements > (int64_t)1 << SIZE_BITS)
        return fail(FFTCONV_INVALID,
                    "batch * channels * length is %lld * %lld * %lld, must be at most 2^58",
                    (long long)d->batch, (long long)d->channels, (long long)d->length);
    if (d->mode == FFTCONV_CAUSAL && d->fft_size != 0)
        return fail(FFTCONV_INVALID,
                    "fft_size is %lld, must be 0 in causal mode: the library chooses "
                    "(circular mode is modulo fft_size)", (long long)d->fft_size);
    if (d->mode == FFTCONV_CIRCULAR) {
        int64_t N = d->fft_size ? d->fft_size : d->length;
        if ((status = check_size("fft_size", N, ROW_BITS)))
            return status;
        if (d->length > N)
            return fail(FFTCONV_INVALID,
                        "length is %lld, must be at most fft_size, %lld, in circular mode",
                        (long long)d->length, (long long)N);
        if (d->kernel_length > N)
            return fail(FFTCONV_INVALID,
                        "kernel_length is %lld, must be at most fft_size, %lld, in "
                        "circular mode", (long long)d->kernel_length, (long long)N);
    } else if (d->form == FFTCONV_EVEN_ODD || d->form == FFTCONV_COMPLEX) {
        return fail(FFTCONV_INVALID,
                    "form is %s, must be right_angle (or auto) in causal mode",
                    d->form == FFTCONV_EVEN_ODD ? "even_odd" : "complex");
    }
    if (d->radices) {
        if (d->order < 1)
            return fail(FFTCONV_INVALID, "order is %d, must be the number of radices",
                        d->order);
        int64_t product;
        if ((status = check_radices(d->radices, d->order, ROW_BITS, &product)))
            return status;
    }
    return FFTCONV_OK;
}

/* Try M points in this form; keep it if it is the cheapest so far. */
static void try_length(struct fftconv_plan *plan, const fftconv_plan_desc *d, int form,
                       int packing, int64_t M)
{
    struct request request = {.form = form, .lanes = plan->engine->lanes,
                              .real_bytes = plan->engine->real_bytes,
                              .dense = d->dense, .order = d->order,
                              .radices = d->radices};
    struct xform xf;
    int order;
    int64_t radices[FFTCONV_MAX_ORDER];
    double seconds = plan_xform(&xf, M, &request, &order, radices);
    if (seconds < 0)
        return;
    if (packing == PERIODIC) /* collecting and folding */
        seconds += 1e-9 * (double)plan->extent / plan->engine->lanes * 4;
    if (packing == LINEAR && plan->L > M) /* both planes */
        seconds += 1e-9 * (double)M / plan->engine->lanes;
    if (plan->predicted >= 0 && seconds >= plan->predicted)
        return;
    plan->predicted = seconds;
    plan->xf = xf;
    plan->packing = packing;
    plan->order = order;
    memcpy(plan->radices, radices, (size_t)order * sizeof *radices);
}

/* Lengths worth trying from `least` up: an odd smooth number times the power of
 * two that reaches it. */
static void try_lengths(struct fftconv_plan *plan, const fftconv_plan_desc *d, int form,
                        int packing, int64_t least)
{
    static const int odd[] = {1, 3, 5, 7, 9, 15, 21, 25, 27, 35, 45, 49, 63, 75, 81, 105};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        int64_t M = odd[i];
        while (M < least)
            M *= 2;
        if (M >= 2 && M < 2 * least + 64)
            try_length(plan, d, form, packing, M);
    }
}

/* The forms that compute this operation, and of each the length(s) it may have. */
static int choose(struct fftconv_plan *plan, const fftconv_plan_desc *d)
{
    const int64_t N = plan->N, least = max64(1, (plan->extent + 1) / 2);
    const bool wraps = plan->mode == FFTCONV_CIRCULAR && plan->extent > N;
    const bool any = d->form == FFTCONV_FORM_AUTO;
    int64_t given = 0; /* checked before */
    if (d->radices)
        (void)check_radices(d->radices, d->order, ROW_BITS, &given);

    plan->predicted = -1;
    if (any || d->form == FFTCONV_RIGHT_ANGLE) {
        const int packing = wraps ? PERIODIC : LINEAR;
        if (!given)
            try_lengths(plan, d, FFTCONV_RIGHT_ANGLE, packing, least);
        else if (given >= least)
            try_length(plan, d, FFTCONV_RIGHT_ANGLE, packing, given);
    }
    if (plan->mode == FFTCONV_CIRCULAR) {
        if ((any || d->form == FFTCONV_EVEN_ODD) && N % 2 == 0 &&
            (!given || given == N / 2))
            try_length(plan, d, FFTCONV_EVEN_ODD, PAIRS, N / 2);
        if ((any || d->form == FFTCONV_COMPLEX) && (!given || given == N))
            try_length(plan, d, FFTCONV_COMPLEX, LINEAR, N);
    }
    if (plan->predicted >= 0)
        return FFTCONV_OK;
    if (given)
        return fail(FFTCONV_INVALID,
                    "radices have product %lld, must be the complex length M of the form: "
                    "at least %lld for right_angle%s%s", (long long)given, (long long)least,
                    plan->mode == FFTCONV_CIRCULAR && N % 2 == 0 ? ", fft_size/2 for even_odd"
                                                                 : "",
                    plan->mode == FFTCONV_CIRCULAR ? ", fft_size for complex" : "");
    if (d->order && (any || d->form == FFTCONV_RIGHT_ANGLE || is_smooth(N)))
        return fail(FFTCONV_INVALID,
                    "order is %d, must be large enough for radices up to %d at length %lld",
                    d->order, FFTCONV_MAX_RADIX, (long long)plan->L);
    return fail(FFTCONV_INVALID,
                "form is %s, cannot be had for fft_size %lld: even_odd needs an even, "
                "both need a 7-smooth fft_size (right_angle takes any)",
                d->form == FFTCONV_EVEN_ODD ? "even_odd" : "complex", (long long)N);
}

int fftconv_plan_create(fftconv_plan **out, const fftconv_plan_desc *d)
{
    int status;
    if (!out)
        return fail(FFTCONV_INVALID, "plan is NULL, must point at a place for the plan");
    *out = NULL;
    if ((status = check_desc(d)))
        return status;
    struct fftconv_plan *plan = calloc(1, sizeof *plan);
    if (!plan)
        return fail_memory(sizeof *plan);
    plan->B = d->batch;
    plan->H = d->channels;
    plan->L = d->length;
    plan->Lk = d->kernel_length;
    plan->mode = d->mode;
    plan->dtype = d->dtype;
    plan->dense = d->dense;
    plan->threads = d->threads ? d->threads : fftconv_default_threads();
    plan->N = d->fft_size ? d->fft_size : d->length;
    plan->taps = d->mode == FFTCONV_CAUSAL ? min64(d->kernel_length, d->length)
                                           : d->kernel_length;
    plan->extent = d->length + plan->taps - 1;
    plan->chunks = plan->H >= 8 ? 1 : min64(plan->B, ceil_div(8, plan->H));
    if ((status = find_engine(d->isa, d->dtype == FFTCONV_FLOAT64 ? 8 : 4, &plan->engine)) ||
        (status = choose(plan, d)) || (status = xform_build(&plan->xf))) {
        free(plan);
        return status;
    }
    *out = plan;
    return FFTCONV_OK;
}

void fftconv_plan_destroy(fftconv_plan *plan)
{
    if (plan)
        xform_clear(&plan->xf);
    free(plan);
}

int64_t spectrum_reals(const struct fftconv_plan *plan)
{
    return plan->xf.spectra_reals * (plan->xf.form == FFTCONV_EVEN_ODD ? 2 : 1);
}

int resolve_threads(const struct fftconv_plan *plan, int threads, int *out)
{
    if (threads < 0 || threads > 255)
        return fail(FFTCONV_INVALID, "threads is %d, must be 0 (the plan's) ... 255",
                    threads);
    *out = threads ? threads : plan->threads;
    return FFTCONV_OK;
}

/* Threads go over rows where there are enough of them, else inside one row. */
struct layout layout_of(const struct fftconv_plan *plan, int direction, int threads,
                        bool prepared)
{
    const struct xform *xf = &plan->xf;
    const int64_t real = xf->real_bytes;
    struct layout l = {.threads = threads, .inside = 1};
    const int64_t tasks = direction == FFTCONV_FORWARD ? plan->B * plan->H
                                                       : plan->H * plan->chunks;
    l.threads = (int)min64(threads, tasks);
    const bool uneven = tasks < threads || (tasks % threads && tasks < 4 * threads);
    if (xf->depth > 0 && xf->M >= 16384 && uneven)
        l.threads = 1, l.inside = threads;
    l.by_channel = !prepared && direction == FFTCONV_FORWARD && plan->H >= l.threads &&
                   l.inside == 1;

    l.x = round_up(xf->x_reals * real, ALIGNMENT);
    l.spectra = round_up(xf->spectra_reals * real, ALIGNMENT);
    l.spectrum = round_up(spectrum_reals(plan) * real, ALIGNMENT);
    l.row = round_up(plan->L * real, ALIGNMENT);
    l.fold = plan->packing == PERIODIC ? round_up(2 * xf->M * real, ALIGNMENT) : 0;
    l.scratch = round_up(xf->scratch_reals * real, ALIGNMENT);

    /* forward: X, S where a spectrum passes through memory; backward: X, Z, G,
     * p and g, dz, and the sum over the batch */
    const bool stored = xf->form == FFTCONV_EVEN_ODD || !prepared;
    l.worker = l.x + l.fold + l.scratch * l.inside;
    if (direction == FFTCONV_FORWARD)
        l.worker += (stored ? l.spectra : 0) + (l.by_channel ? l.spectrum : 0);
    else
        l.worker += 2 * l.spectra + 2 * l.row + l.spectrum;
    /* spectra that outlive a task: of a few channels, or (prepared elsewhere)
     * none; and partial sums of a few channels' chunks */
    if (direction == FFTCONV_FORWARD) {
        l.shared = !prepared && !l.by_channel ? plan->H * l.spectrum : 0;
    } else {
        l.shared = (plan->chunks > 1 ? plan->H * plan->chunks * l.spectrum : 0) +
                   round_up(plan->H * plan->chunks * (int64_t)sizeof(double), ALIGNMENT);
        if (!prepared) /* one per worker, or one per channel where those are few */
            l.shared += (plan->chunks > 1 || l.inside > 1 ? plan->H : l.threads) * l.spectrum;
    }
    l.total = l.shared + l.worker * l.threads;
    return l;
}

int fftconv_workspace_bytes(const fftconv_plan *plan, int direction, int threads,
                            int64_t *bytes)
{
    int status;
    if (!plan || !bytes)
        return fail(FFTCONV_INVALID, "%s is NULL", plan ? "bytes" : "plan");
    if ((status = check_choice("direction", direction, FFTCONV_FORWARD, FFTCONV_BACKWARD,
                               "forward (0) or backward (1)")) ||
        (status = resolve_threads(plan, threads, &threads)))
        return status;
    *bytes = max64(layout_of(plan, direction, threads, false).total,
                   layout_of(plan, direction, threads, true).total);
    return FFTCONV_OK;
}

int fftconv_plan_get_info(const fftconv_plan *plan, fftconv_plan_info *info)
{
    if (!plan || !info)
        return fail(FFTCONV_INVALID, "%s is NULL", plan ? "info" : "plan");
    if (info->size != sizeof *info)
        return fail(FFTCONV_INVALID, "info->size is %zu, must be %zu", info->size,
                    sizeof *info);
    const struct xform *xf = &plan->xf;
    const double rows = (double)plan->B * (double)plan->H, M = (double)xf->M;
    const int element = dtype_size(plan->dtype);
    memset(info, 0, sizeof *info);
    info->size = sizeof *info;
    info->form = xf->form;
    info->mode = plan->mode;
    info->dtype = plan->dtype;
    info->dense = plan->dense;
    info->threads = plan->threads;
    info->lanes = xf->lanes;
    info->fft_size = plan->mode == FFTCONV_CIRCULAR ? plan->N : 2 * xf->M;
    info->transform_length = xf->M;
    info->order = plan->order;
    info->stages = xf->stages;
    memcpy(info->radices, plan->radices, (size_t)plan->order * sizeof *plan->radices);
    double level[3] = {0};
    for (int l = 0; l < xf->stages; l++) {
        const struct stage *st = &xf->stage[l];
        info->stage_radices[l] = st->radix;
        double twiddles = 6.0 * (st->radix - 1) / st->radix;
        if (l == xf->stages - 1)
            twiddles = 0;
        info->stage_flops[l] =
            2 * rows * M * (radix_flops(st->radix, st->dense) + twiddles);
        /* both directions read and write M complex points */
        level[stage_level(xf, l)] += rows * 4 * M * 2 * xf->real_bytes;
    }
    info->product_flops = rows * M * (xf->form == FFTCONV_EVEN_ODD ? 14 : 6);
    info->io_bytes = rows * (double)plan->L * 2 * element;
    info->l1_bytes = level[0];
    info->l2_bytes = level[1];
    info->memory_bytes = level[2];
    info->spectrum_bytes = plan->H * spectrum_reals(plan) * xf->real_bytes;
    info->spectra_row_bytes = xf->spectra_reals * xf->real_bytes;
    int status;
    if ((status = fftconv_workspace_bytes(plan, FFTCONV_FORWARD, 0,
                                          &info->forward_workspace_bytes)) ||
        (status = fftconv_workspace_bytes(plan, FFTCONV_BACKWARD, 0,
                                          &info->backward_workspace_bytes)))
        return status;
    info->predicted_seconds = plan->predicted * rows;
    info->isa = plan->engine->isa;
    return FFTCONV_OK;
}
