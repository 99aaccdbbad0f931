import CSupport

extension Tensor {
    /// softmax(Q·Kᵀ/√d)·V for every head: qkv [B, N, 3·D] with rows (q, k, v) × heads × d, as timm's `attn.qkv` → [B, N, D].
    package func attention(heads: Int) -> Tensor {
        precondition(shape.count == 3 && width % (3 * heads) == 0, "attention: \(shape) with \(heads) heads")
        let (batch, tokens, dimension) = (shape[0], shape[1], width / 3)
        let headDimension = dimension / heads
        return tape.record(.attention(heads: heads), [self], shape: [batch, tokens, dimension]) { y, keeps in
            let workspace = tape.pool.allocate(byteCount: hssl_attention_workspace_size(batch, tokens, heads, headDimension))
            let logSumExp = keeps ? tape.pool.floats(batch * heads * tokens) : nil
            hssl_attention(batch, tokens, heads, headDimension, values, y, logSumExp?.floats, workspace.pointer)
            guard let logSumExp, let storage else { return [] }
            return [tape.activation(storage, count: count), .floats(logSumExp)]
        }
    }
}
