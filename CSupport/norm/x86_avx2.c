// The AVX2 and FMA row of the norm family.
#if defined(__x86_64__)
#include "base/base.h"
#include "norm/norm.h"
#include <immintrin.h>
#include <math.h>
#include <string.h>

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX2))), apply_to = function)
#define HSSL_WIDTH 8
#define HSSL_ROW hssl_norm__avx2
#include "elementwise/vector.inc"
#include "norm/body.inc"
#pragma clang attribute pop
#endif
