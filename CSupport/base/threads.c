#define _GNU_SOURCE
#include <stdio.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <string.h>
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

int hssl_team(double work) {
    // The block time belongs to the calling thread, so each thread that starts regions sets it once.
    static _Thread_local bool ready;
    const int count = hssl_get_threads();
    if (count == 1 || work < serial_work || omp_in_parallel()) return 1;
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
