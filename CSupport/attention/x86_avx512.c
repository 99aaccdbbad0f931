// The AVX-512 (F, BW, VL, DQ) row of the attention family.
#if defined(__x86_64__)
#include "base/base.h"
#include "attention/integers.h"
#include <immintrin.h>
#include <math.h>

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX512))), apply_to = function)
#define HSSL_WIDTH 16
#define HSSL_ROW hssl_attention__avx512
#include "elementwise/vector.inc"
#include "attention/body.inc"
#include "attention/x86_integers.inc"
#pragma clang attribute pop
#endif
