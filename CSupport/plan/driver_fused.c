// Steps of several kernels: a few rows at a time pass from one to the next on the stack, so that they never leave the
// nearest caches.
#include "plan/fused.h"

#include <string.h>

#include "conv/conv.h"
#include "elementwise/partition.h"

enum { FUSED_ROWS = 8 };       // of HSSL_PLAN_FUSED_FLOATS in all: a stack block of 64 KB at most
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
            hssl_quantize_rows_u8(count, D, normalized, D, codes + r * ldq, ldq, scale + r);
        }
    });
}

typedef struct {
    hssl_window_shape shape;
    bool image;
    ptrdiff_t K, ldq, width, runs;  // at most `width` windows of a row of them at a time, `runs` times a row
    const float *x;
    uint8_t *codes;
    float *scale;
} unfolding;

static void unfold_run(const unfolding *u, ptrdiff_t run) {
    _Alignas(64) float windows[HSSL_PLAN_FUSED_FLOATS];
    const ptrdiff_t row = run / u->runs, column = run % u->runs * u->width;
    const ptrdiff_t count = hssl_min(u->width, u->shape.out_w - column);
    const ptrdiff_t first = row * u->shape.out_w + column, k = u->shape.k;
    if (!u->image) {
        hssl_unfold_run(&u->shape, row, column, count, u->x, windows);
    } else if (k == u->shape.stride && u->shape.padding == 0) {
        hssl_patchify_run(u->shape.C, u->shape.h, u->shape.w, k, first, count, u->x, windows);
    } else {
        hssl_unfold_image_run(&u->shape, row, column, count, u->x, windows);
    }
    hssl_quantize_rows_u8(count, u->K, windows, u->K, u->codes + first * u->ldq, u->ldq, u->scale + first);
}

static void unfold_quantize(unfolding u) {
    u.K = u.shape.C * u.shape.k * u.shape.k;
    u.ldq = hssl_round_up(u.K, 4);
    u.width = hssl_max(1, hssl_min(u.shape.out_w, HSSL_PLAN_FUSED_FLOATS / u.K));
    u.runs = hssl_ceil_div(u.shape.out_w, u.width);
    const ptrdiff_t runs = u.shape.out_h * u.runs;
    const int team = hssl_team(QUANTIZE_WORK * (double)(u.shape.out_h * u.shape.out_w) * (double)u.K);
    HSSL_TEAM(team, part, {
        const ptrdiff_t end = hssl_split(runs, team, part + 1);
        for (ptrdiff_t run = hssl_split(runs, team, part); run < end; ++run) unfold_run(&u, run);
    });
}

void hssl_plan_unfold_image_quantize(const ptrdiff_t size[6], const float *image, uint8_t *codes, float *scale) {
    const hssl_window_shape shape = hssl_windows_of(size[1], size[2], size[0], size[3], size[4], size[5]);
    unfold_quantize((unfolding){.shape = shape, .image = true, .x = image, .codes = codes, .scale = scale});
}

void hssl_plan_unfold_quantize(const ptrdiff_t size[6], const float *x, uint8_t *codes, float *scale) {
    const hssl_window_shape shape = hssl_windows_of(size[0], size[1], size[2], size[3], size[4], size[5]);
    unfold_quantize((unfolding){.shape = shape, .x = x, .codes = codes, .scale = scale});
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
                             const uint8_t *x, const float *x_scale, uint8_t *y, float *y_scale) {
    const ptrdiff_t row = hssl_round_up(D, 4);
    const int team = hssl_team((double)(batch * to * row) / 4 * HSSL_WORK_STREAM);
    HSSL_TEAM(team, part, {
        for (ptrdiff_t r = hssl_split(batch * to, team, part); r < hssl_split(batch * to, team, part + 1); ++r) {
            const int32_t source = index[r % to];
            if (source < 0) {
                memset(y + r * row, 128, (size_t)row);
                y_scale[r] = 1;
                continue;
            }
            const ptrdiff_t s = r / to * from + source;
            memcpy(y + r * row, x + s * row, (size_t)row);
            y_scale[r] = x_scale[s];
        }
    });
}
