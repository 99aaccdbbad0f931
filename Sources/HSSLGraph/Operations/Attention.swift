import CSupport

extension Tensor {
    /// Rotary positions: qkv [B, N, 3·D] with queries and keys of every head turned. Element j of a head's first half
    /// and element j of its second turn by the angle whose cosine is table[n, j] and whose sine is table[n, d/2 + j].
    ///
    /// - Parameter table: a constant [N, d], d = D/heads, even.
    /// Source: Su et al., "RoFormer", 2021; in two dimensions Siméoni et al., "DINOv3", 2025.
    package func rotated(heads: Int, table: Tensor) -> Tensor {
        precondition(shape.count == 3 && width % (6 * heads) == 0, "rotate: \(shape) with \(heads) heads")
        let (batch, tokens, d) = (shape[0], shape[1], width / (3 * heads))
        precondition(table.shape == [tokens, d], "rotate: \(shape) through \(table.shape)")
        return tape.record(.rotate(heads: heads), [self, table], shape: shape) { y, keeps in
            hssl_rotate_tokens(batch, tokens, heads, d, table.values, false, values, y)
            return keeps ? table.storage.map { [.floats($0)] } ?? [] : []
        }
    }

    /// softmax(Q·Kᵀ/√d + bias + mask)·V for every head: qkv [B, N, 3·D] with rows (q, k, v) × heads × d, as timm's
    /// `attn.qkv` → [B, N, D].
    ///
    /// - Parameters:
    ///   - bias: [heads, N, N], the same for every sample: relative positions.
    ///   - mask: a constant [W, N, N]; sample b takes mask b mod W, so that B may count images × windows.
    package func attention(heads: Int, bias: Tensor? = nil, mask: Tensor? = nil) -> Tensor {
        precondition(shape.count == 3 && width % (3 * heads) == 0, "attention: \(shape) with \(heads) heads")
        let (batch, tokens, dimension) = (shape[0], shape[1], width / 3)
        precondition(
            bias.map { $0.shape == [heads, tokens, tokens] } ?? true,
            "attention: bias \(bias?.shape ?? []) for \(heads) heads of \(tokens) tokens")
        precondition(
            mask.map { $0.shape.count == 3 && $0.shape[1] == tokens && $0.shape[2] == tokens && batch % $0.shape[0]
            == 0 } ?? true,
                     "attention: mask \(mask?.shape ?? []) for \(batch) samples of \(tokens) tokens")
        let headDimension = dimension / heads
        let operation = Operation.attention(heads: heads, bias: bias != nil, mask: mask != nil)
        let operands = [self] + [bias, mask].compactMap { $0 }
        return tape.record(operation, operands, shape: [batch, tokens, dimension]) { y, keeps in
            let logSumExp = keeps ? tape.pool.floats(batch * heads * tokens) : nil
            if bias == nil, mask == nil {
                let workspace = tape.pool.allocate(byteCount: hssl_attention_workspace_size(
                    batch, tokens, heads, headDimension))
                hssl_attention(batch, tokens, heads, headDimension, values, y, logSumExp?.floats, workspace.pointer)
            } else {
                let workspace = tape.pool.allocate(byteCount: hssl_attention_biased_workspace_size(
                    batch, tokens, heads, headDimension))
                hssl_attention_biased(
                    batch, tokens, heads, headDimension, bias?.values, mask?.values, mask?.shape[0] ?? 1, values, y,
                    logSumExp?.floats, workspace.pointer)
            }
            guard let logSumExp, let storage else { return [] }
            return [tape.activation(storage, count: count), .floats(logSumExp)] + [bias, mask].compactMap {
                $0?.storage.map { .floats($0) }
            }
        }
    }
}
