// The conv family: depthwise convolution, one row of kernels per instruction set (kernels.inc). Kernels are serial; the
// packed weight is [k·k, padded C]: tap (u, v) of channel c at (u·k + v)·ld + c, ld = hssl_conv_ld(C), zero beyond C.
#ifndef HSSL_CONV_H
#define HSSL_CONV_H

#include "CSupport.h"

typedef struct {
    ptrdiff_t h, w, C, k;
} hssl_conv_shape;

/// Windows of a grid [h, w, C]: k×k positions, the first of which is at (i·stride − padding, j·stride − padding); 0 ≤
/// padding < k.
typedef struct {
    ptrdiff_t h, w, C, k, stride, padding;
    ptrdiff_t out_h, out_w;  // how many there are
} hssl_window_shape;

static inline ptrdiff_t hssl_window_count(ptrdiff_t n, ptrdiff_t k, ptrdiff_t stride, ptrdiff_t padding) {
    return n + 2 * padding < k ? 0 : (n + 2 * padding - k) / stride + 1;
}
static inline hssl_window_shape hssl_windows_of(ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                                                ptrdiff_t padding) {
    return (hssl_window_shape){h, w, C, k, stride, padding, hssl_window_count(h, k, stride, padding),
                               hssl_window_count(w, k, stride, padding)};
}

typedef struct { ptrdiff_t begin, end; } hssl_window_span;
/// Positions of an axis of n that window i holds.
static inline hssl_window_span hssl_window_positions(const hssl_window_shape *s, ptrdiff_t n, ptrdiff_t i) {
    const ptrdiff_t first = i * s->stride - s->padding;
    return (hssl_window_span){first > 0 ? first : 0, first + s->k < n ? first + s->k : n};
}
/// Windows, of `count` along an axis, that hold position p.
static inline hssl_window_span hssl_windows_at(const hssl_window_shape *s, ptrdiff_t count, ptrdiff_t p) {
    // windows that begin at or before `before` end before p
    const ptrdiff_t last = (p + s->padding) / s->stride, before = p + s->padding - s->k;
    const ptrdiff_t first = before < 0 ? 0 : before / s->stride + 1;
    return (hssl_window_span){first, last + 1 < count ? last + 1 : count};
}

typedef struct {
    /// Rows begin ..< end of the output, counted through the batch: row r is row r % h of sample r / h. bias [C] may be
    /// NULL.
    void (*depthwise)(const hssl_conv_shape *shape, ptrdiff_t begin, ptrdiff_t end, const float *x, const float *packed,
                      const float *bias, float *y);
    /// Channels begin ..< end (begin a multiple of 16), kernel rows u_begin ..< u_end: packed = Σ x·dy, not added.
    void (*depthwise_backward_weight)(const hssl_conv_shape *shape, ptrdiff_t batch, ptrdiff_t begin, ptrdiff_t end,
                                      ptrdiff_t u_begin, ptrdiff_t u_end, const float *x, const float *dy,
                                      float *packed);
    /// Rows begin ..< end of y or dx, counted through the batch. argmax of max_pool may be NULL. Same bits on every row
    /// (windows.inc).
    void (*unfold_backward)(const hssl_window_shape *shape, ptrdiff_t begin, ptrdiff_t end, const float *dy, float *dx);
    void (*max_pool)(const hssl_window_shape *shape, ptrdiff_t begin, ptrdiff_t end, const float *x, float *y,
                     int32_t *argmax);
    void (*max_pool_backward)(const hssl_window_shape *shape, ptrdiff_t begin, ptrdiff_t end, const int32_t *argmax,
                              const float *dy, float *dx);
    void (*average_pool)(const hssl_window_shape *shape, ptrdiff_t begin, ptrdiff_t end, const float *x, float *y);
    void (*average_pool_backward)(const hssl_window_shape *shape, ptrdiff_t begin, ptrdiff_t end, const float *dy,
                                  float *dx);
} hssl_conv_kernels;

/// The row of the selected instruction set.
const hssl_conv_kernels *hssl_conv_selected(void);

#define HSSL_KERNEL(family, table, isa) extern const hssl_conv_kernels table;
#include "conv/kernels.inc"
#undef HSSL_KERNEL

/// `count` patches of one image from patch `first` on, all in one row of patches; see hssl_patchify.
void hssl_patchify_run(ptrdiff_t channels, ptrdiff_t H, ptrdiff_t W, ptrdiff_t p, ptrdiff_t first, ptrdiff_t count,
                       const float *image, float *patches);
/// `count` windows of row i of them, from window `first` of the row on: of one sample of a grid, and of one image; see
/// hssl_unfold, hssl_unfold_image. A grid may have elements of any size: a channel is `element` bytes, every byte of
/// padding is `fill`, and windows are `distance` bytes apart.
void hssl_unfold_run(const hssl_window_shape *shape, ptrdiff_t i, ptrdiff_t first, ptrdiff_t count, ptrdiff_t element,
                     uint8_t fill, const void *x, void *y, ptrdiff_t distance);
void hssl_unfold_image_run(const hssl_window_shape *shape, ptrdiff_t i, ptrdiff_t first, ptrdiff_t count,
                           const float *image, float *y);

static inline ptrdiff_t hssl_conv_ld(ptrdiff_t C) { return (C + 15) / 16 * 16; }

#endif
