#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "base/base.h"
#include "gemm/gemm.h"
#include "gemm/strassen.h"

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX512))), apply_to = function)

#define HSSL_WIDTH 16
#define HSSL_OUTPUT_F32 hssl_gemm_output_f32__avx512
#define HSSL_OUTPUT_S32 hssl_gemm_output_s32_f32__avx512
#include "gemm/output.h"
#include "gemm/x86_tiles.h"

// 6 × 4 accumulators, or 12 × 2 in Strassen's scheme.
typedef struct {
    __m512 sum[12][4];
    const float *a, *b, *other;
    hssl_gemm_prefetch next;
} float_state;

HSSL_INLINE void begin_floats(int rows, int vectors, float_state *t) {
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v
        < vectors; ++v) t->sum[r][v] = _mm512_setzero_ps();
}

// README.md has what this saves, and what it costs in loads.
HSSL_INLINE bool is_broadcast_by_multiply_adds(int row) { return row % 3 == 1; }

// One k of rows × 16·vectors, both constants after inlining: 24 accumulators. 6 × 4 asks least of the load ports;
// 12 × 2, as Strassen's quadrants have it, adds two parts of B half as often. `sign` times `other` is added to B, or is
// not there.
HSSL_INLINE void step_floats(int sign, int rows, int vectors, ptrdiff_t a_row, ptrdiff_t a_k, float_state *t) {
    __builtin_prefetch(t->next.line, 0, 2);
    __m512 y[4];
    HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        y[v] = _mm512_loadu_ps(t->b + 16 * v);
        if (sign > 0) y[v] = _mm512_add_ps(y[v], _mm512_loadu_ps(t->other + 16 * v));
        if (sign < 0) y[v] = _mm512_sub_ps(y[v], _mm512_loadu_ps(t->other + 16 * v));
    }
    HSSL_UNROLL for (int r = 0; r < rows; ++r) {
        const float *const a = t->a + r * a_row;
        if (is_broadcast_by_multiply_adds(r)) {  // clang would broadcast once
            HSSL_UNROLL for (int v = 0; v < vectors; ++v) __asm__(
                "vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(t->sum[r][v]) : "v"(y[v]), "m"(*a));
        } else {
            const __m512 x = _mm512_set1_ps(*a);
            HSSL_UNROLL for (int v = 0; v < vectors; ++v) t->sum[r][v] = _mm512_fmadd_ps(x, y[v], t->sum[r][v]);
        }
    }
    t->a += a_k;
    t->b += PANEL;
    if (sign) t->other += PANEL;
    t->next.line += t->next.step;
}

HSSL_INLINE void end_floats(int rows, int vectors, const float_state *t, float *tile, bool add) {
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        float *const out = tile + r * PANEL + 16 * v;
        _mm512_storeu_ps(out, add ? _mm512_add_ps(_mm512_loadu_ps(out), t->sum[r][v]) : t->sum[r][v]);
    }
}

HSSL_INLINE void float_tile(int rows, int vectors, ptrdiff_t K, const float *a, ptrdiff_t a_row,
                            ptrdiff_t a_k, const float *panel, float *tile, bool add, const hssl_gemm_prefetch *next) {
    float_state t = {.a = a, .b = panel, .next = *next};
    begin_floats(rows, vectors, &t);
    for (ptrdiff_t k = 0; k < K; ++k) step_floats(0, rows, vectors, a_row, a_k, &t);
    end_floats(rows, vectors, &t, tile, add);
}

// The 24 vectors of `before` go through the output stage between equal parts of this product; see x86_avx512vnni.c.
HSSL_INLINE void pipelined_floats(hssl_activation activation, bool residual, int rows, ptrdiff_t K, const float *a,
                                  ptrdiff_t a_row, ptrdiff_t a_k, const float *panel, float *tile, bool add,
                                  const float *before, const hssl_gemm_target *target, const hssl_gemm_prefetch *next) {
    float_state t = {.a = a, .b = panel, .next = *next};
    begin_floats(rows, 4, &t);
    const ptrdiff_t part = K / 24;
    const hssl_gemm_target to = *target;  // a copy that no store can alias
    for (ptrdiff_t r = 0; r < 6; ++r) {
        _Pragma("clang loop unroll(disable)")
        for (ptrdiff_t c = 0; c < PANEL; c += 16) {
            for (ptrdiff_t s = 0; s < part; ++s) step_floats(0, rows, 4, a_row, a_k, &t);
            hssl_output_pipelined(false, activation, residual, hssl_load(before + r * PANEL + c), r, c, &to);
        }
    }
    for (ptrdiff_t k = 24 * part; k < K; ++k) step_floats(0, rows, 4, a_row, a_k, &t);
    end_floats(rows, 4, &t, tile, add);
}

// The stages that hssl_gemm_can_pipeline allows.
#define PIPELINED_CASE(ACTIVATION, RESIDUAL, ROWS) \
    pipelined_floats(ACTIVATION, RESIDUAL, ROWS, K, a, a_row, a_k, b, tile, add, before, target, next)
#define PIPELINED(ROWS) \
    switch (target->activation) { \
        case HSSL_ACTIVATION_GELU: PIPELINED_CASE(HSSL_ACTIVATION_GELU, false, ROWS); break; \
        case HSSL_ACTIVATION_GELU_COARSE: PIPELINED_CASE(HSSL_ACTIVATION_GELU_COARSE, false, ROWS); break; \
        case HSSL_ACTIVATION_NONE: \
            if (target->residual) PIPELINED_CASE(HSSL_ACTIVATION_NONE, true, ROWS); \
            else PIPELINED_CASE(HSSL_ACTIVATION_NONE, false, ROWS); \
    }

void hssl_gemm_f32_pipelined_6x64__avx512(ptrdiff_t rows, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                                          const float *b, float *tile, bool add, const float *before,
                                          const hssl_gemm_target *target, const hssl_gemm_prefetch *next) {
    switch (rows) {
        case 1: PIPELINED(1) break;
        case 2: PIPELINED(2) break;
        case 3: PIPELINED(3) break;
        case 4: PIPELINED(4) break;
        case 5: PIPELINED(5) break;
        case 6: PIPELINED(6) break;
    }
}
#undef PIPELINED
#undef PIPELINED_CASE

void hssl_gemm_f32_6x64__avx512(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t a_row,
                                ptrdiff_t a_k, const float *b, float *tile, bool add, const hssl_gemm_prefetch *next) {
#define CASE(R, V) float_tile(R, V, K, a, a_row, a_k, b, tile, add, next)
    HSSL_TILE_SWITCH_6x4(rows, (columns + 15) / 16, CASE)
#undef CASE
}

// Where a quadrant of B begins.
HSSL_INLINE const float *strassen_quadrant(int quadrant, ptrdiff_t K, const float *panel) {
    return panel + quadrant / 2 * K * PANEL + quadrant % 2 * STRASSEN_COLUMNS;
}

// What becomes of the group `before` meanwhile.
typedef enum { STAGE_ABSENT, STAGE_PLAIN, STAGE_RESIDUAL, STAGE_GELU, STAGE_GELU_COARSE } strassen_stage;
HSSL_INLINE hssl_activation activation_of(strassen_stage stage) {
    return stage == STAGE_GELU ? HSSL_ACTIVATION_GELU : stage == STAGE_GELU_COARSE
        ? HSSL_ACTIVATION_GELU_COARSE : HSSL_ACTIVATION_NONE;
}

// One product, whose number is a constant after inlining. The first four take a quadrant of `before` each through its
// stage. Returns the line to prefetch next.
HSSL_INLINE const char *strassen_product(int number, strassen_stage stage, ptrdiff_t K,
                                         const hssl_gemm_strassen_rows *a, const float *panel, float *tile,
                                         const float *before, const hssl_gemm_target *to, const char *line,
                                         ptrdiff_t step) {
    const hssl_strassen_product p = hssl_strassen_products[number];
    float_state t = {.a = a[number].a, .b = strassen_quadrant(p.b.x, K, panel),
                     .other = strassen_quadrant(p.b.y, K, panel), .next = {line, step}};
    const ptrdiff_t a_row = a[number].a_row;
    begin_floats(STRASSEN_HALF, 2, &t);
    ptrdiff_t k = 0;
    if (stage != STAGE_ABSENT && number < 4) {
        const ptrdiff_t part = K / 24, row = number / 2 * STRASSEN_HALF, column = number % 2 * STRASSEN_COLUMNS;
        for (ptrdiff_t r = row; r < row + STRASSEN_HALF; ++r) {
            _Pragma("clang loop unroll(disable)")
            for (ptrdiff_t c = column; c < column + STRASSEN_COLUMNS; c += 16) {
                for (ptrdiff_t s = 0; s < part; ++s) step_floats(p.b.sign, STRASSEN_HALF, 2, a_row, 1, &t);
                hssl_output_pipelined(false, activation_of(stage), stage == STAGE_RESIDUAL,
                                      hssl_load(before + r * PANEL + c), r, c, to);
            }
        }
        k = 24 * part;
    }
    for (; k < K; ++k) step_floats(p.b.sign, STRASSEN_HALF, 2, a_row, 1, &t);
    HSSL_UNROLL for (int i = 0; i < 2; ++i) {
        if (p.c[i].what == STRASSEN_NONE) continue;
        float *const quadrant = tile + p.c[i].quadrant / 2 * STRASSEN_HALF * PANEL + p.c[i].quadrant % 2
            * STRASSEN_COLUMNS;
        HSSL_UNROLL for (int r = 0; r < STRASSEN_HALF; ++r) HSSL_UNROLL for (int v = 0; v < 2; ++v) {
            float *const out = quadrant + r * PANEL + 16 * v;
            switch (p.c[i].what) {
            case STRASSEN_SET: _mm512_storeu_ps(out, t.sum[r][v]); break;
            case STRASSEN_ADD: _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), t.sum[r][v])); break;
            case STRASSEN_SUBTRACT: _mm512_storeu_ps(out, _mm512_sub_ps(_mm512_loadu_ps(out), t.sum[r][v])); break;
            case STRASSEN_NONE: break;
            }
        }
    }
    return t.next.line;
}

HSSL_INLINE void strassen_group(strassen_stage stage, ptrdiff_t K, const hssl_gemm_strassen_rows *a,
                                const float *panel, float *tile, const float *before, const hssl_gemm_target *to,
                                const hssl_gemm_prefetch *next) {
    const char *line = next->line;
    HSSL_UNROLL for (int number = 0; number < STRASSEN_PRODUCTS; ++number) {
        line = strassen_product(number, stage, K, a, panel, tile, before, to, line, next->step);
    }
}

void hssl_gemm_f32_strassen_24x64__avx512(ptrdiff_t K, const hssl_gemm_strassen_rows *a, const float *panel,
                                          float *tile, const float *before, const hssl_gemm_target *target,
                                          const hssl_gemm_prefetch *next) {
    if (!before) {
        strassen_group(STAGE_ABSENT, K, a, panel, tile, before, target, next);
        return;
    }
    const hssl_gemm_target to = *target;  // a copy that no store can alias
    switch (to.activation) {
        case HSSL_ACTIVATION_GELU: strassen_group(STAGE_GELU, K, a, panel, tile, before, &to, next); break;
        case HSSL_ACTIVATION_GELU_COARSE:
            strassen_group(STAGE_GELU_COARSE, K, a, panel, tile, before, &to, next);
            break;
        case HSSL_ACTIVATION_NONE:
            if (to.residual) strassen_group(STAGE_RESIDUAL, K, a, panel, tile, before, &to, next);
            else strassen_group(STAGE_PLAIN, K, a, panel, tile, before, &to, next);
    }
}

// |a|·sign(a)·b: VPMADDUBSW on the raw u8 would saturate at 2·255·127; with |a| ≤ 127 its pairs reach at most 32258.
// AVX-512 has no VPSIGNB: b is negated under the mask of negative a.
HSSL_INLINE void integer_tile(int rows, int vectors, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const int32_t *start,
                              const int8_t *b, int32_t *tile, const hssl_gemm_prefetch *next) {
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
        _mm512_storeu_si512(tile + r * PANEL + 16 * v,
                            _mm512_add_epi32(sum[r][v], _mm512_loadu_si512(start + 16 * v)));
    }
}

void hssl_gemm_u8s8_s32_6x64c4__avx512(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda,
                                       const void *panel, int32_t *tile, const hssl_gemm_prefetch *next) {
    const int32_t *start_signed = (const int32_t *)panel + PANEL;
    const int8_t *b = hssl_gemm_u8s8_codes(panel);
#define CASE(R, V) integer_tile(R, V, K, a, lda, start_signed, b, tile, next)
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
