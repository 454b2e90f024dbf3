/* The library's CUDA engines on a CPU, for the tests in this folder.  This is the whole library,
 * with its kernels compiled as C++ over machine_host.h.  The GPU's place is taken by two devices
 * whose memory is this process's, and cuFFT's by plain DFTs.  The functions cuda_emulated_... let
 * a test set up the devices and see what was done with them. */
#include "machine_host.h"

#include "cuda/kernel.h"
#include "cuda/pack.h"
#include "cuda/padded.h"
#include "cuda/shapes.h"
#include "cuda/tables.h"

#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes)
#endif

#include <atomic>
#include <complex>
#include <map>
#include <memory>
#include <mutex>

extern "C" {
#include "cuda/engine.h"
}

using namespace fftconv;

namespace
{

uint32_t seed;
/* The number of operations of the machine that will succeed before one fails; below 0: all do. */
std::atomic<int64_t> until_failure{-1};

bool fails(void) { return until_failure >= 0 && until_failure-- == 0; }

thread_local int current; /* the device that this thread has entered */
/* The stream and device that operations belong on, where a test has said so, and how many
 * operations went elsewhere. */
void *expected_stream;
int expected_device;
std::atomic<int64_t> strays;

void on(void *stream)
{
    strays += expected_stream && (stream != expected_stream || current != expected_device);
}

/* A bit for each device on which a kernel is loaded and may use its shared memory. */
template <class Kernel> std::atomic<unsigned> prepared_on{0};

template <class... Kernels> int prepare(int device)
{
    if (device != current)
        return fail(FFTCONV_STATUS_UNSUPPORTED, "a kernel is prepared for device %d on %d", device,
                    current);
    ((prepared_on<Kernels> |= 1u << device), ...);
    return FFTCONV_STATUS_OK;
}

template <class Kernel> int launch(const typename Kernel::Arguments &a, int64_t blocks)
{
    if (fails())
        return fail(FFTCONV_STATUS_UNSUPPORTED, "a launch was made to fail");
    if (!(prepared_on<Kernel> >> current & 1))
        return fail(FFTCONV_STATUS_UNSUPPORTED, "a kernel was not prepared on device %d", current);
    if (blocks < 1 || blocks > INT32_MAX)
        return fail(FFTCONV_STATUS_UNSUPPORTED, "a launch of %lld blocks",
                    static_cast<long long>(blocks));
    try {
        launch_here<Kernel>(a, blocks, Kernel::SHARED_BYTES, seed++);
        return FFTCONV_STATUS_OK;
    } catch (const std::exception &e) {
        return fail(FFTCONV_STATUS_UNSUPPORTED, "%s", e.what());
    }
}

template <class Shape> int launch_rows(const fftconv_cuda_rows &a, int64_t blocks)
{
    return a.role == ROWS_FORWARD    ? launch<RowKernel<Shape, ROWS_FORWARD>>(a, blocks)
           : a.role == ROWS_BACKWARD ? launch<RowKernel<Shape, ROWS_BACKWARD>>(a, blocks)
           : a.role == ROWS_SPECTRA  ? launch<RowKernel<Shape, ROWS_SPECTRA>>(a, blocks)
                                     : launch<RowKernel<Shape, ROWS_TAPS>>(a, blocks);
}

template <class Shape> int prepare_shape(int device)
{
    return prepare<RowKernel<Shape, ROWS_FORWARD>, RowKernel<Shape, ROWS_BACKWARD>,
                   RowKernel<Shape, ROWS_SPECTRA>, RowKernel<Shape, ROWS_TAPS>>(device);
}

/* The kernels of one transform length. */
struct RowLauncher {
    int (*launch)(const fftconv_cuda_rows &, int64_t blocks);
    int (*prepare)(int device);
};

const RowLauncher &rows_of(int single, int shape)
{
#define ROW(...) {launch_rows<Shape<__VA_ARGS__>>, prepare_shape<Shape<__VA_ARGS__>>},
#define HALF(r1, r2, r3) ROW(Half, r1, r2, r3)
#define SINGLE(r1, r2, r3) ROW(Single, r1, r2, r3)
    static const RowLauncher halves[] = {FFTCONV_SHAPES_HALF(HALF)};
    static const RowLauncher singles[] = {FFTCONV_SHAPES_SINGLE(SINGLE)};
    return (single ? singles : halves)[shape];
}

/* The counts of shared memory's wavefronts for each role, where a test asks for them. */
bool counting;
Banks banks[ROLES];

int device_of(const void *memory, int *device);

int rows(int single, int shape, const struct fftconv_cuda_rows *a, int64_t blocks, void *stream)
{
    on(stream);
    int device;
    if (device_of(a->tables, &device) || device != current)
        return fail(FFTCONV_STATUS_UNSUPPORTED, "the tables are not on device %d", current);
    counted = counting ? &banks[a->role] : nullptr;
    const int status = rows_of(single, shape).launch(*a, blocks);
    counted = nullptr;
    return status;
}

/* The largest part of a spectrum lies where kernel.h, which shows that float16 does not overflow,
 * has it; but not at the ends of float32's range. */
template <class Arith> int pack(const fftconv_cuda_pack &a, int64_t blocks)
{
    const int status = launch<PackKernel<Arith>>(a, blocks);
    const auto *points = static_cast<const typename Arith::Point *>(a.to);
    for (int64_t row = 0; points && !status && row < a.rows[0] * a.rows[1]; row++) {
        float most = 0;
        for (int64_t i = 0; i < a.points; i++) {
            const Complex z = Ops<Arith>::complex(points[row * a.points + i]);
            most = std::max({most, fabsf(z.re), fabsf(z.im)});
        }
        if ((most < 0.25f || most > 0.5f) && abs(a.exponents[row] - a.shift) < 100)
            return fail(FFTCONV_STATUS_UNSUPPORTED,
                        "the largest part of a spectrum is %g, must be 1/4 ... 1/2",
                        static_cast<double>(most));
    }
    return status;
}

int pack(int single, const struct fftconv_cuda_pack *a, int64_t blocks, void *stream)
{
    on(stream);
    return single ? pack<Single>(*a, blocks) : pack<Half>(*a, blocks);
}

int fill(const struct fftconv_cuda_fill *a, int64_t blocks, void *stream)
{
    on(stream);
    return launch<FillKernel>(*a, blocks);
}

template <class T> int padded(int kernel, const struct fftconv_cuda_padded &a, int64_t blocks)
{
    typedef int launcher(const struct fftconv_cuda_padded &, int64_t);
    static launcher *const launchers[PADDED_KERNELS] = {
        launch<LoadKernel<T>>,  launch<ProductKernel<T>>, launch<SumKernel<T>>,
        launch<StoreKernel<T>>, launch<SkipKernel<T>>,    launch<PlaceKernel<T>>,
        launch<TakeKernel<T>>};
    return launchers[kernel](a, blocks);
}

int padded(int wide, int kernel, const struct fftconv_cuda_padded *a, int64_t blocks, void *stream)
{
    on(stream);
    return wide ? padded<double>(kernel, *a, blocks) : padded<float>(kernel, *a, blocks);
}

/* ---- Two devices, whose memory is this process's ---- */

int64_t shared_bytes = 227 * 1024, tile_bytes = 128 << 20, resident = 3, waits;
/* A call must do neither of these while a graph is captured. */
std::atomic<int64_t> allocations, synchronisations;

struct Piece {
    int64_t bytes;
    int device;
};
std::map<uintptr_t, Piece> pieces; /* by address */
std::mutex of_pieces;

int devices(void) { return 2; }

int enter(int device, int *before)
{
    *before = current;
    current = device;
    return FFTCONV_STATUS_OK;
}

void leave(int, int before) { current = before; }

int limits(int, int64_t *bytes, int64_t *tile)
{
    *bytes = shared_bytes;
    *tile = tile_bytes;
    return FFTCONV_STATUS_OK;
}

int prepare_rows(int device, int single, int shape, int64_t *blocks)
{
    *blocks = resident;
    const int status = rows_of(single, shape).prepare(device);
    return status   ? status
           : single ? prepare<PackKernel<Single>, FillKernel>(device)
                    : prepare<PackKernel<Half>, FillKernel>(device);
}

template <class T> int prepare_steps(int device)
{
    return prepare<LoadKernel<T>, ProductKernel<T>, SumKernel<T>, StoreKernel<T>, SkipKernel<T>,
                   PlaceKernel<T>, TakeKernel<T>>(device);
}

int prepare_padded(int device, int wide)
{
    return wide ? prepare_steps<double>(device) : prepare_steps<float>(device);
}

/* Memory is filled with NaN, and so are GUARD bytes behind it, in which release finds what was
 * written past the end; AddressSanitizer sees every access there. */
enum { GUARD = 256 };
std::atomic<int64_t> overruns;

int allocate(void **memory, int64_t bytes)
{
    if (fails() || !(*memory = aligned_new(bytes + GUARD)))
        return fail_memory(bytes);
    memset(*memory, 0xff, static_cast<size_t>(bytes + GUARD));
    ASAN_POISON_MEMORY_REGION(static_cast<char *>(*memory) + bytes, GUARD);
    allocations++;
    const std::lock_guard<std::mutex> lock(of_pieces);
    pieces[reinterpret_cast<uintptr_t>(*memory)] = {bytes, current};
    return FFTCONV_STATUS_OK;
}

void release(void *memory)
{
    {
        const std::lock_guard<std::mutex> lock(of_pieces);
        const auto piece = pieces.find(reinterpret_cast<uintptr_t>(memory));
        const auto *end = static_cast<unsigned char *>(memory) + piece->second.bytes;
        ASAN_UNPOISON_MEMORY_REGION(end, GUARD);
        overruns += std::any_of(end, end + GUARD, [](unsigned char x) { return x != 0xff; });
        pieces.erase(piece);
    }
    aligned_free(memory);
}

int allocate_on(void **memory, int64_t bytes, void *stream)
{
    on(stream);
    return allocate(memory, bytes);
}

void release_on(void *memory, void *stream)
{
    on(stream);
    release(memory);
}

int copy(void *to, const void *from, int64_t bytes, void *)
{
    memcpy(to, from, static_cast<size_t>(bytes));
    synchronisations++;
    return FFTCONV_STATUS_OK;
}

int device_of(const void *memory, int *device)
{
    const uintptr_t at = reinterpret_cast<uintptr_t>(memory);
    const std::lock_guard<std::mutex> lock(of_pieces);
    const auto after = pieces.upper_bound(at);
    if (after == pieces.begin() ||
        at - std::prev(after)->first >= static_cast<uintptr_t>(std::prev(after)->second.bytes))
        return fail(FFTCONV_STATUS_INVALID, "memory is %p, must be a device's", memory);
    *device = std::prev(after)->second.device;
    return FFTCONV_STATUS_OK;
}

int wait(void *, void *)
{
    waits++;
    return FFTCONV_STATUS_OK;
}

int synchronize(void *)
{
    synchronisations++;
    return FFTCONV_STATUS_OK;
}

/* ---- cuFFT's functions, which cufft.c looks up: DFTs in float64 ---- */

struct Handle {
    int device = current, type = 0;
    bool own_work = false;
    long long n = 0, in_step = 0, out_step = 0, rows = 0;
    size_t work_bytes = 0;
    void *stream = nullptr, *work = nullptr;
    /* held by the one thread that uses the handle */
    std::shared_ptr<std::mutex> used = std::make_shared<std::mutex>();
};
std::map<int, Handle> handles;
std::mutex of_handles;
int next_handle = 1;

enum {
    SUCCESS = 0,
    INVALID_PLAN = 1,
    INVALID_TYPE = 3,
    INVALID_VALUE = 4,
    INTERNAL_ERROR = 5,
    INVALID_DEVICE = 11
};
enum { R2C = 0x2a, C2R = 0x2c, D2Z = 0x6a, Z2D = 0x6c };

Handle *handle_of(int number)
{
    const std::lock_guard<std::mutex> lock(of_handles);
    const auto at = handles.find(number);
    return at == handles.end() || fails() ? nullptr : &at->second;
}

/* The DFT of x[n step], n < N, by those of the sequences n = p m + r, where N = p M. */
std::vector<std::complex<double>> dft(const std::complex<double> *x, long long N, long long step,
                                      int sign)
{
    std::vector<std::complex<double>> X(N);
    long long p = 2;
    while (p < N && N % p)
        p++;
    if (N == 1) {
        X[0] = x[0];
        return X;
    }
    const long long M = N / p;
    std::vector<std::vector<std::complex<double>>> parts;
    for (long long r = 0; r < p; r++)
        parts.push_back(dft(x + r * step, M, step * p, sign));
    std::vector<std::complex<double>> root(N);
    for (long long k = 0; k < N; k++)
        root[k] = std::polar(1.0,
                             sign * 2 * M_PI * static_cast<double>(k) / static_cast<double>(N));
    for (long long k = 0; k < N; k++)
        for (long long r = 0; r < p; r++)
            X[k] += parts[r][k % M] * root[r * k % N];
    return X;
}

template <class T> int execute(int number, int type, void *in, void *out)
{
    Handle *h = handle_of(number);
    if (!h)
        return INVALID_PLAN;
    if (h->type != type)
        return INVALID_TYPE;
    if (h->device != current)
        return INVALID_DEVICE;
    if (h->own_work || (h->work_bytes && !h->work))
        return INVALID_VALUE;
    const std::unique_lock<std::mutex> lock(*h->used, std::try_to_lock);
    if (!lock.owns_lock())
        return INTERNAL_ERROR;
    on(h->stream);
    if (h->work_bytes)
        memset(h->work, 0xff, h->work_bytes);
    for (long long row = 0; row < h->rows; row++) {
        const long long n = h->n;
        std::vector<std::complex<double>> x(n);
        if (type == R2C || type == D2Z) {
            const T *from = static_cast<T *>(in) + row * h->in_step;
            auto *to = static_cast<std::complex<T> *>(out) + row * h->out_step;
            std::copy(from, from + n, x.begin());
            x = dft(x.data(), n, 1, -1);
            for (long long k = 0; k <= n / 2; k++)
                to[k] = std::complex<T>(x[k]);
        } else {
            const auto *from = static_cast<std::complex<T> *>(in) + row * h->in_step;
            T *to = static_cast<T *>(out) + row * h->out_step;
            for (long long k = 0; k <= n / 2; k++) {
                x[k] = from[k];
                if (k)
                    x[n - k] = std::conj(x[k]);
            }
            x[0] = x[0].real(); /* cuFFT takes a spectrum to be that of a real row */
            if (n % 2 == 0)
                x[n / 2] = x[n / 2].real();
            x = dft(x.data(), n, 1, 1);
            for (long long k = 0; k < n; k++)
                to[k] = static_cast<T>(x[k].real());
        }
    }
    return SUCCESS;
}

} // namespace

const struct cuda_machine *cuda_machine(void)
{
    /* With tasks = 4, a block sums several rows of the batch. */
    static const struct cuda_machine machine = {
        rows,   pack,         fill,           padded,      devices, enter,       leave,
        limits, prepare_rows, prepare_padded, allocate,    release, allocate_on, release_on,
        copy,   device_of,    wait,           synchronize, 4};
    return &machine;
}

/* Sets what plans that are made from now on find, and the order in which blocks and warps run. */
extern "C" FFTCONV_API void cuda_emulated_set(int64_t shared_bytes_, int64_t blocks, uint32_t seed_)
{
    shared_bytes = shared_bytes_;
    resident = blocks;
    seed = seed_;
}

/* Sets about how large a buffer of a workspace should be, in plans that are made from now on. */
extern "C" FFTCONV_API void cuda_emulated_set_tile(int64_t bytes) { tile_bytes = bytes; }

/* From now on, all launches and all allocations in a stream's order should be on this stream, or
 * on any if it is NULL, and on this device.  strays returns how many were not. */
extern "C" FFTCONV_API void cuda_emulated_expect(void *stream, int device)
{
    expected_stream = stream;
    expected_device = device;
}
extern "C" FFTCONV_API int64_t cuda_emulated_strays(void) { return strays; }

/* Starts to count the wavefronts of shared memory in the fused kernels, or stops.  Then counted
 * returns the i-th count, which is that of a role and of a function's loads or stores, or 0 where
 * there is no i-th. */
extern "C" FFTCONV_API void cuda_emulated_count(int on)
{
    counting = on;
    for (Banks &b : banks)
        b.clear();
}
extern "C" FFTCONV_API int cuda_emulated_counted(int i, int *role, const char **access,
                                                 int64_t *taken, int64_t *least)
{
    for (*role = 0; *role < ROLES; ++*role)
        for (const auto &[name, count] : banks[*role])
            if (i-- == 0) {
                *access = name.c_str();
                *taken = count.taken;
                *least = count.least;
                return 1;
            }
    return 0;
}

/* Counts the wavefronts of a warp's one load of `bytes` bytes at at[lane]; lanes with at[lane] < 0
 * load nothing. */
extern "C" FFTCONV_API void cuda_emulated_wavefronts(const int *at, int bytes, int64_t *taken,
                                                     int64_t *least)
{
    Banks one;
    Instructions accesses;
    for (int l = 0; l < LANES; l++)
        if (at[l] >= 0)
            accesses.access("load", "", 0, l, at[l], bytes);
    counted = &one;
    accesses.finish();
    counted = nullptr;
    *taken = one[" load"].taken;
    *least = one[" load"].least;
}

/* Lets so many more operations of the machine succeed, and the next one fail; below 0, none
 * fails. */
extern "C" FFTCONV_API void cuda_emulated_fail(int64_t operations) { until_failure = operations; }

/* The number of allocations, and of waits of the host for the device, so far. */
extern "C" FFTCONV_API int64_t cuda_emulated_stops(void) { return allocations + synchronisations; }

extern "C" {

FFTCONV_API int cufftCreate(int *number)
{
    const std::lock_guard<std::mutex> lock(of_handles);
    if (fails())
        return INTERNAL_ERROR;
    *number = next_handle++;
    handles[*number] = Handle();
    handles[*number].own_work = true;
    return SUCCESS;
}

FFTCONV_API int cufftDestroy(int number)
{
    const std::lock_guard<std::mutex> lock(of_handles);
    return handles.erase(number) ? SUCCESS : INVALID_PLAN;
}

FFTCONV_API int cufftSetAutoAllocation(int number, int allocate)
{
    Handle *h = handle_of(number);
    if (!h || h->n)
        return INVALID_PLAN;
    h->own_work = allocate;
    return SUCCESS;
}

FFTCONV_API int cufftMakePlanMany64(int number, int rank, long long *n, long long *inembed,
                                    long long istride, long long idist, long long *onembed,
                                    long long ostride, long long odist, int type, long long batch,
                                    size_t *work_bytes)
{
    Handle *h = handle_of(number);
    if (!h || h->n)
        return INVALID_PLAN;
    const bool forward = type == R2C || type == D2Z;
    const long long real = *n, complex = *n / 2 + 1;
    if (rank != 1 || istride != 1 || ostride != 1 || batch < 1 || *n < 1 || !inembed || !onembed ||
        idist < (forward ? real : complex) || odist < (forward ? complex : real) ||
        *inembed > idist || *onembed > odist)
        return INVALID_VALUE;
    allocations++;
    h->type = type;
    h->n = *n;
    h->in_step = idist;
    h->out_step = odist;
    h->rows = batch;
    *work_bytes = h->work_bytes = *n < 100 ? 0 : static_cast<size_t>(16 * batch);
    return SUCCESS;
}

FFTCONV_API int cufftSetStream(int number, void *stream)
{
    Handle *h = handle_of(number);
    if (!h)
        return INVALID_PLAN;
    h->stream = stream;
    return SUCCESS;
}

FFTCONV_API int cufftSetWorkArea(int number, void *work)
{
    Handle *h = handle_of(number);
    if (!h)
        return INVALID_PLAN;
    const std::unique_lock<std::mutex> lock(*h->used, std::try_to_lock);
    if (!lock.owns_lock())
        return INTERNAL_ERROR;
    h->work = work;
    return SUCCESS;
}

FFTCONV_API int cufftExecR2C(int h, void *in, void *out) { return execute<float>(h, R2C, in, out); }
FFTCONV_API int cufftExecC2R(int h, void *in, void *out) { return execute<float>(h, C2R, in, out); }
FFTCONV_API int cufftExecD2Z(int h, void *in, void *out)
{
    return execute<double>(h, D2Z, in, out);
}
FFTCONV_API int cufftExecZ2D(int h, void *in, void *out)
{
    return execute<double>(h, Z2D, in, out);
}
}

/* How often memory that was released since the last call had been written past its end. */
extern "C" FFTCONV_API int64_t cuda_emulated_overruns(void) { return overruns.exchange(0); }

/* The number of pieces of device memory and cuFFT handles that have not been freed, and the device
 * that the calling thread is on. */
extern "C" FFTCONV_API int64_t cuda_emulated_allocations(void)
{
    const std::lock_guard<std::mutex> lock(of_pieces);
    const std::lock_guard<std::mutex> of(of_handles);
    return static_cast<int64_t>(pieces.size() + handles.size());
}
extern "C" FFTCONV_API int cuda_emulated_device(void) { return current; }
/* How often a stream has been told to wait for another. */
extern "C" FFTCONV_API int64_t cuda_emulated_waits(void) { return waits; }

/* The fragments' layout, for a test that compares it with the manual's formulas: the row and
 * column of item i of lane l, in a matrix "a", "b" or "c".  An item of A and B is a pair, of which
 * this is the first. */
extern "C" FFTCONV_API void cuda_emulated_fragment(int matrix, int lane, int i, int *row,
                                                   int *column)
{
    *row = matrix == 'a' ? a_row(lane, i) : matrix == 'b' ? b_row(lane, i) : c_row(lane, i);
    *column = matrix == 'a'   ? a_column(lane, i)
              : matrix == 'b' ? b_column(lane)
                              : c_column(lane, i);
}

/* The exponent of a row whose largest sample is x. */
extern "C" FFTCONV_API int cuda_emulated_exponent(float x) { return exponent_of(float_bits(x)); }

/* The bits of x as a 16-bit number. */
extern "C" FFTCONV_API int cuda_emulated_bits(int bfloat, float x)
{
    return bfloat ? bfloat_bits(x) : half_bits(x);
}
