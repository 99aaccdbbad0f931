// Philox4x32-10 in vectors, for bodies that need a random word an element. Include inside the attribute region, after
// HSSL_WIDTH is defined.
//
// Element k of a stream uses word (k / 16) mod 4 of Philox(key, counter_low = k / 64 · 16 + k mod 16, counter_high =
// stream): a vector of 16 counters serves 64 neighbours, and neither order nor width nor threads enter.
#ifndef HSSL_PHILOX_VECTOR_H
#define HSSL_PHILOX_VECTOR_H

#include "base/philox.h"
#include "base/vector.h"

enum { HSSL_PHILOX_BLOCK = 64 };  // elements that share 16 counters; a multiple of every width

// Lane-wise 32×32 → 64 bits.
HSSL_INLINE void hssl_multiply_wide(uint32_t m, hssl_vu x, hssl_vu *low, hssl_vu *high) {
    typedef uint64_t wide __attribute__((vector_size(8 * HSSL_WIDTH)));
    const wide product = __builtin_convertvector(x, wide) * (uint64_t)m;
    *low = x * m;
    *high = __builtin_convertvector(product >> 32, hssl_vu);
}

/// Words of elements 64·block ..< 64·block + 64.
HSSL_INLINE void hssl_philox_block(uint64_t key, uint64_t stream, uint64_t block, uint32_t words[HSSL_PHILOX_BLOCK]) {
    for (int lane = 0; lane < 16; lane += HSSL_WIDTH) {
        // a multiple of HSSL_WIDTH: the low word does not carry within a vector
        const uint64_t counter = block * 16 + (uint64_t)lane;
        hssl_vu c0 = {0}, c1 = {0}, c2 = {0}, c3 = {0};
        for (int i = 0; i < HSSL_WIDTH; ++i) c0[i] = (uint32_t)i;
        c0 += (uint32_t)counter, c1 += (uint32_t)(counter >> 32), c2 += (uint32_t)stream,
            c3 += (uint32_t)(stream >> 32);
        uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
        for (int round = 0; round < HSSL_PHILOX_ROUNDS; ++round) {
            hssl_vu low0, high0, low1, high1;
            hssl_multiply_wide(HSSL_PHILOX_M0, c0, &low0, &high0);
            hssl_multiply_wide(HSSL_PHILOX_M1, c2, &low1, &high1);
            c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
            k0 += HSSL_PHILOX_W0, k1 += HSSL_PHILOX_W1;
        }
        memcpy(words + lane, &c0, sizeof c0);
        memcpy(words + 16 + lane, &c1, sizeof c1);
        memcpy(words + 32 + lane, &c2, sizeof c2);
        memcpy(words + 48 + lane, &c3, sizeof c3);
    }
}

#endif
