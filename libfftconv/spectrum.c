/* Spectra of kernels, made once and used by many calls. */
#include "call.h"

#include <stdlib.h>
#include <string.h>

struct spectrum_key spectrum_key_of(const struct fftconv_plan *plan)
{
    const struct choice *c = &plan->chosen;
    struct spectrum_key key;
    memset(&key, 0, sizeof key); /* keys are compared byte by byte */
    key.KB = plan->KB;
    key.G = plan->G;
    key.taps = plan->taps;
    key.rev_taps = plan->rev_taps;
    key.form = c->form;
    key.parts = c->parts;
    key.packing = c->packing;
    key.lanes = plan->engine->lanes;
    key.real_bytes = plan->engine->real_bytes;
    key.pattern = plan->pattern;
    for (int i = 0; i < c->parts; i++) {
        const struct transform *t = &c->part[i];
        key.part[i].M = t->M;
        key.part[i].stages = t->stages;
        key.part[i].split = t->split;
        key.part[i].depth = t->depth;
        key.part[i].stage1_outputs = t->stage1_outputs;
        for (int l = 0; l < t->stages; l++)
            key.part[i].radices[l] = (uint8_t)t->stage[l].radix;
    }
    return key;
}

/* The taps themselves in reverse, for calls of so few samples that their sum costs less than
 * a transform. */
static int reverse_kernels(struct fftconv_spectrum *s, const struct fftconv_plan *plan,
                           const fftconv_tensor *k)
{
    const int64_t kernels = size_mul(plan->KB, plan->G);
    const int64_t padded = round_up(plan->taps, plan->engine->lanes);
    s->reversed_bytes = padded * plan->engine->real_bytes;
    const int64_t bytes = size_mul(kernels, s->reversed_bytes);
    if (!(s->reversed = aligned_new(bytes)))
        return fail_memory(bytes);
    for (int64_t i = 0; i < kernels; i++) {
        const struct array taps = array_of(k, i / plan->G, i % plan->G);
        plan->engine->rows.reverse_taps(&taps, plan->taps, padded,
                                        (char *)s->reversed + i * s->reversed_bytes);
    }
    return FFTCONV_STATUS_OK;
}

static int fill_spectrum(struct fftconv_spectrum *s, const struct fftconv_plan *plan,
                         const fftconv_operands *given)
{
    const fftconv_operands o = {
        .size = sizeof o, .threads = given->threads, .k = given->k, .k_rev = given->k_rev};
    const int64_t kernels = size_mul(plan->KB, plan->G);
    const int64_t bytes = size_mul(kernels, spectra_bytes(plan));
    struct call c = {0};
    void *owned;
    int status;
    s->key = spectrum_key_of(plan);
    if (!(s->data = aligned_new(bytes)))
        return fail_memory(bytes);
    if ((plan->direct_outputs && (status = reverse_kernels(s, plan, &o.k))) ||
        (status = begin_call(&c, plan, &o, FFTCONV_DIRECTION_FORWARD, false, kernels, &owned)))
        return status;
    status = make_all_spectra(&c, s->data);
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
    status = plan->cuda ? cuda_spectrum_create(s, plan, o) : fill_spectrum(s, plan, o);
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
