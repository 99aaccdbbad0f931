/// What an image becomes; always after the final norm.
public enum Features: String, CaseIterable, Sendable {
    /// The CLS token: [D].
    case cls
    /// The mean of the patch tokens: [D].
    case mean
    /// Both, one after the other: [2·D].
    case clsMean = "cls+mean"
    /// Every patch token: [N, D].
    case patch
    /// CLS, then every patch token, of one pass: [1 + N, D].
    case clsPatch = "cls+patch"

    /// Whether an image has more than one vector.
    public var isMatrix: Bool { self == .patch || self == .clsPatch }
}
