// The scalar row of the optimizer family: plain C but for the coded moments, whose body is shared so that every row has
// one rounding.
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "optimizer/optimizer.h"

#define HSSL_WIDTH 4
#include "optimizer/coded.inc"

static double sum_squares(ptrdiff_t n, const float *x) {
    double sum = 0;
    for (ptrdiff_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    return sum;
}

static bool all_finite(ptrdiff_t n, const float *x) {
    for (ptrdiff_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

static void update(ptrdiff_t n, float *p, float *teacher, const float *g, float *m, float *v,
                   const hssl_update_settings *s) {
    for (ptrdiff_t i = 0; i < n; i++) {
        float gradient = g[i] * s->gradient_scale;
        m[i] = fmaf(s->beta1, m[i], (1 - s->beta1) * gradient);
        v[i] = fmaf(s->beta2, v[i], (1 - s->beta2) * gradient * gradient);
        float decayed = p[i] * (1 - s->lr * s->weight_decay);
        p[i] = decayed - s->lr * (m[i] / s->correction1) / (sqrtf(v[i] / s->correction2) + s->epsilon);
        teacher[i] = fmaf(s->momentum, teacher[i], (1 - s->momentum) * p[i]);
    }
}

static void ema(ptrdiff_t n, float *teacher, const float *student, float momentum) {
    for (ptrdiff_t i = 0; i < n; i++) teacher[i] = fmaf(momentum, teacher[i], (1 - momentum) * student[i]);
}

const hssl_optimizer_kernels hssl_optimizer__scalar = {sum_squares, all_finite, update, update_coded, ema};
