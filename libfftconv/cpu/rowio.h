/* Between the caller's rows and vectors of REAL: types, strides, gates,
 * padding, and the operation's last line.  Included by engine_body.h. */

#ifndef ROWIO_CONVERSIONS
#define ROWIO_CONVERSIONS
static inline float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}
/* Multiplying by 2^112 moves the exponent's bias, subnormals included. */
static inline float half_to_float(uint16_t h)
{
    uint32_t magnitude = h & 0x7fffu;
    uint32_t finite = bits_of(float_of(magnitude << 13) * 0x1p112f);
    uint32_t bits = magnitude >= 0x7c00u ? 0x7f800000u | magnitude << 13 : finite;
    return float_of(bits | (uint32_t)(h & 0x8000u) << 16);
}
/* Round to nearest even; below 2^-14 the addition of 0.5 rounds. */
static inline uint16_t float_to_half(float f)
{
    uint32_t x = bits_of(f), a = x & 0x7fffffffu;
    uint32_t special = a > 0x7f800000u ? 0x7e00u : 0x7c00u;
    uint32_t tiny = bits_of(float_of(a) + 0.5f) - bits_of(0.5f);
    uint32_t normal = (a - (112u << 23) + 0xfffu + (a >> 13 & 1u)) >> 13;
    uint32_t h = a >= 0x47800000u ? special : a < 0x38800000u ? tiny : normal;
    return (uint16_t)(h | (x >> 16 & 0x8000u));
}
static inline float bfloat_to_float(uint16_t b)
{
    return float_of((uint32_t)b << 16);
}
static inline uint16_t float_to_bfloat(float f)
{
    uint32_t x = bits_of(f);
    uint32_t rounded = (x + 0x7fffu + (x >> 16 & 1u)) >> 16;
    return (uint16_t)((x & 0x7fffffffu) > 0x7f800000u ? x >> 16 | 0x40u : rounded);
}

/* dtype, its C type, to and from REAL */
#define ROW_TYPES(row)                                          \
    row(FFTCONV_FLOAT64, double, (REAL), (double))              \
    row(FFTCONV_FLOAT32, float, (REAL), (float))                \
    row(FFTCONV_FLOAT16, uint16_t, half_to_float, float_to_half) \
    row(FFTCONV_BFLOAT16, uint16_t, bfloat_to_float, float_to_bfloat)

enum { CHUNK = 512 }; /* elements of a row taken at a time */
#endif

/* dst[i] = a[n + i] */
static void N_(read)(const struct array *a, int64_t n, int64_t count, REAL *dst)
{
    switch (a->dtype) {
#define CASE(dtype, type, load, store)                                   \
    case dtype: {                                                        \
        const type *p = (const type *)a->data + n * a->stride;           \
        if (a->stride == 1)                                              \
            for (int64_t i = 0; i < count; i++)                          \
                dst[i] = load(p[i]);                                     \
        else                                                             \
            for (int64_t i = 0; i < count; i++)                          \
                dst[i] = load(p[i * a->stride]);                         \
        break;                                                           \
    }
        ROW_TYPES(CASE)
#undef CASE
    }
}

static void N_(write)(void *data, int dtype, int64_t stride, int64_t n,
                      int64_t count, const REAL *src)
{
    switch (dtype) {
#define CASE(dtype, type, load, store)                          \
    case dtype: {                                               \
        type *p = (type *)data + n * stride;                    \
        if (stride == 1)                                        \
            for (int64_t i = 0; i < count; i++)                 \
                p[i] = store(src[i]);                           \
        else                                                    \
            for (int64_t i = 0; i < count; i++)                 \
                p[i * stride] = store(src[i]);                  \
        break;                                                  \
    }
        ROW_TYPES(CASE)
#undef CASE
    }
}

/* v[i] *= a[n + i], where there is an a */
static void N_(scale_by)(const struct array *a, int64_t n, int64_t count, REAL *v)
{
    if (!a->data)
        return;
    REAL factor[CHUNK];
    for (int64_t i = 0; i < count; i += CHUNK) {
        int64_t m = min64(CHUNK, count - i);
        N_(read)(a, n + i, m, factor);
        for (int64_t j = 0; j < m; j++)
            v[i + j] *= factor[j];
    }
}

/* z[n ... n + count) = x gate, zero from `length` on */
static void N_(read_gated)(const struct source *s, int64_t n, int64_t count,
                           REAL *dst)
{
    int64_t valid = max64(0, min64(count, s->length - n));
    if (valid > 0) {
        N_(read)(&s->x, n, valid, dst);
        N_(scale_by)(&s->gate, n, valid, dst);
    }
    memset(dst + valid, 0, (size_t)(count - valid) * sizeof(REAL));
}

/* One run of real numbers from place n of a source's 2M. */
static void N_(read_plane)(const struct source *s, int64_t n, int64_t count,
                           REAL *dst)
{
    if (s->packing != PERIODIC) {
        N_(read_gated)(s, n, count, dst);
        return;
    }
    const int64_t N = s->period;
    int64_t once = max64(0, min64(count, N - n));
    int64_t end = max64(once, min64(count, s->extent - n));
    if (once > 0)
        N_(read_gated)(s, n, once, dst);
    if (end > once)
        N_(read_gated)(s, n + once - N, end - once, dst + once);
    memset(dst + end, 0, (size_t)(count - end) * sizeof(REAL));
}

/* ---- y = out_gate mask act(p), p = scale v + skip z ------------------------ */

static void N_(activate)(int activation, int64_t count, REAL *v)
{
    if (activation == FFTCONV_GELU)
        N_(map)(N_(GELU), count, v, v);
    else if (activation == FFTCONV_SILU)
        N_(map)(N_(SILU), count, v, v);
}

/* slope[i] = act'(p[i]) */
static void N_(slope)(int activation, int64_t count, const REAL *p, REAL *slope)
{
    if (activation == FFTCONV_GELU)
        N_(map)(N_(GELU_SLOPE), count, p, slope);
    else
        N_(map)(N_(SILU_SLOPE), count, p, slope);
}

/* y[n ... n + count) from v, which is overwritten; nothing beyond `length` */
static void N_(write_run)(const struct sink *s, int64_t n, int64_t count, REAL *v)
{
    count = min64(count, s->length - n);
    for (int64_t i = 0; i < count; i += CHUNK) {
        int64_t m = min64(CHUNK, count - i);
        REAL *w = v + i;
        if (s->scale != 1)
            for (int64_t j = 0; j < m; j++)
                w[j] *= (REAL)s->scale;
        if (s->has_skip) {
            REAL z[CHUNK];
            N_(read)(&s->x, n + i, m, z);
            N_(scale_by)(&s->gate, n + i, m, z);
            for (int64_t j = 0; j < m; j++)
                w[j] += (REAL)s->skip * z[j];
        }
        N_(activate)(s->activation, m, w);
        if (s->mask != 1)
            for (int64_t j = 0; j < m; j++)
                w[j] *= (REAL)s->mask;
        N_(scale_by)(&s->out_gate, n + i, m, w);
        N_(write)(s->data, s->dtype, s->stride, n + i, m, w);
    }
}

/* Is y[n] = v[n] all there is to do, so that v may be the caller's memory? */
static bool N_(sink_is_plain)(const struct sink *s)
{
    return s->packing == LINEAR && s->dtype == REAL_DTYPE && s->stride == 1 &&
           s->scale == 1 && s->mask == 1 && !s->has_skip && !s->out_gate.data &&
           s->activation == FFTCONV_IDENTITY;
}

static void N_(gradient)(const struct gradient *a)
{
    double dskip = 0;
    for (int64_t n = 0; n < a->length; n += CHUNK) {
        int64_t m = min64(CHUNK, a->length - n);
        REAL g[CHUNK], t[CHUNK];
        const REAL *p = a->p ? (const REAL *)a->p + n : NULL;
        N_(read)(&a->dy, n, m, g);
        for (int64_t j = 0; j < m; j++)
            g[j] *= (REAL)a->mask;
        if (a->dout_gate) { /* dy mask act(p) */
            memcpy(t, p, (size_t)m * sizeof(REAL));
            N_(activate)(a->activation, m, t);
            for (int64_t j = 0; j < m; j++)
                t[j] *= g[j];
            N_(write)(a->dout_gate, a->dout_gate_dtype, a->dout_gate_stride, n, m, t);
        }
        N_(scale_by)(&a->out_gate, n, m, g);
        if (a->activation != FFTCONV_IDENTITY) {
            N_(slope)(a->activation, m, p, t);
            for (int64_t j = 0; j < m; j++)
                g[j] *= t[j];
        }
        if (a->dskip) {
            N_(read)(&a->x, n, m, t);
            N_(scale_by)(&a->gate, n, m, t);
            for (int64_t j = 0; j < m; j++)
                dskip += (double)g[j] * (double)t[j];
        }
        memcpy((REAL *)a->g + n, g, (size_t)m * sizeof(REAL));
    }
    if (a->dskip)
        *a->dskip += dskip;
}

static double N_(get)(const struct array *a)
{
    REAL v = 0;
    N_(read)(a, 0, 1, &v);
    return (double)v;
}

static void N_(set)(void *data, int dtype, double value)
{
    REAL v = (REAL)value;
    N_(write)(data, dtype, 1, 0, 1, &v);
}

static void N_(spread)(int64_t length, const void *dz, double skip, const void *g,
                       const struct array *factor, void *to, int dtype,
                       int64_t stride)
{
    const REAL *pdz = dz, *pg = g;
    for (int64_t n = 0; n < length; n += CHUNK) {
        int64_t m = min64(CHUNK, length - n);
        REAL t[CHUNK];
        if (skip != 0)
            for (int64_t j = 0; j < m; j++)
                t[j] = pdz[n + j] + (REAL)skip * pg[n + j];
        else
            memcpy(t, pdz + n, (size_t)m * sizeof(REAL));
        N_(scale_by)(factor, n, m, t);
        N_(write)(to, dtype, stride, n, m, t);
    }
}
