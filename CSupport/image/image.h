// The image family: one row of kernels per instruction set (kernels.inc), all giving the same bytes. Kernels are
// serial.
#ifndef HSSL_IMAGE_H
#define HSSL_IMAGE_H

#include "CSupport.h"

/// Weights have 22 fractional bits, as in Pillow: 8 for the pixel and 2 of headroom leave that many of 32.
#define HSSL_RESIZE_BITS 22

/// Taps of the horizontal pass are taken in fours; rows must be readable this many bytes past the last pixel.
#define HSSL_RESIZE_TAPS 4
#define HSSL_RESIZE_PADDING 64

typedef struct {
    /// out[x] = Σ_t weights[x·stride + t]·row[first[x] + t] per channel, t < count[x], x in 0 ..< width. stride is a
    /// multiple of 4 and weights from count[x] on are 0.
    void (*resample_row)(ptrdiff_t width, ptrdiff_t stride, const int32_t *first, const int32_t *count,
                         const int32_t *weights, const uint8_t *row, uint8_t *out);
    /// out[i] = Σ_t weights[t]·rows[t·stride + i], i in 0 ..< n.
    void (*combine_rows)(ptrdiff_t n, ptrdiff_t taps, const int32_t *weights, const uint8_t *rows, ptrdiff_t stride,
                         uint8_t *out);
    /// out[i] = (inner·Σ_{0<t<count-1} rows[t][i] + outer·(rows[0][i] + rows[count-1][i]) + 2²³) >> 24.
    void (*box_blur)(ptrdiff_t n, ptrdiff_t count, const uint8_t *const *rows, uint32_t inner, uint32_t outer,
                     uint8_t *out);
    /// x = clamp(base + alpha·(x − base)), truncated, per byte.
    void (*blend_constant)(ptrdiff_t n, uint8_t *x, int base, float alpha);
    /// As above with the pixel's own luma for base.
    void (*blend_luma)(ptrdiff_t pixels, uint8_t *rgb, float alpha);
    uint64_t (*sum_luma)(ptrdiff_t pixels, const uint8_t *rgb);
    /// Adds `shift` to the 8-bit hue of Pillow's HSV.
    void (*shift_hue)(ptrdiff_t pixels, uint8_t *rgb, uint8_t shift);
    void (*normalize)(ptrdiff_t pixels, const uint8_t *rgb, const float scale[3], const float offset[3], float *planes);
} hssl_image_kernels;

#define HSSL_KERNEL(family, table, isa) extern const hssl_image_kernels table;
#include "image/kernels.inc"
#undef HSSL_KERNEL

/// The row of the selected instruction set.
const hssl_image_kernels *hssl_image_selected(void);

#endif
