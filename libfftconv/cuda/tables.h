/* The constants of one shape's stages: DFT matrices and twiddles, made on the host in double and
 * laid out as layout.h says. */
#ifndef FFTCONV_CUDA_TABLES_H
#define FFTCONV_CUDA_TABLES_H

#include <math.h>

#include "layout.h"

namespace fftconv
{

/* exp(2 pi i turns) */
struct Wide {
    double re, im;
};

inline Wide root(double turns)
{
    const double angle = 2 * 3.14159265358979323846 * (turns - floor(turns));
    return {cos(angle), sin(angle)};
}

/* The factor that a stage of this radix carries in each direction: a power of two near
 * 1 / sqrt(R).  The product of both is 1 / R. */
inline double forward_scale(int radix) { return exp2(-ceil(log2(radix) / 2)); }
inline double inverse_scale(int radix) { return 1 / (radix * forward_scale(radix)); }

template <class Shape> struct Tables {
    typedef typename Shape::Arith Arith;
    enum { R1 = Shape::R1, R2 = Shape::R2, R3 = Shape::R3, S = Shape::S, X = Shape::X };

    /* The matrix value(row, column) as fragments of A, in tiles of 16 x 16. */
    template <class F> static void put_a(unsigned char *to, int rows, int columns, const F &value)
    {
        FragmentA<Arith> *f = reinterpret_cast<FragmentA<Arith> *>(to);
        for (int m = 0; m < rows; m += 16)
            for (int k = 0; k < columns; k += 16, f += 2 * LANES)
                for (int l = 0; l < LANES; l++)
                    for (int i = 0; i < 4; i++) {
                        const int row = m + l / 4 + i % 2 * 8, column = k + l % 4 * 2 + i / 2 * 8;
                        put(value(row, column), value(row, column + 1), f[l].at[i],
                            f[LANES + l].at[i]);
                    }
    }
    /* The same as fragments of B, in tiles of 16 x 8. */
    template <class F> static void put_b(unsigned char *to, int rows, int columns, const F &value)
    {
        FragmentB<Arith> *f = reinterpret_cast<FragmentB<Arith> *>(to);
        for (int k = 0; k < rows; k += 16)
            for (int n = 0; n < columns; n += 8, f += 2 * LANES)
                for (int l = 0; l < LANES; l++)
                    for (int i = 0; i < 2; i++) {
                        const int row = k + l % 4 * 2 + i * 8, column = n + l / 4;
                        put(value(row, column), value(row + 1, column), f[l].at[i],
                            f[LANES + l].at[i]);
                    }
    }
    /* The same in float32, each number once, as a lane holds a C, in tiles of 16 x 8. */
    template <class F> static void put_c(unsigned char *to, int rows, int columns, const F &value)
    {
        Complex *c = reinterpret_cast<Complex *>(to);
        for (int m = 0; m < rows; m += 16)
            for (int n = 0; n < columns; n += 8)
                for (int l = 0; l < LANES; l++)
                    for (int i = 0; i < 4; i++)
                        *c++ = single(value(m + l / 4 + i / 2 * 8, n + l % 4 * 2 + i % 2));
    }
    static Complex single(Wide w) { return {static_cast<float>(w.re), static_cast<float>(w.im)}; }
    static void put(Wide a, Wide b, typename Arith::Pair &re, typename Arith::Pair &im)
    {
        re = Ops<Arith>::pair(static_cast<float>(a.re), static_cast<float>(b.re));
        im = Ops<Arith>::pair(static_cast<float>(a.im), static_cast<float>(b.im));
    }
    static Wide times(Wide w, double x) { return {w.re * x, w.im * x}; }
    /* The column of a tile that is column i of its fragments, which have 8 columns each. */
    static int tile_column(int i) { return Shape::column_of(i / 8, i % 8); }

    static void build(unsigned char *to, int even_odd)
    {
        const double angle = even_odd ? 0 : 0.25;
        const auto first = [=](int k1, int n1) {
            return times(root(-n1 * (k1 - angle) / R1), forward_scale(R1));
        };
        const auto last = [=](int n1, int k1) { /* The kernel needs Re F and Im F, for conj(F) V. */
                                                return times(root(-n1 * (k1 - angle) / R1),
                                                             inverse_scale(R1));
        };
        const auto second = [](int k, int n) {
            return times(root(-double(n * k) / R2), forward_scale(R2));
        };
        const auto second_back = [](int n, int k) {
            return times(root(double(n * k) / R2), inverse_scale(R2));
        };
        /* A tile has X columns x = (k1, n3), and stage 3 sums over n3 within one k1: its matrix is
         * block-diagonal. */
        const auto third = [](int i, int x) {
            const int from = tile_column(i);
            return from / R3 != x / R3
                       ? Wide{0, 0}
                       : times(root(-double(from % R3 * (x % R3)) / R3), forward_scale(R3));
        };
        const auto third_back = [](int i, int x) {
            const int from = tile_column(i);
            return from / R3 != x / R3
                       ? Wide{0, 0}
                       : times(root(double(from % R3 * (x % R3)) / R3), inverse_scale(R3));
        };
        put_a(to + Shape::FIRST, R1, R1, first);
        put_a(to + Shape::LAST, R1, R1, last);
        put_a(to + Shape::SECOND, R2, R2, second);
        put_a(to + Shape::SECOND_BACK, R2, R2, second_back);
        put_b(to + Shape::THIRD, X, X, third);
        put_a(to + Shape::THIRD_BACK, X, X, third_back);
        put_c(to + Shape::T2, R2, X,
              [](int k, int i) { return root(-double(tile_column(i) % R3 * k) / S); });
        put_c(to + Shape::T2_BACK, X, R2,
              [](int i, int k) { return root(double(tile_column(i) % R3 * k) / S); });
        Complex *high = reinterpret_cast<Complex *>(to + Shape::T1_HIGH);
        Complex *low = reinterpret_cast<Complex *>(to + Shape::T1_LOW);
        for (int k = 0; k < R1; k++) {
            for (int n = 0; n < R2; n++)
                high[k * R2 + n] = single(root(-n * R3 * (k - angle) / Shape::M));
            for (int n = 0; n < R3; n++)
                low[k * R3 + n] = single(root(-n * (k - angle) / Shape::M));
        }
        Complex *mirror_high = reinterpret_cast<Complex *>(to + Shape::MIRROR_HIGH);
        Complex *mirror_low = reinterpret_cast<Complex *>(to + Shape::MIRROR_LOW);
        for (int k = 0; k < R1; k++)
            mirror_high[k] = single(root(-double(k) / Shape::M));
        for (int k = 0; k < S; k++)
            mirror_low[Shape::in_four(k % R2, k / R2)] = single(root(-double(k) / S));
    }
    /* log2 of the factor by which a forward transform scales its result */
    static int shift()
    {
        return static_cast<int>(log2(forward_scale(R1) * forward_scale(R2) * forward_scale(R3)));
    }
};

} // namespace fftconv
#endif
