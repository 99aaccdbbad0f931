#if canImport(Glibc)
    import Glibc
#endif

/// Opens those of the descriptors 0, 1 and 2 that are closed, so that no file of ours becomes one of them: an output
/// file with descriptor 2 would hold the messages as well. Call before anything else is opened.
///
/// They are opened the wrong way round, as GNU's tools do: reading a closed standard input and writing to a closed
/// standard output stay errors.
package func openStandardDescriptors() {
    for descriptor in STDIN_FILENO...STDERR_FILENO where fcntl(descriptor, F_GETFD) < 0 {
        // The lowest free one is taken: those below it are open by now.
        _ = open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY)
    }
}

/// Takes settings out of the environment with which libomp ends the process (a stack that cannot be had or is too
/// small, a number of threads that is none). The number of threads is ours to say, and its threads need no other stack.
/// How threads are placed and how they wait stays the user's. Call before the first parallel region.
package func removeHarmfulThreadSettings() {
    for name in [
        "OMP_NUM_THREADS", "OMP_STACKSIZE", "GOMP_STACKSIZE", "KMP_STACKSIZE", "KMP_STACKOFFSET", "KMP_STACKPAD",
        "KMP_MONITOR_STACKSIZE",
    ] { unsetenv(name) }
}
