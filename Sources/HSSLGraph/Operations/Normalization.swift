import CSupport

extension Tensor {
    /// (x − mean)/√(variance + ε)·weight + bias over the last axis D; x [..., D], weight and bias [D].
    package func layerNorm(weight: Tensor, bias: Tensor, epsilon: Float) -> Tensor {
        precondition(weight.count == width && bias.count == width, "layerNorm: input \(shape) against weight \(weight.shape)")
        return tape.record(.layerNorm(epsilon: epsilon), [self, weight, bias], shape: shape) { y, keeps in
            guard keeps, let storage else {
                hssl_layer_norm(rows, width, values, weight.values, bias.values, epsilon, y, nil, nil)
                return []
            }
            let mean = tape.pool.floats(rows)
            let rstd = tape.pool.floats(rows)
            hssl_layer_norm(rows, width, values, weight.values, bias.values, epsilon, y, mean.floats, rstd.floats)
            return [tape.activation(storage, count: count), .floats(mean), .floats(rstd)]
        }
    }

    /// x / max(‖x‖₂, ε) over the last axis.
    package func l2Normalized(epsilon: Float = 1e-12) -> Tensor {
        tape.record(.l2Normalize(epsilon: epsilon), [self], shape: shape) { y, keeps in
            let inverse = keeps ? tape.pool.floats(rows) : nil
            hssl_l2_normalize(rows, width, values, epsilon, y, inverse?.floats)
            return inverse.map { [.floats($0)] } ?? []
        }
    }

    /// g[r]·x[r]: x [R, D], g [R, 1]; the learned gain of a weight-normalised layer.
    package func scaledRows(by gain: Tensor) -> Tensor {
        precondition(gain.count == rows, "scaledRows: \(gain.shape) for \(shape)")
        return tape.record(.scaleRows, [self, gain], shape: shape) { y, keeps in
            hssl_scale_samples(rows, width, gain.values, values, y)
            guard keeps, let storage, let gainStorage = gain.storage else { return [] }
            return [.floats(storage), .floats(gainStorage)]
        }
    }
}
