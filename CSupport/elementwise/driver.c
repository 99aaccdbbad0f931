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
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range r = hssl_range_of_this_thread(n, 16);
        kernels->gelu(r.end - r.begin, x + r.begin, y + r.begin);
    }
}

void hssl_gelu_backward(ptrdiff_t n, const float *x, const float *dy, float *dx) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_EXP);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range r = hssl_range_of_this_thread(n, 16);
        kernels->gelu_backward(r.end - r.begin, x + r.begin, dy + r.begin, dx + r.begin);
    }
}

void hssl_add(ptrdiff_t n, const float *x, const float *y, float *z) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range r = hssl_range_of_this_thread(n, 16);
        kernels->add(r.end - r.begin, x + r.begin, y + r.begin, z + r.begin);
    }
}

void hssl_scale(ptrdiff_t n, float alpha, float *x) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range r = hssl_range_of_this_thread(n, 16);
        kernels->scale(r.end - r.begin, alpha, x + r.begin, x + r.begin);
    }
}

void hssl_axpy(ptrdiff_t n, float alpha, const float *x, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range r = hssl_range_of_this_thread(n, 16);
        kernels->axpy(r.end - r.begin, alpha, x + r.begin, y + r.begin, y + r.begin);
    }
}

/// The part of a [batch, n] array that a thread works on: whole samples, or for a small batch the same columns of every sample.
typedef struct {
    hssl_range samples, columns;
} block;

static block block_of_this_thread(ptrdiff_t batch, ptrdiff_t n) {
    block whole = {{0, batch}, {0, n}};
    if (batch >= omp_get_num_threads())
        whole.samples = hssl_range_of_this_thread(batch, 1);
    else
        whole.columns = hssl_range_of_this_thread(n, 16);
    return whole;
}

void hssl_add_scaled_samples(ptrdiff_t batch, ptrdiff_t n, const float *x, const float *branch, const float *scale, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(batch * n) * HSSL_WORK_STREAM);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        block part = block_of_this_thread(batch, n);
        ptrdiff_t count = part.columns.end - part.columns.begin;
        for (ptrdiff_t b = part.samples.begin; b < part.samples.end; b++) {
            ptrdiff_t at = b * n + part.columns.begin;
            kernels->axpy(count, scale ? scale[b] : 1, branch + at, x + at, y + at);
        }
    }
}

void hssl_scale_samples(ptrdiff_t batch, ptrdiff_t n, const float *scale, const float *x, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(batch * n) * HSSL_WORK_STREAM);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        block part = block_of_this_thread(batch, n);
        ptrdiff_t count = part.columns.end - part.columns.begin;
        for (ptrdiff_t b = part.samples.begin; b < part.samples.end; b++) {
            ptrdiff_t at = b * n + part.columns.begin;
            kernels->scale(count, scale[b], x + at, y + at);
        }
    }
}

void hssl_add_broadcast(ptrdiff_t batch, ptrdiff_t n, const float *x, const float *v, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(batch * n) * HSSL_WORK_STREAM);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        block part = block_of_this_thread(batch, n);
        ptrdiff_t at = part.samples.begin * n + part.columns.begin;
        kernels->add_broadcast(part.samples.end - part.samples.begin, part.columns.end - part.columns.begin, n, x + at,
                               v + part.columns.begin, y + at);
    }
}

void hssl_sum_rows(ptrdiff_t batch, ptrdiff_t n, const float *x, float *out) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(batch * n) * HSSL_WORK_STREAM);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range c = hssl_range_of_this_thread(n, 16);
        kernels->sum_rows(batch, c.end - c.begin, n, x + c.begin, out + c.begin);
    }
}

void hssl_mean_tokens(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t D, const float *x, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(batch * tokens * D) * HSSL_WORK_STREAM);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        block part = block_of_this_thread(batch, D);
        ptrdiff_t count = part.columns.end - part.columns.begin;
        for (ptrdiff_t b = part.samples.begin; b < part.samples.end; b++) {
            float *row = y + b * D + part.columns.begin;
            memset(row, 0, (size_t)count * sizeof(float));
            kernels->sum_rows(tokens, count, D, x + b * tokens * D + part.columns.begin, row);
            kernels->scale(count, 1.0f / (float)tokens, row, row);
        }
    }
}

void hssl_gather_rows(ptrdiff_t count, ptrdiff_t D, const int32_t *index, const float *x, float *y) {
    int threads = hssl_team((double)(count * D) * HSSL_WORK_STREAM);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (ptrdiff_t i = 0; i < count; i++) memcpy(y + i * D, x + index[i] * D, (size_t)D * sizeof(float));
}

void hssl_scatter_add_rows(ptrdiff_t count, ptrdiff_t D, const int32_t *index, const float *x, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(count * D) * HSSL_WORK_STREAM);
    // By columns: rows may repeat, and every sum is walked in the order of the index.
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range c = hssl_range_of_this_thread(D, 16);
        for (ptrdiff_t i = 0; i < count; i++) {
            float *row = y + index[i] * D + c.begin;
            kernels->add(c.end - c.begin, row, x + i * D + c.begin, row);
        }
    }
}

void hssl_softmax(ptrdiff_t rows, ptrdiff_t K, const float *x, const float *center, float inverse_temperature, float *y) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(rows * K) * HSSL_WORK_EXP);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range r = hssl_range_of_this_thread(rows, 1);
        kernels->softmax(r.end - r.begin, K, x + r.begin * K, center, inverse_temperature, y + r.begin * K);
    }
}

void hssl_soft_cross_entropy(ptrdiff_t rows, ptrdiff_t K, const float *q, const float *z, float inverse_temperature, float *loss,
                             float *log_sum_exp) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(rows * K) * HSSL_WORK_EXP);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range r = hssl_range_of_this_thread(rows, 1);
        kernels->soft_cross_entropy(r.end - r.begin, K, q + r.begin * K, z + r.begin * K, inverse_temperature, loss + r.begin,
                                    log_sum_exp + r.begin);
    }
}

void hssl_soft_cross_entropy_backward(ptrdiff_t rows, ptrdiff_t K, const float *q, const float *z, float inverse_temperature,
                                      const float *log_sum_exp, const float *weight, float *dz) {
    const hssl_elementwise_kernels *kernels = selected();
    int threads = hssl_team((double)(rows * K) * HSSL_WORK_EXP);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range r = hssl_range_of_this_thread(rows, 1);
        kernels->soft_cross_entropy_backward(r.end - r.begin, K, q + r.begin * K, z + r.begin * K, inverse_temperature,
                                             log_sum_exp + r.begin, weight + r.begin, dz + r.begin * K);
    }
}
