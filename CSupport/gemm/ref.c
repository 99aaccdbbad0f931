// The plain rows: oracle, fallback on any CPU, and the shortest statement of what every other row computes.
#define HSSL_WIDTH 4
#define HSSL_OUTPUT_F32 hssl_gemm_output_f32__scalar
#define HSSL_OUTPUT_S32 hssl_gemm_output_s32_f32__scalar
#include "gemm/output.h"

// c + a·b, rounded once where the machine does that in one instruction.
static inline float multiply_add(float a, float b, float c) {
#if defined(__FP_FAST_FMAF) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return c + a * b;
#endif
}

void hssl_gemm_f32_6x64__scalar(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t a_row,
                                ptrdiff_t a_k, const float *b, float *tile, bool add,
                                const hssl_gemm_prefetch *next) {
    (void)next;
    for (ptrdiff_t r = 0; r < rows; ++r) {
        float sum[PANEL] = {0};
        for (ptrdiff_t k = 0; k < K; ++k) {
            const float x = a[r * a_row + k * a_k];
            for (ptrdiff_t c = 0; c < columns; ++c) sum[c] = multiply_add(x, b[k * PANEL + c], sum[c]);
        }
        for (ptrdiff_t c = 0; c < columns; ++c) tile[r * PANEL + c] = add ? tile[r * PANEL + c] + sum[c] : sum[c];
    }
}

void hssl_gemm_u8s8_s32_6x64c4__scalar(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda,
                                       const void *panel, int32_t *tile, const hssl_gemm_prefetch *next) {
    (void)next;
    const int32_t *start = panel;
    const int8_t *b = hssl_gemm_u8s8_codes(panel);
    for (ptrdiff_t r = 0; r < rows; ++r) {
        for (ptrdiff_t c = 0; c < columns; ++c) tile[r * PANEL + c] = start[c];
        for (ptrdiff_t k = 0; k < K; k += 4) {
            const uint8_t *x = a + r * lda + k;
            for (ptrdiff_t c = 0; c < columns; ++c) {
                const int8_t *y = b + k * PANEL + 4 * c;
                tile[r * PANEL + c] += x[0] * y[0] + x[1] * y[1] + x[2] * y[2] + x[3] * y[3];
            }
        }
    }
}

enum { ACCUMULATORS = 24 };

double hssl_peak_f32__scalar(ptrdiff_t iterations) {
    hssl_vf sum[ACCUMULATORS] = {0}, x = hssl_splat(1.0f);
    for (ptrdiff_t i = 0; i < iterations; ++i) {
        for (int j = 0; j < ACCUMULATORS; ++j) {
            sum[j] = sum[j] + x * x;
            __asm__ volatile("" : "+m"(x));
        }
    }
    __asm__ volatile("" : : "m"(sum));
    return 2.0 * HSSL_WIDTH * ACCUMULATORS * (double)iterations;
}

double hssl_peak_u8s8__scalar(ptrdiff_t iterations) {
    hssl_vi sum[ACCUMULATORS] = {0}, x = {1};
    for (ptrdiff_t i = 0; i < iterations; ++i) {
        for (int j = 0; j < ACCUMULATORS; ++j) {
            sum[j] = sum[j] + x * x;
            __asm__ volatile("" : "+m"(x));
        }
    }
    __asm__ volatile("" : : "m"(sum));
    return 2.0 * HSSL_WIDTH * ACCUMULATORS * (double)iterations;
}
