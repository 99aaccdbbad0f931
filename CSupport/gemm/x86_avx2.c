#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "base/base.h"
#include "gemm/gemm.h"

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX2))), apply_to = function)

#define HSSL_WIDTH 8
#define HSSL_OUTPUT_F32 hssl_gemm_output_f32__avx2
#define HSSL_OUTPUT_S32 hssl_gemm_output_s32_f32__avx2
#include "gemm/output.h"
#include "gemm/x86_tiles.h"

// 12 accumulators, 2 vectors of B, 1 broadcast of A.
HSSL_INLINE void float_tile(bool half, int rows, int vectors, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k, const void *panel, float *tile,
                            bool add, const hssl_gemm_prefetch *next) {
    __m256 sum[6][2];
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] = _mm256_setzero_ps();
    const float *b = panel;
    const uint16_t *b_half = panel;
    hssl_gemm_prefetch ahead = *next;
    for (ptrdiff_t k = 0; k < K; ++k, a += a_k, b += PANEL, b_half += PANEL, ahead.line += ahead.step) {
        __builtin_prefetch(ahead.line, 0, 2);
        __m256 y[2];
        HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
            y[v] = half ? _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(b_half + 8 * v))) : _mm256_loadu_ps(b + 8 * v);
        }
        HSSL_UNROLL for (int r = 0; r < rows; ++r) {
            const __m256 x = _mm256_broadcast_ss(a + r * a_row);
            HSSL_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] = _mm256_fmadd_ps(x, y[v], sum[r][v]);
        }
    }
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        float *const out = tile + r * PANEL + 8 * v;
        _mm256_storeu_ps(out, add ? _mm256_add_ps(_mm256_loadu_ps(out), sum[r][v]) : sum[r][v]);
    }
}

void hssl_gemm_f32_6x16__avx2(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                              const void *b, float *tile, bool add, const hssl_gemm_prefetch *next) {
#define CASE(R, V) float_tile(false, R, V, K, a, a_row, a_k, b, tile, add, next)
    HSSL_TILE_SWITCH_6x2(rows, (columns + 7) / 8, CASE)
#undef CASE
}

void hssl_gemm_f16_6x16__avx2(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                              const void *b, float *tile, bool add, const hssl_gemm_prefetch *next) {
#define CASE(R, V) float_tile(true, R, V, K, a, a_row, a_k, b, tile, add, next)
    HSSL_TILE_SWITCH_6x2(rows, (columns + 7) / 8, CASE)
#undef CASE
}

// |a| × sign(b, a): VPMADDUBSW on the raw u8 would saturate at 2·255·127; with |a| ≤ 127 its pairs reach at most 32258.
HSSL_INLINE void integer_tile(int rows, int vectors, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const int8_t *b, int32_t *tile,
                              const hssl_gemm_prefetch *next) {
    __m256i sum[4][2];
    const __m256i ones = _mm256_set1_epi16(1);
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] = _mm256_setzero_si256();
    hssl_gemm_prefetch ahead = *next;
    for (ptrdiff_t k = 0; k < K; k += 4, b += 4 * PANEL, ahead.line += ahead.step) {
        __builtin_prefetch(ahead.line, 0, 2);
        __m256i y[2];
        HSSL_UNROLL for (int v = 0; v < vectors; ++v) y[v] = _mm256_loadu_si256((const __m256i *)(b + 32 * v));
        HSSL_UNROLL for (int r = 0; r < rows; ++r) {
            int32_t four;
            memcpy(&four, a + r * lda + k, 4);
            const __m256i x = _mm256_set1_epi32(four ^ (int32_t)0x80808080), magnitude = _mm256_abs_epi8(x);
            HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
                const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(y[v], x));
                sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        _mm256_storeu_si256((__m256i *)(tile + r * PANEL + 8 * v), sum[r][v]);
    }
}

void hssl_gemm_u8s8_s32_4x16c4__avx2(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const void *panel,
                                     ptrdiff_t first, int32_t *tile, const hssl_gemm_prefetch *next) {
    const int8_t *b = (const int8_t *)panel + 4 * PANEL + 4 * first;
#define CASE(R, V) integer_tile(R, V, K, a, lda, b, tile, next)
    HSSL_TILE_SWITCH_4x2(rows, (columns + 7) / 8, CASE)
#undef CASE
}

enum { ACCUMULATORS = 14 };  // of 16 registers: latency 4–5 × 2 a cycle needs 10

double hssl_peak_f32__avx2(ptrdiff_t iterations) {
    __m256 sum[ACCUMULATORS], x = _mm256_set1_ps(1.0f);
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) sum[j] = _mm256_setzero_ps();
    for (ptrdiff_t i = 0; i < iterations; ++i) {
        HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) sum[j] = _mm256_fmadd_ps(x, x, sum[j]);
    }
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) __asm__ volatile("" : : "x"(sum[j]));
    return 2.0 * 8 * ACCUMULATORS * (double)iterations;
}

double hssl_peak_u8s8__avx2(ptrdiff_t iterations) {
    __m256i sum[ACCUMULATORS - 1], x = _mm256_set1_epi8(1);
    const __m256i ones = _mm256_set1_epi16(1);
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS - 1; ++j) sum[j] = _mm256_setzero_si256();
    for (ptrdiff_t i = 0; i < iterations; ++i) {
        HSSL_UNROLL for (int j = 0; j < ACCUMULATORS - 1; ++j) {
            sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(_mm256_maddubs_epi16(x, x), ones));
            __asm__ volatile("" : "+x"(x));  // or the products would be one
        }
    }
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS - 1; ++j) __asm__ volatile("" : : "x"(sum[j]));
    return 2.0 * 32 * (ACCUMULATORS - 1) * (double)iterations;
}

#pragma clang attribute pop
#endif
