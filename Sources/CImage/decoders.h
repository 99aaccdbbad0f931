// Between the files of CImage.
#ifndef HSSL_CIMAGE_DECODERS_H
#define HSSL_CIMAGE_DECODERS_H

#include "CImage.h"

__attribute__((format(printf, 3, 4)))
cimage_status cimage_fail(char *message, cimage_status status, const char *format, ...);

/// CIMAGE_OK, or CIMAGE_TOO_LARGE with the limit named.
cimage_status cimage_check_limits(const cimage_info *info, const cimage_limits *limits, char *message);

#define CIMAGE_DECODER(name) \
    cimage_status cimage_##name##_probe(const uint8_t *data, size_t size, const cimage_limits *limits, \
                                        cimage_info *info, char *message); \
    cimage_status cimage_##name##_decode(const uint8_t *data, size_t size, const cimage_limits *limits, \
                                         cimage_info *info, const uint8_t background[3], uint8_t *rgb, \
                                         char *message)
CIMAGE_DECODER(jpeg);
CIMAGE_DECODER(png);
CIMAGE_DECODER(webp);
CIMAGE_DECODER(gif);
CIMAGE_DECODER(bmp);
CIMAGE_DECODER(tiff);
#undef CIMAGE_DECODER

// MARK: orientation.c

/// What a file says about how it is to be turned, gathered while its header is read.
typedef struct {
    uint32_t exif;  // of EXIF's tag: 0 when the tag is absent, 1 when its value is no orientation
    uint32_t xmp;   // the same of XMP
} cimage_turn;

/// EXIF data: a TIFF block with or without "Exif\0\0" before it, once or twice.
uint32_t cimage_exif_orientation(const uint8_t *exif, size_t size);

/// tiff:Orientation as attribute or element.
uint32_t cimage_xmp_orientation(const uint8_t *xmp, size_t size);

/// EXIF in hexadecimal, as ImageMagick writes it into PNG's text.
uint32_t cimage_profile_orientation(const uint8_t *text, size_t size);

/// 1…8: EXIF's if the tag is there, else XMP's.
uint32_t cimage_orientation(cimage_turn turn);

// MARK: rows.c

/// Puts rows of the picture as stored into the upright result. Rows may come in any order for orientations 1 to 4,
/// else from the first to the last.
typedef struct {
    uint8_t *target, *band;
    uint32_t width, height, orientation;
    uint32_t first, count;  // rows in the band
} cimage_rows;

/// What turning takes besides the result.
uint64_t cimage_rows_bytes(const cimage_info *info);

/// False without memory. `cimage_rows_close` belongs to it either way.
bool cimage_rows_open(cimage_rows *rows, const cimage_info *info, uint8_t *target);

/// Where row `y` is to be written: 3 · width bytes, then `cimage_rows_end`.
uint8_t *cimage_rows_begin(cimage_rows *rows, uint32_t y);
void cimage_rows_end(cimage_rows *rows, uint32_t y);
void cimage_rows_close(cimage_rows *rows);

/// Puts the whole picture `rgb` [height, width, 3].
void cimage_rows_put(cimage_rows *rows, const uint8_t *rgb);

// MARK: Colours, as Pillow's

/// Pillow's MULDIV255: round(a·b / 255).
static inline uint8_t cimage_multiply_255(unsigned a, unsigned b) {
    unsigned t = a * b + 128;
    return (uint8_t)(((t >> 8) + t) >> 8);
}

/// Pillow's blend: round((color·alpha + background·(255 − alpha)) / 255).
static inline uint8_t cimage_blend(unsigned color, unsigned alpha, unsigned background) {
    unsigned t = color * alpha + background * (255 - alpha) + 128;
    return (uint8_t)(((t >> 8) + t) >> 8);
}

/// RGBA on a background.
static inline void cimage_compose(const uint8_t *rgba, size_t count, const uint8_t background[3], uint8_t *rgb) {
    for (size_t i = 0; i < count; i++, rgba += 4, rgb += 3) {
        for (int c = 0; c < 3; c++) rgb[c] = cimage_blend(rgba[c], rgba[3], background[c]);
    }
}

static inline uint32_t cimage_u16(const uint8_t *p, bool big) {
    return big ? (uint32_t)p[0] << 8 | p[1] : (uint32_t)p[1] << 8 | p[0];
}

static inline uint32_t cimage_u32(const uint8_t *p, bool big) {
    return big ? cimage_u16(p, true) << 16 | cimage_u16(p + 2, true)
               : cimage_u16(p + 2, false) << 16 | cimage_u16(p, false);
}

#endif
