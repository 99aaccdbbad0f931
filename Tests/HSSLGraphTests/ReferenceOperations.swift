import Foundation

/// Operations by their textbook definition in float64, one loop an index: slow and obviously right.
enum Reference {
    static func gelu(_ x: Double) -> Double { 0.5 * x * (1 + erf(x / 2.0.squareRoot())) }

    /// x [rows, K], weight [N, K], bias [N] → [rows, N].
    static func linear(_ x: [Double], _ weight: [Double], _ bias: [Double]?, inputs K: Int) -> [Double] {
        let outputs = weight.count / K
        var y: [Double] = []
        y.reserveCapacity(x.count / K * outputs)
        for row in 0..<x.count / K {
            for n in 0..<outputs {
                var sum = bias?[n] ?? 0
                for k in 0..<K { sum += x[row * K + k] * weight[n * K + k] }
                y.append(sum)
            }
        }
        return y
    }

    static func layerNorm(_ x: [Double], _ weight: [Double], _ bias: [Double], epsilon: Double) -> [Double] {
        rows(x, width: weight.count) { row in
            let mean = row.reduce(0, +) / Double(row.count)
            let variance = row.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(row.count)
            let deviation = (variance + epsilon).squareRoot()
            return row.indices.map { (row[$0] - mean) / deviation * weight[$0] + bias[$0] }
        }
    }

    static func l2Normalize(_ x: [Double], width: Int) -> [Double] {
        rows(x, width: width) { row in
            let norm = max(row.reduce(0) { $0 + $1 * $1 }.squareRoot(), 1e-12)
            return row.map { $0 / norm }
        }
    }

    /// qkv [batch, tokens, 3, heads, d] → [batch, tokens, heads, d].
    /// - Parameters:
    ///   - bias: [heads, tokens, tokens] or empty.
    ///   - mask: [windows, tokens, tokens] or empty.
    static func attention(
        _ qkv: [Double], bias: [Double] = [], mask: [Double] = [], batch: Int, tokens: Int, heads: Int,
        headDimension d: Int
    ) -> [Double] {
        let windows = mask.count / (tokens * tokens)
        func element(_ b: Int, _ token: Int, _ part: Int, _ head: Int, _ i: Int) -> Double {
            qkv[(((b * tokens + token) * 3 + part) * heads + head) * d + i]
        }
        var y: [Double] = []
        for b in 0..<batch {
            for token in 0..<tokens {
                for head in 0..<heads {
                    let scores = (0..<tokens).map { other in
                        (0..<d).reduce(0.0) { $0 + element(b, token, 0, head, $1)
                            * element(b, other, 1, head, $1) } / Double(d).squareRoot()
                            + (bias.isEmpty ? 0 : bias[(head * tokens + token) * tokens + other])
                            + (windows == 0 ? 0 : mask[(b % windows * tokens + token) * tokens + other])
                    }
                    let probabilities = softmax(scores)
                    for i in 0..<d {
                        y.append((0..<tokens).reduce(0.0) { $0 + probabilities[$1] * element(b, $1, 2, head, i) })
                    }
                }
            }
        }
        return y
    }

    static func softmax(_ x: [Double]) -> [Double] {
        let largest = x.max() ?? 0
        let exponentials = x.map { exp($0 - largest) }
        let sum = exponentials.reduce(0, +)
        return exponentials.map { $0 / sum }
    }

    /// x [batch, h, w, C], weight [C, 1, k, k], bias [C], zero padding.
    static func depthwiseConv(
        _ x: [Double], _ weight: [Double], _ bias: [Double], batch: Int, height: Int, width: Int, kernel: Int
    ) -> [Double] {
        let channels = bias.count
        var y: [Double] = []
        for b in 0..<batch {
            for i in 0..<height {
                for j in 0..<width {
                    for c in 0..<channels {
                        var sum = bias[c]
                        for u in 0..<kernel {
                            for v in 0..<kernel {
                                let (row, column) = (i + u - kernel / 2, j + v - kernel / 2)
                                guard (0..<height).contains(row), (0..<width).contains(column) else { continue }
                                sum += weight[(c * kernel + u) * kernel + v] * x[
                                    ((b * height + row) * width + column) * channels + c]
                            }
                        }
                        y.append(sum)
                    }
                }
            }
        }
        return y
    }

    /// image [batch, channels, H, W] → [batch, patches, channels·p·p].
    static func patchify(
        _ image: [Double], batch: Int, channels: Int, height: Int, width: Int, patch p: Int
    ) -> [Double] {
        var y: [Double] = []
        for b in 0..<batch {
            for i in 0..<height / p {
                for j in 0..<width / p {
                    for c in 0..<channels {
                        for u in 0..<p { for v in
                            0..<p { y.append(image[((b * channels + c) * height + i * p + u) * width + j * p + v]) }
                        }
                    }
                }
            }
        }
        return y
    }

    /// Σ_r weight[r]·H(q[r], softmax(z[r]/T)).
    static func softCrossEntropy(_ z: [Double], targets: [Double], weights: [Double], temperature: Double) -> Double {
        let width = z.count / weights.count
        return weights.indices.reduce(0.0) { total, r in
            let probabilities = softmax(z[r * width..<(r + 1) * width].map { $0 / temperature })
            return total - weights[r] * (0..<width).reduce(0.0) {
                $0 + targets[r * width + $1] * log(probabilities[$1])
            }
        }
    }

    static func rows(_ x: [Double], width: Int, _ body: ([Double]) -> [Double]) -> [Double] {
        stride(from: 0, to: x.count, by: width).flatMap { body(Array(x[$0..<$0 + width])) }
    }
}
