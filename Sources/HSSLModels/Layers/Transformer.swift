import HSSLGraph

/// fc2(GELU(fc1(x))), D → H → D; or with a gate fc2(silu(g)·u), where fc1 gives [g, u], D → 2·H.
package struct MLP {
    package enum Activation: String, Sendable, CaseIterable { case gelu, swiglu }

    private let fc1: Linear
    private let fc2: Linear
    private let activation: Activation

    /// - Parameter hidden: H; nil: 4·D.
    package init(_ scope: ParameterScope, width: Int, hidden: Int? = nil, activation: Activation = .gelu) {
        let hidden = hidden ?? 4 * width
        fc1 = Linear(scope("fc1"), inputs: width, outputs: activation == .swiglu ? 2 * hidden : hidden)
        fc2 = Linear(scope("fc2"), inputs: hidden, outputs: width)
        self.activation = activation
    }

    private func hidden(_ x: Tensor) -> Tensor { activation == .swiglu ? fc1(x).gated() : fc1(x, activation: .gelu) }

    /// x [..., D] → [..., D].
    package func callAsFunction(_ x: Tensor) -> Tensor { fc2(hidden(x)) }

    /// Mean of the result over tokens: x [B, N, D] → [B, D]. fc2 is linear, so it runs once a sample, on the mean of
    /// its input.
    package func mean(_ x: Tensor) -> Tensor { fc2(hidden(x).meanOverTokens()) }
}

/// gamma·x: what a residual branch is multiplied by, channel by channel; timm's name `gamma`. The runtime multiplies it
/// into the product before it.
struct LayerScale {
    private let gamma: Parameter

    /// Starts at 1e-5, as DINOv2.
    init(_ scope: ParameterScope, width: Int) { gamma = scope.declare("gamma", [width], .constant(1e-5)) }

    func callAsFunction(_ x: Tensor) -> Tensor { x.scaledChannels(by: x.tape.parameter(gamma)) }
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

/// Pre-norm transformer block: x + attention(LN(x)), then x + MLP(LN(x)).
package struct TransformerBlock {
    /// What blocks may have besides width and heads.
    package struct Options: Equatable, Sendable {
        /// Width of the MLP; nil: four times the block's.
        package var hidden: Int?
        package var activation = MLP.Activation.gelu
        package var layerScale = false
        /// Of the norms.
        package var epsilon: Float = 1e-6

        package init() {}
    }

    private let scales: (attention: LayerScale, mlp: LayerScale)?
    private let norm1: LayerNorm
    private let qkv: Linear
    private let projection: Linear
    private let norm2: LayerNorm
    private let mlp: MLP
    private let heads: Int
    private let branch: Branch

    package init(
        _ scope: ParameterScope, width: Int, heads: Int, shortcut: Bool = true, options: Options = Options()
    ) {
        norm1 = LayerNorm(scope("norm1"), width: width, epsilon: options.epsilon)
        qkv = Linear(scope("attn")("qkv"), inputs: width, outputs: 3 * width)
        projection = Linear(scope("attn")("proj"), inputs: width, outputs: width)
        norm2 = LayerNorm(scope("norm2"), width: width, epsilon: options.epsilon)
        mlp = MLP(scope("mlp"), width: width, hidden: options.hidden, activation: options.activation)
        scales = options.layerScale
            ? (LayerScale(scope("ls1"), width: width), LayerScale(scope("ls2"), width: width)) : nil
        self.heads = heads
        branch = Branch(shortcut: shortcut)
    }

    /// x [B, N, D] → [B, N, D].
    ///
    /// - Parameter rotation: angles of rotary positions [N, D/heads], see `Tensor.rotated`; nil: none.
    package func callAsFunction(_ x: Tensor, _ pass: Pass, block: Int, rotation: Tensor? = nil) -> Tensor {
        branch(mix(x, pass, block, rotation), scale: pass.scale(block: block, branch: 1)) {
            let y = mlp(norm2($0))
            return scales?.mlp(y) ?? y
        }
    }

    /// The mean of the block's output over tokens [B, D].
    package func mean(_ x: Tensor, _ pass: Pass, block: Int) -> Tensor {
        branch.mean(mix(x, pass, block, nil), scale: pass.scale(block: block, branch: 1)) {
            let y = mlp.mean(norm2($0))
            return scales?.mlp(y) ?? y
        }
    }

    private func mix(_ x: Tensor, _ pass: Pass, _ block: Int, _ rotation: Tensor?) -> Tensor {
        branch(x, scale: pass.scale(block: block, branch: 0)) {
            var tokens = qkv(norm1($0))
            if let rotation { tokens = tokens.rotated(heads: heads, table: rotation) }
            let y = projection(tokens.attention(heads: heads))
            return scales?.attention(y) ?? y
        }
    }
}
