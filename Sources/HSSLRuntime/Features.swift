/// What a session gives for an image: one vector of the whole image, one vector a cell, or both.
///
/// D is the model's width. N is its number of cells: the patches of a ViT, the places of the last grid of the other
/// families. All of it comes after the final norm (ResNet has none: after its last block).
public enum Features: String, CaseIterable, Sendable {
    /// One vector of the whole image: [D]. Of a ViT the CLS token; of the families that have none the mean over the
    /// cells (ConvNeXt norms the mean, Swin averages what is normed).
    case cls
    /// The mean over the N cells, each after the final norm: [D]. Of Swin and ResNet that is `cls` again.
    case mean
    /// `cls` and `mean`, one after the other: [2·D].
    case clsMean = "cls+mean"
    /// Every cell, row by row: [N, D]. Of a ViT the patch tokens, without the CLS token and registers.
    case patch
    /// `cls`, then every cell, of one pass: [1 + N, D].
    case clsPatch = "cls+patch"

    /// Whether an image has several vectors (`patch`, `clsPatch`): its shape then has two sizes, not one.
    public var isMatrix: Bool { self == .patch || self == .clsPatch }
}
