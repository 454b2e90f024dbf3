/* The lengths that have a kernel: SHAPE(R1, R2, R3), M = R1 R2 R3, the shortest
 * first.  The longest only in float16: 256 KB in float32 are no block's. */
#define FFTCONV_SHAPES_SINGLE(SHAPE) \
    SHAPE(16, 16, 1) \
    SHAPE(16, 16, 2) \
    SHAPE(16, 16, 4) \
    SHAPE(16, 16, 8) \
    SHAPE(16, 16, 16) \
    SHAPE(32, 16, 16) \
    SHAPE(32, 32, 16)
#define FFTCONV_SHAPES_HALF(SHAPE) FFTCONV_SHAPES_SINGLE(SHAPE) SHAPE(32, 32, 32)
