// Colour adjustments as torchvision applies them to Pillow images: each blends the image with a degenerate one.
#include "image/image.h"

const hssl_image_kernels *hssl_image_selected(void) {
    const hssl_isa isa = hssl_isa_selected();
    const hssl_image_kernels *best = &hssl_image__scalar;
#define HSSL_KERNEL(family, table, row_isa) if (isa >= HSSL_ISA_##row_isa) best = &table;
#include "image/kernels.inc"
#undef HSSL_KERNEL
    return best;
}

void hssl_adjust_brightness(ptrdiff_t pixels, uint8_t *rgb, float factor) {
    hssl_image_selected()->blend_constant(3 * pixels, rgb, 0, factor);
}

void hssl_adjust_contrast(ptrdiff_t pixels, uint8_t *rgb, float factor) {
    if (pixels == 0) return;
    const hssl_image_kernels *kernels = hssl_image_selected();
    const double mean = (double)kernels->sum_luma(pixels, rgb) / (double)pixels;
    kernels->blend_constant(3 * pixels, rgb, (int)(mean + 0.5), factor);
}

void hssl_adjust_saturation(ptrdiff_t pixels, uint8_t *rgb, float factor) {
    hssl_image_selected()->blend_luma(pixels, rgb, factor);
}

void hssl_adjust_hue(ptrdiff_t pixels, uint8_t *rgb, float shift) {
    hssl_image_selected()->shift_hue(pixels, rgb, (uint8_t)(int)((double)shift * 255));
}

void hssl_grayscale(ptrdiff_t pixels, uint8_t *rgb) { hssl_image_selected()->blend_luma(pixels, rgb, 0); }

void hssl_solarize(ptrdiff_t pixels, uint8_t *rgb, int threshold) {
    for (ptrdiff_t i = 0; i < 3 * pixels; i++) rgb[i] = rgb[i] >= threshold ? 255 - rgb[i] : rgb[i];
}

void hssl_flip_horizontal(ptrdiff_t width, ptrdiff_t height, uint8_t *rgb) {
    for (ptrdiff_t y = 0; y < height; y++, rgb += 3 * width) {
        for (ptrdiff_t i = 0, j = width - 1; i < j; i++, j--) {
            for (int c = 0; c < 3; c++) {
                const uint8_t kept = rgb[3 * i + c];
                rgb[3 * i + c] = rgb[3 * j + c];
                rgb[3 * j + c] = kept;
            }
        }
    }
}

void hssl_normalize_rgb(ptrdiff_t pixels, const uint8_t *rgb, const float mean[3], const float std[3], float *planes) {
    float scale[3], offset[3];
    for (int c = 0; c < 3; c++) {
        scale[c] = (float)(1.0 / (255.0 * (double)std[c]));
        offset[c] = (float)(-(double)mean[c] / (double)std[c]);
    }
    hssl_image_selected()->normalize(pixels, rgb, scale, offset, planes);
}
