// Group norm: threads share samples and, where these are few, the groups of a sample.
#include "elementwise/partition.h"
#include "norm/norm.h"

/// Pieces that the groups of a sample are cut into.
static ptrdiff_t pieces_of(ptrdiff_t batch, ptrdiff_t groups, int threads) {
    return batch >= threads ? 1 : hssl_min(groups, hssl_ceil_div(threads, hssl_max(batch, 1)));
}

void hssl_group_norm(ptrdiff_t batch, ptrdiff_t positions, ptrdiff_t C, ptrdiff_t groups, const float *x,
                     const float *weight, const float *bias, float epsilon, float *y, float *mean, float *rstd) {
    const hssl_norm_kernels *kernels = hssl_norm_selected();
    const hssl_group_shape shape = {positions, C, groups};
    const int threads = hssl_team((double)(batch * positions * C) * HSSL_WORK_STREAM);
    const ptrdiff_t pieces = pieces_of(batch, groups, threads), tasks = batch * pieces;
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t t = hssl_split(tasks, threads, part); t < hssl_split(tasks, threads, part + 1); ++t) {
            const ptrdiff_t b = t / pieces;
            const hssl_range g = hssl_range_of(groups, 1, (int)(t % pieces), (int)pieces);
            kernels->group_norm(&shape, g.begin, g.end, x + b * positions * C, weight, bias, epsilon,
                                y + b * positions * C, mean ? mean + b * groups : NULL,
                                rstd ? rstd + b * groups : NULL);
        }
    });
}

/// Floats on the stack for what samples add to dweight and dbias: 256 KB.
enum { PARTIAL_SUMS = 65536 };

void hssl_group_norm_backward(ptrdiff_t batch, ptrdiff_t positions, ptrdiff_t C, ptrdiff_t groups, const float *x,
                              const float *weight, const float *mean, const float *rstd, const float *dy, float *dx,
                              float *dweight, float *dbias) {
    const hssl_norm_kernels *kernels = hssl_norm_selected();
    const hssl_group_shape shape = {positions, C, groups};
    float partial[PARTIAL_SUMS];
    // Samples by rounds, so that the sums of a round have room. A sample's sums are added in order, whatever the
    // threads.
    const ptrdiff_t round = hssl_max(1, PARTIAL_SUMS / (2 * C));
    for (ptrdiff_t first = 0; first < batch; first += round) {
        const ptrdiff_t count = hssl_min(round, batch - first);
        float *const weight_sums = partial, *const bias_sums = partial + count * C;
        const int threads = hssl_team((double)(count * positions * C) * 2 * HSSL_WORK_STREAM);
        const ptrdiff_t pieces = pieces_of(count, groups, threads), tasks = count * pieces;
        HSSL_TEAM(threads, part, {
            for (ptrdiff_t t = hssl_split(tasks, threads, part); t < hssl_split(tasks, threads, part + 1); ++t) {
                const ptrdiff_t i = t / pieces, b = first + i, at = b * positions * C;
                const hssl_range g = hssl_range_of(groups, 1, (int)(t % pieces), (int)pieces);
                kernels->group_norm_backward(&shape, g.begin, g.end, x + at, weight, mean + b * groups,
                                             rstd + b * groups, dy + at, dx + at, weight_sums + i * C,
                                             bias_sums + i * C);
            }
        });
        if (dweight) hssl_sum_rows(count, C, weight_sums, dweight);
        if (dbias) hssl_sum_rows(count, C, bias_sums, dbias);
    }
}
