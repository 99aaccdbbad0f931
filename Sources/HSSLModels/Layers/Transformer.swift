import HSSLGraph

/// fc2(GELU(fc1(x))), D → 4·D → D.
package struct MLP {
    private let fc1: Linear
    private let fc2: Linear

    package init(_ scope: ParameterScope, width: Int) {
        fc1 = Linear(scope("fc1"), inputs: width, outputs: 4 * width)
        fc2 = Linear(scope("fc2"), inputs: 4 * width, outputs: width)
    }

    /// x [..., D] → [..., D].
    package func callAsFunction(_ x: Tensor) -> Tensor { fc2(fc1(x, activation: .gelu)) }

    /// Mean of the result over tokens: x [B, N, D] → [B, D]. fc2 is linear, so it runs once a sample, on the mean of
    /// its input.
    package func mean(_ x: Tensor) -> Tensor { fc2(fc1(x, activation: .gelu).meanOverTokens()) }
}

/// A residual branch, or where the shortcut is missing the branch alone.
package struct Branch {
    /// Whether x is added to what the branch makes of it.
    package let shortcut: Bool

    package init(shortcut: Bool) { self.shortcut = shortcut }

    /// x + scale·body(x), or body(x). A branch without shortcut is never dropped.
    package func callAsFunction(_ x: Tensor, scale: @autoclosure () -> [Float]?, _ body: (Tensor) -> Tensor) -> Tensor {
        shortcut ? x.adding(scale: scale(), branch: body) : body(x)
    }

    /// The same for a body that gives the mean of the branch over tokens: x [B, N, D] → [B, D].
    package func mean(_ x: Tensor, scale: @autoclosure () -> [Float]?, _ body: (Tensor) -> Tensor) -> Tensor {
        shortcut ? x.meanOverTokens().adding(of: x, scale: scale(), branch: body) : body(x)
    }
}

/// Pre-norm transformer block: x + attention(LN(x)), then x + MLP(LN(x)), LayerNorm ε 1e-6.
package struct TransformerBlock {
    private let norm1: LayerNorm
    private let qkv: Linear
    private let projection: Linear
    private let norm2: LayerNorm
    private let mlp: MLP
    private let heads: Int
    private let branch: Branch

    package init(_ scope: ParameterScope, width: Int, heads: Int, shortcut: Bool = true) {
        norm1 = LayerNorm(scope("norm1"), width: width, epsilon: 1e-6)
        qkv = Linear(scope("attn")("qkv"), inputs: width, outputs: 3 * width)
        projection = Linear(scope("attn")("proj"), inputs: width, outputs: width)
        norm2 = LayerNorm(scope("norm2"), width: width, epsilon: 1e-6)
        mlp = MLP(scope("mlp"), width: width)
        self.heads = heads
        branch = Branch(shortcut: shortcut)
    }

    /// x [B, N, D] → [B, N, D].
    package func callAsFunction(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor {
        branch(mix(x, pass, block), scale: pass.scale(block: block, branch: 1)) { mlp(norm2($0)) }
    }

    /// The mean of the block's output over tokens [B, D].
    package func mean(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor {
        branch.mean(mix(x, pass, block), scale: pass.scale(block: block, branch: 1)) { mlp.mean(norm2($0)) }
    }

    private func mix(_ x: Tensor, _ pass: Pass, _ block: Int) -> Tensor {
        branch(x, scale: pass.scale(block: block, branch: 0)) { projection(qkv(norm1($0)).attention(heads: heads)) }
    }
}
