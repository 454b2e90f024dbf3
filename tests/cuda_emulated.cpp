/* The CUDA engine on the CPU, for test_cuda.py: the whole library, with the kernels
 * over machine_host.h in a GPU's place. */
#include "cuda/pack.h"
#include "cuda/shapes.h"
#include "cuda/tables.h"

#include <map>
#include <mutex>

extern "C" {
#include "cuda/engine.h"
}

using namespace fftconv;

namespace {

uint32_t seed;

template <class Kernel>
int launch(const typename Kernel::Arguments &a, int64_t blocks)
{
    try {
        launch_here<Kernel>(a, blocks, Kernel::SHARED_BYTES, seed++);
        return FFTCONV_OK;
    } catch (const std::exception &e) {
        return fail(FFTCONV_UNSUPPORTED, "%s", e.what());
    }
}

int rows(int single, int shape, const struct fftconv_cuda_rows *a, int64_t blocks, void *)
{
    typedef int launcher(const fftconv_cuda_rows &, int64_t);
#define HALF(r1, r2, r3) launch<RowKernel<Shape<Half, r1, r2, r3>>>,
#define SINGLE(r1, r2, r3) launch<RowKernel<Shape<Single, r1, r2, r3>>>,
    static launcher *const halves[] = {FFTCONV_SHAPES_HALF(HALF)};
    static launcher *const singles[] = {FFTCONV_SHAPES_SINGLE(SINGLE)};
    return (single ? singles : halves)[shape](*a, blocks);
}

int pack(int single, const struct fftconv_cuda_pack *a, int64_t blocks, void *)
{
    return single ? launch<PackKernel<Single>>(*a, blocks) : launch<PackKernel<Half>>(*a, blocks);
}

int fill(const struct fftconv_cuda_fill *a, int64_t blocks, void *)
{
    return launch<FillKernel>(*a, blocks);
}

/* ---- Two devices, whose memory is this process's ---- */

int64_t shared_bytes = 227 * 1024, resident = 3, waits;
int current;

struct Piece {
    int64_t bytes;
    int device;
};
std::map<uintptr_t, Piece> pieces; /* by where they start */
std::mutex of_pieces;

int devices(void) { return 2; }

int enter(int device, int *before)
{
    *before = current;
    current = device;
    return FFTCONV_OK;
}

void leave(int, int before) { current = before; }

int limits(int, int64_t *bytes)
{
    *bytes = shared_bytes;
    return FFTCONV_OK;
}

int prepare_rows(int, int, int, int64_t *blocks)
{
    *blocks = resident;
    return FFTCONV_OK;
}

/* All NaN, and no longer than asked for: AddressSanitizer sees to that. */
int allocate(void **memory, int64_t bytes)
{
    if (!(*memory = aligned_new(bytes)))
        return fail_memory(bytes);
    memset(*memory, 0xff, static_cast<size_t>(bytes));
    const std::lock_guard<std::mutex> lock(of_pieces);
    pieces[reinterpret_cast<uintptr_t>(*memory)] = {bytes, current};
    return FFTCONV_OK;
}

void release(void *memory)
{
    {
        const std::lock_guard<std::mutex> lock(of_pieces);
        pieces.erase(reinterpret_cast<uintptr_t>(memory));
    }
    aligned_free(memory);
}

int allocate_on(void **memory, int64_t bytes, void *) { return allocate(memory, bytes); }
void release_on(void *memory, void *) { release(memory); }

int copy(void *to, const void *from, int64_t bytes, void *)
{
    memcpy(to, from, static_cast<size_t>(bytes));
    return FFTCONV_OK;
}

int device_of(const void *memory, int *device)
{
    const uintptr_t at = reinterpret_cast<uintptr_t>(memory);
    const std::lock_guard<std::mutex> lock(of_pieces);
    const auto after = pieces.upper_bound(at);
    if (after == pieces.begin() ||
        at - std::prev(after)->first >= static_cast<uintptr_t>(std::prev(after)->second.bytes))
        return fail(FFTCONV_INVALID, "memory is %p, must be a device's", memory);
    *device = std::prev(after)->second.device;
    return FFTCONV_OK;
}

int wait(void *, void *)
{
    waits++;
    return FFTCONV_OK;
}

int synchronize(void *) { return FFTCONV_OK; }

} // namespace

const struct cuda_machine *cuda_machine(void)
{
    static const struct cuda_machine machine = {
        rows, pack, fill, devices, enter, leave, limits, prepare_rows, allocate, release,
        allocate_on, release_on, copy, device_of, wait, synchronize};
    return &machine;
}

/* What plans made from now on find; and the order that blocks and warps run in. */
extern "C" FFTCONV_API void cuda_emulated_set(int64_t shared_bytes_, int64_t blocks,
                                              uint32_t seed_)
{
    shared_bytes = shared_bytes_;
    resident = blocks;
    seed = seed_;
}

/* Pieces of device memory not freed, and the device calls left behind. */
extern "C" FFTCONV_API int64_t cuda_emulated_allocations(void)
{
    const std::lock_guard<std::mutex> lock(of_pieces);
    return static_cast<int64_t>(pieces.size());
}
extern "C" FFTCONV_API int cuda_emulated_device(void) { return current; }
/* Streams told to wait for another, so far. */
extern "C" FFTCONV_API int64_t cuda_emulated_waits(void) { return waits; }

/* The fragment maps, for a test that holds them against the manual's formulas: row
 * and column of item i (of a pair: its first) of lane l, of matrix "a", "b", "c". */
extern "C" FFTCONV_API void cuda_emulated_fragment(int matrix, int lane, int i, int *row, int *column)
{
    *row = matrix == 'a' ? a_row(lane, i) : matrix == 'b' ? b_row(lane, i) : c_row(lane, i);
    *column = matrix == 'a' ? a_column(lane, i) : matrix == 'b' ? b_column(lane) : c_column(lane, i);
}

/* 16-bit conversions: of float bits to bits. */
extern "C" FFTCONV_API int cuda_emulated_bits(int bfloat, float x)
{
    return bfloat ? bfloat_bits(x) : half_bits(x);
}
