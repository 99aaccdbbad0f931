// How a picture is to be turned, from EXIF, XMP and ImageMagick's text profiles; what counts is what Pillow takes.
#include "decoders.h"

#include <math.h>
#include <string.h>

enum { EXIF_MOST = 1 << 14 };  // of a profile in hexadecimal

static double number(const uint8_t *p, uint32_t type, bool big) {
    const uint64_t low = cimage_u32(p + (big ? 4 : 0), big), high = cimage_u32(p + (big ? 0 : 4), big);
    const uint64_t wide = high << 32 | low;
    const uint32_t word = cimage_u32(p, big), second = cimage_u32(p + 4, big);
    float single;
    double value;
    switch (type) {
        case 3: return cimage_u16(p, big);
        case 8: return (int16_t)cimage_u16(p, big);
        case 6: return (int8_t)p[0];
        case 4: case 13: return word;
        case 9: return (int32_t)word;
        case 5: return second ? (double)word / second : 0;
        case 10: return second ? (double)(int32_t)word / (int32_t)second : 0;
        case 16: return (double)wide;
        case 11: memcpy(&single, &word, sizeof single); return single;
        case 12: memcpy(&value, &wide, sizeof value); return value;
        default: return 0;
    }
}

static uint32_t size_of(uint32_t type) {
    switch (type) {
        case 6: return 1;
        case 3: case 8: return 2;
        case 4: case 9: case 11: case 13: return 4;
        case 5: case 10: case 12: case 16: return 8;
        default: return 0;  // text, bytes, or unknown: no number
    }
}

uint32_t cimage_exif_orientation(const uint8_t *tiff, size_t size) {
    for (int i = 0; i < 2 && size >= 6 && memcmp(tiff, "Exif\0\0", 6) == 0; i++) {
        tiff += 6;
        size -= 6;
    }
    if (size < 10) return 0;
    const bool big = tiff[0] == 'M' && tiff[1] == 'M';
    if (!big && !(tiff[0] == 'I' && tiff[1] == 'I')) return 0;
    // Some writers have the 42 the wrong way round.
    if (cimage_u16(tiff + 2, big) != 42 && cimage_u16(tiff + 2, !big) != 42) return 0;
    const size_t directory = cimage_u32(tiff + 4, big);
    if (directory > size - 2) return 0;
    const uint32_t entries = cimage_u16(tiff + directory, big);
    uint32_t found = 0;
    for (uint32_t i = 0; i < entries; i++) {
        const size_t entry = directory + 2 + 12 * (size_t)i;
        if (entry + 12 > size) break;
        if (cimage_u16(tiff + entry, big) != 0x0112) continue;
        const uint32_t type = cimage_u16(tiff + entry + 2, big), count = cimage_u32(tiff + entry + 4, big);
        const uint32_t bytes = size_of(type);
        const size_t offset = bytes > 4 ? cimage_u32(tiff + entry + 8, big) : entry + 8;
        found = 1;
        if (count != 1 || bytes == 0 || offset > size || size - offset < bytes) continue;
        uint8_t value[8] = {0};
        memcpy(value, tiff + offset, bytes);
        const double orientation = number(value, type, big);
        found = orientation >= 1 && orientation <= 8 && orientation == floor(orientation) ? (uint32_t)orientation : 1;
    }
    return found;
}

uint32_t cimage_xmp_orientation(const uint8_t *xmp, size_t size) {
    static const char name[] = "tiff:Orientation";
    const size_t length = sizeof name - 1;
    for (size_t i = 0; i + length + 2 <= size; i++) {
        const uint8_t *hit = memchr(xmp + i, 't', size - i);
        if (!hit) return 0;
        i = (size_t)(hit - xmp);
        if (i + length + 2 > size || memcmp(hit, name, length) != 0) continue;
        const uint8_t *value = hit + length, *end = xmp + size;
        if (*value == '>') value += 1;
        else if (end - value >= 3 && value[0] == '=' && value[1] == '"') value += 2;
        else continue;
        if (*value < '0' || *value > '9') continue;
        return *value >= '1' && *value <= '8' ? *value - (uint32_t)'0' : 1;
    }
    return 0;
}

static int digit(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// "\nexif\n    1234\n" and lines of hexadecimal. The directory with the tag comes first: what is beyond EXIF_MOST
// bytes is pictures.
uint32_t cimage_profile_orientation(const uint8_t *text, size_t size) {
    size_t i = 0;
    for (int lines = 0; lines < 3; i++) {
        if (i == size) return 0;
        if (text[i] == '\n') lines++;
    }
    uint8_t exif[EXIF_MOST];
    size_t count = 0;
    int high = -1;
    for (; i < size && count < EXIF_MOST; i++) {
        const int value = digit(text[i]);
        if (value < 0) {
            if (text[i] == '\n' || text[i] == ' ' || text[i] == '\r' || text[i] == '\t') continue;
            return 0;
        }
        if (high < 0) {
            high = value;
        } else {
            exif[count++] = (uint8_t)(high << 4 | value);
            high = -1;
        }
    }
    return cimage_exif_orientation(exif, count);
}

uint32_t cimage_orientation(cimage_turn turn) {
    if (turn.exif) return turn.exif;
    return turn.xmp ? turn.xmp : 1;
}
