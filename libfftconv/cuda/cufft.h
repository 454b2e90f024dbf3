/* cuFFT, loaded when a plan first asks for it. */
#ifndef FFTCONV_CUDA_CUFFT_H
#define FFTCONV_CUDA_CUFFT_H

#include <stddef.h>
#include <stdint.h>

/* `rows` transforms of real rows of `points` numbers in place: a row has `pitch`
 * complex numbers, of which a spectrum takes the first points / 2 + 1 and a real row
 * the first `points` reals.  Not scaled. */
typedef struct cufft_rows cufft_rows;

/* For the calling thread's device.  UNSUPPORTED where cuFFT is not found. */
int cufft_rows_create(cufft_rows **rows, int dtype, int inverse, int64_t points, int64_t pitch,
                      int64_t count);
/* NULL is allowed. */
void cufft_rows_destroy(cufft_rows *rows);
/* Of the memory that a run needs for itself. */
int64_t cufft_rows_bytes(const cufft_rows *rows);
/* From any thread, on any stream; `work` is this run's until it is done. */
int cufft_rows_run(cufft_rows *rows, void *data, void *work, void *stream);

#endif
