import HSSLFormats
import HSSLGraph

/// Vision transformer: pre-norm, qkv bias, exact GELU, LayerNorm ε 1e-6, learned positions that cover CLS; timm's
/// parameter names.
///
/// Source: Dosovitskiy et al., ICLR 2021; timm `vision_transformer.py`.
package struct VisionTransformer: Base {
    package let maskToken: Parameter?
    private let sizes: Configuration
    private let norm: LayerNorm
    private let clsToken: Parameter
    private let positions: Parameter
    private let patchEmbed: Convolution
    private let layers: [TransformerBlock]

    package var width: Int { sizes.embedDim }
    package var blocks: Int { sizes.depth }

    init(_ scope: ParameterScope, _ sizes: Configuration, _ use: Use) {
        self.sizes = sizes
        let width = sizes.embedDim
        clsToken = scope.declare("cls_token", [1, 1, width], .truncatedNormal(standardDeviation: 0.02))
        positions = scope.declare(
            "pos_embed", [1, 1 + sizes.grid * sizes.grid, width], .truncatedNormal(standardDeviation: 0.02))
        patchEmbed = Convolution(
            scope("patch_embed")("proj"),
            .init(inputs: 3, outputs: width, kernel: sizes.patchSize, stride: sizes.patchSize), from: .image)
        layers = (0..<sizes.depth).map {
            TransformerBlock(scope("blocks")("\($0)"), width: width, heads: sizes.numHeads)
        }
        norm = LayerNorm(scope("norm"), width: width, epsilon: 1e-6)
        maskToken = use == .pretraining ? scope.declare("mask_token", [1, width], .zeros) : nil
    }

    package func grid(height: Int, width: Int) -> Grid {
        Grid(height: height / sizes.patchSize, width: width / sizes.patchSize)
    }

    package func callAsFunction(_ images: Tensor, mask: [UInt8]?, _ pass: Pass) -> BaseOutput {
        let tape = images.tape
        let patches = patchEmbed(images)
        let grid = Grid(height: patches.shape[1], width: patches.shape[2])
        var x = patches.reshaped([patches.shape[0], grid.count, width])
        // Before positions are added: the student sees where a masked patch was, not what.
        // Also where nothing is masked: the token then gets a zero gradient, so that it decays as every other tensor
        // does.
        if let mask, let maskToken { x = x.masked(mask, token: tape.parameter(maskToken)) }
        x = x.prepending(token: tape.parameter(clsToken))
        x = x.addingBroadcast(positionEmbedding(tape, grid: grid))
        for (index, layer) in layers.enumerated() { x = layer(x, pass, block: index) }
        return BaseOutput(tokens: x, prefix: 1, grid: grid)
    }

    package func global(_ output: BaseOutput) -> Tensor {
        norm(output.tokens.gatheringRows((0..<Int32(output.count)).map { $0 * Int32(1 + output.grid.count) }))
    }

    package func local(_ output: BaseOutput, cells: [Int32]?) -> Tensor {
        norm(output.tokens.gatheringRows(output.rows(ofCells: cells)))
    }

    private func positionEmbedding(_ tape: Tape, grid: Grid) -> Tensor {
        let embedding = tape.parameter(positions)
        // As DINO: interpolated where the token count differs or the grid is not square.
        if grid.count == sizes.grid * sizes.grid, grid.height == grid.width { return embedding }
        return embedding.resampledPositions(
            matrix: PositionResampling.matrix(from: sizes.grid, to: grid), rows: grid.count)
    }

    /// Sizes of a vision transformer.
    package struct Configuration: BaseConfiguration {
        package var imageSize: Int
        package var patchSize: Int
        package var embedDim: Int
        package var depth: Int
        package var numHeads: Int

        package init(imageSize: Int, patchSize: Int, embedDim: Int, depth: Int, numHeads: Int) {
            (self.imageSize, self.patchSize, self.embedDim, self.depth, self.numHeads) = (
                imageSize, patchSize, embedDim, depth, numHeads)
        }

        /// Patch rows (= columns) of the training grid.
        var grid: Int { imageSize / patchSize }

        package static let family = "vit"

        /// Width, depth, heads, patch.
        private static let table: [(name: String, embedDim: Int, depth: Int, numHeads: Int, patchSize: Int)] = [
            ("vit_nano", 96, 4, 3, 4),
            ("vit_tiny", 192, 12, 3, 16),
            ("vit_small", 384, 12, 6, 16),
            ("vit_base", 768, 12, 12, 16),
            ("vit_large", 1024, 24, 16, 16),
        ]

        package static var presets: [String] { table.map(\.name) }

        package static func preset(_ name: String, imageSize: Int, patchSize: Int?) throws -> Self {
            guard let row = table.first(where: { $0.name == name }) else {
                throw ModelError("unknown architecture '\(oneLine(name))'")
            }
            return Self(
                imageSize: imageSize, patchSize: patchSize ?? row.patchSize, embedDim: row.embedDim, depth: row.depth,
                numHeads: row.numHeads)
        }

        /// Hidden width of the MLPs over the embedding's: the only one that this project has.
        private static let mlpRatio = 4

        package var json: [(key: String, value: JSONValue)] {
            [
                ("image_size", .integer(imageSize)), ("patch_size", .integer(patchSize)),
                ("embed_dim", .integer(embedDim)), ("depth", .integer(depth)),
                ("num_heads", .integer(numHeads)), ("mlp_ratio", .integer(Self.mlpRatio)),
            ]
        }

        package init(json: JSONValue) throws {
            let key = ModelArchitecture.key
            let ratio = try json.number("mlp_ratio", in: key)
            guard ratio == Double(Self.mlpRatio) else {
                throw ModelError("mlp_ratio \(ratio) is not supported (only \(Self.mlpRatio))")
            }
            self.init(
                imageSize: try json.integer("image_size", in: key), patchSize: try json.integer("patch_size", in: key),
                embedDim: try json.integer("embed_dim", in: key), depth: try json.integer("depth", in: key),
                numHeads: try json.integer("num_heads", in: key))
        }

        package func validate() throws {
            try Self.check([
                ("image_size", imageSize, ModelBounds.imageSize), ("patch_size", patchSize, ModelBounds.patchSize),
                ("embed_dim", embedDim, ModelBounds.width),
                ("depth", depth, ModelBounds.depth), ("num_heads", numHeads, ModelBounds.heads),
            ])
            guard imageSize % patchSize == 0 else {
                throw ModelError("image_size \(imageSize) is not a multiple of patch_size \(patchSize)")
            }
            guard embedDim % numHeads == 0 else {
                throw ModelError("embed_dim \(embedDim) is not a multiple of num_heads \(numHeads)")
            }
            guard grid * grid <= ModelBounds.cells else {
                throw ModelError("\(grid * grid) patches; at most \(ModelBounds.cells) are supported")
            }
        }

        package func makeBase(_ scope: ParameterScope, _ use: Use) -> any Base { VisionTransformer(scope, self, use) }
    }
}
