// The conversions of half_vector.h by F16C and AVX-512, for an HSSL_WIDTH of 8 or 16. Included by it.
#ifndef HSSL_X86_HALF_H
#define HSSL_X86_HALF_H

#include <immintrin.h>

#if HSSL_WIDTH == 16
HSSL_INLINE hssl_vf hssl_load_half(const uint16_t *p) {
    return (hssl_vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
HSSL_INLINE void hssl_store_half(uint16_t *p, hssl_vf v) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_ZERO));
}
#else
HSSL_INLINE hssl_vf hssl_load_half(const uint16_t *p) {
    return (hssl_vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
HSSL_INLINE void hssl_store_half(uint16_t *p, hssl_vf v) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_ZERO));
}
#endif

#endif
