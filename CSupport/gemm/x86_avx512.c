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

typedef struct {
    __m512 sum[12][4];
    const float *a;
    const void *b, *other;
    hssl_gemm_prefetch next;
} float_state;

HSSL_INLINE void begin_floats(int rows, int vectors, float_state *t) {
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v
        < vectors; ++v) t->sum[r][v] = _mm512_setzero_ps();
}

HSSL_INLINE __m512 load_floats(bool half, const void *b, int v) {
    return half ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)b + v)) : _mm512_loadu_ps((const float *)b + 16
        * v);
}

HSSL_INLINE const void *next_k(bool half, const void *b) {
    return (const char *)b + PANEL * (half ? sizeof(uint16_t) : sizeof(float));
}

// README.md has what this saves, and what it costs in loads.
HSSL_INLINE bool is_broadcast_by_multiply_adds(bool half, int sign, int row) {
    return half && sign ? row % 3 != 0 : row % (half ? 2 : 3) == 1;
}

// One k of rows × 16·vectors, both constants after inlining: 24 accumulators. As 6 × 4, float32 asks least of the load
// ports; as 12 × 2, binary16 is widened half as often and keeps the rate of float32. `sign` times `other` is added to
// B, or is not there.
HSSL_INLINE void step_floats(
    bool half, int sign, int rows, int vectors, ptrdiff_t a_row, ptrdiff_t a_k, float_state *t) {
    __builtin_prefetch(t->next.line, 0, 2);
    __m512 y[4];
    HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        y[v] = load_floats(half, t->b, v);
        if (sign > 0) y[v] = _mm512_add_ps(y[v], load_floats(half, t->other, v));
        if (sign < 0) y[v] = _mm512_sub_ps(y[v], load_floats(half, t->other, v));
    }
    HSSL_UNROLL for (int r = 0; r < rows; ++r) {
        const float *const a = t->a + r * a_row;
        if (is_broadcast_by_multiply_adds(half, sign, r)) {  // clang would broadcast once
            HSSL_UNROLL for (int v = 0; v < vectors; ++v) __asm__(
                "vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(t->sum[r][v]) : "v"(y[v]), "m"(*a));
        } else {
            const __m512 x = _mm512_set1_ps(*a);
            HSSL_UNROLL for (int v = 0; v < vectors; ++v) t->sum[r][v] = _mm512_fmadd_ps(x, y[v], t->sum[r][v]);
        }
    }
    t->a += a_k;
    t->b = next_k(half, t->b);
    if (sign) t->other = next_k(half, t->other);
    t->next.line += t->next.step;
}

HSSL_INLINE void end_floats(int rows, int vectors, const float_state *t, float *tile, bool add) {
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        float *const out = tile + r * PANEL + 16 * v;
        _mm512_storeu_ps(out, add ? _mm512_add_ps(_mm512_loadu_ps(out), t->sum[r][v]) : t->sum[r][v]);
    }
}

HSSL_INLINE void float_tile(bool half, int rows, int vectors, ptrdiff_t K, const float *a, ptrdiff_t a_row,
                            ptrdiff_t a_k, const void *panel, float *tile, bool add, const hssl_gemm_prefetch *next) {
    float_state t = {.a = a, .b = panel, .next = *next};
    begin_floats(rows, vectors, &t);
    for (ptrdiff_t k = 0; k < K; ++k) step_floats(half, 0, rows, vectors, a_row, a_k, &t);
    end_floats(rows, vectors, &t, tile, add);
}

// The 24 vectors of `before`, 6 × 4 or 12 × 2 as well, go through the output stage between equal parts of this product;
// see x86_avx512vnni.c.
HSSL_INLINE void pipelined_floats(bool half, hssl_activation activation, bool residual, int rows, int vectors,
                                  ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k, const void *panel,
                                  ptrdiff_t first, float *tile, bool add, const float *before,
                                  const hssl_gemm_target *target, const hssl_gemm_prefetch *next) {
    float_state t = {.a = a, .b = panel, .next = *next};
    begin_floats(rows, vectors, &t);
    const ptrdiff_t part = K / 24;
    const hssl_gemm_target to = *target;  // a copy that no store can alias
    for (ptrdiff_t r = 0; r < 24 / vectors; ++r) {
        _Pragma("clang loop unroll(disable)")
        for (ptrdiff_t c = first; c < first + 16 * vectors; c += 16) {
            for (ptrdiff_t s = 0; s < part; ++s) step_floats(half, 0, rows, vectors, a_row, a_k, &t);
            hssl_output_pipelined(false, activation, residual, hssl_load(before + r * PANEL + c), r, c, &to);
        }
    }
    for (ptrdiff_t k = 24 * part; k < K; ++k) step_floats(half, 0, rows, vectors, a_row, a_k, &t);
    end_floats(rows, vectors, &t, tile + first, add);
}

// The stages that hssl_gemm_can_pipeline allows.
#define PIPELINED_CASE(ACTIVATION, RESIDUAL, HALF, ROWS, VECTORS, PANEL_, FIRST, NEXT) \
    pipelined_floats(HALF, ACTIVATION, RESIDUAL, ROWS, VECTORS, K, a, a_row, a_k, PANEL_, FIRST, tile, add, before, \
                     target, NEXT)
#define PIPELINED(...) \
    switch (target->activation) { \
        case HSSL_ACTIVATION_GELU: PIPELINED_CASE(HSSL_ACTIVATION_GELU, false, __VA_ARGS__); break; \
        case HSSL_ACTIVATION_GELU_COARSE: PIPELINED_CASE(HSSL_ACTIVATION_GELU_COARSE, false, __VA_ARGS__); break; \
        case HSSL_ACTIVATION_NONE: \
            if (target->residual) PIPELINED_CASE(HSSL_ACTIVATION_NONE, true, __VA_ARGS__); \
            else PIPELINED_CASE(HSSL_ACTIVATION_NONE, false, __VA_ARGS__); \
    }

void hssl_gemm_f32_pipelined_6x64__avx512(ptrdiff_t rows, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                                          const void *b, float *tile, bool add, const float *before,
                                          const hssl_gemm_target *target, const hssl_gemm_prefetch *next) {
    switch (rows) {
        case 1: PIPELINED(false, 1, 4, b, 0, next) break;
        case 2: PIPELINED(false, 2, 4, b, 0, next) break;
        case 3: PIPELINED(false, 3, 4, b, 0, next) break;
        case 4: PIPELINED(false, 4, 4, b, 0, next) break;
        case 5: PIPELINED(false, 5, 4, b, 0, next) break;
        case 6: PIPELINED(false, 6, 4, b, 0, next) break;
    }
}

void hssl_gemm_f32_6x64__avx512(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t a_row,
                                ptrdiff_t a_k, const void *b, float *tile, bool add, const hssl_gemm_prefetch *next) {
#define CASE(R, V) float_tile(false, R, V, K, a, a_row, a_k, b, tile, add, next)
    HSSL_TILE_SWITCH_6x4(rows, (columns + 15) / 16, CASE)
#undef CASE
}

// Of a ragged end of at most 6 rows, 12 × 2 would leave too few accumulators to hide the latency of a multiply-add.
void hssl_gemm_f16_12x64__avx512(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t a_row,
                                 ptrdiff_t a_k, const void *b, float *tile, bool add, const hssl_gemm_prefetch *next) {
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

void hssl_gemm_f16_pipelined_12x64__avx512(ptrdiff_t rows, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                                           const void *b, float *tile, bool add, const float *before,
                                           const hssl_gemm_target *target, const hssl_gemm_prefetch *next) {
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
#undef PIPELINED_CASE

// Where a quadrant of B begins.
HSSL_INLINE const void *strassen_quadrant(bool half, int quadrant, ptrdiff_t K, const void *panel) {
    const ptrdiff_t element = quadrant / 2 * K * PANEL + quadrant % 2 * STRASSEN_COLUMNS;
    return (const char *)panel + element * (ptrdiff_t)(half ? sizeof(uint16_t) : sizeof(float));
}

// What becomes of the group `before` meanwhile.
typedef enum { STAGE_ABSENT, STAGE_PLAIN, STAGE_RESIDUAL, STAGE_GELU, STAGE_GELU_COARSE } strassen_stage;
HSSL_INLINE hssl_activation activation_of(strassen_stage stage) {
    return stage == STAGE_GELU ? HSSL_ACTIVATION_GELU : stage == STAGE_GELU_COARSE
        ? HSSL_ACTIVATION_GELU_COARSE : HSSL_ACTIVATION_NONE;
}

// One product, whose number is a constant after inlining. The first four take a quadrant of `before` each through its
// stage. Returns the line to prefetch next.
HSSL_INLINE const char *strassen_product(bool half, int number, strassen_stage stage, ptrdiff_t K,
                                         const hssl_gemm_strassen_rows *a, const void *panel, float *tile,
                                         const float *before, const hssl_gemm_target *to, const char *line,
                                         ptrdiff_t step) {
    const hssl_strassen_product p = hssl_strassen_products[number];
    float_state t = {.a = a[number].a, .b = strassen_quadrant(half, p.b.x, K, panel),
                     .other = strassen_quadrant(half, p.b.y, K, panel), .next = {line, step}};
    const ptrdiff_t a_row = a[number].a_row;
    begin_floats(STRASSEN_HALF, 2, &t);
    ptrdiff_t k = 0;
    if (stage != STAGE_ABSENT && number < 4) {
        const ptrdiff_t part = K / 24, row = number / 2 * STRASSEN_HALF, column = number % 2 * STRASSEN_COLUMNS;
        for (ptrdiff_t r = row; r < row + STRASSEN_HALF; ++r) {
            _Pragma("clang loop unroll(disable)")
            for (ptrdiff_t c = column; c < column + STRASSEN_COLUMNS; c += 16) {
                for (ptrdiff_t s = 0; s < part; ++s) step_floats(half, p.b.sign, STRASSEN_HALF, 2, a_row, 1, &t);
                hssl_output_pipelined(false, activation_of(stage), stage == STAGE_RESIDUAL,
                                      hssl_load(before + r * PANEL + c), r, c, to);
            }
        }
        k = 24 * part;
    }
    for (; k < K; ++k) step_floats(half, p.b.sign, STRASSEN_HALF, 2, a_row, 1, &t);
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

HSSL_INLINE void strassen_group(bool half, strassen_stage stage, ptrdiff_t K, const hssl_gemm_strassen_rows *a,
                                const void *panel, float *tile, const float *before, const hssl_gemm_target *to,
                                const hssl_gemm_prefetch *next) {
    const char *line = next->line;
    HSSL_UNROLL for (int number = 0; number < STRASSEN_PRODUCTS; ++number) {
        line = strassen_product(half, number, stage, K, a, panel, tile, before, to, line, next->step);
    }
}

HSSL_INLINE void strassen(bool half, ptrdiff_t K, const hssl_gemm_strassen_rows *a, const void *panel, float *tile,
                          const float *before, const hssl_gemm_target *target, const hssl_gemm_prefetch *next) {
    if (!before) {
        strassen_group(half, STAGE_ABSENT, K, a, panel, tile, before, target, next);
        return;
    }
    const hssl_gemm_target to = *target;  // a copy that no store can alias
    if (to.activation == HSSL_ACTIVATION_GELU) strassen_group(half, STAGE_GELU, K, a, panel, tile, before, &to, next);
    else if (to.activation == HSSL_ACTIVATION_GELU_COARSE) strassen_group(
        half, STAGE_GELU_COARSE, K, a, panel, tile, before, &to, next);
    else if (to.residual) strassen_group(half, STAGE_RESIDUAL, K, a, panel, tile, before, &to, next);
    else strassen_group(half, STAGE_PLAIN, K, a, panel, tile, before, &to, next);
}

void hssl_gemm_f32_strassen_24x64__avx512(ptrdiff_t K, const hssl_gemm_strassen_rows *a, const void *panel, float *tile,
                                          const float *before, const hssl_gemm_target *target,
                                          const hssl_gemm_prefetch *next) {
    strassen(false, K, a, panel, tile, before, target, next);
}

void hssl_gemm_f16_strassen_24x64__avx512(ptrdiff_t K, const hssl_gemm_strassen_rows *a, const void *panel, float *tile,
                                          const float *before, const hssl_gemm_target *target,
                                          const hssl_gemm_prefetch *next) {
    strassen(true, K, a, panel, tile, before, target, next);
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
