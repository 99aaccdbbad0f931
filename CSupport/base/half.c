// Conversions between float32 and binary16: the scalar row and the drivers.
#include "base/base.h"
#include "base/half.h"

void hssl_convert_f32_f16__scalar(ptrdiff_t n, const float *x, uint16_t *y) {
    for (ptrdiff_t i = 0; i < n; ++i) y[i] = hssl_half_from_float(x[i]);
}

void hssl_convert_f16_f32__scalar(ptrdiff_t n, const uint16_t *x, float *y) {
    for (ptrdiff_t i = 0; i < n; ++i) y[i] = hssl_float_from_half(x[i]);
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

hssl_convert_f16_f32_fn *hssl_select_convert_f16_f32(void) { return HSSL_SELECT_ROW(widen_rows)->kernel; }

void hssl_convert_f16_f32(ptrdiff_t n, const uint16_t *x, float *y) {
    hssl_convert_f16_f32_fn *const kernel = hssl_select_convert_f16_f32();
    const int team = hssl_team(8.0 * (double)n);
    HSSL_TEAM(team, part, {
        const ptrdiff_t begin = hssl_split(n, team, part), end = hssl_split(n, team, part + 1);
        kernel(end - begin, x + begin, y + begin);
    });
}
