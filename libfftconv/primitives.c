/* The three primitives: rows to spectra, the product at each frequency, spectra to rows; and
 * where the frequencies lie. */
#include "call.h"

#include <string.h>

struct primitive {
    struct call call;
    int side;
    const fftconv_tensor *rows, *rev; /* rows; or kernels, and those for the future */
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
    for (int i = 0; i < plan->chosen.parts; i++)
        all &= !plan->chosen.part[i].live && !is_half(&plan->chosen.part[i]);
    if (!all)
        memset(S, 0, (size_t)bytes);
}

static int rows_to_spectra_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct fftconv_plan *plan = p->call.plan;
    const struct worker w = worker_of(&p->call, worker);
    const struct block block = block_of(plan, plan->L, 0);
    const struct array x = nth_row(p->rows, i);
    struct source source;
    if (p->side == FFTCONV_SIDE_OUTPUT) {
        source = output_source(plan, &block, x);
    } else {
        input_source(&source, plan, plan->L, &block);
        source.x = x;
        if (plan->chosen.wrap) { /* before element 0 comes the end of the circle */
            source.from = block.s;
            source.before = x;
            source.before.origin = -plan->N;
            source.before_to = plan->L - plan->N;
        }
    }
    zero_spectra(plan, p->out + i * p->row_bytes, p->row_bytes);
    row_to_spectra(&w, &source, NULL, p->out + i * p->row_bytes, NULL);
    return FFTCONV_STATUS_OK;
}

static int spectra_to_rows_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct fftconv_plan *plan = p->call.plan;
    const struct worker w = worker_of(&p->call, worker);
    const struct block block = block_of(plan, plan->L, 0);
    const struct array y = nth_row(p->rows, i);
    void *S = p->out + i * p->row_bytes;
    if (p->side == FFTCONV_SIDE_OUTPUT || !plan->chosen.wrap) {
        const struct sink sink = p->side == FFTCONV_SIDE_OUTPUT
                                     ? output_sink(plan, &block, y)
                                     : input_sink(plan, plan->L, &block, y);
        spectra_to_row(&w, S, &sink, NULL);
        return FFTCONV_STATUS_OK;
    }
    const struct array dz = own_row(plan, w.dz, block.s);
    const struct sink sink = input_sink(plan, plan->L, &block, dz);
    struct overlap none = {0, 0, 0};
    int64_t from, to;
    spectra_to_row(&w, S, &sink, NULL);
    overlap_add(&p->call, &w, &block, 0, w.dz, &none, &from, &to);
    plan->engine->rows.write_product(from, to - from, &dz, false, 0, &(struct array){0}, &y);
    return FFTCONV_STATUS_OK;
}

static int kernels_to_spectra_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct worker w = worker_of(&p->call, worker);
    const int64_t n1 = p->rows->shape[1];
    const struct taps taps = taps_of(p->call.plan, p->rows, p->rev, i / n1, i % n1);
    zero_spectra(p->call.plan, p->out + i * p->row_bytes, p->row_bytes);
    return taps_to_spectra(&w, &taps, NULL, p->out + i * p->row_bytes);
}

static int spectra_to_kernels_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct worker w = worker_of(&p->call, worker);
    const int64_t n1 = p->rows->shape[1];
    const struct taps taps = taps_of(p->call.plan, p->rows, p->rev, i / n1, i % n1);
    return spectra_to_taps(&w, &taps, 0, p->out + i * p->row_bytes);
}

static int multiply_task(void *context, int64_t i, int worker)
{
    const struct primitive *p = context;
    const struct fftconv_plan *plan = p->call.plan;
    const int64_t b = plan->KB > 1 ? i / plan->H : 0;
    const int64_t g = i % plan->H / plan->channels_per_kernel;
    const char *spectrum = (const char *)p->spectrum->data +
                           (b * plan->G + g) * spectra_bytes(plan);
    (void)worker;
    for (int part = 0; part < plan->chosen.parts; part++) {
        struct transform all = plan->chosen.part[part]; /* zeros are part of the answer */
        all.live = NULL;
        all.stage1_outputs = all.stage[0].radix;
        plan->engine->spectra.multiply(&all, spectra_of_part(plan, part, spectrum),
                                       spectra_of_part(plan, part, p->in + i * p->row_bytes),
                                       spectra_of_part(plan, part, p->out + i * p->row_bytes),
                                       false, 0, 1);
    }
    const int exponent = *exponent_of(plan, spectrum);
    if (exponent)
        scale_spectra(plan, exponent, p->out + i * p->row_bytes);
    return FFTCONV_STATUS_OK;
}

/* ---- Checks --------------------------------------------------------------------------------- */

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
    if ((status = check_has_transforms(plan)))
        return status;
    if (plan->history)
        return fail(FFTCONV_STATUS_INVALID, "plan was made with history, must be without");
    if (plan->chosen.blocks > 1)
        return fail(FFTCONV_STATUS_INVALID,
                    "plan works in %lld blocks, must be made with single_block",
                    (long long)plan->chosen.blocks);
    return FFTCONV_STATUS_OK;
}

/* Rows or kernels of any number, (n0, n1, n), checked against their spectra. */
static int check_rows(const struct fftconv_plan *plan, const char *name, const fftconv_tensor *t,
                      int64_t n, bool kernel, bool output, const void *spectra)
{
    const int64_t row_bytes = spectra_reals(plan) * plan->engine->real_bytes;
    const int64_t bytes = t->shape[0] < 1 || t->shape[1] < 1
                              ? 0
                              : size_mul(size_mul(t->shape[0], t->shape[1]), row_bytes);
    int status;
    if (!t->data)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given", name);
    if (bytes < 1 || bytes > (int64_t)1 << SIZE_BITS)
        return fail(FFTCONV_STATUS_INVALID,
                    "%s has shape (%lld, %lld, %lld), must have 1 ... 2^58 bytes of spectra", name,
                    (long long)t->shape[0], (long long)t->shape[1], (long long)t->shape[2]);
    const int64_t shape[3] = {t->shape[0], t->shape[1], n};
    if ((status = check_tensor(plan, name, t, shape, output, kernel)))
        return status;
    if (touches(t, spectra, bytes))
        return fail(FFTCONV_STATUS_INVALID, "%s overlaps spectra, must not", name);
    return FFTCONV_STATUS_OK;
}

/* ---- Calls ---------------------------------------------------------------------------------- */

/* With the memory of a call of that direction. */
static int run_primitive(const struct fftconv_plan *plan, struct primitive *p, task_fn *task,
                         int threads, int64_t rows, int direction, bool has_spectrum)
{
    const fftconv_operands o = {.size = sizeof o, .threads = threads};
    void *owned;
    int status = begin_call(&p->call, plan, &o, direction, has_spectrum, rows, &owned);
    if (status)
        return status;
    p->row_bytes = spectra_reals(plan) * plan->engine->real_bytes;
    status = parallel_for(p->call.layout.threads, rows, task, p);
    aligned_free(owned);
    return status;
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
    if ((status = check_primitive(plan, d)) || (status = check_spectra("spectra", d->spectra)) ||
        (status = check_whole_spectra(plan)) ||
        (status = check_rows(plan, "k", &d->k, plan->Lk, true, output, d->spectra)))
        return status;
    const fftconv_tensor *k = &d->k, *k_rev = &d->k_rev;
    const bool rev = k_rev->data;
    if (rev != (plan->mode == FFTCONV_MODE_TWO_SIDED))
        return fail(FFTCONV_STATUS_INVALID, "k_rev is %s, must be %s", rev ? "given" : "NULL",
                    rev ? "NULL unless mode is two_sided (2)" : "given: mode is two_sided (2)");
    if (rev && (status = check_rows(plan, "k_rev", k_rev, plan->Lk_rev, true, output, d->spectra)))
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
    const int64_t row_bytes = spectra_reals(plan) * plan->engine->real_bytes;
    const int64_t bytes = size_mul(rows, row_bytes);
    if ((status = check_bytes(bytes, "the plan's batch is %lld and channels %lld",
                              (long long)plan->B, (long long)plan->H)))
        return status;
    if (in != out && bytes_overlap(in, bytes, out, bytes))
        return fail(FFTCONV_STATUS_INVALID,
                    "spectra overlaps in, must not unless it is the same array");
    if ((status = resolve_threads(plan, d->threads, &threads)))
        return status;
    struct primitive p = {
        .call = {.plan = plan}, .in = in, .out = out, .spectrum = spectrum, .row_bytes = row_bytes};
    return parallel_for(threads, rows, multiply_task, &p);
}

/* ---- Where the frequencies lie ---------------------------------------------------------------- */

/* Of part i of a row. */
static int offsets_of_part(const struct fftconv_plan *plan, int i, int64_t *offset)
{
    const struct transform *t = &plan->chosen.part[i];
    const int R = t->stage[0].radix;
    int64_t *low, *high;
    const int status = frequencies_build(t, &low, &high);
    if (status)
        return status;
    for (int64_t p = 0; p < t->P; p++)
        for (int64_t q = 0; q < t->Q; q++) {
            const int64_t m = low[p] + high[q], at = t->spectra_offset + spectrum_offset(t, p, q);
            const int64_t bin = plan->chosen.parts > 1 ? signed_bin(t->form, plan->N, i, m) : m;
            const int k = (int)(m % R);
            if (k >= t->stage1_outputs) /* its mirror is there */
                continue;
            if (is_half(t) && plan->chosen.parts == 1 && k > 0 && 2 * k < R)
                offset[t->M - m] = -1 - at;
            if (bin >= 0)
                offset[bin] = at;
            else
                offset[-1 - bin] = -1 - at;
        }
    aligned_free(low);
    return FFTCONV_STATUS_OK;
}

int fftconv_spectra_offsets(const fftconv_plan *plan, int64_t *offset)
{
    if (!plan || !offset)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL", plan ? "offset" : "plan");
    int status = check_has_transforms(plan);
    for (int i = 0; !status && i < plan->chosen.parts; i++)
        status = offsets_of_part(plan, i, offset);
    return status;
}
