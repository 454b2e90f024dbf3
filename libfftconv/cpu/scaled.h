/* Numbers of any magnitude.
 *
 * Denormal numbers count as zeros in all arithmetic, and a product may leave the range of REALs
 * although a later factor would bring it back.  So where a row may hold such numbers (scale.c),
 * they are kept as m 2^e, where e is an integer beside the REAL m.  It costs a few times as much. */
struct N_(scaled) {
    REAL m[CHUNK] __attribute__((aligned(FFTCONV_VECTOR_BYTES)));
    INT e[CHUNK] __attribute__((aligned(FFTCONV_VECTOR_BYTES)));
};

enum {
    N_(DIGITS) = IN_DOUBLE ? 52 : 23,
    N_(BIAS) = IN_DOUBLE ? 1023 : 127,
    N_(LEAST) = 1 - N_(BIAS), /* exponent of the least normal number */
    N_(ORDINARY) = IN_DOUBLE ? ORDINARY_DOUBLE : ORDINARY_SINGLE,
};
#define SIGN (IN_DOUBLE ? (INT)INT64_MIN : (INT)INT32_MIN)
#define NORMAL ((INT)1 << N_(DIGITS)) /* the bits of the least normal number */
/* 2^DIGITS.  Its bits plus m are those of 2^DIGITS + m, for integers m < 2^DIGITS. */
#define WHOLE ((REAL)((INT)1 << N_(DIGITS)))
#define FINITE ((INT)((2 * (INT)N_(BIAS) + 1) << N_(DIGITS)) - 1) /* those of the largest number */
#define WHOLE_BITS ((INT)(N_(DIGITS) + N_(BIAS)) << N_(DIGITS))

typedef INT N_(exponents) __attribute__((vector_size(FFTCONV_VECTOR_BYTES), may_alias));
#define E_AT(a, i) (*(N_(exponents) *)((a)->e + (i)))
#define M_AT(a, i) (*(V *)((a)->m + (i)))

INLINE VI N_(choose)(VI mask, VI a, VI b) { return (mask & a) | (~mask & b); }

INLINE bool N_(any)(VI mask)
{
    uint64_t part[FFTCONV_VECTOR_BYTES / 8], all = 0;
    memcpy(part, &mask, sizeof part);
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        all |= part[i];
    return all;
}

/* A vector, or the first numbers of one where fewer are left. */
INLINE V N_(load_some)(const REAL *from, int64_t left)
{
    V v = {0};
    if (left >= W)
        return *(const VU *)from;
    memcpy(&v, from, (size_t)left * sizeof(REAL));
    return v;
}
INLINE void N_(store_some)(REAL *to, int64_t left, V v)
{
    if (left >= W)
        *(VU *)to = v;
    else
        memcpy(to, &v, (size_t)left * sizeof(REAL));
}

/* The magnitude of x times 2^(DIGITS - LEAST) as an integer, where x is zero or denormal. */
INLINE V N_(units)(VI bits) { return (V)((bits & (NORMAL - 1)) | WHOLE_BITS) - WHOLE; }

/* 2^e for e from LEAST on, 0 below that. */
INLINE V N_(power)(VI e)
{
    e = N_(choose)(e > N_(BIAS), (VI){0} + N_(BIAS), e);
    e = N_(choose)(e < N_(LEAST) - 1, (VI){0} + (N_(LEAST) - 1), e);
    return (V)((e + N_(BIAS)) << N_(DIGITS));
}

/* m 2^e for m without a sign, rounded once, denormal results too. */
INLINE V N_(narrow_vector)(V m, VI e)
{
    e = N_(choose)(e > 2 * N_(BIAS), (VI){0} + 2 * N_(BIAS), e);
    const VI half = e >> 1, in_units = e + (N_(DIGITS) - N_(LEAST)), half_units = in_units >> 1;
    const V y = m * N_(power)(half) * N_(power)(e - half);
    const V units = m * N_(power)(half_units) * N_(power)(in_units - half_units);
    const VI denormal = (VI)(units + WHOLE) - WHOLE_BITS;
    return (V)N_(choose)(y < N_(from_bits)(NORMAL), denormal, (VI)y);
}

/* v[i] = a[i] 2^exponent, with zeros in place of denormal numbers. */
static void N_(narrow_inside)(int64_t count, const struct N_(scaled) * a, int exponent, REAL *v)
{
    for (int64_t i = 0; i < count; i += W) {
        VI e = E_AT(a, i) + exponent;
        e = N_(choose)(e > 2 * N_(BIAS), (VI){0} + 2 * N_(BIAS), e);
        const VI half = e >> 1;
        N_(store_some)(v + i, count - i, M_AT(a, i) * N_(power)(half) * N_(power)(e - half));
    }
}

/* v[i] = a[i] 2^exponent */
static void N_(narrow)(int64_t count, const struct N_(scaled) * a, int exponent, REAL *v)
{
    for (int64_t i = 0; i < count; i += W) {
        const VI bits = (VI)M_AT(a, i);
        const V y = N_(narrow_vector)((V)(bits & ~SIGN), E_AT(a, i) + exponent);
        N_(store_some)(v + i, count - i, (V)((VI)y | (bits & SIGN)));
    }
}

/* Numbers with 1 <= |m| < 2 from their m, with e = 0.  Zeros get an exponent below all others; what
 * is not finite keeps its m. */
static void N_(split)(int64_t count, struct N_(scaled) * a)
{
    for (int64_t i = 0; i < count; i += W) {
        const VI given = (VI)M_AT(a, i), magnitude = given & ~SIGN, small = magnitude < NORMAL;
        const VI bits = N_(choose)(small, (VI)N_(units)(magnitude), magnitude);
        const VI field = bits >> N_(DIGITS), zero = bits == 0;
        const VI odd = zero | (field > 2 * N_(BIAS));
        const VI m = N_(choose)(odd, bits, (bits & (NORMAL - 1)) | ((INT)N_(BIAS) << N_(DIGITS)));
        const VI e = field - N_(BIAS) + (small & (N_(LEAST) - N_(DIGITS)));
        M_AT(a, i) = (V)(m | (given & SIGN));
        E_AT(a, i) = N_(choose)(odd, zero & ALL_ZEROS, e);
    }
}

/* Gives the two parts of complex numbers one exponent. */
static void N_(join_parts)(bool complex, int64_t count, struct N_(scaled) * a)
{
    INT other[CHUNK] __attribute__((aligned(FFTCONV_VECTOR_BYTES)));
    if (!complex)
        return;
    for (int64_t i = 0; i < round_up(count, W); i++)
        other[i] = a->e[i ^ 1];
    for (int64_t i = 0; i < count; i += W) {
        const VI e = E_AT(a, i), f = *(N_(exponents) *)(other + i), top = N_(choose)(e > f, e, f);
        M_AT(a, i) *= N_(power)(e - top);
        E_AT(a, i) = top;
    }
}

/* Elements [n, n + count) of an array; returns the number of REALs. */
static int64_t N_(load_scaled)(const struct array *x, int64_t n, int64_t count,
                               struct N_(scaled) * a)
{
    const bool complex = is_complex(x->dtype);
    const int64_t reals = count * (1 + complex);
    N_(read)(x, n, count, a->m);
    for (int64_t i = reals; i % W; i++)
        a->m[i] = 0;
    N_(split)(reals, a);
    N_(join_parts)(complex, reals, a);
    return reals;
}

/* Numbers v 2^exponent of the engine's own arithmetic, which are not denormal. */
static void N_(own_scaled)(int64_t count, const REAL *v, int exponent, struct N_(scaled) * a)
{
    memcpy(a->m, v, (size_t)count * sizeof(REAL));
    for (int64_t i = count; i % W; i++)
        a->m[i] = 0;
    for (int64_t i = 0; i < count; i += W)
        E_AT(a, i) = (VI){0} + exponent;
}

/* a[i] *= b[i], or conj(b[i]) */
static void N_(times)(bool complex, bool conjugate, int64_t count, struct N_(scaled) * a,
                      const struct N_(scaled) * b)
{
    for (int64_t i = 0; i < count; i += W)
        E_AT(a, i) += E_AT(b, i);
    N_(multiply_by)(complex, conjugate, round_up(count, W) / (1 + complex), b->m, a->m);
}

/* a[i] *= s, or conj(s).  s is a REAL in a double; in float32 its exponent needs no care. */
static void N_(times_scalar)(bool complex, bool conjugate, int64_t count, struct N_(scaled) * a,
                             struct scalar s)
{
    struct N_(scaled) f;
    REAL m[2];
    int e[2] = {0, 0};
    for (int k = 0; k < 2; k++) {
        const double part = complex && k ? s.im : s.re;
        m[k] = (REAL)(IN_DOUBLE ? part : frexp(part, &e[k]));
        e[k] = part == 0 ? ALL_ZEROS : e[k];
    }
    const int64_t written = complex || IN_DOUBLE ? round_up(count, W) : 0;
    for (int64_t i = 0; i < written; i++)
        f.m[i] = m[i % 2], f.e[i] = e[i % 2];
    for (int64_t i = 0; !written && i < count; i += W) {
        M_AT(a, i) *= m[0];
        E_AT(a, i) += e[0];
    }
    if (!written)
        return;
    if (IN_DOUBLE) /* where frexp would not see a denormal number */
        N_(split)(count, &f);
    N_(join_parts)(complex, count, &f);
    N_(times)(complex, conjugate, count, a, &f);
}

/* a[i] += b[i] */
static void N_(plus)(bool complex, int64_t count, struct N_(scaled) * a,
                     const struct N_(scaled) * b)
{
    for (int64_t i = 0; i < count; i += W) {
        const VI e = E_AT(a, i), f = E_AT(b, i), top = N_(choose)(e > f, e, f);
        M_AT(a, i) = M_AT(a, i) * N_(power)(e - top) + M_AT(b, i) * N_(power)(f - top);
        E_AT(a, i) = top;
    }
    N_(join_parts)(complex, count, a);
}

/* a[i] = act(a[i]), which is a[i] times a weight between 0 and 1. */
static void N_(activate_scaled)(int activation, int64_t count, struct N_(scaled) * a)
{
    REAL p[CHUNK] __attribute__((aligned(FFTCONV_VECTOR_BYTES)));
    if (activation == FFTCONV_ACTIVATION_IDENTITY)
        return;
    N_(narrow_inside)(round_up(count, W), a, 0, p);
    for (int64_t i = 0; i < count; i += W)
        M_AT(a, i) *= activation == FFTCONV_ACTIVATION_GELU ? N_(normal_cdf)(*(V *)(p + i))
                                                            : N_(logistic)(*(V *)(p + i));
}

/* v[i] *= 2^exponent, as `narrow` would.  Numbers that are denormal before or after are looked at
 * only where they count: a row is at least 2^-ordinary otherwise. */
static void N_(scale_by_power)(int exponent, int64_t count, void *row)
{
    REAL *v = row;
    enum { NEAR = IN_DOUBLE ? 600 : 60 };
    exponent = exponent > 2 * N_(BIAS) ? 2 * N_(BIAS) : exponent;
    exponent = exponent < -4 * N_(BIAS) ? -4 * N_(BIAS) : exponent;
    const V a = N_(power)((VI){0} + exponent / 2),
            b = N_(power)((VI){0} + (exponent - exponent / 2));
    const V unit = N_(power)((VI){0} + (exponent + N_(LEAST) - N_(DIGITS)));
    /* below it, results are denormal */
    const int limit = min64(N_(LEAST) - exponent, N_(BIAS));
    const VI least = (VI)N_(power)((VI){0} + limit);
    bool denormal = exponent > NEAR;
    for (int64_t i = 0; exponent < -NEAR && i + W <= count; i += W) {
        const VI bits = (VI) * (VU *)(v + i) & ~SIGN;
        denormal |= N_(any)((bits < least) & (bits != 0));
    }
    denormal |= exponent < -NEAR && count % W;
    for (int64_t i = 0; i < count; i += W) {
        const V x = N_(load_some)(v + i, count - i);
        const VI bits = (VI)x & ~SIGN;
        V y = x * a * b;
        if (denormal && exponent > 0)
            y = (V)N_(choose)(bits < NORMAL, (VI)(N_(units)(bits) * unit) | ((VI)x & SIGN), (VI)y);
        else if (denormal)
            y = (V)((VI)N_(narrow_vector)((V)bits, (VI){0} + exponent) | ((VI)x & SIGN));
        N_(store_some)(v + i, count - i, y);
    }
}

/* dst[i] = 2^-exponent x[n + i] gate[n + i]; with care, no product leaves the range of REALs
 * before its power. */
static void N_(read_scaled)(const struct array *x, const struct array *gate, bool careful,
                            int exponent, int64_t n, int64_t count, REAL *dst)
{
    if (count <= 0)
        return;
    if (!gate->data || !careful) {
        N_(read_gated)(x, gate, n, count, dst);
        if (exponent)
            N_(scale_by_power)(-exponent, count * (1 + is_complex(x->dtype)), dst);
        return;
    }
    const bool complex = is_complex(x->dtype);
    const int64_t step = CHUNK / (1 + complex);
    for (int64_t i = 0; i < count; i += step) {
        struct N_(scaled) z, factor;
        const int64_t m = min64(step, count - i), reals = N_(load_scaled)(x, n + i, m, &z);
        N_(load_scaled)(gate, n + i, m, &factor);
        N_(times)(complex, false, reals, &z, &factor);
        N_(narrow_inside)(reals, &z, -exponent, dst + i * (1 + complex));
    }
}

/* ---- How large numbers are ------------------------------------------------------------------- */

/* What a pass has seen that summed, in each lane, the squares of some of `count` numbers (struct
 * transform_kernels).  Their largest is at most the root of all sums, and at least the root of
 * that / count; four bits are left for rounding. */
INLINE int N_(seen)(V squares, int64_t count)
{
    const REAL high = (REAL)ldexp(1, 2 * N_(ORDINARY) - 4);
    const REAL low = (REAL)count * (REAL)ldexp(1, 4 - 2 * N_(ORDINARY));
    typedef REAL quarter __attribute__((vector_size(16)));
    quarter part[FFTCONV_VECTOR_BYTES / 16], all = {0};
    memcpy(part, &squares, sizeof part);
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        all += part[i];
    const REAL sum = IN_DOUBLE
                         ? all[0] + all[1]
                         : (all[0] + all[1]) + (all[IN_DOUBLE ? 0 : 2] + all[IN_DOUBLE ? 0 : 3]);
    return (sum >= low ? LARGE_ENOUGH : 0) | (sum <= high ? 0 : PERHAPS_TOO_LARGE);
}

INLINE int N_(largest_lane)(VI exponents)
{
    INT all = ALL_ZEROS;
    for (int i = 0; i < LANES; i++)
        all = exponents[i] > all ? exponents[i] : all;
    return (int)all;
}

/* The largest exponent of numbers, which have |m| < 2 or are products of such. */
static int N_(largest_scaled)(int64_t count, const struct N_(scaled) * a)
{
    VI largest = (VI){0} + ALL_ZEROS;
    for (int64_t i = 0; i < count; i += W) {
        const VI bits = (VI)M_AT(a, i) & ~SIGN, field = bits >> N_(DIGITS);
        VI e = N_(choose)(bits == 0, (VI){0} + ALL_ZEROS, E_AT(a, i) + field - N_(BIAS));
        e = N_(choose)(field > 2 * N_(BIAS), (VI){0} + NOT_FINITE, e);
        largest = N_(choose)(e > largest, e, largest);
    }
    return N_(largest_lane)(largest);
}

/* The exponent of the largest of some REALs: as integers, their bits without the sign are in order. */
static int N_(largest_real)(const REAL *x, int64_t count)
{
    VI most[2] = {{0}, {0}}; /* two maxima are independent */
    INT all = 0;
    for (int64_t i = 0; i < count; i += 2 * W) {
        for (int k = 0; k < 2; k++) {
            const VI bits = (VI)N_(load_some)(x + i + k * W, max64(0, count - i - k * W)) & ~SIGN;
            most[k] = N_(choose)(bits > most[k], bits, most[k]);
        }
    }
    for (int i = 0; i < 2 * LANES; i++)
        all = most[i / LANES][i % LANES] > all ? most[i / LANES][i % LANES] : all;
    const int exponent = (int)(all >> N_(DIGITS)) - N_(BIAS);
    return all == 0 ? ALL_ZEROS : exponent > N_(BIAS) ? NOT_FINITE : exponent;
}

/* The largest sum of the exponents of x[i] and y[i], REALs: of their product, at most one too
 * small; a denormal number has one less than the least normal number. */
static int N_(largest_product)(const REAL *x, const REAL *y, int64_t count)
{
    VI largest = (VI){0} + ALL_ZEROS;
    for (int64_t i = 0; i < count; i += W) {
        const VI a = (VI)N_(load_some)(x + i, count - i) & ~SIGN;
        const VI b = (VI)N_(load_some)(y + i, count - i) & ~SIGN;
        const VI e = (a >> N_(DIGITS)) + (b >> N_(DIGITS)) - 2 * N_(BIAS);
        const VI odd = (a > FINITE) | (b > FINITE);
        const VI sum = N_(choose)(odd, (VI){0} + NOT_FINITE, e);
        const VI zero = (a == 0) | (b == 0);
        largest = N_(choose)((sum > largest) & (odd | ~zero), sum, largest);
    }
    return N_(largest_lane)(largest);
}

static int N_(largest)(const struct array *x, const struct array *gate, int64_t from, int64_t to)
{
    const bool complex = is_complex(x->dtype);
    const int64_t step = CHUNK / (1 + complex);
    int largest = ALL_ZEROS;
    for (int64_t n = from; n < to; n += step) {
        const int64_t m = min64(step, to - n), reals = m * (1 + complex);
        int here;
        if (gate->data && complex) {
            struct N_(scaled) z, factor;
            N_(load_scaled)(x, n, m, &z);
            N_(load_scaled)(gate, n, m, &factor);
            N_(times)(complex, false, reals, &z, &factor);
            here = N_(largest_scaled)(reals, &z);
        } else {
            REAL part[2][CHUNK];
            const REAL *a = N_(in_place)(x, n), *b = gate->data ? N_(in_place)(gate, n) : NULL;
            if (!a)
                N_(read)(x, n, m, part[0]), a = part[0];
            if (gate->data && !b)
                N_(read)(gate, n, m, part[1]), b = part[1];
            here = b ? N_(largest_product)(a, b, reals) : N_(largest_real)(a, reals);
        }
        largest = here > largest ? here : largest;
    }
    return largest;
}

/* The first numbers that are read decide mostly. */
static bool N_(is_tiny)(const struct array *a, int64_t from, int64_t to)
{
    const REAL least = (REAL)ldexp(1, -N_(ORDINARY));
    const int64_t reals = 1 + is_complex(a->dtype);
    for (int64_t n = from, m; n < to; n += m) {
        REAL part[CHUNK];
        m = min64(n == from ? 4 : CHUNK / reals, to - n);
        N_(read)(a, n, m, part);
        for (int64_t i = 0; i < m * reals; i++)
            if (!(part[i] < least && part[i] > -least))
                return false;
    }
    return true;
}

/* Are x and x gate ordinary? */
static bool N_(is_ordinary)(const struct array *x, const struct array *gate, int64_t from,
                            int64_t to)
{
    const bool complex = is_complex(x->dtype);
    const int64_t step = CHUNK / (1 + complex);
    V sums[2] = {{0}, {0}};
    for (int64_t n = from; n < to; n += step) {
        REAL z[CHUNK] __attribute__((aligned(FFTCONV_VECTOR_BYTES)));
        const int64_t m = min64(step, to - n), reals = m * (1 + complex);
        N_(read)(x, n, m, z);
        for (int64_t i = reals; i % W; i++)
            z[i] = 0;
        for (int k = 0; k < 2; k++) {
            for (int64_t i = 0; i < reals; i += W)
                sums[k] += *(V *)(z + i) * *(V *)(z + i);
            if (k == 0)
                N_(multiply_by_array)(gate, false, n, m, z);
        }
    }
    return N_(seen)(sums[0], 2 * (to - from)) == LARGE_ENOUGH &&
           N_(seen)(sums[1], 2 * (to - from)) == LARGE_ENOUGH;
}

/* ---- Single numbers, and products -------------------------------------------------------------- */

static struct scalar N_(load_scalar)(const struct array *a)
{
    REAL v[2] = {0, 0};
    double parts[2];
    N_(read)(a, 0, 1, v);
    for (int k = 0; k < 2; k++) {
        const INT bits = N_(bits)(v[k]), m = bits & ~SIGN;
        parts[k] = (double)v[k];
        if (!IN_DOUBLE && m < NORMAL)
            parts[k] = ldexp(bits < 0 ? -(double)m : (double)m, N_(LEAST) - N_(DIGITS));
    }
    return (struct scalar){parts[0], parts[1]};
}

static void N_(store_scalar)(const struct array *a, struct scalar value)
{
    const REAL v[2] = {(REAL)value.re, (REAL)value.im};
    N_(write)(a, 0, 1, v);
}

static void N_(write_product)(int64_t start, int64_t count, const struct array *from, bool careful,
                              int exponent, const struct array *factor, const struct array *to)
{
    const bool complex = is_complex(to->dtype);
    const int64_t reals = 1 + complex, step = CHUNK / reals;
    REAL *contiguous = to->dtype == from->dtype ? N_(in_place)(to, start) : NULL;
    if (contiguous && !careful) {
        N_(read_gated)(from, factor, start, count, contiguous);
        return;
    }
    for (int64_t i = 0; i < count; i += step) {
        const int64_t n = start + i, m = min64(step, count - i);
        REAL product[CHUNK];
        N_(read)(from, n, m, product);
        if (careful) {
            struct N_(scaled) a, f;
            N_(own_scaled)(m * reals, product, exponent, &a);
            if (factor->data) {
                N_(load_scaled)(factor, n, m, &f);
                N_(times)(complex, true, m * reals, &a, &f);
            }
            N_(narrow)(m * reals, &a, 0, product);
        } else {
            N_(multiply_by_array)(factor, true, n, m, product);
        }
        N_(write)(to, n, m, product);
    }
}

#undef SIGN
#undef NORMAL
#undef WHOLE
#undef WHOLE_BITS
#undef FINITE
