// Attention over integer codes: both products exact, softmax in 16-bit arithmetic. For models whose linear layers are
// int8.
//
// x ≈ code · scale, scale = max|x| / limit. Both products are of 8-bit codes, as in the linear layers: one scale a
// query, one for the keys of a head, one for each channel of its values. Of keys and values the mean over the tokens is
// taken away first. Of keys it adds the same to all scores of a query, which softmax does not see, but in trained
// models it is what is largest in them (SageAttention, arXiv 2410.02367). Of values it comes out as it is, whatever the
// probabilities: out = mean + Σ p·(v − mean) / Σ p. With Σ p from 16-bit codes that makes 8 bits enough for the p of
// the product: those below a 510th of the largest become 0, and what they would have added, many as they may be, is
// nearly the mean. The sums are exact, hence the same on every row.
#ifndef HSSL_ATTENTION_INTEGERS_H
#define HSSL_ATTENTION_INTEGERS_H

#include <math.h>

#include "attention/attention.h"
#include "base/base.h"

/// Codes of q, k and v.
static const float hssl_attention_code_limit = 127;

/// Codes of probabilities have 15 bits in sums of themselves, and are rounded to 8 in products with values. Both sums
/// stay below 2³¹ for HSSL_ATTENTION_INTEGER_TOKENS.
enum { HSSL_ATTENTION_PROBABILITY_SHIFT = 7 };

typedef struct {
    float scale, inverse;
} hssl_attention_grid;

/// `largest`: max|x|, possibly NaN or infinite: then the scale is too.
static inline hssl_attention_grid hssl_attention_grid_of(float largest) {
    const float limit = hssl_attention_code_limit;
    const bool zero = largest < limit * 0x1p-126f;
    return (hssl_attention_grid){zero ? 0 : largest / limit, zero ? 0 : limit / largest};
}

/// Scores are kept in 16 bits: sums of products of codes, shifted right (towards −∞) until the largest possible one
/// fits. With head_dim 64 that takes 5 of some 7 bits that the rounding of queries and keys has made noise.
static inline int hssl_attention_score_shift(ptrdiff_t head_dim) {
    int shift = 0;
    while ((head_dim * 127 * 127) >> shift > INT16_MAX) shift++;
    return shift;
}

/// A score that no sum has: of what is no token.
enum { HSSL_ATTENTION_NO_SCORE = INT16_MIN };

/// The code of a probability 2^−t, in integers, so that every row has the same codes. With y = t · 4096:
///
///   n = y >> 12, g = the next six bits of y and a one, as the first of 16,
///   p = 65535 − ⌊g·(C1 − ⌊g·(C2 − ⌊g·C3⌋)⌋)⌋, products shifted right by 16: 2^−g · 65536 within 1.2e-4 of itself,
///   code = (⌊p / 2ⁿ⌋ + 1) >> 1, and 0 from 16 octaves on
///
/// So there are 64 codes an octave, each within 0.55 % of the probability, of which the largest is 32591; a register or
/// two hold all p that there are.
enum { HSSL_EXPONENT_C1 = 45306, HSSL_EXPONENT_C2 = 15096, HSSL_EXPONENT_C3 = 2558 };

/// Of y a unit of x in e^−x.
static const float hssl_attention_exponent_steps = 1.44269504089f * 4096;

/// The grid of a query, which makes a unit of score a whole `multiplier` of y: that takes up to one part in
/// `multiplier` of the codes' range. A score farther than 65535 / multiplier from the query's largest is 16 octaves
/// away.
typedef struct {
    float inverse, steps;
    int32_t multiplier;
} hssl_attention_query_grid;
enum { HSSL_ATTENTION_MAX_MULTIPLIER = 65535 };

/// `steps_of_scale`: of y a unit of score, for codes of scale 1. `steps` is that for the finest grid, and not finite if
/// `largest` is not.
static inline hssl_attention_query_grid hssl_attention_query_grid_of(float largest, float steps_of_scale) {
    const hssl_attention_grid finest = hssl_attention_grid_of(largest);
    const float steps = finest.scale * steps_of_scale,
        bounded = steps < HSSL_ATTENTION_MAX_MULTIPLIER ? steps : HSSL_ATTENTION_MAX_MULTIPLIER;
    const float multiplier = bounded > 1 ? ceilf(bounded) : 1;
    return (hssl_attention_query_grid){finest.inverse * (bounded / multiplier), steps, (int32_t)multiplier};
}

static inline float hssl_attention_steps_of_scale(const hssl_attention_grid *keys, ptrdiff_t head_dim) {
    return keys->scale / sqrtf((float)head_dim)
        * (hssl_attention_exponent_steps * (float)(1 << hssl_attention_score_shift(head_dim)));
}

/// The panels of a head and the scratch of a strip. Where there is no memory only the sizes are known.
typedef struct {
    ptrdiff_t ld;                   // tokens, see hssl_attention_ld
    ptrdiff_t ld_head;              // head_dim, padded to the widest vectors
    ptrdiff_t ld_scores;            // tokens, padded to two of them
    ptrdiff_t ld_probabilities;     // tokens, padded to four of them
    hssl_attention_grid *key_grid;  // [1]
    float *key_mean;                // [ld_head]
    int32_t *key_sums;              // what the scores of a token begin with [ld]
    int32_t *keys;                  // fours along head_dim [head_dim / 4, ld]
    float *value_mean;              // [ld_head]
    float *value_scale;             // [ld_head]
    float *value_inverse;           // [ld_head]
    int32_t *values;                // fours along the tokens [tokens / 4, ld_head]
    int8_t *queries;                // of a strip [strip, ld_head]
    int16_t *scores;                // [strip, ld_scores]
    uint8_t *probabilities;         // [strip, ld_probabilities]
    hssl_attention_bytes bytes;
} hssl_attention_integer_layout;

static inline hssl_attention_integer_layout hssl_attention_integer_layout_at(
    ptrdiff_t tokens, ptrdiff_t head_dim, void *panels, void *scratch) {
    hssl_attention_integer_layout at = {
        .ld = hssl_attention_ld(tokens),
        .ld_head = hssl_round_up(head_dim, 16),
        .ld_scores = hssl_round_up(tokens, 32),
        .ld_probabilities = hssl_round_up(tokens, 64)};
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
    TAKE(scores, strip * at.ld_scores, scratch, strip);
    TAKE(probabilities, strip * at.ld_probabilities, scratch, strip);
#undef TAKE
    return at;
}

#endif
