/* Plans: made from a descriptor, described, destroyed. */
#include "plan.h"

#include <stdlib.h>
#include <string.h>

/* FNV-1a; never 0. */
static uint64_t hash(const void *data, int64_t bytes)
{
    uint64_t h = 14695981039346656037u;
    for (int64_t i = 0; i < bytes; i++)
        h = (h ^ ((const uint8_t *)data)[i]) * 1099511628211u;
    return h ? h : 1;
}

/* What the descriptor says of shapes, and what follows from it on any device. */
static void take_shapes(struct fftconv_plan *plan, const fftconv_plan_desc *d)
{
    plan->B = d->batch;
    plan->H = d->channels;
    plan->L = d->length;
    plan->Lk = d->k_length;
    plan->Lk_rev = d->k_rev_length;
    plan->mode = d->mode;
    plan->dtype = d->dtype;
    plan->dense = d->dense;
    plan->history = d->history;
    plan->threads = d->threads ? d->threads : fftconv_default_threads();
    plan->N = d->fft_size ? d->fft_size : d->length;
    plan->G = d->kernels ? d->kernels : d->channels;
    plan->KB = d->kernel_batch ? d->kernel_batch : 1;
    plan->channels_per_kernel = plan->H / plan->G;
    /* Taps beyond a row's length meet zeros only; unless they come round, or meet samples
     * from before. */
    const bool all = d->mode == FFTCONV_MODE_CIRCULAR || d->history;
    plan->taps = all ? d->k_length : min64(d->k_length, d->length);
    plan->rev_taps = min64(d->k_rev_length, d->length);
    const int64_t kernels = plan->KB * plan->G;
    const int64_t rows = plan->channels_per_kernel * (plan->B / plan->KB);
    plan->chunks = kernels >= 8 ? 1 : min64(rows, ceil_div(8, kernels));
    plan->kept = 1;
}

/* Weights of the frequencies are the work of the stages; or, on a circle whose length the
 * stages do not have, of a filter that acts on the kernel beforehand, and leaves fft_size
 * taps of it. */
static int take_weights(struct fftconv_plan *plan, fftconv_plan_desc *d)
{
    const double *weights = d->weights;
    int64_t bins = 0;
    for (int64_t m = 0; m <= plan->N / 2; m++) /* a bin and its mirror */
        bins += weights[m] == 0 ? 0 : m == 0 || 2 * m == plan->N ? 1 : 2;
    plan->kept = (double)bins / (double)plan->N;
    plan->pattern = hash(weights, (plan->N / 2 + 1) * (int64_t)sizeof *weights);
    if (is_smooth(plan->N))
        return FFTCONV_STATUS_OK;
    d->weights = NULL;
    plan->taps = plan->N;
    return filter_create(&plan->filter, plan->N, weights, plan->engine->isa);
}

/* All that a call may hold for each kernel or channel must fit. */
static int check_plan_bytes(const struct fftconv_plan *plan)
{
    const int64_t numbers = spectra_reals(plan) + plan->taps;
    const int64_t rows = size_mul(size_mul(plan->KB, plan->chunks), plan->H);
    return check_bytes(size_mul(rows, numbers * plan->engine->real_bytes + 4 * ALIGNMENT),
                       "channels is %lld and batch is %lld", (long long)plan->H,
                       (long long)plan->B);
}

/* Bytes of a row to prefetch with each square of the row before.  0 where that is of no use:
 * rows in blocks, rows that are in a cache, and transforms that leave no room in it. */
static int64_t prefetch_bytes_of(const struct fftconv_plan *plan)
{
    const struct choice *c = &plan->chosen;
    const int64_t row = plan->L * dtype_size(plan->dtype);
    int64_t squares = 0;
    if (is_direct(plan))
        return 0;
    for (int i = 0; i < c->parts; i++) {
        const struct transform *t = &c->part[i];
        squares += t->M / (t->lanes * t->lanes) * t->stage1_outputs / t->stage[0].radix;
    }
    if (c->blocks > 1 || stage_level(&c->part[0], 0) > 1 || row > cache_bytes(2) ||
        (double)plan->B * (double)plan->H * (double)row < (double)cache_bytes(2) / 2)
        return 0;
    return ceil_div(row, max64(1, squares));
}

/* Rows larger than the caches are prefetched by the stages that read and write them: a whole
 * block ahead if that, its gates and its outputs are a small part of the second cache; else
 * 2 KB ahead, in strips of 256 bytes of a row, so that the requests come evenly. */
static void set_prefetch_distance(struct fftconv_plan *plan)
{
    struct choice *c = &plan->chosen;
    const double rows = (double)plan->B * (double)plan->H * (double)plan->L;
    for (int i = 0; i < c->parts; i++) {
        struct transform *t = &c->part[i];
        const int64_t bytes = t->real_bytes;
        const bool folded = c->parts > 1 && 2 * c->padded_length * bytes >= cache_bytes(2);
        if (stage_level(t, 0) < 2 && !folded &&
            (c->blocks == 1 || rows * (double)bytes < (double)cache_bytes(2) / 2))
            continue;
        const bool block = c->blocks > 1 && c->block_length * bytes <= cache_bytes(2) / 8;
        t->prefetch_distance = block ? c->block_length : 2048 / bytes;
        t->prefetch_columns = block ? t->strip_columns
                                    : max64(1, min64(t->strip_columns, 256 / (t->lanes * bytes)));
    }
}

static int make_cpu_plan(struct fftconv_plan *plan, const fftconv_plan_desc *given)
{
    fftconv_plan_desc d = *given;
    const bool wide = dtype_size(d.dtype) >= 8 && d.dtype != FFTCONV_DTYPE_COMPLEX64;
    int status = find_engine(d.isa, wide ? 8 : 4, &plan->engine);
    if (status || (d.weights && (status = take_weights(plan, &d))))
        return status;
    plan->past_taps = plan->taps - 1;
    plan->future_taps = max64(0, plan->rev_taps - 1);
    if ((status = choose(plan, &d)) || (status = check_plan_bytes(plan)))
        return status;
    plan->prefetch_bytes = prefetch_bytes_of(plan);
    set_prefetch_distance(plan);
    if (plan->history && !is_complex(plan->dtype) && !is_direct(plan)) {
        const double seconds = plan->chosen.predicted / (double)plan->chosen.blocks;
        const double outputs = seconds * machine_costs.direct_products / (double)plan->taps;
        plan->direct_outputs = min64(plan->chosen.block_length, (int64_t)outputs);
    }
    return FFTCONV_STATUS_OK;
}

int fftconv_plan_create(fftconv_plan **out, const fftconv_plan_desc *d)
{
    int status;
    if (!out)
        return fail(FFTCONV_STATUS_INVALID, "plan is NULL, must point at a place for the plan");
    *out = NULL;
    if ((status = check_desc(d)))
        return status;
    struct fftconv_plan *plan = calloc(1, sizeof *plan);
    if (!plan)
        return fail_memory(sizeof *plan);
    take_shapes(plan, d);
    status = d->device == FFTCONV_DEVICE_CUDA ? cuda_plan_create(plan, d) : make_cpu_plan(plan, d);
    if (status)
        fftconv_plan_destroy(plan);
    else
        *out = plan;
    return status;
}

void fftconv_plan_destroy(fftconv_plan *plan)
{
    if (plan) {
        cuda_plan_destroy(plan->cuda);
        filter_destroy(plan->filter);
        leave_choice(plan);
    }
    free(plan);
}

/* ---- What follows from a plan ---------------------------------------------------------------- */

int64_t direct_taps(const struct fftconv_plan *plan)
{
    return plan->past_taps + 1 + plan->future_taps;
}

int64_t direct_row_bytes(const struct fftconv_plan *plan)
{
    const int64_t vectors = 2 * plan->engine->lanes; /* behind the row, which sums may read */
    const int64_t reals = plan->chosen.padded_length + 2 * direct_taps(plan) + vectors;
    return ALIGNMENT + round_up(reals * plan->engine->real_bytes, ALIGNMENT);
}

int64_t spectra_reals(const struct fftconv_plan *plan)
{
    if (is_direct(plan))
        return 2 * round_up(direct_taps(plan), plan->engine->lanes);
    const struct transform *last = &plan->chosen.part[plan->chosen.parts - 1];
    return last->spectra_offset + last->spectra_reals;
}

int64_t spectra_bytes(const struct fftconv_plan *plan)
{
    return round_up(spectra_reals(plan) * plan->engine->real_bytes, ALIGNMENT) + ALIGNMENT;
}

void *spectra_of_part(const struct fftconv_plan *plan, int i, const void *spectra)
{
    return (char *)spectra + plan->chosen.part[i].spectra_offset * plan->engine->real_bytes;
}

int64_t element_bytes(const struct fftconv_plan *plan)
{
    return (1 + is_complex(plan->dtype)) * plan->engine->real_bytes;
}

int resolve_threads(const struct fftconv_plan *plan, int threads, int *out)
{
    if (threads < 0 || threads > MAX_THREADS)
        return fail(FFTCONV_STATUS_INVALID, "threads is %d, must be 0 (the plan's) ... %d", threads,
                    MAX_THREADS);
    *out = threads ? threads : plan->threads;
    return FFTCONV_STATUS_OK;
}

/* ---- What a plan costs ----------------------------------------------------------------------- */

/* The part of stage l's groups that is computed. */
static double live_part_of_stage(const struct transform *t, int l)
{
    const struct stage *st = &t->stage[l];
    const double outputs = (double)t->stage1_outputs / t->stage[0].radix;
    double live = l < t->split ? 0 : t->computed;
    for (int64_t g = 0; l < t->split && g < st->groups; g++)
        live += (st->live ? st->live[g] != NOTHING : 1) / (double)st->groups;
    return l > 0 ? live * outputs : live;
}

/* Flops and bytes of part i, for `blocks` transforms in all; level_bytes: by the memory in
 * which a stage's data are. */
static void describe_part(const struct fftconv_plan *plan, int i, double blocks,
                          fftconv_plan_info *info, double level_bytes[3])
{
    const struct choice *c = &plan->chosen;
    const struct transform *t = &c->part[i];
    const double M = (double)t->M, outputs = (double)t->stage1_outputs / t->stage[0].radix;
    for (int l = 0; l < t->stages; l++) {
        const struct stage *st = &t->stage[l];
        const double live = live_part_of_stage(t, l);
        const double twiddles = l < t->stages - 1 ? 6.0 * (st->radix - 1) / st->radix : 0;
        if (i == 0)
            info->stage_radices[l] = st->radix;
        info->stage_flops[min64(l, c->part[0].stages - 1)] += 2 * blocks * live * M *
                                                              (radix_flops(st->radix, st->dense) +
                                                               twiddles);
        /* both directions read and write M complex points */
        level_bytes[stage_level(t, l)] += blocks * live * 4 * M * 2 * t->real_bytes;
    }
    info->product_flops += 6 * blocks * M * t->computed * outputs;
    if (i < c->parts - 1) /* sums and differences, there and back */
        info->fold_flops += blocks * 8 * M;
}

static void describe_choice(const struct fftconv_plan *plan, fftconv_plan_info *info)
{
    const struct choice *c = &plan->chosen;
    const double rows = (double)plan->B * (double)plan->H;
    double level_bytes[3] = {0}, points = 0, computed = 0;
    for (int i = 0; i < c->parts; i++) {
        describe_part(plan, i, rows * (double)c->blocks, info, level_bytes);
        points += (double)c->part[i].M;
        computed += (double)c->part[i].M * c->part[i].computed;
    }
    info->form = c->form;
    info->lanes = plan->engine->lanes;
    info->isa = plan->engine->isa;
    info->padded_length = c->padded_length;
    info->transform_length = c->part[0].M;
    info->order = c->order;
    info->stages = c->part[0].stages;
    memcpy(info->radices, c->radices, (size_t)c->order * sizeof *c->radices);
    info->l1_bytes = level_bytes[0];
    info->l2_bytes = level_bytes[1];
    info->memory_bytes = level_bytes[2];
    if (is_direct(plan))
        info->product_flops = 2 * rows * (double)plan->L * (double)direct_taps(plan);
    info->predicted_seconds = c->predicted * rows;
    info->blocks = c->blocks;
    info->block_length = c->block_length;
    info->computed = points ? computed / points : 1;
}

int fftconv_plan_get_info(const fftconv_plan *plan, fftconv_plan_info *info)
{
    if (!plan || !info)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL", plan ? "info" : "plan");
    if (info->size != sizeof *info)
        return fail(FFTCONV_STATUS_INVALID, "info->size is %zu, must be %zu", info->size,
                    sizeof *info);
    memset(info, 0, sizeof *info);
    info->size = sizeof *info;
    info->mode = plan->mode;
    info->dtype = plan->dtype;
    info->dense = plan->dense;
    info->threads = plan->threads;
    info->fft_size = plan->mode == FFTCONV_MODE_CIRCULAR ? plan->N : 0;
    info->io_bytes = (double)plan->B * (double)plan->H * (double)plan->L * 2 *
                     dtype_size(plan->dtype);
    info->kept = plan->kept;
    if (plan->cuda) {
        cuda_plan_describe(plan, info);
        return FFTCONV_STATUS_OK;
    }
    describe_choice(plan, info);
    const int real = plan->engine->real_bytes;
    const int64_t reversed = plan->direct_outputs ? round_up(plan->taps, plan->engine->lanes) : 0;
    info->spectrum_bytes = size_mul(size_mul(plan->KB, plan->G),
                                    spectra_bytes(plan) + real * reversed);
    info->spectra_row_bytes = spectra_reals(plan) * real;
    info->forward_workspace_bytes = plain_workspace_bytes(plan, FFTCONV_DIRECTION_FORWARD,
                                                          plan->threads);
    info->backward_workspace_bytes = plain_workspace_bytes(plan, FFTCONV_DIRECTION_BACKWARD,
                                                           plan->threads);
    return FFTCONV_STATUS_OK;
}
