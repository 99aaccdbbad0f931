import HSSLGraph

/// A linear layer over the tokens, then an MLP over the channels, each after a LayerNorm (ε 1e-6). Bound to the number
/// of tokens.
///
/// Source: Touvron et al., "ResMLP", 2021, without its affine maps.
struct ResMLPHeadBlock: HeadBlock, HeadFamily {
    static let family = "mlp"
    static let summary = "ResMLP blocks: a linear layer across positions, an MLP across channels"
    static let takesAnyGrid = false

    private let norm1: LayerNorm
    private let tokens: Linear
    private let norm2: LayerNorm
    private let channels: MLP
    private let branch: Branch

    static func makeBlock(
        _ scope: ParameterScope, over input: GridShape, _ settings: HeadSettings, index: Int, shortcut: Bool
    ) -> any HeadBlock {
        Self(scope, input: input, shortcut: shortcut)
    }

    private init(_ scope: ParameterScope, input: GridShape, shortcut: Bool) {
        norm1 = LayerNorm(scope("norm1"), width: input.width, epsilon: 1e-6)
        tokens = Linear(scope("linear_tokens"), inputs: input.grid.count, outputs: input.grid.count)
        norm2 = LayerNorm(scope("norm2"), width: input.width, epsilon: 1e-6)
        channels = MLP(scope("mlp_channels"), width: input.width)
        branch = Branch(shortcut: shortcut)
    }

    func callAsFunction(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor {
        branch(mix(x, pass, block), scale: pass.scale(block: block, branch: 1)) { channels(norm2($0)) }.reshaped(
            x.shape)
    }

    func mean(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor {
        branch.mean(mix(x, pass, block), scale: pass.scale(block: block, branch: 1)) { channels.mean(norm2($0)) }
    }

    /// → [B, N, D].
    private func mix(_ x: Tensor, _ pass: Pass, _ block: Int) -> Tensor {
        branch(x.flattenedGrid(), scale: pass.scale(block: block, branch: 0)) {
            tokens(norm1($0).transposedTokens()).transposedTokens()
        }
    }
}
