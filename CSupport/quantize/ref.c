#define HSSL_WIDTH 4
#define HSSL_ISA_SUFFIX scalar
#include "quantize/body.inc"
