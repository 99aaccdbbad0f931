// Internal contract of the gemm family. README.md says why; this file says what.
//
// Packed B: panels of PANEL = 64 columns, the same on every ISA, so that packed weights outlive a change of row.
//
//   f32, f16 (elements):  panel 0: k=0: n 0…63 │ k=1: n 0…63 │ … │ k=K-1
//                         panel 1: …                                          Columns N… of the last panel are 0.
//   u8s8 (bytes):         panel 0: int32 start[64] = −zero·Σ_k B(k, n)
//                                  int32 start_signed[64] = (128 − zero)·Σ_k B(k, n)
//                                  k 0…3: (n0: k0 k1 k2 k3)(n1: k0 k1 k2 k3)…(n63: …) │ k 4…7: … │ …,
//                                  K rounded up to 4
//                         panel 1: …                                          Rows K… and columns N… are 0.
//
// Zero point: the code `zero` of A stands for 0, so the product is Σ(A − zero)·B = Σ A·B + start
// = Σ(A − 128)·B + start_signed. A kernel may use either side of that equation: the int32 are equal. `zero` is the
// packed weight's: one for all that is multiplied with it, 128 where codes are symmetric. Codes are in 1 … 255,
// those of B in [−127, 127], and K ≤ 65536, so no int32 accumulator overflows.
//
// Tile: a kernel fills an MR × NR scratch tile (row stride NR) that lives on the driver's stack; the output stage
// carries it to C. All NR columns of a tile row may be overwritten, whatever `columns` says.
//
// Slice: a row whose NR is less than a panel may have a `slice` function, which writes NR columns of a block of a panel
// as its kernel wants them, to memory that stays in L1 while all tiles of these columns are computed.
//
// Order: each element is a sum over k = 0, 1, 2, … of one block of at most KC terms, and block sums are added in order,
// whatever the tile, its place and the thread. AVX2 and AVX-512 rows use FMA and agree bit for bit; the scalar row
// rounds the product. (strassen.h has an order of its own.)
#ifndef HSSL_GEMM_H
#define HSSL_GEMM_H

#include "base/base.h"

enum {
    PANEL = HSSL_GEMM_PANEL,
    KC = 256,          // terms of a block sum: KC × PANEL floats (64 KB) stay in L2 while the rows of a block pass
    START_TERMS = 8,   // what the start values of a panel of codes take, in terms of K
    // terms of a slice of codes, a multiple of 4: int32 sums are exact, so blocks of them do not show
    SLICE_KC = 512,
    SLICE_BYTES = 17 << 10,  // at most: half of L1 and what there is to say of it
    CENTERED_ROOM = 272,     // bytes for what there is to say of a tile's centred codes
    // rows of a task: a multiple of every MR, and all tokens of an image of 224 × 224 pixels in patches of 16
    ROW_BLOCK = 204,
    MAX_MR = 6
};

/// What a kernel prefetches while it multiplies: at each step of its loop over K the line at `line`, which then moves
/// by `step` bytes. A step of 0 asks for nothing new. (Asked for between tiles, in one burst, the lines wait for one
/// another and the products for them: 2 % of ViT-S. Kernels take it by reference: by value clang copies it in 16 bytes,
/// of which 8 have just been written, and the load waits until all stores before it, a tile's, have left.)
typedef struct { const char *line; ptrdiff_t step; } hssl_gemm_prefetch;

/// tile[r, c] = Σ_k a[r·a_row + k·a_k] · b[k·PANEL + c], plus the old tile where `add`. 1 ≤ rows ≤ MR, 1 ≤ columns ≤
/// NR. Where the row has a `slice`, b is what that wrote, and the driver prefetches: `next` is NULL.
typedef void hssl_gemm_f32_fn(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t a_row,
                              ptrdiff_t a_k, const float *b, float *tile, bool add, const hssl_gemm_prefetch *next);
/// Columns 0 ..< NR of K rows of a panel.
typedef void hssl_gemm_f32_slice_fn(ptrdiff_t K, const float *panel, float *slice);
/// tile[r, c] = Σ_k (a[r·lda + k] − zero) · B(k, c). `panel` is a whole packed panel, start values included. K is a
/// multiple of 4. Where the row has a `slice`, `panel` is what that wrote, a what `center` did (lda = K), and `next`
/// NULL.
typedef void hssl_gemm_u8s8_fn(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda,
                               const void *panel, int32_t *tile, const hssl_gemm_prefetch *next);
/// Columns 0 ..< NR of K rows of codes of a panel, K a multiple of 4 and at most SLICE_KC: SLICE_BYTES as the kernel
/// wants them. Its tiles begin at `start`, the start_signed of these columns.
typedef void hssl_gemm_u8s8_slice_fn(ptrdiff_t K, const int8_t *panel, const int32_t *start, void *slice);
/// The rows of a tile as the kernel wants them: rows·K bytes, and CENTERED_ROOM.
typedef void hssl_gemm_u8s8_center_fn(ptrdiff_t rows, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, void *centered);

/// Where a tile goes: every pointer is already at the tile's first row and column; `stage` may be NULL in its parts.
typedef struct {
    float *c;
    uint16_t *half;  // binary16 in place of c, where not NULL: of an int32 tile, without residual and what training has
    ptrdiff_t ldc;
    const float *bias, *residual;
    float *preactivation;
    ptrdiff_t ld_residual;
    const float *a_scale, *b_scale;  // int32 tiles only; b_scale may be NULL
    hssl_activation activation;
    bool accumulate;
} hssl_gemm_target;

/// C = stage(tile): value (+ old C) → + bias → preactivation → activation → + residual.
typedef void hssl_gemm_output_f32_fn(ptrdiff_t rows, ptrdiff_t columns, const float *tile,
                                     const hssl_gemm_target *target);
/// Same, where value = a_scale[r] · b_scale[c] · tile[r, c].
typedef void hssl_gemm_output_s32_fn(ptrdiff_t rows, ptrdiff_t columns, const int32_t *tile,
                                     const hssl_gemm_target *target);

/// The tile of the same row's kernel, for a whole panel, while the tile `before` of MR rows goes through the output
/// stage to `target`: one that hssl_gemm_can_pipeline allows; of int32 tiles, those that become binary16 may have
/// coarse GELU, others no activation.
typedef void hssl_gemm_f32_pipelined_fn(ptrdiff_t rows, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                                        const float *b, float *tile, bool add, const float *before,
                                        const hssl_gemm_target *target, const hssl_gemm_prefetch *next);
typedef void hssl_gemm_u8s8_pipelined_fn(ptrdiff_t rows, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda,
                                         const void *panel, int32_t *tile, const int32_t *before,
                                         const hssl_gemm_target *target, const hssl_gemm_prefetch *next);
/// A product's operand of A: 12 rows, `a_row` elements apart.
typedef struct { const float *a; ptrdiff_t a_row; } hssl_gemm_strassen_rows;
/// tile[24, 64] = A·B of a group by Strassen's scheme (strassen.h): `a` are the operands of its seven products, `panel`
/// a K block, 2·K terms long, of a panel. Meanwhile the group `before` goes through the output stage to `target`, one
/// that hssl_gemm_can_pipeline allows, or is NULL.
typedef void hssl_gemm_strassen_fn(ptrdiff_t K, const hssl_gemm_strassen_rows *a, const float *panel, float *tile,
                                   const float *before, const hssl_gemm_target *target, const hssl_gemm_prefetch *next);
/// Stages with a bias, none of what training has, and an activation or a residual, not both. The rest goes tile by
/// tile.
static inline bool hssl_gemm_can_pipeline(const hssl_gemm_target *t) {
    return t->bias && !t->accumulate && !t->preactivation && (t->activation == HSSL_ACTIVATION_NONE || !t->residual);
}

/// Bytes of a packed panel of codes; K a multiple of 4.
static inline ptrdiff_t hssl_gemm_u8s8_panel_bytes(ptrdiff_t K) { return PANEL * (START_TERMS + K); }
static inline const int8_t *hssl_gemm_u8s8_codes(const void *panel) {
    return (const int8_t *)panel + START_TERMS * PANEL;
}

/// A block of `terms` rows of a panel as float32: the block itself, or, of binary16 (2 bytes an element), what `room`
/// holds of it afterwards. Widening is exact, so the bits are those of the float32 product of the widened weights.
static inline const float *hssl_gemm_floats(const void *block, ptrdiff_t b_element, ptrdiff_t terms, float *room) {
    if (b_element == sizeof(float)) return block;
    hssl_select_convert_f16_f32()(terms * PANEL, block, room);
    return room;
}

/// The bias of a tile that has none, so that it can be pipelined: x + 0 is x (but 0 for −0).
static const float hssl_gemm_zeros[PANEL];

/// A register-only loop over at least 16 independent accumulators; returns the operations done (a multiply and an add
/// are two).
typedef double hssl_peak_f32_fn(ptrdiff_t iterations);
typedef double hssl_peak_u8s8_fn(ptrdiff_t iterations);

#define HSSL_KERNEL(family, symbol, isa, ...) hssl_##family##_fn symbol;
#include "gemm/kernels.inc"
#undef HSSL_KERNEL
hssl_gemm_f32_slice_fn hssl_gemm_f32_slice_16__avx2;
hssl_gemm_u8s8_slice_fn hssl_gemm_u8s8_slice_16__avx2;
hssl_gemm_u8s8_center_fn hssl_gemm_u8s8_center__avx2;
hssl_gemm_f32_pipelined_fn hssl_gemm_f32_pipelined_6x64__avx512;
hssl_gemm_u8s8_pipelined_fn hssl_gemm_u8s8_pipelined_6x64c4__avx512vnni;
hssl_gemm_strassen_fn hssl_gemm_f32_strassen_24x64__avx512;

/// NR is a whole panel where there is no `slice`. What a row does not have is NULL; `center` goes with `slice`.
typedef struct {
    hssl_gemm_f32_fn *kernel;
    ptrdiff_t mr, nr;
    hssl_gemm_f32_slice_fn *slice;
    hssl_gemm_f32_pipelined_fn *pipelined;
    hssl_gemm_strassen_fn *strassen;
} hssl_gemm_f32_row;
typedef struct {
    hssl_gemm_u8s8_fn *kernel;
    ptrdiff_t mr, nr;
    hssl_gemm_u8s8_slice_fn *slice;
    hssl_gemm_u8s8_center_fn *center;
    hssl_gemm_u8s8_pipelined_fn *pipelined;
} hssl_gemm_u8s8_row;
const hssl_gemm_f32_row *hssl_gemm_select_f32(void);
const hssl_gemm_u8s8_row *hssl_gemm_select_u8s8(void);
hssl_gemm_output_f32_fn *hssl_gemm_select_output_f32(void);
hssl_gemm_output_s32_fn *hssl_gemm_select_output_s32(void);
hssl_peak_f32_fn *hssl_gemm_select_peak_f32(void);
hssl_peak_u8s8_fn *hssl_gemm_select_peak_u8s8(void);

/// The target of the tile at (m, n). a_scale and b_scale are left NULL.
hssl_gemm_target hssl_gemm_target_at(ptrdiff_t m, ptrdiff_t n, float *c, ptrdiff_t ldc, bool accumulate,
                                     const hssl_gemm_output *output);

/// The same, n columns further right.
static inline hssl_gemm_target hssl_gemm_target_right(const hssl_gemm_target *target, ptrdiff_t n) {
    hssl_gemm_target right = *target;
    if (right.c) right.c += n;
    if (right.half) right.half += n;
    if (right.bias) right.bias += n;
    if (right.preactivation) right.preactivation += n;
    if (right.residual) right.residual += n;
    if (right.b_scale) right.b_scale += n;
    return right;
}

/// The same, `rows` further down, for the next tile. Filled in anew right before the stage, whose wide loads the narrow
/// stores could not feed, it cost 1 to 1.5 % of an int8 product with K = 384.
static inline void hssl_gemm_target_advance(hssl_gemm_target *target, ptrdiff_t rows) {
    if (target->c) target->c += rows * target->ldc;
    if (target->half) target->half += rows * target->ldc;
    if (target->preactivation) target->preactivation += rows * target->ldc;
    if (target->residual) target->residual += rows * target->ld_residual;
    if (target->a_scale) target->a_scale += rows;
}

/// Asks, before its product, for the lines that a slice's tile will touch in the output stage: where C outgrows L2,
/// waiting for them took 3 % of a ViT-S in float32.
static inline void hssl_gemm_target_prefetch(const hssl_gemm_target *target, ptrdiff_t rows) {
    for (ptrdiff_t r = 0; r < rows; ++r) {
        __builtin_prefetch(target->half ? (void *)(target->half + r * target->ldc) : (void *)(target->c + r
            * target->ldc),
                           1);
    }
    if (!target->residual || target->residual == target->c) return;
    for (ptrdiff_t r = 0; r < rows; ++r) __builtin_prefetch(target->residual + r * target->ld_residual);
}

/// Rows of a task: ROW_BLOCK, or fewer (in whole tiles) where that balances the last one or feeds every thread.
ptrdiff_t hssl_gemm_row_block(ptrdiff_t M, ptrdiff_t mr, ptrdiff_t panels, int team);

/// Tasks are taken panel by panel, the row blocks of a panel one after another, so that a panel crosses from memory
/// once. The last row block prefetches what follows: the panel's next K block, then `next_panel`, the one this thread
/// is likely to take (−1: there is none).
typedef struct { ptrdiff_t m, rows, panel, next_panel; bool prefetches; } hssl_gemm_task;
static inline hssl_gemm_task hssl_gemm_task_at(ptrdiff_t t, ptrdiff_t M, ptrdiff_t block, ptrdiff_t panels, int team) {
    const ptrdiff_t blocks = hssl_ceil_div(M, block), m = t % blocks * block, rows = hssl_min(block, M - m),
        panel = t / blocks;
    const ptrdiff_t next = panel + hssl_ceil_div(team, blocks);
    return (hssl_gemm_task){m, rows, panel, next < panels ? next : -1, m + rows == M};
}

/// The `bytes` at `from` spread over the `steps` to come: the weights that follow arrive while the products of these
/// are computed. Nothing but `held`, which is in L1, where `from` is NULL.
static inline hssl_gemm_prefetch hssl_gemm_prefetch_over(const char *from, ptrdiff_t bytes, ptrdiff_t steps,
                                                         const void *held) {
    if (!from || steps == 0) return (hssl_gemm_prefetch){held, 0};
    return (hssl_gemm_prefetch){from, hssl_ceil_div(bytes, steps)};
}

/// Asks for `count` lines, `stride` bytes apart: what a tile does for the slice that follows. Returns where the next
/// tile goes on.
static inline const char *hssl_gemm_prefetch_lines(const char *line, ptrdiff_t count, ptrdiff_t stride) {
    for (const char *const end = line + count * stride; line < end; line += stride) __builtin_prefetch(line, 0, 2);
    return line;
}

/// Rows of A (a[m·m_stride + k·k_stride]) as micro-panels of `mr` rows: packed[(m / mr)·mr·K + k·mr + m % mr]. The last
/// one may be ragged: its missing rows are left as they are.
void hssl_gemm_pack_a(ptrdiff_t M, ptrdiff_t K, const float *a, ptrdiff_t m_stride, ptrdiff_t k_stride, ptrdiff_t mr,
                      float *packed);
/// K rows of `columns` ≤ PANEL elements of B as one panel block.
void hssl_gemm_pack_panel_f32(ptrdiff_t columns, ptrdiff_t K, const float *b, ptrdiff_t k_stride, ptrdiff_t n_stride,
                              float *packed);
/// The same of u8 codes (zero 128) whose columns are neighbours, of rows order[0 ..< K] of B, K ≤ 256, with start
/// values: a whole panel, for A's codes of zero 128 too.
void hssl_gemm_pack_panel_u8(ptrdiff_t columns, ptrdiff_t K, const int32_t *order, const uint8_t *b, ptrdiff_t k_stride,
                             void *packed);

#endif
