/// The operation set. Everything that a model does is one of these; each has a forward (HSSLGraph/Operations), a backward rule (HSSLGradients/Rules) and a
/// lowering (HSSLRuntime). The switches over it are exhaustive, so an operation without a rule does not compile.
///
/// `saved` below is what a training tape keeps for the backward rule, in this order; inputs and outputs of attention, norms, GELU and convolutions as
/// `Tape.activation` stores them.
public enum Operation {
    /// image [B, C, H, W] → [B, (H/p)·(W/p), C·p·p]. No gradient (images are data).
    case patchify(patch: Int)
    /// x [..., K], weight [N, K], (bias [N]) → activation(x·Wᵀ + b) [..., N]. Saved: x (float32, codes or halves), weight unless it is a parameter,
    /// then the preactivation if there is an activation.
    case linear(bias: Bool, activation: Activation, role: MatrixRole)
    /// x [..., D], weight [D], bias [D] → [..., D]. Saved: x, mean, rstd.
    case layerNorm(epsilon: Float)
    /// x → x·Φ(x), exact. Saved: x.
    case gelu
    /// qkv [B, N, 3·D] → softmax(QKᵀ/√d)·V [B, N, D]. Saved: qkv, log-sum-exp, out.
    case attention(heads: Int)
    /// x [B, h, w, C], weight [C, 1, k, k], bias [C] → [B, h, w, C]. Saved: x.
    case depthwiseConv(kernel: Int)
    /// x [B, …], branch [B, …] → x + scale[b]·branch (scale nil: 1): a residual connection with stochastic depth. Saved: nothing.
    case residual(scale: [Float]?)
    /// x [B, …], branch [k, …] → x, plus scale[i]·branch[i] at sample index[i]: the same where dropped samples never entered the branch. Saved: nothing.
    case residualOfSamples(index: [Int32], scale: [Float])
    /// x [B, …], v [1, …] → x + v. Saved: nothing.
    case addBroadcast
    /// tokens [B, N, D], token [1, 1, D] → [B, 1+N, D]. Saved: nothing.
    case prependToken
    /// x [B, N, D], token [1, D] → token where mask[b·N + n] ≠ 0, else x. Saved: nothing.
    case maskTokens(mask: [UInt8])
    /// x [R, D] → rows index[i] [count, D]. Saved: nothing.
    case gatherRows(index: [Int32])
    /// x [B, N, D] → tokens first ..< N [B, N − first, D]. Saved: nothing.
    case dropTokens(first: Int)
    /// x [B, N, D] → mean over tokens [B, D]. Saved: nothing.
    case meanTokens
    /// positions [1, 1+N, D] → [1, 1+M, D]: row 0 as it is, the others through a constant matrix [M, N]. Saved: nothing.
    case resamplePositions(matrix: [Float], rows: Int)
    /// x [R, D] → x / max(‖x‖, ε) by row. Saved: 1/‖x‖, y.
    case l2Normalize(epsilon: Float)
    /// x [R, D], g [R, 1] → g[r]·x[r]. Saved: x, g.
    case scaleRows
    /// logits [R, K] with constant targets q [R, K] → Σ_r weight[r]·H(q[r], softmax(logits[r]/T)) [1]. Saved: q, logits, log-sum-exp, weights.
    case softCrossEntropy(temperature: Float)
    /// streams x [R, d] …, prototypes W [K, d] → Σ weight·H(q, softmax(x·Wᵀ/T)) [1], logits tile by tile. Saved: the gradient of every input for a loss of
    /// weight 1, `nothing` where none is wanted.
    case prototypeCrossEntropy

    public enum Activation: Sendable { case none, gelu }

    enum SavedOutput { case no, exactly, asActivation }

    /// Whether the backward rule reads the output: it is then the last saved value.
    var savesOutput: SavedOutput {
        switch self {
        case .attention: .asActivation
        case .l2Normalize: .exactly
        default: .no
        }
    }

    /// The operation without its attributes, for tables of tests and profiles.
    public enum Kind: String, CaseIterable, Sendable {
        case patchify, linear, layerNorm, gelu, attention, depthwiseConv, residual, residualOfSamples, addBroadcast, prependToken, maskTokens, gatherRows
        case dropTokens, meanTokens, resamplePositions, l2Normalize, scaleRows, softCrossEntropy, prototypeCrossEntropy
    }

    public var kind: Kind {
        switch self {
        case .patchify: .patchify
        case .linear: .linear
        case .layerNorm: .layerNorm
        case .gelu: .gelu
        case .attention: .attention
        case .depthwiseConv: .depthwiseConv
        case .residual: .residual
        case .residualOfSamples: .residualOfSamples
        case .addBroadcast: .addBroadcast
        case .prependToken: .prependToken
        case .maskTokens: .maskTokens
        case .gatherRows: .gatherRows
        case .dropTokens: .dropTokens
        case .meanTokens: .meanTokens
        case .resamplePositions: .resamplePositions
        case .l2Normalize: .l2Normalize
        case .scaleRows: .scaleRows
        case .softCrossEntropy: .softCrossEntropy
        case .prototypeCrossEntropy: .prototypeCrossEntropy
        }
    }
}
