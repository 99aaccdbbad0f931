import HSSLGraph

/// Shifted-window blocks: windows of half of the grid, at most 7 places a side, every second block shifted by half a
/// window.
struct SwinHeadBlock: HeadBlock, HeadFamily {
    static let family = "swin"
    static let summary = "transformer blocks with attention in shifted windows"
    static let ownKeys = ["num_heads"]

    private let block: SwinBlock

    static func objection(to settings: HeadSettings, over input: GridShape) -> String? {
        objectionToHeads(settings, input)
    }

    static func makeBlock(
        _ scope: ParameterScope, over input: GridShape, _ settings: HeadSettings, index: Int, shortcut: Bool
    ) -> any HeadBlock {
        let side = input.grid.height, window = min(7, (side + 1) / 2)
        return Self(block: SwinBlock(
            scope, width: input.width, heads: heads(settings, input), grid: side, window: window,
            shift: index % 2 == 1 ? window / 2 : 0, shortcut: shortcut))
    }

    func callAsFunction(_ x: Tensor, _ pass: Pass, block index: Int) -> Tensor {
        block(x.flattenedGrid(), grid: x.grid, pass, block: index).reshaped(x.shape)
    }

    func mean(_ x: Tensor, _ pass: Pass, block index: Int) -> Tensor {
        block.mean(x.flattenedGrid(), grid: x.grid, pass, block: index)
    }
}

extension Tensor {
    /// Of [B, h, w, D].
    fileprivate var grid: Grid { Grid(height: shape[1], width: shape[2]) }
}
