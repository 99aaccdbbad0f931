import Glibc

/// Seconds of processor time that this process has used: unlike the wall clock, other processes do not add to it.
public func processorTime() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
}

/// Whether `tools/test --sanitize` runs: instrumented code is many times slower and larger, so limits of time and
/// memory say nothing there.
public var isInstrumented: Bool { getenv("HSSL_SANITIZE") != nil }
