/// A pretraining recipe: everything that decides a run besides the images. One property for each YAML key of
/// `models/*.yaml`; what a key means, and which values it takes, is said where it is declared, in
/// `RecipeSections.swift`.
///
/// Values of a `Recipe` that came from ``parse(_:file:architectures:objectives:families:overrides:)`` are in range
/// and consistent with one another. Defaults (the initial values of the properties) are the published HSSL run
/// (ViT-B/16, 100 epochs, arXiv 2310.05108).
public struct Recipe: Equatable, Sendable {
    /// Section `model`: the base network, the part that is deployed.
    public var model = Model()
    /// Section `auxiliary`: the head of another architecture that the base is trained with.
    public var auxiliary = Auxiliary()
    /// Section `head`: what the objective's projections need.
    public var head = Head()
    /// Section `objective`: what student and teacher are to agree on.
    public var objective = Objective()
    /// Section `distill`: what a student takes over from a frozen teacher; for objective `distill` only.
    public var distill = Distill()
    /// Section `optimizer`: AdamW, and how the teacher follows the student.
    public var optimizer = Optimizer()
    /// Section `schedule`: how long, and in what arithmetic.
    public var schedule = Schedule()
    /// Section `data`: views of an image.
    public var data = Data()
    /// Section `evaluation`: k-NN during the run; decides no weight.
    public var evaluation = Evaluation()
    /// Section `checkpoint`: when the run is saved; decides no weight.
    public var checkpoint = Checkpoint()
}

/// Why a recipe or a `--set` was refused: one line that names the file and line (or the option), the key and the
/// reason.
public struct RecipeError: Error, Equatable, CustomStringConvertible {
    /// `FILE:LINE`, `FILE` or `--set KEY`.
    public let place: String
    /// The key and what is wrong with it, in one line without the place.
    public let reason: String
    public var description: String { "\(place): \(reason)" }

    package init(place: String, reason: String) {
        self.place = place
        self.reason = reason
    }
}
