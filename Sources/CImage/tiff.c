// TIFF through libtiff: the first page, in strips or tiles, its samples together or apart. Rows are read one by one
// where the file's layout allows it, else a strip or a row of tiles at a time.
//
// Of the compressions those are decoded whose decoders hold little: LZMA, Zstandard, WebP and LERC in a TIFF take
// memory that the file decides about and no limit bounds.
#include "decoders.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tiffio.h>

typedef struct {
    const uint8_t *data;
    size_t size, position;
    char *message;
    bool failed, pixels_missing;  // an error, and a warning of the JPEG decoder, which then makes pixels up
} tiff_source;

typedef struct {
    tiff_source source;
    TIFF *file;
    uint16_t samples, bits, photometric, planar, compression, extra;
    int alpha;              // sample that is alpha, or -1
    const uint8_t *background;  // behind it, RGB
    bool premultiplied;
    bool tiled;
    uint32_t chunk_width, chunk_height;  // of a strip or tile
    uint64_t chunk_bytes;                // one plane of it
    uint16_t *colors[3];
} tiff_reader;

static tmsize_t tiff_read(thandle_t handle, void *target, tmsize_t count) {
    tiff_source *source = handle;
    if (source->position > source->size || count < 0) return 0;
    const size_t left = source->size - source->position;
    const size_t n = (size_t)count < left ? (size_t)count : left;
    memcpy(target, source->data + source->position, n);
    source->position += n;
    return (tmsize_t)n;
}

static tmsize_t tiff_write(thandle_t handle, void *data, tmsize_t count) {
    (void)handle, (void)data, (void)count;
    return 0;
}

static toff_t tiff_seek(thandle_t handle, toff_t offset, int whence) {
    tiff_source *source = handle;
    source->position = (size_t)offset + (whence == SEEK_CUR ? source->position : whence == SEEK_END ? source->size : 0);
    return source->position;
}

static int tiff_close(thandle_t handle) { return (void)handle, 0; }

static toff_t tiff_size(thandle_t handle) { return ((tiff_source *)handle)->size; }

static int tiff_map(thandle_t handle, void **base, toff_t *size) {
    const tiff_source *source = handle;
    *base = (void *)source->data;
    *size = source->size;
    return 1;
}

static void tiff_unmap(thandle_t handle, void *base, toff_t size) { (void)handle, (void)base, (void)size; }

// The first error is the cause; those that follow it are not told.
static int on_error(TIFF *file, void *user, const char *module, const char *format, va_list arguments) {
    (void)file, (void)module;
    tiff_source *source = user;
    if (strstr(format, "custom tag")) return 1;  // a tag that is not read
    if (!source->failed) {
        const int n = snprintf(source->message, CIMAGE_MESSAGE_CAPACITY, "TIFF: ");
        vsnprintf(source->message + n, CIMAGE_MESSAGE_CAPACITY - (size_t)n, format, arguments);
    }
    source->failed = true;
    return 1;
}

static int on_warning(TIFF *file, void *user, const char *module, const char *format, va_list arguments) {
    (void)file, (void)arguments;
    tiff_source *source = user;
    // Of a picture's pixels; the rest is about tags.
    if (module && strstr(module, "JPEG") && !strstr(format, "bits_per_sample") && !strstr(format, "tag")) {
        source->pixels_missing = true;
    }
    return 1;
}

static cimage_status refuse(tiff_reader *reader, cimage_status status, const char *reason) {
    if (reader->source.failed) return status;  // the library's message stands
    return cimage_fail(reader->source.message, status, "%s", reason);
}

static cimage_status corrupt(tiff_reader *reader) {
    // Data that is not there is the usual damage.
    const bool cut = reader->source.failed && (strstr(reader->source.message, "ead error")
                                               || strstr(reader->source.message, "got "));
    return refuse(reader, cut ? CIMAGE_TRUNCATED : CIMAGE_CORRUPT, "the TIFF is corrupt");
}

static bool open_file(tiff_reader *reader, const uint8_t *data, size_t size, const cimage_limits *limits,
                      char *message) {
    *reader = (tiff_reader){.source = {.data = data, .size = size, .message = message}};
    TIFFOpenOptions *options = TIFFOpenOptionsAlloc();
    if (!options) return false;
    TIFFOpenOptionsSetErrorHandlerExtR(options, on_error, &reader->source);
    TIFFOpenOptionsSetWarningHandlerExtR(options, on_warning, &reader->source);
    TIFFOpenOptionsSetMaxSingleMemAlloc(options, limits->max_bytes > INT64_MAX ? INT64_MAX
                                                                                : (tmsize_t)limits->max_bytes);
    reader->file = TIFFClientOpenExt("image", "r", &reader->source, tiff_read, tiff_write, tiff_seek, tiff_close,
                                     tiff_size, tiff_map, tiff_unmap, options);
    TIFFOpenOptionsFree(options);
    return reader->file;
}

static bool is_decoded(uint16_t compression) {
    switch (compression) {
        case COMPRESSION_NONE: case COMPRESSION_LZW: case COMPRESSION_ADOBE_DEFLATE: case COMPRESSION_DEFLATE:
        case COMPRESSION_PACKBITS: case COMPRESSION_CCITTRLE: case COMPRESSION_CCITTRLEW: case COMPRESSION_CCITTFAX3:
        case COMPRESSION_CCITTFAX4: case COMPRESSION_JPEG:
            return TIFFIsCODECConfigured(compression);
        default: return false;
    }
}

// What the pixels are; a refusal for what Pillow does not read either, and for the few kinds said here.
static cimage_status read_layout(tiff_reader *reader) {
    TIFF *file = reader->file;
    char *message = reader->source.message;
    uint16_t format = SAMPLEFORMAT_UINT, *extra = NULL;
    reader->photometric = PHOTOMETRIC_MINISWHITE;
    TIFFGetField(file, TIFFTAG_PHOTOMETRIC, &reader->photometric);
    TIFFGetFieldDefaulted(file, TIFFTAG_SAMPLESPERPIXEL, &reader->samples);
    TIFFGetFieldDefaulted(file, TIFFTAG_BITSPERSAMPLE, &reader->bits);
    TIFFGetFieldDefaulted(file, TIFFTAG_PLANARCONFIG, &reader->planar);
    TIFFGetFieldDefaulted(file, TIFFTAG_COMPRESSION, &reader->compression);
    TIFFGetFieldDefaulted(file, TIFFTAG_SAMPLEFORMAT, &format);
    TIFFGetFieldDefaulted(file, TIFFTAG_EXTRASAMPLES, &reader->extra, &extra);
    if (!is_decoded(reader->compression)) {
        const TIFFCodec *codec = TIFFFindCODEC(reader->compression);
        return cimage_fail(message, CIMAGE_UNSUPPORTED, "TIFF compression %u (%s) is not decoded here",
                           reader->compression, codec ? codec->name : "unknown");
    }
    if (format != SAMPLEFORMAT_UINT) {
        return cimage_fail(message, CIMAGE_UNSUPPORTED, "a TIFF whose samples are not unsigned integers");
    }
    int colors = 1;
    bool deep = true;  // 8 or 16 bits only
    switch (reader->photometric) {
        case PHOTOMETRIC_MINISWHITE: case PHOTOMETRIC_MINISBLACK: deep = false; break;
        case PHOTOMETRIC_PALETTE:
            deep = false;
            if (reader->bits > 8 || !TIFFGetField(file, TIFFTAG_COLORMAP, &reader->colors[0], &reader->colors[1],
                                                  &reader->colors[2])) {
                return cimage_fail(message, CIMAGE_CORRUPT, "the TIFF's palette is missing or too large");
            }
            break;
        case PHOTOMETRIC_YCBCR:
            if (reader->compression != COMPRESSION_JPEG || reader->planar != PLANARCONFIG_CONTIG) {
                return cimage_fail(message, CIMAGE_UNSUPPORTED, "a TIFF of YCbCr samples without JPEG compression");
            }
            TIFFSetField(file, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
            reader->photometric = PHOTOMETRIC_RGB;
            colors = 3;
            break;
        case PHOTOMETRIC_RGB: colors = 3; break;
        case PHOTOMETRIC_SEPARATED: colors = 4; break;
        default:
            return cimage_fail(message, CIMAGE_UNSUPPORTED, "TIFF photometric interpretation %u is not decoded here",
                               reader->photometric);
    }
    const uint16_t bits = reader->bits;
    const bool shallow = bits == 1 || bits == 2 || bits == 4;
    if (!(bits == 8 || bits == 16 || (shallow && !deep && reader->samples == 1))) {
        return cimage_fail(message, CIMAGE_UNSUPPORTED, "a TIFF of %u bits a sample, %u samples a pixel", bits,
                           reader->samples);
    }
    if (reader->samples < colors || reader->samples > colors + 4) {
        return cimage_fail(message, CIMAGE_UNSUPPORTED, "a TIFF of %u samples a pixel", reader->samples);
    }
    reader->alpha = -1;
    if (reader->photometric != PHOTOMETRIC_SEPARATED && reader->samples > colors) {
        // Without a word about it, the fourth sample of RGB is alpha.
        const uint16_t kind = reader->extra > 0 && extra ? extra[0]
            : colors == 3 ? (uint16_t)EXTRASAMPLE_UNASSALPHA : (uint16_t)EXTRASAMPLE_UNSPECIFIED;
        if (kind != EXTRASAMPLE_UNSPECIFIED) reader->alpha = colors;
        reader->premultiplied = kind == EXTRASAMPLE_ASSOCALPHA;
    }
    return CIMAGE_OK;
}

static uint32_t orientation_of(TIFF *file) {
    cimage_turn turn = {0};
    uint16_t orientation = 0;
    uint32_t bytes = 0;
    void *xmp = NULL;
    if (TIFFGetField(file, TIFFTAG_ORIENTATION, &orientation)) {
        turn.exif = orientation >= 1 && orientation <= 8 ? orientation : 1;
    }
    if (TIFFGetField(file, TIFFTAG_XMLPACKET, &bytes, &xmp)) turn.xmp = cimage_xmp_orientation(xmp, bytes);
    return cimage_orientation(turn);
}

// Some writers of PackBits let runs go on in the next row, which only reading the whole strip allows.
static bool by_rows(const tiff_reader *reader) {
    return !reader->tiled && reader->planar == PLANARCONFIG_CONTIG && reader->compression != COMPRESSION_PACKBITS;
}

static uint32_t planes_of(const tiff_reader *reader) {
    return reader->planar == PLANARCONFIG_SEPARATE ? reader->samples : 1;
}

static cimage_status open_page(tiff_reader *reader, const uint8_t *data, size_t size, const cimage_limits *limits,
                               cimage_info *info, char *message) {
    if (!open_file(reader, data, size, limits, message)) return corrupt(reader);
    TIFF *file = reader->file;
    if (!TIFFGetField(file, TIFFTAG_IMAGEWIDTH, &info->width)
        || !TIFFGetField(file, TIFFTAG_IMAGELENGTH, &info->height) || info->width == 0 || info->height == 0) {
        return refuse(reader, CIMAGE_CORRUPT, "the TIFF has no pixels");
    }
    info->orientation = orientation_of(file);
    // The declared size is judged first, whatever follows it.
    const uint64_t pixels = (uint64_t)info->width * info->height;
    info->peak_bytes = pixels > UINT64_MAX / 8 ? UINT64_MAX : pixels * 3;
    cimage_status status = cimage_check_limits(info, limits, message);
    if (status == CIMAGE_OK) status = read_layout(reader);
    if (status != CIMAGE_OK) return status;
    reader->tiled = TIFFIsTiled(file);
    reader->chunk_width = info->width;
    reader->chunk_height = info->height;
    if (reader->tiled) {
        TIFFGetField(file, TIFFTAG_TILEWIDTH, &reader->chunk_width);
        TIFFGetField(file, TIFFTAG_TILELENGTH, &reader->chunk_height);
        reader->chunk_bytes = TIFFTileSize64(file);
    } else {
        TIFFGetFieldDefaulted(file, TIFFTAG_ROWSPERSTRIP, &reader->chunk_height);
        if (reader->chunk_height > info->height) reader->chunk_height = info->height;
        reader->chunk_bytes = by_rows(reader) ? TIFFScanlineSize64(file) : TIFFStripSize64(file);
    }
    if (reader->chunk_bytes == 0 || reader->chunk_width == 0 || reader->chunk_height == 0) return corrupt(reader);
    return CIMAGE_OK;
}

// Pixels of the rows that are decoded at a time, ready to be put.
static uint64_t staging_bytes(const tiff_reader *reader, const cimage_info *info) {
    return by_rows(reader) ? 0 : (uint64_t)info->width * 3 * reader->chunk_height;
}

cimage_status cimage_tiff_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                                char *message) {
    tiff_reader reader;
    cimage_status status = open_page(&reader, data, size, limits, info, message);
    if (status == CIMAGE_OK) {
        const uint64_t chunk = (uint64_t)reader.chunk_width * reader.chunk_height;
        if (reader.chunk_bytes > limits->max_bytes || chunk > limits->max_bytes) {
            status = cimage_fail(message, CIMAGE_TOO_LARGE, "a strip or tile of %u x %u pixels is over the limit of "
                                 "%llu bytes", reader.chunk_width, reader.chunk_height,
                                 (unsigned long long)limits->max_bytes);
        } else {
            info->peak_bytes += cimage_rows_bytes(info) + staging_bytes(&reader, info)
                + reader.chunk_bytes * planes_of(&reader) + (1 << 18);
            // A progressive JPEG in a strip or tile holds its coefficients.
            if (reader.compression == COMPRESSION_JPEG) info->peak_bytes += chunk * 2 * reader.samples;
            status = cimage_check_limits(info, limits, message);
        }
    }
    if (reader.file) TIFFClose(reader.file);
    return status;
}

// Sample `i` of a row, as 8 bits.
static unsigned sample(const uint8_t *row, size_t i, uint16_t bits) {
    if (bits == 8) return row[i];
    if (bits == 16) {
        uint16_t value;
        memcpy(&value, row + 2 * i, 2);
        return value >> 8;
    }
    const unsigned per_byte = 8 / bits;
    return row[i / per_byte] >> (8 - bits - bits * (i % per_byte)) & ((1u << bits) - 1);
}

// `planes` are rows of the samples, in one or each in its own.
static void convert(const tiff_reader *reader, const uint8_t *const *planes, uint32_t count, uint8_t *rgb) {
    const bool apart = reader->planar == PLANARCONFIG_SEPARATE;
    const unsigned most = reader->bits < 8 ? (1u << reader->bits) - 1 : 255;
    for (uint32_t x = 0; x < count; x++, rgb += 3) {
        unsigned s[5] = {0};
        for (int i = 0; i < reader->samples && i < 5; i++) {
            s[i] = apart ? sample(planes[i], x, reader->bits)
                         : sample(planes[0], (size_t)x * reader->samples + (size_t)i, reader->bits);
        }
        switch (reader->photometric) {
            case PHOTOMETRIC_PALETTE:
                for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)(reader->colors[c][s[0]] >> 8);
                break;
            case PHOTOMETRIC_SEPARATED:
                for (int c = 0; c < 3; c++) {
                    const int ink = 255 - (int)s[3];
                    const int value = ink - cimage_multiply_255(s[c], (unsigned)ink);
                    rgb[c] = (uint8_t)(value < 0 ? 0 : value);
                }
                break;
            case PHOTOMETRIC_RGB:
                for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)s[c];
                break;
            default: {
                const unsigned grey = s[0] * 255 / most;
                // 16 bits stay as they are in Pillow.
                const bool inverted = reader->photometric == PHOTOMETRIC_MINISWHITE && reader->bits < 16;
                memset(rgb, (int)(inverted ? 255 - grey : grey), 3);
            }
        }
        if (reader->alpha < 0) continue;
        const unsigned alpha = s[reader->alpha];
        for (int c = 0; c < 3; c++) {
            unsigned value = rgb[c];
            if (reader->premultiplied) {
                value = alpha == 0 ? 0 : value * 255 / alpha;
                if (value > 255) value = 255;
            }
            rgb[c] = cimage_blend(value, alpha, reader->background[c]);
        }
    }
}

static bool read_rows(tiff_reader *reader, const cimage_info *info, uint8_t *buffer, cimage_rows *rows) {
    const uint8_t *const planes[] = {buffer};
    for (uint32_t y = 0; y < info->height; y++) {
        if (TIFFReadScanline(reader->file, buffer, y, 0) < 0) return false;
        convert(reader, planes, info->width, cimage_rows_begin(rows, y));
        cimage_rows_end(rows, y);
    }
    return true;
}

// Strips of planes, and tiles.
static bool read_chunks(tiff_reader *reader, const cimage_info *info, uint8_t *buffer, uint8_t *staging,
                        cimage_rows *rows) {
    TIFF *file = reader->file;
    const uint32_t count = planes_of(reader);
    const size_t bytes = (size_t)reader->chunk_bytes;
    const size_t row_bytes = (size_t)(reader->tiled ? TIFFTileRowSize64(file) : TIFFScanlineSize64(file));
    for (uint32_t top = 0; top < info->height; top += reader->chunk_height) {
        const uint32_t left = info->height - top;
        const uint32_t height = left < reader->chunk_height ? left : reader->chunk_height;
        for (uint32_t x = 0; x < info->width; x += reader->chunk_width) {
            const uint32_t beside = info->width - x;
            const uint32_t width = beside < reader->chunk_width ? beside : reader->chunk_width;
            for (uint32_t plane = 0; plane < count; plane++) {
                uint8_t *target = buffer + plane * bytes;
                const uint16_t s = (uint16_t)plane;
                const tmsize_t wanted = (tmsize_t)(reader->tiled ? bytes : row_bytes * height);
                const tmsize_t found = reader->tiled
                    ? TIFFReadEncodedTile(file, TIFFComputeTile(file, x, top, 0, s), target, (tmsize_t)bytes)
                    : TIFFReadEncodedStrip(file, TIFFComputeStrip(file, top, s), target, (tmsize_t)bytes);
                if (found < wanted) return false;
            }
            for (uint32_t y = 0; y < height; y++) {
                const uint8_t *planes[16];
                for (uint32_t plane = 0; plane < count && plane < 16; plane++) {
                    planes[plane] = buffer + plane * bytes + row_bytes * y;
                }
                convert(reader, planes, width, staging + 3 * ((size_t)y * info->width + x));
            }
        }
        for (uint32_t y = 0; y < height; y++) {
            memcpy(cimage_rows_begin(rows, top + y), staging + 3 * (size_t)y * info->width, 3 * (size_t)info->width);
            cimage_rows_end(rows, top + y);
        }
        if (top > UINT32_MAX - reader->chunk_height) break;
    }
    return true;
}

cimage_status cimage_tiff_decode(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                                 const uint8_t background[3], uint8_t *rgb, char *message) {
    tiff_reader reader;
    cimage_rows rows = {0};
    uint8_t *buffer = NULL, *staging = NULL;
    cimage_info found = *info;
    cimage_status status = open_page(&reader, data, size, limits, &found, message);
    reader.background = background;
    if (status == CIMAGE_OK) {
        const uint64_t pixels = staging_bytes(&reader, info);
        buffer = calloc(planes_of(&reader), (size_t)reader.chunk_bytes);
        if (pixels > 0) staging = malloc((size_t)pixels);
        if (!cimage_rows_open(&rows, info, rgb) || !buffer || (pixels > 0 && !staging)) {
            status = cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
        } else if (found.width != info->width || found.height != info->height) {
            status = cimage_fail(message, CIMAGE_CORRUPT, "the size changed since it was probed");
        } else if (!(staging ? read_chunks(&reader, info, buffer, staging, &rows)
                             : read_rows(&reader, info, buffer, &rows)) || reader.source.failed) {
            status = corrupt(&reader);
        } else if (reader.source.pixels_missing) {
            status = cimage_fail(message, CIMAGE_CORRUPT, "the JPEG data in the TIFF is corrupt");
        }
    }
    if (status == CIMAGE_OK) message[0] = 0;
    free(buffer);
    free(staging);
    cimage_rows_close(&rows);
    if (reader.file) TIFFClose(reader.file);
    return status;
}
