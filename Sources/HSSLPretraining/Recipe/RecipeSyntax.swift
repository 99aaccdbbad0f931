import Yams

/// The YAML subset of recipes: one document of two levels of mappings, with scalars and flow or block lists as
/// values.
///
/// Aliases are refused *before* the text reaches the YAML composer: they can make a few hundred bytes mean billions
/// of nodes, which the composer would hash when they stand as keys. A recipe needs none.
enum RecipeSyntax {
    /// A recipe is a few kilobytes.
    static let largestText = 1 << 18

    /// The root node, or an error that names `file` and the line.
    static func compose(_ text: String, file: String) throws(RecipeError) -> Node? {
        guard text.utf8.count <= largestText else {
            let size = "\(text.utf8.count) bytes; at most \(largestText)"
            throw RecipeError(place: file, reason: "is too large for a recipe (\(size))")
        }
        if let alias = firstAlias(in: text) {
            let name = RecipeValue.printable(alias.name)
            throw RecipeError(place: "\(file):\(alias.line)", reason: "recipes use no aliases (*\(name))")
        }
        do {
            return try Parser(yaml: text, encoding: .utf8).singleRoot()
        } catch {
            throw recipeError(error, file: file)
        }
    }

    /// The line of the first `*name` for which the text has an `&name` anywhere, comments and quoted text included.
    ///
    /// Knowing what is comment, quote or plain text takes a whole YAML scanner, and a scanner that disagrees with the
    /// composer's could be led past an alias. Comparing names needs no such state: without a shared name there is no
    /// alias to resolve.
    static func firstAlias(in text: String) -> (name: String, line: Int)? {
        var anchors: Set<String> = []
        var aliases: [(name: String, line: Int)] = []
        var line = 1
        var start: (byte: UInt8, name: [UInt8])?
        for byte in text.utf8 {
            if let (indicator, name) = start {
                if isNameByte(byte) {
                    start?.name.append(byte)
                    continue
                }
                start = nil
                let text = String(decoding: name, as: UTF8.self)
                if indicator == UInt8(ascii: "&") {
                    anchors.insert(text)
                } else if !name.isEmpty {
                    aliases.append((text, line))
                }
            }
            if byte == UInt8(ascii: "&") || byte == UInt8(ascii: "*") { start = (byte, []) }
            if byte == UInt8(ascii: "\n") { line += 1 }
        }
        if let (indicator, name) = start, indicator == UInt8(ascii: "*") {
            aliases.append((String(decoding: name, as: UTF8.self), line))
        }
        return aliases.first { anchors.contains($0.name) }
    }

    /// The bytes of anchor names in libyaml.
    private static func isNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
             UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"): true
        default: false
        }
    }

    private static func recipeError(_ error: any Error, file: String) -> RecipeError {
        guard let error = error as? YamlError else { return RecipeError(place: file, reason: "is not valid YAML") }
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
             .composer(_, let problem, let mark, _):
            return RecipeError(place: "\(file):\(mark.line)", reason: "is not valid YAML: \(problem)")
        case .duplicatedKeysInMapping(let duplicates, let context):
            let keys = duplicates.joined(separator: ", ")
            return RecipeError(place: "\(file):\(context.mark.line)", reason: "duplicate key \(keys)")
        case .reader(let problem, _, _, _):
            return RecipeError(place: file, reason: "is not valid YAML: \(problem)")
        default:
            return RecipeError(place: file, reason: "is not valid YAML")
        }
    }
}
