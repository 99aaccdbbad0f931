// Threads take batch × heads as they come; strips of queries balance the forward, and feed threads that are more than
// the heads.
#include "attention/integers.h"
#include "elementwise/partition.h"

const hssl_attention_kernels *hssl_attention_selected(void) {
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
    return (size_t)hssl_get_threads() * bytes_a_thread(hssl_attention_integer_layout_at(
        tokens, head_dim, NULL, NULL).bytes);
}

size_t hssl_attention_backward_workspace_size(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim) {
    (void)batch, (void)heads;
    return (size_t)hssl_get_threads() * (size_t)hssl_attention_backward_scratch(tokens, head_dim) * sizeof(float);
}

typedef struct {
    hssl_attention_forward kernels;
    hssl_attention_shape shape;
    ptrdiff_t heads, begin, end, strip;
    ptrdiff_t element;  // bytes of one of qkv and out
    const void *qkv;
    void *out;
    float *log_sum_exp;
    hssl_attention_bytes bytes;
    char *workspace;
} forward_job;

typedef struct {
    hssl_attention_head head;
    const forward_job *forward;
} head_job;

static void run_strip(const void *job, ptrdiff_t task, int part) {
    const head_job *const h = job;
    const forward_job *const f = h->forward;
    const ptrdiff_t first = f->begin + task * f->strip;
    f->kernels.strip(&h->head, first, hssl_min(f->end, first + f->strip),
                     f->workspace + (size_t)part * bytes_a_thread(f->bytes) + f->bytes.panels);
}

static void run_head(const void *job, ptrdiff_t pair, int part) {
    const forward_job *const f = job;
    const ptrdiff_t b = pair / f->heads, h = pair % f->heads, tokens = f->shape.tokens, head_dim = f->shape.head_dim,
        width = f->heads * head_dim * f->element;
    const char *const q = (const char *)f->qkv + (b * tokens * f->shape.ld_qkv + h * head_dim) * f->element;
    const head_job head = {
        .head = {f->shape, q, q + width, q + 2 * width,
                 (char *)f->out + (b * tokens * f->shape.ld_out + h * head_dim) * f->element,
                 f->log_sum_exp ? f->log_sum_exp + pair * tokens : NULL,
                 f->workspace + (size_t)part * bytes_a_thread(f->bytes)},
        .forward = f};
    f->kernels.prepare(&head.head);
    hssl_share(hssl_ceil_div(f->end - f->begin, f->strip), run_strip, &head);
}

// Threads take heads, then strips of the heads that others are at: whoever prepared the panels of a head shares its
// strips. `rate`: products a second of the kernels, beside those of float32.
static void run_heads(double rate, ptrdiff_t batch, forward_job job) {
    if (job.begin >= job.end) return;
    job.strip = hssl_attention_strip(job.shape.tokens);
    // of k, and of v
    const double elements = (double)(batch * job.heads) * (double)job.shape.tokens * (double)job.shape.head_dim;
    const int team = hssl_team(elements
        * (2 * HSSL_WORK_STREAM + 2 * (double)(job.end - job.begin) * HSSL_WORK_MULTIPLY_ADD / rate));
    hssl_run_tasks(team, batch * job.heads, run_head, &job);
}

static hssl_attention_shape shape_of(ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim) {
    return (hssl_attention_shape){tokens, head_dim, 3 * heads * head_dim, heads * head_dim};
}

void hssl_attention(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, const float *qkv,
                    float *out, float *log_sum_exp, void *workspace) {
    hssl_attention_queries(batch, tokens, heads, head_dim, 0, tokens, qkv, out, log_sum_exp, workspace);
}

void hssl_attention_queries(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, ptrdiff_t begin,
                            ptrdiff_t end, const float *qkv, float *out, float *log_sum_exp, void *workspace) {
    run_heads(1, batch,
              (forward_job){.kernels = hssl_attention_selected()->forward, .shape = shape_of(tokens, heads, head_dim),
                            .heads = heads, .begin = begin, .end = end,
                                      .element = sizeof *qkv, .qkv = qkv, .out = out, .log_sum_exp = log_sum_exp,
                                      .bytes = hssl_attention_forward_bytes(tokens, head_dim),
                                      .workspace = workspace});
}

void hssl_attention_integer(ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, ptrdiff_t begin, ptrdiff_t end,
                            const uint16_t *qkv, uint16_t *out, void *workspace) {
    run_heads(2, 1,
              (forward_job){.kernels = hssl_attention_selected()->forward_integer,
                            .shape = shape_of(tokens, heads, head_dim), .heads = heads, .begin = begin,
                                  .end = end, .element = sizeof *qkv, .qkv = qkv, .out = out,
                                  .bytes = hssl_attention_integer_layout_at(tokens, head_dim, NULL, NULL).bytes,
                                  .workspace = workspace});
}

typedef struct {
    const hssl_attention_kernels *kernels;
    hssl_attention_shape shape;
    ptrdiff_t heads, scratch;
    const float *qkv, *out, *log_sum_exp, *dout;
    float *dqkv, *workspace;
} backward_job;

static void run_backward(const void *job, ptrdiff_t pair, int part) {
    const backward_job *const w = job;
    const ptrdiff_t b = pair / w->heads, h = pair % w->heads, tokens = w->shape.tokens, head_dim = w->shape.head_dim,
        width = w->heads * head_dim;
    const ptrdiff_t at = b * tokens * w->shape.ld_qkv + h * head_dim,
        at_out = b * tokens * w->shape.ld_out + h * head_dim;
    w->kernels->backward(&w->shape, w->qkv + at, w->qkv + at + width, w->qkv + at + 2 * width, w->out + at_out,
                         w->log_sum_exp + pair * tokens, w->dout + at_out, w->dqkv + at, w->dqkv + at + width,
                         w->dqkv + at + 2 * width, w->workspace + part * w->scratch);
}

void hssl_attention_backward(ptrdiff_t batch, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t head_dim, const float *qkv,
                             const float *out, const float *log_sum_exp, const float *dout, float *dqkv,
                             void *workspace) {
    const backward_job job = {hssl_attention_selected(), shape_of(tokens, heads, head_dim), heads,
                              hssl_attention_backward_scratch(tokens, head_dim), qkv, out, log_sum_exp,
                              dout, dqkv, workspace};
    const int team = hssl_team((double)(5 * batch * heads * tokens * tokens * head_dim) * HSSL_WORK_MULTIPLY_ADD);
    hssl_run_tasks(team, batch * heads, run_backward, &job);
}
