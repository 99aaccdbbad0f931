// The output stage of a tile, for one vector width (see base/vector.h): value (+ old C) → + bias → preactivation →
// activation → + residual → C. Included once by each ISA file; defines the two stage functions under the names given by
// HSSL_OUTPUT_F32 and HSSL_OUTPUT_S32, if they are. HSSL_TILE_COLUMNS is the NR of the file's kernels, a whole panel if
// it says nothing.
#include "base/gelu.h"
#include "base/half_vector.h"
#include "gemm/gemm.h"

HSSL_INLINE hssl_vf hssl_output_scaled(hssl_vi sum, float a_scale, hssl_vf b_scale) {
    return __builtin_convertvector(sum, hssl_vf) * (hssl_splat(a_scale) * b_scale);
}

HSSL_INLINE hssl_vf hssl_output_activated(hssl_activation activation, hssl_vf value) {
    switch (activation) {
    case HSSL_ACTIVATION_NONE: break;
    case HSSL_ACTIVATION_GELU: return hssl_gelu_vector(value);
    case HSSL_ACTIVATION_GELU_COARSE: return hssl_gelu_coarse_vector(value);
    }
    return value;
}

/// A whole vector, at row r and column c of a tile, through a stage that hssl_gemm_can_pipeline allows.
HSSL_INLINE void hssl_output_pipelined(bool half, hssl_activation activation, bool residual, hssl_vf value, ptrdiff_t r,
                                       ptrdiff_t c, const hssl_gemm_target *t) {
    value = hssl_output_activated(activation, value + hssl_load(t->bias + c));
    if (residual) value = value + hssl_load(t->residual + r * t->ld_residual + c);
    if (half) hssl_store_half(t->half + r * t->ldc + c, value);
    else hssl_store(t->c + r * t->ldc + c, value);
}

#if defined(HSSL_OUTPUT_F32)
#if !defined(HSSL_TILE_COLUMNS)
#define HSSL_TILE_COLUMNS PANEL
#endif

// One vector of columns, all rows. What is constant after inlining costs nothing a vector: `whole` (all lanes are real,
// else the first `n`), `integers` (an int32 tile), `half` (C is binary16), `training` (C may be accumulated to, the
// preactivation stored), activation and residual.
HSSL_INLINE void hssl_output_column(bool whole, bool integers, bool half, bool training, hssl_activation activation,
                                    bool residual, ptrdiff_t rows, ptrdiff_t c, ptrdiff_t n, const char *tile,
                                    const hssl_gemm_target *target) {
#define LOAD(p) (whole ? hssl_load(p) : hssl_load_first(p, n))
#define STORE(p, v) (whole ? hssl_store(p, v) : hssl_store_first(p, v, n))
    const hssl_gemm_target t = *target;  // a copy that no store can alias
    const hssl_vf bias = t.bias ? LOAD(t.bias + c) : hssl_splat(0),
        b_scale = integers && t.b_scale ? LOAD(t.b_scale + c) : hssl_splat(1);
    HSSL_ALIGNED_LOOP for (ptrdiff_t r = 0; r < rows; ++r) {
        const char *const in = tile + (r * HSSL_TILE_COLUMNS + c) * 4;
        hssl_vf value;
        if (integers) {
            hssl_vi sum;
            memcpy(&sum, in, sizeof sum);
            value = hssl_output_scaled(sum, t.a_scale[r], b_scale);
        } else {
            memcpy(&value, in, sizeof value);
        }
        if (training && t.accumulate) value = value + LOAD(t.c + r * t.ldc + c);
        if (t.bias) value = value + bias;
        if (training && t.preactivation) STORE(t.preactivation + r * t.ldc + c, value);
        value = hssl_output_activated(activation, value);
        if (residual) value = value + LOAD(t.residual + r * t.ld_residual + c);
        if (!half) STORE(t.c + r * t.ldc + c, value);
        else if (whole) hssl_store_half(t.half + r * t.ldc + c, value);
        else hssl_store_first_half(t.half + r * t.ldc + c, value, n);
    }
#undef LOAD
#undef STORE
}

HSSL_INLINE void hssl_output_columns(bool integers, bool half, bool training, hssl_activation activation, bool residual,
                                     ptrdiff_t rows, ptrdiff_t columns, const void *tile,
                                     const hssl_gemm_target *target) {
    ptrdiff_t c = 0;
    for (; c + HSSL_WIDTH <= columns; c += HSSL_WIDTH) {
        hssl_output_column(true, integers, half, training, activation, residual, rows, c, HSSL_WIDTH, tile, target);
    }
    if (c < columns) {
        hssl_output_column(false, integers, half, training, activation, residual, rows, c, columns - c, tile, target);
    }
}

HSSL_INLINE void hssl_output_tile(bool integers, ptrdiff_t rows, ptrdiff_t columns, const void *tile,
                                  const hssl_gemm_target *target) {
    const bool training = target->accumulate || target->preactivation;
    if (integers && target->half) {
        switch (target->activation) {
            case HSSL_ACTIVATION_NONE: hssl_output_columns(true, true, false, HSSL_ACTIVATION_NONE, false, rows,
                                                           columns, tile, target); break;
            case HSSL_ACTIVATION_GELU: hssl_output_columns(true, true, false, HSSL_ACTIVATION_GELU, false, rows,
                                                           columns, tile, target); break;
            case HSSL_ACTIVATION_GELU_COARSE: hssl_output_columns(
                true, true, false, HSSL_ACTIVATION_GELU_COARSE, false, rows, columns, tile, target); break;
        }
        return;
    }
#define CASE(TRAINING, ACTIVATION, RESIDUAL) \
    hssl_output_columns(integers, false, TRAINING, ACTIVATION, RESIDUAL, rows, columns, tile, target)
    switch ((int)target->activation * 4 + training * 2 + (target->residual != NULL)) {
        case 0: CASE(false, HSSL_ACTIVATION_NONE, false); break;
        case 1: CASE(false, HSSL_ACTIVATION_NONE, true); break;
        case 2: CASE(true, HSSL_ACTIVATION_NONE, false); break;
        case 3: CASE(true, HSSL_ACTIVATION_NONE, true); break;
        case 4: CASE(false, HSSL_ACTIVATION_GELU, false); break;
        case 5: CASE(false, HSSL_ACTIVATION_GELU, true); break;
        case 6: CASE(true, HSSL_ACTIVATION_GELU, false); break;
        case 7: CASE(true, HSSL_ACTIVATION_GELU, true); break;
        case 8: CASE(false, HSSL_ACTIVATION_GELU_COARSE, false); break;
        case 9: CASE(false, HSSL_ACTIVATION_GELU_COARSE, true); break;
        case 10: CASE(true, HSSL_ACTIVATION_GELU_COARSE, false); break;
        case 11: CASE(true, HSSL_ACTIVATION_GELU_COARSE, true); break;
    }
#undef CASE
}

void HSSL_OUTPUT_F32(ptrdiff_t rows, ptrdiff_t columns, const float *tile, const hssl_gemm_target *target) {
    hssl_output_tile(false, rows, columns, tile, target);
}

void HSSL_OUTPUT_S32(ptrdiff_t rows, ptrdiff_t columns, const int32_t *tile, const hssl_gemm_target *target) {
    hssl_output_tile(true, rows, columns, tile, target);
}
#endif
