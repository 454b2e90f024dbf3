/* Rows through the order-3 Monarch transform, on tensor cores: the one kernel.
 *
 * Right-angle form.  A real row x of up to M = R1 R2 R3 samples is convolved modulo
 * t^M - i: with theta = exp(i pi / 2M),
 *     U[k] = sum_n x[n] theta^n exp(-2 pi i n k / M),
 *     y[n] = Re theta^-n sum_k K[k] U[k] exp(2 pi i n k / M) / M.
 * A kernel's tap at lag s >= 0 stands at place s, one at lag -s at place M - s,
 * times -i; so causal, two-sided and circular convolutions differ in the kernel's
 * spectrum alone (circular modulo N: tap s has lags s and s - N).  M >= L and
 * L + max(behind, ahead) <= 2 M, and a circle needs M >= N.
 *
 * Even/odd form.  A row of up to 2 M samples is convolved modulo t^2M - 1: a circle of
 * N = 2 M, or what does not come round in it.  The transform is of z[n] = x[2n] +
 * i x[2n + 1], a kernel's alike, its tap s at place s.  The product takes both at k
 * and at -k: see meet.
 *
 * With n = S n1 + c, c = R3 n2 + n3, S = R2 R3, k = k1 + R1 (k2 + R2 k3), and a = 1/4
 * in right angles, a = 0 even/odd:
 *     1  V[k1, c]   = sum_n1 x[n1, c]  exp(-2 pi i n1 (k1 - a) / R1)
 *                     times T1[k1, c]  = exp(-2 pi i c (k1 - a) / M)
 *     2  [k2, n3]   = sum_n2 V[n2, n3] exp(-2 pi i n2 k2 / R2)       of each k1,
 *                     times T2[k2, n3] = exp(-2 pi i n3 k2 / S)
 *     3  [k2, k3]   = sum_n3           exp(-2 pi i n3 k3 / R3)
 * then the product, and the same backwards by the conjugates.  In right angles stage 1
 * has real input and its inverse a real result: half the products of a complex one.
 *
 * Stage 1 reads global memory and writes V to shared memory; a warp then takes
 * tiles of V through stages 2 and 3, the product and their inverses without
 * leaving its registers; the last stage reads shared memory and writes global.
 * Even/odd, the product is a phase of its own: Z is left in V's place, each lane
 * multiplies frequencies and their mirrors there, and the inverse begins from it.
 * Where R3 < 16, a tile is of 16 / R3 values of k1 beside each other, and stage
 * 3's matrix is block-diagonal; where M < 4096, a block takes several rows.
 *
 * Each stage is scaled, by 1 / sqrt(R) or powers of two whose product over both
 * directions is 1 / R: 1 / 4 both ways of R = 16, 1 / 8 and 1 / 4 of R = 32, a factor
 * of sqrt(1/2) below and above a unitary one.  A row is scaled by a power of two so
 * that its largest sample is in [128, 256), and a spectrum so that its largest part
 * is in [1/4, 1/2).  Then no number ever exceeds 46341 < 65504:
 *   - an input point is at most 256 in size, even/odd sqrt(2) 256, and M of them, as a
 *     vector, at most sqrt(M) as much: 65536 for M = 32768 even/odd;
 *   - no element of a vector exceeds its norm, and stages multiply the norm by 1 or
 *     sqrt(1/2) there and by 1 or sqrt(2) back; before its last stage back, a row has
 *     had one of the latter less, and every M > 8192 has a radix of 32 first;
 *   - the product does not increase the norm: |K| <= sqrt(1/2) in right angles, and
 *     even/odd the matrix of (Ze, Zo) at k has the singular values |Ke +- sqrt(W) Ko|
 *     <= |Ke| + |Ko| <= sqrt(|K[k]|^2 + |K[-k]|^2) <= 1, K the spectrum as it stands. */
#ifndef FFTCONV_CUDA_ROWS_H
#define FFTCONV_CUDA_ROWS_H

#include "arguments.h"
#include "machine.h"

namespace fftconv
{

/* ---- Numbers ----------------------------------------------------------------------- */

DEVICE Complex operator*(Complex a, Complex b)
{
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
DEVICE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
DEVICE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
DEVICE Complex conj(Complex a) { return {a.re, -a.im}; }
DEVICE Complex turned(Complex a) { return {-a.im, a.re}; } /* i a */

/* 2^e, |e| <= 126 */
DEVICE float power_of_two(int e) { return float_of_bits(static_cast<uint32_t>(e + 127) << 23); }

/* x 2^e for |e| <= 252, without leaving the range on the way where x is of size one */
DEVICE float scaled(float x, int e) { return x * power_of_two(e / 2) * power_of_two(e - e / 2); }

/* The exponent to take out of a row whose largest sample has these bits. */
DEVICE int exponent_of(uint32_t bits)
{
    const int e = static_cast<int>(bits >> 23) - 127 - 7;
    return e < -120 ? -120 : e > 119 ? 119 : e;
}

/* A T here and below is float or double. */
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

enum { GELU = 1, SILU = 2 }; /* of fftconv_activation */

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

/* x act'(p) */
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

/* ---- Rows of the caller -------------------------------------------------------------- */

enum Type { FLOAT64 = 1, FLOAT32 = 2, FLOAT16 = 3 }; /* of fftconv_dtype; else bfloat16 */

struct Row {
    char *data;
    int64_t stride;
    int type;
};

/* float64 is met only where the arithmetic is. */
template <class T> DEVICE bool is_wide(int type) { return sizeof(T) == 8 && type == FLOAT64; }

template <class T> DEVICE int size_of(int type)
{
    return is_wide<T>(type) ? 8 : type == FLOAT32 ? 4 : 2;
}

/* What follows from a launch's arguments alone is found where it is needed: kept
 * from the kernel's beginning on, it would take the registers that a phase needs. */
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
        return static_cast<T>(reinterpret_cast<const double *>(r.data)[n * r.stride]);
    if (r.type == FLOAT32)
        return reinterpret_cast<const float *>(r.data)[n * r.stride];
    return value_of(reinterpret_cast<const uint16_t *>(r.data)[n * r.stride], r.type);
}

template <class T> DEVICE void set_element(const Row &r, int64_t n, T x)
{
    if (is_wide<T>(r.type))
        reinterpret_cast<double *>(r.data)[n * r.stride] = x;
    else if (r.type == FLOAT32)
        reinterpret_cast<float *>(r.data)[n * r.stride] = static_cast<float>(x);
    else
        reinterpret_cast<uint16_t *>(r.data)[n * r.stride] = bits_of(static_cast<float>(x), r.type);
}

template <class T = float> DEVICE T scalar_of(const Operand &o, int64_t b, int64_t h)
{
    return element<T>(row_of<T>(o, b, h), 0);
}

/* Samples are taken RUN at once, 16 bytes of the type that an arithmetic is for;
 * those of 16 bits two in a word. */
template <int RUN> using Sixteens = Pack<uint32_t, RUN / 2>;

/* Is a run aligned vectors? */
template <class T, int RUN> DEVICE bool is_quick(const Row &r, int n, int from, int to)
{
    const int64_t at = static_cast<int64_t>(n) * size_of<T>(r.type);
    return r.stride == 1 && n >= from && n + RUN <= to &&
           (reinterpret_cast<uintptr_t>(r.data) + at) % 16 == 0;
}

/* Elements as they stand in memory. */
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

/* ... and back. */
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

/* Is every run of a row aligned, and inside of [from, to) or outside, and of the
 * type that this arithmetic is for? */
template <class Arith> DEVICE bool is_whole(const Row &r, int from, int to)
{
    return (r.type == FLOAT32) == (sizeof(typename Arith::Run) == Arith::RUN * 4) &&
           r.stride == 1 && reinterpret_cast<uintptr_t>(r.data) % 16 == 0 &&
           (from | to) % Arith::RUN == 0;
}

/* Such a row's elements n ... n + RUN - 1, not yet waited for; zeros outside. */
template <class Arith> DEVICE typename Arith::Run load_whole(const Row &r, int n, int from, int to)
{
    typedef typename Arith::Run Run;
    Run v = {};
    if (n >= from && n < to)
        v = load_stream(reinterpret_cast<const Run *>(r.data + n * (sizeof(Run) / Arith::RUN)));
    return v;
}

/* Elements n ... n + RUN - 1; zeros outside of [from, to). */
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
                       ? reinterpret_cast<const float *>(r.data)[(n + i) * r.stride]
                       : 0.0f;
    } else if (quick) {
        values_of(load_stream(reinterpret_cast<const Sixteens<RUN> *>(r.data + n * 2ll)), r.type,
                  x);
    } else {
        uint32_t v[RUN];
        UNROLL
        for (int i = 0; i < RUN; i++)
            v[i] = n + i >= from && n + i < to
                       ? reinterpret_cast<const uint16_t *>(r.data)[(n + i) * r.stride]
                       : 0u;
        Sixteens<RUN> words;
        UNROLL
        for (int i = 0; i < RUN; i += 2)
            words.at[i / 2] = v[i] | v[i + 1] << 16;
        values_of(words, r.type, x);
    }
}

template <class T, int RUN>
DEVICE void write_run(const Row &r, int n, int from, int to, const T (&x)[RUN])
{
    const bool quick = is_quick<T, RUN>(r, n, from, to);
    if (is_wide<T>(r.type)) {
        if (quick)
            *reinterpret_cast<Pack<double, RUN> *>(r.data + n * 8ll) = pack_of<double>(x);
        else
            UNROLL
        for (int i = 0; i < RUN; i++)
            if (n + i >= from && n + i < to)
                set_element(r, n + i, x[i]);
    } else if (r.type == FLOAT32) {
        if (quick)
            *reinterpret_cast<Pack<float, RUN> *>(r.data + n * 4ll) = pack_of<float>(x);
        else
            UNROLL
        for (int i = 0; i < RUN; i++)
            if (n + i >= from && n + i < to)
                reinterpret_cast<float *>(r.data)[(n + i) * r.stride] = static_cast<float>(x[i]);
    } else {
        const Sixteens<RUN> v = words_of(x, r.type);
        if (quick)
            *reinterpret_cast<Sixteens<RUN> *>(r.data + n * 2ll) = v;
        else
            UNROLL
        for (int i = 0; i < RUN; i++)
            if (n + i >= from && n + i < to)
                reinterpret_cast<uint16_t *>(r.data)[(n + i) * r.stride] = static_cast<uint16_t>(
                    v.at[i / 2] >> i % 2 * 16);
    }
}

template <class Run, class T, int RUN>
DEVICE void multiply_values(const Run &v, int type, T (&x)[RUN])
{
    T factor[RUN];
    values_of(v, type, factor);
    UNROLL
    for (int i = 0; i < RUN; i++)
        x[i] *= factor[i];
}

/* x *= elements */
template <class T, int RUN>
DEVICE void multiply_run(const Row &r, int n, int from, int to, T (&x)[RUN])
{
    T factor[RUN];
    read_run(r, n, from, to, factor);
    UNROLL
    for (int i = 0; i < RUN; i++)
        x[i] *= factor[i];
}

/* ... where there are any. */
template <class T, int RUN>
DEVICE void multiply_run(const Operand &o, int64_t b, int64_t h, int n, int from, int to,
                         T (&x)[RUN])
{
    if (is_given(o))
        multiply_run(row_of<T>(o, b, h), n, from, to, x);
}

/* RUN elements of row (b, h) from place n on, to where the pass wants them.  Of ROLE:
 * only its sinks; of ROLES: any. */
template <int ROLE, class T, int RUN>
DEVICE void sink(Block &block, const Pass &s, int64_t b, int64_t h, T *own, int n, int l,
                 T (&v)[RUN], T &dskip)
{
    const int from = s.sink_from, to = s.sink_to;
    T x[RUN];
    if (n >= to || n + RUN <= from)
        return;
    if (ROLE == ROWS_TAPS || (ROLE == ROLES && s.sink >= HOLD)) {
        UNROLL
        for (int i = 0; i < RUN; i++) {
            if (s.sink == HOLD)
                block.store_global(own + n + i, l, v[i]);
            else if (s.add >= 0 && n + i >= from && n + i < to)
                v[i] += block.load_global(own + n + i + s.add, l);
        }
        if (s.sink == TAPS)
            write_run(row_of<T>(s.y, b, h), n, from, to, v);
        return;
    }
    const T mask = is_given(s.mask) ? scalar_of<T>(s.mask, b, h) : T(1);
    if ((ROLE == ROWS_BACKWARD || ROLE == ROLES) && s.sink == SPREAD) {
        T g[RUN];
        UNROLL
        for (int i = 0; i < RUN; i++)
            g[i] = 0;
        if (s.own) {
            UNROLL
            for (int i = 0; i < RUN; i++)
                if (n + i < to)
                    g[i] = block.load_global(own + n + i, l);
        } else if (is_given(s.skip)) {
            read_run(row_of<T>(s.dy, b, h), n, from, to, g);
            multiply_run(s.out_gate, b, h, n, from, to, g);
            UNROLL
            for (int i = 0; i < RUN; i++)
                g[i] *= mask;
        }
        const T skip = is_given(s.skip) ? scalar_of<T>(s.skip, 0, h) : T(0);
        if (is_given(s.skip) || is_given(s.din_gate))
            read_run(row_of<T>(s.u, b, h), n, from, to, x);
        if (is_given(s.skip)) {
            T z[RUN];
            UNROLL
            for (int i = 0; i < RUN; i++)
                z[i] = x[i];
            multiply_run(s.in_gate, b, h, n, from, to, z);
            UNROLL
            for (int i = 0; i < RUN; i++) {
                v[i] += skip * g[i];
                dskip += n + i < to ? g[i] * z[i] : T(0);
            }
        }
        if (is_given(s.din_gate)) {
            UNROLL
            for (int i = 0; i < RUN; i++)
                x[i] *= v[i];
            write_run(row_of<T>(s.din_gate, b, h), n, from, to, x);
        }
        if (is_given(s.du)) {
            multiply_run(s.in_gate, b, h, n, from, to, v);
            write_run(row_of<T>(s.du, b, h), n, from, to, v);
        }
        return;
    }
    if (is_given(s.skip)) {
        const T skip = scalar_of<T>(s.skip, 0, h);
        read_run(row_of<T>(s.u, b, h), n, from, to, x);
        multiply_run(s.in_gate, b, h, n, from, to, x);
        UNROLL
        for (int i = 0; i < RUN; i++)
            v[i] += skip * x[i];
    }
    if (ROLE == ROWS_FORWARD || (ROLE == ROLES && s.sink == OUTPUT)) {
        activate(s.activation, v);
        UNROLL
        for (int i = 0; i < RUN; i++)
            v[i] *= mask;
        multiply_run(s.out_gate, b, h, n, from, to, v);
        write_run(row_of<T>(s.y, b, h), n, from, to, v);
        return;
    }
    /* GRADIENT */
    read_run(row_of<T>(s.dy, b, h), n, from, to, x);
    UNROLL
    for (int i = 0; i < RUN; i++)
        x[i] *= mask;
    if (is_given(s.dout_gate)) {
        T d[RUN];
        UNROLL
        for (int i = 0; i < RUN; i++)
            d[i] = v[i];
        activate(s.activation, d);
        UNROLL
        for (int i = 0; i < RUN; i++)
            d[i] *= x[i];
        write_run(row_of<T>(s.dout_gate, b, h), n, from, to, d);
    }
    multiply_run(s.out_gate, b, h, n, from, to, x);
    multiply_slope(s.activation, v, x);
    UNROLL
    for (int i = 0; i < RUN; i++)
        block.store_global(own + n + i, l, x[i]);
}
/* ---- The tables: where in `tables` each stage's constants begin ------------------------
 *
 * Matrices are stored as the fragments that lanes hold, tile after tile, of each
 * tile the real and the imaginary parts. */

template <class Arith_, int R1_, int R2_, int R3_> struct Shape {
    typedef Arith_ Arith;
    typedef typename Arith::Point Point;
    typedef typename Arith::Pair Pair;
    enum {
        R1 = R1_,
        R2 = R2_,
        R3 = R3_,
        S = R2 * R3,
        M = R1 * S,
        X = R3 < 16 ? 16 : R3, /* columns of a tile */
        GROUP = X / R3,        /* values of k1 in a tile */
        TILE = R2 * X,         /* points of a tile */
        ROW_TILES = R1 / GROUP,
        ROWS = M < 4096 ? 4096 / M : 1,
        RUN = Arith::RUN,
        WIDTH = 8 * RUN, /* columns of a strip: a warp's work in stage 1 */
        STRIPS = ROWS * S / WIDTH,
        K1 = R1 / 16,
        K2 = R2 / 16,
        X16 = X / 16,
        X8 = X / 8,
        NEAR = 16 / static_cast<int>(sizeof(Point)), /* points moved at once */
        RUN_POINTS = R3 < NEAR ? R3 : NEAR,          /* neighbours in V that are so in a tile */

        A_BYTES = 2 * LANES * static_cast<int>(sizeof(FragmentA<Arith>)),
        B_BYTES = 2 * LANES * static_cast<int>(sizeof(FragmentB<Arith>)),
        COMPLEX_BYTES = static_cast<int>(sizeof(Complex)),
        FIRST = 0,                                     /* [k1, n1] */
        LAST = FIRST + K1 * K1 * A_BYTES,              /* [n1, k1], conjugate */
        SECOND = LAST + K1 * K1 * A_BYTES,             /* [k2, n2] */
        SECOND_BACK = SECOND + K2 * K2 * A_BYTES,      /* [n2, k2], conjugate */
        THIRD = SECOND_BACK + K2 * K2 * A_BYTES,       /* [n3, k3], B */
        THIRD_BACK = THIRD + X16 * X8 * B_BYTES,       /* [n3, k3], conjugate */
        T2 = THIRD_BACK + X16 * X16 * A_BYTES,         /* as stage 2's C */
        T2_BACK = T2 + S * GROUP * COMPLEX_BYTES,      /* conjugate, as C of 3 back */
        T1_HIGH = T2_BACK + S * GROUP * COMPLEX_BYTES, /* [k1, n2]: c = R3 n2 */
        T1_LOW = T1_HIGH + R1 * R2 * COMPLEX_BYTES,    /* [k1, n3]: c = n3; R3 = 1: 1 */
        MIRROR_LOW = T1_LOW + R1 * R3 * COMPLEX_BYTES, /* W^(R1 (k2 + R2 k3)) */
        MIRROR_HIGH = MIRROR_LOW + S * COMPLEX_BYTES,  /* W^k1 */
        TABLE_BYTES = MIRROR_HIGH + R1 * COMPLEX_BYTES,

        POINTS_BYTES = ROWS * M * static_cast<int>(sizeof(Point)),
        TF32 = sizeof(Point) == sizeof(Complex),
        /* Strips that share a row, each with an exponent; in even/odd form a strip is
         * half as wide. */
        WIDE_PARTS = S > WIDTH ? S / WIDTH : 1,
        PARTS = S > WIDTH / 2 ? 2 * S / WIDTH : 1,
        /* Even/odd: frequencies that are met one by one with their mirrors, and fours */
        SINGLES = R3 == 1 ? M : S,
        FOURS = (M - SINGLES) / 8,
        FOURS_EACH = (FOURS + 7) / 8 * 8, /* eight lanes are of one row */
        FOURS_X = R3 < 2 ? 1
        : R3 < 8         ? R3 / 2
                         : 4,          /* side by side in 8 columns */
        FOURS_Y = R3 < 8 ? 1 : R3 / 8, /* ... and how many times so */
        /* Several blocks of few warps rather than one of many: while one waits for
         * memory another computes. */
        WARPS = POINTS_BYTES > 65536 ? 8 : 4,
        SHARED_BYTES = POINTS_BYTES + ROWS * (PARTS + 2) * 4 + WARPS * 4,
    };
    /* Column i of 8-column tile j of stage 2's B and C: a lane's columns of all
     * tiles are neighbours in memory. */
    static DEVICE constexpr int column_of(int j, int i) { return i * X8 + j; }
    /* Where Z[k1, k2, k3] of a row stands among the points as stage 3's Cs, and a
     * spectrum's, lie: tile after tile, of each lane four. */
    static DEVICE constexpr int point_of(int k1, int k2, int k3)
    {
        const int x = k1 % GROUP * R3 + k3;
        return (((k1 / GROUP * K2 + k2 / 16) * X8 + x / 8) * LANES + k2 % 8 * 4 + x % 8 / 2) * 4 +
               k2 % 16 / 8 * 2 + x % 2;
    }
    /* Four s of those of one k1, which are at k2 and k2 + 8, k3 and k3 + 1; and where
     * (k2, k3) stands in them. */
    static DEVICE constexpr int four_k2(int s)
    {
        return s / (8 * FOURS_X * FOURS_Y) * 16 + s / FOURS_X % 8;
    }
    static DEVICE constexpr int four_k3(int s)
    {
        return s / (8 * FOURS_X) % FOURS_Y * 8 + s % FOURS_X * 2;
    }
    static DEVICE constexpr int in_four(int k2, int k3)
    {
        return R3 == 1 ? k2
                       : (((k2 / 16 * FOURS_Y + k3 / 8) * 8 + k2 % 8) * FOURS_X + k3 % 8 / 2) * 4 +
                             k2 % 16 / 8 * 2 + k3 % 2;
    }
    /* How many blocks a multiprocessor is to hold, of 64K registers and 227 KB of
     * shared memory: as many as their registers let without a spill. */
    template <int ROLE> static DEVICE constexpr int blocks()
    {
        return POINTS_BYTES > 65536                         ? 1
               : TF32                                       ? 2
               : ROLE != ROWS_FORWARD || R1 > 16 || R3 == 2 ? 3
                                                            : 4;
    }
};

/* ---- The kernel -------------------------------------------------------------------------- */

/* (re, im) += A B, complex. */
template <class Arith>
DEVICE void
multiply_add_complex(Lanes<FragmentC> &re, Lanes<FragmentC> &im,
                     const Lanes<FragmentA<Arith>> &a_re, const Lanes<FragmentA<Arith>> &a_im,
                     const Lanes<FragmentB<Arith>> &b_re, const Lanes<FragmentB<Arith>> &b_im)
{
    multiply_add(re, a_re, b_re);
    multiply_add(im, a_im, b_re);
    multiply_subtract(re, a_im, b_im);
    multiply_add(im, a_re, b_im);
}

DEVICE void clear(Lanes<FragmentC> &c)
{
    EACH_LANE(l)
    {
        UNROLL
        for (int i = 0; i < 4; i++)
            c[l].at[i] = 0;
    }
}

template <class Shape, int ROLE> struct RowKernel : Shape {
    typedef typename Shape::Arith Arith;
    typedef typename Shape::Point Point;
    typedef typename Shape::Pair Pair;
    typedef fftconv_cuda_rows Arguments;
    typedef Ops<Arith> O;
    using Shape::FOURS;
    using Shape::FOURS_EACH;
    using Shape::GROUP;
    using Shape::K1;
    using Shape::K2;
    using Shape::M;
    using Shape::NEAR;
    using Shape::PARTS;
    using Shape::R1;
    using Shape::R2;
    using Shape::R3;
    using Shape::ROW_TILES;
    using Shape::RUN;
    using Shape::ROWS;
    using Shape::RUN_POINTS;
    using Shape::S;
    using Shape::SINGLES;
    using Shape::TF32;
    using Shape::TILE;
    using Shape::STRIPS;
    using Shape::WARPS;
    using Shape::WIDE_PARTS;
    using Shape::WIDTH;
    using Shape::X;
    using Shape::X16;
    using Shape::X8;

    enum {
        BLOCKS = Shape::template blocks<ROLE>(),
        ALWAYS = ROLE == ROWS_FORWARD ? TRANSFORM | MULTIPLY | BACK
        : ROLE == ROWS_BACKWARD       ? TRANSFORM
        : ROLE == ROWS_SPECTRA        ? TRANSFORM | PUT
                                      : MULTIPLY | BACK,
        MAYBE = ROLE == ROWS_BACKWARD ? KEEP | SUM | MULTIPLY | ADJOINT | BACK
        : ROLE == ROWS_SPECTRA        ? ADD | PUT_TURNED
        : ROLE == ROWS_TAPS           ? TURNED
                                      : 0,
    };
    static DEVICE int flags_of(const Pass &pass) { return (pass.flags & MAYBE) | ALWAYS; }
    /* Even/odd form, rows and no kernels: the product is a phase of its own, between
     * one that leaves Z in shared memory and one that takes Y from there. */
    enum { LEAVE = 1 << 16, TAKE = 1 << 17, MEETS = ROLE == ROWS_FORWARD || ROLE == ROWS_BACKWARD };
    typedef Pack<Point, RUN_POINTS> Points;
    typedef Pack<Point, 4> FourPoints;
    typedef typename Arith::Run Run;

    struct Samples { /* see read */
        float at[4 * K1][RUN];
    };

    /* What is the same for all of a block's lanes. */
    struct Place {
        int h, chunk;   /* channel, part of the batch */
        int group;      /* h's spectrum */
        int b0, b1;     /* rows b0 ... b1 - 1 of */
        bool begin;     /* ... the part's first */
        int pairs;      /* log2 of the samples of a point: even/odd */
        int64_t tables; /* their address */
    };

    /* So that no phase's addresses are computed in another one. */
    static DEVICE Place hidden(const Arguments &a, Place p)
    {
        p.h = opaque(p.h);
        p.b0 = opaque(p.b0);
        p.b1 = end_of(a, opaque(p.chunk));
        p.begin = p.b0 == opaque(p.chunk) * static_cast<int>(a.per);
        p.group = p.h / static_cast<int>(a.members);
        p.pairs = opaque(a.even_odd);
        p.tables = opaque(reinterpret_cast<int64_t>(a.tables));
        return p;
    }
    static DEVICE int task_of(const Arguments &a, const Place &p)
    {
        return opaque(p.h) * static_cast<int>(a.chunks) + opaque(p.chunk);
    }
    /* Is row r of a block's rows behind the batch's? Of one row, b0 < b1, never. */
    static DEVICE bool is_past(const Place &p, int r) { return ROWS > 1 && p.b0 + r >= p.b1; }
    static DEVICE int end_of(const Arguments &a, int chunk)
    {
        const int batch = static_cast<int>(a.batch), per = static_cast<int>(a.per);
        return batch - chunk * per < per ? batch : (chunk + 1) * per;
    }

    static DEVICE const unsigned char *table(const Place &p, int at)
    {
        return reinterpret_cast<const unsigned char *>(p.tables) + at;
    }
    static DEVICE void load_a(const Place &p, int at, int tile, Lanes<FragmentA<Arith>> &re,
                              Lanes<FragmentA<Arith>> &im)
    {
        const auto *t = reinterpret_cast<const FragmentA<Arith> *>(table(p, at)) + tile * 2 * LANES;
        EACH_LANE(l)
        {
            re[l] = load_constant(t + l);
            im[l] = load_constant(t + LANES + l);
        }
    }
    static DEVICE void load_b(const Place &p, int at, int tile, Lanes<FragmentB<Arith>> &re,
                              Lanes<FragmentB<Arith>> &im)
    {
        const auto *t = reinterpret_cast<const FragmentB<Arith> *>(table(p, at)) + tile * 2 * LANES;
        EACH_LANE(l)
        {
            re[l] = load_constant(t + l);
            im[l] = load_constant(t + LANES + l);
        }
    }
    static DEVICE Complex load_complex(const Place &p, int at, int i)
    {
        return load_constant(reinterpret_cast<const Complex *>(table(p, at)) + i);
    }
    template <int COUNT>
    static DEVICE Pack<Complex, COUNT> load_complexes(const Place &p, int at, int i)
    {
        return load_constant(reinterpret_cast<const Pack<Complex, COUNT> *>(
            reinterpret_cast<const Complex *>(table(p, at)) + i));
    }

    /* Where point `offset` of a tile stands in shared memory, in bytes.  Of each 128
     * bytes the eight vectors of 16 trade places, by bits of the tile and of which
     * 128 they are: so what the lanes of a warp move at once, in every stage, lies in
     * different banks. */
    static DEVICE int shared_place(int tile, int offset)
    {
        const int vector = offset / NEAR, high = vector / 8;
        const int turn = TF32 ? high ^ high >> 1 ^ high >> 3 ^ high << 2 ^ tile ^ tile << 2
                              : high ^ high << 1 ^ tile ^ tile << 1 ^ tile >> 1 ^
                                    (GROUP > 1 ? 0 : tile << 2);
        return tile * TILE * static_cast<int>(sizeof(Point)) + (vector ^ (turn & 7)) * 16 +
               offset % NEAR * static_cast<int>(sizeof(Point));
    }
    /* ... of V[k1, c] of row r of the block. */
    static DEVICE int shared_place(int r, int k1, int c)
    {
        return shared_place(r * ROW_TILES + k1 / GROUP, c / R3 * X + k1 % GROUP * R3 + c % R3);
    }
    /* The exponent of a part of row r; */
    static DEVICE int part_place(int r, int part)
    {
        return Shape::POINTS_BYTES + (r * PARTS + part) * 4;
    }
    /* ... of the row in pass p: its parts' largest.  That of the pass before is kept. */
    static DEVICE int exponent_place(int p, int r)
    {
        return part_place(ROWS, 0) + (p % 2 * ROWS + r) * 4;
    }
    /* A number of each warp. */
    static DEVICE int warp_place(int warp) { return exponent_place(0, 2 * ROWS) + 4 * warp; }
    static DEVICE int exponent(Block &block, int p, int r, int l)
    {
        return block.template load<int>(exponent_place(p, r), l);
    }

    static DEVICE int64_t kernel_of(const Arguments &a, const Place &place, int b)
    {
        return (a.spectrum_batch > 1 ? b : 0) * a.groups + place.group;
    }

    /* Column i of stage 1's first 8-column tile, all rows' columns side by side; of
     * tile j it is the j-th from there.  So a lane has RUN samples beside each other
     * in B and in C, and what four lanes hold of C's even columns stands together.
     * Even/odd, a strip is half as wide, and two of one tile's rows n2 and n2 + 1
     * still are of one strip. */
    static DEVICE int column(const Place &place, int strip, int i)
    {
        if (!place.pairs)
            return strip * WIDTH + i % 2 * (WIDTH / 2) + i / 2 * RUN;
        if (R3 < WIDTH / 2)
            return strip * (WIDTH / 2) + i % 2 * (WIDTH / 4) + i / 2 * NEAR;
        return strip / 2 * WIDTH + i % 2 * (WIDTH / 2) + strip % 2 * (WIDTH / 4) + i / 2 * NEAR;
    }
    /* Which of a row's strips column c is of. */
    static DEVICE int part_of(const Place &place, int c)
    {
        return !place.pairs     ? c / WIDTH
               : R3 < WIDTH / 2 ? c / (WIDTH / 2)
                                : c / WIDTH * 2 + c / (WIDTH / 4) % 2;
    }
    static DEVICE int strips(const Arguments &a) { return STRIPS << opaque(a.even_odd); }

    static DEVICE float *own_row(Block &block, const Arguments &a, const Place &place, int r)
    {
        return a.own + ((block.index * ROWS + r) * M << place.pairs);
    }

    /* ---- Phase 1: samples, stage 1 and its twiddle, to shared memory. */

    /* A lane's samples: rows 2q, 2q + 1, 2q + 8, 2q + 9 ... of x[n1, c], RUN of each
     * from column c on; and the bits of the largest. */
    static DEVICE uint32_t read(Block &block, const Arguments &a, const Pass &pass,
                                const Place &place, int l, int r, int c, float (&x)[4 * K1][RUN])
    {
        const int b = place.b0 + r, h = place.h;
        const bool there = !is_past(place, r);
        const int from = there ? pass.from : 0, to = there ? pass.to : 0;
        const Row row = row_of(pass.x, b, h), gate = row_of(pass.gate, b, h);
        const float scale = there && is_given(pass.scale) ? scalar_of(pass.scale, b, h) : 1.0f;
        const bool own = ROLE == ROWS_BACKWARD && pass.own;
        if (!own && is_whole<Arith>(row, from, to) &&
            (!is_given(pass.gate) || is_whole<Arith>(gate, from, to))) {
            const bool gated = is_given(pass.gate);
            UNROLL
            for (int k = 0; k < 4 * K1; k += NEAR) { /* NEAR loads before the first is waited for */
                if (gated) {
                    Run run[NEAR], factor[NEAR];
                    load_rows(row, place, k, l, c, from, to, run);
                    load_rows(gate, place, k, l, c, from, to, factor);
                    UNROLL
                    for (int i = 0; i < NEAR; i++) {
                        values_of(run[i], row.type, x[k + i]);
                        multiply_values(factor[i], gate.type, x[k + i]);
                    }
                } else {
                    Run run[NEAR];
                    load_rows(row, place, k, l, c, from, to, run);
                    UNROLL
                    for (int i = 0; i < NEAR; i++)
                        values_of(run[i], row.type, x[k + i]);
                }
            }
        } else {
            UNROLL /* by way of places that this strip will take, as registers have no
                      index; they hold half of the samples */
                for (int half = 0; half < 2; half++)
            {
                NO_UNROLL
                for (int i = 0; i < 2 * K1; i++) {
                    const int n = (row_of_lane(half * 2 * K1 + i, l) * S + c) << place.pairs;
                    float v[RUN];
                    if (own) {
                        UNROLL
                        for (int j = 0; j < RUN; j++)
                            v[j] = n + j >= from && n + j < to
                                       ? block.load_global(own_row(block, a, place, r) + n + j, l)
                                       : 0.0f;
                    } else {
                        read_run(row, n, from, to, v);
                        if (is_given(pass.gate))
                            multiply_run(gate, n, from, to, v);
                    }
                    UNROLL
                    for (int j = 0; j < RUN; j += RUN_POINTS) {
                        Points points;
                        UNROLL
                        for (int o = 0; o < RUN_POINTS; o++)
                            points.at[o] = O::held(v[j + o]);
                        block.store(held_place(r, i, j, l, c), l, points);
                    }
                }
                UNROLL
                for (int i = 0; i < 4 * K1; i++)
                    UNROLL
                for (int j = 0; i / (2 * K1) == half && j < RUN; j += RUN_POINTS) {
                    const Points points = block.template load<Points>(
                        held_place(r, i % (2 * K1), j, l, c), l);
                    UNROLL
                    for (int o = 0; o < RUN_POINTS; o++)
                        x[i][j + o] = O::number(points.at[o]);
                }
            }
        }
        uint32_t most = 0;
        UNROLL
        for (int i = 0; i < 4 * K1; i++)
            UNROLL
        for (int j = 0; j < RUN; j++) {
            x[i][j] *= scale;
            const uint32_t bits = float_bits(x[i][j]) & 0x7fffffff;
            most = bits > most ? bits : most;
        }
        return most;
    }

    static DEVICE void load_rows(const Row &row, const Place &place, int k, int l, int c, int from,
                                 int to, Run (&run)[NEAR])
    {
        UNROLL
        for (int i = 0; i < NEAR; i++)
            run[i] = load_whole<Arith>(row, (row_of_lane(k + i, l) * S + c) << place.pairs, from,
                                       to);
    }

    /* Of the lane's NEAR points in each of its rows, the one for a sample. */
    static DEVICE int held_place(int r, int i, int j, int l, int c)
    {
        return shared_place(r, row_of_lane(2 * i + j / NEAR, l), c + j % NEAR);
    }

    /* Row i of a lane's, four of each 16. */
    static DEVICE int row_of_lane(int i, int l) { return l % 4 * 2 + i % 2 + i / 2 * 8; }

    static DEVICE void first(Block &block, const Arguments &a, const Pass &pass, const Place &place,
                             int strip)
    {
        enum { /* lanes of one row */
               MASK = S >= WIDTH ? 31
               : S == WIDTH / 2  ? 27
                                 : 11,
               NARROW = S >= WIDTH / 2 ? 31 : 27,
        };
        const int mask = MASK == NARROW || !place.pairs ? MASK : NARROW;
        Lanes<FragmentB<Arith>> b[K1][RUN];
        Lanes<Samples> samples;
        Lanes<uint32_t> largest;
        EACH_LANE(l)
        {
            const int at = column(place, strip, l / 4);
            largest[l] = read(block, a, pass, place, l, at / S, at % S, samples[l].at);
        }
        block.sync_warp(); /* read kept samples where others will put V */
        max_over(largest, mask);
        EACH_LANE(l)
        {
            const int at = column(place, strip, l / 4), e = exponent_of(largest[l]);
            const float scale = power_of_two(-e);
            if ((l & mask) == 0)
                block.store(part_place(at / S, part_of(place, at % S)), l, e);
            UNROLL
            for (int k = 0; k < K1; k++)
                UNROLL
            for (int i = 0; i < 2; i++) {
                Pair pair[RUN];
                UNROLL
                for (int j = 0; j < RUN; j++)
                    pair[j] = O::pair(samples[l].at[4 * k + 2 * i][j] * scale,
                                      samples[l].at[4 * k + 2 * i + 1][j] * scale);
                UNROLL /* even/odd: real parts, then imaginary ones */
                    for (int j = 0; j < RUN; j++) b[k][j][l]
                        .at[i] = place.pairs ? pair[j % NEAR * 2 + j / NEAR] : pair[j];
            }
        }
        NO_UNROLL /* half of the columns: fewer sums at a time, and less code */
            for (int part = 0; part < RUN; part += NEAR)
        {
            if (part && place.pairs)
                break;
            if (part)
                UNROLL /* registers have no index */
                    for (int j = 0; j < NEAR; j++) UNROLL for (int k = 0; k < K1; k++)
                        b[k][j] = b[k][NEAR + j];
            NO_UNROLL
            for (int m = 0; m < K1; m++) {
                Lanes<FragmentC> re[NEAR], im[NEAR];
                UNROLL
                for (int j = 0; j < NEAR; j++) {
                    clear(re[j]);
                    clear(im[j]);
                }
                UNROLL
                for (int k = 0; k < K1; k++) {
                    Lanes<FragmentA<Arith>> f_re, f_im;
                    load_a(place, Shape::FIRST, m * K1 + k, f_re, f_im);
                    UNROLL
                    for (int j = 0; j < NEAR; j++) {
                        multiply_add(re[j], f_re, b[k][j]);
                        multiply_add(im[j], f_im, b[k][j]);
                    }
                    if (!part && place.pairs)
                        UNROLL
                    for (int j = 0; j < NEAR; j++) {
                        multiply_subtract(re[j], f_im, b[k][NEAR + j]);
                        multiply_add(im[j], f_re, b[k][NEAR + j]);
                    }
                }
                EACH_LANE(l)
                {
                    UNROLL
                    for (int i = 0; i < 4; i++) { /* of a C: row and column */
                        load_anew();
                        const int at = column(place, index_below(2 * STRIPS, strip),
                                              l % 4 * 2 + i % 2) +
                                       part;
                        const int r = at / S;
                        const int k1 = 16 * m + l / 4 + i / 2 * 8, first = at % S;
                        const auto highs = load_complexes<NEAR / RUN_POINTS>(place, Shape::T1_HIGH,
                                                                             k1 * R2 + first / R3);
                        UNROLL
                        for (int n = 0; n < NEAR; n += RUN_POINTS) {
                            const Complex high = highs.at[n / RUN_POINTS];
                            Points points;
                            const auto low = load_complexes<RUN_POINTS>(place, Shape::T1_LOW,
                                                                        k1 * R3 + (first + n) % R3);
                            UNROLL
                            for (int j = 0; j < RUN_POINTS; j++) {
                                const Complex v = {re[n + j][l].at[i], im[n + j][l].at[i]};
                                const Complex w = R3 > 1 ? v * high * low.at[j] : v * high;
                                points.at[j] = O::point(w.re, w.im);
                            }
                            block.store(shared_place(r, k1, first + n), l, points);
                        }
                    }
                }
            }
        }
    }

    /* ---- Phase 2: a tile through stages 2 and 3, the product, and back. */

    /* V of a tile, as stage 2 takes it; where several warps made a row, each with
     * an exponent of its own, brought to the largest, e. */
    static DEVICE void load_tile(Block &block, const Place &place, int tile, const Lanes<int> &e,
                                 Lanes<FragmentB<Arith>> (&b_re)[K2][X8],
                                 Lanes<FragmentB<Arith>> (&b_im)[K2][X8])
    {
        const bool several = PARTS > 1 && (WIDE_PARTS > 1 || place.pairs);
        EACH_LANE(l)
        {
            UNROLL
            for (int k = 0; k < K2; k++)
                UNROLL
            for (int i = 0; i < 2; i++) {
                const int row = 16 * k + l % 4 * 2 + 8 * i, x = l / 4 * X8;
                const auto v = block.template load<Pack<Point, X8>>(shared_place(tile, row * X + x),
                                                                    l);
                const auto w = block.template load<Pack<Point, X8>>(
                    shared_place(tile, (row + 1) * X + x), l);
                /* rows 2q and 2q + 1, and these columns, are of one strip */
                int less = 0;
                if (several)
                    less = block.template load<int>(
                               part_place(tile / ROW_TILES, part_of(place, row * R3 + x % R3)), l) -
                           e[l];
                const float scale = power_of_two(less < -126 ? -126 : less);
                UNROLL
                for (int j = 0; j < X8; j++) {
                    b_re[k][j][l].at[i] = O::reals(v.at[j], w.at[j]);
                    b_im[k][j][l].at[i] = O::imaginaries(v.at[j], w.at[j]);
                    if (several) {
                        b_re[k][j][l].at[i] = O::times(b_re[k][j][l].at[i], scale);
                        b_im[k][j][l].at[i] = O::times(b_im[k][j][l].at[i], scale);
                    }
                }
            }
        }
    }

    /* Rows 16 m ... of the matrix `at`, of K2 x K2 tiles, times the columns b. */
    static DEVICE void product(const Place &place, int at, int m,
                               const Lanes<FragmentB<Arith>> (&b_re)[K2][X8],
                               const Lanes<FragmentB<Arith>> (&b_im)[K2][X8],
                               Lanes<FragmentC> (&re)[X8], Lanes<FragmentC> (&im)[X8])
    {
        UNROLL
        for (int j = 0; j < X8; j++) {
            clear(re[j]);
            clear(im[j]);
        }
        UNROLL
        for (int k = 0; k < K2; k++) {
            Lanes<FragmentA<Arith>> f_re, f_im;
            load_a(place, at, m * K2 + k, f_re, f_im);
            UNROLL
            for (int j = 0; j < X8; j++)
                multiply_add_complex<Arith>(re[j], im[j], f_re, f_im, b_re[k][j], b_im[k][j]);
        }
    }

    /* Stage 2, of 16 rows k2 = 16 m ..., and its twiddle; columns as the tile has them. */
    static DEVICE void second(const Place &place, int m,
                              const Lanes<FragmentB<Arith>> (&b_re)[K2][X8],
                              const Lanes<FragmentB<Arith>> (&b_im)[K2][X8],
                              Lanes<FragmentC> (&re)[X8], Lanes<FragmentC> (&im)[X8])
    {
        product(place, Shape::SECOND, m, b_re, b_im, re, im);
        UNROLL
        for (int j = 0; j < X8; j++)
            twiddle(place, Shape::T2, m * X8 + j, re[j], im[j]);
    }

    static DEVICE void twiddle(const Place &place, int at, int tile, Lanes<FragmentC> &re,
                               Lanes<FragmentC> &im)
    {
        EACH_LANE(l)
        {
            const auto w = load_complexes<4>(place, at, (tile * LANES + l) * 4);
            UNROLL
            for (int i = 0; i < 4; i++) {
                const Complex v = Complex{re[l].at[i], im[l].at[i]} * w.at[i];
                re[l].at[i] = v.re;
                im[l].at[i] = v.im;
            }
        }
    }

    /* Stage 3 of 16 rows k2 = 16 m ...: Z[k2, x'], columns in order. */
    static DEVICE void third(const Place &place, const Lanes<FragmentC> (&from_re)[X8],
                             const Lanes<FragmentC> (&from_im)[X8], Lanes<FragmentC> (&re)[X8],
                             Lanes<FragmentC> (&im)[X8])
    {
        UNROLL
        for (int j = 0; j < X8; j++) {
            clear(re[j]);
            clear(im[j]);
        }
        UNROLL
        for (int k = 0; k < X16; k++) {
            Lanes<FragmentA<Arith>> d_re, d_im;
            EACH_LANE(l)
            {
                UNROLL
                for (int i = 0; i < 4; i++) {
                    const FragmentC &r = from_re[2 * k + i / 2][l], &s = from_im[2 * k + i / 2][l];
                    const int e = i % 2 * 2;
                    d_re[l].at[i] = O::pair(r.at[e], r.at[e + 1]);
                    d_im[l].at[i] = O::pair(s.at[e], s.at[e + 1]);
                }
            }
            UNROLL
            for (int j = 0; j < X8; j++) {
                Lanes<FragmentB<Arith>> f_re, f_im;
                load_b(place, Shape::THIRD, k * X8 + j, f_re, f_im);
                multiply_add_complex<Arith>(re[j], im[j], d_re, d_im, f_re, f_im);
            }
        }
    }

    static DEVICE Pack<Complex, 4> *sums_of(const Arguments &a, const Place &place, int r)
    {
        return reinterpret_cast<Pack<Complex, 4> *>(a.sums) +
               ((place.h * a.chunks + place.chunk) * ROWS + r) * (M / 4);
    }

    /* The row that a pass keeps for the next. */
    static DEVICE Point *kept_of(Block &block, const Arguments &a, int r)
    {
        return static_cast<Point *>(a.kept) + (block.index * ROWS + r) * M;
    }
    /* Where point_of's i-th is left, or taken: in its tile's place.  Of each 128 bytes
     * the vectors trade places, so that lanes beside each other in k2 meet no bank
     * twice. */
    static DEVICE int left_place(int r, int i)
    {
        const int v = (r * M + i) / NEAR;
        const int turn = TF32 ? (v >> 3 & 1) | (v >> 4 & 2) | (v >> 2 & 4)
                              : (v >> 4 & 1) | (v >> 2 & 2);
        return (v ^ turn) * 16 + i % NEAR * static_cast<int>(sizeof(Point));
    }
    template <int COUNT>
    static DEVICE Pack<Point, COUNT> load_left(Block &block, int r, int i, int l)
    {
        enum { AT_ONCE = COUNT < NEAR ? COUNT : static_cast<int>(NEAR) };
        Pack<Point, COUNT> x;
        UNROLL
        for (int n = 0; n < COUNT; n += AT_ONCE) {
            const auto v = block.template load<Pack<Point, AT_ONCE>>(left_place(r, i + n), l);
            UNROLL
            for (int j = 0; j < AT_ONCE; j++)
                x.at[n + j] = v.at[j];
        }
        return x;
    }
    template <int COUNT>
    static DEVICE void store_left(Block &block, int r, int i, int l, const Pack<Point, COUNT> &x)
    {
        enum { AT_ONCE = COUNT < NEAR ? COUNT : static_cast<int>(NEAR) };
        UNROLL
        for (int n = 0; n < COUNT; n += AT_ONCE) {
            Pack<Point, AT_ONCE> v;
            UNROLL
            for (int j = 0; j < AT_ONCE; j++)
                v.at[j] = x.at[n + j];
            block.store(left_place(r, i + n), l, v);
        }
    }

    /* What the pass does with Z[16 m ..., 8 j ...] of tile `kb` of a row. */
    static DEVICE void combine(Block &block, const Arguments &a, const Place &place, int flags,
                               const Lanes<int> &e, const Lanes<int> &kept_e, int r, int kb, int m,
                               int j, const Lanes<FourPoints> &spectrum, Lanes<FragmentC> &re,
                               Lanes<FragmentC> &im)
    {
        typedef Pack<Complex, 4> Four;
        const int b = place.b0 + r;
        const int tile = (kb * K2 + m) * X8 + j;
        EACH_LANE(l)
        {
            const int at = tile * LANES + l; /* in fours */
            if (flags & PUT) {
                Four *to = reinterpret_cast<Four *>(a.spectra) +
                           (b * a.channels + place.h) * (M / 4) + at;
                Four v = {};
                if (flags & ADD)
                    v = *to;
                UNROLL
                for (int i = 0; i < 4; i++) {
                    const Complex z = {scaled(re[l].at[i], e[l]), scaled(im[l].at[i], e[l])};
                    v.at[i].re += flags & PUT_TURNED ? z.im : z.re;
                    v.at[i].im += flags & PUT_TURNED ? -z.re : z.im;
                }
                *to = v;
            }
            FourPoints *kept = reinterpret_cast<FourPoints *>(kept_of(block, a, r)) + at;
            if (flags & SUM) {
                const FourPoints k = block.load_global(kept, l);
                Four *to = sums_of(a, place, r) + at;
                Four v = {};
                if (!place.begin)
                    v = block.load_global(to, l);
                UNROLL
                for (int i = 0; i < 4; i++) {
                    const Complex d = conj(O::complex(k.at[i])) * Complex{re[l].at[i], im[l].at[i]};
                    v.at[i].re += scaled(d.re, kept_e[l] + e[l]);
                    v.at[i].im += scaled(d.im, kept_e[l] + e[l]);
                }
                block.store_global(to, l, v);
            }
            if (flags & (KEEP | LEAVE)) {
                FourPoints k;
                UNROLL
                for (int i = 0; i < 4; i++)
                    k.at[i] = O::point(re[l].at[i], im[l].at[i]);
                if (flags & KEEP)
                    block.store_global(kept, l, k);
                if (flags & LEAVE)
                    store_left(block, r, 4 * at, l, k);
            }
            if (flags & MULTIPLY) {
                UNROLL
                for (int i = 0; i < 4; i++) {
                    Complex s = O::complex(spectrum[l].at[i]);
                    if (flags & ADJOINT)
                        s.im = -s.im;
                    if (flags & TURNED)
                        s = {-s.im, s.re};
                    if (flags & TRANSFORM)
                        s = s * Complex{re[l].at[i], im[l].at[i]};
                    re[l].at[i] = s.re;
                    im[l].at[i] = s.im;
                }
            }
        }
    }

    /* Stage 3 back, of rows k2 = 16 m ..., to the m-th summed part of stage 2 back. */
    static DEVICE void third_back(const Place &place, int m, const Lanes<FragmentC> (&re)[X8],
                                  const Lanes<FragmentC> (&im)[X8],
                                  Lanes<FragmentB<Arith>> (&to_re)[X8],
                                  Lanes<FragmentB<Arith>> (&to_im)[X8])
    {
        UNROLL
        for (int half = 0; half < 2; half++) {
            Lanes<FragmentB<Arith>> b_re[X16], b_im[X16]; /* transposed: [x', k2] */
            EACH_LANE(l)
            {
                UNROLL
                for (int k = 0; k < X16; k++)
                    UNROLL
                for (int i = 0; i < 2; i++) {
                    const FragmentC &r = re[2 * k + i][l], &s = im[2 * k + i][l];
                    b_re[k][l].at[i] = O::pair(r.at[2 * half], r.at[2 * half + 1]);
                    b_im[k][l].at[i] = O::pair(s.at[2 * half], s.at[2 * half + 1]);
                }
            }
            UNROLL
            for (int n = 0; n < X16; n++) {
                Lanes<FragmentC> c_re, c_im;
                clear(c_re);
                clear(c_im);
                UNROLL
                for (int k = 0; k < X16; k++) {
                    Lanes<FragmentA<Arith>> f_re, f_im;
                    load_a(place, Shape::THIRD_BACK, n * X16 + k, f_re, f_im);
                    multiply_add_complex<Arith>(c_re, c_im, f_re, f_im, b_re[k], b_im[k]);
                }
                twiddle(place, Shape::T2_BACK, n * 2 * K2 + 2 * m + half, c_re, c_im);
                EACH_LANE(l)
                {
                    UNROLL
                    for (int i = 0; i < 2; i++) {
                        to_re[2 * n + i][l].at[half] = O::pair(c_re[l].at[2 * i],
                                                               c_re[l].at[2 * i + 1]);
                        to_im[2 * n + i][l].at[half] = O::pair(c_im[l].at[2 * i],
                                                               c_im[l].at[2 * i + 1]);
                    }
                }
            }
        }
    }

    /* Stage 2 back, stage 1's twiddle back, and to where the tile was. */
    static DEVICE void second_back(Block &block, const Place &place, int tile,
                                   const Lanes<FragmentB<Arith>> (&b_re)[K2][X8],
                                   const Lanes<FragmentB<Arith>> (&b_im)[K2][X8])
    {
        const int kb = tile % ROW_TILES;
        block.sync_warp();
        NO_UNROLL /* one row of products at a time: fewer registers */
            for (int m = 0; m < K2; m++)
        {
            Lanes<FragmentC> re[X8], im[X8];
            product(place, Shape::SECOND_BACK, m, b_re, b_im, re, im);
            EACH_LANE(l)
            {
                const int x = l % 4 * 2 * X8;
                UNROLL
                for (int half = 0; half < 2; half++) {
                    const int n2 = 16 * m + l / 4 + 8 * half;
                    Complex high = {0, 0};
                    UNROLL
                    for (int i = 0; i < 2 * X8; i += NEAR) {
                        Pack<Point, NEAR> points;
                        const auto low = load_complexes<NEAR>(place, Shape::T1_LOW, kb * X + x + i);
                        UNROLL
                        for (int j = 0; j < NEAR; j++) {
                            const int s = 2 * half + (i + j) / X8;
                            const Complex v = {re[(i + j) % X8][l].at[s],
                                               im[(i + j) % X8][l].at[s]};
                            if ((i + j) % R3 == 0 || i + j == 0)
                                high = conj(
                                    load_complex(place, Shape::T1_HIGH,
                                                 (kb * GROUP + (x + i + j) / R3) * R2 + n2));
                            const Complex w = R3 > 1 ? v * high * conj(low.at[j]) : v * high;
                            points.at[j] = O::point(w.re, w.im);
                        }
                        block.store(shared_place(tile, n2 * X + x + i), l, points);
                    }
                }
            }
        }
    }

    static DEVICE void middle(Block &block, const Arguments &a, const Pass &pass,
                              const Place &place, int flags, int p, int warp)
    {
        static_assert(static_cast<int>(PARTS) <= LANES, "a lane for each part of a row");
        const int parts = place.pairs ? PARTS : WIDE_PARTS;
        for (int tile = warp; tile < ROWS * ROW_TILES; tile += WARPS) {
            const int r = tile / ROW_TILES, kb = tile % ROW_TILES;
            if (is_past(place, r)) { /* not there, and its sum is zero */
                if (place.begin && flags_of(pass) & SUM)
                    EACH_LANE(l)
                    {
                        for (int i = l; i < TILE / 4; i += LANES)
                            block.store_global(sums_of(a, place, r) + kb * (TILE / 4) + i, l,
                                               Pack<Complex, 4>{});
                    }
                continue;
            }
            Lanes<int> e, kept_e;
            EACH_LANE(l)
            {
                e[l] = flags & TRANSFORM ? block.template load<int>(part_place(r, l % parts), l)
                                         : 0;
                kept_e[l] = flags & SUM ? exponent(block, p - 1, r, l) : 0;
            }
            Lanes<FragmentB<Arith>> b_re[K2][X8], b_im[K2][X8];
            /* Without a value on every way, they would be kept from tile to tile. */
            Lanes<FragmentB<Arith>> to_re[K2][X8] = {}, to_im[K2][X8] = {};
            if (flags & TRANSFORM) {
                max_over(e, PARTS - 1);
                EACH_LANE(l)
                {
                    if (kb == 0 && l == 0)
                        block.store(exponent_place(p, r), l, e[l]);
                }
                load_tile(block, place, tile, e, b_re, b_im);
            }
            if (flags & LEAVE)
                block.sync_warp();
            NO_UNROLL /* one chain at a time: fewer registers */
                for (int m = 0; m < K2; m++)
            {
                Lanes<FragmentC> re[X8], im[X8];
                Lanes<FourPoints> spectrum[X8] = {}; /* asked for before it is needed */
                if (flags & MULTIPLY) {
                    const FourPoints *k = static_cast<const FourPoints *>(a.spectrum) +
                                          kernel_of(a, place, place.b0 + r) * (M / 4);
                    UNROLL
                    for (int j = 0; j < X8; j++)
                        EACH_LANE(l)
                        {
                            spectrum[j][l] = load_constant(k + ((kb * K2 + m) * X8 + j) * LANES +
                                                           l);
                        }
                }
                if (flags & TRANSFORM) {
                    Lanes<FragmentC> v_re[X8], v_im[X8];
                    second(place, m, b_re, b_im, v_re, v_im);
                    third(place, v_re, v_im, re, im);
                }
                UNROLL
                for (int j = 0; j < X8; j++)
                    if (flags & TAKE)
                        take(block, r, ((kb * K2 + m) * X8 + j) * LANES, re[j], im[j]);
                    else
                        combine(block, a, place, flags, e, kept_e, r, kb, m, j, spectrum[j], re[j],
                                im[j]);
                if (flags & BACK) {
                    Lanes<FragmentB<Arith>> part_re[X8], part_im[X8];
                    third_back(place, m, re, im, part_re, part_im);
                    UNROLL /* registers have no index */
                        for (int k = 0; k < K2; k++) UNROLL for (int j = 0; k == m && j < X8; j++)
                    {
                        to_re[k][j] = part_re[j];
                        to_im[k][j] = part_im[j];
                    }
                }
            }
            if (flags & BACK)
                second_back(block, place, tile, to_re, to_im);
        }
    }

    /* ---- Even/odd: the product, where each frequency meets its mirror. */

    static DEVICE void take(Block &block, int r, int at, Lanes<FragmentC> &re, Lanes<FragmentC> &im)
    {
        EACH_LANE(l)
        {
            const FourPoints y = load_left<4>(block, r, 4 * (at + l), l);
            UNROLL
            for (int i = 0; i < 4; i++) {
                const Complex v = O::complex(y.at[i]);
                re[l].at[i] = v.re;
                im[l].at[i] = v.im;
            }
        }
    }

    struct Mirrored { /* of a transform, at m and at -m */
        Complex here, there;
    };

    /* The product's transform at m and -m from both factors', w = W^m.  With
     * Ze = (Z[m] + conj Z[-m]) / 2, Zo = (Z[m] - conj Z[-m]) / 2i, of k alike:
     *     Ye = Ke Ze + W Ko Zo         adjoint:  conj(Ke) Ze + conj(Ko) Zo
     *     Yo = Ke Zo + Ko Ze                     conj(Ke) Zo + conj(W Ko) Ze
     *     Y[m] = Ye + i Yo,  Y[-m] = conj(Ye - i Yo). */
    static DEVICE Mirrored meet(const Mirrored &k, const Mirrored &z, Complex w, bool adjoint)
    {
        const Complex sum = k.here + conj(k.there), rest = k.here - conj(k.there);
        const Complex k_even = {0.25f * sum.re, 0.25f * sum.im};
        const Complex k_odd = {0.25f * rest.im, -0.25f * rest.re};
        const Complex shifted = w * k_odd;
        const Complex even = z.here + conj(z.there), i_odd = z.here - conj(z.there);
        const Complex odd = {i_odd.im, -i_odd.re};
        const Complex of_even = adjoint ? conj(k_even) : k_even;
        const Complex of_odd = adjoint ? conj(k_odd) : shifted;
        const Complex to_odd = adjoint ? conj(shifted) : k_odd;
        const Complex y = of_even * even + of_odd * odd;
        const Complex i_y = turned(of_even * odd + to_odd * even);
        return {y + i_y, conj(y - i_y)};
    }

    /* COUNT points from `here` on and, backwards, from `there` on, their mirrors. */
    template <int COUNT>
    static DEVICE void meet_all(Block &block, const Arguments &a, const Pass &pass,
                                const Place &place, int r, int e, int l, int here, int there,
                                const Pack<Complex, COUNT> &w)
    {
        typedef Pack<Point, COUNT> Some;
        typedef Pack<Complex, COUNT> Sums;
        const int flags = flags_of(pass);
        const Some z = load_left<COUNT>(block, r, here, l);
        const Some z_there = load_left<COUNT>(block, r, there, l);
        const auto pair = [](const Some &x, const Some &y, int i) {
            return Mirrored{O::complex(x.at[i]), O::complex(y.at[COUNT - 1 - i])};
        };
        if (flags & SUM) {
            const Point *kept = kept_of(block, a, r);
            const Some k = block.load_global(reinterpret_cast<const Some *>(kept + here), l);
            const Some k_there = block.load_global(reinterpret_cast<const Some *>(kept + there), l);
            Complex *sums = reinterpret_cast<Complex *>(sums_of(a, place, r));
            Sums *to = reinterpret_cast<Sums *>(sums + here);
            Sums *to_there = reinterpret_cast<Sums *>(sums + there);
            Sums v = {}, v_there = {};
            if (!place.begin) {
                v = block.load_global(to, l);
                v_there = block.load_global(to_there, l);
            }
            UNROLL
            for (int i = 0; i < COUNT; i++) {
                const Mirrored d = meet(pair(k, k_there, i), pair(z, z_there, i), w.at[i], true);
                const int j = COUNT - 1 - i;
                v.at[i] = v.at[i] + Complex{scaled(d.here.re, e), scaled(d.here.im, e)};
                v_there.at[j] = v_there.at[j] +
                                Complex{scaled(d.there.re, e), scaled(d.there.im, e)};
            }
            block.store_global(to, l, v);
            block.store_global(to_there, l, v_there);
        }
        if (flags & MULTIPLY) {
            const Point *spectrum = static_cast<const Point *>(a.spectrum) +
                                    kernel_of(a, place, place.b0 + r) * M;
            const Some k = load_constant(reinterpret_cast<const Some *>(spectrum + here));
            const Some k_there = load_constant(reinterpret_cast<const Some *>(spectrum + there));
            Some y, y_there;
            UNROLL
            for (int i = 0; i < COUNT; i++) {
                const Mirrored v = meet(pair(k, k_there, i), pair(z, z_there, i), w.at[i],
                                        flags & ADJOINT);
                y.at[i] = O::point(v.here.re, v.here.im);
                y_there.at[COUNT - 1 - i] = O::point(v.there.re, v.there.im);
            }
            store_left(block, r, here, l, y);
            store_left(block, r, there, l, y_there);
        }
    }

    /* -m has the digits (R1 - k1, R2 - 1 - k2, R3 - 1 - k3): a four's mirror is a four
     * backwards.  But for k1 = 0, and where a four is of several k1 (R3 = 1): there
     * one by one; 0 and M / 2 are their own mirrors. */
    static DEVICE void product_of_pairs(Block &block, const Arguments &a, const Pass &pass,
                                        const Place &place, int p, int warp)
    {
        EACH_LANE(l)
        {
            int of = -1, e = 0; /* the exponent of row `of` */
            NO_UNROLL
            for (int item = warp * LANES + l; item < ROWS * FOURS_EACH; item += WARPS * LANES) {
                const int each = FOURS > 0 ? FOURS_EACH : 1;
                const int at = index_below(ROWS * FOURS_EACH, item), r = at / each, i = at % each;
                if (is_past(place, r))
                    break;
                if (i >= FOURS)
                    continue;
                if (r != of)
                    e = sum_exponent(block, pass, p, of = r, l);
                const int k1 = 1 + i / (S / 4), s = i % (S / 4);
                const int k2 = Shape::four_k2(s), k3 = Shape::four_k3(s);
                const Complex high = load_complex(place, Shape::MIRROR_HIGH, k1);
                auto w = load_complexes<4>(place, Shape::MIRROR_LOW, 4 * s);
                UNROLL
                for (int n = 0; n < 4; n++)
                    w.at[n] = w.at[n] * high;
                meet_all<4>(block, a, pass, place, r, e, l, Shape::point_of(k1, k2, k3),
                            Shape::point_of(R1 - k1, R2 - 9 - k2, R3 - 2 - k3), w);
            }
            NO_UNROLL
            for (int item = warp * LANES + l; item < ROWS * SINGLES / 2; item += WARPS * LANES) {
                const int r = item / (SINGLES / 2), first = item % (SINGLES / 2);
                if (is_past(place, r))
                    break;
                if (r != of)
                    e = sum_exponent(block, pass, p, of = r, l);
                NO_UNROLL /* 0 and M / 2 by one lane */
                    for (int i = first; i <= (first ? first : SINGLES / 2); i += SINGLES / 2)
                {
                    const int m = i * (M / SINGLES), mirror = (M - m) % M;
                    const int k2 = m / R1 % R2, k3 = m / R1 / R2;
                    const Complex w = load_complex(place, Shape::MIRROR_HIGH, m % R1) *
                                      load_complex(place, Shape::MIRROR_LOW,
                                                   Shape::in_four(k2, k3));
                    meet_all<1>(block, a, pass, place, r, e, l, Shape::point_of(m % R1, k2, k3),
                                Shape::point_of(mirror % R1, mirror / R1 % R2, mirror / R1 / R2),
                                {{w}});
                }
            }
        }
    }

    static DEVICE int sum_exponent(Block &block, const Pass &pass, int p, int r, int l)
    {
        return flags_of(pass) & SUM ? exponent(block, p - 1, r, l) + exponent(block, p, r, l) : 0;
    }

    /* ---- Phase 3: stage 1 back, to the sink. */

    typedef Pack<Point, 2 * RUN_POINTS> Neighbours;

    /* V[k1, c ...] and V[k1 + 1, c ...], k1 even: neighbours where R3 is small. */
    static DEVICE Neighbours load_pair(Block &block, int r, int k1, int c, int l)
    {
        if (RUN_POINTS < NEAR)
            return block.template load<Neighbours>(shared_place(r, k1, c), l);
        const auto v = block.template load<Points>(shared_place(r, k1, c), l);
        const auto w = block.template load<Points>(shared_place(r, k1 + 1, c), l);
        Neighbours both;
        UNROLL
        for (int i = 0; i < RUN_POINTS; i++) {
            both.at[i] = v.at[i];
            both.at[RUN_POINTS + i] = w.at[i];
        }
        return both;
    }

    static DEVICE void last(Block &block, const Arguments &a, const Pass &pass, const Place &place,
                            int p, int strip, Lanes<float> &dskip)
    {
        Lanes<int> e[2]; /* of a lane's even and odd columns of C */
        EACH_LANE(l)
        {
            UNROLL
            for (int i = 0; i < 2; i++) {
                const int r = column(place, strip, l % 4 * 2 + i) / S;
                const int b = place.b0 + r;
                e[i][l] = !is_past(place, r) && flags_of(pass) & MULTIPLY
                              ? load_constant(a.exponents + kernel_of(a, place, b))
                              : 0;
                if (!is_past(place, r) && flags_of(pass) & TRANSFORM)
                    e[i][l] += exponent(block, p, r, l);
            }
        }
        NO_UNROLL
        for (int m = 0; m < K1; m++) {
            Lanes<FragmentC> y[RUN];
            UNROLL
            for (int j = 0; j < RUN; j++)
                clear(y[j]);
            UNROLL
            for (int k = 0; k < K1; k++) {
                Lanes<FragmentA<Arith>> f_re, f_im; /* Re (conj(F) V) = Re F Re V + Im F Im V */
                load_a(place, Shape::LAST, m * K1 + k, f_re, f_im);
                UNROLL /* in two halves: fewer fragments at a time */
                    for (int part = 0; part < RUN; part += NEAR)
                {
                    if (part && place.pairs)
                        continue;
                    Lanes<FragmentB<Arith>> b_re[NEAR], b_im[NEAR];
                    EACH_LANE(l)
                    {
                        const int at = column(place, strip, l / 4) + part, r = at / S, c = at % S;
                        UNROLL
                        for (int i = 0; i < 2; i++)
                            UNROLL
                        for (int j = 0; j < NEAR; j += RUN_POINTS) {
                            const int k1 = 16 * k + l % 4 * 2 + 8 * i;
                            const auto v = load_pair(block, r, k1, c + j, l);
                            UNROLL
                            for (int o = 0; o < RUN_POINTS; o++) {
                                const Point p = v.at[o], q = v.at[RUN_POINTS + o];
                                b_re[j + o][l].at[i] = O::reals(p, q);
                                b_im[j + o][l].at[i] = O::imaginaries(p, q);
                            }
                        }
                    }
                    UNROLL
                    for (int j = 0; j < NEAR; j++) {
                        multiply_add(y[part + j], f_re, b_re[j]);
                        multiply_add(y[part + j], f_im, b_im[j]);
                    }
                    if (!part && place.pairs) /* ... Im = Re F Im V - Im F Re V */
                        UNROLL
                    for (int j = 0; j < NEAR; j++) {
                        multiply_add(y[NEAR + j], f_re, b_im[j]);
                        multiply_subtract(y[NEAR + j], f_im, b_re[j]);
                    }
                }
            }
            EACH_LANE(l)
            {
                NO_UNROLL /* the sink's code once */
                    for (int i = 0; i < 4; i++)
                { /* of a C: row and column */
                    const int at = column(place, strip, l % 4 * 2 + i % 2), r = at / S;
                    const int b = place.b0 + r;
                    if (is_past(place, r))
                        continue;
                    float x[RUN], v[RUN];
                    UNROLL
                    for (int j = 0; j < RUN; j++) {
                        const FragmentC &f = y[j][l];
                        x[j] = scaled(i < 2   ? i < 1 ? f.at[0] : f.at[1]
                                      : i < 3 ? f.at[2]
                                              : f.at[3],
                                      i % 2 ? e[1][l] : e[0][l]);
                    }
                    UNROLL
                    for (int j = 0; j < RUN; j++)
                        v[j] = place.pairs ? x[j / 2 + j % 2 * NEAR] : x[j];
                    sink<ROLE>(block, pass, b, place.h, own_row(block, a, place, r),
                               ((16 * m + l / 4 + i / 2 * 8) * S + at % S) << place.pairs, l, v,
                               dskip[l]);
                }
            }
        }
    }

    /* ---- All of it. */
    static DEVICE void run(Block &block, const Arguments &a)
    {
        Warps<Lanes<float>, WARPS> dskip;
        const int tasks = static_cast<int>(a.channels * a.chunks);
        Place place; /* of a task its h and chunk alone are kept in registers */
        for (int task = static_cast<int>(block.index); task < tasks;
             task = task_of(a, place) + static_cast<int>(block.count)) {
            place.h = task / static_cast<int>(a.chunks);
            place.chunk = task % static_cast<int>(a.chunks);
            block.phase([&](int warp) {
                EACH_LANE(l) { dskip[warp][l] = 0; }
            });
            for (place.b0 = place.chunk * static_cast<int>(a.per);
                 place.b0 < end_of(a, opaque(place.chunk)); place.b0 += ROWS) {
                for (int p = 0; p < (ROLE == ROWS_FORWARD ? 1 : a.passes); p++) {
                    const Pass &pass = a.pass[p];
                    if (flags_of(pass) & TRANSFORM)
                        block.phase([&](int warp) {
                            for (int strip = warp; strip < strips(a); strip += WARPS)
                                first(block, a, pass, hidden(a, place), strip);
                        });
                    const auto some = [&](int flags) {
                        block.phase([&](int warp) {
                            middle(block, a, pass, hidden(a, place), flags, p, warp);
                        });
                    };
                    if (MEETS && opaque(a.even_odd)) {
                        enum { PRODUCT = SUM | MULTIPLY | ADJOINT };
                        some((flags_of(pass) & ~(PRODUCT | BACK)) | LEAVE);
                        if (flags_of(pass) & PRODUCT)
                            block.phase([&](int warp) {
                                product_of_pairs(block, a, pass, hidden(a, place), p, warp);
                            });
                        if (flags_of(pass) & BACK)
                            some(BACK | TAKE);
                    } else {
                        some(flags_of(pass));
                    }
                    if (flags_of(pass) & BACK)
                        block.phase([&](int warp) {
                            for (int strip = warp; strip < strips(a); strip += WARPS)
                                last(block, a, pass, hidden(a, place), p, strip, dskip[warp]);
                        });
                }
            }
            if (ROLE == ROWS_BACKWARD && a.dskip) {
                block.phase([&](int warp) {
                    sum_over(dskip[warp]);
                    EACH_LANE(l)
                    {
                        if (l == 0)
                            block.store(warp_place(warp), l, dskip[warp][l]);
                    }
                });
                block.phase([&](int warp) {
                    EACH_LANE(l)
                    {
                        float sum = 0;
                        for (int w = 0; warp == 0 && l == 0 && w < WARPS; w++)
                            sum += block.template load<float>(warp_place(w), l);
                        if (warp == 0 && l == 0)
                            a.dskip[task_of(a, place)] = sum;
                    }
                });
            }
        }
    }
};

} // namespace fftconv
#endif
