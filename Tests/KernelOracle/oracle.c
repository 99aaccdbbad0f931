#include "KernelOracle.h"

#include <math.h>
#include <string.h>

static const double unit = 0x1p-24;

static double exact_gelu(double x) { return 0.5 * x * erfc(-x * 0.70710678118654752440); }

// The stage in double. `sum` ± `error` is the value before it. Returns |c − exact| / bound, the worse of C and
// preactivation.
static double stage(double sum, double error, ptrdiff_t m, ptrdiff_t n, const float *before, const float *c,
                    ptrdiff_t ldc, bool accumulate, const hssl_gemm_output *o) {
    double value = sum, worst = 0;
    if (accumulate) value += before[m * ldc + n], error += 2 * unit * (fabs(sum) + fabs((double)before[m * ldc + n]));
    if (o && o->bias) value += o->bias[n], error += 2 * unit * (fabs(value) + fabs((double)o->bias[n]));
    if (o && o->preactivation) worst = fabs(o->preactivation[m * ldc + n] - value) / (error + 1e-30);
    if (o && o->activation != HSSL_ACTIVATION_NONE) {
        error = 1.13 * error + 1e-6 * fmax(1, fabs(value))
            + (o->activation == HSSL_ACTIVATION_GELU_COARSE ? 2.1e-4 : 0);
        value = exact_gelu(value);
    }
    if (o && o->residual) {
        const double residual = o->residual == c ? before[m * ldc + n] : o->residual[m * o->ld_residual + n];
        error += 2 * unit * (fabs(value) + fabs(residual)), value += residual;
    }
    const double ratio = fabs(c[m * ldc + n] - value) / (error + unit * fabs(value) + 1e-30);
    return ratio >= worst ? ratio : worst == worst && ratio == ratio ? worst : INFINITY;
}

static bool padding_changed(ptrdiff_t M, ptrdiff_t N, const void *before, const void *c, ptrdiff_t ldc) {
    for (ptrdiff_t m = 0; m + 1 < M; ++m) {
        if (memcmp((const char *)before + 4 * (m * ldc + N), (const char *)c + 4 * (m * ldc + N),
                   (size_t)(4 * (ldc - N)))) {
            return true;
        }
    }
    return false;
}

double oracle_gemm_f32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t a_m, ptrdiff_t a_k,
                       const float *b, ptrdiff_t b_k, ptrdiff_t b_n, const float *before, const float *c, ptrdiff_t ldc,
                       bool accumulate, const hssl_gemm_output *output) {
    if (padding_changed(M, N, before, c, ldc)) return INFINITY;
    const double factor = unit * (double)((K < 256 ? K : 256) + K / 256 + 8);
    double worst = 0, sum[8], magnitude[8];
    for (ptrdiff_t m = 0; m < M; ++m) {
        for (ptrdiff_t n0 = 0; n0 < N; n0 += 8) {
            const int width = N - n0 < 8 ? (int)(N - n0) : 8;
            for (int i = 0; i < 8; ++i) sum[i] = magnitude[i] = 0;
            for (ptrdiff_t k = 0; k < K; ++k) {
                for (int i = 0; i < width; ++i) {
                    const double term = (double)a[m * a_m + k * a_k] * (double)b[k * b_k + (n0 + i) * b_n];
                    sum[i] += term, magnitude[i] += fabs(term);
                }
            }
            for (int i = 0; i < width; ++i) {
                const double ratio = stage(
                    sum[i], factor * magnitude[i], m, n0 + i, before, c, ldc, accumulate, output);
                if (!(ratio <= worst)) worst = ratio;
            }
        }
    }
    return worst == worst ? worst : INFINITY;
}

static int32_t dot(ptrdiff_t K, const uint8_t *a, uint8_t zero, const int8_t *b, ptrdiff_t b_k) {
    int32_t sum = 0;
    for (ptrdiff_t k = 0; k < K; ++k) sum += (a[k] - zero) * b[k * b_k];
    return sum;
}

double oracle_gemm_u8s8_f32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda,
                            uint8_t zero, const float *a_scale, const int8_t *b, ptrdiff_t b_k, ptrdiff_t b_n,
                            const float *b_scale, const float *before, const float *c, ptrdiff_t ldc, bool accumulate,
                            const hssl_gemm_output *output) {
    if (padding_changed(M, N, before, c, ldc)) return INFINITY;
    double worst = 0;
    for (ptrdiff_t m = 0; m < M; ++m) {
        for (ptrdiff_t n = 0; n < N; ++n) {
            const double value = (double)a_scale[m] * (b_scale ? (double)b_scale[n] : 1) * dot(
                K, a + m * lda, zero, b + n * b_n, b_k);
            const double ratio = stage(value, 4 * unit * fabs(value), m, n, before, c, ldc, accumulate, output);
            if (!(ratio <= worst)) worst = ratio;
        }
    }
    return worst == worst ? worst : INFINITY;
}

ptrdiff_t oracle_gemm_u8s8_s32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, uint8_t zero,
                               const int8_t *b, ptrdiff_t b_k, ptrdiff_t b_n, const int32_t *before,
                               const int32_t *c, ptrdiff_t ldc) {
    ptrdiff_t wrong = padding_changed(M, N, before, c, ldc);
    for (ptrdiff_t m = 0; m < M; ++m) {
        for (ptrdiff_t n = 0; n < N; ++n) wrong += c[m * ldc + n] != dot(K, a + m * lda, zero, b + n * b_n, b_k);
    }
    return wrong;
}

double oracle_gelu_error(ptrdiff_t n, const float *x, const float *y, float *worst) {
    double largest = 0;
    for (ptrdiff_t i = 0; i < n; ++i) {
        const double error = fabs(y[i] - exact_gelu(x[i])) / fmax(1, fabs((double)x[i]));
        if (!(error <= largest)) largest = error, *worst = x[i];
    }
    return largest;
}

// Row maximum with NaN above infinity, as the contract of quantize.h says.
static float row_maximum(ptrdiff_t K, const float *x, const float *column_scale) {
    uint32_t largest = 0;
    for (ptrdiff_t k = 0; k < K; ++k) {
        const float value = column_scale ? x[k] * column_scale[k] : x[k];
        uint32_t bits;
        memcpy(&bits, &value, 4);
        bits &= 0x7FFFFFFF;
        if (bits > largest) largest = bits;
    }
    float maximum;
    memcpy(&maximum, &largest, 4);
    return maximum;
}

static int clamped(float rounded, int below, int above) {
    return !(rounded > (float)-below) ? -below : rounded > (float)above ? above : (int)rounded;
}

static bool same(float a, float b) { return a == b || (a != a && b != b); }

// What takes `above` steps: the largest element, or the least one times above / below.
static float row_reach(ptrdiff_t K, const float *x, int below, int above) {
    float largest = 0, least = 0;
    for (ptrdiff_t k = 0; k < K; ++k) {
        if (x[k] != x[k]) return x[k];
        if (x[k] > largest) largest = x[k];
        if (x[k] < least) least = x[k];
    }
    return fmaxf(largest, -least * ((float)above / (float)below));
}

ptrdiff_t oracle_quantize(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, uint8_t zero,
                          const uint8_t *codes, ptrdiff_t ldq, const float *scale) {
    ptrdiff_t wrong = 0;
    for (ptrdiff_t r = 0; r < rows; ++r) {
        const int below = zero == 0 ? 127 : zero - 1, above = zero == 0 ? 127 : 255 - zero;
        const float maximum = row_reach(K, x + r * ldx, below, above);
        const bool is_zero = maximum < (float)above * 0x1p-126f;
        const float inverse = is_zero ? 0 : (float)above / maximum;
        wrong += !same(scale[r], is_zero ? 1 : maximum / (float)above);
        for (ptrdiff_t k = 0; k < ldq; ++k) {
            const int code = k < K ? clamped(rintf(x[r * ldx + k] * inverse), below, above) : 0;
            wrong += codes[r * ldq + k] != (uint8_t)(code + zero);
        }
    }
    return wrong;
}

ptrdiff_t oracle_quantize_stochastic(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx,
                                     const float *column_scale, uint64_t key, const uint8_t *codes, ptrdiff_t ldq,
                                     const float *scale) {
    ptrdiff_t wrong = 0;
    for (ptrdiff_t r = 0; r < rows; ++r) {
        const float maximum = row_maximum(K, x + r * ldx, column_scale),
            inverse = maximum < 127 * 0x1p-126f ? 0 : 127 / maximum;
        wrong += !same(scale[r], maximum < 127 * 0x1p-126f ? 1 : maximum / 127);
        for (ptrdiff_t k = 0; k < ldq; ++k) {
            uint32_t words[4];
            hssl_philox(key, (uint64_t)(k / 64 * 16 + k % 16), (uint64_t)r, words);
            const float u = (float)(words[k / 16 % 4] >> 8) * 0x1p-24f;
            float value = 0;
            if (k < K) value = (column_scale ? x[r * ldx + k] * column_scale[k] : x[r * ldx + k]) * inverse;
            const int code = k < K ? clamped(floorf(value + u), 127, 127) : 0;
            wrong += codes[r * ldq + k] != ((uint8_t)code ^ 0x80);
        }
    }
    return wrong;
}

void oracle_fill_f32(ptrdiff_t n, uint64_t key, float *x) {
    for (ptrdiff_t i = 0; i < n; i += 4) {
        uint32_t words[4];
        hssl_philox(key, (uint64_t)i, 0, words);
        for (int j = 0; j < 4 && i + j < n; ++j) x[i + j] = (float)(words[j] >> 8) * 0x1p-23f - 1;
    }
}

void oracle_fill_bytes(ptrdiff_t n, uint64_t key, int low, int high, uint8_t *x) {
    for (ptrdiff_t i = 0; i < n; i += 4) {
        uint32_t words[4];
        hssl_philox(key, (uint64_t)i, 1, words);
        for (int j = 0; j < 4 && i + j < n; ++j) {
            x[i + j] = (uint8_t)(low + (int)(words[j] % (uint32_t)(high - low + 1)));
        }
    }
}
