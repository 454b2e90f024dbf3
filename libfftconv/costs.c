/* What a transform costs on this kind of processor: Equation 2 of the paper, with codelets in
 * place of matrices, and a CPU's caches in place of SRAM and HBM. */
#include "transform.h"

#include <unistd.h>

/* The constants of one AVX2 core of an AMD EPYC.  Those of vectors, with the cycles of each
 * codelet in radices.c, are a least-squares fit to 2000 decompositions of rows of 256 to
 * 131072 samples, timed there; its sixteen registers a radix of 16 overflows.  Those of
 * groups, leaves and rows are fitted by hand, to rows of 16 to 1024 samples.  The clock and
 * the bandwidths that are infinite here are named, not measured. */
const struct machine_costs machine_costs = {
    .cycles_per_second = 3.5e9,
    .phase1_twiddle = 1,      /* twiddles by the vector, not by the scalar */
    .stage1_conversion = 1.5, /* conversion, gates, the right angle */
    .square_saving = 1.8,     /* no memory between a square's two stages */
    .wide_radix16_saving = 7, /* thirty-two registers are enough for a radix of 16 */
    .both_planes = 2.5,
    .both_planes_narrow = 8,
    .dense_radix = 4,
    .dense_vector = 6,
    .level_row = {0, 0.3, 0.22}, /* the more streams there are, the less comes in time */
    .level_bytes = {1e9, 1e9, 29},
    .group = 5.8,     /* the overhead of loops and calls, in each direction */
    .padded_row = 25, /* rows of X that end in padding are read and written one by one */
    .tile_row = 8,    /* of a transposition of lanes x lanes numbers, there and back */
    .square_tile_row = 3,
    .leaf = 200,
    .single_leaf = 60,
    .row = 150,
    .fold_seconds = 1e-9,
    .direct_products = 1.4e10, /* about four a cycle */
};

int64_t cache_bytes(int level)
{
    long bytes = -1;
#ifdef _SC_LEVEL1_DCACHE_SIZE
    bytes = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : _SC_LEVEL2_CACHE_SIZE);
#endif
    return bytes > 0 ? bytes : level == 1 ? 32 << 10 : 1 << 20;
}

int stage_level(const struct transform *t, int l)
{
    /* a stage above the leaves passes over a group, the others stay in a leaf */
    const int64_t reals = l < t->depth ? t->stage[l].radix * t->stage[l].sub * 2 * t->lanes
                                       : t->Pl * t->Qv * 2 * t->lanes + t->leaf_reals;
    const int64_t bytes = reals * t->real_bytes;
    return bytes <= cache_bytes(1) ? 0 : bytes < cache_bytes(2) ? 1 : 2;
}

/* The vectors of phase 1's last stage that are live, as a part of all: one is counted as live
 * if any frequency with the same leading digits is. */
double live_vectors_of(const struct transform *t, int lanes, struct live *live)
{
    int64_t vector = 1;
    for (int l = t->split - 1; live && l >= t->depth && vector < lanes; l--)
        vector *= t->stage[l].radix;
    return live_part(live, t->P / vector);
}

/* Cycles for each vector that stage l reads, transforms and writes. */
static double vector_cycles(const struct transform *t, const struct request *request, int l)
{
    const struct machine_costs *m = &machine_costs;
    const struct stage *st = &t->stage[l];
    const bool codelet = !st->dense && has_codelet(st->radix);
    const bool wide = request->lanes * request->real_bytes >= 64;
    const double outputs = (double)t->stage1_outputs / t->stage[0].radix;
    const double vector_bytes = 2.0 * request->lanes * request->real_bytes;
    double cycles = codelet ? codelet_cycles(st->radix)
                            : m->dense_radix * st->radix + m->dense_vector;
    if (codelet && st->radix == 16 && wide)
        cycles -= m->wide_radix16_saving;
    if (l < t->split)
        cycles += m->phase1_twiddle;
    if (l == 0)
        cycles += m->stage1_conversion;
    if (l == 0 && request->both_planes) /* twice the inputs for the registers */
        cycles += st->radix <= 4 || wide ? m->both_planes : m->both_planes_narrow;
    if (l == 0) /* outputs that are left out are neither twiddled nor stored */
        cycles *= (1 + outputs) / 2;
    if (t->square && l > 0 && l >= t->split - 1)
        cycles -= m->square_saving;
    const int level = stage_level(t, l);
    return cycles + (m->level_row[level] * st->radix + 2 * vector_bytes / m->level_bytes[level]);
}

double transform_cycles(const struct transform *t, const struct request *request, struct live *live)
{
    const struct machine_costs *m = &machine_costs;
    const int lanes = request->lanes;
    const double outputs = (double)t->stage1_outputs / t->stage[0].radix;
    const double live_vectors = outputs * live_vectors_of(t, lanes, live);
    int64_t prefix = 1; /* r_1 ... r_(l-1) */
    double total = 0;
    for (int l = 0; l < t->stages; l++) {
        const struct stage *st = &t->stage[l];
        const bool phase1 = l < t->split;
        const double part = phase1 ? (l > 0 ? outputs : 1) * live_part(live, prefix) : live_vectors;
        const double vectors = part * (phase1 ? (double)t->P * (double)t->Qv
                                              : (double)t->leaves * (double)t->Q * (double)t->Plv);
        prefix *= st->radix;
        total += 2 * vectors * vector_cycles(t, request, l);
        total += part * 2 * m->group *
                 (phase1 ? (double)st->groups : (double)(t->leaves * st->groups * st->sub));
    }
    if (t->Q % lanes)
        total += 2 * m->padded_row * (double)t->P * (1 + request->both_planes);
    const double tiles = live_vectors * (double)t->leaves * (double)t->Plv * (double)t->Qv;
    total += tiles * 2 * (double)lanes * (t->square ? m->square_tile_row : m->tile_row);
    const double leaf = t->depth ? m->leaf : m->single_leaf;
    return total + leaf * live_vectors * (double)t->leaves + m->row;
}
