// The conv family: depthwise convolution, one row of kernels per instruction set (kernels.inc). Kernels are serial; the packed weight is
// [k·k, padded C]: tap (u, v) of channel c at (u·k + v)·ld + c, ld = hssl_conv_ld(C), zero beyond C.
#ifndef HSSL_CONV_H
#define HSSL_CONV_H

#include "CSupport.h"

typedef struct {
    ptrdiff_t h, w, C, k;
} hssl_conv_shape;

typedef struct {
    /// Rows begin ..< end of the output, counted through the batch: row r is row r % h of sample r / h. bias [C] may be NULL.
    void (*depthwise)(const hssl_conv_shape *shape, ptrdiff_t begin, ptrdiff_t end, const float *x, const float *packed, const float *bias,
                      float *y);
    /// Channels begin ..< end (begin a multiple of 16), kernel rows u_begin ..< u_end: packed = Σ x·dy, not added.
    void (*depthwise_backward_weight)(const hssl_conv_shape *shape, ptrdiff_t batch, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t u_begin,
                                      ptrdiff_t u_end, const float *x, const float *dy, float *packed);
} hssl_conv_kernels;

#define HSSL_KERNEL(family, table, isa) extern const hssl_conv_kernels table;
#include "conv/kernels.inc"
#undef HSSL_KERNEL

/// `count` patches of one image from patch `first` on, all in one row of patches; see hssl_patchify.
void hssl_patchify_run(ptrdiff_t channels, ptrdiff_t H, ptrdiff_t W, ptrdiff_t p, ptrdiff_t first, ptrdiff_t count, const float *image, float *patches);

static inline ptrdiff_t hssl_conv_ld(ptrdiff_t C) { return (C + 15) / 16 * 16; }

#endif
