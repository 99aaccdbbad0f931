#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "base/base.h"
#include "gemm/gemm.h"

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX512VNNI))), apply_to = function)

#define HSSL_WIDTH 16
#include "base/vector.h"
#include "base/x86_vnni.h"
#include "gemm/output.h"
#include "gemm/x86_tiles.h"

typedef struct {
    __m512i sum[6][4];
    const uint8_t *a;
    const int8_t *b;
    hssl_gemm_prefetch next;
} tile_state;

HSSL_INLINE void begin_tile(int rows, int vectors, tile_state *t) {
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) t->sum[r][v] = hssl_zero();
}

HSSL_INLINE __m512i four_codes(const uint8_t *a) {
    int32_t four;
    memcpy(&four, a, 4);
    return _mm512_set1_epi32(four);
}

// Four bytes of K. VPDPBUSD takes u8 × s8 as they are, exactly; the zero point is in the start values.
HSSL_INLINE void step_tile(int rows, int vectors, ptrdiff_t lda, tile_state *t) {
    __builtin_prefetch(t->next.line, 0, 2);
    __m512i y[4];
    HSSL_UNROLL for (int v = 0; v < vectors; ++v) y[v] = _mm512_loadu_si512(t->b + 64 * v);
    HSSL_UNROLL for (int r = 0; r < rows; ++r) {
        const __m512i x = four_codes(t->a + r * lda);
        HSSL_UNROLL for (int v = 0; v < vectors; ++v) t->sum[r][v] = _mm512_dpbusd_epi32(t->sum[r][v], x, y[v]);
    }
    t->a += 4;
    t->b += 4 * PANEL;
    t->next.line += t->next.step;
}

// The last steps go row by row, so that a row's stores leave while the rows below are multiplied: in one burst they
// take 24 cycles more, of 2304 with K = 384.
enum { LAST_STEPS = 4 };
HSSL_INLINE void end_tile(int rows, int vectors, ptrdiff_t steps, ptrdiff_t lda, const int32_t *start, tile_state *t,
                          int32_t *tile) {
    HSSL_UNROLL for (int r = 0; r < rows; ++r) {
        HSSL_UNROLL for (int s = 0; s < LAST_STEPS; ++s) {
            if (s >= steps) break;
            if (r == 0) __builtin_prefetch(t->next.line + s * t->next.step, 0, 2);
            const __m512i x = four_codes(t->a + r * lda + 4 * s);
            HSSL_UNROLL for (int v = 0; v < vectors; ++v) t->sum[r][v] = _mm512_dpbusd_epi32(
                t->sum[r][v], x, _mm512_loadu_si512(t->b + 4 * PANEL * s + 64 * v));
        }
        HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
            _mm512_storeu_si512(tile + r * PANEL + 16 * v,
                                _mm512_add_epi32(t->sum[r][v], _mm512_loadu_si512(start + 16 * v)));
        }
        __asm__ volatile("" : : : "memory");  // clang would gather the stores
    }
}

HSSL_INLINE void integer_tile(int rows, int vectors, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const int32_t *start,
                              const int8_t *b, int32_t *tile, const hssl_gemm_prefetch *next) {
    tile_state t = {.a = a, .b = b, .next = *next};
    begin_tile(rows, vectors, &t);
    ptrdiff_t s = 0;
    for (; s < K / 4 - LAST_STEPS; ++s) step_tile(rows, vectors, lda, &t);
    end_tile(rows, vectors, K / 4 - s, lda, start, &t, tile);
}

void hssl_gemm_u8s8_s32_6x64c4__avx512vnni(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const uint8_t *a,
                                           ptrdiff_t lda, const void *panel, int32_t *tile,
                                           const hssl_gemm_prefetch *next) {
    const int32_t *start = panel;
    const int8_t *b = hssl_gemm_u8s8_codes(panel);
#define CASE(R, V) integer_tile(R, V, K, a, lda, start, b, tile, next)
    HSSL_TILE_SWITCH_6x4(rows, (columns + 15) / 16, CASE)
#undef CASE
}

// The 24 vectors of the tile before go through the output stage between equal parts of this product, whose
// multiply-adds leave half of the issue slots and two of four ports to them. Between tiles the stage would have the
// core for itself.
HSSL_INLINE void pipelined_tile(bool half, hssl_activation activation, bool residual, int rows, ptrdiff_t K,
                                const uint8_t *a, ptrdiff_t lda, const void *panel, int32_t *tile,
                                const int32_t *before, const hssl_gemm_target *target, const hssl_gemm_prefetch *next) {
    enum { ROWS = 6, VECTORS = ROWS * 4 };
    tile_state t = {.a = a, .b = hssl_gemm_u8s8_codes(panel), .next = *next};
    begin_tile(rows, 4, &t);
    const ptrdiff_t steps = K / 4, part = hssl_max(0, steps - LAST_STEPS) / VECTORS;
    const hssl_gemm_target to = *target;  // a copy that no store can alias
    for (ptrdiff_t r = 0; r < ROWS; ++r) {
        _Pragma("clang loop unroll(disable)")
        for (ptrdiff_t c = 0; c < PANEL; c += 16) {
            for (ptrdiff_t s = 0; s < part; ++s) step_tile(rows, 4, lda, &t);
            const hssl_vi value = (hssl_vi)_mm512_loadu_si512(before + r * PANEL + c);
            hssl_output_pipelined(half, activation, residual,
                                  hssl_output_scaled(value, to.a_scale[r], hssl_load(to.b_scale + c)), r, c, &to);
        }
    }
    ptrdiff_t s = VECTORS * part;
    for (; s < steps - LAST_STEPS; ++s) step_tile(rows, 4, lda, &t);
    end_tile(rows, 4, steps - s, lda, panel, &t, tile);
}

void hssl_gemm_u8s8_pipelined_6x64c4__avx512vnni(ptrdiff_t rows, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda,
                                                 const void *panel, int32_t *tile, const int32_t *before,
                                                 const hssl_gemm_target *target, const hssl_gemm_prefetch *next) {
#define CASE(HALF, ACTIVATION, RESIDUAL, ROWS) \
    pipelined_tile(HALF, ACTIVATION, RESIDUAL, ROWS, K, a, lda, panel, tile, before, target, next)
#define TILE(ROWS) \
    if (target->activation == HSSL_ACTIVATION_GELU_COARSE) CASE(true, HSSL_ACTIVATION_GELU_COARSE, false, ROWS); \
    else if (target->half) CASE(true, HSSL_ACTIVATION_NONE, false, ROWS); \
    else if (target->residual) CASE(false, HSSL_ACTIVATION_NONE, true, ROWS); \
    else CASE(false, HSSL_ACTIVATION_NONE, false, ROWS); \
    break
    switch (rows) {
        case 1: TILE(1);
        case 2: TILE(2);
        case 3: TILE(3);
        case 4: TILE(4);
        case 5: TILE(5);
        case 6: TILE(6);
    }
#undef TILE
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
