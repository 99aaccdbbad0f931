// A table of 16 floats in registers, for vectors of 8 and 16 lanes.
#ifndef HSSL_X86_LOOKUP_H
#define HSSL_X86_LOOKUP_H

#include "base/vector.h"

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
