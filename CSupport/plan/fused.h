// Steps of a plan that are made of several kernels, and moves that need none.
#ifndef HSSL_PLAN_FUSED_H
#define HSSL_PLAN_FUSED_H

#include "CSupport.h"

/// Layer norm, then symmetric codes of it.
void hssl_plan_layer_norm_quantize(ptrdiff_t rows, ptrdiff_t D, const float *x, const float *weight, const float *bias,
                                  float epsilon, uint8_t *codes, float *scale);
/// The windows of an image or a grid, as a step of one of the five kinds says; and rows first ..< end of them alone, on
/// this thread, where y and scale point at row 0. x is float32, or codes of the one scale *x_scale; `zero` is that of
/// codes.
void hssl_plan_unfold(hssl_plan_kind kind, const ptrdiff_t size[6], const void *x, const float *x_scale, uint8_t zero,
                      void *y, float *scale);
void hssl_plan_unfold_rows(hssl_plan_kind kind, const ptrdiff_t size[6], ptrdiff_t first, ptrdiff_t end, const void *x,
                           const float *x_scale, uint8_t zero, void *y, float *scale);
/// y = last(first(x) + residual), residual or NULL.
void hssl_plan_elementwise(ptrdiff_t n, hssl_plan_activation first, const float *x, const float *residual,
                           hssl_plan_activation last, float *y);
/// Group norm of one sample, then last(first(its result) + residual): float32, u8 codes with a scale a position, or
/// both. `alike`: codes alone, of one scale; no residual, no activation but ReLU.
typedef struct {
    ptrdiff_t positions, C, groups;
    const void *x;  // float32, or binary16
    bool half;
    const float *weight, *bias, *residual;  // residual [positions, C] or NULL
    float epsilon;
    hssl_plan_activation first, last;
    float *y;        // or NULL
    uint8_t zero;    // of the codes
    uint8_t *codes;  // or NULL
    float *scale;
    bool alike;
} hssl_plan_group;
void hssl_plan_group_norm(const hssl_plan_group *group);
/// y[b, i] = x[b, index[i]] + residual[b, i]; −1: the residual alone.
void hssl_plan_permute_add(ptrdiff_t batch, ptrdiff_t from, ptrdiff_t to, ptrdiff_t D, const int32_t *index,
                           const float *x, const float *residual, float *y);
/// Rows of codes and their scales; −1: the code of 0 with scale 1, as a row of zeros is quantised.
void hssl_plan_permute_codes(ptrdiff_t batch, ptrdiff_t from, ptrdiff_t to, ptrdiff_t D, const int32_t *index,
                             uint8_t zero, const uint8_t *x, const float *x_scale, uint8_t *y, float *y_scale);

#endif
