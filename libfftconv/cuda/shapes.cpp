/* The table of transform lengths: the sizes of each, and the function that makes its constants. */
#include "shapes.h"
#include "tables.h"

extern "C" {
#include "engine.h"
}

using namespace fftconv;

#define ROW(arith, r1, r2, r3) \
    {Shape<arith, r1, r2, r3>::M, \
     Shape<arith, r1, r2, r3>::ROWS, \
     {r1, r2, r3}, \
     Shape<arith, r1, r2, r3>::SHARED_BYTES, \
     Shape<arith, r1, r2, r3>::TABLE_BYTES, \
     static_cast<int>(sizeof(arith::Point)), \
     Tables<Shape<arith, r1, r2, r3>>::shift(), \
     Tables<Shape<arith, r1, r2, r3>>::build},
#define HALF(r1, r2, r3) ROW(Half, r1, r2, r3)
#define SINGLE(r1, r2, r3) ROW(Single, r1, r2, r3)

const struct cuda_shape *cuda_shape_of(int single, int i)
{
    static const struct cuda_shape halves[] = {FFTCONV_SHAPES_HALF(HALF)};
    static const struct cuda_shape singles[] = {FFTCONV_SHAPES_SINGLE(SINGLE)};
    const int count = single ? sizeof singles / sizeof *singles : sizeof halves / sizeof *halves;
    return i < count ? (single ? singles : halves) + i : nullptr;
}
