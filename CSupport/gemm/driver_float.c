// Drivers of the float32 family, which binary16 becomes block by block: blocking, partial sums and threads.
#include <string.h>

#include "gemm/gemm.h"

typedef struct {
    ptrdiff_t M, N, K;
    const float *a;
    ptrdiff_t m_stride, k_stride;
    const void *b;
    ptrdiff_t b_element;               // bytes
    ptrdiff_t b_k_stride, b_n_stride;  // unpacked float32 only; otherwise b is packed panels
    float *c;
    ptrdiff_t ldc;
    bool accumulate;
    const hssl_gemm_output *output;
    const hssl_gemm_f32_row *row;
    hssl_gemm_output_f32_fn *stage;
    // the split into tasks
    ptrdiff_t block, panels;
    int team;
} problem;

/// One K block: what run_task and run_gradient_task have in common. The tile at row r of A begins at a + r·tile_row;
/// within it rows are a_row apart.
typedef struct {
    ptrdiff_t rows, columns, K;
    const float *a;
    ptrdiff_t tile_row, a_row, a_k;
    const float *b;  // a block of a packed panel
    float *sums;    // (+)= A·B: tiles one below the other, slices one after the other
    bool add;
    const hssl_gemm_target *target;  // where the tiles go through the output stage, or NULL: they stay in `sums`
} block_product;

static void finish_tile(
    const problem *g, ptrdiff_t rows, ptrdiff_t columns, const float *tile, hssl_gemm_target *target) {
    g->stage(rows, columns, tile, target);
    hssl_gemm_target_advance(target, rows);
}

static void multiply_panel(const problem *g, block_product p, hssl_gemm_prefetch ahead) {
    const ptrdiff_t mr = g->row->mr;
    hssl_gemm_target target;
    if (p.target) target = *p.target;
    for (ptrdiff_t r = 0; r < p.rows; r += mr, ahead.line += p.K * ahead.step) {
        const ptrdiff_t height = hssl_min(mr, p.rows - r);
        float *const tile = p.sums + r * PANEL;
        g->row->kernel(height, p.columns, p.K, p.a + r * p.tile_row, p.a_row, p.a_k, p.b, tile, p.add, &ahead);
        if (p.target) finish_tile(g, height, p.columns, tile, &target);
    }
}

// A slice at a time: the tiles below one another share it. Meanwhile the lines of the next slice come to L2; after the
// last one those of `next`.
static void multiply_slices(const problem *g, block_product p, const char *next) {
    _Alignas(64) float slice[SLICE_BYTES / sizeof(float)];
    const ptrdiff_t mr = g->row->mr, nr = g->row->nr, lines = hssl_ceil_div(p.K, hssl_ceil_div(p.rows, mr));
    for (ptrdiff_t n = 0; n < p.columns; n += nr) {
        const ptrdiff_t width = hssl_min(nr, p.columns - n);
        const bool is_last = n + nr >= p.columns;
        const char *ahead = is_last ? next : (const char *)(p.b + n + nr);
        const ptrdiff_t stride = PANEL * (is_last ? g->b_element : (ptrdiff_t)sizeof(float));
        hssl_gemm_target target;
        if (p.target) target = hssl_gemm_target_right(p.target, n);
        g->row->slice(p.K, p.b + n, slice);
        for (ptrdiff_t r = 0; r < p.rows; r += mr) {
            const ptrdiff_t height = hssl_min(mr, p.rows - r);
            float *const tile = p.sums + n * p.rows + r * nr;
            if (ahead) ahead = hssl_gemm_prefetch_lines(ahead, lines, stride);
            if (p.target) hssl_gemm_target_prefetch(&target, height);
            g->row->kernel(height, width, p.K, p.a + r * p.tile_row, p.a_row, p.a_k, slice, tile, p.add, NULL);
            if (p.target) finish_tile(g, height, width, tile, &target);
        }
    }
}

// To the output stage, for whole panels: a tile waits for the product of the next one, and goes through it while that
// is computed.
static void multiply_panel_pipelined(const problem *g, block_product p, hssl_gemm_prefetch ahead) {
    const ptrdiff_t mr = g->row->mr, last = (p.rows - 1) / mr * mr;
    hssl_gemm_target target = *p.target;
    for (ptrdiff_t r = 0; r < p.rows; r += mr, ahead.line += p.K * ahead.step) {
        const ptrdiff_t height = hssl_min(mr, p.rows - r);
        const float *const a = p.a + r * p.tile_row;
        float *const tile = p.sums + r * PANEL;
        if (r == 0) {
            g->row->kernel(height, PANEL, p.K, a, p.a_row, p.a_k, p.b, tile, p.add, &ahead);
        } else {
            g->row->pipelined(height, p.K, a, p.a_row, p.a_k, p.b, tile, p.add, tile - mr * PANEL, &target, &ahead);
            hssl_gemm_target_advance(&target, mr);
        }
    }
    g->stage(p.rows - last, PANEL, p.sums + last * PANEL, &target);
}

// The partial sums of all row tiles stay in a 52 KB scratch until their last K block; a K block of binary16 is widened
// to another one of 64 KB, once for all of the task's rows.
static void run_task(const void *job, ptrdiff_t index, int part) {
    (void)part;
    _Alignas(64) float partial[ROW_BLOCK * PANEL], widened[KC * PANEL];
    const problem *const g = job;
    const hssl_gemm_task task = hssl_gemm_task_at(index, g->M, g->block, g->panels, g->team);
    const ptrdiff_t rows = task.rows, p = task.panel, columns = hssl_min(PANEL, g->N - p * PANEL),
        line = PANEL * g->b_element;
    const char *const panel = (const char *)g->b + p * g->K * line,
        *const following = g->output ? g->output->next_packed_b : NULL;
    hssl_gemm_target target = hssl_gemm_target_at(task.m, p * PANEL, g->c, g->ldc, g->accumulate, g->output);
    if (!target.bias && !g->accumulate) target.bias = hssl_gemm_zeros;
    for (ptrdiff_t k = 0; k == 0 || k < g->K; k += KC) {
        const ptrdiff_t terms = hssl_min(KC, g->K - k);
        const bool last = k + KC >= g->K;
        const ptrdiff_t next_panel = last ? task.next_panel : p, next_k = last ? 0 : k + KC;
        const char *const next = next_panel >= 0 ? (const char *)g->b + (next_panel * g->K + next_k) * line : following;
        const block_product product = {.rows = rows, .columns = columns, .K = terms,
                                       .a = g->a + task.m * g->m_stride + k * g->k_stride, .tile_row = g->m_stride,
                                       .a_row = g->m_stride, .a_k = g->k_stride,
                                       .b = hssl_gemm_floats(panel + k * line, g->b_element, terms, widened),
                                       .sums = partial, .add = k > 0,
                                       .target = last ? &target : NULL};
        if (g->row->slice) {
            multiply_slices(g, product, next);
            continue;
        }
        const hssl_gemm_prefetch ahead = hssl_gemm_prefetch_over(
            task.prefetches ? next : NULL, hssl_min(KC, g->K - next_k) * line, hssl_ceil_div(rows, g->row->mr) * terms,
            panel);
        const bool pipelined = last && g->row->pipelined && columns == PANEL && hssl_gemm_can_pipeline(&target);
        (pipelined ? multiply_panel_pipelined : multiply_panel)(g, product, ahead);
    }
}

static void run(problem g) {
    if (g.M <= 0 || g.N <= 0) return;
    g.stage = hssl_gemm_select_output_f32();
    g.panels = hssl_ceil_div(g.N, PANEL);
    // One row is little work, but the weights have to come from memory all the same.
    g.team = hssl_team((2.0 * (double)g.M + 2.0 * (double)g.b_element) * (double)g.N * (double)g.K);
    g.block = hssl_gemm_row_block(g.M, g.row->mr, g.panels, g.team);
    hssl_run_tasks(g.team, hssl_ceil_div(g.M, g.block) * g.panels, run_task, &g);
}

void hssl_gemm_f32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride, ptrdiff_t k_stride,
                   const void *packed_b, float *c, ptrdiff_t ldc, bool accumulate, const hssl_gemm_output *output) {
    run((problem){.M = M, .N = N, .K = K, .a = a, .m_stride = m_stride, .k_stride = k_stride,
                  .b = packed_b, .b_element = sizeof(float), .c = c, .ldc = ldc, .accumulate = accumulate,
                  .output = output, .row = hssl_gemm_select_f32()});
}

void hssl_gemm_f16(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride, ptrdiff_t k_stride,
                   const void *packed_b, float *c, ptrdiff_t ldc, bool accumulate, const hssl_gemm_output *output) {
    run((problem){.M = M, .N = N, .K = K, .a = a, .m_stride = m_stride, .k_stride = k_stride,
                  .b = packed_b, .b_element = sizeof(uint16_t), .c = c, .ldc = ldc, .accumulate = accumulate,
                  .output = output, .row = hssl_gemm_select_f32()});
}

// Unpacked B, walked once: the weight gradient dW[out, in] = dYᵀ[out, tokens]·X[tokens, in], K = tokens up to some
// 13,000. A task owns rows × a run of panels and walks all of K: for each K block it packs its rows of A once and each
// panel of B once, on its stack, so threads never wait for one another. Partial sums of the panels lie in the
// workspace, [panel][M][PANEL], as C may alias the residual.
enum { GRADIENT_ROWS = 192 };

typedef struct {
    problem g;
    ptrdiff_t runs;  // of panels
    float *workspace;
} gradient;

static void run_gradient_task(const void *job, ptrdiff_t index, int part) {
    (void)part;
    const gradient *const whole = job;
    const problem *const g = &whole->g;
    const ptrdiff_t m = index / whole->runs * g->block, rows = hssl_min(g->block, g->M - m), run = index % whole->runs;
    const ptrdiff_t first = hssl_split(g->panels, whole->runs, run), last = hssl_split(g->panels, whole->runs, run + 1);
    _Alignas(64) float a_block[GRADIENT_ROWS * KC], b_block[KC * PANEL];
    const ptrdiff_t mr = g->row->mr;
    for (ptrdiff_t k = 0; k == 0 || k < g->K; k += KC) {
        const ptrdiff_t terms = hssl_min(KC, g->K - k);
        const bool direct = g->k_stride == 1;
        const float *const a = g->a + m * g->m_stride + k * g->k_stride;
        if (!direct) hssl_gemm_pack_a(rows, terms, a, g->m_stride, g->k_stride, mr, a_block);
        for (ptrdiff_t p = first; p < last; ++p) {
            const ptrdiff_t columns = hssl_min(PANEL, g->N - p * PANEL);
            const float *const b = (const float *)g->b + k * g->b_k_stride + p * PANEL * g->b_n_stride;
            const hssl_gemm_target target = hssl_gemm_target_at(m, p * PANEL, g->c, g->ldc, g->accumulate, g->output);
            const block_product product = {.rows = rows, .columns = columns, .K = terms,
                                           .a = direct ? a : a_block,
                                           .tile_row = direct ? g->m_stride : terms, .a_row = direct ? g->m_stride : 1,
                                           .a_k = direct ? 1 : mr,
                                           .b = b_block,
                                           .sums = whole->workspace + (p * g->M + m) * PANEL, .add = k > 0,
                                           .target = k + KC >= g->K ? &target : NULL};
            hssl_gemm_pack_panel_f32(columns, terms, b, g->b_k_stride, g->b_n_stride, b_block);
            if (g->row->slice) multiply_slices(g, product, NULL);
            else multiply_panel(g, product, (hssl_gemm_prefetch){(const char *)product.b, 0});
        }
    }
}

size_t hssl_gemm_f32_unpacked_workspace_size(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K) {
    (void)K;
    return (size_t)(hssl_ceil_div(N, PANEL) * PANEL * M) * sizeof(float);
}

void hssl_gemm_f32_unpacked(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t a_m_stride,
                            ptrdiff_t a_k_stride, const float *b, ptrdiff_t b_k_stride, ptrdiff_t b_n_stride, float *c,
                            ptrdiff_t ldc, bool accumulate, const hssl_gemm_output *output, void *workspace) {
    if (M <= 0 || N <= 0) return;
    problem g = {.M = M, .N = N, .K = K, .a = a, .m_stride = a_m_stride, .k_stride = a_k_stride, .b = b,
                 .b_element = sizeof(float), .b_k_stride = b_k_stride, .b_n_stride = b_n_stride, .c = c, .ldc = ldc,
                 .accumulate = accumulate, .output = output, .row = hssl_gemm_select_f32(),
                 .stage = hssl_gemm_select_output_f32()};
    g.panels = hssl_ceil_div(N, PANEL);
    g.team = hssl_team(2.0 * (double)M * (double)N * (double)K);
    ptrdiff_t row_blocks = hssl_ceil_div(M, GRADIENT_ROWS),
        runs = hssl_min(g.panels, hssl_ceil_div(4 * g.team, row_blocks));
    if (g.team == 1) runs = hssl_ceil_div(g.panels, 8);  // 8 panels of partial sums (384 KB) stay in L2
    if (row_blocks * runs < g.team) row_blocks = hssl_min(g.team, hssl_ceil_div(M, g.row->mr));
    g.block = hssl_round_up(hssl_ceil_div(M, row_blocks), g.row->mr);
    const gradient job = {g, runs, workspace};
    hssl_run_tasks(g.team, hssl_ceil_div(M, g.block) * runs, run_gradient_task, &job);
}
