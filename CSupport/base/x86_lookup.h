// What gelu.h wants of x86 and generic vectors do not become, for 8 and 16 lanes: minima and maxima of one instruction
// and a table of 16 floats in registers.
#ifndef HSSL_X86_LOOKUP_H
#define HSSL_X86_LOOKUP_H

#include "base/vector.h"

/// a < b ? a : b, so b where one of them is NaN.
HSSL_INLINE hssl_vf hssl_smaller(hssl_vf a, hssl_vf b) {
#if HSSL_WIDTH == 16
    return (hssl_vf)_mm512_min_ps((__m512)a, (__m512)b);
#else
    return (hssl_vf)_mm256_min_ps((__m256)a, (__m256)b);
#endif
}

/// a > b ? a : b, so b where one of them is NaN.
HSSL_INLINE hssl_vf hssl_larger(hssl_vf a, hssl_vf b) {
#if HSSL_WIDTH == 16
    return (hssl_vf)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return (hssl_vf)_mm256_max_ps((__m256)a, (__m256)b);
#endif
}

/// table[index mod 16] in every lane.
HSSL_INLINE hssl_vf hssl_lookup(const float table[16], hssl_vi index) {
#if HSSL_WIDTH == 16
    return (hssl_vf)_mm512_permutexvar_ps((__m512i)index, _mm512_loadu_ps(table));
#else
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)index);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), (__m256i)index);
    return (hssl_vf)_mm256_blendv_ps(low, high, (__m256)(index << 28));  // by bit 3
#endif
}

#endif
