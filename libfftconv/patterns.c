/* Frequency patterns: which frequencies are live, and what the stages need to know of it.
 *
 * A frequency is live where its bin has a weight other than zero.  A group of stage l holds
 * the frequencies of one residue modulo r_1 ... r_(l-1), so a group is skipped where no
 * frequency of its residue is live. */
#include "transform.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_KNOWN = 64 };

struct live {
    int64_t M;
    uint8_t *is_live, *residue; /* M each */
    struct {
        int64_t R;
        double part;
    } known[MOST_KNOWN]; /* of live_part */
    int count;
};

int64_t signed_bin(int form, int64_t N, int level, int64_t m)
{
    const int64_t b = form == FFTCONV_FORM_RIGHT_ANGLE ? 4 * m - 1 : m;
    const int64_t period = N >> level, bin = b < 0 ? b + period : b;
    return bin <= period / 2 ? bin << level : -1 - ((period - bin) << level);
}

static double weight_of(const struct pattern *pattern, int form, int64_t m)
{
    const int64_t bin = signed_bin(form, pattern->N, pattern->level, m);
    return pattern->weights[bin < 0 ? -1 - bin : bin];
}

int live_new(struct live **out, const struct pattern *pattern, int form, int64_t M)
{
    struct live *live = *out = calloc(1, sizeof *live);
    if (!live)
        return fail_memory(sizeof *live);
    live->M = M;
    if (!(live->is_live = aligned_new(2 * M)))
        return fail_memory(2 * M);
    live->residue = live->is_live + M;
    for (int64_t m = 0; m < M; m++)
        live->is_live[m] = weight_of(pattern, form, m) != 0;
    return FFTCONV_STATUS_OK;
}

void live_free(struct live *live)
{
    if (live)
        aligned_free(live->is_live);
    free(live);
}

const uint8_t *live_residues(struct live *live, int64_t R)
{
    memset(live->residue, 0, (size_t)R);
    for (int64_t m = 0; m < live->M; m += R)
        for (int64_t c = 0; c < R; c++)
            live->residue[c] |= live->is_live[m + c];
    return live->residue;
}

double live_part(struct live *live, int64_t R)
{
    if (!live)
        return 1;
    int i = 0;
    while (i < live->count && live->known[i].R != R)
        i++;
    if (i == MOST_KNOWN)
        return 1; /* a row of fewer than 2^40 points has fewer prefixes in a search */
    if (i == live->count) {
        int64_t count = 0;
        const uint8_t *residue = live_residues(live, R);
        for (int64_t c = 0; c < R; c++)
            count += residue[c];
        live->known[i].R = R;
        live->known[i].part = (double)count / (double)R;
        live->count++;
    }
    return live->known[i].part;
}

int frequencies_build(const struct transform *t, int64_t **low, int64_t **high)
{
    const int64_t bytes = (t->P + t->Q) * (int64_t)sizeof **low;
    int radices[MAX_STAGES];
    for (int l = 0; l < t->stages; l++)
        radices[l] = t->stage[l].radix;
    if (!(*low = aligned_new(bytes)))
        return fail_memory(bytes);
    *high = *low + t->P;
    for (int64_t p = 0; p < t->P; p++)
        (*low)[p] = digit_reverse(p, radices, t->split);
    for (int64_t q = 0; q < t->Q; q++)
        (*high)[q] = t->P * digit_reverse(q, radices + t->split, t->stages - t->split);
    return FFTCONV_STATUS_OK;
}

/* ---- Tables ---------------------------------------------------------------------------------- */

/* Rows p of X below the outputs of stage 1 that are computed. */
static int64_t computed_rows(const struct transform *t)
{
    return t->P / t->stage[0].radix * t->stage1_outputs;
}

/* The vector of row p, in t->live. */
static int64_t vector_of(const struct transform *t, int64_t p)
{
    return p / t->Pl * t->Plv + p % t->Pl / t->lanes;
}

/* The weights in the order of spectra; 0 where stage 1 leaves outputs out. */
static int weights_table(struct transform *t, const struct pattern *pattern, const int64_t *low,
                         const int64_t *high)
{
    const int W = t->lanes;
    const int64_t bytes = t->spectra_reals / 2 * t->real_bytes;
    if (!(t->weights = aligned_new(bytes)))
        return fail_memory(bytes);
    memset(t->weights, 0, (size_t)bytes);
    for (int64_t p = 0; p < computed_rows(t); p++)
        for (int64_t q = 0; q < t->Q; q++) {
            const int64_t at = spectrum_offset(t, p, q);
            store_real(t->weights, t->real_bytes, at / (2 * W) * W + at % W,
                       weight_of(pattern, t->form, low[p] + high[q]));
        }
    return FFTCONV_STATUS_OK;
}

/* May stage l skip dead outputs?  Only if they are whole groups of the next stage of phase 1,
 * and whole vectors. */
static bool may_skip(const struct transform *t, int l)
{
    return l > 0 && l + 1 < t->split && !t->stage[l].dense &&
           t->stage[l].sub / t->Qv % t->lanes == 0;
}

/* Of each stage of phase 1, which groups are live. */
static int group_flags(struct transform *t, struct live *live)
{
    int radices[MAX_STAGES];
    int64_t R = 1;
    for (int l = 0; l < t->split; R *= t->stage[l].radix, l++) {
        struct stage *st = &t->stage[l];
        radices[l] = st->radix;
        if (!(st->live = aligned_new(st->groups)))
            return fail_memory(st->groups);
        const uint8_t *residue = live_residues(live, R);
        for (int64_t g = 0; g < st->groups; g++)
            st->live[g] = residue[digit_reverse(g, radices, l)] ? ALL : NOTHING;
        st->skips_dead_outputs = may_skip(t, l);
        for (int64_t g = 0; l > 0 && st[-1].skips_dead_outputs && g < st->groups; g++)
            if (!st->live[g] && st[-1].live[g / st[-1].radix])
                st[-1].live[g / st[-1].radix] = SOME;
    }
    t->stage[0].live[0] = ALL; /* even of a pattern that keeps nothing */
    return FFTCONV_STATUS_OK;
}

/* Which vectors of phase 1's last stage are live, and the part of the points they are. */
static int vector_flags(struct transform *t, struct live *live, const int64_t *low)
{
    const int64_t below = t->P / t->stage[0].radix, rows = computed_rows(t);
    int64_t points = 0, all = 0;
    if (!(t->live = aligned_new(t->leaves * t->Plv)))
        return fail_memory(t->leaves * t->Plv);
    memset(t->live, 0, (size_t)(t->leaves * t->Plv));
    const uint8_t *residue = live_residues(live, t->P);
    for (int64_t p = 0; p < rows; p++)
        if (residue[low[p]])
            t->live[vector_of(t, p)] = ALL;
    for (int64_t p = 0; p < rows; p++) {
        const int64_t k = p / below; /* 2: it stands for its mirror too */
        const int stands = is_half(t) && k > 0 && 2 * k < t->stage[0].radix ? 2 : 1;
        points += stands * (t->live[vector_of(t, p)] != NOTHING);
        all += stands;
    }
    t->computed = (double)points / (double)all;
    return FFTCONV_STATUS_OK;
}

/* No flag is looked at where little would be left out, and no weight where all are 1. */
static void drop_useless_tables(struct transform *t, const struct pattern *pattern)
{
    if (t->computed > SKIP_THRESHOLD) {
        t->computed = 1;
        aligned_free(t->live);
        t->live = NULL;
        for (int l = 0; l < t->split; l++) {
            aligned_free(t->stage[l].live);
            t->stage[l].live = NULL;
            t->stage[l].skips_dead_outputs = false;
        }
    }
    bool ones = true;
    for (int64_t m = 0; m <= pattern->N / 2; m++)
        ones &= pattern->weights[m] == 1;
    if (ones) {
        aligned_free(t->weights);
        t->weights = NULL;
    }
}

int pattern_tables(struct transform *t, const struct pattern *pattern)
{
    int64_t *low, *high;
    struct live *live = NULL;
    int status = frequencies_build(t, &low, &high);
    if (!status && !(status = live_new(&live, pattern, t->form, t->M)) &&
        !(status = weights_table(t, pattern, low, high)) && !(status = group_flags(t, live)) &&
        !(status = vector_flags(t, live, low)))
        drop_useless_tables(t, pattern);
    live_free(live);
    aligned_free(low);
    return status;
}
