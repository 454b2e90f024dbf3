/* parallel_for, over a pool of threads that live as long as the process.
 *
 * It is not OpenMP for two reasons.  GNU OpenMP hangs in the child of a fork that follows its
 * first use, and data loaders fork so; here the child starts a pool of its own.  And where the
 * host program has an OpenMP of another make, a second one disturbs it. */
#define _GNU_SOURCE /* affinity */
#include "common.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* A job is one call of parallel_for.  Its tasks are shared out beforehand: a thread begins with
 * a share of its own, which is the same in each job of that size, so that it meets again what
 * it left in its core's cache.  Then it helps the others with their shares. */
struct share {
    _Alignas(ALIGNMENT) _Atomic int64_t next;
    int64_t end;
};

/* A thread without work looks for it so many times, about 100 microseconds, before it sleeps.
 * The steps of one row come that close together, and waking a thread takes as long. */
enum { SPINS = 8000 };

/* A thread that may sleep: one of the pool, or the caller whose job runs. */
struct thread {
    pthread_t id;
    pthread_cond_t wake;
    bool asleep;
#ifdef CPU_COUNT
    bool steered;      /* it is kept off one of its processors: see steer */
    cpu_set_t allowed; /* its processors before that */
#endif
};

/* The pool runs one job at a time.  A caller that finds it busy runs its job alone, which it
 * may, since results never depend on how many threads did the work. */
static struct {
    pthread_mutex_t owner; /* held by the caller whose job runs */
    _Atomic uint64_t job;  /* number of the job << 32 | how many more workers it takes */
    _Atomic int finished;  /* workers that took the job and have left it */
    task_fn *fn;
    void *context;
    struct share share[MAX_THREADS + 1];
    int shares;
    int started; /* workers that exist */
    int processors;
    _Atomic bool spins; /* threads look for work before they sleep: each has a processor */
    /* Of the first task that failed.  Once a status is here, no more tasks are begun. */
    _Atomic int status;
    char message[MESSAGE_BYTES];
    /* Those who sleep: `lock` guards the fields of threads, and going to sleep. */
    pthread_mutex_t lock;
    struct thread caller, worker[MAX_THREADS];
    _Atomic int sleeping; /* how many workers sleep */
    _Atomic bool waiting; /* does the caller sleep? */
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .caller.wake = PTHREAD_COND_INITIALIZER};

/* The message of a task that fails is in the thread that ran it, where the caller cannot read
 * it.  The first one is copied into the pool. */
static void report(int status)
{
    int none = FFTCONV_STATUS_OK;
    if (atomic_compare_exchange_strong(&pool.status, &none, status))
        snprintf(pool.message, sizeof pool.message, "%s", fftconv_last_error());
}

/* The floating-point state of a thread: how numbers are rounded, what is raised, and whether a
 * denormal number, which costs a processor a hundred cycles, counts as zero. */
struct float_state {
#if defined(__aarch64__)
    uint64_t control, status;
#else
    unsigned control;
#endif
};

/* While tasks run, numbers are rounded to nearest, nothing traps, and denormals are zero, whatever
 * the caller has set.  All the arithmetic of a call is in tasks.  Returns the state before. */
static struct float_state enter_tasks(void)
{
    struct float_state before = {0};
#if defined(__x86_64__)
    enum { ALL_MASKED = 0x1f80, FLUSH_TO_ZERO = 0x8000, DENORMALS_ARE_ZERO = 0x40 };
    before.control = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(ALL_MASKED | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
#elif defined(__aarch64__)
    const uint64_t flush_to_zero = 1u << 24;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before.control)::"memory");
    __asm__ volatile("mrs %0, fpsr" : "=r"(before.status)::"memory");
    __asm__ volatile("msr fpcr, %0" ::"r"(flush_to_zero) : "memory");
#endif
    return before;
}

static void leave_tasks(struct float_state before)
{
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(before.control);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"(before.control) : "memory");
    __asm__ volatile("msr fpsr, %0" ::"r"(before.status) : "memory");
#else
    (void)before;
#endif
}

/* Runs the tasks of share `home`, and then those that are left of the shares after it. */
static void drain(task_fn *fn, void *context, int shares, int home, int worker)
{
    const struct float_state before = enter_tasks();
    for (int s = 0; s < shares; s++) {
        struct share *share = &pool.share[(home + s) % shares];
        int64_t i;
        while ((i = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed)) <
                   share->end &&
               !atomic_load_explicit(&pool.status, memory_order_relaxed)) {
            const int status = fn(context, i, worker);
            if (status)
                report(status);
        }
    }
    leave_tasks(before);
}

static inline void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Keeps a sleeping thread off the processor of its waker, which calls this, until it runs.
 *
 * The scheduler chooses where a woken thread begins, and it may choose the waker's processor
 * although the waker goes on: on a virtual machine a halted processor does not count as idle,
 * and then the two share one processor for milliseconds.
 *
 * release() gives the thread its former processors again.  A thread that might run anywhere is
 * thereby bound to the processors of that time, and gets none that the process gains later.
 * Both functions are called with pool.lock held. */
static void steer(struct thread *t)
{
#ifdef CPU_COUNT
    const int here = sched_getcpu();
    if (!t->steered && pthread_getaffinity_np(t->id, sizeof t->allowed, &t->allowed) != 0)
        return;
    cpu_set_t elsewhere = t->allowed;
    if (here >= 0)
        CPU_CLR((size_t)here, &elsewhere);
    if (CPU_COUNT(&elsewhere) > 0 &&
        pthread_setaffinity_np(t->id, sizeof elsewhere, &elsewhere) == 0)
        t->steered = true;
#else
    (void)t;
#endif
}

static void release(struct thread *t)
{
#ifdef CPU_COUNT
    if (t->steered)
        pthread_setaffinity_np(t->id, sizeof t->allowed, &t->allowed);
    t->steered = false;
#else
    (void)t;
#endif
}

/* Called with pool.lock held, after the change that the sleeping thread waits for. */
static void wake(struct thread *t)
{
    steer(t);
    pthread_cond_signal(&t->wake);
}

static void sleep_once(struct thread *self)
{
    pthread_cond_wait(&self->wake, &pool.lock);
    release(self);
}

/* Does the job take one more worker, and is it not the one that this worker has seen? */
static bool is_open(uint64_t job, uint32_t seen)
{
    return (uint32_t)(job >> 32) != seen && (uint32_t)job > 0;
}

/* Waits for a job that is open to this worker, and joins it.  Returns the job's number;
 * *worker is which of the job's workers this one is, from 1 on. */
static uint32_t take_job(struct thread *self, uint32_t seen, int *worker)
{
    for (int spin = 0;;) {
        uint64_t job = atomic_load(&pool.job);
        if (is_open(job, seen)) {
            *worker = (int)(uint32_t)job;
            if (atomic_compare_exchange_weak(&pool.job, &job, job - 1))
                return (uint32_t)(job >> 32);
            continue;
        }
        if (atomic_load_explicit(&pool.spins, memory_order_relaxed) && spin++ < SPINS) {
            pause_briefly();
            continue;
        }
        pthread_mutex_lock(&pool.lock);
        atomic_fetch_add(&pool.sleeping, 1); /* before the last look: see wake_workers */
        self->asleep = true;
        while (!is_open(atomic_load(&pool.job), seen))
            sleep_once(self);
        self->asleep = false;
        atomic_fetch_sub(&pool.sleeping, 1);
        pthread_mutex_unlock(&pool.lock);
        spin = 0;
    }
}

static void *worker_main(void *self)
{
    const int number = (int)((struct thread *)self - pool.worker) + 1; /* the caller is 0 */
    uint32_t seen = 0;
    for (int worker;;) {
        seen = take_job(self, seen, &worker);
        drain(pool.fn, pool.context, pool.shares, number % pool.shares, worker);
        atomic_fetch_add(&pool.finished, 1);
        if (atomic_load(&pool.waiting)) {
            pthread_mutex_lock(&pool.lock);
            if (atomic_load(&pool.waiting)) /* a caller that runs by now must not be steered */
                wake(&pool.caller);
            pthread_mutex_unlock(&pool.lock);
        }
    }
    return NULL;
}

/* No worker is missed: the job was stored before this looks for sleepers, and a worker counts
 * itself among the sleepers before it looks for a job the last time.  So one sees the other. */
static void wake_workers(int helpers)
{
    if (atomic_load(&pool.sleeping) == 0)
        return;
    pthread_mutex_lock(&pool.lock);
    for (struct thread *t = pool.worker; helpers > 0 && t < pool.worker + pool.started; t++)
        if (t->asleep) {
            wake(t);
            helpers--;
        }
    pthread_mutex_unlock(&pool.lock);
}

static void wait_for(int workers)
{
    for (int spin = 0; pool.spins && spin < SPINS; spin++) {
        if (atomic_load(&pool.finished) == workers)
            return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool.lock);
    pool.caller.id = pthread_self();
    atomic_store(&pool.waiting, true);
    while (atomic_load(&pool.finished) != workers)
        sleep_once(&pool.caller);
    atomic_store(&pool.waiting, false);
    pthread_mutex_unlock(&pool.lock);
}

/* The child of a fork has no thread but this one: its pool is empty, and nobody owns it. */
static void reset_in_child(void)
{
    pthread_mutex_init(&pool.owner, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    memset(pool.worker, 0, sizeof pool.worker);
    memset(&pool.caller, 0, sizeof pool.caller);
    pthread_cond_init(&pool.caller.wake, NULL);
    pool.started = 0;
    pool.job = 0;
    pool.sleeping = 0;
    pool.waiting = false;
}

static void start_pool(void)
{
    pool.processors = processors();
    pthread_atfork(NULL, NULL, reset_in_child);
}

/* Workers block all signals, which are for the threads of the host program. */
static void start_workers(int count)
{
    sigset_t all, before;
    pthread_attr_t attr;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    while (pool.started < count) {
        struct thread *t = &pool.worker[pool.started];
        pthread_cond_init(&t->wake, NULL);
        if (pthread_create(&t->id, &attr, worker_main, t) != 0)
            break;
        pool.started++;
    }
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int parallel_for(int threads, int64_t n, task_fn *fn, void *context)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int status = FFTCONV_STATUS_OK;
    int helpers = (int)min64(min64(threads, n) - 1, MAX_THREADS);
    if (helpers <= 0 || pthread_mutex_trylock(&pool.owner) != 0) {
        const struct float_state before = enter_tasks();
        for (int64_t i = 0; i < n && !status; i++)
            status = fn(context, i, 0);
        leave_tasks(before);
        return status;
    }
    pthread_once(&once, start_pool);
    if (pool.started < helpers)
        start_workers(helpers);
    pool.fn = fn;
    pool.context = context;
    pool.shares = helpers + 1;
    for (int s = 0; s < pool.shares; s++) {
        atomic_store_explicit(&pool.share[s].next, share_begin(n, s, pool.shares),
                              memory_order_relaxed);
        pool.share[s].end = share_begin(n, s + 1, pool.shares);
    }
    atomic_store(&pool.spins, pool.started < pool.processors);
    atomic_store(&pool.finished, 0);
    atomic_store(&pool.status, FFTCONV_STATUS_OK);
    const uint32_t serial = (uint32_t)(atomic_load(&pool.job) >> 32) + 1;
    atomic_store(&pool.job, (uint64_t)serial << 32 | (uint32_t)helpers);
    wake_workers(helpers);

    drain(fn, context, pool.shares, 0, 0);

    /* All tasks are begun: workers that have not joined yet are not needed any more. */
    const uint64_t left = atomic_exchange(&pool.job, (uint64_t)serial << 32);
    wait_for(helpers - (int)(uint32_t)left);
    status = atomic_load(&pool.status);
    if (status)
        fail(status, "%s", pool.message);
    pthread_mutex_unlock(&pool.owner);
    return status;
}
