/* One complex transform of M points: its stages, how the data lie between them, their
 * tables, and the search for the best decomposition.
 *
 * M = r_1 r_2 ... r_n points go through n stages by decimation in frequency.  M = P Q with
 * P = r_1 ... r_split (phase 1) and Q the rest (phase 2).
 *
 * Phase 1 holds point n = p Q + q at row p, column q of a matrix X, with the lanes of a
 * vector along q and rows padded to Qv vectors.  A leaf is Pl consecutive rows, the part of
 * X that stays in cache.  It is transposed, and phase 2 holds it as T[q][p], with lanes
 * along p and rows padded to Plv vectors.  So every stage works on whole vectors: the lanes
 * of a vector never meet outside the transposition.  Everywhere a vector of real parts is
 * followed by the vector of the imaginary parts.
 *
 * Spectra keep that order: leaf after leaf, each Q rows of Plv vectors.  Row p of X and row
 * q of T count digits of the frequency, the most significant first:
 *     p = (k_1, ..., k_split), q = (k_split+1, ..., k_n),
 *     m = k_1 + r_1 (k_2 + r_2 (k_3 + ...)). */
#ifndef FFTCONV_TRANSFORM_H
#define FFTCONV_TRANSFORM_H

#include "common.h"

enum { MAX_STAGES = FFTCONV_MAX_STAGES };

/* exp(-2 pi i k m / S) for column m (phase 1) or row m (phase 2) and output k of a stage
 * that begins with length S.
 *   Phase 1: vectors fine[m][k]; where that table would be too large for a cache, vectors
 *            fine[m mod period][k] times scalars coarse[m / period][k].
 *   Phase 2: scalars fine[m][k]. */
struct twiddle {
    void *fine;
    void *coarse;
    int64_t period;
};

/* Of some frequencies: how many have a weight other than zero, and so are computed. */
enum { NOTHING, SOME, ALL };

struct stage {
    int radix;
    bool dense;     /* a matrix product instead of a codelet */
    int64_t sub;    /* from one input of a butterfly to the next: vectors of X, or rows of T */
    int64_t groups; /* of butterflies, each radix times sub long: in all of X, or in one T */
    struct twiddle twiddle;
    void *matrix; /* dense: exp(-2 pi i r (k - shift) / radix), [k][r] */
    /* Patterns, phase 1: of each group, whether NOTHING, SOME or ALL of its outputs are
     * live.  NULL: all of all groups. */
    uint8_t *live;
    bool skips_dead_outputs; /* they are neither written nor read */
};

struct transform {
    int form; /* fftconv_form */
    int lanes, real_bytes;
    int64_t M, P, Q, Qv, Pl, Plv, leaves;
    int stages, split;
    int depth; /* a leaf is what lies below one output of stage `depth`; 0: all is one leaf */
    /* A leaf's last two stages have radix `lanes`, one in each phase, and run as one. */
    bool square;
    /* The outputs of stage 1 that are computed.  Real rows in the complex form need only
     * r_1/2 + 1 of them: output r_1 - k is the conjugate of output k, in reverse order. */
    int stage1_outputs;
    struct stage stage[MAX_STAGES];
    void *shift;           /* right angle: exp(2 pi i r / (4 r_1)), r < r_1 */
    int64_t x_reals;       /* numbers of X */
    int64_t leaf_reals;    /* numbers of T */
    int64_t spectra_reals; /* numbers of one row's spectrum */
    int64_t strip_columns; /* vectors that a first or last stage takes at a time */
    /* Rows that no cache holds are prefetched so many elements before they are needed, and
     * are then taken so many vectors at a time.  0: they are not. */
    int64_t prefetch_distance, prefetch_columns;
    int64_t scratch_reals; /* numbers that a thread needs for T and the strips */
    /* Patterns: for each vector of p, leaf after leaf, NOTHING or ALL; and the weights of
     * the frequencies in the order of spectra, one for each point. */
    uint8_t *live;
    void *weights;
    double computed; /* the part of the points that is computed */
    /* A folded row's part: where its numbers begin in the row, and in the row's spectra. */
    int64_t row_offset, spectra_offset;
};

/* Are the outputs of stage 1 computed only up to r_1/2? */
static inline bool is_half(const struct transform *t)
{
    return t->stage1_outputs < t->stage[0].radix;
}

/* Numbers from the start of a spectrum to the real part at row p of X and row q of T. */
static inline int64_t spectrum_offset(const struct transform *t, int64_t p, int64_t q)
{
    const int64_t in_leaf = p % t->Pl;
    return p / t->Pl * t->leaf_reals + (q * t->Plv + in_leaf / t->lanes) * 2 * t->lanes +
           in_leaf % t->lanes;
}

/* table[index] = value, in the precision of the table. */
static inline void store_real(void *table, int real_bytes, int64_t index, double value)
{
    if (real_bytes == 8)
        ((double *)table)[index] = value;
    else
        ((float *)table)[index] = (float)value;
}

/* ---- radices.c --------------------------------------------------------------------------- */

/* Does n have no prime factor above 7?  Only such lengths have stages. */
bool is_smooth(int64_t n);
/* Is there a codelet of this radix? */
bool has_codelet(int radix);
/* The codelets that one radix runs as, and their number: 32 as 4 and 8.  A radix that is to
 * be dense, or has a prime factor above 7, runs as itself. */
int codelets_of(int64_t radix, bool dense, int *chain);
/* Cycles of a codelet for each vector of complex points; 0 where there is none. */
double codelet_cycles(int radix);
/* Real flops for each complex point, in one direction, without twiddles. */
double radix_flops(int radix, bool dense);
/* The frequency at a place of the output of these stages, whose digits are reversed. */
int64_t digit_reverse(int64_t place, const int *radices, int count);

/* ---- patterns.c -------------------------------------------------------------------------- */

/* What of a spectrum is kept: the weights of bins 0 ... N/2 of a real row of N samples.
 * level: of the parts of a folded row, whose bins are (4m - 1) 2^level in the right angle,
 * else m 2^level. */
struct pattern {
    int64_t N;
    int level;
    const double *weights;
};

/* Which frequencies of M are live. */
struct live;
int live_new(struct live **live, const struct pattern *pattern, int form, int64_t M);
void live_free(struct live *live);
/* residue[c]: is any frequency m = c modulo R live? */
const uint8_t *live_residues(struct live *live, int64_t R);
/* The part of the residues modulo R that is live; 1 where live is NULL. */
double live_part(struct live *live, int64_t R);
/* Leaving out a tenth of the places or less costs as much as it saves: such a pattern runs
 * through the stages of the dense transform. */
#define SKIP_THRESHOLD 0.9

/* The bin of a row of N samples that frequency m of a folded row's part at `level` is; below
 * 0: -1 - bin, whose conjugate it is. */
int64_t signed_bin(int form, int64_t N, int level, int64_t m);
/* Weights and flags of the pattern, for a transform whose stages are chosen. */
int pattern_tables(struct transform *t, const struct pattern *pattern);
/* The frequency at place (p, q) is low[p] + high[q].  Free with aligned_free(low). */
int frequencies_build(const struct transform *t, int64_t **low, int64_t **high);

/* ---- costs.c ----------------------------------------------------------------------------- */

/* What is asked of a transform. */
struct request {
    int form; /* never AUTO */
    int lanes, real_bytes;
    bool dense;
    int order;                     /* 0: any */
    const int64_t *radices;        /* NULL: any */
    bool both_planes;              /* rows reach the imaginary plane */
    const struct pattern *pattern; /* NULL: all frequencies */
};

/* What the planner knows of a processor: costs.c says of each whether it was measured. */
struct machine_costs {
    double cycles_per_second;
    /* Cycles for each vector of complex points, beyond those of its codelet. */
    double phase1_twiddle, stage1_conversion, square_saving, wide_radix16_saving;
    double both_planes, both_planes_narrow; /* stage 1 with an imaginary plane: fits, or not */
    double dense_radix, dense_vector;       /* a dense stage: for each of its radix, and once */
    double level_row[3];                    /* for each row of a butterfly: L1, L2, beyond */
    double level_bytes[3];                  /* bytes for each cycle */
    /* Cycles of everything that is no vector. */
    double group, padded_row, tile_row, square_tile_row, leaf, single_leaf, row;
    /* Of whole rows. */
    double fold_seconds;    /* sums and differences of one sample, there and back */
    double direct_products; /* products a second of direct sums */
};
extern const struct machine_costs machine_costs;

/* Cycles of a forward and an inverse transform. */
double transform_cycles(const struct transform *t, const struct request *request,
                        struct live *live);
/* Live vectors of phase 1's last stage, as a part of all. */
double live_vectors_of(const struct transform *t, int lanes, struct live *live);
/* Bytes of this machine's cache of level 1 or 2. */
int64_t cache_bytes(int level);
/* Which memory the data of stage l are in: 0 the first cache, 1 the second, 2 beyond. */
int stage_level(const struct transform *t, int l);

/* ---- search.c ---------------------------------------------------------------------------- */

/* The radices, split and depth of the cheapest transform of M points.  Returns its predicted
 * seconds, or a number below 0 where M has no decomposition as asked, or, *status then says
 * so, memory ran out. */
double search_transform(struct transform *t, int64_t M, const struct request *request, int *order,
                        int64_t *radices, int *status);

/* ---- tables.c ---------------------------------------------------------------------------- */

/* The tables that the choice of search_transform needs.  Free with transform_clear. */
int transform_build(struct transform *t, const struct pattern *pattern);
void transform_clear(struct transform *t);
/* Stages of any radices with scalar twiddles, as phase 2 runs them. */
int stages_build(struct stage *stages, int count, const int64_t *radices, bool dense,
                 int real_bytes);
void stages_clear(struct stage *stages, int count);

#endif
