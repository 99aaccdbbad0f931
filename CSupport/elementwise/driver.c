// Splits work over threads and calls the row of the selected instruction set. Functions that only move rows live here.
#include "elementwise/elementwise.h"
#include "elementwise/partition.h"
#include <string.h>

static const hssl_elementwise_kernels *selected(void) {
    hssl_isa isa = hssl_isa_selected();
    const hssl_elementwise_kernels *best = &hssl_elementwise__scalar;
#define HSSL_KERNEL(family, table, row_isa) if (isa >= HSSL_ISA_##row_isa) best = &table;
#include "elementwise/kernels.inc"
#undef HSSL_KERNEL
    return best;
}

void hssl_gelu(ptrdiff_t n, const float *x, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_EXP);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(n, 16, part, threads);
        kernels->gelu(r.end - r.begin, x + r.begin, y + r.begin);
    });
}

void hssl_gelu_backward(ptrdiff_t n, const float *x, const float *dy, float *dx) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_EXP);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(n, 16, part, threads);
        kernels->gelu_backward(r.end - r.begin, x + r.begin, dy + r.begin, dx + r.begin);
    });
}

void hssl_add(ptrdiff_t n, const float *x, const float *y, float *z) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(n, 16, part, threads);
        kernels->add(r.end - r.begin, x + r.begin, y + r.begin, z + r.begin);
    });
}

void hssl_scale(ptrdiff_t n, float alpha, float *x) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(n, 16, part, threads);
        kernels->scale(r.end - r.begin, alpha, x + r.begin, x + r.begin);
    });
}

void hssl_axpy(ptrdiff_t n, float alpha, const float *x, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(n, 16, part, threads);
        kernels->axpy(r.end - r.begin, alpha, x + r.begin, y + r.begin, y + r.begin);
    });
}

/// The part of a [batch, n] array that a thread works on: whole samples, or for a small batch the same columns of every
/// sample.
typedef struct {
    hssl_range samples, columns;
} block;

static block block_of(ptrdiff_t batch, ptrdiff_t n, int part, int parts) {
    block whole = {{0, batch}, {0, n}};
    if (batch >= parts)
        whole.samples = hssl_range_of(batch, 1, part, parts);
    else
        whole.columns = hssl_range_of(n, 16, part, parts);
    return whole;
}

void hssl_add_scaled_samples(ptrdiff_t batch, ptrdiff_t n, const float *x, const float *branch, const float *scale,
                             float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(batch * n) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        block own = block_of(batch, n, part, threads);
        ptrdiff_t count = own.columns.end - own.columns.begin;
        for (ptrdiff_t b = own.samples.begin; b < own.samples.end; b++) {
            ptrdiff_t at = b * n + own.columns.begin;
            kernels->axpy(count, scale ? scale[b] : 1, branch + at, x + at, y + at);
        }
    });
}

void hssl_scale_samples(ptrdiff_t batch, ptrdiff_t n, const float *scale, const float *x, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(batch * n) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        block own = block_of(batch, n, part, threads);
        ptrdiff_t count = own.columns.end - own.columns.begin;
        for (ptrdiff_t b = own.samples.begin; b < own.samples.end; b++) {
            ptrdiff_t at = b * n + own.columns.begin;
            kernels->scale(count, scale[b], x + at, y + at);
        }
    });
}

void hssl_add_broadcast(ptrdiff_t batch, ptrdiff_t n, const float *x, const float *v, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(batch * n) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        block own = block_of(batch, n, part, threads);
        ptrdiff_t at = own.samples.begin * n + own.columns.begin;
        kernels->add_broadcast(own.samples.end - own.samples.begin, own.columns.end - own.columns.begin, n, x + at,
                               v + own.columns.begin, y + at);
    });
}

void hssl_sum_rows(ptrdiff_t batch, ptrdiff_t n, const float *x, float *out) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(batch * n) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range c = hssl_range_of(n, 16, part, threads);
        kernels->sum_rows(batch, c.end - c.begin, n, x + c.begin, out + c.begin);
    });
}

void hssl_relu(ptrdiff_t n, const float *x, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(n, 16, part, threads);
        kernels->relu(r.end - r.begin, x + r.begin, y + r.begin);
    });
}

void hssl_relu_backward(ptrdiff_t n, const float *y, const float *dy, float *dx) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(n, 16, part, threads);
        kernels->relu_backward(r.end - r.begin, y + r.begin, dy + r.begin, dx + r.begin);
    });
}

void hssl_gated(ptrdiff_t rows, ptrdiff_t H, const float *x, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(rows * H) * HSSL_WORK_EXP);
    HSSL_TEAM(threads, part, {
        hssl_range own = hssl_range_of(rows, 1, part, threads);
        for (ptrdiff_t r = own.begin; r < own.end; r++) {
            kernels->gated(H, x + 2 * r * H, x + (2 * r + 1) * H, y + r * H);
        }
    });
}

void hssl_gated_backward(ptrdiff_t rows, ptrdiff_t H, const float *x, const float *dy, float *dx) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(rows * H) * 2 * HSSL_WORK_EXP);
    HSSL_TEAM(threads, part, {
        hssl_range own = hssl_range_of(rows, 1, part, threads);
        for (ptrdiff_t r = own.begin; r < own.end; r++) {
            const ptrdiff_t g = 2 * r * H, u = g + H;
            kernels->gated_backward(H, x + g, x + u, dy + r * H, dx + g, dx + u);
        }
    });
}

void hssl_scale_channels(ptrdiff_t rows, ptrdiff_t C, const float *scale, const float *x, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(rows * C) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(rows, 1, part, threads);
        kernels->multiply_broadcast(r.end - r.begin, C, C, x + r.begin * C, scale, y + r.begin * C);
    });
}

void hssl_multiply_sum_rows(ptrdiff_t rows, ptrdiff_t C, const float *x, const float *dy, float *out) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(rows * C) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range c = hssl_range_of(C, 16, part, threads);
        kernels->multiply_sum_rows(rows, c.end - c.begin, C, x + c.begin, dy + c.begin, out + c.begin);
    });
}

void hssl_mean_tokens(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t D, const float *x, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(batch * tokens * D) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        block own = block_of(batch, D, part, threads);
        ptrdiff_t count = own.columns.end - own.columns.begin;
        for (ptrdiff_t b = own.samples.begin; b < own.samples.end; b++) {
            float *row = y + b * D + own.columns.begin;
            memset(row, 0, (size_t)count * sizeof(float));
            kernels->sum_rows(tokens, count, D, x + b * tokens * D + own.columns.begin, row);
            kernels->scale(count, 1.0f / (float)tokens, row, row);
        }
    });
}

void hssl_gather_rows(ptrdiff_t count, ptrdiff_t D, const int32_t *index, const float *x, float *y) {
    int threads = hssl_team((double)(count * D) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t i = hssl_split(count, threads, part); i < hssl_split(count, threads, part + 1); ++i) memcpy(
            y + i * D, x + index[i] * D, (size_t)D * sizeof(float));
    });
}

void hssl_scatter_add_rows(ptrdiff_t count, ptrdiff_t D, const int32_t *index, const float *x, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(count * D) * HSSL_WORK_STREAM);
    // By columns: rows may repeat, and every sum is walked in the order of the index.
    HSSL_TEAM(threads, part, {
        hssl_range c = hssl_range_of(D, 16, part, threads);
        for (ptrdiff_t i = 0; i < count; i++) {
            float *row = y + index[i] * D + c.begin;
            kernels->add(c.end - c.begin, row, x + i * D + c.begin, row);
        }
    });
}

void hssl_softmax(
    ptrdiff_t rows, ptrdiff_t K, const float *x, const float *center, float inverse_temperature, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(rows * K) * HSSL_WORK_EXP);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(rows, 1, part, threads);
        kernels->softmax(r.end - r.begin, K, x + r.begin * K, center, inverse_temperature, y + r.begin * K);
    });
}

void hssl_soft_cross_entropy(ptrdiff_t rows, ptrdiff_t K, const float *q, const float *z, float inverse_temperature,
                             float *loss, float *log_sum_exp) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(rows * K) * HSSL_WORK_EXP);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(rows, 1, part, threads);
        kernels->soft_cross_entropy(r.end - r.begin, K, q + r.begin * K, z + r.begin * K, inverse_temperature,
                                    loss + r.begin,
                                    log_sum_exp + r.begin);
    });
}

void hssl_soft_cross_entropy_backward(ptrdiff_t rows, ptrdiff_t K, const float *q, const float *z,
                                      float inverse_temperature, const float *log_sum_exp, const float *weight,
                                      float *dz) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(rows * K) * HSSL_WORK_EXP);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(rows, 1, part, threads);
        kernels->soft_cross_entropy_backward(r.end - r.begin, K, q + r.begin * K, z + r.begin * K, inverse_temperature,
                                             log_sum_exp + r.begin, weight + r.begin, dz + r.begin * K);
    });
}
