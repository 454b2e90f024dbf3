/* The Monarch DFT by itself: the stages of phase 2, lanes over the batch. */
#include "check.h"

#include <stdlib.h>
#include <string.h>

static int check_dft(const fftconv_dft_desc *d)
{
    if (!d)
        return fail(FFTCONV_STATUS_INVALID, "desc is NULL");
    if (d->size != sizeof *d)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", d->size, sizeof *d);
    if (d->dtype != FFTCONV_DTYPE_FLOAT64 && d->dtype != FFTCONV_DTYPE_FLOAT32)
        return fail(FFTCONV_STATUS_INVALID, "dtype is %d, must be float64 (1) or float32 (2)",
                    d->dtype);
    if (d->count < 1 || d->count > (int64_t)1 << 40)
        return fail(FFTCONV_STATUS_INVALID, "count is %lld, must be 1 ... 2^40",
                    (long long)d->count);
    if (d->inverse < 0 || d->inverse > 1 || d->dense < 0 || d->dense > 1)
        return fail(FFTCONV_STATUS_INVALID, "%s is %d, must be 0 or 1",
                    d->inverse < 0 || d->inverse > 1 ? "inverse" : "dense",
                    d->inverse < 0 || d->inverse > 1 ? d->inverse : d->dense);
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
    int status = check_radices(d->radices, d->order, 32, &product);
    if (status)
        return status;
    if (product != d->n)
        return fail(FFTCONV_STATUS_INVALID, "n is %lld, must be the product of radices, %lld",
                    (long long)d->n, (long long)product);
    int64_t bytes;
    if (__builtin_mul_overflow(product, d->count * 2 * (int64_t)real_bytes, &bytes))
        return fail(FFTCONV_STATUS_INVALID, "count is %lld, must keep count * n below 2^59",
                    (long long)d->count);
    const intptr_t in = (intptr_t)d->in, out = (intptr_t)d->out;
    if (in != out && in < out + bytes && out < in + bytes)
        return fail(FFTCONV_STATUS_INVALID, "out overlaps in, must be in itself or apart from it");
    if (d->stages > d->order)
        return fail(FFTCONV_STATUS_INVALID,
                    "stages is %d, must be at most order, %d, or negative "
                    "for all",
                    d->stages, d->order);
    return FFTCONV_STATUS_OK;
}

static double element(const void *data, bool wide, int64_t i)
{
    return wide ? ((const double *)data)[i] : (double)((const float *)data)[i];
}

static void set_element(void *data, bool wide, int64_t i, double value)
{
    if (wide)
        ((double *)data)[i] = value;
    else
        ((float *)data)[i] = (float)value;
}

int fftconv_dft(const fftconv_dft_desc *d)
{
    const struct engine *engine;
    int status = check_dft(d);
    if (status)
        return status;
    const bool wide = d->dtype == FFTCONV_DTYPE_FLOAT64;
    const int real_bytes = wide ? 8 : 4;
    if ((status = find_engine(d->isa, real_bytes, &engine)))
        return status;

    /* the steps that the first `stages` radices run as, and then the rest */
    const int wanted = d->stages < 0 ? d->order : d->stages;
    int64_t steps[MAX_STAGES];
    int radices[FFTCONV_MAX_ORDER], count = 0, run = 0;
    for (int i = 0; i < d->order; i++) {
        int chain[MAX_STAGES];
        int length = codelets_of(d->radices[i], d->dense, chain);
        if (count + length > MAX_STAGES)
            return fail(FFTCONV_STATUS_INVALID, "radices run as more than %d steps, must be fewer",
                        MAX_STAGES);
        for (int j = 0; j < length; j++)
            steps[count++] = chain[j];
        if (i < wanted)
            run = count;
        radices[i] = (int)d->radices[i];
    }

    struct stage stage[MAX_STAGES] = {{0}};
    const int lanes = engine->lanes;
    const int64_t n = d->n;
    char *t = aligned_new(n * 2 * lanes * real_bytes);
    int64_t *place = aligned_new(n * (int64_t)sizeof *place);
    if (!t || !place)
        status = fail_memory(n * 2 * lanes * real_bytes);
    else
        status = stages_build(stage, count, steps, d->dense, real_bytes);

    /* place[j]: where the steps leave what stands at j of the result.  A chain
     * leaves its radix's digit reversed, which is undone here. */
    for (int64_t j = 0; !status && j < n; j++) {
        int64_t at = 0, rest = j, unit = n;
        int step = 0;
        for (int i = 0; i < wanted; i++) {
            unit /= radices[i];
            int64_t digit, span = 1;
            if (d->stages < 0) /* natural order: first digit least significant */
                digit = rest % radices[i], rest /= radices[i];
            else
                digit = rest / unit, rest %= unit;
            for (int64_t left = radices[i]; left > 1; digit /= span) {
                span = steps[step++];
                left /= span;
                at += digit % span * left * unit;
            }
            step += radices[i] == 1;
        }
        place[j] = d->stages < 0 ? at : at + rest;
    }

    const double scale = d->inverse && d->stages < 0 ? 1 / (double)n : 1;
    const int re = d->inverse ? lanes : 0, im = d->inverse ? 0 : lanes;
    for (int64_t b = 0; !status && b < d->count; b += lanes) {
        const int64_t group = min64(lanes, d->count - b);
        memset(t, 0, (size_t)(n * 2 * lanes * real_bytes));
        for (int64_t i = 0; i < group; i++)
            for (int64_t j = 0; j < n; j++) {
                const int64_t from = 2 * ((b + i) * n + j), to = j * 2 * lanes + i;
                set_element(t, wide, to + re, element(d->in, wide, from));
                set_element(t, wide, to + im, element(d->in, wide, from + 1));
            }
        engine->transform.column_stages(stage, run, t);
        for (int64_t i = 0; i < group; i++)
            for (int64_t j = 0; j < n; j++) {
                const int64_t to = 2 * ((b + i) * n + j), from = place[j] * 2 * lanes + i;
                set_element(d->out, wide, to, scale * element(t, wide, from + re));
                set_element(d->out, wide, to + 1, scale * element(t, wide, from + im));
            }
    }
    stages_clear(stage, count);
    aligned_free(t);
    aligned_free(place);
    return status;
}
