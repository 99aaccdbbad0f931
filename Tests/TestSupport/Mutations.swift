/// Texts near a valid one, as a parser meets them where a file was edited by hand, cut short or made to harm.
///
/// The same seed gives the same texts; bytes need not stay UTF-8.
public struct Mutations: Sequence, IteratorProtocol {
    /// What parsers of numbers, lists and words trip over.
    private static let tokens = [
        "-1", "0", "1", "-0", "1e308", "1e-320", "9223372036854775807", "9223372036854775808",
        "18446744073709551616",
        "4294967296", "0x7f", "nan", ".inf", "-.inf", "true", "null", "~", "[]", "{}", "[", "]", "{", "}", ",", ":",
        "\"", "'", "\\u0000", "\\ud800", "\n", "\r\n", "\t", "  ", "#", "- ", "&a ", "*a", "<<: ", "!!int ", "|",
        "\u{FEFF}", "\u{E9}", "e\u{301}", "\u{202E}", "[[[[[[[[", "0.1, 0.2", "custom",
    ].map { Array($0.utf8) }

    private let texts: [[UInt8]]
    private var state: UInt64

    public init(of texts: [String], seed: UInt64) {
        self.texts = texts.map { Array($0.utf8) }
        state = seed
    }

    public mutating func next() -> [UInt8]? {
        guard !texts.isEmpty else { return nil }
        var bytes = texts[below(texts.count)]
        for _ in 0...below(4) { change(&bytes) }
        return bytes
    }

    private mutating func change(_ bytes: inout [UInt8]) {
        let place = below(bytes.count + 1), end = Swift.min(bytes.count, place + below(24))
        switch below(6) {
        case 0: bytes.replaceSubrange(place..<end, with: Self.tokens[below(Self.tokens.count)])
        case 1: bytes.insert(contentsOf: Self.tokens[below(Self.tokens.count)], at: place)
        case 2: bytes.removeSubrange(place..<end)
        case 3: bytes.insert(contentsOf: bytes[place..<end], at: below(bytes.count + 1))
        case 4 where place < bytes.count: bytes[place] = UInt8(below(256))
        default:
            let other = texts[below(texts.count)], start = below(other.count + 1)
            bytes.replaceSubrange(place..<end, with: other[start..<Swift.min(other.count, start + below(80))])
        }
    }

    /// 0 ..< bound, by SplitMix64.
    private mutating func below(_ bound: Int) -> Int {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
        return Int((value ^ value >> 31) % UInt64(bound))
    }
}
