// The optimizer family: one row of kernels per instruction set (kernels.inc). Kernels are serial; arguments as in CSupport.h.
#ifndef HSSL_OPTIMIZER_H
#define HSSL_OPTIMIZER_H

#include "CSupport.h"

typedef struct {
    float gradient_scale, lr, weight_decay, beta1, beta2, epsilon, correction1, correction2;
} hssl_adamw_settings;

typedef struct {
    double (*sum_squares)(ptrdiff_t n, const float *x);
    bool (*all_finite)(ptrdiff_t n, const float *x);
    void (*adamw)(ptrdiff_t n, float *p, const float *g, float *m, float *v, const hssl_adamw_settings *settings);
    void (*ema)(ptrdiff_t n, float *teacher, const float *student, float momentum);
} hssl_optimizer_kernels;

#define HSSL_KERNEL(family, table, isa) extern const hssl_optimizer_kernels table;
#include "optimizer/kernels.inc"
#undef HSSL_KERNEL

#endif
