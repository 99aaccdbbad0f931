import HSSLFormats
import HSSLGraph

/// Swin transformer: shifted windows over grids that are merged 2 × 2 between stages; timm's parameter names.
///
/// Source: Liu et al., ICCV 2021; timm `swin_transformer.py`. Masked cells of the last grid stand for all embedded
/// patches that they cover, as iBOT does.
package struct Swin: Base {
    package let maskToken: Parameter?
    private let sizes: Configuration
    private let patchEmbed: Convolution
    private let patchNorm: LayerNorm
    private let stages: [Stage]
    private let norm: LayerNorm

    package var width: Int { sizes.width(stage: sizes.depths.count - 1) }
    package var blocks: Int { sizes.depths.reduce(0, +) }
    /// Embedded patches a side of a cell of the last grid.
    private var maskStride: Int { 1 << (sizes.depths.count - 1) }

    private struct Stage {
        let merging: PatchMerging?
        let blocks: [SwinBlock]
    }

    init(_ scope: ParameterScope, _ sizes: Configuration, _ use: Use) {
        self.sizes = sizes
        let embed = scope("patch_embed")
        patchEmbed = Convolution(
            embed("proj"), .init(inputs: 3, outputs: sizes.embedDim, kernel: sizes.patchSize, stride: sizes.patchSize),
            from: .image)
        patchNorm = LayerNorm(embed("norm"), width: sizes.embedDim, epsilon: 1e-5)
        maskToken = use == .pretraining ? scope.declare("mask_token", [1, sizes.embedDim], .zeros) : nil
        stages = sizes.depths.indices.map { stage in
            let (scope, width) = (scope("layers")("\(stage)"), sizes.width(stage: stage))
            return Stage(
                merging: stage > 0 ? PatchMerging(scope("downsample"), width: width) : nil,
                blocks: (0..<sizes.depths[stage]).map {
                    SwinBlock(
                        scope("blocks")("\($0)"), width: width, heads: sizes.numHeads[stage],
                        grid: sizes.grid(stage: stage), window: sizes.windowSize,
                        shift: $0 % 2 == 1 ? sizes.windowSize / 2 : 0, padsFirst: sizes.padsFirst)
                })
        }
        norm = LayerNorm(scope("norm"), width: sizes.width(stage: sizes.depths.count - 1), epsilon: 1e-5)
    }

    package func grid(height: Int, width: Int) -> Grid {
        var grid = Grid(height: height / sizes.patchSize, width: width / sizes.patchSize)
        for _ in stages.dropFirst() { grid = PatchMerging.merged(grid) }
        return grid
    }

    package func callAsFunction(_ images: Tensor, mask: [UInt8]?, _ pass: Pass) -> BaseOutput {
        let patches = patchEmbed(images)
        var grid = Grid(height: patches.shape[1], width: patches.shape[2])
        var x = patchNorm(patches).reshaped([patches.shape[0], grid.count, sizes.embedDim])
        if let mask, let maskToken {
            let last = self.grid(height: images.shape[2], width: images.shape[3])
            x = x.masked(spread(mask, last, by: maskStride, over: grid), token: images.tape.parameter(maskToken))
        }
        var block = 0
        for stage in stages {
            if let merging = stage.merging { (x, grid) = (merging(x, grid), PatchMerging.merged(grid)) }
            for swin in stage.blocks {
                x = swin(x, grid: grid, pass, block: block)
                block += 1
            }
        }
        return BaseOutput(tokens: x, grid: grid)
    }

    package func global(_ output: BaseOutput) -> Tensor { norm(output.tokens).meanOverTokens() }

    package func local(_ output: BaseOutput, cells: [Int32]?) -> Tensor {
        norm(output.tokens.gatheringRows(output.rows(ofCells: cells)))
    }

    /// Sizes of a Swin transformer; lists have one value a stage.
    package struct Configuration: BaseConfiguration {
        package var imageSize: Int
        package var patchSize: Int
        /// Channels of the first stage; each later one has twice as many.
        package var embedDim: Int
        package var depths: [Int]
        package var numHeads: [Int]
        package var windowSize: Int
        /// Whether a grid is padded to whole windows before it is rolled, rather than after.
        package var padsFirst = false
        /// Whether any grid of whole windows is larger than what it holds.
        package var isPadded: Bool {
            depths.indices.contains { grid(stage: $0) > windowSize && grid(stage: $0) % windowSize != 0 }
        }

        func width(stage: Int) -> Int { embedDim << stage }
        func grid(stage: Int) -> Int { (imageSize / patchSize) >> stage }

        package var patchSizeOfPreset: Int? { patchSize }

        package static let family = "swin"
        package static let title = "Swin transformer"
        package static let patchEmbedding: String? = "patch_embed."

        private static let table: [(name: String, embedDim: Int, depths: [Int], numHeads: [Int], patchSize: Int)] = [
            ("swin_micro", 48, [2, 2], [2, 4], 2),
            ("swin_tiny", 96, [2, 2, 6, 2], [3, 6, 12, 24], 4),
            ("swin_small", 96, [2, 2, 18, 2], [3, 6, 12, 24], 4),
            ("swin_base", 128, [2, 2, 18, 2], [4, 8, 16, 32], 4),
        ]

        package static var presets: [String] { table.map(\.name) }

        package static func preset(_ name: String, imageSize: Int, patchSize: Int?) throws -> Self {
            guard let row = table.first(where: { $0.name == name }) else {
                throw ModelError("unknown architecture '\(oneLine(name))'")
            }
            return Self(
                imageSize: imageSize, patchSize: patchSize ?? row.patchSize, embedDim: row.embedDim, depths: row.depths,
                numHeads: row.numHeads, windowSize: 7)
        }

        package static let optionalKeys = ["pad_first"]

        package var json: [(key: String, value: JSONValue)] {
            let padding: [(String, JSONValue)] = padsFirst ? [("pad_first", .bool(true))] : []
            return [
                ("image_size", .integer(imageSize)), ("patch_size", .integer(patchSize)),
                ("embed_dim", .integer(embedDim)),
                ("depths", .array(depths.map { .integer($0) })), ("num_heads", .array(numHeads.map { .integer($0) })),
                ("window_size", .integer(windowSize)),
                ("mlp_ratio", .integer(4)),
            ] + padding
        }

        package init(json: JSONValue) throws {
            let key = ModelArchitecture.key
            let ratio = try json.number("mlp_ratio", in: key)
            guard ratio == 4 else { throw ModelError("mlp_ratio \(ratio) is not supported (only 4)") }
            self.init(
                imageSize: try json.integer("image_size", in: key), patchSize: try json.integer("patch_size", in: key),
                embedDim: try json.integer("embed_dim", in: key), depths: try json.integers("depths", in: key),
                numHeads: try json.integers("num_heads", in: key), windowSize: try json.integer("window_size", in: key))
            if try json.member("pad_first", in: key) != nil { padsFirst = try json.bool("pad_first", in: key) }
        }

        package init(imageSize: Int, patchSize: Int, embedDim: Int, depths: [Int], numHeads: [Int], windowSize: Int) {
            (self.imageSize, self.patchSize, self.embedDim, self.depths) = (imageSize, patchSize, embedDim, depths)
            (self.numHeads, self.windowSize) = (numHeads, windowSize)
        }

        package func validate() throws {
            try Self.check([
                ("image_size", imageSize, ModelBounds.imageSize), ("patch_size", patchSize, ModelBounds.patchSize),
                ("embed_dim", embedDim, ModelBounds.width),
                ("window_size", windowSize, 1...64), ("number of depths", depths.count, ModelBounds.stages),
            ])
            try Self.check("depths", depths, ModelBounds.depth)
            try Self.check("num_heads", numHeads, ModelBounds.heads)
            guard numHeads.count == depths.count else {
                throw ModelError("num_heads has \(numHeads.count) values for \(depths.count) stages")
            }
            guard width(stage: depths.count - 1) <= ModelBounds.width.upperBound else {
                throw ModelError("the last stage is wider than \(ModelBounds.width.upperBound)")
            }
            for stage in depths.indices where width(stage: stage) % numHeads[stage] != 0 {
                throw ModelError(
                    "stage \(stage): width \(width(stage: stage)) is not a multiple of num_heads \(numHeads[stage])")
            }
            let patch = patchSize << (depths.count - 1)
            guard imageSize % patch == 0 else {
                throw ModelError(
                    "image_size \(imageSize) is not a multiple of \(patch), the pixels of a cell of the last grid")
            }
            guard grid(stage: 0) * grid(stage: 0) <= ModelBounds.cells else {
                throw ModelError(
                    "\(grid(stage: 0) * grid(stage: 0)) patches; at most \(ModelBounds.cells) are supported")
            }
            // A mask a window and a bias a head, between all places of a window, in every block.
            let tables = depths.indices.reduce(0) { sum, stage in
                let side = grid(stage: stage), window = min(windowSize, side), across = (side + window - 1) / window
                let area = window * window
                return sum + depths[stage] * (across * across + numHeads[stage]) * area * area
            }
            guard tables <= ModelBounds.tableElements else {
                throw ModelError(
                    "window_size \(windowSize) makes \(tables) elements of masks and biases; at most "
                        + "\(ModelBounds.tableElements) are supported")
            }
        }

        package func makeBase(_ scope: ParameterScope, _ use: Use) -> any Base { Swin(scope, self, use) }
    }
}

/// 2 × 2 neighbours side by side, in the order (0,0) (1,0) (0,1) (1,1), normalised and mapped to half of their
/// channels.
private struct PatchMerging {
    private let norm: LayerNorm
    private let reduction: Linear

    /// - Parameter width: channels after merging.
    init(_ scope: ParameterScope, width: Int) {
        norm = LayerNorm(scope("norm"), width: 2 * width, epsilon: 1e-5)
        reduction = Linear(scope("reduction"), inputs: 2 * width, outputs: width, bias: false)
    }

    /// The grid after merging; a row or column that is left over is merged with zeros.
    static func merged(_ grid: Grid) -> Grid { Grid(height: (grid.height + 1) / 2, width: (grid.width + 1) / 2) }

    /// x [B, h·w, C] → [B, h/2·w/2, 2·C].
    func callAsFunction(_ x: Tensor, _ grid: Grid) -> Tensor {
        let merged = Self.merged(grid)
        var index: [Int32] = []
        for i in 0..<merged.height {
            for j in 0..<merged.width {
                for (u, v) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    let (row, column) = (2 * i + u, 2 * j + v)
                    index.append(row < grid.height && column < grid.width ? Int32(row * grid.width + column) : -1)
                }
            }
        }
        return reduction(norm(x.permutingTokens(index).reshaped([x.shape[0], merged.count, 4 * x.width])))
    }
}
