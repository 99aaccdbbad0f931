// Counts what a test program asks of the C heap and of the kernel, on all its threads: the functions take the place of
// glibc's.
#ifndef HSSL_ALLOCATION_COUNTER_H
#define HSSL_ALLOCATION_COUNTER_H

#include <stdint.h>

/// Calls so far of malloc, calloc, realloc, the aligned kinds, and mmap, OpenMP's run-time included; −1 where they
/// cannot be counted (another C library, a sanitizer).
int64_t allocation_count(void);

/// Bytes of the C heap in use.
int64_t heap_bytes(void);

#endif
