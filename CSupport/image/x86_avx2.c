// The AVX2 row of the image family.
#if defined(__x86_64__)
#include "base/base.h"
#include "image/image.h"
#include <string.h>

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX2))), apply_to = function)
// 16-lane vectors only travel through inlined functions.
#pragma clang diagnostic ignored "-Wpsabi"
#define HSSL_ROW hssl_image__avx2
#include "image/color.inc"
#include "image/body.inc"
#pragma clang attribute pop
#endif
