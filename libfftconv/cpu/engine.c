/* The two engines of one instruction set, float32 and float64.
 *
 * The build compiles this file once for each instruction set in isa.c, where FFTCONV_ISA is its
 * name and FFTCONV_VECTOR_BYTES the size of its vectors.  engine_body.h is included once for
 * each precision, with
 *     REAL        float or double,
 *     IN_DOUBLE   whether it is double,
 *     INT, BITS   the signed and the unsigned integer of its size,
 *     REAL_DTYPE  its fftconv_dtype,
 *     N_(name)    the name with a suffix for the precision,
 *     ENGINE      the name of the engine. */
#include "../engine.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__)
/* Functions with vectors as arguments are all inlined, so that no ABI matters. */
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define N_JOIN(name, suffix) name##suffix
#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)

#define REAL float
#define IN_DOUBLE 0
#define INT int32_t
#define BITS uint32_t
#define REAL_DTYPE FFTCONV_DTYPE_FLOAT32
#define N_(name) N_JOIN(name, _f32)
#define ENGINE JOIN(fftconv_engine, FFTCONV_ISA, f32)
#include "engine_body.h"
#undef REAL
#undef IN_DOUBLE
#undef INT
#undef BITS
#undef REAL_DTYPE
#undef N_
#undef ENGINE

#define REAL double
#define IN_DOUBLE 1
#define INT int64_t
#define BITS uint64_t
#define REAL_DTYPE FFTCONV_DTYPE_FLOAT64
#define N_(name) N_JOIN(name, _f64)
#define ENGINE JOIN(fftconv_engine, FFTCONV_ISA, f64)
#include "engine_body.h"
