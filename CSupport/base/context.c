// What kernels run with: a thread's own context, or else what was set for the process.
#include <stdatomic.h>

#include "base/base.h"

static atomic_int default_threads = 1, default_isa = HSSL_ISA_SCALAR;
static _Thread_local const hssl_context *current;

static int within_bounds(int threads) {
    return threads < 1 ? 1 : threads > HSSL_MAX_THREADS ? HSSL_MAX_THREADS : threads;
}

const hssl_context *hssl_context_current(void) { return current; }

const hssl_context *hssl_context_enter(const hssl_context *context) {
    const hssl_context *const outer = current;
    current = context;
    return outer;
}

void hssl_context_leave(const hssl_context *outer) { current = outer; }

void hssl_context_set_default_isa(hssl_isa isa) { atomic_store(&default_isa, (int)isa); }

void hssl_set_threads(int count) { atomic_store(&default_threads, within_bounds(count)); }

int hssl_get_threads(void) {
    return current ? within_bounds(current->threads) : atomic_load_explicit(&default_threads, memory_order_relaxed);
}

hssl_isa hssl_isa_selected(void) {
    return current ? current->isa : (hssl_isa)atomic_load_explicit(&default_isa, memory_order_relaxed);
}
