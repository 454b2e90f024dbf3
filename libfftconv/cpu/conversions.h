/* Conversions between REAL and the element types of rows.  Included once for each precision;
 * what does not depend on it is defined the first time. */
#ifndef FFTCONV_CONVERSIONS
#define FFTCONV_CONVERSIONS
static inline float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}
#ifdef __F16C__
#include <immintrin.h>
static inline float half_to_float(uint16_t h) { return _cvtsh_ss(h); }
static inline uint16_t float_to_half(float f) { return _cvtss_sh(f, 0); }
#else
/* The exponents of a float16 and of a float are biased by 15 and by 127.  A subnormal number's
 * bits m stand for m 2^-24, which is (2^-14 + m 2^-24) - 2^-14: no float on the way is subnormal,
 * since those count as zeros here. */
static inline float half_to_float(uint16_t h)
{
    uint32_t magnitude = h & 0x7fffu;
    uint32_t tiny = bits_of(float_of(0x38800000u | (magnitude & 0x3ffu) << 13) - 0x1p-14f);
    uint32_t normal = (magnitude << 13) + (112u << 23);
    uint32_t bits = magnitude >= 0x7c00u ? 0x7f800000u | magnitude << 13
                    : magnitude < 0x400u ? tiny
                                         : normal;
    return float_of(bits | (uint32_t)(h & 0x8000u) << 16);
}
/* Rounds to the nearest number, and halfway between two to the even one.  Below 2^-14 the
 * results are multiples of 2^-24, and so are the floats from 0.5 on: adding 0.5 rounds. */
static inline uint16_t float_to_half(float f)
{
    uint32_t x = bits_of(f), a = x & 0x7fffffffu;
    uint32_t special = a > 0x7f800000u ? 0x7e00u : 0x7c00u;
    uint32_t tiny = bits_of(float_of(a) + 0.5f) - bits_of(0.5f);
    uint32_t normal = (a - (112u << 23) + 0xfffu + (a >> 13 & 1u)) >> 13;
    uint32_t h = a >= 0x47800000u ? special : a < 0x38800000u ? tiny : normal;
    return (uint16_t)(h | (x >> 16 & 0x8000u));
}
#endif
/* Rows of float16.  Compilers do not vectorize the conversion of one number, although there
 * is an instruction for eight. */
static inline void halves_to_floats(const uint16_t *from, int64_t count, float *to)
{
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
    for (; i < count; i++)
        to[i] = half_to_float(from[i]);
}
static inline void floats_to_halves(const float *from, int64_t count, uint16_t *to)
{
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
    for (; i < count; i++)
        to[i] = float_to_half(from[i]);
}
static inline float bfloat_to_float(uint16_t b) { return float_of((uint32_t)b << 16); }
static inline uint16_t float_to_bfloat(float f)
{
    uint32_t x = bits_of(f);
    uint32_t rounded = (x + 0x7fffu + (x >> 16 & 1u)) >> 16;
    return (uint16_t)((x & 0x7fffffffu) > 0x7f800000u ? x >> 16 | 0x40u : rounded);
}

/* Each real dtype: its C type, and the conversions to REAL and from REAL. */
#define ROW_TYPES(row) \
    row(FFTCONV_DTYPE_FLOAT64, double, (REAL), (double)) \
        row(FFTCONV_DTYPE_FLOAT32, float, (REAL), (float)) \
            row(FFTCONV_DTYPE_FLOAT16, uint16_t, half_to_float, float_to_half) \
                row(FFTCONV_DTYPE_BFLOAT16, uint16_t, bfloat_to_float, float_to_bfloat)

/* Each complex dtype, and the C type of its real and imaginary part. */
#define COMPLEX_TYPES(row) row(FFTCONV_DTYPE_COMPLEX128, double) row(FFTCONV_DTYPE_COMPLEX64, float)

/* So many REALs of a row are converted at a time: they stay in the first cache. */
enum { CHUNK = 512 };
#endif
