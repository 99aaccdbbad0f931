import HSSLFormats
import HSSLGraph

/// Vision transformer: pre-norm, qkv bias; timm's parameter names. By default exact GELU, LayerNorm ε 1e-6 and learned
/// positions that cover CLS; its `Configuration` says what else there is.
///
/// Source: Dosovitskiy et al., ICLR 2021; timm `vision_transformer.py`. Layer scale, gates: Oquab et al., "DINOv2",
/// 2023; registers: Darcet et al., ICLR 2024; rotary positions: Siméoni et al., "DINOv3", 2025, timm `eva.py`.
package struct VisionTransformer: Base {
    package let maskToken: Parameter?
    private let sizes: Configuration
    private let norm: LayerNorm
    private let clsToken: Parameter
    /// [1, R, D].
    private let registers: Parameter?
    /// Nil: rotary positions.
    private let positions: Parameter?
    private let patchEmbed: Convolution
    private let layers: [TransformerBlock]

    package var width: Int { sizes.embedDim }
    package var blocks: Int { sizes.depth }
    /// Tokens before those of the patches.
    private var prefix: Int { 1 + sizes.registerTokens }

    init(_ scope: ParameterScope, _ sizes: Configuration, _ use: Use) {
        self.sizes = sizes
        let width = sizes.embedDim, narrow = Initializer.truncatedNormal(standardDeviation: 0.02)
        clsToken = scope.declare("cls_token", [1, 1, width], narrow)
        registers = sizes.registerTokens > 0
            ? scope.declare("reg_token", [1, sizes.registerTokens, width], narrow) : nil
        positions = sizes.ropeTemperature == nil
            ? scope.declare("pos_embed", [1, sizes.classPositions + sizes.grid * sizes.grid, width], narrow) : nil
        patchEmbed = Convolution(
            scope("patch_embed")("proj"),
            .init(inputs: 3, outputs: width, kernel: sizes.patchSize, stride: sizes.patchSize), from: .image)
        layers = (0..<sizes.depth).map {
            TransformerBlock(
                scope("blocks")("\($0)"), width: width, heads: sizes.numHeads, options: sizes.blockOptions)
        }
        norm = LayerNorm(scope("norm"), width: width, epsilon: Float(sizes.normEpsilon))
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
        let embedding = positions.map { positionEmbedding(tape.parameter($0), grid: grid) }
        if let embedding, !sizes.positionsCoverClass { x = x.addingBroadcast(embedding) }
        if let registers { x = x.prepending(token: tape.parameter(registers)) }
        x = x.prepending(token: tape.parameter(clsToken))
        if let embedding, sizes.positionsCoverClass { x = x.addingBroadcast(embedding) }
        let rotation = sizes.ropeTemperature.map {
            tape.constant(
                RotaryPositions.table(prefix: prefix, grid: grid, width: width / sizes.numHeads, temperature: $0),
                shape: [prefix + grid.count, width / sizes.numHeads])
        }
        for (index, layer) in layers.enumerated() { x = layer(x, pass, block: index, rotation: rotation) }
        return BaseOutput(tokens: x, prefix: prefix, grid: grid)
    }

    package func global(_ output: BaseOutput) -> Tensor {
        let tokens = Int32(output.prefix + output.grid.count)
        return norm(output.tokens.gatheringRows((0..<Int32(output.count)).map { $0 * tokens }))
    }

    package func local(_ output: BaseOutput, cells: [Int32]?) -> Tensor {
        norm(output.tokens.gatheringRows(output.rows(ofCells: cells)))
    }

    private func positionEmbedding(_ embedding: Tensor, grid: Grid) -> Tensor {
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
        /// Hidden width of the MLPs over the embedding's.
        package var mlpRatio = 4.0
        package var activation = MLP.Activation.gelu
        /// Whether residual branches are multiplied by learned factors.
        package var layerScale = false
        /// Learned tokens behind CLS that stand for no place and have no position.
        package var registerTokens = 0
        /// Whether the learned positions have a row for CLS.
        package var positionsCoverClass = true
        /// Of rotary positions, which then take the place of learned ones; DINOv3: 100.
        package var ropeTemperature: Double?
        /// Of all norms.
        package var normEpsilon = 1e-6

        package init(imageSize: Int, patchSize: Int, embedDim: Int, depth: Int, numHeads: Int) {
            (self.imageSize, self.patchSize, self.embedDim, self.depth, self.numHeads) = (
                imageSize, patchSize, embedDim, depth, numHeads)
        }

        /// Patch rows (= columns) of the training grid.
        package var grid: Int { imageSize / patchSize }
        package var patchSizeOfPreset: Int? { patchSize }
        /// Rows of the positions before those of patches.
        package var classPositions: Int { positionsCoverClass ? 1 : 0 }
        package var hiddenDim: Int { Int((mlpRatio * Double(embedDim)).rounded()) }

        var blockOptions: TransformerBlock.Options {
            var options = TransformerBlock.Options()
            (options.hidden, options.activation, options.layerScale) = (hiddenDim, activation, layerScale)
            options.epsilon = Float(normEpsilon)
            return options
        }

        package static let family = "vit"
        package static let title = "vision transformer"
        package static let patchEmbedding: String? = "patch_embed."

        private struct Preset {
            let name: String
            let embedDim, depth, numHeads, patchSize: Int
            var more: @Sendable (inout Configuration) -> Void = { _ in }
        }

        private static let table: [Preset] = {
            let plain = [
                Preset(name: "vit_nano", embedDim: 96, depth: 4, numHeads: 3, patchSize: 4),
                Preset(name: "vit_tiny", embedDim: 192, depth: 12, numHeads: 3, patchSize: 16),
                Preset(name: "vit_small", embedDim: 384, depth: 12, numHeads: 6, patchSize: 16),
                Preset(name: "vit_base", embedDim: 768, depth: 12, numHeads: 12, patchSize: 16),
                Preset(name: "vit_large", embedDim: 1024, depth: 24, numHeads: 16, patchSize: 16),
            ]
            let sizes = [("small", 384, 12, 6), ("base", 768, 12, 12), ("large", 1024, 24, 16), ("giant", 1536, 40, 24)]
            let second = [("", 0), ("_reg4", 4)].flatMap { suffix, registers in
                sizes.map { size, embedDim, depth, heads in
                    Preset(
                        name: "vit_\(size)_patch14\(suffix)_dinov2", embedDim: embedDim, depth: depth,
                        numHeads: heads, patchSize: 14
                    ) {
                        $0.layerScale = true
                        ($0.registerTokens, $0.positionsCoverClass) = (registers, registers == 0)
                        if size == "giant" { ($0.activation, $0.mlpRatio) = (.swiglu, 4096.0 / 1536) }
                    }
                }
            }
            let third = [
                ("small", 384, 12, 6, false), ("small_plus", 384, 12, 6, true), ("base", 768, 12, 12, false),
                ("large", 1024, 24, 16, false), ("huge_plus", 1280, 32, 20, true),
            ].map { size, embedDim, depth, heads, isGated in
                Preset(
                    name: "vit_\(size)_patch16_dinov3", embedDim: embedDim, depth: depth, numHeads: heads,
                    patchSize: 16
                ) {
                    ($0.layerScale, $0.registerTokens, $0.positionsCoverClass) = (true, 4, false)
                    ($0.ropeTemperature, $0.normEpsilon) = (100, 1e-5)
                    if isGated { $0.activation = .swiglu }
                }
            }
            return plain + second + third
        }()

        package static var presets: [String] { table.map(\.name) }

        package static func preset(_ name: String, imageSize: Int, patchSize: Int?) throws -> Self {
            guard let row = table.first(where: { $0.name == name }) else {
                throw ModelError("unknown architecture '\(oneLine(name))'")
            }
            var sizes = Self(
                imageSize: imageSize, patchSize: patchSize ?? row.patchSize, embedDim: row.embedDim, depth: row.depth,
                numHeads: row.numHeads)
            row.more(&sizes)
            return sizes
        }

        package static let optionalKeys = [
            "mlp", "layer_scale", "reg_tokens", "no_embed_class", "rope_temperature", "norm_eps",
        ]

        package var json: [(key: String, value: JSONValue)] {
            var members: [(key: String, value: JSONValue)] = [
                ("image_size", .integer(imageSize)), ("patch_size", .integer(patchSize)),
                ("embed_dim", .integer(embedDim)), ("depth", .integer(depth)),
                ("num_heads", .integer(numHeads)), ("mlp_ratio", mlpRatio == 4 ? .integer(4) : .number(mlpRatio)),
            ]
            // What earlier builds do not know is written only where it is used.
            if activation != .gelu { members.append(("mlp", .string(activation.rawValue))) }
            if layerScale { members.append(("layer_scale", .bool(true))) }
            if registerTokens > 0 { members.append(("reg_tokens", .integer(registerTokens))) }
            if !positionsCoverClass { members.append(("no_embed_class", .bool(true))) }
            if let ropeTemperature { members.append(("rope_temperature", .number(ropeTemperature))) }
            if normEpsilon != 1e-6 { members.append(("norm_eps", .number(normEpsilon))) }
            return members
        }

        package init(json: JSONValue) throws {
            let key = ModelArchitecture.key
            self.init(
                imageSize: try json.integer("image_size", in: key), patchSize: try json.integer("patch_size", in: key),
                embedDim: try json.integer("embed_dim", in: key), depth: try json.integer("depth", in: key),
                numHeads: try json.integer("num_heads", in: key))
            mlpRatio = try json.number("mlp_ratio", in: key)
            func has(_ name: String) throws -> Bool { try json.member(name, in: key) != nil }
            if try has("mlp") { activation = try json.choice("mlp", in: key) }
            if try has("layer_scale") { layerScale = try json.bool("layer_scale", in: key) }
            if try has("reg_tokens") { registerTokens = try json.integer("reg_tokens", in: key) }
            if try has("no_embed_class") { positionsCoverClass = try !json.bool("no_embed_class", in: key) }
            if try has("rope_temperature") { ropeTemperature = try json.number("rope_temperature", in: key) }
            if try has("norm_eps") { normEpsilon = try json.number("norm_eps", in: key) }
        }

        package func validate() throws {
            try Self.check([
                ("image_size", imageSize, ModelBounds.imageSize), ("patch_size", patchSize, ModelBounds.patchSize),
                ("embed_dim", embedDim, ModelBounds.width),
                ("depth", depth, ModelBounds.depth), ("num_heads", numHeads, ModelBounds.heads),
                ("reg_tokens", registerTokens, 0...1_024),
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
            guard mlpRatio > 0, mlpRatio <= 64, hiddenDim >= 1 else {
                throw ModelError("mlp_ratio \(mlpRatio) is not supported (above 0, at most 64)")
            }
            guard registerTokens == 0 || !positionsCoverClass else {
                throw ModelError(
                    "reg_tokens \(registerTokens) need no_embed_class: neither they nor CLS have positions")
            }
            try Self.checkEpsilon("norm_eps", normEpsilon)
            guard let ropeTemperature else { return }
            guard ropeTemperature.isFinite, ropeTemperature > 1, embedDim / numHeads % 4 == 0 else {
                throw ModelError(
                    "rope_temperature \(ropeTemperature) with heads of \(embedDim / numHeads): it must be above 1, "
                        + "and the width of a head a multiple of 4")
            }
            let angles = (1 + registerTokens + grid * grid) * (embedDim / numHeads)
            guard angles <= ModelBounds.tableElements else {
                throw ModelError(
                    "rotary positions of \(angles) elements; at most \(ModelBounds.tableElements) are supported")
            }
        }

        package func makeBase(_ scope: ParameterScope, _ use: Use) -> any Base { VisionTransformer(scope, self, use) }
    }
}
