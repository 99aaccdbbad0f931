// What clang does badly in VNNI tiles. Include inside the attribute region of an AVX-512 VNNI body, after base/vector.h
// and <immintrin.h>.
#ifndef HSSL_X86_VNNI_H
#define HSSL_X86_VNNI_H

/// VPDPWSSD. Of its intrinsic clang 21 makes VPMADDWD and VPADDD to shorten a chain of sums: one instruction more for
/// each in a tile, where nothing waits for a chain.
HSSL_INLINE __m512i hssl_dpwssd(__m512i sum, __m512i a, __m512i b) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

/// A zero of its own for each sum. Tiles that begin with loaded values or copies of one register, and end in a burst of
/// stores, take 20 to 30 cycles more.
HSSL_INLINE __m512i hssl_zero(void) {
    __m512i zero;
    __asm__ volatile("vpxord %0, %0, %0" : "=v"(zero));
    return zero;
}

#endif
