import CSupport
import HSSLGraph

extension Node {
    func layerNormRule(_ dy: Gradient, _ gradients: Gradients) {
        guard let weight = gradients.tape.parameter(of: inputs[1])?.values else {
            preconditionFailure("a norm weight is a parameter")
        }
        let dx = gradients.pool.floats(count)
        // Alive until the kernel returns: its memory would go to the next allocation.
        let x = saved[0].widened(count: count, pool: gradients.pool)
        withExtendedLifetime(x) {
            hssl_layer_norm_backward(
                rows, width, x.floats, weight, saved[1].floats, saved[2].floats, dy.values, dx.floats,
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

    func groupNormRule(_ dy: Gradient, _ gradients: Gradients, groups: Int) {
        guard let weight = gradients.tape.parameter(of: inputs[1])?.values else {
            preconditionFailure("a norm weight is a parameter")
        }
        let dx = gradients.pool.floats(count)
        let x = saved[0].widened(count: count, pool: gradients.pool)
        withExtendedLifetime(x) {
            hssl_group_norm_backward(
                shape[0], count / (shape[0] * width), width, groups, x.floats, weight, saved[1].floats, saved[2].floats,
                dy.values, dx.floats, gradients.accumulator(inputs[1], count: width),
                gradients.accumulator(inputs[2], count: width))
        }
        gradients.add(inputs[0], dx, owned: true, count: count)
    }

    /// A norm of every row without weight and bias.
    func standardizeRule(_ dy: Gradient, _ gradients: Gradients) {
        let (outputs, inputWidth) = (shape[0], count / shape[0])
        let (ones, dw) = (gradients.pool.floats(inputWidth), gradients.pool.floats(count))
        ones.floats.update(repeating: 1, count: inputWidth)
        withExtendedLifetime(ones) {
            hssl_layer_norm_backward(
                outputs, inputWidth, saved[0].floats, ones.floats, saved[1].floats, saved[2].floats, dy.values,
                dw.floats, nil, nil)
        }
        gradients.add(inputs[0], dw, owned: true, count: count)
    }

    func unaryRule(_ dy: Gradient, _ gradients: Gradients, _ function: Operation.Unary) {
        let dx = dy.reusable(count: count, pool: gradients.pool)
        let kept = saved[0].widened(count: count, pool: gradients.pool)
        withExtendedLifetime(kept) {
            switch function {
            case .gelu: hssl_gelu_backward(count, kept.floats, dy.values, dx.floats)
            case .relu: hssl_relu_backward(count, kept.floats, dy.values, dx.floats)
            }
        }
        gradients.add(inputs[0], dx, owned: true, count: count)
    }

    /// y = gamma·x: dx = gamma·dy; dgamma[c] += Σ dy·x.
    func scaleChannelsRule(_ dy: Gradient, _ gradients: Gradients) {
        if let accumulator = gradients.accumulator(inputs[1], count: width) {
            let x = saved[0].widened(count: count, pool: gradients.pool)
            withExtendedLifetime(x) { hssl_multiply_sum_rows(rows, width, x.floats, dy.values, accumulator) }
        }
        guard gradients.wants(inputs[0]) else { return }
        let dx = dy.reusable(count: count, pool: gradients.pool)
        hssl_scale_channels(rows, width, saved[1].floats, dy.values, dx.floats)
        gradients.add(inputs[0], dx, owned: true, count: count)
    }

    func gatedRule(_ dy: Gradient, _ gradients: Gradients) {
        let dx = gradients.pool.floats(2 * count)
        let x = saved[0].widened(count: 2 * count, pool: gradients.pool)
        withExtendedLifetime(x) { hssl_gated_backward(rows, width, x.floats, dy.values, dx.floats) }
        gradients.add(inputs[0], dx, owned: true, count: 2 * count)
    }

    /// A rotation's transpose turns back.
    func rotateRule(_ dy: Gradient, _ gradients: Gradients, heads: Int) {
        let dx = gradients.pool.floats(count)
        hssl_rotate_tokens(
            shape[0], shape[1], heads, width / (3 * heads), saved[0].floats, true, dy.values, dx.floats)
        gradients.add(inputs[0], dx, owned: true, count: count)
    }

    func attentionRule(_ dy: Gradient, _ gradients: Gradients, heads: Int, bias: Bool, mask: Bool) {
        let (batch, tokens, headDimension) = (shape[0], shape[1], width / heads)
        let dqkv = gradients.pool.floats(3 * count)
        guard let output = saved.last else { return }
        let (qkv, out) = (
            saved[0].widened(count: 3 * count, pool: gradients.pool),
            output.widened(count: count, pool: gradients.pool))
        withExtendedLifetime((qkv, out)) {
            if !bias, !mask {
                let workspace = gradients.pool.allocate(
                    byteCount: hssl_attention_backward_workspace_size(batch, tokens, heads, headDimension))
                hssl_attention_backward(
                    batch, tokens, heads, headDimension, qkv.floats, out.floats, saved[1].floats, dy.values,
                    dqkv.floats, workspace.pointer)
            } else {
                let workspace = gradients.pool.allocate(
                    byteCount: hssl_attention_biased_backward_workspace_size(batch, tokens, heads, headDimension))
                let windows = mask ? gradients.tape.shapes[inputs[inputs.count - 1]][0] : 1
                let dbias = bias ? gradients.accumulator(inputs[1], count: heads * tokens * tokens) : nil
                hssl_attention_biased_backward(
                    batch, tokens, heads, headDimension, bias ? saved[2].floats : nil,
                    mask ? saved[bias ? 3 : 2].floats : nil, windows, qkv.floats, out.floats, saved[1].floats,
                    dy.values, dqkv.floats, dbias, workspace.pointer)
            }
        }
        gradients.add(inputs[0], dqkv, owned: true, count: 3 * count)
    }

    func unfoldRule(_ dy: Gradient, _ gradients: Gradients, kernel: Int, stride: Int, padding: Int) {
        guard gradients.wants(inputs[0]) else { return }
        let grid = gradients.tape.shapes[inputs[0]]
        let dx = gradients.pool.floats(grid.reduce(1, *))
        hssl_unfold_backward(grid[0], grid[1], grid[2], grid[3], kernel, stride, padding, dy.values, dx.floats)
        gradients.add(inputs[0], dx, owned: true, count: grid.reduce(1, *))
    }

    func poolRule(
        _ dy: Gradient, _ gradients: Gradients, _ kind: Operation.Pool, kernel: Int, stride: Int, padding: Int
    ) {
        guard gradients.wants(inputs[0]) else { return }
        let grid = gradients.tape.shapes[inputs[0]]
        let dx = gradients.pool.floats(grid.reduce(1, *))
        switch kind {
        case .average: hssl_average_pool_backward(
            grid[0], grid[1], grid[2], grid[3], kernel, stride, padding, dy.values, dx.floats)
        case .max:
            saved[0].floats.withMemoryRebound(to: Int32.self, capacity: count) {
                hssl_max_pool_backward(
                    grid[0], grid[1], grid[2], grid[3], kernel, stride, padding, $0, dy.values, dx.floats)
            }
        }
        gradients.add(inputs[0], dx, owned: true, count: grid.reduce(1, *))
    }

    func depthwiseConvRule(_ dy: Gradient, _ gradients: Gradients, kernel: Int) {
        let (batch, height, gridWidth, channels) = (shape[0], shape[1], shape[2], shape[3])
        let workspace = gradients.pool.allocate(byteCount: hssl_depthwise_conv_workspace_size(channels, kernel))
        if let dweight = gradients.accumulator(inputs[1], count: channels * kernel * kernel) {
            let x = saved[0].widened(count: count, pool: gradients.pool)
            withExtendedLifetime(x) {
                hssl_depthwise_conv_backward_weight(
                    batch, height, gridWidth, channels, kernel, x.floats, dy.values, dweight,
                    gradients.accumulator(inputs[2], count: channels), workspace.pointer)
            }
        } else if let dbias = gradients.accumulator(inputs[2], count: channels) {
            hssl_sum_rows(batch * height * gridWidth, channels, dy.values, dbias)
        }
        guard gradients.wants(inputs[0]) else { return }
        guard let weight = gradients.tape.parameter(of: inputs[1])?.values else {
            preconditionFailure("a convolution weight is a parameter")
        }
        let dx = gradients.pool.floats(count)
        hssl_depthwise_conv_backward_input(
            batch, height, gridWidth, channels, kernel, dy.values, weight, dx.floats, workspace.pointer)
        gradients.add(inputs[0], dx, owned: true, count: count)
    }

    /// dz = seed·weight/T·(softmax(z/T) − q).
    func softCrossEntropyRule(_ dy: Gradient, _ gradients: Gradients, temperature: Float) {
        let logitShape = gradients.tape.shapes[inputs[0]]
        let width = logitShape[logitShape.count - 1]
        let rows = logitShape.dropLast().reduce(1, *)
        let weights = gradients.pool.floats(rows)
        weights.floats.update(from: saved[3].floats, count: rows)
        hssl_scale(rows, dy.values[0], weights.floats)
        let dz = gradients.pool.floats(rows * width)
        hssl_soft_cross_entropy_backward(
            rows, width, saved[0].floats, saved[1].floats, 1 / temperature, saved[2].floats, weights.floats, dz.floats)
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
