// Attention with biases and masks. The samples of a head are cut into chunks, as many as the batch alone says, and
// threads take chunks as they come: a window is a few µs of work, and neighbours share the head's biases. A chunk adds
// up its part of dbias; then the parts are added in order.
#include "attention/attention.h"
#include "elementwise/partition.h"
#include <string.h>

enum { MAX_CHUNKS = 16 };
static ptrdiff_t chunks_of(ptrdiff_t batch) { return hssl_min(batch, MAX_CHUNKS); }

typedef struct {
    const hssl_attention_kernels *kernels;
    hssl_attention_shape shape;
    ptrdiff_t batch, heads, chunks, windows;
    const float *bias, *mask, *qkv;
    // A forward writes these,
    float *out, *log_sum_exp;
    // a backward reads them.
    const float *finished_out, *finished_log_sum_exp, *dout;
    float *dqkv, *dbias, *partial;  // partial: [heads, chunks, tokens, ld], of dbias
    char *workspace;
    size_t bytes_a_thread;
} biased_job;

static const float *bias_of(const biased_job *w, ptrdiff_t h) {
    return w->bias ? w->bias + h * w->shape.tokens * w->shape.tokens : NULL;
}
static const float *mask_of(const biased_job *w, ptrdiff_t b) {
    return w->mask ? w->mask + b % w->windows * w->shape.tokens * w->shape.tokens : NULL;
}

static hssl_attention_shape shape_of(ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim) {
    return (hssl_attention_shape){tokens, head_dim, 3 * heads * head_dim, heads * head_dim};
}

size_t hssl_attention_biased_workspace_size(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim) {
    return hssl_attention_workspace_size(batch, tokens, heads, head_dim);
}

static void forward_chunk(const void *job, ptrdiff_t task, int part) {
    const biased_job *const w = job;
    // Chunks of all heads of the same samples follow one another: they share lines of qkv.
    const ptrdiff_t h = task % w->heads, chunk = task / w->heads, tokens = w->shape.tokens,
        head_dim = w->shape.head_dim, width = w->heads * head_dim;
    const hssl_attention_bytes bytes = hssl_attention_forward_bytes(tokens, head_dim);
    char *const panels = w->workspace + (size_t)part * w->bytes_a_thread;
    const ptrdiff_t height = hssl_attention_strip(tokens);
    for (ptrdiff_t b = hssl_split(w->batch, w->chunks, chunk); b < hssl_split(w->batch, w->chunks, chunk + 1); ++b) {
        const float *const q = w->qkv + b * tokens * w->shape.ld_qkv + h * head_dim;
        const hssl_attention_head head = {w->shape, q, q + width, q + 2 * width,
                                          w->out + b * tokens * w->shape.ld_out + h * head_dim,
                                          w->log_sum_exp ? w->log_sum_exp + (b * w->heads + h) * tokens : NULL, panels};
        w->kernels->forward.prepare(&head);
        for (ptrdiff_t i = 0; i < tokens; i += height)
            w->kernels->strip_biased(&head, bias_of(w, h), mask_of(w, b), i, hssl_min(tokens, i + height),
                                     panels + bytes.panels);
    }
}

void hssl_attention_biased(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, const float *bias,
                           const float *mask, ptrdiff_t windows, const float *qkv, float *out, float *log_sum_exp,
                           void *workspace) {
    // No sums cross samples here: chunks may be as short as balances the threads.
    const double elements = (double)(batch * heads) * (double)tokens * (double)head_dim;
    const int team = hssl_team(elements * (2 * HSSL_WORK_STREAM + 2 * (double)tokens * HSSL_WORK_MULTIPLY_ADD));
    const ptrdiff_t chunks = hssl_min(batch, hssl_max(8 * team, hssl_ceil_div(batch, 16)));
    const hssl_attention_bytes bytes = hssl_attention_forward_bytes(tokens, head_dim);
    const biased_job job = {.kernels = hssl_attention_selected(), .shape = shape_of(tokens, heads, head_dim),
                            .batch = batch, .heads = heads,
                            .chunks = chunks, .windows = windows, .bias = bias, .mask = mask, .qkv = qkv, .out = out,
                            .log_sum_exp = log_sum_exp,
                            .workspace = workspace, .bytes_a_thread = bytes.panels + bytes.strip};
    hssl_run_tasks(team, heads * chunks, forward_chunk, &job);
}

/// Floats of one chunk's part of dbias.
static ptrdiff_t partial_size(ptrdiff_t tokens) { return tokens * hssl_attention_ld(tokens); }

size_t hssl_attention_biased_backward_workspace_size(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads,
                                                     ptrdiff_t head_dim) {
    return hssl_attention_backward_workspace_size(batch, tokens, heads, head_dim)
        + (size_t)(heads * chunks_of(batch) * partial_size(tokens)) * sizeof(float);
}

static void backward_chunk(const void *job, ptrdiff_t task, int part) {
    const biased_job *const w = job;
    const ptrdiff_t h = task % w->heads, chunk = task / w->heads, tokens = w->shape.tokens,
        head_dim = w->shape.head_dim, width = w->heads * head_dim;
    float *const scratch = (float *)(void *)(w->workspace + (size_t)part * w->bytes_a_thread);
    float *const dbias = w->dbias ? w->partial + (h * w->chunks + chunk) * partial_size(tokens) : NULL;
    if (dbias) memset(dbias, 0, (size_t)partial_size(tokens) * sizeof(float));
    for (ptrdiff_t b = hssl_split(w->batch, w->chunks, chunk); b < hssl_split(w->batch, w->chunks, chunk + 1); ++b) {
        const ptrdiff_t at = b * tokens * w->shape.ld_qkv + h * head_dim,
            at_out = b * tokens * w->shape.ld_out + h * head_dim;
        w->kernels->backward_biased(&w->shape, w->qkv + at, w->qkv + at + width, w->qkv + at + 2 * width,
                                    w->finished_out + at_out, w->finished_log_sum_exp + (b * w->heads + h) * tokens,
                                    w->dout + at_out, bias_of(w, h), mask_of(w, b), w->dqkv + at, w->dqkv + at + width,
                                    w->dqkv + at + 2 * width, dbias, scratch);
    }
}

/// One row of a head's dbias: the chunks' parts, in order.
static void add_partials(const void *job, ptrdiff_t task, int part) {
    (void)part;
    const biased_job *const w = job;
    const ptrdiff_t tokens = w->shape.tokens, h = task / tokens, i = task % tokens;
    float *const row = w->dbias + task * tokens;
    const float *const first = w->partial + h * w->chunks * partial_size(tokens) + i * hssl_attention_ld(tokens);
    for (ptrdiff_t j = 0; j < tokens; ++j) {
        float sum = 0;
        for (ptrdiff_t chunk = 0; chunk < w->chunks; ++chunk) sum += first[chunk * partial_size(tokens) + j];
        row[j] += sum;
    }
}

void hssl_attention_biased_backward(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim,
                                    const float *bias, const float *mask, ptrdiff_t windows, const float *qkv,
                                    const float *out, const float *log_sum_exp, const float *dout, float *dqkv,
                                    float *dbias, void *workspace) {
    const size_t bytes_a_thread = (size_t)hssl_attention_backward_scratch(tokens, head_dim) * sizeof(float);
    char *const scratch = workspace;
    const biased_job job = {.kernels = hssl_attention_selected(), .shape = shape_of(tokens, heads, head_dim),
                            .batch = batch, .heads = heads,
                            .chunks = chunks_of(batch), .windows = windows, .bias = bias, .mask = mask, .qkv = qkv,
                            .finished_out = out,
                            .finished_log_sum_exp = log_sum_exp, .dout = dout, .dqkv = dqkv, .dbias = dbias,
                            .partial = (float *)(void *)(scratch + (size_t)hssl_get_threads() * bytes_a_thread),
                            .workspace = scratch,
                            .bytes_a_thread = bytes_a_thread};
    const int team = hssl_team((double)(5 * batch * heads * tokens * tokens * head_dim) * HSSL_WORK_MULTIPLY_ADD);
    hssl_run_tasks(team, heads * job.chunks, backward_chunk, &job);
    if (dbias) {
        hssl_run_tasks(hssl_team((double)(heads * job.chunks * tokens * tokens) * HSSL_WORK_STREAM), heads * tokens,
                       add_partials, &job);
    }
}
