/* The number of threads that a call uses by default. */
#define _GNU_SOURCE /* affinity */
#include "common.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

static _Atomic int chosen; /* by fftconv_set_default_threads; 0: nothing */
static int quota;          /* processors that the container's quota pays for; 0: no limit */
static int environment;    /* threads that the environment asks for; 0: none */

/* The processors' worth of time in one control group: its quota divided by its period, rounded
 * up; 0 where it has no limit or the file cannot be read.  Version 2 has both numbers in
 * cpu.max, version 1 has them in two files. */
static double limit_of(const char *group, bool version_2)
{
    static const char *const names[] = {"cpu.cfs_quota_us", "cpu.cfs_period_us"};
    double numbers[2] = {0, 0};
    for (int i = 0; i < (version_2 ? 1 : 2); i++) {
        char name[PATH_BYTES + 32];
        snprintf(name, sizeof name, "%s/%s", group, version_2 ? "cpu.max" : names[i]);
        FILE *file = fopen(name, "r");
        if (!file)
            return 0;
        const int wanted = version_2 ? 2 : 1;
        const int got = version_2 ? fscanf(file, "%lf %lf", &numbers[0], &numbers[1])
                                  : fscanf(file, "%lf", &numbers[i]);
        fclose(file);
        if (got != wanted) /* such as "max 100000": no limit */
            return 0;
    }
    return numbers[0] > 0 && numbers[1] > 0 ? numbers[0] / numbers[1] : 0;
}

/* Is "cpu" one of the controllers in a list such as "cpu,cpuacct"? */
static bool has_cpu(const char *list)
{
    for (size_t length; *list; list += length + (list[length] == ',')) {
        length = strcspn(list, ",");
        if (length == 3 && strncmp(list, "cpu", 3) == 0)
            return true;
    }
    return false;
}

/* The least limit of a group and of those around it.  The groups that a container cannot see
 * have no files, and its own are then at the top. */
static double least_limit(const char *mount, char *group, bool version_2)
{
    double least = 0;
    for (;;) {
        char path[PATH_BYTES];
        if (snprintf(path, sizeof path, "%s%s", mount, group) < (int)sizeof path) {
            const double limit = limit_of(path, version_2);
            if (limit > 0 && (least == 0 || limit < least))
                least = limit;
        }
        char *slash = strrchr(group, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

int quota_processors(const char *root)
{
    char name[PATH_BYTES], line[PATH_BYTES];
    double least = 0;
    snprintf(name, sizeof name, "%s/proc/self/cgroup", root);
    FILE *file = fopen(name, "r");
    if (!file)
        return 0;
    while (fgets(line, sizeof line, file)) { /* number:controllers:/group */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *group;
        if (!controllers || !(group = strchr(++controllers, ':')))
            continue;
        *group++ = 0;
        const bool version_2 = !*controllers;
        if (!version_2 && !has_cpu(controllers))
            continue;
        snprintf(name, sizeof name, "%s/sys/fs/cgroup%s", root, version_2 ? "" : "/cpu");
        const double limit = least_limit(name, group, version_2);
        if (limit > 0 && (least == 0 || limit < least))
            least = limit;
    }
    fclose(file);
    return least > MAX_THREADS ? MAX_THREADS : (int)least + (least > (int)least);
}

int threads_of_text(const char *text)
{
    char *end;
    if (!text)
        return 0;
    const long long n = strtoll(text, &end, 10);
    end += strspn(end, " \t");
    if (end == text || n < 1 || (*end && *end != ','))
        return 0;
    return n > MAX_THREADS ? MAX_THREADS : (int)n;
}

static void look_once(void)
{
    quota = quota_processors("");
    environment = threads_of_text(getenv("FFTCONV_NUM_THREADS"));
    if (!environment)
        environment = threads_of_text(getenv("OMP_NUM_THREADS"));
}

static void look(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, look_once);
}

int processors(void)
{
    long n = 0;
    look();
#ifdef CPU_COUNT
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
#endif
    if (n < 1)
        n = sysconf(_SC_NPROCESSORS_ONLN);
    if (quota && quota < n)
        n = quota;
    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : (int)n;
}

int fftconv_default_threads(void)
{
    const int n = atomic_load(&chosen);
    look();
    return n ? n : environment ? environment : processors();
}

int fftconv_set_default_threads(int threads)
{
    if (threads < 0 || threads > MAX_THREADS)
        return fail(FFTCONV_STATUS_INVALID, "threads is %d, must be 0 ... %d", threads,
                    MAX_THREADS);
    atomic_store(&chosen, threads);
    return FFTCONV_STATUS_OK;
}
