/// Where a foreign tensor goes.
enum NameTarget: Equatable {
    /// A tensor under our name, or one of `of` parts of it, one under the other.
    case take(String, part: Int = 0, of: Int = 1)
    /// No part of the base: a head, a mask token, an index that is computed.
    case leave
}

/// Names of one library, as patterns of dotted components: `#` is a number, `*` any component, `**` all that remain.
/// In a target `$1`, `$2` … stand for what the first, second … of them matched.
struct NameMap {
    struct Rule {
        let pattern: [Substring]
        let target: NameTarget

        init(_ pattern: String, _ target: NameTarget) {
            self.pattern = pattern.split(separator: ".")
            self.target = target
        }

        /// Nil where the pattern does not match.
        func apply(_ name: [Substring]) -> NameTarget? {
            var captured: [Substring] = []
            for (index, component) in pattern.enumerated() {
                if component == "**" { return filled(captured) }
                guard index < name.count else { return nil }
                switch component {
                case "#":
                    guard name[index].utf8.count <= 4, Int(name[index]) != nil else { return nil }
                    captured.append(name[index])
                case "*": captured.append(name[index])
                default: if component != name[index] { return nil }
                }
            }
            return name.count == pattern.count ? filled(captured) : nil
        }

        /// The foreign name that becomes `own`; nil where none does.
        func inverted(_ own: [Substring]) -> String? {
            guard case .take(let target, _, _) = target else { return nil }
            let components = target.split(separator: ".")
            guard components.count == own.count else { return nil }
            var captured: [Int: Substring] = [:]
            for (component, found) in zip(components, own) {
                if component.hasPrefix("$"), let index = Int(component.dropFirst()) {
                    captured[index] = found
                } else if component != found {
                    return nil
                }
            }
            var index = 0
            var result: [Substring] = []
            for component in pattern {
                guard component == "#" || component == "*" else {
                    result.append(component)
                    continue
                }
                index += 1
                guard let found = captured[index], component == "*" || Int(found) != nil else { return nil }
                result.append(found)
            }
            return result.joined(separator: ".")
        }

        private func filled(_ captured: [Substring]) -> NameTarget {
            guard case .take(let target, let part, let count) = target else { return .leave }
            let parts = target.split(separator: ".").map { component -> Substring in
                guard component.hasPrefix("$"), let index = Int(component.dropFirst()), index <= captured.count else {
                    return component
                }
                return captured[index - 1]
            }
            return .take(parts.joined(separator: "."), part: part, of: count)
        }
    }

    let rules: [Rule]

    /// - Parameters:
    ///   - same: patterns whose tensors keep their names.
    ///   - renamed: patterns and targets.
    ///   - parts: patterns of parts of a tensor.
    ///   - left: patterns of what is no part of the base.
    init(
        same: [String] = [], renamed: [(String, String)] = [], parts: [(String, String, Int, Int)] = [],
        left: [String] = []
    ) {
        let kept = same.map { pattern -> Rule in
            var index = 0
            let target = pattern.split(separator: ".").map { component -> String in
                guard component == "#" || component == "*" else { return String(component) }
                index += 1
                return "$\(index)"
            }
            return Rule(pattern, .take(target.joined(separator: ".")))
        }
        rules =
            kept + renamed.map { Rule($0, .take($1)) }
            + parts.map { Rule($0, .take($1, part: $2, of: $3)) } + left.map { Rule($0, .leave) }
    }

    /// Nil: the library has no such name.
    func target(_ name: String) -> NameTarget? {
        let components = name.split(separator: ".", omittingEmptySubsequences: false)
        return rules.lazy.compactMap { $0.apply(components) }.first
    }

    /// A foreign tensor that holds one of ours, or one of `of` parts of it.
    struct Source: Equatable {
        let name: String
        let part: Int
        let of: Int
    }

    /// What the library calls a tensor of ours: one name, or those of its parts in their order, without those that it
    /// has no place for; empty: nothing.
    func sources(_ own: String) -> [Source] {
        let components = own.split(separator: ".", omittingEmptySubsequences: false)
        var parts: [Source] = []
        for rule in rules {
            guard case .take(_, let part, let count) = rule.target, let name = rule.inverted(components) else {
                continue
            }
            // The first rule decides whether there are parts; later ones are other spellings.
            if count == 1, parts.isEmpty { return [Source(name: name, part: 0, of: 1)] }
            guard count > 1, !parts.contains(where: { $0.part == part }) else { continue }
            parts.append(Source(name: name, part: part, of: count))
        }
        return parts.sorted { $0.part < $1.part }
    }

    /// These rules, and where they have none, those of `other`.
    func followed(by other: NameMap) -> NameMap { NameMap(rules: rules + other.rules) }

    private init(rules: [Rule]) { self.rules = rules }
}
