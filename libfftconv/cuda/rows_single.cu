/* The fused kernels of every transform length, in float32. */
#include "launch.h"

#define ROW(r1, r2, r3) launcher_of<Shape<Single, r1, r2, r3>>(),

const struct fftconv::RowLauncher *fftconv::rows_single(int shape)
{
    static const RowLauncher table[] = {FFTCONV_SHAPES_SINGLE(ROW)};
    return &table[shape];
}
