import HSSLGraph

/// What an auxiliary head is made of, as a recipe says it; a family reads what it knows.
package struct HeadSettings: Equatable, Sendable {
    package var family: String
    /// Blocks.
    package var depth: Int
    /// Side of the depthwise convolution of `convnext`, odd.
    package var kernelSize = 7
    /// Whether the first block has its residual connections (published: no, which enlarges the discrepancy between head
    /// and base).
    package var firstShortcut = false
    /// Attention heads of `vit` and `swin`; nil: one for 32 channels, at least one.
    package var numHeads: Int?
    /// Inner channels of `resnet`'s bottleneck over its width.
    package var bottleneckRatio = 0.25
    /// Channels of the head; nil: the base's, at most 768.
    package var width: Int?

    package init(family: String, depth: Int) { (self.family, self.depth) = (family, depth) }
}

/// The grid that a head sees.
package struct GridShape: Equatable, Sendable {
    package var grid: Grid
    /// Channels D.
    package var width: Int

    package init(grid: Grid, width: Int) { (self.grid, self.width) = (grid, width) }
}

/// One block of an auxiliary head. `shortcut` false takes its residual connections away.
package protocol HeadBlock {
    /// x [B, h, w, D] → [B, h, w, D]; `block` is its place in the head, for stochastic depth.
    func callAsFunction(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor
    /// The mean of the output over the grid [B, D]. Blocks that end in a linear layer need it once a sample only.
    func mean(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor
}

extension HeadBlock {
    package func mean(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor {
        self(x, pass, block: block).flattenedGrid().meanOverTokens()
    }
}

/// A family of auxiliary heads: one file that conforms, and one row of `HeadFamilies`.
package protocol HeadFamily {
    /// e.g. `convnext`.
    static var family: String { get }
    /// A line for people who choose one.
    static var summary: String { get }
    /// Keys of a recipe's `auxiliary` section that this family alone, or with a few others, reads.
    static var ownKeys: [String] { get }
    /// Why a head over this grid makes no sense, e.g. because its shape is bound to another one; nil: it does.
    static func objection(to settings: HeadSettings, over input: GridShape) -> String?
    /// Whether the head takes grids of any size (local views have another one than global views).
    static var takesAnyGrid: Bool { get }
    static func makeBlock(
        _ scope: ParameterScope, over input: GridShape, _ settings: HeadSettings, index: Int, shortcut: Bool
    ) -> any HeadBlock
}

extension HeadFamily {
    package static func objection(to settings: HeadSettings, over input: GridShape) -> String? { nil }
    package static var takesAnyGrid: Bool { true }
    package static var ownKeys: [String] { [] }

    /// One head of attention for 32 channels unless the recipe says how many.
    static func heads(_ settings: HeadSettings, _ input: GridShape) -> Int {
        settings.numHeads ?? max(1, input.width / 32)
    }

    static func objectionToHeads(_ settings: HeadSettings, _ input: GridShape) -> String? {
        let heads = heads(settings, input)
        return input.width % heads == 0
            ? nil : "auxiliary.num_heads (\(heads)) does not divide the head's width (\(input.width))"
    }
}

/// The head families there are.
package enum HeadFamilies {
    package static var all: [any HeadFamily.Type] {
        [
            ConvNeXtHeadBlock.self, ResNetHeadBlock.self, ResMLPHeadBlock.self, SwinHeadBlock.self, ViTHeadBlock.self,
            PoolFormerHeadBlock.self,
        ]
    }

    package static func named(_ family: String) throws -> any HeadFamily.Type {
        guard let known = all.first(where: { $0.family == family }) else {
            throw ModelError(
                "unknown head family '\(family)' (known: \(all.map { $0.family }.joined(separator: ", ")))")
        }
        return known
    }
}

/// An auxiliary head: blocks of another architecture over the base's last grid, before its final norm. It is trained
/// with the base and thrown away after.
///
/// Source: arXiv 2310.05108.
package struct AuxiliaryHead {
    private let input: Linear?
    private let blocks: [any HeadBlock]
    private let norm: LayerNorm
    /// Channels of what the head gives.
    package let width: Int

    /// Blocks, for the schedule of stochastic depth (they follow the base's).
    package var depth: Int { blocks.count }

    /// - Throws: `ModelError` for an unknown family, or one that makes no sense over this grid.
    package init(_ scope: ParameterScope, over base: GridShape, _ settings: HeadSettings) throws {
        let family = try HeadFamilies.named(settings.family)
        width = settings.width ?? min(base.width, 768)
        let shape = GridShape(grid: base.grid, width: width)
        if let objection = family.objection(to: settings, over: shape) { throw ModelError(objection) }
        input = width == base.width ? nil : Linear(scope("input"), inputs: base.width, outputs: width)
        blocks = (0..<settings.depth).map {
            family.makeBlock(
                scope("blocks")("\($0)"), over: shape, settings, index: $0, shortcut: $0 > 0 || settings.firstShortcut)
        }
        norm = LayerNorm(scope("norm"), width: width, epsilon: 1e-6)
    }

    /// One vector a sample [B, width]: the norm of the mean over the grid of the last block's output.
    ///
    /// - Parameter cells: the base's last grid [B, h, w, D].
    package func global(_ cells: Tensor, _ pass: Pass) -> Tensor {
        let x = blocks.dropLast().enumerated().reduce(entered(cells)) { $1.element($0, pass, block: $1.offset) }
        guard let last = blocks.last else { return norm(x.flattenedGrid().meanOverTokens()) }
        let index = blocks.count - 1
        return norm(
            pass.plain
                ? last(x, pass, block: index).flattenedGrid().meanOverTokens() : last.mean(x, pass, block: index))
    }

    /// One vector a cell, after the norm: [B · N, width].
    package func local(_ cells: Tensor, _ pass: Pass) -> Tensor {
        let x = blocks.enumerated().reduce(entered(cells)) { $1.element($0, pass, block: $1.offset) }
        return norm(x.reshaped([x.rows, x.width]))
    }

    private func entered(_ cells: Tensor) -> Tensor { input?(cells) ?? cells }
}

extension Tensor {
    /// [B, h, w, D] → [B, h·w, D].
    package func flattenedGrid() -> Tensor { reshaped([shape[0], shape[1] * shape[2], shape[3]]) }
}
