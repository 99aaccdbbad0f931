// Gaussian blur as Pillow's: three box blurs an axis, each with a fractional radius and rounded to 8 bits.
// Source: Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM 2011.
#include "image/image.h"
#include <math.h>
#include <string.h>

enum { PASSES = 3, MAX_RADIUS = 64, MAX_ROWS = 2 * MAX_RADIUS + 3, PADDING = 3 * (MAX_RADIUS + 1) };

typedef struct {
    ptrdiff_t radius;       // of the whole pixels
    uint32_t inner, outer;  // weights of the whole pixels and of the two beyond, 24 fractional bits
} box_filter;

static box_filter make_filter(float sigma) {
    const float variance = sigma * sigma / PASSES;
    const float length = (float)sqrt(12.0 * variance + 1.0);
    const float whole = (float)floor((length - 1.0) / 2.0);
    const float fraction = (2 * whole + 1)
        * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) * (whole + 1)));
    const float radius = whole + fraction;
    box_filter filter = {.radius = (ptrdiff_t)radius};
    filter.inner = (uint32_t)((float)(1 << 24) / (radius * 2 + 1));
    filter.outer = ((1u << 24) - (uint32_t)(filter.radius * 2 + 1) * filter.inner) / 2;
    return filter;
}

static size_t line_size(ptrdiff_t width) { return (size_t)(3 * width) + 2 * PADDING; }

size_t hssl_gaussian_blur_workspace_size(ptrdiff_t width, ptrdiff_t height) {
    return 2 * line_size(width) + (size_t)(3 * width * height);
}

// The first and last pixels are repeated outwards.
static void pad(uint8_t *line, ptrdiff_t width, ptrdiff_t count) {
    for (ptrdiff_t i = 1; i <= count; i++) {
        memcpy(line - 3 * i, line, 3);
        memcpy(line + 3 * (width - 1 + i), line + 3 * (width - 1), 3);
    }
}

void hssl_gaussian_blur(ptrdiff_t width, ptrdiff_t height, uint8_t *rgb, float sigma, void *workspace) {
    if (!(sigma > 0)) return;
    const hssl_image_kernels *kernels = hssl_image_selected();
    const box_filter filter = make_filter(sigma);
    const ptrdiff_t r = filter.radius, count = 2 * r + 3, row_bytes = 3 * width;
    const uint8_t *rows[MAX_ROWS];

    uint8_t *line = (uint8_t *)workspace + PADDING, *other = line + line_size(width);
    for (ptrdiff_t y = 0; y < height; y++) {
        uint8_t *row = rgb + y * row_bytes, *from = line, *to = other;
        memcpy(from, row, (size_t)row_bytes);
        for (int pass = 0; pass < PASSES; pass++) {
            pad(from, width, r + 1);
            for (ptrdiff_t t = 0; t < count; t++) rows[t] = from + 3 * (t - r - 1);
            kernels->box_blur(row_bytes, count, rows, filter.inner, filter.outer, pass == PASSES - 1 ? row : to);
            uint8_t *swap = from;
            from = to;
            to = swap;
        }
    }

    uint8_t *copy = (uint8_t *)workspace + 2 * line_size(width);
    memcpy(copy, rgb, (size_t)(row_bytes * height));
    uint8_t *from = copy, *to = rgb;
    for (int pass = 0; pass < PASSES; pass++) {  // an odd number: the last writes rgb
        for (ptrdiff_t y = 0; y < height; y++) {
            for (ptrdiff_t t = 0; t < count; t++) {
                ptrdiff_t source = y + t - r - 1;
                source = source < 0 ? 0 : source >= height ? height - 1 : source;
                rows[t] = from + source * row_bytes;
            }
            kernels->box_blur(row_bytes, count, rows, filter.inner, filter.outer, to + y * row_bytes);
        }
        uint8_t *swap = from;
        from = to;
        to = swap;
    }
}
