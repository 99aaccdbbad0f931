import Yams

/// The text of a recipe as sections of nodes, with the values of `--set` laid over it, before any key is understood.
struct RecipeDocument {
    struct Entry {
        /// Nil: `--set section.key=null` took the key out.
        let node: Node?
        /// `FILE:LINE`, or `--set section.key`.
        let place: String
        let isOverride: Bool
    }

    let file: String
    /// Section → key → value.
    private(set) var entries: [String: [String: Entry]] = [:]
    /// Section → where it stands.
    private var places: [String: String] = [:]
    /// Sections named by a `--set`.
    private let overridden: Set<String>
    /// Sections that are no mappings and the like. They are told after unknown names, which are the more likely
    /// mistake.
    private(set) var faults: [RecipeError] = []

    init(_ text: String, file: String, overrides: [String]) throws(RecipeError) {
        self.file = file
        let overrides = try RecipeDocument.parse(overrides)
        overridden = Set(overrides.keys)
        guard let root = try RecipeSyntax.compose(text, file: file) else {
            throw RecipeError(place: file, reason: "is empty")
        }
        guard case .mapping(let top) = root else {
            throw RecipeError(place: file, reason: "must be a mapping of sections")
        }
        for (key, section) in top {
            guard case .scalar(let name) = key else {
                throw RecipeError(place: place(of: key), reason: "a section name must be a plain word")
            }
            places[name.string] = place(of: section)
            add(section, named: name.string)
        }
        for (section, keys) in overrides {
            for (key, node) in keys {
                let value = RecipeValue.isNull(node) ? nil : node
                let entry = Entry(node: value, place: "--set \(section).\(key)", isOverride: true)
                entries[section, default: [:]][key] = entry
            }
        }
    }

    /// Whether the text itself has a section, whatever a `--set` says.
    func has(section: String) -> Bool { places[section] != nil }

    private mutating func add(_ section: Node, named name: String) {
        guard case .mapping(let pairs) = section else {
            let reason = "\(name) must be a mapping of keys to values"
            faults.append(RecipeError(place: place(of: section), reason: reason))
            return
        }
        for (key, value) in pairs {
            guard case .scalar(let word) = key else {
                faults.append(RecipeError(place: place(of: key), reason: "\(name): a key must be a plain word"))
                continue
            }
            let entry = Entry(node: value, place: place(of: value), isOverride: false)
            entries[name, default: [:]][word.string] = entry
        }
    }

    private func place(of node: Node) -> String {
        node.mark.map { "\(file):\($0.line)" } ?? file
    }

    /// - Returns: section → key → value.
    private static func parse(_ overrides: [String]) throws(RecipeError) -> [String: [String: Node]] {
        var result: [String: [String: Node]] = [:]
        for override in overrides {
            let place = "--set \(RecipeValue.printable(override))"
            guard let equals = override.firstIndex(of: "="),
                  override[..<equals].split(separator: ".", omittingEmptySubsequences: false).count == 2,
                  let dot = override[..<equals].firstIndex(of: ".") else {
                throw RecipeError(place: place, reason: "must be section.key=value, for example schedule.seed=3")
            }
            let value = String(override[override.index(after: equals)...])
            let node: Node?
            do {
                // As the value of a key, so that text such as `a: b` is refused as it would be in a file.
                node = try RecipeSyntax.compose("value: \(value)", file: place)?["value"]
            } catch {
                throw RecipeError(place: place, reason: error.reason)
            }
            guard let node, !value.isEmpty, !value.contains(where: \.isNewline) else {
                throw RecipeError(place: place, reason: "must be section.key=value on one line")
            }
            let section = String(override[..<dot]), key = String(override[override.index(after: dot)..<equals])
            result[section, default: [:]][key] = node
        }
        return result
    }

    // MARK: names

    /// Throws for a section or key that does not exist, with the nearest that does. A misspelling is told before the
    /// missing value that it causes.
    func refuseUnknownNames(_ sections: [RecipeSection]) throws(RecipeError) {
        func home(of key: String) -> String? {
            sections.first { $0.keys.contains { $0.name == key } }.map { "\($0.name).\(key)" }
        }
        let names = sections.map(\.name)
        let strangers = overridden.filter { !names.contains($0) }.sorted().map { ($0, "--set \($0)") }
            + places.filter { !names.contains($0.key) }.map { ($0.key, $0.value) }.sorted { $0.0 < $1.0 }
        if let (name, place) = strangers.first {
            let hint = (NearestName.of(name, in: names) ?? home(of: name)).map { "did you mean \($0)?" }
                ?? "sections are \(names.joined(separator: ", "))"
            throw RecipeError(place: place, reason: "unknown section \(RecipeValue.printable(name)); \(hint)")
        }
        for section in sections {
            let known = section.keys.map(\.name)
            // Those of the command line first, then by name.
            func rank(_ item: (key: String, value: Entry)) -> (Int, String) {
                (item.value.isOverride ? 0 : 1, item.key)
            }
            let unknown = (entries[section.name] ?? [:]).filter { !known.contains($0.key) }
            guard let (key, entry) = unknown.min(by: { rank($0) < rank($1) }) else { continue }
            // A key of another section beats a similar name in this one.
            let hint = (home(of: key) ?? NearestName.of(key, in: known)).map { "did you mean \($0)?" }
                ?? "keys are \(known.joined(separator: ", "))"
            let name = "\(section.name).\(RecipeValue.printable(key))"
            throw RecipeError(place: entry.place, reason: "unknown key \(name); \(hint)")
        }
    }

    /// The error for a key of this document, or for one that is absent.
    func fault(_ section: String, _ key: String, _ reason: String) -> RecipeError {
        let entry = entries[section]?[key]
        // In a `--set` the place names the key already.
        let isNamed = entry?.isOverride == true
        return RecipeError(place: entry?.place ?? file, reason: isNamed ? reason : "\(section).\(key) \(reason)")
    }

    /// Whether a `--set` gives `section.key` a value.
    func overrides(_ path: String) -> Bool {
        let names = path.split(separator: ".", maxSplits: 1).map(String.init)
        return names.count == 2 && entries[names[0]]?[names[1]]?.isOverride == true
    }
}
