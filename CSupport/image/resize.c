// Antialiased bicubic and bilinear resampling with Pillow's weights. Reference: Pillow, src/libImaging/Resample.c (the
// algorithm; no code of it is here).
#include "image/image.h"
#include <math.h>
#include <string.h>

enum { ALIGNMENT = 64 };

static size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

// Keys' cubic with a = −1/2, zero beyond 2.
static double cubic(double x) {
    x = fabs(x);
    if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
    if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
    return 0.0;
}

static double triangle(double x) { return fmax(1.0 - fabs(x), 0.0); }

/// One axis: output i of the crop is Σ_t weights[i·stride + t]·input[first[i] + t], t < count[i].
typedef struct {
    ptrdiff_t stride;  // multiple of HSSL_RESIZE_TAPS
    int32_t *first, *count, *weights;
    double *exact;  // [stride]
} axis;

// The difference is taken in float, as Pillow does.
static double scale_of(float begin, float end, ptrdiff_t out) { return (double)(end - begin) / (double)out; }

static ptrdiff_t stride_of(double scale) {
    const ptrdiff_t taps = (ptrdiff_t)ceil(2.0 * fmax(scale, 1.0)) * 2 + 1;
    return (taps + HSSL_RESIZE_TAPS - 1) / HSSL_RESIZE_TAPS * HSSL_RESIZE_TAPS;
}

static size_t axis_size(double scale, ptrdiff_t crop) {
    const size_t stride = (size_t)stride_of(scale), n = (size_t)crop;
    return 2 * aligned(n * 4) + aligned(n * stride * 4) + aligned(stride * 8);
}

static uint8_t *carve(uint8_t **cursor, size_t bytes) {
    uint8_t *block = *cursor;
    *cursor += aligned(bytes);
    return block;
}

static axis make_axis(ptrdiff_t in, float begin, float end, ptrdiff_t out, ptrdiff_t crop_begin, ptrdiff_t crop,
                      bool bilinear, uint8_t **cursor) {
    const double scale = scale_of(begin, end, out), filter_scale = fmax(scale, 1.0);
    const double support = (bilinear ? 1.0 : 2.0) * filter_scale, inverse = 1.0 / filter_scale;
    axis a = {.stride = stride_of(scale)};
    a.first = (int32_t *)carve(cursor, (size_t)crop * 4);
    a.count = (int32_t *)carve(cursor, (size_t)crop * 4);
    a.weights = (int32_t *)carve(cursor, (size_t)(crop * a.stride) * 4);
    a.exact = (double *)carve(cursor, (size_t)a.stride * 8);
    for (ptrdiff_t i = 0; i < crop; i++) {
        const double center = (double)begin + ((double)(crop_begin + i) + 0.5) * scale;
        ptrdiff_t first = (ptrdiff_t)(center - support + 0.5), last = (ptrdiff_t)(center + support + 0.5);
        if (first < 0) first = 0;
        if (last > in) last = in;
        const ptrdiff_t count = last - first;
        double sum = 0;
        for (ptrdiff_t t = 0; t < count; t++) {
            const double x = ((double)(t + first) - center + 0.5) * inverse;
            a.exact[t] = bilinear ? triangle(x) : cubic(x);
            sum += a.exact[t];
        }
        int32_t *weights = a.weights + i * a.stride;
        for (ptrdiff_t t = 0; t < count; t++) {
            const double w = (sum != 0 ? a.exact[t] / sum : a.exact[t]) * (1 << HSSL_RESIZE_BITS);
            weights[t] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
        }
        for (ptrdiff_t t = count; t < a.stride; t++) weights[t] = 0;
        a.first[i] = (int32_t)first;
        a.count[i] = (int32_t)count;
    }
    return a;
}

/// Which pass comes first changes roundings by a level or so; Pillow 13 starts with the vertical one where the height
/// shrinks by much more than the width (by pixels of the whole image, not of the box).
static bool vertical_first(const hssl_resize *r) {
    return r->in_height > r->out_height && r->in_height - r->out_height > 2 * (r->in_width - r->out_width);
}

static double x_scale(const hssl_resize *r) { return scale_of(r->left, r->right, r->out_width); }
static double y_scale(const hssl_resize *r) { return scale_of(r->top, r->bottom, r->out_height); }

/// Bytes of the image between the passes: whole rows of the source, or as many rows as the crop and the filter's reach
/// ask for.
static size_t between_size(const hssl_resize *r) {
    if (vertical_first(r)) return (size_t)r->in_width * (size_t)r->crop_height * 3;
    const double reach = (double)r->crop_height * y_scale(r) + 4.0 * fmax(y_scale(r), 1.0) + 4.0;
    return (reach < (double)r->in_height ? (size_t)reach : (size_t)r->in_height) * (size_t)r->crop_width * 3;
}

size_t hssl_resize_bicubic_workspace_size(const hssl_resize *r) {
    return axis_size(x_scale(r), r->crop_width) + axis_size(y_scale(r), r->crop_height)
        + aligned((size_t)r->in_width * 3 + HSSL_RESIZE_PADDING) +
           aligned(between_size(r));
}

/// An image or a part of one: its first row, and the bytes from row to row.
typedef struct {
    const uint8_t *rows;
    ptrdiff_t stride;
} view;

/// Rows [0, height) of `in`, narrowed or widened to `width` pixels. A row is copied to `padded` first: there, reading
/// past its end is harmless.
static void resample_columns(const hssl_image_kernels *kernels, const axis *x, ptrdiff_t width, ptrdiff_t height,
                             view in, uint8_t *padded, uint8_t *out) {
    const ptrdiff_t begin = x->first[0], end = x->first[width - 1] + x->count[width - 1];
    memset(padded + 3 * end, 0, HSSL_RESIZE_PADDING);
    for (ptrdiff_t r = 0; r < height; r++) {
        memcpy(padded + 3 * begin, in.rows + r * in.stride + 3 * begin, (size_t)(end - begin) * 3);
        kernels->resample_row(width, x->stride, x->first, x->count, x->weights, padded, out + r * 3 * width);
    }
}

/// `height` rows of `width` pixels from the rows of `in`, whose first is row `first` of the axis.
static void resample_rows(const hssl_image_kernels *kernels, const axis *y, ptrdiff_t width, ptrdiff_t height, view in,
                          ptrdiff_t first, uint8_t *out) {
    for (ptrdiff_t i = 0; i < height; i++) {
        kernels->combine_rows(3 * width, y->count[i], y->weights + i * y->stride,
                              in.rows + (y->first[i] - first) * in.stride, in.stride, out + i * 3 * width);
    }
}

void hssl_resize_bicubic(const hssl_resize *r, const uint8_t *source, ptrdiff_t source_stride, uint8_t *target,
                         void *workspace) {
    const hssl_image_kernels *kernels = hssl_image_selected();
    const bool horizontal = r->out_width != r->in_width || r->left != 0 || r->right != (float)r->in_width;
    const bool vertical = r->out_height != r->in_height || r->top != 0 || r->bottom != (float)r->in_height;
    const ptrdiff_t width = r->crop_width, height = r->crop_height;
    uint8_t *cursor = workspace;
    axis x = {0}, y = {0};
    if (horizontal)
        x = make_axis(r->in_width, r->left, r->right, r->out_width, r->crop_left, width, r->bilinear, &cursor);
    if (vertical)
        y = make_axis(r->in_height, r->top, r->bottom, r->out_height, r->crop_top, height, r->bilinear, &cursor);
    uint8_t *padded = carve(&cursor, (size_t)r->in_width * 3 + HSSL_RESIZE_PADDING), *between = cursor;
    // An axis that is not resampled is cropped here.
    const view image = {source + (vertical ? 0 : r->crop_top * source_stride) + (horizontal ? 0 : 3 * r->crop_left),
                        source_stride};

    if (horizontal && vertical && vertical_first(r)) {
        resample_rows(kernels, &y, r->in_width, height, image, 0, between);
        resample_columns(kernels, &x, width, height, (view){between, 3 * r->in_width}, padded, target);
    } else if (horizontal && vertical) {
        // rows that the second pass reads
        const ptrdiff_t first = y.first[0], last = y.first[height - 1] + y.count[height - 1];
        resample_columns(kernels, &x, width, last - first, (view){source + first * source_stride, source_stride},
                         padded, between);
        resample_rows(kernels, &y, width, height, (view){between, 3 * width}, first, target);
    } else if (horizontal) {
        resample_columns(kernels, &x, width, height, image, padded, target);
    } else if (vertical) {
        resample_rows(kernels, &y, width, height, image, 0, target);
    } else {
        for (ptrdiff_t i = 0; i < height; i++) {
            memcpy(target + i * 3 * width, image.rows + i * image.stride, (size_t)(3 * width));
        }
    }
}
