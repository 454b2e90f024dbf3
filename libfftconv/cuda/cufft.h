/* Transforms of many real rows by cuFFT, which is loaded when a plan first asks for it. */
#ifndef FFTCONV_CUDA_CUFFT_H
#define FFTCONV_CUDA_CUFFT_H

#include <stddef.h>
#include <stdint.h>

/* A transform of `count` real rows of `points` numbers, in place and not scaled.  A row has room
 * for `pitch` complex numbers: its spectrum is the first points / 2 + 1 of them, and the real row
 * the first `points` real numbers. */
typedef struct cufft_rows cufft_rows;

/* Makes one for the calling thread's device.  The status is UNSUPPORTED where there is no
 * cuFFT. */
int cufft_rows_create(cufft_rows **rows, int dtype, int inverse, int64_t points, int64_t pitch,
                      int64_t count);
/* rows may be NULL. */
void cufft_rows_destroy(cufft_rows *rows);
/* The bytes of the work area that a run needs. */
int64_t cufft_rows_bytes(const cufft_rows *rows);
/* Transforms the rows at `data`, in the order of the stream.  Any thread may call it; `work` must
 * stay this run's until the run is done. */
int cufft_rows_run(cufft_rows *rows, void *data, void *work, void *stream);

#endif
