// Internal contract of the quantize family. One body (body.inc) is compiled once an ISA; every row gives the same
// bytes.
//
// scale = max|x| / 127, code = clamp(round(x · (127 / max|x|)), ±127). A row whose maximum is below 127·FLT_MIN counts
// as all zero (127 / max would overflow). The maximum is taken on the bits of |x|, so a NaN or infinity in a row makes
// its scale non-finite:
// a bad activation stays visible after dequantisation.
//
// Stochastic rounding: element k of row r takes its word of stream r (base/philox_vector.h), top 24 bits, as u in [0,
// 1).
#ifndef HSSL_QUANTIZE_H
#define HSSL_QUANTIZE_H

#include "base/base.h"

/// codes[r, k] = (s8 code of x[r, k]) ^ flip, flip 0x80 (u8) or 0 (s8); bytes K ..< ldq of a row are set to flip.
typedef void hssl_quantize_rows_fn(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, uint8_t flip,
                                   uint8_t *codes, ptrdiff_t ldq, float *scale);
/// The same of binary16: the codes and scales of the widened row.
typedef void hssl_quantize_rows_f16_fn(ptrdiff_t rows, ptrdiff_t K, const uint16_t *x, ptrdiff_t ldx, uint8_t flip,
                                       uint8_t *codes, ptrdiff_t ldq, float *scale);
/// One row as by the first (flip 0x80) with stochastic rounding of x · column_scale (NULL: 1). Returns the scale.
typedef float hssl_quantize_row_stochastic_fn(ptrdiff_t K, const float *x, const float *column_scale, uint64_t key,
                                              uint64_t row, uint8_t *codes, ptrdiff_t ldq);
/// How many of K u8 codes (flip 0x80) are ±127, and how many are 0.
typedef void hssl_count_codes_fn(ptrdiff_t K, const uint8_t *codes, int32_t *saturated, int32_t *zeros);
typedef void hssl_dequantize_row_fn(ptrdiff_t K, const uint8_t *codes, uint8_t flip, float scale, float *y);

#define HSSL_KERNEL(family, symbol, isa, ...) hssl_##family##_fn symbol;
#include "quantize/kernels.inc"
#undef HSSL_KERNEL

#endif
