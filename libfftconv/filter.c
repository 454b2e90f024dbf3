/* A frequency pattern on a circle of N samples for which there are no stages, since N has a
 * prime factor above 7.  The weights of the pattern then act on the kernel beforehand,
 *
 *     k' = irfft(weights rfft(k)),   y = k' * u modulo N.
 *
 * The result is right, but no work is saved.  The weights are real, so the filter is a symmetric
 * circulant matrix: it is its own adjoint, and dk = irfft(weights rfft(dk')).  It is the circular
 * convolution with w = irfft(weights), in float64; only w itself needs a DFT of N points. */
#include "plan.h"

#include <stdlib.h>

struct filter {
    int64_t N;
    fftconv_plan *plan;         /* of one row of N samples on the circle of N */
    fftconv_spectrum *spectrum; /* of w */
};

/* w = irfft(weights), N samples. */
static int make_taps(int64_t N, const double *weights, const char *isa, double *w)
{
    const fftconv_rdft_desc desc = {
        .size = sizeof desc, .n = N, .dtype = FFTCONV_DTYPE_FLOAT64, .isa = isa};
    const int64_t count = N / 2 + 1, bytes = 2 * count * (int64_t)sizeof *weights;
    fftconv_rdft *rdft;
    int status = fftconv_rdft_create(&rdft, &desc);
    if (status)
        return status;
    double *bins = aligned_new(bytes);
    if (bins) {
        for (int64_t m = 0; m < count; m++)
            bins[2 * m] = weights[m], bins[2 * m + 1] = 0;
        const fftconv_tensor from = contiguous_row(bins, FFTCONV_DTYPE_COMPLEX128, count);
        const fftconv_tensor to = contiguous_row(w, FFTCONV_DTYPE_FLOAT64, N);
        status = fftconv_rdft_inverse(rdft, &from, &to, 1 / (double)N);
    } else
        status = fail_memory(bytes);
    aligned_free(bins);
    fftconv_rdft_destroy(rdft);
    return status;
}

int filter_create(struct filter **out, int64_t N, const double *weights, const char *isa)
{
    const int64_t bytes = N * (int64_t)sizeof(double);
    const fftconv_plan_desc desc = {.size = sizeof desc,
                                    .batch = 1,
                                    .channels = 1,
                                    .length = N,
                                    .k_length = N,
                                    .fft_size = N,
                                    .mode = FFTCONV_MODE_CIRCULAR,
                                    .dtype = FFTCONV_DTYPE_FLOAT64,
                                    .isa = isa};
    struct filter *f = *out = calloc(1, sizeof *f);
    if (!f)
        return fail_memory(sizeof *f);
    f->N = N;
    double *w = aligned_new(bytes);
    if (!w)
        return fail_memory(bytes);
    const fftconv_operands kernel = {.size = sizeof kernel,
                                     .k = contiguous_row(w, FFTCONV_DTYPE_FLOAT64, N)};
    int status = make_taps(N, weights, isa, w);
    if (!status && !(status = fftconv_plan_create(&f->plan, &desc)))
        status = fftconv_spectrum_create(&f->spectrum, f->plan, &kernel);
    aligned_free(w);
    return status;
}

void filter_destroy(struct filter *f)
{
    if (f) {
        fftconv_spectrum_destroy(f->spectrum);
        fftconv_plan_destroy(f->plan);
    }
    free(f);
}

int filter_apply(const struct filter *f, double *row, int threads)
{
    const fftconv_tensor in_place = contiguous_row(row, FFTCONV_DTYPE_FLOAT64, f->N);
    const fftconv_operands o = {.size = sizeof o, .threads = threads, .u = in_place, .y = in_place};
    return fftconv_forward(f->plan, f->spectrum, &o);
}
