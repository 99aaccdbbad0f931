// Drivers of the float32 family: blocking, partial sums and threads.
#include "gemm/gemm.h"

typedef struct {
    ptrdiff_t M, N, K;
    const float *a;
    ptrdiff_t m_stride, k_stride;
    const float *b;                       // packed panels; NULL: unpacked_b
    const float *unpacked_b;
    ptrdiff_t b_k_stride, b_n_stride;
    float *c;
    ptrdiff_t ldc;
    bool accumulate;
    const hssl_gemm_output *output;
    const hssl_gemm_f32_row *row;
    hssl_gemm_output_f32_fn *stage;
} problem;

// Rows [m, m + rows) × panel `p`. The partial sums of all row tiles stay in a 24 KB scratch until their last K block.
static void task(const problem *g, ptrdiff_t m, ptrdiff_t rows, ptrdiff_t p) {
    _Alignas(64) float partial[ROW_BLOCK * PANEL];
    const ptrdiff_t mr = g->row->mr, nr = g->row->nr, columns = hssl_min(PANEL, g->N - p * PANEL);
    const float *panel = g->b + p * PANEL * g->K;
    for (ptrdiff_t k = 0; k == 0 || k < g->K; k += KC) {
        const ptrdiff_t terms = hssl_min(KC, g->K - k);
        for (ptrdiff_t r = 0; r < rows; r += mr) {
            const ptrdiff_t height = hssl_min(mr, rows - r);
            float *tile = partial + r * PANEL;
            for (ptrdiff_t n = 0; n < columns; n += nr) {
                g->row->kernel(height, hssl_min(nr, columns - n), terms, g->a + (m + r) * g->m_stride + k * g->k_stride, g->m_stride,
                               g->k_stride, panel + k * PANEL + n, tile + n, k > 0);
            }
            if (k + KC < g->K) continue;
            const hssl_gemm_target target = hssl_gemm_target_at(m + r, p * PANEL, g->c, g->ldc, g->accumulate, g->output);
            g->stage(height, columns, tile, &target);
        }
    }
}

void hssl_gemm_f32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride, ptrdiff_t k_stride, const void *packed_b,
                   float *c, ptrdiff_t ldc, bool accumulate, const hssl_gemm_output *output) {
    if (M <= 0 || N <= 0) return;
    const problem g = {.M = M, .N = N, .K = K, .a = a, .m_stride = m_stride, .k_stride = k_stride, .b = packed_b, .c = c, .ldc = ldc,
                       .accumulate = accumulate, .output = output, .row = hssl_gemm_select_f32(), .stage = hssl_gemm_select_output_f32()};
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

size_t hssl_gemm_f32_unpacked_workspace_size(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K) {
    (void)M;
    return hssl_gemm_f32_packed_size(N, K);
}

void hssl_gemm_f32_unpacked(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t a_m_stride, ptrdiff_t a_k_stride,
                            const float *b, ptrdiff_t b_k_stride, ptrdiff_t b_n_stride, float *c, ptrdiff_t ldc, bool accumulate,
                            const hssl_gemm_output *output, void *workspace) {
    hssl_gemm_f32_pack(N, K, b, b_k_stride, b_n_stride, workspace);
    hssl_gemm_f32(M, N, K, a, a_m_stride, a_k_stride, workspace, c, ldc, accumulate, output);
}
