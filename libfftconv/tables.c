/* The tables of a transform: twiddles, dense matrices, the shift of the right angle. */
#include "transform.h"

#include <math.h>

/* exp(-2 pi i num / den).  Integers reduce the angle to an eighth of a turn, so that symmetric
 * roots are symmetric to the last bit. */
static void root(int64_t num, int64_t den, double *re, double *im)
{
    num %= den;
    if (num < 0)
        num += den;
    const int octant = (int)(8 * num / den), axis = (octant + 1) / 2 % 4;
    /* from the nearest axis, in turns / (4 den) */
    const int64_t off = octant == 7 ? 4 * (num - den) : 4 * num - (octant + 1) / 2 * den;
    const double angle = 1.57079632679489661923 * (double)off / (double)den;
    const double c = cos(angle), s = sin(angle);
    switch (axis) {
    case 0: *re = c, *im = -s; break;
    case 1: *re = -s, *im = -c; break;
    case 2: *re = -c, *im = s; break;
    default: *re = s, *im = c; break;
    }
}

/* Entry `index` of a table of complex scalars: exp(-2 pi i num / den). */
static void store_root(void *table, int real_bytes, int64_t index, int64_t num, int64_t den)
{
    double re, im;
    root(num, den, &re, &im);
    store_real(table, real_bytes, 2 * index, re);
    store_real(table, real_bytes, 2 * index + 1, im);
}

/* exp(-2 pi i r (k - shift / 4) / R), [k][r]. */
static int matrix_build(struct stage *st, int shift, int real_bytes)
{
    const int R = st->radix;
    const int64_t bytes = 2 * (int64_t)R * R * real_bytes;
    if (!(st->matrix = aligned_new(bytes)))
        return fail_memory(bytes);
    for (int k = 0; k < R; k++)
        for (int r = 0; r < R; r++)
            store_root(st->matrix, real_bytes, k * R + r, (int64_t)r * (4 * k - shift), 4 * R);
    return FFTCONV_STATUS_OK;
}

/* A table of vectors larger than this goes as fine times coarse. */
enum { TWIDDLE_BYTES = 96 << 10, FINE_BYTES = 16 << 10 };

/* Phase 1, stage l: see struct twiddle.  Stage 1 has twiddles for output 0 too, since the
 * right angle's frequencies are k - 1/4 there. */
static int column_twiddles_build(struct transform *t, int l, int shift)
{
    struct stage *st = &t->stage[l];
    const int W = t->lanes, first_k = l == 0 ? 0 : 1, K = st->radix - first_k;
    int64_t S = t->M;
    for (int i = 0; i < l; i++)
        S /= t->stage[i].radix;
    const int64_t column_bytes = (int64_t)K * 2 * W * t->real_bytes;
    int64_t period = st->sub;
    if (period * column_bytes > TWIDDLE_BYTES)
        period = min64(st->sub, t->Qv * max64(1, FINE_BYTES / (column_bytes * t->Qv)));
    st->twiddle.period = period;
    if (!(st->twiddle.fine = aligned_new(period * column_bytes)))
        return fail_memory(period * column_bytes);
    for (int64_t c = 0; c < period; c++)
        for (int k = 0; k < K; k++)
            for (int i = 0; i < W; i++) {
                const int64_t q = c % t->Qv * W + i, m = c / t->Qv * t->Q + q;
                const int64_t at = (c * K + k) * 2 * W + i;
                double re = 1, im = 0;
                if (q < t->Q) /* m < S and 4 k < 512: no overflow below 2^53 */
                    root((4 * (k + first_k) - shift) * m, 4 * S, &re, &im);
                store_real(st->twiddle.fine, t->real_bytes, at, re);
                store_real(st->twiddle.fine, t->real_bytes, at + W, im);
            }
    if (period == st->sub)
        return FFTCONV_STATUS_OK;
    const int64_t count = ceil_div(st->sub, period), bytes = count * K * 2 * t->real_bytes;
    if (!(st->twiddle.coarse = aligned_new(bytes)))
        return fail_memory(bytes);
    for (int64_t c = 0; c < count; c++)
        for (int k = 0; k < K; k++)
            store_root(st->twiddle.coarse, t->real_bytes, c * K + k,
                       (4 * (k + first_k) - shift) * (c * (period / t->Qv) * t->Q), 4 * S);
    return FFTCONV_STATUS_OK;
}

/* Phase 2: scalars [m][k - 1], where S is the length that the stage begins with. */
static int row_twiddles_build(struct stage *st, int64_t S, int real_bytes)
{
    const int R = st->radix;
    const int64_t bytes = st->sub * (R - 1) * 2 * real_bytes;
    st->twiddle.period = st->sub;
    if (!(st->twiddle.fine = aligned_new(bytes)))
        return fail_memory(bytes);
    for (int64_t m = 0; m < st->sub; m++)
        for (int k = 1; k < R; k++)
            store_root(st->twiddle.fine, real_bytes, m * (R - 1) + k - 1, k * m, S);
    return st->dense ? matrix_build(st, 0, real_bytes) : FFTCONV_STATUS_OK;
}

/* exp(2 pi i r / (4 R)): what makes the frequencies of a right angle k - 1/4. */
static int shift_build(struct transform *t)
{
    const int R = t->stage[0].radix;
    const int64_t bytes = 2 * (int64_t)R * t->real_bytes;
    if (!(t->shift = aligned_new(bytes)))
        return fail_memory(bytes);
    for (int r = 0; r < R; r++)
        store_root(t->shift, t->real_bytes, r, -r, 4 * R);
    return FFTCONV_STATUS_OK;
}

int transform_build(struct transform *t, const struct pattern *pattern)
{
    const int shift = t->form == FFTCONV_FORM_RIGHT_ANGLE;
    int status = FFTCONV_STATUS_OK;
    for (int l = 0; l < t->split && !status; l++) {
        status = column_twiddles_build(t, l, l == 0 ? shift : 0);
        if (!status && t->stage[l].dense)
            status = matrix_build(&t->stage[l], l == 0 ? shift : 0, t->real_bytes);
    }
    int64_t S = t->Q;
    for (int l = t->split; l < t->stages && !status; l++) {
        status = row_twiddles_build(&t->stage[l], S, t->real_bytes);
        S /= t->stage[l].radix;
    }
    if (!status && shift)
        status = shift_build(t);
    t->computed = 1;
    if (!status && pattern)
        status = pattern_tables(t, pattern);
    /* a strip of stage 1's rows, both planes, in half a first cache */
    const int64_t column = (int64_t)t->stage[0].radix * 2 * t->lanes;
    t->strip_columns = max64(1, min64((16 << 10) / (column * t->real_bytes), t->stage[0].sub));
    t->scratch_reals = max64(t->leaf_reals, t->strip_columns * column);
    if (status)
        transform_clear(t);
    return status;
}

int stages_build(struct stage *stages, int count, const int64_t *radices, bool dense,
                 int real_bytes)
{
    int64_t S = 1, groups = 1;
    int status = FFTCONV_STATUS_OK;
    for (int l = 0; l < count; l++)
        S *= radices[l];
    for (int l = 0; l < count && !status; l++) {
        stages[l] = (struct stage){.radix = (int)radices[l],
                                   .groups = groups,
                                   .sub = S / radices[l],
                                   .dense = dense || !has_codelet((int)radices[l])};
        status = row_twiddles_build(&stages[l], S, real_bytes);
        groups *= radices[l];
        S /= radices[l];
    }
    return status;
}

void stages_clear(struct stage *stages, int count)
{
    for (int l = 0; l < count; l++) {
        aligned_free(stages[l].twiddle.fine);
        aligned_free(stages[l].twiddle.coarse);
        aligned_free(stages[l].matrix);
        aligned_free(stages[l].live);
        stages[l].twiddle.fine = stages[l].twiddle.coarse = stages[l].matrix = NULL;
        stages[l].live = NULL;
    }
}

void transform_clear(struct transform *t)
{
    stages_clear(t->stage, t->stages);
    aligned_free(t->shift);
    aligned_free(t->live);
    aligned_free(t->weights);
    t->shift = t->live = NULL;
    t->weights = NULL;
}
