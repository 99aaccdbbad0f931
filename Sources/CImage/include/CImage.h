// CImage: JPEG, PNG, WebP, GIF, BMP and TIFF from memory to upright 8-bit RGB, PNG back, and gzip, behind plain C
// functions.
//
// Type is decided by magic bytes. Sizes are checked against the limits before any pixel is decoded. A file that ends
// early or is corrupt is an error, never a partial picture. Errors of the libraries stay inside: no longjmp leaves a
// function of this header.
#ifndef HSSL_CIMAGE_H
#define HSSL_CIMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    CIMAGE_OK = 0,
    CIMAGE_UNKNOWN_FORMAT,  // none of the formats by its first bytes
    CIMAGE_TRUNCATED,       // the data ends before the picture does
    CIMAGE_CORRUPT,
    CIMAGE_UNSUPPORTED,     // valid, but a kind that this build does not decode (12-bit JPEG, say)
    CIMAGE_TOO_LARGE,       // over a limit
    CIMAGE_OUT_OF_MEMORY
} cimage_status;

typedef enum {
    CIMAGE_JPEG = 1, CIMAGE_PNG, CIMAGE_WEBP, CIMAGE_GIF, CIMAGE_BMP, CIMAGE_TIFF
} cimage_format;

typedef struct {
    uint64_t max_pixels;  // width × height as stored
    uint64_t max_bytes;   // memory of a decode: the RGB result and every buffer the decoder needs beside it
    uint32_t max_scans;   // scans of one JPEG
    uint32_t reduced_side;  // above 0: a JPEG is decoded at 1/8, 1/4 or 1/2, the smallest that leaves both sides at
                            // least this long
} cimage_limits;

typedef struct {
    cimage_format format;
    uint32_t width, height;    // as decoded, before turning: as stored, divided by `reduction` and rounded up
    uint32_t reduction;        // 1, 2, 4 or 8
    uint32_t orientation;      // EXIF, else XMP: 1…8; 1 when absent or invalid. 5…8 exchange width and height
    uint64_t peak_bytes;       // upper estimate of what a decode allocates, the result included
    bool repaired;             // set by `cimage_decode`: the picture is whole, but its end marker is missing
} cimage_info;

enum { CIMAGE_MESSAGE_CAPACITY = 200 };

/// Reads the header. `message` [CIMAGE_MESSAGE_CAPACITY] gets one line unless CIMAGE_OK.
cimage_status cimage_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                           char *message);

/// Decodes to `rgb`, upright: [height, width, 3], or [width, height, 3] for orientations 5…8. `info` must come from
/// `cimage_probe` on the same bytes.
///
/// Of an animation or a file of several pages, the first. Greyscale is repeated, palettes are looked up, CMYK and YCCK
/// JPEGs follow Adobe's inverted convention, 16-bit samples keep their high byte; all as Pillow's `convert("RGB")`
/// gives them (but Pillow clips 16-bit grey). What is transparent shows `background` (RGB), as Pillow's `paste` with
/// the picture as its own mask does, while `convert` drops alpha.
cimage_status cimage_decode(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info,
                            const uint8_t background[3], uint8_t *rgb, char *message);

/// Encodes `rgb` [height, width, 3] as an 8-bit RGB PNG. The result is malloc'ed (caller: free).
cimage_status cimage_encode_png(const uint8_t *rgb, uint32_t width, uint32_t height, uint8_t **output,
                                size_t *output_size, char *message);

bool cimage_is_gzip(const uint8_t *data, size_t size);

/// Gives up to `size` of the bytes that come next: how many, 0 at the end, below 0 where they cannot be read.
typedef ptrdiff_t (*cimage_read)(void *user, uint8_t *target, size_t size);

/// Inflates all members of a gzip file, read piece by piece. The result is malloc'ed (caller: free) and never larger
/// than `max_bytes`.
cimage_status cimage_gunzip(cimage_read read, void *user, uint64_t max_bytes, uint8_t **output, size_t *output_size,
                            char *message);

#ifdef __cplusplus
}
#endif
#endif
