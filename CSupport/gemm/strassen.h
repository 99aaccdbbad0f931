// Strassen's scheme, one level deep, for products of float32 and binary16: seven products of quadrants instead of
// eight.
//
// A group is 24 rows × one panel. Its quadrants, numbered 2·i + j, are 12 rows × 32 columns of C, 12 rows × half of a K
// block of A, half of that K block × 32 columns of B. Sums of A are made once a K block for all panels, sums of B as
// they are loaded, sums of C as a product leaves its registers. Source: Strassen, "Gaussian elimination is not
// optimal", 1969; sums inside the kernels as in Huang, Smith, Henry and van de Geijn, "Strassen's algorithm reloaded",
// 2016.
#ifndef HSSL_GEMM_STRASSEN_H
#define HSSL_GEMM_STRASSEN_H

#include "gemm/gemm.h"

enum { STRASSEN_PRODUCTS = 7, STRASSEN_HALF = 12, STRASSEN_ROWS = 2 * STRASSEN_HALF, STRASSEN_COLUMNS = PANEL / 2 };

/// x + sign·y of two quadrants; x alone where the sign is 0.
typedef struct { int x, sign, y; } hssl_strassen_operand;
/// What a product does to a quadrant of C. The first one that has it sets it.
typedef struct {
    enum { STRASSEN_NONE, STRASSEN_SET, STRASSEN_ADD, STRASSEN_SUBTRACT } what;
    int quadrant;
} hssl_strassen_effect;
typedef struct {
    hssl_strassen_operand a, b;
    hssl_strassen_effect c[2];
} hssl_strassen_product;

static const hssl_strassen_product hssl_strassen_products[STRASSEN_PRODUCTS] = {
    {.a = {0, +1, 3}, .b = {0, +1, 3}, .c = {{STRASSEN_SET, 0}, {STRASSEN_SET, 3}}},
    {.a = {2, +1, 3}, .b = {0, 0, 0}, .c = {{STRASSEN_SET, 2}, {STRASSEN_SUBTRACT, 3}}},
    {.a = {0, 0, 0}, .b = {1, -1, 3}, .c = {{STRASSEN_SET, 1}, {STRASSEN_ADD, 3}}},
    {.a = {3, 0, 0}, .b = {2, -1, 0}, .c = {{STRASSEN_ADD, 0}, {STRASSEN_ADD, 2}}},
    {.a = {0, +1, 1}, .b = {3, 0, 0}, .c = {{STRASSEN_SUBTRACT, 0}, {STRASSEN_ADD, 1}}},
    {.a = {2, -1, 0}, .b = {0, +1, 1}, .c = {{STRASSEN_ADD, 3}, {STRASSEN_NONE, 0}}},
    {.a = {1, -1, 3}, .b = {2, +1, 3}, .c = {{STRASSEN_ADD, 0}, {STRASSEN_NONE, 0}}},
};

/// Products before this one whose operand of A is a sum: where its sum is among theirs.
static inline int hssl_strassen_sum(int product) {
    int count = 0;
    for (int i = 0; i < product; ++i) count += hssl_strassen_products[i].a.sign != 0;
    return count;
}

#endif
