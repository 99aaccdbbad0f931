import HSSLGraph

/// Pre-norm transformer blocks over the cells of the grid, without CLS and without positions (the base's tokens carry
/// them).
struct ViTHeadBlock: HeadBlock, HeadFamily {
    static let family = "vit"
    static let summary = "transformer blocks with global attention"
    static let ownKeys = ["num_heads"]

    private let block: TransformerBlock

    static func objection(to settings: HeadSettings, over input: GridShape) -> String? {
        objectionToHeads(settings, input)
    }

    static func makeBlock(
        _ scope: ParameterScope, over input: GridShape, _ settings: HeadSettings, index: Int, shortcut: Bool
    ) -> any HeadBlock {
        Self(block: TransformerBlock(scope, width: input.width, heads: heads(settings, input), shortcut: shortcut))
    }

    func callAsFunction(_ x: Tensor, _ pass: Pass, block index: Int) -> Tensor {
        block(x.flattenedGrid(), pass, block: index).reshaped(x.shape)
    }

    func mean(_ x: Tensor, _ pass: Pass, block index: Int) -> Tensor {
        block.mean(x.flattenedGrid(), pass, block: index)
    }
}
