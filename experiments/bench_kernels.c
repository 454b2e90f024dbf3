/* The kernels of bench_kernels.h.  The build compiles this file once for each instruction set,
 * with BENCH_ISA and BENCH_VECTOR_BYTES defined. */
#include "bench_kernels.h"

#include <string.h>

typedef float vec __attribute__((vector_size(BENCH_VECTOR_BYTES)));
enum { LANES = BENCH_VECTOR_BYTES / 4 };

/* ---- Peaks ---------------------------------------------------------------------- */

/* Fourteen independent chains hide the latency of the arithmetic units, and fit with two
 * constants in 16 registers. */
#define CHAINS(DO) \
    DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13)
enum { COUNT = 14 };

/* The operands and the result are volatile, so that the compiler can neither precompute nor
 * discard the arithmetic. */
#define START(i) vec x##i = a + (float)i;
#define SUM(i) +x##i
#define ADD(i) x##i = x##i + b;
#define FMA(i) x##i = x##i * a + b;
#define EITHER(i) x##i = (i) % 2 ? x##i + b : x##i * a + b;

#define PEAK(name, STEP, flops) \
    static double name(int64_t rounds) \
    { \
        static volatile float one = 1.0f, tiny = 0x1p-40f; \
        static volatile vec sink; \
        const vec a = (vec){0} + one, b = (vec){0} + tiny; \
        CHAINS(START) \
        for (int64_t n = 0; n < rounds; n++) { \
            CHAINS(STEP) \
        } \
        sink = CHAINS(SUM); \
        (void)sink; \
        return (double)rounds * COUNT * LANES * (flops); \
    }

PEAK(add, ADD, 1)
PEAK(fma_, FMA, 2)
PEAK(mixed, EITHER, 1.5)

/* ---- Bandwidth ------------------------------------------------------------------ */

enum { UNROLL = 4 };

static void copy(float *to, const float *from, int64_t count, int64_t repeats)
{
    for (int64_t r = 0; r < repeats; r++) {
        for (int64_t n = 0; n < count; n += UNROLL * LANES)
            for (int i = 0; i < UNROLL; i++)
                *(vec *)(to + n + i * LANES) = *(const vec *)(from + n + i * LANES);
        __asm__ volatile("" ::: "memory");
    }
}

static void triad(float *to, const float *a, const float *b, int64_t count, int64_t repeats)
{
    static volatile float three = 3.0f;
    const vec s = (vec){0} + three;
    for (int64_t r = 0; r < repeats; r++) {
        for (int64_t n = 0; n < count; n += UNROLL * LANES)
            for (int i = 0; i < UNROLL; i++)
                *(vec *)(to + n + i * LANES) = *(const vec *)(a + n + i * LANES) +
                                               s * *(const vec *)(b + n + i * LANES);
        __asm__ volatile("" ::: "memory");
    }
}

/* ---- Around FFTW ---------------------------------------------------------------- */

/* Plain loops, since the compiler vectorises all three. */

static void multiply(float *restrict x, const float *restrict k, int64_t points)
{
    for (int64_t m = 0; m < points; m++) {
        const float re = x[2 * m], im = x[2 * m + 1];
        x[2 * m] = re * k[2 * m] - im * k[2 * m + 1];
        x[2 * m + 1] = re * k[2 * m + 1] + im * k[2 * m];
    }
}

static void join(float *restrict z, const float *restrict re, const float *restrict im,
                 int64_t count)
{
    for (int64_t n = 0; n < count; n++) {
        z[2 * n] = re[n];
        z[2 * n + 1] = im[n];
    }
}

static void split(const float *restrict z, float *restrict re, float *restrict im, int64_t count)
{
    for (int64_t n = 0; n < count; n++) {
        re[n] = z[2 * n];
        im[n] = z[2 * n + 1];
    }
}

#define TABLE_(isa) bench_kernels_##isa
#define TABLE(isa) TABLE_(isa)
#define NAME_(isa) #isa
#define NAME(isa) NAME_(isa)

extern const struct kernels TABLE(BENCH_ISA);
const struct kernels TABLE(BENCH_ISA) = {
    NAME(BENCH_ISA), BENCH_VECTOR_BYTES, add, fma_, mixed, copy, triad, multiply, join, split,
};
