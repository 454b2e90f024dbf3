/* exp, the normal distribution and the logistic function on vectors, without
 * branches or tables, so that an activation costs less than the convolution it
 * follows.  Included by engine_body.h. */

#ifndef FFTCONV_MATH_CONSTANTS
#define FFTCONV_MATH_CONSTANTS
/* Phi(x) - 1/2 = x P(x^2) / Q(x^2) in float32, up to a bound from which on that cannot
 * tell Phi from 0 and 1: weighted least squares with Lawson's weights, largest error
 * 2.0e-8.  Highest powers first; Q ends in 1. */
#define NORMAL_BOUND 5.5f
#define NORMAL_P \
    1.11757217e-10f, -2.20823353e-08f, 3.24107605e-06f, 0.000170375372f, 0.00450917399f, \
        0.0359223685f, 0.398942155f
#define NORMAL_Q 6.23269689e-05f, 0.00183065204f, 0.0290915837f, 0.256708596f
/* exp(r) in float32, |r| <= ln(2) / 2, highest power first: the least largest relative
 * error among those that end in r + 1, 4e-9. */
#define EXP_SINGLE 0.00138145534f, 0.00836872403f, 0.041668389f, 0.166665211f, 0.49999994f, 1, 1
/* exp(a^2) erfc(a) in float64, in s = (a - 3) / (a + 3): a Chebyshev
 * fit on [-1, 1], highest power first, largest error 6e-16. */
#define ERFCX \
    -3.6410152980124434088e-9, -2.169597799661997243e-9, 3.6544238691851418735e-8, \
        3.3410056799272449811e-8, -2.2251497924955924286e-7, -2.9859901964989723523e-7, \
        1.2435316256481859922e-6, 2.1229015829545932501e-6, -7.9738896255609920056e-6, \
        -0.000012861691088915682389, 0.000064055285821054289912, 0.000045255620861885989333, \
        -0.00059706171865759952648, 0.00070774638477670885692, 0.0042691363098486422386, \
        -0.024392499313531438547, 0.071665837199036655555, -0.15011593650100636725, \
        0.24560380171231647982, -0.32623356004303415328, 0.17900115118138995042
#endif

#define SINGLE (sizeof(REAL) == 4)

/* mask ? a : b, lane by lane */
INLINE V N_(select)(VI mask, V a, V b) { return (V)((mask & (VI)a) | (~mask & (VI)b)); }

/* x held between two bounds; NaN stays */
INLINE V N_(clamp)(V x, REAL low, REAL high)
{
    x = N_(select)(x < low, SPLAT(low), x);
    return N_(select)(x > high, SPLAT(high), x);
}

/* Coefficients from the highest power; even and odd powers apart, which halves the
 * chain of dependent steps. */
INLINE V N_(polynomial)(V x, const REAL *c, int terms)
{
    const V square = x * x;
    V p[2] = {SPLAT(c[0]), SPLAT(c[1])};
#pragma GCC unroll 20
    for (int k = 2; k < terms; k++)
        p[k % 2] = p[k % 2] * square + c[k];
    return p[terms % 2] * x + p[1 - terms % 2];
}

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2: a polynomial, in float64
 * Taylor's, to the precision's last place.  x where the result is in the normal range. */
INLINE V N_(exp_normal)(V x)
{
    const int digits = SINGLE ? 23 : 52;
    const REAL magic = (REAL)(SINGLE ? 0x1.8p23 : 0x1.8p52);
    /* ln 2 in two parts, the first with zeros at its end, so that n times it is exact */
    const REAL ln2_high = (REAL)(SINGLE ? 0x1.62e4p-1 : 0x1.62e42fefap-1);
    const REAL ln2_low = (REAL)(SINGLE ? 0x1.7f7d1cf79abcap-20 : 0x1.cf79abc9e3b39p-40);
    V t = x * (REAL)1.44269504088896340736 + magic; /* n in its last bits */
    V n = t - magic;
    V r = x - n * ln2_high - n * ln2_low;
#if IN_DOUBLE
    static const REAL c[] = {1 / 6227020800.0,
                             1 / 479001600.0,
                             1 / 39916800.0,
                             1 / 3628800.0,
                             1 / 362880.0,
                             1 / 40320.0,
                             1 / 5040.0,
                             1 / 720.0,
                             1 / 120.0,
                             1 / 24.0,
                             1 / 6.0,
                             1 / 2.0,
                             1,
                             1};
#else
    static const REAL c[] = {EXP_SINGLE};
#endif
    V p = N_(polynomial)(r, c, sizeof c / sizeof *c);
    return p * (V)(((VI)t << digits) + (VI)SPLAT(1)); /* 1.0's bits plus n 2^digits */
}

/* exp(-x^2 / 2) / sqrt(2 pi); zero in the tail: no subnormals, nothing for x to
 * magnify */
INLINE V N_(density)(V x)
{
    const REAL bound = (REAL)(SINGLE ? 12.7 : 36.7);
    const V z = N_(clamp)(x, -bound, bound);
    return N_(select)(x * x > bound * bound, SPLAT(0),
                      N_(exp_normal)(z * z * (REAL)-0.5) * (REAL)0.39894228040143267794);
}

/* Phi(x) = erfc(-x / sqrt 2) / 2 */
INLINE V N_(normal)(V x)
{
#if IN_DOUBLE
    static const REAL c[] = {ERFCX};
    const REAL bound = 26; /* the tail, as above */
    V a = N_(select)(x < 0, -x, x) * 0.70710678118654752440;
    const VI beyond = a > bound;
    a = N_(select)(beyond, SPLAT(bound), a);
    V q = N_(polynomial)((a - 3) / (a + 3), c, sizeof c / sizeof *c);
    q *= N_(select)(beyond, SPLAT(0), N_(exp_normal)(-a * a)) * 0.5;
    return N_(select)(x < 0, q, 1 - q);
#else
    static const REAL p[] = {NORMAL_P}, q[] = {NORMAL_Q};
    const V z = N_(clamp)(x, -NORMAL_BOUND, NORMAL_BOUND), square = z * z;
    V above = SPLAT(p[0]), below = SPLAT(q[0]);
#pragma GCC unroll 20
    for (size_t k = 1; k < sizeof p / sizeof *p; k++)
        above = above * square + p[k];
#pragma GCC unroll 20
    for (size_t k = 1; k < sizeof q / sizeof *q; k++)
        below = below * square + q[k];
    below = below * square + 1;
    return N_(select)(x < -NORMAL_BOUND, SPLAT(0), z * above / below + 0.5f);
#endif
}

/* 1 / (1 + exp(-x)) */
INLINE V N_(logistic)(V x)
{
    const REAL low = (REAL)(SINGLE ? -87 : -708);
    const V s = 1 / (1 + N_(exp_normal)(N_(clamp)(-x, low, 1 - low)));
    return N_(select)(x < low, SPLAT(0), s);
}

/* x / (1 + exp(-x)), as small as numbers get where x is below exp's range */
INLINE V N_(silu)(V x)
{
    const REAL low = (REAL)(SINGLE ? -87 : -708);
    x = N_(select)(x < low, SPLAT(low), x);
    return x / (1 + N_(exp_normal)(-N_(select)(x > 1 - low, SPLAT(1 - low), x)));
}

enum N_(map_kind) { N_(GELU), N_(GELU_SLOPE), N_(SILU), N_(SILU_SLOPE) };

INLINE V N_(map_vector)(enum N_(map_kind) kind, V x)
{
    V s;
    switch (kind) {
    case N_(GELU): return x * N_(normal)(x);
    case N_(GELU_SLOPE): return N_(normal)(x) + x * N_(density)(x);
    case N_(SILU): return N_(silu)(x);
    default: s = N_(logistic)(x); return s + x * s * (1 - s);
    }
}

/* out[i] = f(in[i]); out may be in */
INLINE void N_(map)(enum N_(map_kind) kind, int64_t count, const REAL *in, REAL *out)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        *(VU *)(out + i) = N_(map_vector)(kind, *(const VU *)(in + i));
    if (i < count) {
        REAL tail[LANES] = {0};
        memcpy(tail, in + i, (size_t)(count - i) * sizeof(REAL));
        *(VU *)tail = N_(map_vector)(kind, *(const VU *)tail);
        memcpy(out + i, tail, (size_t)(count - i) * sizeof(REAL));
    }
}

#undef SINGLE
