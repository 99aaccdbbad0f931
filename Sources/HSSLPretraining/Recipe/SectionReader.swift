import Yams

/// Reads one section of a recipe: typed values with ranges. Faults are collected rather than thrown at once, so that a misspelt key
/// is reported (with the right spelling) instead of the missing value that it causes.
struct SectionReader {
    let section: String
    private let file: String
    private let nodes: [String: Node]
    private let overrides: [String: Node]
    private(set) var known: [String] = []
    private(set) var faults: [RecipeError] = []

    /// - Parameters:
    ///   - mapping: the section's node; nil when the file has none.
    ///   - overrides: values of `--set section.key=value`; they win.
    init(section: String, file: String, mapping: Node?, overrides: [String: Node]) {
        self.section = section
        self.file = file
        self.overrides = overrides
        var nodes: [String: Node] = [:]
        if let mapping {
            if case .mapping(let pairs) = mapping {
                for (key, value) in pairs {
                    guard case .scalar(let name) = key else {
                        faults.append(RecipeError(place: SectionReader.place(file, key), reason: "\(section): a key must be a plain word"))
                        continue
                    }
                    nodes[name.string] = value
                }
            } else {
                faults.append(RecipeError(place: SectionReader.place(file, mapping), reason: "\(section) must be a mapping of keys to values"))
            }
        }
        self.nodes = nodes
    }

    static func place(_ file: String, _ node: Node) -> String {
        node.mark.map { "\(file):\($0.line)" } ?? file
    }

    /// Keys present in the file or set on the command line but never asked for, with the place of each.
    var unknown: [(key: String, place: String)] {
        let names = Set(known)
        let fromFile = nodes.filter { !names.contains($0.key) }.map { (key: $0.key, place: SectionReader.place(file, $0.value)) }
        let fromFlags = overrides.keys.filter { !names.contains($0) }.map { (key: $0, place: "--set \(section).\($0)") }
        return fromFlags.sorted { $0.key < $1.key } + fromFile.sorted { $0.key < $1.key }
    }

    // MARK: values

    mutating func integer(_ key: String, default fallback: Int?, in range: ClosedRange<Int>) -> Int {
        value(key, fallback: fallback, placeholder: range.lowerBound) { node in
            guard let text = SectionReader.plainText(node), SectionReader.isNumeral(text) else { return .failure("must be an integer") }
            // Int("…") fails on overflow too: the range says the rest.
            guard let number = Int(text) else {
                return .failure(text.allSatisfy { $0.isNumber || $0 == "-" || $0 == "+" }
                    ? SectionReader.outside(range, text) : "must be an integer, not \(text)")
            }
            return range.contains(number) ? .success(number) : .failure(SectionReader.outside(range, text))
        }
    }

    mutating func unsigned(_ key: String, default fallback: UInt64) -> UInt64 {
        value(key, fallback: fallback, placeholder: 0) { node in
            guard let text = SectionReader.plainText(node), let number = UInt64(text) else {
                return .failure("must be an integer from 0 to \(UInt64.max)")
            }
            return .success(number)
        }
    }

    mutating func number(_ key: String, default fallback: Double?, in range: Bounds) -> Double {
        value(key, fallback: fallback, placeholder: range.lowest) { SectionReader.number($0, in: range) }
    }

    /// A list of numbers, each in `range`.
    mutating func numbers(_ key: String, default fallback: [Double], count: ClosedRange<Int>, in range: Bounds) -> [Double] {
        let wanted = count.lowerBound == count.upperBound ? "\(count.lowerBound)" : "\(count.lowerBound) to \(count.upperBound)"
        return value(key, fallback: fallback, placeholder: fallback) { node in
            guard case .sequence(let items) = node, count.contains(items.count) else { return .failure("must be a list of \(wanted) numbers") }
            var result: [Double] = []
            for item in items {
                switch SectionReader.number(item, in: range) {
                case .success(let number): result.append(number)
                case .failure(let reason): return .failure("each number \(reason)")
                }
            }
            return .success(result)
        }
    }

    /// Two numbers, the first not above the second.
    mutating func interval(_ key: String, default fallback: [Double], in range: Bounds) -> [Double] {
        let pair = numbers(key, default: fallback, count: 2...2, in: range)
        if pair[0] > pair[1] { fault(key, "must be [smallest, largest], not [\(pair[0]), \(pair[1])]") }
        return pair
    }

    mutating func flag(_ key: String, default fallback: Bool) -> Bool {
        value(key, fallback: fallback, placeholder: fallback) { node in
            switch SectionReader.plainText(node) {
            case "true": .success(true)
            case "false": .success(false)
            default: .failure("must be true or false")
            }
        }
    }

    mutating func choice(_ key: String, default fallback: String?, of choices: [String]) -> String {
        value(key, fallback: fallback, placeholder: choices.first ?? "") { node in
            guard case .scalar(let scalar) = node else { return .failure("must be one of \(choices.joined(separator: ", "))") }
            guard choices.contains(scalar.string) else {
                let hint = NearestName.of(scalar.string, in: choices).map { "; did you mean \($0)?" } ?? ""
                return .failure("must be one of \(choices.joined(separator: ", ")), not \(SectionReader.printable(scalar.string))\(hint)")
            }
            return .success(scalar.string)
        }
    }

    mutating func choice<Choice: RawRepresentable & CaseIterable>(_ key: String, default fallback: Choice) -> Choice
    where Choice.RawValue == String {
        let name = choice(key, default: fallback.rawValue, of: Choice.allCases.map(\.rawValue))
        return Choice(rawValue: name) ?? fallback
    }

    // MARK: faults

    /// Records a fault of `key` that involves more than its own value.
    mutating func fault(_ key: String, _ reason: String) {
        let place = overrides[key].map { _ in "--set \(section).\(key)" } ?? nodes[key].map { SectionReader.place(file, $0) } ?? file
        // In a `--set` the place names the key already.
        faults.append(RecipeError(place: place, reason: overrides[key] == nil ? "\(section).\(key) \(reason)" : reason))
    }

    private enum Outcome<Value> { case success(Value), failure(String) }

    private mutating func value<Value>(_ key: String, fallback: Value?, placeholder: Value, convert: (Node) -> Outcome<Value>) -> Value {
        known.append(key)
        guard let node = overrides[key] ?? nodes[key] else {
            if let fallback { return fallback }
            fault(key, "is missing")
            return placeholder
        }
        switch convert(node) {
        case .success(let value): return value
        case .failure(let reason):
            fault(key, reason)
            return fallback ?? placeholder
        }
    }

    private static func number(_ node: Node, in range: Bounds) -> Outcome<Double> {
        guard let text = plainText(node), isNumeral(text), let number = Double(text) else { return .failure("must be a number") }
        return range.contains(number) ? .success(number) : .failure("must be \(range), not \(text)")
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
        text.utf8.count <= 64 && text.utf8.contains { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
            && text.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) || "+-.eE".utf8.contains($0) }
    }

    /// User text for an error line: short and free of control characters.
    static func printable(_ text: String) -> String {
        let clean = String(text.unicodeScalars.prefix(60).map { $0.properties.generalCategory == .control ? "?" : Character($0) })
        return clean.isEmpty ? "nothing" : clean
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
        value.isFinite && (excludesLowest ? value > lowest : value >= lowest) && (excludesHighest ? value < highest : value <= highest)
    }

    var description: String {
        "\(excludesLowest ? "above" : "at least") \(Bounds.short(lowest)) and \(excludesHighest ? "below" : "at most") \(Bounds.short(highest))"
    }

    private static func short(_ value: Double) -> String {
        Int(exactly: value).map(String.init) ?? "\(value)"
    }
}

/// Finds the name that a user probably meant.
enum NearestName {
    /// The candidate of least edit distance, if it is close enough to be a misspelling (a third of its length, at least 2 edits).
    static func of(_ name: String, in candidates: [String]) -> String? {
        let scored = candidates.map { (name: $0, distance: distance(name, $0)) }
        guard let best = scored.min(by: { ($0.distance, $0.name) < ($1.distance, $1.name) }) else { return nil }
        return best.distance <= max(2, best.name.utf8.count / 3) ? best.name : nil
    }

    /// Levenshtein distance of the first 64 bytes.
    static func distance(_ a: String, _ b: String) -> Int {
        let a = Array(a.utf8.prefix(64)), b = Array(b.utf8.prefix(64))
        var row = Array(0...b.count)
        for i in a.indices {
            var diagonal = row[0]
            row[0] = i + 1
            for j in b.indices {
                let substituted = diagonal + (a[i] == b[j] ? 0 : 1)
                diagonal = row[j + 1]
                row[j + 1] = min(substituted, diagonal + 1, row[j] + 1)
            }
        }
        return row[b.count]
    }
}
