// CImage: JPEG and PNG from memory to 8-bit RGB, PNG back, and gzip, behind plain C functions.
//
// Type is decided by magic bytes. Sizes are checked against the limits before any pixel is decoded. A file that ends early or is
// corrupt is an error, never a partial picture. Errors of the libraries stay inside: no longjmp leaves a function of this header.
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
    CIMAGE_UNKNOWN_FORMAT,  // neither JPEG nor PNG by its first bytes
    CIMAGE_TRUNCATED,       // the data ends before the picture does
    CIMAGE_CORRUPT,
    CIMAGE_UNSUPPORTED,     // valid, but a kind that this build does not decode (12-bit JPEG, say)
    CIMAGE_TOO_LARGE,       // over a limit
    CIMAGE_OUT_OF_MEMORY
} cimage_status;

typedef enum { CIMAGE_JPEG = 1, CIMAGE_PNG = 2 } cimage_format;

typedef struct {
    uint64_t max_pixels;  // width × height as stored
    uint64_t max_bytes;   // memory of a decode: the RGB result and every buffer the decoder needs beside it
    uint32_t max_scans;   // scans of one JPEG
    uint32_t reduced_side;  // above 0: a JPEG is decoded at 1/8, 1/4 or 1/2, the smallest that leaves both sides at least this long
} cimage_limits;

typedef struct {
    cimage_format format;
    uint32_t width, height;    // as decoded: as stored, divided by `reduction` and rounded up
    uint32_t reduction;        // 1, 2, 4 or 8
    uint32_t orientation;      // EXIF: 1…8; 1 when absent or invalid
    uint64_t peak_bytes;       // upper estimate of what a decode allocates, the result included
} cimage_info;

enum { CIMAGE_MESSAGE_CAPACITY = 200 };

/// Reads the header. `message` [CIMAGE_MESSAGE_CAPACITY] gets one line unless CIMAGE_OK.
cimage_status cimage_probe(const uint8_t *data, size_t size, const cimage_limits *limits, cimage_info *info, char *message);

/// Decodes to `rgb` [height, width, 3] as stored: EXIF orientation is not applied here. `info` must come from `cimage_probe` on the same
/// bytes. Greyscale is repeated, palettes are looked up, CMYK and YCCK follow Adobe's inverted convention, alpha is composed on black,
/// 16-bit samples keep their high byte; all as Pillow's `convert("RGB")` gives them (Pillow ignores alpha and clips 16-bit grey: we do not).
cimage_status cimage_decode(const uint8_t *data, size_t size, const cimage_limits *limits, const cimage_info *info, uint8_t *rgb, char *message);

/// Turns `source` [height, width, 3] upright into `target` ([width, height, 3] for orientations 5…8). The buffers must not overlap.
void cimage_orient(const uint8_t *source, uint32_t width, uint32_t height, uint32_t orientation, uint8_t *target);

/// EXIF orientation of a TIFF block (what follows "Exif\0\0"); 1 when absent or invalid.
uint32_t cimage_exif_orientation(const uint8_t *tiff, size_t size);

/// Encodes `rgb` [height, width, 3] as an 8-bit RGB PNG. The result is malloc'ed (caller: free).
cimage_status cimage_encode_png(const uint8_t *rgb, uint32_t width, uint32_t height, uint8_t **output, size_t *output_size, char *message);

bool cimage_is_gzip(const uint8_t *data, size_t size);

/// Inflates all members of a gzip file. The result is malloc'ed (caller: free) and never larger than `max_bytes`.
cimage_status cimage_gunzip(const uint8_t *data, size_t size, uint64_t max_bytes, uint8_t **output, size_t *output_size, char *message);

#ifdef __cplusplus
}
#endif
#endif
