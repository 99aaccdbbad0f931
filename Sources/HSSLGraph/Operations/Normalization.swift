import CSupport

extension Tensor {
    /// (x − mean)/√(variance + ε)·weight + bias over the last axis D; x [..., D], weight and bias [D].
    package func layerNorm(weight: Tensor, bias: Tensor, epsilon: Float) -> Tensor {
        precondition(
            weight.count == width && bias.count == width, "layerNorm: input \(shape) against weight \(weight.shape)")
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

    /// Channels C that `groupNorm` takes at most.
    package static let groupNormChannels = Int(HSSL_GROUP_NORM_CHANNELS)

    /// Group norm: x [B, …, C], weight and bias [C]; mean and variance of a sample over all positions of C/groups
    /// channels.
    package func groupNorm(groups: Int, weight: Tensor, bias: Tensor, epsilon: Float) -> Tensor {
        precondition(
            shape.count >= 2 && weight.count == width && bias.count == width && width % groups == 0
                && width <= Self.groupNormChannels,
            "groupNorm: \(shape) in \(groups) groups")
        let positions = count / (shape[0] * width)
        return tape.record(.groupNorm(groups: groups, epsilon: epsilon), [self, weight, bias], shape: shape) {
            y, keeps in
            guard keeps, let storage else {
                hssl_group_norm(
                    shape[0], positions, width, groups, values, weight.values, bias.values, epsilon, y, nil, nil)
                return []
            }
            let (mean, rstd) = (tape.pool.floats(shape[0] * groups), tape.pool.floats(shape[0] * groups))
            hssl_group_norm(
                shape[0], positions, width, groups, values, weight.values, bias.values, epsilon, y, mean.floats,
                rstd.floats)
            return [tape.activation(storage, count: count), .floats(mean), .floats(rstd)]
        }
    }

    /// (w − mean)/√(variance + ε) of every row w[d] of [D, …]: weight standardisation.
    ///
    /// Source: Qiao et al., "Micro-batch training with batch-channel normalization and weight standardization", 2019.
    package func standardized(epsilon: Float) -> Tensor {
        let (outputs, inputs) = (shape[0], count / shape[0])
        return tape.record(.standardize(epsilon: epsilon), [self], shape: shape) { y, keeps in
            let (ones, zeros) = (tape.pool.floats(inputs), tape.pool.zeros(inputs))
            ones.floats.update(repeating: 1, count: inputs)
            let statistics = keeps ? (tape.pool.floats(outputs), tape.pool.floats(outputs)) : nil
            hssl_layer_norm(
                outputs, inputs, values, ones.floats, zeros.floats, epsilon, y, statistics?.0.floats,
                statistics?.1.floats)
            withExtendedLifetime((ones, zeros)) {}
            guard let statistics, let storage else { return [] }
            return [.floats(storage), .floats(statistics.0), .floats(statistics.1)]
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
