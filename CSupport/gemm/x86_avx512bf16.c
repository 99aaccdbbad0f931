// Products of bfloat16 pairs, for weight gradients: an instruction adds two products to each of 16 sums.
#if defined(__x86_64__)
#include <immintrin.h>

#include "base/base.h"
#include "gemm/gemm.h"

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX512BF16))), apply_to = function)

#define HSSL_INLINE static inline __attribute__((always_inline, unused))
#include "gemm/x86_tiles.h"

// The conversion rounds to nearest even and keeps NaN; the first source ends up in the upper half.
HSSL_INLINE __m512i interleaved(__m512 even, __m512 odd, __m512i order) {
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

void hssl_gemm_bf16_pairs__avx512bf16(ptrdiff_t n, const float *even, const float *odd, uint32_t *pairs) {
    // Word 2i is element i of the lower half, word 2i + 1 of the upper one.
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i order = _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(16)), 16));
    for (ptrdiff_t i = 0; i < n; i += 16) {
        const __mmask16 mask = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : (__mmask16)-1;
        const __m512 x = _mm512_maskz_loadu_ps(mask, even + i);
        const __m512 y = odd ? _mm512_maskz_loadu_ps(mask, odd + i) : _mm512_setzero_ps();
        _mm512_mask_storeu_epi32(pairs + i, mask, interleaved(x, y, order));
    }
}

HSSL_INLINE void pair_tile(int rows, int vectors, ptrdiff_t steps, const uint32_t *a, ptrdiff_t a_step,
                           const uint32_t *b, float *tile, bool add) {
    __m512 sum[6][4];
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v
        < vectors; ++v) sum[r][v] = _mm512_setzero_ps();
    for (ptrdiff_t k = 0; k < steps; ++k, a += a_step, b += PANEL) {
        __m512bh y[4];
        HSSL_UNROLL for (int v = 0; v < vectors; ++v) y[v] = (__m512bh)_mm512_loadu_si512(b + 16 * v);
        HSSL_UNROLL for (int r = 0; r < rows; ++r) {
            const __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[r]);
            HSSL_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], x, y[v]);
        }
    }
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        float *const out = tile + r * PANEL + 16 * v;
        _mm512_storeu_ps(out, add ? _mm512_add_ps(_mm512_loadu_ps(out), sum[r][v]) : sum[r][v]);
    }
}

void hssl_gemm_bf16_6x64__avx512bf16(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t steps, const uint32_t *a,
                                     ptrdiff_t a_step, const uint32_t *b, float *tile, bool add) {
#define CASE(R, V) pair_tile(R, V, steps, a, a_step, b, tile, add)
    HSSL_TILE_SWITCH_6x4(rows, (columns + 15) / 16, CASE)
#undef CASE
}

#pragma clang attribute pop
#endif
