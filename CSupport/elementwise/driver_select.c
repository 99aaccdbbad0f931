// The largest numbers of rows, and the order of all of them. No arithmetic, so no rows by instruction set: comparisons
// of a whole block against one number vectorise by themselves.
#include <string.h>

#include "elementwise/partition.h"

typedef struct {
    float *value;
    int32_t *index;
} heap;

/// The worst kept one is at the root: the smallest, of equal ones the last.
static bool worse(heap h, ptrdiff_t a, ptrdiff_t b) {
    return h.value[a] < h.value[b] || (h.value[a] == h.value[b] && h.index[a] > h.index[b]);
}

static void exchange(heap h, ptrdiff_t a, ptrdiff_t b) {
    const float value = h.value[a];
    const int32_t index = h.index[a];
    h.value[a] = h.value[b];
    h.index[a] = h.index[b];
    h.value[b] = value;
    h.index[b] = index;
}

static void sift_up(heap h, ptrdiff_t child) {
    for (ptrdiff_t parent; child > 0 && worse(h, child, parent = (child - 1) / 2); child = parent) {
        exchange(h, child, parent);
    }
}

static void sift_down(heap h, ptrdiff_t size) {
    for (ptrdiff_t parent = 0;;) {
        ptrdiff_t worst = parent;
        for (ptrdiff_t child = 2 * parent + 1; child < hssl_min(2 * parent + 3, size); ++child) {
            if (worse(h, child, worst)) worst = child;
        }
        if (worst == parent) return;
        exchange(h, parent, worst);
        parent = worst;
    }
}

enum { SCAN = 32 };
static bool any_above(const float *x, float bound) {
    uint32_t found = 0;
    for (int i = 0; i < SCAN; ++i) found |= x[i] > bound;
    return found;
}

static void keep(ptrdiff_t columns, const float *x, int32_t first, ptrdiff_t k, ptrdiff_t kept, heap h) {
    ptrdiff_t i = 0;
    for (; kept < k && i < columns; ++i, ++kept) {
        h.value[kept] = x[i];
        h.index[kept] = first + (int32_t)i;
        sift_up(h, kept);
    }
    // An equal newcomer has a higher index and loses.
    while (i < columns) {
        if (i + SCAN <= columns && !any_above(x + i, h.value[0])) {
            i += SCAN;
            continue;
        }
        for (const ptrdiff_t end = hssl_min(i + SCAN, columns); i < end; ++i) {
            if (!(x[i] > h.value[0])) continue;
            h.value[0] = x[i];
            h.index[0] = first + (int32_t)i;
            sift_down(h, k);
        }
    }
}

void hssl_keep_largest(ptrdiff_t rows, ptrdiff_t columns, const float *x, ptrdiff_t ldx, int32_t first, ptrdiff_t k,
                       ptrdiff_t kept, float *values, int32_t *indices) {
    if (k <= 0) return;
    const int threads = hssl_team((double)(rows * columns) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        const hssl_range own = hssl_range_of(rows, 1, part, threads);
        for (ptrdiff_t r = own.begin; r < own.end; ++r) {
            keep(columns, x + r * ldx, first, k, kept, (heap){values + r * k, indices + r * k});
        }
    });
}

/// Larger numbers have smaller keys; −0 and 0 have one.
static uint32_t key_of(float x) {
    const float plain = x + 0.0f;
    uint32_t bits;
    memcpy(&bits, &plain, sizeof bits);
    return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}

// A radix sort of 3 × 11 bits keeps equal numbers in their order.
enum { DIGIT = 11, BUCKETS = 1 << DIGIT };

static void sort_row(ptrdiff_t n, const float *x, int32_t *order, uint32_t *key, int32_t *other, uint32_t *other_key) {
    ptrdiff_t start[BUCKETS];
    int32_t *from = other, *to = order;
    uint32_t *from_key = other_key, *to_key = key;
    for (ptrdiff_t i = 0; i < n; ++i) {
        from[i] = (int32_t)i;
        from_key[i] = key_of(x[i]);
    }
    for (int pass = 0; pass < 3; ++pass) {
        const int shift = pass * DIGIT;
        memset(start, 0, sizeof start);
        for (ptrdiff_t i = 0; i < n; ++i) ++start[from_key[i] >> shift & (BUCKETS - 1)];
        ptrdiff_t before = 0;
        for (int b = 0; b < BUCKETS; ++b) {
            const ptrdiff_t count = start[b];
            start[b] = before;
            before += count;
        }
        for (ptrdiff_t i = 0; i < n; ++i) {
            const ptrdiff_t place = start[from_key[i] >> shift & (BUCKETS - 1)]++;
            to[place] = from[i];
            to_key[place] = from_key[i];
        }
        int32_t *const order_before = from;
        uint32_t *const key_before = from_key;
        from = to;
        from_key = to_key;
        to = order_before;
        to_key = key_before;
    }
}

size_t hssl_sort_descending_workspace_size(ptrdiff_t columns) {
    return (size_t)hssl_get_threads() * (size_t)columns * (2 * sizeof(uint32_t) + sizeof(int32_t));
}

void hssl_sort_descending(ptrdiff_t rows, ptrdiff_t columns, const float *x, ptrdiff_t ldx, int32_t *order,
                          void *workspace) {
    const int threads = hssl_team((double)(rows * columns) * HSSL_WORK_EXP);
    HSSL_TEAM(threads, part, {
        uint32_t *const own_keys = (uint32_t *)workspace + (ptrdiff_t)part * columns * 3;
        const hssl_range own = hssl_range_of(rows, 1, part, threads);
        for (ptrdiff_t r = own.begin; r < own.end; ++r) {
            sort_row(columns, x + r * ldx, order + r * columns, own_keys, (int32_t *)(own_keys + columns),
                     own_keys + 2 * columns);
        }
    });
}
