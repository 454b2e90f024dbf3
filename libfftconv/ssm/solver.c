/* The inverse of I - A/2 for A diagonal plus low rank, of one head.
 *
 * States are halves of conjugate pairs, so that A acts on x as
 *     A x = Lambda x - P 2 Re(Q* x).
 * With D = (I - Lambda/2)^-1 it follows (Woodbury) that
 *     (I - A/2)^-1 x = D x - D P S^-1 Re(Q* D x),    S = I + Re(Q* D P).
 * The adjoint has conj(Lambda) for Lambda, and P and Q exchanged. */
#include "ssm.h"

#include <math.h>

struct head_solver take_head_solver(struct arena *arena, const fftconv_ssm_desc *d)
{
    const int64_t size = (int64_t)sizeof(struct complex);
    return (struct head_solver){.diagonal = take(arena, d->states, size),
                                .rows = take(arena, d->states * d->rank, size),
                                .columns = take(arena, d->states * d->rank, size)};
}

/* Each row of S is followed by one of the identity.  Gauss-Jordan elimination, with the
 * largest pivot first, leaves a diagonal of pivots, and beside it the inverse of S, whose
 * row i is still to be divided by pivot i.  Returns false where S is singular. */
static bool invert(int64_t rank, double (*S)[2 * MAX_RANK])
{
    for (int64_t i = 0; i < rank; i++) {
        int64_t best = i;
        for (int64_t k = i + 1; k < rank; k++)
            best = fabs(S[k][i]) > fabs(S[best][i]) ? k : best;
        if (!(fabs(S[best][i]) > 0))
            return false;
        for (int64_t k = 0; k < 2 * rank; k++) {
            const double t = S[i][k];
            S[i][k] = S[best][k], S[best][k] = t;
        }
        for (int64_t k = 0; k < rank; k++) {
            const double ratio = S[k][i] / S[i][i];
            for (int64_t m = 0; k != i && m < 2 * rank; m++)
                S[k][m] -= ratio * S[i][m];
        }
    }
    return true;
}

int build_head_solver(const fftconv_ssm_desc *d, int64_t h, bool adjoint,
                      const struct head_solver *s)
{
    const int64_t N = d->states, r = d->rank;
    const double *P = adjoint ? d->Q : d->P, *Q = adjoint ? d->P : d->Q;
    double S[MAX_RANK][2 * MAX_RANK] = {{0}};
    for (int64_t n = 0; n < N; n++) {
        struct complex x = entry(d, d->A, 0, h, n);
        x = adjoint ? conjugate(x) : x;
        s->diagonal[n] = over((struct complex){1, 0}, (struct complex){1 - x.re / 2, -x.im / 2});
        for (int64_t i = 0; i < r; i++) {
            const struct complex q = times(conjugate(entry(d, Q, i, h, n)), s->diagonal[n]);
            s->rows[i * N + n] = q;
            for (int64_t k = 0; k < r; k++)
                S[i][k] += times(q, entry(d, P, k, h, n)).re;
        }
    }
    for (int64_t i = 0; i < r; i++)
        S[i][i] += 1, S[i][r + i] = 1;
    if (!invert(r, S))
        return fail(FFTCONV_STATUS_INVALID,
                    "A, P, Q are such that I - A/2 is singular: A must have no eigenvalue 2");
    for (int64_t k = 0; k < r; k++)
        for (int64_t n = 0; n < N; n++) {
            struct complex sum = {0, 0};
            for (int64_t i = 0; i < r; i++)
                sum = plus(sum, scaled(S[i][r + k] / S[i][i],
                                       times(s->diagonal[n], entry(d, P, i, h, n))));
            s->columns[k * N + n] = sum;
        }
    return FFTCONV_STATUS_OK;
}

void head_solve(const fftconv_ssm_desc *d, const struct head_solver *s, const struct complex *x,
                struct complex *w)
{
    const int64_t N = d->states;
    for (int64_t n = 0; n < N; n++)
        w[n] = times(s->diagonal[n], x[n]);
    for (int64_t i = 0; i < d->rank; i++) {
        double sum = 0;
        for (int64_t n = 0; n < N; n++)
            sum += times(s->rows[i * N + n], x[n]).re;
        for (int64_t n = 0; n < N; n++)
            w[n] = plus(w[n], scaled(-sum, s->columns[i * N + n]));
    }
}

void head_apply(const fftconv_ssm_desc *d, int64_t h, bool half, const struct complex *x,
                struct complex *y)
{
    const double factor = half ? 0.5 : 1;
    for (int64_t n = 0; n < d->states; n++) {
        y[n] = scaled(factor, times(entry(d, d->A, 0, h, n), x[n]));
        y[n] = half ? plus(y[n], x[n]) : y[n];
    }
    for (int64_t i = 0; i < d->rank; i++) {
        double sum = 0;
        for (int64_t n = 0; n < d->states; n++)
            sum += 2 * times(conjugate(entry(d, d->Q, i, h, n)), x[n]).re;
        for (int64_t n = 0; n < d->states; n++)
            y[n] = plus(y[n], scaled(-factor * sum, entry(d, d->P, i, h, n)));
    }
}
