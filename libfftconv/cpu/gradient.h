/* The gradients of y = out_gate mask act(p) and p = v + skip x gate, between the transforms of
 * a backward call (struct gradient). */

/* sum_i a[i] conj(b[i]), in double precision.  The products go to eight sums in turn: so they
 * are independent, and the order of the additions, and with it the result, is always the same. */
static struct scalar N_(inner_product)(bool complex, int64_t count, const REAL *a, const REAL *b)
{
    double re[8] = {0}, im[8] = {0};
    int64_t i = 0;
    if (!complex) {
        for (; i + 8 <= count; i += 8)
            for (int j = 0; j < 8; j++)
                re[j] += (double)a[i + j] * (double)b[i + j];
        for (; i < count; i++)
            re[0] += (double)a[i] * (double)b[i];
    } else {
        for (; i < count; i++) {
            const double ar = (double)a[2 * i], ai = (double)a[2 * i + 1];
            const double br = (double)b[2 * i], bi = (double)b[2 * i + 1];
            re[i % 8] += ar * br + ai * bi;
            im[i % 8] += ai * br - ar * bi;
        }
    }
    for (int j = 1; j < 8; j++)
        re[0] += re[j], im[0] += im[j];
    return (struct scalar){re[0], im[0]};
}

/* Elements [n, n + m) of the same with care: p 2^p_exponent to g 2^g_exponent. */
static void N_(differentiate_carefully)(const struct gradient *a, int64_t n, int64_t m,
                                        const REAL *p, REAL *g, struct scalar *dskip)
{
    const bool complex = is_complex(a->dy.dtype);
    const int64_t reals = m * (1 + complex);
    struct N_(scaled) d, f, gate;
    const REAL most = (REAL)(IN_DOUBLE ? DBL_MAX : FLT_MAX);
    REAL work[CHUNK];
    N_(load_scaled)(&a->dy, n, m, &d);
    if (a->has_mask)
        N_(times_scalar)(complex, true, reals, &d, a->mask);
    if (a->dout_gate.data) { /* conj(conj(dy conj(mask)) act(p)) */
        struct N_(scaled) act;
        N_(own_scaled)(reals, p, a->p_exponent, &act);
        N_(activate_scaled)(a->activation, reals, &act);
        f = d;
        N_(times)(complex, true, reals, &f, &act);
        N_(narrow)(reals, &f, 0, work);
        N_(write)(&a->dout_gate, n, m, work);
    }
    if (a->activation != FFTCONV_ACTIVATION_IDENTITY) {
        N_(own_scaled)(reals, p, a->p_exponent, &f);
        N_(narrow_inside)(reals, &f, 0, work);
        for (int64_t i = 0; i < reals; i++) /* act' of the largest number is that of infinity */
            work[i] = work[i] > most ? most : work[i] < -most ? -most : work[i];
        N_(slope)(a->activation, reals, work, work);
        N_(own_scaled)(reals, work, 0, &f);
        N_(times)(false, false, reals, &d, &f);
    }
    if (a->out_gate.data) {
        N_(load_scaled)(&a->out_gate, n, m, &f);
        N_(times)(complex, true, reals, &d, &f);
    }
    N_(narrow_inside)(reals, &d, -a->g_exponent, g);
    if (dskip) {
        N_(load_scaled)(&a->x, n, m, &f);
        if (a->gate.data) {
            N_(load_scaled)(&a->gate, n, m, &gate);
            N_(times)(complex, false, reals, &f, &gate);
        }
        int top = N_(largest_scaled)(reals, &f);
        top = top > ALL_ZEROS / 2 && top < NOT_FINITE / 2 ? top : 0;
        N_(narrow_inside)(reals, &f, -top, work);
        const struct scalar sum = N_(inner_product)(complex, m, g, work);
        dskip->re += ldexp(sum.re, a->g_exponent + top);
        dskip->im += ldexp(sum.im, a->g_exponent + top);
    }
}

static void N_(differentiate)(const struct gradient *a)
{
    const bool complex = is_complex(a->dy.dtype);
    const int64_t reals = 1 + complex, step = CHUNK / reals;
    struct scalar dskip = {0, 0};
    for (int64_t i = 0; i < a->count; i += step) {
        const int64_t m = min64(step, a->count - i), n = a->from + i;
        REAL *g = (REAL *)a->g + i * reals, work[CHUNK], copy[CHUNK];
        const REAL *p = a->p ? (const REAL *)a->p + i * reals : NULL;
        if (p == g && (a->dout_gate.data || a->activation != FFTCONV_ACTIVATION_IDENTITY))
            p = memcpy(copy, p, (size_t)(m * reals) * sizeof(REAL));
        if (a->careful) {
            N_(differentiate_carefully)(a, n, m, p, g, a->dskip ? &dskip : NULL);
            continue;
        }
        N_(read)(&a->dy, n, m, g);
        if (a->has_mask)
            N_(scale_by)(complex, true, m, a->mask, g);
        if (a->dout_gate.data) { /* dy conj(mask act(p)) */
            REAL *contiguous = N_(in_place)(&a->dout_gate, n);
            REAL *to = contiguous ? contiguous : work;
            const REAL *act = p;
            if (a->activation != FFTCONV_ACTIVATION_IDENTITY || complex) {
                act = memcpy(work, p, (size_t)(m * reals) * sizeof(REAL));
                N_(activate)(a->activation, m, work);
            }
            if (complex) /* work = conj(work) g */
                for (int64_t j = 0; j < m; j++)
                    work[2 * j + 1] = -work[2 * j + 1];
            if (complex)
                N_(multiply_by)(true, false, m, g, work);
            else
                for (int64_t j = 0; j < m; j++)
                    to[j] = act[j] * g[j];
            if (!contiguous)
                N_(write)(&a->dout_gate, n, m, work);
        }
        N_(multiply_by_array)(&a->out_gate, true, n, m, g);
        if (a->activation != FFTCONV_ACTIVATION_IDENTITY) {
            N_(slope)(a->activation, m, p, work);
            N_(multiply_by)(false, false, m, work, g);
        }
        if (a->dskip) {
            N_(read_gated)(&a->x, &a->gate, n, m, work);
            const struct scalar sum = N_(inner_product)(complex, m, g, work);
            dskip.re += sum.re, dskip.im += sum.im;
        }
    }
    if (a->dskip) {
        a->dskip->re += dskip.re;
        a->dskip->im += dskip.im;
    }
}
