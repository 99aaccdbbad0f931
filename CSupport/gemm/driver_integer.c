// Drivers of the integer family. Whole panels are not blocked along K: int32 sums are exact, and 64 columns fit L2 up
// to a K of 8192. Slices are, to fit L1.
#include <string.h>

#include "gemm/gemm.h"
#include "quantize/quantize.h"

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

// The scale of columns that have none, so that their tiles can be pipelined: x · 1 is x.
static const float ones[PANEL] = {[0 ... PANEL - 1] = 1};

static hssl_gemm_target target_at(const problem *g, ptrdiff_t m, ptrdiff_t n) {
    if (g->c_s32) return (hssl_gemm_target){0};
    hssl_gemm_target target = hssl_gemm_target_at(m, n, g->c, g->ldc, g->accumulate, g->output);
    if (g->half) target.half = g->half + m * g->ldc + n;
    target.a_scale = g->a_scale + m;
    target.b_scale = g->b_scale ? g->b_scale + n : ones;
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
static void multiply_slices(const problem *g, hssl_gemm_task task) {
    _Alignas(64) uint8_t codes[ROW_BLOCK * (SLICE_KC + CENTERED_ROOM)], slice[SLICE_BYTES];
    _Alignas(64) int32_t sums[ROW_BLOCK * PANEL], tile[MAX_MR * PANEL];
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

static void multiply_panel(const problem *g, hssl_gemm_task task) {
    _Alignas(64) int32_t tiles[2][MAX_MR * PANEL];
    const ptrdiff_t m = task.m, rows = task.rows, p = task.panel, panel_bytes = hssl_gemm_u8s8_panel_bytes(g->K);
    const char *const panel = g->b + p * panel_bytes;
    const char *const following = g->output ? g->output->next_packed_b : NULL;
    const char *const next = !task.prefetches ? NULL : task.next_panel >= 0
        ? g->b + task.next_panel * panel_bytes : following;
    const ptrdiff_t mr = g->row->mr, columns = hssl_min(PANEL, g->N - p * PANEL), steps = g->K / 4;
    hssl_gemm_prefetch ahead = hssl_gemm_prefetch_over(next, panel_bytes, hssl_ceil_div(rows, mr) * steps, panel);
    hssl_gemm_target target = target_at(g, m, p * PANEL);
    // A tile waits for the product of the next one, and goes through its output stage while that is computed.
    const bool pipelined = g->row->pipelined && columns == PANEL && !g->c_s32 && hssl_gemm_can_pipeline(&target) &&
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

static void multiply(const problem *g, hssl_gemm_task task) {
    (g->row->slice ? multiply_slices : multiply_panel)(g, task);
}

static void run_task(const void *job, ptrdiff_t index, int part) {
    (void)part;
    const problem *const g = job;
    multiply(g, hssl_gemm_task_at(index, g->M, g->block, g->panels, g->team));
}

static void run(problem g) {
    if (g.M <= 0 || g.N <= 0) return;
    g.panels = hssl_ceil_div(g.N, PANEL);
    // One row is little work, but the weights have to come from memory all the same.
    g.team = hssl_team((0.5 * (double)g.M + 2) * (double)g.N * (double)g.K);
    g.block = hssl_gemm_row_block(g.M, g.row->mr, g.panels, g.team);
    hssl_run_tasks(g.team, hssl_ceil_div(g.M, g.block) * g.panels, run_task, &g);
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

// Gradients of weights: dW[out, in] += Σ over tokens of dY[token, out] · X[token, in]. X's codes have a scale a token,
// which the sum runs over: it is multiplied into dY, of which every block of tokens gets codes with a scale an output
// channel. Within a block sums are exact int32; blocks are added to C in order, so bits depend on neither threads nor
// rows of kernels. A token whose gradient is a hundred times that of others (CLS) would leave these no codes, so blocks
// are filled in the order of the tokens' magnitudes.
//
// Workspace: the order and magnitudes of tokens; then, block after block, packed panels of X [tokens, in], codes of dY
// [out, GRADIENT_TOKENS], its scales [out].
enum { GRADIENT_TOKENS = 128, GRADIENT_ROWS = 96, GRADIENT_CHUNK = 64 };
_Static_assert((int)GRADIENT_TOKENS <= (int)HSSL_QUANTIZE_COLUMN_ROWS, "a block is quantised in one call");

typedef struct {
    problem g;  // of a block, but for what lies in the workspace
    ptrdiff_t tokens;
    const float *dy;
    ptrdiff_t ld_dy;
    const uint8_t *x;
    ptrdiff_t ldx;
    const float *x_scale;
    int32_t *order;
    float *magnitude;
    char *blocks;
    hssl_largest_of_rows_fn *largest;
    hssl_quantize_columns_fn *quantize;
} gradient;

static ptrdiff_t gradient_panels_bytes(ptrdiff_t N) {
    return hssl_ceil_div(N, PANEL) * hssl_gemm_u8s8_panel_bytes(GRADIENT_TOKENS);
}
static ptrdiff_t gradient_block_bytes(ptrdiff_t M, ptrdiff_t N) {
    return gradient_panels_bytes(N) + M * GRADIENT_TOKENS + hssl_round_up(M * (ptrdiff_t)sizeof(float), 64);
}

static ptrdiff_t gradient_order_bytes(ptrdiff_t tokens) {
    return hssl_round_up(tokens * (ptrdiff_t)sizeof(int32_t), 64);
}

size_t hssl_gemm_u8_gradient_workspace_size(ptrdiff_t M, ptrdiff_t N, ptrdiff_t tokens) {
    return (size_t)(2 * gradient_order_bytes(tokens)
                    + hssl_ceil_div(tokens, GRADIENT_TOKENS) * gradient_block_bytes(M, N));
}

// Rows of dY times the scales of X's.
static void measure_gradient_task(const void *job, ptrdiff_t block, int part) {
    (void)part;
    const gradient *const whole = job;
    const ptrdiff_t token = block * GRADIENT_TOKENS, count = hssl_min(GRADIENT_TOKENS, whole->tokens - token);
    float *const magnitude = whole->magnitude + token;
    whole->largest(count, whole->g.M, whole->dy + token * whole->ld_dy, whole->ld_dy, magnitude);
    for (ptrdiff_t i = 0; i < count; ++i) magnitude[i] *= whole->x_scale[token + i];
}

// By binary exponent, and within one in their own order: what differs by less than 2 may share a scale.
static void order_gradient_tokens(const gradient *whole) {
    int32_t next[257] = {0};
    for (ptrdiff_t t = 0; t < whole->tokens; ++t) {
        uint32_t bits;
        memcpy(&bits, whole->magnitude + t, sizeof bits);
        ++next[(bits >> 23 & 0xFF) + 1];
    }
    for (int i = 0; i < 256; ++i) next[i + 1] += next[i];
    for (ptrdiff_t t = 0; t < whole->tokens; ++t) {
        uint32_t bits;
        memcpy(&bits, whole->magnitude + t, sizeof bits);
        whole->order[next[bits >> 23 & 0xFF]++] = (int32_t)t;
    }
}

/// A block's product, K being its tokens rounded up to 4.
static problem gradient_block(const gradient *whole, ptrdiff_t block) {
    problem g = whole->g;
    char *const at = whole->blocks + block * gradient_block_bytes(g.M, g.N);
    g.K = hssl_round_up(hssl_min(GRADIENT_TOKENS, whole->tokens - block * GRADIENT_TOKENS), 4);
    g.b = at;
    g.a = (const uint8_t *)at + gradient_panels_bytes(g.N);
    g.a_scale = (const float *)(g.a + g.M * GRADIENT_TOKENS);
    return g;
}

// A panel of a block of X, or some output channels of a block of dY.
static void prepare_gradient_task(const void *job, ptrdiff_t index, int part) {
    (void)part;
    const gradient *const whole = job;
    const ptrdiff_t chunks = hssl_ceil_div(whole->g.M, GRADIENT_CHUNK), parts = whole->g.panels + chunks,
        block = index / parts, place = index % parts, token = block * GRADIENT_TOKENS,
        tokens = hssl_min(GRADIENT_TOKENS, whole->tokens - token);
    const problem g = gradient_block(whole, block);
    if (place < g.panels) {
        const ptrdiff_t n = place * PANEL;
        hssl_gemm_pack_panel_u8(hssl_min(PANEL, g.N - n), tokens, whole->order + token, whole->x + n, whole->ldx,
                                (char *)g.b + place * hssl_gemm_u8s8_panel_bytes(g.K));
        return;
    }
    const ptrdiff_t m = (place - g.panels) * GRADIENT_CHUNK;
    whole->quantize(tokens, hssl_min(GRADIENT_CHUNK, g.M - m), whole->order + token, whole->dy + m, whole->ld_dy,
                    whole->x_scale, (uint8_t *)g.a + m * GRADIENT_TOKENS, GRADIENT_TOKENS, (float *)g.a_scale + m);
}

// Some rows and a panel of C, which stay in L1 from block to block.
static void run_gradient_task(const void *job, ptrdiff_t index, int part) {
    (void)part;
    const gradient *const whole = job;
    const hssl_gemm_task task = hssl_gemm_task_at(index, whole->g.M, whole->g.block, whole->g.panels, whole->g.team);
    for (ptrdiff_t block = 0; block * GRADIENT_TOKENS < whole->tokens; ++block) {
        const problem g = gradient_block(whole, block);
        multiply(&g, (hssl_gemm_task){task.m, task.rows, task.panel, -1, false});
    }
}

void hssl_gemm_u8_gradient(ptrdiff_t M, ptrdiff_t N, ptrdiff_t tokens, const float *dy, ptrdiff_t ld_dy,
                           const uint8_t *x, ptrdiff_t ldx, const float *x_scale, float *c, ptrdiff_t ldc,
                           void *workspace) {
    if (M <= 0 || N <= 0) return;
    const hssl_gemm_output output = {.residual = c, .ld_residual = ldc};
    gradient job = {.g = {.M = M, .N = N, .lda = GRADIENT_TOKENS, .row = hssl_gemm_select_u8s8(), .c = c, .ldc = ldc,
                          .output = &output, .stage = hssl_gemm_select_output_s32(),
                          .panels = hssl_ceil_div(N, PANEL)},
                    .tokens = tokens, .dy = dy, .ld_dy = ld_dy, .x = x, .ldx = ldx, .x_scale = x_scale,
                    .order = workspace, .magnitude = (float *)((char *)workspace + gradient_order_bytes(tokens)),
                    .blocks = (char *)workspace + 2 * gradient_order_bytes(tokens),
                    .largest = hssl_select_largest_of_rows(), .quantize = hssl_select_quantize_columns()};
    const ptrdiff_t blocks = hssl_ceil_div(tokens, GRADIENT_TOKENS), mr = job.g.row->mr;
    hssl_run_tasks(hssl_team(8.0 * (double)tokens * (double)M), blocks, measure_gradient_task, &job);
    order_gradient_tokens(&job);
    const int preparing = hssl_team(8.0 * (double)tokens * (double)(M + N));
    hssl_run_tasks(preparing, blocks * (job.g.panels + hssl_ceil_div(M, GRADIENT_CHUNK)), prepare_gradient_task, &job);
    job.g.team = hssl_team(0.5 * (double)M * (double)N * (double)tokens);
    const ptrdiff_t row_blocks = hssl_max(hssl_ceil_div(M, GRADIENT_ROWS), hssl_ceil_div(job.g.team, job.g.panels));
    job.g.block = hssl_round_up(hssl_ceil_div(M, hssl_min(row_blocks, hssl_ceil_div(M, mr))), mr);
    hssl_run_tasks(job.g.team, hssl_ceil_div(M, job.g.block) * job.g.panels, run_gradient_task, &job);
}
