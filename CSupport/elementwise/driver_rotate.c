// Rotary positions. Products and sums of two, without fused multiply-add: compilers vectorise them, and every
// instruction set gives the same bits, so that there is one row.
#include "elementwise/partition.h"
#include <string.h>

/// One head of one token: (a, b) → (a·cos − b·sin, b·cos + a·sin), sin times `sign`.
static void rotate(ptrdiff_t half, const float *table, float sign, const float *restrict x, float *restrict y) {
    for (ptrdiff_t j = 0; j < half; ++j) {
        const float c = table[j], s = sign * table[half + j], a = x[j], b = x[half + j];
        y[j] = a * c - b * s;
        y[half + j] = b * c + a * s;
    }
}

void hssl_rotate_tokens(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t d, const float *table,
                        bool inverse, const float *x, float *y) {
    const ptrdiff_t D = heads * d, rows = batch * tokens;
    const int threads = hssl_team((double)(rows * 3 * D) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        const hssl_range own = hssl_range_of(rows, 1, part, threads);
        for (ptrdiff_t r = own.begin; r < own.end; ++r) {
            const float *const from = x + r * 3 * D;
            float *const to = y + r * 3 * D;
            for (ptrdiff_t h = 0; h < 2 * heads; ++h)
                rotate(d / 2, table + r % tokens * d, inverse ? -1.0f : 1.0f, from + h * d, to + h * d);
            memcpy(to + 2 * D, from + 2 * D, (size_t)D * sizeof(float));
        }
    });
}
