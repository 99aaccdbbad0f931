/// Appending JSON text to bytes: what every writer of JSON here shares.
extension [UInt8] {
    /// A string literal. Only what RFC 8259 requires is escaped; DEL and the line separators too, so that a line stays a line.
    mutating func appendJSON(_ text: String) {
        append(UInt8(ascii: "\""))
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": append(contentsOf: "\\\"".utf8)
            case "\\": append(contentsOf: "\\\\".utf8)
            case "\n": append(contentsOf: "\\n".utf8)
            case "\r": append(contentsOf: "\\r".utf8)
            case "\t": append(contentsOf: "\\t".utf8)
            case "\u{0}"..<" ", "\u{7f}", "\u{2028}", "\u{2029}":
                let digits = String(scalar.value, radix: 16)
                append(contentsOf: "\\u\(String(repeating: "0", count: 4 - digits.count))\(digits)".utf8)
            default: append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
            }
        }
        append(UInt8(ascii: "\""))
    }

    /// The shortest text that reads back as the same float64; `null` for NaN and infinity, which JSON cannot say.
    mutating func appendJSON(_ value: Double) {
        append(contentsOf: (value.isFinite ? value.description : "null").utf8)
    }

    /// The shortest text that reads back as the same float32; `null` for NaN and infinity.
    mutating func appendJSON(_ value: Float) {
        append(contentsOf: (value.isFinite ? value.description : "null").utf8)
    }

    mutating func appendJSON(_ value: Int) { append(contentsOf: String(value).utf8) }
}
