// The output stage of a tile, for one vector width (see base/vector.h): value (+ old C) → + bias → preactivation → GELU → + residual → C.
// Included once by each ISA file; defines the two stage functions under the names given by HSSL_OUTPUT_F32 and HSSL_OUTPUT_S32.
#include "base/gelu.h"
#include "gemm/gemm.h"

// One vector of C. `n` lanes are real; the caller passes the constant HSSL_WIDTH for whole vectors so that the partial path folds away.
HSSL_INLINE void hssl_output_vector(hssl_vf value, ptrdiff_t r, ptrdiff_t c, ptrdiff_t n, const hssl_gemm_target *t) {
#define LOAD(p) (n == HSSL_WIDTH ? hssl_load(p) : hssl_load_first(p, n))
#define STORE(p, v) (n == HSSL_WIDTH ? hssl_store(p, v) : hssl_store_first(p, v, n))
    float *const out = t->c + r * t->ldc + c;
    if (t->accumulate) value = value + LOAD(out);
    if (t->bias) value = value + LOAD(t->bias + c);
    if (t->preactivation) STORE(t->preactivation + r * t->ldc + c, value);
    if (t->gelu) value = hssl_gelu_vector(value);
    if (t->residual) value = value + LOAD(t->residual + r * t->ld_residual + c);
    STORE(out, value);
}

void HSSL_OUTPUT_F32(ptrdiff_t rows, ptrdiff_t columns, const float *tile, const hssl_gemm_target *target) {
    const ptrdiff_t whole = columns / HSSL_WIDTH * HSSL_WIDTH;
    for (ptrdiff_t r = 0; r < rows; ++r) {
        for (ptrdiff_t c = 0; c < whole; c += HSSL_WIDTH) hssl_output_vector(hssl_load(tile + r * PANEL + c), r, c, HSSL_WIDTH, target);
        if (whole < columns) hssl_output_vector(hssl_load(tile + r * PANEL + whole), r, whole, columns - whole, target);
    }
}

void HSSL_OUTPUT_S32(ptrdiff_t rows, ptrdiff_t columns, const int32_t *tile, const hssl_gemm_target *target) {
    for (ptrdiff_t r = 0; r < rows; ++r) {
        const hssl_vf a_scale = hssl_splat(target->a_scale[r]);
        for (ptrdiff_t c = 0; c < columns; c += HSSL_WIDTH) {
            hssl_vi sum;
            memcpy(&sum, tile + r * PANEL + c, sizeof sum);
            hssl_vf value = __builtin_convertvector(sum, hssl_vf);
            const ptrdiff_t n = columns - c;
            if (n >= HSSL_WIDTH) {
                value = value * (target->b_scale ? a_scale * hssl_load(target->b_scale + c) : a_scale);
                hssl_output_vector(value, r, c, HSSL_WIDTH, target);
            } else {
                value = value * (target->b_scale ? a_scale * hssl_load_first(target->b_scale + c, n) : a_scale);
                hssl_output_vector(value, r, c, n, target);
            }
        }
    }
}
#undef LOAD
#undef STORE
