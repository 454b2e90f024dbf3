/* The library's two ways to run a plan on a GPU, and what they share.
 *
 * An engine turns the calls of a plan into kernel launches.  The fused engine (fused.c) runs
 * a whole convolution in one launch of this library's own kernel.  The padded engine
 * (padded.c) takes rows of any length through cuFFT.  Both run on a machine: a GPU
 * (device.cu), or in the tests an emulation of one (tests/cuda/emulated.cpp). */
#ifndef FFTCONV_CUDA_ENGINE_H
#define FFTCONV_CUDA_ENGINE_H

#include "../plan.h"
#include "arguments.h"
#include "cufft.h"
#include "padded_arguments.h"

/* A transform length that has a fused kernel, in one arithmetic. */
struct cuda_shape {
    int M;          /* complex points of the transform */
    int rows;       /* rows that a block takes at once */
    int radices[3]; /* M is their product */
    int shared_bytes, table_bytes, point_bytes;
    int shift; /* log2 of the factor by which a forward transform scales its result */
    void (*build_tables)(unsigned char *to, int even_odd);
};

/* Shape i, counted from the shortest, with sums in float32 (single) or points in float16.
 * Returns NULL behind the last shape. */
const struct cuda_shape *cuda_shape_of(int single, int i);

/* What the host asks of a device.  Functions that return an int return a status. */
struct cuda_machine {
    /* Each launches one kernel on the entered device, in the order of the stream. */
    int (*rows)(int single, int shape, const struct fftconv_cuda_rows *, int64_t blocks,
                void *stream);
    int (*pack)(int single, const struct fftconv_cuda_pack *, int64_t blocks, void *stream);
    int (*fill)(const struct fftconv_cuda_fill *, int64_t blocks, void *stream);
    int (*padded)(int wide, int kernel, const struct fftconv_cuda_padded *, int64_t blocks,
                  void *stream);

    int (*devices)(void); /* their number: 0 where there is no driver */
    /* enter makes a device the calling thread's and stores the one that was; leave makes
     * that one the thread's again. */
    int (*enter)(int device, int *before);
    void (*leave)(int device, int before);
    /* The shared memory that one block may use, and about how large one buffer of a
     * workspace should be.  The status is UNSUPPORTED for a device that is too old. */
    int (*limits)(int device, int64_t *shared_bytes, int64_t *tile_bytes);
    /* Loads the kernels of a shape onto the entered device and stores how many blocks of
     * them the device holds at once.  A kernel that was not prepared on a device must not be
     * launched there. */
    int (*prepare_rows)(int device, int single, int shape, int64_t *blocks);
    int (*prepare_padded)(int device, int wide);

    int (*allocate)(void **memory, int64_t bytes);
    void (*release)(void *memory);
    /* The same in the order of the stream: the host does not wait. */
    int (*allocate_on)(void **memory, int64_t bytes, void *stream);
    void (*release_on)(void *memory, void *stream);
    /* Copies from or to the host, and waits until that is done. */
    int (*copy)(void *to, const void *from, int64_t bytes, void *stream);
    int (*device_of)(const void *memory, int *device);
    /* `stream` waits for what has been put on `other` so far; the host does not wait. */
    int (*wait)(void *stream, void *other);
    int (*synchronize)(void *stream);
    int64_t tasks; /* so many blocks keep any device busy */
};

/* The GPU's machine, or in tests the emulated one.  NULL in a build without CUDA. */
const struct cuda_machine *cuda_machine(void);
/* Stores the machine and makes `device` the calling thread's device; fails where there is no
 * device of that number.  machine->leave undoes it. */
int cuda_enter(const struct cuda_machine **machine, int device, int *before);

struct cuda_plan {
    const struct cuda_machine *machine;
    const struct cuda_engine *engine;
    int device, mode, dtype;
    /* The shapes, as in struct fftconv_plan. */
    int64_t B, H, L, Lk, Lk_rev, G, KB, N, taps, rev_taps;
    bool wraps; /* circular, and some taps reach round the end of the row */

    /* The fused engine's. */
    const struct cuda_shape *shape;
    int single, shape_index;
    bool only_right_angle; /* the caller named this form */
    bool even_odd;         /* the form that was chosen; else it is the right angle */
    /* The batch is cut into chunks; the rows of a chunk are summed by one block. */
    int64_t chunks, rows_per_chunk;
    int64_t resident_blocks; /* the device holds so many blocks at once */
    void *tables;            /* on the device: the constants of the stages */

    /* The padded engine's; padded.c says what they mean. */
    int64_t points, pitch, stretch, wrapped_from;
    int64_t g_tile, m_tile, b_tile;
    cufft_rows *row_fft[2], *kernel_fft[2]; /* [0]: forward, [1]: inverse */
};

struct cuda_engine {
    const char *name; /* as fftconv_plan_desc.engine names it */
    /* Chooses everything of the plan that is the engine's, on the entered device; the shapes
     * are set already.  The status is UNSUPPORTED where the engine cannot run them.  destroy
     * undoes it, also after init has failed. */
    int (*init)(struct cuda_plan *);
    void (*destroy)(struct cuda_plan *);
    void (*describe)(const struct cuda_plan *, fftconv_plan_info *);
    /* Bytes of the spectra of all kernels, of the memory that making them needs besides, and
     * of a call's workspace.  prepared: the call is given its spectra. */
    int64_t (*spectrum_bytes)(const struct cuda_plan *);
    int64_t (*spectrum_workspace_bytes)(const struct cuda_plan *);
    int64_t (*workspace_bytes)(const struct cuda_plan *, int direction, bool prepared);
    /* These launch the work of a call.  All memory is the machine's, and the operands have
     * been checked.  Where spectrum is NULL, the call makes that of k in its workspace. */
    int (*make_spectrum)(const struct cuda_plan *, const fftconv_tensor *k,
                         const fftconv_tensor *k_rev, void *spectrum, void *workspace,
                         void *stream);
    int (*forward)(const struct cuda_plan *, const void *spectrum, const fftconv_operands *,
                   void *workspace, void *stream);
    int (*backward)(const struct cuda_plan *, const void *spectrum, const fftconv_operands *,
                    void *workspace, void *stream);
};

extern const struct cuda_engine cuda_fused, cuda_padded;

/* Prepares the plan for the engine that the descriptor names, or for the first that can run
 * these shapes. */
int cuda_plan_init(struct cuda_plan *plan, const fftconv_plan_desc *desc,
                   const struct cuda_machine *machine);
void cuda_plan_clear(struct cuda_plan *plan);

/* What both engines use to lay out a workspace: every buffer in it begins at a multiple of
 * this many bytes, as memory from cudaMalloc does. */
enum { WORKSPACE_ALIGNMENT = 256 };
/* Reserves bytes at the end of a workspace of *total bytes; returns where they begin. */
int64_t cuda_take(int64_t *total, int64_t bytes);
Operand cuda_operand(const fftconv_tensor *tensor);

/* The passes that a call makes over its rows: they are stored, and their number returned. */
int cuda_forward_passes(const struct cuda_plan *, const fftconv_operands *, Pass *);
int cuda_backward_passes(const struct cuda_plan *, const fftconv_operands *, Pass *);
/* Does the caller want the gradient of k or of k_rev? */
bool cuda_wants_dk(const fftconv_operands *);

#endif
