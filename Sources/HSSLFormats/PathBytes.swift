#if canImport(Glibc)
import Glibc
#endif

/// Paths are bytes, strings are Unicode: how a path that is not UTF-8 lives in a `String` without loss.
///
/// A byte that is no part of valid UTF-8 stands as the private-use scalar U+10FF00 + byte; the few valid paths that
/// hold such a scalar have its four bytes written the same way, so that every path has one string and every string one
/// path. Whoever hands a path to the system goes through ``Swift/String/withPath(_:)``; whoever shows or writes it goes
/// through ``escaped(_:)`` or ``readable(_:)``.
package enum PathBytes {
    /// Bytes below 128 are always valid.
    private static let escapes = (0x10FF80 as UInt32)...0x10FFFF

    /// The string of a path.
    package static func string(_ bytes: some Collection<UInt8>) -> String {
        // Every scalar from U+10FF80 begins F4 8F.
        if !bytes.contains(0xF4), let valid = String(validating: bytes, as: UTF8.self) { return valid }
        var result = String.UnicodeScalarView()
        func escape(_ part: some Sequence<UInt8>) {
            for byte in part { Unicode.Scalar(0x10FF00 + UInt32(byte)).map { result.append($0) } }
        }
        var parser = Unicode.UTF8.ForwardParser()
        var iterator = bytes.makeIterator()
        var rest = bytes[...]
        while true {
            switch parser.parseScalar(from: &iterator) {
            case .valid(let encoded):
                let scalar = Unicode.UTF8.decode(encoded)
                if escapes.contains(scalar.value) { escape(rest.prefix(encoded.count)) } else { result.append(scalar) }
                rest = rest.dropFirst(encoded.count)
            case .error(let length):
                escape(rest.prefix(length))
                rest = rest.dropFirst(length)
            case .emptyInput:
                return String(result)
            }
        }
    }

    /// The string of a path that C holds.
    package static func string(terminated path: UnsafePointer<CChar>) -> String {
        path.withMemoryRebound(to: UInt8.self, capacity: strlen(path)) {
            string(UnsafeBufferPointer(start: $0, count: strlen(path)))
        }
    }

    /// The bytes of a path.
    package static func bytes(_ path: String) -> [UInt8] {
        guard isEscaped(path) else { return Array(path.utf8) }
        var result: [UInt8] = []
        for scalar in path.unicodeScalars {
            if escapes.contains(scalar.value) {
                result.append(UInt8(truncatingIfNeeded: scalar.value))
            } else {
                result.append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
            }
        }
        return result
    }

    /// Whether the path is not UTF-8.
    package static func isEscaped(_ path: String) -> Bool {
        path.utf8.contains(0xF4) && path.unicodeScalars.contains { escapes.contains($0.value) }
    }

    /// As text files have a path: bytes that are not UTF-8 as `\xNN`, and a backslash doubled where it could be taken
    /// for the start of such a group or of a doubled one. To read it back: `\\` is a backslash, `\xNN` a byte, and any
    /// other backslash itself.
    package static func escaped(_ path: String) -> String {
        guard path.utf8.contains(0xF4) || path.utf8.contains(0x5C) else { return path }
        var result = String.UnicodeScalarView()
        let scalars = Array(path.unicodeScalars)
        for (place, scalar) in scalars.enumerated() {
            if escapes.contains(scalar.value) {
                result.append(contentsOf: hexadecimal(scalar).unicodeScalars)
            } else {
                result.append(scalar)
                if scalar == "\\", place + 1 < scalars.count {
                    let next = scalars[place + 1]
                    if next == "\\" || next == "x" || escapes.contains(next.value) { result.append("\\") }
                }
            }
        }
        return String(result)
    }

    /// A line for people: bytes of paths that are not UTF-8 as `\xNN`, everything else as it is.
    package static func readable(_ line: String) -> String {
        guard isEscaped(line) else { return line }
        return line.unicodeScalars.reduce(into: "") { result, scalar in
            if escapes.contains(scalar.value) { result += hexadecimal(scalar) } else {
                result.unicodeScalars.append(scalar)
            }
        }
    }

    private static func hexadecimal(_ scalar: Unicode.Scalar) -> String {
        // 80 … ff: two digits.
        "\\x" + String(scalar.value & 0xFF, radix: 16)
    }

    /// Whether one path's bytes come before another's.
    package static func precedes(_ a: String, _ b: String) -> Bool {
        // UTF-8 in order of its bytes is in order of its scalars, where escapes would come last.
        if isEscaped(a) || isEscaped(b) { return bytes(a).lexicographicallyPrecedes(bytes(b)) }
        return a.utf8.lexicographicallyPrecedes(b.utf8)
    }
}

extension String {
    /// The bytes of this path and a zero, for a call of the system.
    package func withPath<Result>(_ body: (UnsafePointer<CChar>) throws -> Result) rethrows -> Result {
        guard PathBytes.isEscaped(self) else { return try withCString(body) }
        let bytes = (PathBytes.bytes(self) + [0]).map { CChar(bitPattern: $0) }
        return try bytes.withUnsafeBufferPointer { buffer in
            guard let start = buffer.baseAddress else { return try "".withCString(body) }
            return try body(start)
        }
    }
}
