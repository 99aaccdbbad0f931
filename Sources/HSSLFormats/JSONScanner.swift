/// Malformed JSON, or JSON of another shape than asked for. `offset` is the byte where a parse stopped.
public struct JSONError: Error, Equatable, Sendable, CustomStringConvertible {
    /// What is wrong, in one line without the place.
    public let reason: String
    /// Bytes from the beginning of the text to where the parse stopped; nil where the text is valid JSON of another
    /// shape than asked for.
    public let offset: Int?

    init(_ reason: String, at offset: Int? = nil) {
        self.reason = reason
        self.offset = offset
    }

    public var description: String {
        guard let offset else { return reason }
        return "\(reason) at byte \(offset)"
    }
}

/// Tokens of strict JSON (RFC 8259) over bytes that it may change: strings are unescaped in place, since their
/// unescaped UTF-8 is never longer. So a caller holds names as ranges of the buffer, and a hostile document costs no
/// memory but its own.
struct JSONScanner {
    let base: UnsafeMutablePointer<UInt8>
    let end: Int
    var position: Int

    init(_ base: UnsafeMutablePointer<UInt8>, count: Int, position: Int = 0) {
        self.base = base
        end = count
        self.position = position
    }

    /// The byte at the position; 0 at the end (0 is no part of any token).
    var next: UInt8 { position < end ? base[position] : 0 }

    func unexpected(_ wanted: String) -> JSONError {
        if position >= end { return JSONError("the text ends where \(wanted) should be", at: position) }
        return JSONError("expected \(wanted)", at: position)
    }

    mutating func skipWhitespace() {
        while position < end {
            switch base[position] {
            case 0x20, 0x09, 0x0a, 0x0d: position &+= 1
            default: return
            }
        }
    }

    /// Passes `byte` if it comes next, after white space.
    mutating func take(_ byte: UInt8) -> Bool {
        skipWhitespace()
        guard position < end, base[position] == byte else { return false }
        position &+= 1
        return true
    }

    /// Passes `word` if it comes next, after white space.
    mutating func take(_ word: StaticString) -> Bool {
        skipWhitespace()
        let place = position..<position + word.utf8CodeUnitCount
        guard place.upperBound <= end, equals(place, word) else { return false }
        position = place.upperBound
        return true
    }

    mutating func expect(_ byte: UInt8) throws(JSONError) {
        if !take(byte) { throw unexpected("'\(Character(Unicode.Scalar(byte)))'") }
    }

    func equals(_ range: Range<Int>, _ text: StaticString) -> Bool {
        guard range.count == text.utf8CodeUnitCount else { return false }
        for index in 0..<range.count where base[range.lowerBound &+ index] != text.utf8Start[index] { return false }
        return true
    }

    /// The text of a range that `scanString` returned.
    func text(_ range: Range<Int>) -> String {
        String(decoding: UnsafeBufferPointer(start: base + range.lowerBound, count: range.count), as: UTF8.self)
    }

    /// A non-negative integer without sign, fraction, exponent or leading zero, that fits Int.
    mutating func scanUnsignedInteger() throws(JSONError) -> Int {
        skipWhitespace()
        let start = position
        var value = 0
        while position < end, base[position] &- 0x30 < 10 {
            let (product, overflow) = value.multipliedReportingOverflow(by: 10)
            let (sum, carry) = product.addingReportingOverflow(Int(base[position] &- 0x30))
            if overflow || carry { throw JSONError("an integer that does not fit 63 bits", at: start) }
            value = sum
            position &+= 1
        }
        if position == start { throw unexpected("a non-negative integer") }
        if base[start] == 0x30, position > start &+ 1 { throw JSONError("a number with a leading zero", at: start) }
        switch next {
        case UInt8(ascii: "."), UInt8(ascii: "e"),
             UInt8(ascii: "E"): throw JSONError("expected an integer, found a fraction or exponent", at: start)
        default: return value
        }
    }

    /// A string, validated as UTF-8, unescaped in place. Returns where its bytes now lie.
    mutating func scanString() throws(JSONError) -> Range<Int> {
        try expect(UInt8(ascii: "\""))
        let start = position
        // Nothing moves until the first escape, which is rare.
        var write = position
        while position < end {
            let byte = base[position]
            switch byte {
            case UInt8(ascii: "\""):
                position &+= 1
                return start..<write
            case UInt8(ascii: "\\"):
                try scanEscape(writingAt: &write)
            case 0..<0x20:
                throw JSONError("a control character in a string", at: position)
            case 0x20..<0x80:
                base[write] = byte
                write &+= 1
                position &+= 1
            default:
                let length = validSequenceLength(at: position)
                if length == 0 { throw JSONError("bytes that are not UTF-8", at: position) }
                for _ in 0..<length {
                    base[write] = base[position]
                    write &+= 1
                    position &+= 1
                }
            }
        }
        throw JSONError("a string without an end", at: start)
    }

    private mutating func scanEscape(writingAt write: inout Int) throws(JSONError) {
        let start = position
        position &+= 1
        let kind = next
        position &+= 1
        var scalar: UInt32
        switch kind {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): scalar = UInt32(kind)
        case UInt8(ascii: "b"): scalar = 0x08
        case UInt8(ascii: "f"): scalar = 0x0c
        case UInt8(ascii: "n"): scalar = 0x0a
        case UInt8(ascii: "r"): scalar = 0x0d
        case UInt8(ascii: "t"): scalar = 0x09
        case UInt8(ascii: "u"):
            scalar = try scanHexadecimal(from: start)
            if (0xD800..<0xDC00).contains(scalar) {
                guard position &+ 1 < end, base[position] == UInt8(ascii: "\\"),
                      base[position &+ 1] == UInt8(ascii: "u") else {
                    throw JSONError("half a surrogate pair", at: start)
                }
                position &+= 2
                let low = try scanHexadecimal(from: start)
                guard (0xDC00..<0xE000).contains(low) else { throw JSONError("half a surrogate pair", at: start) }
                scalar = 0x10000 + ((scalar - 0xD800) << 10) + (low - 0xDC00)
            } else if (0xDC00..<0xE000).contains(scalar) {
                throw JSONError("half a surrogate pair", at: start)
            }
        default: throw JSONError("an unknown escape", at: start)
        }
        if scalar < 0x80 {
            put(scalar, at: &write)
        } else if scalar < 0x800 {
            put(0xC0 | scalar >> 6, at: &write)
            put(0x80 | scalar & 0x3f, at: &write)
        } else if scalar < 0x10000 {
            put(0xE0 | scalar >> 12, at: &write)
            put(0x80 | (scalar >> 6) & 0x3f, at: &write)
            put(0x80 | scalar & 0x3f, at: &write)
        } else {
            put(0xF0 | scalar >> 18, at: &write)
            put(0x80 | (scalar >> 12) & 0x3f, at: &write)
            put(0x80 | (scalar >> 6) & 0x3f, at: &write)
            put(0x80 | scalar & 0x3f, at: &write)
        }
    }

    private func put(_ byte: UInt32, at write: inout Int) {
        base[write] = UInt8(truncatingIfNeeded: byte)
        write &+= 1
    }

    private mutating func scanHexadecimal(from start: Int) throws(JSONError) -> UInt32 {
        var value: UInt32 = 0
        for _ in 0..<4 {
            let digit: UInt8
            switch next {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = next &- UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = next &- UInt8(ascii: "a") &+ 10
            case UInt8(ascii: "A")...UInt8(ascii: "F"): digit = next &- UInt8(ascii: "A") &+ 10
            default: throw JSONError("a \\u escape without four hexadecimal digits", at: start)
            }
            value = value << 4 | UInt32(digit)
            position &+= 1
        }
        return value
    }

    /// Length of the well-formed multi-byte UTF-8 sequence at `index` (Unicode 15, table 3-7), or 0.
    private func validSequenceLength(at index: Int) -> Int {
        func continues(_ offset: Int, _ low: UInt8 = 0x80, _ high: UInt8 = 0xBF) -> Bool {
            index &+ offset < end && base[index &+ offset] >= low && base[index &+ offset] <= high
        }
        switch base[index] {
        case 0xC2...0xDF: return continues(1) ? 2 : 0
        case 0xE0: return continues(1, 0xA0) && continues(2) ? 3 : 0
        case 0xED: return continues(1, 0x80, 0x9F) && continues(2) ? 3 : 0
        case 0xE1...0xEF: return continues(1) && continues(2) ? 3 : 0
        case 0xF0: return continues(1, 0x90) && continues(2) && continues(3) ? 4 : 0
        case 0xF1...0xF3: return continues(1) && continues(2) && continues(3) ? 4 : 0
        case 0xF4: return continues(1, 0x80, 0x8F) && continues(2) && continues(3) ? 4 : 0
        default: return 0
        }
    }
}
