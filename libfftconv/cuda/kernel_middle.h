/* Phase 2 of the fused kernel: a warp takes a tile of V from shared memory through stages 2 and 3,
 * the product with the spectrum, and the inverses of stages 3 and 2, without leaving its registers.
 *
 * Part of the body of struct RowKernel: kernel.h includes it there. */

/* Loads V of a tile as stage 2 takes it.  Where several strips made a row, each with an exponent
 * of its own, their points are brought to the largest of these, e. */
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
            const auto v = block.template load<Pack<Point, X8>>(shared_place(tile, row * X + x), l);
            const auto w = block.template load<Pack<Point, X8>>(
                shared_place(tile, (row + 1) * X + x), l);
            /* Rows 2q and 2q + 1 of these columns are of one strip, and so have one exponent. */
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

/* Multiplies the columns b by rows 16 m ... 16 m + 15 of a matrix of K2 x K2 tiles, which stands
 * in the table from byte `at` on. */
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

/* Stage 2 of the 16 rows k2 = 16 m ..., and its twiddle.  The columns are in the tile's order. */
static DEVICE void second(const Place &place, int m, const Lanes<FragmentB<Arith>> (&b_re)[K2][X8],
                          const Lanes<FragmentB<Arith>> (&b_im)[K2][X8], Lanes<FragmentC> (&re)[X8],
                          Lanes<FragmentC> (&im)[X8])
{
    product(place, Shape::SECOND, m, b_re, b_im, re, im);
    UNROLL
    for (int j = 0; j < X8; j++)
        twiddle(place, Shape::T2, m * X8 + j, re[j], im[j]);
}

/* Multiplies a C by the twiddles that stand in the table for fragment `tile`. */
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

/* Stage 3 of the same 16 rows: Z[k2, x'], with the columns x' in ascending order. */
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

/* Where the sums of conj(Z) G stand for row r of the block's rows. */
static DEVICE Pack<Complex, 4> *sums_of(const Arguments &a, const Place &place, int r)
{
    return reinterpret_cast<Pack<Complex, 4> *>(a.sums) +
           ((place.h * a.chunks + place.chunk) * ROWS + r) * (M / 4);
}

/* The transform of row r that a pass keeps for the block's next one. */
static DEVICE Point *kept_of(Block &block, const Arguments &a, int r)
{
    return static_cast<Point *>(a.kept) + (block.index * ROWS + r) * M;
}
/* Even/odd, Z is left in shared memory for the product, and its result taken from there.  This is
 * the place of point i, in the order of point_of; each tile stays within its own place.  Of each
 * 128 bytes the vectors of 16 trade places, so that lanes which are neighbours in k2 use different
 * banks. */
static DEVICE int left_place(int r, int i)
{
    const int v = (r * M + i) / NEAR;
    const int turn = TF32 ? (v >> 3 & 1) | (v >> 4 & 2) | (v >> 2 & 4)
                          : (v >> 4 & 1) | (v >> 2 & 2);
    return (v ^ turn) * 16 + i % NEAR * static_cast<int>(sizeof(Point));
}
template <int COUNT> static DEVICE Pack<Point, COUNT> load_left(Block &block, int r, int i, int l)
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

/* Does what the pass's flags say with Z[16 m ..., 8 j ...] of tile kb of a row, up to the
 * product. */
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
        const int at = tile * LANES + l; /* counted in fours of points */
        if (flags & PUT) {
            Four *to = reinterpret_cast<Four *>(a.spectra) + (b * a.channels + place.h) * (M / 4) +
                       at;
            Four v = {};
            if (flags & ADD)
                v = load_global(to);
            UNROLL
            for (int i = 0; i < 4; i++) {
                const Complex z = {scaled(re[l].at[i], e[l]), scaled(im[l].at[i], e[l])};
                v.at[i].re += flags & PUT_TURNED ? z.im : z.re;
                v.at[i].im += flags & PUT_TURNED ? -z.re : z.im;
            }
            store_global(to, v);
        }
        FourPoints *kept = reinterpret_cast<FourPoints *>(kept_of(block, a, r)) + at;
        if (flags & SUM) {
            const FourPoints k = load_global(kept);
            Four *to = sums_of(a, place, r) + at;
            Four v = {};
            if (!place.begin)
                v = load_global(to);
            UNROLL
            for (int i = 0; i < 4; i++) {
                const Complex d = conj(O::complex(k.at[i])) * Complex{re[l].at[i], im[l].at[i]};
                v.at[i].re += scaled(d.re, kept_e[l] + e[l]);
                v.at[i].im += scaled(d.im, kept_e[l] + e[l]);
            }
            store_global(to, v);
        }
        if (flags & (KEEP | LEAVE)) {
            FourPoints k;
            UNROLL
            for (int i = 0; i < 4; i++)
                k.at[i] = O::point(re[l].at[i], im[l].at[i]);
            if (flags & KEEP)
                store_global(kept, k);
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

/* The inverse of stage 3 for rows k2 = 16 m ..., which gives the m-th part of the sum that the
 * inverse of stage 2 takes. */
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

/* The inverse of stage 2, then that of stage 1's twiddle.  The result goes where the tile's V
 * was. */
static DEVICE void second_back(Block &block, const Place &place, int tile,
                               const Lanes<FragmentB<Arith>> (&b_re)[K2][X8],
                               const Lanes<FragmentB<Arith>> (&b_im)[K2][X8])
{
    const int kb = tile % ROW_TILES;
    block.sync_warp();
    /* one row of matrix tiles at a time needs fewer registers */
    NO_UNROLL
    for (int m = 0; m < K2; m++) {
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
                        const Complex v = {re[(i + j) % X8][l].at[s], im[(i + j) % X8][l].at[s]};
                        if ((i + j) % R3 == 0 || i + j == 0)
                            high = conj(load_complex(place, Shape::T1_HIGH,
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

/* The phase: the warp's tiles, one after another.  flags: what is done with each, which even/odd
 * is less than the pass's flags say. */
static DEVICE void middle(Block &block, const Arguments &a, const Pass &pass, const Place &place,
                          int flags, int p, int warp)
{
    static_assert(static_cast<int>(PARTS) <= LANES, "a lane for each part of a row");
    const int parts = place.pairs ? PARTS : WIDE_PARTS;
    for (int tile = warp; tile < ROWS * ROW_TILES; tile += WARPS) {
        const int r = tile / ROW_TILES, kb = tile % ROW_TILES;
        if (is_past(place, r)) { /* there is no such row, and its part of the sums is zero */
            if (place.begin && flags_of(pass) & SUM)
                EACH_LANE(l)
                {
                    for (int i = l; i < TILE / 4; i += LANES)
                        store_global(sums_of(a, place, r) + kb * (TILE / 4) + i,
                                     Pack<Complex, 4>{});
                }
            continue;
        }
        Lanes<int> e, kept_e;
        EACH_LANE(l)
        {
            e[l] = flags & TRANSFORM ? block.template load<int>(part_place(r, l % parts), l) : 0;
            kept_e[l] = flags & SUM ? exponent(block, p - 1, r, l) : 0;
        }
        Lanes<FragmentB<Arith>> b_re[K2][X8], b_im[K2][X8];
        /* These are set here, though later code sets what it reads: the compiler does not see
         * that, and would keep them from one tile to the next. */
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
        /* one row of matrix tiles at a time, all the way from stage 2 to the inverse of stage 3,
         * needs fewer registers */
        NO_UNROLL
        for (int m = 0; m < K2; m++) {
            Lanes<FragmentC> re[X8], im[X8];
            Lanes<FourPoints> spectrum[X8] = {}; /* loaded long before it is needed */
            if (flags & MULTIPLY) {
                const FourPoints *k = static_cast<const FourPoints *>(a.spectrum) +
                                      kernel_of(a, place, place.b0 + r) * (M / 4);
                UNROLL
                for (int j = 0; j < X8; j++)
                    EACH_LANE(l)
                    {
                        spectrum[j][l] = load_constant(k + ((kb * K2 + m) * X8 + j) * LANES + l);
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
