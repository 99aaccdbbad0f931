import HSSLFormats
import Yams

/// A value of a recipe, as it is written.
extension Recipe {
    package enum Field: Equatable, Sendable {
        case text(String), quoted(String), integer(Int), unsigned(UInt64), number(Double), numbers([Double]), flag(Bool)

        package var yaml: String {
            switch self {
            case .text(let value): value
            // A JSON string is a YAML scalar in double quotes.
            case .quoted(let value): JSONValue.string(value).text()
            case .integer(let value): "\(value)"
            case .unsigned(let value): "\(value)"
            case .number(let value): Field.yaml(value)
            case .numbers(let values): "[\(values.map(Field.yaml).joined(separator: ", "))]"
            case .flag(let value): value ? "true" : "false"
            }
        }

        /// Shortest decimal that reads back equal. YAML 1.1 readers take `1e-06` for text, `1.0e-06` for a number.
        private static func yaml(_ value: Double) -> String {
            let text = "\(value)"
            guard let e = text.firstIndex(of: "e"), !text.contains(".") else { return text }
            return text[..<e] + ".0" + text[e...]
        }
    }
}

/// A value, or why the text is none: the rest of a sentence that begins with the key.
enum Reading<Value> { case success(Value), failure(String) }

/// From YAML nodes to typed values in range.
enum RecipeValue {
    static func integer(_ node: Node, in range: ClosedRange<Int>) -> Reading<Int> {
        guard let text = plainText(node), isNumeral(text) else { return .failure("must be an integer") }
        // Int("…") fails on overflow too: the range says the rest.
        guard let number = Int(text) else {
            return .failure(text.allSatisfy { $0.isNumber || $0 == "-" || $0 == "+" }
                ? outside(range, text) : "must be an integer, not \(text)")
        }
        return range.contains(number) ? .success(number) : .failure(outside(range, text))
    }

    static func unsigned(_ node: Node) -> Reading<UInt64> {
        guard let text = plainText(node), let number = UInt64(text) else {
            return .failure("must be an integer from 0 to \(UInt64.max)")
        }
        return .success(number)
    }

    static func number(_ node: Node, in range: Bounds) -> Reading<Double> {
        guard let text = plainText(node), isNumeral(text), let number = Double(text) else {
            return .failure("must be a number")
        }
        return range.contains(number) ? .success(number) : .failure("must be \(range), not \(text)")
    }

    /// A list of numbers, each in `range`.
    static func numbers(_ node: Node, count: ClosedRange<Int>, in range: Bounds) -> Reading<[Double]> {
        guard case .sequence(let items) = node, count.contains(items.count) else {
            return .failure("must be a list of \(text(of: count)) numbers")
        }
        var result: [Double] = []
        for item in items {
            switch number(item, in: range) {
            case .success(let number): result.append(number)
            case .failure(let reason): return .failure("each number \(reason)")
            }
        }
        return .success(result)
    }

    static func flag(_ node: Node) -> Reading<Bool> {
        switch plainText(node) {
        case "true": .success(true)
        case "false": .success(false)
        default: .failure("must be true or false")
        }
    }

    /// Any text on one line, in quotes or without.
    static func text(_ node: Node) -> Reading<String> {
        guard case .scalar(let scalar) = node, !scalar.string.isEmpty,
            !scalar.string.unicodeScalars.contains(where: { $0.properties.generalCategory == .control })
        else { return .failure("must be text on one line") }
        return .success(scalar.string)
    }

    static func choice(_ node: Node, of choices: [String]) -> Reading<String> {
        let known = "must be one of \(choices.joined(separator: ", "))"
        guard case .scalar(let scalar) = node else { return .failure(known) }
        guard choices.contains(scalar.string) else {
            let hint = NearestName.of(scalar.string, in: choices).map { "; did you mean \($0)?" } ?? ""
            return .failure("\(known), not \(printable(scalar.string))\(hint)")
        }
        return .success(scalar.string)
    }

    /// Whether a node says that there is no value.
    static func isNull(_ node: Node) -> Bool { ["null", "~"].contains(plainText(node)) }

    /// `3`, or `1 to 16`.
    static func text(of count: ClosedRange<Int>) -> String {
        count.lowerBound == count.upperBound ? "\(count.lowerBound)" : "\(count.lowerBound) to \(count.upperBound)"
    }

    /// User text for an error line: short and free of control characters.
    static func printable(_ text: String) -> String {
        let clean = String(text.unicodeScalars.prefix(60).map {
            $0.properties.generalCategory == .control ? "?" : Character($0)
        })
        return clean.isEmpty ? "nothing" : clean
    }

    private static func outside(_ range: ClosedRange<Int>, _ text: String) -> String {
        "must be from \(range.lowerBound) to \(range.upperBound), not \(text)"
    }

    /// The text of an unquoted scalar.
    private static func plainText(_ node: Node) -> String? {
        guard case .scalar(let scalar) = node, scalar.style == .plain || scalar.style == .any else { return nil }
        return scalar.string
    }

    /// Decimal numerals only: `Double("…")` alone would take `inf`, `nan` and hexadecimal.
    private static func isNumeral(_ text: String) -> Bool {
        let digits = UInt8(ascii: "0")...UInt8(ascii: "9")
        return text.utf8.count <= 64 && text.utf8.contains { digits.contains($0) }
            && text.utf8.allSatisfy { digits.contains($0) || "+-.eE".utf8.contains($0) }
    }
}

/// The numbers that a key takes; either end may be excluded.
struct Bounds: CustomStringConvertible {
    let lowest: Double
    let highest: Double
    var excludesLowest = false
    var excludesHighest = false

    static let probability = Bounds(lowest: 0, highest: 1)
    static let fraction = Bounds(lowest: 0, highest: 1, excludesHighest: true)
    static func positive(upTo highest: Double) -> Bounds { Bounds(lowest: 0, highest: highest, excludesLowest: true) }
    static func from(_ lowest: Double, to highest: Double) -> Bounds { Bounds(lowest: lowest, highest: highest) }

    func contains(_ value: Double) -> Bool {
        value.isFinite && (excludesLowest ? value > lowest : value >= lowest)
            && (excludesHighest ? value < highest : value <= highest)
    }

    var description: String {
        "\(excludesLowest ? "above" : "at least") \(Bounds.short(lowest)) and "
            + "\(excludesHighest ? "below" : "at most") \(Bounds.short(highest))"
    }

    private static func short(_ value: Double) -> String {
        Int(exactly: value).map(String.init) ?? "\(value)"
    }
}
