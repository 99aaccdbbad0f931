#include "decoders.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { INPUT = 1 << 16 };

bool cimage_is_gzip(const uint8_t *data, size_t size) { return size >= 2 && data[0] == 0x1F && data[1] == 0x8B; }

typedef struct {
    cimage_read read;
    void *user;
    z_stream stream;
    uint8_t input[INPUT];
    size_t total;  // bytes read
    bool ended, failed;
} gzip_reader;

// Until two bytes are there, which tell a member's start, or the data ends.
static void fill(gzip_reader *reader) {
    z_stream *stream = &reader->stream;
    if (stream->avail_in > 0) memmove(reader->input, stream->next_in, stream->avail_in);
    stream->next_in = reader->input;
    while (stream->avail_in < 2 && !reader->ended && !reader->failed) {
        const ptrdiff_t n =
            reader->read(reader->user, reader->input + stream->avail_in, INPUT - stream->avail_in);
        reader->failed = n < 0;
        reader->ended = n == 0;
        if (n > 0) {
            stream->avail_in += (uInt)n;
            reader->total += (size_t)n;
        }
    }
}

static cimage_status inflate_all(gzip_reader *reader, size_t limit, uint8_t **buffer, size_t *used, char *message) {
    size_t capacity = 0;
    z_stream *stream = &reader->stream;
    for (;;) {
        if (*used == capacity) {
            // One byte more than the limit: a stream that fills it is too long.
            size_t grown = capacity > SIZE_MAX / 2 ? SIZE_MAX : capacity ? capacity * 2 : INPUT;
            if (grown > limit + 1) grown = limit + 1;
            if (grown <= capacity) return CIMAGE_TOO_LARGE;
            uint8_t *moved = realloc(*buffer, grown);
            if (!moved) {
                return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory for %zu bytes", grown);
            }
            *buffer = moved;
            capacity = grown;
        }
        if (stream->avail_in < 2) fill(reader);
        if (reader->failed) return cimage_fail(message, CIMAGE_CORRUPT, "the file cannot be read");
        const size_t room = capacity - *used;
        stream->next_out = *buffer + *used;
        stream->avail_out = room > UINT_MAX ? UINT_MAX : (uInt)room;
        const int code = inflate(stream, Z_NO_FLUSH);
        *used = (size_t)(stream->next_out - *buffer);
        if (code == Z_STREAM_END) {
            // A further member, or the end; zero padding and foreign bytes after a member are ignored, as gzip(1) does.
            if (stream->avail_in < 2) fill(reader);
            if (!cimage_is_gzip(stream->next_in, stream->avail_in)) return CIMAGE_OK;
            inflateReset(stream);
        } else if (code == Z_MEM_ERROR) {
            return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
        } else if (code != Z_OK && code != Z_BUF_ERROR) {
            return cimage_fail(message, CIMAGE_CORRUPT, "corrupt gzip data: %s",
                               stream->msg ? stream->msg : "unknown error");
        } else if (*used < capacity && reader->ended && stream->avail_in == 0) {
            return cimage_fail(message, CIMAGE_TRUNCATED, "gzip data is truncated after %zu bytes", reader->total);
        }
    }
}

cimage_status cimage_gunzip(cimage_read read, void *user, uint64_t max_bytes, uint8_t **output, size_t *output_size,
                            char *message) {
    *output = NULL;
    *output_size = 0;
    message[0] = 0;
    gzip_reader *reader = calloc(1, sizeof *reader);
    if (!reader || inflateInit2(&reader->stream, 15 + 16) != Z_OK) {
        free(reader);
        return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
    }
    reader->read = read;
    reader->user = user;
    const size_t limit = max_bytes > SIZE_MAX - 1 ? SIZE_MAX - 1 : (size_t)max_bytes;
    uint8_t *buffer = NULL;
    size_t used = 0;
    cimage_status status = inflate_all(reader, limit, &buffer, &used, message);
    if (status == CIMAGE_TOO_LARGE || (status == CIMAGE_OK && used > limit)) {
        status = cimage_fail(message, CIMAGE_TOO_LARGE, "inflates to more than the limit of %llu bytes",
                             (unsigned long long)max_bytes);
    }
    inflateEnd(&reader->stream);
    free(reader);
    if (status != CIMAGE_OK) {
        free(buffer);
        return status;
    }
    *output = buffer;
    *output_size = used;
    return CIMAGE_OK;
}
