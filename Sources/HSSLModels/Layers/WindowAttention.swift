import HSSLGraph

/// Where the tokens of shifted windows are, for one grid.
///
/// The grid is rolled by −shift, then padded to whole windows with zeros, then cut into windows of size × size, row by
/// row. Source: timm `swin_transformer.py`. Or it is padded before it is rolled, as the authors' code, transformers and
/// torchvision do; where nothing is padded that is the same.
struct WindowLayout {
    /// Windows of one image.
    let windows: Int
    /// Token of the grid at each place of the windows [windows · size²]; −1: padding.
    let toWindows: [Int32]
    /// The way back: place in the windows of each token of the grid.
    let toGrid: [Int32]
    /// −100 where two places of a window were no neighbours before the roll [windows, size², size²]; nil without a
    /// shift.
    let mask: [Float]?

    init(grid: Grid, size: Int, shift: Int, padsFirst: Bool = false) {
        let (rows, columns) = ((grid.height + size - 1) / size, (grid.width + size - 1) / size)
        windows = rows * columns
        let area = size * size
        var toWindows = [Int32](repeating: -1, count: windows * area)
        var toGrid = [Int32](repeating: 0, count: grid.count)
        // Which of the three strips of an axis a place of the padded grid lies in.
        func strip(_ position: Int, of length: Int) -> Int {
            position < length - size ? 0 : position < length - shift ? 1 : 2
        }
        var region = [Int](repeating: 0, count: windows * area)
        for i in 0..<rows * size {
            for j in 0..<columns * size {
                let place = ((i / size) * columns + j / size) * area + (i % size) * size + j % size
                region[place] = 3 * strip(i, of: rows * size) + strip(j, of: columns * size)
                let token: Int
                if padsFirst {
                    let (row, column) = ((i + shift) % (rows * size), (j + shift) % (columns * size))
                    guard row < grid.height, column < grid.width else { continue }
                    token = row * grid.width + column
                } else {
                    guard i < grid.height, j < grid.width else { continue }
                    token = (i + shift) % grid.height * grid.width + (j + shift) % grid.width
                }
                toWindows[place] = Int32(token)
                toGrid[token] = Int32(place)
            }
        }
        (self.toWindows, self.toGrid) = (toWindows, toGrid)
        guard shift > 0 else {
            mask = nil
            return
        }
        var mask = [Float](repeating: 0, count: windows * area * area)
        for window in 0..<windows {
            for a in 0..<area {
                for b in 0..<area where region[window * area + a] != region[window * area + b] {
                    mask[(window * area + a) * area + b] = -100
                }
            }
        }
        self.mask = mask
    }
}

/// Attention within windows, with a learned bias for every relative position: timm's names `qkv`, `proj`,
/// `relative_position_bias_table`.
struct WindowAttention {
    private let qkv: Linear
    private let projection: Linear
    private let table: Parameter
    private let heads: Int
    /// Places a side of a window.
    private let size: Int

    init(_ scope: ParameterScope, width: Int, heads: Int, size: Int) {
        qkv = Linear(scope("qkv"), inputs: width, outputs: 3 * width)
        projection = Linear(scope("proj"), inputs: width, outputs: width)
        table = scope.declare(
            "relative_position_bias_table", [(2 * size - 1) * (2 * size - 1), heads],
            .truncatedNormal(standardDeviation: 0.02))
        (self.heads, self.size) = (heads, size)
    }

    /// x [B, windows · size², D] → the same.
    func callAsFunction(_ x: Tensor, _ layout: WindowLayout) -> Tensor {
        let (tape, area) = (x.tape, size * size)
        let mask = layout.mask.map { tape.constant($0, shape: [layout.windows, area, area]) }
        let windows = qkv(x).reshaped([x.shape[0] * layout.windows, area, 3 * x.width])
        return projection(windows.attention(heads: heads, bias: bias(tape), mask: mask).reshaped(x.shape))
    }

    /// [heads, size², size²]: the row of the table for the distance between each pair of places.
    private func bias(_ tape: Tape) -> Tensor {
        let area = size * size
        let index = (0..<area).flatMap { a in
            (0..<area).map { b in
                Int32((a / size - b / size + size - 1) * (2 * size - 1) + a % size - b % size + size - 1)
            }
        }
        return tape.parameter(table).gatheringRows(index).reshaped([1, area
            * area, heads]).transposedTokens().reshaped([heads, area, area])
    }
}

/// Shifted-window block over grids: x + window attention(LN(x)), then x + MLP(LN(x)), LayerNorm ε 1e-5.
///
/// Source: Liu et al., "Swin transformer", ICCV 2021; timm `swin_transformer.py`.
package struct SwinBlock {
    private let norm1: LayerNorm
    private let attention: WindowAttention
    private let norm2: LayerNorm
    private let mlp: MLP
    private let size: Int
    private let shift: Int
    private let padsFirst: Bool
    private let branch: Branch

    /// - Parameters:
    ///   - grid: cells a side that the model is made for. A window that is not smaller becomes the whole grid,
    ///     unshifted (timm's rule).
    ///   - window: places a side.
    ///   - padsFirst: see `WindowLayout`.
    package init(
        _ scope: ParameterScope, width: Int, heads: Int, grid: Int, window: Int, shift: Int, shortcut: Bool = true,
        padsFirst: Bool = false
    ) {
        self.padsFirst = padsFirst
        (size, self.shift) = window >= grid ? (grid, 0) : (window, shift)
        norm1 = LayerNorm(scope("norm1"), width: width, epsilon: 1e-5)
        attention = WindowAttention(scope("attn"), width: width, heads: heads, size: size)
        norm2 = LayerNorm(scope("norm2"), width: width, epsilon: 1e-5)
        mlp = MLP(scope("mlp"), width: width)
        branch = Branch(shortcut: shortcut)
    }

    /// x [B, h·w, D] on `grid` → the same.
    package func callAsFunction(_ x: Tensor, grid: Grid, _ pass: Pass, block: Int) -> Tensor {
        branch(mix(x, grid, pass, block), scale: pass.scale(block: block, branch: 1)) { mlp(norm2($0)) }
    }

    /// The mean of the block's output over the grid [B, D].
    package func mean(_ x: Tensor, grid: Grid, _ pass: Pass, block: Int) -> Tensor {
        branch.mean(mix(x, grid, pass, block), scale: pass.scale(block: block, branch: 1)) { mlp.mean(norm2($0)) }
    }

    private func mix(_ x: Tensor, _ grid: Grid, _ pass: Pass, _ block: Int) -> Tensor {
        let layout = WindowLayout(grid: grid, size: size, shift: shift, padsFirst: padsFirst)
        return branch(x, scale: pass.scale(block: block, branch: 0)) {
            attention(norm1($0).permutingTokens(layout.toWindows), layout).permutingTokens(layout.toGrid)
        }
    }
}
