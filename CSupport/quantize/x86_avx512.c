#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "base/base.h"
#include "quantize/quantize.h"

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX512))), apply_to = function)
#define HSSL_WIDTH 16
#define HSSL_ISA_SUFFIX avx512
#include "quantize/body.inc"
#pragma clang attribute pop
#endif
