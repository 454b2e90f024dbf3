/* The machine of machine.h on a GPU of compute capability 8.0 or later.  All of the library's PTX
 * is in this file. */

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
#define EACH_LANE(l) if (const int l = index_below(LANES, threadIdx.x % LANES); true)

namespace fftconv
{

/* Returns x, but hides from the compiler where it comes from.  The compiler would else compute all
 * of a kernel's addresses at its beginning and keep them in registers through every loop. */
DEVICE int opaque(int x)
{
    asm volatile("" : "+r"(x));
    return x;
}

DEVICE int64_t opaque(int64_t x)
{
    asm volatile("" : "+l"(x));
    return x;
}

/* The same for an index in [0, end): the compiler may use this range, and so divides by powers of
 * two with shifts. */
DEVICE int index_below(int end, int x)
{
    x = opaque(x);
    __builtin_assume(0 <= x && x < end);
    return x;
}

template <class T> struct Lanes {
    T value;
    DEVICE T &operator[](int) { return value; }
    DEVICE const T &operator[](int) const { return value; }
};

/* Keeps loads that are written below from being moved above, and values loaded above from being
 * used below. */
DEVICE void load_anew() { asm volatile("" ::: "memory"); }

template <class T, int COUNT> struct Warps {
    T value;
    DEVICE T &operator[](int) { return value; }
};

/* ---- 16-bit numbers ------------------------------------------------------------ */

/* a in the low half, b in the high half */
DEVICE uint32_t half2_of(float a, float b)
{
    uint32_t h;
    asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(h) : "f"(a), "f"(b));
    return h;
}

DEVICE float half_value(uint16_t h)
{
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
}

DEVICE uint16_t half_bits(float x)
{
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}

DEVICE uint16_t bfloat_bits(float x)
{
    uint16_t h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}

DEVICE uint32_t bfloat2_of(float a, float b)
{
    uint32_t h;
    asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(h) : "f"(a), "f"(b));
    return h;
}

DEVICE float bfloat_value(uint16_t h) { return __uint_as_float(static_cast<uint32_t>(h) << 16); }
DEVICE float half_low(uint32_t p) { return half_value(static_cast<uint16_t>(p)); }
DEVICE float half_high(uint32_t p) { return half_value(static_cast<uint16_t>(p >> 16)); }
DEVICE uint32_t low_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
DEVICE uint32_t high_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }
/* Both halves of p, times x. */
DEVICE uint32_t half2_times(uint32_t p, float x)
{
    uint32_t h;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(h) : "r"(p), "r"(half2_of(x, x)));
    return h;
}
DEVICE uint32_t float_bits(float x) { return __float_as_uint(x); }
DEVICE float float_of_bits(uint32_t x) { return __uint_as_float(x); }

/* ---- The block ------------------------------------------------------------------- */

extern __shared__ __align__(16) unsigned char shared_memory[];

/* These are read from the hardware wherever they are used, because they would take registers in
 * between. */
struct BlockIndex {
    DEVICE operator int64_t() const
    {
        uint32_t i;
        asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(i));
        return i;
    }
};
struct BlockCount {
    DEVICE operator int64_t() const
    {
        uint32_t n;
        asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(n));
        return n;
    }
};

struct Block {
    BlockIndex index; /* of this block */
    BlockCount count; /* of the launch */

    template <class F> DEVICE void phase(const F &f) const
    {
        f(index_below(LANES, threadIdx.x / LANES));
        __syncthreads();
    }
    /* Shared memory at byte `at`. */
    template <class T> DEVICE T load(int at, int) const
    {
        return *reinterpret_cast<const T *>(shared_memory + at);
    }
    template <class T> DEVICE void store(int at, int, const T &x) const
    {
        *reinterpret_cast<T *>(shared_memory + at) = x;
    }
    DEVICE void atomic_max(int at, int, uint32_t x) const
    {
        atomicMax(reinterpret_cast<unsigned *>(shared_memory + at), x);
    }
    DEVICE void sync_warp() const { __syncwarp(); }
};

/* A value of 4 or 8 bytes, or of a multiple of 16, as words. */
template <class T> union Words {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) % 16 == 0,
                  "an instruction moves one, two or four words");
    T value;
    uint32_t at[sizeof(T) / 4];
    DEVICE Words() {}
};

/* Loads from tables and spectra, which a kernel that reads them never writes.  They are used again
 * and again, so L1 is asked to keep them. */
template <class T> DEVICE T load_constant(const T *p)
{
    Words<T> x;
    if constexpr (sizeof(T) == 4)
        asm("ld.global.nc.L1::evict_last.u32 %0, [%1];" : "=r"(x.at[0]) : "l"(p));
    else if constexpr (sizeof(T) == 8)
        asm("ld.global.nc.L1::evict_last.v2.u32 {%0, %1}, [%2];"
            : "=r"(x.at[0]), "=r"(x.at[1])
            : "l"(p));
    else
        UNROLL
    for (unsigned i = 0; i + 3 < sizeof(T) / 4; i += 4)
        asm("ld.global.nc.L1::evict_last.v4.u32 {%0, %1, %2, %3}, [%4];"
            : "=r"(x.at[i]), "=r"(x.at[i + 1]), "=r"(x.at[i + 2]), "=r"(x.at[i + 3])
            : "l"(reinterpret_cast<const char *>(p) + 4 * i));
    return x.value;
}

/* Loads from the caller's rows, which are read once, so L1 does not keep them.  They stay in the
 * order in which they are written here. */
template <class T> DEVICE T load_stream(const T *p)
{
    static_assert(sizeof(T) >= 8, "the loads of one word are not written here");
    Words<T> x;
    if constexpr (sizeof(T) == 8)
        asm volatile("ld.global.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
                     : "=r"(x.at[0]), "=r"(x.at[1])
                     : "l"(p));
    UNROLL
    for (unsigned i = 0; i + 3 < sizeof(T) / 4; i += 4)
        asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x.at[i]), "=r"(x.at[i + 1]), "=r"(x.at[i + 2]), "=r"(x.at[i + 3])
                     : "l"(reinterpret_cast<const char *>(p) + 4 * i));
    return x.value;
}

/* Any other global memory. */
template <class T> DEVICE T load_global(const T *p) { return *p; }
template <class T> DEVICE void store_global(T *p, const T &x) { *p = x; }

/* ---- The warp ---------------------------------------------------------------------- */

/* The largest number among the lanes whose indices differ in the bits of `mask` only, in each of
 * them. */
template <class T> DEVICE void max_over(Lanes<T> &x, int mask)
{
    UNROLL
    for (int bit = 1; bit < LANES; bit *= 2)
        if (mask & bit)
            x.value = max(x.value, __shfl_xor_sync(0xffffffffu, x.value, bit));
}

template <class T> DEVICE void sum_over(Lanes<T> &x)
{
    UNROLL
    for (int bit = LANES / 2; bit >= 1; bit /= 2)
        x.value += __shfl_xor_sync(0xffffffffu, x.value, bit);
}

/* C += A B with products in float16 and sums in float32. */
DEVICE void multiply_add(Lanes<FragmentC> &to, const Lanes<FragmentA<Half>> &left,
                         const Lanes<FragmentB<Half>> &right)
{
    FragmentC &c = to.value;
    const FragmentA<Half> &a = left.value;
    const FragmentB<Half> &b = right.value;
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c.at[0]), "+f"(c.at[1]), "+f"(c.at[2]), "+f"(c.at[3])
                 : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b.at[0]),
                   "r"(b.at[1]));
}

/* C -= A B */
DEVICE void multiply_subtract(Lanes<FragmentC> &to, const Lanes<FragmentA<Half>> &left,
                              const Lanes<FragmentB<Half>> &right)
{
    Lanes<FragmentA<Half>> negative;
    UNROLL
    for (int i = 0; i < 4; i++)
        negative.value.at[i] = left.value.at[i] ^ 0x80008000u;
    multiply_add(to, negative, right);
}

/* The nearest number that has tf32's significand of 11 bits. */
DEVICE uint32_t tf32_of(float x)
{
    uint32_t t;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(t) : "f"(x));
    return t;
}

DEVICE void multiply_add_tf32(float *c, const uint32_t *a, const uint32_t *b)
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* C += A B, or -=, in float32, by three products of tf32.  Each number is cut into high + low, 22
 * bits together, and low times low is left out.  Tensor cores truncate their sums and do not round
 * them; therefore the small products come first, and the sum of eight products is added to C by an
 * ordinary, rounded addition.  Of the
 * instruction's summed index, q is taken to be 2q here, and q + 4 to be 2q + 1, in A and in B: so
 * a pair means the same as in float16. */
template <bool SUBTRACT>
DEVICE void multiply_tf32(Lanes<FragmentC> &to, const Lanes<FragmentA<Single>> &left,
                          const Lanes<FragmentB<Single>> &right)
{
    FragmentC &c = to.value;
    const FragmentA<Single> &a = left.value;
    const FragmentB<Single> &b = right.value;
    UNROLL
    for (int h = 0; h < 2; h++) {
        const float x[4] = {a.at[2 * h].at[0], a.at[2 * h + 1].at[0], a.at[2 * h].at[1],
                            a.at[2 * h + 1].at[1]};
        uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
        float sum[4] = {0, 0, 0, 0};
        UNROLL
        for (int i = 0; i < 4; i++) {
            a_high[i] = tf32_of(x[i]);
            a_low[i] = tf32_of(x[i] - __uint_as_float(a_high[i]));
        }
        UNROLL
        for (int i = 0; i < 2; i++) {
            b_high[i] = tf32_of(b.at[h].at[i]);
            b_low[i] = tf32_of(b.at[h].at[i] - __uint_as_float(b_high[i]));
        }
        multiply_add_tf32(sum, a_low, b_high);
        multiply_add_tf32(sum, a_high, b_low);
        multiply_add_tf32(sum, a_high, b_high);
        UNROLL
        for (int i = 0; i < 4; i++)
            c.at[i] += SUBTRACT ? -sum[i] : sum[i];
    }
}

DEVICE void multiply_add(Lanes<FragmentC> &c, const Lanes<FragmentA<Single>> &a,
                         const Lanes<FragmentB<Single>> &b)
{
    multiply_tf32<false>(c, a, b);
}

DEVICE void multiply_subtract(Lanes<FragmentC> &c, const Lanes<FragmentA<Single>> &a,
                              const Lanes<FragmentB<Single>> &b)
{
    multiply_tf32<true>(c, a, b);
}

/* ---- Launching -------------------------------------------------------------------- */

template <class Kernel>
__global__ void __launch_bounds__(Kernel::WARPS *LANES, Kernel::BLOCKS)
    entry(const __grid_constant__ typename Kernel::Arguments a)
{
    Block block;
    Kernel::run(block, a);
}

} // namespace fftconv
