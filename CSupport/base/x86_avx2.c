#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "base/base.h"

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX2))), apply_to = function)

void hssl_convert_f32_f16__avx2(ptrdiff_t n, const float *x, uint16_t *y) {
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm_storeu_si128((__m128i *)(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    }
    if (i < n) {
        float wide[8] = {0};
        uint16_t half[8];
        memcpy(wide, x + i, (size_t)(n - i) * 4);
        _mm_storeu_si128((__m128i *)half, _mm256_cvtps_ph(_mm256_loadu_ps(wide), _MM_FROUND_TO_NEAREST_INT));
        memcpy(y + i, half, (size_t)(n - i) * 2);
    }
}

void hssl_convert_f16_f32__avx2(ptrdiff_t n, const uint16_t *x, float *y) {
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + i))));
    if (i < n) {
        float wide[8];
        uint16_t half[8] = {0};
        memcpy(half, x + i, (size_t)(n - i) * 2);
        _mm256_storeu_ps(wide, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)half)));
        memcpy(y + i, wide, (size_t)(n - i) * 4);
    }
}

#pragma clang attribute pop
#endif
