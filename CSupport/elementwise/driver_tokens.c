// Moves of whole tokens: permutation of a sample's rows and its transpose. No arithmetic but the sums of a permutation
// that repeats rows.
#include "elementwise/partition.h"
#include <string.h>

/// Copies the rows of one sample. Neighbours that stay neighbours (the tokens of a window's row) are one copy.
static void permute(ptrdiff_t to, ptrdiff_t D, const int32_t *index, const float *x, float *y) {
    for (ptrdiff_t i = 0, n; i < to; i += n) {
        const ptrdiff_t step = index[i] >= 0;  // zeros follow zeros, a token its neighbour
        for (n = 1; i + n < to && index[i + n] == index[i] + n * step; ++n) {}
        if (step) memcpy(y + i * D, x + index[i] * D, (size_t)(n * D) * sizeof(float));
        else memset(y + i * D, 0, (size_t)(n * D) * sizeof(float));
    }
}

void hssl_permute_tokens(ptrdiff_t batch, ptrdiff_t from, ptrdiff_t to, ptrdiff_t D, const int32_t *index,
                         const float *x, float *y) {
    const int threads = hssl_team((double)(batch * to * D) * HSSL_WORK_STREAM);
    // A small batch is cut within its samples, too.
    const ptrdiff_t pieces = batch >= threads ? 1 : hssl_min(threads, hssl_max(to, 1)), tasks = batch * pieces;
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t t = hssl_split(tasks, threads, part); t < hssl_split(tasks, threads, part + 1); ++t) {
            const ptrdiff_t b = t / pieces;
            const hssl_range own = hssl_range_of(to, 1, (int)(t % pieces), (int)pieces);
            permute(own.end - own.begin, D, index + own.begin, x + b * from * D, y + (b * to + own.begin) * D);
        }
    });
}

void hssl_permute_tokens_backward(ptrdiff_t batch, ptrdiff_t from, ptrdiff_t to, ptrdiff_t D, const int32_t *index,
                                  const float *dy, float *dx) {
    const int threads = hssl_team((double)(batch * (from + 2 * to) * D) * HSSL_WORK_STREAM);
    // Rows may repeat, so a sample is cut by columns: every sum is walked in the order of the index.
    const ptrdiff_t pieces = batch >= threads ? 1 : hssl_min(threads, hssl_ceil_div(D, 16)), tasks = batch * pieces;
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t t = hssl_split(tasks, threads, part); t < hssl_split(tasks, threads, part + 1); ++t) {
            const ptrdiff_t b = t / pieces;
            const hssl_range own = hssl_range_of(D, 16, (int)(t % pieces), (int)pieces);
            const ptrdiff_t n = own.end - own.begin;
            float *const sample = dx + b * from * D + own.begin;
            const float *const gradient = dy + b * to * D + own.begin;
            if (n == D) memset(sample, 0, (size_t)(from * D) * sizeof(float));
            else for (ptrdiff_t i = 0; i < from; ++i) memset(sample + i * D, 0, (size_t)n * sizeof(float));
            for (ptrdiff_t i = 0; i < to; ++i) {
                if (index[i] < 0) continue;
                float *const row = sample + index[i] * D;
                const float *const g = gradient + i * D;
                for (ptrdiff_t c = 0; c < n; ++c) row[c] += g[c];
            }
        }
    });
}

typedef float four __attribute__((vector_size(16)));

/// y[d·N + t] = x[t·D + d] for 4 tokens and 4 elements.
static inline void transpose_4x4(const float *x, ptrdiff_t D, float *y, ptrdiff_t N) {
    four r[4];
    for (int i = 0; i < 4; ++i) memcpy(&r[i], x + i * D, sizeof r[i]);
    const four a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
    const four c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7), d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    const four out[4] = {__builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
                         __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
    for (int i = 0; i < 4; ++i) memcpy(y + i * N, &out[i], sizeof out[i]);
}

/// Elements of a strip: the lines that 16 elements of all tokens are written to stay in L1 until they are full.
enum { STRIP = 16 };

/// Elements begin ..< end of all tokens of one sample.
static void transpose(ptrdiff_t N, ptrdiff_t D, ptrdiff_t begin, ptrdiff_t end, const float *x, float *y) {
    for (ptrdiff_t d0 = begin; d0 < end; d0 += STRIP) {
        const ptrdiff_t d1 = hssl_min(end, d0 + STRIP), whole = d0 + (d1 - d0) / 4 * 4;
        ptrdiff_t t = 0;
        for (; t + 4 <= N; t += 4) {
            for (ptrdiff_t d = d0; d < whole; d += 4) transpose_4x4(x + t * D + d, D, y + d * N + t, N);
            for (ptrdiff_t d = whole; d < d1; ++d)
                for (int i = 0; i < 4; ++i) y[d * N + t + i] = x[(t + i) * D + d];
        }
        for (; t < N; ++t)
            for (ptrdiff_t d = d0; d < d1; ++d) y[d * N + t] = x[t * D + d];
    }
}

void hssl_transpose_tokens(ptrdiff_t batch, ptrdiff_t N, ptrdiff_t D, const float *x, float *y) {
    const int threads = hssl_team((double)(batch * N * D) * HSSL_WORK_STREAM);
    const ptrdiff_t pieces = batch >= threads ? 1 : hssl_min(threads, hssl_ceil_div(D, STRIP)), tasks = batch * pieces;
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t t = hssl_split(tasks, threads, part); t < hssl_split(tasks, threads, part + 1); ++t) {
            const hssl_range own = hssl_range_of(D, STRIP, (int)(t % pieces), (int)pieces);
            transpose(N, D, own.begin, own.end, x + t / pieces * N * D, y + t / pieces * N * D);
        }
    });
}
