// Attention over integer codes: both products exact, softmax in 16-bit arithmetic. For models whose linear layers are int8.
//
// x ≈ code · scale, scale = max|x| / limit. Both products are of 8-bit codes, as in the linear layers: one scale a query, one for the keys of a head, one
// for each channel of its values. Of keys and values the mean over the tokens is taken away first. Of keys it adds the same to all scores of a query, which
// softmax does not see, but in trained models it is what is largest in them (SageAttention, arXiv 2410.02367). Of values it comes out as it is, whatever
// the probabilities: out = mean + Σ p·(v − mean) / Σ p. With Σ p from 16-bit codes that makes 8 bits enough for the p of the product: those below a 510th of
// the largest become 0, and what they would have added, many as they may be, is nearly the mean. The sums are exact, hence the same on every row.
#ifndef HSSL_ATTENTION_INTEGERS_H
#define HSSL_ATTENTION_INTEGERS_H

#include <math.h>

#include "attention/attention.h"
#include "base/base.h"

/// Codes of q, k and v.
static const float hssl_attention_code_limit = 127;

/// Codes of probabilities: in sums of themselves, and rounded to fewer bits in products with values. Both sums stay below 2³¹ for HSSL_ATTENTION_INTEGER_TOKENS.
enum { HSSL_ATTENTION_PROBABILITY_SHIFT = 7, HSSL_ATTENTION_PROBABILITY_LIMIT = 255 << HSSL_ATTENTION_PROBABILITY_SHIFT };

typedef struct {
    float scale, inverse;
} hssl_attention_grid;

/// `largest`: max|x|, possibly NaN or infinite: then the scale is too.
static inline hssl_attention_grid hssl_attention_grid_of(float largest) {
    const float limit = hssl_attention_code_limit;
    const bool zero = largest < limit * 0x1p-126f;
    return (hssl_attention_grid){zero ? 0 : largest / limit, zero ? 0 : limit / largest};
}

/// The code of a probability, e^x · limit for x ≤ 0, as round(2^−t · limit) in 16-bit arithmetic, t = −x·log₂e in steps of 1/4096 up to 16, so that every
/// row has the same codes:
///
///   y = t · 4096 as u16, n = y >> 12, g = y << 4 (the fraction of t in 16 bits),
///   p = 65535 − ⌊g·(C1 − ⌊g·(C2 − ⌊g·C3⌋)⌋)⌋, products shifted right by 16: 2^−g · 65536 within 1.1e-4 of itself (minimax by reweighted least
///   squares, then a search over the last bits), code = (⌊⌊p · 2·limit / 65536⌋ / 2ⁿ⌋ + 1) >> 1.
enum { HSSL_EXPONENT_STEPS = 4096, HSSL_EXPONENT_C1 = 45322, HSSL_EXPONENT_C2 = 15147, HSSL_EXPONENT_C3 = 2596 };

/// The panels of a head and the scratch of a strip. Where there is no memory only the sizes are known.
typedef struct {
    ptrdiff_t ld;                   // tokens, see hssl_attention_ld
    ptrdiff_t ld_head;              // head_dim, padded to the widest vectors
    ptrdiff_t ld_probabilities;     // tokens, padded to four of them
    hssl_attention_grid *key_grid;  // [1]
    float *key_mean;                // [ld_head]
    int32_t *key_sums;              // −128 · the sum of a token's codes [ld]
    int32_t *keys;                  // fours along head_dim [head_dim / 4, ld]
    float *value_mean;              // [ld_head]
    float *value_scale;             // [ld_head]
    float *value_inverse;           // [ld_head]
    int32_t *values;                // fours along the tokens [tokens / 4, ld_head]
    int8_t *queries;                // of a strip [strip, ld_head]
    int32_t *scores;                // [strip, ld]
    uint8_t *probabilities;         // [strip, ld_probabilities]
    hssl_attention_bytes bytes;
} hssl_attention_integer_layout;

static inline hssl_attention_integer_layout hssl_attention_integer_layout_at(ptrdiff_t tokens, ptrdiff_t head_dim, void *panels, void *scratch) {
    hssl_attention_integer_layout at = {
        .ld = hssl_attention_ld(tokens), .ld_head = hssl_round_up(head_dim, 16), .ld_probabilities = hssl_round_up(tokens, 64)};
    const ptrdiff_t strip = hssl_attention_strip(tokens);
#define TAKE(member, count, memory, taken)                                         \
    at.member = memory ? (void *)((char *)memory + at.bytes.taken) : NULL;         \
    at.bytes.taken += (size_t)hssl_round_up((ptrdiff_t)sizeof *at.member * (count), 64)
    TAKE(key_grid, 1, panels, panels);
    TAKE(key_mean, at.ld_head, panels, panels);
    TAKE(key_sums, at.ld, panels, panels);
    TAKE(keys, (head_dim + 3) / 4 * at.ld, panels, panels);
    TAKE(value_mean, at.ld_head, panels, panels);
    TAKE(value_scale, at.ld_head, panels, panels);
    TAKE(value_inverse, at.ld_head, panels, panels);
    TAKE(values, (tokens + 3) / 4 * at.ld_head, panels, panels);
    TAKE(queries, strip * at.ld_head, scratch, strip);
    TAKE(scores, strip * at.ld, scratch, strip);
    TAKE(probabilities, strip * at.ld_probabilities, scratch, strip);
#undef TAKE
    return at;
}

#endif
