// Attention over integer codes: both products exact, softmax in 16-bit arithmetic. For models whose linear layers are int8.
//
// x ≈ code · scale, scale = max|x| / limit. Scores are products of 8-bit codes, as in the linear layers: one scale a query, one for the keys of a head.
// Of the keys their mean over the tokens is taken away first: it adds the same to all scores of a query, which softmax does not see, but in trained
// models it is what is largest in them (SageAttention, arXiv 2410.02367). Values and probabilities, e^(s − max) ≈ code / limit, have 16 bits, one scale for
// the values of a head: in 8 bits the small probabilities, which matter in sum, would be 0. Their limits are as wide as 32-bit sums allow. The sums are
// exact, hence the same on every row.
#ifndef HSSL_ATTENTION_INTEGERS_H
#define HSSL_ATTENTION_INTEGERS_H

#include <math.h>

#include "attention/attention.h"
#include "base/base.h"

/// Codes of q and k.
static const float hssl_attention_dot_limit = 127;

/// Codes of probabilities and of values: Σ over the tokens of limit · limit < 2³¹. Probabilities get a bit more each: 6602 and 1650 at 197 tokens.
static inline float hssl_attention_probability_limit(ptrdiff_t tokens) {
    return fmaxf(1, fminf(32767, floorf(2 * sqrtf(0x1p31f / ((float)tokens + 1)))));
}
static inline float hssl_attention_value_limit(ptrdiff_t tokens) {
    const float room = 0x1p31f / ((float)tokens + 1) / hssl_attention_probability_limit(tokens);
    return fmaxf(1, fminf(32767, floorf(room)));
}

typedef struct {
    float scale, inverse, limit;
} hssl_attention_grid;

/// `largest`: max|x|, possibly NaN or infinite: then the scale is too.
static inline hssl_attention_grid hssl_attention_grid_of(float largest, float limit) {
    const bool zero = largest < limit * 0x1p-126f;
    return (hssl_attention_grid){zero ? 0 : largest / limit, zero ? 0 : limit / largest, limit};
}

/// e^x · limit for x ≤ 0 as round(2^−t · limit) in 16-bit arithmetic, t = −x·log₂e in steps of 1/4096 up to 16, so that every row has the same codes:
///
///   y = t · 4096 as u16, n = y >> 12, g = y << 4 (the fraction of t in 16 bits),
///   p = 65535 − ⌊g·(C1 − ⌊g·(C2 − ⌊g·C3⌋)⌋)⌋, products shifted right by 16: 2^−g · 65536 within 1.1e-4 of itself (minimax by reweighted least
///   squares, then a search over the last bits), code = (⌊⌊p · 2·limit / 65536⌋ / 2ⁿ⌋ + 1) >> 1.
enum { HSSL_EXPONENT_STEPS = 4096, HSSL_EXPONENT_C1 = 45322, HSSL_EXPONENT_C2 = 15147, HSSL_EXPONENT_C3 = 2596 };

typedef struct { hssl_attention_grid keys, values; } hssl_attention_grids;

/// The panels of a head and the scratch of a strip. Where there is no memory only the sizes are known.
typedef struct {
    ptrdiff_t ld;                 // tokens, padded to pairs of the widest vectors
    ptrdiff_t ld_head;            // head_dim, the same
    hssl_attention_grids *grids;  // [1]
    float *key_mean;              // [ld_head]
    int32_t *key_sums;            // −128 · the sum of a token's codes [ld]
    int32_t *keys;                // fours along head_dim [head_dim / 4, ld]
    int32_t *values;              // pairs along the tokens [tokens / 2, ld_head]
    int8_t *queries;              // of a strip [strip, ld_head]
    int32_t *scores;              // [strip, ld]
    int16_t *probabilities;       // [strip, ld]
    hssl_attention_bytes bytes;
} hssl_attention_integer_layout;

static inline hssl_attention_integer_layout hssl_attention_integer_layout_at(ptrdiff_t tokens, ptrdiff_t head_dim, void *panels, void *scratch) {
    hssl_attention_integer_layout at = {.ld = hssl_attention_ld(hssl_round_up(tokens, 32)), .ld_head = hssl_round_up(head_dim, 16)};
    const ptrdiff_t strip = hssl_attention_strip(tokens);
#define TAKE(member, count, memory, taken)                                         \
    at.member = memory ? (void *)((char *)memory + at.bytes.taken) : NULL;         \
    at.bytes.taken += (size_t)hssl_round_up((ptrdiff_t)sizeof *at.member * (count), 64)
    TAKE(grids, 1, panels, panels);
    TAKE(key_mean, at.ld_head, panels, panels);
    TAKE(key_sums, at.ld, panels, panels);
    TAKE(keys, (head_dim + 3) / 4 * at.ld, panels, panels);
    TAKE(values, (tokens + 1) / 2 * at.ld_head, panels, panels);
    TAKE(queries, strip * at.ld_head, scratch, strip);
    TAKE(scores, strip * at.ld, scratch, strip);
    TAKE(probabilities, strip * at.ld, scratch, strip);
#undef TAKE
    return at;
}

#endif
