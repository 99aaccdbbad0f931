// Dispatch by magic bytes, and limits.
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
        return cimage_fail(message, CIMAGE_TOO_LARGE,
                           "%u x %u pixels are more than the limit of %llu (--max-pixels)", info->width, info->height,
                           (unsigned long long)limits->max_pixels);
    }
    if (info->peak_bytes > limits->max_bytes) {
        return cimage_fail(message, CIMAGE_TOO_LARGE,
                           "decoding %u x %u pixels needs %llu bytes, more than the limit of %llu", info->width,
                           info->height, (unsigned long long)info->peak_bytes, (unsigned long long)limits->max_bytes);
    }
    return CIMAGE_OK;
}

typedef struct {
    cimage_format format;
    bool (*is)(const uint8_t *data, size_t size);
    cimage_status (*probe)(const uint8_t *, size_t, const cimage_limits *, cimage_info *, char *);
    cimage_status (*decode)(const uint8_t *, size_t, const cimage_limits *, cimage_info *, const uint8_t[3],
                            uint8_t *, char *);
} decoder;

static bool begins(const uint8_t *data, size_t size, const char *magic, size_t count) {
    return size >= count && memcmp(data, magic, count) == 0;
}

static bool is_jpeg(const uint8_t *data, size_t size) { return begins(data, size, "\xFF\xD8\xFF", 3); }

static bool is_png(const uint8_t *data, size_t size) { return begins(data, size, "\x89PNG\r\n\x1a\n", 8); }

static bool is_webp(const uint8_t *data, size_t size) {
    return begins(data, size, "RIFF", 4) && size >= 16 && memcmp(data + 8, "WEBPVP8", 7) == 0;
}

static bool is_gif(const uint8_t *data, size_t size) {
    return begins(data, size, "GIF87a", 6) || begins(data, size, "GIF89a", 6);
}

// Two letters are little: the size of the second header must be one that there is.
static bool is_bmp(const uint8_t *data, size_t size) {
    if (!begins(data, size, "BM", 2) || size < 18) return false;
    const uint32_t header = cimage_u32(data + 14, false);
    return header == 12 || header == 40 || header == 52 || header == 56 || header == 64 || header == 108
        || header == 124;
}

static bool is_tiff(const uint8_t *data, size_t size) {
    return begins(data, size, "II*\0", 4) || begins(data, size, "MM\0*", 4) || begins(data, size, "II+\0", 4)
        || begins(data, size, "MM\0+", 4);
}

static const decoder decoders[] = {
    {CIMAGE_JPEG, is_jpeg, cimage_jpeg_probe, cimage_jpeg_decode},
    {CIMAGE_PNG, is_png, cimage_png_probe, cimage_png_decode},
    {CIMAGE_WEBP, is_webp, cimage_webp_probe, cimage_webp_decode},
    {CIMAGE_GIF, is_gif, cimage_gif_probe, cimage_gif_decode},
    {CIMAGE_BMP, is_bmp, cimage_bmp_probe, cimage_bmp_decode},
    {CIMAGE_TIFF, is_tiff, cimage_tiff_probe, cimage_tiff_decode},
};
enum { DECODERS = sizeof decoders / sizeof *decoders };

cimage_status cimage_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                           char *message) {
    memset(info, 0, sizeof *info);
    info->reduction = 1;
    info->orientation = 1;
    message[0] = 0;
    if (size == 0) return cimage_fail(message, CIMAGE_TRUNCATED, "the file is empty");
    for (int i = 0; i < DECODERS; i++) {
        if (!decoders[i].is(data, size)) continue;
        info->format = decoders[i].format;
        return decoders[i].probe(data, size, limits, info, message);
    }
    return cimage_fail(message, CIMAGE_UNKNOWN_FORMAT, "not a JPEG, PNG, WebP, GIF, BMP or TIFF by its first bytes");
}

cimage_status cimage_decode(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                            const uint8_t background[3], uint8_t *rgb, char *message) {
    message[0] = 0;
    for (int i = 0; i < DECODERS; i++) {
        if (decoders[i].format != info->format) continue;
        return decoders[i].decode(data, size, limits, info, background, rgb, message);
    }
    return cimage_fail(message, CIMAGE_UNKNOWN_FORMAT, "not probed");
}
