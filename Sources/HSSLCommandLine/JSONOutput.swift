#if canImport(Glibc)
import Glibc
#endif

/// Standard output kept for exactly one JSON document (`--json -`).
///
/// From `init` on, whatever else this process prints on standard output, libraries included, goes to standard error.
package final class JSONOutput {
    private let descriptor: Int32

    /// nil when the system has no descriptor left.
    package init?() {
        fflush(nil)
        descriptor = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
        guard descriptor >= 0 else { return nil }
        guard dup2(STDERR_FILENO, STDOUT_FILENO) >= 0 else {
            close(descriptor)
            return nil
        }
    }

    deinit { close(descriptor) }

    /// Writes the document and a final newline. Returns false if the reader is gone or the disk is full.
    package func write(_ document: String) -> Bool { writeAll(Array((document + "\n").utf8), to: descriptor) }
}
