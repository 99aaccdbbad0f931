import CSupport

extension Tensor {
    /// activation(x·Wᵀ + b): x [..., K], weight [N, K] (trailing axes of a convolution weight count as K), bias [N] →
    /// [..., N].
    package func linear(
        weight: Tensor, bias: Tensor?, activation: Operation.Activation = .none, role: MatrixRole = .policy
    ) -> Tensor {
        let outputs = weight.shape[0]
        let inputs = weight.count / outputs
        precondition(width == inputs, "linear: input \(shape) against weight \(weight.shape)")
        precondition(
            bias.map { $0.count == outputs } ?? true, "linear: bias of \(bias?.count ?? 0) for \(outputs) outputs")
        let operation = Operation.linear(bias: bias != nil, activation: activation, role: role)
        let operands = [self, weight] + (bias.map { [$0] } ?? [])
        return tape.record(operation, operands, shape: shape.dropLast() + [outputs]) { y, keeps in
            let pool = tape.pool
            let precision = role == .full ? Precision.float32 : tape.precision
            let preactivation = activation != .none && keeps ? pool.floats(rows * outputs) : nil
            var stage = hssl_gemm_output()
            stage.bias = bias.map { UnsafePointer($0.values) }
            stage.preactivation = preactivation?.floats
            stage.activation = activation == .gelu ? HSSL_ACTIVATION_GELU : HSSL_ACTIVATION_NONE

            // The input is kept for the weight gradient only.
            let keepsInput = keeps && weight.requiresGradient
            var saved: [Saved] = []
            switch precision {
            case .float32:
                let pack = weight.packed(.float32Forward)
                hssl_gemm_f32(rows, outputs, inputs, values, inputs, 1, pack.packed.pointer, y, outputs, false, &stage)
                if keepsInput, let storage { saved.append(.floats(storage)) }
            case .float16:
                let pack = weight.packed(.float16Forward)
                hssl_gemm_f16(rows, outputs, inputs, values, inputs, 1, pack.packed.pointer, y, outputs, false, &stage)
                if keepsInput {
                    let half = pool.allocate(byteCount: rows * inputs * 2)
                    hssl_convert_f32_f16(rows * inputs, values, half.halves)
                    saved.append(.halves(half))
                }
            case .int8:
                let pack = weight.packed(.int8Forward)
                let leading = (inputs + 3) / 4 * 4
                let codes = pool.allocate(byteCount: rows * leading)
                let scale = pool.floats(rows)
                hssl_quantize_rows_u8(
                    rows, inputs, values, inputs, UInt8(HSSL_SYMMETRIC_ZERO), codes.bytes, leading, scale.floats)
                tape.statistics?.activations.add(
                    rows: rows, width: inputs, codes: codes, leading: leading, scale: scale, pool: pool)
                hssl_gemm_u8s8_f32(
                    rows, outputs, inputs, codes.bytes, leading, scale.floats, pack.packed.pointer, pack.scale?.floats,
                    y, outputs, false, &stage)
                if keepsInput { saved.append(.codes(codes, leading: leading, scale: scale)) }
            }
            if keeps, !keepsInput { saved.append(.nothing) }
            if keeps, tape.parameter(of: weight.id) == nil, let storage = weight.storage {
                saved.append(.floats(storage))
            }
            if let preactivation { saved.append(tape.activation(preactivation, count: rows * outputs)) }
            return saved
        }
    }

    /// The packed form of this weight: cached where it is a parameter, made anew where it was computed.
    package func packed(_ form: WeightForm) -> PackedWeight {
        if let parameter = tape.parameter(of: id) { return parameter.packed(form, from: tape.pool) }
        return PackedWeight(form, values: values, outputs: shape[0], inputs: count / shape[0], pool: tape.pool)
    }
}
