// IEEE binary16, one value at a time: round to nearest even; NaN payloads keep their top bits and become quiet, as F16C
// does.
#ifndef HSSL_HALF_H
#define HSSL_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint16_t hssl_half_from_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return (uint16_t)(sign | 0x7E00 | (magnitude >> 13 & 0x3FF));
    if (magnitude >= 0x477FF000) return sign | 0x7C00;  // ≥ 65520 rounds to infinity
    if (magnitude < 0x33000001) return sign;            // ≤ 2⁻²⁵ rounds to zero
    uint32_t kept, rest, halfway;
    if (magnitude < 0x38800000) {  // subnormal: units of 2⁻²⁴
        const uint32_t shift = 126 - (magnitude >> 23);
        const uint32_t mantissa = (magnitude & 0x7FFFFF) | 0x800000;
        kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), halfway = 1u << (shift - 1);
    } else {
        kept = (magnitude - 0x38000000) >> 13, rest = magnitude & 0x1FFF, halfway = 0x1000;
    }
    kept += rest > halfway || (rest == halfway && (kept & 1));  // a carry into the exponent is right
    return (uint16_t)(sign | kept);
}

static inline float hssl_float_from_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t exponent = half >> 10 & 0x1F, mantissa = half & 0x3FF;
    uint32_t bits;
    if (exponent == 0x1F) {
        bits = sign | 0x7F800000 | mantissa << 13 | (mantissa ? 0x400000 : 0);
    } else if (exponent == 0) {
        const float magnitude = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &magnitude, 4);
        bits |= sign;
    } else {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    }
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/// Toward zero: nothing finite becomes infinite.
static inline uint16_t hssl_half_toward_zero(float value) {
    const uint16_t nearest = hssl_half_from_float(value);
    const float widened = hssl_float_from_half(nearest);
    // One binary16 closer to zero is one less, whatever the sign; infinity − 1 is the largest finite one.
    return (value > 0 && widened > value) || (value < 0 && widened < value) ? nearest - 1 : nearest;
}

#endif
