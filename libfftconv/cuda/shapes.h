/* The lengths that have a kernel: SHAPE(R1, R2, R3), M = R1 R2 R3. */
#define FFTCONV_SHAPES(SHAPE) \
    SHAPE(16, 16, 1)          \
    SHAPE(16, 16, 2)          \
    SHAPE(16, 16, 4)          \
    SHAPE(16, 16, 8)          \
    SHAPE(16, 16, 16)         \
    SHAPE(32, 16, 16)         \
    SHAPE(32, 32, 16)         \
    SHAPE(32, 32, 32)
