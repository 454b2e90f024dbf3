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

enum {
    N_(DIGITS) = IN_DOUBLE ? 52 : 23,
    N_(BIAS) = IN_DOUBLE ? 1023 : 127,
    N_(LEAST) = 1 - N_(BIAS), /* exponent of the least normal number */
};

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

/* v[i] *= 2^exponent, exactly, and rounded once where the result is denormal.  Denormal numbers
 * count as zeros in all arithmetic, so they are made as integers: their bits m stand for
 * m 2^(LEAST - DIGITS), and 2^DIGITS + m as a REAL has the bits of 2^DIGITS plus m.  A power may be
 * out of a REAL's range, but its root is not. */
static void N_(scale_by_power)(int exponent, int64_t count, REAL *v)
{
    const int in_units = exponent - N_(LEAST) + N_(DIGITS),
              of_units = exponent + N_(LEAST) - N_(DIGITS);
    const REAL a = (REAL)ldexp(1, exponent / 2), b = (REAL)ldexp(1, exponent - exponent / 2);
    const REAL c = (REAL)ldexp(1, in_units / 2), d = (REAL)ldexp(1, in_units - in_units / 2);
    const REAL unit = (REAL)ldexp(1, of_units), least = (REAL)ldexp(1, N_(LEAST));
    const REAL whole = (REAL)ldexp(1, N_(DIGITS));
    const INT sign = IN_DOUBLE ? (INT)INT64_MIN : (INT)INT32_MIN, whole_bits = N_(bits)(whole);
    const INT normal = (INT)1 << N_(DIGITS);
    for (int64_t i = 0; i < count; i++) {
        const INT bits = N_(bits)(v[i]), m = bits & ~sign;
        const REAL x = N_(from_bits)(m),
                   integer = N_(from_bits)((m & (normal - 1)) | whole_bits) - whole;
        const REAL y = m < normal ? integer * unit : x * a * b;
        const REAL units = m < normal ? integer * unit * c * d : x * c * d;
        const INT denormal = N_(bits)(units + whole) - whole_bits;
        v[i] = N_(from_bits)((y < least ? denormal : N_(bits)(y)) | (bits & sign));
    }
}

/* dst[i] = 2^-exponent x[n + i] gate[n + i].  Half of the power goes before the gate, so that the
 * product, too, stays in range. */
static void N_(read_scaled)(const struct array *x, const struct array *gate, int exponent,
                            int64_t n, int64_t count, REAL *dst)
{
    if (!exponent || count <= 0) {
        N_(read_gated)(x, gate, n, count, dst);
        return;
    }
    const int64_t reals = count * (1 + is_complex(x->dtype));
    N_(read)(x, n, count, dst);
    N_(scale_by_power)(-(exponent / 2), reals, dst);
    N_(multiply_by_array)(gate, false, n, count, dst);
    N_(scale_by_power)(exponent / 2 - exponent, reals, dst);
}

/* The bits of the largest of some REALs without its sign: as integers, they are in order.  Two
 * maxima are independent. */
static INT N_(largest_bits)(const REAL *x, int64_t count)
{
    typedef INT __attribute__((may_alias)) bits;
    const bits *b = (const bits *)x;
    const INT all = IN_DOUBLE ? (INT)INT64_MAX : (INT)INT32_MAX;
    const int64_t half = count / 2;
    INT even = count % 2 ? b[count - 1] & all : 0, odd = 0;
    for (int64_t i = 0; i < half; i++) {
        const INT p = b[i] & all, q = b[i + half] & all;
        even = p > even ? p : even;
        odd = q > odd ? q : odd;
    }
    return even > odd ? even : odd;
}

static int N_(largest)(const struct array *a, int64_t from, int64_t to)
{
    const int64_t reals = 1 + is_complex(a->dtype), step = CHUNK / reals;
    const REAL *contiguous = N_(in_place)(a, from);
    INT largest = 0;
    if (contiguous)
        largest = N_(largest_bits)(contiguous, max64(0, to - from));
    for (int64_t n = from; !contiguous && n < to; n += step) {
        REAL part[CHUNK];
        const int64_t m = min64(step, to - n);
        N_(read)(a, n, m, part);
        const INT bits = N_(largest_bits)(part, m * reals);
        largest = bits > largest ? bits : largest;
    }
    const int exponent = (int)(largest >> N_(DIGITS)) - N_(BIAS);
    return largest == 0 ? ALL_ZEROS : exponent > N_(BIAS) ? NOT_FINITE : exponent;
}

/* What a pass has seen that summed, in each lane, the squares of `count` numbers or fewer (struct
 * transform_kernels).  Their largest is at most the sum's root, and at least the root of the
 * sum / count; four bits are left for rounding, and for z = x gate, whose exponent is not exact. */
INLINE int N_(seen)(V squares, int64_t count)
{
    const int ordinary = IN_DOUBLE ? ORDINARY_DOUBLE : ORDINARY_SINGLE;
    const REAL high = (REAL)ldexp(1, 2 * ordinary - 4);
    const REAL low = (REAL)count * (REAL)ldexp(1, 4 - 2 * ordinary);
    const VI lanes = ((squares >= low) & LARGE_ENOUGH) | (~(squares <= high) & PERHAPS_TOO_LARGE);
    uint64_t part[FFTCONV_VECTOR_BYTES / 8], all = 0;
    memcpy(part, &lanes, sizeof part);
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        all |= part[i];
    return (int)((all | all >> 32) & (LARGE_ENOUGH | PERHAPS_TOO_LARGE));
}

static void N_(write_product)(int64_t start, int64_t count, const struct array *from,
                              const struct array *factor, const struct array *to)
{
    const int64_t reals = 1 + is_complex(to->dtype), step = CHUNK / reals;
    REAL *contiguous = to->dtype == from->dtype ? N_(in_place)(to, start) : NULL;
    if (contiguous) {
        N_(read_gated)(from, factor, start, count, contiguous);
        return;
    }
    for (int64_t i = 0; i < count; i += step) {
        int64_t m = min64(step, count - i);
        REAL product[CHUNK];
        N_(read)(from, start + i, m, product);
        N_(multiply_by_array)(factor, true, start + i, m, product);
        N_(write)(to, start + i, m, product);
    }
}

static struct scalar N_(load_scalar)(const struct array *a)
{
    REAL v[2] = {0, 0};
    N_(read)(a, 0, 1, v);
    return (struct scalar){(double)v[0], (double)v[1]};
}

static void N_(store_scalar)(const struct array *a, struct scalar value)
{
    const REAL v[2] = {(REAL)value.re, (REAL)value.im};
    N_(write)(a, 0, 1, v);
}
