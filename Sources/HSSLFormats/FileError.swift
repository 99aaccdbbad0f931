#if canImport(Glibc)
import Glibc
#endif

/// A file operation that failed. The description is one line: `path: reason`.
public struct FileError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The file or folder, as the caller named it.
    public let path: String
    /// What is wrong, without the path; often the system's words.
    public let reason: String

    /// An error with these two parts; nothing is checked.
    public init(path: String, reason: String) {
        self.path = path
        self.reason = reason
    }

    public var description: String { "\(oneLine(path, limit: 4096)): \(reason)" }

    /// A failed system call: `action` says what was being done ("cannot open"), `code` is its errno.
    package init(path: String, action: String, code: Int) {
        self.init(path: path, reason: "\(action): \(systemMessage(Int32(truncatingIfNeeded: code)))")
    }
}

/// The C library's text of an errno ("No space left on device").
func systemMessage(_ code: Int32) -> String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
        guard let base = buffer.baseAddress else { return "error \(code)" }
        buffer.initialize(repeating: 0)
        // Swift imports the XSI strerror_r, which fills the buffer and returns 0.
        return strerror_r(code, base, buffer.count) == 0 ? String(cString: base) : "error \(code)"
    }
}

/// Text from a file (names, keys) as it may stand in a one-line message: control characters escaped, cut at `limit`
/// characters.
package func oneLine(_ text: some StringProtocol, limit: Int = 80) -> String {
    var result = ""
    var count = 0
    for scalar in PathBytes.readable(String(text)).unicodeScalars {
        if count == limit {
            result += "…"
            break
        }
        count += 1
        // Lines of their own, what turns the direction of a line, and a byte order mark, which nobody sees.
        let isHidden = (0x2028...0x202e).contains(scalar.value) || (0x2066...0x2069).contains(scalar.value)
            || scalar.value == 0xfeff
        if scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value) || isHidden {
            result += "\\u{\(String(scalar.value, radix: 16))}"
        } else {
            result.unicodeScalars.append(scalar)
        }
    }
    return result
}
