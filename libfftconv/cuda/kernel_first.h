/* Phase 1 of the fused kernel: samples are read from the caller's rows and gated, stage 1 is
 * applied with its twiddle, and V[k1, c] is written to shared memory.
 *
 * Part of the body of struct RowKernel: kernel.h includes it there. */

/* Reads a lane's samples: of rows 2q, 2q + 1, 2q + 8, 2q + 9 ... of x[n1, c], where q = l % 4, RUN
 * neighbours each from column c on.  Returns the bits of the largest in size. */
static DEVICE uint32_t read(Block &block, const Arguments &a, const Pass &pass, const Place &place,
                            int l, int r, int c, float (&x)[4 * K1][RUN])
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
        for (int k = 0; k < 4 * K1; k += NEAR) { /* NEAR loads before the first wait */
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
        /* General rows are read in a loop that is not unrolled, which needs an index, and
         * registers have none.  So the samples go through the places in shared memory that this
         * strip's V will take; these hold half of them at a time. */
        UNROLL
        for (int half = 0; half < 2; half++) {
            NO_UNROLL
            for (int i = 0; i < 2 * K1; i++) {
                const int n = (row_of_lane(half * 2 * K1 + i, l) * S + c) << place.pairs;
                float v[RUN];
                if (own) {
                    UNROLL
                    for (int j = 0; j < RUN; j++)
                        v[j] = n + j >= from && n + j < to
                                   ? load_global(own_row(block, a, place, r) + n + j)
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

/* Loads runs of NEAR of the lane's rows, from number k on, without waiting for them. */
static DEVICE void load_rows(const Row &row, const Place &place, int k, int l, int c, int from,
                             int to, Run (&run)[NEAR])
{
    UNROLL
    for (int i = 0; i < NEAR; i++)
        run[i] = load_whole<Arith>(row, (row_of_lane(k + i, l) * S + c) << place.pairs, from, to);
}

/* The place of the point in which a lane keeps one sample, one of NEAR in each of its rows. */
static DEVICE int held_place(int r, int i, int j, int l, int c)
{
    return shared_place(r, row_of_lane(2 * i + j / NEAR, l), c + j % NEAR);
}

/* Row i of a lane's rows: it has four of each 16. */
static DEVICE int row_of_lane(int i, int l) { return l % 4 * 2 + i % 2 + i / 2 * 8; }

/* The phase, for one strip. */
static DEVICE void first(Block &block, const Arguments &a, const Pass &pass, const Place &place,
                         int strip)
{
    enum { /* the lanes whose samples are of one row of the caller */
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
    block.sync_warp(); /* the lanes' places in read() are those where other lanes will put V */
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
            /* even/odd: all real parts of points, and then their imaginary parts */
            UNROLL
            for (int j = 0; j < RUN; j++)
                b[k][j][l].at[i] = place.pairs ? pair[j % NEAR * 2 + j / NEAR] : pair[j];
        }
    }
    /* half of the columns at a time, which needs half of the sums, and half of the code */
    NO_UNROLL
    for (int part = 0; part < RUN; part += NEAR) {
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
                for (int i = 0; i < 4; i++) { /* for each of a lane's four elements of C */
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
