// Between the files of CImage.
#ifndef HSSL_CIMAGE_DECODERS_H
#define HSSL_CIMAGE_DECODERS_H

#include "CImage.h"

__attribute__((format(printf, 3, 4)))
cimage_status cimage_fail(char *message, cimage_status status, const char *format, ...);

/// CIMAGE_OK, or CIMAGE_TOO_LARGE with the limit named.
cimage_status cimage_check_limits(const cimage_info *info, const cimage_limits *limits, char *message);

cimage_status cimage_jpeg_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                                char *message);
cimage_status cimage_jpeg_decode(const uint8_t *data, size_t size, const cimage_limits *limits, const cimage_info *info,
                                 uint8_t *rgb, char *message);
cimage_status cimage_png_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                               char *message);
cimage_status cimage_png_decode(const uint8_t *data, size_t size, const cimage_limits *limits, const cimage_info *info,
                                uint8_t *rgb, char *message);

/// Pillow's MULDIV255: round(a·b / 255).
static inline uint8_t cimage_multiply_255(unsigned a, unsigned b) {
    unsigned t = a * b + 128;
    return (uint8_t)(((t >> 8) + t) >> 8);
}

#endif
