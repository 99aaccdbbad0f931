// The scalar row of the image family: Pillow's arithmetic as written.
#include "image/image.h"
#include "image/color.inc"

static inline uint8_t clip(int32_t sum) {
    const int32_t v = sum >> HSSL_RESIZE_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void resample_row(ptrdiff_t width, ptrdiff_t stride, const int32_t *first, const int32_t *count,
                         const int32_t *weights, const uint8_t *row, uint8_t *out) {
    for (ptrdiff_t x = 0; x < width; x++, weights += stride) {
        const uint8_t *in = row + 3 * (ptrdiff_t)first[x];
        for (int c = 0; c < 3; c++) {
            int32_t sum = 1 << (HSSL_RESIZE_BITS - 1);
            for (ptrdiff_t t = 0; t < count[x]; t++) sum += weights[t] * in[3 * t + c];
            out[3 * x + c] = clip(sum);
        }
    }
}

static void combine_rows(ptrdiff_t n, ptrdiff_t taps, const int32_t *weights, const uint8_t *rows, ptrdiff_t stride,
                         uint8_t *out) {
    for (ptrdiff_t i = 0; i < n; i++) {
        int32_t sum = 1 << (HSSL_RESIZE_BITS - 1);
        for (ptrdiff_t t = 0; t < taps; t++) sum += weights[t] * rows[t * stride + i];
        out[i] = clip(sum);
    }
}

static void box_blur(ptrdiff_t n, ptrdiff_t count, const uint8_t *const *rows, uint32_t inner, uint32_t outer,
                     uint8_t *out) {
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t sum = 0;
        for (ptrdiff_t t = 1; t < count - 1; t++) sum += rows[t][i];
        out[i] = (uint8_t)((sum * inner + ((uint32_t)rows[0][i] + rows[count - 1][i]) * outer + (1u << 23)) >> 24);
    }
}

const hssl_image_kernels hssl_image__scalar = {resample_row, combine_rows, box_blur, blend_constant, blend_luma,
                                               sum_luma, shift_hue, normalize};
