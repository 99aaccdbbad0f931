import HSSLGraph

/// An auxiliary head: another architecture that sees the base's grid while training and is thrown away after. A new head is one file that conforms.
package protocol AuxiliaryHead {
    /// Blocks, for the schedule of stochastic depth (they follow the base's).
    var depth: Int { get }
    /// Tokens of the base before its final norm [B, 1+N, D] → the head's normalised CLS [B, D].
    func cls(_ tokens: Tensor, grid: Grid, stochasticDepth: StochasticDepth?, firstBlock: Int) -> Tensor
    /// The same value by the plain definition, block by block: the oracle of `cls` in tests.
    func plainCLS(_ tokens: Tensor, grid: Grid, stochasticDepth: StochasticDepth?, firstBlock: Int) -> Tensor
}

/// ConvNeXt blocks over the grid of patch tokens; CLS = mean over the grid of the last block's output, then LayerNorm (ε 1e-6).
///
/// Source: arXiv 2310.05108 (the first block has no shortcut, which enlarges the discrepancy between head and base); blocks as Liu et al., CVPR 2022, without
/// layer scale.
package struct ConvNeXtHead: AuxiliaryHead {
    private let blocks: [Block]
    private let norm: LayerNorm

    package var depth: Int { blocks.count }

    /// - Parameters:
    ///   - kernel: side of the depthwise convolution, odd.
    ///   - firstShortcut: whether the first block has a residual connection (published: no).
    package init(_ scope: ParameterScope, width: Int, depth: Int, kernel: Int, firstShortcut: Bool) {
        blocks = (0..<depth).map { Block(scope("blocks")("\($0)"), width: width, kernel: kernel, shortcut: $0 > 0 || firstShortcut) }
        norm = LayerNorm(scope("norm"), width: width, epsilon: 1e-6)
    }

    package func cls(_ tokens: Tensor, grid: Grid, stochasticDepth: StochasticDepth?, firstBlock: Int) -> Tensor {
        var x = patchGrid(tokens, grid)
        for (index, block) in blocks.dropLast().enumerated() {
            x = block(x, scale: block.dropScale(stochasticDepth, firstBlock + index))
        }
        guard let last = blocks.last else { return norm(x.flattenedGrid().meanOverTokens()) }
        return norm(last.mean(x, scale: last.dropScale(stochasticDepth, firstBlock + depth - 1)))
    }

    package func plainCLS(_ tokens: Tensor, grid: Grid, stochasticDepth: StochasticDepth?, firstBlock: Int) -> Tensor {
        var x = patchGrid(tokens, grid)
        for (index, block) in blocks.enumerated() { x = block(x, scale: block.dropScale(stochasticDepth, firstBlock + index)) }
        return norm(x.flattenedGrid().meanOverTokens())
    }

    /// [B, 1+N, D] → [B, h, w, D].
    private func patchGrid(_ tokens: Tensor, _ grid: Grid) -> Tensor {
        let patches = tokens.droppingTokens(1)
        return patches.reshaped([patches.shape[0], grid.height, grid.width, patches.shape[2]])
    }

    /// Depthwise k×k → LayerNorm (ε 1e-5) → Linear D→4D → GELU → Linear 4D→D, plus the shortcut if there is one.
    private struct Block {
        let dwconv: DepthwiseConv
        let norm: LayerNorm
        let pwconv1: Linear
        let pwconv2: Linear
        let shortcut: Bool

        init(_ scope: ParameterScope, width: Int, kernel: Int, shortcut: Bool) {
            dwconv = DepthwiseConv(scope("dwconv"), channels: width, kernel: kernel)
            norm = LayerNorm(scope("norm"), width: width, epsilon: 1e-5)
            pwconv1 = Linear(scope("pwconv1"), inputs: width, outputs: 4 * width)
            pwconv2 = Linear(scope("pwconv2"), inputs: 4 * width, outputs: width)
            self.shortcut = shortcut
        }

        /// A block without shortcut is never dropped, but keeps its place in the sequence of rates.
        func dropScale(_ stochasticDepth: StochasticDepth?, _ index: Int) -> [Float]? {
            shortcut ? stochasticDepth?.scale(block: index, branch: 0) : nil
        }

        /// x [B, h, w, D] → [B, h, w, D].
        func callAsFunction(_ x: Tensor, scale: [Float]?) -> Tensor {
            shortcut ? x.adding(scale: scale) { pwconv2(hidden($0)) } : pwconv2(hidden(x))
        }

        /// Mean over the grid of the block's output [B, D]: pwconv2 is linear, so it runs once a crop, on the mean of its input.
        func mean(_ x: Tensor, scale: [Float]?) -> Tensor {
            func branch(_ x: Tensor) -> Tensor { pwconv2(hidden(x).flattenedGrid().meanOverTokens()) }
            return shortcut ? x.flattenedGrid().meanOverTokens().adding(of: x, scale: scale, branch: branch) : branch(x)
        }

        private func hidden(_ x: Tensor) -> Tensor { pwconv1(norm(dwconv(x)), activation: .gelu) }
    }
}

extension Tensor {
    /// [B, h, w, D] → [B, h·w, D].
    fileprivate func flattenedGrid() -> Tensor { reshaped([shape[0], shape[1] * shape[2], shape[3]]) }
}
