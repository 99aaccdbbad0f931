// libFuzzer target over gzip, as IDX files are inflated: tools/fuzz SECONDS gzip.
#include "CImage.h"

#include <stdlib.h>
#include <string.h>

typedef struct { const uint8_t *data; size_t left, piece; } input;

// In pieces, of which the ends fall anywhere.
static ptrdiff_t give(void *user, uint8_t *target, size_t size) {
    input *from = user;
    size_t n = from->piece < size ? from->piece : size;
    if (n > from->left) n = from->left;
    memcpy(target, from->data, n);
    from->data += n;
    from->left -= n;
    return (ptrdiff_t)n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char message[CIMAGE_MESSAGE_CAPACITY];
    uint8_t *output;
    size_t output_size;
    const uint64_t limit = size > 0 ? (uint64_t)data[size - 1] * 4096 : 0;
    input from = {data, size, size > 1 ? 1 + data[size - 2] % 64 : 1};
    const cimage_status status = cimage_gunzip(give, &from, limit, &output, &output_size, message);
    if (status == CIMAGE_OK ? output_size > limit : (output != NULL || !message[0])) abort();
    free(output);
    return 0;
}
