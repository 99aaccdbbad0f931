#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "base/base.h"
#include "gemm/gemm.h"

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX512VNNI))), apply_to = function)

#define HSSL_WIDTH 16
#include "base/vector.h"
#include "base/x86_vnni.h"
#include "gemm/x86_tiles.h"

// VPDPBUSD takes u8 × s8 as they are, exactly; the zero point is in the start values. VPDPWSSD takes pairs of `words` at half the rate.
HSSL_INLINE void integer_tile(bool words, int rows, int vectors, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const int32_t *start, const int8_t *b,
                              int32_t *tile, hssl_gemm_prefetch next) {
    __m512i sum[6][4];
    HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        const __m512i s = _mm512_loadu_si512(start + 16 * v);
        HSSL_UNROLL for (int r = 0; r < rows; ++r) sum[r][v] = s;
    }
    for (ptrdiff_t k = 0; k < K; k += 4, b += 4 * PANEL, a += 4, next.line += next.step) {
        __builtin_prefetch(next.line, 0, 2);
        __m512i y[4];
        HSSL_UNROLL for (int v = 0; v < vectors; ++v) y[v] = _mm512_loadu_si512(b + 64 * v);
        HSSL_UNROLL for (int r = 0; r < rows; ++r) {
            int32_t four;
            memcpy(&four, a + r * lda, 4);
            const __m512i x = _mm512_set1_epi32(four);
            HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
                sum[r][v] = words ? hssl_dpwssd(sum[r][v], x, y[v]) : _mm512_dpbusd_epi32(sum[r][v], x, y[v]);
            }
        }
    }
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        _mm512_storeu_si512(tile + r * PANEL + 16 * v, sum[r][v]);
    }
}

void hssl_gemm_u8s8_s32_6x64c4__avx512vnni(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda,
                                           const void *panel, ptrdiff_t first, int32_t *tile, hssl_gemm_prefetch next) {
    const int32_t *start = (const int32_t *)panel + first;
    const int8_t *b = (const int8_t *)panel + 4 * PANEL + 4 * first;
#define CASE(R, V) integer_tile(false, R, V, K, a, lda, start, b, tile, next)
    HSSL_TILE_SWITCH_6x4(rows, (columns + 15) / 16, CASE)
#undef CASE
}

void hssl_gemm_s16_s32_6x64c2__avx512vnni(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda,
                                          const void *panel, ptrdiff_t first, int32_t *tile, hssl_gemm_prefetch next) {
    const int32_t *start = (const int32_t *)panel + first;
    const int8_t *b = (const int8_t *)panel + 4 * PANEL + 4 * first;
#define CASE(R, V) integer_tile(true, R, V, K, a, lda, start, b, tile, next)
    HSSL_TILE_SWITCH_6x4(rows, (columns + 15) / 16, CASE)
#undef CASE
}

double hssl_peak_u8s8__avx512vnni(ptrdiff_t iterations) {
    enum { ACCUMULATORS = 24 };
    __m512i sum[ACCUMULATORS], x = _mm512_set1_epi8(1);
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) sum[j] = _mm512_setzero_si512();
    for (ptrdiff_t i = 0; i < iterations; ++i) {
        HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) sum[j] = _mm512_dpbusd_epi32(sum[j], x, x);
    }
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) __asm__ volatile("" : : "v"(sum[j]));
    return 2.0 * 64 * ACCUMULATORS * (double)iterations;
}

#pragma clang attribute pop
#endif
