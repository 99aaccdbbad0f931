// PNG through libspng, which gets only the chunks that pixels depend on: colour profiles and unknown chunks (and bombs
// in them) are never inflated or stored, and of text only what turns the picture, up to a limit.
#include "decoders.h"

#include <stdlib.h>
#include <string.h>
#include <spng.h>
#include <zlib.h>

enum { SIGNATURE_SIZE = 8, CHUNK_OVERHEAD = 12, TEXT_MOST = 1 << 20 };
enum { GREY = 0, INDEXED = 3, GREY_ALPHA = 4, COLOR_ALPHA = 6 };

static uint32_t read_u32(const uint8_t *p) { return cimage_u32(p, true); }

static bool is_type(const uint8_t *type, const char *name) { return memcmp(type, name, 4) == 0; }

// Feeds libspng the signature and the wanted chunks.
typedef struct {
    const uint8_t *data;
    size_t size, position;
    const uint8_t *feed;       // what is being fed, and how much of it is left
    size_t left;
    uint8_t color_type, depth;
    bool is_finished;          // the end chunk was made up
    uint32_t colors;           // entries of the palette that was fed
    uint8_t shortened[CHUNK_OVERHEAD + 768];
} chunk_reader;

// libspng refuses what others pass over: palettes of pictures that have none, transparency beside an alpha channel.
static bool pixels_depend_on(const chunk_reader *reader, const uint8_t *type) {
    const bool alpha = reader->color_type == GREY_ALPHA || reader->color_type == COLOR_ALPHA;
    if (is_type(type, "PLTE")) return reader->color_type == INDEXED;
    if (is_type(type, "tRNS")) return !alpha;
    return (type[0] & 0x20) == 0;  // critical
}

// More entries than indices can name are passed over by all who read PNG, but refused by libspng: the chunk is made
// shorter. One whose checksum is wrong stays as it is.
static const uint8_t *shorten(chunk_reader *reader, const uint8_t *chunk, size_t *whole, size_t keep) {
    const size_t length = *whole - CHUNK_OVERHEAD;
    if (length <= keep || crc32(crc32(0, NULL, 0), chunk + 4, (uInt)length + 4) != read_u32(chunk + 8 + length)) {
        return chunk;
    }
    uint8_t *made = reader->shortened;
    made[0] = made[1] = 0;
    made[2] = (uint8_t)(keep >> 8);
    made[3] = (uint8_t)keep;
    memcpy(made + 4, chunk + 4, 4 + keep);
    const uint32_t sum = (uint32_t)crc32(crc32(0, NULL, 0), made + 4, (uInt)keep + 4);
    for (int i = 0; i < 4; i++) made[8 + keep + (size_t)i] = (uint8_t)(sum >> (24 - 8 * i));
    *whole = keep + CHUNK_OVERHEAD;
    return made;
}

static const uint8_t end_chunk[CHUNK_OVERHEAD] = {0, 0, 0, 0, 'I', 'E', 'N', 'D', 0xAE, 0x42, 0x60, 0x82};

// What may stand for the end chunk: nothing, a part of it, or zeros. A part of another chunk is a cut file, of which it
// is not known how it is to be turned.
static bool is_end(const uint8_t *data, size_t size) {
    if (size < sizeof end_chunk && memcmp(data, end_chunk, size) == 0) return true;
    for (size_t i = 0; i < size; i++) {
        if (data[i] != 0) return false;
    }
    return true;
}

// Where the end chunk is missing it is made up, so that the checksum of the pixels' last chunk is looked at too.
static bool next_chunk(chunk_reader *reader) {
    for (;;) {
        const uint8_t *chunk = reader->data + reader->position;
        const size_t left = reader->size - reader->position;
        if (is_end(chunk, left)) {
            if (reader->is_finished) return false;
            reader->is_finished = true;
            reader->feed = end_chunk;
            reader->left = sizeof end_chunk;
            return true;
        }
        if (left < CHUNK_OVERHEAD) return false;
        size_t whole = (size_t)read_u32(chunk) + CHUNK_OVERHEAD;
        if (whole > left) return false;
        reader->position += whole;
        if (!pixels_depend_on(reader, chunk + 4)) continue;
        if (is_type(chunk + 4, "IHDR") && whole >= 25) {
            reader->depth = chunk[16];
            reader->color_type = chunk[17];
        } else if (is_type(chunk + 4, "PLTE") && reader->depth >= 1 && reader->depth <= 8) {
            chunk = shorten(reader, chunk, &whole, 3u << reader->depth);
            reader->colors = (uint32_t)(whole - CHUNK_OVERHEAD) / 3;
        } else if (is_type(chunk + 4, "tRNS") && reader->color_type == INDEXED && reader->colors > 0) {
            chunk = shorten(reader, chunk, &whole, reader->colors < 256 ? reader->colors : 256);
        }
        reader->feed = chunk;
        reader->left = whole;
        return true;
    }
}

static int read_chunks(spng_ctx *context, void *user, void *target, size_t length) {
    (void)context;
    chunk_reader *reader = user;
    uint8_t *out = target;
    while (length > 0) {
        if (reader->left == 0 && !next_chunk(reader)) return SPNG_IO_EOF;
        const size_t n = reader->left < length ? reader->left : length;
        memcpy(out, reader->feed, n);
        reader->feed += n;
        reader->left -= n;
        out += n;
        length -= n;
    }
    return 0;
}

// MARK: Orientation

static void read_text(const char *key, const uint8_t *text, size_t size, cimage_turn *turn, uint32_t *profile) {
    if (strcmp(key, "XML:com.adobe.xmp") == 0) turn->xmp = cimage_xmp_orientation(text, size);
    else *profile = cimage_profile_orientation(text, size);
}

// Text of the two keys that matter: tEXt, zTXt, and iTXt plain or compressed. What inflates to more than TEXT_MOST, and
// what is damaged, says nothing.
static void take_text(const uint8_t *type, const uint8_t *data, size_t size, cimage_turn *turn, uint32_t *profile) {
    static const char *const keys[] = {"XML:com.adobe.xmp", "Raw profile type exif"};
    const uint8_t *end = data + size;
    const uint8_t *zero = memchr(data, 0, size);
    if (!zero) return;
    const char *key = NULL;
    for (int i = 0; i < 2; i++) {
        const size_t length = strlen(keys[i]);
        if ((size_t)(zero - data) == length && memcmp(data, keys[i], length) == 0) key = keys[i];
    }
    if (!key) return;
    const uint8_t *text = zero + 1;
    bool deflated = is_type(type, "zTXt");
    if (deflated) {
        if (text == end || *text++ != 0) return;
    } else if (is_type(type, "iTXt")) {
        if (end - text < 2) return;
        deflated = text[0] != 0;
        if (deflated && text[1] != 0) return;
        text += 2;
        for (int i = 0; i < 2; i++) {  // language, translated key
            text = memchr(text, 0, (size_t)(end - text));
            if (!text) return;
            text++;
        }
    }
    if (!deflated) {
        read_text(key, text, (size_t)(end - text), turn, profile);
        return;
    }
    uLongf room = TEXT_MOST;
    uint8_t *inflated = malloc(room);
    if (inflated && uncompress(inflated, &room, text, (uLong)(end - text)) == Z_OK) {
        read_text(key, inflated, room, turn, profile);
    }
    free(inflated);
}

typedef struct {
    bool interlaced, transparent, has_pixels, ended;
} png_layout;

// Walks all chunks; their checksums are libspng's matter.
static cimage_status walk(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                          png_layout *layout, char *message) {
    cimage_turn turn = {0};
    uint32_t profile = 0;
    *layout = (png_layout){0};
    for (size_t position = SIGNATURE_SIZE; !layout->ended;) {
        const size_t left = size - position;
        const uint8_t *chunk = data + position;
        const uint32_t length = left < CHUNK_OVERHEAD ? 0 : read_u32(chunk);
        const bool cut = left < CHUNK_OVERHEAD || (size_t)length + CHUNK_OVERHEAD > left;
        const bool is_header = left >= CHUNK_OVERHEAD && is_type(chunk + 4, "IHDR");
        if (left >= CHUNK_OVERHEAD && (is_header != (position == SIGNATURE_SIZE) || (is_header && length != 13))) {
            return cimage_fail(message, CIMAGE_CORRUPT,
                               "the PNG header chunk is missing, repeated or of the wrong size");
        }
        // Whether the pixels are complete shows when they are decoded.
        if (layout->has_pixels && is_end(chunk, left)) break;
        if (cut && !(is_header && left >= 16)) {
            return cimage_fail(message, CIMAGE_TRUNCATED, "the PNG data is truncated");
        }
        if (is_header) {
            // The declared size is judged first, whatever follows it.
            info->width = read_u32(chunk + 8);
            info->height = read_u32(chunk + 12);
            if (info->width == 0 || info->height == 0) {
                return cimage_fail(message, CIMAGE_CORRUPT, "the PNG has no pixels");
            }
            const uint64_t pixels = (uint64_t)info->width * info->height;
            info->peak_bytes = pixels > UINT64_MAX / 8 ? UINT64_MAX : pixels * 3;
            const cimage_status status = cimage_check_limits(info, limits, message);
            if (status != CIMAGE_OK) return status;
            if (cut) return cimage_fail(message, CIMAGE_TRUNCATED, "the PNG data is truncated");
            layout->transparent = chunk[17] == GREY_ALPHA || chunk[17] == COLOR_ALPHA;
            layout->interlaced = chunk[20] != 0;
        }
        const uint8_t *type = chunk + 4, *content = chunk + 8;
        if (is_type(type, "tRNS")) layout->transparent = true;
        if (is_type(type, "IDAT")) layout->has_pixels = true;
        if (is_type(type, "IEND")) layout->ended = true;
        if (is_type(type, "eXIf")) turn.exif = cimage_exif_orientation(content, length);
        if (is_type(type, "tEXt") || is_type(type, "zTXt") || is_type(type, "iTXt")) {
            take_text(type, content, length, &turn, &profile);
        }
        position += (size_t)length + CHUNK_OVERHEAD;
    }
    if (!turn.exif) turn.exif = profile;
    info->orientation = cimage_orientation(turn);
    return CIMAGE_OK;
}

// Interlaced pictures come in seven passes: all is held until the last, unless it can be held in the result.
static uint64_t store_bytes(const cimage_info *info, const png_layout *layout) {
    if (!layout->interlaced || (!layout->transparent && info->orientation == 1)) return 0;
    return (uint64_t)info->width * info->height * (layout->transparent ? 4 : 3);
}

cimage_status cimage_png_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                               char *message) {
    png_layout layout;
    const cimage_status status = walk(data, size, limits, info, &layout, message);
    if (status != CIMAGE_OK) return status;
    // Besides the result: rows of 16-bit RGBA in the decoder, one of RGBA here, and inflating.
    info->peak_bytes += cimage_rows_bytes(info) + store_bytes(info, &layout) + (uint64_t)info->width * (8 * 3 + 4)
        + (1 << 17);
    return cimage_check_limits(info, limits, message);
}

static cimage_status png_fail(int code, char *message) {
    switch (code) {
        case SPNG_IO_EOF: case SPNG_EOI: case SPNG_EIDAT_TOO_SHORT:
            return cimage_fail(message, CIMAGE_TRUNCATED, "the PNG data is truncated (%s)", spng_strerror(code));
        case SPNG_EMEM: return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
        case SPNG_EUSER_WIDTH: case SPNG_EUSER_HEIGHT:
            return cimage_fail(message, CIMAGE_TOO_LARGE, "%s", spng_strerror(code));
        default: return cimage_fail(message, CIMAGE_CORRUPT, "corrupt PNG: %s", spng_strerror(code));
    }
}

// Decodes row by row; `store` [height, width, 3 or 4] holds an interlaced picture.
static int decode_rows(spng_ctx *context, const cimage_info *info, const png_layout *layout, uint8_t *store,
                       uint8_t *row, const uint8_t background[3], cimage_rows *rows) {
    const size_t width = info->width, depth = layout->transparent ? 4 : 3;
    const int format = layout->transparent ? SPNG_FMT_RGBA8 : SPNG_FMT_RGB8;
    const int flags = SPNG_DECODE_PROGRESSIVE | (layout->transparent ? SPNG_DECODE_TRNS : 0);
    int code = spng_decode_image(context, NULL, 0, format, flags);
    while (!code) {
        struct spng_row_info place;
        code = spng_get_row_info(context, &place);
        if (code) break;
        const uint32_t y = place.row_num;
        if (store) {
            code = spng_decode_row(context, store + y * width * depth, width * depth);
        } else {
            uint8_t *target = cimage_rows_begin(rows, y);
            code = spng_decode_row(context, row ? row : target, width * depth);
            if (code && code != SPNG_EOI) break;
            if (row) cimage_compose(row, width, background, target);
            cimage_rows_end(rows, y);
        }
    }
    if (code != SPNG_EOI) return code;
    for (uint32_t y = 0; store && y < info->height; y++) {
        uint8_t *target = cimage_rows_begin(rows, y);
        const uint8_t *from = store + y * width * depth;
        if (layout->transparent) cimage_compose(from, width, background, target);
        else memcpy(target, from, width * 3);
        cimage_rows_end(rows, y);
    }
    return 0;
}

cimage_status cimage_png_decode(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                                const uint8_t background[3], uint8_t *rgb, char *message) {
    png_layout layout;
    cimage_info found = {.reduction = 1};
    const cimage_status status = walk(data, size, limits, &found, &layout, message);
    if (status != CIMAGE_OK) return status;
    spng_ctx *context = spng_ctx_new(0);
    if (!context) return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
    chunk_reader reader = {.data = data, .size = size, .position = SIGNATURE_SIZE, .feed = data,
                           .left = SIGNATURE_SIZE};
    uint8_t *store = NULL, *row = NULL;
    cimage_rows rows;
    const size_t held = (size_t)store_bytes(info, &layout);

    spng_set_image_limits(context, info->width, info->height);
    int code = spng_set_png_stream(context, read_chunks, &reader);
    if (found.width != info->width || found.height != info->height) code = SPNG_EINVAL;
    if (!cimage_rows_open(&rows, info, rgb) && !code) code = SPNG_EMEM;
    if (!code && held > 0 && !(store = malloc(held))) code = SPNG_EMEM;
    if (!code && layout.transparent && !layout.interlaced && !(row = malloc((size_t)info->width * 4))) {
        code = SPNG_EMEM;
    }
    if (!code) code = decode_rows(context, info, &layout, store, row, background, &rows);
    if (!code) code = spng_decode_chunks(context);  // to IEND
    info->repaired = !layout.ended;
    free(store);
    free(row);
    cimage_rows_close(&rows);
    spng_ctx_free(context);
    return code ? png_fail(code, message) : CIMAGE_OK;
}

cimage_status cimage_encode_png(const uint8_t *rgb, uint32_t width, uint32_t height, uint8_t **output,
                                size_t *output_size, char *message) {
    message[0] = 0;
    spng_ctx *context = spng_ctx_new(SPNG_CTX_ENCODER);
    if (!context) return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
    struct spng_ihdr header = {.width = width, .height = height, .bit_depth = 8,
                               .color_type = SPNG_COLOR_TYPE_TRUECOLOR};
    int code = spng_set_option(context, SPNG_ENCODE_TO_BUFFER, 1);
    if (!code) code = spng_set_ihdr(context, &header);
    if (!code) code = spng_encode_image(context, rgb, (size_t)width * height * 3, SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE);
    if (!code) *output = spng_get_png_buffer(context, output_size, &code);
    spng_ctx_free(context);
    if (code == SPNG_EMEM) return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
    return code ? cimage_fail(message, CIMAGE_UNSUPPORTED, "cannot be encoded as PNG: %s", spng_strerror(code))
                : CIMAGE_OK;
}
