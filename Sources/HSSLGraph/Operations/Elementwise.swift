import CSupport

extension Tensor {
    /// x·Φ(x), exact (erf).
    package func gelu() -> Tensor {
        tape.record(.gelu, [self], shape: shape) { y, keeps in
            hssl_gelu(count, values, y)
            return keeps ? storage.map { [tape.activation($0, count: count)] } ?? [] : []
        }
    }

    /// x + scale[b]·branch, both [B, …]; `scale` nil: 1. A sample whose branch was dropped has scale 0, a kept one 1/keep.
    package func adding(branch: Tensor, scale: [Float]? = nil) -> Tensor {
        precondition(shape == branch.shape, "residual: \(shape) and \(branch.shape)")
        precondition(scale.map { $0.count == shape[0] } ?? true, "residual: one scale a sample")
        return tape.record(.residual(scale: scale), [self, branch], shape: shape) { y, _ in
            if let scale {
                hssl_add_scaled_samples(shape[0], count / shape[0], values, branch.values, scale, y)
            } else {
                hssl_add(count, values, branch.values, y)
            }
            return []
        }
    }

    /// x [B, …] + v [1, …].
    package func addingBroadcast(_ v: Tensor) -> Tensor {
        precondition(v.count * shape[0] == count, "addBroadcast: \(shape) and \(v.shape)")
        return tape.record(.addBroadcast, [self, v], shape: shape) { y, _ in
            hssl_add_broadcast(shape[0], v.count, values, v.values, y)
            return []
        }
    }
}
