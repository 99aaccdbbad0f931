// Internal contract of base/: what every kernel family includes.
#ifndef HSSL_BASE_H
#define HSSL_BASE_H

#include <stdatomic.h>

#include "CSupport.h"

#define HSSL_MAX_THREADS 256

/// Target strings of the rows. An ISA file says, after its includes,
///   #pragma clang attribute push(__attribute__((target(HSSL_TARGET_AVX512))), apply_to = function)
/// and pops at its end. No `#pragma omp` inside: the outlined body would lose the target.
#define HSSL_TARGET_AVX2 "avx2,fma,f16c"
#define HSSL_TARGET_AVX512 "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"
#define HSSL_TARGET_AVX512VNNI "avx512vnni,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"

/// The context of this thread, NULL for the process's. A region hands it to the threads of its team.
const hssl_context *hssl_context_current(void);
/// What the process runs with where no context was entered.
void hssl_context_set_default_isa(hssl_isa isa);

/// Threads that a driver should use for `work` units (1 unit ≈ 1 float operation at the machine's peak, so ≈ 4 bytes of
/// streamed memory count as some 8 units): 1 where waking the team costs more than it saves, inside another parallel
/// region, or while others keep the cores busy (hssl_pace). Two calls may differ: scratch is sized by hssl_get_threads.
int hssl_team(double work);
/// Of a clock that only goes forward.
int64_t hssl_nanoseconds(void);
/// What a region of the calling thread took, and how much of it that thread waited.
void hssl_team_ended(int team, int64_t now, int64_t spent, int64_t idle);

// Swift's clang finds no omp.h: the functions of libomp that drivers call.
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);

/// A task of `job`; `part` is that of the thread which runs it, 0 outside regions.
typedef void hssl_task_fn(const void *job, ptrdiff_t task, int part);

/// What the threads of a region share: a line each, on which a thread puts the tasks that others may take.
typedef struct hssl_shared_tasks hssl_shared_tasks;
typedef struct {
    const hssl_context *context;  // of the thread that opened it, and so of all others while they are in it
    int team, threads;             // parts, and threads that OpenMP gave for them
    int64_t opened, done, helped;  // when; end of the opener's own parts, its time in others' tasks
    atomic_int busy;               // parts that have not come to their end
    struct {
        _Alignas(64) _Atomic(hssl_shared_tasks *) tasks;
        atomic_int visitors;  // threads that look at them
    } shared[HSSL_MAX_THREADS];
} hssl_region;
void hssl_region_open(hssl_region *region, int team);
void hssl_region_enter(hssl_region *region, int part);
void hssl_region_leave(hssl_region *region);
/// Takes tasks of those that are still busy until nobody is, then gives this thread its own context back.
void hssl_region_help(hssl_region *region);
/// For the thread that opened it, once all have left: counts what it took.
void hssl_region_close(const hssl_region *region);

/// Runs the block once for every `part` of 0 ..< team, each on a thread of its own. A thread whose part is done takes
/// tasks (hssl_share) from those whose are not. A team of one runs the block in place. Nothing is allocated: libomp
/// takes memory for a region of one thread and for every `parallel for`.
#define HSSL_TEAM(team, part, ...) \
    do { \
        const int team_ = (team); \
        if (team_ > 1) { \
            hssl_region region_; \
            hssl_region_open(&region_, team_); \
            _Pragma("omp parallel num_threads(team_)") \
            { \
                for (int part = omp_get_thread_num(); part < team_; part += omp_get_num_threads()) { \
                    hssl_region_enter(&region_, part); \
                    __VA_ARGS__ \
                    hssl_region_leave(&region_); \
                } \
                hssl_region_help(&region_); \
            } \
            hssl_region_close(&region_); \
        } else { \
            const int part = 0; \
            (void)part; \
            __VA_ARGS__ \
        } \
    } while (0)

/// Fixed split of `count` items into `parts`: items [begin, end) of `part`. Sizes differ by at most 1.
static inline ptrdiff_t hssl_split(ptrdiff_t count, ptrdiff_t parts, ptrdiff_t part) {
    return count / parts * part + (part < count % parts ? part : count % parts);
}

/// Runs tasks 0 ..< count of a part, with those threads of its region that have nothing else to do: cores differ in
/// speed, by 10 % for seconds on a shared machine, and work cannot always be cut fine enough to be taken as it comes.
/// Serial outside regions, and where a task that is shared itself shares. Results must not depend on who takes what.
void hssl_share(ptrdiff_t count, hssl_task_fn *run, const void *job);

/// Runs tasks 0 ..< count in a region of its own, whose threads take them as they come; a team of one shares them.
/// (OpenMP's schedule(dynamic) needs a newer libomp than Ubuntu 22.04's; reduction clauses and static schedules work.)
void hssl_run_tasks(int team, ptrdiff_t count, hssl_task_fn *run, const void *job);

static inline ptrdiff_t hssl_min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t hssl_max(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t hssl_ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }
static inline ptrdiff_t hssl_round_up(ptrdiff_t a, ptrdiff_t b) { return hssl_ceil_div(a, b) * b; }

/// Row of a dispatch table (indexed by ISA, holes are zero) for the selected ISA: the highest filled row that is not
/// above it. `TABLE` has HSSL_ISA_COUNT entries whose first member is the kernel pointer `kernel`. The scalar row
/// always exists.
#define HSSL_SELECT_ROW(TABLE)                                              \
    ({                                                                      \
        int isa_ = hssl_isa_selected();                                     \
        while (isa_ > HSSL_ISA_SCALAR && !(TABLE)[isa_].kernel) --isa_;     \
        &(TABLE)[isa_];                                                     \
    })

// Kernels of base/ (see kernels.inc): half-precision conversion of a contiguous run.
typedef void hssl_convert_f32_f16_fn(ptrdiff_t n, const float *x, uint16_t *y);
typedef void hssl_convert_f16_f32_fn(ptrdiff_t n, const uint16_t *x, float *y);
#define HSSL_KERNEL(family, symbol, isa, ...) hssl_##family##_fn symbol;
#include "base/kernels.inc"
#undef HSSL_KERNEL
/// The selected row's, for a driver that is on a thread of its own already (hssl_convert_f16_f32 opens a region).
hssl_convert_f16_f32_fn *hssl_select_convert_f16_f32(void);

#endif
