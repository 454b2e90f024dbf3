/* parallel_for over a small pool of threads.
 *
 * Why not OpenMP: GNU OpenMP hangs in a child forked after its first use, which
 * is what a data loader does, and a second OpenMP beside the host program's is
 * trouble of its own.  Here the child of a fork simply starts a new pool. */
#define _GNU_SOURCE /* affinity */
#include "common.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_WORKERS 255

/* A job's tasks are shared out beforehand: a thread begins with a stretch of its own,
 * the same in each job of that size, so that what it left in its core's cache is met
 * there again; then it helps the others with theirs. */
struct share {
    _Alignas(ALIGNMENT) _Atomic int64_t next;
    int64_t end;
};

/* Looks for work this often before sleeping, some 100 microseconds: the parts
 * of one row come that close together, and waking a thread takes as long. */
enum { SPINS = 8000 };

/* A thread of the pool, or the caller whose job runs: one that may sleep. */
struct thread {
    pthread_t id;
    pthread_cond_t wake;
    bool asleep;
#ifdef CPU_COUNT
    bool steered;      /* kept off a processor, beside those not allowed */
    cpu_set_t allowed; /* before that */
#endif
};

/* One job at a time.  A caller that finds the pool busy runs its job alone:
 * results never depend on how many threads did the work. */
static struct {
    pthread_mutex_t owner; /* held by the caller whose job runs */
    _Atomic uint64_t job;  /* its number << 32 | workers it may still take */
    _Atomic int finished;  /* workers that have left it */
    task_fn *fn;
    void *context;
    struct share share[MAX_WORKERS + 1];
    int shares;
    int started; /* workers alive */
    int processors;
    _Atomic bool spins; /* there is a processor for each thread */
    /* the first failure among the job's tasks: once it is there, no more are begun */
    _Atomic int status;
    char message[MESSAGE_BYTES];
    /* for those who sleep */
    pthread_mutex_t lock;
    struct thread caller, worker[MAX_WORKERS];
    _Atomic int sleeping; /* workers that do */
    _Atomic bool waiting; /* the caller sleeps */
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .caller.wake = PTHREAD_COND_INITIALIZER};

/* A task's message stands in its own thread; the caller reads it from the pool. */
static void report(int status)
{
    int none = FFTCONV_STATUS_OK;
    if (atomic_compare_exchange_strong(&pool.status, &none, status))
        snprintf(pool.message, sizeof pool.message, "%s", fftconv_last_error());
}

/* Runs the tasks of share `home` first, then helps with those of the shares after it. */
static void drain(task_fn *fn, void *context, int shares, int home, int worker)
{
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
}

static inline void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Where a woken thread begins is the scheduler's choice, and that may be its waker's own
 * processor, which the waker goes on using: on a virtual machine a halted processor does
 * not count as idle, and the two share one for milliseconds.  So whoever sleeps is kept
 * off the waker's processor until it runs.  It then has the processors it had, by name: where
 * none were ever named for it, those the process gains later are not among them.  Both
 * under the lock. */
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

/* Under the lock, for a reason that the other sees when it wakes. */
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

static bool is_open(uint64_t job, uint32_t seen)
{
    return (uint32_t)(job >> 32) != seen && (uint32_t)job > 0;
}

/* The next job that this worker has not seen and that wants one more: its number,
 * and which of its workers this is. */
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
        atomic_fetch_add(&pool.sleeping, 1); /* then look again: see wake_workers */
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
            if (atomic_load(&pool.waiting)) /* still: one who runs is not to be steered */
                wake(&pool.caller);
            pthread_mutex_unlock(&pool.lock);
        }
    }
    return NULL;
}

/* The job is there before this looks for sleepers, and they look for it after they
 * count as such: one of the two sees the other. */
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

/* The child has this one thread: its pool is empty and nobody owns it. */
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
    pool.processors = fftconv_default_threads();
    pthread_atfork(NULL, NULL, reset_in_child);
}

/* Workers take no signals: those are the host program's. */
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
    int helpers = (int)min64(min64(threads, n) - 1, MAX_WORKERS);
    if (helpers <= 0 || pthread_mutex_trylock(&pool.owner) != 0) {
        for (int64_t i = 0; i < n && !status; i++)
            status = fn(context, i, 0);
        return status;
    }
    pthread_once(&once, start_pool);
    if (pool.started < helpers)
        start_workers(helpers);
    pool.fn = fn;
    pool.context = context;
    pool.shares = helpers + 1;
    for (int s = 0; s < pool.shares; s++) {
        atomic_store_explicit(&pool.share[s].next, n * s / pool.shares, memory_order_relaxed);
        pool.share[s].end = n * (s + 1) / pool.shares;
    }
    atomic_store(&pool.spins, pool.started < pool.processors);
    atomic_store(&pool.finished, 0);
    atomic_store(&pool.status, FFTCONV_STATUS_OK);
    const uint32_t serial = (uint32_t)(atomic_load(&pool.job) >> 32) + 1;
    atomic_store(&pool.job, (uint64_t)serial << 32 | (uint32_t)helpers);
    wake_workers(helpers);

    drain(fn, context, pool.shares, 0, 0);

    /* who has not begun need not */
    const uint64_t left = atomic_exchange(&pool.job, (uint64_t)serial << 32);
    wait_for(helpers - (int)(uint32_t)left);
    status = atomic_load(&pool.status);
    if (status)
        fail(status, "%s", pool.message);
    pthread_mutex_unlock(&pool.owner);
    return status;
}

/* The processors this process may run on, which containers make fewer than the
 * machine's. */
int fftconv_default_threads(void)
{
    long n = 0;
#ifdef CPU_COUNT
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
#endif
    if (n < 1)
        n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > MAX_WORKERS ? MAX_WORKERS : (int)n;
}
