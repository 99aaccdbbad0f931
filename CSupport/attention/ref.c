// The scalar row of the attention family: one query at a time, sums in float64 where they stay in a variable.
#include "attention/integers.h"
#include "base/half.h"
#include <math.h>

static double dot(ptrdiff_t n, const float *x, const float *y) {
    double sum = 0;
    for (ptrdiff_t i = 0; i < n; i++) sum += (double)x[i] * y[i];
    return sum;
}

static void prepare(const hssl_attention_head *head) { (void)head; }

/// The score of query i and key j, rounded where the vector rows round it: the backward's meets the log-sum-exp of the
/// forward's.
static float score_of(const hssl_attention_shape *shape, const float *q, const float *k, ptrdiff_t i, ptrdiff_t j,
                      const float *bias, const float *mask) {
    float score = (float)(dot(shape->head_dim, q + i * shape->ld_qkv, k + j * shape->ld_qkv)
        * (1 / sqrt((double)shape->head_dim)));
    if (bias) score += bias[i * shape->tokens + j];
    if (mask) score += mask[i * shape->tokens + j];
    return score;
}

static void strip_biased(const hssl_attention_head *head, const float *bias, const float *mask, ptrdiff_t begin,
                         ptrdiff_t end, void *scratch) {
    const ptrdiff_t tokens = head->shape.tokens, head_dim = head->shape.head_dim, ld = head->shape.ld_qkv;
    const float *const q = head->q, *const k = head->k, *const v = head->v;
    float *const scores = scratch, *const out = head->out;
    for (ptrdiff_t i = begin; i < end; i++) {
        double maximum = -INFINITY, sum = 0;
        for (ptrdiff_t j = 0; j < tokens; j++) {
            scores[j] = score_of(&head->shape, q, k, i, j, bias, mask);
            maximum = fmax(maximum, scores[j]);
        }
        for (ptrdiff_t j = 0; j < tokens; j++) sum += exp(scores[j] - maximum);
        for (ptrdiff_t j = 0; j < tokens; j++) scores[j] = (float)(exp(scores[j] - maximum) / sum);
        for (ptrdiff_t c = 0; c < head_dim; c++) {
            double value = 0;
            for (ptrdiff_t j = 0; j < tokens; j++) value += (double)scores[j] * v[j * ld + c];
            out[i * head->shape.ld_out + c] = (float)value;
        }
        if (head->log_sum_exp) head->log_sum_exp[i] = (float)(maximum + log(sum));
    }
}

static void strip(const hssl_attention_head *head, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    strip_biased(head, NULL, NULL, begin, end, scratch);
}

static void backward_biased(const hssl_attention_shape *shape, const float *q, const float *k, const float *v,
                            const float *out, const float *log_sum_exp, const float *dout, const float *bias,
                            const float *mask, float *dq, float *dk, float *dv, float *dbias, float *scratch) {
    ptrdiff_t tokens = shape->tokens, head_dim = shape->head_dim, ld = shape->ld_qkv, ld_out = shape->ld_out;
    double scale = 1 / sqrt((double)head_dim);
    float *dscores = scratch;
    for (ptrdiff_t j = 0; j < tokens; j++)
        for (ptrdiff_t c = 0; c < head_dim; c++) dk[j * ld + c] = dv[j * ld + c] = 0;
    for (ptrdiff_t i = 0; i < tokens; i++) {
        double correction = dot(head_dim, dout + i * ld_out, out + i * ld_out);
        for (ptrdiff_t j = 0; j < tokens; j++) {
            double probability = exp((double)score_of(shape, q, k, i, j, bias, mask) - log_sum_exp[i]);
            for (ptrdiff_t c = 0; c < head_dim; c++) dv[j * ld + c] += (float)(probability * dout[i * ld_out + c]);
            double gradient = probability * (dot(head_dim, dout + i * ld_out, v + j * ld) - correction);
            if (dbias) dbias[i * hssl_attention_ld(tokens) + j] += (float)gradient;
            dscores[j] = (float)(gradient * scale);
            for (ptrdiff_t c = 0; c < head_dim; c++) dk[j * ld + c] += dscores[j] * q[i * ld + c];
        }
        for (ptrdiff_t c = 0; c < head_dim; c++) {
            double value = 0;
            for (ptrdiff_t j = 0; j < tokens; j++) value += (double)dscores[j] * k[j * ld + c];
            dq[i * ld + c] = (float)value;
        }
    }
}

static void backward(const hssl_attention_shape *shape, const float *q, const float *k, const float *v,
                     const float *out, const float *log_sum_exp, const float *dout, float *dq, float *dk, float *dv,
                     float *scratch) {
    backward_biased(shape, q, k, v, out, log_sum_exp, dout, NULL, NULL, dq, dk, dv, NULL, scratch);
}

static float larger_magnitude(float largest, float x) {
    return fabsf(x) <= largest || isnan(largest) ? largest : fabsf(x);
}

static int32_t encode(float x, float inverse) {
    float scaled = rintf(x * inverse);
    scaled = scaled > -hssl_attention_code_limit ? scaled : -hssl_attention_code_limit;  // NaN too
    return (int32_t)(scaled < hssl_attention_code_limit ? scaled : hssl_attention_code_limit);
}

/// The code of a probability; the formula of integers.h.
static int32_t encode_exponential(uint32_t distance, uint32_t multiplier) {
    if (distance > 65535 / multiplier) return 0;
    const uint32_t y = distance * multiplier, g = (y << 4 & 0xFC00) | 0x200;
    uint32_t p = HSSL_EXPONENT_C2 - (g * HSSL_EXPONENT_C3 >> 16);
    p = HSSL_EXPONENT_C1 - (g * p >> 16);
    p = 65535 - (g * p >> 16);
    return (int32_t)(((p >> (y >> 12)) + 1) >> 1);
}

/// The mean of every channel over the tokens, and the largest magnitude of x less its mean.
static void centre_channels(ptrdiff_t tokens, ptrdiff_t width, const uint16_t *x, ptrdiff_t ld, float *mean,
                            float *range) {
    for (ptrdiff_t c = 0; c < width; c++) {
        mean[c] = range[c] = 0;
        for (ptrdiff_t j = 0; j < tokens; j++) mean[c] += hssl_float_from_half(x[j * ld + c]);
        mean[c] /= (float)tokens;
        for (ptrdiff_t j = 0; j < tokens; j++) {
            range[c] = larger_magnitude(range[c], hssl_float_from_half(x[j * ld + c]) - mean[c]);
        }
    }
}

// Codes are not kept: the strip makes them again.
static void prepare_integer(const hssl_attention_head *head) {
    const ptrdiff_t tokens = head->shape.tokens, head_dim = head->shape.head_dim, ld = head->shape.ld_qkv;
    const hssl_attention_integer_layout at = hssl_attention_integer_layout_at(tokens, head_dim, head->panels, NULL);
    centre_channels(tokens, head_dim, head->k, ld, at.key_mean, at.value_scale);  // which waits for the values
    float farthest = 0;
    for (ptrdiff_t c = 0; c < head_dim; c++) farthest = larger_magnitude(farthest, at.value_scale[c]);
    *at.key_grid = hssl_attention_grid_of(farthest);
    centre_channels(tokens, head_dim, head->v, ld, at.value_mean, at.value_scale);
    for (ptrdiff_t c = 0; c < head_dim; c++) {
        const hssl_attention_grid grid = hssl_attention_grid_of(at.value_scale[c]);
        at.value_scale[c] = grid.scale;
        at.value_inverse[c] = grid.inverse;
    }
}

static void strip_integer(const hssl_attention_head *head, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const ptrdiff_t tokens = head->shape.tokens, head_dim = head->shape.head_dim, ld = head->shape.ld_qkv;
    const hssl_attention_integer_layout at = hssl_attention_integer_layout_at(tokens, head_dim, head->panels, scratch);
    const uint16_t *const q = head->q, *const k = head->k, *const v = head->v;
    uint16_t *const out = head->out;
    const int shift = hssl_attention_score_shift(head_dim);
    const float steps_of_scale = hssl_attention_steps_of_scale(at.key_grid, head_dim);
    int16_t *const scores = at.scores;
    for (ptrdiff_t i = begin; i < end; i++) {
        float largest = 0;
        for (ptrdiff_t c = 0; c < head_dim; c++) {
            largest = larger_magnitude(largest, hssl_float_from_half(q[i * ld + c]));
        }
        const hssl_attention_query_grid q_grid = hssl_attention_query_grid_of(largest, steps_of_scale);
        int32_t top = INT16_MIN, sum = 0;
        for (ptrdiff_t j = 0; j < tokens; j++) {
            int32_t score = 0;
            for (ptrdiff_t c = 0; c < head_dim; c++) {
                score += encode(hssl_float_from_half(q[i * ld + c]), q_grid.inverse) *
                         encode(hssl_float_from_half(k[j * ld + c]) - at.key_mean[c], at.key_grid->inverse);
            }
            scores[j] = (int16_t)(score >> shift);
            top = scores[j] > top ? scores[j] : top;
        }
        for (ptrdiff_t j = 0; j < tokens; j++) {
            const int32_t code = encode_exponential((uint32_t)(top - scores[j]), (uint32_t)q_grid.multiplier);
            sum += code;
            at.probabilities[j] = (uint8_t)((code
                + (1 << (HSSL_ATTENTION_PROBABILITY_SHIFT - 1))) >> HSSL_ATTENTION_PROBABILITY_SHIFT);
        }
        const float factor = (float)(1 << HSSL_ATTENTION_PROBABILITY_SHIFT) / (float)sum + 0 * q_grid.steps;
        for (ptrdiff_t c = 0; c < head_dim; c++) {
            int32_t value = 0;
            for (ptrdiff_t j = 0; j < tokens; j++) {
                value += at.probabilities[j] * encode(hssl_float_from_half(v[j * ld + c]) - at.value_mean[c],
                                                      at.value_inverse[c]);
            }
            out[i * head->shape.ld_out + c] = hssl_half_toward_zero(fmaf(
                (float)value * factor, at.value_scale[c], at.value_mean[c]));
        }
    }
}

const hssl_attention_kernels hssl_attention__scalar = {{prepare, strip}, backward, strip_biased, backward_biased,
                                                       {prepare_integer, strip_integer}};
