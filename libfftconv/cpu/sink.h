/* Writing to a sink: what a row becomes on its way to memory (struct sink),
 *     y = out_gate mask act(v + skip x gate),   twin = twin_gate v. */

/* What a sink reads and writes beside v and y, where all of it is contiguous REALs.  What there
 * is not is NULL; the mask is then 1. */
struct N_(sink_operands) {
    const REAL *x, *gate, *out_gate, *twin_gate;
    REAL *twin;
    REAL skip, mask;
};

/* Writes `rows` rows of y, which lie `step` elements apart there, and in v one after the other,
 * m elements each.  Returns how many elements of each row it wrote: it writes whole pairs of
 * vectors, whose independent instructions fill each other's latencies.  The bools, which say
 * what the sink has, are constants wherever this is inlined. */
INLINE int64_t N_(write_vector_pairs)(int activation, bool skip, bool gated, bool out_gate,
                                      bool twin, int64_t rows, int64_t step, int64_t m,
                                      const REAL *v, const struct N_(sink_operands) * given,
                                      REAL *y)
{
    const struct N_(sink_operands) b = *given;
    const int64_t whole = m - m % (2 * W);
    for (int64_t row = 0; row < rows; row++, v += m, y += step)
        for (int64_t i = 0; i < whole; i += 2 * W) {
            V p[2];
            UNROLL
            for (int k = 0; k < 2; k++) {
                const int64_t j = row * step + i + k * W;
                p[k] = *(const VU *)(v + i + k * W);
                if (twin)
                    *(VU *)(b.twin + j) = p[k] * *(const VU *)(b.twin_gate + j);
                if (skip && gated)
                    p[k] += *(const VU *)(b.x + j) * *(const VU *)(b.gate + j) * b.skip;
                else if (skip)
                    p[k] += *(const VU *)(b.x + j) * b.skip;
                if (activation == FFTCONV_ACTIVATION_GELU)
                    p[k] = N_(map_vector)(N_(GELU), p[k]);
                else if (activation == FFTCONV_ACTIVATION_SILU)
                    p[k] = N_(map_vector)(N_(SILU), p[k]);
                p[k] *= b.mask;
                if (out_gate)
                    p[k] *= *(const VU *)(b.out_gate + j);
            }
            *(VU *)(y + i) = p[0];
            *(VU *)(y + i + W) = p[1];
        }
    return whole;
}

#define WRITE(activation, skip, gated, out) \
    N_(write_vector_pairs)(activation, skip, gated, out, false, rows, step, m, v, &b, y)
#define WRITE_SKIP(activation, out) \
    (b.gate ? WRITE(activation, true, true, out) \
     : b.x  ? WRITE(activation, true, false, out) \
            : WRITE(activation, false, false, out))
#define WRITE_ALL(activation) \
    (b.out_gate ? WRITE_SKIP(activation, true) : WRITE_SKIP(activation, false))

/* The same for elements [e, e + m) of the sink's rows, and for the rows that lie `step`, 2 step,
 * ... elements further on.  Returns 0, having written nothing, where an operand would have to
 * be converted first. */
static int64_t N_(write_vectors)(const struct sink *s, int64_t e, int64_t rows, int64_t step,
                                 int64_t m, const REAL *v)
{
    REAL *y = N_(in_place)(&s->y, e);
    const bool gate = s->has_skip && s->gate.data, twin = s->twin.data;
    const bool out_gate = s->out_gate.data;
    const struct N_(sink_operands) b = {
        .x = s->has_skip ? N_(in_place)(&s->x, e) : NULL,
        .gate = gate ? N_(in_place)(&s->gate, e) : NULL,
        .out_gate = out_gate ? N_(in_place)(&s->out_gate, e) : NULL,
        .twin = twin ? N_(in_place)(&s->twin, e) : NULL,
        .twin_gate = twin ? N_(in_place)(&s->twin_gate, e) : NULL,
        .skip = s->has_skip ? (REAL)s->skip.re : 0,
        .mask = s->has_mask ? (REAL)s->mask.re : 1,
    };
    if (!y || !b.x != !s->has_skip || !b.gate != !gate || !b.out_gate != !out_gate ||
        !b.twin != !twin || !b.twin_gate != !twin)
        return 0;
    if (twin)
        return N_(write_vector_pairs)(FFTCONV_ACTIVATION_IDENTITY, false, false, true, true, rows,
                                      step, m, v, &b, y);
    switch (s->activation) {
    case FFTCONV_ACTIVATION_GELU: return WRITE_ALL(FFTCONV_ACTIVATION_GELU);
    case FFTCONV_ACTIVATION_SILU: return WRITE_ALL(FFTCONV_ACTIVATION_SILU);
    default: return WRITE_ALL(FFTCONV_ACTIVATION_IDENTITY);
    }
}
#undef WRITE
#undef WRITE_SKIP
#undef WRITE_ALL

/* Is y = v, or v times a power of two? */
static bool N_(sink_is_bare)(const struct sink *s)
{
    return !s->has_mask && !s->has_skip && !s->out_gate.data && !s->twin.data &&
           s->activation == FFTCONV_ACTIVATION_IDENTITY;
}

/* Is y = v, in contiguous REALs, so that the last stage may write v where y is? */
static bool N_(sink_is_plain)(const struct sink *s)
{
    return N_(sink_is_bare)(s) && s->packing == LINEAR && s->y.dtype == REAL_DTYPE &&
           s->y.stride == 1 && !s->exponent;
}

/* Elements [e, e + m), whose numbers are v 2^exponent. */
static void N_(write_carefully)(const struct sink *s, int64_t e, int64_t m, REAL *v)
{
    const bool complex = is_complex(s->y.dtype);
    const int64_t reals = m * (1 + complex);
    struct N_(scaled) p, f, gate;
    N_(own_scaled)(reals, v, s->exponent, &p);
    if (s->twin.data) {
        N_(load_scaled)(&s->twin_gate, e, m, &f);
        N_(times)(complex, false, reals, &f, &p);
        N_(narrow)(reals, &f, 0, v);
        N_(write)(&s->twin, e, m, v);
    }
    if (s->has_skip) {
        N_(load_scaled)(&s->x, e, m, &f);
        if (s->gate.data) {
            N_(load_scaled)(&s->gate, e, m, &gate);
            N_(times)(complex, false, reals, &f, &gate);
        }
        N_(times_scalar)(complex, false, reals, &f, s->skip);
        N_(plus)(complex, reals, &p, &f);
    }
    N_(activate_scaled)(s->activation, reals, &p);
    if (s->has_mask)
        N_(times_scalar)(complex, false, reals, &p, s->mask);
    if (s->out_gate.data) {
        N_(load_scaled)(&s->out_gate, e, m, &f);
        N_(times)(complex, false, reals, &p, &f);
    }
    N_(narrow)(reals, &p, -s->y_exponent, v);
    N_(write)(&s->y, e, m, v);
}

/* Writes places [n, n + count), whose numbers are v, which is overwritten.  Elements outside
 * [from, to) are not wanted, and are left out. */
static void N_(write_run)(const struct sink *s, int64_t n, int64_t count, REAL *v)
{
    const bool complex = is_complex(s->y.dtype);
    const int64_t reals = 1 + complex, step = CHUNK / reals;
    const int64_t e = n + s->shift;
    int64_t first = max64(0, s->from - e);
    count = min64(count, s->to - e);
    if (s->exponent && !s->careful && first < count) { /* y is v then */
        N_(scale_by_power)(s->exponent, (count - first) * reals, v + first * reals);
        N_(write)(&s->y, e + first, count - first, v + first * reals);
        return;
    }
    if (first < count && !s->careful)
        first += N_(write_vectors)(s, e + first, 1, 0, count - first, v + first);
    for (int64_t i = first; i < count; i += step) {
        int64_t m = min64(step, count - i);
        REAL *w = v + i * reals, z[CHUNK];
        if (s->careful) {
            N_(write_carefully)(s, e + i, m, w);
            continue;
        }
        if (s->twin.data) {
            memcpy(z, w, (size_t)m * sizeof(REAL));
            N_(multiply_by_array)(&s->twin_gate, false, e + i, m, z);
            N_(write)(&s->twin, e + i, m, z);
        }
        if (s->has_skip) {
            N_(read_gated)(&s->x, &s->gate, e + i, m, z);
            N_(add_scaled)(complex, m, s->skip, z, w);
        }
        N_(activate)(s->activation, m, w);
        if (s->has_mask)
            N_(scale_by)(complex, false, m, s->mask, w);
        N_(multiply_by_array)(&s->out_gate, false, e + i, m, w);
        N_(write)(&s->y, e + i, m, w);
    }
}

/* Places [n, n + count) of a complex row, from the real and the imaginary parts. */
static void N_(write_pairs)(const struct sink *s, int64_t n, int64_t count, const REAL *re,
                            const REAL *im)
{
    REAL both[CHUNK];
    for (int64_t i = 0; i < count; i += CHUNK / 2) {
        int64_t m = min64(CHUNK / 2, count - i);
        for (int64_t j = 0; j < m; j++)
            both[2 * j] = re[i + j], both[2 * j + 1] = im[i + j];
        N_(write_run)(s, n + i, m, both);
    }
}
