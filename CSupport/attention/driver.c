// Splits batch × heads (and, where those are fewer than the threads, the queries of the forward) over threads.
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

size_t hssl_attention_workspace_size(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim) {
    (void)batch, (void)heads;
    return (size_t)hssl_get_threads() * (size_t)hssl_attention_forward_scratch(tokens, head_dim) * sizeof(float);
}

size_t hssl_attention_backward_workspace_size(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim) {
    (void)batch, (void)heads;
    return (size_t)hssl_get_threads() * (size_t)hssl_attention_backward_scratch(tokens, head_dim) * sizeof(float);
}

void hssl_attention(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, const float *qkv, float *out,
                    float *log_sum_exp, void *workspace) {
    hssl_attention_queries(batch, tokens, heads, head_dim, 0, tokens, qkv, out, log_sum_exp, workspace);
}

void hssl_attention_queries(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, ptrdiff_t begin, ptrdiff_t end,
                            const float *qkv, float *out, float *log_sum_exp, void *workspace) {
    const hssl_attention_kernels *kernels = selected();
    const hssl_attention_shape shape = {tokens, head_dim, 3 * heads * head_dim, heads * head_dim};
    ptrdiff_t pairs = batch * heads, scratch = hssl_attention_forward_scratch(tokens, head_dim);
    int threads = hssl_team((double)(2 * pairs * (end - begin) * tokens * head_dim) * HSSL_WORK_MULTIPLY_ADD);
    int parts = pairs >= threads ? 1 : (int)((threads + pairs - 1) / (pairs > 0 ? pairs : 1));
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t task = hssl_split(pairs * parts, threads, part); task < hssl_split(pairs * parts, threads, part + 1); ++task) {
            ptrdiff_t b = task / parts / heads, h = task / parts % heads;
            hssl_range queries = hssl_range_of(end - begin, 6, (int)(task % parts), parts);
            const float *q = qkv + b * tokens * shape.ld_qkv + h * head_dim;
            kernels->forward(&shape, begin + queries.begin, begin + queries.end, q, q + heads * head_dim, q + 2 * heads * head_dim,
                             out + b * tokens * shape.ld_out + h * head_dim, log_sum_exp ? log_sum_exp + (b * heads + h) * tokens : NULL,
                             (float *)workspace + part * scratch);
        }
    });
}

size_t hssl_attention_integer_workspace_size(ptrdiff_t tokens, ptrdiff_t head_dim) {
    return (size_t)hssl_get_threads() * hssl_attention_integer_scratch(tokens, head_dim, NULL).bytes;
}

void hssl_attention_integer(ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, ptrdiff_t begin, ptrdiff_t end, const float *qkv, float *out,
                        void *workspace) {
    const hssl_attention_kernels *kernels = selected();
    const hssl_attention_shape shape = {tokens, head_dim, 3 * heads * head_dim, heads * head_dim};
    const size_t scratch = hssl_attention_integer_scratch(tokens, head_dim, NULL).bytes;
    const int threads = hssl_team((double)(2 * heads * (end - begin) * tokens * head_dim) * HSSL_WORK_MULTIPLY_ADD / 2);
    const int parts = heads >= threads ? 1 : (int)hssl_ceil_div(threads, hssl_max(1, heads));
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t task = hssl_split(heads * parts, threads, part); task < hssl_split(heads * parts, threads, part + 1); ++task) {
            const ptrdiff_t h = task / parts;
            const hssl_range queries = hssl_range_of(end - begin, 6, (int)(task % parts), parts);
            const float *const q = qkv + h * head_dim;
            kernels->forward_integer(&shape, begin + queries.begin, begin + queries.end, q, q + heads * head_dim, q + 2 * heads * head_dim, out + h * head_dim,
                                 (char *)workspace + (size_t)part * scratch);
        }
    });
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
