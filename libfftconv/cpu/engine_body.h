/* An engine, at one precision and vector size: its parts, each in a file of its own, and its
 * table of functions.  engine.c has the parameters, and transform.h the layout of the data. */

/* What everything is made of. */
#include "vec.h"
#include "codelets.h"
#include "conversions.h"
#include "activation.h"

/* Rows in the caller's memory. */
#include "elements.h"
#include "scaled.h"
#include "prefetch.h"
#include "source.h"
#include "sink.h"
#include "gradient.h"
#include "taps.h"
#include "direct_sum.h"
#include "fold.h"

/* Transforms. */
#include "stage_codelets.h"
#include "stage_dense.h"
#include "stages.h"
#include "strips.h"
#include "transposition.h"
#include "square.h"
#include "spectra.h"
#include "inner_stages.h"

/* Other work. */
#include "contract.h"
#include "depthwise.h"
#include "matmul.h"
#include "ssm.h"

extern const struct engine ENGINE;
const struct engine ENGINE = {
    .isa = STRING(FFTCONV_ISA),
    .lanes = LANES,
    .real_bytes = sizeof(REAL),
    .transform = {.first_stage = N_(first_stage),
                  .inner_stages = N_(inner_stages),
                  .last_stage = N_(last_stage),
                  .fold = N_(fold),
                  .column_stages = N_(column_stages)},
    .spectra = {.multiply = N_(multiply_spectra),
                .accumulate = N_(accumulate_spectra),
                .add = N_(add_spectra),
                .weigh = N_(weigh_spectra)},
    .rows = {.differentiate = N_(differentiate),
             .write_product = N_(write_product),
             .add_scaled = N_(add_scaled),
             .scale_by_power = N_(scale_by_power),
             .transpose = N_(transpose_matrix),
             .activate = N_(apply),
             .largest = N_(largest),
             .is_tiny = N_(is_tiny),
             .is_ordinary = N_(is_ordinary),
             .load_scalar = N_(load_scalar),
             .store_scalar = N_(store_scalar),
             .place_taps = N_(place_taps),
             .take_taps = N_(take_taps),
             .reverse_taps = N_(reverse_taps),
             .direct_sum = N_(direct_sum),
             .read_places = N_(read_places_to),
             .write_places = N_(write_places_from)},
    .direct = {.convolve = N_(convolve_directly), .correlate = N_(correlate_directly)},
    .matrix = {.contract = N_(contract),
               .multiply = N_(matmul),
               .multiply_block = N_(multiply_block),
               .scale_spectra = N_(scale_spectra),
               .add_turned = N_(add_turned)},
    .depthwise = {.forward = N_(depthwise),
                  .pack_slices = N_(pack_slices),
                  .dx = N_(depthwise_dx),
                  .dweight = N_(depthwise_dweight)},
#if IN_DOUBLE
    .ssm = {.powers = N_(powers),
            .cauchy = N_(cauchy),
            .recur = N_(recur),
            .recur_back = N_(recur_back)},
#endif
};

/* They are defined anew for the other precision. */
#undef W
#undef V
#undef VU
#undef VI
#undef LANES
#undef EACH_LANE
#undef SPLAT
#undef TRANSPOSE
#undef E_AT
#undef M_AT
#undef MULTIPLY
#undef FOR_RUNS
#undef FOR_COMPUTED
