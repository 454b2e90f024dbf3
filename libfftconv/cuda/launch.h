/* Kernels as functions that the host calls: a launch of each, its preparation, and the table of
 * those that one transform length has. */
#ifndef FFTCONV_CUDA_LAUNCH_H
#define FFTCONV_CUDA_LAUNCH_H

#include "kernel.h"
#include "pack.h"
#include "padded.h"
#include "shapes.h"

namespace fftconv
{

template <class Kernel>
cudaError_t launch(const typename Kernel::Arguments &a, int64_t blocks, void *stream)
{
    void *arguments[] = {const_cast<typename Kernel::Arguments *>(&a)};
    /* This returns its own error, and not one that the caller has left behind. */
    return cudaLaunchKernel(entry<Kernel>, dim3(static_cast<unsigned>(blocks)),
                            dim3(Kernel::WARPS * LANES), arguments, Kernel::SHARED_BYTES,
                            static_cast<cudaStream_t>(stream));
}

/* To be done once for each device, before any launch there: allows the kernel its shared memory,
 * and stores how many blocks of it the device holds at a time. */
template <class Kernel> cudaError_t prepare(int processors, int64_t *blocks)
{
    int each = 0;
    cudaError_t e = cudaFuncSetAttribute(entry<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         Kernel::SHARED_BYTES);
    if (e == cudaSuccess)
        e = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
            &each, entry<Kernel>, Kernel::WARPS * LANES, Kernel::SHARED_BYTES);
    *blocks = static_cast<int64_t>(each) * processors;
    return e;
}

/* What the host calls for one transform length: a launch of the role that the arguments name, and
 * the preparation of all roles. */
struct RowLauncher {
    cudaError_t (*launch)(const fftconv_cuda_rows &, int64_t blocks, void *stream);
    cudaError_t (*prepare)(int processors, int64_t *blocks);
};

template <class Shape>
cudaError_t launch_rows(const fftconv_cuda_rows &a, int64_t blocks, void *stream)
{
    return a.role == ROWS_FORWARD    ? launch<RowKernel<Shape, ROWS_FORWARD>>(a, blocks, stream)
           : a.role == ROWS_BACKWARD ? launch<RowKernel<Shape, ROWS_BACKWARD>>(a, blocks, stream)
           : a.role == ROWS_SPECTRA  ? launch<RowKernel<Shape, ROWS_SPECTRA>>(a, blocks, stream)
                                     : launch<RowKernel<Shape, ROWS_TAPS>>(a, blocks, stream);
}

/* Stores the largest number of blocks that the device holds of any role's kernel. */
template <class Shape> cudaError_t prepare_rows(int processors, int64_t *blocks)
{
    int64_t each[ROLES] = {0};
    cudaError_t e = prepare<RowKernel<Shape, ROWS_FORWARD>>(processors, each);
    if (e == cudaSuccess)
        e = prepare<RowKernel<Shape, ROWS_BACKWARD>>(processors, each + 1);
    if (e == cudaSuccess)
        e = prepare<RowKernel<Shape, ROWS_SPECTRA>>(processors, each + 2);
    if (e == cudaSuccess)
        e = prepare<RowKernel<Shape, ROWS_TAPS>>(processors, each + 3);
    *blocks = 0;
    for (int64_t n : each)
        *blocks = n > *blocks ? n : *blocks;
    return e;
}

template <class Shape> constexpr RowLauncher launcher_of()
{
    return {launch_rows<Shape>, prepare_rows<Shape>};
}

/* The launchers of a shape, numbered as in shapes.h. */
const RowLauncher *rows_half(int shape);
const RowLauncher *rows_single(int shape);

} // namespace fftconv
#endif
