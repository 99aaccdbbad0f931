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
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t i = hssl_split(blocks, threads, part); i < hssl_split(blocks, threads, part + 1); ++i)
            sums[i] = kernels->sum_squares(i + 1 < blocks ? block : n - i * block, x + i * block);
    });
    for (ptrdiff_t i = 0; i < blocks; i++) total += sums[i];
    return total;
}

bool hssl_all_finite(ptrdiff_t n, const float *x) {
    const hssl_optimizer_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
    atomic_bool finite = true;
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(n, 16, part, threads);
        if (!kernels->all_finite(r.end - r.begin, x + r.begin)) atomic_store_explicit(
            &finite, false, memory_order_relaxed);
    });
    return finite;
}

void hssl_update(ptrdiff_t n, float *p, float *teacher, const float *g, float *m, float *v,
                 const hssl_update_settings *settings) {
    const hssl_optimizer_kernels *kernels = selected();
    int threads = hssl_team((double)n * 2 * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(n, 16, part, threads);
        kernels->update(
            r.end - r.begin, p + r.begin, teacher + r.begin, g + r.begin, m + r.begin, v + r.begin, settings);
    });
}

void hssl_update_coded(ptrdiff_t n, float *p, float *teacher, const float *g, uint8_t *m, float *m_scale, uint8_t *v,
                       float *v_scale, uint64_t key, const hssl_update_settings *settings) {
    const hssl_optimizer_kernels *kernels = selected();
    const hssl_coded_moments moments = {m, v, m_scale, v_scale};
    int threads = hssl_team((double)n * 2 * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(n, HSSL_MOMENT_BLOCK, part, threads);
        kernels->update_coded(r.begin, r.end, p, teacher, g, &moments, key, settings);
    });
}

void hssl_ema(ptrdiff_t n, float *teacher, const float *student, float momentum) {
    const hssl_optimizer_kernels *kernels = selected();
    int threads = hssl_team((double)n * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        hssl_range r = hssl_range_of(n, 16, part, threads);
        kernels->ema(r.end - r.begin, teacher + r.begin, student + r.begin, momentum);
    });
}
