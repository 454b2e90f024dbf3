/* The Monarch DFT by itself.  It runs the stages of phase 2, with a DFT of the batch in each
 * lane of a vector. */
#include "check.h"

#include <string.h>

static int check_dft(const fftconv_dft_desc *d)
{
    if (!d)
        return fail(FFTCONV_STATUS_INVALID, "desc is NULL");
    if (d->size != sizeof *d)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", d->size, sizeof *d);
    int status;
    if ((status = check_number("dtype", d->dtype, FFTCONV_DTYPE_FLOAT64, FFTCONV_DTYPE_FLOAT32,
                               "float64 (1) or float32 (2)")) ||
        (status = check_number("count", d->count, 1, (int64_t)1 << 40, "1 ... 2^40")) ||
        (status = check_number("inverse", d->inverse, 0, 1, "0 or 1")) ||
        (status = check_number("dense", d->dense, 0, 1, "0 or 1")))
        return status;
    if (d->order < 1 || d->order > FFTCONV_MAX_ORDER)
        return fail(FFTCONV_STATUS_INVALID, "order is %d, must be 1 ... %d", d->order,
                    FFTCONV_MAX_ORDER);
    if (!d->radices || !d->in || !d->out)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given",
                    !d->radices ? "radices"
                    : !d->in    ? "in"
                                : "out");
    const unsigned real_bytes = d->dtype == FFTCONV_DTYPE_FLOAT64 ? 8 : 4;
    if ((uintptr_t)d->in % real_bytes || (uintptr_t)d->out % real_bytes)
        return fail(FFTCONV_STATUS_INVALID, "%s is at %p, must be aligned to its %u-byte reals",
                    (uintptr_t)d->in % real_bytes ? "in" : "out",
                    (uintptr_t)d->in % real_bytes ? d->in : d->out, real_bytes);
    int64_t product;
    if ((status = check_radices(d->radices, d->order, 32, &product)))
        return status;
    if (product != d->n)
        return fail(FFTCONV_STATUS_INVALID, "n is %lld, must be the product of radices, %lld",
                    (long long)d->n, (long long)product);
    const int64_t bytes = size_mul(size_mul(product, d->count), 2 * (int64_t)real_bytes);
    if ((status = check_bytes(bytes, "count is %lld and n is %lld", (long long)d->count,
                              (long long)d->n)))
        return status;
    if (d->in != d->out && bytes_overlap(d->in, bytes, d->out, bytes))
        return fail(FFTCONV_STATUS_INVALID, "out overlaps in, must be in itself or apart from it");
    if (d->stages > d->order)
        return fail(FFTCONV_STATUS_INVALID,
                    "stages is %d, must be at most order, %d, or negative for all", d->stages,
                    d->order);
    return FFTCONV_STATUS_OK;
}

static double load_real(const void *data, int real_bytes, int64_t i)
{
    return real_bytes == 8 ? ((const double *)data)[i] : (double)((const float *)data)[i];
}

/* ---- The transform --------------------------------------------------------------------------- */

struct dft {
    const fftconv_dft_desc *d;
    const struct engine *engine;
    int wanted; /* radices whose stages are run */
    /* Each radix runs as one step or, where its codelets are smaller, as several. */
    int steps, run; /* of all radices, and of those wanted */
    int64_t step_radix[MAX_STAGES];
    struct stage stage[MAX_STAGES];
    int64_t *place; /* where the steps leave what stands at j of the result */
    char *T;        /* [n][re, im][lanes] */
};

static int choose_steps(struct dft *f)
{
    const fftconv_dft_desc *d = f->d;
    f->wanted = d->stages < 0 ? d->order : d->stages;
    for (int i = 0; i < d->order; i++) {
        int chain[MAX_STAGES];
        const int length = codelets_of(d->radices[i], d->dense, chain);
        if (f->steps + length > MAX_STAGES)
            return fail(FFTCONV_STATUS_INVALID, "radices run as more than %d steps, must be fewer",
                        MAX_STAGES);
        for (int k = 0; k < length; k++)
            f->step_radix[f->steps++] = chain[k];
        if (i < f->wanted)
            f->run = f->steps;
    }
    return FFTCONV_STATUS_OK;
}

/* The place of element j.  Several steps leave the digit of their radix with its own digits
 * reversed, which is undone here; and where all stages are run, the digits of all radices are
 * reversed, so that the result is in natural order. */
static int64_t place_of(const struct dft *f, int64_t j)
{
    const bool natural = f->d->stages < 0;
    int64_t at = 0, rest = j, unit = f->d->n;
    int step = 0;
    for (int i = 0; i < f->wanted; i++) {
        const int64_t radix = f->d->radices[i];
        unit /= radix;
        int64_t digit, span = 1;
        if (natural) /* the first digit is the least significant one */
            digit = rest % radix, rest /= radix;
        else
            digit = rest / unit, rest %= unit;
        for (int64_t left = radix; left > 1; digit /= span) {
            span = f->step_radix[step++];
            left /= span;
            at += digit % span * left * unit;
        }
        step += radix == 1;
    }
    return natural ? at : at + rest;
}

/* As many DFTs of the batch as a vector has lanes, each in a lane.  With re and im exchanged,
 * before and after, a DFT is the inverse one. */
static int group_task(void *context, int64_t group, int worker)
{
    const struct dft *f = context;
    const fftconv_dft_desc *d = f->d;
    const int lanes = f->engine->lanes, real_bytes = f->engine->real_bytes;
    const int64_t n = d->n, b = group * lanes, count = min64(lanes, d->count - b);
    (void)worker;
    const double scale = d->inverse && d->stages < 0 ? 1 / (double)n : 1;
    const int re = d->inverse ? lanes : 0, im = d->inverse ? 0 : lanes;
    memset(f->T, 0, (size_t)(n * 2 * lanes * real_bytes));
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < n; j++) {
            const int64_t from = 2 * ((b + i) * n + j), to = j * 2 * lanes + i;
            store_real(f->T, real_bytes, to + re, load_real(d->in, real_bytes, from));
            store_real(f->T, real_bytes, to + im, load_real(d->in, real_bytes, from + 1));
        }
    f->engine->transform.column_stages(f->stage, f->run, f->T);
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < n; j++) {
            const int64_t to = 2 * ((b + i) * n + j), from = f->place[j] * 2 * lanes + i;
            store_real(d->out, real_bytes, to, scale * load_real(f->T, real_bytes, from + re));
            store_real(d->out, real_bytes, to + 1, scale * load_real(f->T, real_bytes, from + im));
        }
    return FFTCONV_STATUS_OK;
}

int fftconv_dft(const fftconv_dft_desc *d)
{
    struct dft f = {.d = d};
    int status = check_dft(d);
    if (status || (status = find_engine(d->isa, dtype_size(d->dtype), &f.engine)) ||
        (status = choose_steps(&f)))
        return status;
    const int lanes = f.engine->lanes, real_bytes = f.engine->real_bytes;
    const int64_t bytes = d->n * 2 * lanes * real_bytes;
    f.T = aligned_new(bytes);
    f.place = aligned_new(d->n * (int64_t)sizeof *f.place);
    if (!f.T || !f.place)
        status = fail_memory(bytes);
    else
        status = stages_build(f.stage, f.steps, f.step_radix, d->dense, real_bytes);
    for (int64_t j = 0; !status && j < d->n; j++)
        f.place[j] = place_of(&f, j);
    if (!status)
        status = parallel_for(1, ceil_div(d->count, lanes), group_task, &f);
    stages_clear(f.stage, f.steps);
    aligned_free(f.T);
    aligned_free(f.place);
    return status;
}
