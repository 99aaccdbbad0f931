// Threads of a region that have nothing left to do take tasks from those that have: see hssl_share in base.h.
#define _GNU_SOURCE
#include <sched.h>

#include "base/base.h"

struct hssl_shared_tasks {
    hssl_task_fn *run;
    const void *job;
    ptrdiff_t count;
    atomic_long next;
};

static _Thread_local struct {
    hssl_region *region;  // NULL outside
    int part;
    const hssl_context *outside;  // this thread's own context
} here;

// Some 20 µs, then the core goes to whoever wants it: loaders share it.
enum { POLLS_BEFORE_YIELDING = 512 };
static void pause_or_yield(int *polls) {
    if (++*polls > POLLS_BEFORE_YIELDING) {
        sched_yield();
        return;
    }
#if defined(__x86_64__)
    __asm__ volatile("pause");
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void hssl_region_open(hssl_region *region, int team) {
    region->context = hssl_context_current();
    region->team = team;
    region->opened = hssl_nanoseconds();
    region->done = region->helped = 0;
    region->threads = team;
    atomic_init(&region->busy, team);
    for (int part = 0; part < team; ++part) {
        atomic_init(&region->shared[part].tasks, NULL);
        atomic_init(&region->shared[part].visitors, 0);
    }
}

// Kernels that the block calls must see the threads and the instruction set of whoever opened the region.
static void join(hssl_region *region) {
    if (here.region == region) return;
    here.region = region;
    here.outside = hssl_context_enter(region->context);
}

void hssl_region_enter(hssl_region *region, int part) {
    join(region);
    here.part = part;
}

void hssl_region_leave(hssl_region *region) { atomic_fetch_sub(&region->busy, 1); }

/// Whether there were any left.
static bool run_some(hssl_shared_tasks *tasks, int part) {
    bool any = false;
    for (ptrdiff_t t; (t = atomic_fetch_add_explicit(&tasks->next, 1, memory_order_relaxed)) < tasks->count;) {
        tasks->run(tasks->job, t, part);
        any = true;
    }
    return any;
}

void hssl_region_help(hssl_region *region) {
    join(region);
    const bool opened_it = omp_get_thread_num() == 0;
    if (opened_it) {
        region->threads = omp_get_num_threads();
        region->done = hssl_nanoseconds();
    }
    for (int polls = 0; atomic_load(&region->busy) > 0; pause_or_yield(&polls)) {
        for (int part = 0; part < region->team; ++part) {
            // A plain look first: writing would take the line away from its owner.
            if (!atomic_load_explicit(&region->shared[part].tasks, memory_order_relaxed)) continue;
            // Either the owner sees this visitor, or the visitor sees that the tasks are gone: both orders are
            // sequentially consistent.
            atomic_fetch_add(&region->shared[part].visitors, 1);
            hssl_shared_tasks *const tasks = atomic_load(&region->shared[part].tasks);
            const int64_t begin = opened_it ? hssl_nanoseconds() : 0;
            if (tasks && run_some(tasks, here.part)) {
                if (opened_it) region->helped += hssl_nanoseconds() - begin;
                polls = 0;
            }
            atomic_fetch_sub(&region->shared[part].visitors, 1);
        }
    }
    hssl_context_leave(here.outside);
    here.region = NULL;
    here.part = 0;
}

void hssl_region_close(const hssl_region *region) {
    const int64_t now = hssl_nanoseconds();
    hssl_team_ended(region->threads, now, now - region->opened, now - region->done - region->helped);
}

void hssl_share(ptrdiff_t count, hssl_task_fn *run, const void *job) {
    hssl_region *const region = here.region;
    hssl_shared_tasks tasks = {run, job, count, 0};
    if (!region || count <= 1 || atomic_load_explicit(&region->shared[here.part].tasks, memory_order_relaxed)) {
        run_some(&tasks, here.part);
        return;
    }
    atomic_store(&region->shared[here.part].tasks, &tasks);
    run_some(&tasks, here.part);
    atomic_store(&region->shared[here.part].tasks, NULL);
    for (int polls = 0; atomic_load(&region->shared[here.part].visitors) > 0;) pause_or_yield(&polls);
}

void hssl_run_tasks(int team, ptrdiff_t count, hssl_task_fn *run, const void *job) {
    if (team == 1) {
        hssl_share(count, run, job);
        return;
    }
    hssl_shared_tasks tasks = {run, job, count, 0};
    HSSL_TEAM(team, part, { run_some(&tasks, part); });
}
