// The one choice point of the instruction set: CPUID and OS state, then HSSL_ISA.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const names[HSSL_ISA_COUNT] = {"scalar", "avx2", "avx512", "avx512vnni", "neon"};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool supported[HSSL_ISA_COUNT];
static int status;
static char failure[160];

#if defined(__x86_64__)
// XCR0: which register files the operating system saves. Without it the CPUID bits promise nothing.
static uint64_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static void detect(void) {
    // leaf 1, ecx
    enum { OSXSAVE = 1 << 27, FMA = 1 << 12, F16C = 1 << 29, AVX = 1 << 28 };
    // leaf 7, ebx
    enum { AVX2 = 1 << 5, AVX512F = 1 << 16, AVX512DQ = 1 << 17, AVX512BW = 1 << 30 };
    // leaf 7, ebx and ecx
    const uint32_t AVX512VL = 1u << 31, AVX512VNNI = 1u << 11;
    enum { YMM = 0x06, ZMM = 0xE6 };
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE)) return;
    const bool avx = (c & AVX) && (c & FMA) && (c & F16C);
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    const uint64_t state = saved_state();
    supported[HSSL_ISA_AVX2] = avx && (b & AVX2) && (state & YMM) == YMM;
    supported[HSSL_ISA_AVX512] = supported[HSSL_ISA_AVX2] && (b & AVX512F) && (b & AVX512DQ) && (b & AVX512BW)
        && (b & AVX512VL)
        && (state & ZMM) == ZMM;
    supported[HSSL_ISA_AVX512VNNI] = supported[HSSL_ISA_AVX512] && (c & AVX512VNNI);
}
#else
static void detect(void) {}
#endif

static void initialize(void) {
    supported[HSSL_ISA_SCALAR] = true;
    detect();
    int best = HSSL_ISA_SCALAR;
    for (int isa = 0; isa < HSSL_ISA_COUNT; ++isa) {
        if (supported[isa]) best = isa;
    }
    const char *wanted = getenv("HSSL_ISA");
    if (wanted && *wanted) {
        int isa = 0;
        while (isa < HSSL_ISA_COUNT && strcmp(wanted, names[isa]) != 0) ++isa;
        if (isa == HSSL_ISA_COUNT) {
            status = -1;
            snprintf(failure, sizeof failure,
                     "HSSL_ISA: '%.40s' is not one of scalar, avx2, avx512, avx512vnni, neon", wanted);
        } else if (!supported[isa]) {
            status = -1;
            snprintf(failure, sizeof failure,
                     "HSSL_ISA: this machine or build has no row for '%s'; the best one is '%s'", names[isa],
                     names[best]);
        } else {
            best = isa;
        }
    }
    hssl_context_set_default_isa((hssl_isa)best);
}

int hssl_initialize(char *message, size_t capacity) {
    pthread_once(&once, initialize);
    if (status != 0 && message && capacity > 0) snprintf(message, capacity, "%s", failure);
    return status;
}

const char *hssl_isa_name(hssl_isa isa) { return (unsigned)isa < HSSL_ISA_COUNT ? names[isa] : "unknown"; }

bool hssl_isa_supported(hssl_isa isa) {
    pthread_once(&once, initialize);
    return (unsigned)isa < HSSL_ISA_COUNT && supported[isa];
}

bool hssl_isa_select(hssl_isa isa) {
    if (!hssl_isa_supported(isa)) return false;
    hssl_context_set_default_isa(isa);
    return true;
}
