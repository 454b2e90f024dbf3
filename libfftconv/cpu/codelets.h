/* Codelets: the DFT of R vectors of complex numbers, in registers and in place, with inputs
 * and outputs in their natural order,
 *
 *     X[k] = sum_r x[r] exp(-2 pi i r k / R).
 *
 * The same codelet does the inverse, where real and imaginary parts are exchanged before it
 * and after it: exchanging them makes i conj(z) of z, and conj turns exp(-i w) to exp(i w).
 *
 * To add a radix, write dftR, name it in CODELETS, and give radices.c its operations and
 * cycles.  The stages have arrays for at most 16 points. */

#ifndef CODELETS
#define CODELETS(row) row(2) row(3) row(4) row(5) row(7) row(8) row(16)
#define COS_2PI_16 0.92387953251128675613 /* cos(2 pi / 16) */
#define SIN_2PI_16 0.38268343236508977173 /* sin(2 pi / 16) */
#define SQRT_HALF 0.70710678118654752440
#endif

INLINE void N_(dft2)(V *r, V *i)
{
    V a = r[0], b = i[0];
    r[0] = a + r[1], i[0] = b + i[1];
    r[1] = a - r[1], i[1] = b - i[1];
}

INLINE void N_(dft3)(V *r, V *i)
{
    const REAL s = (REAL)0.86602540378443864676; /* sin(2 pi / 3) */
    V tr = r[1] + r[2], ti = i[1] + i[2];
    V dr = (r[1] - r[2]) * s, di = (i[1] - i[2]) * s;
    V mr = r[0] - tr * (REAL)0.5, mi = i[0] - ti * (REAL)0.5;
    r[0] += tr, i[0] += ti;
    r[1] = mr + di, i[1] = mi - dr;
    r[2] = mr - di, i[2] = mi + dr;
}

INLINE void N_(dft4)(V *r, V *i)
{
    V ar = r[0] + r[2], ai = i[0] + i[2], br = r[0] - r[2], bi = i[0] - i[2];
    V cr = r[1] + r[3], ci = i[1] + i[3], dr = r[1] - r[3], di = i[1] - i[3];
    r[0] = ar + cr, i[0] = ai + ci;
    r[1] = br + di, i[1] = bi - dr; /* b - i d */
    r[2] = ar - cr, i[2] = ai - ci;
    r[3] = br - di, i[3] = bi + dr;
}

/* An odd radix R = 2 h + 1.  The cosine has the same value for x[j] and x[R - j], and the
 * sine the opposite value: so cosines multiply the sums of such pairs, and sines multiply
 * the differences.  c[m - 1] = cos(2 pi m / R) and s[m - 1] = sin(2 pi m / R). */
INLINE void N_(dft_odd)(int h, const REAL *c, const REAL *s, V *r, V *i)
{
    V pr[3], pi[3], mr[3], mi[3];
    V r0 = r[0], i0 = i[0];
    const int R = 2 * h + 1;
    UNROLL
    for (int j = 1; j <= h; j++) {
        pr[j - 1] = r[j] + r[R - j], pi[j - 1] = i[j] + i[R - j];
        mr[j - 1] = r[j] - r[R - j], mi[j - 1] = i[j] - i[R - j];
        r[0] += pr[j - 1], i[0] += pi[j - 1];
    }
    UNROLL
    for (int k = 1; k <= h; k++) {
        V even_r = r0, even_i = i0, odd_r = {0}, odd_i = {0};
        UNROLL
        for (int j = 1; j <= h; j++) {
            int m = j * k % R;
            REAL sign = m > h ? -1 : 1; /* sin(2 pi m / R) = -sin(2 pi (R - m) / R) */
            m = m > h ? R - m : m;
            even_r += pr[j - 1] * c[m - 1], even_i += pi[j - 1] * c[m - 1];
            odd_r += mr[j - 1] * (sign * s[m - 1]);
            odd_i += mi[j - 1] * (sign * s[m - 1]);
        }
        r[k] = even_r + odd_i, i[k] = even_i - odd_r; /* even - i odd */
        r[R - k] = even_r - odd_i, i[R - k] = even_i + odd_r;
    }
}

INLINE void N_(dft5)(V *r, V *i)
{
    static const REAL c[2] = {(REAL)0.30901699437494742410, (REAL)-0.80901699437494742410};
    static const REAL s[2] = {(REAL)0.95105651629515357212, (REAL)0.58778525229247312917};
    N_(dft_odd)(2, c, s, r, i);
}

INLINE void N_(dft7)(V *r, V *i)
{
    static const REAL c[3] = {(REAL)0.62348980185873353053, (REAL)-0.22252093395631440429,
                              (REAL)-0.90096886790241912624};
    static const REAL s[3] = {(REAL)0.78183148246802980871, (REAL)0.97492791218182360702,
                              (REAL)0.43388373911755812048};
    N_(dft_odd)(3, c, s, r, i);
}

/* x *= exp(-i pi / 4), where x = r + i im */
#define EIGHTH(r, i) \
    do { \
        V t_ = ((r) + (i)) * (REAL)SQRT_HALF; \
        (i) = ((i) - (r)) * (REAL)SQRT_HALF; \
        (r) = t_; \
    } while (0)
/* x *= exp(-3 i pi / 4) */
#define THREE_EIGHTHS(r, i) \
    do { \
        V t_ = ((i) - (r)) * (REAL)SQRT_HALF; \
        (i) = ((r) + (i)) * (REAL) - SQRT_HALF; \
        (r) = t_; \
    } while (0)
/* x *= exp(-i pi / 2) */
#define QUARTER(r, i) \
    do { \
        V t_ = (i); \
        (i) = -(r); \
        (r) = t_; \
    } while (0)
/* x *= cos_ - i sin_ */
#define ROTATE(r, i, cos_, sin_) \
    do { \
        V t_ = (r) * (REAL)(cos_) + (i) * (REAL)(sin_); \
        (i) = (i) * (REAL)(cos_) - (r) * (REAL)(sin_); \
        (r) = t_; \
    } while (0)

/* Radix 8 as 2 x 4: r = 4 a + b and k = k1 + 2 k2, where even outputs have k1 = 0. */
INLINE void N_(dft8)(V *r, V *i)
{
    V even_r[4], even_i[4], odd_r[4], odd_i[4];
    UNROLL
    for (int b = 0; b < 4; b++) {
        even_r[b] = r[b] + r[b + 4], even_i[b] = i[b] + i[b + 4];
        odd_r[b] = r[b] - r[b + 4], odd_i[b] = i[b] - i[b + 4];
    }
    EIGHTH(odd_r[1], odd_i[1]);
    QUARTER(odd_r[2], odd_i[2]);
    THREE_EIGHTHS(odd_r[3], odd_i[3]);
    N_(dft4)(even_r, even_i);
    N_(dft4)(odd_r, odd_i);
    UNROLL
    for (int k = 0; k < 4; k++) {
        r[2 * k] = even_r[k], i[2 * k] = even_i[k];
        r[2 * k + 1] = odd_r[k], i[2 * k + 1] = odd_i[k];
    }
}

/* Radix 16 as 4 x 4: r = 4 a + b and k = k1 + 4 k2. */
INLINE void N_(dft16)(V *r, V *i)
{
    V ar[4][4], ai[4][4]; /* [k1][b] */
    UNROLL
    for (int b = 0; b < 4; b++) {
        V tr[4] = {r[b], r[b + 4], r[b + 8], r[b + 12]};
        V ti[4] = {i[b], i[b + 4], i[b + 8], i[b + 12]};
        N_(dft4)(tr, ti);
        UNROLL
        for (int k = 0; k < 4; k++)
            ar[k][b] = tr[k], ai[k][b] = ti[k];
    }
    ROTATE(ar[1][1], ai[1][1], COS_2PI_16, SIN_2PI_16);
    EIGHTH(ar[1][2], ai[1][2]);
    ROTATE(ar[1][3], ai[1][3], SIN_2PI_16, COS_2PI_16);
    EIGHTH(ar[2][1], ai[2][1]);
    QUARTER(ar[2][2], ai[2][2]);
    THREE_EIGHTHS(ar[2][3], ai[2][3]);
    ROTATE(ar[3][1], ai[3][1], SIN_2PI_16, COS_2PI_16);
    THREE_EIGHTHS(ar[3][2], ai[3][2]);
    ROTATE(ar[3][3], ai[3][3], -COS_2PI_16, -SIN_2PI_16);
    UNROLL
    for (int k = 0; k < 4; k++) {
        N_(dft4)(ar[k], ai[k]);
        UNROLL
        for (int j = 0; j < 4; j++)
            r[k + 4 * j] = ar[k][j], i[k + 4 * j] = ai[k][j];
    }
}

#undef EIGHTH
#undef THREE_EIGHTHS
#undef QUARTER
#undef ROTATE

/* R is a constant wherever this is inlined, so that only one case remains. */
INLINE void N_(dft)(int R, V *r, V *i)
{
    switch (R) {
#define CASE(R) \
    case R: N_(dft##R)(r, i); break;
        CODELETS(CASE)
#undef CASE
    }
}
