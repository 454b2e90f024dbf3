/* Kernels to spectra, and the gradients of kernels back to taps. */
#include "call.h"

#include <math.h>

static struct array element_of(const struct array *a, int64_t n)
{
    struct array one = *a;
    one.data = (const char *)a->data + n * a->stride * dtype_size(a->dtype);
    return one;
}

struct scalar get_element(const struct fftconv_plan *plan, const struct array *a, int64_t n)
{
    const struct array one = element_of(a, n);
    return plan->engine->rows.load_scalar(&one);
}

void set_element(const struct fftconv_plan *plan, const struct array *a, int64_t n,
                 struct scalar value)
{
    const struct array one = element_of(a, n);
    plan->engine->rows.store_scalar(&one, value);
}

struct taps taps_of(const struct fftconv_plan *plan, const fftconv_tensor *k,
                    const fftconv_tensor *k_rev, int64_t b, int64_t g)
{
    struct taps taps = {.count = plan->taps,
                        .padded_length = is_direct(plan) ? direct_taps(plan)
                                                         : plan->chosen.padded_length,
                        .sign = plan->chosen.form == FFTCONV_FORM_RIGHT_ANGLE ? -1 : 1};
    if (k)
        taps.k = array_of(k, b, g);
    if (plan->rev_taps && k_rev) {
        taps.rev_count = plan->rev_taps;
        taps.k_rev = array_of(k_rev, b, g);
    }
    return taps;
}

/* A pattern on a circle whose length has no stages acts on the kernel's own taps: from k to
 * the fft_size taps of w->taps; or back, from those to the first Lk of the gradient.  Both
 * ways it is the same filter, which is its own adjoint (filter.c). */
static int filter_taps(const struct worker *w, const struct array *k, bool back)
{
    const struct fftconv_plan *plan = w->plan;
    const struct array own = own_row(plan, w->taps, 0);
    const int64_t given = back ? plan->N : plan->Lk, wanted = back ? plan->Lk : plan->N;
    const struct array *from = back ? &own : k, *to = back ? k : &own;
    double *row = (double *)w->filter;
    for (int64_t n = 0; n < plan->N; n++)
        row[n] = n < given ? get_element(plan, from, n).re : 0;
    const int status = filter_apply(plan->filter, row, w->inside);
    for (int64_t n = 0; !status && n < wanted; n++)
        set_element(plan, to, n, (struct scalar){row[n], 0});
    return status;
}

int taps_to_spectra(const struct worker *w, const struct taps *taps, int *exponent, void *S)
{
    const struct fftconv_plan *plan = w->plan;
    struct source source = {.packing = plan->chosen.packing, .to = taps->count, .x = taps->k};
    int status = FFTCONV_STATUS_OK;
    if (plan->filter) {
        status = filter_taps(w, &taps->k, false);
        source.x = own_row(plan, w->taps, 0);
    } else if (taps->k_rev.data) {
        plan->engine->rows.place_taps(taps, w->taps);
        source.to = taps->padded_length;
        source.x = own_row(plan, w->taps, 0);
    }
    if (!status)
        kernel_to_spectra(w, &source, exponent, S);
    return status;
}

/* Taps that never act, because the rows are too short, have a gradient of zero. */
static void zero_elements(const struct fftconv_plan *plan, const struct array *a, int64_t from,
                          int64_t to)
{
    for (int64_t n = from; a->data && n < to; n++)
        set_element(plan, a, n, (struct scalar){0, 0});
}

/* The taps' gradients from the direct form's sums, of which that of lag 0 counts twice. */
static void sums_to_taps(const struct fftconv_plan *plan, const struct taps *taps, int exponent,
                         const double *sums)
{
    const double *now = sums + plan->past_taps;
    for (int64_t n = 0; taps->k.data && n < taps->count; n++)
        set_element(plan, &taps->k, n, (struct scalar){ldexp(now[-n], exponent), 0});
    for (int64_t n = 0; taps->k_rev.data && n < taps->rev_count; n++)
        set_element(plan, &taps->k_rev, n, (struct scalar){ldexp(now[n], exponent), 0});
}

int spectra_to_taps(const struct worker *w, const struct taps *taps, int exponent, void *S)
{
    const struct fftconv_plan *plan = w->plan;
    struct sink sink = {
        .packing = plan->chosen.packing, .to = taps->count, .y = taps->k, .exponent = exponent};
    int status = FFTCONV_STATUS_OK;
    if (taps->k_rev.data)
        sink.to = taps->padded_length;
    if (taps->k_rev.data || plan->filter)
        sink.y = own_row(plan, w->taps, 0);
    if (is_direct(plan)) {
        sums_to_taps(plan, taps, exponent, S);
    } else {
        spectra_to_row(w, S, &sink, NULL);
        if (taps->k_rev.data)
            plan->engine->rows.take_taps(taps, w->taps);
    }
    if (plan->filter && taps->k.data)
        status = filter_taps(w, &taps->k, true);
    zero_elements(plan, &taps->k, plan->taps, plan->Lk);
    zero_elements(plan, &taps->k_rev, plan->rev_taps, plan->Lk_rev);
    return status;
}

int make_spectrum(const struct worker *w, const fftconv_operands *o, int64_t b, int64_t g,
                  void *spectrum)
{
    const struct taps taps = taps_of(w->plan, &o->k, &o->k_rev, b, g);
    int *exponent = exponent_of(w->plan, spectrum);
    const int status = taps_to_spectra(w, &taps, exponent, spectrum);
    if (status)
        return status;
    if (*exponent == ALL_ZEROS)
        *exponent = 0;
    weigh_row(w->plan, spectrum);
    return FFTCONV_STATUS_OK;
}

struct spectra_job {
    const struct call *call;
    char *to;
};

static int spectrum_task(void *context, int64_t i, int index)
{
    const struct spectra_job *job = context;
    const struct call *c = job->call;
    const struct worker w = worker_of(c, index);
    return make_spectrum(&w, c->o, i / c->plan->G, i % c->plan->G,
                         job->to + i * c->layout.spectra_bytes);
}

int make_all_spectra(const struct call *c, char *to)
{
    struct spectra_job job = {c, to};
    return parallel_for(c->layout.threads, c->plan->KB * c->plan->G, spectrum_task, &job);
}
