// The elementwise family: one row of kernels per instruction set (kernels.inc). Every kernel is serial. An element's
// (or softmax row's) result does not depend on its place in the buffer, so drivers may split anywhere. Aliasing as in
// CSupport.h.
#ifndef HSSL_ELEMENTWISE_H
#define HSSL_ELEMENTWISE_H

#include "CSupport.h"

typedef struct {
    void (*gelu)(ptrdiff_t n, const float *x, float *y);
    void (*gelu_backward)(ptrdiff_t n, const float *x, const float *dy, float *dx);
    void (*add)(ptrdiff_t n, const float *x, const float *y, float *z);
    void (*scale)(ptrdiff_t n, float alpha, const float *x, float *y);            // y = alpha·x
    void (*axpy)(ptrdiff_t n, float alpha, const float *x, const float *y, float *z);  // z = y + alpha·x
    /// n columns of `batch` rows that lie ld apart: y = x + v, and out += the sum of the rows.
    void (*add_broadcast)(ptrdiff_t batch, ptrdiff_t n, ptrdiff_t ld, const float *x, const float *v, float *y);
    void (*sum_rows)(ptrdiff_t batch, ptrdiff_t n, ptrdiff_t ld, const float *x, float *out);
    /// Likewise y = x·v, and out += the sum of x·g over the rows.
    void (*multiply_broadcast)(ptrdiff_t batch, ptrdiff_t n, ptrdiff_t ld, const float *x, const float *v, float *y);
    void (*multiply_sum_rows)(ptrdiff_t batch, ptrdiff_t n, ptrdiff_t ld, const float *x, const float *g, float *out);
    void (*relu)(ptrdiff_t n, const float *x, float *y);
    void (*relu_backward)(ptrdiff_t n, const float *y, const float *dy, float *dx);
    /// n gates g and n values u: y = silu(g)·u, silu(g) = g/(1 + e^−g); and the gradients of both from that of y.
    void (*gated)(ptrdiff_t n, const float *g, const float *u, float *y);
    void (*gated_backward)(ptrdiff_t n, const float *g, const float *u, const float *dy, float *dg, float *du);
    void (*softmax)(ptrdiff_t rows, ptrdiff_t K, const float *x, const float *center, float inverse_temperature,
                    float *y);
    void (*soft_cross_entropy)(ptrdiff_t rows, ptrdiff_t K, const float *q, const float *z, float inverse_temperature,
                               float *loss, float *log_sum_exp);
    void (*soft_cross_entropy_backward)(ptrdiff_t rows, ptrdiff_t K, const float *q, const float *z,
                                        float inverse_temperature, const float *log_sum_exp, const float *weight,
                                        float *dz);
} hssl_elementwise_kernels;

#define HSSL_KERNEL(family, table, isa) extern const hssl_elementwise_kernels table;
#include "elementwise/kernels.inc"
#undef HSSL_KERNEL

#endif
