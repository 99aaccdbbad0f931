import HSSLFormats
import Yams

/// One key of a recipe: its name, what it takes, its default and its meaning for files without it.
///
/// The declaration in a section's list of keys is the only place that knows a key. Parsing, canonical YAML, the
/// listing of `hssl recipe`, hints for misspelt names and the comparison of recipes at `--resume` all follow from it.
/// The default is the initial value of the property.
struct RecipeKey {
    let name: String
    /// A sentence for a user.
    let help: String
    /// What the key takes, for the listing.
    let values: String
    /// Nil: the key is required.
    let defaultText: String?
    /// Stores a value, or says what is wrong with it.
    let read: (Node, inout Recipe) -> String?
    /// What a recipe says under this key; nil: the key is absent.
    let field: (Recipe) -> Recipe.Field?
    /// What a *stored* recipe (of a checkpoint) without this key meant, where that is not the default: the key is
    /// younger than the file.
    let assumeAbsent: ((inout Recipe) -> Void)?
    /// What is wrong with the value beside those of other keys.
    private(set) var check: (Recipe) -> String? = { _ in nil }
    /// What two recipes are compared by when a run goes on.
    private(set) var meaning: (Recipe) -> Recipe.Field?

    var isRequired: Bool { defaultText == nil }

    typealias Path<Value> = WritableKeyPath<Recipe, Value>

    private init<Value>(
        _ name: String, _ path: Path<Value>, _ help: String, values: String, required: Bool = false,
        defaultText: String? = nil, absentMeans: Value? = nil,
        convert: @escaping (Node) -> Reading<Value>, field: @escaping (Value) -> Recipe.Field?
    ) {
        self.name = name
        self.help = help
        self.values = values
        self.defaultText = required ? nil : defaultText ?? field(Recipe()[keyPath: path])?.yaml ?? ""
        self.field = { field($0[keyPath: path]) }
        meaning = self.field
        assumeAbsent = absentMeans.map { value in { $0[keyPath: path] = value } }
        read = { node, recipe in
            switch convert(node) {
            case .success(let value):
                recipe[keyPath: path] = value
                return nil
            case .failure(let reason): return reason
            }
        }
    }

    /// Adds a condition that involves other keys. It is looked at once every value is in range.
    func checked(_ check: @escaping (Recipe) -> String?) -> RecipeKey {
        var key = self
        key.check = check
        return key
    }

    /// Says what a value amounts to, where two values can mean the same.
    func meaning(_ meaning: @escaping (Recipe) -> Recipe.Field?) -> RecipeKey {
        var key = self
        key.meaning = meaning
        return key
    }
}

// MARK: kinds

extension RecipeKey {
    static func integer(
        _ name: String, _ path: Path<Int>, in range: ClosedRange<Int>, required: Bool = false,
        absentMeans: Int? = nil, _ help: String
    ) -> RecipeKey {
        RecipeKey(name, path, help, values: "integer from \(range.lowerBound) to \(range.upperBound)",
                  required: required, absentMeans: absentMeans,
                  convert: { RecipeValue.integer($0, in: range) }, field: { .integer($0) })
    }

    /// An integer that may be absent: `otherwise` says what happens then.
    static func integer(
        _ name: String, _ path: Path<Int?>, in range: ClosedRange<Int>, otherwise: String, _ help: String
    ) -> RecipeKey {
        let values = "integer from \(range.lowerBound) to \(range.upperBound)"
        return RecipeKey(name, path, help, values: values, defaultText: otherwise, convert: { node in
            switch RecipeValue.integer(node, in: range) {
            case .success(let value): .success(value)
            case .failure(let reason): .failure(reason)
            }
        }, field: { $0.map { .integer($0) } })
    }

    static func unsigned(
        _ name: String, _ path: Path<UInt64>, absentMeans: UInt64? = nil, _ help: String
    ) -> RecipeKey {
        RecipeKey(name, path, help, values: "integer from 0 to \(UInt64.max)", absentMeans: absentMeans,
                  convert: { RecipeValue.unsigned($0) }, field: { .unsigned($0) })
    }

    static func number(
        _ name: String, _ path: Path<Double>, in range: Bounds, absentMeans: Double? = nil, _ help: String
    ) -> RecipeKey {
        RecipeKey(name, path, help, values: "number \(range)", absentMeans: absentMeans,
                  convert: { RecipeValue.number($0, in: range) }, field: { .number($0) })
    }

    /// A number that may be absent: `otherwise` says what happens then.
    static func number(
        _ name: String, _ path: Path<Double?>, in range: Bounds, otherwise: String, _ help: String
    ) -> RecipeKey {
        RecipeKey(name, path, help, values: "number \(range)", defaultText: otherwise, convert: { node in
            switch RecipeValue.number(node, in: range) {
            case .success(let value): .success(value)
            case .failure(let reason): .failure(reason)
            }
        }, field: { $0.map { .number($0) } })
    }

    /// A number that is mostly whole, and written as an integer then: builds before took nothing else.
    static func count(_ name: String, _ path: Path<Double>, in range: Bounds, _ help: String) -> RecipeKey {
        RecipeKey(name, path, help, values: "number \(range)", convert: { RecipeValue.number($0, in: range) },
                  field: { value in Int(exactly: value).map { .integer($0) } ?? .number(value) })
    }

    static func numbers(
        _ name: String, _ path: Path<[Double]>, count: ClosedRange<Int>, in range: Bounds,
        absentMeans: [Double]? = nil, _ help: String
    ) -> RecipeKey {
        RecipeKey(name, path, help, values: "list of \(RecipeValue.text(of: count)) numbers, each \(range)",
                  absentMeans: absentMeans,
                  convert: { RecipeValue.numbers($0, count: count, in: range) }, field: { .numbers($0) })
    }

    /// Two numbers, the first not above the second.
    static func interval(
        _ name: String, _ path: Path<[Double]>, in range: Bounds, absentMeans: [Double]? = nil, _ help: String
    ) -> RecipeKey {
        let values = "[smallest, largest], each \(range)"
        return RecipeKey(name, path, help, values: values, absentMeans: absentMeans, convert: { node in
            let pair = RecipeValue.numbers(node, count: 2...2, in: range)
            if case .success(let ends) = pair, ends[0] > ends[1] {
                return .failure("must be [smallest, largest], not [\(ends[0]), \(ends[1])]")
            }
            return pair
        }, field: { .numbers($0) })
    }

    static func flag(_ name: String, _ path: Path<Bool>, absentMeans: Bool? = nil, _ help: String) -> RecipeKey {
        RecipeKey(name, path, help, values: "true or false", absentMeans: absentMeans,
                  convert: { RecipeValue.flag($0) }, field: { .flag($0) })
    }

    /// Text that may be absent.
    static func text(
        _ name: String, _ path: Path<String?>, values: String, otherwise: String, _ help: String
    ) -> RecipeKey {
        RecipeKey(name, path, help, values: values, defaultText: otherwise, convert: { node in
            switch RecipeValue.text(node) {
            case .success(let text): .success(text)
            case .failure(let reason): .failure(reason)
            }
        }, field: { $0.map { .quoted($0) } })
    }

    static func choice(
        _ name: String, _ path: Path<String>, of choices: [String], required: Bool = false,
        absentMeans: String? = nil, _ help: String
    ) -> RecipeKey {
        RecipeKey(name, path, help, values: "one of \(choices.joined(separator: ", "))",
                  required: required, absentMeans: absentMeans,
                  convert: { RecipeValue.choice($0, of: choices) }, field: { .text($0) })
    }

    /// A recipe of the color `unsaid` does not have the key, so that it is written as before there was one.
    static func color(_ name: String, _ path: Path<RGBColor>, unsaid: RGBColor, _ help: String) -> RecipeKey {
        let values = "black, white or RRGGBB"
        return RecipeKey(name, path, help, values: values, defaultText: "\(unsaid)", convert: { node in
            switch RecipeValue.text(node) {
            case .success(let text): RGBColor(text).map { .success($0) } ?? .failure("must be \(values)")
            case .failure: .failure("must be \(values)")
            }
        }, field: { $0 == unsaid ? nil : .text("\($0)") })
    }

    static func choice<Choice: RawRepresentable & CaseIterable>(
        _ name: String, _ path: Path<Choice>, absentMeans: Choice? = nil, _ help: String
    ) -> RecipeKey where Choice.RawValue == String {
        let choices = Choice.allCases.map(\.rawValue)
        let values = "one of \(choices.joined(separator: ", "))"
        return RecipeKey(name, path, help, values: values, absentMeans: absentMeans, convert: { node in
            switch RecipeValue.choice(node, of: choices) {
            case .success(let text): Choice(rawValue: text).map { .success($0) } ?? .failure("must be \(values)")
            case .failure(let reason): .failure(reason)
            }
        }, field: { .text($0.rawValue) })
    }
}

/// A section of a recipe.
struct RecipeSection {
    let name: String
    /// A phrase for a user.
    let help: String
    /// Whether the weights of a run depend on it: if so, `--resume` refuses other values.
    var decidesWeights = true
    let keys: [RecipeKey]
}

// MARK: keys that only some choices have

/// One value of a selecting key (an objective, a head family) and the keys that it reads, as `section.key`.
///
/// A key in the list of no variant is read whatever is chosen. A new objective or family is one of these, besides
/// properties and declarations of keys that no other has.
struct RecipeVariant: Sendable {
    let name: String
    /// A phrase for a user.
    let help: String
    let keys: [String]
    /// Keys of other variants are passed over in silence rather than refused.
    var ignoresOthers = false
    /// What the values of keys are where this is chosen and they are left out, if not those of `Recipe()`.
    var defaults: @Sendable (inout Recipe) -> Void = { _ in }
    /// What of them is otherwise for images of at most `Recipe.smallImage` pixels.
    var smallDefaults: @Sendable (inout Recipe) -> Void = { _ in }
}

/// The key that chooses among variants.
struct RecipeSelector {
    let path: String
    let chosen: KeyPath<Recipe, String>
    /// "family", "families".
    let noun: (one: String, many: String)
    let variants: [RecipeVariant]

    /// The chosen variant, if others know `key` and it does not.
    func stranger(to key: String, in recipe: Recipe) -> RecipeVariant? {
        guard let chosen = variants.first(where: { $0.name == recipe[keyPath: chosen] }), !chosen.keys.contains(key),
              variants.contains(where: { $0.keys.contains(key) }) else { return nil }
        return chosen
    }

    /// Names of the variants that know `key`; empty: it is everybody's.
    func users(of key: String) -> [String] { variants.filter { $0.keys.contains(key) }.map(\.name) }

    /// Why a key is refused, after its name.
    ///
    /// - Parameter isOverridden: the choice came from a `--set`, so that the key stands in a file that was written
    ///   for another.
    func refusal(of key: String, by chosen: RecipeVariant, isOverridden: Bool) -> String {
        let users = users(of: key)
        let others = "\(users.count == 1 ? noun.one : noun.many) \(users.joined(separator: ", "))"
        let hint = isOverridden ? "; --set \(key)=null takes it out" : ""
        return "is not known to \(noun.one) \(chosen.name), only to \(others)\(hint)"
    }
}
