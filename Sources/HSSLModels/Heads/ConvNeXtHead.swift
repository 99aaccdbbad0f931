import HSSLGraph

/// Depthwise k×k → LayerNorm (ε 1e-5) → Linear D→4D → GELU → Linear 4D→D, no layer scale: the published head.
struct ConvNeXtHeadBlock: HeadBlock, HeadFamily {
    static let family = "convnext"
    static let summary = "ConvNeXt blocks: the published head"
    static let ownKeys = ["kernel_size"]

    private let dwconv: DepthwiseConv
    private let norm: LayerNorm
    private let pwconv1: Linear
    private let pwconv2: Linear
    private let branch: Branch

    static func makeBlock(
        _ scope: ParameterScope, over input: GridShape, _ settings: HeadSettings, index: Int, shortcut: Bool
    ) -> any HeadBlock {
        Self(scope, width: input.width, kernel: settings.kernelSize, shortcut: shortcut)
    }

    private init(_ scope: ParameterScope, width: Int, kernel: Int, shortcut: Bool) {
        dwconv = DepthwiseConv(scope("dwconv"), channels: width, kernel: kernel)
        norm = LayerNorm(scope("norm"), width: width, epsilon: 1e-5)
        pwconv1 = Linear(scope("pwconv1"), inputs: width, outputs: 4 * width)
        pwconv2 = Linear(scope("pwconv2"), inputs: 4 * width, outputs: width)
        branch = Branch(shortcut: shortcut)
    }

    func callAsFunction(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor {
        branch(x, scale: pass.scale(block: block, branch: 0)) { pwconv2(hidden($0)) }
    }

    func mean(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor {
        func mean(_ x: Tensor) -> Tensor { pwconv2(hidden(x).flattenedGrid().meanOverTokens()) }
        return branch.shortcut
            ? x.flattenedGrid().meanOverTokens().adding(
                of: x, scale: pass.scale(block: block, branch: 0), branch: mean) : mean(x)
    }

    private func hidden(_ x: Tensor) -> Tensor { pwconv1(norm(dwconv(x)), activation: .gelu) }
}
