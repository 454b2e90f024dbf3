/* A frequency pattern on a circle of N samples for which there are no stages, since N has a
 * prime factor above 7.  The weights of the pattern then act on the kernel beforehand,
 *
 *     k' = irfft(weights rfft(k)),   y = k' * u modulo N.
 *
 * The result is right, but no work is saved.  The weights are real, so the filter is a symmetric
 * circulant matrix: it is its own adjoint, and dk = irfft(weights rfft(dk')).  Both are done in
 * float64, by the real DFTs of rdft.c. */
#include "plan.h"

#include <stdlib.h>
#include <string.h>

struct filter {
    int64_t N;
    fftconv_rdft *rdft;
    double *weights;
};

int filter_create(struct filter **out, int64_t N, const double *weights, const char *isa)
{
    const int64_t bytes = (N / 2 + 1) * (int64_t)sizeof *weights;
    const fftconv_rdft_desc desc = {
        .size = sizeof desc, .n = N, .dtype = FFTCONV_DTYPE_FLOAT64, .isa = isa};
    struct filter *f = *out = calloc(1, sizeof *f);
    if (!f)
        return fail_memory(sizeof *f);
    f->N = N;
    if (!(f->weights = aligned_new(bytes)))
        return fail_memory(bytes);
    memcpy(f->weights, weights, (size_t)bytes);
    return fftconv_rdft_create(&f->rdft, &desc);
}

void filter_destroy(struct filter *f)
{
    if (f) {
        fftconv_rdft_destroy(f->rdft);
        aligned_free(f->weights);
    }
    free(f);
}

int filter_apply(const struct filter *f, double *row, double *bins, int threads)
{
    const int64_t count = f->N / 2 + 1;
    const fftconv_tensor rows = {
        .data = row, .dtype = FFTCONV_DTYPE_FLOAT64, .shape = {1, 1, f->N}, .stride = {0, 0, 1}};
    const fftconv_tensor spectrum = {.data = bins,
                                     .dtype = FFTCONV_DTYPE_COMPLEX128,
                                     .shape = {1, 1, count},
                                     .stride = {0, 0, 1}};
    int status = rdft_run(f->rdft, &rows, &spectrum, 1, false, threads);
    for (int64_t m = 0; !status && m < count; m++) {
        bins[2 * m] *= f->weights[m];
        bins[2 * m + 1] *= f->weights[m];
    }
    return status ? status : rdft_run(f->rdft, &rows, &spectrum, 1 / (double)f->N, true, threads);
}
