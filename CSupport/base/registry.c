// Every row of every family. A family plugs in by having a kernels.inc in its folder; nothing else here changes.
#include "base/base.h"

#define HSSL_KERNEL(family, symbol, isa, ...) {#symbol, #family, HSSL_ISA_##isa},
static const hssl_kernel_info rows[] = {
#include "base/kernels.inc"
#include "gemm/kernels.inc"
#include "quantize/kernels.inc"
#if __has_include("attention/kernels.inc")
#include "attention/kernels.inc"
#endif
#if __has_include("conv/kernels.inc")
#include "conv/kernels.inc"
#endif
#if __has_include("elementwise/kernels.inc")
#include "elementwise/kernels.inc"
#endif
#if __has_include("image/kernels.inc")
#include "image/kernels.inc"
#endif
#if __has_include("norm/kernels.inc")
#include "norm/kernels.inc"
#endif
#if __has_include("optimizer/kernels.inc")
#include "optimizer/kernels.inc"
#endif
};
#undef HSSL_KERNEL

ptrdiff_t hssl_kernel_count(void) { return (ptrdiff_t)(sizeof rows / sizeof rows[0]); }
hssl_kernel_info hssl_kernel_at(ptrdiff_t index) { return rows[index]; }
