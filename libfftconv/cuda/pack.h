/* The helpers of the fused kernel.  PackKernel adds up spectra in float32 and rounds the sums to
 * points with an exponent for each spectrum.  FillKernel writes short sums, or zeros.  All sums
 * are in a fixed order, so that every run gives the same bits. */
#ifndef FFTCONV_CUDA_PACK_H
#define FFTCONV_CUDA_PACK_H

#include "rowio.h"

namespace fftconv
{

template <class Arith> struct PackKernel {
    typedef fftconv_cuda_pack Arguments;
    enum { WARPS = 8, BLOCKS = 1, SHARED_BYTES = 16 };

    static DEVICE void run(Block &block, const Arguments &a)
    {
        typedef Pack<Complex, 4> Four;
        typedef Pack<typename Arith::Point, 4> FourPoints;
        const int64_t fours = a.points / 4;
        for (int64_t row = block.index; row < a.rows[0] * a.rows[1]; row += block.count) {
            Four *from = reinterpret_cast<Four *>(a.from) +
                         (row / a.rows[1] * a.step[0] + row % a.rows[1] * a.step[1]) / 4;
            block.phase([&](int warp) {
                EACH_LANE(l)
                {
                    if (warp == 0 && l == 0)
                        block.store(0, l, uint32_t(0));
                }
            });
            block.phase([&](int warp) {
                Lanes<uint32_t> largest;
                EACH_LANE(l)
                {
                    uint32_t most = 0;
                    for (int64_t i = warp * LANES + l; i < fours; i += WARPS * LANES) {
                        Four sum = {};
                        for (int64_t m = 0; m < a.count[0]; m++)
                            for (int64_t n = 0; n < a.count[1]; n++) {
                                const Four v = load_global(
                                    from + (m * a.sum_step[0] + n * a.sum_step[1]) / 4 + i);
                                UNROLL
                                for (int j = 0; j < 4; j++) {
                                    sum.at[j].re += v.at[j].re;
                                    sum.at[j].im += v.at[j].im;
                                }
                            }
                        UNROLL
                        for (int j = 0; j < 4; j++) {
                            const uint32_t re = float_bits(sum.at[j].re) & 0x7fffffff;
                            const uint32_t im = float_bits(sum.at[j].im) & 0x7fffffff;
                            most = re > most ? re : most;
                            most = im > most ? im : most;
                        }
                        store_global(from + i, sum); /* only this lane reads or writes it */
                    }
                    largest[l] = most;
                }
                max_over(largest, 31);
                EACH_LANE(l)
                {
                    if (l == 0)
                        block.atomic_max(0, l, largest[l]);
                }
            });
            if (!a.to)
                continue;
            block.phase([&](int warp) {
                EACH_LANE(l)
                {
                    /* exponent_of brings the largest part to [128, 256), and 2^-9 brings it
                     * on to [1/4, 1/2). */
                    const int e = exponent_of(block.template load<uint32_t>(0, l)) + 9;
                    FourPoints *to = static_cast<FourPoints *>(a.to) + row * fours;
                    for (int64_t i = warp * LANES + l; i < fours; i += WARPS * LANES) {
                        const Four v = load_global(from + i);
                        FourPoints points;
                        UNROLL
                        for (int j = 0; j < 4; j++)
                            points.at[j] = Ops<Arith>::point(scaled(v.at[j].re, -e),
                                                             scaled(v.at[j].im, -e));
                        store_global(to + i, points);
                    }
                    if (warp == 0 && l == 0)
                        store_global(a.exponents + row, e + a.shift);
                }
            });
        }
    }
};

/* There are few numbers to add up for each element, so each lane adds up its own. */
struct FillKernel {
    typedef fftconv_cuda_fill Arguments;
    enum { WARPS = 4, BLOCKS = 1, SHARED_BYTES = 16 };

    static DEVICE void run(Block &block, const Arguments &a)
    {
        block.phase([&](int warp) {
            EACH_LANE(l)
            {
                const int64_t all = a.batch * a.channels * a.length;
                for (int64_t i = (block.index * WARPS + warp) * LANES + l; i < all;
                     i += block.count * WARPS * LANES) {
                    const int64_t row = i / a.length, h = row % a.channels;
                    float sum = 0;
                    for (int64_t m = 0; m < a.count; m++)
                        sum += load_global(a.from + h * a.count + m);
                    set_element(row_of(a.to, row / a.channels, h), i % a.length, sum);
                }
            }
        });
    }
};

} // namespace fftconv
#endif
