// Test-only C: double-precision oracles fast enough for the 70³ cube in a debug build, and kernels with planted faults.
#ifndef KERNEL_ORACLE_H
#define KERNEL_ORACLE_H

#include "CSupport.h"

/// Largest |C − exact| / bound over C[M,N] of a float32 product and its output stage; the bound is the running-error
/// bound of blocked
/// summation, 2⁻²⁴·(min(K, 256) + K/256 + 8)·Σ|a·b|, plus 1e-6·max(1, |x|) for GELU
/// and 2.1e-4 where it is coarse. NaN or a changed byte between N and ldc: infinity.
/// `before` is C (and, where output->residual == c, the residual) as it was; preactivation is checked where set.
double oracle_gemm_f32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t a_m, ptrdiff_t a_k,
                       const float *b, ptrdiff_t b_k, ptrdiff_t b_n, const float *before, const float *c, ptrdiff_t ldc,
                       bool accumulate, const hssl_gemm_output *output);
/// Same for int8: value = a_scale·b_scale·Σ(a − zero)·b.
double oracle_gemm_u8s8_f32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda,
                            uint8_t zero, const float *a_scale, const int8_t *b, ptrdiff_t b_k, ptrdiff_t b_n,
                            const float *b_scale, const float *before, const float *c, ptrdiff_t ldc, bool accumulate,
                            const hssl_gemm_output *output);
/// Elements of C[M,N] that differ from Σ(a − zero)·b, plus changed elements between N and ldc.
ptrdiff_t oracle_gemm_u8s8_s32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, uint8_t zero,
                               const int8_t *b, ptrdiff_t b_k, ptrdiff_t b_n, const int32_t *before,
                               const int32_t *c, ptrdiff_t ldc);
/// Largest |GELU − exact| / max(1, |x|) and the x where it is.
double oracle_gelu_error(ptrdiff_t n, const float *x, const float *y, float *worst);
/// Elements of u8 (or s8, zero 0) codes and scales that differ from the plain definition; padding included.
ptrdiff_t oracle_quantize(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, uint8_t zero,
                          const uint8_t *codes, ptrdiff_t ldq, const float *scale);
/// Same for stochastic rounding, with u from hssl_philox.
ptrdiff_t oracle_quantize_stochastic(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx,
                                     const float *column_scale, uint64_t key, const uint8_t *codes, ptrdiff_t ldq,
                                     const float *scale);
/// Uniform values in [-1, 1) and bytes, from Philox.
void oracle_fill_f32(ptrdiff_t n, uint64_t key, float *x);
void oracle_fill_bytes(ptrdiff_t n, uint64_t key, int low, int high, uint8_t *x);

/// Planted faults: signatures of hssl_gemm_f32 and hssl_gemm_u8s8_s32.
void faulty_gemm_f32_off_by_one(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride,
                                ptrdiff_t k_stride, const void *packed_b, float *c, ptrdiff_t ldc, bool accumulate,
                                const hssl_gemm_output *output);
void faulty_gemm_f32_dropped_tail(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride,
                                  ptrdiff_t k_stride, const void *packed_b, float *c, ptrdiff_t ldc, bool accumulate,
                                  const hssl_gemm_output *output);
void faulty_gemm_u8s8_s32_zero_point(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda,
                                     const void *packed_b, int32_t *c, ptrdiff_t ldc);

typedef struct {
    long wrong;         // tasks that did not run exactly once before hssl_share returned
    long helped;        // tasks that another part than their owner's ran
    long helped_first;  // those of the first round, whose owner waits for one
} oracle_share_counts;
/// hssl_share among four threads, round after round.
oracle_share_counts oracle_share(int rounds);

#endif
