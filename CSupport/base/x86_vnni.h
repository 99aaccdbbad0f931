// What clang does badly with the VNNI intrinsics. Include inside the attribute region of an AVX-512 VNNI body, after base/vector.h and <immintrin.h>.
#ifndef HSSL_X86_VNNI_H
#define HSSL_X86_VNNI_H

/// VPDPWSSD. Of its intrinsic clang 21 makes VPMADDWD and VPADDD to shorten a chain of sums: one instruction more for each in a tile, where nothing waits for
/// a chain.
HSSL_INLINE __m512i hssl_dpwssd(__m512i sum, __m512i a, __m512i b) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

#endif
