// Runs a lowered model: the walk over images, steps and chains of steps. Steps call the drivers of the other families,
// and fused.h.
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "plan/fused.h"

// Rows of a chain are shared out in half tiles of 6 rows, which lose little: 197 rows fall into 99 and 98, whole tiles
// would make it 102 and 95. With fewer than 8 tiles a thread the steps' own drivers, which split columns too, waste
// less.
enum { CHAIN_UNIT = 3, CHAIN_UNITS_A_THREAD = 16 };

typedef struct {
    const hssl_plan *plan;
    const char *image;
    char *features, *arena, *workspace;
} image_run;

static void *at(const image_run *run, hssl_plan_operand operand) {
    switch (operand.space) {
    case HSSL_PLAN_IMAGE: return (char *)run->image + operand.offset;
    case HSSL_PLAN_ARENA: return run->arena + operand.offset;
    case HSSL_PLAN_CONSTANTS: return (char *)run->plan->constants + operand.offset;
    case HSSL_PLAN_FEATURES: return run->features + operand.offset;
    case HSSL_PLAN_WORKSPACE: return run->workspace;
    case HSSL_PLAN_NONE: break;
    }
    return NULL;
}

static bool is_linear(const hssl_plan_step *step) {
    return step->kind >= HSSL_STEP_LINEAR_F32 && step->kind <= HSSL_STEP_LINEAR_U8S8_F16;
}

// Weights of the next product after a step, NULL at the end.
static const void *following_weights(const image_run *run, const hssl_plan_step *step) {
    for (const hssl_plan_step *const end = run->plan->steps + run->plan->step_count; ++step < end;) {
        if (is_linear(step)) return at(run, step->weight);
    }
    return NULL;
}

static bool is_float_linear(const hssl_plan_step *step) {
    return step->kind == HSSL_STEP_LINEAR_F32 || step->kind == HSSL_STEP_LINEAR_F16;
}

static bool is_unfold(const hssl_plan_step *step) {
    return step->kind >= HSSL_STEP_UNFOLD_IMAGE && step->kind <= HSSL_STEP_UNFOLD_CODES;
}

// `following`: see hssl_gemm_output.
static hssl_gemm_output output_of(const image_run *run, const hssl_plan_step *step, const void *following) {
    return (hssl_gemm_output){.bias = at(run, step->bias), .activation = (hssl_activation)step->activation,
                              .residual = at(run, step->residual), .ld_residual = step->size[3],
                              .next_packed_b = following};
}

// Rows first ..< end of a float product.
static void run_float_linear(const image_run *run, const hssl_plan_step *step, ptrdiff_t first, ptrdiff_t end,
                             const void *following) {
    const ptrdiff_t *size = step->size;
    const hssl_gemm_output output = output_of(run, step, following);
    (step->kind == HSSL_STEP_LINEAR_F16 ? hssl_gemm_f16_rows : hssl_gemm_f32_rows)(
        size[0], first, end, size[1], size[2], at(run, step->x), at(run, step->weight), at(run, step->y), size[3],
        &output, at(run, step->workspace));
}

static void run_codes_linear(const image_run *run, const hssl_plan_step *step, const void *following) {
    const ptrdiff_t *size = step->size, lda = hssl_round_up(size[2], 4);
    const hssl_gemm_output output = output_of(run, step, following);
    const void *x = at(run, step->x), *x_scale = at(run, step->x_scale);
    const void *weight = at(run, step->weight), *weight_scale = at(run, step->weight_scale);
    void *y = at(run, step->y);
    if (step->kind == HSSL_STEP_LINEAR_U8S8_F16) {
        hssl_gemm_u8s8_f16(size[0], size[1], size[2], x, lda, x_scale, weight, weight_scale, y, size[3], &output);
    } else {
        hssl_gemm_u8s8_f32(
            size[0], size[1], size[2], x, lda, x_scale, weight, weight_scale, y, size[3], false, &output);
    }
}

static void run_step(const image_run *run, const hssl_plan_step *step, const void *following) {
    const ptrdiff_t *s = step->size;
    const void *x = at(run, step->x), *x_scale = at(run, step->x_scale), *weight = at(run, step->weight);
    const void *bias = at(run, step->bias), *residual = at(run, step->residual);
    void *y = at(run, step->y), *y_scale = at(run, step->y_scale), *workspace = at(run, step->workspace);
    switch (step->kind) {
    case HSSL_STEP_UNFOLD_IMAGE: case HSSL_STEP_UNFOLD_IMAGE_QUANTIZE:
    case HSSL_STEP_UNFOLD: case HSSL_STEP_UNFOLD_QUANTIZE: case HSSL_STEP_UNFOLD_CODES:
        hssl_plan_unfold(step->kind, s, x, x_scale, step->zero, y, y_scale);
        break;
    case HSSL_STEP_LINEAR_F32: case HSSL_STEP_LINEAR_F16: run_float_linear(run, step, 0, s[0], following); break;
    case HSSL_STEP_LINEAR_U8S8: case HSSL_STEP_LINEAR_U8S8_F16: run_codes_linear(run, step, following); break;
    case HSSL_STEP_QUANTIZE:
        hssl_quantize_rows_u8(s[0], s[1], x, s[1], step->zero, y, hssl_round_up(s[1], 4), y_scale);
        break;
    case HSSL_STEP_QUANTIZE_F16:
        hssl_quantize_rows_f16_u8(s[0], s[1], x, s[1], step->zero, y, hssl_round_up(s[1], 4), y_scale);
        break;
    case HSSL_STEP_LAYER_NORM: hssl_layer_norm(s[0], s[1], x, weight, bias, step->epsilon, y, NULL, NULL); break;
    case HSSL_STEP_LAYER_NORM_QUANTIZE:
        hssl_plan_layer_norm_quantize(s[0], s[1], x, weight, bias, step->epsilon, y, y_scale);
        break;
    case HSSL_STEP_GROUP_NORM: case HSSL_STEP_GROUP_NORM_F16:
        hssl_plan_group_norm(&(hssl_plan_group){
            .positions = s[0], .C = s[1], .groups = s[2], .x = x, .half = step->kind == HSSL_STEP_GROUP_NORM_F16,
            .weight = weight, .bias = bias, .residual = residual,
            .epsilon = step->epsilon, .first = step->activation, .last = step->last_activation, .y = y,
            .zero = step->zero, .codes = at(run, step->codes), .scale = y_scale,
            .alike = s[3] != 0});
        break;
    case HSSL_STEP_ELEMENTWISE:
        hssl_plan_elementwise(s[0] * s[1], step->activation, x, residual, step->last_activation, y);
        break;
    case HSSL_STEP_SCALE_CHANNELS: hssl_scale_channels(s[0], s[1], weight, x, y); break;
    case HSSL_STEP_GATED: hssl_gated(s[0], s[1], x, y); break;
    case HSSL_STEP_ROTATE: hssl_rotate_tokens(s[3], s[0], s[1], s[2], weight, false, x, y); break;
    case HSSL_STEP_ATTENTION:
        hssl_attention_queries(s[5], s[0], s[1], s[2], s[3], s[4], x, (float *)y - s[3] * s[1] * s[2], NULL, workspace);
        break;
    case HSSL_STEP_ATTENTION_INTEGER:
        hssl_attention_integer(s[0], s[1], s[2], s[3], s[4], x, (uint16_t *)y - s[3] * s[1] * s[2], workspace);
        break;
    case HSSL_STEP_ATTENTION_BIASED:
        hssl_attention_biased(s[0], s[1], s[2], s[3], weight, bias, s[4], x, y, NULL, workspace);
        break;
    case HSSL_STEP_DEPTHWISE_CONV: hssl_depthwise_conv_packed(1, s[0], s[1], s[2], s[3], x, weight, bias, y); break;
    case HSSL_STEP_MAX_POOL: hssl_max_pool(1, s[0], s[1], s[2], s[3], s[4], s[5], x, y, NULL); break;
    case HSSL_STEP_AVERAGE_POOL: hssl_average_pool(1, s[0], s[1], s[2], s[3], s[4], s[5], x, y); break;
    case HSSL_STEP_PERMUTE:
        if (residual) hssl_plan_permute_add(s[0], s[1], s[2], s[3], weight, x, residual, y);
        else hssl_permute_tokens(s[0], s[1], s[2], s[3], weight, x, y);
        break;
    case HSSL_STEP_PERMUTE_CODES:
        hssl_plan_permute_codes(s[0], s[1], s[2], s[3], weight, step->zero, x, x_scale, y, y_scale);
        break;
    case HSSL_STEP_TRANSPOSE: hssl_transpose_tokens(s[0], s[1], s[2], x, y); break;
    case HSSL_STEP_MEAN_TOKENS: hssl_mean_tokens(s[0], s[1], s[2], x, y); break;
    case HSSL_STEP_L2_NORMALIZE: hssl_l2_normalize(s[0], s[1], x, step->epsilon, y, NULL); break;
    case HSSL_STEP_COPY: memcpy(y, x, (size_t)s[0]); break;
    }
}

// The step on `rows` rows from `first` on.
static hssl_plan_step rows_of_step(hssl_plan_step step, ptrdiff_t first, ptrdiff_t rows) {
    step.size[0] = rows;
    step.x.offset += first * step.x_pitch;
    step.y.offset += first * step.y_pitch;
    step.residual.offset += first * step.residual_pitch;
    step.x_scale.offset += first * (ptrdiff_t)sizeof(float);
    step.y_scale.offset += first * (ptrdiff_t)sizeof(float);
    return step;
}

// Where the rows of `part` begin.
static ptrdiff_t chain_cut(ptrdiff_t rows, ptrdiff_t units, int team, int part, bool has_float_products) {
    const ptrdiff_t row = hssl_min(rows, CHAIN_UNIT * hssl_split(units, team, part));
    return has_float_products ? hssl_gemm_cut(rows, row) : row;
}

// A step of a chain whose windows stand `shift` rows from where they belong.
static hssl_plan_step with_windows_moved(hssl_plan_step step, const hssl_plan_step *windows, ptrdiff_t shift) {
    const ptrdiff_t values = shift * windows->y_pitch, scales = shift * (ptrdiff_t)sizeof(float);
    if (is_unfold(&step)) {
        step.y.offset += values;
        step.y_scale.offset += scales;
    } else if (step.x.space == windows->y.space && step.x.offset == windows->y.offset) {
        step.x.offset += values;
        step.x_scale.offset += scales;
    }
    return step;
}

// Rows first ..< end of all steps of a chain. `shift`: of its windows. `following`: of its last product.
static void run_rows_of_chain(const image_run *run, const hssl_plan_step *steps, ptrdiff_t first, ptrdiff_t end,
                              ptrdiff_t shift, const void *following) {
    for (ptrdiff_t s = 0; s < steps->chain; ++s) {
        const void *next = following;
        for (ptrdiff_t later = steps->chain - 1; later > s; --later) {
            if (is_linear(steps + later)) next = at(run, steps[later].weight);
        }
        hssl_plan_step step = shift ? with_windows_moved(steps[s], steps, shift) : steps[s];
        if (is_unfold(&step)) {
            hssl_plan_unfold_rows(step.kind, step.size, first, end, at(run, step.x), at(run, step.x_scale), step.zero,
                                  at(run, step.y), at(run, step.y_scale));
        } else if (is_float_linear(&step)) {
            run_float_linear(run, &step, first, end, next);
        } else {
            step = rows_of_step(step, first, end - first);
            run_step(run, &step, next);
        }
    }
}

// Bytes of windows that are multiplied while they are in L2, and rows that are enough for a pass over the weights.
enum { WINDOW_BYTES = 384 << 10, LEAST_WINDOWS = 96 };

// A chain that begins with windows, which nobody else reads, goes some rows at a time, and all of a part's windows take
// the place of its first ones: these lines are in L2 already, others would have to be fetched to be written.
static void run_part_of_chain(const image_run *run, const hssl_plan_step *steps, ptrdiff_t first, ptrdiff_t end,
                              bool has_float_products) {
    const hssl_plan_step *const last = steps + steps->chain - 1;
    const void *const following = following_weights(run, last);
    if (!is_unfold(steps)) {
        run_rows_of_chain(run, steps, first, end, 0, following);
        return;
    }
    const ptrdiff_t begin = first;
    const ptrdiff_t some = hssl_max(LEAST_WINDOWS, WINDOW_BYTES / steps->y_pitch);
    for (ptrdiff_t next; first < end; first = next) {
        next = first + some;
        if (has_float_products) next = hssl_gemm_cut(last->size[0], next);
        if (next <= first || next + some / 2 > end) next = end;
        run_rows_of_chain(run, steps, first, next, begin - first, next < end ? at(run, last->weight) : following);
    }
}

// Each thread takes its rows through the whole chain. That is one meeting of the threads instead of one a step, and
// what a thread wrote it reads itself: where lines travel slowly between cores, batch 1 gains up to a third. One thread
// gains nothing, so there the steps run one by one.
static void run_chain(const image_run *run, const hssl_plan_step *steps) {
    const ptrdiff_t rows = steps[steps->chain - 1].size[0], units = hssl_ceil_div(rows, CHAIN_UNIT);
    double work = 0;
    bool has_float_products = false;
    for (ptrdiff_t s = 0; s < steps->chain; ++s) {
        has_float_products |= is_float_linear(steps + s);
        if (is_linear(steps + s)) work += 0.5 * (double)rows * (double)steps[s].size[1] * (double)steps[s].size[2];
    }
    const int team = hssl_team(work);
    if (team == 1 && is_unfold(steps)) {
        run_part_of_chain(run, steps, 0, rows, has_float_products);
        return;
    }
    if (team == 1 || units < CHAIN_UNITS_A_THREAD * team) {
        for (ptrdiff_t s = 0; s < steps->chain; ++s) run_step(run, steps + s, following_weights(run, steps + s));
        return;
    }
    HSSL_TEAM(team, part, {
        run_part_of_chain(run, steps, chain_cut(rows, units, team, part, has_float_products),
                          chain_cut(rows, units, team, part + 1, has_float_products), has_float_products);
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
    char *const arena = (char *)batch->arenas + (size_t)part * (plan->arena_bytes + plan->workspace_bytes);
    const image_run run = {plan, (const char *)batch->images + (size_t)i * plan->image_bytes,
                           (char *)batch->features + (size_t)i * plan->features_bytes, arena,
                           arena + plan->arena_bytes};
    for (ptrdiff_t s = 0; s < plan->step_count; s += plan->steps[s].chain) {
        // A float product alone is a chain, too: its scheme's sums of A stay with the thread that multiplies them.
        if (plan->steps[s].chain > 1 || is_float_linear(plan->steps + s)) run_chain(&run, plan->steps + s);
        else run_step(&run, plan->steps + s, following_weights(&run, plan->steps + s));
    }
}

void hssl_plan_run(const hssl_plan *plan, ptrdiff_t batch, const float *images, float *features, void *arenas) {
    const int team = batch > 1 ? hssl_team(INFINITY) : 1;
    // Images that are left over after whole rounds would keep one thread busy and the others waiting: those are split
    // inside the steps.
    const ptrdiff_t whole = team > 1 ? batch / team * team : 0;
    const batch_run run = {plan, images, features, arenas};
    hssl_run_tasks(team, whole, run_image, &run);
    for (ptrdiff_t i = whole; i < batch; ++i) run_image(&run, i, 0);
}
