// Drivers of the float32 and binary16 families: blocking, partial sums and threads.
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

// sums (+)= A·block for `rows` rows of A and one block of K of a packed panel: tiles one below the other, slices one after the other. The tile at row r of
// A begins at a + r·tile_row; within it rows are a_row apart. Where there is a target, the tiles go on to C through the output stage.
static void multiply_block(const problem *g, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t tile_row, ptrdiff_t a_row, ptrdiff_t a_k,
                           const char *block, float *sums, bool add, const hssl_gemm_target *whole, hssl_gemm_prefetch *ahead) {
    _Alignas(64) float slice[SLICE_BYTES / sizeof(float)];
    const ptrdiff_t mr = g->row->mr, nr = g->row->nr;
    for (ptrdiff_t n = 0; n < columns; n += nr) {
        const ptrdiff_t width = hssl_min(nr, columns - n);
        const void *b = block + n * g->b_element;
        hssl_gemm_target target;
        if (whole) target = hssl_gemm_target_right(whole, n);
        if (g->row->slice) g->row->slice(K, b, slice), b = slice;
        for (ptrdiff_t r = 0; r < rows; r += mr, ahead->line += K * ahead->step) {
            const ptrdiff_t height = hssl_min(mr, rows - r);
            float *const tile = sums + n * rows + r * nr;
            if (whole && g->row->slice) hssl_gemm_target_prefetch(&target, height);
            g->row->kernel(height, width, K, a + r * tile_row, a_row, a_k, b, tile, add, ahead);
            if (!whole) continue;
            g->stage(height, width, tile, &target);
            hssl_gemm_target_advance(&target, mr);
        }
    }
}

// The same for whole panels, to the output stage: a tile waits for the product of the next one, and goes through it while that is computed.
static void multiply_block_pipelined(const problem *g, ptrdiff_t rows, ptrdiff_t K, const float *a, const char *block, float *sums, bool add,
                                     hssl_gemm_target target, hssl_gemm_prefetch *ahead) {
    const ptrdiff_t mr = g->row->mr, last = (rows - 1) / mr * mr;
    for (ptrdiff_t r = 0; r < rows; r += mr, ahead->line += K * ahead->step) {
        const ptrdiff_t height = hssl_min(mr, rows - r);
        float *const tile = sums + r * PANEL;
        if (r == 0) {
            g->row->kernel(height, PANEL, K, a, g->m_stride, g->k_stride, block, tile, add, ahead);
        } else {
            g->row->pipelined(height, K, a + r * g->m_stride, g->m_stride, g->k_stride, block, tile, add, tile - mr * PANEL, &target, ahead);
            hssl_gemm_target_advance(&target, mr);
        }
    }
    g->stage(rows - last, PANEL, sums + last * PANEL, &target);
}

// The partial sums of all row tiles stay in a 52 KB scratch until their last K block.
static void run_task(const void *job, ptrdiff_t index, int part) {
    (void)part;
    _Alignas(64) float partial[ROW_BLOCK * PANEL];
    const problem *const g = job;
    const hssl_gemm_task task = hssl_gemm_task_at(index, g->M, g->block, g->panels, g->team);
    const ptrdiff_t rows = task.rows, p = task.panel, columns = hssl_min(PANEL, g->N - p * PANEL), line = PANEL * g->b_element;
    const ptrdiff_t tiles = hssl_ceil_div(rows, g->row->mr) * hssl_ceil_div(columns, g->row->nr);
    const char *panel = (const char *)g->b + p * g->K * line;
    const hssl_gemm_target target = hssl_gemm_target_at(task.m, p * PANEL, g->c, g->ldc, g->accumulate, g->output);
    for (ptrdiff_t k = 0; k == 0 || k < g->K; k += KC) {
        const ptrdiff_t terms = hssl_min(KC, g->K - k);
        const bool last = k + KC >= g->K;
        const ptrdiff_t next_panel = last ? task.next_panel : p, next_k = last ? 0 : k + KC;
        const char *const following = g->output ? g->output->next_packed_b : NULL;
        const char *const next = !task.prefetches ? NULL : next_panel >= 0 ? (const char *)g->b + (next_panel * g->K + next_k) * line : following;
        hssl_gemm_prefetch ahead = hssl_gemm_prefetch_over(next, hssl_min(KC, g->K - next_k) * line, tiles * terms, panel);
        const float *const a = g->a + task.m * g->m_stride + k * g->k_stride;
        if (last && g->row->pipelined && columns == PANEL && hssl_gemm_can_pipeline(&target, HSSL_ACTIVATION_GELU)) {
            multiply_block_pipelined(g, rows, terms, a, panel + k * line, partial, k > 0, target, &ahead);
        } else {
            multiply_block(g, rows, columns, terms, a, g->m_stride, g->m_stride, g->k_stride, panel + k * line, partial, k > 0, last ? &target : NULL, &ahead);
        }
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

void hssl_gemm_f32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride, ptrdiff_t k_stride, const void *packed_b,
                   float *c, ptrdiff_t ldc, bool accumulate, const hssl_gemm_output *output) {
    run((problem){.M = M, .N = N, .K = K, .a = a, .m_stride = m_stride, .k_stride = k_stride, .b = packed_b, .b_element = sizeof(float), .c = c,
                  .ldc = ldc, .accumulate = accumulate, .output = output, .row = hssl_gemm_select_f32()});
}

void hssl_gemm_f16(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride, ptrdiff_t k_stride, const void *packed_b,
                   float *c, ptrdiff_t ldc, bool accumulate, const hssl_gemm_output *output) {
    run((problem){.M = M, .N = N, .K = K, .a = a, .m_stride = m_stride, .k_stride = k_stride, .b = packed_b, .b_element = sizeof(uint16_t), .c = c,
                  .ldc = ldc, .accumulate = accumulate, .output = output, .row = hssl_gemm_select_f16()});
}

// Unpacked B, walked once: the weight gradient dW[out, in] = dYᵀ[out, tokens]·X[tokens, in], K = tokens up to some 13,000.
// A task owns rows × a run of panels and walks all of K: for each K block it packs its rows of A once and each panel of B once, on its
// stack, so threads never wait for one another. Partial sums of the panels lie in the workspace, [panel][M][PANEL], as C may alias the residual.
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
    _Alignas(64) float a_block[GRADIENT_ROWS * KC];
    _Alignas(64) float b_block[KC * PANEL];
    const ptrdiff_t mr = g->row->mr;
    for (ptrdiff_t k = 0; k == 0 || k < g->K; k += KC) {
        const ptrdiff_t terms = hssl_min(KC, g->K - k);
        const bool direct = g->k_stride == 1;
        if (!direct) hssl_gemm_pack_a(rows, terms, g->a + m * g->m_stride + k * g->k_stride, g->m_stride, g->k_stride, mr, a_block);
        for (ptrdiff_t p = first; p < last; ++p) {
            const ptrdiff_t columns = hssl_min(PANEL, g->N - p * PANEL);
            hssl_gemm_pack_panel_f32(columns, terms, (const float *)g->b + k * g->b_k_stride + p * PANEL * g->b_n_stride, g->b_k_stride, g->b_n_stride, b_block);
            const bool last = k + KC >= g->K;
            const hssl_gemm_target target = hssl_gemm_target_at(m, p * PANEL, g->c, g->ldc, g->accumulate, g->output);
            hssl_gemm_prefetch nothing = {(const char *)b_block, 0};
            multiply_block(g, rows, columns, terms, direct ? g->a + m * g->m_stride + k : a_block, direct ? g->m_stride : terms, direct ? g->m_stride : 1,
                           direct ? 1 : mr, (const char *)b_block, whole->workspace + (p * g->M + m) * PANEL, k > 0, last ? &target : NULL, &nothing);
        }
    }
}

size_t hssl_gemm_f32_unpacked_workspace_size(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K) {
    (void)K;
    return (size_t)(hssl_ceil_div(N, PANEL) * PANEL * M) * sizeof(float);
}

void hssl_gemm_f32_unpacked(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t a_m_stride, ptrdiff_t a_k_stride,
                            const float *b, ptrdiff_t b_k_stride, ptrdiff_t b_n_stride, float *c, ptrdiff_t ldc, bool accumulate,
                            const hssl_gemm_output *output, void *workspace) {
    if (M <= 0 || N <= 0) return;
    problem g = {.M = M, .N = N, .K = K, .a = a, .m_stride = a_m_stride, .k_stride = a_k_stride, .b = b, .b_element = sizeof(float), .b_k_stride = b_k_stride,
                 .b_n_stride = b_n_stride, .c = c, .ldc = ldc, .accumulate = accumulate, .output = output,
                 .row = hssl_gemm_select_f32(), .stage = hssl_gemm_select_output_f32()};
    g.panels = hssl_ceil_div(N, PANEL);
    g.team = hssl_team(2.0 * (double)M * (double)N * (double)K);
    ptrdiff_t row_blocks = hssl_ceil_div(M, GRADIENT_ROWS), runs = hssl_min(g.panels, hssl_ceil_div(4 * g.team, row_blocks));
    if (g.team == 1) runs = hssl_ceil_div(g.panels, 8);  // 8 panels of partial sums (384 KB) stay in L2
    if (row_blocks * runs < g.team) row_blocks = hssl_min(g.team, hssl_ceil_div(M, g.row->mr));
    g.block = hssl_round_up(hssl_ceil_div(M, row_blocks), g.row->mr);
    const gradient job = {g, runs, workspace};
    hssl_run_tasks(g.team, hssl_ceil_div(M, g.block) * runs, run_gradient_task, &job);
}
