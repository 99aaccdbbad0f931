// Splits tensors over threads and calls the row of the selected instruction set.
#include "elementwise/partition.h"
#include "optimizer/optimizer.h"

static const hssl_optimizer_kernels *selected(void) {
    hssl_isa isa = hssl_isa_selected();
    const hssl_optimizer_kernels *best = &hssl_optimizer__scalar;
#define HSSL_KERNEL(family, table, row_isa) if (isa >= HSSL_ISA_##row_isa) best = &table;
#include "optimizer/kernels.inc"
#undef HSSL_KERNEL
    return best;
}

double hssl_sum_squares(ptrdiff_t n, const float *x) {
    enum { MAX_BLOCKS = 512, MIN_BLOCK = 4096 };
    const hssl_optimizer_kernels *kernels = selected();
    double sums[MAX_BLOCKS], total = 0;
    // The blocks depend on n alone, so the sum does not depend on the thread count.
    ptrdiff_t block = (n + MAX_BLOCKS - 1) / MAX_BLOCKS;
    if (block < MIN_BLOCK) block = MIN_BLOCK;
    ptrdiff_t blocks = (n + block - 1) / block;
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (ptrdiff_t i = 0; i < blocks; i++)
        sums[i] = kernels->sum_squares(i + 1 < blocks ? block : n - i * block, x + i * block);
    for (ptrdiff_t i = 0; i < blocks; i++) total += sums[i];
    return total;
}

bool hssl_all_finite(ptrdiff_t n, const float *x) {
    const hssl_optimizer_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
    int finite = 1;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(&& : finite)
    {
        hssl_range r = hssl_range_of_this_thread(n, 16);
        finite = kernels->all_finite(r.end - r.begin, x + r.begin);
    }
    return finite;
}

void hssl_update(ptrdiff_t n, float *p, float *teacher, const float *g, float *m, float *v, const hssl_update_settings *settings) {
    const hssl_optimizer_kernels *kernels = selected();
    int threads = hssl_team((double)n * 2 * HSSL_WORK_STREAM);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range r = hssl_range_of_this_thread(n, 16);
        kernels->update(r.end - r.begin, p + r.begin, teacher + r.begin, g + r.begin, m + r.begin, v + r.begin, settings);
    }
}

void hssl_update_coded(ptrdiff_t n, float *p, float *teacher, const float *g, uint8_t *m, float *m_scale, uint8_t *v, float *v_scale, uint64_t key,
                       const hssl_update_settings *settings) {
    const hssl_optimizer_kernels *kernels = selected();
    const hssl_coded_moments moments = {m, v, m_scale, v_scale};
    int threads = hssl_team((double)n * 2 * HSSL_WORK_STREAM);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range r = hssl_range_of_this_thread(n, HSSL_MOMENT_BLOCK);
        kernels->update_coded(r.begin, r.end, p, teacher, g, &moments, key, settings);
    }
}

void hssl_ema(ptrdiff_t n, float *teacher, const float *student, float momentum) {
    const hssl_optimizer_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        hssl_range r = hssl_range_of_this_thread(n, 16);
        kernels->ema(r.end - r.begin, teacher + r.begin, student + r.begin, momentum);
    }
}
