/// Appending JSON text to bytes: what every writer of JSON here shares.
extension [UInt8] {
    /// A string literal. Only what RFC 8259 requires is escaped; DEL and the line separators too, so that a line stays
    /// a line.
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

    /// The value of `"path"`. JSON holds no bytes: what is not UTF-8 is escaped (``PathBytes/escaped(_:)``), and the
    /// member `"path_hex"` behind it has all bytes of the path in hexadecimal.
    mutating func appendJSON(path: String) {
        guard PathBytes.isEscaped(path) else { return appendJSON(path) }
        appendJSON(PathBytes.escaped(path))
        append(contentsOf: ",\"path_hex\":\"".utf8)
        for byte in PathBytes.bytes(path) {
            append(contentsOf: ((byte < 16 ? "0" : "") + String(byte, radix: 16)).utf8)
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

extension JSONValue {
    package enum KeyOrder: Sendable {
        case insertion, sorted
    }

    /// One line of JSON without spaces, or with `indent` > 0 one member a line, indented by that many spaces.
    package func text(keys: KeyOrder = .insertion, indent: Int = 0) -> String {
        String(decoding: bytes(keys: keys, indent: indent), as: UTF8.self)
    }

    package func bytes(keys: KeyOrder = .insertion, indent: Int = 0) -> [UInt8] {
        var result: [UInt8] = []
        append(to: &result, keys, indent, depth: 0)
        return result
    }

    private func append(to result: inout [UInt8], _ order: KeyOrder, _ indent: Int, depth: Int) {
        func breakLine(_ result: inout [UInt8], _ depth: Int) {
            if indent == 0 { return }
            result.append(UInt8(ascii: "\n"))
            result.append(contentsOf: repeatElement(0x20, count: indent * depth))
        }
        switch self {
        case .null: result.append(contentsOf: "null".utf8)
        case .bool(let bool): result.append(contentsOf: (bool ? "true" : "false").utf8)
        case .integer(let integer): result.appendJSON(integer)
        case .number(let number): result.appendJSON(number)
        case .string(let string): result.appendJSON(string)
        case .array(let elements):
            result.append(UInt8(ascii: "["))
            for (index, element) in elements.enumerated() {
                if index > 0 { result.append(UInt8(ascii: ",")) }
                breakLine(&result, depth + 1)
                element.append(to: &result, order, indent, depth: depth + 1)
            }
            if !elements.isEmpty { breakLine(&result, depth) }
            result.append(UInt8(ascii: "]"))
        case .object(let object):
            result.append(UInt8(ascii: "{"))
            for (index, key) in (order == .sorted ? object.keys.sorted() : object.keys).enumerated() {
                if index > 0 { result.append(UInt8(ascii: ",")) }
                breakLine(&result, depth + 1)
                result.appendJSON(key)
                result.append(UInt8(ascii: ":"))
                if indent > 0 { result.append(0x20) }
                (object[key] ?? .null).append(to: &result, order, indent, depth: depth + 1)
            }
            if object.count > 0 { breakLine(&result, depth) }
            result.append(UInt8(ascii: "}"))
        }
    }
}
