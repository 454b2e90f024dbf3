/* Transforms by cuFFT.  The library does not link to it: the few functions that are needed are
 * looked up when a plan first asks for them.  They are declared as the cuFFT API Reference has
 * them (docs.nvidia.com/cuda/cufft, sections 3.3 "Extensible Plans", 3.7 "Caller Allocated Work
 * Area", 3.8 "Execution", 3.11 cufftSetStream), and have not changed since CUDA 7.5.
 *
 * A handle remembers a stream and a work area, and launches kernels with those that it has at the
 * time.  So a run sets both and executes while it holds the handle's lock.  Every call has a work
 * area of its own, so that calls of several threads and streams may overlap on the device
 * (sections 2.7 "Streamed Transforms", 2.10 "Thread Safety"). */
#include "cufft.h"

#include "../common.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

/* The values of cufftResult_t and cufftType_t in cufft.h. */
enum { CUFFT_SUCCESS = 0, CUFFT_ALLOC_FAILED = 2 };
enum { CUFFT_R2C = 0x2a, CUFFT_C2R = 0x2c, CUFFT_D2Z = 0x6a, CUFFT_Z2D = 0x6c };

static struct {
    int (*cufftCreate)(int *handle);
    int (*cufftDestroy)(int handle);
    int (*cufftSetAutoAllocation)(int handle, int allocate);
    int (*cufftMakePlanMany64)(int handle, int rank, long long *n, long long *inembed,
                               long long istride, long long idist, long long *onembed,
                               long long ostride, long long odist, int type, long long batch,
                               size_t *work_bytes);
    int (*cufftSetStream)(int handle, void *stream);
    int (*cufftSetWorkArea)(int handle, void *work);
    /* These have one type here; in cufft.h the arrays differ in theirs. */
    int (*cufftExecR2C)(int handle, void *in, void *out);
    int (*cufftExecC2R)(int handle, void *in, void *out);
    int (*cufftExecD2Z)(int handle, void *in, void *out);
    int (*cufftExecZ2D)(int handle, void *in, void *out);
} cufft;

static const struct {
    const char *name;
    void *at;
} functions[] = {
#define FUNCTION(name) {#name, &cufft.name}
    FUNCTION(cufftCreate),         FUNCTION(cufftDestroy),   FUNCTION(cufftSetAutoAllocation),
    FUNCTION(cufftMakePlanMany64), FUNCTION(cufftSetStream), FUNCTION(cufftSetWorkArea),
    FUNCTION(cufftExecR2C),        FUNCTION(cufftExecC2R),   FUNCTION(cufftExecD2Z),
    FUNCTION(cufftExecZ2D),
#undef FUNCTION
};

/* The names of cuFFT in CUDA 13, 12 and 11.  One that is loaded already, by PyTorch say, is
 * preferred wherever it lies, because it suits the driver; else the newest that is found is
 * loaded. */
static const char *const names[] = {"libcufft.so.12", "libcufft.so.11", "libcufft.so.10",
                                    "libcufft.so", "/usr/local/cuda/lib64/libcufft.so"};

static int load(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static void *library; /* once found, it stays loaded */
    int status = FFTCONV_STATUS_OK;
    pthread_mutex_lock(&lock);
    if (!library) {
        const char *const named = getenv("FFTCONV_CUFFT");
        void *found = named ? dlopen(named, RTLD_NOW | RTLD_LOCAL) : NULL;
        const size_t count = named ? 0 : sizeof names / sizeof *names;
        for (size_t i = 0; !found && i < count; i++)
            found = dlopen(names[i], RTLD_NOW | RTLD_NOLOAD);
        for (size_t i = 0; !found && i < count; i++)
            found = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!found)
            status = fail(FFTCONV_STATUS_UNSUPPORTED,
                          "cuFFT was not found: FFTCONV_CUFFT is %s, must "
                          "name the file libcufft.so (%s)",
                          named ? named : "not set", dlerror());
        for (size_t i = 0; !status && i < sizeof functions / sizeof *functions; i++) {
            void *const f = dlsym(found, functions[i].name);
            if (!f)
                status = fail(FFTCONV_STATUS_UNSUPPORTED, "cuFFT has no %s (%s)", functions[i].name,
                              dlerror());
            *(void **)functions[i].at = f;
        }
        if (!status)
            library = found;
        else if (found)
            dlclose(found);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

static int check(int result, const char *function)
{
    if (result == CUFFT_SUCCESS)
        return FFTCONV_STATUS_OK;
    return fail(result == CUFFT_ALLOC_FAILED ? FFTCONV_STATUS_NO_MEMORY
                                             : FFTCONV_STATUS_UNSUPPORTED,
                "%s failed: cuFFT says %d (a cufftResult)", function, result);
}

struct cufft_rows {
    pthread_mutex_t lock;
    int handle;
    int (*execute)(int handle, void *in, void *out);
    size_t bytes;
};

int cufft_rows_create(cufft_rows **out, int dtype, int inverse, int64_t points, int64_t pitch,
                      int64_t count)
{
    int status;
    *out = NULL;
    if ((status = load()))
        return status;
    const struct {
        int type;
        int (*execute)(int, void *, void *);
    } kinds[2][2] = {{{CUFFT_R2C, cufft.cufftExecR2C}, {CUFFT_C2R, cufft.cufftExecC2R}},
                     {{CUFFT_D2Z, cufft.cufftExecD2Z}, {CUFFT_Z2D, cufft.cufftExecZ2D}}};
    const bool wide = dtype == FFTCONV_DTYPE_FLOAT64;
    cufft_rows *r = calloc(1, sizeof *r);
    if (!r)
        return fail_memory(sizeof *r);
    if ((status = check(cufft.cufftCreate(&r->handle), "cufftCreate"))) {
        free(r);
        return status;
    }
    pthread_mutex_init(&r->lock, NULL);
    r->execute = kinds[wide][inverse].execute;
    long long n = points, real = 2 * pitch, complex = pitch;
    if ((status = check(cufft.cufftSetAutoAllocation(r->handle, 0), "cufftSetAutoAllocation")) ||
        (status = check(cufft.cufftMakePlanMany64(
                            r->handle, 1, &n, inverse ? &complex : &real, 1,
                            inverse ? complex : real, inverse ? &real : &complex, 1,
                            inverse ? real : complex, kinds[wide][inverse].type, count, &r->bytes),
                        "cufftMakePlanMany64"))) {
        cufft_rows_destroy(r);
        return status;
    }
    *out = r;
    return FFTCONV_STATUS_OK;
}

void cufft_rows_destroy(cufft_rows *r)
{
    if (!r)
        return;
    (void)cufft.cufftDestroy(r->handle);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

int64_t cufft_rows_bytes(const cufft_rows *r) { return r ? (int64_t)r->bytes : 0; }

int cufft_rows_run(cufft_rows *r, void *data, void *work, void *stream)
{
    int status;
    pthread_mutex_lock(&r->lock);
    if (!(status = check(cufft.cufftSetStream(r->handle, stream), "cufftSetStream")) &&
        (r->bytes == 0 ||
         !(status = check(cufft.cufftSetWorkArea(r->handle, work), "cufftSetWorkArea"))))
        status = check(r->execute(r->handle, data, data), "cufftExec");
    pthread_mutex_unlock(&r->lock);
    return status;
}
