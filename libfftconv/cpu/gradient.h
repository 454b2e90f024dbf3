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
