/* The fused kernel: a row through the Monarch transform of order 3 on tensor cores, the product
 * with a spectrum, and back, in one launch.  This file has the mathematics, what the phases share,
 * and the order in which they run; each phase is a file of its own, included below.
 *
 * Right-angle form.  A real row x of up to M = R1 R2 R3 samples is convolved modulo t^M - i.  With
 * theta = exp(i pi / 2M),
 *     U[k] = sum_n x[n] theta^n exp(-2 pi i n k / M),
 *     y[n] = Re theta^-n sum_k K[k] U[k] exp(2 pi i n k / M) / M.
 * A tap at lag s >= 0 stands at place s, and one at lag -s at place M - s, times -i.  So causal,
 * two-sided and circular convolutions differ only in the spectrum K of the taps; in a circular one
 * modulo N, tap s has both the lags s and s - N.  The row must fit, M >= L; lags must not come
 * round, L + (the longest lag to either side) <= 2 M; and a circle needs M >= N.
 *
 * Even/odd form.  A row of up to 2 M samples is convolved modulo t^2M - 1.  This serves a circle of
 * N = 2 M, and circles in which nothing comes round.  The transform is that of the complex numbers
 * z[n] = x[2n] + i x[2n + 1], and taps are taken alike, tap s at place s.  The product needs both
 * factors at k and at -k: kernel_even_odd.h.
 *
 * The stages.  Let n = S n1 + c, c = R3 n2 + n3, S = R2 R3, and k = k1 + R1 (k2 + R2 k3); let
 * a = 1/4 in the right angle, and a = 0 even/odd.  Then
 *     1  V[k1, c]   = sum_n1 x[n1, c]  exp(-2 pi i n1 (k1 - a) / R1)
 *                     times T1[k1, c]  = exp(-2 pi i c (k1 - a) / M)
 *     2  [k2, n3]   = sum_n2 V[n2, n3] exp(-2 pi i n2 k2 / R2)       for each k1,
 *                     times T2[k2, n3] = exp(-2 pi i n3 k2 / S)
 *     3  [k2, k3]   = sum_n3           exp(-2 pi i n3 k3 / R3)
 * and after the product the same backwards with the conjugates.  In the right angle stage 1 has
 * real input, and its inverse a real result: each needs half the products of a complex stage.
 *
 * The phases.  Stage 1 reads global memory and writes V to shared memory (kernel_first.h).  A warp
 * then takes tiles of V through stages 2 and 3, the product and their inverses, without leaving
 * its registers (kernel_middle.h).  The last stage reads shared memory and writes global memory
 * (kernel_last.h).  Even/odd, the product is a phase of its own: the transform Z is left in V's
 * place, each lane multiplies frequencies and their mirrors there, and the inverse begins from
 * there.  Where R3 < 16, a tile has 16 / R3 values of k1 beside each other, and stage 3's matrix is
 * block-diagonal; where M < 4096, a block takes several rows at once.
 *
 * Why float16 does not overflow.  Each stage is scaled by 1 / sqrt(R), or by powers of two whose
 * product over both directions is 1 / R: by 1 / 4 in both for R = 16, by 1 / 8 and 1 / 4 for
 * R = 32, which is sqrt(1/2) below a unitary stage and sqrt(2) above one.  A row is scaled by a
 * power of two so that its largest sample is in [128, 256), and a spectrum so that its largest part
 * is in [1/4, 1/2).  Then no number ever exceeds 46341, and float16 holds 65504:
 *   - An input point is at most 256 in size, or sqrt(2) 256 even/odd, and the vector of M of them
 *     at most sqrt(M) times that: 65536 for M = 32768 even/odd.
 *   - No element of a vector exceeds the vector's norm.  A stage multiplies the norm by 1 or
 *     sqrt(1/2), and its inverse by 1 or sqrt(2).  Where M > 8192, R1 is 32; so before the last
 *     inverse, which ends in float32, a row has had one factor sqrt(2) less than sqrt(1/2).
 *   - The product does not increase the norm.  In the right angle |K| <= sqrt(1/2).  Even/odd, the
 *     matrix that takes (Ze, Zo) at k has the singular values |Ke +- sqrt(W) Ko| <= |Ke| + |Ko|
 *     <= sqrt(|K[k]|^2 + |K[-k]|^2) <= 1, where K is the spectrum as it is stored. */
#ifndef FFTCONV_CUDA_KERNEL_H
#define FFTCONV_CUDA_KERNEL_H

#include "arguments.h"
#include "layout.h"
#include "sink.h"

namespace fftconv
{

/* (re, im) += A B for complex matrices. */
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

/* The kernel of one transform length, in one arithmetic, for one role. */
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
        /* The flags that every pass of this role has, and those that it may have; with others
         * than these the compiler leaves the code out. */
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
    /* In the even/odd form the product of a row with its spectrum is a phase of its own.  It comes
     * between one that leaves Z in shared memory (LEAVE), and one that takes the product from
     * there (TAKE).  MEETS: this role has such a product, where frequencies meet their mirrors. */
    enum { LEAVE = 1 << 16, TAKE = 1 << 17, MEETS = ROLE == ROWS_FORWARD || ROLE == ROWS_BACKWARD };
    typedef Pack<Point, RUN_POINTS> Points;
    typedef Pack<Point, 4> FourPoints;
    typedef typename Arith::Run Run;

    struct Samples { /* a lane's, in phase 1 */
        float at[4 * K1][RUN];
    };

    /* What a block is working on: the same for all of its lanes. */
    struct Place {
        int h, chunk;   /* the channel, and the chunk of the batch */
        int group;      /* the group of channels whose spectrum h shares */
        int b0, b1;     /* the chunk's rows still to come; the block takes the first ROWS of them */
        bool begin;     /* these are the chunk's first */
        int pairs;      /* 1 even/odd, where a point has two samples; else 0 */
        int64_t tables; /* the tables' address */
    };

    /* The same place, but of which the compiler knows nothing: so it does not compute the
     * addresses of one phase in another one, where they would take registers. */
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
    /* A task is the work on one chunk of one channel; task_of gives its number. */
    static DEVICE int task_of(const Arguments &a, const Place &p)
    {
        return opaque(p.h) * static_cast<int>(a.chunks) + opaque(p.chunk);
    }
    /* Does row r of the block's rows lie behind the chunk's last?  Where a block takes one row, it
     * never does. */
    static DEVICE bool is_past(const Place &p, int r) { return ROWS > 1 && p.b0 + r >= p.b1; }
    /* The row of the batch behind a chunk's last. */
    static DEVICE int end_of(const Arguments &a, int chunk)
    {
        const int batch = static_cast<int>(a.batch), per = static_cast<int>(a.per);
        return batch - chunk * per < per ? batch : (chunk + 1) * per;
    }

    /* The table's constants from byte `at` on.  The functions below load a tile of A or of B from
     * there, its real and its imaginary parts; or complex number i, or COUNT from number i on. */
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

    /* The byte in shared memory at which point `offset` of a tile stands.  Of each 128 bytes, the
     * eight vectors of 16 trade places, as some bits of the tile's number and of the 128 bytes'
     * say: then what the lanes of a warp move at once lies in different banks, in every stage. */
    static DEVICE int shared_place(int tile, int offset)
    {
        const int vector = offset / NEAR, high = vector / 8;
        const int turn = TF32 ? high ^ high >> 1 ^ high >> 3 ^ high << 2 ^ tile ^ tile << 2
                              : high ^ high << 1 ^ tile ^ tile << 1 ^ tile >> 1 ^
                                    (GROUP > 1 ? 0 : tile << 2);
        return tile * TILE * static_cast<int>(sizeof(Point)) + (vector ^ (turn & 7)) * 16 +
               offset % NEAR * static_cast<int>(sizeof(Point));
    }
    /* The same for V[k1, c] of row r of the block. */
    static DEVICE int shared_place(int r, int k1, int c)
    {
        return shared_place(r * ROW_TILES + k1 / GROUP, c / R3 * X + k1 % GROUP * R3 + c % R3);
    }
    /* The exponent of a part of row r, a strip's of those that make the row; */
    static DEVICE int part_place(int r, int part)
    {
        return Shape::POINTS_BYTES + (r * PARTS + part) * 4;
    }
    /* ... and the exponent of the row in pass p, the largest of its parts'.  That of the pass
     * before is still there. */
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

    /* The number of the spectrum for batch row b of the channel. */
    static DEVICE int64_t kernel_of(const Arguments &a, const Place &place, int b)
    {
        return (a.spectrum_batch > 1 ? b : 0) * a.groups + place.group;
    }

    /* Column i of the first 8-column tile of a strip in stage 1, counted over all of the block's
     * rows side by side; column i of tile j is j places further.  So a lane has RUN neighbouring
     * samples in B and in C, and what four lanes hold of C's even columns is contiguous.
     * Even/odd, a strip is half as wide; it still has both of two rows n2 and n2 + 1 in a column
     * of a tile. */
    static DEVICE int column(const Place &place, int strip, int i)
    {
        if (!place.pairs)
            return strip * WIDTH + i % 2 * (WIDTH / 2) + i / 2 * RUN;
        if (R3 < WIDTH / 2)
            return strip * (WIDTH / 2) + i % 2 * (WIDTH / 4) + i / 2 * NEAR;
        return strip / 2 * WIDTH + i % 2 * (WIDTH / 2) + strip % 2 * (WIDTH / 4) + i / 2 * NEAR;
    }
    /* The strip, of those that make a row, that has column c. */
    static DEVICE int part_of(const Place &place, int c)
    {
        return !place.pairs     ? c / WIDTH
               : R3 < WIDTH / 2 ? c / (WIDTH / 2)
                                : c / WIDTH * 2 + c / (WIDTH / 4) % 2;
    }
    /* The number of strips in the rows that a block takes at once. */
    static DEVICE int strips(const Arguments &a) { return STRIPS << opaque(a.even_odd); }

    /* Row r of the block's own rows. */
    static DEVICE float *own_row(Block &block, const Arguments &a, const Place &place, int r)
    {
        return a.own + ((block.index * ROWS + r) * M << place.pairs);
    }

#include "kernel_first.h"
#include "kernel_middle.h"
#include "kernel_even_odd.h"
#include "kernel_last.h"

    /* ---- The phases of all tasks ------------------------------------------------------------ */
    static DEVICE void run(Block &block, const Arguments &a)
    {
        Warps<Lanes<float>, WARPS> dskip;
        const int tasks = static_cast<int>(a.channels * a.chunks);
        Place place; /* only h and chunk are kept in registers from one phase to the next */
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
                            store_global(a.dskip + task_of(a, place), sum);
                    }
                });
            }
        }
    }
};

} // namespace fftconv
#endif
