/* HEAD */
#ifndef FFTCONV_CUDA_LAYOUT_H
#define FFTCONV_CUDA_LAYOUT_H

#include "machine.h"

namespace fftconv
{

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

} // namespace fftconv
#endif
