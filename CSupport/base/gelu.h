// GELU(x) = x·Φ(x) by one polynomial, for the GEMM output stage and hssl_gelu alike: same bits in both and at every vector width.
//
// Φ(x) − ½ = x·P(u) on |x| ≤ 5, u = x²·2/25 − 1, P of degree 12 by a minimax fit (iteratively reweighted least squares on a cosine
// grid; 1.6e-7 before rounding), of erf scaled by 1 + 1.1e-6 so that the clamp to ½ makes Φ exactly 0 and 1 beyond ±5.
// |error| < 1e-6·max(1, |x|), tested on a grid of 2²⁰ points of [-12, 12]. GELU(−∞) is NaN (∞·0) and GELU(NaN) is NaN.
#ifndef HSSL_GELU_H
#define HSSL_GELU_H

#include "base/vector.h"

/// Φ(x) − ½.
HSSL_INLINE hssl_vf hssl_normal_cdf_centered(hssl_vf x) {
    const hssl_vf z = hssl_clamp(x, -5.0f, 5.0f);
    const hssl_vf u = hssl_fma(z * z, hssl_splat(0.08f), hssl_splat(-1.0f));
    hssl_vf p = hssl_splat(0.000608727743383497f);
    p = hssl_fma(p, u, hssl_splat(-0.0016132672317326069f));
    p = hssl_fma(p, u, hssl_splat(0.0017228019423782825f));
    p = hssl_fma(p, u, hssl_splat(-0.0026855769101530313f));
    p = hssl_fma(p, u, hssl_splat(0.006410516332834959f));
    p = hssl_fma(p, u, hssl_splat(-0.011164352297782898f));
    p = hssl_fma(p, u, hssl_splat(0.016402192413806915f));
    p = hssl_fma(p, u, hssl_splat(-0.023268677294254303f));
    p = hssl_fma(p, u, hssl_splat(0.03144220635294914f));
    p = hssl_fma(p, u, hssl_splat(-0.04044264927506447f));
    p = hssl_fma(p, u, hssl_splat(0.05152057856321335f));
    p = hssl_fma(p, u, hssl_splat(-0.07029635459184647f));
    p = hssl_fma(p, u, hssl_splat(0.1413639336824417f));
    return hssl_clamp(p * z, -0.5f, 0.5f);
}

HSSL_INLINE hssl_vf hssl_gelu_vector(hssl_vf x) { return x * (hssl_normal_cdf_centered(x) + 0.5f); }

#endif
