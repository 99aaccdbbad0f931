#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "base/base.h"
#include "gemm/gemm.h"

#pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX2))), apply_to = function)

enum { NR = 16 };
#define HSSL_WIDTH 8
#define HSSL_TILE_COLUMNS NR
#define HSSL_OUTPUT_F32 hssl_gemm_output_f32__avx2
#define HSSL_OUTPUT_S32 hssl_gemm_output_s32_f32__avx2
#include "gemm/output.h"
#include "gemm/x86_tiles.h"

// K rows of a slice, NR = 16 floats each: what a tile reads lies together in 16 KB of L1, where the panel's rows of 256
// bytes would share a quarter of its sets.
void hssl_gemm_f32_slice_16__avx2(ptrdiff_t K, const float *panel, float *slice) {
    for (ptrdiff_t k = 0; k < K; ++k) HSSL_UNROLL for (int v = 0; v < 2; ++v) {
        _mm256_store_ps(slice + k * NR + 8 * v, _mm256_loadu_ps(panel + k * PANEL + 8 * v));
    }
}

// One k: 12 accumulators, 2 vectors of B, 1 broadcast of A.
HSSL_INLINE void float_step(int rows, int vectors, const float *a, ptrdiff_t a_row, const float *b, __m256 sum[6][2]) {
    __m256 y[2];
    HSSL_UNROLL for (int v = 0; v < vectors; ++v) y[v] = _mm256_load_ps(b + 8 * v);
    HSSL_UNROLL for (int r = 0; r < rows; ++r) {
        const __m256 x = _mm256_broadcast_ss(a + r * a_row);
        HSSL_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] = _mm256_fmadd_ps(x, y[v], sum[r][v]);
    }
}

// Eight k at a time: what bounds a tile is how many instructions are issued a cycle (3 where another hardware thread
// uses the core), and the loop's own count.
HSSL_INLINE void float_tile(int rows, int vectors, ptrdiff_t K, const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                            const float *b, float *tile, bool add) {
    __m256 sum[6][2];
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v
        < vectors; ++v) sum[r][v] = _mm256_setzero_ps();
    ptrdiff_t k = 0;
    HSSL_ALIGNED_LOOP for (; k + 8 <= K; k += 8, a += 8 * a_k, b += 8 * NR) {
        HSSL_UNROLL for (int i = 0; i < 8; ++i) float_step(rows, vectors, a + i * a_k, a_row, b + i * NR, sum);
    }
    for (; k < K; ++k, a += a_k, b += NR) float_step(rows, vectors, a, a_row, b, sum);
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        float *const out = tile + r * NR + 8 * v;
        _mm256_storeu_ps(out, add ? _mm256_add_ps(_mm256_loadu_ps(out), sum[r][v]) : sum[r][v]);
    }
}

void hssl_gemm_f32_6x16__avx2(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const float *a, ptrdiff_t a_row,
                              ptrdiff_t a_k, const float *b, float *tile, bool add, const hssl_gemm_prefetch *next) {
#define CASE(R, V) float_tile(R, V, K, a, a_row, a_k, b, tile, add)
#define CASE_IN_PLACE(R, V) float_tile(R, V, K, a, a_row, 1, b, tile, add)
    (void)next;
    if (a_k == 1) {
        HSSL_TILE_SWITCH_6x2(rows, (columns + 7) / 8, CASE_IN_PLACE)
    } else {
        HSSL_TILE_SWITCH_6x2(rows, (columns + 7) / 8, CASE)
    }
#undef CASE_IN_PLACE
#undef CASE
}

// The products of pairs that VPMADDUBSW adds must fit 16 bits: 127 · (127 + 127) does, 255 · (127 + 127) does not. So
// codes of A go as they are, |b| × sign(a, b), or unsigned times b, three instructions instead of four: as a + zero ≥ 0
// where a tile has none far below 0, or from 1 to 255 where few are large (the zero of GELU's codes is near the lower
// end), if the few k whose pairs might not fit go in two parts, of a's lower seven bits and of its highest.

/// A slice of codes: for every four k the codes of 16 columns, then their magnitudes.
typedef struct {
    int8_t codes[SLICE_KC * 2 * NR];
    uint16_t pairs[SLICE_KC / 2];  // max |b(k)| + |b(k + 1)| of the columns, k even; 0 after K
    int32_t column_sums[NR], start[NR];
    int32_t largest_pair;  // max |b(k)| + |b(k + 1)|, k even
} integer_slice;
_Static_assert(sizeof(integer_slice) <= SLICE_BYTES, "a driver's slice has room for one");

/// A tile of A, after its rows of K codes: a − 128 + zero.
typedef struct {
    int32_t zero;  // −1: nothing was added, some are far below 0; 128: few are large; else none is far below 0
    uint8_t pairs[SLICE_KC / 2];  // with a zero of 128: max a(k), a(k + 1) of the rows, k even
} integer_rows;
enum { LARGEST_ZERO = 40 };              // pairs that fit would have to be small
enum { UNSIGNED_ZERO = 128 };            // codes as they come
enum { LARGE_CODE = 192, LARGE_PAIRS = 8 };  // of pairs of k one in so many may hold such a code
_Static_assert(sizeof(integer_rows) <= CENTERED_ROOM, "a driver's centred rows have room for one");

void hssl_gemm_u8s8_slice_16__avx2(ptrdiff_t K, const int8_t *panel, const int32_t *start, void *slice) {
    integer_slice *const to = slice;
    memcpy(to->start, start, sizeof to->start);
    const __m256i ones = _mm256_set1_epi16(1), byte_ones = _mm256_set1_epi8(1);
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}, largest = _mm256_setzero_si256();
    int8_t *codes = to->codes;
    __m256i sum_of_pair[2];
    for (ptrdiff_t k = 0; k < K; k += 4, panel += 4 * PANEL, codes += 8 * NR) HSSL_UNROLL for (int v = 0; v < 2; ++v) {
        const __m256i y = _mm256_loadu_si256((const __m256i *)(panel + 32 * v)), magnitude = _mm256_abs_epi8(y);
        _mm256_store_si256((__m256i *)(codes + 32 * v), y);
        _mm256_store_si256((__m256i *)(codes + 4 * NR + 32 * v), magnitude);
        sums[v] = _mm256_add_epi32(sums[v], _mm256_madd_epi16(_mm256_maddubs_epi16(byte_ones, y), ones));
        sum_of_pair[v] = _mm256_maddubs_epi16(magnitude, byte_ones);
        if (v == 0) continue;
        const __m256i both = _mm256_max_epi16(sum_of_pair[0], sum_of_pair[1]);
        largest = _mm256_max_epi16(largest, both);
        __m128i four = _mm_max_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
        four = _mm_max_epi16(four, _mm_srli_si128(four, 8));
        const int32_t two = _mm_cvtsi128_si32(_mm_max_epi16(four, _mm_srli_si128(four, 4)));
        memcpy(to->pairs + k / 2, &two, sizeof two);
    }
    for (ptrdiff_t k = K; k % 32 != 0; k += 2) to->pairs[k / 2] = 0;
    HSSL_UNROLL for (int v = 0; v < 2; ++v) _mm256_storeu_si256((__m256i *)(to->column_sums + 8 * v), sums[v]);
    int16_t pairs[16];
    _mm256_storeu_si256((__m256i *)pairs, largest);
    to->largest_pair = 0;
    for (int i = 0; i < 16; ++i) to->largest_pair = pairs[i] > to->largest_pair ? pairs[i] : to->largest_pair;
}

HSSL_INLINE void add_to_codes(ptrdiff_t rows, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, uint8_t addend,
                              uint8_t *codes) {
    const __m256i added = _mm256_set1_epi8((char)addend);
    for (ptrdiff_t r = 0; r < rows; ++r, a += lda, codes += K) {
        ptrdiff_t k = 0;
        for (; k + 32 <= K; k += 32) {
            const __m256i x = _mm256_loadu_si256((const __m256i *)(a + k));
            _mm256_storeu_si256((__m256i *)(codes + k), _mm256_add_epi8(x, added));
        }
        for (; k < K; ++k) codes[k] = (uint8_t)(a[k] + addend);
    }
}

HSSL_INLINE int least_byte(__m256i x) {
    const __m128i bytes = _mm_min_epu8(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i words = _mm_min_epu16(_mm_and_si128(bytes, _mm_set1_epi16(0xFF)), _mm_srli_epi16(bytes, 8));
    return _mm_extract_epi16(_mm_minpos_epu16(words), 0);
}

/// The largest codes of pairs of k, and whether few are large.
HSSL_INLINE bool has_few_large(ptrdiff_t rows, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, uint8_t *pairs) {
    ptrdiff_t large = 0;
    for (ptrdiff_t k = 0; k < K; k += 16) {
        __m128i bytes = _mm_setzero_si128();
        for (ptrdiff_t r = 0; r < rows; ++r) {
            uint8_t last[16] = {0};
            const uint8_t *const row = a + r * lda + k;
            if (k + 16 > K) memcpy(last, row, (size_t)(K - k));
            bytes = _mm_max_epu8(bytes, _mm_loadu_si128((const __m128i *)(k + 16 > K ? last : row)));
        }
        const __m128i words = _mm_max_epu8(_mm_and_si128(bytes, _mm_set1_epi16(0xFF)), _mm_srli_epi16(bytes, 8));
        _mm_storel_epi64((__m128i *)(pairs + k / 2), _mm_packus_epi16(words, words));
        const __m128i is_large = _mm_cmpgt_epi16(words, _mm_set1_epi16(LARGE_CODE - 1));
        large += __builtin_popcount((unsigned)_mm_movemask_epi8(is_large)) / 2;
    }
    return large * LARGE_PAIRS * 2 <= K;
}

void hssl_gemm_u8s8_center__avx2(ptrdiff_t rows, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda, void *centered) {
    int least = 128;
    for (ptrdiff_t r = 0; r < rows && least >= 128 - LARGEST_ZERO; ++r) {
        __m256i bytes = _mm256_set1_epi8((char)128);
        ptrdiff_t k = 0;
        for (; k + 32 <= K; k += 32) {
            bytes = _mm256_min_epu8(bytes, _mm256_loadu_si256((const __m256i *)(a + r * lda + k)));
        }
        for (; k < K; ++k) least = a[r * lda + k] < least ? a[r * lda + k] : least;
        const int least_of_row = least_byte(bytes);
        least = least_of_row < least ? least_of_row : least;
    }
    integer_rows after = {.zero = least >= 128 - LARGEST_ZERO ? 128 - least : -1};
    if (after.zero < 0 && has_few_large(rows, K, a, lda, after.pairs)) after.zero = UNSIGNED_ZERO;
    add_to_codes(rows, K, a, lda, (uint8_t)(after.zero < 0 ? 128 : after.zero - 128), centered);
    memcpy((char *)centered + rows * K, &after, sizeof after);
}

// Four k.
HSSL_INLINE void integer_step(bool positive, int rows, int vectors, const uint8_t *a, ptrdiff_t lda, const int8_t *b,
                              __m256i sum[4][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i magnitude[2];
    HSSL_UNROLL for (int v = 0; v < vectors
        && !positive; ++v) magnitude[v] = _mm256_load_si256((const __m256i *)(b + 4 * NR + 32 * v));
    HSSL_UNROLL for (int r = 0; r < rows; ++r) {
        int32_t four;
        memcpy(&four, a + r * lda, 4);
        const __m256i x = _mm256_set1_epi32(four);
        HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
            const __m256i y = _mm256_load_si256((const __m256i *)(b + 32 * v));
            const __m256i pairs = positive
                ? _mm256_maddubs_epi16(x, y) : _mm256_maddubs_epi16(magnitude[v], _mm256_sign_epi8(x, y));
            sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(pairs, ones));
        }
    }
}

// Four k whose pairs might not fit 16 bits: 127 · (127 + 127) and 128 · (127 + 127) do.
HSSL_INLINE void integer_step_in_parts(int rows, int vectors, const uint8_t *a, ptrdiff_t lda, const int8_t *b,
                                       __m256i sum[4][2]) {
    const __m256i ones = _mm256_set1_epi16(1), highest = _mm256_set1_epi8((char)128);
    HSSL_UNROLL for (int r = 0; r < rows; ++r) {
        int32_t four;
        memcpy(&four, a + r * lda, 4);
        const __m256i x = _mm256_set1_epi32(four), high = _mm256_and_si256(x, highest),
            low = _mm256_andnot_si256(highest, x);
        HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
            const __m256i y = _mm256_load_si256((const __m256i *)(b + 32 * v));
            sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(_mm256_maddubs_epi16(low, y), ones));
            sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(_mm256_maddubs_epi16(high, y), ones));
        }
    }
}

/// Of every sixteen k eight times two bits, the second of which says that a pair might not fit 16 bits.
HSSL_INLINE void mark_pairs(ptrdiff_t K, const uint8_t *pairs_a, const uint16_t *pairs_b, uint16_t *marks) {
    for (ptrdiff_t pair = 0; pair < K / 2; pair += 16) {
        const __m256i x = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(pairs_a + pair))),
            y = _mm256_loadu_si256((const __m256i *)(pairs_b + pair));
        // 255 · 254 is less than 2¹⁶.
        const uint32_t both = (uint32_t)_mm256_movemask_epi8(_mm256_mullo_epi16(x, y)) & 0xAAAAAAAA;
        memcpy(marks + pair / 8, &both, sizeof both);
    }
}

/// `marks`, or NULL: all pairs fit.
HSSL_INLINE void integer_tile(bool positive, const uint16_t *marks, int zero, int rows, int vectors, ptrdiff_t K,
                              const uint8_t *a, ptrdiff_t lda, const integer_slice *slice, int32_t *tile) {
    __m256i sum[4][2];
    const int8_t *b = slice->codes;
    HSSL_UNROLL for (int r = 0; r < rows; ++r) HSSL_UNROLL for (int v = 0; v
        < vectors; ++v) sum[r][v] = _mm256_setzero_si256();
    ptrdiff_t k = 0;
    while (k < K) {
        HSSL_ALIGNED_LOOP for (; k + 16 <= K && !(marks && marks[k / 16]); k += 16, a += 16, b += 32 * NR) {
            HSSL_UNROLL for (int i = 0; i < 4; ++i) integer_step(
                positive, rows, vectors, a + 4 * i, lda, b + 8 * NR * i, sum);
        }
        for (const ptrdiff_t end = hssl_min(K, k + 16); k < end; k += 4, a += 4, b += 8 * NR) {
            if (marks && marks[k / 16] >> k % 16 & 0xF) integer_step_in_parts(rows, vectors, a, lda, b, sum);
            else integer_step(positive, rows, vectors, a, lda, b, sum);
        }
    }
    HSSL_UNROLL for (int v = 0; v < vectors; ++v) {
        const __m256i columns = _mm256_loadu_si256((const __m256i *)(slice->column_sums + 8 * v));
        const __m256i start = _mm256_loadu_si256((const __m256i *)(slice->start + 8 * v));
        const __m256i first = positive
            ? _mm256_sub_epi32(start, _mm256_mullo_epi32(_mm256_set1_epi32(zero), columns)) : start;
        HSSL_UNROLL for (int r = 0; r < rows; ++r) {
            _mm256_storeu_si256((__m256i *)(tile + r * NR + 8 * v), _mm256_add_epi32(sum[r][v], first));
        }
    }
}

void hssl_gemm_u8s8_s32_4x16c4__avx2(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const uint8_t *a, ptrdiff_t lda,
                                     const void *panel, int32_t *tile, const hssl_gemm_prefetch *next) {
    (void)next;
    const integer_slice *const slice = panel;
    const uint8_t *const after = a + rows * lda;
    int32_t zero;
    memcpy(&zero, after + offsetof(integer_rows, zero), sizeof zero);
    if (zero == UNSIGNED_ZERO) {
        uint16_t marks[SLICE_KC / 16];
        mark_pairs(K, after + offsetof(integer_rows, pairs), slice->pairs, marks);
#define CASE(R, V) integer_tile(true, marks, zero, R, V, K, a, lda, slice, tile)
        HSSL_TILE_SWITCH_4x2(rows, (columns + 7) / 8, CASE)
#undef CASE
        return;
    }
    if (zero >= 0 && (127 + zero) * slice->largest_pair <= INT16_MAX) {
#define CASE(R, V) integer_tile(true, NULL, zero, R, V, K, a, lda, slice, tile)
        HSSL_TILE_SWITCH_4x2(rows, (columns + 7) / 8, CASE)
#undef CASE
        return;
    }
    uint8_t codes[4 * SLICE_KC];
    if (zero > 0) {
        add_to_codes(rows, K, a, lda, (uint8_t)-zero, codes);
        a = codes;
        lda = K;
    }
#define CASE(R, V) integer_tile(false, NULL, 0, R, V, K, a, lda, slice, tile)
    HSSL_TILE_SWITCH_4x2(rows, (columns + 7) / 8, CASE)
#undef CASE
}

enum { ACCUMULATORS = 14 };  // of 16 registers: latency 4–5 × 2 a cycle needs 10

double hssl_peak_f32__avx2(ptrdiff_t iterations) {
    __m256 sum[ACCUMULATORS], x = _mm256_set1_ps(1.0f);
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) sum[j] = _mm256_setzero_ps();
    for (ptrdiff_t i = 0; i < iterations; ++i) {
        HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) sum[j] = _mm256_fmadd_ps(x, x, sum[j]);
    }
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS; ++j) __asm__ volatile("" : : "x"(sum[j]));
    return 2.0 * 8 * ACCUMULATORS * (double)iterations;
}

double hssl_peak_u8s8__avx2(ptrdiff_t iterations) {
    __m256i sum[ACCUMULATORS - 1], x = _mm256_set1_epi8(1);
    const __m256i ones = _mm256_set1_epi16(1);
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS - 1; ++j) sum[j] = _mm256_setzero_si256();
    for (ptrdiff_t i = 0; i < iterations; ++i) {
        HSSL_UNROLL for (int j = 0; j < ACCUMULATORS - 1; ++j) {
            sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(_mm256_maddubs_epi16(x, x), ones));
            __asm__ volatile("" : "+x"(x));  // or the products would be one
        }
    }
    HSSL_UNROLL for (int j = 0; j < ACCUMULATORS - 1; ++j) __asm__ volatile("" : : "x"(sum[j]));
    return 2.0 * 32 * (ACCUMULATORS - 1) * (double)iterations;
}

#pragma clang attribute pop
#endif
