// Runs a lowered model. Steps call the drivers of the other families; what is here is the walk over images, and two fusions that need no kernel.
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "conv/conv.h"

enum { FUSED_ROWS = 8 };  // of HSSL_PLAN_FUSED_FLOATS in all: a stack block of 64 KB at most
// Rows of a chain are shared out in half tiles of 6 rows, which lose little: 197 rows fall into 99 and 98, whole tiles would make it 102 and 95. With fewer
// than 8 tiles a thread the steps' own drivers, which split columns too, waste less.
enum { CHAIN_UNIT = 3, CHAIN_UNITS_A_THREAD = 16 };

typedef struct {
    const hssl_plan *plan;
    const char *image;
    char *features, *arena;
} image_run;

static void *at(const image_run *run, hssl_plan_operand operand) {
    switch (operand.space) {
    case HSSL_PLAN_IMAGE: return (char *)run->image + operand.offset;
    case HSSL_PLAN_ARENA: return run->arena + operand.offset;
    case HSSL_PLAN_CONSTANTS: return (char *)run->plan->constants + operand.offset;
    case HSSL_PLAN_FEATURES: return run->features + operand.offset;
    case HSSL_PLAN_NONE: break;
    }
    return NULL;
}

// A few rows at a time, so that the normalised floats never leave L1.
static void layer_norm_quantize(ptrdiff_t rows, ptrdiff_t D, const float *x, const float *weight, const float *bias, float epsilon,
                                uint8_t *codes, float *scale) {
    const ptrdiff_t height = hssl_max(1, hssl_min(FUSED_ROWS, HSSL_PLAN_FUSED_FLOATS / D)), blocks = hssl_ceil_div(rows, height);
    const ptrdiff_t ldq = hssl_round_up(D, 4);
    const int team = hssl_team(24.0 * (double)rows * (double)D);
    HSSL_TEAM(team, part, {
        for (ptrdiff_t block = hssl_split(blocks, team, part); block < hssl_split(blocks, team, part + 1); ++block) {
            _Alignas(64) float normalized[HSSL_PLAN_FUSED_FLOATS];
            const ptrdiff_t r = block * height, count = hssl_min(height, rows - r);
            hssl_layer_norm(count, D, x + r * D, weight, bias, epsilon, normalized, NULL, NULL);
            hssl_quantize_rows_u8(count, D, normalized, D, codes + r * ldq, ldq, scale + r);
        }
    });
}

// A row of patches, or a part of it, at a time: the patches never leave the caches.
static void patchify_quantize(ptrdiff_t channels, ptrdiff_t H, ptrdiff_t W, ptrdiff_t p, const float *image, uint8_t *codes, float *scale) {
    const ptrdiff_t K = channels * p * p, ldq = hssl_round_up(K, 4), rows = H / p, columns = W / p;
    const ptrdiff_t width = hssl_max(1, hssl_min(columns, HSSL_PLAN_FUSED_FLOATS / K)), runs = hssl_ceil_div(columns, width);
    const int team = hssl_team(24.0 * (double)(rows * columns) * (double)K);
    HSSL_TEAM(team, part, {
        for (ptrdiff_t run = hssl_split(rows * runs, team, part); run < hssl_split(rows * runs, team, part + 1); ++run) {
            _Alignas(64) float patches[HSSL_PLAN_FUSED_FLOATS];
            const ptrdiff_t column = run % runs * width, count = hssl_min(width, columns - column), first = run / runs * columns + column;
            hssl_patchify_run(channels, H, W, p, first, count, image, patches);
            hssl_quantize_rows_u8(count, K, patches, K, codes + first * ldq, ldq, scale + first);
        }
    });
}

static bool is_linear(const hssl_plan_step *step) { return step->kind >= HSSL_STEP_LINEAR_F32 && step->kind <= HSSL_STEP_LINEAR_U8S8_F16; }

// Weights of the next product after a step, NULL at the end.
static const void *following_weights(const image_run *run, const hssl_plan_step *step) {
    for (const hssl_plan_step *const end = run->plan->steps + run->plan->step_count; ++step < end;) {
        if (is_linear(step)) return at(run, step->weight);
    }
    return NULL;
}

static bool is_float_linear(const hssl_plan_step *step) { return step->kind == HSSL_STEP_LINEAR_F32 || step->kind == HSSL_STEP_LINEAR_F16; }

// Rows first ..< end of a float product. `following`: see hssl_gemm_output.
static void run_float_linear(const image_run *run, const hssl_plan_step *step, ptrdiff_t first, ptrdiff_t end, const void *following) {
    const ptrdiff_t *size = step->size;
    const hssl_gemm_output output = {.bias = at(run, step->bias), .activation = step->activation, .residual = at(run, step->residual), .ld_residual = size[3],
                                     .next_packed_b = following};
    (step->kind == HSSL_STEP_LINEAR_F16 ? hssl_gemm_f16_rows : hssl_gemm_f32_rows)(
        size[0], first, end, size[1], size[2], at(run, step->x), at(run, step->weight), at(run, step->y), size[3], &output, at(run, step->workspace));
}

static void run_step(const image_run *run, const hssl_plan_step *step, const void *following) {
    const ptrdiff_t *size = step->size;
    const void *x = at(run, step->x), *weight = at(run, step->weight), *bias = at(run, step->bias), *residual = at(run, step->residual);
    void *y = at(run, step->y), *workspace = at(run, step->workspace);
    const hssl_gemm_output output = {.bias = bias, .activation = step->activation, .residual = residual, .ld_residual = size[3],
                                     .next_packed_b = following};
    switch (step->kind) {
    case HSSL_STEP_PATCHIFY: hssl_patchify(1, size[0], size[1], size[2], size[3], x, y); break;
    case HSSL_STEP_PATCHIFY_QUANTIZE: patchify_quantize(size[0], size[1], size[2], size[3], x, y, at(run, step->y_scale)); break;
    case HSSL_STEP_LINEAR_F32: case HSSL_STEP_LINEAR_F16: run_float_linear(run, step, 0, size[0], following); break;
    case HSSL_STEP_LINEAR_U8S8:
        hssl_gemm_u8s8_f32(size[0], size[1], size[2], x, hssl_round_up(size[2], 4), at(run, step->x_scale), weight,
                           at(run, step->weight_scale), y, size[3], false, &output);
        break;
    case HSSL_STEP_LINEAR_U8S8_F16:
        hssl_gemm_u8s8_f16(size[0], size[1], size[2], x, hssl_round_up(size[2], 4), at(run, step->x_scale), weight, at(run, step->weight_scale), y,
                           size[3], &output);
        break;
    case HSSL_STEP_QUANTIZE: hssl_quantize_rows_u8(size[0], size[1], x, size[1], y, hssl_round_up(size[1], 4), at(run, step->y_scale)); break;
    case HSSL_STEP_QUANTIZE_F16: hssl_quantize_rows_f16_u8(size[0], size[1], x, size[1], y, hssl_round_up(size[1], 4), at(run, step->y_scale)); break;
    case HSSL_STEP_LAYER_NORM: hssl_layer_norm(size[0], size[1], x, weight, bias, step->epsilon, y, NULL, NULL); break;
    case HSSL_STEP_LAYER_NORM_QUANTIZE:
        layer_norm_quantize(size[0], size[1], x, weight, bias, step->epsilon, y, at(run, step->y_scale));
        break;
    case HSSL_STEP_GELU: hssl_gelu(size[0], x, y); break;
    case HSSL_STEP_ATTENTION:
        hssl_attention_queries(1, size[0], size[1], size[2], size[3], size[4], x, (float *)y - size[3] * size[1] * size[2], NULL, workspace);
        break;
    case HSSL_STEP_ATTENTION_INTEGER:
        hssl_attention_integer(size[0], size[1], size[2], size[3], size[4], x, (uint16_t *)y - size[3] * size[1] * size[2], workspace);
        break;
    case HSSL_STEP_DEPTHWISE_CONV: hssl_depthwise_conv(1, size[0], size[1], size[2], size[3], x, weight, bias, y, workspace); break;
    case HSSL_STEP_ADD: hssl_add(size[0], x, residual, y); break;
    case HSSL_STEP_COPY: memcpy(y, x, (size_t)size[0]); break;
    case HSSL_STEP_GATHER: hssl_gather_rows(size[0], size[1], weight, x, y); break;
    case HSSL_STEP_MEAN_TOKENS: hssl_mean_tokens(1, size[0], size[1], x, y); break;
    case HSSL_STEP_L2_NORMALIZE: hssl_l2_normalize(size[0], size[1], x, step->epsilon, y, NULL); break;
    }
}

// The step on `rows` rows from `first` on.
static hssl_plan_step rows_of_step(hssl_plan_step step, ptrdiff_t first, ptrdiff_t rows) {
    const ptrdiff_t floats = (ptrdiff_t)sizeof(float), halves = (ptrdiff_t)sizeof(uint16_t), width = step.size[is_linear(&step) ? 3 : 1];
    ptrdiff_t x_row = floats * (is_linear(&step) ? step.size[2] : width), y_row = floats * width;
    switch (step.kind) {
    case HSSL_STEP_LINEAR_U8S8: x_row = hssl_round_up(step.size[2], 4); break;
    case HSSL_STEP_LINEAR_U8S8_F16: x_row = hssl_round_up(step.size[2], 4), y_row = halves * width; break;
    case HSSL_STEP_QUANTIZE_F16: x_row = halves * width, y_row = hssl_round_up(width, 4); break;
    case HSSL_STEP_QUANTIZE: case HSSL_STEP_LAYER_NORM_QUANTIZE: y_row = hssl_round_up(width, 4); break;
    default: break;
    }
    step.size[0] = rows;
    step.x.offset += first * x_row;
    step.y.offset += first * y_row;
    step.residual.offset += first * floats * width;
    step.x_scale.offset += first * floats;
    step.y_scale.offset += first * floats;
    return step;
}

// Where the rows of `part` begin.
static ptrdiff_t chain_cut(ptrdiff_t rows, ptrdiff_t units, int team, int part, bool has_float_products) {
    const ptrdiff_t row = hssl_min(rows, CHAIN_UNIT * hssl_split(units, team, part));
    return has_float_products ? hssl_gemm_cut(rows, row) : row;
}

// Each thread takes its rows through the whole chain. That is one meeting of the threads instead of one a step, and what a thread wrote it reads itself:
// where lines travel slowly between cores, batch 1 gains up to a third. One thread gains nothing, so there the steps run one by one.
static void run_chain(const image_run *run, const hssl_plan_step *steps) {
    const ptrdiff_t rows = steps->size[0], units = hssl_ceil_div(rows, CHAIN_UNIT);
    double work = 0;
    bool has_float_products = false;
    for (ptrdiff_t s = 0; s < steps->chain; ++s) {
        has_float_products |= is_float_linear(steps + s);
        if (is_linear(steps + s)) work += 0.5 * (double)rows * (double)steps[s].size[1] * (double)steps[s].size[2];
    }
    const int team = hssl_team(work);
    if (team == 1 || units < CHAIN_UNITS_A_THREAD * team) {
        for (ptrdiff_t s = 0; s < steps->chain; ++s) run_step(run, steps + s, following_weights(run, steps + s));
        return;
    }
    HSSL_TEAM(team, part, {
        const ptrdiff_t first = chain_cut(rows, units, team, part, has_float_products), end = chain_cut(rows, units, team, part + 1, has_float_products);
        for (ptrdiff_t s = 0; s < steps->chain; ++s) {
            if (is_float_linear(steps + s)) {
                run_float_linear(run, steps + s, first, end, following_weights(run, steps + s));
                continue;
            }
            const hssl_plan_step step = rows_of_step(steps[s], first, end - first);
            run_step(run, &step, following_weights(run, steps + s));
        }
    });
}

typedef struct {
    const hssl_plan *plan;
    const float *images;
    float *features;
    void *arenas;
} batch_run;

static void run_image(const void *job, ptrdiff_t i, int part) {
    const batch_run *const batch = job;
    const hssl_plan *const plan = batch->plan;
    const image_run run = {plan, (const char *)batch->images + (size_t)i * plan->image_bytes, (char *)batch->features + (size_t)i * plan->features_bytes,
                           (char *)batch->arenas + (size_t)part * plan->arena_bytes};
    for (ptrdiff_t s = 0; s < plan->step_count; s += plan->steps[s].chain) {
        if (plan->steps[s].chain > 1) run_chain(&run, plan->steps + s);
        else run_step(&run, plan->steps + s, following_weights(&run, plan->steps + s));
    }
}

void hssl_plan_run(const hssl_plan *plan, ptrdiff_t batch, const float *images, float *features, void *arenas) {
    const int team = batch > 1 ? hssl_team(INFINITY) : 1;
    // Images that are left over after whole rounds would keep one thread busy and the others waiting: those are split inside the steps.
    const ptrdiff_t whole = team > 1 ? batch / team * team : 0;
    const batch_run run = {plan, images, features, arenas};
    hssl_run_tasks(team, whole, run_image, &run);
    for (ptrdiff_t i = whole; i < batch; ++i) run_image(&run, i, 0);
}
