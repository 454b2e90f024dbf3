/* The activations and their derivatives on vectors: GELU by the normal distribution, SiLU by
 * the logistic function, and exp, which both need.  There are neither branches nor tables in
 * here, so that an activation costs less than the convolution that it follows.
 *
 * To add an activation: give it a number in fftconv.h; add it and its derivative to
 * N_(map_kind) and N_(map_vector); and give it a branch in N_(activate) and N_(slope) here, and
 * in N_(write_vector_pairs) and N_(write_vectors) in sink.h. */

#ifndef FFTCONV_MATH_CONSTANTS
#define FFTCONV_MATH_CONSTANTS
/* The normal distribution in float32: Phi(x) - 1/2 = x P(x^2) / Q(x^2) for |x| up to a bound
 * from which on Phi is 0 or 1 in float32.  Fitted by least squares with Lawson's weights; the
 * largest error is 2.0e-8.  The highest powers come first, and Q ends in 1. */
#define NORMAL_BOUND 5.5f
#define NORMAL_P \
    1.11757217e-10f, -2.20823353e-08f, 3.24107605e-06f, 0.000170375372f, 0.00450917399f, \
        0.0359223685f, 0.398942155f
#define NORMAL_Q 6.23269689e-05f, 0.00183065204f, 0.0290915837f, 0.256708596f
/* exp(r) in float32 for |r| <= ln(2) / 2, the highest power first.  Among the polynomials that
 * end in r + 1, it has the smallest maximum of the relative error, 4e-9. */
#define EXP_SINGLE 0.00138145534f, 0.00836872403f, 0.041668389f, 0.166665211f, 0.49999994f, 1, 1
/* exp(a^2) erfc(a) in float64 for a >= 0, as a polynomial in s = (a - 3) / (a + 3): a Chebyshev
 * fit on [-1, 1], the highest power first.  The largest error is 6e-16. */
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

/* mask ? a : b, in each lane; a mask has all bits of a lane set, or none. */
INLINE V N_(select)(VI mask, V a, V b) { return (V)((mask & (VI)a) | (~mask & (VI)b)); }

/* x, but at least `low` and at most `high`; NaN stays NaN. */
INLINE V N_(clamp)(V x, REAL low, REAL high)
{
    x = N_(select)(x < low, SPLAT(low), x);
    return N_(select)(x > high, SPLAT(high), x);
}

/* c[0] x^(terms - 1) + ... + c[terms - 1].  Even and odd powers are summed apart, by Horner's
 * rule in x^2, which halves the number of steps that wait for one another. */
INLINE V N_(polynomial)(V x, const REAL *c, int terms)
{
    const V square = x * x;
    V p[2] = {SPLAT(c[0]), SPLAT(c[1])};
    UNROLL
    for (int k = 2; k < terms; k++)
        p[k % 2] = p[k % 2] * square + c[k];
    return p[terms % 2] * x + p[1 - terms % 2];
}

/* exp(x) = 2^n exp(r) with n = round(x / ln 2), so that |r| <= ln(2) / 2, and a polynomial for
 * exp(r), Taylor's in float64.  x must be such that the result is a normal number. */
INLINE V N_(exp_normal)(V x)
{
    const int digits = SINGLE ? 23 : 52;
    const REAL magic = (REAL)(SINGLE ? 0x1.8p23 : 0x1.8p52);
    /* ln 2 as a sum of two numbers: the first ends in zeros, so that n times it is exact. */
    const REAL ln2_high = (REAL)(SINGLE ? 0x1.62e4p-1 : 0x1.62e42fefap-1);
    const REAL ln2_low = (REAL)(SINGLE ? 0x1.7f7d1cf79abcap-20 : 0x1.cf79abc9e3b39p-40);
    V t = x * (REAL)1.44269504088896340736 + magic; /* its last bits are those of n */
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
    return p * (V)(((VB)t << digits) + (VB)SPLAT(1)); /* 2^n: the bits of 1, n in the exponent */
}

/* exp(-x^2 / 2) / sqrt(2 pi), and 0 where that would be a subnormal number, which would cost
 * time, or which a large x would multiply. */
INLINE V N_(normal_pdf)(V x)
{
    const REAL bound = (REAL)(SINGLE ? 12.7 : 36.7);
    const V z = N_(clamp)(x, -bound, bound);
    return N_(select)(x * x > bound * bound, SPLAT(0),
                      N_(exp_normal)(z * z * (REAL)-0.5) * (REAL)0.39894228040143267794);
}

/* Phi(x) = erfc(-x / sqrt 2) / 2, and 0 or 1 where exp would be subnormal. */
INLINE V N_(normal_cdf)(V x)
{
#if IN_DOUBLE
    static const REAL c[] = {ERFCX};
    const REAL bound = 26;
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
    UNROLL
    for (size_t k = 1; k < sizeof p / sizeof *p; k++)
        above = above * square + p[k];
    UNROLL
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

/* x / (1 + exp(-x)).  Below the range of exp, x is taken as the bound of that range: the result
 * is then about the smallest normal number. */
INLINE V N_(silu)(V x)
{
    const REAL low = (REAL)(SINGLE ? -87 : -708);
    x = N_(select)(x < low, SPLAT(low), x);
    return x / (1 + N_(exp_normal)(-N_(select)(x > 1 - low, SPLAT(1 - low), x)));
}

/* The functions that map a row. */
enum N_(map_kind) { N_(GELU), N_(GELU_SLOPE), N_(SILU), N_(SILU_SLOPE) };

INLINE V N_(map_vector)(enum N_(map_kind) kind, V x)
{
    V s;
    switch (kind) {
    case N_(GELU): return x * N_(normal_cdf)(x);
    case N_(GELU_SLOPE): return N_(normal_cdf)(x) + x * N_(normal_pdf)(x);
    case N_(SILU): return N_(silu)(x);
    default: s = N_(logistic)(x); return s + x * s * (1 - s);
    }
}

/* out[i] = f(in[i]); out may be in. */
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

/* v[i] = act(v[i]) */
static void N_(activate)(int activation, int64_t count, REAL *v)
{
    if (activation == FFTCONV_ACTIVATION_GELU)
        N_(map)(N_(GELU), count, v, v);
    else if (activation == FFTCONV_ACTIVATION_SILU)
        N_(map)(N_(SILU), count, v, v);
}

/* slope[i] = act'(p[i]), where act is not the identity. */
static void N_(slope)(int activation, int64_t count, const REAL *p, REAL *slope)
{
    if (activation == FFTCONV_ACTIVATION_GELU)
        N_(map)(N_(GELU_SLOPE), count, p, slope);
    else
        N_(map)(N_(SILU_SLOPE), count, p, slope);
}

#undef SINGLE
