// libFuzzer target over the image decoders: tools/fuzz SECONDS image.
#include "CImage.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    // Both ways of decoding a JPEG, by the size of the input.
    const cimage_limits limits = {.max_pixels = 1 << 20, .max_bytes = 64 << 20, .max_scans = 20,
                                  .reduced_side = size % 2 ? 4 : 0};
    static const uint8_t background[3] = {255, 128, 0};
    char message[CIMAGE_MESSAGE_CAPACITY];
    cimage_info info;
    if (cimage_probe(data, size, &limits, &info, message) != CIMAGE_OK) {
        if (!message[0]) abort();
        return 0;
    }
    const size_t bytes = (size_t)info.width * info.height * 3;
    if (bytes == 0 || bytes > 3u << 20 || info.peak_bytes > limits.max_bytes || info.orientation < 1
        || info.orientation > 8) {
        abort();
    }
    uint8_t *rgb = malloc(bytes);
    if (rgb && cimage_decode(data, size, &limits, &info, background, rgb, message) != CIMAGE_OK && !message[0]) abort();
    free(rgb);
    return 0;
}
