#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "base/base.h"
#include "gemm/gemm.h"

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX512))), apply_to = function)

#define HSSL_WIDTH 16
#define HSSL_OUTPUT_F32 hssl_gemm_output_f32__avx512
#define HSSL_OUTPUT_S32 hssl_gemm_output_s32_f32__avx512
#include "gemm/output.h"
#include "gemm/x86_tiles.h"

typedef struct {
    __m512 sum[12][4];
    const float *a;
    const void *b;
    hssl_gemm_prefetch next;
} float_state;

HSSL_INLINE void begin_floats(int rows, int vectors, float_state *t) {
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) t->sum[r][v] = _mm512_setzero_ps();
}

// One k of rows × 16·vectors, both constants after inlining: 24 accumulators. As 6 × 4, float32 asks least of the load ports; as 12 × 2, binary16 is widened
// half as often and keeps the rate of float32.
HSSL_INLINE void step_floats(bool half, int rows, int vectors, ptrdiff_t a_row, ptrdiff_t a_k, float_state *t) {
    __builtin_prefetch(t->next.line, 0, 2);
    __m512 y[4];
    HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        y[v] = half ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)t->b + v)) : _mm512_loadu_ps((const float *)t->b + 16 * v);
    }
    HSSL_UNROLL for (int r = 0; r < rows; ++r) {
        const float *const a = t->a + r * a_row;
        if (r % (half ? 2 : 3) == 1) {  // clang would broadcast once; see README.md
            HSSL_UNROLL for (int v = 0; v < vectors; ++v) __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(t->sum[r][v]) : "v"(y[v]), "m"(*a));
        } else {
            const __m512 x = _mm512_set1_ps(*a);
            HSSL_UNROLL for (int v = 0; v < vectors; ++v) t->sum[r][v] = _mm512_fmadd_ps(x, y[v], t->sum[r][v]);
        }
    }
    t->a += a_k;
    t->b = half ? (const void *)((const uint16_t *)t->b + PANEL) : (const void *)((const float *)t->b + PANEL);
    t->next.line += t->next.step;
}

HSSL_INLINE void end_floats(int rows, int vectors, const float_state *t, float *tile, bool add) {
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        float *const out = tile + r * PANEL + 16 * v;
        _mm512_storeu_ps(out, add ? _mm512_add_ps(_mm512_loadu_ps(out), t->sum[r][v]) : t->sum[r][v]);
    }
}

HSSL_INLINE void float_tile(bool half, int rows, int vectors, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k, const void *panel, float *tile,
                            bool add, const hssl_gemm_prefetch *next) {
    float_state t = {.a = a, .b = panel, .next = *next};
    begin_floats(rows, vectors, &t);
    for (ptrdiff_t k = 0; k < K; ++k) step_floats(half, rows, vectors, a_row, a_k, &t);
    end_floats(rows, vectors, &t, tile, add);
}

// The 24 vectors of `before`, 6 × 4 or 12 × 2 as well, go through the output stage between equal parts of this product; see x86_avx512vnni.c.
HSSL_INLINE void pipelined_floats(bool half, hssl_activation activation, bool residual, int rows, int vectors, ptrdiff_t K, const float *a, ptrdiff_t a_row,
                                  ptrdiff_t a_k, const void *panel, ptrdiff_t first, float *tile, bool add, const float *before,
                                  const hssl_gemm_target *target, const hssl_gemm_prefetch *next) {
    float_state t = {.a = a, .b = panel, .next = *next};
    begin_floats(rows, vectors, &t);
    const ptrdiff_t part = K / 24;
    const hssl_gemm_target to = *target;  // a copy that no store can alias
    for (ptrdiff_t r = 0; r < 24 / vectors; ++r) {
        _Pragma("clang loop unroll(disable)")
        for (ptrdiff_t c = first; c < first + 16 * vectors; c += 16) {
            for (ptrdiff_t s = 0; s < part; ++s) step_floats(half, rows, vectors, a_row, a_k, &t);
            hssl_output_pipelined(activation, residual, hssl_load(before + r * PANEL + c), r, c, &to);
        }
    }
    for (ptrdiff_t k = 24 * part; k < K; ++k) step_floats(half, rows, vectors, a_row, a_k, &t);
    end_floats(rows, vectors, &t, tile + first, add);
}

// The stages that hssl_gemm_can_pipeline allows.
#define PIPELINED(HALF, ROWS, VECTORS, PANEL_, FIRST, NEXT)                                                                                           \
    if (target->activation == HSSL_ACTIVATION_GELU) {                                                                                                 \
        pipelined_floats(HALF, HSSL_ACTIVATION_GELU, false, ROWS, VECTORS, K, a, a_row, a_k, PANEL_, FIRST, tile, add, before, target, NEXT);         \
    } else if (target->residual) {                                                                                                                    \
        pipelined_floats(HALF, HSSL_ACTIVATION_NONE, true, ROWS, VECTORS, K, a, a_row, a_k, PANEL_, FIRST, tile, add, before, target, NEXT);          \
    } else {                                                                                                                                          \
        pipelined_floats(HALF, HSSL_ACTIVATION_NONE, false, ROWS, VECTORS, K, a, a_row, a_k, PANEL_, FIRST, tile, add, before, target, NEXT);         \
    }

void hssl_gemm_f32_pipelined_6x64__avx512(ptrdiff_t rows, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k, const void *b, float *tile, bool add,
                                          const float *before, const hssl_gemm_target *target, const hssl_gemm_prefetch *next) {
    switch (rows) {
        case 1: PIPELINED(false, 1, 4, b, 0, next) break;
        case 2: PIPELINED(false, 2, 4, b, 0, next) break;
        case 3: PIPELINED(false, 3, 4, b, 0, next) break;
        case 4: PIPELINED(false, 4, 4, b, 0, next) break;
        case 5: PIPELINED(false, 5, 4, b, 0, next) break;
        case 6: PIPELINED(false, 6, 4, b, 0, next) break;
    }
}

void hssl_gemm_f32_6x64__avx512(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                                const void *b, float *tile, bool add, const hssl_gemm_prefetch *next) {
#define CASE(R, V) float_tile(false, R, V, K, a, a_row, a_k, b, tile, add, next)
    HSSL_TILE_SWITCH_6x4(rows, (columns + 15) / 16, CASE)
#undef CASE
}

// Of a ragged end of at most 6 rows, 12 × 2 would leave too few accumulators to hide the latency of a multiply-add.
void hssl_gemm_f16_12x64__avx512(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                                 const void *b, float *tile, bool add, const hssl_gemm_prefetch *next) {
#define CASE(R, V) float_tile(true, R, V, K, a, a_row, a_k, b, tile, add, next)
    if (rows <= 6) {
        HSSL_TILE_SWITCH_6x4(rows, (columns + 15) / 16, CASE)
        return;
    }
    HSSL_TILE_SWITCH_7TO12x2(rows, hssl_min(2, (columns + 15) / 16), CASE)
    if (columns <= 32) return;
    b = (const uint16_t *)b + 32, tile += 32, columns -= 32;
    const hssl_gemm_prefetch asked = {next->line, 0};  // all that was to be
    next = &asked;
    HSSL_TILE_SWITCH_7TO12x2(rows, (columns + 15) / 16, CASE)
#undef CASE
}

void hssl_gemm_f16_pipelined_12x64__avx512(ptrdiff_t rows, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k, const void *b, float *tile, bool add,
                                           const float *before, const hssl_gemm_target *target, const hssl_gemm_prefetch *next) {
    if (rows < 12) {
        hssl_output_tile(false, 12, PANEL, before, target);
        hssl_gemm_f16_12x64__avx512(rows, PANEL, K, a, a_row, a_k, b, tile, add, next);
        return;
    }
    PIPELINED(true, 12, 2, b, 0, next)
    const hssl_gemm_prefetch asked = {next->line, 0};
    PIPELINED(true, 12, 2, (const uint16_t *)b + 32, 32, &asked)
}
#undef PIPELINED

// |a|·sign(a)·b: VPMADDUBSW on the raw u8 would saturate at 2·255·127; with |a| ≤ 127 its pairs reach at most 32258.
// AVX-512 has no VPSIGNB: b is negated under the mask of negative a.
HSSL_INLINE void integer_tile(int rows, int vectors, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const int8_t *b, int32_t *tile,
                              const hssl_gemm_prefetch *next) {
    __m512i sum[6][4];
    const __m512i ones = _mm512_set1_epi16(1), zero = _mm512_setzero_si512();
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] = zero;
    hssl_gemm_prefetch ahead = *next;
    for (ptrdiff_t k = 0; k < K; k += 4, b += 4 * PANEL, ahead.line += ahead.step) {
        __builtin_prefetch(ahead.line, 0, 2);
        __m512i y[4];
        HSSL_UNROLL for (int v = 0; v < vectors; ++v) y[v] = _mm512_loadu_si512(b + 64 * v);
        HSSL_UNROLL for (int r = 0; r < rows; ++r) {
            int32_t four;
            memcpy(&four, a + r * lda + k, 4);
            const __m512i x = _mm512_set1_epi32(four ^ (int32_t)0x80808080);
            const __m512i magnitude = _mm512_abs_epi8(x);
            const __mmask64 negative = _mm512_movepi8_mask(x);
            HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
                const __m512i pairs = _mm512_maddubs_epi16(magnitude, _mm512_mask_sub_epi8(y[v], negative, zero, y[v]));
                sum[r][v] = _mm512_add_epi32(sum[r][v], _mm512_madd_epi16(pairs, ones));
            }
        }
    }
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        _mm512_storeu_si512(tile + r * PANEL + 16 * v, sum[r][v]);
    }
}

void hssl_gemm_u8s8_s32_6x64c4__avx512(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const void *panel,
                                       int32_t *tile, const hssl_gemm_prefetch *next) {
    const int8_t *b = (const int8_t *)panel + 4 * PANEL;
#define CASE(R, V) integer_tile(R, V, K, a, lda, b, tile, next)
    HSSL_TILE_SWITCH_6x4(rows, (columns + 15) / 16, CASE)
#undef CASE
}

enum { ACCUMULATORS = 24 };

double hssl_peak_f32__avx512(ptrdiff_t iterations) {
    __m512 sum[ACCUMULATORS], x = _mm512_set1_ps(1.0f);
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) sum[j] = _mm512_setzero_ps();
    for (ptrdiff_t i = 0; i < iterations; ++i) {
        HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) sum[j] = _mm512_fmadd_ps(x, x, sum[j]);
    }
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) __asm__ volatile("" : : "v"(sum[j]));
    return 2.0 * 16 * ACCUMULATORS * (double)iterations;
}

double hssl_peak_u8s8__avx512(ptrdiff_t iterations) {
    __m512i sum[ACCUMULATORS], x = _mm512_set1_epi8(1);
    const __m512i ones = _mm512_set1_epi16(1);
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) sum[j] = _mm512_setzero_si512();
    for (ptrdiff_t i = 0; i < iterations; ++i) {
        HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) {
            sum[j] = _mm512_add_epi32(sum[j], _mm512_madd_epi16(_mm512_maddubs_epi16(x, x), ones));
            __asm__ volatile("" : "+v"(x));  // or the products would be one
        }
    }
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) __asm__ volatile("" : : "v"(sum[j]));
    return 2.0 * 64 * ACCUMULATORS * (double)iterations;
}

#pragma clang attribute pop
#endif
