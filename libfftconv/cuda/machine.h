/* The machine that the kernels are written for: all that they know of the hardware.
 *
 * A kernel is a sequence of phases.  phase(f) calls f(warp) once for each warp of a block; after
 * it all warps wait for each other.  Inside a phase, EACH_LANE(l) runs its body for every lane l
 * of the warp.  What a lane keeps from one such body to the next is a Lanes<T>, and what it keeps
 * from one phase to the next is a Warps<Lanes<T>>.  Matrix products and exchanges between lanes
 * are operations of a whole warp, so they stand outside of EACH_LANE.
 *
 * There are two machines.  On a GPU (machine_device.h) a lane is a thread, a Lanes<T> is one T,
 * and there are no loops.  In the tests (tests/cuda/machine_host.h) the same source runs as C++
 * on a CPU: lanes and warps are loops, the warps run in another order in every phase, and all memory
 * records which lane touched it, so that every race is reported, whether or not it would have
 * changed a result.  So kernels touch global memory through load_constant, load_stream, load_global
 * and store_global alone. */
#ifndef FFTCONV_CUDA_MACHINE_H
#define FFTCONV_CUDA_MACHINE_H

#include <stdint.h>

namespace fftconv
{

enum { LANES = 32 };

struct alignas(8) Complex { /* moved in one access */
    float re, im;
};

/* COUNT numbers that move together, in accesses of at most 16 bytes. */
template <class T, int COUNT> struct alignas(COUNT * sizeof(T) < 16 ? COUNT * sizeof(T) : 16) Pack {
    T at[COUNT];
};

/* The two arithmetics that the stages are written for: float16 with sums in float32, and float32.
 * A Point is a complex number at rest; a Pair is two numbers that are neighbours along the summed
 * index of a matrix product; a Run is RUN samples of a row, 16 bytes of them. */
struct Half {
    enum { RUN = 8 };
    typedef Pack<uint32_t, 4> Run; /* of float16 or bfloat16 */
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

/* How the lanes of a warp hold matrices (PTX ISA, "Matrix Fragments for mma.m16n8k16").  Lane
 * l = 4 g + q holds, by row and column of the matrix,
 *     of A (16 x 16) the pairs that begin at (g, 2q), (g + 8, 2q), (g, 2q + 8), (g + 8, 2q + 8);
 *     of B (16 x 8)  the pairs that begin at (2q, g), (2q + 8, g), going down the column;
 *     of C (16 x 8)  the floats (g, 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1).
 * So a C has the form of half of an A, and its transpose that of half of two Bs: one product
 * can take the result of another without an exchange between lanes. */
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
#include "numbers.h" /* a host needs no more, to make the constants of the stages */
#endif

namespace fftconv
{

/* What the stages do with pairs and points, in each arithmetic. */
template <class Arith> struct Ops;

template <> struct Ops<Half> {
    typedef uint32_t T;
    DEVICE static T pair(float a, float b) { return half2_of(a, b); }
    DEVICE static T times(T p, float power) { return half2_times(p, power); }
    DEVICE static T point(float re, float im) { return half2_of(re, im); }
    DEVICE static Complex complex(T p) { return {half_low(p), half_high(p)}; }
    DEVICE static T reals(T a, T b) { return low_halves(a, b); }
    DEVICE static T imaginaries(T a, T b) { return high_halves(a, b); }
    /* A real number, kept where a point belongs. */
    DEVICE static T held(float x) { return float_bits(x); }
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
