// GIF through giflib: the first picture of an animation, on a canvas of the screen's size (larger where the picture
// is), as Pillow has it. Record by record, so that later pictures are never read.
#include "decoders.h"

#include <stdlib.h>
#include <string.h>
#include <gif_lib.h>

typedef struct {
    const uint8_t *data;
    size_t size, position;
    GifFileType *file;
    int transparent;  // index, or -1
} gif_reader;

static int read_bytes(GifFileType *file, GifByteType *target, int count) {
    gif_reader *reader = file->UserData;
    const size_t left = reader->size - reader->position;
    const size_t n = (size_t)count < left ? (size_t)count : left;
    memcpy(target, reader->data + reader->position, n);
    reader->position += n;
    return (int)n;
}

static cimage_status gif_fail(int code, char *message) {
    switch (code) {
        case D_GIF_ERR_OPEN_FAILED: case D_GIF_ERR_READ_FAILED: case D_GIF_ERR_EOF_TOO_SOON:
            return cimage_fail(message, CIMAGE_TRUNCATED, "the GIF data is truncated");
        case D_GIF_ERR_NOT_ENOUGH_MEM: return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
        default: {
            const char *text = GifErrorString(code);
            return cimage_fail(message, CIMAGE_CORRUPT, "corrupt GIF: %s", text ? text : "unknown error");
        }
    }
}

// Reads to the first picture's pixels.
static cimage_status open_picture(gif_reader *reader, const uint8_t *data, size_t size, char *message) {
    *reader = (gif_reader){.data = data, .size = size, .transparent = -1};
    int code = 0;
    reader->file = DGifOpen(reader, read_bytes, &code);
    if (!reader->file) return gif_fail(code, message);
    for (;;) {
        GifRecordType type;
        if (DGifGetRecordType(reader->file, &type) == GIF_ERROR) {
            if (reader->file->Error == D_GIF_ERR_WRONG_RECORD) continue;  // stray bytes between records
            return gif_fail(reader->file->Error, message);
        }
        if (type == IMAGE_DESC_RECORD_TYPE) {
            return DGifGetImageDesc(reader->file) == GIF_ERROR ? gif_fail(reader->file->Error, message) : CIMAGE_OK;
        }
        if (type == TERMINATE_RECORD_TYPE) return cimage_fail(message, CIMAGE_CORRUPT, "the GIF has no picture");
        if (type != EXTENSION_RECORD_TYPE) continue;
        int label;
        GifByteType *block;
        if (DGifGetExtension(reader->file, &label, &block) == GIF_ERROR) {
            return gif_fail(reader->file->Error, message);
        }
        if (label == GRAPHICS_EXT_FUNC_CODE && block && block[0] >= 4 && (block[1] & 1)) {
            reader->transparent = block[4];
        }
        while (block) {
            if (DGifGetExtensionNext(reader->file, &block) == GIF_ERROR) return gif_fail(reader->file->Error, message);
        }
    }
}

static void close_picture(gif_reader *reader) {
    int code;
    if (reader->file) DGifCloseFile(reader->file, &code);
}

cimage_status cimage_gif_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                               char *message) {
    gif_reader reader;
    cimage_status status = open_picture(&reader, data, size, message);
    if (status == CIMAGE_OK) {
        const GifImageDesc *image = &reader.file->Image;
        if (image->Width <= 0 || image->Height <= 0) {
            status = cimage_fail(message, CIMAGE_CORRUPT, "the GIF has no pixels");
        } else {
            const int right = image->Left + image->Width, bottom = image->Top + image->Height;
            info->width = (uint32_t)(right > reader.file->SWidth ? right : reader.file->SWidth);
            info->height = (uint32_t)(bottom > reader.file->SHeight ? bottom : reader.file->SHeight);
            // A row of indices, and giflib's tables.
            info->peak_bytes = (uint64_t)info->width * info->height * 3 + info->width + (1 << 16);
            status = cimage_check_limits(info, limits, message);
        }
    }
    close_picture(&reader);
    return status;
}

// Colours by index. Without a table grey; what a table lacks is black, as in Pillow.
static void fill_palette(const gif_reader *reader, const uint8_t background[3], uint8_t palette[256][3]) {
    const ColorMapObject *map =
        reader->file->Image.ColorMap ? reader->file->Image.ColorMap : reader->file->SColorMap;
    for (int i = 0; i < 256; i++) {
        const GifColorType grey = {(GifByteType)i, (GifByteType)i, (GifByteType)i}, black = {0, 0, 0};
        const GifColorType color = !map ? grey : i < map->ColorCount ? map->Colors[i] : black;
        palette[i][0] = color.Red;
        palette[i][1] = color.Green;
        palette[i][2] = color.Blue;
    }
    if (reader->transparent >= 0) memcpy(palette[reader->transparent], background, 3);
}

cimage_status cimage_gif_decode(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                                const uint8_t background[3], uint8_t *rgb, char *message) {
    (void)limits;
    gif_reader reader;
    uint8_t *row = NULL;
    cimage_status status = open_picture(&reader, data, size, message);
    if (status != CIMAGE_OK) goto end;
    const GifImageDesc *image = &reader.file->Image;
    const size_t left = (size_t)image->Left, top = (size_t)image->Top;
    const size_t width = (size_t)image->Width, height = (size_t)image->Height;
    if (left + width > info->width || top + height > info->height || !(row = malloc(width))) {
        status = cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
        goto end;
    }
    uint8_t palette[256][3];
    fill_palette(&reader, background, palette);
    if (width != info->width || height != info->height) {
        const uint8_t *around = palette[reader.transparent >= 0 ? reader.transparent : 0];
        const size_t pixels = (size_t)info->width * info->height;
        for (size_t i = 0; i < pixels; i++) memcpy(rgb + 3 * i, around, 3);
    }
    static const struct { uint8_t first, step; } passes[] = {{0, 8}, {4, 8}, {2, 4}, {1, 2}, {0, 1}};
    for (int pass = image->Interlace ? 0 : 4; pass < (image->Interlace ? 4 : 5); pass++) {
        for (size_t y = passes[pass].first; y < height; y += passes[pass].step) {
            if (DGifGetLine(reader.file, row, (int)width) == GIF_ERROR) {
                status = gif_fail(reader.file->Error, message);
                goto end;
            }
            uint8_t *target = rgb + 3 * ((top + y) * info->width + left);
            for (size_t x = 0; x < width; x++) memcpy(target + 3 * x, palette[row[x]], 3);
        }
    }
end:
    free(row);
    close_picture(&reader);
    return status;
}
