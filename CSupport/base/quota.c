#define _GNU_SOURCE
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

enum { PATH_BYTES = 4096, LINE_BYTES = 8192 };

/// Processors that `quota` microseconds of every `period` are worth, rounded up; 0: no limit.
static int processors(long long quota, long long period) {
    if (quota <= 0 || period <= 0) return 0;
    const long long count = quota / period + (quota % period != 0);
    return count > INT_MAX ? INT_MAX : (int)count;
}

static int least(int a, int b) { return a == 0 || (b != 0 && b < a) ? b : a; }

static int read_line(const char *folder, const char *name, char *line, int size) {
    char path[PATH_BYTES + 64];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) return 0;
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    const int found = fgets(line, size, file) != NULL;
    fclose(file);
    return found;
}

/// The limit that a control group's own files say: version 2, or version 1.
static int limit_of(const char *folder) {
    char line[128];
    long long quota = 0, period = 0;
    if (read_line(folder, "cpu.max", line, sizeof line)) {
        return sscanf(line, "%lld %lld", &quota, &period) == 2 ? processors(quota, period) : 0;  // "max 100000"
    }
    if (!read_line(folder, "cpu.cfs_quota_us", line, sizeof line) || sscanf(line, "%lld", &quota) != 1) return 0;
    if (!read_line(folder, "cpu.cfs_period_us", line, sizeof line) || sscanf(line, "%lld", &period) != 1) return 0;
    return processors(quota, period);
}

/// The least limit of a group and of those above it, up to the mount point, which is `mount` bytes of `folder`.
static int limit_along(char *folder, size_t mount) {
    int limit = 0;
    for (;;) {
        limit = least(limit, limit_of(folder));
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < mount) return limit;
        *slash = 0;
    }
}

/// Whether `word` is one of the words of a list that commas separate.
static int lists(const char *list, const char *word) {
    const size_t length = strlen(word);
    for (const char *at = list; at; at = strchr(at, ',')) {
        if (*at == ',') ++at;
        if (!strncmp(at, word, length) && (at[length] == ',' || at[length] == 0 || at[length] == '\n')) return 1;
    }
    return 0;
}

/// This process's group in the hierarchy of version 2, or in that of version 1 which limits processors.
static int own_group(const char *root, int version, char *group) {
    char path[PATH_BYTES], line[LINE_BYTES];
    if (snprintf(path, sizeof path, "%s/proc/self/cgroup", root) >= (int)sizeof path) return 0;
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    int found = 0;
    while (!found && fgets(line, sizeof line, file)) {  // "0::/a/b" or "4:cpu,cpuacct:/a/b"
        char *controllers = strchr(line, ':');
        char *name = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!name) continue;
        *controllers++ = 0;
        *name++ = 0;
        name[strcspn(name, "\n")] = 0;
        const int limits = version == 2 ? !strcmp(line, "0") && !*controllers : lists(controllers, "cpu");
        found = limits && strlen(name) < PATH_BYTES;
        if (found) strcpy(group, name);
    }
    fclose(file);
    return found;
}

int hssl_quota_processors(const char *root) {
    char path[PATH_BYTES], line[LINE_BYTES], group[PATH_BYTES];
    if (snprintf(path, sizeof path, "%s/proc/self/mountinfo", root) >= (int)sizeof path) return 0;
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    int limit = 0;
    while (fgets(line, sizeof line, file)) {
        // "36 25 0:30 /group/of/the/mount /sys/fs/cgroup rw,… shared:9 - cgroup2 cgroup rw,…"
        char top[PATH_BYTES], point[PATH_BYTES];
        char kind[32], options[512];
        const char *rest = strstr(line, " - ");
        if (!rest || sscanf(line, "%*s %*s %*s %4095s %4095s", top, point) != 2) continue;
        if (sscanf(rest, " - %31s %*s %511s", kind, options) != 2) continue;
        const int version = !strcmp(kind, "cgroup2") ? 2 : !strcmp(kind, "cgroup") && lists(options, "cpu") ? 1 : 0;
        if (!version || !own_group(root, version, group)) continue;
        // Inside a container the group may be named from outside: what the mount shows begins at `top`.
        const size_t length = strlen(top) > 1 ? strlen(top) : 0;
        const char *below = length == 0 || !strncmp(group, top, length) ? group + length : "";
        char folder[3 * PATH_BYTES];
        const int mount = snprintf(folder, sizeof folder, "%s%s", root, point);
        if (mount < 0 || mount >= PATH_BYTES) continue;
        // A name above the mount ("/../other") shows nothing here.
        if (strcmp(below, "/") && !strstr(below, ".."))
            snprintf(folder + mount, sizeof folder - (size_t)mount, "%s", below);
        limit = least(limit, limit_along(folder, (size_t)mount));
    }
    fclose(file);
    return limit;
}

int hssl_available_processors(void) {
    // Wide enough for 16,384 processors: a narrow mask is refused where the machine has more.
    unsigned long mask[256];
    long count = 0;
    if (sched_getaffinity(0, sizeof mask, (cpu_set_t *)mask) == 0) {
        count = CPU_COUNT_S(sizeof mask, (cpu_set_t *)mask);
    } else {
        count = sysconf(_SC_NPROCESSORS_ONLN);
    }
    const int quota = hssl_quota_processors("");
    if (quota > 0 && quota < count) count = quota;
    return count < 1 ? 1 : count > HSSL_MAX_THREADS ? HSSL_MAX_THREADS : (int)count;
}

static void *wait_for_gate(void *gate) {
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

int hssl_startable_threads(int wanted) {
    pthread_t threads[2 * HSSL_MAX_THREADS];
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    if (wanted > 2 * HSSL_MAX_THREADS) wanted = 2 * HSSL_MAX_THREADS;
    int started = 0;
    // Held until all are started: they must be there at one time.
    pthread_mutex_lock(&gate);
    while (started < wanted && pthread_create(&threads[started], NULL, wait_for_gate, &gate) == 0) ++started;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < started; ++i) pthread_join(threads[i], NULL);
    return started;
}
