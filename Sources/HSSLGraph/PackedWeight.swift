import CSupport

/// Which product a packed weight serves, at which precision.
package enum WeightForm: Hashable {
    /// Y = X·Wᵀ: B(k, n) = W[n, k].
    case float32Forward, float16Forward, int8Forward
    /// dX = dY·W: B(k, n) = W[k, n].
    case float32Backward, float16Backward, int8Backward
}

/// A weight matrix in the layout of one GEMM kernel.
package struct PackedWeight {
    package let packed: Buffer
    /// int8: the scale of each output channel [N].
    package let scale: Buffer?

    /// - Parameter values: W [outputs, inputs], row-major.
    package init(_ form: WeightForm, values: UnsafePointer<Float>, outputs: Int, inputs: Int, pool: BufferPool) {
        switch form {
        case .float32Forward, .float32Backward:
            let (n, k, kStride, nStride) = form == .float32Forward
                ? (outputs, inputs, 1, inputs) : (inputs, outputs, inputs, 1)
            packed = pool.allocate(byteCount: hssl_gemm_f32_packed_size(n, k))
            hssl_gemm_f32_pack(n, k, values, kStride, nStride, packed.pointer)
            scale = nil
        case .float16Forward, .float16Backward:
            let (n, k, kStride, nStride) = form == .float16Forward
                ? (outputs, inputs, 1, inputs) : (inputs, outputs, inputs, 1)
            let half = pool.allocate(byteCount: outputs * inputs * 2)
            hssl_convert_f32_f16(outputs * inputs, values, half.halves)
            packed = pool.allocate(byteCount: hssl_gemm_f16_packed_size(n, k))
            hssl_gemm_f16_pack(n, k, half.halves, kStride, nStride, packed.pointer)
            scale = nil
        case .int8Forward, .int8Backward:
            // Both directions quantise the rows alike, so they see the same weight, and neither has to keep its codes
            // for the other.
            let codes = pool.allocate(byteCount: outputs * inputs)
            let scale = pool.floats(outputs)
            let signed = codes.pointer.assumingMemoryBound(to: Int8.self)
            hssl_quantize_rows_s8(outputs, inputs, values, inputs, signed, inputs, scale.floats)
            let (n, k, kStride, nStride) = form == .int8Forward
                ? (outputs, inputs, 1, inputs) : (inputs, outputs, inputs, 1)
            packed = pool.allocate(byteCount: hssl_gemm_u8s8_packed_size(n, k))
            hssl_gemm_u8s8_pack(n, k, signed, kStride, nStride, UInt8(HSSL_SYMMETRIC_ZERO), packed.pointer)
            self.scale = scale
        }
    }
}
