/* Where everything lies, for one transform length in one arithmetic: the constants of the stages
 * in their table, points in a block's shared memory, and frequencies in a spectrum.
 *
 * Matrices are stored as the fragments that lanes hold (machine.h), tile after tile, and of each
 * tile first the real and then the imaginary parts.  kernel.h defines the stages, and the indices
 * n1, n2, n3, k1, k2, k3 that are used here. */
#ifndef FFTCONV_CUDA_LAYOUT_H
#define FFTCONV_CUDA_LAYOUT_H

#include "arguments.h"
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
        /* A tile is what a warp takes through stages 2 and 3: R2 rows of X columns, for GROUP
         * values of k1.  A row has ROW_TILES of them, and a block takes ROWS rows at once. */
        X = R3 < 16 ? 16 : R3,
        GROUP = X / R3,
        TILE = R2 * X,
        ROW_TILES = R1 / GROUP,
        ROWS = M < 4096 ? 4096 / M : 1,
        /* A strip is what a warp takes through stage 1 and its inverse: WIDTH columns c, of which
         * each lane has RUN neighbours. */
        RUN = Arith::RUN,
        WIDTH = 8 * RUN,
        STRIPS = ROWS * S / WIDTH,
        /* The sizes of matrices, in fragments of 16 or 8. */
        K1 = R1 / 16,
        K2 = R2 / 16,
        X16 = X / 16,
        X8 = X / 8,
        NEAR = 16 / static_cast<int>(sizeof(Point)), /* points in one access of 16 bytes */
        RUN_POINTS = R3 < NEAR ? R3 : NEAR, /* neighbours in c that are neighbours in a tile */

        A_BYTES = 2 * LANES * static_cast<int>(sizeof(FragmentA<Arith>)),
        B_BYTES = 2 * LANES * static_cast<int>(sizeof(FragmentB<Arith>)),
        COMPLEX_BYTES = static_cast<int>(sizeof(Complex)),
        FIRST = 0,                                /* [k1, n1] */
        LAST = FIRST + K1 * K1 * A_BYTES,         /* [n1, k1], see Tables */
        SECOND = LAST + K1 * K1 * A_BYTES,        /* [k2, n2] */
        SECOND_BACK = SECOND + K2 * K2 * A_BYTES, /* [n2, k2] */
        THIRD = SECOND_BACK + K2 * K2 * A_BYTES,  /* [n3, k3] */
        THIRD_BACK = THIRD + X16 * X8 * B_BYTES,  /* [n3, k3] */
        T2 = THIRD_BACK + X16 * X16 * A_BYTES,    /* twiddles as a lane holds stage 2's C */
        T2_BACK = T2 + S * GROUP * COMPLEX_BYTES, /* twiddles as it holds C of stage 3's inverse */
        /* T1[k1, c] = T1_HIGH[k1, n2] T1_LOW[k1, n3] with c = R3 n2 + n3. */
        T1_HIGH = T2_BACK + S * GROUP * COMPLEX_BYTES,
        T1_LOW = T1_HIGH + R1 * R2 * COMPLEX_BYTES,
        /* With W = exp(-2 pi i / M): MIRROR_LOW[k2, k3] = W^(R1 (k2 + R2 k3)), and
         * MIRROR_HIGH[k1] = W^k1. */
        MIRROR_LOW = T1_LOW + R1 * R3 * COMPLEX_BYTES,
        MIRROR_HIGH = MIRROR_LOW + S * COMPLEX_BYTES,
        TABLE_BYTES = MIRROR_HIGH + R1 * COMPLEX_BYTES,

        POINTS_BYTES = ROWS * M * static_cast<int>(sizeof(Point)),
        TF32 = sizeof(Point) == sizeof(Complex),
        /* The parts of a row that have an exponent each: strips, where several make a row.  In the
         * even/odd form a strip is half as wide. */
        WIDE_PARTS = S > WIDTH ? S / WIDTH : 1,
        PARTS = S > WIDTH / 2 ? 2 * S / WIDTH : 1,
        /* Even/odd, the product takes frequencies with their mirrors: SINGLES of them one by
         * one, and the others as FOURS, each of four frequencies with the four mirrors.  These
         * are counted up to FOURS_EACH for a row, so that eight neighbouring lanes always work
         * on one row. */
        SINGLES = R3 == 1 ? M : S,
        FOURS = (M - SINGLES) / 8,
        FOURS_EACH = (FOURS + 7) / 8 * 8,
        FOURS_X = R3 < 2 ? 1
        : R3 < 8         ? R3 / 2
                         : 4,          /* fours beside each other in 8 columns, */
        FOURS_Y = R3 < 8 ? 1 : R3 / 8, /* and how often these 8 columns are repeated */
        /* A multiprocessor holds several blocks of few warps rather than one of many, so that one
         * block computes while another waits for memory. */
        WARPS = POINTS_BYTES > 65536 ? 8 : 4,
        SHARED_BYTES = POINTS_BYTES + ROWS * (PARTS + 2) * 4 + WARPS * 4,
    };
    /* Column i of tile j, of 8 columns, in stage 2's B and C.  Columns are dealt out so that those
     * which a lane has in all tiles are neighbours in memory. */
    static DEVICE constexpr int column_of(int j, int i) { return i * X8 + j; }
    /* Where Z[k1, k2, k3] of a row stands among its points.  They lie as stage 3 leaves them in
     * its fragments C: tile after tile, and in a tile four points of each lane.  Spectra lie
     * alike. */
    static DEVICE constexpr int point_of(int k1, int k2, int k3)
    {
        const int x = k1 % GROUP * R3 + k3;
        return (((k1 / GROUP * K2 + k2 / 16) * X8 + x / 8) * LANES + k2 % 8 * 4 + x % 8 / 2) * 4 +
               k2 % 16 / 8 * 2 + x % 2;
    }
    /* A four of frequencies has one k1, two values of k2, which are k2 and k2 + 8, and two of k3,
     * which are k3 and k3 + 1.  These give the first of each for four number s of those with the
     * same k1, and in_four the place of (k2, k3) when fours follow each other. */
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
    /* How many blocks a multiprocessor is to hold at once.  It has 64K registers and 227 KB of
     * shared memory on compute capability 9.0; these are the most blocks whose registers suffice
     * without spills. */
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
