// The machine's own peak: every GEMM figure is a ratio to it, measured in the same run.
#include "gemm/gemm.h"

static double now(void) { return 1e-9 * (double)hssl_nanoseconds(); }

// Both function types are double (*)(ptrdiff_t).
static double measure(hssl_peak_f32_fn *kernel, double seconds) {
    enum { ITERATIONS = 20000 };  // about 0.1 ms: the clock does not count
    const int team = hssl_get_threads();
    double total = 0;
    const double start = now();
#pragma omp parallel for num_threads(team) schedule(static, 1) reduction(+ : total) if (team > 1)
    for (int t = 0; t < team; ++t) {
        do total += kernel(ITERATIONS);
        while (now() - start < seconds);
    }
    return total / (now() - start);
}

double hssl_peak_f32(double seconds) { return measure(hssl_gemm_select_peak_f32(), seconds); }
double hssl_peak_u8s8(double seconds) { return measure(hssl_gemm_select_peak_u8s8(), seconds); }
