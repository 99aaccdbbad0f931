// How drivers split work: contiguous ranges of rows or columns, one a thread. Included by driver.c files only.
#ifndef HSSL_PARTITION_H
#define HSSL_PARTITION_H

#include "base/base.h"

typedef struct {
    ptrdiff_t begin, end;
} hssl_range;

/// The `part`-th of `parts` nearly equal ranges of 0 ..< n; bounds are multiples of `granule` (except n), so that two
/// threads do not write one cache line (granule 16 floats).
static inline hssl_range hssl_range_of(ptrdiff_t n, ptrdiff_t granule, int part, int parts) {
    ptrdiff_t units = hssl_ceil_div(n, granule);
    return (hssl_range){hssl_min(n, hssl_split(units, parts, part) * granule),
                        hssl_min(n, hssl_split(units, parts, part + 1) * granule)};
}

/// Units of `hssl_team` work: per streamed element, per element with an exponential, per multiply-add of a
/// register-tiled loop.
enum { HSSL_WORK_STREAM = 8, HSSL_WORK_EXP = 32, HSSL_WORK_MULTIPLY_ADD = 4 };

#endif
