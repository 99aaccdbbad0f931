// Turning while decoding: a row of the picture as stored becomes a row or a column of the result, which so needs no
// second copy. Columns are written sixteen at a time, for a pixel alone would touch a cache line of its own.
#include "decoders.h"

#include <stdlib.h>
#include <string.h>

enum { BAND = 16 };

static uint32_t band_rows(uint32_t orientation) {
    return orientation == 1 || orientation == 4 ? 0 : orientation < 5 ? 1 : BAND;
}

uint64_t cimage_rows_bytes(const cimage_info *info) {
    return (uint64_t)info->width * 3 * band_rows(info->orientation);
}

bool cimage_rows_open(cimage_rows *rows, const cimage_info *info, uint8_t *target) {
    *rows = (cimage_rows){.target = target, .width = info->width, .height = info->height,
                          .orientation = info->orientation};
    const uint64_t bytes = cimage_rows_bytes(info);
    if (bytes > 0) rows->band = malloc(bytes);
    return bytes == 0 || rows->band;
}

uint8_t *cimage_rows_begin(cimage_rows *rows, uint32_t y) {
    const size_t bytes = (size_t)rows->width * 3;
    switch (rows->orientation) {
        case 1: return rows->target + bytes * y;
        case 4: return rows->target + bytes * (rows->height - 1 - y);
        case 2: case 3: return rows->band;
        default:
            if (rows->count == 0) rows->first = y;
            return rows->band + bytes * rows->count;
    }
}

static void reverse(const uint8_t *from, uint32_t width, uint8_t *to) {
    to += 3 * (size_t)width;
    for (uint32_t x = 0; x < width; x++, from += 3) {
        to -= 3;
        memcpy(to, from, 3);
    }
}

// Row x of the result, or its mirror, gets pixel x of every row of the band.
static void transpose(cimage_rows *rows) {
    const bool flip_x = rows->orientation == 7 || rows->orientation == 8;  // of the picture as stored
    const bool flip_y = rows->orientation == 6 || rows->orientation == 7;
    const size_t bytes = (size_t)rows->width * 3, h = rows->height;
    const size_t column = flip_y ? h - rows->first - rows->count : rows->first;
    for (uint32_t x = 0; x < rows->width; x++) {
        uint8_t *to = rows->target + 3 * (h * (flip_x ? rows->width - 1 - x : x) + column);
        for (uint32_t i = 0; i < rows->count; i++, to += 3) {
            memcpy(to, rows->band + bytes * (flip_y ? rows->count - 1 - i : i) + 3 * (size_t)x, 3);
        }
    }
}

void cimage_rows_end(cimage_rows *rows, uint32_t y) {
    const size_t bytes = (size_t)rows->width * 3;
    if (rows->orientation == 2) reverse(rows->band, rows->width, rows->target + bytes * y);
    if (rows->orientation == 3) reverse(rows->band, rows->width, rows->target + bytes * (rows->height - 1 - y));
    if (rows->orientation < 5) return;
    if (++rows->count == BAND || y == rows->height - 1) {
        transpose(rows);
        rows->count = 0;
    }
}

void cimage_rows_put(cimage_rows *rows, const uint8_t *rgb) {
    const size_t bytes = (size_t)rows->width * 3;
    for (uint32_t y = 0; y < rows->height; y++) {
        memcpy(cimage_rows_begin(rows, y), rgb + bytes * y, bytes);
        cimage_rows_end(rows, y);
    }
}

void cimage_rows_close(cimage_rows *rows) { free(rows->band); }
