// Codes of four vectors as bytes, for a body whose HSSL_WIDTH is 8 or 16. Include inside the attribute region, after
// base/vector.h and <immintrin.h>.
#ifndef HSSL_X86_PACK_H
#define HSSL_X86_PACK_H

#if HSSL_WIDTH == 16
typedef __m512i hssl_packed;
#else
typedef __m256i hssl_packed;
#endif

/// Stores what four vectors became by two rounds of packing. Packing works within 128 bits, so that groups of 4 codes
/// have to be put in order once.
HSSL_INLINE void hssl_store_packed(hssl_packed packed, void *codes) {
#if HSSL_WIDTH == 16
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(codes, _mm512_permutexvar_epi32(order, packed));
#else
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i *)codes, _mm256_permutevar8x32_epi32(packed, order));
#endif
}

/// Four vectors of −128 … 127 as bytes in order, every bit of `flip` turned over.
HSSL_INLINE void hssl_store_codes(hssl_vi a, hssl_vi b, hssl_vi c, hssl_vi d, uint8_t flip, void *codes) {
#if HSSL_WIDTH == 16
    const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32((__m512i)a, (__m512i)b),
                                              _mm512_packs_epi32((__m512i)c, (__m512i)d));
    hssl_store_packed(_mm512_xor_si512(packed, _mm512_set1_epi8((char)flip)), codes);
#else
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32((__m256i)a, (__m256i)b),
                                              _mm256_packs_epi32((__m256i)c, (__m256i)d));
    hssl_store_packed(_mm256_xor_si256(packed, _mm256_set1_epi8((char)flip)), codes);
#endif
}

/// Four vectors of −zero … 255 − zero as bytes in order, zero added.
HSSL_INLINE void hssl_store_codes_above(hssl_vi a, hssl_vi b, hssl_vi c, hssl_vi d, uint8_t zero, void *codes) {
#if HSSL_WIDTH == 16
    const __m512i added = _mm512_set1_epi16(zero);
    hssl_store_packed(
        _mm512_packus_epi16(_mm512_add_epi16(_mm512_packs_epi32((__m512i)a, (__m512i)b), added),
                            _mm512_add_epi16(_mm512_packs_epi32((__m512i)c, (__m512i)d), added)), codes);
#else
    const __m256i added = _mm256_set1_epi16(zero);
    hssl_store_packed(
        _mm256_packus_epi16(_mm256_add_epi16(_mm256_packs_epi32((__m256i)a, (__m256i)b), added),
                            _mm256_add_epi16(_mm256_packs_epi32((__m256i)c, (__m256i)d), added)), codes);
#endif
}

#endif
