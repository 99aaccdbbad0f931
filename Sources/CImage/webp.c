// WebP through libwebp: the first picture of an animation, on its canvas. libwebpdemux finds it, EXIF and XMP.
#include "decoders.h"

#include <stdlib.h>
#include <string.h>
#include <webp/decode.h>
#include <webp/demux.h>

typedef struct {
    WebPDemuxer *demuxer;
    WebPIterator frame;
    WebPBitstreamFeatures features;
} webp_reader;

static cimage_status webp_fail(VP8StatusCode code, char *message) {
    switch (code) {
        case VP8_STATUS_OUT_OF_MEMORY: return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
        case VP8_STATUS_SUSPENDED: case VP8_STATUS_NOT_ENOUGH_DATA:
            return cimage_fail(message, CIMAGE_TRUNCATED, "the WebP data is truncated");
        case VP8_STATUS_UNSUPPORTED_FEATURE:
            return cimage_fail(message, CIMAGE_UNSUPPORTED, "the WebP has features that are not decoded here");
        default: return cimage_fail(message, CIMAGE_CORRUPT, "corrupt WebP");
    }
}

static void close_frame(webp_reader *reader) {
    if (!reader->demuxer) return;
    WebPDemuxReleaseIterator(&reader->frame);
    WebPDemuxDelete(reader->demuxer);
}

static cimage_status open_frame(webp_reader *reader, const uint8_t *data, size_t size, char *message) {
    *reader = (webp_reader){0};
    const WebPData bytes = {data, size};
    WebPDemuxState state = WEBP_DEMUX_PARSE_ERROR;
    reader->demuxer = WebPDemuxPartial(&bytes, &state);
    if (state == WEBP_DEMUX_PARSE_ERROR || (!reader->demuxer && state == WEBP_DEMUX_DONE)) {
        return webp_fail(VP8_STATUS_BITSTREAM_ERROR, message);
    }
    if (state != WEBP_DEMUX_DONE || !reader->demuxer) return webp_fail(VP8_STATUS_NOT_ENOUGH_DATA, message);
    if (!WebPDemuxGetFrame(reader->demuxer, 1, &reader->frame) || !reader->frame.complete) {
        return webp_fail(VP8_STATUS_NOT_ENOUGH_DATA, message);
    }
    const VP8StatusCode code =
        WebPGetFeatures(reader->frame.fragment.bytes, reader->frame.fragment.size, &reader->features);
    return code == VP8_STATUS_OK ? CIMAGE_OK : webp_fail(code, message);
}

static uint32_t orientation_of(WebPDemuxer *demuxer) {
    cimage_turn turn = {0};
    WebPChunkIterator chunk;
    if (WebPDemuxGetChunk(demuxer, "EXIF", 1, &chunk)) {
        turn.exif = cimage_exif_orientation(chunk.chunk.bytes, chunk.chunk.size);
        WebPDemuxReleaseChunkIterator(&chunk);
    }
    if (WebPDemuxGetChunk(demuxer, "XMP ", 1, &chunk)) {
        turn.xmp = cimage_xmp_orientation(chunk.chunk.bytes, chunk.chunk.size);
        WebPDemuxReleaseChunkIterator(&chunk);
    }
    return cimage_orientation(turn);
}

static bool fills_canvas(const webp_reader *reader, const cimage_info *info) {
    return (uint32_t)reader->frame.width == info->width && (uint32_t)reader->frame.height == info->height;
}

// The canvas around a frame is transparent.
static void fill(uint8_t *row, size_t width, const uint8_t color[3]) {
    for (size_t x = 0; x < width; x++) memcpy(row + 3 * x, color, 3);
}

// Straight into the result where nothing is composed, placed or turned.
static bool is_plain(const webp_reader *reader, const cimage_info *info) {
    return !reader->features.has_alpha && info->orientation == 1 && fills_canvas(reader, info);
}

cimage_status cimage_webp_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                                char *message) {
    webp_reader reader;
    cimage_status status = open_frame(&reader, data, size, message);
    if (status == CIMAGE_OK) {
        info->width = WebPDemuxGetI(reader.demuxer, WEBP_FF_CANVAS_WIDTH);
        info->height = WebPDemuxGetI(reader.demuxer, WEBP_FF_CANVAS_HEIGHT);
        info->orientation = orientation_of(reader.demuxer);
        const uint64_t pixels = (uint64_t)reader.frame.width * reader.frame.height;
        info->peak_bytes = (uint64_t)info->width * info->height * 3 + cimage_rows_bytes(info);
        if (!is_plain(&reader, info)) info->peak_bytes += pixels * (reader.features.has_alpha ? 4 : 3);
        // libwebp's own: lossless pictures are held as ARGB, lossy ones a few rows at a time, their alpha whole.
        if (reader.features.format == 2) {
            info->peak_bytes += pixels * 4 + (uint64_t)reader.frame.width * 64 + 4 * (uint64_t)size + (1 << 20);
        } else {
            info->peak_bytes += (uint64_t)reader.frame.width * 256 + (1 << 18);
            if (reader.features.has_alpha) info->peak_bytes += pixels * 2 + (1 << 20);
        }
        status = cimage_check_limits(info, limits, message);
    }
    close_frame(&reader);
    return status;
}

cimage_status cimage_webp_decode(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                                 const uint8_t background[3], uint8_t *rgb, char *message) {
    (void)limits;
    webp_reader reader;
    cimage_rows rows = {0};
    uint8_t *store = NULL;
    cimage_status status = open_frame(&reader, data, size, message);
    if (status != CIMAGE_OK) goto end;
    const WebPIterator *frame = &reader.frame;
    const size_t width = (size_t)frame->width, height = (size_t)frame->height;
    const size_t depth = reader.features.has_alpha ? 4 : 3;
    const bool plain = is_plain(&reader, info);
    if (frame->x_offset < 0 || frame->y_offset < 0 || (size_t)frame->x_offset + width > info->width
        || (size_t)frame->y_offset + height > info->height || (size_t)reader.features.width != width
        || (size_t)reader.features.height != height) {
        status = webp_fail(VP8_STATUS_BITSTREAM_ERROR, message);
        goto end;
    }
    if (!cimage_rows_open(&rows, info, rgb) || (!plain && !(store = malloc(width * height * depth)))) {
        status = webp_fail(VP8_STATUS_OUT_OF_MEMORY, message);
        goto end;
    }
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config)) {
        status = cimage_fail(message, CIMAGE_UNSUPPORTED, "libwebp is another version than this was built for");
        goto end;
    }
    config.output.colorspace = depth == 4 ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = plain ? rgb : store;
    config.output.u.RGBA.stride = (int)(width * depth);
    config.output.u.RGBA.size = width * height * depth;
    const VP8StatusCode code = WebPDecode(frame->fragment.bytes, frame->fragment.size, &config);
    if (code != VP8_STATUS_OK) {
        status = webp_fail(code, message);
        goto end;
    }
    for (uint32_t y = 0; !plain && y < info->height; y++) {
        uint8_t *row = cimage_rows_begin(&rows, y);
        const uint32_t inside = y - (uint32_t)frame->y_offset;  // wraps above the frame
        if (!fills_canvas(&reader, info)) fill(row, info->width, background);
        if (inside < height) {
            const uint8_t *from = store + inside * width * depth;
            uint8_t *to = row + 3 * (size_t)frame->x_offset;
            if (depth == 4) cimage_compose(from, width, background, to);
            else for (size_t i = 0; i < 3 * width; i++) to[i] = from[i];
        }
        cimage_rows_end(&rows, y);
    }
end:
    free(store);
    cimage_rows_close(&rows);
    close_frame(&reader);
    return status;
}
