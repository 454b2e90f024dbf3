/* The fused kernels of every transform length, with points in float16. */
#include "launch.h"

#define ROW(r1, r2, r3) launcher_of<Shape<Half, r1, r2, r3>>(),

const struct fftconv::RowLauncher *fftconv::rows_half(int shape)
{
    static const RowLauncher table[] = {FFTCONV_SHAPES_HALF(ROW)};
    return &table[shape];
}
