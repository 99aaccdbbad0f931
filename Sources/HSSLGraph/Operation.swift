/// The operation set. Everything that a model does is one of these; each has a forward (HSSLGraph/Operations), a
/// backward rule (HSSLGradients/Rules) and a lowering (HSSLRuntime). The switches over it are exhaustive, so an
/// operation without a rule does not compile.
///
/// `saved` below is what a training tape keeps for the backward rule, in this order; inputs and outputs of attention,
/// norms, GELU and convolutions as `Tape.activation` stores them.
public enum Operation {
    /// The same elements in another shape. Saved: nothing.
    case reshape
    /// Windows of kernel × kernel positions → rows [B, h', w', K], h' = (h + 2·padding − kernel)/stride + 1, zeros
    /// beyond the edge. From an image [B, C, H, W] K is ordered (c, u, v), as a convolution weight [D, C, k, k] is
    /// flattened, and there is no gradient (images are data); from a grid [B, h, w, C] it is ordered (u, v, c). A
    /// convolution is this and a product. Saved: nothing.
    case unfold(kernel: Int, stride: Int, padding: Int, source: WindowSource)
    /// x [..., K], weight [N, K], (bias [N]) → activation(x·Wᵀ + b) [..., N]. Saved: x (float32, codes or halves),
    /// weight unless it is a parameter, then the preactivation if there is an activation.
    case linear(bias: Bool, activation: Activation, role: MatrixRole)
    /// x [..., D], weight [D], bias [D] → [..., D]. Saved: x, mean, rstd.
    case layerNorm(epsilon: Float)
    /// x [B, …, C], weight [C], bias [C] → [B, …, C]: statistics of a sample over all positions of C/groups channels.
    /// Saved: x, mean, rstd.
    case groupNorm(groups: Int, epsilon: Float)
    /// w [D, …] → (w − mean)/√(variance + ε) [D, …], a row at a time: weight standardisation. Saved: w, mean, rstd.
    case standardize(epsilon: Float)
    /// One function of every element. Saved: x (GELU) or y (ReLU).
    case unary(Unary)
    /// x [..., 2·H] → silu(x[..., i])·x[..., H + i] [..., H], silu(g) = g/(1 + e^−g): SwiGLU. Saved: x.
    case gated
    /// qkv [B, N, 3·D], table [N, d], constant: cosines and sines of d/2 angles a token → queries and keys of every
    /// head turned by them [B, N, 3·D]. Saved: table.
    case rotate(heads: Int)
    /// qkv [B, N, 3·D], (bias [heads, N, N]), (mask [W, N, N], constant) → softmax(QKᵀ/√d + bias + mask[b mod W])·V [B,
    /// N, D]. Saved: qkv, log-sum-exp, bias and mask where there are some, out.
    case attention(heads: Int, bias: Bool, mask: Bool)
    /// x [B, h, w, C], weight [C, 1, k, k], bias [C] → [B, h, w, C]. Saved: x.
    case depthwiseConv(kernel: Int)
    /// x [B, h, w, C] → [B, h', w', C], padding not counted. Saved: the places of the maxima (max), nothing (average).
    case pool(Pool, kernel: Int, stride: Int, padding: Int)
    /// x [..., C], gamma [C] → gamma·x: layer scale. Saved: x, gamma.
    case scaleChannels
    /// x [B, …], branch [B, …] → x + scale[b]·branch (scale nil: 1): a residual connection with stochastic depth.
    /// Saved: nothing.
    case residual(scale: [Float]?)
    /// x [B, …], branch [k, …] → x, plus scale[i]·branch[i] at sample index[i]: the same where dropped samples never
    /// entered the branch. Saved: nothing.
    case residualOfSamples(index: [Int32], scale: [Float])
    /// x [B, …], v [1, …] → x + v. Saved: nothing.
    case addBroadcast
    /// tokens [B, N, D], first [1, k, D] → [B, k+N, D]. Saved: nothing.
    case prependToken
    /// x [B, N, D], token [1, D] → token where mask[b·N + n] ≠ 0, else x. Saved: nothing.
    case maskTokens(mask: [UInt8])
    /// x [R, D] → rows index[i] [count, D]. Saved: nothing.
    case gatherRows(index: [Int32])
    /// x [B, N, D] → y [B, M, D], y[b, i] = x[b, index[i]], zeros where index[i] is −1: windows, shifts, padding,
    /// merging, leaving tokens out. Saved: nothing.
    case permuteTokens(index: [Int32])
    /// x [B, N, D] → [B, D, N]. Saved: nothing.
    case transposeTokens
    /// x [B, N, D] → mean over tokens [B, D]. Saved: nothing.
    case meanTokens
    /// positions [1, p+N, D] → [1, p+M, D]: the first p rows as they are, the others through a constant matrix [M, N].
    /// Saved: nothing.
    case resamplePositions(matrix: [Float], rows: Int)
    /// x [R, D] → x / max(‖x‖, ε) by row. Saved: 1/‖x‖, y.
    case l2Normalize(epsilon: Float)
    /// x [R, D], g [R, 1] → g[r]·x[r]. Saved: x, g.
    case scaleRows
    /// logits [R, K] with constant targets q [R, K] → Σ_r weight[r]·H(q[r], softmax(logits[r]/T)) [1]. Saved: q,
    /// logits, log-sum-exp, weights.
    case softCrossEntropy(temperature: Float)
    /// streams x [R, d] …, prototypes W [K, d] → Σ weight·H(q, softmax(x·Wᵀ/T)) [1], logits tile by tile. Saved: the
    /// gradient of every input for a loss of weight 1, `nothing` where none is wanted.
    case prototypeCrossEntropy

    public enum Activation: Sendable { case none, gelu }
    /// GELU is x·Φ(x), exact (erf).
    public enum Unary: Sendable, CaseIterable { case gelu, relu }
    public enum Pool: Sendable, CaseIterable { case max, average }
    /// Where windows are taken from: an image has its channels first, a grid last.
    public enum WindowSource: Sendable { case image, grid }

    enum SavedOutput { case no, exactly, asActivation }

    /// Whether the backward rule reads the output: it is then the last saved value.
    var savesOutput: SavedOutput {
        switch self {
        case .attention, .unary(.relu): .asActivation
        case .l2Normalize: .exactly
        default: .no
        }
    }

    /// The operation without its attributes, for tables of tests and profiles.
    public enum Kind: String, CaseIterable, Sendable {
        case reshape, unfold, linear, layerNorm, groupNorm, standardize, unary, gated, rotate, attention,
             depthwiseConv, pool, scaleChannels, residual, residualOfSamples
        case addBroadcast, prependToken, maskTokens, gatherRows, permuteTokens, transposeTokens, meanTokens,
             resamplePositions, l2Normalize, scaleRows
        case softCrossEntropy, prototypeCrossEntropy
    }

    public var kind: Kind {
        switch self {
        case .reshape: .reshape
        case .unfold: .unfold
        case .linear: .linear
        case .layerNorm: .layerNorm
        case .groupNorm: .groupNorm
        case .standardize: .standardize
        case .unary: .unary
        case .gated: .gated
        case .rotate: .rotate
        case .attention: .attention
        case .depthwiseConv: .depthwiseConv
        case .pool: .pool
        case .scaleChannels: .scaleChannels
        case .residual: .residual
        case .residualOfSamples: .residualOfSamples
        case .addBroadcast: .addBroadcast
        case .prependToken: .prependToken
        case .maskTokens: .maskTokens
        case .gatherRows: .gatherRows
        case .permuteTokens: .permuteTokens
        case .transposeTokens: .transposeTokens
        case .meanTokens: .meanTokens
        case .resamplePositions: .resamplePositions
        case .l2Normalize: .l2Normalize
        case .scaleRows: .scaleRows
        case .softCrossEntropy: .softCrossEntropy
        case .prototypeCrossEntropy: .prototypeCrossEntropy
        }
    }
}
