/// Strict RFC 8259: UTF-8 only, unique keys, nothing after the value, bounded depth and size. Nesting is kept on a heap
/// stack, so no input exhausts the thread's stack.
extension JSONValue {
    package static let depthLimit = 64
    package static let byteLimit = 64 << 20

    package static func parse(
        _ text: String, depthLimit: Int = depthLimit, byteLimit: Int = byteLimit
    ) throws(JSONError) -> JSONValue {
        try parse(bytes: Array(text.utf8), depthLimit: depthLimit, byteLimit: byteLimit)
    }

    /// Keys that Unicode holds equal (composed and decomposed) count as duplicates.
    package static func parse(
        bytes: [UInt8], depthLimit: Int = depthLimit, byteLimit: Int = byteLimit
    ) throws(JSONError) -> JSONValue {
        if bytes.count > byteLimit {
            throw JSONError("\(bytes.count) bytes of JSON are more than the limit of \(byteLimit)")
        }
        // The scanner unescapes in place, hence the copy.
        let copy = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: bytes.count + 1)
        defer { copy.deallocate() }
        guard let base = copy.baseAddress else { throw JSONError("out of memory") }
        _ = copy.initialize(from: bytes)
        base[bytes.count] = 0
        var parser = JSONParser(scanner: JSONScanner(base, count: bytes.count), depthLimit: depthLimit)
        return try parser.parse()
    }
}

private struct JSONParser {
    /// A container that is still open: an object when it has a key (that of the value to come), else an array. One
    /// growing collection each, changed in place: an enum with payloads would copy them at every element.
    private struct Container {
        var elements: [JSONValue] = []
        var object = JSONObject()
        var key: String?
    }

    var scanner: JSONScanner
    let depthLimit: Int
    private var open: [Container] = []

    init(scanner: JSONScanner, depthLimit: Int) {
        self.scanner = scanner
        self.depthLimit = depthLimit
    }

    mutating func parse() throws(JSONError) -> JSONValue {
        while true {
            // One value, or the opening of a container, whose first element then comes next.
            guard var value = try scanValue() else { continue }
            // The value closes every container that ends right after it.
            closing: while true {
                let last = open.count - 1
                if last < 0 {
                    scanner.skipWhitespace()
                    if scanner.position < scanner.end { throw JSONError("text after the value", at: scanner.position) }
                    return value
                }
                if let key = open[last].key {
                    open[last].object[key] = value
                    if scanner.take(UInt8(ascii: ",")) {
                        open[last].key = try scanKey()
                        break closing
                    }
                    try scanner.expect(UInt8(ascii: "}"))
                    value = .object(open.removeLast().object)
                } else {
                    open[last].elements.append(value)
                    if scanner.take(UInt8(ascii: ",")) { break closing }
                    try scanner.expect(UInt8(ascii: "]"))
                    value = .array(open.removeLast().elements)
                }
            }
        }
    }

    /// A scalar or an empty container; nil if a container was opened.
    private mutating func scanValue() throws(JSONError) -> JSONValue? {
        scanner.skipWhitespace()
        switch scanner.next {
        case UInt8(ascii: "{"):
            try checkDepth()
            scanner.position += 1
            if scanner.take(UInt8(ascii: "}")) { return .object(JSONObject()) }
            open.append(Container())
            open[open.count - 1].key = try scanKey()
            return nil
        case UInt8(ascii: "["):
            try checkDepth()
            scanner.position += 1
            if scanner.take(UInt8(ascii: "]")) { return .array([]) }
            open.append(Container())
            return nil
        case UInt8(ascii: "\""): return .string(scanner.text(try scanner.scanString()))
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return try scanNumber()
        case UInt8(ascii: "t"): return try scanWord("true", .bool(true))
        case UInt8(ascii: "f"): return try scanWord("false", .bool(false))
        case UInt8(ascii: "n"): return try scanWord("null", .null)
        default: throw scanner.unexpected("a value")
        }
    }

    private func checkDepth() throws(JSONError) {
        if open.count >= depthLimit { throw JSONError("nested deeper than \(depthLimit)", at: scanner.position) }
    }

    /// The next key of the innermost object, and the colon.
    private mutating func scanKey() throws(JSONError) -> String {
        scanner.skipWhitespace()
        let start = scanner.position
        let key = scanner.text(try scanner.scanString())
        if open[open.count - 1].object[key] != nil { throw JSONError("duplicate key '\(oneLine(key))'", at: start) }
        try scanner.expect(UInt8(ascii: ":"))
        return key
    }

    private mutating func scanWord(_ word: StaticString, _ value: JSONValue) throws(JSONError) -> JSONValue {
        let range = scanner.position..<scanner.position + word.utf8CodeUnitCount
        guard range.upperBound <= scanner.end, scanner.equals(range, word) else { throw scanner.unexpected("a value") }
        scanner.position = range.upperBound
        return value
    }

    private mutating func scanNumber() throws(JSONError) -> JSONValue {
        let start = scanner.position
        var isInteger = true
        if scanner.next == UInt8(ascii: "-") { scanner.position += 1 }
        let firstDigit = scanner.position
        try scanDigits()
        if scanner.base[firstDigit] == UInt8(ascii: "0"), scanner.position > firstDigit + 1 {
            throw JSONError("a number with a leading zero", at: start)
        }
        if scanner.next == UInt8(ascii: ".") {
            isInteger = false
            scanner.position += 1
            try scanDigits()
        }
        if scanner.next | 0x20 == UInt8(ascii: "e") {
            isInteger = false
            scanner.position += 1
            if scanner.next == UInt8(ascii: "+") || scanner.next == UInt8(ascii: "-") { scanner.position += 1 }
            try scanDigits()
        }
        let text = scanner.text(start..<scanner.position)
        // "-0" is the float: Int has no negative zero.
        if isInteger, text != "-0", let integer = Int(text) { return .integer(integer) }
        guard let number = Double(text), number.isFinite else { throw JSONError("a number beyond float64", at: start) }
        return .number(number)
    }

    private mutating func scanDigits() throws(JSONError) {
        let start = scanner.position
        while scanner.position < scanner.end, scanner.next &- 0x30 < 10 { scanner.position += 1 }
        if scanner.position == start { throw scanner.unexpected("a digit") }
    }
}
