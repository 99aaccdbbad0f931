import CSupport

extension Tensor {
    /// Depthwise convolution, stride 1, zero padding k/2: x [B, h, w, C], weight [C, 1, k, k], bias [C] → [B, h, w, C].
    package func depthwiseConv(weight: Tensor, bias: Tensor) -> Tensor {
        precondition(shape.count == 4 && weight.shape.count == 4 && weight.shape[0] == width && weight.shape[2] == weight.shape[3]
            && weight.shape[2] % 2 == 1 && bias.count == width, "depthwiseConv: \(shape) against \(weight.shape)")
        let kernel = weight.shape[2]
        return tape.record(.depthwiseConv(kernel: kernel), [self, weight, bias], shape: shape) { y, keeps in
            let workspace = tape.pool.allocate(byteCount: hssl_depthwise_conv_workspace_size(width, kernel))
            hssl_depthwise_conv(shape[0], shape[1], shape[2], width, kernel, values, weight.values, bias.values, y, workspace.pointer)
            return keeps ? storage.map { [tape.activation($0, count: count)] } ?? [] : []
        }
    }

    /// Patches of an image batch [B, C, H, W] → [B, (H/p)·(W/p), C·p·p], elements ordered (c, y, x) as a convolution weight [D, C, p, p] is flattened.
    package func patches(of size: Int) -> Tensor {
        precondition(shape.count == 4 && shape[2] >= size && shape[3] >= size, "patchify: \(shape) in patches of \(size)")
        let tokens = (shape[2] / size) * (shape[3] / size)
        return tape.record(.patchify(patch: size), [self], shape: [shape[0], tokens, shape[1] * size * size]) { y, _ in
            hssl_patchify(shape[0], shape[1], shape[2], shape[3], size, values, y)
            return []
        }
    }
}
