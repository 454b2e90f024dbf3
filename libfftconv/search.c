/* The search for the radices, the split and the depth of the cheapest transform. */
#include "transform.h"

#include <string.h>

/* The sizes that follow from the radices of the steps, where phase 1 ends, and how deep the
 * leaves lie. */
static void set_shape(struct transform *t, int64_t M, const int *steps, int count, int split,
                      int depth)
{
    const int lanes = t->lanes;
    t->M = M;
    t->stages = count;
    t->split = split;
    t->depth = depth;
    t->P = t->leaves = 1;
    for (int l = 0; l < split; l++)
        t->P *= steps[l];
    for (int l = 0; l < depth; l++)
        t->leaves *= steps[l];
    t->Q = M / t->P;
    t->Qv = ceil_div(t->Q, lanes);
    t->Pl = t->P / t->leaves;
    t->Plv = ceil_div(t->Pl, lanes);
    int64_t groups = 1, rest = t->P;
    for (int l = 0; l < count; l++) {
        if (l == split)
            groups = 1, rest = t->Q;
        rest /= steps[l];
        t->stage[l].radix = steps[l];
        t->stage[l].groups = groups;
        t->stage[l].sub = l < split ? rest * t->Qv : rest;
        groups *= steps[l];
    }
    t->square = split >= 1 && depth < split && count == split + 1 && steps[split - 1] == lanes &&
                steps[split] == lanes && !t->stage[split - 1].dense && !t->stage[split].dense;
    t->x_reals = t->P * t->Qv * 2 * lanes;
    t->leaf_reals = t->Q * t->Plv * 2 * lanes;
    t->spectra_reals = t->leaves * t->leaf_reals;
}

/* Can stage 1 compute half of its outputs?  Of real rows in the complex form, where what is
 * left of them ends with a group below it, or with a whole vector of p. */
static bool can_halve(const struct transform *t, const struct request *request)
{
    const int R = t->stage[0].radix;
    return request->form == FFTCONV_FORM_COMPLEX && !request->both_planes && R > 2 &&
           !t->stage[0].dense && (t->depth > 0 || t->P / R % t->lanes == 0);
}

/* The search under way: the best transform so far, and its cycles; below 0: none. */
struct best {
    struct transform *t;
    double cycles;
    int64_t M;
    const struct request *request;
    struct live *live;
};

/* Keeps the cheapest depth of these steps, and split of those in [split0, split1], if it is
 * cheaper than what there is. */
static void consider(struct best *best, const int *steps, int count, int split0, int split1)
{
    const struct request *request = best->request;
    struct transform candidate = {
        .form = request->form, .lanes = request->lanes, .real_bytes = request->real_bytes};
    for (int l = 0; l < count; l++)
        candidate.stage[l].dense = request->dense || !has_codelet(steps[l]);
    for (int split = split0; split <= split1; split++)
        for (int depth = 0; depth <= split; depth++) {
            set_shape(&candidate, best->M, steps, count, split, depth);
            candidate.stage1_outputs = can_halve(&candidate, request) ? steps[0] / 2 + 1 : steps[0];
            const double cycles = transform_cycles(&candidate, request, best->live);
            if (best->cycles < 0 || cycles < best->cycles) {
                best->cycles = cycles;
                *best->t = candidate;
            }
        }
}

/* ---- Named radices, or a named order ---------------------------------------------------------- */

/* The steps of named radices; 0 where there are too many. */
static int steps_of(const int64_t *radices, int order, bool dense, int *steps)
{
    int count = 0;
    for (int i = 0; i < order; i++) {
        int chain[MAX_STAGES];
        if (radices[i] == 1)
            continue;
        const int length = codelets_of(radices[i], dense, chain);
        if (count + length > MAX_STAGES)
            return 0;
        memcpy(steps + count, chain, (size_t)length * sizeof *chain);
        count += length;
    }
    if (count == 0)
        steps[count++] = 1;
    return count;
}

/* M as `order` factors, each at most 128, as equal as its primes allow, the largest first. */
static bool split_evenly(int64_t M, int order, int64_t *radices)
{
    for (int i = 0; i < order; i++)
        radices[i] = 1;
    static const int primes[] = {7, 5, 3, 2};
    for (int i = 0; i < 4; i++)
        for (; M % primes[i] == 0; M /= primes[i]) {
            int least = 0;
            for (int j = 1; j < order; j++)
                if (radices[j] < radices[least])
                    least = j;
            radices[least] *= primes[i];
        }
    for (int i = 0; i < order; i++)
        for (int j = i + 1; j < order; j++)
            if (radices[j] > radices[i]) {
                const int64_t swap = radices[i];
                radices[i] = radices[j];
                radices[j] = swap;
            }
    return M == 1 && radices[0] <= FFTCONV_MAX_RADIX;
}

static void consider_radices(struct best *best, const int64_t *radices, int order)
{
    int steps[MAX_STAGES];
    const int count = steps_of(radices, order, best->request->dense, steps);
    if (count > 0)
        consider(best, steps, count, 1, count);
}

/* ---- Any radices ------------------------------------------------------------------------------ */

/* The next order of these numbers, ascending ones first; false after the last. */
static bool next_order(int *a, int count)
{
    int i = count - 2, j = count - 1;
    while (i >= 0 && a[i] >= a[i + 1])
        i--;
    if (i < 0)
        return false;
    while (a[j] <= a[i])
        j--;
    int swap = a[i];
    a[i] = a[j], a[j] = swap;
    for (i++, j = count - 1; i < j; i++, j--)
        swap = a[i], a[i] = a[j], a[j] = swap;
    return true;
}

/* Even radices, by size: how many there are in all, and how many of them in phase 2. */
enum { SIZES = 4 };
static const int sizes[SIZES] = {16, 8, 4, 2};

/* Steps with `odds` odd radices before `outer` even ones of phase 1; the rest is phase 2's.
 * Of the orders within phase 1 the descending one, the ascending one (the large radices where
 * the data are in cache), and each of them with another step first; all of them where the
 * order decides what a pattern leaves out. */
static void consider_orders(struct best *best, int *steps, int count, int odds, int outer)
{
    /* the steps of phase 2 are those named for it, or any number of them where none are */
    const int own = count - odds - outer;
    const int split0 = own > 0 ? (int)max64(1, count - own) : 1;
    const int split1 = own > 0 ? (int)max64(1, count - 1) : count;
    for (int ascending = 0; ascending < 2; ascending++) {
        if (ascending && (outer < 2 || steps[odds] == steps[odds + outer - 1]))
            break;
        for (int i = 0; ascending && i < outer / 2; i++) {
            const int swap = steps[odds + i];
            steps[odds + i] = steps[odds + outer - 1 - i];
            steps[odds + outer - 1 - i] = swap;
        }
        consider(best, steps, count, split0, split1);
        /* another step before them all: the largest even one, or the smallest */
        for (int i = odds; outer > 0 && i < odds + outer; i += (int)max64(1, outer - 1)) {
            int other[MAX_STAGES];
            if (i == 0)
                continue;
            memcpy(other + 1, steps, (size_t)i * sizeof *steps);
            memcpy(other + i + 1, steps + i + 1, (size_t)(count - i - 1) * sizeof *steps);
            other[0] = steps[i];
            consider(best, other, count, split0, split1);
        }
    }
    while (best->live && next_order(steps + odds, outer))
        consider(best, steps, count, split0, split1);
}

/* Even radices `counts`, of which `inner` are phase 2's, after the odd ones. */
static void consider_counts(struct best *best, const int *odd, int odds, const int counts[SIZES],
                            const int inner[SIZES])
{
    int steps[MAX_STAGES], count = 0, outer;
    for (int i = 0; i < odds; i++)
        steps[count++] = odd[i];
    for (int i = 0; i < SIZES; i++)
        for (int j = counts[i] - inner[i]; j > 0; j--)
            steps[count++] = sizes[i];
    outer = count - odds;
    for (int i = 0; i < SIZES; i++)
        for (int j = inner[i]; j > 0; j--)
            steps[count++] = sizes[i];
    if (count == 0)
        steps[count++] = 1;
    consider_orders(best, steps, count, odds, outer);
}

/* All ways to share even radices between the phases: phase 2 takes at most two steps, and at
 * most one of radix 4. */
static void consider_inner(struct best *best, const int *odd, int odds, const int counts[SIZES])
{
    int inner[SIZES];
    for (inner[0] = 0; inner[0] <= min64(counts[0], 2); inner[0]++)
        for (inner[1] = 0; inner[1] <= min64(counts[1], 2); inner[1]++)
            for (inner[2] = 0; inner[2] <= min64(counts[2], 1); inner[2]++)
                for (inner[3] = 0; inner[3] <= counts[3]; inner[3]++)
                    if (inner[0] + inner[1] + inner[2] + inner[3] <= 2)
                        consider_counts(best, odd, odds, counts, inner);
}

/* All ways to write the power of two in M as codelets; the odd factors stand outermost, or
 * next to it. */
static void search_radices(struct best *best)
{
    int odd[MAX_STAGES], odds = 0, bits = 0;
    int64_t rest = best->M;
    for (; rest % 2 == 0; rest /= 2)
        bits++;
    if (!is_smooth(rest))
        return;
    if (rest > 1)
        odds = codelets_of(rest, false, odd);
    for (int n16 = bits / 4; n16 >= 0; n16--)
        for (int n8 = (bits - 4 * n16) / 3; n8 >= 0; n8--) {
            const int left = bits - 4 * n16 - 3 * n8;
            const int counts[SIZES] = {n16, n8, left / 2, left % 2};
            /* every step is a pass: few more than radices of 8 would take */
            if (left <= 8 && n16 + n8 + counts[2] + counts[3] <= (bits + 2) / 3 + 1)
                consider_inner(best, odd, odds, counts);
        }
}

double search_transform(struct transform *t, int64_t M, const struct request *request, int *order,
                        int64_t *radices, int *status)
{
    struct best best = {.t = t, .cycles = -1, .M = M, .request = request};
    if (request->pattern && (*status = live_new(&best.live, request->pattern, request->form, M))) {
        live_free(best.live);
        return -1;
    }
    if (request->radices) {
        *order = request->order;
        memcpy(radices, request->radices, (size_t)*order * sizeof *radices);
        consider_radices(&best, radices, *order);
    } else if (request->order) {
        *order = request->order;
        if (split_evenly(M, *order, radices))
            consider_radices(&best, radices, *order);
    } else if (request->dense) {
        for (*order = 1; *order <= FFTCONV_MAX_ORDER && best.cycles < 0; ++*order)
            if (split_evenly(M, *order, radices) && radices[0] <= 32)
                consider_radices(&best, radices, *order);
        --*order;
    } else {
        search_radices(&best);
        if (best.live && best.cycles >= 0 &&
            live_vectors_of(t, request->lanes, best.live) > SKIP_THRESHOLD) {
            struct best without_pattern = {.t = t, .cycles = -1, .M = M, .request = request};
            search_radices(&without_pattern);
            best.cycles = without_pattern.cycles;
        }
        *order = best.cycles < 0 ? 0 : t->stages;
        for (int l = 0; l < *order; l++)
            radices[l] = t->stage[l].radix;
    }
    live_free(best.live);
    return best.cycles < 0 ? -1 : best.cycles / machine_costs.cycles_per_second;
}
