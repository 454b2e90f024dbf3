/* Powers of two that keep numbers in range.
 *
 * A transform of M points makes numbers that are up to M times as large as those it is given, and
 * products of such; and 1/M goes into spectra.  So a row or a kernel of very large or very small
 * numbers is read times a power of two, which is exact, and what is written is multiplied by the
 * opposite power.  Rows and kernels of ordinary size keep an exponent of 0, and their numbers. */
#include "call.h"

#include <math.h>
#include <string.h>

/* Numbers from 2^-40 to 2^40 (float64: 2^-400 to 2^400) need no power.  For M = 2^24 and z and k of
 * at most 2^40, a transform is at most 2^64, and its product with a spectrum 2^104, in which 1/M is
 * contained.  For z and k of 2^-40, the least product is 2^-80 / M = 2^-104, which is 2^22 times the
 * least normal float. */
int exponent_if_needed(const struct fftconv_plan *plan, int exponent)
{
    const int ordinary = ordinary_exponent(plan);
    const bool finite = exponent > ALL_ZEROS / 2 && exponent < NOT_FINITE / 2;
    return finite && (exponent > ordinary || exponent < -ordinary) ? exponent : 0;
}

int *exponent_of(const struct fftconv_plan *plan, const void *spectrum)
{
    void *behind = (char *)spectrum + spectra_bytes(plan) - ALIGNMENT;
    return behind;
}

static int largest(const struct fftconv_plan *plan, const struct array *x, const struct array *gate,
                   int64_t from, int64_t to)
{
    if (!x->data || from >= to)
        return ALL_ZEROS;
    if (x->dtype == FFTCONV_DTYPE_FLOAT16) /* all of its numbers are ordinary, and their products */
        return 0;
    return plan->engine->rows.largest(x, gate, from, to);
}

int largest_of_places(const struct fftconv_plan *plan, const struct source *s, int64_t n,
                      int64_t count)
{
    const int64_t from = max64(s->from, n + s->shift), to = min64(s->to, n + count + s->shift);
    const int before = largest(plan, &s->before, &s->before_gate, from, min64(s->before_to, to));
    const int row = largest(plan, &s->x, &s->gate, max64(0, from), to);
    return before > row ? before : row;
}

/* The exponent of a number, at most one too large; by its bits, since denormal ones count as
 * zeros. */
static int exponent_of_double(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= ~((uint64_t)1 << 63);
    return bits ? (int)(bits >> 52) - 1023 : ALL_ZEROS;
}

int exponent_of_scalar(struct scalar s)
{
    const int re = exponent_of_double(s.re), im = exponent_of_double(s.im);
    return re > im ? re : im;
}

bool is_moderate(const struct fftconv_plan *plan, struct scalar s)
{
    const int most = ordinary_exponent(plan) / 2;
    const int exponent = exponent_of_scalar(s);
    return exponent == ALL_ZEROS || (exponent >= -most && exponent <= most);
}

bool is_tiny(const struct fftconv_plan *plan, const struct array *a, int64_t from, int64_t to)
{
    return a->data && from < to && plan->engine->rows.is_tiny(a, from, to);
}

void choose_care(const struct fftconv_plan *plan, struct sink *s, const struct source *z)
{
    s->careful = s->exponent || (s->has_skip && (z->exponent || z->careful)) ||
                 (s->has_skip && !is_moderate(plan, s->skip)) ||
                 (s->has_mask && !is_moderate(plan, s->mask)) ||
                 is_tiny(plan, &s->out_gate, s->from, s->to) ||
                 (s->twin.data && is_tiny(plan, &s->twin_gate, s->from, s->to));
    if (s->own && s->careful) {
        const int of_skip = s->has_skip ? z->exponent + exponent_of_scalar(s->skip) : ALL_ZEROS;
        s->y_exponent = of_skip > s->exponent ? of_skip : s->exponent;
    }
}

void scale_spectra(const struct fftconv_plan *plan, int exponent, void *S)
{
    double *sums = S;
    for (int64_t i = 0; is_direct(plan) && i < direct_taps(plan); i++)
        sums[i] = ldexp(sums[i], exponent);
    for (int i = 0; i < plan->chosen.parts; i++) {
        struct transform unweighted = plan->chosen.part[i];
        unweighted.weights = NULL;
        plan->engine->spectra.weigh(&unweighted, ldexp(1, exponent), spectra_of_part(plan, i, S));
    }
}

/* A sum keeps the largest exponent among its terms, or one that is little less. */
static void raise_exponent(const struct fftconv_plan *plan, void *sum, int exponent)
{
    int *old = exponent_of(plan, sum);
    scale_spectra(plan, *old - exponent, sum);
    *old = exponent;
}

void accumulate_scaled(const struct worker *w, bool begin, void *sum, int z, void *Z, int g,
                       void *G, const void *spectrum)
{
    enum { LITTLE = 20 };
    int *exponent = exponent_of(w->plan, sum);
    if (begin)
        *exponent = z + g;
    else if (z + g > *exponent + LITTLE)
        raise_exponent(w->plan, sum, z + g);
    accumulate_row(w, begin, ldexp(1, z + g - *exponent), sum, Z, G, spectrum);
}

void add_sums(const struct fftconv_plan *plan, void *sum, void *other)
{
    const int a = *exponent_of(plan, sum), b = *exponent_of(plan, other);
    if (a != b)
        raise_exponent(plan, a < b ? sum : other, a < b ? b : a);
    double *sums = sum, *others = other;
    for (int64_t i = 0; is_direct(plan) && i < direct_taps(plan); i++)
        sums[i] += others[i];
    for (int i = 0; i < plan->chosen.parts; i++)
        plan->engine->spectra.add(&plan->chosen.part[i], spectra_of_part(plan, i, sum),
                                  spectra_of_part(plan, i, other));
}
