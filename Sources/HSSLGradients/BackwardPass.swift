import CSupport
import HSSLGraph

/// Walks a training tape backwards: one rule an operation, gradients of parameters added to `Parameter.gradient`.
///
/// The tape is consumed: each node is freed after its rule, so the memory of the activations returns to the pool on the
/// way.
package enum BackwardPass {
    /// Adds ∂(Σ losses)/∂p to the gradient of every parameter p of the tape that requires one.
    ///
    /// - Parameters:
    ///   - losses: values on one tape, summed over all their elements; those that depend on no parameter are
    ///     passed over.
    ///   - seeds: gradients of other values of the tape, added to what the losses give them.
    package static func run(from losses: [Tensor], and seeds: [(value: Tensor, gradient: Buffer)] = []) {
        run(from: losses.map { loss in
            let ones = loss.tape.pool.floats(loss.count)
            ones.floats.update(repeating: 1, count: loss.count)
            return (loss, ones)
        } + seeds)
    }

    /// The same from the gradients of some values on one tape: what somebody else worked out beyond them.
    ///
    /// - Parameter seeds: the buffers are handed over.
    package static func run(from seeds: [(value: Tensor, gradient: Buffer)]) {
        guard let tape = seeds.first?.value.tape else { return }
        let gradients = Gradients(tape: tape)
        for (value, gradient) in seeds where value.requiresGradient {
            gradients.add(value.id, gradient, owned: true, count: value.count)
        }
        while let node = tape.popLastNode() {
            // A value that the losses do not depend on has no gradient; its node is passed over.
            guard let output = gradients.take(node.output) else { continue }
            node.differentiate(output, into: gradients)
        }
    }
}

/// The gradient of one value: shared memory is never written, so a residual connection hands its gradient on without a
/// copy.
package struct Gradient {
    package let buffer: Buffer
    package let owned: Bool

    package var values: UnsafeMutablePointer<Float> { buffer.floats }

    /// Memory for a result of the same size: this one's where nobody else reads it.
    package func reusable(count: Int, pool: BufferPool) -> Buffer { owned ? buffer : pool.floats(count) }
}

/// The gradients of the values of one tape, while it is walked.
package final class Gradients {
    package let tape: Tape
    private var slots: [Int: Gradient] = [:]

    init(tape: Tape) { self.tape = tape }

    package var pool: BufferPool { tape.pool }

    func take(_ id: Int) -> Gradient? { slots.removeValue(forKey: id) }

    package func wants(_ id: Int) -> Bool { tape.wantsGradient(id) }

    /// Adds a computed gradient; `owned` says that nobody else reads the memory.
    package func add(_ id: Int, _ buffer: Buffer, owned: Bool, count: Int) {
        guard wants(id) else { return }
        if let parameter = tape.parameter(of: id) {
            hssl_axpy(count, 1, buffer.floats, parameter.gradientAccumulator(from: pool))
        } else if let present = slots[id] {
            let target = present.owned ? present.buffer : owned ? buffer : pool.floats(count)
            hssl_add(count, present.values, buffer.floats, target.floats)
            slots[id] = Gradient(buffer: target, owned: true)
        } else {
            slots[id] = Gradient(buffer: buffer, owned: owned)
        }
    }

    /// Memory that a rule may add to in place; nil where no gradient is wanted.
    package func accumulator(_ id: Int, count: Int) -> UnsafeMutablePointer<Float>? {
        guard wants(id) else { return nil }
        if let parameter = tape.parameter(of: id) { return parameter.gradientAccumulator(from: pool) }
        if let present = slots[id] {
            if present.owned { return present.values }
            let copy = pool.floats(count)
            copy.floats.update(from: present.values, count: count)
            slots[id] = Gradient(buffer: copy, owned: true)
            return copy.floats
        }
        let fresh = pool.zeros(count)
        slots[id] = Gradient(buffer: fresh, owned: true)
        return fresh.floats
    }
}

extension Node {
    /// Adds the gradients of the inputs, given that of the output.
    func differentiate(_ dy: Gradient, into gradients: Gradients) {
        switch operation {
        case .reshape: gradients.add(inputs[0], dy.buffer, owned: dy.owned, count: count)
        case .unfold(let kernel, let stride, let padding, let source):
            // Images are data.
            if source == .grid { unfoldRule(dy, gradients, kernel: kernel, stride: stride, padding: padding) }
        case .linear(let bias, let activation, let role): linearRule(
            dy, gradients, bias: bias, activation: activation, role: role)
        case .layerNorm: layerNormRule(dy, gradients)
        case .groupNorm(let groups, _): groupNormRule(dy, gradients, groups: groups)
        case .standardize: standardizeRule(dy, gradients)
        case .unary(let function): unaryRule(dy, gradients, function)
        case .gated: gatedRule(dy, gradients)
        case .rotate(let heads): rotateRule(dy, gradients, heads: heads)
        case .attention(let heads, let bias, let mask): attentionRule(
            dy, gradients, heads: heads, bias: bias, mask: mask)
        case .depthwiseConv(let kernel): depthwiseConvRule(dy, gradients, kernel: kernel)
        case .pool(let kind, let kernel, let stride, let padding): poolRule(
            dy, gradients, kind, kernel: kernel, stride: stride, padding: padding)
        case .scaleChannels: scaleChannelsRule(dy, gradients)
        case .residual(let scale): residualRule(dy, gradients, scale: scale)
        case .residualOfSamples(let index, let scale): residualOfSamplesRule(dy, gradients, index: index, scale: scale)
        case .addBroadcast: addBroadcastRule(dy, gradients)
        case .prependToken: prependTokenRule(dy, gradients)
        case .maskTokens(let mask): maskTokensRule(dy, gradients, mask: mask)
        case .gatherRows(let index): gatherRowsRule(dy, gradients, index: index)
        case .permuteTokens(let index): permuteTokensRule(dy, gradients, index: index)
        case .transposeTokens: transposeTokensRule(dy, gradients)
        case .meanTokens: meanTokensRule(dy, gradients)
        case .resamplePositions(let matrix, let rows): resamplePositionsRule(dy, gradients, matrix: matrix, rows: rows)
        case .l2Normalize: l2NormalizeRule(dy, gradients)
        case .scaleRows: scaleRowsRule(dy, gradients)
        case .softCrossEntropy(let temperature): softCrossEntropyRule(dy, gradients, temperature: temperature)
        case .prototypeCrossEntropy: prototypeCrossEntropyRule(dy, gradients)
        }
    }

    var count: Int { shape.reduce(1, *) }
    var width: Int { shape[shape.count - 1] }
    var rows: Int { count / max(width, 1) }
}
