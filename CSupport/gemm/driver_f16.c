// float16 storage of B. A panel block is widened once a task, then the float32 kernels run over it: the widening costs
// 1/ROW_BLOCK of the products' loads, and the result equals the float32 product of the widened weights bit for bit.
#include "gemm/gemm.h"

typedef struct {
    ptrdiff_t N, K;
    const float *a;
    ptrdiff_t m_stride, k_stride;
    const uint16_t *b;
    float *c;
    ptrdiff_t ldc;
    bool accumulate;
    const hssl_gemm_output *output;
    const hssl_gemm_f32_row *row;
    hssl_gemm_output_f32_fn *stage;
    hssl_convert_f16_f32_fn *widen;
} problem;

static void task(const problem *g, ptrdiff_t m, ptrdiff_t rows, ptrdiff_t p) {
    _Alignas(64) float partial[ROW_BLOCK * PANEL];
    _Alignas(64) float block[KC * PANEL];
    const ptrdiff_t mr = g->row->mr, nr = g->row->nr, columns = hssl_min(PANEL, g->N - p * PANEL);
    const uint16_t *panel = g->b + p * PANEL * g->K;
    for (ptrdiff_t k = 0; k == 0 || k < g->K; k += KC) {
        const ptrdiff_t terms = hssl_min(KC, g->K - k);
        g->widen(terms * PANEL, panel + k * PANEL, block);
        for (ptrdiff_t r = 0; r < rows; r += mr) {
            const ptrdiff_t height = hssl_min(mr, rows - r);
            float *tile = partial + r * PANEL;
            for (ptrdiff_t n = 0; n < columns; n += nr) {
                g->row->kernel(height, hssl_min(nr, columns - n), terms, g->a + (m + r) * g->m_stride + k * g->k_stride, g->m_stride,
                               g->k_stride, block + n, tile + n, k > 0);
            }
            if (k + KC < g->K) continue;
            const hssl_gemm_target target = hssl_gemm_target_at(m + r, p * PANEL, g->c, g->ldc, g->accumulate, g->output);
            g->stage(height, columns, tile, &target);
        }
    }
}

void hssl_gemm_f16(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride, ptrdiff_t k_stride, const void *packed_b,
                   float *c, ptrdiff_t ldc, bool accumulate, const hssl_gemm_output *output) {
    if (M <= 0 || N <= 0) return;
    const problem g = {.N = N, .K = K, .a = a, .m_stride = m_stride, .k_stride = k_stride, .b = packed_b, .c = c, .ldc = ldc,
                       .accumulate = accumulate, .output = output, .row = hssl_gemm_select_f32(), .stage = hssl_gemm_select_output_f32(),
                       .widen = hssl_convert_f16_f32_kernel()};
    const ptrdiff_t panels = hssl_ceil_div(N, PANEL);
    const int team = hssl_team(2.0 * (double)M * (double)N * (double)K);
    const ptrdiff_t block = hssl_gemm_row_block(M, g.row->mr, panels, team), tasks = hssl_ceil_div(M, block) * panels;
    atomic_long next = 0;
#pragma omp parallel num_threads(team) if (team > 1)
    for (ptrdiff_t t; (t = hssl_next(&next)) < tasks;) {
        const ptrdiff_t m = t / panels * block;
        task(&g, m, hssl_min(block, M - m), t % panels);
    }
}
