// The optimizer family: one row of kernels per instruction set (kernels.inc). Kernels are serial; arguments as in
// CSupport.h.
#ifndef HSSL_OPTIMIZER_H
#define HSSL_OPTIMIZER_H

#include "CSupport.h"

/// Moments of a whole tensor as codes, with one scale a block of HSSL_MOMENT_BLOCK elements (README.md has the format).
typedef struct {
    uint8_t *m, *v;
    float *m_scale, *v_scale;
} hssl_coded_moments;

typedef struct {
    double (*sum_squares)(ptrdiff_t n, const float *x);
    bool (*all_finite)(ptrdiff_t n, const float *x);
    void (*update)(ptrdiff_t n, float *p, float *teacher, const float *g, float *m, float *v,
                   const hssl_update_settings *settings);
    /// Elements begin ..< end of the tensor; begin is a multiple of HSSL_MOMENT_BLOCK.
    void (*update_coded)(ptrdiff_t begin, ptrdiff_t end, float *p, float *teacher, const float *g,
                         const hssl_coded_moments *moments, uint64_t key, const hssl_update_settings *settings);
    void (*ema)(ptrdiff_t n, float *teacher, const float *student, float momentum);
} hssl_optimizer_kernels;

#define HSSL_KERNEL(family, table, isa) extern const hssl_optimizer_kernels table;
#include "optimizer/kernels.inc"
#undef HSSL_KERNEL

#endif
