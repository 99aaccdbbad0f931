// libFuzzer target over gzip, as IDX files are inflated:
//   clang -g -O1 -fsanitize=fuzzer,address,undefined -ISources/CImage/include tools/fuzzers/gzip.c Sources/CImage/*.c
//   -ljpeg -lspng -lz -o /tmp/fuzz-gzip /tmp/fuzz-gzip -max_total_time=60 CORPUS
#include "CImage.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char message[CIMAGE_MESSAGE_CAPACITY];
    uint8_t *output;
    size_t output_size;
    const uint64_t limit = size > 0 ? (uint64_t)data[size - 1] * 4096 : 0;
    const cimage_status status = cimage_gunzip(data, size, limit, &output, &output_size, message);
    if (status == CIMAGE_OK ? output_size > limit : (output != NULL || !message[0])) abort();
    free(output);
    return 0;
}
