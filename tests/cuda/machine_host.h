/* The machine that the kernels are written for (libfftconv/cuda/machine.h), on a CPU: for tests,
 * which may be slow.
 *
 * It is stricter than a GPU.  Memory begins as NaN.  The warps of a phase run in a shuffled
 * order.  It is an error to access memory that another lane has written since the last barrier,
 * or to write what another lane has read since, even where the result would have been right; a
 * lane of the same warp may follow after sync_warp.  Between the blocks of a launch there is no
 * barrier: none may access what another one writes.  Nor may a launch write what it reads by
 * load_constant.  Matrix products are summed exactly and then cut off, which is the least that is
 * known of tensor cores.  Where a test asks for it, the wavefronts that shared memory takes are
 * counted. */
#ifndef FFTCONV_CUDA_MACHINE_HOST_H
#define FFTCONV_CUDA_MACHINE_HOST_H

#include <math.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cuda/machine.h"

#define UNROLL
#define NO_UNROLL
#define EACH_LANE(l) for (int l = 0; (running_lane = l) < LANES; l++)

namespace fftconv
{

inline int64_t opaque(int64_t x) { return x; }
inline int index_below(int end, int x)
{
    if (x < 0 || x >= end)
        throw std::runtime_error("index " + std::to_string(x) + " of " + std::to_string(end));
    return x;
}
inline void load_anew() {}

/* What no one has written is a NaN. */
template <class T> struct Lanes {
    T value[LANES];
    Lanes() { memset(static_cast<void *>(value), 0xff, sizeof value); }
    T &operator[](int lane) { return value[lane]; }
    const T &operator[](int lane) const { return value[lane]; }
};

template <class T, int COUNT> struct Warps {
    T value[COUNT];
    T &operator[](int warp) { return value[warp]; }
};

/* ---- The block ------------------------------------------------------------------- */

/* Who touched a few bytes last, and in which phase of the launch. */
struct Trace {
    int64_t write_phase = -1, read_phase = -1;
    int writer = -1, write_step = -1;
    int reader = -1, read_step = -1;   /* the last one */
    bool lanes = false, warps = false; /* readers of the same phase were several */
    bool blocks = false;               /* so were readers of the launch */
};

/* What the blocks of a launch share: the count of their phases, and the traces of global memory. */
struct Launch {
    int64_t now = 0;

    enum { LINE = 256 };
    struct Line {                            /* of LINE bytes */
        uint64_t constants = 0, written = 0; /* a bit for each four bytes */
        std::unique_ptr<Trace[]> traces;     /* one for each two bytes */
    };
    /* Calls f(line, first, last) for the bytes of each line that `bytes` bytes from p on touch. */
    template <class F> void each_line(const void *p, size_t bytes, const F &f)
    {
        uintptr_t at = reinterpret_cast<uintptr_t>(p);
        for (const uintptr_t end = at + bytes; at < end; at = (at / LINE + 1) * LINE)
            f(line_of(at / LINE), at % LINE, std::min<size_t>(end - at / LINE * LINE, LINE));
    }

  private:
    enum { RECENT = 64 };
    std::unordered_map<uintptr_t, Line> lines;
    std::pair<uintptr_t, Line *> recent[RECENT] = {}; /* of `lines`, which are slower to find */

    Line &line_of(uintptr_t number)
    {
        auto &[found, line] = recent[number % RECENT];
        if (!line || found != number) {
            found = number;
            line = &lines[number];
        }
        return *line;
    }
};

/* The lane that this thread runs, within EACH_LANE; LANES outside of it. */
inline thread_local int running_lane = LANES;

/* How long shared memory works for a kernel's accesses.
 *
 * It has 32 banks of 4 bytes.  In one wavefront each gives one word, to as many
 * lanes as want that word; so an instruction takes as many as the most distinct
 * words that its lanes want of one bank.  128 bytes are the most at once, hence
 * lanes that move 8 bytes each come by halves of a warp, those that move 16 by
 * quarters: the least for an instruction is one for each part that is there. */
struct Wavefronts {
    int64_t taken = 0, least = 0;
};

/* ... of each function's loads and of its stores: "first store". */
typedef std::map<std::string, Wavefronts> Banks;
inline thread_local Banks *counted = nullptr; /* where a test wants them */

/* The accesses of a warp in one EACH_LANE, whose lanes come one after another: the
 * n-th of a line by one lane is of the same instruction as the n-th by another. */
class Instructions
{
  public:
    void access(const char *what, const char *function, int line, int lane, int at, int bytes)
    {
        if (lane < last)
            finish();
        last = lane;
        for (int from = 0; from < bytes; from += 16) { /* of one instruction at most */
            const int width = std::min(bytes - from, 16);
            auto &made = lines[{std::string(function) + " " + what, line}];
            auto &nth = made.nth[lane];
            if (nth == made.all.size())
                made.all.push_back({});
            for (int word = 0; word < width; word += 4)
                made.all[nth].emplace_back(lane * width / 128, (at + from + word) / 4);
            nth++;
        }
    }
    void finish()
    {
        for (auto &[name, made] : lines) {
            Wavefronts &sum = (*counted)[name.first];
            for (auto &words : made.all) {
                std::map<int, std::map<int, int>> banks; /* of parts: distinct words */
                std::sort(words.begin(), words.end());
                words.erase(std::unique(words.begin(), words.end()), words.end());
                for (const auto &[part, word] : words)
                    banks[part][word % 32]++;
                for (const auto &[part, of] : banks) {
                    int most = 0;
                    for (const auto &[bank, distinct] : of)
                        most = std::max(most, distinct);
                    sum.taken += most;
                    sum.least++;
                }
            }
        }
        lines.clear();
        last = -1;
    }

  private:
    struct Made {
        size_t nth[LANES] = {};
        std::vector<std::vector<std::pair<int, int>>> all; /* (part of the warp, word) */
    };
    std::map<std::pair<std::string, int>, Made> lines;
    int last = -1;
};

struct Block {
    int64_t index, count;

    Block(Launch &launch_, int64_t index_, int64_t count_, int64_t bytes, int warps_, uint32_t seed)
        : index(index_), count(count_), launch(launch_), begin(launch_.now), memory(bytes, 0xff),
          traces((bytes + 3) / 4), order(warps_), random(seed)
    {
        for (int w = 0; w < warps_; w++)
            order[w] = w;
    }

    template <class F> void phase(const F &f)
    {
        std::shuffle(order.begin(), order.end(), random);
        for (int w : order) {
            warp = w;
            f(w);
            if (counted)
                accesses.finish();
        }
        launch.now++;
    }
    template <class T>
    T load(int at, int lane, const char *function = __builtin_FUNCTION(),
           int line = __builtin_LINE())
    {
        T x;
        inside(at, sizeof x);
        if (counted)
            accesses.access("load", function, line, lane, at, sizeof x);
        for (int i = at / 4; i < (at + static_cast<int>(sizeof x) + 3) / 4; i++)
            read(traces[i], lane, "shared");
        memcpy(&x, &memory[at], sizeof x);
        return x;
    }
    template <class T>
    void store(int at, int lane, const T &x, const char *function = __builtin_FUNCTION(),
               int line = __builtin_LINE())
    {
        inside(at, sizeof x);
        if (counted)
            accesses.access("store", function, line, lane, at, sizeof x);
        for (int i = at / 4; i < (at + static_cast<int>(sizeof x) + 3) / 4; i++)
            write(traces[i], lane, "shared");
        memcpy(&memory[at], &x, sizeof x);
    }
    /* Atomics of a phase may meet; anything else there may not. */
    void atomic_max(int at, int lane, uint32_t x)
    {
        inside(at, 4);
        Trace &t = traces[at / 4];
        const int atomic = 1 << 20;
        if (t.writer != atomic || t.write_phase != launch.now)
            write(t, lane, "shared");
        t.writer = atomic;
        uint32_t old;
        memcpy(&old, &memory[at], 4);
        old = std::max(old, x);
        memcpy(&memory[at], &old, 4);
    }
    void sync_warp() { step++; }

    /* The running lane accesses `bytes` bytes of global memory. */
    enum Access { READ, WRITE, READ_CONSTANT };
    void touch(Access access, const void *p, size_t bytes, size_t alignment)
    {
        if (reinterpret_cast<uintptr_t>(p) % alignment)
            throw std::runtime_error("global memory: a vector that is not aligned");
        if (running_lane >= LANES)
            throw std::runtime_error("global memory: an access outside of EACH_LANE");
        launch.each_line(p, bytes, [&](Launch::Line &line, size_t first, size_t last) {
            const uint64_t all = -1, mask = all << first / 4 & all >> (63 - (last - 1) / 4);
            if (access == READ_CONSTANT ? line.written & mask
                                        : access == WRITE && line.constants & mask)
                throw std::runtime_error("global memory: what a launch reads by load_constant, "
                                         "the same launch writes");
            (access == WRITE ? line.written : line.constants) |= access == READ ? 0 : mask;
            if (access == READ_CONSTANT)
                return;
            if (!line.traces)
                line.traces.reset(new Trace[Launch::LINE / 2]);
            for (size_t i = first / 2; i < (last + 1) / 2; i++)
                if (access == READ)
                    read(line.traces[i], running_lane, "global");
                else
                    write(line.traces[i], running_lane, "global");
        });
    }

  private:
    Launch &launch;
    const int64_t begin; /* this block's first phase */
    std::vector<unsigned char> memory;
    std::vector<Trace> traces;
    std::vector<int> order;
    std::mt19937 random;
    Instructions accesses;
    int warp = 0, step = 0;

    void inside(int at, size_t bytes) const
    {
        if (at < 0 || at + bytes > memory.size() || at % std::min<size_t>(bytes, 16))
            throw std::runtime_error("shared memory: " + std::to_string(bytes) + " bytes at " +
                                     std::to_string(at) + " of " + std::to_string(memory.size()));
    }
    /* Is it a phase of another block? */
    bool is_before(int64_t phase) const { return phase >= 0 && phase < begin; }
    void read(Trace &t, int lane, const char *where)
    {
        const int me = warp * LANES + lane;
        const int64_t now = launch.now;
        if (is_before(t.write_phase))
            race(where, "read of what another block wrote");
        if (t.write_phase == now && t.writer != me &&
            (t.writer / LANES != warp || t.write_step == step))
            race(where, "read of what another lane wrote");
        const bool again = t.read_phase == now;
        t.blocks |= is_before(t.read_phase);
        t.lanes = again && (t.lanes || t.reader != me);
        t.warps = again && (t.warps || t.reader / LANES != warp);
        t.read_phase = now;
        t.reader = me;
        t.read_step = step;
    }
    void write(Trace &t, int lane, const char *where)
    {
        const int me = warp * LANES + lane;
        const int64_t now = launch.now;
        if (is_before(t.write_phase))
            race(where, "write of what another block wrote");
        if (t.blocks || is_before(t.read_phase))
            race(where, "write of what another block read");
        if (t.write_phase == now && t.writer != me &&
            (t.writer / LANES != warp || t.write_step == step))
            race(where, "write of what another lane wrote");
        if (t.read_phase == now && (t.warps || t.reader / LANES != warp ||
                                    (t.read_step == step && (t.lanes || t.reader != me))))
            race(where, "write of what another lane read");
        t.write_phase = now;
        t.writer = me;
        t.write_step = step;
    }
    [[noreturn]] static void race(const char *where, const char *what)
    {
        throw std::runtime_error(std::string("race in ") + where + " memory: " + what +
                                 " since the last barrier");
    }
};

inline thread_local Block *running_block = nullptr;

template <class T> T load_constant(const T *p)
{
    running_block->touch(Block::READ_CONSTANT, p, sizeof *p, alignof(T));
    return *p;
}
template <class T> T load_global(const T *p)
{
    running_block->touch(Block::READ, p, sizeof *p, alignof(T));
    return *p;
}
template <class T> T load_stream(const T *p) { return load_global(p); }
template <class T> void store_global(T *p, const T &x)
{
    running_block->touch(Block::WRITE, p, sizeof *p, alignof(T));
    *p = x;
}

/* ---- The warp ---------------------------------------------------------------------- */

template <class T> void max_over(Lanes<T> &x, int mask)
{
    for (int bit = 1; bit < LANES; bit *= 2) {
        const Lanes<T> old = x;
        for (int l = 0; mask & bit && l < LANES; l++)
            x[l] = std::max(old[l], old[l ^ bit]);
    }
}

template <class T> void sum_over(Lanes<T> &x)
{
    for (int bit = LANES / 2; bit >= 1; bit /= 2) {
        const Lanes<T> old = x;
        for (int l = 0; l < LANES; l++)
            x[l] = old[l] + old[l ^ bit];
    }
}

/* Toward zero */
inline float cut_off(double x)
{
    uint64_t b;
    memcpy(&b, &x, 8);
    b &= ~0x1fffffffull;
    memcpy(&x, &b, 8);
    return static_cast<float>(x);
}

/* C += A B of (16, DEPTH) and (DEPTH, 8) matrices. */
template <int DEPTH>
void product(float c[16][8], const double a[16][DEPTH], const double b[DEPTH][8])
{
    for (int i = 0; i < 16; i++) {
        double sum[8];
        for (int j = 0; j < 8; j++)
            sum[j] = c[i][j];
        for (int k = 0; k < DEPTH; k++)
            for (int j = 0; j < 8; j++)
                sum[j] += a[i][k] * b[k][j];
        for (int j = 0; j < 8; j++)
            c[i][j] = isfinite(sum[j]) ? cut_off(sum[j]) : static_cast<float>(sum[j]);
    }
}

/* The fragment maps of the PTX manual, written out again: row and column of item
 * i of lane l. */
inline int a_row(int l, int i) { return l / 4 + 8 * (i & 1); }
inline int a_column(int l, int i) { return l % 4 * 2 + 8 * (i / 2); }
inline int b_row(int l, int i) { return l % 4 * 2 + 8 * i; }
inline int b_column(int l) { return l / 4; }
inline int c_row(int l, int i) { return l / 4 + 8 * (i / 2); }
inline int c_column(int l, int i) { return l % 4 * 2 + (i & 1); }

template <class PerLaneC> void gather(const PerLaneC &c, float to[16][8])
{
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 4; i++)
            to[c_row(l, i)][c_column(l, i)] = c[l].at[i];
}

template <class PerLaneC> void scatter(const float from[16][8], PerLaneC &c)
{
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 4; i++)
            c[l].at[i] = from[c_row(l, i)][c_column(l, i)];
}

inline void multiply_add(Lanes<FragmentC> &c, const Lanes<FragmentA<Half>> &a,
                         const Lanes<FragmentB<Half>> &b)
{
    double x[16][16], y[16][8];
    float z[16][8];
    for (int l = 0; l < LANES; l++) {
        for (int i = 0; i < 4; i++) {
            x[a_row(l, i)][a_column(l, i)] = half_low(a[l].at[i]);
            x[a_row(l, i)][a_column(l, i) + 1] = half_high(a[l].at[i]);
        }
        for (int i = 0; i < 2; i++) {
            y[b_row(l, i)][b_column(l)] = half_low(b[l].at[i]);
            y[b_row(l, i) + 1][b_column(l)] = half_high(b[l].at[i]);
        }
    }
    gather(c, z);
    product<16>(z, x, y);
    scatter(z, c);
}

inline void multiply_subtract(Lanes<FragmentC> &c, const Lanes<FragmentA<Half>> &a,
                              const Lanes<FragmentB<Half>> &b)
{
    Lanes<FragmentA<Half>> negative;
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 4; i++)
            negative[l].at[i] = a[l].at[i] ^ 0x80008000u;
    multiply_add(c, negative, b);
}

/* The nearest of tf32's 11-bit significands, ties away from zero. */
inline float tf32_of(float x)
{
    return isfinite(x) ? float_of_bits((float_bits(x) + 0x1000) & ~0x1fffu) : x;
}

/* As on the GPU: three products of tf32 for each eight summed numbers, which join
 * C by a rounded addition. */
inline void multiply_tf32(Lanes<FragmentC> &c, const Lanes<FragmentA<Single>> &a,
                          const Lanes<FragmentB<Single>> &b, float sign)
{
    for (int h = 0; h < 2; h++) {
        double x[2][16][8], y[2][8][8]; /* high, low */
        float z[16][8] = {};
        for (int l = 0; l < LANES; l++)
            for (int j = 0; j < 2; j++) {
                for (int i = 2 * h; i < 2 * h + 2; i++) {
                    const float v = a[l].at[i].at[j];
                    const int row = a_row(l, i), k = a_column(l, i) + j - 8 * h;
                    x[0][row][k] = tf32_of(v);
                    x[1][row][k] = tf32_of(v - tf32_of(v));
                }
                const float v = b[l].at[h].at[j];
                const int k = b_row(l, h) + j - 8 * h;
                y[0][k][b_column(l)] = tf32_of(v);
                y[1][k][b_column(l)] = tf32_of(v - tf32_of(v));
            }
        product<8>(z, x[1], y[0]);
        product<8>(z, x[0], y[1]);
        product<8>(z, x[0], y[0]);
        Lanes<FragmentC> sum;
        scatter(z, sum);
        for (int l = 0; l < LANES; l++)
            for (int i = 0; i < 4; i++)
                c[l].at[i] += sign * sum[l].at[i];
    }
}

inline void multiply_add(Lanes<FragmentC> &c, const Lanes<FragmentA<Single>> &a,
                         const Lanes<FragmentB<Single>> &b)
{
    multiply_tf32(c, a, b, 1);
}

inline void multiply_subtract(Lanes<FragmentC> &c, const Lanes<FragmentA<Single>> &a,
                              const Lanes<FragmentB<Single>> &b)
{
    multiply_tf32(c, a, b, -1);
}

/* ---- Launching -------------------------------------------------------------------- */

/* Blocks one after another, in shuffled order. */
template <class Kernel>
void launch_here(const typename Kernel::Arguments &a, int64_t blocks, int64_t bytes, uint32_t seed)
{
    std::mt19937 random(seed);
    std::vector<int64_t> order(blocks);
    for (int64_t i = 0; i < blocks; i++)
        order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    Launch launch;
    for (int64_t i : order) {
        Block block(launch, i, blocks, bytes, Kernel::WARPS, random());
        running_block = &block;
        Kernel::run(block, a);
    }
}

} // namespace fftconv
#endif
