import CSupport

extension Tensor {
    /// [first, x]: x [B, N, D], first [1, k, D] → [B, k+N, D].
    package func prepending(token first: Tensor) -> Tensor {
        precondition(
            shape.count == 3 && first.shape.count == 3 && first.shape[0] == 1 && first.width == width,
            "prependToken: \(shape) and \(first.shape)")
        let (batch, tokens, dimension, added) = (shape[0], shape[1], width, first.shape[1])
        return tape.record(.prependToken, [self, first], shape: [batch, tokens + added, dimension]) { y, _ in
            for sample in 0..<batch {
                let row = y + sample * (tokens + added) * dimension
                row.update(from: first.values, count: added * dimension)
                (row + added * dimension).update(from: values + sample * tokens * dimension, count: tokens * dimension)
            }
            return []
        }
    }

    /// The mask token [1, D] where mask[b·N + n] ≠ 0, else x [B, N, D].
    package func masked(_ mask: [UInt8], token: Tensor) -> Tensor {
        precondition(mask.count == rows && token.count == width, "maskTokens: \(mask.count) flags for \(shape)")
        return tape.record(.maskTokens(mask: mask), [self, token], shape: shape) { y, _ in
            for row in 0..<rows {
                (y + row * width).update(from: mask[row] != 0 ? token.values : values + row * width, count: width)
            }
            return []
        }
    }

    /// Rows of x seen as [R, D]: → [index.count, D].
    package func gatheringRows(_ index: [Int32]) -> Tensor {
        precondition(index.allSatisfy { $0 >= 0 && Int($0) < rows }, "gatherRows: index outside 0 ..< \(rows)")
        return tape.record(.gatherRows(index: index), [self], shape: [index.count, width]) { y, _ in
            hssl_gather_rows(index.count, width, index, values, y)
            return []
        }
    }

    /// y[b, i] = x[b, index[i]], zeros where index[i] is −1: x [B, N, D] → [B, index.count, D].
    package func permutingTokens(_ index: [Int32]) -> Tensor {
        precondition(
            shape.count == 3 && index.allSatisfy { $0 >= -1 && Int($0) < shape[1] },
            "permuteTokens: an index outside \(shape)")
        return tape.record(.permuteTokens(index: index), [self], shape: [shape[0], index.count, width]) { y, _ in
            hssl_permute_tokens(shape[0], shape[1], index.count, width, index, values, y)
            return []
        }
    }

    /// Tokens first ..< N: x [B, N, D] → [B, N − first, D].
    package func droppingTokens(_ first: Int) -> Tensor {
        precondition(shape.count == 3 && first >= 0 && first < shape[1], "dropping \(first) tokens of \(shape)")
        return permutingTokens((Int32(first)..<Int32(shape[1])).map { $0 })
    }

    /// x [B, N, D] → [B, D, N].
    package func transposedTokens() -> Tensor {
        precondition(shape.count == 3, "transposeTokens: \(shape)")
        return tape.record(.transposeTokens, [self], shape: [shape[0], width, shape[1]]) { y, _ in
            hssl_transpose_tokens(shape[0], shape[1], width, values, y)
            return []
        }
    }

    /// Mean over the tokens: x [B, N, D] → [B, D].
    package func meanOverTokens() -> Tensor {
        precondition(shape.count == 3, "meanTokens: \(shape)")
        return tape.record(.meanTokens, [self], shape: [shape[0], width]) { y, _ in
            hssl_mean_tokens(shape[0], shape[1], width, values, y)
            return []
        }
    }

    /// Position embeddings [1, p+N, D] at another grid: → [1, p+M, D]; the first p rows (CLS, where it has a position)
    /// are kept, the others are `matrix` [M, N] times the grid rows.
    package func resampledPositions(matrix: [Float], rows targets: Int) -> Tensor {
        let sources = matrix.count / max(targets, 1), kept = shape[1] - sources
        precondition(
            shape.count == 3 && shape[0] == 1 && matrix.count == targets * sources && (0...1).contains(kept),
            "resamplePositions: \(shape) through \(matrix.count)")
        let dimension = width
        return tape.record(
            .resamplePositions(matrix: matrix, rows: targets), [self], shape: [1, targets + kept, dimension]) { y, _ in
            y.update(from: values, count: kept * dimension)
            let workspace = tape.pool.allocate(byteCount: max(
                1, hssl_gemm_f32_unpacked_workspace_size(targets, dimension, sources)))
            hssl_gemm_f32_unpacked(
                targets, dimension, sources, matrix, sources, 1, values + kept * dimension, dimension, 1,
                y + kept * dimension, dimension, false, nil, workspace.pointer)
            return []
        }
    }
}
