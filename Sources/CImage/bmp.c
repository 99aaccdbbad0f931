// BMP without a library: those that there are (libnsbmp, SDL, FreeImage) give RGBA of their own whole pictures and do
// not say what they allocate; the format is two headers, a palette and rows. Which kinds there are, and what becomes of
// odd ones, is as in Pillow.
#include "decoders.h"

#include <string.h>

enum { RAW = 0, RLE8 = 1, RLE4 = 2, BITFIELDS = 3 };

typedef struct {
    uint32_t width, height, bits, compression;
    bool top_down;
    size_t pixels;             // where they begin
    const uint8_t *palette;
    uint32_t colors, color_size;  // bytes of a palette's entry
    // Of 16 bits: bits of green. Of 24 and 32: the byte that holds a channel; alpha is -1 without.
    uint32_t green_bits;
    int red, green, blue, alpha;
} bmp_header;

static uint32_t u16(const uint8_t *p) { return cimage_u16(p, false); }
static uint32_t u32(const uint8_t *p) { return cimage_u32(p, false); }

// The layouts that Pillow knows, of all that masks could say.
static bool read_masks(bmp_header *bmp, uint32_t red, uint32_t green, uint32_t blue, uint32_t alpha) {
    static const struct { uint32_t red, green, blue, alpha; int8_t place[4]; } layouts[] = {
        {0xFF0000, 0xFF00, 0xFF, 0, {2, 1, 0, -1}}, {0xFF000000, 0xFF0000, 0xFF00, 0, {3, 2, 1, -1}},
        {0xFF000000, 0xFF00, 0xFF, 0, {3, 1, 0, -1}}, {0xFF000000, 0xFF0000, 0xFF00, 0xFF, {3, 2, 1, 0}},
        {0xFF, 0xFF00, 0xFF0000, 0xFF000000, {0, 1, 2, 3}}, {0xFF0000, 0xFF00, 0xFF, 0xFF000000, {2, 1, 0, 3}},
        {0xFF000000, 0xFF00, 0xFF, 0xFF0000, {3, 1, 0, 2}}, {0, 0, 0, 0, {2, 1, 0, 3}},
    };
    if (bmp->bits == 16) {
        bmp->green_bits = green == 0x7E0 ? 6 : 5;
        return (red == 0xF800 && green == 0x7E0 && blue == 0x1F) || (red == 0x7C00 && green == 0x3E0 && blue == 0x1F);
    }
    if (bmp->bits == 24) return red == 0xFF0000 && green == 0xFF00 && blue == 0xFF;
    if (bmp->bits != 32) return false;
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        if (layouts[i].red != red || layouts[i].green != green || layouts[i].blue != blue) continue;
        if (layouts[i].alpha != alpha) continue;
        bmp->red = layouts[i].place[0];
        bmp->green = layouts[i].place[1];
        bmp->blue = layouts[i].place[2];
        bmp->alpha = layouts[i].place[3];
        return true;
    }
    return false;
}

static cimage_status read_header(bmp_header *bmp, const uint8_t *data, size_t size, char *message) {
    *bmp = (bmp_header){.green_bits = 5, .red = 2, .green = 1, .blue = 0, .alpha = -1};
    const uint32_t header = u32(data + 14);
    size_t position = 14 + (size_t)header;
    if (size < position) return cimage_fail(message, CIMAGE_TRUNCATED, "the BMP data is truncated");
    const uint8_t *h = data + 14;
    if (header == 12) {
        bmp->width = u16(h + 4);
        bmp->height = u16(h + 6);
        bmp->bits = u16(h + 10);
        bmp->color_size = 3;
    } else {
        bmp->top_down = h[11] == 0xFF;
        bmp->width = u32(h + 4);
        bmp->height = bmp->top_down ? 0u - u32(h + 8) : u32(h + 8);
        bmp->bits = u16(h + 14);
        bmp->compression = u32(h + 16);
        bmp->colors = u32(h + 32);
        bmp->color_size = 4;
    }
    if (bmp->width == 0 || bmp->height == 0) return cimage_fail(message, CIMAGE_CORRUPT, "the BMP has no pixels");
    if (bmp->width > INT32_MAX || bmp->height > INT32_MAX) {
        return cimage_fail(message, CIMAGE_CORRUPT, "the BMP's size is negative");
    }
    const uint32_t bits = bmp->bits;
    if (bits != 1 && bits != 4 && bits != 8 && bits != 16 && bits != 24 && bits != 32) {
        return cimage_fail(message, CIMAGE_UNSUPPORTED, "a BMP of %u bits a pixel", bits);
    }
    if (bmp->colors == 0) bmp->colors = bits < 31 ? 1u << bits : 0;
    if (bmp->compression == BITFIELDS) {
        const uint8_t *masks = h + 40;
        if (header < 52) {
            position += 12;
            if (size < position) return cimage_fail(message, CIMAGE_TRUNCATED, "the BMP data is truncated");
        }
        if (!read_masks(bmp, u32(masks), u32(masks + 4), u32(masks + 8), header >= 56 ? u32(masks + 12) : 0)) {
            return cimage_fail(message, CIMAGE_UNSUPPORTED, "the BMP's bit fields are of a layout not decoded here");
        }
    } else if (bmp->compression > RLE4) {
        return cimage_fail(message, CIMAGE_UNSUPPORTED, "BMP compression %u", bmp->compression);
    } else if ((bmp->compression == RLE8 && bits != 8) || (bmp->compression == RLE4 && bits != 4)) {
        return cimage_fail(message, CIMAGE_CORRUPT, "a BMP of %u bits a pixel with run lengths of another depth", bits);
    }
    const size_t offset = u32(data + 10);
    size_t after = position;
    if (bits <= 8) {
        if (bmp->colors > 65536) return cimage_fail(message, CIMAGE_CORRUPT, "a BMP of %u colours", bmp->colors);
        const size_t bytes = (size_t)bmp->colors * bmp->color_size;
        if (size - position < bytes) return cimage_fail(message, CIMAGE_TRUNCATED, "the BMP data is truncated");
        bmp->palette = data + position;
        after += bytes;
        // Some writers leave the palette out of the offset.
        bmp->pixels = offset == 14 + (size_t)header ? offset + bytes : offset;
    } else {
        bmp->pixels = offset;
    }
    if (bmp->pixels == 0) bmp->pixels = after;
    return CIMAGE_OK;
}

static uint64_t row_bytes(const bmp_header *bmp) { return ((uint64_t)bmp->width * bmp->bits + 31) / 32 * 4; }

cimage_status cimage_bmp_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                               char *message) {
    bmp_header bmp;
    cimage_status status = read_header(&bmp, data, size, message);
    if (status != CIMAGE_OK) return status;
    info->width = bmp.width;
    info->height = bmp.height;
    info->peak_bytes = (uint64_t)info->width * info->height * 3 + (1 << 12);
    status = cimage_check_limits(info, limits, message);
    if (status != CIMAGE_OK) return status;
    const bool runs = bmp.compression == RLE8 || bmp.compression == RLE4;
    // The last row's padding is often missing.
    const uint64_t needed = row_bytes(&bmp) * (bmp.height - 1) + ((uint64_t)bmp.width * bmp.bits + 7) / 8;
    if (bmp.pixels > size || (!runs && size - bmp.pixels < needed)) {
        return cimage_fail(message, CIMAGE_TRUNCATED, "the BMP data is truncated");
    }
    return CIMAGE_OK;
}

// Entries that a palette lacks are black.
static void color_of(const bmp_header *bmp, uint32_t index, uint8_t *rgb) {
    if (index >= bmp->colors) {
        memset(rgb, 0, 3);
        return;
    }
    const uint8_t *entry = bmp->palette + (size_t)index * bmp->color_size;
    rgb[0] = entry[2];
    rgb[1] = entry[1];
    rgb[2] = entry[0];
}

static void raw_row(const bmp_header *bmp, const uint8_t *from, const uint8_t background[3], uint8_t *rgb) {
    const uint32_t bits = bmp->bits, per_byte = bits < 8 ? 8 / bits : 1;
    for (uint32_t x = 0; x < bmp->width; x++, rgb += 3) {
        if (bits <= 8) {
            const uint32_t shift = 8 - bits - bits * (x % per_byte);
            color_of(bmp, from[x / per_byte] >> shift & ((1u << bits) - 1), rgb);
        } else if (bits == 16) {
            const uint32_t value = u16(from + 2 * (size_t)x), most = (1u << bmp->green_bits) - 1;
            rgb[0] = (uint8_t)((value >> (5 + bmp->green_bits) & 31) * 255 / 31);
            rgb[1] = (uint8_t)((value >> 5 & most) * 255 / most);
            rgb[2] = (uint8_t)((value & 31) * 255 / 31);
        } else {
            const uint8_t *pixel = from + (size_t)x * (bits / 8);
            const unsigned alpha = bmp->alpha < 0 ? 255 : pixel[bmp->alpha];
            rgb[0] = cimage_blend(pixel[bmp->red], alpha, background[0]);
            rgb[1] = cimage_blend(pixel[bmp->green], alpha, background[1]);
            rgb[2] = cimage_blend(pixel[bmp->blue], alpha, background[2]);
        }
    }
}

// The picture as one line of pixels from the first row in the file to the last.
typedef struct {
    const bmp_header *bmp;
    uint8_t *rgb;
    uint64_t count, done;
} line;

static void put(line *out, uint32_t index, uint64_t times) {
    const uint32_t width = out->bmp->width, height = out->bmp->height;
    uint8_t color[3];
    color_of(out->bmp, index, color);
    for (; times > 0 && out->done < out->count; times--, out->done++) {
        const uint64_t y = out->done / width, x = out->done % width;
        memcpy(out->rgb + 3 * ((out->bmp->top_down ? y : height - 1 - y) * width + x), color, 3);
    }
}

static cimage_status decode_runs(const bmp_header *bmp, const uint8_t *data, size_t size, uint8_t *rgb,
                                 char *message) {
    line out = {bmp, rgb, (uint64_t)bmp->width * bmp->height, 0};
    const bool nibbles = bmp->compression == RLE4;
    size_t at = bmp->pixels;
    uint64_t x = 0;
    while (out.done < out.count && size - at >= 2) {
        uint32_t run = data[at];
        const uint8_t value = data[at + 1];
        at += 2;
        if (run > 0) {
            if (x + run > bmp->width) run = x < bmp->width ? bmp->width - (uint32_t)x : 0;
            for (uint32_t i = 0; nibbles && i < run; i++) put(&out, i % 2 ? value & 15 : value >> 4, 1);
            if (!nibbles) put(&out, value, run);
            x += run;
        } else if (value == 0) {
            if (out.done % bmp->width) put(&out, 0, bmp->width - out.done % bmp->width);
            x = 0;
        } else if (value == 1) {
            break;
        } else if (value == 2) {
            if (size - at < 2) break;
            put(&out, 0, data[at] + (uint64_t)data[at + 1] * bmp->width);
            at += 2;
            x = out.done % bmp->width;
        } else {
            const uint64_t left = out.count - out.done, wanted = value < left ? value : left;
            const size_t bytes = nibbles ? (wanted + 1) / 2 : wanted;
            if (size - at < bytes) break;
            for (uint64_t i = 0; i < wanted; i++) {
                put(&out, !nibbles ? data[at + i] : i % 2 ? data[at + i / 2] & 15 : data[at + i / 2] >> 4, 1);
            }
            at += bytes;
            x += value;
            if (at % 2 && at < size) at++;
        }
    }
    if (out.done == out.count) return CIMAGE_OK;
    return cimage_fail(message, CIMAGE_TRUNCATED, "the BMP's run lengths end before its pixels do");
}

cimage_status cimage_bmp_decode(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                                const uint8_t background[3], uint8_t *rgb, char *message) {
    (void)limits;
    bmp_header bmp;
    const cimage_status status = read_header(&bmp, data, size, message);
    if (status != CIMAGE_OK) return status;
    if (bmp.compression == RLE8 || bmp.compression == RLE4) return decode_runs(&bmp, data, size, rgb, message);
    const uint64_t bytes = row_bytes(&bmp);
    for (uint32_t y = 0; y < info->height; y++) {
        const uint32_t target = bmp.top_down ? y : info->height - 1 - y;
        raw_row(&bmp, data + bmp.pixels + bytes * y, background, rgb + (size_t)target * info->width * 3);
    }
    return CIMAGE_OK;
}
