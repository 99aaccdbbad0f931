import HSSLFormats
import HSSLGraph

/// Bottleneck ResNet with group norm; timm's parameter names (`resnet50_gn`). While training, the weights of its
/// convolutions are standardised, so that no statistic of a batch is needed; an exported model holds the standardised
/// weights and is an ordinary ResNet. Or without norms: the convolutions of an imported ResNet, into which its batch
/// norms were multiplied; they have biases. Strides are in the 3×3 convolutions ("v1.5").
///
/// Source: He et al., CVPR 2016; Wu & He, "Group normalization", ECCV 2018; Qiao et al. 2019; timm `resnet.py`. It has
/// no token stage: nothing can be masked.
package struct ResNet: Base {
    package var maskToken: Parameter? { nil }
    private let sizes: Configuration
    private let conv1: Convolution
    private let norm1: GroupNorm?
    private let stages: [[Bottleneck]]

    package var width: Int { 4 * sizes.planes[sizes.planes.count - 1] }
    package var blocks: Int { sizes.layers.reduce(0, +) }

    init(_ scope: ParameterScope, _ sizes: Configuration, _ use: Use) {
        self.sizes = sizes
        let standardization: Float? = use == .pretraining && sizes.norm == .group ? 1e-6 : nil
        let stem: Convolution.Shape = sizes.stem == .imagenet
            ? .init(inputs: 3, outputs: sizes.planes[0], kernel: 7, stride: 2, padding: 3)
            : .init(inputs: 3, outputs: sizes.planes[0], kernel: 3, padding: 1)
        conv1 = Convolution(
            scope("conv1"), stem, from: .image, bias: sizes.norm == .none, standardization: standardization)
        norm1 = sizes.norm == .group ? GroupNorm(scope("bn1"), channels: sizes.planes[0]) : nil
        var inputs = sizes.planes[0]
        stages = sizes.planes.indices.map { stage in
            (0..<sizes.layers[stage]).map { layer in
                defer { inputs = 4 * sizes.planes[stage] }
                return Bottleneck(scope("layer\(stage + 1)")("\(layer)"), inputs: inputs, planes: sizes.planes[stage],
                                  stride: stage > 0 && layer == 0 ? 2 : 1, norm: sizes.norm,
                                  standardization: standardization)
            }
        }
    }

    package func grid(height: Int, width: Int) -> Grid {
        var grid = conv1.grid(Grid(height: height, width: width))
        func halve() { grid = Grid(height: (grid.height + 1) / 2, width: (grid.width + 1) / 2) }
        if sizes.stem == .imagenet { halve() }
        for _ in stages.dropFirst() { halve() }
        return grid
    }

    package func callAsFunction(_ images: Tensor, mask: [UInt8]?, _ pass: Pass) -> BaseOutput {
        var x = conv1(images)
        x = (norm1?(x) ?? x).relu()
        if sizes.stem == .imagenet { x = x.pooled(.max, kernel: 3, stride: 2, padding: 1) }
        for (index, block) in stages.joined().enumerated() { x = block(x, scale: pass.scale(block: index, branch: 0)) }
        let grid = Grid(height: x.shape[1], width: x.shape[2])
        return BaseOutput(tokens: x.reshaped([x.shape[0], grid.count, x.width]), grid: grid)
    }

    package func global(_ output: BaseOutput) -> Tensor { output.tokens.meanOverTokens() }

    package func local(_ output: BaseOutput, cells: [Int32]?) -> Tensor {
        output.tokens.gatheringRows(output.rows(ofCells: cells))
    }

    /// A convolution and, where there is one, its norm.
    private struct Layer {
        let convolution: Convolution
        let norm: GroupNorm?

        func callAsFunction(_ x: Tensor) -> Tensor {
            let y = convolution(x)
            return norm?(y) ?? y
        }
    }

    /// ReLU(shortcut(x) + norm(1×1(ReLU(norm(3×3(ReLU(norm(1×1(x))))))))).
    private struct Bottleneck {
        private let layers: [Layer]
        private let downsample: Layer?

        init(
            _ scope: ParameterScope, inputs: Int, planes: Int, stride: Int, norm: Configuration.Norm,
            standardization: Float?
        ) {
            func layer(_ convolution: String, _ name: String, _ shape: Convolution.Shape) -> Layer {
                Layer(
                    convolution: Convolution(
                        scope(convolution), shape, bias: norm == .none, standardization: standardization),
                    norm: norm == .group ? GroupNorm(scope(name), channels: shape.outputs) : nil)
            }
            layers = [
                layer("conv1", "bn1", .init(inputs: inputs, outputs: planes, kernel: 1)),
                layer("conv2", "bn2", .init(inputs: planes, outputs: planes, kernel: 3, stride: stride, padding: 1)),
                layer("conv3", "bn3", .init(inputs: planes, outputs: 4 * planes, kernel: 1)),
            ]
            downsample = stride == 1 && inputs == 4 * planes ? nil
                : layer(
                    "downsample.0", "downsample.1",
                    .init(inputs: inputs, outputs: 4 * planes, kernel: 1, stride: stride))
        }

        /// x [B, h, w, C] → [B, h', w', 4·planes].
        func callAsFunction(_ x: Tensor, scale: [Float]?) -> Tensor {
            let shortcut = downsample?(x) ?? x
            return shortcut.adding(of: x, scale: scale) { x in
                let inner = layers.dropLast().reduce(x) { $1($0).relu() }
                return layers.suffix(1).reduce(inner) { $1($0) }
            }.relu()
        }
    }

    /// Sizes of a ResNet; lists have one value a stage.
    package struct Configuration: BaseConfiguration {
        /// The first layer: 7×7 in steps of 2 and max pooling, or for small images 3×3.
        package enum Stem: String, Sendable { case imagenet, small }

        /// `none`: batch norms became part of the convolutions.
        package enum Norm: String, Sendable, CaseIterable { case group, none }

        package var imageSize: Int
        package var norm = Norm.group
        package var stem: Stem
        /// Channels of the 3×3 convolutions; a block's output has four times as many.
        package var planes: [Int]
        package var layers: [Int]

        package init(imageSize: Int, stem: Stem, planes: [Int], layers: [Int], norm: Norm = .group) {
            (self.imageSize, self.stem, self.planes, self.layers) = (imageSize, stem, planes, layers)
            self.norm = norm
        }

        package var patchSizeOfPreset: Int? { nil }

        package static let family = "resnet"
        package static let title = "ResNet"

        private static let table: [(name: String, stem: Stem, planes: [Int], layers: [Int], norm: Norm)] = [
            ("resnet_micro", .small, [12, 24], [2, 2], .group),
            ("resnet50_gn", .imagenet, [64, 128, 256, 512], [3, 4, 6, 3], .group),
            ("resnet50", .imagenet, [64, 128, 256, 512], [3, 4, 6, 3], .none),
        ]

        package static var presets: [String] { table.map(\.name) }

        package static func preset(_ name: String, imageSize: Int, patchSize: Int?) throws -> Self {
            guard let row = table.first(where: { $0.name == name }) else {
                throw ModelError("unknown architecture '\(oneLine(name))'")
            }
            guard patchSize == nil else { throw ModelError("\(name) has no patches: model.patch_size is not for it") }
            return Self(imageSize: imageSize, stem: row.stem, planes: row.planes, layers: row.layers, norm: row.norm)
        }

        package static let optionalKeys = ["norm"]

        package var json: [(key: String, value: JSONValue)] {
            let norm: [(String, JSONValue)] = norm == .group ? [] : [("norm", .string(norm.rawValue))]
            return [
                ("image_size", .integer(imageSize)), ("stem", .string(stem.rawValue)),
                ("planes", .array(planes.map { .integer($0) })),
                ("layers", .array(layers.map { .integer($0) })),
            ] + norm
        }

        package init(json: JSONValue) throws {
            let key = ModelArchitecture.key
            let name = try json.string("stem", in: key)
            guard let stem = Stem(rawValue: name) else {
                throw ModelError("unknown stem '\(oneLine(name))' (known: imagenet, small)")
            }
            self.init(
                imageSize: try json.integer("image_size", in: key), stem: stem,
                planes: try json.integers("planes", in: key), layers: try json.integers("layers", in: key))
            if try json.member("norm", in: key) != nil { norm = try json.choice("norm", in: key) }
        }

        package func validate() throws {
            try Self.check(
                [
                    ("image_size", imageSize, ModelBounds.imageSize),
                    ("number of layers", layers.count, ModelBounds.stages)])
            try Self.check("layers", layers, ModelBounds.depth)
            // A bottleneck ends in four times as many channels, which a group norm takes.
            try Self.check("planes", planes, 1...ModelBounds.groupNormChannels / 4)
            guard planes.count == layers.count else {
                throw ModelError("planes has \(planes.count) values for \(layers.count) stages")
            }
            let cells = stem == .imagenet ? (imageSize + 1) / 2 * ((imageSize + 1) / 2) : imageSize * imageSize
            guard cells <= ModelBounds.cells else {
                throw ModelError("\(cells) cells after the stem; at most \(ModelBounds.cells) are supported")
            }
        }

        package func makeBase(_ scope: ParameterScope, _ use: Use) -> any Base { ResNet(scope, self, use) }
    }
}
