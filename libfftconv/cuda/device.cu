/* The machine that is a GPU: its launches, its memory, and what it can hold, through the CUDA
 * runtime.  struct cuda_machine in engine.h says what each function does. */
#include "launch.h"

#include <atomic>

extern "C" {
#include "engine.h"
}

using namespace fftconv;

namespace
{

int check(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return FFTCONV_STATUS_OK;
    cudaGetLastError(); /* reported here, so that the next call does not report it again */
    return fail(e == cudaErrorMemoryAllocation ? FFTCONV_STATUS_NO_MEMORY
                                               : FFTCONV_STATUS_UNSUPPORTED,
                "%s: CUDA says \"%s\"", what, cudaGetErrorString(e));
}

/* For calls whose errors cannot be reported.  The error is cleared, so that the next launch does
 * not report it. */
void quietly(cudaError_t e)
{
    if (e != cudaSuccess)
        cudaGetLastError();
}

const RowLauncher *rows_of(int single, int shape)
{
    return single ? rows_single(shape) : rows_half(shape);
}

int rows(int single, int shape, const struct fftconv_cuda_rows *a, int64_t blocks, void *stream)
{
    return check(rows_of(single, shape)->launch(*a, blocks, stream), "launching rows");
}

int pack(int single, const struct fftconv_cuda_pack *a, int64_t blocks, void *stream)
{
    return check(single ? launch<PackKernel<Single>>(*a, blocks, stream)
                        : launch<PackKernel<Half>>(*a, blocks, stream),
                 "launching a sum");
}

int fill(const struct fftconv_cuda_fill *a, int64_t blocks, void *stream)
{
    return check(launch<FillKernel>(*a, blocks, stream), "launching a fill");
}

template <class T>
cudaError_t launch_padded(int kernel, const struct fftconv_cuda_padded &a, int64_t blocks,
                          void *stream)
{
    typedef cudaError_t launcher(const struct fftconv_cuda_padded &, int64_t, void *);
    static launcher *const launchers[PADDED_KERNELS] = {
        launch<LoadKernel<T>>,  launch<ProductKernel<T>>, launch<SumKernel<T>>,
        launch<StoreKernel<T>>, launch<SkipKernel<T>>,    launch<PlaceKernel<T>>,
        launch<TakeKernel<T>>};
    return launchers[kernel](a, blocks, stream);
}

int padded(int wide, int kernel, const struct fftconv_cuda_padded *a, int64_t blocks, void *stream)
{
    return check(wide ? launch_padded<double>(kernel, *a, blocks, stream)
                      : launch_padded<float>(kernel, *a, blocks, stream),
                 "launching a step of padded rows");
}

int devices(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return count;
}

/* Makes `device` the calling thread's, and stores the one that was, which leave restores. */
int enter(int device, int *before)
{
    int status = check(cudaGetDevice(before), "asking for the device");
    if (!status && device != *before)
        status = check(cudaSetDevice(device), "choosing the device");
    return status;
}

/* Where the thread never used `before`, CUDA 12 makes a context there: its runtime knows no other
 * way back. */
void leave(int device, int before)
{
    if (device != before)
        quietly(cudaSetDevice(before));
}

/* Memory in the order of streams comes from a pool of the library's own for each device.  It keeps
 * up to POOL_BYTES of what was released, for the next call.  The device's default pool keeps nothing
 * beyond a synchronisation unless the caller has set it to, and its settings are the caller's. */
enum { POOLS = 64, TILE_BYTES = 128 << 20, POOL_BYTES = 8 * TILE_BYTES };
std::atomic<cudaMemPool_t> pools[POOLS];

/* Makes the pool of a device that has none.  Where that fails, the default pool serves. */
void make_pool(int device)
{
    cudaMemPool_t pool, none = nullptr;
    cudaMemPoolProps of = {};
    uint64_t bytes = POOL_BYTES;
    of.allocType = cudaMemAllocationTypePinned;
    of.location.type = cudaMemLocationTypeDevice;
    of.location.id = device;
    if (device >= POOLS || pools[device] || cudaMemPoolCreate(&pool, &of) != cudaSuccess) {
        cudaGetLastError();
        return;
    }
    quietly(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &bytes));
    if (!pools[device].compare_exchange_strong(none, pool))
        quietly(cudaMemPoolDestroy(pool)); /* another thread has made one */
}

int limits(int device, int64_t *shared_bytes, int64_t *tile_bytes)
{
    int major = 0, bytes = 0;
    int status = check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                       "asking what the device can do");
    if (!status)
        status = check(
            cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            "asking for its shared memory");
    if (!status && major < 8)
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "device is %d, of compute capability %d.x, must be of "
                    "8.0 or later",
                    device, major);
    /* cuFFT has a CUDA runtime of its own, and needs the device's context to exist */
    if (!status)
        status = check(cudaFree(nullptr), "waking the device");
    if (!status)
        make_pool(device);
    *shared_bytes = bytes;
    *tile_bytes = TILE_BYTES;
    return status;
}

/* Loads the code of kernels.  CUDA would else do so at their first launch and might wait for the
 * device then: a call must not wait, and cannot while a graph is captured. */
template <class... Kernels> int load()
{
    cudaFuncAttributes a;
    cudaError_t e = cudaSuccess;
    ((e = e == cudaSuccess ? cudaFuncGetAttributes(&a, entry<Kernels>) : e), ...);
    return check(e, "loading kernels");
}

int prepare_rows(int device, int single, int shape, int64_t *blocks)
{
    int processors = 0;
    int status = check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
                       "asking for the device's size");
    if (!status)
        status = check(rows_of(single, shape)->prepare(processors, blocks), "preparing a kernel");
    if (!status)
        status = single ? load<PackKernel<Single>, FillKernel>()
                        : load<PackKernel<Half>, FillKernel>();
    return status;
}

template <class T> int load_padded()
{
    return load<LoadKernel<T>, ProductKernel<T>, SumKernel<T>, StoreKernel<T>, SkipKernel<T>,
                PlaceKernel<T>, TakeKernel<T>>();
}

int prepare_padded(int, int wide) { return wide ? load_padded<double>() : load_padded<float>(); }

int allocate(void **memory, int64_t bytes)
{
    return check(cudaMalloc(memory, static_cast<size_t>(bytes)), "allocating device memory");
}

void release(void *memory) { quietly(cudaFree(memory)); }

/* In the order of the stream: the host does not wait. */
int allocate_on(void **memory, int64_t bytes, void *stream)
{
    int device;
    int status = check(cudaGetDevice(&device), "asking for the device");
    if (status)
        return status;
    const auto pool = device < POOLS ? pools[device].load() : nullptr;
    const auto size = static_cast<size_t>(bytes);
    const auto s = static_cast<cudaStream_t>(stream);
    return check(pool ? cudaMallocFromPoolAsync(memory, size, pool, s)
                      : cudaMallocAsync(memory, size, s),
                 "allocating device memory");
}

void release_on(void *memory, void *stream)
{
    quietly(cudaFreeAsync(memory, static_cast<cudaStream_t>(stream)));
}

int synchronize(void *stream)
{
    return check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "waiting");
}

int copy(void *to, const void *from, int64_t bytes, void *stream)
{
    int status = check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault,
                                       static_cast<cudaStream_t>(stream)),
                       "copying");
    return status ? status : synchronize(stream);
}

int device_of(const void *memory, int *device)
{
    cudaPointerAttributes a;
    const int status = check(cudaPointerGetAttributes(&a, memory), "asking where memory is");
    if (status)
        return status;
    if (a.type != cudaMemoryTypeDevice && a.type != cudaMemoryTypeManaged)
        return fail(FFTCONV_STATUS_INVALID, "memory is %p, must be a device's", memory);
    *device = a.device;
    return FFTCONV_STATUS_OK;
}

int wait(void *stream, void *other)
{
    cudaEvent_t event;
    int status = check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
    if (status)
        return status;
    if (!(status = check(cudaEventRecord(event, static_cast<cudaStream_t>(other)),
                         "recording an event")))
        status = check(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), event, 0),
                       "waiting for another stream");
    quietly(cudaEventDestroy(event)); /* CUDA destroys it once it has happened */
    return status;
}

} // namespace

const struct cuda_machine *cuda_machine(void)
{
    static const struct cuda_machine machine = {
        rows,   pack,         fill,           padded,      devices, enter,       leave,
        limits, prepare_rows, prepare_padded, allocate,    release, allocate_on, release_on,
        copy,   device_of,    wait,           synchronize, 1024};
    return &machine;
}
