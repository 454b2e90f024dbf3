/* Elements of rows in memory: reading, writing and multiplying them, whatever their dtype and
 * stride.
 *
 * An element is one REAL, or two where the dtype is complex: `reals` is that number.  All the
 * rows of a call are real, or all are complex. */

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

/* a[n + i] = src[i] */
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

/* Where element n lies, if the elements are contiguous REALs; else NULL. */
INLINE REAL *N_(in_place)(const struct array *a, int64_t n)
{
    return a->dtype == REAL_DTYPE && a->stride == 1 ? (REAL *)a->data + (n - a->origin) : NULL;
}

/* v[i] *= f[i], or conj(f[i]). */
INLINE void N_(multiply_by)(bool complex, bool conjugate, int64_t count, const REAL *f, REAL *v)
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

/* v[i] *= a, or conj(a). */
INLINE void N_(scale_by)(bool complex, bool conjugate, int64_t count, struct scalar a, REAL *v)
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

/* y[i] += a x[i] */
static void N_(add_scaled)(bool complex, int64_t count, struct scalar a, const void *x_, void *y_)
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

/* v[i] *= a[n + i], or conj(a[n + i]); where a has no data, v stays as it is. */
static void N_(multiply_by_array)(const struct array *a, bool conjugate, int64_t n, int64_t count,
                                  REAL *v)
{
    if (!a->data)
        return;
    const bool complex = is_complex(a->dtype);
    const int64_t reals = 1 + complex, step = CHUNK / reals;
    const REAL *contiguous = N_(in_place)(a, n);
    if (contiguous) {
        N_(multiply_by)(false, false, count, contiguous, v);
        return;
    }
    REAL factor[CHUNK];
    for (int64_t i = 0; i < count; i += step) {
        int64_t m = min64(step, count - i);
        N_(read)(a, n + i, m, factor);
        N_(multiply_by)(complex, conjugate, m, factor, v + reals * i);
    }
}

/* out[i] = a[i] b[i], real numbers. */
INLINE void N_(multiply)(int64_t count, const REAL *a, const REAL *b, REAL *out)
{
    int64_t i = 0;
    for (; i + W <= count; i += W)
        *(VU *)(out + i) = *(const VU *)(a + i) * *(const VU *)(b + i);
    for (; i < count; i++)
        out[i] = a[i] * b[i];
}

/* dst[i] = x[n + i] gate[n + i]; without a gate, x[n + i]. */
static void N_(read_gated)(const struct array *x, const struct array *gate, int64_t n,
                           int64_t count, REAL *dst)
{
    if (count <= 0)
        return;
    const REAL *contiguous = N_(in_place)(x, n);
    const REAL *factor = gate->data ? N_(in_place)(gate, n) : NULL;
    if (contiguous && factor) {
        N_(multiply)(count, contiguous, factor, dst);
        return;
    }
    N_(read)(x, n, count, dst);
    N_(multiply_by_array)(gate, false, n, count, dst);
}

INLINE INT N_(bits)(REAL x)
{
    INT bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE REAL N_(from_bits)(INT bits)
{
    REAL x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
