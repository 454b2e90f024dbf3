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
#ifdef __F16C__
#include <immintrin.h>
static inline float half_to_float(uint16_t h) { return _cvtsh_ss(h); }
static inline uint16_t float_to_half(float f) { return _cvtss_sh(f, 0); }
#else
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
#endif
/* to[i] = from[i]; compilers do not vectorise the conversion they have an
 * instruction for */
static inline void halves_to_floats(const uint16_t *from, int64_t count, float *to)
{
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
    for (; i < count; i++)
        to[i] = half_to_float(from[i]);
}
static inline void floats_to_halves(const float *from, int64_t count, uint16_t *to)
{
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
    for (; i < count; i++)
        to[i] = float_to_half(from[i]);
}
static inline float bfloat_to_float(uint16_t b) { return float_of((uint32_t)b << 16); }
static inline uint16_t float_to_bfloat(float f)
{
    uint32_t x = bits_of(f);
    uint32_t rounded = (x + 0x7fffu + (x >> 16 & 1u)) >> 16;
    return (uint16_t)((x & 0x7fffffffu) > 0x7f800000u ? x >> 16 | 0x40u : rounded);
}

/* dtype, its C type, to and from REAL */
#define ROW_TYPES(row) \
    row(FFTCONV_DTYPE_FLOAT64, double, (REAL), (double)) \
        row(FFTCONV_DTYPE_FLOAT32, float, (REAL), (float)) \
            row(FFTCONV_DTYPE_FLOAT16, uint16_t, half_to_float, float_to_half) \
                row(FFTCONV_DTYPE_BFLOAT16, uint16_t, bfloat_to_float, float_to_bfloat)

/* dtype, its components' C type */
#define COMPLEX_TYPES(row) row(FFTCONV_DTYPE_COMPLEX128, double) row(FFTCONV_DTYPE_COMPLEX64, float)

enum { CHUNK = 512 }; /* reals of a row taken at a time */
#endif

/* Elements are one real each, or two where the type is complex; `reals` below
 * says which.  All rows of a call are of one kind. */

/* dst[i] = a[n + i] */
static void N_(read)(const struct array *a, int64_t n, int64_t count, REAL *dst)
{
    n -= a->origin;
    if (a->dtype == FFTCONV_DTYPE_FLOAT16 && a->stride == 1 && sizeof(REAL) == sizeof(float)) {
        halves_to_floats((const uint16_t *)a->data + n, count, (float *)dst);
        return;
    }
    switch (a->dtype) {
#define CASE(dtype, type, load, store) \
    case dtype: { \
        const type *p = (const type *)a->data + n * a->stride; \
        if (a->stride == 1) \
            for (int64_t i = 0; i < count; i++) \
                dst[i] = load(p[i]); \
        else \
            for (int64_t i = 0; i < count; i++) \
                dst[i] = load(p[i * a->stride]); \
        break; \
    }
        ROW_TYPES(CASE)
#undef CASE
#define CASE(dtype, type) \
    case dtype: { \
        const type *p = (const type *)a->data + 2 * n * a->stride; \
        for (int64_t i = 0; i < count; i++, p += 2 * a->stride) \
            dst[2 * i] = (REAL)p[0], dst[2 * i + 1] = (REAL)p[1]; \
        break; \
    }
        COMPLEX_TYPES(CASE)
#undef CASE
    }
}

static void N_(write)(const struct array *a, int64_t n, int64_t count, const REAL *src)
{
    n -= a->origin;
    if (a->dtype == FFTCONV_DTYPE_FLOAT16 && a->stride == 1 && sizeof(REAL) == sizeof(float)) {
        floats_to_halves((const float *)src, count, (uint16_t *)a->data + n);
        return;
    }
    switch (a->dtype) {
#define CASE(dtype, type, load, store) \
    case dtype: { \
        type *p = (type *)a->data + n * a->stride; \
        if (a->stride == 1) \
            for (int64_t i = 0; i < count; i++) \
                p[i] = store(src[i]); \
        else \
            for (int64_t i = 0; i < count; i++) \
                p[i * a->stride] = store(src[i]); \
        break; \
    }
        ROW_TYPES(CASE)
#undef CASE
#define CASE(dtype, type) \
    case dtype: { \
        type *p = (type *)a->data + 2 * n * a->stride; \
        for (int64_t i = 0; i < count; i++, p += 2 * a->stride) \
            p[0] = (type)src[2 * i], p[1] = (type)src[2 * i + 1]; \
        break; \
    }
        COMPLEX_TYPES(CASE)
#undef CASE
    }
}

/* Element n where the row can be used as it is, else NULL. */
INLINE REAL *N_(in_place)(const struct array *a, int64_t n)
{
    return a->dtype == REAL_DTYPE && a->stride == 1 ? (REAL *)a->data + (n - a->origin) : NULL;
}

/* Rows that a stage asks for before their time, those of them that lie in one piece. */
struct N_(streams) {
    int count;
    struct {
        const char *data;
        int64_t size; /* of an element */
    } of[4];
};

static void N_(add_stream)(struct N_(streams) * s, const struct array *a)
{
    if (!a->data || a->stride != 1)
        return;
    const int64_t size = dtype_size(a->dtype);
    s->of[s->count].data = (const char *)a->data - a->origin * size;
    s->of[s->count++].size = size;
}

/* Elements [n, n + count), to the second cache: a stage's rows lie powers of two apart, of
 * which the first keeps few.  Inlined, since GCC drops calls of a function that does
 * nothing else. */
INLINE void N_(fetch)(const struct N_(streams) * s, int64_t n, int64_t count)
{
    for (int k = 0; k < s->count; k++)
        for (int64_t i = 0; i < count * s->of[k].size; i += ALIGNMENT)
            __builtin_prefetch(s->of[k].data + n * s->of[k].size + i, 0, 2);
}

/* v[i] *= f[i], or its conjugate */
INLINE void N_(product)(bool complex, bool conjugate, int64_t count, const REAL *f, REAL *v)
{
    if (!complex) {
        for (int64_t i = 0; i < count; i++)
            v[i] *= f[i];
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        REAL c = f[2 * i], s = conjugate ? -f[2 * i + 1] : f[2 * i + 1];
        REAL re = v[2 * i] * c - v[2 * i + 1] * s;
        v[2 * i + 1] = v[2 * i] * s + v[2 * i + 1] * c;
        v[2 * i] = re;
    }
}

/* v[i] *= a */
INLINE void N_(scale)(bool complex, bool conjugate, int64_t count, struct scalar a, REAL *v)
{
    const REAL c = (REAL)a.re, s = (REAL)(conjugate ? -a.im : a.im);
    if (!complex) {
        for (int64_t i = 0; i < count; i++)
            v[i] *= c;
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        REAL re = v[2 * i] * c - v[2 * i + 1] * s;
        v[2 * i + 1] = v[2 * i] * s + v[2 * i + 1] * c;
        v[2 * i] = re;
    }
}

static void N_(axpy)(bool complex, int64_t count, struct scalar a, const void *x_, void *y_)
{
    const REAL c = (REAL)a.re, s = (REAL)a.im, *x = x_;
    REAL *y = y_;
    if (!complex) {
        for (int64_t i = 0; i < count; i++)
            y[i] += c * x[i];
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        y[2 * i] += c * x[2 * i] - s * x[2 * i + 1];
        y[2 * i + 1] += c * x[2 * i + 1] + s * x[2 * i];
    }
}

/* v[i] *= a[n + i], or its conjugate, where there is an a */
static void N_(scale_by)(const struct array *a, bool conjugate, int64_t n, int64_t count, REAL *v)
{
    if (!a->data)
        return;
    const bool complex = is_complex(a->dtype);
    const int64_t reals = 1 + complex, step = CHUNK / reals;
    const REAL *own = N_(in_place)(a, n);
    if (own) {
        N_(product)(false, false, count, own, v);
        return;
    }
    REAL factor[CHUNK];
    for (int64_t i = 0; i < count; i += step) {
        int64_t m = min64(step, count - i);
        N_(read)(a, n + i, m, factor);
        N_(product)(complex, conjugate, m, factor, v + reals * i);
    }
}

/* out[i] = a[i] b[i] */
INLINE void N_(products)(int64_t count, const REAL *a, const REAL *b, REAL *out)
{
    int64_t i = 0;
    for (; i + W <= count; i += W)
        *(VU *)(out + i) = *(const VU *)(a + i) * *(const VU *)(b + i);
    for (; i < count; i++)
        out[i] = a[i] * b[i];
}

/* z = x gate, elements [n, n + count) */
static void N_(read_gated)(const struct array *x, const struct array *gate, int64_t n,
                           int64_t count, REAL *dst)
{
    if (count <= 0)
        return;
    const REAL *own = N_(in_place)(x, n), *f = gate->data ? N_(in_place)(gate, n) : NULL;
    if (own && f) {
        N_(products)(count, own, f, dst);
        return;
    }
    N_(read)(x, n, count, dst);
    N_(scale_by)(gate, false, n, count, dst);
}

/* Places [n, n + count) of a source. */
static void N_(read_places)(const struct source *s, int64_t n, int64_t count, REAL *dst)
{
    const int64_t reals = 1 + is_complex(s->x.dtype), e = n + s->shift;
    if (e >= max64(0, s->from) && e + count <= s->to) {
        N_(read_gated)(&s->x, &s->gate, e, count, dst);
        return;
    }
#define UP_TO(element) max64(0, min64(count, (element) - e))
    const int64_t from = UP_TO(s->from), to = max64(from, UP_TO(s->to));
    const int64_t before = min64(to, max64(from, UP_TO(s->before_to)));
    const int64_t now = min64(to, max64(before, UP_TO(0)));
#undef UP_TO
    memset(dst, 0, (size_t)(from * reals) * sizeof(REAL));
    N_(read_gated)(&s->before, &s->before_gate, e + from, before - from, dst + from * reals);
    memset(dst + before * reals, 0, (size_t)((now - before) * reals) * sizeof(REAL));
    N_(read_gated)(&s->x, &s->gate, e + now, to - now, dst + now * reals);
    memset(dst + to * reals, 0, (size_t)((count - to) * reals) * sizeof(REAL));
}

/* ---- y = out_gate mask act(p), p = v + skip z ------------------------ */

static void N_(activate)(int activation, int64_t count, REAL *v)
{
    if (activation == FFTCONV_ACTIVATION_GELU)
        N_(map)(N_(GELU), count, v, v);
    else if (activation == FFTCONV_ACTIVATION_SILU)
        N_(map)(N_(SILU), count, v, v);
}

/* slope[i] = act'(p[i]) */
static void N_(slope)(int activation, int64_t count, const REAL *p, REAL *slope)
{
    if (activation == FFTCONV_ACTIVATION_GELU)
        N_(map)(N_(GELU_SLOPE), count, p, slope);
    else
        N_(map)(N_(SILU_SLOPE), count, p, slope);
}

/* What a sink has beside v, all of it REAL and contiguous, and present or NULL. */
struct N_(beside) {
    const REAL *x, *gate, *out, *twin_gate;
    REAL *twin;
    REAL skip, mask;
};

/* y = out mask act(v + skip x gate), and twin = twin_gate v, for the first m elements of
 * rows that lie `step` apart, in v one after the other, by pairs of vectors, whose steps
 * fill each other's waits; the answer: how many.  What there is beside v is a constant in
 * here. */
INLINE int64_t N_(write_pairs_of)(int activation, bool skip, bool gated, bool out, bool twin,
                                  int64_t rows, int64_t step, int64_t m, const REAL *v,
                                  const struct N_(beside) * given, REAL *y)
{
    const struct N_(beside) b = *given;
    const int64_t whole = m - m % (2 * W);
    for (int64_t row = 0; row < rows; row++, v += m, y += step)
        for (int64_t i = 0; i < whole; i += 2 * W) {
            V p[2];
#pragma GCC unroll 2
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
                if (out)
                    p[k] *= *(const VU *)(b.out + j);
            }
            *(VU *)(y + i) = p[0];
            *(VU *)(y + i + W) = p[1];
        }
    return whole;
}

#define WRITE(activation, skip, gated, out) \
    N_(write_pairs_of)(activation, skip, gated, out, false, rows, step, m, v, &b, y)
#define WRITE_SKIP(activation, out) \
    (b.gate ? WRITE(activation, true, true, out) \
     : b.x  ? WRITE(activation, true, false, out) \
            : WRITE(activation, false, false, out))
#define WRITE_ALL(activation) (b.out ? WRITE_SKIP(activation, true) : WRITE_SKIP(activation, false))

/* Elements [e, e + m) of y, and as many `step` further on, for so many rows: what there are
 * whole pairs of vectors of, nothing where an operand has to be converted first. */
static int64_t N_(write_vectors)(const struct sink *s, int64_t e, int64_t rows, int64_t step,
                                 int64_t m, const REAL *v)
{
    REAL *y = N_(in_place)(&s->y, e);
    const bool gate = s->has_skip && s->gate.data, out = s->out_gate.data, twin = s->twin.data;
    const struct N_(beside) b = {
        .x = s->has_skip ? N_(in_place)(&s->x, e) : NULL,
        .gate = gate ? N_(in_place)(&s->gate, e) : NULL,
        .out = out ? N_(in_place)(&s->out_gate, e) : NULL,
        .twin = twin ? N_(in_place)(&s->twin, e) : NULL,
        .twin_gate = twin ? N_(in_place)(&s->twin_gate, e) : NULL,
        .skip = s->has_skip ? (REAL)s->skip.re : 0,
        .mask = s->has_mask ? (REAL)s->mask.re : 1,
    };
    if (!y || !b.x != !s->has_skip || !b.gate != !gate || !b.out != !out || !b.twin != !twin ||
        !b.twin_gate != !twin)
        return 0;
    if (twin)
        return N_(write_pairs_of)(FFTCONV_ACTIVATION_IDENTITY, false, false, true, true, rows, step,
                                  m, v, &b, y);
    switch (s->activation) {
    case FFTCONV_ACTIVATION_GELU: return WRITE_ALL(FFTCONV_ACTIVATION_GELU);
    case FFTCONV_ACTIVATION_SILU: return WRITE_ALL(FFTCONV_ACTIVATION_SILU);
    default: return WRITE_ALL(FFTCONV_ACTIVATION_IDENTITY);
    }
}
#undef WRITE
#undef WRITE_SKIP
#undef WRITE_ALL

/* y from v at places [n, n + count), which is overwritten; elements outside
 * [from, to) are left out */
static void N_(write_run)(const struct sink *s, int64_t n, int64_t count, REAL *v)
{
    const bool complex = is_complex(s->y.dtype);
    const int64_t reals = 1 + complex, step = CHUNK / reals;
    const int64_t e = n + s->shift;
    int64_t first = max64(0, s->from - e);
    count = min64(count, s->to - e);
    if (first < count)
        first += N_(write_vectors)(s, e + first, 1, 0, count - first, v + first);
    for (int64_t i = first; i < count; i += step) {
        int64_t m = min64(step, count - i);
        REAL *w = v + i * reals, z[CHUNK];
        if (s->twin.data) {
            memcpy(z, w, (size_t)m * sizeof(REAL));
            N_(scale_by)(&s->twin_gate, false, e + i, m, z);
            N_(write)(&s->twin, e + i, m, z);
        }
        if (s->has_skip) {
            N_(read_gated)(&s->x, &s->gate, e + i, m, z);
            N_(axpy)(complex, m, s->skip, z, w);
        }
        N_(activate)(s->activation, m, w);
        if (s->has_mask)
            N_(scale)(complex, false, m, s->mask, w);
        N_(scale_by)(&s->out_gate, false, e + i, m, w);
        N_(write)(&s->y, e + i, m, w);
    }
}

/* Is y[n] = v[n] all there is to do, so that v may be the caller's memory? */
static bool N_(sink_is_plain)(const struct sink *s)
{
    return s->packing == LINEAR && s->y.dtype == REAL_DTYPE && s->y.stride == 1 && !s->has_mask &&
           !s->has_skip && !s->out_gate.data && s->activation == FFTCONV_ACTIVATION_IDENTITY;
}

/* sum_i a[i] conj(b[i]), in double and in eight sums, whose order is fixed */
static struct scalar N_(inner)(bool complex, int64_t count, const REAL *a, const REAL *b)
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

static void N_(gradient)(const struct gradient *a)
{
    const bool complex = is_complex(a->dy.dtype);
    const int64_t reals = 1 + complex, step = CHUNK / reals;
    struct scalar dskip = {0, 0};
    for (int64_t i = 0; i < a->count; i += step) {
        const int64_t m = min64(step, a->count - i), n = a->from + i;
        REAL *g = (REAL *)a->g + i * reals, t[CHUNK], p_[CHUNK];
        const REAL *p = a->p ? (const REAL *)a->p + i * reals : NULL;
        if (p == g && (a->dout_gate.data || a->activation != FFTCONV_ACTIVATION_IDENTITY))
            p = memcpy(p_, p, (size_t)(m * reals) * sizeof(REAL));
        N_(read)(&a->dy, n, m, g);
        if (a->has_mask)
            N_(scale)(complex, true, m, a->mask, g);
        if (a->dout_gate.data) { /* dy conj(mask act(p)) */
            REAL *to = N_(in_place)(&a->dout_gate, n), *d = to ? to : t;
            const REAL *act = p;
            if (a->activation != FFTCONV_ACTIVATION_IDENTITY || complex) {
                act = memcpy(t, p, (size_t)(m * reals) * sizeof(REAL));
                N_(activate)(a->activation, m, t);
            }
            if (complex) /* conj(p) g */
                for (int64_t j = 0; j < m; j++)
                    t[2 * j + 1] = -t[2 * j + 1];
            if (complex)
                N_(product)(true, false, m, g, t);
            else
                for (int64_t j = 0; j < m; j++)
                    d[j] = act[j] * g[j];
            if (!to)
                N_(write)(&a->dout_gate, n, m, t);
        }
        N_(scale_by)(&a->out_gate, true, n, m, g);
        if (a->activation != FFTCONV_ACTIVATION_IDENTITY) {
            N_(slope)(a->activation, m, p, t);
            N_(product)(false, false, m, t, g);
        }
        if (a->dskip) {
            N_(read_gated)(&a->x, &a->gate, n, m, t);
            const struct scalar part = N_(inner)(complex, m, g, t);
            dskip.re += part.re, dskip.im += part.im;
        }
    }
    if (a->dskip) {
        a->dskip->re += dskip.re;
        a->dskip->im += dskip.im;
    }
}

static void N_(spread)(int64_t from, int64_t count, const struct array *dz,
                       const struct array *factor, const struct array *to)
{
    const int64_t reals = 1 + is_complex(to->dtype), step = CHUNK / reals;
    REAL *own = to->dtype == dz->dtype ? N_(in_place)(to, from) : NULL;
    if (own) {
        N_(read_gated)(dz, factor, from, count, own);
        return;
    }
    for (int64_t i = 0; i < count; i += step) {
        int64_t m = min64(step, count - i);
        REAL t[CHUNK];
        N_(read)(dz, from + i, m, t);
        N_(scale_by)(factor, true, from + i, m, t);
        N_(write)(to, from + i, m, t);
    }
}

static struct scalar N_(get)(const struct array *a)
{
    REAL v[2] = {0, 0};
    N_(read)(a, 0, 1, v);
    return (struct scalar){(double)v[0], (double)v[1]};
}

static void N_(set)(const struct array *a, struct scalar value)
{
    const REAL v[2] = {(REAL)value.re, (REAL)value.im};
    N_(write)(a, 0, 1, v);
}

/* ---- Taps -------------------------------------------------------------------- */

/* k_rev from its last tap to the one after its first, which is their order in a
 * row's last places. */
static struct array N_(backwards)(const struct taps *t)
{
    struct array a = t->k_rev;
    a.data = (const char *)a.data + (t->rev_count - 1) * a.stride * dtype_size(a.dtype);
    a.stride = -a.stride;
    return a;
}

static void N_(flip)(const struct taps *t, REAL *last, int64_t reals)
{
    for (int64_t i = 0; t->sign < 0 && i < reals; i++)
        last[i] = -last[i];
}

static void N_(place_taps)(const struct taps *t, void *row_)
{
    const int64_t reals = 1 + is_complex(t->k.dtype), rest = t->rev_count - 1;
    const struct array rev = N_(backwards)(t);
    REAL *row = row_, *last = row + (t->padded_length - rest) * reals, first[2] = {0, 0};
    N_(read)(&t->k, 0, t->count, row);
    memset(row + t->count * reals, 0,
           (size_t)((t->padded_length - t->count) * reals) * sizeof(REAL));
    N_(read)(&t->k_rev, 0, 1, first);
    for (int64_t i = 0; i < reals; i++)
        row[i] += first[i];
    N_(read)(&rev, 0, rest, last);
    N_(flip)(t, last, rest * reals);
}

/* The row is overwritten. */
static void N_(take_taps)(const struct taps *t, void *row_)
{
    const int64_t reals = 1 + is_complex(t->k_rev.dtype), rest = t->rev_count - 1;
    const struct array rev = N_(backwards)(t);
    REAL *row = row_, *last = row + (t->padded_length - rest) * reals;
    if (t->k.data)
        N_(write)(&t->k, 0, t->count, row);
    N_(write)(&t->k_rev, 0, 1, row);
    N_(flip)(t, last, rest * reals);
    N_(write)(&rev, 0, rest, last);
}
