/* Phase 3 of the fused kernel: the inverse of stage 1, from V in shared memory to the values of the
 * convolution, which go to the pass's sink.
 *
 * Part of the body of struct RowKernel: kernel.h includes it there. */

typedef Pack<Point, 2 * RUN_POINTS> Neighbours;

/* V[k1, c ...] and V[k1 + 1, c ...] for an even k1.  Where R3 is small the two are neighbours, and
 * one access loads both. */
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

/* The phase, for one strip.  What the sink adds to dskip is added to the lane's number. */
static DEVICE void last(Block &block, const Arguments &a, const Pass &pass, const Place &place,
                        int p, int strip, Lanes<float> &dskip)
{
    Lanes<int> e[2]; /* the exponents of the rows of a lane's even and odd columns of C */
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
            /* in two halves, which needs fewer fragments at a time */
            UNROLL
            for (int part = 0; part < RUN; part += NEAR) {
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
                if (!part && place.pairs) /* Im (conj(F) V) = Re F Im V - Im F Re V */
                    UNROLL
                for (int j = 0; j < NEAR; j++) {
                    multiply_add(y[NEAR + j], f_re, b_im[j]);
                    multiply_subtract(y[NEAR + j], f_im, b_re[j]);
                }
            }
        }
        EACH_LANE(l)
        {
            /* not unrolled, so that the sink's code is there once */
            NO_UNROLL
            for (int i = 0; i < 4; i++) { /* for each of a lane's four elements of C */
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
                sink<ROLE>(pass, b, place.h, own_row(block, a, place, r),
                           ((16 * m + l / 4 + i / 2 * 8) * S + at % S) << place.pairs, v, dskip[l]);
            }
        }
    }
}
