// Internal contract of the quantize family. One body (body.inc) is compiled once an ISA; every row gives the same
// bytes.
//
// Symmetric: scale = max|x| / 127, code = clamp(round(x · (127 / max|x|)), ±127). A row whose maximum is below
// 127·FLT_MIN counts as all zero (127 / max would overflow). The maximum is taken on the bits of |x|, so a NaN or
// infinity in a row makes its scale non-finite: a bad activation stays visible after dequantisation.
//
// With a zero z from 2 to 254: codes 1 … 255 are −(z − 1) … 255 − z steps, and the scale is the least whose steps hold
// both the largest and the least element: largest = max(max x, −min x · (255 − z) / (z − 1)),
// scale = largest / (255 − z), the rest as above. With 128 that is symmetric.
//
// Stochastic rounding: element k of row r takes its word of stream r (base/philox_vector.h), top 24 bits, as u in [0,
// 1).
#ifndef HSSL_QUANTIZE_H
#define HSSL_QUANTIZE_H

#include "base/base.h"

/// codes[r, k] = zero + steps of x[r, k], or symmetric s8 codes where zero is 0; bytes K ..< ldq of a row are set to
/// zero.
typedef void hssl_quantize_rows_fn(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, uint8_t zero,
                                   uint8_t *codes, ptrdiff_t ldq, float *scale);
/// The same of binary16: the codes and scales of the widened row.
typedef void hssl_quantize_rows_f16_fn(ptrdiff_t rows, ptrdiff_t K, const uint16_t *x, ptrdiff_t ldx, uint8_t zero,
                                       uint8_t *codes, ptrdiff_t ldq, float *scale);
/// The same of rows that share one scale, that of `largest` above; no element asks for more.
typedef void hssl_quantize_rows_alike_fn(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, float largest,
                                         uint8_t zero, uint8_t *codes, ptrdiff_t ldq, float *scale);
/// One row as by the first (zero 128) with stochastic rounding of x · column_scale (NULL: 1). Returns the scale.
typedef float hssl_quantize_row_stochastic_fn(ptrdiff_t K, const float *x, const float *column_scale, uint64_t key,
                                              uint64_t row, uint8_t *codes, ptrdiff_t ldq);
/// Columns of x · row_scale, each with a scale of its own, transposed: codes[c, r] (zero 128) of row order[r] and
/// column c; bytes rows … rows rounded up to 4 of a column are 128. At most HSSL_QUANTIZE_COLUMN_ROWS rows.
typedef void hssl_quantize_columns_fn(ptrdiff_t rows, ptrdiff_t columns, const int32_t *order, const float *x,
                                      ptrdiff_t ldx, const float *row_scale, uint8_t *codes, ptrdiff_t ldq,
                                      float *scale);
/// The largest |x| of every row; NaN counts as larger than infinity.
typedef void hssl_largest_of_rows_fn(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, float *largest);
/// How many of K u8 codes (zero 128) are ±127, and how many are 0.
typedef void hssl_count_codes_fn(ptrdiff_t K, const uint8_t *codes, int32_t *saturated, int32_t *zeros);
typedef void hssl_dequantize_row_fn(ptrdiff_t K, const uint8_t *codes, uint8_t flip, float scale, float *y);

enum { HSSL_QUANTIZE_COLUMN_ROWS = 128 };

#define HSSL_KERNEL(family, symbol, isa, ...) hssl_##family##_fn symbol;
#include "quantize/kernels.inc"
#undef HSSL_KERNEL
hssl_quantize_columns_fn *hssl_select_quantize_columns(void);
hssl_largest_of_rows_fn *hssl_select_largest_of_rows(void);

#endif
