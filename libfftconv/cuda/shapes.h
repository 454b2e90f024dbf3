/* The transform lengths that have a fused kernel: SHAPE(R1, R2, R3) for M = R1 R2 R3, the shortest
 * first.  The longest exists in float16 only, because its 256 KB of points in float32 are more
 * than any block's shared memory. */
#define FFTCONV_SHAPES_SINGLE(SHAPE) \
    SHAPE(16, 16, 1) \
    SHAPE(16, 16, 2) \
    SHAPE(16, 16, 4) \
    SHAPE(16, 16, 8) \
    SHAPE(16, 16, 16) \
    SHAPE(32, 16, 16) \
    SHAPE(32, 32, 16)
#define FFTCONV_SHAPES_HALF(SHAPE) FFTCONV_SHAPES_SINGLE(SHAPE) SHAPE(32, 32, 32)
