import HSSLGraph

/// Rows and columns of patch tokens.
package struct Grid: Equatable, Sendable {
    package var height: Int
    package var width: Int
    package var count: Int { height * width }

    package init(height: Int, width: Int) {
        self.height = height
        self.width = width
    }
}

/// A family of base models: what is pretrained, exported and served. A new family is one file that conforms, and one row in `ModelArchitecture`.
package protocol BaseModel {
    /// Channels D of a token.
    var width: Int { get }
    /// Residual blocks, for the schedule of stochastic depth.
    var depth: Int { get }
    /// Final norm, applied to tokens before they are used as features.
    var norm: LayerNorm { get }
    /// Stands for masked patches while pretraining.
    var maskToken: Parameter? { get }
    /// Grid of the patch tokens for an image of this size.
    func grid(height: Int, width: Int) -> Grid
    /// images [B, C, H, W] → tokens before the final norm [B, 1+N, D], CLS first. `mask` [B·N] marks the patches that the model may not see.
    func tokens(_ images: Tensor, mask: [UInt8]?, stochasticDepth: StochasticDepth?) -> Tensor
}
