import HSSLFormats

/// What a search was asked for besides the recipe.
public struct SearchOptions: Sendable {
    /// Part of a run's updates that a search takes unless somebody says otherwise.
    public static let usualShare = 0.3

    /// Families of the candidates, in the order in which the families are listed.
    public let heads: [String]
    /// Whether the base learns from the candidates, too.
    public var coupled = false
    /// Updates of the search as a part of those of the recipe's run, above 0 and at most 1.
    public var share = SearchOptions.usualShare
    /// Images that nobody learns from and the candidates are compared on.
    package var heldOutImages = 2048

    /// - Parameter heads: names of head families, separated by commas.
    /// - Throws: ``PretrainingError`` for an unknown name (with the nearest known one), one that is given twice, or
    ///   none at all.
    public init(heads list: String) throws(PretrainingError) {
        let known = Recipe.headFamilies
        let names = list.split(separator: ",", omittingEmptySubsequences: false).map {
            String($0.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
        }
        guard names != [""] else {
            throw PretrainingError("names no head; heads are \(known.joined(separator: ", "))")
        }
        for (place, name) in names.enumerated() {
            if name.isEmpty { throw PretrainingError("names no head before or after a comma") }
            guard known.contains(name) else {
                let hint = NearestName.of(name, in: known).map { "did you mean \($0)?" }
                    ?? "heads are \(known.joined(separator: ", "))"
                throw PretrainingError("unknown head '\(RecipeValue.printable(name))'; \(hint)")
            }
            if names[..<place].contains(name) { throw PretrainingError("head '\(name)' is given twice") }
        }
        heads = known.filter { names.contains($0) }
    }
}

/// By what a search recognises its checkpoint, besides the recipe and the images.
package struct SearchIdentity: Equatable, Sendable {
    package var heads: [String]
    package var coupled: Bool
    package var share: Double

    init(_ options: SearchOptions) { (heads, coupled, share) = (options.heads, options.coupled, options.share) }

    var metadata: [(key: String, value: String)] {
        [
            ("hssl.search_heads", heads.joined(separator: ",")), ("hssl.search_coupled", "\(coupled)"),
            ("hssl.search_share", "\(share)"),
        ]
    }

    /// Nil for the checkpoint of a pretraining run.
    init?(of file: SafetensorsFile) throws {
        guard let heads = file.metadata["hssl.search_heads"] else { return nil }
        guard let coupled = file.metadata["hssl.search_coupled"].flatMap(Bool.init),
              let share = file.metadata["hssl.search_share"].flatMap(Double.init) else {
            throw FileError(path: file.path, reason: "metadata of the search are missing or damaged")
        }
        (self.heads, self.coupled, self.share) = (heads.split(separator: ",").map(String.init), coupled, share)
    }

    /// - Throws: ``PretrainingError`` where a run would go on as another one.
    static func check(_ there: SearchIdentity?, against here: SearchIdentity?, path: String) throws {
        if there == here { return }
        guard let there else {
            throw PretrainingError("\(path): is a pretraining run's, not a search's; give another --output")
        }
        guard let here else {
            throw PretrainingError("\(path): is a search's; hssl search --resume goes on with it")
        }
        let (what, mine, wanted) = there.heads != here.heads
            ? ("heads", there.heads.joined(separator: ","), here.heads.joined(separator: ","))
            : there.coupled != here.coupled
                ? ("coupling", there.coupled ? "--coupled" : "none", here.coupled ? "--coupled" : "none")
                : ("share", "\(there.share)", "\(here.share)")
        throw PretrainingError("\(path): the search has other \(what): \(mine) there, \(wanted) here; "
            + "resume with what it was started with")
    }
}

/// What a trainer does for a search.
struct SearchSetup {
    /// What the base learns by: its own objective alone.
    let base: Recipe
    let identity: SearchIdentity
    /// Places in the data set of the images to learn from.
    let images: [Int]
    /// Updates of one epoch of the schedules.
    let stepsPerEpoch: Int
    let companion: (Learner) throws -> any Companion
}
