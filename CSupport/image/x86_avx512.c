// The AVX512 row of the image family.
#if defined(__x86_64__)
#include "base/base.h"
#include "image/image.h"
#include <string.h>

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX512))), apply_to = function)
#define HSSL_ROW hssl_image__avx512
#include "image/color.inc"
#include "image/body.inc"
#pragma clang attribute pop
#endif
