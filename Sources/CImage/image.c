// Dispatch by magic bytes, limits, and EXIF orientation.
#include "decoders.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

cimage_status cimage_fail(char *message, cimage_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, CIMAGE_MESSAGE_CAPACITY, format, arguments);
    va_end(arguments);
    return status;
}

cimage_status cimage_check_limits(const cimage_info *info, const cimage_limits *limits, char *message) {
    if (info->reduction == 1 && (uint64_t)info->width * info->height > limits->max_pixels) {
        return cimage_fail(message, CIMAGE_TOO_LARGE, "%u x %u pixels are more than the limit of %llu", info->width,
                           info->height,
                           (unsigned long long)limits->max_pixels);
    }
    if (info->peak_bytes > limits->max_bytes) {
        return cimage_fail(message, CIMAGE_TOO_LARGE,
                           "decoding %u x %u pixels needs %llu bytes, more than the limit of %llu", info->width,
                           info->height, (unsigned long long)info->peak_bytes, (unsigned long long)limits->max_bytes);
    }
    return CIMAGE_OK;
}

static bool is_jpeg(const uint8_t *data, size_t size) {
    return size >= 3 && data[0] == 0xFF && data[1] == 0xD8 && data[2] == 0xFF;
}

static bool is_png(const uint8_t *data, size_t size) { return size >= 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0; }

cimage_status cimage_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                           char *message) {
    memset(info, 0, sizeof *info);
    info->reduction = 1;
    message[0] = 0;
    if (size == 0) return cimage_fail(message, CIMAGE_TRUNCATED, "the file is empty");
    if (is_jpeg(data, size)) return cimage_jpeg_probe(data, size, limits, info, message);
    if (is_png(data, size)) return cimage_png_probe(data, size, limits, info, message);
    return cimage_fail(message, CIMAGE_UNKNOWN_FORMAT, "neither a JPEG nor a PNG by its first bytes");
}

cimage_status cimage_decode(const uint8_t *data, size_t size, const cimage_limits *limits, const cimage_info *info,
                            uint8_t *rgb, char *message) {
    message[0] = 0;
    return info->format == CIMAGE_JPEG ? cimage_jpeg_decode(data, size, limits, info, rgb, message)
                                       : cimage_png_decode(data, size, limits, info, rgb, message);
}

// Target pixel (i, j) is source[origin + i·row_step + j·column_step].
void cimage_orient(const uint8_t *source, uint32_t width, uint32_t height, uint32_t orientation, uint8_t *target) {
    const ptrdiff_t w = width, h = height;
    const bool transposed = orientation >= 5;
    const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;  // of the source
    const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    const ptrdiff_t dx = flip_x ? -1 : 1, dy = flip_y ? -w : w;
    const ptrdiff_t origin = (flip_x ? w - 1 : 0) + (flip_y ? (h - 1) * w : 0);
    const ptrdiff_t rows = transposed ? w : h, columns = transposed ? h : w;
    const ptrdiff_t row_step = transposed ? dx : dy, column_step = transposed ? dy : dx;
    for (ptrdiff_t i = 0; i < rows; i++) {
        const uint8_t *from = source + 3 * (origin + i * row_step);
        for (ptrdiff_t j = 0; j < columns; j++, from += 3 * column_step, target += 3) {
            target[0] = from[0];
            target[1] = from[1];
            target[2] = from[2];
        }
    }
}

static uint32_t read_u16(const uint8_t *p, bool big) {
    return big ? (uint32_t)p[0] << 8 | p[1] : (uint32_t)p[1] << 8 | p[0];
}

static uint32_t read_u32(const uint8_t *p, bool big) {
    return big ? read_u16(p, true) << 16 | read_u16(p + 2, true) : read_u16(p + 2, false) << 16 | read_u16(p, false);
}

uint32_t cimage_exif_orientation(const uint8_t *tiff, size_t size) {
    if (size < 14) return 1;
    const bool big = tiff[0] == 'M' && tiff[1] == 'M';
    if (!big && !(tiff[0] == 'I' && tiff[1] == 'I')) return 1;
    if (read_u16(tiff + 2, big) != 42) return 1;
    const size_t directory = read_u32(tiff + 4, big);
    if (directory > size - 2) return 1;
    const uint32_t entries = read_u16(tiff + directory, big);
    for (uint32_t i = 0; i < entries; i++) {
        const size_t entry = directory + 2 + 12 * (size_t)i;
        if (entry + 12 > size) return 1;
        const uint32_t tag = read_u16(tiff + entry, big), type = read_u16(tiff + entry + 2, big),
            count = read_u32(tiff + entry + 4, big);
        if (tag != 0x0112) continue;
        if (type != 3 || count != 1) return 1;  // one SHORT
        const uint32_t value = read_u16(tiff + entry + 8, big);
        return value >= 1 && value <= 8 ? value : 1;
    }
    return 1;
}
