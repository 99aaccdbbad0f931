// CSupport: the C kernels of HSSL. This is the only header that Swift sees.
//
// Conventions
//   * Matrices are row-major; `ld*` is the distance between rows in elements. Tensors are channels-last.
//   * Sizes are `ptrdiff_t` (Swift `Int`). Callers validate shapes: kernels trust them, never allocate and never fail.
//   * Scratch memory is the caller's: a function that needs some takes `workspace` of at least `…_workspace_size`
//   bytes, 64-byte aligned. * A result never depends on the thread count: work is split by output elements and every
//   sum is walked in a fixed order. * `float16` storage is passed as `uint16_t` (IEEE binary16).
//   * OpenMP lives in drivers; micro-kernels are serial. Rows of `…/kernels.inc` register kernels (see
//   CSupport/README.md).
#ifndef HSSL_CSUPPORT_H
#define HSSL_CSUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// MARK: base — instruction set, threads, kernel registry

/// Instruction-set rows, in rising order. A row is used where the machine supports it and `HSSL_ISA` does not say
/// otherwise.
typedef enum {
    HSSL_ISA_SCALAR = 0,
    HSSL_ISA_AVX2 = 1,        // AVX2 + FMA + F16C
    HSSL_ISA_AVX512 = 2,      // F, BW, VL, DQ
    HSSL_ISA_AVX512VNNI = 3,  // AVX512 + VNNI
    HSSL_ISA_NEON = 4,        // known by name; this build has no row for it
    HSSL_ISA_COUNT = 5
} hssl_isa;

/// Detects the CPU (CPUID and OS state) and applies `HSSL_ISA`. Call once, before any other function; later calls
/// repeat the first answer. Returns 0, or -1 with one line in `message` (unknown name, or a row that this machine or
/// build lacks).
int hssl_initialize(char *message, size_t capacity);
const char *hssl_isa_name(hssl_isa isa);
bool hssl_isa_supported(hssl_isa isa);
hssl_isa hssl_isa_selected(void);
/// For tests and benchmarks: selects a supported row for the process from now on; false (and no change) when
/// unsupported.
bool hssl_isa_select(hssl_isa isa);

/// Threads that kernels of the process use from now on (1…256). Idle OpenMP threads spin for a millisecond, yielding,
/// then sleep.
void hssl_set_threads(int count);
int hssl_get_threads(void);

/// What kernels run with. The two functions above set it for the process; a thread may enter a context of its own, in
/// which `hssl_get_threads`, `hssl_isa_selected` and all kernels that it calls, on whatever threads they run, see that
/// one instead.
typedef struct {
    int threads;
    hssl_isa isa;  // a supported one
} hssl_context;
/// Makes `context` (NULL: the process's) that of the calling thread and returns the one before, for
/// `hssl_context_leave`. It is not copied.
const hssl_context *hssl_context_enter(const hssl_context *context);
void hssl_context_leave(const hssl_context *outer);

/// Whether a thread's regions pay: where other programs want the cores, a region waits for whichever of its threads is
/// not running, and one alone is faster. All zero: nothing seen yet. Nanoseconds. Bits do not depend on it.
typedef struct {
    int64_t spent, lost;  // in regions since the last decision, 0.8 of it less what one thread would have taken
    int64_t until, rest;  // no regions until then, and for how long that was decided; 0: regions pay
} hssl_pace;
/// A region of `team` threads has ended at `now`; for `idle` of what it took its thread had nothing to do.
void hssl_pace_add(hssl_pace *pace, int team, int64_t now, int64_t spent, int64_t idle);
bool hssl_pace_is_alone(hssl_pace *pace, int64_t now);

/// Processors that this process may use: its affinity, what its control groups allow, at most 256.
int hssl_available_processors(void);
/// Processors that the quotas of this process's control groups (versions 1 and 2) are worth, rounded up; 0 without one.
/// `root`: "", or for tests a folder that stands for the root of the file system.
int hssl_quota_processors(const char *root);
/// How many of `wanted` threads (at most 512) could be started now beside those that there are. libomp ends the process
/// when one of its cannot.
int hssl_startable_threads(int wanted);

/// One registered kernel row, for tests and benchmarks: every row must have a test case.
typedef struct {
    const char *name;    // e.g. "hssl_gemm_u8s8_f32_6x64c4__avx512vnni"
    const char *family;  // e.g. "gemm_u8s8", "layer_norm", "attention"
    hssl_isa isa;
} hssl_kernel_info;
ptrdiff_t hssl_kernel_count(void);
hssl_kernel_info hssl_kernel_at(ptrdiff_t index);

/// Peak resident set of this process in bytes (VmHWM), and what is resident now (VmRSS); 0 where the system does not
/// tell.
uint64_t hssl_peak_rss(void);
uint64_t hssl_present_rss(void);

/// From now on, blocks of 1 MB and more that malloc gave go back to the system when they are freed (glibc; elsewhere
/// nothing happens): its own threshold rises with what is freed, up to 32 MB, and each thread keeps blocks below it.
void hssl_return_freed_memory(void);

// MARK: base — counter-based random numbers (Philox4x32-10): value(key, counter), so threads do not matter

/// Four uniform 32-bit words for `counter` under `key`.
void hssl_philox(uint64_t key, uint64_t counter_low, uint64_t counter_high, uint32_t out[4]);

// MARK: base — half precision

void hssl_convert_f32_f16(ptrdiff_t n, const float *x, uint16_t *y);  // round to nearest even
void hssl_convert_f16_f32(ptrdiff_t n, const uint16_t *x, float *y);

// MARK: gemm — C[M,N] = A[M,K] · B[K,N], then the output stage (see gemm/README.md for packed layouts)

/// GELU_COARSE is GELU within 2.1e-4 in less time, for outputs of which only 8-bit codes will be made and for inference
/// with binary16 weights.
typedef enum { HSSL_ACTIVATION_NONE = 0, HSSL_ACTIVATION_GELU = 1, HSSL_ACTIVATION_GELU_COARSE = 2 } hssl_activation;

/// Output stage of a tile, in this order: value (+ old C if accumulate) → + bias → store to preactivation → activation
/// → + residual → store.
typedef struct {
    const float *bias;            // [N] or NULL
    float *preactivation;         // [M, ldc] or NULL
    hssl_activation activation;
    const float *residual;        // [M, ld_residual] or NULL; may be C itself
    ptrdiff_t ld_residual;
    // of the product that follows, or NULL: its first panel is prefetched while the last one here is multiplied
    const void *next_packed_b;
} hssl_gemm_output;

/// Columns of a panel of packed B. Panels follow one another: from the start of any of them on stand the packed weights
/// of the columns from there on.
enum { HSSL_GEMM_PANEL = 64 };

/// Packed B of float32. B(k, n) = b[k * k_stride + n * n_stride]; so a PyTorch weight [out=N, in=K] has k_stride 1,
/// n_stride K.
size_t hssl_gemm_f32_packed_size(ptrdiff_t N, ptrdiff_t K);
void hssl_gemm_f32_pack(ptrdiff_t N, ptrdiff_t K, const float *b, ptrdiff_t k_stride, ptrdiff_t n_stride, void *packed);
/// A(m, k) = a[m * m_stride + k * k_stride] (either stride may be 1). `output` may be NULL. Each C element is a sum
/// over k in one fixed order, whatever M, the row's place and the thread count.
void hssl_gemm_f32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride, ptrdiff_t k_stride,
                   const void *packed_b, float *c, ptrdiff_t ldc, bool accumulate, const hssl_gemm_output *output);
/// Same, with B not packed beforehand (weight gradients: B is large and used once): packs block by block into
/// `workspace`.
size_t hssl_gemm_f32_unpacked_workspace_size(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K);
void hssl_gemm_f32_unpacked(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t a_m_stride,
                            ptrdiff_t a_k_stride, const float *b, ptrdiff_t b_k_stride, ptrdiff_t b_n_stride, float *c,
                            ptrdiff_t ldc, bool accumulate, const hssl_gemm_output *output, void *workspace);

/// float16 storage of B: packed from f16, each block of a panel widened before its products, accumulated in fp32.
size_t hssl_gemm_f16_packed_size(ptrdiff_t N, ptrdiff_t K);
void hssl_gemm_f16_pack(ptrdiff_t N, ptrdiff_t K, const uint16_t *b, ptrdiff_t k_stride, ptrdiff_t n_stride,
                        void *packed);
void hssl_gemm_f16(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const float *a, ptrdiff_t m_stride, ptrdiff_t k_stride,
                   const void *packed_b, float *c, ptrdiff_t ldc, bool accumulate, const hssl_gemm_output *output);

/// The same for inference, rows first ..< end of M, for callers that share out the rows themselves. A is [M, K],
/// contiguous; a, c and residual point at row 0 of M; `output`, which may be NULL, has no preactivation. With a
/// workspace (NULL: without) the product may take fewer multiply-adds, its error then being float32 rounding of the
/// largest elements of a row and a column, not of each term. Element (m, n) has the same bits whatever first and end
/// are, if both are 0, M or what hssl_gemm_cut gives. Threads may compute disjoint rows with one workspace.
void hssl_gemm_f32_rows(ptrdiff_t M, ptrdiff_t first, ptrdiff_t end, ptrdiff_t N, ptrdiff_t K, const float *a,
                        const void *packed_b, float *c, ptrdiff_t ldc, const hssl_gemm_output *output, void *workspace);
void hssl_gemm_f16_rows(ptrdiff_t M, ptrdiff_t first, ptrdiff_t end, ptrdiff_t N, ptrdiff_t K, const float *a,
                        const void *packed_b, float *c, ptrdiff_t ldc, const hssl_gemm_output *output, void *workspace);
/// Bytes, 64-byte aligned; 0 where a workspace would be of no use.
size_t hssl_gemm_workspace_size(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K);
/// The row next to `row` at which M rows may be cut.
ptrdiff_t hssl_gemm_cut(ptrdiff_t M, ptrdiff_t row);
/// Multiply-adds that the product takes with its workspace: M·N·K or fewer.
double hssl_gemm_multiply_adds(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K);

/// u8 activations, codes 1 … 255 of which `zero` is 0, × s8 weights, codes in [-127, 127]. B(k, n) = b[k * k_stride +
/// n * n_stride]. The packed form holds the column sums times what `zero` asks for, so that a weight is packed for
/// codes of one zero. K is padded to a multiple of 4 in the packing; rows of A must be readable up to K rounded up to 4
/// (their content there does not matter: packed B is 0 there).
size_t hssl_gemm_u8s8_packed_size(ptrdiff_t N, ptrdiff_t K);
void hssl_gemm_u8s8_pack(
    ptrdiff_t N, ptrdiff_t K, const int8_t *b, ptrdiff_t k_stride, ptrdiff_t n_stride, uint8_t zero, void *packed);
/// C = a_scale[m] · b_scale[n] · Σ_k (A-zero)·B, then the output stage. b_scale may be NULL (1).
void hssl_gemm_u8s8_f32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const float *a_scale,
                        const void *packed_b, const float *b_scale, float *c, ptrdiff_t ldc, bool accumulate,
                        const hssl_gemm_output *output);
/// The same in binary16, rounded toward zero, so that nothing finite becomes infinite: for readers that make 8-bit
/// codes of it, beside whose half step of 1/506 of the largest, or more, an error below 1/1024 of the element is small.
/// `output`, which may be NULL, has neither residual nor preactivation.
void hssl_gemm_u8s8_f16(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const float *a_scale,
                        const void *packed_b, const float *b_scale, uint16_t *c, ptrdiff_t ldc,
                        const hssl_gemm_output *output);
/// The gradient of a weight: C[M, N] += Σ over tokens of dy[t, m] · x_scale[t] · (x[t, n] - 128). dy gets 8-bit codes,
/// one scale a column for every 128 tokens, those of like magnitude together. Same bits on every ISA and at any thread
/// count.
size_t hssl_gemm_u8_gradient_workspace_size(ptrdiff_t M, ptrdiff_t N, ptrdiff_t tokens);  // bytes, 64-byte aligned
void hssl_gemm_u8_gradient(ptrdiff_t M, ptrdiff_t N, ptrdiff_t tokens, const float *dy, ptrdiff_t ld_dy,
                           const uint8_t *x, ptrdiff_t ldx, const float *x_scale, float *c, ptrdiff_t ldc,
                           void *workspace);
/// The int32 accumulators: bit-identical on every ISA.
void hssl_gemm_u8s8_s32(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, const void *packed_b,
                        int32_t *c, ptrdiff_t ldc);

/// What the selected row and the selected threads reach on a register-only loop run for about `seconds`: FLOP/s, and
/// int8 OP/s.
double hssl_peak_f32(double seconds);
double hssl_peak_u8s8(double seconds);

// MARK: quantize — one scale a row: x ≈ code · scale, round to nearest even. Symmetric unless said otherwise: scale =
// max|x| / 127 (1 for an all-zero row)

/// The code of 0 where u8 codes are symmetric.
#define HSSL_SYMMETRIC_ZERO 128

/// codes[r, k] = zero + code, 2 ≤ zero ≤ 254: x ≈ (codes - zero) · scale, scale = max(max x / (255 - zero), -min x /
/// (zero - 1)), so that few codes are left to a side that reaches little. Bytes K ..< ldq of every row are set to zero.
void hssl_quantize_rows_u8(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, uint8_t zero, uint8_t *codes,
                           ptrdiff_t ldq, float *scale);
/// The same of binary16.
void hssl_quantize_rows_f16_u8(ptrdiff_t rows, ptrdiff_t K, const uint16_t *x, ptrdiff_t ldx, uint8_t zero,
                               uint8_t *codes, ptrdiff_t ldq, float *scale);
/// The same with one scale for all rows, largest / (255 - zero), with which scale [rows] is filled. `largest` is at
/// least max x and -min x · (255 - zero) / (zero - 1).
void hssl_quantize_rows_alike_u8(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, float largest,
                                 uint8_t zero, uint8_t *codes, ptrdiff_t ldq, float *scale);
/// codes[r, k] = s8 code.
void hssl_quantize_rows_s8(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx, int8_t *codes, ptrdiff_t ldq,
                           float *scale);
/// Stochastic rounding: code = floor(x/scale + u), u from Philox(key; row, column): unbiased. `column_scale` [K] or
/// NULL multiplies x first.
void hssl_quantize_rows_u8_stochastic(ptrdiff_t rows, ptrdiff_t K, const float *x, ptrdiff_t ldx,
                                      const float *column_scale, uint64_t key, uint8_t *codes, ptrdiff_t ldq,
                                      float *scale);
/// Of every row of u8 codes: how many are ±127, and how many are 0. Both [rows].
void hssl_count_codes_u8(ptrdiff_t rows, ptrdiff_t K, const uint8_t *codes, ptrdiff_t ldq, int32_t *saturated,
                         int32_t *zeros);
void hssl_dequantize_rows_u8(ptrdiff_t rows, ptrdiff_t K, const uint8_t *codes, ptrdiff_t ldq, const float *scale,
                             float *y, ptrdiff_t ldy);
void hssl_dequantize_rows_s8(ptrdiff_t rows, ptrdiff_t K, const int8_t *codes, ptrdiff_t ldq, const float *scale,
                             float *y, ptrdiff_t ldy);

// MARK: norm

/// y = (x − mean)·rstd·weight + bias per row of D; mean and rstd [rows] are stored unless NULL. y may be x.
void hssl_layer_norm(ptrdiff_t rows, ptrdiff_t D, const float *x, const float *weight, const float *bias, float epsilon,
                     float *y, float *mean, float *rstd);
/// dx (=, not +=) [rows, D], apart from x and dy; dweight and dbias [D] are added to (NULL: not computed).
void hssl_layer_norm_backward(ptrdiff_t rows, ptrdiff_t D, const float *x, const float *weight, const float *mean,
                              const float *rstd, const float *dy, float *dx, float *dweight, float *dbias);
/// y = x / max(‖x‖₂, epsilon) per row; inverse_norm [rows] stored unless NULL.
void hssl_l2_normalize(ptrdiff_t rows, ptrdiff_t D, const float *x, float epsilon, float *y, float *inverse_norm);
/// dx = (dy − y·⟨dy, y⟩)·inverse_norm.
void hssl_l2_normalize_backward(ptrdiff_t rows, ptrdiff_t D, const float *y, const float *inverse_norm, const float *dy,
                                float *dx);

/// y = (x − mean)·rstd·weight + bias over x [batch, positions, C], where mean and rstd are those of a sample's group of
/// C/groups neighbouring channels over all positions (biased variance). weight and bias [C]; groups divides C ≤
/// HSSL_GROUP_NORM_CHANNELS. mean and rstd [batch, groups] are stored unless NULL. y may be x. Same bits on every row.
enum { HSSL_GROUP_NORM_CHANNELS = 8192 };
void hssl_group_norm(ptrdiff_t batch, ptrdiff_t positions, ptrdiff_t C, ptrdiff_t groups, const float *x,
                     const float *weight, const float *bias, float epsilon, float *y, float *mean, float *rstd);
/// dx (=, not +=) [batch, positions, C], apart from x and dy; dweight and dbias [C] are added to (NULL: not computed).
void hssl_group_norm_backward(ptrdiff_t batch, ptrdiff_t positions, ptrdiff_t C, ptrdiff_t groups, const float *x,
                              const float *weight, const float *mean, const float *rstd, const float *dy, float *dx,
                              float *dweight, float *dbias);

// MARK: elementwise

void hssl_gelu(ptrdiff_t n, const float *x, float *y);                                // exact: x·Φ(x); y may be x
void hssl_gelu_backward(ptrdiff_t n, const float *x, const float *dy, float *dx);      // dx may be dy
void hssl_add(ptrdiff_t n, const float *x, const float *y, float *z);                 // z = x + y; z may be either
void hssl_scale(ptrdiff_t n, float alpha, float *x);                                  // x *= alpha
void hssl_axpy(ptrdiff_t n, float alpha, const float *x, float *y);                   // y += alpha·x
/// y[b, i] = x[b, i] + scale[b]·branch[b, i]: the residual connection with stochastic depth. scale NULL: 1. y may be x.
void hssl_add_scaled_samples(ptrdiff_t batch, ptrdiff_t n, const float *x, const float *branch, const float *scale,
                             float *y);
/// y[b, i] = scale[b]·x[b, i]. y may be x.
void hssl_scale_samples(ptrdiff_t batch, ptrdiff_t n, const float *scale, const float *x, float *y);
/// y[b, i] = x[b, i] + v[i] (position embeddings: i over tokens·D; biases: n = N). y may be x.
void hssl_add_broadcast(ptrdiff_t batch, ptrdiff_t n, const float *x, const float *v, float *y);
/// out[i] += Σ_b x[b, i], b in order: the backward of add_broadcast and the bias gradient.
void hssl_sum_rows(ptrdiff_t batch, ptrdiff_t n, const float *x, float *out);
/// y = max(x, 0); NaN stays NaN. y may be x.
void hssl_relu(ptrdiff_t n, const float *x, float *y);
/// dx = dy where y > 0, else 0; y is the output of the forward. dx may be dy.
void hssl_relu_backward(ptrdiff_t n, const float *y, const float *dy, float *dx);
/// y[r, i] = silu(x[r, i])·x[r, H + i], silu(g) = g/(1 + e^−g) (SwiGLU): x [rows, 2·H] → y [rows, H].
void hssl_gated(ptrdiff_t rows, ptrdiff_t H, const float *x, float *y);
/// dx [rows, 2·H] from x of the forward and dy [rows, H].
void hssl_gated_backward(ptrdiff_t rows, ptrdiff_t H, const float *x, const float *dy, float *dx);
/// Rotary positions: of qkv [batch, tokens, 3·heads·d] queries and keys are rotated, values copied. Element j < d/2 of
/// a head and element j + d/2 turn by an angle whose cosine and sine are table[t, j] and table[t, j + d/2]: table
/// [tokens, d]. `inverse` turns back, which is the backward. y is not x. The same bits on every instruction set.
void hssl_rotate_tokens(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t d, const float *table,
                        bool inverse, const float *x, float *y);
/// y[r, c] = scale[c]·x[r, c] (layer scale). y may be x.
void hssl_scale_channels(ptrdiff_t rows, ptrdiff_t C, const float *scale, const float *x, float *y);
/// out[c] += Σ_r x[r, c]·dy[r, c], r in one fixed order: the gradient of layer scale's factors.
void hssl_multiply_sum_rows(ptrdiff_t rows, ptrdiff_t C, const float *x, const float *dy, float *out);
/// y[b, i, :] = x[b, index[i], :], zeros where index[i] is −1: x [batch, from, D] → y [batch, to, D], index [to] the
/// same for every sample.
void hssl_permute_tokens(ptrdiff_t batch, ptrdiff_t from, ptrdiff_t to, ptrdiff_t D, const int32_t *index,
                         const float *x, float *y);
/// dx[b, t, :] = Σ dy[b, i, :] over all i with index[i] = t, i in order (=, not +=; zeros where there are none).
void hssl_permute_tokens_backward(ptrdiff_t batch, ptrdiff_t from, ptrdiff_t to, ptrdiff_t D, const int32_t *index,
                                  const float *dy, float *dx);
/// y[b, d, t] = x[b, t, d]: [batch, N, D] → [batch, D, N], which is also its own backward with N and D swapped.
void hssl_transpose_tokens(ptrdiff_t batch, ptrdiff_t N, ptrdiff_t D, const float *x, float *y);
/// y[b, :] = mean over tokens of x[b, t, :] ([batch, tokens, D] → [batch, D]), t in order.
void hssl_mean_tokens(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t D, const float *x, float *y);
/// y[i, :] = x[index[i], :].
void hssl_gather_rows(ptrdiff_t count, ptrdiff_t D, const int32_t *index, const float *x, float *y);
/// y[index[i], :] += x[i, :], i in order (repeated indices are allowed).
void hssl_scatter_add_rows(ptrdiff_t count, ptrdiff_t D, const int32_t *index, const float *x, float *y);
/// y = softmax((x − center)/temperature) per row of K; center [K] or NULL. y may be x.
void hssl_softmax(
    ptrdiff_t rows, ptrdiff_t K, const float *x, const float *center, float inverse_temperature, float *y);
/// loss[r] = −Σ_k q[r,k]·log softmax(z[r]/T)[k]; log_sum_exp[r] of z/T is kept for the backward. Σ_k q[r,k] = 1.
void hssl_soft_cross_entropy(ptrdiff_t rows, ptrdiff_t K, const float *q, const float *z, float inverse_temperature,
                             float *loss, float *log_sum_exp);
/// dz[r,k] = weight[r]/T·(softmax(z[r]/T)[k] − q[r,k]). dz may be z or q.
void hssl_soft_cross_entropy_backward(ptrdiff_t rows, ptrdiff_t K, const float *q, const float *z,
                                      float inverse_temperature, const float *log_sum_exp, const float *weight,
                                      float *dz);

/// The k largest of a stream of numbers for every row, of equal ones those that came first. values and indices [rows,
/// k] hold the min(k, kept) best of the `kept` numbers before; x has the next `columns`, whose indices begin at
/// `first`, higher than all before. Not sorted: the worst is at place 0. No NaN.
void hssl_keep_largest(ptrdiff_t rows, ptrdiff_t columns, const float *x, ptrdiff_t ldx, int32_t first, ptrdiff_t k,
                       ptrdiff_t kept, float *values, int32_t *indices);
/// order [rows, columns]: the columns of every row from the largest number to the smallest, equal ones as they stand.
/// No NaN. A workspace is for the thread count of the moment.
size_t hssl_sort_descending_workspace_size(ptrdiff_t columns);
void hssl_sort_descending(ptrdiff_t rows, ptrdiff_t columns, const float *x, ptrdiff_t ldx, int32_t *order,
                          void *workspace);

// MARK: attention — softmax(Q·Kᵀ/√d)·V, exact. A workspace is for the thread count of the moment: ask again after
// hssl_set_threads.

size_t hssl_attention_workspace_size(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim);
/// qkv [batch, tokens, 3, heads, head_dim] → out [batch, tokens, heads, head_dim]; log_sum_exp [batch, heads, tokens]
/// stored unless NULL.
void hssl_attention(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, const float *qkv,
                    float *out, float *log_sum_exp, void *workspace);
/// Same for the queries begin ..< end of every sample only: other rows of `out` are left as they are. A query's bits do
/// not depend on the range.
void hssl_attention_queries(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, ptrdiff_t begin,
                            ptrdiff_t end, const float *qkv, float *out, float *log_sum_exp, void *workspace);
#define HSSL_ATTENTION_INTEGER_TOKENS 65536
/// The queries of one image, q, k, v and the result in binary16, over integer codes with exact sums: for models whose
/// linear layers are int8. q, k and v (less the means of k and v over the tokens) and the probabilities are kept in 8
/// bits, the sums of the latter in 16; NaN and infinities reach the output. tokens ≤ HSSL_ATTENTION_INTEGER_TOKENS.
size_t hssl_attention_integer_workspace_size(ptrdiff_t tokens, ptrdiff_t head_dim);
void hssl_attention_integer(ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, ptrdiff_t begin, ptrdiff_t end,
                            const uint16_t *qkv, uint16_t *out, void *workspace);
size_t hssl_attention_backward_workspace_size(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim);
/// dqkv (=, not +=), probabilities recomputed from log_sum_exp.
void hssl_attention_backward(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, const float *qkv,
                             const float *out, const float *log_sum_exp, const float *dout, float *dqkv,
                             void *workspace);

/// softmax(Q·Kᵀ/√d + bias + mask)·V: the attention of windows. bias [heads, tokens, tokens] or NULL; mask [windows,
/// tokens, tokens] or NULL, of which sample b uses mask[b % windows]. A mask may hold −∞, though not for all keys of a
/// query. Otherwise as hssl_attention.
size_t hssl_attention_biased_workspace_size(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim);
void hssl_attention_biased(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, const float *bias,
                           const float *mask, ptrdiff_t windows, const float *qkv, float *out, float *log_sum_exp,
                           void *workspace);
/// dqkv (=, not +=); dbias [heads, tokens, tokens] is added to (NULL: not computed), samples in one fixed order.
size_t hssl_attention_biased_backward_workspace_size(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads,
                                                     ptrdiff_t head_dim);
void hssl_attention_biased_backward(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim,
                                    const float *bias, const float *mask, ptrdiff_t windows, const float *qkv,
                                    const float *out, const float *log_sum_exp, const float *dout, float *dqkv,
                                    float *dbias, void *workspace);

// MARK: conv — channels last, stride 1, "same" zero padding (k odd)

/// y[b,i,j,c] = bias[c] + Σ_uv weight[c,u,v]·x[b,i+u−k/2,j+v−k/2,c]; x, y [batch, h, w, C]; weight [C, 1, k, k]; bias
/// NULL: 0.
size_t hssl_depthwise_conv_workspace_size(ptrdiff_t C, ptrdiff_t k);
void hssl_depthwise_conv(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, const float *x,
                         const float *weight, const float *bias, float *y, void *workspace);
/// The same in two: the weight as kernels read it, [k·k, C rounded up to 16] (a workspace's bytes), then the
/// convolution.
void hssl_depthwise_conv_pack(ptrdiff_t C, ptrdiff_t k, const float *weight, void *packed);
void hssl_depthwise_conv_packed(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, const float *x,
                                const void *packed, const float *bias, float *y);
void hssl_depthwise_conv_backward_input(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k,
                                        const float *dy, const float *weight, float *dx, void *workspace);
/// dweight [C,1,k,k] and dbias [C] are added to.
void hssl_depthwise_conv_backward_weight(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k,
                                         const float *x, const float *dy, float *dweight, float *dbias,
                                         void *workspace);
/// Patches of an NCHW image batch: out [batch, (H/p)·(W/p), channels·p·p], element order (c, y, x) as a conv weight [D,
/// c, p, p] is flattened. H and W beyond a multiple of p are ignored.
void hssl_patchify(ptrdiff_t batch, ptrdiff_t channels, ptrdiff_t H, ptrdiff_t W, ptrdiff_t p, const float *image,
                   float *patches);

// MARK: windows — k×k windows of a grid, `stride` apart, `padding` < k positions around it; h' = (h + 2·padding −
// k)/stride + 1, w' alike

/// The windows of x [batch, h, w, C] as rows: y [batch, h', w', k·k·C], element order (u, v, c); padding gives zeros. A
/// convolution is a product of these rows with the weight.
void hssl_unfold(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                 ptrdiff_t padding, const float *x, float *y);
/// dx (=, not +=): every position is the sum over the windows that hold it.
void hssl_unfold_backward(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                          ptrdiff_t padding, const float *dy, float *dx);
/// The windows of images [batch, C, H, W]: y [batch, h', w', C·k·k], element order (c, u, v) as a conv weight [D, C, k,
/// k] is flattened. With stride k and no padding: hssl_patchify.
void hssl_unfold_image(ptrdiff_t batch, ptrdiff_t C, ptrdiff_t H, ptrdiff_t W, ptrdiff_t k, ptrdiff_t stride,
                       ptrdiff_t padding, const float *image, float *y);
/// y [batch, h', w', C]: the largest of a window; NaN if it holds one. argmax (like y, or NULL): its position row·w +
/// column in the grid of its sample, the first if there are several.
void hssl_max_pool(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                   ptrdiff_t padding, const float *x, float *y, int32_t *argmax);
/// dx (=, not +=) [batch, h, w, C].
void hssl_max_pool_backward(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                            ptrdiff_t padding, const int32_t *argmax, const float *dy, float *dx);
/// The mean of a window's positions inside the grid.
void hssl_average_pool(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                       ptrdiff_t padding, const float *x, float *y);
/// dx (=, not +=) [batch, h, w, C].
void hssl_average_pool_backward(ptrdiff_t batch, ptrdiff_t h, ptrdiff_t w, ptrdiff_t C, ptrdiff_t k, ptrdiff_t stride,
                                ptrdiff_t padding, const float *dy, float *dx);

// MARK: optimizer

/// Σ x² in float64, summed by fixed blocks.
double hssl_sum_squares(ptrdiff_t n, const float *x);
bool hssl_all_finite(ptrdiff_t n, const float *x);
typedef struct {
    float gradient_scale, lr, weight_decay, beta1, beta2, epsilon;
    float correction1, correction2;  // 1 − β^step
    float momentum;                  // of the teacher
} hssl_update_settings;
/// AdamW on one tensor, then the teacher's EMA of the result, in one walk: g ← g·gradient_scale; p ← p(1 − lr·wd);
/// p ← p − lr·(m/c1)/(√(v/c2) + ε); teacher ← momentum·teacher + (1 − momentum)·p.
void hssl_update(ptrdiff_t n, float *p, float *teacher, const float *g, float *m, float *v,
                 const hssl_update_settings *settings);
/// Same, with moments of 8 bits and one scale a block (optimizer/README.md has the format); all zero is a new tensor's.
/// Rounding is stochastic and unbiased, from Philox(key; element): give every tensor and update its own key.
#define HSSL_MOMENT_BLOCK 2048
void hssl_update_coded(ptrdiff_t n, float *p, float *teacher, const float *g, uint8_t *m, float *m_scale, uint8_t *v,
                       float *v_scale, uint64_t key, const hssl_update_settings *settings);
/// teacher ← momentum·teacher + (1 − momentum)·student, fp32: for tensors that no update touches.
void hssl_ema(ptrdiff_t n, float *teacher, const float *student, float momentum);

// MARK: plan — a model's inference as an array of steps, run without allocation (HSSLRuntime lowers models to it)

/// Where an operand lives; its `offset` counts bytes from there.
typedef enum {
    HSSL_PLAN_NONE = 0,   // absent
    HSSL_PLAN_IMAGE,      // the image of this run [channels, H, W]
    HSSL_PLAN_ARENA,      // intermediate values: one arena a thread
    HSSL_PLAN_CONSTANTS,  // packed weights, biases, positions: shared and read-only
    HSSL_PLAN_FEATURES,   // the row of features of this image
    // scratch of the threads that are at a step of this image: what one leaves there no other reads
    HSSL_PLAN_WORKSPACE
} hssl_plan_space;
typedef struct {
    hssl_plan_space space;
    ptrdiff_t offset;
} hssl_plan_operand;

/// Floats of the longest row that a fused step takes.
#define HSSL_PLAN_FUSED_FLOATS 16384

/// Steps, each on one image; float32 unless said otherwise. Sizes stand in `size` in the order given.
typedef enum {
    HSSL_STEP_UNFOLD_IMAGE,           // (C, H, W, k, stride, padding): x → y, see hssl_unfold_image
    // the same, C·k² ≤ HSSL_PLAN_FUSED_FLOATS, then quantised, a few windows at a time → y u8 codes of `zero`, y_scale
    HSSL_STEP_UNFOLD_IMAGE_QUANTIZE,
    HSSL_STEP_UNFOLD,                 // (h, w, C, k, stride, padding): x → y, see hssl_unfold
    HSSL_STEP_UNFOLD_QUANTIZE,        // the same, quantised as above
    // the same of u8 codes of `zero` with one scale, x_scale; C a multiple of 4 → y u8 codes of `zero`, y_scale
    HSSL_STEP_UNFOLD_CODES,
    // (rows, N, K, ld): y = activation(x·weight + bias) + residual; weight packed; rows of y and residual are ld apart.
    HSSL_STEP_LINEAR_F32,
                                      // The workspace is hssl_gemm_f32_rows's; the products of a chain may have the
                                      // same one
    HSSL_STEP_LINEAR_F16,             // same, weight packed from binary16
    // same; x u8 codes with rows of K rounded up to 4, x_scale [rows]; weight packed for their zero, weight_scale [N]
    HSSL_STEP_LINEAR_U8S8,
    HSSL_STEP_LINEAR_U8S8_F16,        // same without residual; y binary16
    HSSL_STEP_QUANTIZE,               // (rows, K): x → y u8 codes of `zero`, y_scale [rows]
    HSSL_STEP_QUANTIZE_F16,           // same; x binary16
    HSSL_STEP_LAYER_NORM,             // (rows, D): x, weight, bias, epsilon → y
    // (rows, D ≤ HSSL_PLAN_FUSED_FLOATS): the same, then quantised, a few rows at a time → y u8 codes of 128, y_scale
    HSSL_STEP_LAYER_NORM_QUANTIZE,
    // (positions, C, groups, alike): x, weight, bias, epsilon, then activation, residual, last_activation → y, which
    // may be the residual where no activation is GELU, or u8 `codes` of `zero` with y_scale [positions], or both.
    // alike = 1: without residual and with no activation but ReLU → `codes` alone, all positions with one scale
    HSSL_STEP_GROUP_NORM,
    HSSL_STEP_GROUP_NORM_F16,         // same; x binary16
    // (rows, D): y = last_activation(activation(x) + residual); y may be x, with no first activation also the residual
    HSSL_STEP_ELEMENTWISE,
    HSSL_STEP_SCALE_CHANNELS,         // (rows, D): x, weight → y
    HSSL_STEP_GATED,                  // (rows, H): x [rows, 2·H] → y, see hssl_gated
    HSSL_STEP_ROTATE,                 // (tokens, heads, d, batch): x qkv, weight: table → y, see hssl_rotate_tokens
    // (tokens, heads, head_dim, begin, end, batch): x qkv of all tokens → y, whose row 0 is query `begin`; workspace
    HSSL_STEP_ATTENTION,
    HSSL_STEP_ATTENTION_INTEGER,      // same of one sample, over integer codes; x and y binary16
    // (batch, tokens, heads, head_dim, windows): x qkv, weight: bias, bias: mask → y; workspace, see
    // hssl_attention_biased
    HSSL_STEP_ATTENTION_BIASED,
    HSSL_STEP_DEPTHWISE_CONV,         // (h, w, C, k): x, weight packed, bias → y
    HSSL_STEP_MAX_POOL,               // (h, w, C, k, stride, padding): x → y
    HSSL_STEP_AVERAGE_POOL,           // same
    // (batch, from, to, D): x, index int32 [to] in `weight` → y[b, i] = x[b, index[i]], 0 where that is −1, + residual
    HSSL_STEP_PERMUTE,
    // same of u8 codes of `zero` with rows of D rounded up to 4 and x_scale → y, y_scale; no residual
    HSSL_STEP_PERMUTE_CODES,
    HSSL_STEP_TRANSPOSE,              // (batch, tokens, D): x → y [batch, D, tokens]
    HSSL_STEP_MEAN_TOKENS,            // (batch, tokens, D): x → y [batch, D]
    HSSL_STEP_L2_NORMALIZE,           // (rows, D): x, epsilon → y; y may be x
    HSSL_STEP_COPY                    // (bytes): x → y
} hssl_plan_kind;
/// The first three are those of hssl_activation; a product has no other.
typedef enum {
    HSSL_PLAN_IDENTITY = 0, HSSL_PLAN_GELU = 1, HSSL_PLAN_GELU_COARSE = 2, HSSL_PLAN_RELU = 3
} hssl_plan_activation;
typedef struct {
    hssl_plan_kind kind;
    hssl_plan_activation activation;       // before the residual is added
    hssl_plan_activation last_activation;  // after it
    uint8_t zero;                          // the code of 0 in codes that are made or moved
    float epsilon;
    ptrdiff_t size[6];
    /// Bytes from one row to the next, of steps that treat each of size[0] rows alone (of windows: the output's).
    /// Scales of rows are 4 apart.
    ptrdiff_t x_pitch, residual_pitch, y_pitch;
    /// Steps from this one on that form a chain, at least 1. A chain may begin with the windows of a grid that none of
    /// its other steps touches; the windows are read by no step but the chain's, whose x then is their y. Those of a
    /// longer chain treat rows alone, as many each, and row r of each reads only row r of what the chain has written: a
    /// thread may take its rows through all of them.
    ptrdiff_t chain;
    hssl_plan_operand x, x_scale, weight, weight_scale, bias, residual, y, codes, y_scale, workspace;
} hssl_plan_step;

typedef struct {
    const hssl_plan_step *steps;
    ptrdiff_t step_count;
    const void *constants;   // 64-byte aligned
    size_t image_bytes;      // distance between images
    size_t features_bytes;   // distance between rows of features
    size_t arena_bytes;      // of one image, a multiple of 64
    size_t workspace_bytes;  // of one image, a multiple of 64: the largest that a step needs with hssl_get_threads()
} hssl_plan;

/// images [batch, …] → features [batch, …]. One image a thread while there is one for each; the rest one after the
/// other, split inside the steps: the bits are the same. `arenas`: hssl_get_threads() · (arena_bytes +
/// workspace_bytes), 64-byte aligned.
void hssl_plan_run(const hssl_plan *plan, ptrdiff_t batch, const float *images, float *features, void *arenas);

// MARK: image — 8-bit RGB [height, width, 3]; serial (loader threads call these), the same bytes on every ISA; see
// image/README.md

/// Pillow's `resize((out_width, out_height), BICUBIC, box)`, to the bit: antialiased, 22-bit fixed-point weights, two
/// passes.
typedef struct {
    ptrdiff_t in_width, in_height;
    // box: 0 ≤ left < right ≤ in_width, 0 ≤ top < bottom ≤ in_height; fractions are allowed
    float left, top, right, bottom;
    ptrdiff_t out_width, out_height;   // of the whole result, of which only this part is computed:
    ptrdiff_t crop_left, crop_top, crop_width, crop_height;
    bool bilinear;                     // Pillow's BILINEAR (a triangle) in place of BICUBIC
} hssl_resize;
/// The whole of an image to the whole of another.
static inline hssl_resize hssl_resize_whole(ptrdiff_t in_width, ptrdiff_t in_height, ptrdiff_t out_width,
                                            ptrdiff_t out_height) {
    hssl_resize r = {in_width, in_height, 0, 0, (float)in_width, (float)in_height, out_width, out_height, 0, 0,
                     out_width, out_height, false};
    return r;
}
size_t hssl_resize_bicubic_workspace_size(const hssl_resize *resize);
/// Rows of `source` are `source_stride` bytes apart; `target` is [crop_height, crop_width, 3].
void hssl_resize_bicubic(const hssl_resize *resize, const uint8_t *source, ptrdiff_t source_stride, uint8_t *target,
                         void *workspace);

/// torchvision's colour jitter on Pillow images, in place on `pixels` pixels. factor ≥ 0, 1 changes nothing; hue shift
/// in [-0.5, 0.5] turns.
void hssl_adjust_brightness(ptrdiff_t pixels, uint8_t *rgb, float factor);
void hssl_adjust_contrast(ptrdiff_t pixels, uint8_t *rgb, float factor);
void hssl_adjust_saturation(ptrdiff_t pixels, uint8_t *rgb, float factor);
void hssl_adjust_hue(ptrdiff_t pixels, uint8_t *rgb, float shift);
/// ITU-R 601-2 luma in all three channels (Pillow's `convert("L")`).
void hssl_grayscale(ptrdiff_t pixels, uint8_t *rgb);
/// v ≥ threshold becomes 255 − v.
void hssl_solarize(ptrdiff_t pixels, uint8_t *rgb, int threshold);
void hssl_flip_horizontal(ptrdiff_t width, ptrdiff_t height, uint8_t *rgb);

/// Pillow's `ImageFilter.GaussianBlur(sigma)`, to the bit: three extended box blurs an axis. 0 ≤ sigma ≤
/// HSSL_MAX_BLUR_SIGMA.
#define HSSL_MAX_BLUR_SIGMA 64.0f
size_t hssl_gaussian_blur_workspace_size(ptrdiff_t width, ptrdiff_t height);
void hssl_gaussian_blur(ptrdiff_t width, ptrdiff_t height, uint8_t *rgb, float sigma, void *workspace);

/// planes[c][i] = (rgb[i][c]/255 − mean[c])/std[c], computed as rgb·(1/(255·std)) + (−mean/std): [3, pixels] float32.
void hssl_normalize_rgb(ptrdiff_t pixels, const uint8_t *rgb, const float mean[3], const float std[3], float *planes);

#ifdef __cplusplus
}
#endif
#endif
