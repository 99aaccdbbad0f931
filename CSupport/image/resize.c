// Antialiased bicubic resampling with Pillow's weights. Reference: Pillow, src/libImaging/Resample.c (the algorithm; no code of it is here).
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

/// One axis: output i is Σ_t weights[i·stride + t]·input[first[i] + t], t < count[i].
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

static size_t axis_size(double scale, ptrdiff_t out) {
    const size_t stride = (size_t)stride_of(scale), n = (size_t)out;
    return 2 * aligned(n * 4) + aligned(n * stride * 4) + aligned(stride * 8);
}

static uint8_t *carve(uint8_t **cursor, size_t bytes) {
    uint8_t *block = *cursor;
    *cursor += aligned(bytes);
    return block;
}

static axis make_axis(ptrdiff_t in, float begin, float end, ptrdiff_t out, uint8_t **cursor) {
    const double scale = scale_of(begin, end, out), filter_scale = fmax(scale, 1.0);
    const double support = 2.0 * filter_scale, inverse = 1.0 / filter_scale;
    axis a = {.stride = stride_of(scale)};
    a.first = (int32_t *)carve(cursor, (size_t)out * 4);
    a.count = (int32_t *)carve(cursor, (size_t)out * 4);
    a.weights = (int32_t *)carve(cursor, (size_t)(out * a.stride) * 4);
    a.exact = (double *)carve(cursor, (size_t)a.stride * 8);
    for (ptrdiff_t i = 0; i < out; i++) {
        const double center = (double)begin + ((double)i + 0.5) * scale;
        ptrdiff_t first = (ptrdiff_t)(center - support + 0.5), last = (ptrdiff_t)(center + support + 0.5);
        if (first < 0) first = 0;
        if (last > in) last = in;
        const ptrdiff_t count = last - first;
        double sum = 0;
        for (ptrdiff_t t = 0; t < count; t++) {
            a.exact[t] = cubic(((double)(t + first) - center + 0.5) * inverse);
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

/// Which pass comes first changes roundings by a level or so; Pillow 13 starts with the vertical one where the height shrinks by much more
/// than the width (by pixels of the whole image, not of the box).
static bool vertical_first(ptrdiff_t in_width, ptrdiff_t in_height, ptrdiff_t out_width, ptrdiff_t out_height) {
    return in_height > out_height && in_height - out_height > 2 * (in_width - out_width);
}

/// Rows or columns that a pass over the other axis must produce: the box and the filter's reach on both sides.
static size_t reach_of(float begin, float end, ptrdiff_t in, ptrdiff_t out) {
    const double reach = (double)(end - begin) + 4.0 * fmax(scale_of(begin, end, out), 1.0) + 4.0;
    return reach < (double)in ? (size_t)reach : (size_t)in;
}

size_t hssl_resize_bicubic_workspace_size(ptrdiff_t in_width, ptrdiff_t in_height, hssl_box box, ptrdiff_t out_width, ptrdiff_t out_height) {
    const size_t between = vertical_first(in_width, in_height, out_width, out_height)
                               ? (size_t)in_width * (size_t)out_height
                               : reach_of(box.top, box.bottom, in_height, out_height) * (size_t)out_width;
    return axis_size(scale_of(box.left, box.right, out_width), out_width) + axis_size(scale_of(box.top, box.bottom, out_height), out_height) +
           aligned((size_t)in_width * 3 + HSSL_RESIZE_PADDING) + aligned(between * 3);
}

/// An image or a part of one: its first row, and the bytes from row to row.
typedef struct {
    const uint8_t *rows;
    ptrdiff_t stride;
} view;

/// Rows [0, height) of `in`, narrowed or widened to `width` pixels. A row is copied to `padded` first: there, reading past its end is harmless.
static void resample_columns(const hssl_image_kernels *kernels, const axis *x, ptrdiff_t width, ptrdiff_t height, view in, uint8_t *padded, uint8_t *out) {
    const ptrdiff_t begin = x->first[0], end = x->first[width - 1] + x->count[width - 1];
    memset(padded + 3 * end, 0, HSSL_RESIZE_PADDING);
    for (ptrdiff_t r = 0; r < height; r++) {
        memcpy(padded + 3 * begin, in.rows + r * in.stride + 3 * begin, (size_t)(end - begin) * 3);
        kernels->resample_row(width, x->stride, x->first, x->weights, padded, out + r * 3 * width);
    }
}

/// `height` rows of `width` pixels from the rows of `in`, whose first is row `first` of the axis.
static void resample_rows(const hssl_image_kernels *kernels, const axis *y, ptrdiff_t width, ptrdiff_t height, view in, ptrdiff_t first, uint8_t *out) {
    for (ptrdiff_t i = 0; i < height; i++) {
        kernels->combine_rows(3 * width, y->count[i], y->weights + i * y->stride, in.rows + (y->first[i] - first) * in.stride, in.stride,
                              out + i * 3 * width);
    }
}

void hssl_resize_bicubic(ptrdiff_t in_width, ptrdiff_t in_height, const uint8_t *source, ptrdiff_t source_stride, hssl_box box,
                         ptrdiff_t out_width, ptrdiff_t out_height, uint8_t *target, void *workspace) {
    const hssl_image_kernels *kernels = hssl_image_selected();
    const bool horizontal = out_width != in_width || box.left != 0 || box.right != (float)in_width;
    const bool vertical = out_height != in_height || box.top != 0 || box.bottom != (float)in_height;
    const view image = {source, source_stride};
    uint8_t *cursor = workspace;
    axis x = {0}, y = {0};
    if (horizontal) x = make_axis(in_width, box.left, box.right, out_width, &cursor);
    if (vertical) y = make_axis(in_height, box.top, box.bottom, out_height, &cursor);
    uint8_t *padded = carve(&cursor, (size_t)in_width * 3 + HSSL_RESIZE_PADDING), *between = cursor;

    if (horizontal && vertical && vertical_first(in_width, in_height, out_width, out_height)) {
        resample_rows(kernels, &y, in_width, out_height, image, 0, between);
        resample_columns(kernels, &x, out_width, out_height, (view){between, 3 * in_width}, padded, target);
    } else if (horizontal && vertical) {
        const ptrdiff_t first = y.first[0], last = y.first[out_height - 1] + y.count[out_height - 1];  // rows that the second pass reads
        resample_columns(kernels, &x, out_width, last - first, (view){source + first * source_stride, source_stride}, padded, between);
        resample_rows(kernels, &y, out_width, out_height, (view){between, 3 * out_width}, first, target);
    } else if (horizontal) {
        resample_columns(kernels, &x, out_width, out_height, image, padded, target);
    } else if (vertical) {
        resample_rows(kernels, &y, out_width, out_height, image, 0, target);
    } else {
        for (ptrdiff_t i = 0; i < out_height; i++) memcpy(target + i * 3 * out_width, source + i * source_stride, (size_t)(3 * out_width));
    }
}
