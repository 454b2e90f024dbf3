/* parallel_for over a small pool of threads.
 *
 * Why not OpenMP: GNU OpenMP hangs in a child forked after its first use, which
 * is what a data loader does, and a second OpenMP beside the host program's is
 * trouble of its own.  Here the child of a fork simply starts a new pool. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "internal.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#define MAX_WORKERS 255

/* One job at a time.  A caller that finds the pool busy runs its job alone:
 * results never depend on how many threads did the work. */
static struct {
    pthread_mutex_t owner; /* held by the caller whose job runs              */
    pthread_mutex_t lock;  /* guards what follows                            */
    pthread_cond_t work, done;
    int started;     /* workers alive                                        */
    unsigned serial; /* counts jobs                                          */
    int wanted;      /* workers this job may still take                      */
    int active;      /* workers inside it                                    */
    task_fn *fn;
    void *context;
    int64_t n;
    _Atomic int64_t next;
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .work = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER};

static void drain(task_fn *fn, void *context, int64_t n, int worker)
{
    int64_t i;
    while ((i = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed)) < n)
        fn(context, i, worker);
}

static void *worker_main(void *unused)
{
    (void)unused;
    unsigned seen = 0;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (pool.serial == seen || pool.wanted == 0)
            pthread_cond_wait(&pool.work, &pool.lock);
        seen = pool.serial;
        int worker = pool.wanted--;
        task_fn *fn = pool.fn;
        void *context = pool.context;
        int64_t n = pool.n;
        pool.active++;
        pthread_mutex_unlock(&pool.lock);
        drain(fn, context, n, worker);
        pthread_mutex_lock(&pool.lock);
        if (--pool.active == 0)
            pthread_cond_signal(&pool.done);
    }
    return NULL;
}

/* The child has this one thread: its pool is empty and nobody owns it. */
static void reset_in_child(void)
{
    pthread_mutex_init(&pool.owner, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.work, NULL);
    pthread_cond_init(&pool.done, NULL);
    pool.started = pool.wanted = pool.active = 0;
}

static void register_reset(void) { pthread_atfork(NULL, NULL, reset_in_child); }

/* Workers take no signals: those are the host program's. */
static void start_workers(int count)
{
    sigset_t all, before;
    pthread_attr_t attr;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    while (pool.started < count &&
           pthread_create(&thread, &attr, worker_main, NULL) == 0)
        pool.started++;
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void parallel_for(int threads, int64_t n, task_fn *fn, void *context)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int helpers = (int)min64(min64(threads, n) - 1, MAX_WORKERS);
    if (helpers <= 0 || pthread_mutex_trylock(&pool.owner) != 0) {
        for (int64_t i = 0; i < n; i++)
            fn(context, i, 0);
        return;
    }
    pthread_once(&once, register_reset);
    pthread_mutex_lock(&pool.lock);
    start_workers(helpers);
    pool.fn = fn;
    pool.context = context;
    pool.n = n;
    atomic_store(&pool.next, 0);
    pool.wanted = helpers;
    pool.serial++;
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);

    drain(fn, context, n, 0);

    pthread_mutex_lock(&pool.lock);
    pool.wanted = 0; /* who has not begun need not */
    while (pool.active > 0)
        pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool.owner);
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
