// How drivers split work: contiguous ranges of rows or columns, one a thread. Included by driver.c files only.
#ifndef HSSL_PARTITION_H
#define HSSL_PARTITION_H

#include "CSupport.h"

// Swift's clang has no omp.h; these two are all that the drivers call.
int omp_get_thread_num(void);
int omp_get_num_threads(void);

typedef struct {
    ptrdiff_t begin, end;
} hssl_range;

/// The `part`-th of `parts` nearly equal ranges of 0 ..< n; bounds are multiples of `granule` (except n), so that two threads do not write
/// one cache line (granule 16 floats).
static inline hssl_range hssl_range_of(ptrdiff_t n, ptrdiff_t granule, int part, int parts) {
    ptrdiff_t units = (n + granule - 1) / granule;
    hssl_range range = {units * part / parts * granule, units * (part + 1) / parts * granule};
    if (range.begin > n) range.begin = n;
    if (range.end > n) range.end = n;
    return range;
}

static inline hssl_range hssl_range_of_this_thread(ptrdiff_t n, ptrdiff_t granule) {
    return hssl_range_of(n, granule, omp_get_thread_num(), omp_get_num_threads());
}

/// Threads worth waking: one for every `grain` units of work. Waking a sleeping thread costs about 10 µs.
static inline int hssl_threads_for(ptrdiff_t work, ptrdiff_t grain) {
    ptrdiff_t wanted = work / grain, available = hssl_get_threads();
    return wanted < 2 ? 1 : (int)(wanted < available ? wanted : available);
}

/// Elements per thread that pay for a wake-up: memory-bound arithmetic, and arithmetic with an exponential.
enum { HSSL_GRAIN_STREAM = 32768, HSSL_GRAIN_EXP = 8192 };

#endif
