// Drivers of the integer family. Whole panels are not blocked along K: int32 sums are exact, and 64 columns fit L2 up
// to a K of 8192. Slices are, to fit L1.
#include <string.h>

#include "gemm/gemm.h"

typedef struct {
    ptrdiff_t M, N, K;  // K a multiple of 4
    const uint8_t *a;
    ptrdiff_t lda;
    const char *b;
    const hssl_gemm_u8s8_row *row;
    // float32 output, or binary16
    const float *a_scale, *b_scale;
    float *c;
    uint16_t *half;
    ptrdiff_t ldc;
    bool accumulate;
    const hssl_gemm_output *output;
    hssl_gemm_output_s32_fn *stage;
    // int32 output, where not NULL
    int32_t *c_s32;
    // the split into tasks
    ptrdiff_t block, panels;
    int team;
} problem;

static hssl_gemm_target target_at(const problem *g, ptrdiff_t m, ptrdiff_t n) {
    if (g->c_s32) return (hssl_gemm_target){0};
    hssl_gemm_target target = hssl_gemm_target_at(m, n, g->c, g->ldc, g->accumulate, g->output);
    if (g->half) target.half = g->half + m * g->ldc + n;
    target.a_scale = g->a_scale + m;
    if (g->b_scale) target.b_scale = g->b_scale + n;
    if (!target.bias && !g->accumulate) target.bias = hssl_gemm_zeros;
    return target;
}

// A tile's way to C, whose row m and column n it begins at; `target` then waits for the next one below.
static void finish_tile(const problem *g, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t m, ptrdiff_t n,
                        const int32_t *tile, hssl_gemm_target *target) {
    if (g->c_s32) {
        for (ptrdiff_t r = 0; r < rows; ++r) {
            memcpy(g->c_s32 + (m + r) * g->ldc + n, tile + r * g->row->nr, (size_t)columns * sizeof *tile);
        }
    } else {
        g->stage(rows, columns, tile, target);
        hssl_gemm_target_advance(target, rows);
    }
}

// Where blocks of K after the first start.
static const int32_t nothing[PANEL];

// A slice at a time: the tiles below one another share it, and prefetch the next one. The rows' codes are centred once
// for all slices of a block of K.
static void run_sliced_task(const void *job, ptrdiff_t index, int part) {
    (void)part;
    _Alignas(64) uint8_t codes[ROW_BLOCK * (SLICE_KC + CENTERED_ROOM)], slice[SLICE_BYTES];
    _Alignas(64) int32_t sums[ROW_BLOCK * PANEL], tile[MAX_MR * PANEL];
    const problem *const g = job;
    const hssl_gemm_task task = hssl_gemm_task_at(index, g->M, g->block, g->panels, g->team);
    const ptrdiff_t rows = task.rows, p = task.panel, panel_bytes = hssl_gemm_u8s8_panel_bytes(g->K);
    const char *const panel = g->b + p * panel_bytes;
    const char *const following = g->output ? g->output->next_packed_b : NULL;
    const char *const next_panel = task.next_panel >= 0 ? g->b + task.next_panel * panel_bytes : following;
    const ptrdiff_t mr = g->row->mr, nr = g->row->nr, columns = hssl_min(PANEL, g->N - p * PANEL);
    const hssl_gemm_target whole = target_at(g, task.m, p * PANEL);
    for (ptrdiff_t k = 0; k == 0 || k < g->K; k += SLICE_KC) {
        const ptrdiff_t terms = hssl_min(SLICE_KC, g->K - k), lines = hssl_ceil_div(terms / 4, hssl_ceil_div(rows, mr));
        const bool last = k + SLICE_KC >= g->K;
        const ptrdiff_t tile_codes = mr * terms + CENTERED_ROOM;
        for (ptrdiff_t r = 0; r < rows; r += mr) {
            g->row->center(hssl_min(mr, rows - r), terms, g->a + (task.m + r) * g->lda + k, g->lda,
                           codes + r / mr * tile_codes);
        }
        for (ptrdiff_t n = 0; n < columns; n += nr) {
            const ptrdiff_t width = hssl_min(nr, columns - n);
            hssl_gemm_target target = hssl_gemm_target_right(&whole, n);
            const char *const block = panel + (START_TERMS + k) * PANEL,
                *const next = last ? next_panel : block + SLICE_KC * PANEL;
            const int32_t *const start = k == 0 ? (const int32_t *)panel + PANEL + n : nothing;
            const char *ahead = n + nr < columns ? block + 4 * (n + nr) : next;
            g->row->slice(terms, (const int8_t *)block + 4 * n, start, slice);
            for (ptrdiff_t r = 0; r < rows; r += mr) {
                const ptrdiff_t height = hssl_min(mr, rows - r);
                int32_t *const sum = sums + n * rows + r * nr;
                if (ahead) ahead = hssl_gemm_prefetch_lines(ahead, lines, 4 * PANEL);
                if (last && !g->c_s32) hssl_gemm_target_prefetch(&target, height);
                g->row->kernel(height, width, terms, codes + r / mr * tile_codes, terms, slice, k == 0 ? sum : tile,
                               NULL);
                // A kernel leaves what is right of its columns unwritten.
                for (ptrdiff_t i = 0; k > 0 && i < height * nr; i += nr) {
                    for (ptrdiff_t j = 0; j < width; ++j) sum[i + j] += tile[i + j];
                }
                if (last) finish_tile(g, height, width, task.m + r, p * PANEL + n, sum, &target);
            }
        }
    }
}

static void run_task(const void *job, ptrdiff_t index, int part) {
    (void)part;
    _Alignas(64) int32_t tiles[2][MAX_MR * PANEL];
    const problem *const g = job;
    const hssl_gemm_task task = hssl_gemm_task_at(index, g->M, g->block, g->panels, g->team);
    const ptrdiff_t m = task.m, rows = task.rows, p = task.panel, panel_bytes = hssl_gemm_u8s8_panel_bytes(g->K);
    const char *const panel = g->b + p * panel_bytes;
    const char *const following = g->output ? g->output->next_packed_b : NULL;
    const char *const next = !task.prefetches ? NULL : task.next_panel >= 0
        ? g->b + task.next_panel * panel_bytes : following;
    const ptrdiff_t mr = g->row->mr, columns = hssl_min(PANEL, g->N - p * PANEL), steps = g->K / 4;
    hssl_gemm_prefetch ahead = hssl_gemm_prefetch_over(next, panel_bytes, hssl_ceil_div(rows, mr) * steps, panel);
    hssl_gemm_target target = target_at(g, m, p * PANEL);
    // A tile waits for the product of the next one, and goes through its output stage while that is computed.
    const bool pipelined = g->row->pipelined && columns == PANEL && target.b_scale && hssl_gemm_can_pipeline(&target) &&
                           (target.activation == HSSL_ACTIVATION_NONE
                               || (target.half && target.activation == HSSL_ACTIVATION_GELU_COARSE));
    const int32_t *waiting = NULL;
    for (ptrdiff_t r = 0; r < rows; r += mr) {
        const ptrdiff_t height = hssl_min(mr, rows - r);
        const uint8_t *const a = g->a + (m + r) * g->lda;
        int32_t *const tile = tiles[waiting == tiles[0]];
        if (waiting) {
            g->row->pipelined(height, g->K, a, g->lda, panel, tile, waiting, &target, &ahead);
            hssl_gemm_target_advance(&target, mr);
            ahead.line += steps * ahead.step;
        } else {
            g->row->kernel(height, columns, g->K, a, g->lda, panel, tile, &ahead);
            ahead.line += steps * ahead.step;
        }
        if (pipelined) {
            waiting = tile;
        } else {
            finish_tile(g, height, columns, m + r, p * PANEL, tile, &target);
        }
    }
    if (waiting) g->stage((rows - 1) % mr + 1, columns, waiting, &target);
}

static void run(problem g) {
    if (g.M <= 0 || g.N <= 0) return;
    g.panels = hssl_ceil_div(g.N, PANEL);
    // One row is little work, but the weights have to come from memory all the same.
    g.team = hssl_team((0.5 * (double)g.M + 2) * (double)g.N * (double)g.K);
    g.block = hssl_gemm_row_block(g.M, g.row->mr, g.panels, g.team);
    hssl_run_tasks(g.team, hssl_ceil_div(g.M, g.block) * g.panels, g.row->slice ? run_sliced_task : run_task, &g);
}

void hssl_gemm_u8s8_f32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const float *a_scale,
                        const void *packed_b, const float *b_scale, float *c, ptrdiff_t ldc, bool accumulate,
                        const hssl_gemm_output *output) {
    run((problem){.M = M, .N = N, .K = hssl_round_up(K, 4), .a = a, .lda = lda, .b = packed_b,
                  .row = hssl_gemm_select_u8s8(), .a_scale = a_scale, .b_scale = b_scale, .c = c, .ldc = ldc,
                  .accumulate = accumulate, .output = output, .stage = hssl_gemm_select_output_s32()});
}

void hssl_gemm_u8s8_f16(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const float *a_scale,
                        const void *packed_b, const float *b_scale, uint16_t *c, ptrdiff_t ldc,
                        const hssl_gemm_output *output) {
    run((problem){.M = M, .N = N, .K = hssl_round_up(K, 4), .a = a, .lda = lda, .b = packed_b,
                  .row = hssl_gemm_select_u8s8(), .a_scale = a_scale, .b_scale = b_scale, .half = c, .ldc = ldc,
                  .output = output, .stage = hssl_gemm_select_output_s32()});
}

void hssl_gemm_u8s8_s32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const void *packed_b,
                        int32_t *c, ptrdiff_t ldc) {
    run((problem){.M = M, .N = N, .K = hssl_round_up(K, 4), .a = a, .lda = lda, .b = packed_b,
                  .row = hssl_gemm_select_u8s8(), .c_s32 = c, .ldc = ldc});
}
