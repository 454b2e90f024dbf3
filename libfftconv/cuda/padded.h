/* The kernels of the padded engine, which stand around the transforms of cuFFT: from the caller's
 * rows to padded real rows, products of spectra, sums over rows, and back to what the caller wants.
 *
 * A buffer holds rows of `pitch` complex numbers, a multiple of 16.  A real row is the first
 * `points` of its 2 pitch real numbers, and its spectrum the first points / 2 + 1 complex numbers
 * in the same place; the rest of a row is zero.  A warp takes a stretch of a row at a time, and
 * all sums are in a fixed order. */
#ifndef FFTCONV_CUDA_PADDED_H
#define FFTCONV_CUDA_PADDED_H

#include "padded_arguments.h"
#include "sink.h"

namespace fftconv
{

enum { RUN = 8 }; /* elements that a lane takes at once */

template <class T> struct PaddedBase {
    typedef fftconv_cuda_padded Arguments;
    enum { WARPS = PADDED_WARPS, BLOCKS = 1, SHARED_BYTES = 0, STEP = LANES * RUN };
    struct Bin {
        T re, im;
    };
    typedef Pack<Bin, 16 / sizeof(Bin)> Bins; /* moved in one access */
    enum { BINS = 16 / sizeof(Bin) };

    /* Calls f(row, first, last) for each stretch [first, last) of each row of `length` elements. */
    template <class F>
    static DEVICE void each_stretch(Block &block, int64_t rows, int64_t length, int64_t stretch,
                                    const F &f)
    {
        const int64_t parts = (length + stretch - 1) / stretch;
        block.phase([&](int warp) {
            for (int64_t task = block.index * WARPS + warp; task < rows * parts;
                 task += block.count * WARPS) {
                const int64_t row = task / parts, first = task % parts * stretch;
                f(row, first, first + stretch < length ? first + stretch : length);
            }
        });
    }
    static DEVICE T *real_row(const void *buffer, const Arguments &a, int64_t row)
    {
        return const_cast<T *>(static_cast<const T *>(buffer)) + row * 2 * a.pitch;
    }
    static DEVICE Bins *bins_of(const void *buffer, const Arguments &a, int64_t row)
    {
        return reinterpret_cast<Bins *>(real_row(buffer, a, row));
    }
    /* A run of a buffer's row, which is aligned. */
    static DEVICE void get(const T *from, T (&x)[RUN])
    {
        values_of(load_global(reinterpret_cast<const Pack<T, RUN> *>(from)), 0, x);
    }
    static DEVICE void put(T *to, const T (&x)[RUN])
    {
        store_global(reinterpret_cast<Pack<T, RUN> *>(to), pack_of<T>(x));
    }
    /* The number, from a.spectrum on, of the kernel that serves row (i, j) of the tile. */
    static DEVICE int64_t kernel_of(const Arguments &a, int64_t row)
    {
        return row % a.batch * a.spectrum_step + (a.h + row / a.batch) / a.members -
               a.h / a.members;
    }
};

/* The pass's input rows to x, with zeros behind each row's end, and in rows behind the tile's. */
template <class T> struct LoadKernel : PaddedBase<T> {
    typedef PaddedBase<T> Base;

    static DEVICE void run(Block &block, const fftconv_cuda_padded &a)
    {
        const Pass &pass = a.pass;
        Base::each_stretch(
            block, a.x_rows, 2 * a.pitch, a.stretch, [&](int64_t row, int64_t first, int64_t last) {
                EACH_LANE(l)
                {
                    const bool there = row < a.channels * a.batch;
                    const int64_t h = a.h + row / a.batch, b = a.b + row % a.batch;
                    const int from = there ? pass.from : 0, to = there ? pass.to : 0;
                    const Row x_row = row_of<T>(pass.x, b, h), gate = row_of<T>(pass.gate, b, h);
                    const T scale = there && pass.scale.data ? scalar_of<T>(pass.scale, b, h)
                                                             : T(1);
                    const T *own = static_cast<const T *>(a.own) + row * a.own_pitch;
                    for (int64_t n = first + l * RUN; n < last; n += Base::STEP) {
                        T x[RUN];
                        const int at = static_cast<int>(n);
                        if (at >= to) {
                            UNROLL
                            for (int i = 0; i < RUN; i++)
                                x[i] = 0;
                        } else if (pass.own) {
                            UNROLL
                            for (int i = 0; i < RUN; i++)
                                x[i] = at + i < to ? load_global(own + at + i) : T(0);
                        } else {
                            read_run(x_row, at, from, to, x);
                            if (pass.gate.data)
                                multiply_run(gate, at, from, to, x);
                            UNROLL
                            for (int i = 0; i < RUN; i++)
                                x[i] *= scale;
                        }
                        Base::put(Base::real_row(a.x, a, row) + n, x);
                    }
                }
            });
    }
};

/* x = K from, or conj(K) from, where K is the spectrum of each row's kernel; from may be x. */
template <class T> struct ProductKernel : PaddedBase<T> {
    typedef PaddedBase<T> Base;

    static DEVICE void run(Block &block, const fftconv_cuda_padded &a)
    {
        typedef typename Base::Bin Bin;
        typedef typename Base::Bins Bins;
        const T sign = a.pass.flags & ADJOINT ? T(-1) : T(1);
        Base::each_stretch(
            block, a.channels * a.batch, a.pitch, a.stretch,
            [&](int64_t row, int64_t first, int64_t last) {
                EACH_LANE(l)
                {
                    const Bins *k = Base::bins_of(a.spectrum, a, Base::kernel_of(a, row));
                    const Bins *from = Base::bins_of(a.from, a, row);
                    Bins *to = Base::bins_of(a.x, a, row);
                    for (int64_t n = first / Base::BINS + l; n < last / Base::BINS; n += LANES) {
                        const Bins u = load_global(from + n), v = load_global(k + n);
                        Bins w;
                        UNROLL
                        for (int i = 0; i < Base::BINS; i++) {
                            const Bin p = u.at[i], q = {v.at[i].re, sign * v.at[i].im};
                            w.at[i] = {p.re * q.re - p.im * q.im, p.re * q.im + p.im * q.re};
                        }
                        store_global(to + n, w);
                    }
                }
            });
    }
};

/* Sums over the rows of each kernel q of the tile, one channel after another, in double.  The
 * first launch sums conj(Z) G over rows_per_sum rows at a time, with G in x, and writes each sum,
 * rounded to T, to the first of its rows in z.  The second, with `join` set, adds up these sums
 * and writes the result to row q of `sums`, or adds it to what is there unless this is the
 * kernel's first tile. */
template <class T> struct SumKernel : PaddedBase<T> {
    typedef PaddedBase<T> Base;
    enum { NEAR = 4 }; /* so many rows are read before the first of them is waited for */

    static DEVICE void run(Block &block, const fftconv_cuda_padded &a)
    {
        typedef typename Base::Bins Bins;
        const bool products = !a.join;
        /* A tile never has 2^31 rows. */
        const int kernels = static_cast<int>(a.kernels), per = static_cast<int>(a.rows_per_sum);
        const int members = static_cast<int>(a.channels) / kernels;
        const int each = a.kernel_batch > 1 ? 1 : static_cast<int>(a.batch);
        const int rows = members * each; /* rows of one kernel */
        const int parts = products ? (rows + per - 1) / per : 1, step = products ? 1 : per;
        Base::each_stretch(
            block, a.kernel_batch * a.kernels * parts, a.pitch, Base::BINS * LANES,
            [&](int64_t task, int64_t first, int64_t) {
                EACH_LANE(l)
                {
                    const int64_t n = first / Base::BINS + l;
                    const int q = static_cast<int>(task) / parts;
                    const int begin = static_cast<int>(task) % parts * per;
                    const int end = products && begin + per < rows ? begin + per : rows;
                    const auto row = [&](int i) { /* row i of this kernel's, as a row of the tile */
                                                  return (q % kernels * members + i / each) *
                                                             a.batch +
                                                         q / kernels + i % each;
                    };
                    if (n < a.pitch / Base::BINS) {
                        double re[Base::BINS] = {}, im[Base::BINS] = {};
                        for (int i = begin; i < end; i += NEAR * step) {
                            Bins z[NEAR] = {}, x[NEAR] = {};
                            UNROLL
                            for (int j = 0; j < NEAR; j++)
                                if (i + j * step < end) {
                                    z[j] = load_global(Base::bins_of(a.z, a, row(i + j * step)) +
                                                       n);
                                    if (products)
                                        x[j] = load_global(
                                            Base::bins_of(a.x, a, row(i + j * step)) + n);
                                }
                            UNROLL
                            for (int j = 0; j < NEAR; j++)
                                UNROLL
                            for (int m = 0; m < Base::BINS; m++) {
                                const double zr = z[j].at[m].re, zi = z[j].at[m].im;
                                const double xr = x[j].at[m].re, xi = x[j].at[m].im;
                                re[m] += products ? zr * xr + zi * xi : zr;
                                im[m] += products ? zr * xi - zi * xr : zi;
                            }
                        }
                        Bins *to = products ? Base::bins_of(a.z, a, row(begin)) + n
                                            : Base::bins_of(a.sums, a, q) + n;
                        Bins sum = {};
                        if (!products && !a.first_tile)
                            sum = load_global(to);
                        UNROLL
                        for (int m = 0; m < Base::BINS; m++) {
                            sum.at[m].re = static_cast<T>(sum.at[m].re + re[m]);
                            sum.at[m].im = static_cast<T>(sum.at[m].im + im[m]);
                        }
                        store_global(to, sum);
                    }
                }
            });
    }
};

/* The rows x, transformed back, to the pass's sink.  The sums for dskip are written one for each
 * stretch of each row. */
template <class T> struct StoreKernel : PaddedBase<T> {
    typedef PaddedBase<T> Base;

    static DEVICE void run(Block &block, const fftconv_cuda_padded &a)
    {
        const Pass &pass = a.pass;
        const int64_t parts = (pass.sink_to + a.stretch - 1) / a.stretch;
        Base::each_stretch(
            block, a.channels * a.batch, pass.sink_to, a.stretch,
            [&](int64_t row, int64_t first, int64_t last) {
                Lanes<T> dskip;
                const int64_t i = row / a.batch, j = row % a.batch;
                EACH_LANE(l)
                {
                    dskip[l] = 0;
                    T *own = static_cast<T *>(a.own) + row * a.own_pitch;
                    for (int64_t n = first + l * RUN; n < last; n += Base::STEP) {
                        T v[RUN];
                        Base::get(Base::real_row(a.x, a, row) + n, v);
                        sink<ROLES>(pass, a.b + j, a.h + i, own, static_cast<int>(n), v, dskip[l]);
                    }
                }
                if (a.dskip) {
                    sum_over(dskip);
                    EACH_LANE(l)
                    {
                        if (l == 0)
                            store_global(static_cast<T *>(a.dskip) +
                                             ((a.h + i) * a.dskip_batch + a.b + j) * parts +
                                             first / a.stretch,
                                         dskip[l]);
                    }
                }
            });
    }
};

/* dskip[h] from its dskip_parts sums. */
template <class T> struct SkipKernel : PaddedBase<T> {
    typedef PaddedBase<T> Base;

    static DEVICE void run(Block &block, const fftconv_cuda_padded &a)
    {
        Base::each_stretch(block, a.channels, 1, 1, [&](int64_t h, int64_t, int64_t) {
            Lanes<T> sum;
            EACH_LANE(l)
            {
                sum[l] = 0;
                for (int64_t i = l; i < a.dskip_parts; i += LANES)
                    sum[l] += load_global(static_cast<const T *>(a.dskip) + h * a.dskip_parts + i);
            }
            sum_over(sum);
            EACH_LANE(l)
            {
                if (l == 0)
                    set_element(row_of<T>(a.dskip_out, 0, h), 0, sum[l]);
            }
        });
    }
};

/* Taps times `scale` to the rows of x, of which row 0 is that of kernel number first_kernel of the
 * tile's.  A tap of lag s >= 0 stands at place s, and one of lag -s at place points - s; lag 0 of
 * k_rev stands at place 0.  Where a circle of fft_size was padded, tap s >= wrapped_from has the
 * lag s - fft_size as well. */
template <class T> struct PlaceKernel : PaddedBase<T> {
    typedef PaddedBase<T> Base;

    static DEVICE void run(Block &block, const fftconv_cuda_padded &a)
    {
        Base::each_stretch(
            block, a.x_rows, 2 * a.pitch, a.stretch, [&](int64_t row, int64_t first, int64_t last) {
                EACH_LANE(l)
                {
                    const int64_t q = a.first_kernel + row, b = a.kernel_b + q / a.kernels;
                    const int64_t g = a.g + q % a.kernels;
                    const bool there = q < a.kernel_batch * a.kernels;
                    const bool more = there && (a.rev_used > 0 || a.wrapped_from < a.fft_size);
                    const Row k = row_of<T>(a.k, b, g), k_rev = row_of<T>(a.k_rev, b, g);
                    const T scale = static_cast<T>(a.scale);
                    for (int64_t n = first + l * RUN; n < last; n += Base::STEP) {
                        T x[RUN], *to = Base::real_row(a.x, a, row) + n;
                        read_run(k, static_cast<int>(n), 0, there ? static_cast<int>(a.k_used) : 0,
                                 x);
                        UNROLL
                        for (int i = 0; i < RUN; i++)
                            x[i] *= scale;
                        Base::put(to, x);
                        NO_UNROLL
                        for (int64_t i = n; more && i < n + RUN && i < a.points; i++) {
                            const int64_t s = a.fft_size - a.points + i,
                                          lag = i > 0 ? a.points - i : 0;
                            T *const at = to + (i - n);
                            if (i > 0 && a.wrapped_from <= s && s < a.k_length)
                                store_global(at, load_global(at) + element<T>(k, s) * scale);
                            if (lag < a.rev_used)
                                store_global(at, load_global(at) + element<T>(k_rev, lag) * scale);
                        }
                    }
                }
            });
    }
};

/* The adjoint: the dk_length gradients of k's taps, or of k_rev's where `reversed`, from rows. */
template <class T> struct TakeKernel : PaddedBase<T> {
    typedef PaddedBase<T> Base;

    static DEVICE void run(Block &block, const fftconv_cuda_padded &a)
    {
        Base::each_stretch(
            block, a.kernel_batch * a.kernels, a.dk_length, a.stretch,
            [&](int64_t q, int64_t first, int64_t last) {
                EACH_LANE(l)
                {
                    const T *row = Base::real_row(a.x, a, q);
                    const Row to = row_of<T>(a.dk, a.kernel_b + q / a.kernels, a.g + q % a.kernels);
                    for (int64_t n = first + l * RUN; n < last; n += Base::STEP) {
                        T x[RUN];
                        UNROLL
                        for (int i = 0; i < RUN; i++) {
                            const int64_t s = n + i;
                            x[i] = 0;
                            if (s < a.dk_used)
                                x[i] = load_global(row + (a.reversed && s > 0 ? a.points - s : s));
                            if (!a.reversed && a.wrapped_from <= s && s < a.dk_length)
                                x[i] += load_global(row + a.points - a.fft_size + s);
                            x[i] *= static_cast<T>(a.scale);
                        }
                        write_run(to, static_cast<int>(n), 0, static_cast<int>(a.dk_length), x);
                    }
                }
            });
    }
};

} // namespace fftconv
#endif
