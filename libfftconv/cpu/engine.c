/* One instruction set's engines: the same source at both precisions.  The build
 * compiles this file once per row of isa.c, with FFTCONV_ISA and
 * FFTCONV_VECTOR_BYTES set. */
#include "../engine.h"

#include <string.h>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi" /* vectors cross no ABI: all inline */
#endif

#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define N_JOIN(name, suffix) name##suffix
#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)

#define REAL float
#define IN_DOUBLE 0
#define INT int32_t
#define REAL_DTYPE FFTCONV_DTYPE_FLOAT32
#define N_(name) N_JOIN(name, _f32)
#define ENGINE JOIN(fftconv_engine, FFTCONV_ISA, f32)
#include "engine_body.h"
#undef REAL
#undef IN_DOUBLE
#undef INT
#undef REAL_DTYPE
#undef N_
#undef ENGINE

#define REAL double
#define IN_DOUBLE 1
#define INT int64_t
#define REAL_DTYPE FFTCONV_DTYPE_FLOAT64
#define N_(name) N_JOIN(name, _f64)
#define ENGINE JOIN(fftconv_engine, FFTCONV_ISA, f64)
#include "engine_body.h"
