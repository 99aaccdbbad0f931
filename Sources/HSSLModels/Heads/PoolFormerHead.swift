import HSSLGraph

/// Average pooling over 3×3 cells in place of attention, then an MLP, each after a group norm with one group over the
/// whole grid.
///
/// With a shortcut x + pool(n) − n; without one pool(n): pool(n) − n alone would be a high-pass filter. Source: Yu et
/// al., "MetaFormer", CVPR 2022.
struct PoolFormerHeadBlock: HeadBlock, HeadFamily {
    static let family = "poolformer"
    static let summary = "PoolFormer blocks: average pooling mixes positions"

    private let norm1: GroupNorm
    private let norm2: GroupNorm
    private let mlp: MLP
    private let branch: Branch

    static func makeBlock(
        _ scope: ParameterScope, over input: GridShape, _ settings: HeadSettings, index: Int, shortcut: Bool
    ) -> any HeadBlock {
        Self(scope, width: input.width, shortcut: shortcut)
    }

    private init(_ scope: ParameterScope, width: Int, shortcut: Bool) {
        norm1 = GroupNorm(scope("norm1"), channels: width, groups: 1)
        norm2 = GroupNorm(scope("norm2"), channels: width, groups: 1)
        mlp = MLP(scope("mlp"), width: width)
        branch = Branch(shortcut: shortcut)
    }

    func callAsFunction(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor {
        branch(mix(x, pass, block), scale: pass.scale(block: block, branch: 1)) { mlp(norm2($0)) }
    }

    func mean(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor {
        let middle = mix(x, pass, block).flattenedGrid()
        return branch.mean(middle, scale: pass.scale(block: block, branch: 1)) { mlp.mean(norm2($0)) }
    }

    private func mix(_ x: Tensor, _ pass: Pass, _ block: Int) -> Tensor {
        branch(x, scale: pass.scale(block: block, branch: 0)) { x in
            let normalized = norm1(x), pooled = normalized.pooled(.average, kernel: 3, stride: 1, padding: 1)
            let minus = [Float](repeating: -1, count: x.shape[0])
            return branch.shortcut ? pooled.adding(branch: normalized, scale: minus) : pooled
        }
    }
}
