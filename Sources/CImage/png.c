// PNG through libspng, which gets only the chunks that pixels depend on: text, colour profiles and unknown chunks (and bombs in them)
// are never inflated or stored.
#include "decoders.h"

#include <stdlib.h>
#include <string.h>
#include <spng.h>

enum { SIGNATURE_SIZE = 8, CHUNK_OVERHEAD = 12 };

static uint32_t read_u32(const uint8_t *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }

static bool pixels_depend_on(const uint8_t *type) {
    return (type[0] & 0x20) == 0 || memcmp(type, "tRNS", 4) == 0;  // critical, or transparency
}

// Feeds libspng the signature and the wanted chunks.
typedef struct {
    const uint8_t *data;
    size_t size, position, end;  // [position, end) is being fed; at `end` the next wanted chunk is looked for
} chunk_reader;

static int read_chunks(spng_ctx *context, void *user, void *target, size_t length) {
    (void)context;
    chunk_reader *reader = user;
    uint8_t *out = target;
    while (length > 0) {
        if (reader->position == reader->end) {
            for (;;) {
                const uint8_t *chunk = reader->data + reader->position;
                const size_t left = reader->size - reader->position;
                if (left < CHUNK_OVERHEAD) return SPNG_IO_EOF;
                const size_t whole = (size_t)read_u32(chunk) + CHUNK_OVERHEAD;
                if (whole > left) return SPNG_IO_EOF;
                if (pixels_depend_on(chunk + 4)) {
                    reader->end = reader->position + whole;
                    break;
                }
                reader->position += whole;
            }
        }
        size_t n = reader->end - reader->position;
        if (n > length) n = length;
        memcpy(out, reader->data + reader->position, n);
        reader->position += n;
        out += n;
        length -= n;
    }
    return 0;
}

cimage_status cimage_png_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info, char *message) {
    info->format = CIMAGE_PNG;
    info->orientation = 1;
    bool ended = false;
    for (size_t position = SIGNATURE_SIZE; !ended;) {
        const size_t left = size - position;
        if (left < CHUNK_OVERHEAD) return cimage_fail(message, CIMAGE_TRUNCATED, "the PNG data is truncated");
        const uint8_t *chunk = data + position;
        const uint32_t length = read_u32(chunk);
        const bool is_header = memcmp(chunk + 4, "IHDR", 4) == 0;
        if (is_header != (position == SIGNATURE_SIZE) || (is_header && length != 13)) {
            return cimage_fail(message, CIMAGE_CORRUPT, "the PNG header chunk is missing, repeated or of the wrong size");
        }
        if (is_header) {
            // The declared size is judged first, whatever follows it.
            if (left < 13 + CHUNK_OVERHEAD) return cimage_fail(message, CIMAGE_TRUNCATED, "the PNG data is truncated");
            info->width = read_u32(chunk + 8);
            info->height = read_u32(chunk + 12);
            if (info->width == 0 || info->height == 0) return cimage_fail(message, CIMAGE_CORRUPT, "the PNG has no pixels");
            const uint64_t pixels = (uint64_t)info->width * info->height;
            info->peak_bytes = pixels > UINT64_MAX / 8 ? UINT64_MAX : pixels * 3;
            const cimage_status status = cimage_check_limits(info, limits, message);
            if (status != CIMAGE_OK) return status;
        }
        if ((size_t)length + CHUNK_OVERHEAD > left) return cimage_fail(message, CIMAGE_TRUNCATED, "the PNG data is truncated");
        if (memcmp(chunk + 4, "eXIf", 4) == 0) info->orientation = cimage_exif_orientation(chunk + 8, length);
        ended = memcmp(chunk + 4, "IEND", 4) == 0;
        position += (size_t)length + CHUNK_OVERHEAD;
    }
    // Upper estimate: an RGBA store for transparency, turning, and rows of 16-bit RGBA in the decoder (two, and the inflate window).
    const uint64_t pixels = (uint64_t)info->width * info->height;
    info->peak_bytes = pixels * (3 + 4 + (info->orientation != 1 ? 3 : 0)) + (uint64_t)info->width * 8 * 3 + (1 << 17);
    return cimage_check_limits(info, limits, message);
}

static cimage_status png_fail(int code, char *message) {
    switch (code) {
        case SPNG_IO_EOF: case SPNG_EOI: case SPNG_EIDAT_TOO_SHORT:
            return cimage_fail(message, CIMAGE_TRUNCATED, "the PNG data is truncated (%s)", spng_strerror(code));
        case SPNG_EMEM: return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
        case SPNG_EUSER_WIDTH: case SPNG_EUSER_HEIGHT: return cimage_fail(message, CIMAGE_TOO_LARGE, "%s", spng_strerror(code));
        default: return cimage_fail(message, CIMAGE_CORRUPT, "corrupt PNG: %s", spng_strerror(code));
    }
}

cimage_status cimage_png_decode(const uint8_t *data, size_t size, const cimage_limits *limits, const cimage_info *info, uint8_t *rgb, char *message) {
    (void)limits;  // `info->peak_bytes`, which the probe checked, counts the store below
    spng_ctx *context = spng_ctx_new(0);
    if (!context) return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
    chunk_reader reader = {data, size, 0, SIGNATURE_SIZE};
    uint8_t *rgba = NULL;
    struct spng_ihdr header;
    struct spng_trns transparency;

    spng_set_image_limits(context, info->width, info->height);
    int code = spng_set_png_stream(context, read_chunks, &reader);
    if (!code) code = spng_get_ihdr(context, &header);
    const size_t pixels = (size_t)info->width * info->height;
    if (!code && (header.width != info->width || header.height != info->height)) code = SPNG_EINVAL;
    bool transparent = false;
    if (!code) {
        transparent = header.color_type == SPNG_COLOR_TYPE_GRAYSCALE_ALPHA || header.color_type == SPNG_COLOR_TYPE_TRUECOLOR_ALPHA;
        if (!transparent) {
            const int found = spng_get_trns(context, &transparency);
            transparent = found == 0;
            if (found != 0 && found != SPNG_ECHUNKAVAIL) code = found;
        }
    }
    if (!code && transparent) {
        rgba = malloc(pixels * 4);
        if (!rgba) code = SPNG_EMEM;
        if (!code) code = spng_decode_image(context, rgba, pixels * 4, SPNG_FMT_RGBA8, SPNG_DECODE_TRNS);
    } else if (!code) {
        code = spng_decode_image(context, rgb, pixels * 3, SPNG_FMT_RGB8, 0);
    }
    if (!code) code = spng_decode_chunks(context);  // to IEND
    if (!code && transparent) {
        for (size_t i = 0; i < pixels; i++) {
            for (int c = 0; c < 3; c++) rgb[3 * i + c] = cimage_multiply_255(rgba[4 * i + c], rgba[4 * i + 3]);
        }
    }
    free(rgba);
    spng_ctx_free(context);
    return code ? png_fail(code, message) : CIMAGE_OK;
}

cimage_status cimage_encode_png(const uint8_t *rgb, uint32_t width, uint32_t height, uint8_t **output, size_t *output_size, char *message) {
    message[0] = 0;
    spng_ctx *context = spng_ctx_new(SPNG_CTX_ENCODER);
    if (!context) return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
    struct spng_ihdr header = {.width = width, .height = height, .bit_depth = 8, .color_type = SPNG_COLOR_TYPE_TRUECOLOR};
    int code = spng_set_option(context, SPNG_ENCODE_TO_BUFFER, 1);
    if (!code) code = spng_set_ihdr(context, &header);
    if (!code) code = spng_encode_image(context, rgb, (size_t)width * height * 3, SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE);
    if (!code) *output = spng_get_png_buffer(context, output_size, &code);
    spng_ctx_free(context);
    if (code == SPNG_EMEM) return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
    return code ? cimage_fail(message, CIMAGE_UNSUPPORTED, "cannot be encoded as PNG: %s", spng_strerror(code)) : CIMAGE_OK;
}
