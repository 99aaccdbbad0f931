// Packing of B (once, offline) and of blocks of A and B (inside drivers). Layouts: gemm.h.
#include <string.h>

#include "gemm/gemm.h"

static ptrdiff_t panels(ptrdiff_t N) { return hssl_ceil_div(N, PANEL); }

size_t hssl_gemm_f32_packed_size(ptrdiff_t N, ptrdiff_t K) { return (size_t)(panels(N) * PANEL * K) * sizeof(float); }
size_t hssl_gemm_f16_packed_size(ptrdiff_t N, ptrdiff_t K) {
    return (size_t)(panels(N) * PANEL * K) * sizeof(uint16_t);
}
size_t hssl_gemm_u8s8_packed_size(ptrdiff_t N, ptrdiff_t K) {
    return (size_t)(panels(N) * hssl_gemm_u8s8_panel_bytes(hssl_round_up(K, 4)));
}

// Loading a model is mostly packing, and packing a PyTorch weight is a transpose: 4 × 4 blocks of 32-bit words, a cache
// line of a column at a time. (Four int8 codes of a column are such a word too.) Vectors of 16 bytes exist on every
// machine: no rows per instruction set.
typedef uint32_t words __attribute__((vector_size(16)));
typedef uint8_t bytes16 __attribute__((vector_size(16)));
enum { LINE = 16 };  // words of a cache line

static inline words load_words(const void *p) {
    words v;
    memcpy(&v, p, sizeof v);
    return v;
}

/// out[w][n] = in[n][w] for 4 columns n (of `stride` bytes) and 4 words w; a row of `out` has PANEL words.
static inline void transpose_4x4(const char *in, ptrdiff_t stride, char *out) {
    const words r0 = load_words(in), r1 = load_words(in + stride), r2 = load_words(in + 2 * stride),
        r3 = load_words(in + 3 * stride);
    const words a = __builtin_shufflevector(r0, r1, 0, 4, 1, 5), b = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
    const words c = __builtin_shufflevector(r0, r1, 2, 6, 3, 7), d = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
    const words t[4] = {
        __builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
        __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
    for (int w = 0; w < 4; ++w) memcpy(out + w * PANEL * 4, &t[w], sizeof t[w]);
}

/// out[w·PANEL + n] = word w of column n; columns are `stride` bytes apart. Other columns of `out` are left as they
/// are.
static void transpose_words(ptrdiff_t columns, ptrdiff_t count, const char *in, ptrdiff_t stride, char *out) {
    for (ptrdiff_t w0 = 0; w0 < count; w0 += LINE) {
        const ptrdiff_t end = hssl_min(count, w0 + LINE);
        for (ptrdiff_t n0 = 0; n0 < columns; n0 += 4) {
            const char *from = in + n0 * stride;
            char *to = out + n0 * 4;
            ptrdiff_t w = w0;
            if (n0 + 4 <= columns) {
                for (; w + 4 <= end; w += 4) transpose_4x4(from + w * 4, stride, to + w * PANEL * 4);
            }
            for (; w < end; ++w) {
                for (ptrdiff_t n = 0; n < hssl_min(4, columns - n0); ++n) {
                    memcpy(to + (w * PANEL + n) * 4, from + n * stride + w * 4, 4);
                }
            }
        }
    }
}

/// Four rows k of B whose columns are neighbours, interleaved: out[n][k] for 16 columns n, bits of `flip` turned over.
static inline void interleave_4x16(const int8_t *const in[4], ptrdiff_t n, char flip, int8_t *out) {
    bytes16 r[4];
    for (int k = 0; k < 4; ++k) {
        memcpy(&r[k], in[k] + n, sizeof r[k]);
        r[k] ^= flip;
    }
    for (int half = 0; half < 2; ++half) {
        const bytes16 a = half
            ? __builtin_shufflevector(r[0], r[1], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
                               : __builtin_shufflevector(r[0], r[1], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7,
                                                         23);
        const bytes16 b = half
            ? __builtin_shufflevector(r[2], r[3], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
                               : __builtin_shufflevector(r[2], r[3], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7,
                                                         23);
        const bytes16 low = __builtin_shufflevector(a, b, 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23);
        const bytes16 high = __builtin_shufflevector(
            a, b, 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31);
        memcpy(out + half * 32, &low, sizeof low);
        memcpy(out + half * 32 + 16, &high, sizeof high);
    }
}

void hssl_gemm_pack_panel_f32(ptrdiff_t columns, ptrdiff_t K, const float *b, ptrdiff_t k_stride, ptrdiff_t n_stride,
                              float *packed) {
    if (n_stride == 1 && columns == PANEL) {
        for (ptrdiff_t k = 0; k < K; ++k) memcpy(packed + k * PANEL, b + k * k_stride, PANEL * sizeof(float));
        return;
    }
    if (columns < PANEL) memset(packed, 0, (size_t)(K * PANEL) * sizeof(float));
    if (k_stride == 1) {
        transpose_words(columns, K, (const char *)b, n_stride * 4, (char *)packed);
        return;
    }
    for (ptrdiff_t k0 = 0; k0 < K; k0 += 8) {
        const ptrdiff_t end = hssl_min(K, k0 + 8);
        for (ptrdiff_t n = 0; n < columns; ++n) {
            for (ptrdiff_t k = k0; k < end; ++k) packed[k * PANEL + n] = b[k * k_stride + n * n_stride];
        }
    }
}

void hssl_gemm_pack_a(ptrdiff_t M, ptrdiff_t K, const float *a, ptrdiff_t m_stride, ptrdiff_t k_stride, ptrdiff_t mr,
                      float *packed) {
    for (ptrdiff_t m = 0; m < M; m += mr, packed += mr * K) {
        const ptrdiff_t rows = hssl_min(mr, M - m);
        if (m_stride == 1 && rows == 6 && mr == 6) {  // weight gradients: two moves a column
            for (ptrdiff_t k = 0; k < K; ++k) memcpy(packed + k * 6, a + m + k * k_stride, 6 * sizeof(float));
        } else {
            for (ptrdiff_t k = 0; k < K; ++k) {
                for (ptrdiff_t r = 0; r < rows; ++r) packed[k * mr + r] = a[(m + r) * m_stride + k * k_stride];
            }
        }
    }
}

void hssl_gemm_f32_pack(
    ptrdiff_t N, ptrdiff_t K, const float *b, ptrdiff_t k_stride, ptrdiff_t n_stride, void *packed) {
    const ptrdiff_t count = panels(N);
    const int team = hssl_team(16.0 * (double)N * (double)K);
    HSSL_TEAM(team, part, {
        for (ptrdiff_t p = hssl_split(count, team, part); p < hssl_split(count, team, part + 1); ++p) {
            hssl_gemm_pack_panel_f32(hssl_min(PANEL, N - p * PANEL), K, b + p * PANEL * n_stride, k_stride, n_stride,
                                     (float *)packed + p * PANEL * K);
        }
    });
}

void hssl_gemm_f16_pack(ptrdiff_t N, ptrdiff_t K, const uint16_t *b, ptrdiff_t k_stride, ptrdiff_t n_stride,
                        void *packed) {
    const ptrdiff_t count = panels(N);
    const int team = hssl_team(16.0 * (double)N * (double)K);
    HSSL_TEAM(team, part, {
        for (ptrdiff_t p = hssl_split(count, team, part); p < hssl_split(count, team, part + 1); ++p) {
            uint16_t *out = (uint16_t *)packed + p * PANEL * K;
            const uint16_t *in = b + p * PANEL * n_stride;
            const ptrdiff_t columns = hssl_min(PANEL, N - p * PANEL);
            memset(out, 0, (size_t)(K * PANEL) * sizeof *out);
            for (ptrdiff_t k0 = 0; k0 < K; k0 += 8) {
                for (ptrdiff_t n = 0; n < columns; ++n) {
                    for (ptrdiff_t k = k0; k < hssl_min(K, k0 + 8); ++k) {
                        out[k * PANEL + n] = in[k * k_stride + n * n_stride];
                    }
                }
            }
        }
    });
}

/// Codes of one panel, k by k: any strides. Adds to `sum`.
static void pack_codes(ptrdiff_t columns, ptrdiff_t begin, ptrdiff_t end, const int8_t *in, ptrdiff_t k_stride,
                       ptrdiff_t n_stride, int8_t *codes, int32_t *sum) {
    for (ptrdiff_t n = 0; n < columns; ++n) {
        for (ptrdiff_t k = begin; k < end; ++k) {
            const int8_t code = in[k * k_stride + n * n_stride];
            codes[k / 4 * (4 * PANEL) + n * 4 + k % 4] = code;
            sum[n] += code;
        }
    }
}

static void pack_panel_u8s8(ptrdiff_t columns, ptrdiff_t K, const int8_t *in, ptrdiff_t k_stride, ptrdiff_t n_stride,
                            uint8_t zero, char *out) {
    int32_t sum[PANEL] = {0}, start[2][PANEL];
    int8_t *codes = (int8_t *)out + sizeof start;
    const ptrdiff_t whole = K / 4 * 4;
    if (columns < PANEL) memset(codes, 0, (size_t)(PANEL * hssl_round_up(K, 4)));
    else if (whole < K) memset(codes + whole * PANEL, 0, 4 * PANEL);
    if (k_stride == 1) {  // a PyTorch weight
        transpose_words(columns, K / 4, (const char *)in, n_stride, (char *)codes);
        for (ptrdiff_t n = 0; n < columns; ++n) {
            const int8_t *column = in + n * n_stride;
            int32_t total = 0;
            for (ptrdiff_t k = 0; k < whole; ++k) total += column[k];
            sum[n] = total;
        }
        pack_codes(columns, whole, K, in, k_stride, n_stride, codes, sum);
    } else if (n_stride == 1 && columns == PANEL) {  // the same weight, for gradients of inputs
        for (ptrdiff_t k = 0; k < whole; k += 4) {
            const int8_t *const at = in + k * k_stride,
                *const four[4] = {at, at + k_stride, at + 2 * k_stride, at + 3 * k_stride};
            for (ptrdiff_t n = 0; n < PANEL; n += 16) interleave_4x16(four, n, 0, codes + k * PANEL + n * 4);
            for (ptrdiff_t n = 0; n < PANEL; ++n) {
                const int8_t *c = in + k * k_stride + n;
                sum[n] += c[0] + c[k_stride] + c[2 * k_stride] + c[3 * k_stride];
            }
        }
        pack_codes(columns, whole, K, in, k_stride, n_stride, codes, sum);
    } else {
        pack_codes(columns, 0, K, in, k_stride, n_stride, codes, sum);
    }
    for (ptrdiff_t n = 0; n < PANEL; ++n) {
        start[0][n] = -zero * sum[n];
        start[1][n] = (128 - zero) * sum[n];
    }
    memcpy(out, start, sizeof start);
}

void hssl_gemm_pack_panel_u8(ptrdiff_t columns, ptrdiff_t K, const int32_t *order, const uint8_t *b, ptrdiff_t k_stride,
                             void *packed) {
    // Sums of 16 bits hold those of 257 codes. What is missing of a last group of four is 0, that is 128 before its
    // highest bit is turned over.
    static const uint8_t nothing[PANEL] = {[0 ... PANEL - 1] = 128};
    uint16_t sums[PANEL] = {0};
    int32_t start[2][PANEL] = {{0}};
    int8_t *codes = (int8_t *)packed + sizeof start;
    for (ptrdiff_t k = 0; k < K; k += 4, codes += 4 * PANEL) {
        const int8_t *four[4];
        for (ptrdiff_t i = 0; i < 4; ++i) {
            const uint8_t *const row = k + i < K ? b + order[k + i] * k_stride : nothing;
            for (ptrdiff_t n = 0; n < columns; ++n) sums[n] += row[n];
            four[i] = (const int8_t *)row;
        }
        ptrdiff_t n = 0;
        for (; n + 16 <= columns; n += 16) interleave_4x16(four, n, (char)0x80, codes + 4 * n);
        for (; n < columns; ++n) for (ptrdiff_t i = 0; i < 4; ++i) codes[4 * n + i] = (int8_t)(four[i][n] ^ 0x80);
        memset(codes + 4 * columns, 0, (size_t)(4 * (PANEL - columns)));
    }
    for (ptrdiff_t n = 0; n < columns; ++n) start[0][n] = -128 * (sums[n] - 128 * (int32_t)hssl_round_up(K, 4));
    memcpy(packed, start, sizeof start);
}

void hssl_gemm_u8s8_pack(
    ptrdiff_t N, ptrdiff_t K, const int8_t *b, ptrdiff_t k_stride, ptrdiff_t n_stride, uint8_t zero, void *packed) {
    const ptrdiff_t count = panels(N), bytes = hssl_gemm_u8s8_panel_bytes(hssl_round_up(K, 4));
    const int team = hssl_team(16.0 * (double)N * (double)K);
    HSSL_TEAM(team, part, {
        for (ptrdiff_t p = hssl_split(count, team, part); p < hssl_split(count, team, part + 1); ++p) {
            pack_panel_u8s8(hssl_min(PANEL, N - p * PANEL), K, b + p * PANEL * n_stride, k_stride, n_stride,
                            zero, (char *)packed + p * bytes);
        }
    });
}
