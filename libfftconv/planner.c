/* Which stages, where phase 1 ends, which part is a leaf; and their tables. */
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Radices ------------------------------------------------------------------ */

/* Codelets (cpu/codelets.h): real flops of one; and cycles per vector of complex
 * points, loads, stores and scalar twiddles included.  These and the constants of
 * cycles() are a least-squares fit to 2000 decompositions of rows of 256 to 131072
 * samples, timed on an AVX2 core, whose sixteen registers a radix of 16 overflows; what a
 * row and a leaf cost beside their vectors is fitted by hand, to rows of 16 to 1024. */
static const struct codelet {
    int radix;
    double flops, cycles;
} codelets[] = {
    {16, 168, 13.6}, {8, 64, 6.8}, {7, 108, 9.5}, {5, 44, 5.6},
    {4, 16, 3.9},    {3, 16, 3.8}, {2, 4, 2.5},
};
enum { CODELETS = sizeof codelets / sizeof codelets[0] };

static const struct codelet *find_codelet(int radix)
{
    for (int i = 0; i < CODELETS; i++)
        if (codelets[i].radix == radix)
            return &codelets[i];
    return NULL;
}

bool is_smooth(int64_t n)
{
    for (int i = 0; i < 4; i++)
        for (int p = (int[]){2, 3, 5, 7}[i]; n % p == 0;)
            n /= p;
    return n == 1;
}

/* 32 = 4 x 8, 64 = 8 x 8, 128 = 16 x 8, 96 = 3 x 4 x 8, ... */
int steps_of(int64_t radix, bool dense, int *chain)
{
    int count = 0;
    if (dense || radix == 1 || !is_smooth(radix)) {
        chain[0] = (int)radix;
        return 1;
    }
    for (int i = 2; i < CODELETS; i++) /* odd factors first */
        for (int p = codelets[i].radix; p % 2 && radix % p == 0; radix /= p)
            chain[count++] = p;
    for (int p; radix > 16; radix /= p) {
        p = radix == 32 ? 4 : radix == 64 ? 8 : 16;
        chain[count++] = p;
    }
    if (radix > 1)
        chain[count++] = (int)radix;
    return count;
}

double radix_flops(int radix, bool dense)
{
    const struct codelet *c = dense ? NULL : find_codelet(radix);
    return c ? c->flops / radix : 8.0 * radix;
}

int64_t digit_reverse(int64_t place, const int *radices, int count)
{
    int64_t m = 0; /* least significant digit of the place is the last one */
    for (int i = count - 1; i >= 0; i--) {
        m = m * radices[i] + place % radices[i];
        place /= radices[i];
    }
    return m;
}

/* ---- The machine ---------------------------------------------------------------- */

int64_t cache_bytes(int level)
{
    long bytes = -1;
#ifdef _SC_LEVEL1_DCACHE_SIZE
    bytes = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : _SC_LEVEL2_CACHE_SIZE);
#endif
    return bytes > 0 ? bytes : level == 1 ? 32 << 10 : 1 << 20;
}

int stage_level(const struct xform *xf, int l)
{
    /* a stage above the leaves passes over a block, the others stay in a leaf */
    const int64_t reals = l < xf->depth ? xf->stage[l].radix * xf->stage[l].sub * 2 * xf->lanes
                                        : xf->Pl * xf->Qv * 2 * xf->lanes + xf->leaf_reals;
    const int64_t bytes = reals * xf->real_bytes;
    return bytes <= cache_bytes(1) ? 0 : bytes < cache_bytes(2) ? 1 : 2;
}

/* ---- Frequency-sparse spectra ------------------------------------------------------
 *
 * A place is live where its bin has a weight.  A block of stage l holds the
 * frequencies of one residue modulo r_1 ... r_(l-1). */

struct live {
    uint8_t *of, *residue; /* M each */
    int64_t M;
    struct {
        int64_t R;
        double part;
    } known[64];
    int count;
};

int64_t signed_bin(int form, int64_t N, int level, int64_t m)
{
    const int64_t b = form == FFTCONV_FORM_RIGHT_ANGLE ? 4 * m - 1 : m;
    const int64_t period = N >> level, bin = b < 0 ? b + period : b;
    return bin <= period / 2 ? bin << level : -1 - ((period - bin) << level);
}

static int64_t bin_of(int form, const struct sparsity *sparsity, int64_t m)
{
    const int64_t bin = signed_bin(form, sparsity->N, sparsity->level, m);
    return bin < 0 ? -1 - bin : bin;
}

static int live_new(struct live *live, const struct sparsity *sparsity, int form, int64_t M)
{
    *live = (struct live){.M = M, .of = aligned_new(2 * M)};
    if (!live->of)
        return fail_memory(2 * M);
    live->residue = live->of + M;
    for (int64_t m = 0; m < M; m++)
        live->of[m] = sparsity->weights[bin_of(form, sparsity, m)] != 0;
    return FFTCONV_STATUS_OK;
}

/* residue[c] = is any m = c modulo R live? */
static void live_residues(struct live *live, int64_t R)
{
    memset(live->residue, 0, (size_t)R);
    for (int64_t m = 0; m < live->M; m += R)
        for (int64_t c = 0; c < R; c++)
            live->residue[c] |= live->of[m + c];
}

/* The part of the residues modulo R that is live; all of it without a pattern. */
static double live_part(struct live *live, int64_t R)
{
    if (!live)
        return 1;
    int i = 0;
    while (i < live->count && live->known[i].R != R)
        i++;
    if (i == 64)
        return 1; /* a row of fewer than 2^40 points has fewer prefixes a search */
    if (i == live->count) {
        int64_t count = 0;
        live_residues(live, R);
        for (int64_t c = 0; c < R; c++)
            count += live->residue[c];
        live->known[i].R = R;
        live->known[i].part = (double)count / (double)R;
        live->count++;
    }
    return live->known[i].part;
}

/* ---- One candidate -------------------------------------------------------------- */

/* What a stage's data cost beside its arithmetic, by the cache they stream from: cycles a
 * vector for each of a butterfly's rows, since the more streams there are the less is
 * fetched in time; and bytes per cycle. */
static const double level_rows[] = {0, 0.3, 0.22};
static const double level_bandwidth[] = {1e9, 1e9, 29};

static void shape(struct xform *xf, int64_t M, const int *steps, int count, int split, int depth,
                  int lanes)
{
    xf->M = M;
    xf->stages = count;
    xf->split = split;
    xf->depth = depth;
    xf->P = xf->leaves = 1;
    for (int l = 0; l < split; l++)
        xf->P *= steps[l];
    for (int l = 0; l < depth; l++)
        xf->leaves *= steps[l];
    xf->Q = M / xf->P;
    xf->Qv = ceil_div(xf->Q, lanes);
    xf->Pl = xf->P / xf->leaves;
    xf->Plv = ceil_div(xf->Pl, lanes);
    int64_t blocks = 1, rest = xf->P;
    for (int l = 0; l < count; l++) {
        if (l == split)
            blocks = 1, rest = xf->Q;
        rest /= steps[l];
        xf->stage[l].radix = steps[l];
        xf->stage[l].blocks = blocks;
        xf->stage[l].sub = l < split ? rest * xf->Qv : rest;
        blocks *= steps[l];
    }
    xf->square = split >= 1 && depth < split && count == split + 1 && steps[split - 1] == lanes &&
                 steps[split] == lanes && !xf->stage[split - 1].dense && !xf->stage[split].dense;
    xf->x_reals = xf->P * xf->Qv * 2 * lanes;
    xf->leaf_reals = xf->Q * xf->Plv * 2 * lanes;
    xf->spectra_reals = xf->leaves * xf->leaf_reals;
}

/* Real rows in complex form: does what is left of stage 1's outputs end with a block
 * below it, or with a whole vector of p? */
static bool halves(const struct xform *xf, const struct request *request)
{
    const int R = xf->stage[0].radix;
    return request->form == FFTCONV_FORM_COMPLEX && !request->both_planes && R > 2 &&
           !xf->stage[0].dense && (xf->depth > 0 || xf->P / R % xf->lanes == 0);
}

/* Can stage l leave dead outputs out?  Where these are blocks of another stage of
 * phase 1, and whole vectors of p, which nothing reads either. */
static bool masks(const struct xform *xf, int l)
{
    return l > 0 && l + 1 < xf->split && !xf->stage[l].dense &&
           xf->stage[l].sub / xf->Qv % xf->lanes == 0;
}

/* The part of phase 1's last vectors that are live, counted so where any place is that
 * agrees with theirs in the digits above. */
static double live_vectors_of(const struct xform *xf, int lanes, struct live *live)
{
    int64_t vector = 1;
    for (int l = xf->split - 1; live && l >= xf->depth && vector < lanes; l--)
        vector *= xf->stage[l].radix;
    return live_part(live, xf->P / vector);
}

/* Cycles of a forward and an inverse transform: Equation 2's sum, with codelets
 * in place of matrices and a CPU's caches in place of SRAM and HBM. */
static double cycles(const struct xform *xf, const struct request *request, struct live *live)
{
    const int lanes = request->lanes, real_bytes = request->real_bytes;
    int64_t prefix = 1; /* of the blocks of phase 1 stage by stage */
    const double kept = (double)xf->kept / xf->stage[0].radix;
    const double live_vectors = kept * live_vectors_of(xf, lanes, live);
    const double vector_bytes = 2.0 * lanes * real_bytes;
    double total = 0;
    for (int l = 0; l < xf->stages; l++) {
        const struct stage *st = &xf->stage[l];
        const bool first_phase = l < xf->split;
        const double part = first_phase ? (l > 0 ? kept : 1) * live_part(live, prefix)
                                        : live_vectors;
        const double vectors = part * (first_phase
                                           ? (double)xf->P * (double)xf->Qv
                                           : (double)xf->leaves * (double)xf->Q * (double)xf->Plv);
        prefix *= st->radix;
        const struct codelet *c = st->dense ? NULL : find_codelet(st->radix);
        double per_vector = c ? c->cycles : 4.0 * st->radix + 6;
        if (c && st->radix == 16 && lanes * real_bytes >= 64)
            per_vector -= 7; /* thirty-two registers are enough */
        if (first_phase)
            per_vector += 1; /* twiddles by the vector */
        if (l == 0)
            per_vector += 1.5;              /* conversion, gates, the right angle */
        if (l == 0 && request->both_planes) /* twice the inputs for the registers */
            per_vector += st->radix <= 4 || lanes * real_bytes >= 64 ? 2.5 : 8;
        if (l == 0) /* what is left out is neither turned nor stored */
            per_vector *= (1 + kept) / 2;
        if (xf->square && l > 0 && l >= xf->split - 1)
            per_vector -= 1.8; /* no memory between the two */
        const int level = stage_level(xf, l);
        per_vector += level_rows[level] * st->radix + 2 * vector_bytes / level_bandwidth[level];
        total += 2 * vectors * per_vector;
        /* loop and call overhead of short runs */
        total += part * 2 * 5.8 *
                 (first_phase ? (double)st->blocks : (double)(xf->leaves * st->blocks * st->sub));
    }
    /* rows of X that end in padding are read and written one by one */
    if (xf->Q % lanes)
        total += 2 * 25 * (double)xf->P * (1 + request->both_planes);
    /* transpositions, by tiles of lanes x lanes */
    const double tiles = live_vectors * (double)xf->leaves * (double)xf->Plv * (double)xf->Qv;
    total += tiles * 2 * (double)lanes * (xf->square ? 3 : 8);
    /* a leaf's calls, which are fewer where it is all of the row, and a row's */
    return total + (xf->depth ? 200 : 60) * live_vectors * (double)xf->leaves + 150;
}

/* To leave out a tenth of the places or less costs as much as it saves: such a pattern
 * runs as the dense transform does, through the same stages. */
static const double WORTH = 0.9;

static bool has_codelet(int radix) { return find_codelet(radix) != NULL; }

/* Keep the cheapest depth of these steps, and split of those in [split0, split1], if
 * cheaper than `best`. */
static double consider(struct xform *xf, double best, int64_t M, const int *steps, int count,
                       int split0, int split1, const struct request *request, struct live *live)
{
    struct xform candidate = {
        .form = request->form, .lanes = request->lanes, .real_bytes = request->real_bytes};
    for (int l = 0; l < count; l++)
        candidate.stage[l].dense = request->dense || !has_codelet(steps[l]);
    for (int split = split0; split <= split1; split++)
        for (int depth = 0; depth <= split; depth++) {
            shape(&candidate, M, steps, count, split, depth, request->lanes);
            candidate.kept = halves(&candidate, request) ? steps[0] / 2 + 1 : steps[0];
            double cost = cycles(&candidate, request, live);
            if (best < 0 || cost < best) {
                best = cost;
                *xf = candidate;
            }
        }
    return best;
}

/* Steps of named radices. */
static int expand(const int64_t *radices, int order, bool dense, int *steps)
{
    int count = 0;
    for (int i = 0; i < order; i++) {
        int chain[MAX_STAGES];
        if (radices[i] == 1)
            continue;
        int length = steps_of(radices[i], dense, chain);
        if (count + length > MAX_STAGES)
            return 0;
        memcpy(steps + count, chain, (size_t)length * sizeof *chain);
        count += length;
    }
    if (count == 0)
        steps[count++] = 1;
    return count;
}

/* M as `order` factors, each at most 128, as equal as its primes allow, the
 * largest first. */
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
                int64_t t = radices[i];
                radices[i] = radices[j];
                radices[j] = t;
            }
    return M == 1 && radices[0] <= FFTCONV_MAX_RADIX;
}

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
    int t = a[i];
    a[i] = a[j], a[j] = t;
    for (i++, j = count - 1; i < j; i++, j--)
        t = a[i], a[i] = a[j], a[j] = t;
    return true;
}

/* All ways to write the power of two left over as codelets, and to share them between the
 * phases; odd factors stand outermost, or next to it.  Of their orders within phase 1 the
 * descending one, the ascending one (large radices where the data are in cache), and each
 * with another step first; all where a pattern's order decides what there is to skip. */
static double search(struct xform *xf, int64_t M, const struct request *request, struct live *live)
{
    int odd[MAX_STAGES], odds = 0, bits = 0;
    int64_t rest = M;
    for (; rest % 2 == 0; rest /= 2)
        bits++;
    if (!is_smooth(rest))
        return -1;
    if (rest > 1)
        odds = steps_of(rest, false, odd);
    static const int sizes[] = {16, 8, 4, 2};
    double best = -1;
#define CONSIDER(steps) best = consider(xf, best, M, steps, count, split0, split1, request, live)
    for (int n16 = bits / 4; n16 >= 0; n16--)
        for (int n8 = (bits - 4 * n16) / 3; n8 >= 0; n8--) {
            int left = bits - 4 * n16 - 3 * n8;
            if (left > 8)
                continue;
            const int counts[4] = {n16, n8, left / 2, left % 2};
            /* every step is a pass: few more than eights would take */
            if (n16 + n8 + counts[2] + counts[3] > (bits + 2) / 3 + 1)
                continue;
            /* how many of each size the inner phase takes: at most two steps */
            int inner[4];
            for (inner[0] = 0; inner[0] <= counts[0] && inner[0] <= 2; inner[0]++)
                for (inner[1] = 0; inner[1] <= counts[1] && inner[1] <= 2; inner[1]++)
                    for (inner[2] = 0; inner[2] <= counts[2] && inner[2] <= 1; inner[2]++)
                        for (inner[3] = 0; inner[3] <= counts[3]; inner[3]++) {
                            int steps[MAX_STAGES], count = 0;
                            if (inner[0] + inner[1] + inner[2] + inner[3] > 2)
                                continue;
                            for (int i = 0; i < odds; i++)
                                steps[count++] = odd[i];
                            int outer = 0;
                            for (int phase = 0; phase < 2; phase++) {
                                for (int i = 0; i < 4; i++)
                                    for (int j = phase ? inner[i] : counts[i] - inner[i]; j > 0;
                                         j--)
                                        steps[count++] = sizes[i];
                                outer = phase ? outer : count - odds;
                            }
                            if (count == 0)
                                steps[count++] = 1;
                            /* the inner phase's steps are its own, or all but the first */
                            const int own = count - odds - outer;
                            const int split0 = own > 0 ? max64(1, count - own) : 1;
                            const int split1 = own > 0 ? max64(1, count - 1) : count;
                            /* descending, then ascending */
                            for (int turn = 0; turn < 2; turn++) {
                                if (turn && (outer < 2 || steps[odds] == steps[odds + outer - 1]))
                                    break;
                                for (int i = 0; turn && i < outer / 2; i++) {
                                    int t = steps[odds + i];
                                    steps[odds + i] = steps[odds + outer - 1 - i];
                                    steps[odds + outer - 1 - i] = t;
                                }
                                CONSIDER(steps);
                                /* another step before them all: the largest even one,
                                 * or the smallest */
                                for (int i = odds; outer > 0 && i < odds + outer;
                                     i += max64(1, outer - 1)) {
                                    int other[MAX_STAGES];
                                    memcpy(other + 1, steps, (size_t)i * sizeof *steps);
                                    memcpy(other + i + 1, steps + i + 1,
                                           (size_t)(count - i - 1) * sizeof *steps);
                                    other[0] = steps[i];
                                    if (i > 0)
                                        CONSIDER(other);
                                }
                            }
                            while (live && next_order(steps + odds, outer))
                                CONSIDER(steps);
                        }
        }
    return best;
#undef CONSIDER
}

double plan_xform(struct xform *xf, int64_t M, const struct request *request, int *order,
                  int64_t *radices, int *status)
{
    double best = -1;
    int steps[MAX_STAGES], count;
    struct live known, *live = NULL;
    if (request->sparsity) {
        if ((*status = live_new(&known, request->sparsity, request->form, M)))
            return -1;
        live = &known;
    }
    if (request->radices || request->order) {
        *order = request->order;
        if (request->radices)
            memcpy(radices, request->radices, (size_t)*order * sizeof *radices);
        if (request->radices || split_evenly(M, *order, radices)) {
            count = expand(radices, *order, request->dense, steps);
            if (count > 0)
                best = consider(xf, -1, M, steps, count, 1, count, request, live);
        }
    } else if (request->dense) {
        for (*order = 1; *order <= FFTCONV_MAX_ORDER && best < 0; ++*order)
            if (split_evenly(M, *order, radices) && radices[0] <= 32) {
                count = expand(radices, *order, true, steps);
                best = consider(xf, -1, M, steps, count, 1, count, request, live);
            }
        --*order;
    } else {
        best = search(xf, M, request, live);
        if (live && best >= 0 && live_vectors_of(xf, request->lanes, live) > WORTH)
            best = search(xf, M, request, NULL);
        if (best >= 0) {
            *order = xf->stages;
            for (int l = 0; l < xf->stages; l++)
                radices[l] = xf->stage[l].radix;
        }
    }
    if (live)
        aligned_free(live->of);
    return best < 0 ? -1 : best / 3.5e9;
}

/* ---- Tables ---------------------------------------------------------------------- */

/* exp(-2 pi i num / den), the angle reduced to an eighth turn by integers. */
static void root(int64_t num, int64_t den, double *re, double *im)
{
    num %= den;
    if (num < 0)
        num += den;
    int64_t eighths = 8 * num;
    int octant = (int)(eighths / den);
    /* distance to the nearest axis */
    double turn = (octant + 1) / 2 % 4 * 0.25;
    int64_t off = 4 * num - (int64_t)(turn * 4) * den; /* in turns / (4 den) */
    if (octant == 7)
        off = 4 * (num - den);
    double angle = 1.57079632679489661923 * (double)off / (double)den;
    double c = cos(angle), s = sin(angle);
    switch ((octant + 1) / 2 % 4) {
    case 0: *re = c, *im = -s; break;
    case 1: *re = -s, *im = -c; break;
    case 2: *re = -c, *im = s; break;
    default: *re = s, *im = c; break;
    }
}

static void put(void *table, int real_bytes, int64_t index, double value)
{
    if (real_bytes == 8)
        ((double *)table)[index] = value;
    else
        ((float *)table)[index] = (float)value;
}

static void *reals_new(int64_t count, int real_bytes) { return aligned_new(count * real_bytes); }

/* exp(-2 pi i r (k - shift / 4) / R), [k][r], and nothing else to multiply by */
static void *dense_matrix(int R, int shift, int real_bytes)
{
    void *matrix = reals_new(2 * (int64_t)R * R, real_bytes);
    for (int k = 0; matrix && k < R; k++)
        for (int r = 0; r < R; r++) {
            double re, im;
            root((int64_t)r * (4 * k - shift), 4 * R, &re, &im);
            put(matrix, real_bytes, 2 * (k * R + r), re);
            put(matrix, real_bytes, 2 * (k * R + r) + 1, im);
        }
    return matrix;
}

/* A table beyond this goes as fine times coarse. */
enum { TWIDDLE_BYTES = 96 << 10, FINE_BYTES = 16 << 10 };

static int columns_build(struct xform *xf, int l, int shift)
{
    struct stage *st = &xf->stage[l];
    const int W = xf->lanes, K = l == 0 ? st->radix : st->radix - 1;
    const int first_k = l == 0 ? 0 : 1;
    int64_t S = xf->M;
    for (int i = 0; i < l; i++)
        S /= xf->stage[i].radix;
    const int64_t column_bytes = (int64_t)K * 2 * W * xf->real_bytes;
    int64_t period = st->sub;
    if (period * column_bytes > TWIDDLE_BYTES)
        period = min64(st->sub, xf->Qv * max64(1, FINE_BYTES / (column_bytes * xf->Qv)));
    st->twiddle.period = period;
    st->twiddle.fine = reals_new(period * K * 2 * W, xf->real_bytes);
    if (!st->twiddle.fine)
        return fail_memory(period * column_bytes);
    for (int64_t c = 0; c < period; c++)
        for (int k = 0; k < K; k++)
            for (int i = 0; i < W; i++) {
                int64_t q = c % xf->Qv * W + i, m = c / xf->Qv * xf->Q + q;
                double re = 1, im = 0;
                if (q < xf->Q) /* m < S and 4 k < 512: no overflow below 2^53 */
                    root((4 * (k + first_k) - shift) * m, 4 * S, &re, &im);
                int64_t at = (c * K + k) * 2 * W + i;
                put(st->twiddle.fine, xf->real_bytes, at, re);
                put(st->twiddle.fine, xf->real_bytes, at + W, im);
            }
    if (period == st->sub)
        return FFTCONV_STATUS_OK;
    const int64_t count = ceil_div(st->sub, period);
    st->twiddle.coarse = reals_new(count * K * 2, xf->real_bytes);
    if (!st->twiddle.coarse)
        return fail_memory(count * K * 2 * xf->real_bytes);
    for (int64_t c = 0; c < count; c++)
        for (int k = 0; k < K; k++) {
            double re, im;
            root((4 * (k + first_k) - shift) * (c * (period / xf->Qv) * xf->Q), 4 * S, &re, &im);
            put(st->twiddle.coarse, xf->real_bytes, (c * K + k) * 2, re);
            put(st->twiddle.coarse, xf->real_bytes, (c * K + k) * 2 + 1, im);
        }
    return FFTCONV_STATUS_OK;
}

/* Phase 2: scalars [m][k - 1], S the length its stage begins with. */
static int rows_build(struct stage *st, int64_t S, int real_bytes)
{
    const int R = st->radix;
    st->twiddle.period = st->sub;
    st->twiddle.fine = reals_new(st->sub * (R - 1) * 2, real_bytes);
    if (!st->twiddle.fine)
        return fail_memory(st->sub * (R - 1) * 2 * real_bytes);
    for (int64_t m = 0; m < st->sub; m++)
        for (int k = 1; k < R; k++) {
            double re, im;
            root(k * m, S, &re, &im);
            put(st->twiddle.fine, real_bytes, (m * (R - 1) + k - 1) * 2, re);
            put(st->twiddle.fine, real_bytes, (m * (R - 1) + k - 1) * 2 + 1, im);
        }
    if (st->dense && !(st->matrix = dense_matrix(R, 0, real_bytes)))
        return fail_memory(2 * (int64_t)R * R * real_bytes);
    return FFTCONV_STATUS_OK;
}

int frequencies_build(const struct xform *xf, int64_t **low, int64_t **high)
{
    int radices[MAX_STAGES];
    for (int l = 0; l < xf->stages; l++)
        radices[l] = xf->stage[l].radix;
    *low = aligned_new((xf->P + xf->Q) * (int64_t)sizeof **low);
    if (!*low)
        return fail_memory((xf->P + xf->Q) * (int64_t)sizeof **low);
    *high = *low + xf->P;
    for (int64_t p = 0; p < xf->P; p++)
        (*low)[p] = digit_reverse(p, radices, xf->split);
    for (int64_t q = 0; q < xf->Q; q++)
        (*high)[q] = xf->P * digit_reverse(q, radices + xf->split, xf->stages - xf->split);
    return FFTCONV_STATUS_OK;
}

/* Weights of the bins in spectrum order, and which blocks are live. */
static int sparsity_tables(struct xform *xf, const struct sparsity *sparsity, struct live *live,
                           const int64_t *low, const int64_t *high)
{
    const int W = xf->lanes;
    xf->weights = reals_new(xf->spectra_reals / 2, xf->real_bytes);
    xf->live = aligned_new(xf->leaves * xf->Plv);
    if (!xf->weights || !xf->live)
        return fail_memory(xf->spectra_reals / 2 * xf->real_bytes);
    memset(xf->weights, 0, (size_t)(xf->spectra_reals / 2 * xf->real_bytes));
    memset(xf->live, 0, (size_t)(xf->leaves * xf->Plv));
    /* what stage 1 leaves out has weight 0 */
    const int64_t block = xf->P / xf->stage[0].radix, rows = block * xf->kept;
    for (int64_t p = 0; p < rows; p++)
        for (int64_t q = 0; q < xf->Q; q++) {
            const int64_t at = spectrum_offset(xf, p, q);
            put(xf->weights, xf->real_bytes, at / (2 * W) * W + at % W,
                sparsity->weights[bin_of(xf->form, sparsity, low[p] + high[q])]);
        }
    int radices[MAX_STAGES];
    int64_t R = 1, points = 0, all = 0;
    for (int l = 0; l < xf->split; R *= xf->stage[l].radix, l++) {
        struct stage *st = &xf->stage[l];
        radices[l] = st->radix;
        if (!(st->live = aligned_new(st->blocks)))
            return fail_memory(st->blocks);
        live_residues(live, R);
        for (int64_t b = 0; b < st->blocks; b++)
            st->live[b] = live->residue[digit_reverse(b, radices, l)] ? ALL : NOTHING;
        st->masked = masks(xf, l);
        for (int64_t b = 0; l > 0 && st[-1].masked && b < st->blocks; b++)
            if (!st->live[b] && st[-1].live[b / st[-1].radix])
                st[-1].live[b / st[-1].radix] = SOME;
    }
    xf->stage[0].live[0] = ALL; /* a pattern that keeps nothing */
    live_residues(live, xf->P);
    for (int64_t p = 0; p < rows; p++)
        if (live->residue[low[p]])
            xf->live[p / xf->Pl * xf->Plv + p % xf->Pl / W] = ALL;
    for (int64_t p = 0; p < rows; p++) {
        const int64_t k = p / block; /* 2: it stands for its mirror too */
        const int stands = is_half(xf) && k > 0 && 2 * k < xf->stage[0].radix ? 2 : 1;
        points += stands * (xf->live[p / xf->Pl * xf->Plv + p % xf->Pl / W] != NOTHING);
        all += stands;
    }
    xf->computed = (double)points / (double)all;
    return FFTCONV_STATUS_OK;
}

/* No flag is looked at where little would be left out; nor a weight where all are 1. */
static void sparsity_trim(struct xform *xf, const struct sparsity *sparsity)
{
    if (xf->computed > WORTH) {
        xf->computed = 1;
        aligned_free(xf->live);
        xf->live = NULL;
        for (int l = 0; l < xf->split; l++) {
            aligned_free(xf->stage[l].live);
            xf->stage[l].live = NULL;
            xf->stage[l].masked = false;
        }
    }
    bool ones = true;
    for (int64_t m = 0; m <= sparsity->N / 2; m++)
        ones &= sparsity->weights[m] == 1;
    if (ones) {
        aligned_free(xf->weights);
        xf->weights = NULL;
    }
}

static int sparsity_build(struct xform *xf, const struct sparsity *sparsity)
{
    int64_t *low, *high;
    struct live live = {0};
    int status = frequencies_build(xf, &low, &high);
    if (!status && !(status = live_new(&live, sparsity, xf->form, xf->M)))
        status = sparsity_tables(xf, sparsity, &live, low, high);
    if (!status)
        sparsity_trim(xf, sparsity);
    aligned_free(live.of);
    aligned_free(low);
    return status;
}

int xform_build(struct xform *xf, const struct sparsity *sparsity)
{
    const int shift = xf->form == FFTCONV_FORM_RIGHT_ANGLE;
    const int R = xf->stage[0].radix;
    int status = FFTCONV_STATUS_OK;
    for (int l = 0; l < xf->split && !status; l++) {
        struct stage *st = &xf->stage[l];
        status = columns_build(xf, l, l == 0 ? shift : 0);
        if (!status && st->dense &&
            !(st->matrix = dense_matrix(st->radix, l == 0 ? shift : 0, xf->real_bytes)))
            status = fail_memory(2 * (int64_t)st->radix * st->radix * xf->real_bytes);
    }
    int64_t S = xf->Q;
    for (int l = xf->split; l < xf->stages && !status; l++) {
        status = rows_build(&xf->stage[l], S, xf->real_bytes);
        S /= xf->stage[l].radix;
    }
    if (!status && shift) {
        if (!(xf->shift = reals_new(2 * R, xf->real_bytes)))
            status = fail_memory(2 * R * xf->real_bytes);
        for (int r = 0; !status && r < R; r++) {
            double re, im;
            root(-r, 4 * R, &re, &im);
            put(xf->shift, xf->real_bytes, 2 * r, re);
            put(xf->shift, xf->real_bytes, 2 * r + 1, im);
        }
    }
    xf->computed = 1;
    if (!status && sparsity)
        status = sparsity_build(xf, sparsity);
    /* a tile of stage 1's rows, both planes, in half an L1 */
    const int64_t column = (int64_t)R * 2 * xf->lanes;
    xf->tile_columns = max64(1, min64((16 << 10) / (column * xf->real_bytes), xf->stage[0].sub));
    xf->scratch_reals = max64(xf->leaf_reals, xf->tile_columns * column);
    if (status)
        xform_clear(xf);
    return status;
}

int stages_build(struct stage *st, int count, const int64_t *radices, bool dense, int real_bytes)
{
    int64_t S = 1, blocks = 1;
    int status = FFTCONV_STATUS_OK;
    for (int l = 0; l < count; l++)
        S *= radices[l];
    for (int l = 0; l < count && !status; l++) {
        st[l] = (struct stage){.radix = (int)radices[l],
                               .blocks = blocks,
                               .sub = S / radices[l],
                               .dense = dense || !has_codelet((int)radices[l])};
        status = rows_build(&st[l], S, real_bytes);
        blocks *= radices[l];
        S /= radices[l];
    }
    return status;
}

void stages_clear(struct stage *st, int count)
{
    for (int l = 0; l < count; l++) {
        aligned_free(st[l].twiddle.fine);
        aligned_free(st[l].twiddle.coarse);
        aligned_free(st[l].matrix);
        aligned_free(st[l].live);
        st[l].twiddle.fine = st[l].twiddle.coarse = st[l].matrix = NULL;
        st[l].live = NULL;
    }
}

void xform_clear(struct xform *xf)
{
    stages_clear(xf->stage, xf->stages);
    aligned_free(xf->shift);
    aligned_free(xf->live);
    aligned_free(xf->weights);
    xf->shift = xf->live = NULL;
    xf->weights = NULL;
}
