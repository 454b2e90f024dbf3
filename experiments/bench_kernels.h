/* The loops of bench_cpu that depend on the instruction set: bench_kernels.c
 * compiled once for each, as the library's engine is. */
#ifndef BENCH_KERNELS_H
#define BENCH_KERNELS_H

#include <stdint.h>

struct kernels {
    const char *isa;
    int vector_bytes;
    /* Arithmetic in registers; each returns the real flops it did. */
    double (*add)(int64_t rounds);
    double (*fma)(int64_t rounds);   /* a product and a sum where there is no FMA */
    double (*mixed)(int64_t rounds); /* as many of one as of the other */
    /* `repeats` passes over `count` floats, a multiple of 256, 64-byte aligned. */
    void (*copy)(float *to, const float *from, int64_t count, int64_t repeats);
    void (*triad)(float *to, const float *a, const float *b, int64_t count, int64_t repeats);
    /* What a convolution by FFTW does besides: x *= k, interleaved complex; two
     * rows to one complex row and back. */
    void (*multiply)(float *x, const float *k, int64_t points);
    void (*join)(float *z, const float *re, const float *im, int64_t count);
    void (*split)(const float *z, float *re, float *im, int64_t count);
};

#endif
