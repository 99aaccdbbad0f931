/// A pretraining recipe: everything that decides a run besides the images. One property for each YAML key of
/// `models/*.yaml`; what a key means, and which values it takes, is said where it is declared, in
/// `RecipeSections.swift`.
///
/// Values of a `Recipe` that came from ``parse(_:file:architectures:objectives:families:overrides:)`` are in range
/// and consistent with one another. Defaults (the initial values of the properties) are the published HSSL run
/// (ViT-B/16, 100 epochs, arXiv 2310.05108).
public struct Recipe: Equatable, Sendable {
    public var model = Model()
    public var auxiliary = Auxiliary()
    public var head = Head()
    public var objective = Objective()
    public var distill = Distill()
    public var optimizer = Optimizer()
    public var schedule = Schedule()
    public var data = Data()
    public var evaluation = Evaluation()
    public var checkpoint = Checkpoint()
}

/// Why a recipe or a `--set` was refused: one line that names the file and line (or the option), the key and the
/// reason.
public struct RecipeError: Error, Equatable, CustomStringConvertible {
    /// `FILE:LINE`, `FILE` or `--set KEY`.
    public let place: String
    public let reason: String
    public var description: String { "\(place): \(reason)" }

    package init(place: String, reason: String) {
        self.place = place
        self.reason = reason
    }
}
