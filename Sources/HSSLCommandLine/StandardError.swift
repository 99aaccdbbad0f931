import HSSLFormats
import Synchronization
#if canImport(Glibc)
import Glibc
#endif

/// Standard error, shared by messages and the progress bar: a message first wipes the bar and then redraws it below.
package final class StandardError: Sendable {
    package static let shared = StandardError()

    /// The bar that is on the terminal now.
    private let bar = Mutex("")

    package let isTerminal = isatty(STDERR_FILENO) == 1

    /// Columns of the terminal, asked anew each time since windows are resized.
    package var columns: Int {
        var size = winsize()
        guard ioctl(STDERR_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return 80 }
        return Int(size.ws_col)
    }

    package func print(_ line: String) {
        let line = PathBytes.readable(line)
        bar.withLock { bar in
            let text = bar.isEmpty ? line + "\n" : "\r\u{1b}[K" + line + "\n" + bar
            _ = writeAll(Array(text.utf8), to: STDERR_FILENO)
        }
    }

    /// Draws `line` in place of the previous bar; an empty line removes it.
    func draw(bar line: String) {
        bar.withLock { bar in
            bar = line
            _ = writeAll(Array(("\r\u{1b}[K" + line).utf8), to: STDERR_FILENO)
        }
    }

    /// Leaves the bar where it is and moves below it.
    func leaveBar() {
        bar.withLock { bar in
            if !bar.isEmpty { _ = writeAll([UInt8(ascii: "\n")], to: STDERR_FILENO) }
            bar = ""
        }
    }
}
