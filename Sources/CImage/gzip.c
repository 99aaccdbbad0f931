#include "decoders.h"

#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

bool cimage_is_gzip(const uint8_t *data, size_t size) { return size >= 2 && data[0] == 0x1F && data[1] == 0x8B; }

cimage_status cimage_gunzip(const uint8_t *data, size_t size, uint64_t max_bytes, uint8_t **output, size_t *output_size,
                            char *message) {
    *output = NULL;
    *output_size = 0;
    message[0] = 0;
    z_stream stream = {0};
    if (inflateInit2(&stream, 15 + 16) != Z_OK) return cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");

    cimage_status status = CIMAGE_OK;
    uint8_t *buffer = NULL;
    size_t capacity = 0, used = 0, consumed = 0;
    const size_t limit = max_bytes > SIZE_MAX - 1 ? SIZE_MAX - 1 : (size_t)max_bytes;
    for (;;) {
        if (used == capacity) {
            // One byte more than the limit: a stream that fills it is too long.
            size_t grown = capacity ? capacity * 2 : (size < (SIZE_MAX >> 3) ? size * 4 + 4096 : limit + 1);
            if (grown > limit + 1) grown = limit + 1;
            if (grown <= capacity) {
                status = cimage_fail(message, CIMAGE_TOO_LARGE, "inflates to more than the limit of %llu bytes",
                                     (unsigned long long)max_bytes);
                break;
            }
            uint8_t *moved = realloc(buffer, grown);
            if (!moved) {
                status = cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory for %zu bytes", grown);
                break;
            }
            buffer = moved;
            capacity = grown;
        }
        const size_t input = size - consumed, room = capacity - used;
        stream.next_in = (Bytef *)(data + consumed);
        stream.avail_in = input > UINT_MAX ? UINT_MAX : (uInt)input;
        stream.next_out = buffer + used;
        stream.avail_out = room > UINT_MAX ? UINT_MAX : (uInt)room;
        const int code = inflate(&stream, Z_NO_FLUSH);
        consumed = (size_t)(stream.next_in - data);
        used = (size_t)(stream.next_out - buffer);
        if (code == Z_STREAM_END) {
            // A further member, or the end; zero padding and foreign bytes after a member are ignored, as gzip(1) does.
            if (!cimage_is_gzip(data + consumed, size - consumed)) break;
            inflateReset(&stream);
        } else if (code == Z_MEM_ERROR) {
            status = cimage_fail(message, CIMAGE_OUT_OF_MEMORY, "out of memory");
            break;
        } else if ((code == Z_OK || code == Z_BUF_ERROR) && used < capacity && consumed == size) {
            status = cimage_fail(message, CIMAGE_TRUNCATED, "gzip data is truncated after %zu bytes", size);
            break;
        } else if (code != Z_OK && code != Z_BUF_ERROR) {
            status = cimage_fail(message, CIMAGE_CORRUPT, "corrupt gzip data: %s",
                                 stream.msg ? stream.msg : "unknown error");
            break;
        }
    }
    inflateEnd(&stream);
    if (status == CIMAGE_OK && used > limit) {
        status = cimage_fail(message, CIMAGE_TOO_LARGE, "inflates to more than the limit of %llu bytes",
                             (unsigned long long)max_bytes);
    }
    if (status != CIMAGE_OK) {
        free(buffer);
        return status;
    }
    *output = buffer;
    *output_size = used;
    return CIMAGE_OK;
}
