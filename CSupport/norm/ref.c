// The scalar row of the norm family: the formulas as written, sums in float64. Only the forwards of layer and group
// norm add in the order of the vector rows, with their bits: their output is quantised in int8 models.
#include "base/base.h"
#include "base/half.h"
#include "norm/norm.h"
#include <math.h>

/// Σ x, or Σ (x − center)², over four accumulators of 16 lanes, which are then folded in halves (SUM_ROW of body.inc).
static float sum_lanes(ptrdiff_t D, const float *x, float center, bool squared) {
    enum { LANES = 16, BLOCK = 4 * LANES };
    float s[BLOCK] = {0};
    for (ptrdiff_t i = 0; i < D; i++) {
        // Whole groups of lanes behind the last block go to the first accumulator, a partial one to the second.
        const ptrdiff_t in_block = i < D / BLOCK * BLOCK ? i % BLOCK : i % LANES + (i < D / LANES * LANES ? 0 : LANES);
        s[in_block] += squared ? (x[i] - center) * (x[i] - center) : x[i];
    }
    for (int lane = 0; lane < LANES; lane++) {
        s[lane] = (s[lane] + s[LANES + lane]) + (s[2 * LANES + lane] + s[3 * LANES + lane]);
    }
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int lane = 0; lane < half; lane++) s[lane] += s[half + lane];
    }
    return s[0];
}

static void layer_norm(ptrdiff_t rows, ptrdiff_t D, const float *x, const float *weight, const float *bias,
                       float epsilon, float *y, float *mean, float *rstd) {
    for (ptrdiff_t r = 0; r < rows; r++, x += D, y += D) {
        const float center = sum_lanes(D, x, 0, false) / (float)D;
        const float scale = 1 / sqrtf(sum_lanes(D, x, center, true) / (float)D + epsilon);
        for (ptrdiff_t i = 0; i < D; i++) y[i] = fmaf((x[i] - center) * scale, weight[i], bias[i]);
        if (mean) mean[r] = center;
        if (rstd) rstd[r] = scale;
    }
}

static void layer_norm_backward_input(ptrdiff_t rows, ptrdiff_t D, const float *x, const float *weight,
                                      const float *mean, const float *rstd, const float *dy, float *dx) {
    for (ptrdiff_t r = 0; r < rows; r++, x += D, dy += D, dx += D) {
        double sum = 0, projection = 0, center = mean[r], scale = rstd[r];
        for (ptrdiff_t i = 0; i < D; i++) {
            double g = (double)dy[i] * weight[i];
            sum += g;
            projection += g * (x[i] - center) * scale;
        }
        sum /= (double)D;
        projection /= (double)D;
        for (ptrdiff_t i = 0; i < D; i++)
            dx[i] = (float)(scale * ((double)dy[i] * weight[i] - sum - (x[i] - center) * scale * projection));
    }
}

static void layer_norm_backward_weight(ptrdiff_t rows, ptrdiff_t D, ptrdiff_t begin, ptrdiff_t end, const float *x,
                                       const float *mean, const float *rstd, const float *dy, float *dweight,
                                       float *dbias) {
    for (ptrdiff_t i = begin; i < end; i++) {
        double weight_sum = 0, bias_sum = 0;
        for (ptrdiff_t r = 0; r < rows; r++) {
            weight_sum += (double)dy[r * D + i] * ((double)x[r * D + i] - mean[r]) * rstd[r];
            bias_sum += dy[r * D + i];
        }
        if (dweight) dweight[i] += (float)weight_sum;
        if (dbias) dbias[i] += (float)bias_sum;
    }
}

static void l2_normalize(ptrdiff_t rows, ptrdiff_t D, const float *x, float epsilon, float *y, float *inverse_norm) {
    for (ptrdiff_t r = 0; r < rows; r++, x += D, y += D) {
        double squares = 0;
        for (ptrdiff_t i = 0; i < D; i++) squares += (double)x[i] * x[i];
        double norm = sqrt(squares);
        double scale = 1 / (norm < epsilon ? epsilon : norm);
        for (ptrdiff_t i = 0; i < D; i++) y[i] = (float)(x[i] * scale);
        if (inverse_norm) inverse_norm[r] = (float)scale;
    }
}

static void l2_normalize_backward(ptrdiff_t rows, ptrdiff_t D, const float *y, const float *inverse_norm,
                                  const float *dy, float *dx) {
    for (ptrdiff_t r = 0; r < rows; r++, y += D, dy += D, dx += D) {
        double projection = 0;
        for (ptrdiff_t i = 0; i < D; i++) projection += (double)dy[i] * y[i];
        for (ptrdiff_t i = 0; i < D; i++) dx[i] = (float)((dy[i] - y[i] * projection) * inverse_norm[r]);
    }
}

/// Blocks of 32 positions around their first, in float32, then float64: as the vector rows add.
static float group_element(hssl_group_input x, ptrdiff_t i) {
    return x.half ? hssl_float_from_half(((const uint16_t *)x.values)[i]) : ((const float *)x.values)[i];
}

static void group_sums(ptrdiff_t positions, ptrdiff_t n, ptrdiff_t C, hssl_group_input x, double *sums, double *squares,
                       float *least, float *greatest) {
    enum { BLOCK = 32 };
    for (ptrdiff_t c = 0; c < n; c++) {
        sums[c] = squares[c] = 0;
        if (least) least[c] = INFINITY, greatest[c] = -INFINITY;
        for (ptrdiff_t p = 0; least && p < positions; p++) {
            const float value = group_element(x, p * C + c);
            if (value < least[c]) least[c] = value;
            if (value > greatest[c]) greatest[c] = value;
        }
        for (ptrdiff_t p = 0; p < positions; p += BLOCK) {
            const ptrdiff_t rows = hssl_min(BLOCK, positions - p);
            const float first = group_element(x, p * C + c);
            float sum = 0, square = 0;
            for (ptrdiff_t r = 1; r < rows; r++) {
                const float d = group_element(x, (p + r) * C + c) - first;
                sum += d;
                square = fmaf(d, d, square);
            }
            const double center = first, moved = sum, total = center * (double)rows + moved;
            sums[c] += total;
            squares[c] += square + center * (total + moved);
        }
    }
}

static void group_apply(ptrdiff_t positions, ptrdiff_t C, hssl_group_input x, const hssl_group_map *map,
                        const float *residual, float *y) {
    for (ptrdiff_t i = 0; i < positions * C; i++) {
        const ptrdiff_t c = i % C;
        float value = fmaf(group_element(x, i) - map->center[c], map->slope[c], map->bias[c]);
        value = value < map->least ? map->least : value;
        if (residual) value += residual[i];
        y[i] = value < map->last_least ? map->last_least : value;
    }
}

static void group_norm_backward(const hssl_group_shape *s, ptrdiff_t begin, ptrdiff_t end, const float *x,
                                const float *weight, const float *mean, const float *rstd, const float *dy, float *dx,
                                float *dweight, float *dbias) {
    const ptrdiff_t C = s->C, width = C / s->groups;
    const double count = (double)(s->positions * width);
    for (ptrdiff_t g = begin; g < end; g++) {
        const double center = mean[g], scale = rstd[g];
        double sum = 0, projection = 0;  // Σ dy·weight, and its products with the normalised x
        for (ptrdiff_t c = g * width; c < (g + 1) * width; c++) {
            double weight_sum = 0, bias_sum = 0;
            for (ptrdiff_t p = 0; p < s->positions; p++) {
                weight_sum += dy[p * C + c] * ((x[p * C + c] - center) * scale);
                bias_sum += dy[p * C + c];
            }
            dweight[c] = (float)weight_sum;
            dbias[c] = (float)bias_sum;
            sum += bias_sum * weight[c];
            projection += weight_sum * weight[c];
        }
        sum /= count;
        projection /= count;
        for (ptrdiff_t p = 0; p < s->positions; p++)
            for (ptrdiff_t c = g * width; c < (g + 1) * width; c++)
                dx[p * C + c] = (float)(scale * ((double)dy[p * C + c] * weight[c] - sum - (x[p * C + c] - center)
                    * scale * projection));
    }
}

const hssl_norm_kernels hssl_norm__scalar = {
    layer_norm, layer_norm_backward_input, layer_norm_backward_weight, l2_normalize, l2_normalize_backward,
    group_sums, group_apply, group_norm_backward,
};
