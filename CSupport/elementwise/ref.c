// The scalar row of the elementwise family: the formulas as written, transcendental functions and sums in float64. Only
// GELU is not written out: it has the bits of the GEMM output stage on every row.
#define HSSL_WIDTH 4
#include "base/gelu.h"
#include "elementwise/elementwise.h"
#include <math.h>

static void gelu(ptrdiff_t n, const float *x, float *y) {
    for (ptrdiff_t i = 0; i < n; i += HSSL_WIDTH) {
        ptrdiff_t count = n - i < HSSL_WIDTH ? n - i : HSSL_WIDTH;
        hssl_store_first(y + i, hssl_gelu_vector(hssl_load_first(x + i, count)), count);
    }
}

static void gelu_backward(ptrdiff_t n, const float *x, const float *dy, float *dx) {
    for (ptrdiff_t i = 0; i < n; i++) {
        double t = x[i];
        double density = exp(-0.5 * t * t) * 0.3989422804014327;  // 1/√(2π)
        dx[i] = (float)(dy[i] * (0.5 * erfc(-t * M_SQRT1_2) + t * density));
    }
}

static void add(ptrdiff_t n, const float *x, const float *y, float *z) {
    for (ptrdiff_t i = 0; i < n; i++) z[i] = x[i] + y[i];
}

static void scale(ptrdiff_t n, float alpha, const float *x, float *y) {
    for (ptrdiff_t i = 0; i < n; i++) y[i] = alpha * x[i];
}

static void axpy(ptrdiff_t n, float alpha, const float *x, const float *y, float *z) {
    for (ptrdiff_t i = 0; i < n; i++) z[i] = fmaf(alpha, x[i], y[i]);
}

static void add_broadcast(ptrdiff_t batch, ptrdiff_t n, ptrdiff_t ld, const float *x, const float *v, float *y) {
    for (ptrdiff_t b = 0; b < batch; b++)
        for (ptrdiff_t i = 0; i < n; i++) y[b * ld + i] = x[b * ld + i] + v[i];
}

static void sum_rows(ptrdiff_t batch, ptrdiff_t n, ptrdiff_t ld, const float *x, float *out) {
    for (ptrdiff_t i = 0; i < n; i++) {
        double sum = 0;
        for (ptrdiff_t b = 0; b < batch; b++) sum += x[b * ld + i];
        out[i] += (float)sum;
    }
}

static void multiply_broadcast(ptrdiff_t batch, ptrdiff_t n, ptrdiff_t ld, const float *x, const float *v, float *y) {
    for (ptrdiff_t b = 0; b < batch; b++)
        for (ptrdiff_t i = 0; i < n; i++) y[b * ld + i] = x[b * ld + i] * v[i];
}

static void multiply_sum_rows(ptrdiff_t batch, ptrdiff_t n, ptrdiff_t ld, const float *x, const float *g, float *out) {
    for (ptrdiff_t i = 0; i < n; i++) {
        double sum = 0;
        for (ptrdiff_t b = 0; b < batch; b++) sum += (double)x[b * ld + i] * g[b * ld + i];
        out[i] += (float)sum;
    }
}

static void relu(ptrdiff_t n, const float *x, float *y) {
    for (ptrdiff_t i = 0; i < n; i++) y[i] = x[i] < 0 ? 0 : x[i];
}

static void relu_backward(ptrdiff_t n, const float *y, const float *dy, float *dx) {
    for (ptrdiff_t i = 0; i < n; i++) dx[i] = y[i] > 0 ? dy[i] : 0;
}

static void gated(ptrdiff_t n, const float *g, const float *u, float *y) {
    for (ptrdiff_t i = 0; i < n; i++) y[i] = (float)(g[i] / (1 + exp(-(double)g[i])) * u[i]);
}

static void gated_backward(ptrdiff_t n, const float *g, const float *u, const float *dy, float *dg, float *du) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const double s = 1 / (1 + exp(-(double)g[i]));
        du[i] = (float)(dy[i] * g[i] * s);
        dg[i] = (float)((double)dy[i] * u[i] * s * (1 + g[i] * (1 - s)));
    }
}

/// Σ exp((x − center)·t − max) over a row; the maximum of (x − center)·t goes to *maximum.
static double sum_of_exponentials(ptrdiff_t K, const float *x, const float *center, double t, double *maximum) {
    double largest = -INFINITY, sum = 0;
    for (ptrdiff_t k = 0; k < K; k++) largest = fmax(largest, (x[k] - (center ? (double)center[k] : 0)) * t);
    for (ptrdiff_t k = 0; k < K; k++) sum += exp((x[k] - (center ? (double)center[k] : 0)) * t - largest);
    *maximum = largest;
    return sum;
}

static void softmax(ptrdiff_t rows, ptrdiff_t K, const float *x, const float *center, float inverse_temperature,
                    float *y) {
    for (ptrdiff_t r = 0; r < rows; r++, x += K, y += K) {
        double maximum, sum = sum_of_exponentials(K, x, center, inverse_temperature, &maximum);
        for (ptrdiff_t k = 0; k < K; k++)
            y[k] = (float)(exp((x[k] - (center ? (double)center[k] : 0)) * inverse_temperature - maximum) / sum);
    }
}

static void soft_cross_entropy(ptrdiff_t rows, ptrdiff_t K, const float *q, const float *z, float inverse_temperature,
                               float *loss, float *log_sum_exp) {
    for (ptrdiff_t r = 0; r < rows; r++, q += K, z += K) {
        double maximum, sum = sum_of_exponentials(K, z, NULL, inverse_temperature, &maximum), expected = 0;
        for (ptrdiff_t k = 0; k < K; k++) expected += q[k] * (maximum - (double)z[k] * inverse_temperature);
        loss[r] = (float)(log(sum) + expected);
        log_sum_exp[r] = (float)(maximum + log(sum));
    }
}

static void soft_cross_entropy_backward(ptrdiff_t rows, ptrdiff_t K, const float *q, const float *z,
                                        float inverse_temperature, const float *log_sum_exp, const float *weight,
                                        float *dz) {
    for (ptrdiff_t r = 0; r < rows; r++, q += K, z += K, dz += K)
        for (ptrdiff_t k = 0; k < K; k++)
            dz[k] = (float)((double)weight[r] * inverse_temperature
                * (exp((double)z[k] * inverse_temperature - log_sum_exp[r]) - q[k]));
}

const hssl_elementwise_kernels hssl_elementwise__scalar = {
    gelu, gelu_backward, add, scale, axpy, add_broadcast, sum_rows, multiply_broadcast, multiply_sum_rows, relu,
    relu_backward, gated, gated_backward,
    softmax, soft_cross_entropy, soft_cross_entropy_backward,
};
