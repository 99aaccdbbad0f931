// Steps of a plan that are made of several kernels, and moves that need none.
#ifndef HSSL_PLAN_FUSED_H
#define HSSL_PLAN_FUSED_H

#include "CSupport.h"

/// Layer norm, then codes of it.
void hssl_plan_layer_norm_quantize(ptrdiff_t rows, ptrdiff_t D, const float *x, const float *weight, const float *bias,
                                  float epsilon, uint8_t *codes, float *scale);
/// The windows of an image (C, H, W, k, stride, padding), and of a grid (h, w, C, k, stride, padding), as codes.
void hssl_plan_unfold_image_quantize(const ptrdiff_t size[6], const float *image, uint8_t *codes, float *scale);
void hssl_plan_unfold_quantize(const ptrdiff_t size[6], const float *x, uint8_t *codes, float *scale);
/// y = last(first(x) + residual), residual or NULL.
void hssl_plan_elementwise(ptrdiff_t n, hssl_plan_activation first, const float *x, const float *residual,
                           hssl_plan_activation last, float *y);
/// y[b, i] = x[b, index[i]] + residual[b, i]; −1: the residual alone.
void hssl_plan_permute_add(ptrdiff_t batch, ptrdiff_t from, ptrdiff_t to, ptrdiff_t D, const int32_t *index,
                           const float *x, const float *residual, float *y);
/// Rows of codes and their scales; −1: the code of 0 with scale 1, as a row of zeros is quantised.
void hssl_plan_permute_codes(ptrdiff_t batch, ptrdiff_t from, ptrdiff_t to, ptrdiff_t D, const int32_t *index,
                             const uint8_t *x, const float *x_scale, uint8_t *y, float *y_scale);

#endif
