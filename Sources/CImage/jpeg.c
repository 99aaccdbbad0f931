// JPEG through libjpeg-turbo's libjpeg interface: unlike TurboJPEG's it tells one warning from another, counts scans
// while it decodes and keeps the EXIF marker. Accurate DCT and fancy upsampling, libjpeg's defaults, are what Pillow
// uses.
#include "decoders.h"

#include <limits.h>
#include <setjmp.h>
#include <stdio.h>  // jpeglib.h needs FILE
#include <stdlib.h>
#include <string.h>
#include <jpeglib.h>
#include <jerror.h>

// Rows and scans are bounded together: a small progressive file can ask for a pass over the whole picture per scan.
static const uint64_t max_scanned_pixels = 2000u * 1000u * 1000u;

typedef struct {
    struct jpeg_decompress_struct decoder;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    const cimage_limits *limits;
    bool decoding, ended;  // past the header; past the end of the data, where an end marker was put
    cimage_status status;
    char *message;
} jpeg_reader;

static jpeg_reader *reader_of(j_common_ptr common) { return common->client_data; }

_Noreturn static void leave(jpeg_reader *reader, cimage_status status) {
    reader->status = status;
    longjmp(reader->escape, 1);
}

_Noreturn static void cut_short(jpeg_reader *reader) {
    cimage_fail(reader->message, CIMAGE_TRUNCATED, "the JPEG data is truncated");
    leave(reader, CIMAGE_TRUNCATED);
}

static void on_error(j_common_ptr common) {
    jpeg_reader *reader = reader_of(common);
    char text[JMSG_LENGTH_MAX];
    common->err->format_message(common, text);
    cimage_status status = CIMAGE_CORRUPT;
    switch (common->err->msg_code) {
        case JERR_OUT_OF_MEMORY: status = CIMAGE_OUT_OF_MEMORY; break;
        case JWRN_HIT_MARKER: status = CIMAGE_TRUNCATED; break;  // a marker where pixels should be
        case JERR_NO_BACKING_STORE: status = CIMAGE_TOO_LARGE; break;
        case JERR_BAD_PRECISION: case JERR_SOF_UNSUPPORTED: case JERR_CONVERSION_NOTIMPL: case JERR_ARITH_NOTIMPL:
        case JERR_NOT_COMPILED:
        case JERR_FRACT_SAMPLE_NOTIMPL: case JERR_CCIR601_NOTIMPL: status = CIMAGE_UNSUPPORTED; break;
        default: break;
    }
    if (reader->ended) cut_short(reader);
    cimage_fail(reader->message, status, "%s", text);
    leave(reader, status);
}

// A warning means that libjpeg is about to make pixels up. Those that lose no pixel, and that real photographs carry,
// are let pass.
static void on_message(j_common_ptr common, int level) {
    if (level >= 0) return;  // trace
    switch (common->err->msg_code) {
        case JWRN_EXTRANEOUS_DATA:  // padding before a marker
        case JWRN_JFIF_MAJOR:
        case JWRN_ADOBE_XFORM:
        case JWRN_BOGUS_PROGRESSION:
        case JWRN_NOT_SEQUENTIAL:  // some phones write zeros for a baseline scan's parameters
            return;
        default:
            on_error(common);
    }
}

static void on_output(j_common_ptr common) { (void)common; }

static void source_start(j_decompress_ptr decoder) { (void)decoder; }

// The decoder looks ahead, so the end of the data is no fault by itself: an end marker is put there, once. Where pixels
// are still missing, that is a warning, and so an error.
static boolean source_fill(j_decompress_ptr decoder) {
    static const JOCTET end[] = {0xFF, JPEG_EOI};
    jpeg_reader *reader = reader_of((j_common_ptr)decoder);
    if (!reader->decoding || reader->ended) cut_short(reader);
    reader->ended = true;
    decoder->src->next_input_byte = end;
    decoder->src->bytes_in_buffer = sizeof end;
    return TRUE;
}

static void source_skip(j_decompress_ptr decoder, long count) {
    if (count <= 0) return;
    if ((size_t)count > decoder->src->bytes_in_buffer) cut_short(reader_of((j_common_ptr)decoder));
    decoder->src->next_input_byte += count;
    decoder->src->bytes_in_buffer -= (size_t)count;
}

static void on_progress(j_common_ptr common) {
    jpeg_reader *reader = reader_of(common);
    const uint64_t scans = (uint64_t)reader->decoder.input_scan_number;
    const uint64_t pixels = (uint64_t)reader->decoder.image_width * reader->decoder.image_height;
    if (scans > reader->limits->max_scans || (scans > 1 && scans * pixels > max_scanned_pixels)) {
        cimage_fail(reader->message, CIMAGE_TOO_LARGE, "more than %llu scans over %llu pixels",
                    (unsigned long long)scans - 1,
                    (unsigned long long)pixels);
        leave(reader, CIMAGE_TOO_LARGE);
    }
}

// A download that stopped leaves zeros where the rest was to come. They would decode as pixels; without them it shows
// whether any are missing. A zero behind 0xFF belongs to the data.
static size_t without_zeros(const uint8_t *data, size_t size) {
    size_t end = size;
    while (end > 0 && data[end - 1] == 0) end--;
    return end < size && end > 0 && data[end - 1] == 0xFF ? end + 1 : end;
}

static void open_reader(jpeg_reader *reader, const uint8_t *data, size_t size, const cimage_limits *limits,
                        char *message) {
    memset(reader, 0, sizeof *reader);
    reader->limits = limits;
    reader->message = message;
    reader->decoder.client_data = reader;
    reader->decoder.err = jpeg_std_error(&reader->errors);
    reader->errors.error_exit = on_error;
    reader->errors.emit_message = on_message;
    reader->errors.output_message = on_output;
    reader->source.next_input_byte = data;
    reader->source.bytes_in_buffer = without_zeros(data, size);
    reader->source.init_source = source_start;
    reader->source.fill_input_buffer = source_fill;
    reader->source.skip_input_data = source_skip;
    reader->source.resync_to_restart = jpeg_resync_to_restart;
    reader->source.term_source = source_start;
    reader->progress.progress_monitor = on_progress;
}

// jpeg_create_decompress clears the struct but for `err` and `client_data`.
static void read_header(jpeg_reader *reader) {
    jpeg_create_decompress(&reader->decoder);
    reader->decoder.src = &reader->source;
    reader->decoder.progress = &reader->progress;
    jpeg_save_markers(&reader->decoder, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&reader->decoder, TRUE);
}

// libjpeg decodes at n/8 by a smaller inverse DCT. Of these only the powers of two are fast.
static uint32_t reduction_of(const struct jpeg_decompress_struct *decoder, const cimage_limits *limits) {
    const uint64_t side = decoder->image_width < decoder->image_height ? decoder->image_width : decoder->image_height;
    const uint64_t pixels = (uint64_t)decoder->image_width * decoder->image_height;
    // Above the limit nothing is reduced: what is refused does not depend on it.
    if (limits->reduced_side == 0 || pixels > limits->max_pixels) return 1;
    uint32_t reduction = 1;
    while (reduction < 8 && side / (2 * reduction) >= limits->reduced_side) reduction *= 2;
    return reduction;
}

static void reduce(struct jpeg_decompress_struct *decoder, uint32_t reduction) {
    decoder->scale_num = 1;
    decoder->scale_denom = reduction;
    jpeg_calc_output_dimensions(decoder);
}

static uint64_t peak_bytes(struct jpeg_decompress_struct *decoder, const cimage_info *info) {
    uint64_t bytes = (uint64_t)decoder->output_width * decoder->output_height * 3 + cimage_rows_bytes(info);
    uint64_t widest = 0;
    for (int i = 0; i < decoder->num_components; i++) {
        const jpeg_component_info *component = &decoder->comp_info[i];
        // Coefficients of all scans are held at once: 64 of 2 bytes a block, in whole MCUs.
        const uint64_t columns = (uint64_t)component->width_in_blocks + (uint64_t)component->h_samp_factor;
        const uint64_t rows = (uint64_t)component->height_in_blocks + (uint64_t)component->v_samp_factor;
        if (decoder->progressive_mode || jpeg_has_multiple_scans(decoder)) bytes += columns * rows * 128;
        widest += columns * 8 * (uint64_t)component->v_samp_factor;
    }
    return bytes + widest * 64 + (1 << 16);  // row buffers of upsampling and colour conversion, and the decoder itself
}

// EXIF that is longer than a marker goes on in the next one.
static uint32_t orientation_of(struct jpeg_decompress_struct *decoder) {
    static const char xmp[] = "http://ns.adobe.com/xap/1.0/";
    cimage_turn turn = {0};
    const uint8_t *exif = NULL;
    size_t size = 0;
    for (jpeg_saved_marker_ptr marker = decoder->marker_list; marker; marker = marker->next) {
        if (marker->data_length >= 6 && memcmp(marker->data, "Exif\0\0", 6) == 0) {
            if (exif) {
                const size_t more = marker->data_length - 6;
                uint8_t *joined = decoder->mem->alloc_large((j_common_ptr)decoder, JPOOL_IMAGE, size + more);
                memcpy(joined, exif, size);
                memcpy(joined + size, marker->data + 6, more);
                exif = joined;
                size += more;
            } else {
                exif = marker->data;
                size = marker->data_length;
            }
        } else if (marker->data_length >= sizeof xmp && memcmp(marker->data, xmp, sizeof xmp) == 0) {
            turn.xmp = cimage_xmp_orientation(marker->data + sizeof xmp, marker->data_length - sizeof xmp);
        }
    }
    if (exif) turn.exif = cimage_exif_orientation(exif, size);
    return cimage_orientation(turn);
}

cimage_status cimage_jpeg_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                                char *message) {
    jpeg_reader reader;
    open_reader(&reader, data, size, limits, message);
    if (setjmp(reader.escape)) {
        jpeg_destroy_decompress(&reader.decoder);
        return reader.status;
    }
    read_header(&reader);
    info->format = CIMAGE_JPEG;
    info->reduction = reduction_of(&reader.decoder, limits);
    reduce(&reader.decoder, info->reduction);
    info->width = reader.decoder.output_width;
    info->height = reader.decoder.output_height;
    info->orientation = orientation_of(&reader.decoder);
    info->peak_bytes = peak_bytes(&reader.decoder, info);
    jpeg_destroy_decompress(&reader.decoder);
    return cimage_check_limits(info, limits, message);
}

// Adobe stores CMYK inverted; then as Pillow: c' = k - c·k/255 on the inverted values.
static void rgb_from_inverted_cmyk(const uint8_t *cmyk, size_t count, uint8_t *rgb) {
    for (size_t i = 0; i < count; i++, cmyk += 4, rgb += 3) {
        const unsigned k = cmyk[3];
        for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)(k - cimage_multiply_255(255u - cmyk[c], k));
    }
}

// Whether all that the scans have to bring has come: the end of the data proves nothing.
static bool is_complete(const struct jpeg_decompress_struct *decoder) {
    for (int i = 0; i < decoder->num_components; i++) {
        if (!decoder->comp_info[i].quant_table) return false;  // it was in no scan
        if (!decoder->progressive_mode) continue;
        for (int k = 0; k < DCTSIZE2; k++) {
            if (decoder->coef_bits[i][k] != 0) return false;  // bits that no scan has refined
        }
    }
    return true;
}

cimage_status cimage_jpeg_decode(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                                 const uint8_t background[3], uint8_t *rgb, char *message) {
    (void)background;  // a JPEG is opaque
    jpeg_reader reader;
    open_reader(&reader, data, size, limits, message);
    uint8_t *volatile row = NULL;  // one CMYK row; volatile: read after longjmp
    cimage_rows rows;
    const bool opened = cimage_rows_open(&rows, info, rgb);
    if (setjmp(reader.escape)) {
        jpeg_destroy_decompress(&reader.decoder);
        cimage_rows_close(&rows);
        free(row);
        return reader.status;
    }
    read_header(&reader);
    struct jpeg_decompress_struct *decoder = &reader.decoder;
    const bool cmyk = decoder->jpeg_color_space == JCS_CMYK || decoder->jpeg_color_space == JCS_YCCK;
    decoder->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;  // greyscale is repeated by libjpeg
    reduce(decoder, info->reduction);
    if (decoder->output_width != info->width || decoder->output_height != info->height) {
        cimage_fail(message, CIMAGE_CORRUPT, "the size changed since it was probed");
        leave(&reader, CIMAGE_CORRUPT);
    }
    decoder->mem->max_memory_to_use = limits->max_bytes > LONG_MAX ? LONG_MAX : (long)limits->max_bytes;
    if (cmyk) row = malloc((size_t)info->width * 4);
    if (!opened || (cmyk && !row)) {
        cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
        leave(&reader, CIMAGE_OUT_OF_MEMORY);
    }
    reader.decoding = true;
    jpeg_start_decompress(decoder);
    while (decoder->output_scanline < decoder->output_height) {
        const uint32_t y = decoder->output_scanline;
        uint8_t *target = cimage_rows_begin(&rows, y);
        JSAMPROW line = cmyk ? row : target;
        jpeg_read_scanlines(decoder, &line, 1);
        if (cmyk) rgb_from_inverted_cmyk(row, info->width, target);
        cimage_rows_end(&rows, y);
    }
    if (reader.ended && !is_complete(decoder)) cut_short(&reader);
    jpeg_finish_decompress(decoder);  // to the end marker
    info->repaired = reader.ended;
    jpeg_destroy_decompress(decoder);
    cimage_rows_close(&rows);
    free(row);
    return CIMAGE_OK;
}
