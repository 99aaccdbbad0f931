// From run-time tile sizes to the constants that a tile body is unrolled for. CASE(R, V) is the call for R rows and V
// vectors.
#ifndef HSSL_X86_TILES_H
#define HSSL_X86_TILES_H

#define HSSL_UNROLL _Pragma("clang loop unroll(full)")

#define HSSL_TILE_SWITCH_6x4(rows, vectors, CASE) \
    switch (((rows) - 1) * 4 + (vectors) - 1) { \
        case 0: CASE(1, 1); break;  case 1: CASE(1, 2); break;  case 2: CASE(1, 3); break;  case 3: CASE(1, 4); break; \
        case 4: CASE(2, 1); break;  case 5: CASE(2, 2); break;  case 6: CASE(2, 3); break;  case 7: CASE(2, 4); break; \
        case 8: CASE(3, 1); break;        case 9: CASE(3, 2); break; \
        case 10: CASE(3, 3); break;       case 11: CASE(3, 4); break; \
        case 12: CASE(4, 1); break;       case 13: CASE(4, 2); break; \
        case 14: CASE(4, 3); break;       case 15: CASE(4, 4); break; \
        case 16: CASE(5, 1); break;       case 17: CASE(5, 2); break; \
        case 18: CASE(5, 3); break;       case 19: CASE(5, 4); break; \
        case 20: CASE(6, 1); break;       case 21: CASE(6, 2); break; \
        case 22: CASE(6, 3); break;       case 23: CASE(6, 4); break; \
    }

// Two vectors a row: the cases of a taller tile begin with those of a lower one.
#define HSSL_TILE_CASES_4x2(CASE) \
        case 0: CASE(1, 1); break;        case 1: CASE(1, 2); break; \
        case 2: CASE(2, 1); break;        case 3: CASE(2, 2); break; \
        case 4: CASE(3, 1); break;        case 5: CASE(3, 2); break; \
        case 6: CASE(4, 1); break;        case 7: CASE(4, 2); break;
#define HSSL_TILE_CASES_6x2(CASE) \
        HSSL_TILE_CASES_4x2(CASE) \
        case 8: CASE(5, 1); break;        case 9: CASE(5, 2); break; \
        case 10: CASE(6, 1); break;       case 11: CASE(6, 2); break;
#define HSSL_TILE_SWITCH_4x2(rows, vectors, CASE) \
    switch (((rows) - 1) * 2 + (vectors) - 1) { HSSL_TILE_CASES_4x2(CASE) }
#define HSSL_TILE_SWITCH_6x2(rows, vectors, CASE) \
    switch (((rows) - 1) * 2 + (vectors) - 1) { HSSL_TILE_CASES_6x2(CASE) }

#endif
