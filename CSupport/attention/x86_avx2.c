// The AVX2 and FMA row of the attention family.
#if defined(__x86_64__)
#include "base/base.h"
#include "attention/integers.h"
#include <immintrin.h>
#include <math.h>

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX2))), apply_to = function)
#define HSSL_WIDTH 8
#define HSSL_ROW hssl_attention__avx2
#include "elementwise/vector.inc"
#include "attention/body.inc"
#include "attention/x86_integers.inc"
#pragma clang attribute pop
#endif
