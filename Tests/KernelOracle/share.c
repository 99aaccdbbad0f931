// Regions of CSupport on threads of this file's own, so that who does what can be counted and forced.
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "KernelOracle.h"
#include "base/base.h"

enum { THREADS = 4, TASKS = 48, INNER_TASKS = 5 };

typedef struct {
    int part;
    bool waits;           // for a helper
    atomic_int runs[TASKS], inner[TASKS];  // inner: what a task shared itself
    atomic_int helped;    // tasks that other parts ran
} shared_job;

static void run_inner(const void *count, ptrdiff_t task, int part) {
    (void)part;
    atomic_fetch_add((atomic_int *)count, (int)task + 1);
}

static void run(const void *job, ptrdiff_t task, int part) {
    shared_job *const j = (shared_job *)job;
    atomic_fetch_add(&j->runs[task], 1);
    if (task % 4 == 3) hssl_share(INNER_TASKS, run_inner, &j->inner[task]);
    if (part != j->part) atomic_fetch_add(&j->helped, 1);
    // The owner sits on its first task until somebody has come: without helpers it would wait for five seconds.
    const time_t end = time(NULL) + 5;
    while (j->waits && part == j->part && atomic_load(&j->helped) == 0 && time(NULL) < end) {}
}

typedef struct {
    int part;
    oracle_share_counts counts;
} worker;

static hssl_region region;
static pthread_barrier_t barrier;
static int rounds;

static void *work(void *argument) {
    worker *const w = argument;
    for (int round = 0; round < rounds; ++round) {
        pthread_barrier_wait(&barrier);
        if (w->part == 0) hssl_region_open(&region, THREADS);
        pthread_barrier_wait(&barrier);
        hssl_region_enter(&region, w->part);
        // In the first round part 0 shares and waits, the others have nothing to do; later all share some jobs, more or
        // fewer.
        const int jobs = round == 0 ? w->part == 0 : (round * 7 + w->part * 5) % 6;
        for (int k = 0; k < jobs; ++k) {
            shared_job job = {.part = w->part, .waits = round == 0};
            const int count = round == 0 ? TASKS : (round + k * 11 + w->part) % TASKS;
            hssl_share(count, run, &job);
            for (int t = 0; t < TASKS; ++t) {
                const int inner = t % 4 == 3 ? INNER_TASKS * (INNER_TASKS + 1) / 2 : 0;
                w->counts.wrong += atomic_load(&job.runs[t]) != (t < count)
                    || atomic_load(&job.inner[t]) != (t < count ? inner : 0);
            }
            w->counts.helped += atomic_load(&job.helped);
            if (round == 0) w->counts.helped_first = atomic_load(&job.helped);
        }
        hssl_region_leave(&region);
        hssl_region_help(&region);
    }
    return NULL;
}

oracle_share_counts oracle_share(int count_of_rounds) {
    pthread_t threads[THREADS];
    worker workers[THREADS];
    oracle_share_counts sum = {0};
    rounds = count_of_rounds;
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (int i = 0; i < THREADS; ++i) {
        workers[i] = (worker){.part = i};
        pthread_create(&threads[i], NULL, work, &workers[i]);
    }
    for (int i = 0; i < THREADS; ++i) {
        pthread_join(threads[i], NULL);
        sum.wrong += workers[i].counts.wrong;
        sum.helped += workers[i].counts.helped;
        sum.helped_first += workers[i].counts.helped_first;
    }
    pthread_barrier_destroy(&barrier);
    return sum;
}
