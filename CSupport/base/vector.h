// Vectors of HSSL_WIDTH lanes by clang's vector extensions, so that one body serves every ISA. An ISA file defines
// HSSL_WIDTH (4 scalar, 8 AVX2, 16 AVX-512) and includes this *inside* its attribute region: the inline functions must
// take the target. Lanes never mix, so a body gives the same bits at any width.
#ifndef HSSL_VECTOR_H
#define HSSL_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef HSSL_WIDTH
#error "define HSSL_WIDTH before including base/vector.h"
#endif

#define HSSL_INLINE static inline __attribute__((always_inline, unused))
/// Before a loop: it begins a cache line of code. Elsewhere the same instructions of an int8 tile took 5 % longer (Zen
/// 3).
#define HSSL_ALIGNED_LOOP [[clang::code_align(64)]]

typedef float hssl_vf __attribute__((vector_size(4 * HSSL_WIDTH)));
typedef int32_t hssl_vi __attribute__((vector_size(4 * HSSL_WIDTH)));
typedef uint32_t hssl_vu __attribute__((vector_size(4 * HSSL_WIDTH)));
typedef uint8_t hssl_vb __attribute__((vector_size(HSSL_WIDTH)));

HSSL_INLINE hssl_vf hssl_load(const float *p) {
    hssl_vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
HSSL_INLINE void hssl_store(float *p, hssl_vf v) { memcpy(p, &v, sizeof v); }

/// The first n < HSSL_WIDTH lanes; the others are 0. Touches no byte beyond them.
HSSL_INLINE hssl_vf hssl_load_first(const float *p, ptrdiff_t n) {
    hssl_vf v = {0};
    for (int i = 0; i < HSSL_WIDTH; ++i) if (i < n) v[i] = p[i];
    return v;
}
HSSL_INLINE void hssl_store_first(float *p, hssl_vf v, ptrdiff_t n) {
    for (int i = 0; i < HSSL_WIDTH; ++i) if (i < n) p[i] = v[i];
}

HSSL_INLINE hssl_vf hssl_splat(float x) { return x - (hssl_vf){0}; }
HSSL_INLINE hssl_vf hssl_fma(hssl_vf a, hssl_vf b, hssl_vf c) { return __builtin_elementwise_fma(a, b, c); }
/// Lanes of `a` where the mask is -1, of `b` where it is 0.
HSSL_INLINE hssl_vf hssl_pick(hssl_vi mask, hssl_vf a, hssl_vf b) {
    return (hssl_vf)(((hssl_vi)a & mask) | ((hssl_vi)b & ~mask));
}
/// A NaN in x gives `low` (clamp) — the form that maps to one MAXPS and one MINPS.
HSSL_INLINE hssl_vf hssl_clamp(hssl_vf x, float low, float high) {
    const hssl_vf l = hssl_splat(low), h = hssl_splat(high);
    x = hssl_pick(x > l, x, l);
    return hssl_pick(x < h, x, h);
}

#endif
