import CSupport

/// Positions of a window of `kernel` that fit `size` positions with `padding` on either side, `stride` apart.
package func windowCount(_ size: Int, kernel: Int, stride: Int, padding: Int) -> Int {
    (size + 2 * padding - kernel) / stride + 1
}

extension Tensor {
    /// Depthwise convolution, stride 1, zero padding k/2: x [B, h, w, C], weight [C, 1, k, k], bias [C] → [B, h, w, C].
    package func depthwiseConv(weight: Tensor, bias: Tensor) -> Tensor {
        precondition(
            shape.count == 4 && weight.shape.count == 4 && weight.shape[0] == width
            && weight.shape[2] == weight.shape[3] && weight.shape[2] % 2 == 1 && bias.count == width,
            "depthwiseConv: \(shape) against \(weight.shape)")
        let kernel = weight.shape[2]
        return tape.record(.depthwiseConv(kernel: kernel), [self, weight, bias], shape: shape) { y, keeps in
            let workspace = tape.pool.allocate(byteCount: hssl_depthwise_conv_workspace_size(width, kernel))
            hssl_depthwise_conv(
                shape[0], shape[1], shape[2], width, kernel, values, weight.values, bias.values, y, workspace.pointer)
            return keeps ? storage.map { [tape.activation($0, count: count)] } ?? [] : []
        }
    }

    /// The windows of a convolution as rows, zeros beyond the edge.
    ///
    /// - Parameter source: `.image`: x [B, C, H, W], rows ordered (c, u, v); `.grid`: x [B, h, w, C], rows ordered (u,
    ///   v, c).
    /// - Returns: [B, h', w', C·k·k], h' = (h + 2·padding − kernel)/stride + 1.
    package func unfolded(kernel: Int, stride: Int, padding: Int = 0, from source: Operation.WindowSource) -> Tensor {
        precondition(shape.count == 4 && kernel >= 1 && stride >= 1 && padding >= 0, "unfold: \(shape)")
        let (channels, height, breadth) = source == .image
            ? (shape[1], shape[2], shape[3]) : (shape[3], shape[1], shape[2])
        precondition(
            height + 2 * padding >= kernel && breadth + 2 * padding >= kernel,
            "unfold: windows of \(kernel) in \(shape)")
        let output = [
            shape[0], windowCount(height, kernel: kernel, stride: stride, padding: padding),
            windowCount(breadth, kernel: kernel, stride: stride, padding: padding), channels * kernel * kernel]
        return tape.record(
            .unfold(kernel: kernel, stride: stride, padding: padding, source: source), [self], shape: output) { y, _ in
            switch source {
            case .image: hssl_unfold_image(shape[0], channels, height, breadth, kernel, stride, padding, values, y)
            case .grid: hssl_unfold(shape[0], height, breadth, channels, kernel, stride, padding, values, y)
            }
            return []
        }
    }

    /// The largest value or the mean of every window: x [B, h, w, C] → [B, h', w', C]. Positions beyond the edge do not
    /// count.
    package func pooled(_ kind: Operation.Pool, kernel: Int, stride: Int, padding: Int) -> Tensor {
        precondition(
            shape.count == 4 && padding < kernel && shape[1] + 2 * padding >= kernel
            && shape[2] + 2 * padding >= kernel,
            "pool: \(shape)")
        let (batch, height, breadth) = (shape[0], shape[1], shape[2])
        let output = [
            batch, windowCount(height, kernel: kernel, stride: stride, padding: padding),
            windowCount(breadth, kernel: kernel, stride: stride, padding: padding), width,
        ]
        return tape.record(.pool(kind, kernel: kernel, stride: stride, padding: padding), [self], shape: output) {
            y, keeps in
            switch kind {
            case .average:
                hssl_average_pool(batch, height, breadth, width, kernel, stride, padding, values, y)
                return []
            case .max:
                let places = keeps ? tape.pool.allocate(byteCount: 4 * output.reduce(1, *)) : nil
                hssl_max_pool(
                    batch, height, breadth, width, kernel, stride, padding, values, y,
                    places?.pointer.assumingMemoryBound(to: Int32.self))
                return places.map { [.floats($0)] } ?? []
            }
        }
    }
}
