/* The machine the kernels are written for: the one place that knows the hardware.
 *
 * A kernel is a sequence of phases.  phase(f) calls f(warp) for each warp of a
 * block, then all of them meet at a barrier.  Inside a phase, EACH_LANE(l) runs
 * its body for every lane of the warp, and what a lane keeps from one such body
 * to the next is a Lanes<T>; what it keeps from one phase to the next, a
 * Warps<Lanes<T>>.  Matrix products and exchanges between lanes stand outside of
 * EACH_LANE: they are the warp's.
 *
 * Two bodies.  machine_device.h is CUDA: a lane is a thread, Lanes<T> one T, and
 * the loops are gone.  machine_host.h runs the same source as C++: lanes and
 * warps are loops, warps go in another order in every phase, and shared memory
 * keeps who touched what, so that a race is an error by rule and not by luck. */
#ifndef FFTCONV_CUDA_MACHINE_H
#define FFTCONV_CUDA_MACHINE_H

#include <stdint.h>

namespace fftconv
{

enum { LANES = 32 };

struct alignas(8) Complex { /* one access */
    float re, im;
};

/* Numbers moved at once, 16 bytes at most. */
template <class T, int COUNT> struct alignas(COUNT * sizeof(T) < 16 ? COUNT * sizeof(T) : 16) Pack {
    T at[COUNT];
};

/* Arithmetic of the stages: float16 with sums in float32, or float32.  A Pair is
 * two neighbours along the summed index of a product, a Point a complex number
 * at rest. */
struct Half {
    enum { RUN = 8 };              /* samples in 16 bytes of its rows */
    typedef Pack<uint32_t, 4> Run; /* ... float16 or bfloat16 */
    typedef uint32_t Pair;
    typedef uint32_t Point;
};

struct Single {
    enum { RUN = 4 };
    typedef Pack<float, 4> Run;
    struct Pair {
        float at[2];
    };
    typedef Complex Point;
};

/* Of lane l = 4 g + q (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
 *     A (16, 16): pairs (g, 2q), (g + 8, 2q), (g, 2q + 8), (g + 8, 2q + 8)
 *     B (16, 8):  pairs (2q, g), (2q + 8, g)
 *     C (16, 8):  floats (g, 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1)
 * so C is half of an A, and its transpose half of two Bs: products chain without
 * an exchange between lanes. */
template <class Arith> struct alignas(16) FragmentA {
    typename Arith::Pair at[4];
};
template <class Arith> struct alignas(2 * sizeof(typename Arith::Pair)) FragmentB {
    typename Arith::Pair at[2];
};
struct FragmentC {
    float at[4];
};

} // namespace fftconv

#ifdef __CUDACC__
#include "machine_device.h"
#else
#include "machine_host.h"
#endif

namespace fftconv
{

template <class Arith> struct Ops;

template <> struct Ops<Half> {
    typedef uint32_t T;
    DEVICE static T pair(float a, float b) { return half2_of(a, b); }
    DEVICE static T times(T p, float power) { return half2_times(p, power); }
    DEVICE static T point(float re, float im) { return half2_of(re, im); }
    DEVICE static Complex complex(T p) { return {half_low(p), half_high(p)}; }
    DEVICE static T reals(T a, T b) { return low_halves(a, b); }
    DEVICE static T imaginaries(T a, T b) { return high_halves(a, b); }
    DEVICE static T held(float x) { return float_bits(x); } /* a number in a point's place */
    DEVICE static float number(T p) { return float_of_bits(p); }
};

template <> struct Ops<Single> {
    DEVICE static Single::Pair pair(float a, float b) { return {{a, b}}; }
    DEVICE static Single::Pair times(Single::Pair p, float x)
    {
        return {{p.at[0] * x, p.at[1] * x}};
    }
    DEVICE static Complex point(float re, float im) { return {re, im}; }
    DEVICE static Complex complex(Complex p) { return p; }
    DEVICE static Single::Pair reals(Complex a, Complex b) { return {{a.re, b.re}}; }
    DEVICE static Single::Pair imaginaries(Complex a, Complex b) { return {{a.im, b.im}}; }
    DEVICE static Complex held(float x) { return {x, 0}; }
    DEVICE static float number(Complex p) { return p.re; }
};

} // namespace fftconv
#endif
