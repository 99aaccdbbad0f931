// Packing of B (once, offline) and of blocks of A and B (inside drivers). Layouts: gemm.h.
#include <string.h>

#include "gemm/gemm.h"

static ptrdiff_t panels(ptrdiff_t N) { return hssl_ceil_div(N, PANEL); }

size_t hssl_gemm_f32_packed_size(ptrdiff_t N, ptrdiff_t K) { return (size_t)(panels(N) * PANEL * K) * sizeof(float); }
size_t hssl_gemm_f16_packed_size(ptrdiff_t N, ptrdiff_t K) { return (size_t)(panels(N) * PANEL * K) * sizeof(uint16_t); }
size_t hssl_gemm_u8s8_packed_size(ptrdiff_t N, ptrdiff_t K) { return (size_t)(panels(N) * PANEL * (4 + hssl_round_up(K, 4))); }

void hssl_gemm_pack_panel_f32(ptrdiff_t columns, ptrdiff_t K, const float *b, ptrdiff_t k_stride, ptrdiff_t n_stride, float *packed) {
    if (n_stride == 1 && columns == PANEL) {
        for (ptrdiff_t k = 0; k < K; ++k) memcpy(packed + k * PANEL, b + k * k_stride, PANEL * sizeof(float));
        return;
    }
    if (columns < PANEL) memset(packed, 0, (size_t)(K * PANEL) * sizeof(float));
    // Eight k at a time: with k_stride 1 (a PyTorch weight) that is half a cache line of every column.
    for (ptrdiff_t k0 = 0; k0 < K; k0 += 8) {
        const ptrdiff_t end = hssl_min(K, k0 + 8);
        for (ptrdiff_t n = 0; n < columns; ++n) {
            for (ptrdiff_t k = k0; k < end; ++k) packed[k * PANEL + n] = b[k * k_stride + n * n_stride];
        }
    }
}

void hssl_gemm_pack_a(ptrdiff_t M, ptrdiff_t K, const float *a, ptrdiff_t m_stride, ptrdiff_t k_stride, ptrdiff_t mr, float *packed) {
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

void hssl_gemm_f32_pack(ptrdiff_t N, ptrdiff_t K, const float *b, ptrdiff_t k_stride, ptrdiff_t n_stride, void *packed) {
    const ptrdiff_t count = panels(N);
    const int team = hssl_team(16.0 * (double)N * (double)K);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (ptrdiff_t p = 0; p < count; ++p) {
        hssl_gemm_pack_panel_f32(hssl_min(PANEL, N - p * PANEL), K, b + p * PANEL * n_stride, k_stride, n_stride, (float *)packed + p * PANEL * K);
    }
}

void hssl_gemm_f16_pack(ptrdiff_t N, ptrdiff_t K, const uint16_t *b, ptrdiff_t k_stride, ptrdiff_t n_stride, void *packed) {
    const ptrdiff_t count = panels(N);
    const int team = hssl_team(16.0 * (double)N * (double)K);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (ptrdiff_t p = 0; p < count; ++p) {
        uint16_t *out = (uint16_t *)packed + p * PANEL * K;
        const uint16_t *in = b + p * PANEL * n_stride;
        const ptrdiff_t columns = hssl_min(PANEL, N - p * PANEL);
        memset(out, 0, (size_t)(K * PANEL) * sizeof *out);
        for (ptrdiff_t k0 = 0; k0 < K; k0 += 8) {
            for (ptrdiff_t n = 0; n < columns; ++n) {
                for (ptrdiff_t k = k0; k < hssl_min(K, k0 + 8); ++k) out[k * PANEL + n] = in[k * k_stride + n * n_stride];
            }
        }
    }
}

void hssl_gemm_u8s8_pack(ptrdiff_t N, ptrdiff_t K, const int8_t *b, ptrdiff_t k_stride, ptrdiff_t n_stride, void *packed) {
    const ptrdiff_t count = panels(N), bytes = PANEL * (4 + hssl_round_up(K, 4));
    const int team = hssl_team(16.0 * (double)N * (double)K);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (ptrdiff_t p = 0; p < count; ++p) {
        char *out = (char *)packed + p * bytes;
        int32_t start[PANEL] = {0};
        int8_t *codes = (int8_t *)out + sizeof start;
        memset(codes, 0, (size_t)bytes - sizeof start);
        for (ptrdiff_t n = 0; n < hssl_min(PANEL, N - p * PANEL); ++n) {
            const int8_t *in = b + (p * PANEL + n) * n_stride;
            int32_t sum = 0;
            for (ptrdiff_t k = 0; k < K; ++k) {
                codes[k / 4 * (4 * PANEL) + n * 4 + k % 4] = in[k * k_stride];
                sum += in[k * k_stride];
            }
            start[n] = -128 * sum;
        }
        memcpy(out, start, sizeof start);
    }
}
