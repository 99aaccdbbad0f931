// Rows are independent: drivers split them over the threads.
#include "quantize/quantize.h"

#define SKIP(...)
#define HSSL_KERNEL(family, symbol, isa, ...) HSSL_ROW_##family(symbol, isa)
#define ENTRY(symbol, isa) [HSSL_ISA_##isa] = {symbol},

#define HSSL_ROW_quantize_rows ENTRY
#define HSSL_ROW_quantize_rows_f16 SKIP
#define HSSL_ROW_quantize_rows_alike SKIP
#define HSSL_ROW_quantize_row_stochastic SKIP
#define HSSL_ROW_quantize_columns SKIP
#define HSSL_ROW_largest_of_rows SKIP
#define HSSL_ROW_dequantize_row SKIP
#define HSSL_ROW_count_codes SKIP
static const struct { hssl_quantize_rows_fn *kernel; } nearest_rows[HSSL_ISA_COUNT] = {
#include "quantize/kernels.inc"
};
#undef HSSL_ROW_quantize_rows
#undef HSSL_ROW_quantize_rows_f16
#define HSSL_ROW_quantize_rows SKIP
#define HSSL_ROW_quantize_rows_f16 ENTRY
static const struct { hssl_quantize_rows_f16_fn *kernel; } nearest_f16_rows[HSSL_ISA_COUNT] = {
#include "quantize/kernels.inc"
};
#undef HSSL_ROW_quantize_rows_f16
#undef HSSL_ROW_quantize_rows_alike
#define HSSL_ROW_quantize_rows_f16 SKIP
#define HSSL_ROW_quantize_rows_alike ENTRY
static const struct { hssl_quantize_rows_alike_fn *kernel; } alike_rows[HSSL_ISA_COUNT] = {
#include "quantize/kernels.inc"
};
#undef HSSL_ROW_quantize_rows_alike
#undef HSSL_ROW_quantize_row_stochastic
#define HSSL_ROW_quantize_rows_alike SKIP
#define HSSL_ROW_quantize_row_stochastic ENTRY
static const struct { hssl_quantize_row_stochastic_fn *kernel; } stochastic_rows[HSSL_ISA_COUNT] = {
#include "quantize/kernels.inc"
};
#undef HSSL_ROW_quantize_row_stochastic
#undef HSSL_ROW_quantize_columns
#define HSSL_ROW_quantize_row_stochastic SKIP
#define HSSL_ROW_quantize_columns ENTRY
static const struct { hssl_quantize_columns_fn *kernel; } column_rows[HSSL_ISA_COUNT] = {
#include "quantize/kernels.inc"
};
#undef HSSL_ROW_quantize_columns
#undef HSSL_ROW_largest_of_rows
#define HSSL_ROW_quantize_columns SKIP
#define HSSL_ROW_largest_of_rows ENTRY
static const struct { hssl_largest_of_rows_fn *kernel; } largest_rows[HSSL_ISA_COUNT] = {
#include "quantize/kernels.inc"
};
#undef HSSL_ROW_largest_of_rows
#undef HSSL_ROW_dequantize_row
#define HSSL_ROW_largest_of_rows SKIP
#define HSSL_ROW_dequantize_row ENTRY
static const struct { hssl_dequantize_row_fn *kernel; } dequantize_rows[HSSL_ISA_COUNT] = {
#include "quantize/kernels.inc"
};
#undef HSSL_ROW_dequantize_row
#undef HSSL_ROW_count_codes
#define HSSL_ROW_dequantize_row SKIP
#define HSSL_ROW_count_codes ENTRY
static const struct { hssl_count_codes_fn *kernel; } count_rows[HSSL_ISA_COUNT] = {
#include "quantize/kernels.inc"
};

hssl_quantize_columns_fn *hssl_select_quantize_columns(void) { return HSSL_SELECT_ROW(column_rows)->kernel; }
hssl_largest_of_rows_fn *hssl_select_largest_of_rows(void) { return HSSL_SELECT_ROW(largest_rows)->kernel; }

static void nearest(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, uint8_t zero, uint8_t *codes,
                    ptrdiff_t ldq, float *scale) {
    hssl_quantize_rows_fn *const kernel = HSSL_SELECT_ROW(nearest_rows)->kernel;
    const int team = hssl_team(16.0 * (double)rows * (double)K);
    HSSL_TEAM(team, part, {
        const ptrdiff_t r = hssl_split(rows, team, part), end = hssl_split(rows, team, part + 1);
        kernel(end - r, K, x + r * ldx, ldx, zero, codes + r * ldq, ldq, scale + r);
    });
}

static void dequantize(ptrdiff_t rows, ptrdiff_t K, const uint8_t *codes, uint8_t flip, ptrdiff_t ldq,
                       const float *scale, float *y, ptrdiff_t ldy) {
    hssl_dequantize_row_fn *const kernel = HSSL_SELECT_ROW(dequantize_rows)->kernel;
    const int team = hssl_team(8.0 * (double)rows * (double)K);
    HSSL_TEAM(team, part, {
        for (ptrdiff_t r = hssl_split(rows, team, part); r < hssl_split(rows, team, part + 1); ++r) kernel(
            K, codes + r * ldq, flip, scale[r], y + r * ldy);
    });
}

void hssl_quantize_rows_u8(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, uint8_t zero, uint8_t *codes,
                           ptrdiff_t ldq, float *scale) {
    nearest(rows, K, x, ldx, zero, codes, ldq, scale);
}

void hssl_quantize_rows_f16_u8(ptrdiff_t rows, ptrdiff_t K, const uint16_t *x, ptrdiff_t ldx, uint8_t zero,
                               uint8_t *codes, ptrdiff_t ldq, float *scale) {
    hssl_quantize_rows_f16_fn *const kernel = HSSL_SELECT_ROW(nearest_f16_rows)->kernel;
    const int team = hssl_team(16.0 * (double)rows * (double)K);
    HSSL_TEAM(team, part, {
        const ptrdiff_t r = hssl_split(rows, team, part), end = hssl_split(rows, team, part + 1);
        kernel(end - r, K, x + r * ldx, ldx, zero, codes + r * ldq, ldq, scale + r);
    });
}

void hssl_quantize_rows_alike_u8(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, float largest,
                                 uint8_t zero, uint8_t *codes, ptrdiff_t ldq, float *scale) {
    hssl_quantize_rows_alike_fn *const kernel = HSSL_SELECT_ROW(alike_rows)->kernel;
    const int team = hssl_team(8.0 * (double)rows * (double)K);
    HSSL_TEAM(team, part, {
        const ptrdiff_t r = hssl_split(rows, team, part), end = hssl_split(rows, team, part + 1);
        kernel(end - r, K, x + r * ldx, ldx, largest, zero, codes + r * ldq, ldq, scale + r);
    });
}

void hssl_quantize_rows_s8(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, int8_t *codes, ptrdiff_t ldq,
                           float *scale) {
    nearest(rows, K, x, ldx, 0, (uint8_t *)codes, ldq, scale);
}

void hssl_quantize_rows_u8_stochastic(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx,
                                      const float *column_scale, uint64_t key, uint8_t *codes, ptrdiff_t ldq,
                                      float *scale) {
    hssl_quantize_row_stochastic_fn *const kernel = HSSL_SELECT_ROW(stochastic_rows)->kernel;
    const int team = hssl_team(64.0 * (double)rows * (double)K);
    HSSL_TEAM(team, part, {
        for (ptrdiff_t r = hssl_split(rows, team, part); r < hssl_split(rows, team, part + 1); ++r) scale[r] = kernel(
            K, x + r * ldx, column_scale, key, (uint64_t)r, codes + r * ldq, ldq);
    });
}

void hssl_dequantize_rows_u8(ptrdiff_t rows, ptrdiff_t K, const uint8_t *codes, ptrdiff_t ldq, const float *scale,
                             float *y, ptrdiff_t ldy) {
    dequantize(rows, K, codes, 0x80, ldq, scale, y, ldy);
}

void hssl_dequantize_rows_s8(ptrdiff_t rows, ptrdiff_t K, const int8_t *codes, ptrdiff_t ldq, const float *scale,
                             float *y, ptrdiff_t ldy) {
    dequantize(rows, K, (const uint8_t *)codes, 0, ldq, scale, y, ldy);
}

void hssl_count_codes_u8(ptrdiff_t rows, ptrdiff_t K, const uint8_t *codes, ptrdiff_t ldq, int32_t *saturated,
                         int32_t *zeros) {
    hssl_count_codes_fn *const kernel = HSSL_SELECT_ROW(count_rows)->kernel;
    const int team = hssl_team(2.0 * (double)rows * (double)K);
    HSSL_TEAM(team, part, {
        for (ptrdiff_t r = hssl_split(rows, team, part); r < hssl_split(rows, team, part + 1); ++r) kernel(
            K, codes + r * ldq, saturated + r, zeros + r);
    });
}
