#define _GNU_SOURCE
#include <stdio.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

// Swift's clang finds no omp.h: these are the functions of libomp that we call.
extern void kmp_set_blocktime(int milliseconds);
extern int omp_in_parallel(void);

// A team that still spins starts within a few µs, in which one core does about this many float operations (0.1 to 1.5
// million make no difference that shows in whole steps).
static const double serial_work = 4e5;

// A step's regions follow one another within microseconds, while waking a sleeping thread costs some 50 µs: with 0 the
// ViT-S int8 features at batch 1 are 1.4 times slower and pretraining steps of the nano recipe 1.3 times, loaders
// included. Spinning threads yield.
enum { BLOCK_TIME_MS = 1 };

static _Thread_local hssl_pace pace;

int64_t hssl_nanoseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

// A decision follows 20 ms of regions, so that a thread which was away for a moment decides nothing. Of a team of n
// each thread works for 1 − w of the time, w being what it waits: one alone would take n·(1 − w) as long, less where it
// shares a core with another; below 0.8 the team loses. How long that holds nobody knows: regions are tried again after
// 50 ms, and after twice as long each time that they still do not pay, so that trying costs little.
enum { WINDOW = 20000000, LEAST_REST = 50000000, MOST_REST = 1000000000 };
static const double bearable = 0.8;

void hssl_pace_add(hssl_pace *p, int team, int64_t now, int64_t spent, int64_t idle) {
    p->spent += spent;
    p->lost += (int64_t)(bearable * (double)spent) - team * (spent - idle);
    if (p->spent < WINDOW) return;
    const bool pays = p->lost <= 0;
    p->rest = pays ? 0 : p->rest == 0 ? LEAST_REST : p->rest < MOST_REST / 2 ? 2 * p->rest : MOST_REST;
    p->until = pays ? 0 : now + p->rest;
    p->spent = p->lost = 0;
}

bool hssl_pace_is_alone(hssl_pace *p, int64_t now) {
    if (now >= p->until) p->until = 0;
    return p->until > 0;
}

void hssl_team_ended(int team, int64_t now, int64_t spent, int64_t idle) {
    hssl_pace_add(&pace, team, now, spent, idle);
}

int hssl_team(double work) {
    // The block time belongs to the calling thread, so each thread that starts regions sets it once.
    static _Thread_local bool ready;
    const int count = hssl_get_threads();
    if (count == 1 || work < serial_work || omp_in_parallel()) return 1;
    if (pace.until > 0 && hssl_pace_is_alone(&pace, hssl_nanoseconds())) return 1;
    if (!ready) {
        kmp_set_blocktime(BLOCK_TIME_MS);
        ready = true;
    }
    return count;
}

static uint64_t status_bytes(const char *format) {
    FILE *file = fopen("/proc/self/status", "re");
    if (!file) return 0;
    unsigned long long kilobytes = 0;
    char line[256];
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, format, &kilobytes) == 1) break;
    }
    fclose(file);
    return (uint64_t)kilobytes * 1024;
}

uint64_t hssl_peak_rss(void) { return status_bytes("VmHWM: %llu kB"); }
uint64_t hssl_present_rss(void) { return status_bytes("VmRSS: %llu kB"); }

void hssl_return_freed_memory(void) {
#if defined(M_MMAP_THRESHOLD)
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}
