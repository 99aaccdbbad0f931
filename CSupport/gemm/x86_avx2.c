#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "base/base.h"
#include "gemm/gemm.h"

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX2))), apply_to = function)

enum { NR = 16 };
#define HSSL_WIDTH 8
#define HSSL_TILE_COLUMNS NR
#define HSSL_OUTPUT_F32 hssl_gemm_output_f32__avx2
#define HSSL_OUTPUT_S32 hssl_gemm_output_s32_f32__avx2
#include "gemm/output.h"
#include "gemm/x86_tiles.h"

// K rows of a slice, NR = 16 floats each: what a tile reads lies together in 16 KB of L1, where the panel's rows of 256 bytes would share a quarter of its sets.
HSSL_INLINE void float_slice(bool half, ptrdiff_t K, const void *panel, float *slice) {
    for (ptrdiff_t k = 0; k < K; ++k) HSSL_UNROLL for (int v = 0; v < 2; ++v) {
        const __m256 y = half ? _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const uint16_t *)panel + k * PANEL + 8 * v)))
                              : _mm256_loadu_ps((const float *)panel + k * PANEL + 8 * v);
        _mm256_store_ps(slice + k * NR + 8 * v, y);
    }
}

void hssl_gemm_f32_slice_16__avx2(ptrdiff_t K, const void *panel, float *slice) { float_slice(false, K, panel, slice); }
void hssl_gemm_f16_slice_16__avx2(ptrdiff_t K, const void *panel, float *slice) { float_slice(true, K, panel, slice); }

// One k: 12 accumulators, 2 vectors of B, 1 broadcast of A.
HSSL_INLINE void float_step(int rows, int vectors, const float *a, ptrdiff_t a_row, const float *b, __m256 sum[6][2]) {
    __m256 y[2];
    HSSL_UNROLL for (int v = 0; v < vectors; ++v) y[v] = _mm256_load_ps(b + 8 * v);
    HSSL_UNROLL for (int r = 0; r < rows; ++r) {
        const __m256 x = _mm256_broadcast_ss(a + r * a_row);
        HSSL_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] = _mm256_fmadd_ps(x, y[v], sum[r][v]);
    }
}

// Eight k at a time: a tile is bound by the instructions that are issued a cycle (3 where another hardware thread uses the core), of which the loop's are too many
// after each.
HSSL_INLINE void float_tile(int rows, int vectors, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k, const float *b, float *tile, bool add) {
    __m256 sum[6][2];
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] = _mm256_setzero_ps();
    ptrdiff_t k = 0;
    for (; k + 8 <= K; k += 8, a += 8 * a_k, b += 8 * NR) {
        HSSL_UNROLL for (int i = 0; i < 8; ++i) float_step(rows, vectors, a + i * a_k, a_row, b + i * NR, sum);
    }
    for (; k < K; ++k, a += a_k, b += NR) float_step(rows, vectors, a, a_row, b, sum);
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        float *const out = tile + r * NR + 8 * v;
        _mm256_storeu_ps(out, add ? _mm256_add_ps(_mm256_loadu_ps(out), sum[r][v]) : sum[r][v]);
    }
}

void hssl_gemm_f32_6x16__avx2(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                              const void *b, float *tile, bool add, const hssl_gemm_prefetch *next) {
#define CASE(R, V) float_tile(R, V, K, a, a_row, a_k, b, tile, add)
#define CASE_IN_PLACE(R, V) float_tile(R, V, K, a, a_row, 1, b, tile, add)
    (void)next;
    if (a_k == 1) {
        HSSL_TILE_SWITCH_6x2(rows, (columns + 7) / 8, CASE_IN_PLACE)
    } else {
        HSSL_TILE_SWITCH_6x2(rows, (columns + 7) / 8, CASE)
    }
#undef CASE_IN_PLACE
#undef CASE
}

// What the slice has widened.
void hssl_gemm_f16_6x16__avx2(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                              const void *b, float *tile, bool add, const hssl_gemm_prefetch *next) {
    hssl_gemm_f32_6x16__avx2(rows, columns, K, a, a_row, a_k, b, tile, add, next);
}

// Slices hold for every four k the codes of 16 columns, then their magnitudes.
void hssl_gemm_u8s8_slice_16__avx2(ptrdiff_t K, const int8_t *panel, int8_t *slice) {
    for (ptrdiff_t k = 0; k < K; k += 4, panel += 4 * PANEL, slice += 8 * NR) HSSL_UNROLL for (int v = 0; v < 2; ++v) {
        const __m256i y = _mm256_loadu_si256((const __m256i *)(panel + 32 * v));
        _mm256_store_si256((__m256i *)(slice + 32 * v), y);
        _mm256_store_si256((__m256i *)(slice + 4 * NR + 32 * v), _mm256_abs_epi8(y));
    }
}

void hssl_gemm_u8s8_center__avx2(ptrdiff_t rows, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, int8_t *codes) {
    const ptrdiff_t whole = K / 32 * 32;
    for (ptrdiff_t r = 0; r < rows; ++r, a += lda, codes += K) {
        ptrdiff_t k = 0;
        for (; k < whole; k += 32) {
            const __m256i x = _mm256_loadu_si256((const __m256i *)(a + k));
            _mm256_storeu_si256((__m256i *)(codes + k), _mm256_xor_si256(x, _mm256_set1_epi8(INT8_MIN)));
        }
        for (; k < K; ++k) codes[k] = (int8_t)(a[k] ^ 0x80);
    }
}

// Four k: |b| × sign(a, b). VPMADDUBSW on the raw u8 would saturate at 2·255·127; with |b| ≤ 127 its pairs reach at most 32258.
HSSL_INLINE void integer_step(int rows, int vectors, const int8_t *a, ptrdiff_t lda, const int8_t *b, __m256i sum[4][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i magnitude[2];
    HSSL_UNROLL for (int v = 0; v < vectors; ++v) magnitude[v] = _mm256_load_si256((const __m256i *)(b + 4 * NR + 32 * v));
    HSSL_UNROLL for (int r = 0; r < rows; ++r) {
        int32_t four;
        memcpy(&four, a + r * lda, 4);
        const __m256i x = _mm256_set1_epi32(four);
        HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
            const __m256i pairs = _mm256_maddubs_epi16(magnitude[v], _mm256_sign_epi8(x, _mm256_load_si256((const __m256i *)(b + 32 * v))));
            sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(pairs, ones));
        }
    }
}

HSSL_INLINE void integer_tile(int rows, int vectors, ptrdiff_t K, const int8_t *a, ptrdiff_t lda, const int8_t *b, int32_t *tile) {
    __m256i sum[4][2];
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] = _mm256_setzero_si256();
    ptrdiff_t k = 0;
    for (; k + 16 <= K; k += 16, a += 16, b += 32 * NR) {
        HSSL_UNROLL for (int i = 0; i < 4; ++i) integer_step(rows, vectors, a + 4 * i, lda, b + 8 * NR * i, sum);
    }
    for (; k < K; k += 4, a += 4, b += 8 * NR) integer_step(rows, vectors, a, lda, b, sum);
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        _mm256_storeu_si256((__m256i *)(tile + r * NR + 8 * v), sum[r][v]);
    }
}

void hssl_gemm_u8s8_s32_4x16c4__avx2(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const void *slice,
                                     int32_t *tile, const hssl_gemm_prefetch *next) {
#define CASE(R, V) integer_tile(R, V, K, (const int8_t *)a, lda, slice, tile)
    (void)next;
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
