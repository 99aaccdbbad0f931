// The attention family: one row of kernels per instruction set (kernels.inc). A kernel is serial and treats one head of
// one sample, the forwards a strip of its queries. README.md describes the products and the scratch panels.
#ifndef HSSL_ATTENTION_H
#define HSSL_ATTENTION_H

#include "CSupport.h"

/// One head of one sample. Row t of q, k and v starts at t·ld_qkv (3·heads·head_dim), row t of an output at t·ld_out
/// (heads·head_dim).
typedef struct {
    ptrdiff_t tokens, head_dim, ld_qkv, ld_out;
} hssl_attention_shape;

/// What the strips of one head have in common. q, k, v and out are float32, for a forward over integer codes binary16.
/// `log_sum_exp` [tokens] may be NULL. `panels` is what `prepare` makes of k and v.
typedef struct {
    hssl_attention_shape shape;
    const void *q, *k, *v;
    void *out;
    float *log_sum_exp;
    void *panels;
} hssl_attention_head;

/// What a forward does with a head before its strips, and with the queries begin ..< end, at most a strip. A query's
/// result does not depend on the range.
typedef struct {
    void (*prepare)(const hssl_attention_head *head);
    void (*strip)(const hssl_attention_head *head, ptrdiff_t begin, ptrdiff_t end, void *scratch);
} hssl_attention_forward;

typedef struct {
    hssl_attention_forward forward;
    void (*backward)(const hssl_attention_shape *shape, const float *q, const float *k, const float *v,
                     const float *out, const float *log_sum_exp, const float *dout, float *dq, float *dk, float *dv,
                     float *scratch);
    /// A strip of a forward whose scores have bias and mask [tokens, tokens] (either may be NULL) added; `prepare` is
    /// that of `forward`.
    void (*strip_biased)(const hssl_attention_head *head, const float *bias, const float *mask, ptrdiff_t begin,
                         ptrdiff_t end, void *scratch);
    /// Its backward; dbias, whose rows are hssl_attention_ld(tokens) apart, is added to unless NULL. What is added
    /// right of the tokens means nothing.
    void (*backward_biased)(const hssl_attention_shape *shape, const float *q, const float *k, const float *v,
                            const float *out, const float *log_sum_exp, const float *dout, const float *bias,
                            const float *mask, float *dq, float *dk, float *dv, float *dbias, float *scratch);
    /// The forward over integer codes (integers.h).
    hssl_attention_forward forward_integer;
} hssl_attention_kernels;

/// The row of the selected instruction set.
const hssl_attention_kernels *hssl_attention_selected(void);

#define HSSL_KERNEL(family, table, isa) extern const hssl_attention_kernels table;
#include "attention/kernels.inc"
#undef HSSL_KERNEL

/// Rows of a transposed panel or of a strip of scores: tokens padded to the widest vector (16 floats), and never a
/// multiple of 512 bytes, which would map a column of the panel to few cache sets.
static inline ptrdiff_t hssl_attention_ld(ptrdiff_t tokens) {
    ptrdiff_t padded = (tokens + 15) / 16 * 16;
    return padded % 128 == 0 ? padded + 16 : padded;
}

/// Queries per strip: the scores of a strip stay in L1 or near it. A short sequence is one strip.
enum { HSSL_ATTENTION_MAX_STRIP = 64 };
static inline ptrdiff_t hssl_attention_strip(ptrdiff_t tokens) {
    return tokens <= HSSL_ATTENTION_MAX_STRIP ? tokens : 36;
}

/// Bytes of a forward's panels and of the scratch of a strip, the same for every row.
typedef struct { size_t panels, strip; } hssl_attention_bytes;

/// kᵀ and a strip of scores.
static inline hssl_attention_bytes hssl_attention_forward_bytes(ptrdiff_t tokens, ptrdiff_t head_dim) {
    const size_t row = sizeof(float) * (size_t)hssl_attention_ld(tokens);
    return (hssl_attention_bytes){(size_t)head_dim * row, (size_t)hssl_attention_strip(tokens) * row};
}

/// Floats of scratch of a backward: kᵀ, vᵀ, a strip of scores and one of their gradients.
static inline ptrdiff_t hssl_attention_backward_scratch(ptrdiff_t tokens, ptrdiff_t head_dim) {
    return 2 * (head_dim + hssl_attention_strip(tokens)) * hssl_attention_ld(tokens);
}

#endif
