import HSSLGraph

/// Sizes of a plain vision transformer.
package struct VisionTransformerSizes: Equatable, Sendable {
    package var imageSize: Int
    package var patchSize: Int
    package var embedDim: Int
    package var depth: Int
    package var numHeads: Int
    package var channels = 3

    package init(imageSize: Int, patchSize: Int, embedDim: Int, depth: Int, numHeads: Int, channels: Int) {
        self.imageSize = imageSize
        self.patchSize = patchSize
        self.embedDim = embedDim
        self.depth = depth
        self.numHeads = numHeads
        self.channels = channels
    }

    /// Patch rows (= columns) of the training grid.
    package var grid: Int { imageSize / patchSize }
}

/// Vision transformer: pre-norm, qkv bias, exact GELU, LayerNorm ε 1e-6, learned positions that cover CLS; timm's parameter names.
///
/// Source: Dosovitskiy et al., ICLR 2021; timm `vision_transformer.py`.
package struct VisionTransformer: BaseModel {
    package let sizes: VisionTransformerSizes
    package let norm: LayerNorm
    package let maskToken: Parameter?
    private let clsToken: Parameter
    private let positions: Parameter
    private let patchEmbed: PatchEmbed
    private let blocks: [TransformerBlock]

    package var width: Int { sizes.embedDim }
    package var depth: Int { sizes.depth }

    /// - Parameter pretraining: whether to declare `mask_token`, which a deployed model does not have.
    package init(_ scope: ParameterScope, sizes: VisionTransformerSizes, pretraining: Bool) {
        self.sizes = sizes
        let width = sizes.embedDim
        clsToken = scope.declare("cls_token", [1, 1, width], .truncatedNormal(standardDeviation: 0.02))
        positions = scope.declare("pos_embed", [1, 1 + sizes.grid * sizes.grid, width], .truncatedNormal(standardDeviation: 0.02))
        patchEmbed = PatchEmbed(scope("patch_embed")("proj"), sizes: sizes)
        blocks = (0..<sizes.depth).map { TransformerBlock(scope("blocks")("\($0)"), width: width, heads: sizes.numHeads) }
        norm = LayerNorm(scope("norm"), width: width, epsilon: 1e-6)
        maskToken = pretraining ? scope.declare("mask_token", [1, width], .zeros) : nil
    }

    package func grid(height: Int, width: Int) -> Grid { Grid(height: height / sizes.patchSize, width: width / sizes.patchSize) }

    /// images [B, C, H, W], mask [B·N] → tokens before the final norm [B, 1+N, D].
    package func tokens(_ images: Tensor, mask: [UInt8]?, stochasticDepth: StochasticDepth?) -> Tensor {
        let tape = images.tape
        var x = patchEmbed(images)
        // Before positions are added: the student sees where a masked patch was, not what.
        // Also where nothing is masked: the token then gets a zero gradient, so that it decays as every other tensor does.
        if let mask, let maskToken { x = x.masked(mask, token: tape.parameter(maskToken)) }
        x = x.prepending(token: tape.parameter(clsToken))
        x = x.addingBroadcast(positionEmbedding(tape, grid: grid(height: images.shape[2], width: images.shape[3])))
        for (index, block) in blocks.enumerated() { x = block(x, index: index, stochasticDepth: stochasticDepth) }
        return x
    }

    private func positionEmbedding(_ tape: Tape, grid: Grid) -> Tensor {
        let embedding = tape.parameter(positions)
        // As DINO: interpolated where the token count differs or the grid is not square.
        if grid.count == sizes.grid * sizes.grid, grid.height == grid.width { return embedding }
        return embedding.resampledPositions(matrix: PositionResampling.matrix(from: sizes.grid, to: grid), rows: grid.count)
    }
}

/// Non-overlapping p×p patches through one linear map: weight [D, C, p, p], bias [D]. Always float32.
private struct PatchEmbed {
    let weight: Parameter
    let bias: Parameter
    let patch: Int

    init(_ scope: ParameterScope, sizes: VisionTransformerSizes) {
        patch = sizes.patchSize
        let bound = 1 / Float(sizes.channels * patch * patch).squareRoot()
        weight = scope.declare("weight", [sizes.embedDim, sizes.channels, patch, patch], .uniform(bound: bound))
        bias = scope.declare("bias", [sizes.embedDim], .uniform(bound: bound))
    }

    /// images [B, C, H, W] → [B, N, D].
    func callAsFunction(_ images: Tensor) -> Tensor {
        images.patches(of: patch).linear(weight: images.tape.parameter(weight), bias: images.tape.parameter(bias), role: .full)
    }
}

/// x + attention(LN(x)), then x + MLP(LN(x)).
private struct TransformerBlock {
    let norm1: LayerNorm
    let qkv: Linear
    let projection: Linear
    let norm2: LayerNorm
    let fc1: Linear
    let fc2: Linear
    let heads: Int

    init(_ scope: ParameterScope, width: Int, heads: Int) {
        norm1 = LayerNorm(scope("norm1"), width: width, epsilon: 1e-6)
        qkv = Linear(scope("attn")("qkv"), inputs: width, outputs: 3 * width)
        projection = Linear(scope("attn")("proj"), inputs: width, outputs: width)
        norm2 = LayerNorm(scope("norm2"), width: width, epsilon: 1e-6)
        fc1 = Linear(scope("mlp")("fc1"), inputs: width, outputs: 4 * width)
        fc2 = Linear(scope("mlp")("fc2"), inputs: 4 * width, outputs: width)
        self.heads = heads
    }

    /// x [B, 1+N, D] → [B, 1+N, D].
    func callAsFunction(_ x: Tensor, index: Int, stochasticDepth: StochasticDepth?) -> Tensor {
        let middle = x.adding(scale: stochasticDepth?.scale(block: index, branch: 0)) { projection(qkv(norm1($0)).attention(heads: heads)) }
        return middle.adding(scale: stochasticDepth?.scale(block: index, branch: 1)) { fc2(fc1(norm2($0), activation: .gelu)) }
    }
}
