// Vectors of binary16 for a body of any width: include inside the attribute region, after base/vector.h (and <immintrin.h> for widths of 8 and 16).
#ifndef HSSL_HALF_VECTOR_H
#define HSSL_HALF_VECTOR_H

#include "base/half.h"

HSSL_INLINE hssl_vf hssl_load_half(const uint16_t *p) {
#if HSSL_WIDTH == 16
    return (hssl_vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif HSSL_WIDTH == 8
    return (hssl_vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    hssl_vf v;
    for (int i = 0; i < HSSL_WIDTH; ++i) v[i] = hssl_float_from_half(p[i]);
    return v;
#endif
}

/// Toward zero, so that nothing finite becomes infinite; infinities and NaN stay.
HSSL_INLINE void hssl_store_half(uint16_t *p, hssl_vf v) {
#if HSSL_WIDTH == 16
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_ZERO));
#elif HSSL_WIDTH == 8
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_ZERO));
#else
    for (int i = 0; i < HSSL_WIDTH; ++i) p[i] = hssl_half_toward_zero(v[i]);
#endif
}

/// The first n < HSSL_WIDTH lanes, as hssl_load_first and hssl_store_first have them.
HSSL_INLINE hssl_vf hssl_load_first_half(const uint16_t *p, ptrdiff_t n) {
    uint16_t lanes[HSSL_WIDTH] = {0};
    for (int i = 0; i < HSSL_WIDTH; ++i) if (i < n) lanes[i] = p[i];
    return hssl_load_half(lanes);
}
HSSL_INLINE void hssl_store_first_half(uint16_t *p, hssl_vf v, ptrdiff_t n) {
    uint16_t lanes[HSSL_WIDTH];
    hssl_store_half(lanes, v);
    for (int i = 0; i < HSSL_WIDTH; ++i) if (i < n) p[i] = lanes[i];
}

#endif
