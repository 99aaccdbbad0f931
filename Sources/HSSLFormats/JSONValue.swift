/// A JSON document. Integers that fit Int are kept exact; every other number is a Double.
package enum JSONValue: Equatable, Sendable {
    case null
    case bool(Bool)
    case integer(Int)
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object(JSONObject)

    /// The type's name as errors use it.
    var kind: String {
        switch self {
        case .null: "null"
        case .bool: "a boolean"
        case .integer: "an integer"
        case .number: "a number"
        case .string: "a string"
        case .array: "an array"
        case .object: "an object"
        }
    }
}

/// The members of a JSON object in their order; keys are unique. Equal objects may differ in order.
package struct JSONObject: Sendable, ExpressibleByDictionaryLiteral {
    package private(set) var keys: [String] = []
    private var values: [String: JSONValue] = [:]

    package init() {}

    /// A key that is given twice keeps its first place and its last value.
    package init(dictionaryLiteral elements: (String, JSONValue)...) {
        for (key, value) in elements { self[key] = value }
    }

    package var count: Int { keys.count }

    /// A new key goes to the end; nil removes.
    package subscript(key: String) -> JSONValue? {
        get { values[key] }
        set {
            let known = values[key] != nil
            values[key] = newValue
            if newValue == nil {
                if known { keys.removeAll { $0 == key } }
            } else if !known {
                keys.append(key)
            }
        }
    }
}

extension JSONObject: Equatable {
    package static func == (a: JSONObject, b: JSONObject) -> Bool { a.values == b.values }
}

extension JSONValue: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral,
    ExpressibleByBooleanLiteral,
    ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
    package init(stringLiteral value: String) { self = .string(value) }
    package init(integerLiteral value: Int) { self = .integer(value) }
    package init(floatLiteral value: Double) { self = .number(value) }
    package init(booleanLiteral value: Bool) { self = .bool(value) }
    package init(arrayLiteral elements: JSONValue...) { self = .array(elements) }
    package init(dictionaryLiteral elements: (String, JSONValue)...) {
        var object = JSONObject()
        for (key, value) in elements { object[key] = value }
        self = .object(object)
    }
}

// MARK: Reading typed fields

/// Accessors for decoding a configuration. `context` is what the object is called in errors: "hssl.architecture:
/// 'depth' is missing".
extension JSONValue {
    /// The member `key`, or nil if it is absent or null.
    package func member(_ key: String, in context: String) throws(JSONError) -> JSONValue? {
        guard case .object(let object) = self else { throw JSONError("\(context): expected an object, found \(kind)") }
        let value = object[key]
        return value == .null ? nil : value
    }

    package func value(_ key: String, in context: String) throws(JSONError) -> JSONValue {
        guard let value = try member(key, in: context) else { throw JSONError("\(context): '\(key)' is missing") }
        return value
    }

    package func string(_ key: String, in context: String) throws(JSONError) -> String {
        let found = try value(key, in: context)
        guard case .string(let string) = found else { throw Self.mismatch(key, context, "a string", found) }
        return string
    }

    /// A string that names a case.
    package func choice<Choice: RawRepresentable & CaseIterable>(
        _ key: String, in context: String
    ) throws(JSONError) -> Choice where Choice.RawValue == String {
        let name = try string(key, in: context)
        guard let choice = Choice(rawValue: name) else {
            let known = Choice.allCases.map(\.rawValue).joined(separator: ", ")
            throw JSONError("\(context): unknown \(key) '\(oneLine(name))' (known: \(known))")
        }
        return choice
    }

    package func bool(_ key: String, in context: String) throws(JSONError) -> Bool {
        let found = try value(key, in: context)
        guard case .bool(let bool) = found else { throw Self.mismatch(key, context, "a boolean", found) }
        return bool
    }

    /// An integer within `range`.
    package func integer(
        _ key: String, in context: String, range: ClosedRange<Int> = .min ... .max
    ) throws(JSONError) -> Int {
        let found = try value(key, in: context)
        guard case .integer(let integer) = found else { throw Self.mismatch(key, context, "an integer", found) }
        guard range.contains(integer) else {
            throw JSONError("\(context): '\(key)' is \(integer), expected \(range.lowerBound) to \(range.upperBound)")
        }
        return integer
    }

    /// A number, written with or without a fraction.
    package func number(_ key: String, in context: String) throws(JSONError) -> Double {
        let found = try value(key, in: context)
        guard let number = found.asNumber else { throw Self.mismatch(key, context, "a number", found) }
        return number
    }

    package func numbers(_ key: String, in context: String) throws(JSONError) -> [Double] {
        try elements(key, in: context, "numbers", \.asNumber)
    }

    package func integers(_ key: String, in context: String) throws(JSONError) -> [Int] {
        try elements(key, in: context, "integers", \.asInteger)
    }

    package func strings(_ key: String, in context: String) throws(JSONError) -> [String] {
        try elements(key, in: context, "strings", \.asString)
    }

    package func array(_ key: String, in context: String) throws(JSONError) -> [JSONValue] {
        let found = try value(key, in: context)
        guard case .array(let array) = found else { throw Self.mismatch(key, context, "an array", found) }
        return array
    }

    /// Refuses members that are not among `known`: a misspelt optional key must not pass for a default.
    package func requireKeys(among known: [String], in context: String) throws(JSONError) {
        guard case .object(let object) = self else { throw JSONError("\(context): expected an object, found \(kind)") }
        for key in object.keys where !known.contains(key) {
            throw JSONError("\(context): unknown key '\(oneLine(key))'")
        }
    }

    private func elements<T>(
        _ key: String, in context: String, _ wanted: String, _ convert: (JSONValue) -> T?
    ) throws(JSONError) -> [T] {
        var result: [T] = []
        for element in try array(key, in: context) {
            guard let value = convert(element) else {
                throw Self.mismatch(key, context, "an array of \(wanted)", element, "one element is")
            }
            result.append(value)
        }
        return result
    }

    private static func mismatch(
        _ key: String, _ context: String, _ wanted: String, _ found: JSONValue, _ verb: String = "found"
    ) -> JSONError {
        JSONError("\(context): '\(key)' must be \(wanted), \(verb) \(found.kind)")
    }

    package var asNumber: Double? {
        switch self {
        case .number(let number): number
        case .integer(let integer): Double(integer)
        default: nil
        }
    }

    package var asInteger: Int? {
        if case .integer(let integer) = self { integer } else { nil }
    }

    package var asString: String? {
        if case .string(let string) = self { string } else { nil }
    }
}
