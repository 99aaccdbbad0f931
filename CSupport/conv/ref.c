// The scalar row of the conv family: the formula as written, sums in float64.
#include "conv/conv.h"

static void depthwise(const hssl_conv_shape *s, ptrdiff_t begin, ptrdiff_t end, const float *x, const float *packed,
                      const float *bias, float *y) {
    ptrdiff_t ld = hssl_conv_ld(s->C), pad = s->k / 2;
    for (ptrdiff_t r = begin; r < end; r++) {
        const float *sample = x + r / s->h * s->h * s->w * s->C;
        for (ptrdiff_t j = 0; j < s->w; j++)
            for (ptrdiff_t c = 0; c < s->C; c++) {
                double sum = bias ? bias[c] : 0;
                for (ptrdiff_t u = 0; u < s->k; u++)
                    for (ptrdiff_t v = 0; v < s->k; v++) {
                        ptrdiff_t row = r % s->h + u - pad, column = j + v - pad;
                        if (row >= 0 && row < s->h && column >= 0 && column < s->w)
                            sum += (double)packed[(u * s->k + v) * ld + c] * sample[(row * s->w + column) * s->C + c];
                    }
                y[(r * s->w + j) * s->C + c] = (float)sum;
            }
    }
}

static void depthwise_backward_weight(const hssl_conv_shape *s, ptrdiff_t batch, ptrdiff_t begin, ptrdiff_t end,
                                      ptrdiff_t u_begin, ptrdiff_t u_end, const float *x, const float *dy,
                                      float *packed) {
    ptrdiff_t ld = hssl_conv_ld(s->C), pad = s->k / 2;
    for (ptrdiff_t u = u_begin; u < u_end; u++)
        for (ptrdiff_t v = 0; v < s->k; v++)
            for (ptrdiff_t c = begin; c < end; c++) {
                double sum = 0;
                for (ptrdiff_t r = 0; r < batch * s->h; r++) {
                    ptrdiff_t row = r % s->h + u - pad;
                    if (row < 0 || row >= s->h) continue;
                    for (ptrdiff_t j = 0; j < s->w; j++) {
                        ptrdiff_t column = j + v - pad;
                        if (column >= 0 && column < s->w)
                            sum += (double)dy[(r * s->w + j) * s->C + c]
                                * x[((r + u - pad) * s->w + column) * s->C + c];
                    }
                }
                packed[(u * s->k + v) * ld + c] = (float)sum;
            }
}

#define HSSL_WIDTH 4
#include "conv/windows.inc"

const hssl_conv_kernels hssl_conv__scalar = {
    depthwise, depthwise_backward_weight, unfold_backward, max_pool, max_pool_backward, average_pool,
    average_pool_backward,
};
