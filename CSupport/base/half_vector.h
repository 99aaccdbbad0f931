// Vectors of binary16 for a body of any width: include inside the attribute region, after base/vector.h (and
// <immintrin.h> for widths of 8 and 16).
#ifndef HSSL_HALF_VECTOR_H
#define HSSL_HALF_VECTOR_H

#include "base/half.h"

#if HSSL_WIDTH > 4 && defined(__x86_64__)
#include "base/x86_half.h"
#else
HSSL_INLINE hssl_vf hssl_load_half(const uint16_t *p) {
    hssl_vf v;
    for (int i = 0; i < HSSL_WIDTH; ++i) v[i] = hssl_float_from_half(p[i]);
    return v;
}

/// Toward zero, so that nothing finite becomes infinite; infinities and NaN stay.
HSSL_INLINE void hssl_store_half(uint16_t *p, hssl_vf v) {
    for (int i = 0; i < HSSL_WIDTH; ++i) p[i] = hssl_half_toward_zero(v[i]);
}
#endif

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
