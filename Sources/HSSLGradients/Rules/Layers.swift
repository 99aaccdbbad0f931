import CSupport
import HSSLGraph

extension Node {
    func layerNormRule(_ dy: Gradient, _ gradients: Gradients) {
        guard let weight = gradients.tape.parameter(of: inputs[1])?.values else { preconditionFailure("a norm weight is a parameter") }
        let dx = gradients.pool.floats(count)
        // Alive until the kernel returns: its memory would go to the next allocation.
        let x = saved[0].widened(count: count, pool: gradients.pool)
        withExtendedLifetime(x) {
            hssl_layer_norm_backward(rows, width, x.floats, weight, saved[1].floats, saved[2].floats, dy.values, dx.floats,
                                     gradients.accumulator(inputs[1], count: width), gradients.accumulator(inputs[2], count: width))
        }
        gradients.add(inputs[0], dx, owned: true, count: count)
    }

    /// dx = (dy − y·⟨dy, y⟩)/‖x‖.
    func l2NormalizeRule(_ dy: Gradient, _ gradients: Gradients) {
        let dx = gradients.pool.floats(count)
        hssl_l2_normalize_backward(rows, width, saved[1].floats, saved[0].floats, dy.values, dx.floats)
        gradients.add(inputs[0], dx, owned: true, count: count)
    }

    /// y = g[r]·x[r]: dx = g·dy; dg[r] += ⟨dy[r], x[r]⟩.
    func scaleRowsRule(_ dy: Gradient, _ gradients: Gradients) {
        if let accumulator = gradients.accumulator(inputs[1], count: rows) {
            let x = saved[0].floats
            for row in 0..<rows {
                var sum = 0.0
                for i in row * width..<(row + 1) * width { sum += Double(dy.values[i]) * Double(x[i]) }
                accumulator[row] += Float(sum)
            }
        }
        guard gradients.wants(inputs[0]) else { return }
        let dx = gradients.pool.floats(count)
        hssl_scale_samples(rows, width, saved[1].floats, dy.values, dx.floats)
        gradients.add(inputs[0], dx, owned: true, count: count)
    }

    func geluRule(_ dy: Gradient, _ gradients: Gradients) {
        let dx = dy.reusable(count: count, pool: gradients.pool)
        let x = saved[0].widened(count: count, pool: gradients.pool)
        withExtendedLifetime(x) { hssl_gelu_backward(count, x.floats, dy.values, dx.floats) }
        gradients.add(inputs[0], dx, owned: true, count: count)
    }

    func attentionRule(_ dy: Gradient, _ gradients: Gradients, heads: Int) {
        let (batch, tokens, headDimension) = (shape[0], shape[1], width / heads)
        let workspace = gradients.pool.allocate(byteCount: hssl_attention_backward_workspace_size(batch, tokens, heads, headDimension))
        let dqkv = gradients.pool.floats(3 * count)
        let (qkv, out) = (saved[0].widened(count: 3 * count, pool: gradients.pool), saved[2].widened(count: count, pool: gradients.pool))
        withExtendedLifetime((qkv, out)) {
            hssl_attention_backward(batch, tokens, heads, headDimension, qkv.floats, out.floats, saved[1].floats, dy.values, dqkv.floats, workspace.pointer)
        }
        gradients.add(inputs[0], dqkv, owned: true, count: 3 * count)
    }

    func depthwiseConvRule(_ dy: Gradient, _ gradients: Gradients, kernel: Int) {
        let (batch, height, gridWidth, channels) = (shape[0], shape[1], shape[2], shape[3])
        let workspace = gradients.pool.allocate(byteCount: hssl_depthwise_conv_workspace_size(channels, kernel))
        if let dweight = gradients.accumulator(inputs[1], count: channels * kernel * kernel) {
            let x = saved[0].widened(count: count, pool: gradients.pool)
            withExtendedLifetime(x) {
                hssl_depthwise_conv_backward_weight(batch, height, gridWidth, channels, kernel, x.floats, dy.values, dweight,
                                                    gradients.accumulator(inputs[2], count: channels), workspace.pointer)
            }
        } else if let dbias = gradients.accumulator(inputs[2], count: channels) {
            hssl_sum_rows(batch * height * gridWidth, channels, dy.values, dbias)
        }
        guard gradients.wants(inputs[0]) else { return }
        guard let weight = gradients.tape.parameter(of: inputs[1])?.values else { preconditionFailure("a convolution weight is a parameter") }
        let dx = gradients.pool.floats(count)
        hssl_depthwise_conv_backward_input(batch, height, gridWidth, channels, kernel, dy.values, weight, dx.floats, workspace.pointer)
        gradients.add(inputs[0], dx, owned: true, count: count)
    }

    /// dz = seed·weight/T·(softmax(z/T) − q).
    func softCrossEntropyRule(_ dy: Gradient, _ gradients: Gradients, temperature: Float) {
        // The logits may have been computed with more axes than they were read with; the last is the same.
        let logitShape = gradients.tape.shapes[inputs[0]]
        let width = logitShape[logitShape.count - 1]
        let rows = logitShape.dropLast().reduce(1, *)
        let weights = gradients.pool.floats(rows)
        weights.floats.update(from: saved[3].floats, count: rows)
        hssl_scale(rows, dy.values[0], weights.floats)
        let dz = gradients.pool.floats(rows * width)
        hssl_soft_cross_entropy_backward(rows, width, saved[0].floats, saved[1].floats, 1 / temperature, saved[2].floats, weights.floats, dz.floats)
        gradients.add(inputs[0], dz, owned: true, count: rows * width)
    }

    /// The forward kept the gradients; the loss is one number.
    func prototypeCrossEntropyRule(_ dy: Gradient, _ gradients: Gradients) {
        for (input, kept) in zip(inputs, saved) {
            guard case .floats(let gradient) = kept else { continue }
            let count = gradients.tape.shapes[input].reduce(1, *)
            if dy.values[0] != 1 { hssl_scale(count, dy.values[0], gradient.floats) }
            gradients.add(input, gradient, owned: true, count: count)
        }
    }
}
