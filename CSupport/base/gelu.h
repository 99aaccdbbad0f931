// GELU(x) = x·Φ(x) from a table, for the GEMM output stage and hssl_gelu alike: same bits in both and on every row.
//
// Φ(x) − ½ for |x| ≤ 5.125 is one of 16 polynomials of degree 4 in d = |x| − i/3, i = round(3|x|), each a minimax fit
// (iteratively reweighted least squares on a cosine grid). The table is a register, so choosing a coefficient is one
// permutation, on another port than multiply-adds: half of the time of one polynomial of degree 12 for the whole range.
// The last segment is bent upwards so that the bound ½ makes Φ exactly 0 and 1 beyond.
// |error| < 3e-7·max(1, |x|), tested on a grid of 2²⁰ points of [-12, 12]. GELU(−∞) is NaN (∞·0) and GELU(NaN) is NaN.
#ifndef HSSL_GELU_H
#define HSSL_GELU_H

#include "base/vector.h"

#if HSSL_WIDTH > 4 && defined(__x86_64__)
#include "base/x86_lookup.h"
#else
HSSL_INLINE hssl_vf hssl_smaller(hssl_vf a, hssl_vf b) { return hssl_pick(a < b, a, b); }
HSSL_INLINE hssl_vf hssl_larger(hssl_vf a, hssl_vf b) { return hssl_pick(a > b, a, b); }
/// table[index mod 16] in every lane.
HSSL_INLINE hssl_vf hssl_lookup(const float table[16], hssl_vi index) {
    hssl_vf v;
    for (int i = 0; i < HSSL_WIDTH; ++i) v[i] = table[index[i] & 15];
    return v;
}
#endif

/// Φ(x) − ½.
HSSL_INLINE hssl_vf hssl_normal_cdf_centered(hssl_vf x) {
    // Coefficients of 1, d, …, d⁴ for i = 0 … 15.
    static const float coefficients[5][16] = {
        {0.0f, 0.130558655f, 0.247507468f, 0.341344744f, 0.4087888f, 0.452209651f, 0.477249861f, 0.490184665f,
         0.496169627f, 0.498650104f, 0.499570936f, 0.499877125f, 0.49996832f, 0.499992669f, 0.49999848f, 0.499999732f},
        {0.398941755f, 0.377381444f, 0.319447666f, 0.241971686f,
         0.164011538f, 0.0994783193f, 0.053991504f, 0.0262218863f,
         0.0113957366f, 0.00443158112f, 0.00154209323f, 0.000480170711f, 0.000133786103f, 3.33544231e-05f,
             7.44079807e-06f, 2.02030515e-06f},
        {3.08670133e-05f, -0.0628956929f, -0.10648071f, -0.120984107f,
         -0.109339975f, -0.0828983337f, -0.0539918058f, -0.0305925962f,
         -0.0151947932f, -0.00664770277f, -0.00257034251f, -0.000880401931f, -0.00026760847f, -7.22807308e-05f,
             -1.73658118e-05f, 1.10265853e-06f},
        {-0.0670511797f, -0.055653315f, -0.0295296218f, -0.000139174925f,
         0.0210475065f, 0.0293037575f, 0.0269172806f, 0.0194232725f,
         0.011642742f, 0.00594751304f, 0.00262570777f, 0.00101047161f, 0.000340913073f, 0.000101236787f,
             2.65383624e-05f, 2.53109538e-05f},
        {0.00402089115f, 0.0150243938f, 0.0225235f, 0.0200664736f,
         0.0111306412f, 0.00159146439f, -0.00443384703f, -0.00619547628f,
         -0.00519412663f, -0.00332919601f, -0.0017468998f, -0.000773642794f, -0.000293984485f, -9.68284803e-05f,
             -2.78281641e-05f, 2.1227148e-05f}};
    const hssl_vi sign = (hssl_vi)x & INT32_MIN;
    const hssl_vf magnitude = (hssl_vf)((hssl_vi)x & INT32_MAX), bound = hssl_splat(5.125f);
    const hssl_vf a = hssl_smaller(magnitude, bound);
    // Adding 1.5·2²³ rounds to the nearest integer, which then stands in the low bits.
    const hssl_vf shifted = hssl_fma(a, hssl_splat(3.0f), hssl_splat(0x1.8p23f));
    const hssl_vi i = (hssl_vi)shifted;
    const hssl_vf d = hssl_fma(shifted - hssl_splat(0x1.8p23f), hssl_splat(-1.0f / 3.0f), a);
    hssl_vf p = hssl_lookup(coefficients[4], i);
    p = hssl_fma(p, d, hssl_lookup(coefficients[3], i));
    p = hssl_fma(p, d, hssl_lookup(coefficients[2], i));
    p = hssl_fma(p, d, hssl_lookup(coefficients[1], i));
    p = hssl_fma(p, d, hssl_lookup(coefficients[0], i));
    const hssl_vf half = hssl_splat(0.5f);
    return (hssl_vf)((hssl_vi)hssl_smaller(p, half) | sign);
}

HSSL_INLINE hssl_vf hssl_gelu_vector(hssl_vf x) { return x * (hssl_normal_cdf_centered(x) + 0.5f); }

/// GELU(x) = max(x, 0) − |x|·Φ(−|x|), the product as one of 16 polynomials of degree 2 in d = |x| − i/4, i =
/// round(4|x|), of which the last is bent to reach 0 at the bound. |error| < 2.1e-4, a tenth of half a step of the
/// finest 8-bit codes (zero 20) of a row whose largest element is 1: for what becomes such codes and for the
/// inference of models whose weights are binary16, at two multiply-adds instead of seven (multiplications included).
/// GELU(NaN) is NaN, GELU(−∞) 0.
HSSL_INLINE hssl_vf hssl_gelu_coarse_vector(hssl_vf x) {
    static const float coefficients[3][16] = {
        {1.02583658e-06f, 0.100319937f, 0.1542667f, 0.169970214f,
         0.158656478f, 0.132064298f, 0.100212999f, 0.0701052845f,
         0.0455008671f, 0.0275055319f, 0.0155241964f, 0.00819415972f, 0.00404944737f, 0.00187511684f, 0.000814050087f,
             0.000232033868f},
        {0.499878556f, 0.305366933f, 0.133790269f, 0.0022868074f,
         -0.0819004178f, -0.121575877f, -0.126805052f, -0.110648893f,
         -0.0852311999f, -0.059336666f, -0.0378029421f, -0.0222012457f, -0.0120754642f, -0.00610200129f,
             -0.0028710966f, -0.00292300689f},
        {-0.39706555f, -0.373466134f, -0.307395846f, -0.216348916f,
         -0.12137717f, -0.0406205021f, 0.015486558f, 0.0452700146f,
         0.053696949f, 0.0484509207f, 0.0372372121f, 0.0253520757f, 0.0155905588f, 0.00875552185f, 0.00452103233f,
             0.0085288221f}};
    const hssl_vf a = hssl_smaller((hssl_vf)((hssl_vi)x & INT32_MAX), hssl_splat(3.8749f));
    // Floats from 2²¹ to 2²² are quarters: adding 1.5·2²¹ rounds to one, whose number then stands in the low bits. No
    // multiply-add is needed.
    const hssl_vf shifted = a + hssl_splat(0x1.8p21f);
    const hssl_vi i = (hssl_vi)shifted;
    const hssl_vf d = a - (shifted - hssl_splat(0x1.8p21f));
    hssl_vf p = hssl_fma(hssl_lookup(coefficients[2], i), d, hssl_lookup(coefficients[1], i));
    p = hssl_fma(p, d, hssl_lookup(coefficients[0], i));
    return hssl_larger(hssl_splat(0), x) - p;
}

#endif
