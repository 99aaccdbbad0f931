#if defined(__x86_64__)
#include <immintrin.h>

#include "base/base.h"

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX512))), apply_to = function)

static inline __mmask16 first(ptrdiff_t n) { return n >= 16 ? 0xFFFF : (__mmask16)((1u << n) - 1); }

void hssl_convert_f32_f16__avx512(ptrdiff_t n, const float *x, uint16_t *y) {
    for (ptrdiff_t i = 0; i < n; i += 16) {
        const __mmask16 mask = first(n - i);
        _mm256_mask_storeu_epi16(y + i, mask,
                                 _mm512_cvtps_ph(_mm512_maskz_loadu_ps(mask, x + i), _MM_FROUND_TO_NEAREST_INT));
    }
}

void hssl_convert_f16_f32__avx512(ptrdiff_t n, const uint16_t *x, float *y) {
    for (ptrdiff_t i = 0; i < n; i += 16) {
        const __mmask16 mask = first(n - i);
        _mm512_mask_storeu_ps(y + i, mask, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, x + i)));
    }
}

#pragma clang attribute pop
#endif
