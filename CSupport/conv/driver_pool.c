// Pools: rows of the output, or of the input for a backward, are split over threads. The kernels are those of
// windows.inc.
#include "conv/conv.h"
#include "elementwise/partition.h"

/// Elements that the windows of a batch hold.
static double work(ptrdiff_t batch, const hssl_window_shape *s) {
    return (double)(batch * s->out_h * s->out_w * s->C * s->k * s->k);
}

void hssl_max_pool(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                   ptrdiff_t padding, const float *x, float *y, int32_t *argmax) {
    const hssl_conv_kernels *kernels = hssl_conv_selected();
    const hssl_window_shape shape = hssl_windows_of(h, w, C, k, stride, padding);
    const int threads = hssl_team(work(batch, &shape));
    HSSL_TEAM(threads, part, {
        const hssl_range r = hssl_range_of(batch * shape.out_h, 1, part, threads);
        kernels->max_pool(&shape, r.begin, r.end, x, y, argmax);
    });
}

void hssl_max_pool_backward(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                            ptrdiff_t padding, const int32_t *argmax, const float *dy, float *dx) {
    const hssl_conv_kernels *kernels = hssl_conv_selected();
    const hssl_window_shape shape = hssl_windows_of(h, w, C, k, stride, padding);
    const int threads = hssl_team(work(batch, &shape));
    HSSL_TEAM(threads, part, {
        const hssl_range r = hssl_range_of(batch * h, 1, part, threads);
        kernels->max_pool_backward(&shape, r.begin, r.end, argmax, dy, dx);
    });
}

void hssl_average_pool(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                       ptrdiff_t padding, const float *x, float *y) {
    const hssl_conv_kernels *kernels = hssl_conv_selected();
    const hssl_window_shape shape = hssl_windows_of(h, w, C, k, stride, padding);
    const int threads = hssl_team(work(batch, &shape));
    HSSL_TEAM(threads, part, {
        const hssl_range r = hssl_range_of(batch * shape.out_h, 1, part, threads);
        kernels->average_pool(&shape, r.begin, r.end, x, y);
    });
}

void hssl_average_pool_backward(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                                ptrdiff_t padding, const float *dy, float *dx) {
    const hssl_conv_kernels *kernels = hssl_conv_selected();
    const hssl_window_shape shape = hssl_windows_of(h, w, C, k, stride, padding);
    const int threads = hssl_team(work(batch, &shape));
    HSSL_TEAM(threads, part, {
        const hssl_range r = hssl_range_of(batch * h, 1, part, threads);
        kernels->average_pool_backward(&shape, r.begin, r.end, dy, dx);
    });
}
