// Products of inference (hssl_gemm_f32_rows), by Strassen's scheme (strassen.h) where it applies: groups of rows, K
// blocks, what the groups leave over.
//
// Groups stand at both ends of the M rows, so that a cut in the middle, where the M mod 24 rows without a group are,
// separates no two rows of one. K blocks follow one another in C: the first adds the residual, the last bias and
// activation.
#include "gemm/strassen.h"

enum { STRASSEN_KC = 384 };  // terms of a block, even: sums of A for 197 rows are 360 KB, which stay in L2
// half of it are the 24 vectors of a quadrant, which a product takes through the output stage
enum { STRASSEN_LEAST_K = 48 };
// columns: with fewer panels the sums of A cost more than they save
enum { STRASSEN_LEAST_N = 3 * PANEL };
enum { STRASSEN_SUMS = 5 };  // of five products the operand of A is a sum
enum { GROUP_FLOATS = STRASSEN_SUMS * STRASSEN_HALF * STRASSEN_KC / 2 };

// `rest`: first row without a group; `below`: first row after those
typedef struct { ptrdiff_t count, above, rest, below; } groups;
static groups groups_of(ptrdiff_t M) {
    const ptrdiff_t count = M / STRASSEN_ROWS, above = (count + 1) / 2;
    return (groups){count, above, above * STRASSEN_ROWS, M - (count - above) * STRASSEN_ROWS};
}
static ptrdiff_t first_row(const groups *g, ptrdiff_t index) {
    return index < g->above ? index * STRASSEN_ROWS : g->below + (index - g->above) * STRASSEN_ROWS;
}

ptrdiff_t hssl_gemm_cut(ptrdiff_t M, ptrdiff_t row) {
    if (!hssl_gemm_select_f32()->strassen) return row;
    const groups g = groups_of(M);
    const ptrdiff_t half = STRASSEN_ROWS / 2;
    if (row < g.rest) return (row + half) / STRASSEN_ROWS * STRASSEN_ROWS;
    if (row > g.below) return M - (M - row + half) / STRASSEN_ROWS * STRASSEN_ROWS;
    return row;
}

size_t hssl_gemm_workspace_size(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K) {
    if (M < STRASSEN_ROWS || N < STRASSEN_LEAST_N || N % PANEL != 0 || K % 2 != 0 || K < STRASSEN_LEAST_K
        || !hssl_gemm_select_f32()->strassen) {
        return 0;
    }
    return (size_t)(M / STRASSEN_ROWS * GROUP_FLOATS) * sizeof(float);
}

double hssl_gemm_multiply_adds(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K) {
    const ptrdiff_t grouped = hssl_gemm_workspace_size(M, N, K) > 0 ? M / STRASSEN_ROWS * STRASSEN_ROWS : 0;
    return ((double)(M - grouped) + (double)grouped * STRASSEN_PRODUCTS / 8) * (double)N * (double)K;
}

typedef struct {
    groups groups;
    ptrdiff_t first_group, last_group, first_rest, end_rest;  // of the rows asked for
    ptrdiff_t N, K;
    const float *a;
    const char *b;
    ptrdiff_t b_element;  // bytes
    float *c;
    ptrdiff_t ldc;
    hssl_gemm_output output;
    const hssl_gemm_f32_row *row;
    hssl_gemm_output_f32_fn *stage;
    float *sums;  // of A: [group][product][12][half]
    int team;
    // the K block
    ptrdiff_t k, half;
} problem;

static bool is_last(const problem *p) { return p->k + 2 * p->half == p->K; }

/// The operand of A of one product of one group, in place or where its sum is.
static hssl_gemm_strassen_rows operand(const problem *p, ptrdiff_t group, int product) {
    const hssl_strassen_operand from = hssl_strassen_products[product].a;
    if (from.sign == 0) {
        const ptrdiff_t row = first_row(&p->groups, group) + from.x / 2 * STRASSEN_HALF;
        return (hssl_gemm_strassen_rows){p->a + row * p->K + p->k + from.x % 2 * p->half, p->K};
    }
    return (hssl_gemm_strassen_rows){p->sums + group * GROUP_FLOATS + hssl_strassen_sum(product) * STRASSEN_HALF
        * p->half,
                                     p->half};
}

static void add_quadrants(const problem *p, ptrdiff_t group) {
    const float *const a = p->a + first_row(&p->groups, group) * p->K + p->k;
    for (int product = 0; product < STRASSEN_PRODUCTS; ++product) {
        const hssl_strassen_operand from = hssl_strassen_products[product].a;
        if (from.sign == 0) continue;
        float *to = p->sums + (operand(p, group, product).a - p->sums);
        for (ptrdiff_t r = 0; r < STRASSEN_HALF; ++r, to += p->half) {
            const float *const x = a + (from.x / 2 * STRASSEN_HALF + r) * p->K + from.x % 2 * p->half;
            const float *const y = a + (from.y / 2 * STRASSEN_HALF + r) * p->K + from.y % 2 * p->half;
            if (from.sign > 0) for (ptrdiff_t k = 0; k < p->half; ++k) to[k] = x[k] + y[k];
            else for (ptrdiff_t k = 0; k < p->half; ++k) to[k] = x[k] - y[k];
        }
    }
}

/// What this K block does to C at (m, n).
static hssl_gemm_target target_at(const problem *p, ptrdiff_t m, ptrdiff_t n) {
    hssl_gemm_target target = hssl_gemm_target_at(m, n, p->c, p->ldc, false, &p->output);
    if (!is_last(p)) target.activation = HSSL_ACTIVATION_NONE;
    if (!is_last(p) || !target.bias) target.bias = hssl_gemm_zeros;
    if (p->k == 0) return target;
    if (target.activation == HSSL_ACTIVATION_NONE) {
        target.residual = target.c;
        target.ld_residual = target.ldc;
    } else {
        target.accumulate = true;
    }
    return target;
}

static void run_groups(const problem *p, ptrdiff_t n, const float *block, hssl_gemm_prefetch ahead) {
    _Alignas(64) float tiles[2][STRASSEN_ROWS * PANEL];
    const float *before = NULL;
    hssl_gemm_target target = target_at(p, first_row(&p->groups, p->first_group), n);
    const bool pipelined = hssl_gemm_can_pipeline(&target);
    for (ptrdiff_t group = p->first_group; group < p->last_group; ++group) {
        hssl_gemm_strassen_rows a[STRASSEN_PRODUCTS];
        for (int product = 0; product < STRASSEN_PRODUCTS; ++product) a[product] = operand(p, group, product);
        float *const tile = tiles[group % 2];
        p->row->strassen(p->half, a, block, tile, before, &target, &ahead);
        ahead.line += STRASSEN_PRODUCTS * p->half * ahead.step;
        target = target_at(p, first_row(&p->groups, group), n);
        if (pipelined && group + 1 < p->last_group) before = tile;
        else p->stage(STRASSEN_ROWS, PANEL, tile, &target);
    }
}

// All rows and one panel of a K block, which binary16 has widened before.
static void run_panel(const void *job, ptrdiff_t panel, int part) {
    (void)part;
    _Alignas(64) float widened[STRASSEN_KC * PANEL];
    const problem *const p = job;
    const ptrdiff_t line = PANEL * p->b_element, panels = p->N / PANEL, n = panel * PANEL;
    const float *const block = hssl_gemm_floats(
        p->b + (panel * p->K + p->k) * line, p->b_element, 2 * p->half, widened);
    const ptrdiff_t next_panel = panel + p->team, next_k = next_panel < panels ? p->k : p->k + 2 * p->half;
    const char *next = p->output.next_packed_b;
    if (next_panel < panels || !is_last(p)) next = p->b + (next_panel % panels * p->K + next_k) * line;
    const ptrdiff_t steps = (p->last_group - p->first_group) * STRASSEN_PRODUCTS * p->half;
    if (p->first_group < p->last_group) {
        run_groups(p, n, block, hssl_gemm_prefetch_over(next, 2 * p->half * line, steps, block));
    }

    const ptrdiff_t mr = p->row->mr;
    const hssl_gemm_prefetch nothing = {(const char *)block, 0};
    for (ptrdiff_t m = p->first_rest; m < p->end_rest; m += mr) {
        _Alignas(64) float tile[MAX_MR * PANEL];
        const ptrdiff_t rows = hssl_min(mr, p->end_rest - m);
        const hssl_gemm_target target = target_at(p, m, n);
        p->row->kernel(rows, PANEL, 2 * p->half, p->a + m * p->K + p->k, p->K, 1, block, tile, false, &nothing);
        p->stage(rows, PANEL, tile, &target);
    }
}

static void run(problem p, ptrdiff_t M, ptrdiff_t first, ptrdiff_t end) {
    p.groups = groups_of(M);
    p.first_group = 0;
    while (p.first_group < p.groups.count && first_row(&p.groups, p.first_group) < first) ++p.first_group;
    p.last_group = p.first_group;
    while (p.last_group < p.groups.count && first_row(&p.groups, p.last_group) + STRASSEN_ROWS <= end) ++p.last_group;
    p.first_rest = hssl_max(first, p.groups.rest);
    p.end_rest = hssl_min(end, p.groups.below);
    p.stage = hssl_gemm_select_output_f32();
    p.team = hssl_team(2.0 * (double)(end - first) * (double)p.N * (double)p.K);
    for (p.k = 0; p.k < p.K; p.k += 2 * p.half) {
        p.half = hssl_min(STRASSEN_KC, p.K - p.k) / 2;
        HSSL_TEAM(p.team, part, {
            const ptrdiff_t count = p.last_group - p.first_group;
            for (ptrdiff_t i = hssl_split(count, p.team, part); i
            < hssl_split(count, p.team, part + 1); ++i) add_quadrants(&p, p.first_group + i);
        });
        hssl_run_tasks(p.team, p.N / PANEL, run_panel, &p);
    }
}

// C may hold what an activation is still to be applied to, or a residual, not both.
static bool applies(const hssl_gemm_f32_row *row, ptrdiff_t M, const problem *p) {
    if (!p->sums || !row->strassen || hssl_gemm_workspace_size(M, p->N, p->K) == 0) return false;
    return p->K <= STRASSEN_KC || p->output.activation == HSSL_ACTIVATION_NONE || !p->output.residual;
}

typedef void plain_product(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride,
                           ptrdiff_t k_stride, const void *packed_b, float *c, ptrdiff_t ldc, bool accumulate,
                           const hssl_gemm_output *output);

static void run_or(plain_product *plain, problem p, ptrdiff_t M, ptrdiff_t first, ptrdiff_t end,
                   const hssl_gemm_output *output) {
    if (output) p.output = *output;
    if (applies(p.row, M, &p)) {
        run(p, M, first, end);
        return;
    }
    if (p.output.residual) p.output.residual += first * p.output.ld_residual;
    plain(end - first, p.N, p.K, p.a + first * p.K, p.K, 1, p.b, p.c + first * p.ldc, p.ldc, false, &p.output);
}

void hssl_gemm_f32_rows(ptrdiff_t M, ptrdiff_t first, ptrdiff_t end, ptrdiff_t N, ptrdiff_t K, const float *a,
                        const void *packed_b, float *c, ptrdiff_t ldc, const hssl_gemm_output *output,
                        void *workspace) {
    run_or(hssl_gemm_f32,
           (problem){.N = N, .K = K, .a = a, .b = packed_b, .b_element = sizeof(float), .c = c, .ldc = ldc,
                     .row = hssl_gemm_select_f32(),
                                    .sums = workspace}, M, first, end, output);
}

void hssl_gemm_f16_rows(ptrdiff_t M, ptrdiff_t first, ptrdiff_t end, ptrdiff_t N, ptrdiff_t K, const float *a,
                        const void *packed_b, float *c, ptrdiff_t ldc, const hssl_gemm_output *output,
                        void *workspace) {
    run_or(hssl_gemm_f16,
           (problem){.N = N, .K = K, .a = a, .b = packed_b, .b_element = sizeof(uint16_t), .c = c, .ldc = ldc,
                     .row = hssl_gemm_select_f32(),
                                    .sums = workspace}, M, first, end, output);
}
