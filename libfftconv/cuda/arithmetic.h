/* The arithmetic on single numbers that the kernels share: complex numbers, powers of two, and
 * the activations with their slopes. */
#ifndef FFTCONV_CUDA_ARITHMETIC_H
#define FFTCONV_CUDA_ARITHMETIC_H

#include "machine.h"

namespace fftconv
{

DEVICE Complex operator*(Complex a, Complex b)
{
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
DEVICE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
DEVICE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
DEVICE Complex conj(Complex a) { return {a.re, -a.im}; }
DEVICE Complex turned(Complex a) { return {-a.im, a.re}; } /* i a */

/* 2^e for |e| <= 126, put together from its bits. */
DEVICE float power_of_two(int e) { return float_of_bits(static_cast<uint32_t>(e + 127) << 23); }

/* x 2^e for |e| <= 252.  Two factors are multiplied one after the other, because 2^e alone may lie
 * outside of float32's range. */
DEVICE float scaled(float x, int e) { return x * power_of_two(e / 2) * power_of_two(e - e / 2); }

/* The power of two that a row is divided by, so that its largest sample lies in [128, 256); the
 * bits of that sample are given as those of a float32. */
DEVICE int exponent_of(uint32_t bits)
{
    const int e = static_cast<int>(bits >> 23) - 127 - 7;
    return e < -120 ? -120 : e > 119 ? 119 : e;
}

/* Here and below, a type T is float or double. */
template <class T> DEVICE T gelu(T p) { return T(0.5) * p * erfc(p * T(-0.70710678118654752)); }
template <class T> DEVICE T gelu_slope(T p)
{
    return T(0.5) * erfc(p * T(-0.70710678118654752)) +
           p * T(0.39894228040143268) * exp(T(-0.5) * p * p);
}
template <class T> DEVICE T silu(T p) { return p / (1 + exp(-p)); }
template <class T> DEVICE T silu_slope(T p)
{
    const T s = 1 / (1 + exp(-p));
    return s + p * s * (1 - s);
}

enum { GELU = 1, SILU = 2 }; /* as in fftconv_activation */

/* p = act(p) */
template <class T, int RUN> DEVICE void activate(int map, T (&p)[RUN])
{
    if (map == GELU) {
        UNROLL
        for (int i = 0; i < RUN; i++)
            p[i] = gelu(p[i]);
    } else if (map == SILU) {
        UNROLL
        for (int i = 0; i < RUN; i++)
            p[i] = silu(p[i]);
    }
}

/* x = x act'(p) */
template <class T, int RUN> DEVICE void multiply_slope(int map, const T (&p)[RUN], T (&x)[RUN])
{
    if (map == GELU) {
        UNROLL
        for (int i = 0; i < RUN; i++)
            x[i] *= gelu_slope(p[i]);
    } else if (map == SILU) {
        UNROLL
        for (int i = 0; i < RUN; i++)
            x[i] *= silu_slope(p[i]);
    }
}

} // namespace fftconv
#endif
