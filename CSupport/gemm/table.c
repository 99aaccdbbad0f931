// One dispatch table a family, indexed by ISA, filled by the rows of kernels.inc.
#include "gemm/gemm.h"

// Each table takes the rows of one family and skips the others: HSSL_ROW_<family> is ENTRY for that one and SKIP for
// the rest.
#define HSSL_KERNEL(family, symbol, isa, ...) HSSL_ROW_##family(symbol, isa, __VA_ARGS__)
#define ENTRY(symbol, isa, height, width, ...) \
    [HSSL_ISA_##isa] = {.kernel = symbol, .mr = height, .nr = width, __VA_ARGS__},
#define SKIP(...)

#define HSSL_ROW_gemm_f32 SKIP
#define HSSL_ROW_gemm_u8s8 SKIP
#define HSSL_ROW_gemm_output_f32 SKIP
#define HSSL_ROW_gemm_output_s32 SKIP
#define HSSL_ROW_peak_f32 SKIP
#define HSSL_ROW_peak_u8s8 SKIP

#undef HSSL_ROW_gemm_f32
#define HSSL_ROW_gemm_f32 ENTRY
static const hssl_gemm_f32_row f32_rows[HSSL_ISA_COUNT] = {
#include "gemm/kernels.inc"
};
#undef HSSL_ROW_gemm_f32
#define HSSL_ROW_gemm_f32 SKIP

#undef HSSL_ROW_gemm_u8s8
#define HSSL_ROW_gemm_u8s8 ENTRY
static const hssl_gemm_u8s8_row u8s8_rows[HSSL_ISA_COUNT] = {
#include "gemm/kernels.inc"
};
#undef HSSL_ROW_gemm_u8s8
#define HSSL_ROW_gemm_u8s8 SKIP

#undef HSSL_ROW_gemm_output_f32
#define HSSL_ROW_gemm_output_f32 ENTRY
static const struct { hssl_gemm_output_f32_fn *kernel; ptrdiff_t mr, nr; } output_f32_rows[HSSL_ISA_COUNT] = {
#include "gemm/kernels.inc"
};
#undef HSSL_ROW_gemm_output_f32
#define HSSL_ROW_gemm_output_f32 SKIP

#undef HSSL_ROW_gemm_output_s32
#define HSSL_ROW_gemm_output_s32 ENTRY
static const struct { hssl_gemm_output_s32_fn *kernel; ptrdiff_t mr, nr; } output_s32_rows[HSSL_ISA_COUNT] = {
#include "gemm/kernels.inc"
};
#undef HSSL_ROW_gemm_output_s32
#define HSSL_ROW_gemm_output_s32 SKIP

#undef HSSL_ROW_peak_f32
#define HSSL_ROW_peak_f32 ENTRY
static const struct { hssl_peak_f32_fn *kernel; ptrdiff_t mr, nr; } peak_f32_rows[HSSL_ISA_COUNT] = {
#include "gemm/kernels.inc"
};
#undef HSSL_ROW_peak_f32
#define HSSL_ROW_peak_f32 SKIP

#undef HSSL_ROW_peak_u8s8
#define HSSL_ROW_peak_u8s8 ENTRY
static const struct { hssl_peak_u8s8_fn *kernel; ptrdiff_t mr, nr; } peak_u8s8_rows[HSSL_ISA_COUNT] = {
#include "gemm/kernels.inc"
};
#undef HSSL_ROW_peak_u8s8
#define HSSL_ROW_peak_u8s8 SKIP

const hssl_gemm_f32_row *hssl_gemm_select_f32(void) { return HSSL_SELECT_ROW(f32_rows); }
const hssl_gemm_u8s8_row *hssl_gemm_select_u8s8(void) { return HSSL_SELECT_ROW(u8s8_rows); }
hssl_gemm_output_f32_fn *hssl_gemm_select_output_f32(void) { return HSSL_SELECT_ROW(output_f32_rows)->kernel; }
hssl_gemm_output_s32_fn *hssl_gemm_select_output_s32(void) { return HSSL_SELECT_ROW(output_s32_rows)->kernel; }
hssl_peak_f32_fn *hssl_gemm_select_peak_f32(void) { return HSSL_SELECT_ROW(peak_f32_rows)->kernel; }
hssl_peak_u8s8_fn *hssl_gemm_select_peak_u8s8(void) { return HSSL_SELECT_ROW(peak_u8s8_rows)->kernel; }

hssl_gemm_target hssl_gemm_target_at(ptrdiff_t m, ptrdiff_t n, float *c, ptrdiff_t ldc, bool accumulate,
                                     const hssl_gemm_output *output) {
    hssl_gemm_target target = {.c = c ? c + m * ldc + n : NULL, .ldc = ldc, .accumulate = accumulate};
    if (!output) return target;
    if (output->bias) target.bias = output->bias + n;
    if (output->preactivation) target.preactivation = output->preactivation + m * ldc + n;
    if (output->residual) target.residual = output->residual + m * output->ld_residual + n;
    target.ld_residual = output->ld_residual;
    target.activation = output->activation;
    return target;
}

ptrdiff_t hssl_gemm_row_block(ptrdiff_t M, ptrdiff_t mr, ptrdiff_t panels, int team) {
    ptrdiff_t blocks = hssl_ceil_div(M, ROW_BLOCK);
    const ptrdiff_t wanted = hssl_ceil_div(2 * team, panels);
    if (blocks < wanted) blocks = hssl_min(wanted, hssl_ceil_div(M, mr));
    return hssl_round_up(hssl_ceil_div(M, blocks), mr);
}
