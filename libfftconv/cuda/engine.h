/* The CUDA engines as the library sees them: one launch of our own kernels, or cuFFT's
 * between them; and the machine they run on, a GPU or, in tests, machine_host.h. */
#ifndef FFTCONV_CUDA_ENGINE_H
#define FFTCONV_CUDA_ENGINE_H

#include "../plan.h"
#include "arguments.h"
#include "cufft.h"

/* One length of the kernel at one arithmetic. */
struct cuda_shape {
    int M, rows; /* rows a block takes at once */
    int radices[3];
    int shared_bytes, table_bytes, point_bytes;
    int shift; /* log2 of a forward transform's scale */
    void (*build_tables)(unsigned char *to, int even_odd);
};

/* Of shape i (from the shortest) in float32 (single) or float16; NULL past the
 * last. */
const struct cuda_shape *cuda_shape_of(int single, int i);

/* Launches; each returns a status.  Memory is the machine's. */
struct cuda_machine {
    int (*rows)(int single, int shape, const struct fftconv_cuda_rows *, int64_t blocks,
                void *stream);
    int (*pack)(int single, const struct fftconv_cuda_pack *, int64_t blocks, void *stream);
    int (*fill)(const struct fftconv_cuda_fill *, int64_t blocks, void *stream);
    int (*padded)(int wide, int kernel, const struct fftconv_cuda_padded *, int64_t blocks,
                  void *stream);

    int (*devices)(void); /* 0 where there is no driver */
    /* Makes a device this thread's; leave makes `before` so again. */
    int (*enter)(int device, int *before);
    void (*leave)(int device, int before);
    /* What a block may have, and what a workspace's buffers should be of, about;
     * UNSUPPORTED for a device too old. */
    int (*limits)(int device, int64_t *shared_bytes, int64_t *tile_bytes);
    /* Of the entered device: how many blocks of a kernel it holds at once. */
    int (*prepare_rows)(int device, int single, int shape, int64_t *blocks);
    /* ... and for `padded`.  What was not prepared on a device is not launched there. */
    int (*prepare_padded)(int device, int wide);
    int (*allocate)(void **memory, int64_t bytes);
    void (*release)(void *memory);
    int (*allocate_on)(void **memory, int64_t bytes, void *stream);
    void (*release_on)(void *memory, void *stream);
    /* From or to the host, waiting for it. */
    int (*copy)(void *to, const void *from, int64_t bytes, void *stream);
    int (*device_of)(const void *memory, int *device);
    int (*wait)(void *stream, void *other); /* for what is on `other` so far */
    int (*synchronize)(void *stream);
    int64_t tasks; /* that fill any device */
};

/* A GPU's, or in tests the emulated one. */
const struct cuda_machine *cuda_machine(void);
/* ... and makes `device` this thread's, if there is one of that number. */
int cuda_enter(const struct cuda_machine **machine, int device, int *before);

struct cuda_plan {
    const struct cuda_machine *machine;
    const struct cuda_engine *engine;
    int device, mode, dtype;
    int64_t B, H, L, Lk, Lrev, G, KB, N, taps, rev_taps;
    bool circle; /* taps come round */
    /* fused */
    const struct cuda_shape *shape;
    int single, index;   /* which shape */
    bool right_angle;    /* the form was named */
    bool even_odd;       /* the form taken; else right angle */
    int64_t chunks, per; /* the batch in parts, each summed by one block */
    int64_t blocks;      /* of a launch, at most */
    void *tables;        /* the machine's */
    /* cufft: see padded.c */
    int64_t points, pitch, stretch, turn;
    int64_t g_tile, m_tile, b_tile;
    cufft_rows *row_fft[2], *kernel_fft[2]; /* there and back */
};

/* A way to run a plan's calls. */
struct cuda_engine {
    const char *name; /* fftconv_plan_desc.engine */
    /* On the entered device, the shapes being set; UNSUPPORTED where it does not
     * hold them.  destroy goes with it, also where init has failed. */
    int (*init)(struct cuda_plan *);
    void (*destroy)(struct cuda_plan *);
    void (*describe)(const struct cuda_plan *, fftconv_plan_info *);
    /* Bytes of a spectrum of all kernels, of what making it needs, and of a call's
     * workspace. */
    int64_t (*spectrum_bytes)(const struct cuda_plan *);
    int64_t (*making_bytes)(const struct cuda_plan *);
    int64_t (*workspace_bytes)(const struct cuda_plan *, int direction, bool prepared);
    /* On memory of the machine; operands are checked already.  spectrum NULL: k's is
     * made in the workspace. */
    int (*make_spectrum)(const struct cuda_plan *, const fftconv_tensor *k,
                         const fftconv_tensor *k_rev, void *spectrum, void *workspace,
                         void *stream);
    int (*forward)(const struct cuda_plan *, const void *spectrum, const fftconv_operands *,
                   void *workspace, void *stream);
    int (*backward)(const struct cuda_plan *, const void *spectrum, const fftconv_operands *,
                    void *workspace, void *stream);
};

extern const struct cuda_engine cuda_fused, cuda_padded;

/* The named engine, or the first of them that holds these shapes. */
int cuda_plan_init(struct cuda_plan *plan, const fftconv_plan_desc *desc,
                   const struct cuda_machine *machine);
void cuda_plan_clear(struct cuda_plan *plan);

/* A piece of a workspace: where it begins. */
int64_t cuda_take(int64_t *total, int64_t bytes);
Operand cuda_operand(const fftconv_tensor *tensor);
/* The passes of a call; their number.  What a backward pass is for. */
int cuda_forward_passes(const struct cuda_plan *, const fftconv_operands *, Pass *);
int cuda_backward_passes(const struct cuda_plan *, const fftconv_operands *, Pass *);
bool cuda_need_dk(const fftconv_operands *);

#endif
