/* The product of the even/odd form: a phase of its own, in which a lane multiplies each frequency
 * m together with its mirror -m, both in shared memory.
 *
 * Part of the body of struct RowKernel: kernel.h includes it there. */

/* Takes four points of each lane from shared memory, where the product left them. */
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

struct Mirrored { /* the numbers of a transform at m and at -m */
    Complex here, there;
};

/* The product at m and at -m, from the spectrum k and the transform z at both; w = W^m with
 * W = exp(-2 pi i / M).  Even and odd samples have the transforms
 *     Ze = (Z[m] + conj Z[-m]) / 2,   Zo = (Z[m] - conj Z[-m]) / 2i,
 * and the taps Ke and Ko alike.  Then
 *     Ye = Ke Ze + W^m Ko Zo,   Yo = Ke Zo + Ko Ze,
 * or for the adjoint
 *     Ye = conj(Ke) Ze + conj(Ko) Zo,   Yo = conj(Ke) Zo + conj(W^m Ko) Ze,
 * and Y[m] = Ye + i Yo, Y[-m] = conj(Ye - i Yo). */
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

/* Takes COUNT points from `here` on, with their mirrors from `there` on, which stand in descending
 * order, through the sums and the product that the pass asks for. */
template <int COUNT>
static DEVICE void meet_all(Block &block, const Arguments &a, const Pass &pass, const Place &place,
                            int r, int e, int l, int here, int there, const Pack<Complex, COUNT> &w)
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
        const Some k = load_global(reinterpret_cast<const Some *>(kept + here));
        const Some k_there = load_global(reinterpret_cast<const Some *>(kept + there));
        Complex *sums = reinterpret_cast<Complex *>(sums_of(a, place, r));
        Sums *to = reinterpret_cast<Sums *>(sums + here);
        Sums *to_there = reinterpret_cast<Sums *>(sums + there);
        Sums v = {}, v_there = {};
        if (!place.begin) {
            v = load_global(to);
            v_there = load_global(to_there);
        }
        UNROLL
        for (int i = 0; i < COUNT; i++) {
            const Mirrored d = meet(pair(k, k_there, i), pair(z, z_there, i), w.at[i], true);
            const int j = COUNT - 1 - i;
            v.at[i] = v.at[i] + Complex{scaled(d.here.re, e), scaled(d.here.im, e)};
            v_there.at[j] = v_there.at[j] + Complex{scaled(d.there.re, e), scaled(d.there.im, e)};
        }
        store_global(to, v);
        store_global(to_there, v_there);
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

/* Takes all frequencies of the block's rows.  With k = (k1, k2, k3), -k is (R1 - k1, R2 - 1 - k2,
 * R3 - 1 - k3) unless k1 = 0, so the mirror of a four is another four in descending order.
 * Frequencies with k1 = 0 are taken one by one, and all of them where R3 = 1, because a four is
 * then of several k1.  0 and M / 2 are their own mirrors. */
static DEVICE void product_of_pairs(Block &block, const Arguments &a, const Pass &pass,
                                    const Place &place, int p, int warp)
{
    EACH_LANE(l)
    {
        int of = -1, e = 0; /* e is the exponent of row `of` */
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
            /* 0 and M / 2 are one lane's work */
            NO_UNROLL
            for (int i = first; i <= (first ? first : SINGLES / 2); i += SINGLES / 2) {
                const int m = i * (M / SINGLES), mirror = (M - m) % M;
                const int k2 = m / R1 % R2, k3 = m / R1 / R2;
                const Complex w = load_complex(place, Shape::MIRROR_HIGH, m % R1) *
                                  load_complex(place, Shape::MIRROR_LOW, Shape::in_four(k2, k3));
                meet_all<1>(block, a, pass, place, r, e, l, Shape::point_of(m % R1, k2, k3),
                            Shape::point_of(mirror % R1, mirror / R1 % R2, mirror / R1 / R2),
                            {{w}});
            }
        }
    }
}

/* The exponent of conj(Z) G of row r: that of Z, from the pass before, and that of G. */
static DEVICE int sum_exponent(Block &block, const Pass &pass, int p, int r, int l)
{
    return flags_of(pass) & SUM ? exponent(block, p - 1, r, l) + exponent(block, p, r, l) : 0;
}
