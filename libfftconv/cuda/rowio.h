/* Reads and writes of the caller's rows, which may have any stride and any of the types that a
 * GPU takes.  A lane takes RUN neighbouring elements at a time, and where these are contiguous
 * and aligned they move in one access of 16 bytes. */
#ifndef FFTCONV_CUDA_ROWIO_H
#define FFTCONV_CUDA_ROWIO_H

#include "arguments.h"
#include "arithmetic.h"

namespace fftconv
{

/* The types as fftconv_dtype numbers them; any other is bfloat16. */
enum Type { FLOAT64 = 1, FLOAT32 = 2, FLOAT16 = 3 };

struct Row {
    char *data;
    int64_t stride;
    int type;
};

/* Only kernels whose arithmetic is in double are ever given float64. */
template <class T> DEVICE bool is_wide(int type) { return sizeof(T) == 8 && type == FLOAT64; }

template <class T> DEVICE int size_of(int type)
{
    return is_wide<T>(type) ? 8 : type == FLOAT32 ? 4 : 2;
}

/* Values that follow from the launch's arguments alone are computed where they are needed.  If the
 * compiler computed them once, at the kernel's beginning, they would take registers that every
 * phase needs; opaque() keeps it from that. */
DEVICE bool is_given(const Operand &o) { return opaque(reinterpret_cast<int64_t>(o.data)) != 0; }

template <class T = float> DEVICE Row row_of(const Operand &o, int64_t b, int64_t h)
{
    const int type = static_cast<int>(opaque(o.type));
    return {static_cast<char *>(o.data) + (b * o.stride[0] + h * o.stride[1]) * size_of<T>(type),
            o.stride[2], type};
}

DEVICE float value_of(uint16_t bits, int type)
{
    return type == FLOAT16 ? half_value(bits) : bfloat_value(bits);
}

DEVICE uint16_t bits_of(float x, int type)
{
    return type == FLOAT16 ? half_bits(x) : bfloat_bits(x);
}

template <class T = float> DEVICE T element(const Row &r, int64_t n)
{
    if (is_wide<T>(r.type))
        return static_cast<T>(load_global(reinterpret_cast<const double *>(r.data) + n * r.stride));
    if (r.type == FLOAT32)
        return load_global(reinterpret_cast<const float *>(r.data) + n * r.stride);
    return value_of(load_global(reinterpret_cast<const uint16_t *>(r.data) + n * r.stride), r.type);
}

template <class T> DEVICE void set_element(const Row &r, int64_t n, T x)
{
    if (is_wide<T>(r.type))
        store_global(reinterpret_cast<double *>(r.data) + n * r.stride, static_cast<double>(x));
    else if (r.type == FLOAT32)
        store_global(reinterpret_cast<float *>(r.data) + n * r.stride, static_cast<float>(x));
    else
        store_global(reinterpret_cast<uint16_t *>(r.data) + n * r.stride,
                     bits_of(static_cast<float>(x), r.type));
}

template <class T = float> DEVICE T scalar_of(const Operand &o, int64_t b, int64_t h)
{
    return element<T>(row_of<T>(o, b, h), 0);
}

/* RUN elements of 16 bits, two in each word. */
template <int RUN> using Sixteens = Pack<uint32_t, RUN / 2>;

/* May elements n ... n + RUN - 1 be moved in aligned accesses of 16 bytes? */
template <class T, int RUN> DEVICE bool is_quick(const Row &r, int n, int from, int to)
{
    const int64_t at = static_cast<int64_t>(n) * size_of<T>(r.type);
    return r.stride == 1 && n >= from && n + RUN <= to &&
           (reinterpret_cast<uintptr_t>(r.data) + at) % 16 == 0;
}

/* The values of elements in the form in which they stand in memory, */
template <class T, int RUN> DEVICE void values_of(const Sixteens<RUN> &v, int type, T (&x)[RUN])
{
    if (type == FLOAT16) {
        UNROLL
        for (int i = 0; i < RUN; i++)
            x[i] = i % 2 ? half_high(v.at[i / 2]) : half_low(v.at[i / 2]);
    } else {
        UNROLL
        for (int i = 0; i < RUN; i++)
            x[i] = float_of_bits(i % 2 ? v.at[i / 2] & 0xffff0000u : v.at[i / 2] << 16);
    }
}
template <class S, class T, int RUN> DEVICE void values_of(const Pack<S, RUN> &v, int, T (&x)[RUN])
{
    UNROLL
    for (int i = 0; i < RUN; i++)
        x[i] = static_cast<T>(v.at[i]);
}

/* ... and elements in that form of values. */
template <class T, int RUN> DEVICE Sixteens<RUN> words_of(const T (&x)[RUN], int type)
{
    Sixteens<RUN> v;
    UNROLL
    for (int i = 0; i < RUN; i += 2) {
        const float a = static_cast<float>(x[i]), b = static_cast<float>(x[i + 1]);
        v.at[i / 2] = type == FLOAT16 ? half2_of(a, b) : bfloat2_of(a, b);
    }
    return v;
}
template <class S, class T, int RUN> DEVICE Pack<S, RUN> pack_of(const T (&x)[RUN])
{
    Pack<S, RUN> v;
    UNROLL
    for (int i = 0; i < RUN; i++)
        v.at[i] = static_cast<S>(x[i]);
    return v;
}

/* May all of a row's elements be loaded by load_whole?  They may where each run is aligned, lies
 * as a whole inside of [from, to) or outside, and has elements of the type that this arithmetic
 * takes 16 bytes of at once. */
template <class Arith> DEVICE bool is_whole(const Row &r, int from, int to)
{
    return (r.type == FLOAT32) == (sizeof(typename Arith::Run) == Arith::RUN * 4) &&
           r.stride == 1 && reinterpret_cast<uintptr_t>(r.data) % 16 == 0 &&
           (from | to) % Arith::RUN == 0;
}

/* Elements n ... n + RUN - 1 of such a row, or zeros outside of [from, to).  The values are not
 * used here, so the load need not be waited for. */
template <class Arith> DEVICE typename Arith::Run load_whole(const Row &r, int n, int from, int to)
{
    typedef typename Arith::Run Run;
    Run v = {};
    if (n >= from && n < to)
        v = load_stream(reinterpret_cast<const Run *>(r.data + n * (sizeof(Run) / Arith::RUN)));
    return v;
}

/* x = elements n ... n + RUN - 1, with zeros for those outside of [from, to). */
template <class T, int RUN> DEVICE void read_run(const Row &r, int n, int from, int to, T (&x)[RUN])
{
    const bool quick = is_quick<T, RUN>(r, n, from, to);
    if (is_wide<T>(r.type)) {
        if (quick)
            values_of(load_stream(reinterpret_cast<const Pack<double, RUN> *>(r.data + n * 8ll)),
                      r.type, x);
        else
            UNROLL
        for (int i = 0; i < RUN; i++)
            x[i] = n + i >= from && n + i < to ? element<T>(r, n + i) : T(0);
    } else if (r.type == FLOAT32) {
        if (quick)
            values_of(load_stream(reinterpret_cast<const Pack<float, RUN> *>(r.data + n * 4ll)),
                      r.type, x);
        else
            UNROLL
        for (int i = 0; i < RUN; i++)
            x[i] = n + i >= from && n + i < to
                       ? load_global(reinterpret_cast<const float *>(r.data) + (n + i) * r.stride)
                       : 0.0f;
    } else if (quick) {
        values_of(load_stream(reinterpret_cast<const Sixteens<RUN> *>(r.data + n * 2ll)), r.type,
                  x);
    } else {
        uint32_t v[RUN];
        UNROLL
        for (int i = 0; i < RUN; i++)
            v[i] = n + i >= from && n + i < to
                       ? load_global(reinterpret_cast<const uint16_t *>(r.data) +
                                     (n + i) * r.stride)
                       : 0u;
        Sixteens<RUN> words;
        UNROLL
        for (int i = 0; i < RUN; i += 2)
            words.at[i / 2] = v[i] | v[i + 1] << 16;
        values_of(words, r.type, x);
    }
}

/* Writes x to elements n ... n + RUN - 1, but none outside of [from, to). */
template <class T, int RUN>
DEVICE void write_run(const Row &r, int n, int from, int to, const T (&x)[RUN])
{
    const bool quick = is_quick<T, RUN>(r, n, from, to);
    if (is_wide<T>(r.type)) {
        if (quick)
            store_global(reinterpret_cast<Pack<double, RUN> *>(r.data + n * 8ll),
                         pack_of<double>(x));
        else
            UNROLL
        for (int i = 0; i < RUN; i++)
            if (n + i >= from && n + i < to)
                set_element(r, n + i, x[i]);
    } else if (r.type == FLOAT32) {
        if (quick)
            store_global(reinterpret_cast<Pack<float, RUN> *>(r.data + n * 4ll), pack_of<float>(x));
        else
            UNROLL
        for (int i = 0; i < RUN; i++)
            if (n + i >= from && n + i < to)
                store_global(reinterpret_cast<float *>(r.data) + (n + i) * r.stride,
                             static_cast<float>(x[i]));
    } else {
        const Sixteens<RUN> v = words_of(x, r.type);
        if (quick)
            store_global(reinterpret_cast<Sixteens<RUN> *>(r.data + n * 2ll), v);
        else
            UNROLL
        for (int i = 0; i < RUN; i++)
            if (n + i >= from && n + i < to)
                store_global(reinterpret_cast<uint16_t *>(r.data) + (n + i) * r.stride,
                             static_cast<uint16_t>(v.at[i / 2] >> i % 2 * 16));
    }
}

/* x = x times the values of v. */
template <class Run, class T, int RUN>
DEVICE void multiply_values(const Run &v, int type, T (&x)[RUN])
{
    T factor[RUN];
    values_of(v, type, factor);
    UNROLL
    for (int i = 0; i < RUN; i++)
        x[i] *= factor[i];
}

/* x = x times elements n ... n + RUN - 1. */
template <class T, int RUN>
DEVICE void multiply_run(const Row &r, int n, int from, int to, T (&x)[RUN])
{
    T factor[RUN];
    read_run(r, n, from, to, factor);
    UNROLL
    for (int i = 0; i < RUN; i++)
        x[i] *= factor[i];
}

/* The same for row (b, h) of an operand that may be absent. */
template <class T, int RUN>
DEVICE void multiply_run(const Operand &o, int64_t b, int64_t h, int n, int from, int to,
                         T (&x)[RUN])
{
    if (is_given(o))
        multiply_run(row_of<T>(o, b, h), n, from, to, x);
}

} // namespace fftconv
#endif
