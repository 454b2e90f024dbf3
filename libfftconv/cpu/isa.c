/* The table of instruction sets, the best first, and the choice of an engine from it. */
#include "../engine.h"

#include <string.h>
#if defined(FFTCONV_HAVE_AVX2) || defined(FFTCONV_HAVE_AVX512)
#include <cpuid.h>

/* CPUID is asked once and the answer kept, since it takes microseconds in a virtual machine
 * and whatever makes a plan needs it. */
static bool has_f16c(void)
{
    enum { UNKNOWN, NO, YES };
    static _Atomic int known = UNKNOWN;
    unsigned a, b, c, d;
    if (known == UNKNOWN)
        known = __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C ? YES : NO;
    return known == YES;
}
#endif

#define DECLARE(name) \
    extern const struct engine fftconv_engine_##name##_f32; \
    extern const struct engine fftconv_engine_##name##_f64;

DECLARE(baseline)
DECLARE(wide)
#ifdef FFTCONV_HAVE_AVX2
DECLARE(avx2)
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
#endif
#ifdef FFTCONV_HAVE_AVX512
DECLARE(avx512)
static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && has_f16c();
}
#endif
static bool always(void) { return true; }

static const struct isa {
    const char *name;
    bool (*available)(void);
    bool automatic; /* may be chosen for a caller who names none */
    const struct engine *f32, *f64;
} table[] = {
#define ROW(name, available, automatic) \
    {#name, available, automatic, &fftconv_engine_##name##_f32, &fftconv_engine_##name##_f64}
#ifdef FFTCONV_HAVE_AVX512
    ROW(avx512, has_avx512, true),
#endif
#ifdef FFTCONV_HAVE_AVX2
    ROW(avx2, has_avx2, true),
#endif
    ROW(baseline, always, true),
    /* Vectors of 64 bytes on any machine, so that the source as AVX-512 compiles it is tested
     * where there is no AVX-512. */
    ROW(wide, always, false),
#undef ROW
};
enum { ROWS = sizeof table / sizeof table[0] };

const char *fftconv_isa_name(int index)
{
    return index >= 0 && index < ROWS ? table[index].name : NULL;
}

static const struct isa *lookup(const char *name)
{
    for (int i = 0; i < ROWS; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

int fftconv_isa_available(const char *name)
{
    const struct isa *row = name ? lookup(name) : NULL;
    return row && row->available();
}

int find_engine(const char *isa, int real_bytes, const struct engine **engine)
{
    const struct isa *row = NULL;
    if (!isa) {
        for (row = table; !(row->automatic && row->available()); row++)
            ;
    } else if (!(row = lookup(isa))) {
        return fail(FFTCONV_STATUS_INVALID,
                    "isa is \"%.32s\", must be one that this build knows (fftconv_isa_name lists "
                    "them): %s ... %s",
                    isa, table[0].name, table[ROWS - 1].name);
    } else if (!row->available()) {
        return fail(FFTCONV_STATUS_UNSUPPORTED, "isa is \"%s\": this machine does not have it",
                    isa);
    }
    *engine = real_bytes == 8 ? row->f64 : row->f32;
    return FFTCONV_STATUS_OK;
}
