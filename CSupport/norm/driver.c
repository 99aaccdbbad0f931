// Splits rows (or, for sums over rows, columns) over threads and calls the row of the selected instruction set.
#include "elementwise/partition.h"
#include "norm/norm.h"

const hssl_norm_kernels *hssl_norm_selected(void) {
    hssl_isa isa = hssl_isa_selected();
    const hssl_norm_kernels *best = &hssl_norm__scalar;
#define HSSL_KERNEL(family, table, row_isa) if (isa >= HSSL_ISA_##row_isa) best = &table;
#include "norm/kernels.inc"
#undef HSSL_KERNEL
    return best;
}

void hssl_layer_norm(ptrdiff_t rows, ptrdiff_t D, const float *x, const float *weight, const float *bias, float epsilon,
                     float *y, float *mean, float *rstd) {
    const hssl_norm_kernels *kernels = hssl_norm_selected();
    int threads = hssl_team((double)(rows * D) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(rows, 1, part, threads);
        kernels->layer_norm(r.end - r.begin, D, x + r.begin * D, weight, bias, epsilon, y + r.begin * D,
                            mean ? mean + r.begin : NULL,
                            rstd ? rstd + r.begin : NULL);
    });
}

void hssl_layer_norm_backward(ptrdiff_t rows, ptrdiff_t D, const float *x, const float *weight, const float *mean,
                              const float *rstd, const float *dy, float *dx, float *dweight, float *dbias) {
    const hssl_norm_kernels *kernels = hssl_norm_selected();
    int threads = hssl_team((double)(rows * D) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        if (dweight || dbias) {
            hssl_range c = hssl_range_of(D, 16, part, threads);
            kernels->layer_norm_backward_weight(rows, D, c.begin, c.end, x, mean, rstd, dy, dweight, dbias);
        }
        hssl_range r = hssl_range_of(rows, 1, part, threads);
        kernels->layer_norm_backward_input(r.end - r.begin, D, x + r.begin * D, weight, mean + r.begin, rstd + r.begin,
                                           dy + r.begin * D,
                                           dx + r.begin * D);
    });
}

void hssl_l2_normalize(ptrdiff_t rows, ptrdiff_t D, const float *x, float epsilon, float *y, float *inverse_norm) {
    const hssl_norm_kernels *kernels = hssl_norm_selected();
    int threads = hssl_team((double)(rows * D) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(rows, 1, part, threads);
        kernels->l2_normalize(r.end - r.begin, D, x + r.begin * D, epsilon, y + r.begin * D,
                              inverse_norm ? inverse_norm + r.begin : NULL);
    });
}

void hssl_l2_normalize_backward(ptrdiff_t rows, ptrdiff_t D, const float *y, const float *inverse_norm, const float *dy,
                                float *dx) {
    const hssl_norm_kernels *kernels = hssl_norm_selected();
    int threads = hssl_team((double)(rows * D) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(rows, 1, part, threads);
        kernels->l2_normalize_backward(r.end - r.begin, D, y + r.begin * D, inverse_norm + r.begin, dy + r.begin * D,
                                       dx + r.begin * D);
    });
}
