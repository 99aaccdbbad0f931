import CSupport

extension Tensor {
    /// x·Φ(x), exact (erf).
    package func gelu() -> Tensor { unary(.gelu) }

    /// max(x, 0).
    package func relu() -> Tensor { unary(.relu) }

    package func unary(_ function: Operation.Unary) -> Tensor {
        tape.record(.unary(function), [self], shape: shape) { y, keeps in
            switch function {
            case .gelu:
                hssl_gelu(count, values, y)
                return keeps ? storage.map { [tape.activation($0, count: count)] } ?? [] : []
            case .relu:
                hssl_relu(count, values, y)
                return []
            }
        }
    }

    /// silu(x[..., i])·x[..., H + i]: x [..., 2·H] → [..., H].
    ///
    /// Source: Shazeer, "GLU variants improve transformer", 2020.
    package func gated() -> Tensor {
        precondition(width % 2 == 0, "gated: an odd width in \(shape)")
        let half = width / 2
        return tape.record(.gated, [self], shape: shape.dropLast() + [half]) { y, keeps in
            hssl_gated(rows, half, values, y)
            return keeps ? storage.map { [tape.activation($0, count: count)] } ?? [] : []
        }
    }

    /// gamma[c]·x[..., c]: x [..., C], gamma [C]; the layer scale of ConvNeXt.
    package func scaledChannels(by gamma: Tensor) -> Tensor {
        precondition(gamma.count == width, "scaleChannels: \(gamma.shape) for \(shape)")
        return tape.record(.scaleChannels, [self, gamma], shape: shape) { y, keeps in
            hssl_scale_channels(rows, width, gamma.values, values, y)
            guard keeps, let storage, let gammaStorage = gamma.storage else { return [] }
            return [tape.activation(storage, count: count), .floats(gammaStorage)]
        }
    }

    /// x + scale[b]·branch, both [B, …]; `scale` nil: 1. A sample whose branch was dropped has scale 0, a kept one
    /// 1/keep.
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

    /// x + scale[b]·branch(source)[b], where samples of scale 0 do not enter the branch: neither pass computes what it
    /// would multiply by zero.
    ///
    /// - Parameters:
    ///   - source: what the branch reads, [B, …]; nil: x itself. The branch may not mix samples.
    ///   - scale: of every sample; nil: 1.
    package func adding(of source: Tensor? = nil, scale: [Float]?, branch: (Tensor) -> Tensor) -> Tensor {
        let source = source ?? self
        // Were all dropped, the branch's parameters would have no gradient instead of zero, and would not decay: that
        // one is computed.
        guard let scale, scale.contains(0), let kept = Self.kept(scale) else {
            return adding(branch: branch(source), scale: scale)
        }
        let samples = source.reshaped([source.shape[0], source.count / source.shape[0]]).gatheringRows(kept)
        return adding(
            branch: branch(samples.reshaped([kept.count] + source.shape.dropFirst())), at: kept,
            scale: kept.map { scale[Int($0)] })
    }

    /// Samples with a scale other than 0; nil if there are none.
    private static func kept(_ scale: [Float]) -> [Int32]? {
        let kept = scale.indices.filter { scale[$0] != 0 }.map { Int32($0) }
        return kept.isEmpty ? nil : kept
    }

    /// x [B, …], plus scale[i]·branch[i] at sample index[i] (each at most once); branch [index.count, …].
    package func adding(branch: Tensor, at index: [Int32], scale: [Float]) -> Tensor {
        precondition(
            branch.shape == [index.count] + shape.dropFirst() && scale.count == index.count
            && Set(index).count == index.count && index.allSatisfy { $0 >= 0 && Int($0) < shape[0] },
            "residualOfSamples: \(shape), \(branch.shape) at \(index)")
        let sample = count / shape[0]
        return tape.record(.residualOfSamples(index: index, scale: scale), [self, branch], shape: shape) { y, _ in
            y.update(from: values, count: count)
            for (place, target) in index.enumerated() {
                hssl_axpy(sample, scale[place], branch.values + place * sample, y + Int(target) * sample)
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
