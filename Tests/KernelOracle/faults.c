// Kernels that are wrong on purpose, over the same packed layouts: the checkers must see each.
#include "KernelOracle.h"

static void product(ptrdiff_t M, ptrdiff_t N, ptrdiff_t panel_terms, ptrdiff_t terms, const float *a,
                    ptrdiff_t m_stride, ptrdiff_t k_stride, const float *packed, float *c, ptrdiff_t ldc) {
    for (ptrdiff_t m = 0; m < M; ++m) {
        for (ptrdiff_t n = 0; n < N; ++n) {
            float sum = 0;
            for (ptrdiff_t k = 0; k < terms; ++k) {
                sum += a[m * m_stride + k * k_stride] * packed[n / 64 * 64 * panel_terms + k * 64 + n % 64];
            }
            c[m * ldc + n] = sum;
        }
    }
}

void faulty_gemm_f32_off_by_one(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride,
                                ptrdiff_t k_stride, const void *packed_b, float *c, ptrdiff_t ldc, bool accumulate,
                                const hssl_gemm_output *output) {
    (void)accumulate, (void)output;
    product(M, N, K, K - 1, a, m_stride, k_stride, packed_b, c, ldc);
}

void faulty_gemm_f32_dropped_tail(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride,
                                  ptrdiff_t k_stride, const void *packed_b, float *c, ptrdiff_t ldc, bool accumulate,
                                  const hssl_gemm_output *output) {
    (void)accumulate, (void)output;
    product(M, N / 16 * 16, K, K, a, m_stride, k_stride, packed_b, c, ldc);
}

void faulty_gemm_u8s8_s32_zero_point(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda,
                                     const void *packed_b, int32_t *c, ptrdiff_t ldc) {
    const ptrdiff_t bytes = 64 * (8 + (K + 3) / 4 * 4);
    for (ptrdiff_t m = 0; m < M; ++m) {
        for (ptrdiff_t n = 0; n < N; ++n) {
            const int8_t *b = (const int8_t *)packed_b + n / 64 * bytes + 512 + n % 64 * 4;
            int32_t sum = 0;
            for (ptrdiff_t k = 0; k < K; ++k) sum += (a[m * lda + k] - 127) * b[k / 4 * 256 + k % 4];
            c[m * ldc + n] = sum;
        }
    }
}
