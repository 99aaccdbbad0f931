import Foundation
import HSSLGraph

/// The operations of convolutional and windowed models.
extension GradientCases {
    static func grids() -> [GradientCase] { windows() + pools() + groups() + channels() + gates() + biasedAttention() }

    private static func windows() -> [GradientCase] {
        [
            (1, 1, 1, 1, 1, 1, 0), (2, 3, 4, 5, 3, 1, 1), (1, 5, 4, 3, 2, 2, 0), (1, 5, 5, 2, 3, 2, 1),
            (2, 4, 3, 17, 1, 2, 0)].map {
            (batch, height, width, channels, kernel, stride, padding) in
            GradientCase(
                kind: .unfold,
                name: "grid \(height)x\(width)x\(channels) kernel \(kernel) stride \(stride) padding \(padding)",
                operands: [[batch, height, width, channels]],
                apply: { $1[0].unfolded(kernel: kernel, stride: stride, padding: padding, from: .grid) },
                reference: {
                    Reference.windows(
                        $0[0], batch: batch, height: height, width: width, channels: channels, kernel: kernel,
                        stride: stride, padding: padding) {
                        $0.flatMap { $0 ?? [Double](repeating: 0, count: channels) }
                    }
                })
        } + [(3, 2, 1), (7, 2, 3)].map { kernel, stride, padding in
            GradientCase(
                kind: .unfold, name: "image kernel \(kernel) stride \(stride) padding \(padding)",
                operands: [[2, 3, 6, 5]],
                apply: { $1[0].unfolded(kernel: kernel, stride: stride, padding: padding, from: .image) },
                reference: { v in
                    // Channels last, windows, then channels before places.
                    let grid = Reference.transpose(v[0], batch: 2, rows: 3, columns: 30)
                    return Reference.windows(
                        grid, batch: 2, height: 6, width: 5, channels: 3, kernel: kernel, stride: stride,
                        padding: padding) { places in
                        (0..<3).flatMap { channel in places.map { $0?[channel] ?? 0 } }
                    }
                },
                constantOperands: [0])
        }
    }

    private static func pools() -> [GradientCase] {
        [(1, 1, 1, 1, 1, 0), (4, 5, 3, 3, 1, 1), (5, 6, 17, 3, 2, 1), (4, 4, 2, 2, 2, 0)].flatMap {
            height, width, channels, kernel, stride, padding in
            HSSLGraph.Operation.Pool.allCases.map { kind in
                GradientCase(
                    kind: .pool, name: "\(kind) \(height)x\(width)x\(channels) kernel \(kernel) stride \(stride)",
                    operands: [[2, height, width, channels]],
                    apply: { $1[0].pooled(kind, kernel: kernel, stride: stride, padding: padding) },
                    reference: {
                        Reference.windows(
                            $0[0], batch: 2, height: height, width: width, channels: channels, kernel: kernel,
                            stride: stride, padding: padding) {
                            let inside = $0.compactMap { $0 }
                            return (0..<channels).map { c in
                                kind == .max ? inside.map { $0[c] }.max()
                                    ?? 0 : inside.reduce(0) { $0 + $1[c] } / Double(inside.count)
                            }
                        }
                    })
            }
        }
    }

    private static func groups() -> [GradientCase] {
        let norms =
            [([2, 3, 2, 6], 3), ([1, 5, 17], 1), ([3, 4, 8], 8), ([2, 2, 2, 33], 11)].map {
                (shape: [Int], groups: Int) in
                let width = shape[shape.count - 1], positions = shape.dropFirst().dropLast().reduce(1, *)
                return GradientCase(
                    kind: .groupNorm, name: "\(shape) in \(groups) groups", operands: [shape, [width], [width]],
                    apply: { $1[0].groupNorm(groups: groups, weight: $1[1], bias: $1[2], epsilon: 1e-5) },
                    reference: { v in
                        Reference.groupNorm(
                            v[0], v[1], v[2], batch: shape[0], positions: positions, channels: width, groups: groups,
                            epsilon: 1e-5)
                    },
                    tolerance: 2e-5)
            }
        return norms
            + [[1, 2], [3, 5], [4, 3, 2, 2]].map { (shape: [Int]) in
                let width = shape.dropFirst().reduce(1, *)
                return GradientCase(
                    kind: .standardize, name: "\(shape)", operands: [shape],
                    apply: { $1[0].standardized(epsilon: 1e-6) },
                    reference: {
                        Reference.layerNorm(
                            $0[0], [Double](repeating: 1, count: width), [Double](repeating: 0, count: width),
                            epsilon: 1e-6)
                    },
                    // Two values are always ±1: what is differentiated is ε.
                    tolerance: width == 2 ? 1e-3 : 2e-5)
            }
    }

    private static func channels() -> [GradientCase] {
        [[1, 1], [3, 17], [2, 3, 2, 5]].map { (shape: [Int]) in
            let width = shape[shape.count - 1]
            return GradientCase(
                kind: .scaleChannels, name: "\(shape)", operands: [shape, [width]],
                apply: { $1[0].scaledChannels(by: $1[1]) },
                reference: { v in v[0].indices.map { v[0][$0] * v[1][$0 % width] } })
        } + [[1], [37], [3, 16]].map { (shape: [Int]) in
            GradientCase(
                kind: .unary, name: "ReLU \(shape)", operands: [shape], apply: { $1[0].relu() },
                reference: { $0[0].map { max($0, 0) } })
        }
    }

    private static func gates() -> [GradientCase] {
        [[1, 2], [3, 34], [2, 3, 10]].map { (shape: [Int]) in
            let half = shape[shape.count - 1] / 2
            return GradientCase(
                kind: .gated, name: "\(shape)", operands: [shape], apply: { $1[0].gated() },
                reference: {
                    Reference.rows($0[0], width: 2 * half) { (row: [Double]) -> [Double] in
                        (0..<half).map { (i: Int) -> Double in
                            let sigmoid = 1 / (1 + exp(-row[i]))
                            return row[i] * sigmoid * row[half + i]
                        }
                    }
                })
        } + [(1, 1, 1, 2), (2, 3, 2, 4), (1, 5, 3, 34)].map { batch, tokens, heads, d in
            let angles = randomValues(tokens * d / 2, 9), half = d / 2
            let table = (0..<tokens).flatMap { token -> [Float] in
                let own = angles[token * half..<(token + 1) * half]
                return own.map { Float(cos($0)) } + own.map { Float(sin($0)) }
            }
            return GradientCase(
                kind: .rotate, name: "\(tokens) tokens, \(heads) heads of \(d)",
                operands: [[batch, tokens, 3 * heads * d]],
                apply: { $1[0].rotated(heads: heads, table: $0.constant(table, shape: [tokens, d])) },
                reference: { v in
                    v[0].indices.map { (i: Int) -> Double in
                        let width = 3 * heads * d, x = v[0][i]
                        let row = i / width, column = i % width
                        guard column < 2 * heads * d else { return x }
                        let j = column % d, angle: Double = angles[row % tokens * half + j % half]
                        let partner = j < half ? -v[0][i + half] : v[0][i - half]
                        return x * cos(angle) + partner * sin(angle)
                    }
                })
        }
    }

    private static func biasedAttention() -> [GradientCase] {
        [(1, 1, 1, 1, 0), (4, 5, 2, 3, 2), (6, 9, 3, 4, 3), (2, 17, 1, 8, 0), (4, 4, 2, 5, 4)].map {
            batch, tokens, heads, d, windows in
            let mask = (0..<windows * tokens * tokens).map { Double($0 % 7 == 3 ? -100 : 0) }
            return GradientCase(
                kind: .attention,
                name: "bias, \(windows) masks, batch \(batch) tokens \(tokens) heads \(heads) of \(d)",
                operands: [[batch, tokens, 3 * heads * d], [heads, tokens, tokens]],
                apply: { tape, v in
                    let constant = windows > 0
                        ? tape.constant(mask.map { Float($0) }, shape: [windows, tokens, tokens]) : nil
                    return v[0].attention(heads: heads, bias: v[1], mask: constant)
                },
                reference: {
                    Reference.attention(
                        $0[0], bias: $0[1], mask: mask, batch: batch, tokens: tokens, heads: heads, headDimension: d)
                })
        }
    }
}

extension Reference {
    /// [B, rows, columns] → [B, columns, rows].
    static func transpose(_ x: [Double], batch: Int, rows: Int, columns: Int) -> [Double] {
        (0..<batch).flatMap { b in (0..<columns).flatMap { c in (0..<rows).map { x[(b * rows + $0) * columns + c] } } }
    }

    /// `body` of the channels at each place of every window of [B, h, w, C]; nil beyond the edge.
    static func windows(
        _ x: [Double], batch: Int, height: Int, width: Int, channels: Int, kernel: Int, stride: Int, padding: Int,
        _ body: ([[Double]?]) -> [Double]
    ) -> [Double] {
        var result: [Double] = []
        for b in 0..<batch {
            for i in starts(height) {
                for j in starts(width) {
                    result += body((0..<kernel * kernel).map { place in
                        let (row, column) = (i + place / kernel - padding, j + place % kernel - padding)
                        guard (0..<height).contains(row), (0..<width).contains(column) else { return nil }
                        let start = ((b * height + row) * width + column) * channels
                        return Array(x[start..<start + channels])
                    })
                }
            }
        }
        return result

        func starts(_ size: Int) -> [Int] {
            let count = (size + 2 * padding - kernel) / stride + 1
            return (0..<count).map { $0 * stride }
        }
    }

    static func groupNorm(
        _ x: [Double], _ weight: [Double], _ bias: [Double], batch: Int, positions: Int, channels: Int, groups: Int,
        epsilon: Double
    ) -> [Double] {
        var y = x
        let size = channels / groups
        for b in 0..<batch {
            for group in 0..<groups {
                let members: [Int] = (0..<positions).flatMap { (p: Int) -> [Int] in
                    let row = (b * positions + p) * channels
                    return (group * size..<(group + 1) * size).map { row + $0 }
                }
                let values = members.map { x[$0] }, count = Double(values.count)
                let mean = values.reduce(0, +) / count
                let variance = values.map { ($0 - mean) * ($0 - mean) }.reduce(0, +) / count
                let rstd = 1 / (variance + epsilon).squareRoot()
                for i in members { y[i] = (x[i] - mean) * rstd * weight[i % channels] + bias[i % channels] }
            }
        }
        return y
    }
}
