import CSupport
import HSSLGraph

extension Node {
    /// Both operands receive dy, the branch times its sample's scale (a dropped branch receives zeros).
    func residualRule(_ dy: Gradient, _ gradients: Gradients, scale: [Float]?) {
        gradients.add(inputs[0], dy.buffer, owned: false, count: count)
        guard gradients.wants(inputs[1]) else { return }
        if let scale {
            let dbranch = gradients.pool.floats(count)
            hssl_scale_samples(shape[0], count / shape[0], scale, dy.values, dbranch.floats)
            gradients.add(inputs[1], dbranch, owned: true, count: count)
        } else {
            gradients.add(inputs[1], dy.buffer, owned: false, count: count)
        }
    }

    func residualOfSamplesRule(_ dy: Gradient, _ gradients: Gradients, index: [Int32], scale: [Float]) {
        gradients.add(inputs[0], dy.buffer, owned: false, count: count)
        guard gradients.wants(inputs[1]) else { return }
        let sample = count / shape[0]
        let dbranch = gradients.pool.floats(index.count * sample)
        hssl_gather_rows(index.count, sample, index, dy.values, dbranch.floats)
        hssl_scale_samples(index.count, sample, scale, dbranch.floats, dbranch.floats)
        gradients.add(inputs[1], dbranch, owned: true, count: index.count * sample)
    }

    func addBroadcastRule(_ dy: Gradient, _ gradients: Gradients) {
        let broadcast = count / shape[0]
        if let accumulator = gradients.accumulator(inputs[1], count: broadcast) {
            hssl_sum_rows(shape[0], broadcast, dy.values, accumulator)
        }
        gradients.add(inputs[0], dy.buffer, owned: dy.owned, count: count)
    }

    func prependTokenRule(_ dy: Gradient, _ gradients: Gradients) {
        let (batch, tokens, dimension) = (shape[0], shape[1], width)
        let added = gradients.tape.shapes[inputs[1]][1], rest = tokens - added
        if let accumulator = gradients.accumulator(inputs[1], count: added * dimension) {
            for sample in 0..<batch {
                hssl_axpy(added * dimension, 1, dy.values + sample * tokens * dimension, accumulator)
            }
        }
        guard gradients.wants(inputs[0]) else { return }
        let dx = gradients.pool.floats(batch * rest * dimension)
        for sample in 0..<batch {
            (dx.floats + sample * rest * dimension).update(
                from: dy.values + (sample * tokens + added) * dimension, count: rest * dimension)
        }
        gradients.add(inputs[0], dx, owned: true, count: batch * rest * dimension)
    }

    func maskTokensRule(_ dy: Gradient, _ gradients: Gradients, mask: [UInt8]) {
        if let accumulator = gradients.accumulator(inputs[1], count: width) {
            for row in 0..<rows where mask[row] != 0 { hssl_axpy(width, 1, dy.values + row * width, accumulator) }
        }
        guard gradients.wants(inputs[0]) else { return }
        let dx = dy.reusable(count: count, pool: gradients.pool)
        if !dy.owned { dx.floats.update(from: dy.values, count: count) }
        for row in 0..<rows where mask[row] != 0 { (dx.floats + row * width).update(repeating: 0, count: width) }
        gradients.add(inputs[0], dx, owned: true, count: count)
    }

    func gatherRowsRule(_ dy: Gradient, _ gradients: Gradients, index: [Int32]) {
        let source = gradients.tape.shapes[inputs[0]].reduce(1, *)
        guard let accumulator = gradients.accumulator(inputs[0], count: source) else { return }
        hssl_scatter_add_rows(index.count, width, index, dy.values, accumulator)
    }

    func permuteTokensRule(_ dy: Gradient, _ gradients: Gradients, index: [Int32]) {
        guard gradients.wants(inputs[0]) else { return }
        let source = gradients.tape.shapes[inputs[0]]
        let dx = gradients.pool.floats(source.reduce(1, *))
        hssl_permute_tokens_backward(source[0], source[1], index.count, width, index, dy.values, dx.floats)
        gradients.add(inputs[0], dx, owned: true, count: source.reduce(1, *))
    }

    func transposeTokensRule(_ dy: Gradient, _ gradients: Gradients) {
        guard gradients.wants(inputs[0]) else { return }
        let dx = gradients.pool.floats(count)
        hssl_transpose_tokens(shape[0], shape[1], width, dy.values, dx.floats)
        gradients.add(inputs[0], dx, owned: true, count: count)
    }

    func meanTokensRule(_ dy: Gradient, _ gradients: Gradients) {
        let (batch, dimension) = (shape[0], width)
        let source = gradients.tape.shapes[inputs[0]]
        let tokens = source.reduce(1, *) / (batch * dimension)
        let dx = gradients.pool.floats(batch * tokens * dimension)
        for sample in 0..<batch {
            let row = dx.floats + sample * tokens * dimension
            row.update(from: dy.values + sample * dimension, count: dimension)
            hssl_scale(dimension, 1 / Float(tokens), row)
            for token in 1..<max(tokens, 1) { (row + token * dimension).update(from: row, count: dimension) }
        }
        gradients.add(inputs[0], dx, owned: true, count: batch * tokens * dimension)
    }

    /// y = [p₀; M·p₁…]: dp₀ += dy₀; dp₁… += Mᵀ·dy₁…. Without a row for CLS there is no p₀.
    func resamplePositionsRule(_ dy: Gradient, _ gradients: Gradients, matrix: [Float], rows targets: Int) {
        let dimension = width
        let sources = matrix.count / targets
        let kept = shape[1] - targets
        guard let accumulator = gradients.accumulator(inputs[0], count: (sources + kept) * dimension) else { return }
        hssl_axpy(kept * dimension, 1, dy.values, accumulator)
        let workspace = gradients.pool.allocate(byteCount: max(
            1, hssl_gemm_f32_unpacked_workspace_size(sources, dimension, targets)))
        hssl_gemm_f32_unpacked(
            sources, dimension, targets, matrix, 1, sources, dy.values + kept * dimension, dimension, 1,
            accumulator + kept * dimension, dimension, true, nil, workspace.pointer)
    }
}
