// Packs weights channels-last, splits output rows (or, for weight gradients, channels and kernel rows) over threads.
#include "conv/conv.h"
#include "elementwise/partition.h"
#include <string.h>

const hssl_conv_kernels *hssl_conv_selected(void) {
    hssl_isa isa = hssl_isa_selected();
    const hssl_conv_kernels *best = &hssl_conv__scalar;
#define HSSL_KERNEL(family, table, row_isa) if (isa >= HSSL_ISA_##row_isa) best = &table;
#include "conv/kernels.inc"
#undef HSSL_KERNEL
    return best;
}

size_t hssl_depthwise_conv_workspace_size(ptrdiff_t C, ptrdiff_t k) {
    return (size_t)(k * k * hssl_conv_ld(C)) * sizeof(float);
}

/// [C, k, k] → [k·k, padded C]; `flip` turns the taps by 180°, which makes the input gradient a convolution of dy.
static void pack(ptrdiff_t C, ptrdiff_t taps, const float *weight, bool flip, float *packed) {
    ptrdiff_t ld = hssl_conv_ld(C);
    for (ptrdiff_t t = 0; t < taps; t++) {
        const float *source = weight + (flip ? taps - 1 - t : t);
        for (ptrdiff_t c = 0; c < ld; c++) packed[t * ld + c] = c < C ? source[c * taps] : 0;
    }
}

static void convolve(ptrdiff_t batch, const hssl_conv_shape *shape, const float *x, const float *packed,
                     const float *bias, float *y) {
    const hssl_conv_kernels *kernels = hssl_conv_selected();
    int threads = hssl_team((double)(batch * shape->h * shape->w * shape->C * shape->k * shape->k)
        * HSSL_WORK_MULTIPLY_ADD);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(batch * shape->h, 1, part, threads);
        kernels->depthwise(shape, r.begin, r.end, x, packed, bias, y);
    });
}

void hssl_depthwise_conv_pack(ptrdiff_t C, ptrdiff_t k, const float *weight, void *packed) {
    pack(C, k * k, weight, false, packed);
}

void hssl_depthwise_conv_packed(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, const float *x,
                                const void *packed, const float *bias, float *y) {
    const hssl_conv_shape shape = {h, w, C, k};
    convolve(batch, &shape, x, packed, bias, y);
}

void hssl_depthwise_conv(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, const float *x,
                         const float *weight, const float *bias, float *y, void *workspace) {
    hssl_depthwise_conv_pack(C, k, weight, workspace);
    hssl_depthwise_conv_packed(batch, h, w, C, k, x, workspace, bias, y);
}

void hssl_depthwise_conv_backward_input(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k,
                                        const float *dy, const float *weight, float *dx, void *workspace) {
    const hssl_conv_shape shape = {h, w, C, k};
    pack(C, k * k, weight, true, workspace);
    convolve(batch, &shape, dy, workspace, NULL, dx);
}

void hssl_depthwise_conv_backward_weight(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k,
                                         const float *x, const float *dy, float *dweight, float *dbias,
                                         void *workspace) {
    const hssl_conv_kernels *kernels = hssl_conv_selected();
    const hssl_conv_shape shape = {h, w, C, k};
    const ptrdiff_t ld = hssl_conv_ld(C), groups = ld / 16;
    float *packed = workspace;
    int threads = hssl_team((double)(batch * h * w * C * k * k) * HSSL_WORK_MULTIPLY_ADD);
    // Kernel rows are split only where channels alone do not occupy the threads: a split reads x and dy again.
    ptrdiff_t parts = groups >= threads ? 1 : k;
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t task = hssl_split(groups * parts, threads, part); task < hssl_split(
            groups * parts, threads, part + 1); ++task) {
            ptrdiff_t begin = task / parts * 16, end = begin + 16 < C ? begin + 16 : C;
            hssl_range rows = hssl_range_of(k, 1, (int)(task % parts), (int)parts);
            kernels->depthwise_backward_weight(&shape, batch, begin, end, rows.begin, rows.end, x, dy, packed);
        }
    });
    for (ptrdiff_t c = 0; c < C; c++)
        for (ptrdiff_t t = 0; t < k * k; t++) dweight[c * k * k + t] += packed[t * ld + c];
    if (dbias) hssl_sum_rows(batch * h * w, C, dy, dbias);
}

// A line of the usual patch is a vector or two: with a call of memcpy for each, cutting an image of 224 took 75 µs,
// without 40.
static inline void copy_line(ptrdiff_t p, const float *from, float *to) {
    if (p == 16) memcpy(to, from, 16 * sizeof(float));
    else if (p == 8) memcpy(to, from, 8 * sizeof(float));
    else memcpy(to, from, (size_t)p * sizeof(float));
}

void hssl_patchify_run(ptrdiff_t channels, ptrdiff_t H, ptrdiff_t W, ptrdiff_t p, ptrdiff_t first, ptrdiff_t count,
                       const float *image, float *patches) {
    const ptrdiff_t columns = W / p, row = first / columns;
    // The lines of a row of patches are more streams than hardware prefetches: those of the next row are asked for
    // here, which halves the time.
    const ptrdiff_t ahead = row + 1 < H / p ? p * W : 0;
    for (ptrdiff_t c = 0; c < channels; c++) {
        for (ptrdiff_t y = 0; y < p; y++) {
            const float *const line = image + (c * H + row * p + y) * W + first % columns * p;
            for (ptrdiff_t i = 0; i < count; i++) {
                __builtin_prefetch(line + i * p + ahead);
                copy_line(p, line + i * p, patches + (i * channels + c) * p * p + y * p);
            }
        }
    }
}

void hssl_patchify(ptrdiff_t batch, ptrdiff_t channels, ptrdiff_t H, ptrdiff_t W, ptrdiff_t p, const float *image,
                   float *patches) {
    const ptrdiff_t rows = H / p, columns = W / p;
    int threads = hssl_team((double)(batch * channels * H * W) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t r = hssl_split(batch * rows, threads, part); r
        < hssl_split(batch * rows, threads, part + 1); ++r) {
            hssl_patchify_run(channels, H, W, p, r % rows * columns, columns, image + r / rows * channels * H * W,
                              patches + r * columns * channels * p * p);
        }
    });
}
