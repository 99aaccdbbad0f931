// IEEE binary16: round to nearest even; NaN payloads keep their top bits and become quiet, as F16C does.
#include <string.h>

#include "base/base.h"

static uint16_t half_from_float(float value) {
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

static float float_from_half(uint16_t half) {
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

void hssl_convert_f32_f16__scalar(ptrdiff_t n, const float *x, uint16_t *y) {
    for (ptrdiff_t i = 0; i < n; ++i) y[i] = half_from_float(x[i]);
}

void hssl_convert_f16_f32__scalar(ptrdiff_t n, const uint16_t *x, float *y) {
    for (ptrdiff_t i = 0; i < n; ++i) y[i] = float_from_half(x[i]);
}

// Drivers: streaming, so parallel only for runs beyond the caches of one core.

#define HSSL_KERNEL(family, symbol, isa, ...) HSSL_ROW_##family(symbol, isa)
#define HSSL_ROW_convert_f16_f32(symbol, isa)
#define HSSL_ROW_convert_f32_f16(symbol, isa) [HSSL_ISA_##isa] = {symbol},
static const struct { hssl_convert_f32_f16_fn *kernel; } narrow_rows[HSSL_ISA_COUNT] = {
#include "base/kernels.inc"
};
#undef HSSL_ROW_convert_f16_f32
#undef HSSL_ROW_convert_f32_f16
#define HSSL_ROW_convert_f32_f16(symbol, isa)
#define HSSL_ROW_convert_f16_f32(symbol, isa) [HSSL_ISA_##isa] = {symbol},
static const struct { hssl_convert_f16_f32_fn *kernel; } widen_rows[HSSL_ISA_COUNT] = {
#include "base/kernels.inc"
};
#undef HSSL_KERNEL

void hssl_convert_f32_f16(ptrdiff_t n, const float *x, uint16_t *y) {
    hssl_convert_f32_f16_fn *const kernel = HSSL_SELECT_ROW(narrow_rows)->kernel;
    const int team = hssl_team(8.0 * (double)n);
    HSSL_TEAM(team, part, {
        const ptrdiff_t begin = hssl_split(n, team, part), end = hssl_split(n, team, part + 1);
        kernel(end - begin, x + begin, y + begin);
    });
}

void hssl_convert_f16_f32(ptrdiff_t n, const uint16_t *x, float *y) {
    hssl_convert_f16_f32_fn *const kernel = HSSL_SELECT_ROW(widen_rows)->kernel;
    const int team = hssl_team(8.0 * (double)n);
    HSSL_TEAM(team, part, {
        const ptrdiff_t begin = hssl_split(n, team, part), end = hssl_split(n, team, part + 1);
        kernel(end - begin, x + begin, y + begin);
    });
}
