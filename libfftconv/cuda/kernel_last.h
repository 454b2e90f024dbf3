/* HEAD */

typedef Pack<Point, 2 * RUN_POINTS> Neighbours;

/* V[k1, c ...] and V[k1 + 1, c ...], k1 even: neighbours where R3 is small. */
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

static DEVICE void last(Block &block, const Arguments &a, const Pass &pass, const Place &place,
                        int p, int strip, Lanes<float> &dskip)
{
    Lanes<int> e[2]; /* of a lane's even and odd columns of C */
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
            UNROLL /* in two halves: fewer fragments at a time */
                for (int part = 0; part < RUN; part += NEAR)
            {
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
                if (!part && place.pairs) /* ... Im = Re F Im V - Im F Re V */
                    UNROLL
                for (int j = 0; j < NEAR; j++) {
                    multiply_add(y[NEAR + j], f_re, b_im[j]);
                    multiply_subtract(y[NEAR + j], f_im, b_re[j]);
                }
            }
        }
        EACH_LANE(l)
        {
            NO_UNROLL /* the sink's code once */
                for (int i = 0; i < 4; i++)
            { /* of a C: row and column */
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
                sink<ROLE>(block, pass, b, place.h, own_row(block, a, place, r),
                           ((16 * m + l / 4 + i / 2 * 8) * S + at % S) << place.pairs, l, v,
                           dskip[l]);
            }
        }
    }
}
