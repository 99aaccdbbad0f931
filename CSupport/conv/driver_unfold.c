// Unfold: the windows of a grid as rows of a matrix. The forwards only move memory; the backward is a kernel of
// windows.inc.
#include "conv/conv.h"
#include "elementwise/partition.h"
#include <string.h>

static void clear(ptrdiff_t n, float *y) { memset(y, 0, (size_t)n * sizeof(float)); }

// A line of a window, k positions of C channels, is contiguous in x as in y: one copy, less what is padding.
void hssl_unfold_run(const hssl_window_shape *s, ptrdiff_t i, ptrdiff_t first, ptrdiff_t count, ptrdiff_t element,
                     uint8_t fill, const void *x, void *y, ptrdiff_t distance) {
    const ptrdiff_t position = s->C * element, k = s->k, line = k * position;
    char *window = y;
    for (ptrdiff_t j = first; j < first + count; ++j, window += distance) {
        const ptrdiff_t column = j * s->stride - s->padding;
        const hssl_window_span columns = hssl_window_positions(s, s->w, j);
        const ptrdiff_t before = (columns.begin - column) * position, inside = (columns.end - columns.begin) * position;
        for (ptrdiff_t u = 0; u < k; ++u) {
            char *const to = window + u * line;
            const ptrdiff_t row = i * s->stride - s->padding + u;
            if (row < 0 || row >= s->h) {
                memset(to, fill, (size_t)line);
                continue;
            }
            if (before > 0) memset(to, fill, (size_t)before);
            memcpy(to + before, (const char *)x + (row * s->w + columns.begin) * position, (size_t)inside);
            if (before + inside < line) memset(to + before + inside, fill, (size_t)(line - before - inside));
        }
    }
}

void hssl_unfold(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                 ptrdiff_t padding, const float *x, float *y) {
    const hssl_window_shape shape = hssl_windows_of(h, w, C, k, stride, padding);
    const ptrdiff_t rows = batch * shape.out_h, width = shape.out_w * k * k * C;
    const int threads = hssl_team((double)(rows * width) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t r = hssl_split(rows, threads, part); r < hssl_split(rows, threads, part + 1); ++r) {
            hssl_unfold_run(&shape, r % shape.out_h, 0, shape.out_w, sizeof *x, 0, x + r / shape.out_h * h * w * C,
                            y + r * width, k * k * C * (ptrdiff_t)sizeof *y);
        }
    });
}

void hssl_unfold_backward(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                          ptrdiff_t padding, const float *dy, float *dx) {
    const hssl_conv_kernels *kernels = hssl_conv_selected();
    const hssl_window_shape shape = hssl_windows_of(h, w, C, k, stride, padding);
    const int threads = hssl_team((double)(batch * shape.out_h * shape.out_w * k * k * C) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        const hssl_range r = hssl_range_of(batch * h, 1, part, threads);
        kernels->unfold_backward(&shape, r.begin, r.end, dy, dx);
    });
}

/// The windows that are whole along a line: k floats each, `stride` apart in the line and `distance` apart in y. k is a
/// constant where it is common, and 5 to 7 floats are two overlapping copies of four.
static inline __attribute__((always_inline)) void copy_lines(
    ptrdiff_t k, ptrdiff_t count, ptrdiff_t stride, ptrdiff_t distance, const float *line, float *y) {
    for (ptrdiff_t j = 0; j < count; ++j, line += stride, y += distance) {
        if (k >= 4 && k <= 7) {
            memcpy(y, line, 4 * sizeof *y);
            memcpy(y + k - 4, line + k - 4, 4 * sizeof *y);
        } else {
            for (ptrdiff_t v = 0; v < k; ++v) y[v] = line[v];
        }
    }
}

/// Windows begin ..< end along a line, position by position; window 0 begins `padding` before it.
static void copy_partly(const hssl_window_shape *s, ptrdiff_t padding, ptrdiff_t begin, ptrdiff_t end,
                        ptrdiff_t distance, const float *line, float *y) {
    for (ptrdiff_t j = begin; j < end; ++j) {
        for (ptrdiff_t v = 0; v < s->k; ++v) {
            const ptrdiff_t column = j * s->stride - padding + v;
            y[j * distance + v] = column >= 0 && column < s->w ? line[column] : 0;
        }
    }
}

/// Windows that are filled line by line stay in L1 meanwhile.
enum { RUN_FLOATS = 6144 };

// Walks the lines of the image, each through all windows.
void hssl_unfold_image_run(const hssl_window_shape *s, ptrdiff_t i, ptrdiff_t from_window, ptrdiff_t count,
                           const float *image, float *y) {
    const ptrdiff_t k = s->k, window = s->C * k * k, padding = s->padding - from_window * s->stride;
    // Windows first ..< last of these lie between the left and the right padding.
    const ptrdiff_t first = padding <= 0 ? 0 : hssl_min(count, hssl_ceil_div(padding, s->stride));
    const ptrdiff_t last = s->w + padding < k
        ? first : hssl_max(first, hssl_min(count, (s->w + padding - k) / s->stride + 1));
    for (ptrdiff_t c = 0; c < s->C; ++c) {
        for (ptrdiff_t u = 0; u < k; ++u) {
            const ptrdiff_t row = i * s->stride - s->padding + u;
            float *const to = y + (c * k + u) * k;
            if (row < 0 || row >= s->h) {
                for (ptrdiff_t j = 0; j < count; ++j) clear(k, to + j * window);
                continue;
            }
            const float *const line = image + (c * s->h + row) * s->w;
            copy_partly(s, padding, 0, first, window, line, to);
            copy_partly(s, padding, last, count, window, line, to);
            if (last == first) continue;
            const float *const from = line + first * s->stride - padding;
            switch (k) {
                case 3: copy_lines(3, last - first, s->stride, window, from, to + first * window); break;
                case 4: copy_lines(4, last - first, s->stride, window, from, to + first * window); break;
                case 7: copy_lines(7, last - first, s->stride, window, from, to + first * window); break;
                default: copy_lines(k, last - first, s->stride, window, from, to + first * window); break;
            }
        }
    }
}

void hssl_unfold_image(ptrdiff_t batch, ptrdiff_t C, ptrdiff_t H, ptrdiff_t W, ptrdiff_t k, ptrdiff_t stride,
                       ptrdiff_t padding, const float *image, float *y) {
    if (k == stride && padding == 0) {
        hssl_patchify(batch, C, H, W, k, image, y);
        return;
    }
    const hssl_window_shape shape = hssl_windows_of(H, W, C, k, stride, padding);
    const ptrdiff_t rows = batch * shape.out_h, window = C * k * k;
    const ptrdiff_t some = hssl_max(1, RUN_FLOATS / window);
    const int threads = hssl_team((double)(rows * shape.out_w * window) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t r = hssl_split(rows, threads, part); r < hssl_split(rows, threads, part + 1); ++r) {
            for (ptrdiff_t j = 0; j < shape.out_w; j += some) {
                hssl_unfold_image_run(&shape, r % shape.out_h, j, hssl_min(some, shape.out_w - j),
                                      image + r / shape.out_h * C * H * W, y + (r * shape.out_w + j) * window);
            }
        }
    });
}
