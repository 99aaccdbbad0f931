import HSSLFormats
import HSSLGraph

/// ConvNeXt: depthwise convolutions and MLPs with layer scale, in stages of halved grids; timm's parameter names,
/// LayerNorm ε 1e-6.
///
/// Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022; timm `convnext.py`. Masked cells of the last grid stand
/// for all stem cells that they cover.
package struct ConvNeXt: Base {
    package let maskToken: Parameter?
    private let sizes: Configuration
    private let stem: Convolution
    private let stemNorm: LayerNorm
    private let stages: [Stage]
    private let norm: LayerNorm

    package var width: Int { sizes.dims[sizes.dims.count - 1] }
    package var blocks: Int { sizes.depths.reduce(0, +) }
    /// Stem cells a side of a cell of the last grid.
    private var maskStride: Int { 1 << (sizes.dims.count - 1) }

    private struct Stage {
        let downsample: (norm: LayerNorm, convolution: Convolution)?
        let blocks: [Block]
    }

    init(_ scope: ParameterScope, _ sizes: Configuration, _ use: Use) {
        self.sizes = sizes
        stem = Convolution(
            scope("stem")("0"),
            .init(inputs: 3, outputs: sizes.dims[0], kernel: sizes.patchSize, stride: sizes.patchSize), from: .image)
        stemNorm = LayerNorm(scope("stem")("1"), width: sizes.dims[0], epsilon: 1e-6)
        maskToken = use == .pretraining ? scope.declare("mask_token", [1, sizes.dims[0]], .zeros) : nil
        stages = sizes.dims.indices.map { stage in
            let scope = scope("stages")("\(stage)"), down = scope("downsample")
            return Stage(
                downsample: stage == 0
                ? nil : (
                    LayerNorm(down("0"), width: sizes.dims[stage - 1], epsilon: 1e-6),
                    Convolution(
                        down("1"),
                        .init(inputs: sizes.dims[stage - 1], outputs: sizes.dims[stage], kernel: 2, stride: 2))),
                blocks: (0..<sizes.depths[stage])
                .map { Block(scope("blocks")("\($0)"), width: sizes.dims[stage], kernel: sizes.kernelSize) })
        }
        norm = LayerNorm(
            scope("head")("norm"), width: sizes.dims[sizes.dims.count - 1], epsilon: Float(sizes.headNormEpsilon))
    }

    package func grid(height: Int, width: Int) -> Grid {
        var grid = stem.grid(Grid(height: height, width: width))
        for stage in stages { if let downsample = stage.downsample { grid = downsample.convolution.grid(grid) } }
        return grid
    }

    package func callAsFunction(_ images: Tensor, mask: [UInt8]?, _ pass: Pass) -> BaseOutput {
        var x = stemNorm(stem(images))
        if let mask, let maskToken {
            let (cells, shape) = (Grid(height: x.shape[1], width: x.shape[2]), x.shape)
            let flags = spread(mask, grid(height: images.shape[2], width: images.shape[3]), by: maskStride, over: cells)
            x =
                x.reshaped([shape[0], cells.count, shape[3]]).masked(flags, token: images.tape.parameter(maskToken))
                .reshaped(shape)
        }
        var index = 0
        for stage in stages {
            if let downsample = stage.downsample { x = downsample.convolution(downsample.norm(x)) }
            for block in stage.blocks {
                x = block(x, scale: pass.scale(block: index, branch: 0))
                index += 1
            }
        }
        let grid = Grid(height: x.shape[1], width: x.shape[2])
        return BaseOutput(tokens: x.reshaped([x.shape[0], grid.count, x.width]), grid: grid)
    }

    package func global(_ output: BaseOutput) -> Tensor { norm(output.tokens.meanOverTokens()) }

    package func local(_ output: BaseOutput, cells: [Int32]?) -> Tensor {
        norm(output.tokens.gatheringRows(output.rows(ofCells: cells)))
    }

    /// x + gamma·MLP(LN(depthwise(x))).
    private struct Block {
        let convolution: DepthwiseConv
        let norm: LayerNorm
        let mlp: MLP
        let gamma: Parameter

        init(_ scope: ParameterScope, width: Int, kernel: Int) {
            convolution = DepthwiseConv(scope("conv_dw"), channels: width, kernel: kernel)
            norm = LayerNorm(scope("norm"), width: width, epsilon: 1e-6)
            mlp = MLP(scope("mlp"), width: width)
            gamma = scope.declare("gamma", [width], .constant(1e-6))
        }

        /// x [B, h, w, D] → [B, h, w, D].
        func callAsFunction(_ x: Tensor, scale: [Float]?) -> Tensor {
            x.adding(scale: scale) { mlp(norm(convolution($0))).scaledChannels(by: x.tape.parameter(gamma)) }
        }
    }

    /// Sizes of a ConvNeXt; lists have one value a stage.
    package struct Configuration: BaseConfiguration {
        package var imageSize: Int
        /// Pixels a side of a stem cell.
        package var patchSize: Int
        package var depths: [Int]
        package var dims: [Int]
        package var kernelSize: Int
        /// Of the final norm; the others have 1e-6.
        package var headNormEpsilon = 1e-6

        package init(imageSize: Int, patchSize: Int, depths: [Int], dims: [Int], kernelSize: Int = 7) {
            (self.imageSize, self.patchSize, self.depths, self.dims, self.kernelSize) = (
                imageSize, patchSize, depths, dims, kernelSize)
        }

        package var patchSizeOfPreset: Int? { patchSize }

        package static let family = "convnext"
        package static let title = "ConvNeXt"

        private static let table: [(name: String, depths: [Int], dims: [Int], patchSize: Int)] = [
            ("convnext_micro", [2, 2], [48, 96], 2),
            ("convnext_tiny", [3, 3, 9, 3], [96, 192, 384, 768], 4),
            ("convnext_small", [3, 3, 27, 3], [96, 192, 384, 768], 4),
            ("convnext_base", [3, 3, 27, 3], [128, 256, 512, 1024], 4),
        ]

        package static var presets: [String] { table.map(\.name) }

        package static func preset(_ name: String, imageSize: Int, patchSize: Int?) throws -> Self {
            guard let row = table.first(where: { $0.name == name }) else {
                throw ModelError("unknown architecture '\(oneLine(name))'")
            }
            return Self(imageSize: imageSize, patchSize: patchSize ?? row.patchSize, depths: row.depths, dims: row.dims)
        }

        package static let optionalKeys = ["head_norm_eps"]

        package var json: [(key: String, value: JSONValue)] {
            let epsilon: [(String, JSONValue)] =
                headNormEpsilon == 1e-6 ? [] : [("head_norm_eps", .number(headNormEpsilon))]
            return [
                ("image_size", .integer(imageSize)), ("patch_size", .integer(patchSize)),
                ("depths", .array(depths.map { .integer($0) })),
                ("dims", .array(dims.map { .integer($0) })), ("kernel_size", .integer(kernelSize)),
            ] + epsilon
        }

        package init(json: JSONValue) throws {
            let key = ModelArchitecture.key
            self.init(
                imageSize: try json.integer("image_size", in: key), patchSize: try json.integer("patch_size", in: key),
                depths: try json.integers("depths", in: key), dims: try json.integers("dims", in: key),
                kernelSize: try json.integer("kernel_size", in: key))
            if try json.member("head_norm_eps", in: key) != nil {
                headNormEpsilon = try json.number("head_norm_eps", in: key)
            }
        }

        package func validate() throws {
            try Self.check([
                ("image_size", imageSize, ModelBounds.imageSize), ("patch_size", patchSize, ModelBounds.patchSize),
                ("kernel_size", kernelSize, 1...63),
                ("number of depths", depths.count, ModelBounds.stages),
            ])
            try Self.check("depths", depths, ModelBounds.depth)
            try Self.check("dims", dims, ModelBounds.width)
            try Self.checkEpsilon("head_norm_eps", headNormEpsilon)
            guard dims.count == depths.count else {
                throw ModelError("dims has \(dims.count) values for \(depths.count) stages")
            }
            guard kernelSize % 2 == 1 else { throw ModelError("kernel_size \(kernelSize) is not odd") }
            let cell = patchSize << (depths.count - 1)
            guard imageSize % cell == 0 else {
                throw ModelError(
                    "image_size \(imageSize) is not a multiple of \(cell), the pixels of a cell of the last grid")
            }
            let cells = (imageSize / patchSize) * (imageSize / patchSize)
            guard cells <= ModelBounds.cells else {
                throw ModelError("\(cells) stem cells; at most \(ModelBounds.cells) are supported")
            }
        }

        package func makeBase(_ scope: ParameterScope, _ use: Use) -> any Base { ConvNeXt(scope, self, use) }
    }
}
