/* The loops of bench_cpu that depend on the instruction set.  bench_kernels.c is compiled once
 * for each instruction set, like the library's engine. */
#ifndef BENCH_KERNELS_H
#define BENCH_KERNELS_H

#include <stdint.h>

struct kernels {
    const char *isa;
    int vector_bytes;
    /* Arithmetic in registers: additions, fused multiply-adds (without FMA instructions, a
     * product and a sum), or as many of the one as of the other.  Each returns the number of
     * real flops. */
    double (*add)(int64_t rounds);
    double (*fma)(int64_t rounds);
    double (*mixed)(int64_t rounds);
    /* `repeats` passes over arrays of `count` floats, aligned to 64 bytes; `count` is a multiple
     * of 256.  copy: to = from; triad: to = a + 3 b. */
    void (*copy)(float *to, const float *from, int64_t count, int64_t repeats);
    void (*triad)(float *to, const float *a, const float *b, int64_t count, int64_t repeats);
    /* The work of a convolution around FFTW: x *= k for interleaved complex numbers; two real
     * rows joined to one complex row, and split again. */
    void (*multiply)(float *x, const float *k, int64_t points);
    void (*join)(float *z, const float *re, const float *im, int64_t count);
    void (*split)(const float *z, float *re, float *im, int64_t count);
};

#endif
