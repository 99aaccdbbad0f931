// Steps of several kernels: a few rows at a time pass from one to the next on the stack, so that they never leave the
// nearest caches.
#include "plan/fused.h"

#include <math.h>
#include <string.h>

#include "conv/conv.h"
#include "elementwise/partition.h"
#include "norm/norm.h"

enum { FUSED_ROWS = 8 };       // of HSSL_PLAN_FUSED_FLOATS in all: a stack block of 64 KB at most
enum { CODED_FLOATS = 6144 };  // of rows that become codes while they are in L1
enum { QUANTIZE_WORK = 24 };   // of an element that is made and becomes a code, in the units of hssl_team

void hssl_plan_layer_norm_quantize(ptrdiff_t rows, ptrdiff_t D, const float *x, const float *weight, const float *bias,
                                  float epsilon, uint8_t *codes, float *scale) {
    const ptrdiff_t height = hssl_max(1, hssl_min(FUSED_ROWS, HSSL_PLAN_FUSED_FLOATS / D));
    const ptrdiff_t blocks = hssl_ceil_div(rows, height);
    const ptrdiff_t ldq = hssl_round_up(D, 4);
    const int team = hssl_team(QUANTIZE_WORK * (double)rows * (double)D);
    HSSL_TEAM(team, part, {
        for (ptrdiff_t block = hssl_split(blocks, team, part); block < hssl_split(blocks, team, part + 1); ++block) {
            _Alignas(64) float normalized[HSSL_PLAN_FUSED_FLOATS];
            const ptrdiff_t r = block * height, count = hssl_min(height, rows - r);
            hssl_layer_norm(count, D, x + r * D, weight, bias, epsilon, normalized, NULL, NULL);
            hssl_quantize_rows_u8(count, D, normalized, D, HSSL_SYMMETRIC_ZERO, codes + r * ldq, ldq, scale + r);
        }
    });
}

typedef struct {
    hssl_window_shape shape;
    bool image, coded, of_codes;
    uint8_t zero;
    ptrdiff_t K, ldq;
    const void *x;
    const float *x_scale;
    void *y;
    float *scale;
} unfolding;

static unfolding unfolding_of(hssl_plan_kind kind, const ptrdiff_t size[6], const void *x, const float *x_scale,
                              uint8_t zero, void *y, float *scale) {
    unfolding u = {.image = kind == HSSL_STEP_UNFOLD_IMAGE || kind == HSSL_STEP_UNFOLD_IMAGE_QUANTIZE,
                   .coded = kind == HSSL_STEP_UNFOLD_IMAGE_QUANTIZE || kind == HSSL_STEP_UNFOLD_QUANTIZE,
                   .of_codes = kind == HSSL_STEP_UNFOLD_CODES,
                   .zero = zero, .x = x, .x_scale = x_scale, .y = y, .scale = scale};
    u.shape = u.image ? hssl_windows_of(size[1], size[2], size[0], size[3], size[4], size[5])
                      : hssl_windows_of(size[0], size[1], size[2], size[3], size[4], size[5]);
    u.K = u.shape.C * u.shape.k * u.shape.k;
    u.ldq = hssl_round_up(u.K, 4);
    return u;
}

/// `count` windows from number `first` on, all in one row of windows, to `windows`.
static void unfold_some(const unfolding *u, ptrdiff_t first, ptrdiff_t count, float *windows) {
    const ptrdiff_t row = first / u->shape.out_w, column = first % u->shape.out_w, k = u->shape.k;
    if (!u->image) {
        hssl_unfold_run(&u->shape, row, column, count, sizeof *windows, 0, u->x, windows,
                        u->K * (ptrdiff_t)sizeof *windows);
    } else if (k == u->shape.stride && u->shape.padding == 0) {
        hssl_patchify_run(u->shape.C, u->shape.h, u->shape.w, k, first, count, u->x, windows);
    } else {
        hssl_unfold_image_run(&u->shape, row, column, count, u->x, windows);
    }
}

static void unfold_rows(const unfolding *u, ptrdiff_t first, ptrdiff_t end) {
    const ptrdiff_t out_w = u->shape.out_w, some = hssl_max(1, CODED_FLOATS / u->K);
    for (ptrdiff_t r = first; r < end;) {
        const ptrdiff_t count = hssl_min(hssl_min(some, end - r), out_w - r % out_w);
        if (u->of_codes) {
            hssl_unfold_run(&u->shape, r / out_w, r % out_w, count, 1, u->zero, u->x, (uint8_t *)u->y + r * u->ldq,
                            u->ldq);
            for (ptrdiff_t i = r; i < r + count; ++i) u->scale[i] = *u->x_scale;
        } else if (u->coded) {
            _Alignas(64) float windows[HSSL_PLAN_FUSED_FLOATS];
            unfold_some(u, r, count, windows);
            hssl_quantize_rows_u8(count, u->K, windows, u->K, u->zero, (uint8_t *)u->y + r * u->ldq, u->ldq,
                                  u->scale + r);
        } else {
            unfold_some(u, r, count, (float *)u->y + r * u->K);
        }
        r += count;
    }
}

void hssl_plan_unfold_rows(hssl_plan_kind kind, const ptrdiff_t size[6], ptrdiff_t first, ptrdiff_t end, const void *x,
                           const float *x_scale, uint8_t zero, void *y, float *scale) {
    const unfolding u = unfolding_of(kind, size, x, x_scale, zero, y, scale);
    unfold_rows(&u, first, end);
}

void hssl_plan_unfold(hssl_plan_kind kind, const ptrdiff_t size[6], const void *x, const float *x_scale, uint8_t zero,
                      void *y, float *scale) {
    const unfolding u = unfolding_of(kind, size, x, x_scale, zero, y, scale);
    const ptrdiff_t rows = u.shape.out_h * u.shape.out_w;
    const int team = hssl_team((u.coded ? QUANTIZE_WORK : HSSL_WORK_STREAM) * (double)rows * (double)u.K);
    HSSL_TEAM(team, part, { unfold_rows(&u, hssl_split(rows, team, part), hssl_split(rows, team, part + 1)); });
}

static const float *activated(hssl_plan_activation activation, ptrdiff_t n, const float *x, float *y) {
    switch (activation) {
    case HSSL_PLAN_IDENTITY: return x;
    case HSSL_PLAN_GELU: case HSSL_PLAN_GELU_COARSE: hssl_gelu(n, x, y); break;
    case HSSL_PLAN_RELU: hssl_relu(n, x, y); break;
    }
    return y;
}

void hssl_plan_elementwise(ptrdiff_t n, hssl_plan_activation first, const float *x, const float *residual,
                           hssl_plan_activation last, float *y) {
    const float *value = activated(first, n, x, y);
    if (residual) {
        hssl_add(n, value, residual, y);
        value = y;
    }
    value = activated(last, n, value, y);
    if (value != y) memcpy(y, value, (size_t)n * sizeof(float));
}

static bool is_floor(hssl_plan_activation activation) {
    return activation == HSSL_PLAN_IDENTITY || activation == HSSL_PLAN_RELU;
}

/// Rows of the result, to y.
static void normalize_rows(const hssl_plan_group *g, const hssl_group_map *map, bool in_map, hssl_range rows,
                           float *y) {
    const ptrdiff_t at = rows.begin * g->C, count = rows.end - rows.begin;
    const float *const residual = g->residual ? g->residual + at : NULL;
    const hssl_group_input x = hssl_group_input_at((hssl_group_input){g->x, g->half}, at);
    hssl_norm_selected()->group_apply(count, g->C, x, map, in_map ? residual : NULL, y);
    if (!in_map) hssl_plan_elementwise(count * g->C, g->first, y, residual, g->last, y);
}

void hssl_plan_group_norm(const hssl_plan_group *g) {
    float center[HSSL_GROUP_NORM_CHANNELS], slope[HSSL_GROUP_NORM_CHANNELS], largest = 0;
    const hssl_group_input x = {g->x, g->half};
    if (g->alike) {
        const bool floor = g->first == HSSL_PLAN_RELU || g->last == HSSL_PLAN_RELU;
        largest = hssl_group_statistics_and_largest(g->positions, g->C, g->groups, x, g->weight, g->bias, g->epsilon,
                                                    floor ? 0 : -INFINITY, center, slope);
    } else {
        hssl_group_statistics(g->positions, g->C, g->groups, x, g->weight, g->epsilon, center, slope, NULL, NULL);
    }
    const bool in_map = is_floor(g->first) && is_floor(g->last);
    const hssl_group_map map = {center, slope, g->bias, in_map && g->first == HSSL_PLAN_RELU ? 0 : -INFINITY,
                                in_map && g->last == HSSL_PLAN_RELU ? 0 : -INFINITY};
    const ptrdiff_t height = hssl_max(1, CODED_FLOATS / g->C), ldq = hssl_round_up(g->C, 4);
    const int team = hssl_team((g->codes ? QUANTIZE_WORK : HSSL_WORK_STREAM) * (double)(g->positions * g->C));
    HSSL_TEAM(team, part, {
        const hssl_range rows = hssl_range_of(g->positions, 1, part, team);
        if (!g->codes) {
            normalize_rows(g, &map, in_map, rows, g->y + rows.begin * g->C);
        } else {
            for (ptrdiff_t r = rows.begin; r < rows.end; r += height) {
                _Alignas(64) float block[HSSL_GROUP_NORM_CHANNELS];
                const hssl_range some = {r, hssl_min(r + height, rows.end)};
                float *const y = g->y ? g->y + r * g->C : block;
                normalize_rows(g, &map, in_map, some, y);
                if (g->alike) {
                    hssl_quantize_rows_alike_u8(some.end - r, g->C, y, g->C, largest, g->zero, g->codes + r * ldq, ldq,
                                                g->scale + r);
                } else {
                    hssl_quantize_rows_u8(some.end - r, g->C, y, g->C, g->zero, g->codes + r * ldq, ldq, g->scale + r);
                }
            }
        }
    });
}

void hssl_plan_permute_add(ptrdiff_t batch, ptrdiff_t from, ptrdiff_t to, ptrdiff_t D, const int32_t *index,
                           const float *x, const float *residual, float *y) {
    const int team = hssl_team((double)(batch * to * D) * HSSL_WORK_STREAM);
    HSSL_TEAM(team, part, {
        for (ptrdiff_t r = hssl_split(batch * to, team, part); r < hssl_split(batch * to, team, part + 1); ++r) {
            const int32_t source = index[r % to];
            const float *const added = residual + r * D;
            float *const out = y + r * D;
            if (source < 0) {
                memmove(out, added, (size_t)D * sizeof(float));
                continue;
            }
            const float *const in = x + (r / to * from + source) * D;
            for (ptrdiff_t c = 0; c < D; ++c) out[c] = in[c] + added[c];
        }
    });
}

void hssl_plan_permute_codes(ptrdiff_t batch, ptrdiff_t from, ptrdiff_t to, ptrdiff_t D, const int32_t *index,
                             uint8_t zero, const uint8_t *x, const float *x_scale, uint8_t *y, float *y_scale) {
    const ptrdiff_t row = hssl_round_up(D, 4);
    const int team = hssl_team((double)(batch * to * row) / 4 * HSSL_WORK_STREAM);
    HSSL_TEAM(team, part, {
        for (ptrdiff_t r = hssl_split(batch * to, team, part); r < hssl_split(batch * to, team, part + 1); ++r) {
            const int32_t source = index[r % to];
            if (source < 0) {
                memset(y + r * row, zero, (size_t)row);
                y_scale[r] = 1;
                continue;
            }
            const ptrdiff_t s = r / to * from + source;
            memcpy(y + r * row, x + s * row, (size_t)row);
            y_scale[r] = x_scale[s];
        }
    });
}
