/* The CUDA engine on the CPU, for test_cuda.py: the library's own host code and
 * kernels over machine_host.h instead of a GPU.  A call is made from a plan's
 * description and operands; its workspace is poisoned, and as large as asked for,
 * to the byte. */
#include "cuda/pack.h"
#include "cuda/shapes.h"
#include "cuda/tables.h"

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

const struct cuda_machine machine = {rows, pack, fill};

/* So many bytes, all of them NaN; more would be an error under AddressSanitizer. */
struct Memory {
    char *data;
    explicit Memory(int64_t bytes) : data(static_cast<char *>(aligned_new(bytes)))
    {
        memset(data, 0xff, static_cast<size_t>(bytes));
    }
    ~Memory() { aligned_free(data); }
    Memory(const Memory &) = delete;
};

} // namespace

/* One call.  prepared: with a spectrum made beforehand.  *length: the M chosen. */
extern "C" FFTCONV_API int cuda_emulated(const fftconv_plan_desc *desc, const fftconv_operands *o,
                                         int direction, int prepared, int64_t blocks,
                                         int64_t shared_bytes, uint32_t seed_, int64_t *length)
{
    struct cuda_plan plan;
    int status = cuda_plan_init(&plan, desc, &machine, shared_bytes, blocks);
    if (status)
        return status;
    seed = seed_;
    *length = plan.shape->M;
    Memory tables(plan.shape->table_bytes), spectrum(cuda_spectrum_bytes(&plan));
    plan.shape->build_tables(reinterpret_cast<unsigned char *>(tables.data));
    plan.tables = tables.data;
    if (prepared) {
        Memory workspace(plan.KB * plan.G * plan.shape->M * 8);
        if ((status = cuda_make_spectrum(&plan, &o->k, &o->k_rev, spectrum.data, workspace.data,
                                         nullptr)))
            return status;
    }
    Memory workspace(cuda_workspace_bytes(&plan, direction, prepared));
    return (direction == FFTCONV_FORWARD ? cuda_forward : cuda_backward)(
        &plan, prepared ? spectrum.data : nullptr, o, workspace.data, nullptr);
}

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

extern "C" FFTCONV_API const char *cuda_emulated_error(void) { return fftconv_last_error(); }
