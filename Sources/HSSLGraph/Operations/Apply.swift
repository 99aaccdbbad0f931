extension Operation {
    /// Runs a recorded operation on other operands: what folds constants when a model is loaded.
    ///
    /// - Parameter inputs: in the order of `Node.inputs`, on one tape.
    /// - Returns: nil for operations that only training uses (masked tokens, dropped samples, losses).
    package func apply(to inputs: [Tensor], shape: [Int]) -> Tensor? {
        let x = inputs[0]
        func operand(_ position: Int) -> Tensor? { position < inputs.count ? inputs[position] : nil }
        switch self {
        case .reshape: return x.reshaped(shape)
        case .unfold(let kernel, let stride, let padding, let source):
            return x.unfolded(kernel: kernel, stride: stride, padding: padding, from: source)
        case .linear(_, let activation, let role): return x.linear(
            weight: inputs[1], bias: operand(2), activation: activation, role: role)
        case .layerNorm(let epsilon): return x.layerNorm(weight: inputs[1], bias: inputs[2], epsilon: epsilon)
        case .groupNorm(let groups, let epsilon): return x.groupNorm(
            groups: groups, weight: inputs[1], bias: inputs[2], epsilon: epsilon)
        case .standardize(let epsilon): return x.standardized(epsilon: epsilon)
        case .unary(let function): return x.unary(function)
        case .gated: return x.gated()
        case .rotate(let heads): return x.rotated(heads: heads, table: inputs[1])
        case .attention(let heads, let bias, let mask):
            return x.attention(heads: heads, bias: bias ? inputs[1] : nil, mask: mask ? inputs.last : nil)
        case .depthwiseConv: return x.depthwiseConv(weight: inputs[1], bias: inputs[2])
        case .pool(let kind, let kernel, let stride, let padding): return x.pooled(
            kind, kernel: kernel, stride: stride, padding: padding)
        case .scaleChannels: return x.scaledChannels(by: inputs[1])
        case .residual(nil): return x.adding(branch: inputs[1])
        case .addBroadcast: return x.addingBroadcast(inputs[1])
        case .prependToken: return x.prepending(token: inputs[1])
        case .gatherRows(let index): return x.gatheringRows(index)
        case .permuteTokens(let index): return x.permutingTokens(index)
        case .transposeTokens: return x.transposedTokens()
        case .meanTokens: return x.meanOverTokens()
        case .resamplePositions(let matrix, let rows): return x.resampledPositions(matrix: matrix, rows: rows)
        case .l2Normalize(let epsilon): return x.l2Normalized(epsilon: epsilon)
        case .scaleRows: return x.scaledRows(by: inputs[1])
        case .residual, .residualOfSamples, .maskTokens, .softCrossEntropy, .prototypeCrossEntropy: return nil
        }
    }
}
