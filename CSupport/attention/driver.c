// Splits batch × heads over threads; strips of queries balance the forward, and feed threads that are more than the heads.
#include "attention/integers.h"
#include "elementwise/partition.h"

static const hssl_attention_kernels *selected(void) {
    hssl_isa isa = hssl_isa_selected();
    const hssl_attention_kernels *best = &hssl_attention__scalar;
#define HSSL_KERNEL(family, table, row_isa) if (isa >= HSSL_ISA_##row_isa) best = &table;
#include "attention/kernels.inc"
#undef HSSL_KERNEL
    return best;
}

// Every thread has room for the panels of a head and for a strip.
static size_t bytes_a_thread(hssl_attention_bytes bytes) { return bytes.panels + bytes.strip; }

size_t hssl_attention_workspace_size(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim) {
    (void)batch, (void)heads;
    return (size_t)hssl_get_threads() * bytes_a_thread(hssl_attention_forward_bytes(tokens, head_dim));
}

size_t hssl_attention_integer_workspace_size(ptrdiff_t tokens, ptrdiff_t head_dim) {
    return (size_t)hssl_get_threads() * bytes_a_thread(hssl_attention_integer_layout_at(tokens, head_dim, NULL, NULL).bytes);
}

size_t hssl_attention_backward_workspace_size(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim) {
    (void)batch, (void)heads;
    return (size_t)hssl_get_threads() * (size_t)hssl_attention_backward_scratch(tokens, head_dim) * sizeof(float);
}

typedef struct {
    hssl_attention_head head;
    hssl_attention_forward kernels;
    ptrdiff_t begin, end, strip;
    hssl_attention_bytes bytes;
    char *workspace;
} head_job;

static void run_strip(const void *job, ptrdiff_t task, int part) {
    const head_job *const h = job;
    const ptrdiff_t first = h->begin + task * h->strip;
    h->kernels.strip(&h->head, first, hssl_min(h->end, first + h->strip), h->workspace + (size_t)part * bytes_a_thread(h->bytes) + h->bytes.panels);
}

// Threads take heads, then strips of the heads that others are at: whoever prepared the panels of a head shares its strips.
static void run_heads(hssl_attention_forward kernels, double rate, hssl_attention_bytes bytes, ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads,
                      ptrdiff_t head_dim, ptrdiff_t begin, ptrdiff_t end, const float *qkv, float *out, float *log_sum_exp, void *workspace) {
    if (begin >= end) return;
    const hssl_attention_shape shape = {tokens, head_dim, 3 * heads * head_dim, heads * head_dim};
    const ptrdiff_t pairs = batch * heads, strip = hssl_attention_strip(tokens), strips = hssl_ceil_div(end - begin, strip);
    const double elements = (double)pairs * (double)tokens * (double)head_dim;  // of k, and of v
    const int team = hssl_team(elements * (2 * HSSL_WORK_STREAM + 2 * (double)(end - begin) * HSSL_WORK_MULTIPLY_ADD / rate));
    atomic_long next = 0;
    HSSL_TEAM(team, part, {
        for (ptrdiff_t pair; (pair = hssl_next(&next)) < pairs;) {
            const ptrdiff_t b = pair / heads, h = pair % heads;
            const float *const q = qkv + b * tokens * shape.ld_qkv + h * head_dim;
            const head_job job = {
                .head = {shape, q, q + heads * head_dim, q + 2 * heads * head_dim, out + b * tokens * shape.ld_out + h * head_dim,
                         log_sum_exp ? log_sum_exp + pair * tokens : NULL, (char *)workspace + (size_t)part * bytes_a_thread(bytes)},
                .kernels = kernels, .begin = begin, .end = end, .strip = strip, .bytes = bytes, .workspace = workspace};
            kernels.prepare(&job.head);
            hssl_share(strips, run_strip, &job);
        }
    });
}

void hssl_attention(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, const float *qkv, float *out,
                    float *log_sum_exp, void *workspace) {
    hssl_attention_queries(batch, tokens, heads, head_dim, 0, tokens, qkv, out, log_sum_exp, workspace);
}

void hssl_attention_queries(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, ptrdiff_t begin, ptrdiff_t end,
                            const float *qkv, float *out, float *log_sum_exp, void *workspace) {
    run_heads(selected()->forward, 1, hssl_attention_forward_bytes(tokens, head_dim), batch, tokens, heads, head_dim, begin, end, qkv, out, log_sum_exp,
              workspace);
}

void hssl_attention_integer(ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, ptrdiff_t begin, ptrdiff_t end, const float *qkv, float *out,
                            void *workspace) {
    run_heads(selected()->forward_integer, 2, hssl_attention_integer_layout_at(tokens, head_dim, NULL, NULL).bytes, 1, tokens, heads, head_dim, begin, end,
              qkv, out, NULL, workspace);
}

void hssl_attention_backward(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, const float *qkv, const float *out,
                             const float *log_sum_exp, const float *dout, float *dqkv, void *workspace) {
    const hssl_attention_kernels *kernels = selected();
    const hssl_attention_shape shape = {tokens, head_dim, 3 * heads * head_dim, heads * head_dim};
    ptrdiff_t pairs = batch * heads, scratch = hssl_attention_backward_scratch(tokens, head_dim);
    int threads = hssl_team((double)(5 * pairs * tokens * tokens * head_dim) * HSSL_WORK_MULTIPLY_ADD);
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t pair = hssl_split(pairs, threads, part); pair < hssl_split(pairs, threads, part + 1); ++pair) {
            ptrdiff_t b = pair / heads, h = pair % heads;
            ptrdiff_t at = b * tokens * shape.ld_qkv + h * head_dim, at_out = b * tokens * shape.ld_out + h * head_dim;
            ptrdiff_t width = heads * head_dim;
            kernels->backward(&shape, qkv + at, qkv + at + width, qkv + at + 2 * width, out + at_out, log_sum_exp + pair * tokens,
                              dout + at_out, dqkv + at, dqkv + at + width, dqkv + at + 2 * width,
                              (float *)workspace + part * scratch);
        }
    });
}
