import CSupport
import HSSLGraph

extension Node {
    /// y = act(x·Wᵀ + b): dpre = dy·act′; dx = dpre·W; dW += dpreᵀ·x; db += Σ dpre.
    func linearRule(
        _ dy: Gradient, _ gradients: Gradients, bias: Bool, activation: Operation.Activation, role: MatrixRole
    ) {
        let tape = gradients.tape
        let pool = gradients.pool
        let outputs = width
        let inputWidth = tape.shapes[inputs[1]].reduce(1, *) / outputs
        let parameter = tape.parameter(of: inputs[1])
        let precision = role == .full ? Precision.float32 : self.precision

        var pre = dy
        if activation == .gelu, let preactivation = saved.last {
            let target = dy.reusable(count: count, pool: pool)
            let x = preactivation.widened(count: count, pool: pool)
            withExtendedLifetime(x) { hssl_gelu_backward(count, x.floats, dy.values, target.floats) }
            pre = Gradient(buffer: target, owned: true)
        }

        if bias, let accumulator = gradients.accumulator(inputs[2], count: outputs) {
            hssl_sum_rows(rows, outputs, pre.values, accumulator)
        }

        if let accumulator = gradients.accumulator(inputs[1], count: outputs * inputWidth) {
            if case .codes(let codes, let leading, let scale) = saved[0] {
                let workspace = pool.allocate(byteCount: max(
                    1, hssl_gemm_u8_gradient_workspace_size(outputs, inputWidth, rows)))
                hssl_gemm_u8_gradient(
                    outputs, inputWidth, rows, pre.values, outputs, codes.bytes, leading, scale.floats, accumulator,
                    inputWidth, workspace.pointer)
            } else {
                let x = saved[0].widened(count: rows * inputWidth, pool: pool)
                let workspace = pool.allocate(byteCount: max(
                    1, hssl_gemm_f32_unpacked_workspace_size(outputs, inputWidth, rows)))
                hssl_gemm_f32_unpacked(
                    outputs, inputWidth, rows, pre.values, 1, outputs, x.floats, inputWidth, 1, accumulator, inputWidth,
                    true, nil, workspace.pointer)
            }
        }

        guard gradients.wants(inputs[0]) else { return }
        let dx = pool.floats(rows * inputWidth)
        switch precision {
        case .float32:
            if let pack = parameter?.packed(.float32Backward, from: pool) {
                hssl_gemm_f32(
                    rows, inputWidth, outputs, pre.values, outputs, 1, pack.packed.pointer, dx.floats, inputWidth,
                    false, nil)
            } else {
                // A weight that an operation made is used once: packed block by block.
                let workspace = pool.allocate(byteCount: max(
                    1, hssl_gemm_f32_unpacked_workspace_size(rows, inputWidth, outputs)))
                hssl_gemm_f32_unpacked(
                    rows, inputWidth, outputs, pre.values, outputs, 1, saved[1].floats, inputWidth, 1, dx.floats,
                    inputWidth, false, nil, workspace.pointer)
            }
        case .float16:
            let pack = packedWeight(.float16Backward, parameter, inputWidth: inputWidth, pool: pool)
            hssl_gemm_f16(
                rows, inputWidth, outputs, pre.values, outputs, 1, pack.packed.pointer, dx.floats, inputWidth, false,
                nil)
        case .int8:
            // The channel scale is folded into dY, so that the forward codes serve the product over output channels
            // too.
            let pack = packedWeight(.int8Backward, parameter, inputWidth: inputWidth, pool: pool)
            let leading = (outputs + 3) / 4 * 4
            let codes = pool.allocate(byteCount: rows * leading)
            let scale = pool.floats(rows)
            hssl_quantize_rows_u8_stochastic(
                rows, outputs, pre.values, outputs, pack.scale?.floats,
                CounterRandom.combine([tape.roundingKey, UInt64(ordinal)]), codes.bytes, leading, scale.floats)
            tape.statistics?.gradients.add(
                rows: rows, width: outputs, codes: codes, leading: leading, scale: scale, pool: pool)
            hssl_gemm_u8s8_f32(
                rows, inputWidth, outputs, codes.bytes, leading, scale.floats, pack.packed.pointer, nil, dx.floats,
                inputWidth, false, nil)
        }
        gradients.add(inputs[0], dx, owned: true, count: rows * inputWidth)
    }

    /// The weight for a product: a parameter keeps its packed forms, a computed one was saved as float32.
    private func packedWeight(
        _ form: WeightForm, _ parameter: Parameter?, inputWidth: Int, pool: BufferPool
    ) -> PackedWeight {
        parameter?.packed(form, from: pool)
            ?? PackedWeight(form, values: saved[1].floats, outputs: width, inputs: inputWidth, pool: pool)
    }
}
