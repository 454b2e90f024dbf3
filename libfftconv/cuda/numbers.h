/* Numbers of 16 bits on a host, as a GPU makes them: for the constants of the stages (tables.h),
 * and for the machine on which the tests run the kernels. */
#ifndef FFTCONV_CUDA_NUMBERS_H
#define FFTCONV_CUDA_NUMBERS_H

#include <stdint.h>
#include <string.h>

#define DEVICE inline

namespace fftconv
{

inline uint32_t float_bits(float x)
{
    uint32_t b;
    memcpy(&b, &x, 4);
    return b;
}

inline float float_of_bits(uint32_t b)
{
    float x;
    memcpy(&x, &b, 4);
    return x;
}

/* To nearest, ties to even; NaN stays. */
inline uint16_t half_bits(float x)
{
    const uint32_t b = float_bits(x), sign = b >> 16 & 0x8000, m = b & 0x7fffffff;
    if (m > 0x7f800000)
        return static_cast<uint16_t>(sign | 0x7e00);
    if (m >= 0x47800000)
        return static_cast<uint16_t>(sign | 0x7c00);
    if (m < 0x38800000) /* subnormal: units of 2^-24, by the rounding of an addition */
        return static_cast<uint16_t>(sign | (float_bits(float_of_bits(m) + 0.5f) - 0x3f000000));
    return static_cast<uint16_t>(sign | ((m - 0x38000000 + 0xfff + (m >> 13 & 1)) >> 13));
}

inline float half_value(uint16_t h)
{
    const uint32_t sign = (h & 0x8000u) << 16, e = h >> 10 & 31, m = h & 0x3ff;
    if (e == 0)
        return (sign ? -1.0f : 1.0f) * static_cast<float>(m) * 0x1p-24f;
    return float_of_bits(sign | (e == 31 ? 0x7f800000 : (e + 112) << 23) | m << 13);
}

inline uint16_t bfloat_bits(float x)
{
    const uint32_t b = float_bits(x);
    if ((b & 0x7fffffff) > 0x7f800000)
        return static_cast<uint16_t>(b >> 16 | 0x40);
    return static_cast<uint16_t>((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

inline float bfloat_value(uint16_t h) { return float_of_bits(static_cast<uint32_t>(h) << 16); }
inline uint32_t half2_of(float a, float b)
{
    return half_bits(a) | static_cast<uint32_t>(half_bits(b)) << 16;
}
inline uint32_t bfloat2_of(float a, float b)
{
    return bfloat_bits(a) | static_cast<uint32_t>(bfloat_bits(b)) << 16;
}
inline float half_low(uint32_t p) { return half_value(static_cast<uint16_t>(p)); }
inline float half_high(uint32_t p) { return half_value(static_cast<uint16_t>(p >> 16)); }
inline uint32_t half2_times(uint32_t p, float x)
{
    x = half_value(half_bits(x));
    return half2_of(half_low(p) * x, half_high(p) * x);
}
inline uint32_t low_halves(uint32_t a, uint32_t b) { return (a & 0xffff) | b << 16; }
inline uint32_t high_halves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000); }

} // namespace fftconv
#endif
