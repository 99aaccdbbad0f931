// The norm family: one row of kernels per instruction set (kernels.inc). Every kernel is serial and works on the rows
// it is given; a row's result depends on that row alone. Shapes as in CSupport.h.
#ifndef HSSL_NORM_H
#define HSSL_NORM_H

#include "CSupport.h"

/// One sample of a group norm: [positions, C], whose channels form groups of C/groups neighbours.
typedef struct { ptrdiff_t positions, C, groups; } hssl_group_shape;

/// What the forward of group norm reads: float32, or binary16 where `half` says so.
typedef struct { const void *values; bool half; } hssl_group_input;
static inline hssl_group_input hssl_group_input_at(hssl_group_input x, ptrdiff_t i) {
    const ptrdiff_t element = x.half ? sizeof(uint16_t) : sizeof(float);
    return (hssl_group_input){(const char *)x.values + i * element, x.half};
}

/// What group norm does to an element of channel c once its statistics are known: (x − center)·slope + bias, at least
/// `least`; then a residual, and the sum at least `last_least`. A floor is 0 (ReLU, which keeps NaN) or −∞.
typedef struct { const float *center, *slope, *bias; float least, last_least; } hssl_group_map;

typedef struct {
    void (*layer_norm)(ptrdiff_t rows, ptrdiff_t D, const float *x, const float *weight, const float *bias,
                       float epsilon, float *y, float *mean, float *rstd);
    void (*layer_norm_backward_input)(ptrdiff_t rows, ptrdiff_t D, const float *x, const float *weight,
                                      const float *mean, const float *rstd, const float *dy, float *dx);
    /// Columns begin ..< end over all rows: dweight and dbias (either may be NULL) are added to.
    void (*layer_norm_backward_weight)(ptrdiff_t rows, ptrdiff_t D, ptrdiff_t begin, ptrdiff_t end, const float *x,
                                       const float *mean, const float *rstd, const float *dy, float *dweight,
                                       float *dbias);
    void (*l2_normalize)(ptrdiff_t rows, ptrdiff_t D, const float *x, float epsilon, float *y, float *inverse_norm);
    void (*l2_normalize_backward)(ptrdiff_t rows, ptrdiff_t D, const float *y, const float *inverse_norm,
                                  const float *dy, float *dx);
    /// Σ x and Σ x² over the positions, one of each of n channels; positions are C elements apart. The same bits on
    /// every row. `least` and `greatest` (both or neither NULL): the extremes of each channel, if none of it is NaN.
    void (*group_sums)(ptrdiff_t positions, ptrdiff_t n, ptrdiff_t C, hssl_group_input x, double *sums, double *squares,
                       float *least, float *greatest);
    /// y = map(x) + residual (NULL: 0) of [positions, C], floors included; y may be x or residual. Same bits likewise.
    void (*group_apply)(ptrdiff_t positions, ptrdiff_t C, hssl_group_input x, const hssl_group_map *map,
                        const float *residual, float *y);
    /// Groups begin ..< end of one sample: dx, where channels of other groups are neither read nor written; and what
    /// the sample adds to dweight and dbias [C] (=, not +=), for the driver to add up.
    void (*group_norm_backward)(const hssl_group_shape *shape, ptrdiff_t begin, ptrdiff_t end, const float *x,
                                const float *weight, const float *mean, const float *rstd, const float *dy, float *dx,
                                float *dweight, float *dbias);
} hssl_norm_kernels;

/// The row of the selected instruction set.
const hssl_norm_kernels *hssl_norm_selected(void);

/// center and slope [C], mean and rstd [groups] (NULL: not stored) of one sample. C ≤ HSSL_GROUP_NORM_CHANNELS.
void hssl_group_statistics(ptrdiff_t positions, ptrdiff_t C, ptrdiff_t groups, hssl_group_input x, const float *weight,
                           float epsilon, float *center, float *slope, float *mean, float *rstd);
/// center and slope likewise, and the largest magnitude that (x − center)·slope + bias has anywhere in the sample, or
/// what is above `least`; not finite where an x is not.
float hssl_group_statistics_and_largest(ptrdiff_t positions, ptrdiff_t C, ptrdiff_t groups, hssl_group_input x,
                                        const float *weight, const float *bias, float epsilon, float least,
                                        float *center, float *slope);

#define HSSL_KERNEL(family, table, isa) extern const hssl_norm_kernels table;
#include "norm/kernels.inc"
#undef HSSL_KERNEL

#endif
