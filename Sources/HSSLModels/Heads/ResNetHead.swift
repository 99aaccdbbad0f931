import HSSLGraph

/// ResNet bottleneck with group norm: ReLU(x + norm3(1×1(ReLU(norm2(3×3(ReLU(norm1(1×1(x))))))))). Without a shortcut:
/// ReLU of the branch alone.
struct ResNetHeadBlock: HeadBlock, HeadFamily {
    static let family = "resnet"
    static let summary = "bottleneck blocks with group norm"
    static let ownKeys = ["bottleneck_ratio"]

    private let layers: [(convolution: Convolution, norm: GroupNorm)]
    private let branch: Branch

    static func objection(to settings: HeadSettings, over input: GridShape) -> String? {
        inner(settings, input) >= 1
            ? nil : "auxiliary.bottleneck_ratio (\(settings.bottleneckRatio)) leaves no channel of \(input.width)"
    }

    private static func inner(_ settings: HeadSettings, _ input: GridShape) -> Int {
        Int(Double(input.width) * settings.bottleneckRatio)
    }

    static func makeBlock(
        _ scope: ParameterScope, over input: GridShape, _ settings: HeadSettings, index: Int, shortcut: Bool
    ) -> any HeadBlock {
        Self(scope, width: input.width, inner: inner(settings, input), shortcut: shortcut)
    }

    private init(_ scope: ParameterScope, width: Int, inner: Int, shortcut: Bool) {
        let shapes: [Convolution.Shape] = [
            .init(inputs: width, outputs: inner, kernel: 1),
            .init(inputs: inner, outputs: inner, kernel: 3, padding: 1),
            .init(inputs: inner, outputs: width, kernel: 1),
        ]
        layers = shapes.enumerated().map {
            (
                Convolution(scope("conv\($0 + 1)"), $1, bias: false),
                GroupNorm(scope("norm\($0 + 1)"), channels: $1.outputs))
        }
        branch = Branch(shortcut: shortcut)
    }

    func callAsFunction(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor {
        branch(x, scale: pass.scale(block: block, branch: 0)) { x in
            let inner = layers.dropLast().reduce(x) { $1.norm($1.convolution($0)).relu() }
            return layers.suffix(1).reduce(inner) { $1.norm($1.convolution($0)) }
        }.relu()
    }
}
