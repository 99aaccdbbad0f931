// Group norm. Forward: threads share the samples; where these are few, segments of a sample's positions for its
// statistics and its rows for what becomes of them. Backward: samples, then groups.
#include <math.h>
#include <string.h>

#include "elementwise/partition.h"
#include "norm/norm.h"

enum {
    SEGMENT = 48,                         // positions, at least, whose sums are one
    SEGMENTS = 16,
    SUMS = 2 * HSSL_GROUP_NORM_CHANNELS,  // on the stack: 128 KB
    COLUMNS = 64,                         // channels, at least, of a thread
};

typedef struct { ptrdiff_t positions, C, segments; hssl_group_input x; double *sums; float *extremes; } statistics;

/// Σ x of a segment's channels, then Σ x²: [segment][2][C].
static double *sums_of(const statistics *s, ptrdiff_t segment) { return s->sums + segment * 2 * s->C; }
/// The least of a segment's channels, then the greatest: likewise. NULL where nobody asks.
static float *extremes_of(const statistics *s, ptrdiff_t segment) {
    return s->extremes ? s->extremes + segment * 2 * s->C : NULL;
}

static void sum_segment(const statistics *s, ptrdiff_t segment, hssl_range channels) {
    const ptrdiff_t first = hssl_split(s->positions, s->segments, segment),
        end = hssl_split(s->positions, s->segments, segment + 1);
    double *const sums = sums_of(s, segment) + channels.begin;
    float *const extremes = extremes_of(s, segment);
    float *const least = extremes ? extremes + channels.begin : NULL, *const greatest = least ? least + s->C : NULL;
    hssl_norm_selected()->group_sums(end - first, channels.end - channels.begin, s->C,
                                     hssl_group_input_at(s->x, first * s->C + channels.begin), sums, sums + s->C,
                                     least, greatest);
}

/// `extremes` [SUMS] or NULL: begins with the least of each channel, then the greatest.
static void statistics_of(ptrdiff_t positions, ptrdiff_t C, ptrdiff_t groups, hssl_group_input x, const float *weight,
                          float epsilon, float *center, float *slope, float *mean, float *rstd, float *extremes) {
    double sums[SUMS];
    // How positions are cut depends on the shape alone, and so do the sums. An even number serves two threads alike,
    // which find here the rows that they wrote.
    const ptrdiff_t most = hssl_min(hssl_min(positions / SEGMENT, SEGMENTS), SUMS / (2 * C));
    const ptrdiff_t segments = most < 2 ? 1 : most / 2 * 2;
    const statistics s = {positions, C, segments, x, sums, extremes};
    const int threads = hssl_team((double)(positions * C) * HSSL_WORK_STREAM);
    const int columns = (int)hssl_min(hssl_ceil_div(C, COLUMNS), hssl_ceil_div(threads, segments));
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t t = hssl_split(segments * columns, threads, part);
             t < hssl_split(segments * columns, threads, part + 1); ++t) {
            sum_segment(&s, t / columns, hssl_range_of(C, 16, (int)(t % columns), columns));
        }
    });
    for (ptrdiff_t segment = 1; segment < segments; ++segment) {
        const double *const from = sums_of(&s, segment);
        for (ptrdiff_t c = 0; c < 2 * C; ++c) sums[c] += from[c];
        const float *const others = extremes_of(&s, segment);
        for (ptrdiff_t c = 0; others && c < C; ++c) {
            extremes[c] = others[c] < extremes[c] ? others[c] : extremes[c];
            extremes[C + c] = others[C + c] > extremes[C + c] ? others[C + c] : extremes[C + c];
        }
    }
    const ptrdiff_t width = C / groups;
    for (ptrdiff_t g = 0; g < groups; ++g) {
        double sum = 0, squares = 0;
        for (ptrdiff_t c = g * width; c < (g + 1) * width; ++c) {
            sum += sums[c];
            squares += sums[C + c];
        }
        const double elements = (double)(positions * width), average = sum / elements;
        const double variance = squares / elements - average * average;
        // Not below zero, where NaN stays.
        const float scale = (float)(1 / sqrt((variance < 0 ? 0 : variance) + epsilon));
        if (mean) mean[g] = (float)average;
        if (rstd) rstd[g] = scale;
        for (ptrdiff_t c = g * width; c < (g + 1) * width; ++c) {
            center[c] = (float)average;
            slope[c] = scale * weight[c];
        }
    }
}

void hssl_group_statistics(ptrdiff_t positions, ptrdiff_t C, ptrdiff_t groups, hssl_group_input x, const float *weight,
                           float epsilon, float *center, float *slope, float *mean, float *rstd) {
    statistics_of(positions, C, groups, x, weight, epsilon, center, slope, mean, rstd, NULL);
}

float hssl_group_statistics_and_largest(ptrdiff_t positions, ptrdiff_t C, ptrdiff_t groups, hssl_group_input x,
                                        const float *weight, const float *bias, float epsilon, float least,
                                        float *center, float *slope) {
    float extremes[SUMS], largest = 0;
    statistics_of(positions, C, groups, x, weight, epsilon, center, slope, NULL, NULL, extremes);
    // The map rises or falls all along a channel, rounding included: its ends are those of the channel. NaN, which
    // compares as false, stays once it is there: an x that is not finite makes center or slope NaN.
    for (ptrdiff_t c = 0; c < C; ++c) {
        for (int end = 0; end < 2; ++end) {
            const float value = fmaf(extremes[end * C + c] - center[c], slope[c], bias[c]);
            const float magnitude = value < least ? fabsf(least) : fabsf(value);
            if (!(magnitude <= largest)) largest = largest != largest ? largest : magnitude;
        }
    }
    return largest;
}

typedef struct {
    ptrdiff_t positions, C, groups;
    const float *weight, *bias;
    float epsilon;
} settings;

static void normalize_sample(const settings *s, const float *x, float *y, float *mean, float *rstd) {
    float center[HSSL_GROUP_NORM_CHANNELS], slope[HSSL_GROUP_NORM_CHANNELS];
    const hssl_group_input input = {x, false};
    hssl_group_statistics(s->positions, s->C, s->groups, input, s->weight, s->epsilon, center, slope, mean, rstd);
    const hssl_norm_kernels *const kernels = hssl_norm_selected();
    const hssl_group_map map = {center, slope, s->bias, -INFINITY, -INFINITY};
    const int threads = hssl_team((double)(s->positions * s->C) * HSSL_WORK_STREAM);
    HSSL_TEAM(threads, part, {
        const hssl_range r = hssl_range_of(s->positions, 1, part, threads);
        kernels->group_apply(r.end - r.begin, s->C, hssl_group_input_at(input, r.begin * s->C), &map, NULL,
                             y + r.begin * s->C);
    });
}

void hssl_group_norm(ptrdiff_t batch, ptrdiff_t positions, ptrdiff_t C, ptrdiff_t groups, const float *x,
                     const float *weight, const float *bias, float epsilon, float *y, float *mean, float *rstd) {
    const settings settings = {positions, C, groups, weight, bias, epsilon};
    const int team = hssl_team((double)(batch * positions * C) * HSSL_WORK_STREAM), threads = batch < team ? 1 : team;
    HSSL_TEAM(threads, part, {
        for (ptrdiff_t b = hssl_split(batch, threads, part); b < hssl_split(batch, threads, part + 1); ++b) {
            normalize_sample(&settings, x + b * positions * C, y + b * positions * C, mean ? mean + b * groups : NULL,
                             rstd ? rstd + b * groups : NULL);
        }
    });
}

/// Pieces that the groups of a sample are cut into.
static ptrdiff_t pieces_of(ptrdiff_t batch, ptrdiff_t groups, int threads) {
    return batch >= threads ? 1 : hssl_min(groups, hssl_ceil_div(threads, hssl_max(batch, 1)));
}

/// Floats on the stack for what samples add to dweight and dbias: 256 KB.
enum { PARTIAL_SUMS = 65536 };

void hssl_group_norm_backward(ptrdiff_t batch, ptrdiff_t positions, ptrdiff_t C, ptrdiff_t groups, const float *x,
                              const float *weight, const float *mean, const float *rstd, const float *dy, float *dx,
                              float *dweight, float *dbias) {
    const hssl_norm_kernels *kernels = hssl_norm_selected();
    const hssl_group_shape shape = {positions, C, groups};
    float partial[PARTIAL_SUMS];
    // Samples by rounds, so that the sums of a round have room. A sample's sums are added in order, whatever the
    // threads.
    const ptrdiff_t round = hssl_max(1, PARTIAL_SUMS / (2 * C));
    for (ptrdiff_t first = 0; first < batch; first += round) {
        const ptrdiff_t count = hssl_min(round, batch - first);
        float *const weight_sums = partial, *const bias_sums = partial + count * C;
        const int threads = hssl_team((double)(count * positions * C) * 2 * HSSL_WORK_STREAM);
        const ptrdiff_t pieces = pieces_of(count, groups, threads), tasks = count * pieces;
        HSSL_TEAM(threads, part, {
            for (ptrdiff_t t = hssl_split(tasks, threads, part); t < hssl_split(tasks, threads, part + 1); ++t) {
                const ptrdiff_t i = t / pieces, b = first + i, at = b * positions * C;
                const hssl_range g = hssl_range_of(groups, 1, (int)(t % pieces), (int)pieces);
                kernels->group_norm_backward(&shape, g.begin, g.end, x + at, weight, mean + b * groups,
                                             rstd + b * groups, dy + at, dx + at, weight_sums + i * C,
                                             bias_sums + i * C);
            }
        });
        if (dweight) hssl_sum_rows(count, C, weight_sums, dweight);
        if (dbias) hssl_sum_rows(count, C, bias_sums, dbias);
    }
}
