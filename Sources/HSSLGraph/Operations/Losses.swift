import CSupport

extension Tensor {
    /// Σ_r weight[r]·H(q[r], softmax(logits[r]/T)), H(q, p) = −Σ_k q·log p; logits and targets [R, K].
    ///
    /// - Parameters:
    ///   - targets: constant distributions, each row summing to 1.
    ///   - rowLosses: receives H of every row, before weighting.
    /// - Returns: the weighted sum, summed in float64, as [1].
    package func softCrossEntropy(
        targets: Tensor, weights: [Float], temperature: Float, rowLosses: inout [Float]
    ) -> Tensor {
        precondition(
            shape == targets.shape && weights.count == rows,
            "softCrossEntropy: \(shape), \(targets.shape), \(weights.count) weights")
        var losses = [Float](repeating: 0, count: rows)
        defer { rowLosses = losses }
        return tape.record(.softCrossEntropy(temperature: temperature), [self], shape: [1]) { y, keeps in
            let logSumExp = tape.pool.floats(rows)
            hssl_soft_cross_entropy(rows, width, targets.values, values, 1 / temperature, &losses, logSumExp.floats)
            y[0] = Float(zip(losses, weights).reduce(0.0) { $0 + Double($1.0) * Double($1.1) })
            guard keeps, let storage, let targetStorage = targets.storage else { return [] }
            let kept = tape.pool.floats(rows)
            kept.floats.update(from: weights, count: rows)
            return [.floats(targetStorage), .floats(storage), .floats(logSumExp), .floats(kept)]
        }
    }
}
