import Foundation
import HSSLGraph

/// The table: at least one case an operation, with odd sizes and size 1. A new operation adds its cases here.
enum GradientCases {
    static func all(
    ) -> [GradientCase] { linear() + normalization() + elementwise() + attention() + convolution() + tokens() + losses()
        + grids() }

    private static func linear() -> [GradientCase] {
        var cases: [GradientCase] = []
        for (rows, inputs, outputs) in [(1, 1, 1), (3, 5, 7), (7, 33, 17)] {
            for activation in [HSSLGraph.Operation.Activation.none, .gelu] {
                for bias in [false, true] {
                    cases.append(GradientCase(
                        kind: .linear, name: "\(rows)x\(inputs)->\(outputs) bias \(bias) activation \(activation)",
                        operands: [[rows, inputs], [outputs, inputs]] + (bias ? [[outputs]] : []),
                        apply: { $1[0].linear(weight: $1[1], bias: bias ? $1[2] : nil, activation: activation) },
                        reference: { v in
                            let y = Reference.linear(v[0], v[1], bias ? v[2] : nil, inputs: inputs)
                            return activation == .gelu ? y.map(Reference.gelu) : y
                        }))
                }
            }
        }
        cases.append(GradientCase(
            kind: .linear, name: "convolution weight [D, C, p, p]", operands: [[2, 3, 12], [5, 3, 2, 2], [5]],
            apply: { $1[0].linear(weight: $1[1], bias: $1[2], role: .full) },
            reference: { Reference.linear($0[0], $0[1], $0[2], inputs: 12) }))
        // A weight that an operation made, as the prototypes are: saved, and its gradient goes on to that operation.
        cases.append(GradientCase(
            kind: .linear, name: "computed weight", operands: [[3, 6], [5, 6]],
            apply: { $1[0].linear(weight: $1[1].l2Normalized(), bias: nil, role: .full) },
            reference: { Reference.linear($0[0], Reference.l2Normalize($0[1], width: 6), nil, inputs: 6) }))
        cases.append(GradientCase(
            kind: .linear, name: "computed weight with gain, bias and activation",
            operands: [[3, 6], [5, 6], [5, 1], [5]],
            apply: { $1[0].linear(weight: $1[1].scaledRows(by: $1[2]), bias: $1[3], activation: .gelu) },
            reference: { v in
                let weight = v[1].indices.map { v[1][$0] * v[2][$0 / 6] }
                return Reference.linear(v[0], weight, v[3], inputs: 6).map(Reference.gelu)
            }))
        cases.append(GradientCase(
            kind: .linear, name: "computed weight seen in another shape", operands: [[3, 6], [1, 30]],
            apply: { $1[0].linear(weight: $1[1].gelu().reshaped([5, 6]), bias: nil) },
            reference: { Reference.linear($0[0], $0[1].map(Reference.gelu), nil, inputs: 6) }))
        return cases
    }

    private static func normalization() -> [GradientCase] {
        var cases: [GradientCase] = []
        // One channel is its own mean: the result is the bias, and only the bias has a gradient.
        for (shape, epsilon) in [([3, 1], 1e-6), ([2, 5], 1e-6), ([2, 3, 33], 1e-6), ([5, 64], 1e-5)] {
            let width = shape[shape.count - 1]
            cases.append(GradientCase(
                kind: .layerNorm, name: "\(shape)", operands: [shape, [width], [width]],
                apply: { $1[0].layerNorm(weight: $1[1], bias: $1[2], epsilon: Float(epsilon)) },
                reference: { Reference.layerNorm($0[0], $0[1], $0[2], epsilon: epsilon) },
                // A single channel divides the rounding of its zero gradient by √ε.
                tolerance: width == 1 ? 1e-3 : 1e-5))
        }
        for shape in [[1, 1], [3, 7], [5, 33]] {
            cases.append(GradientCase(
                kind: .l2Normalize, name: "\(shape)", operands: [shape], apply: { $1[0].l2Normalized() },
                reference: { Reference.l2Normalize($0[0], width: shape[1]) }))
            cases.append(GradientCase(
                kind: .scaleRows, name: "\(shape)", operands: [shape, [shape[0], 1]],
                apply: { $1[0].scaledRows(by: $1[1]) },
                reference: { v in v[0].indices.map { v[0][$0] * v[1][$0 / shape[1]] } }))
        }
        return cases
    }

    private static func elementwise() -> [GradientCase] {
        var cases: [GradientCase] = []
        for shape in [[1], [37], [3, 16]] {
            cases.append(GradientCase(
                kind: .unary, name: "\(shape)", operands: [shape], apply: { $1[0].gelu() },
                reference: { $0[0].map(Reference.gelu) }))
        }
        let scales: [[Float]?] = [nil, [1.25, 0, 0.5], [0, 0, 0]]
        for scale in scales {
            cases.append(GradientCase(
                kind: .residual, name: "scale \(String(describing: scale))", operands: [[3, 2, 5], [3, 2, 5]],
                apply: { $1[0].adding(branch: $1[1], scale: scale) },
                reference: { v in v[0].indices.map { v[0][$0] + Double(scale?[$0 / 10] ?? 1) * v[1][$0] } }))
        }
        cases.append(GradientCase(
            kind: .residual, name: "x + x", operands: [[2, 3]], apply: { $1[0].adding(branch: $1[0], scale: [2, 0.5]) },
            reference: { v in v[0].indices.map { v[0][$0] * ($0 < 3 ? 3 : 1.5) } }))
        for (index, scale) in [([0], [2]), ([2, 0], [1.25, 0.5]), ([1, 0, 2], [1, 0, 3])] as [([Int32], [Float])] {
            cases.append(GradientCase(
                kind: .residualOfSamples, name: "index \(index)", operands: [[3, 2, 5], [index.count, 2, 5]],
                apply: { $1[0].adding(branch: $1[1], at: index, scale: scale) },
                reference: { v in
                    v[0].indices.map { i in
                        let place = index.firstIndex(of: Int32(i / 10))
                        return v[0][i] + (place.map { Double(scale[$0]) * v[1][$0 * 10 + i % 10] } ?? 0)
                    }
                }))
        }
        // The branch reads x or another value, and sees the kept samples alone.
        let drops: [[Float]?] = [nil, [0, 1.5, 0], [2, 1, 0], [0, 0, 0], [1, 1, 1]]
        for drop in drops {
            let kind: HSSLGraph.Operation.Kind = drop.map { $0.contains(0) && $0.contains { $0 != 0 } } == true
                ? .residualOfSamples : .residual
            cases.append(GradientCase(
                kind: kind, name: "branch of kept samples \(String(describing: drop))", operands: [[3, 2, 5]],
                apply: { $1[0].adding(scale: drop) { $0.gelu() } },
                reference: { v in v[0].indices.map { v[0][$0] + Double(drop?[$0 / 10] ?? 1)
                * Reference.gelu(v[0][$0]) } }))
            cases.append(GradientCase(
                kind: kind, name: "branch of another value \(String(describing: drop))", operands: [[3, 4], [3, 1, 4]],
                apply: { $1[0].adding(of: $1[1], scale: drop) { $0.gelu().reshaped([$0.shape[0], 4]) } },
                reference: { v in v[0].indices.map { v[0][$0] + Double(drop?[$0 / 4] ?? 1)
                * Reference.gelu(v[1][$0]) } }))
        }
        for shape in [[1, 1, 1], [3, 2, 7], [1, 5, 3]] {
            let count = shape[1] * shape[2]
            cases.append(GradientCase(
                kind: .addBroadcast, name: "\(shape)", operands: [shape, [1, shape[1], shape[2]]],
                apply: { $1[0].addingBroadcast($1[1]) },
                reference: { v in v[0].indices.map { v[0][$0] + v[1][$0 % count] } }))
        }
        return cases
    }

    private static func attention() -> [GradientCase] {
        [(1, 1, 1, 1), (2, 5, 2, 3), (1, 7, 1, 8), (2, 4, 3, 5), (1, 17, 1, 4)].map { batch, tokens, heads, d in
            GradientCase(
                kind: .attention, name: "batch \(batch) tokens \(tokens) heads \(heads) of \(d)",
                operands: [[batch, tokens, 3 * heads * d]], apply: { $1[0].attention(heads: heads) },
                reference: { Reference.attention($0[0], batch: batch, tokens: tokens, heads: heads, headDimension: d) })
        }
    }

    private static func convolution() -> [GradientCase] {
        var cases: [GradientCase] = []
        for (batch, height, width, channels, kernel) in [
            (1, 1, 1, 1, 1), (2, 3, 4, 5, 3), (1, 4, 3, 17, 3), (1, 3, 3, 2, 7),
        ] {
            cases.append(
                GradientCase(
                    kind: .depthwiseConv, name: "\(batch)x\(height)x\(width)x\(channels) kernel \(kernel)",
                    operands: [[batch, height, width, channels], [channels, 1, kernel, kernel], [channels]],
                    apply: { $1[0].depthwiseConv(weight: $1[1], bias: $1[2]) },
                    reference: {
                        Reference.depthwiseConv(
                            $0[0], $0[1], $0[2], batch: batch, height: height, width: width, kernel: kernel)
                    }))
        }
        for (height, width, patch) in [(1, 1, 1), (4, 6, 2), (7, 5, 3)] {
            cases.append(
                GradientCase(
                    kind: .unfold, name: "image \(height)x\(width) patch \(patch)",
                    operands: [[2, 3, height, width]],
                    apply: { $1[0].unfolded(kernel: patch, stride: patch, from: .image) },
                    reference: {
                        Reference.patchify($0[0], batch: 2, channels: 3, height: height, width: width, patch: patch)
                    },
                    constantOperands: [0]))
        }
        return cases
    }

    private static func tokens() -> [GradientCase] {
        var cases: [GradientCase] = []
        for shape in [[1, 1, 1], [2, 3, 5]] {
            let (tokens, width) = (shape[1], shape[2])
            let sample = tokens * width
            cases.append(GradientCase(
                kind: .prependToken, name: "\(shape)", operands: [shape, [1, 1, width]],
                apply: { $1[0].prepending(token: $1[1]) },
                reference: { v in (0..<shape[0]).flatMap { v[1] + v[0][$0 * sample..<($0 + 1) * sample] } }))
            cases.append(GradientCase(
                kind: .prependToken, name: "\(shape), three tokens", operands: [shape, [1, 3, width]],
                apply: { $1[0].prepending(token: $1[1]) },
                reference: { v in (0..<shape[0]).flatMap { v[1] + v[0][$0 * sample..<($0 + 1) * sample] } }))
            cases.append(GradientCase(
                kind: .meanTokens, name: "\(shape)", operands: [shape], apply: { $1[0].meanOverTokens() },
                reference: { v in
                    (0..<shape[0] * width).map { i in
                        (0..<tokens).reduce(0.0) { $0 + v[0][i / width * sample + $1 * width + i % width] } / Double(
                            tokens)
                    }
                }))
            let rows = shape[0] * tokens
            for mask in [
                [UInt8](repeating: 0, count: rows), [1] + [UInt8](repeating: 0, count: rows - 1),
                [UInt8](repeating: 1, count: rows)] {
                cases.append(GradientCase(
                    kind: .maskTokens, name: "\(shape) mask \(mask)", operands: [shape, [1, width]],
                    apply: { $1[0].masked(mask, token: $1[1]) },
                    reference: { v in v[0].indices.map { mask[$0 / width] != 0 ? v[1][$0 % width] : v[0][$0] } }))
            }
        }
        for index in [[0, 1, 2], [2], [2, -1, 0, -1, 2, 1], [-1]] as [[Int32]] {
            cases.append(GradientCase(
                kind: .permuteTokens, name: "\(index) of 3", operands: [[2, 3, 5]],
                apply: { $1[0].permutingTokens(index) },
                reference: { v in
                    (0..<2).flatMap { b in
                        index.flatMap { i in (0..<5).map { i < 0 ? 0 : v[0][(b * 3 + Int(i)) * 5 + $0] } }
                    }
                }))
        }
        for shape in [[1, 1, 1], [2, 3, 5], [1, 17, 9]] {
            cases.append(GradientCase(
                kind: .transposeTokens, name: "\(shape)", operands: [shape], apply: { $1[0].transposedTokens() },
                reference: { Reference.transpose($0[0], batch: shape[0], rows: shape[1], columns: shape[2]) }))
            cases.append(GradientCase(
                kind: .reshape, name: "\(shape)", operands: [shape],
                apply: { $1[0].gelu().reshaped([shape[1], shape[0] * shape[2]]) },
                reference: { $0[0].map(Reference.gelu) }))
        }
        let indices: [[Int32]] = [[0], [3, 1], [2, 2, 0, 2]]
        for index in indices {
            cases.append(GradientCase(
                kind: .gatherRows, name: "index \(index)", operands: [[2, 2, 3]], apply: { $1[0].gatheringRows(index) },
                reference: { v in index.flatMap { v[0][Int($0) * 3..<(Int($0) + 1) * 3] } }))
        }
        for (sources, targets, width) in [(1, 1, 1), (4, 6, 3), (9, 4, 17)] {
            let matrix = randomValues(sources * targets, 7)
            cases.append(GradientCase(
                kind: .resamplePositions, name: "\(sources) -> \(targets), width \(width)",
                operands: [[1, 1 + sources, width]],
                apply: { $1[0].resampledPositions(matrix: matrix.map { Float($0) }, rows: targets) },
                reference: { v in
                    Array(v[0][..<width]) + (0..<targets * width).map { i in
                        (0..<sources).reduce(0.0) {
                            $0 + matrix[i / width * sources + $1] * v[0][(1 + $1) * width + i % width]
                        }
                    }
                }))
        }
        cases.append(positionsWithoutClass())
        return cases
    }

    /// All rows through the matrix: none is kept.
    private static func positionsWithoutClass() -> GradientCase {
        let matrix = randomValues(4 * 6, 8), narrow = matrix.map { Float($0) }
        return GradientCase(
            kind: .resamplePositions, name: "no row for CLS", operands: [[1, 4, 3]],
            apply: { $1[0].resampledPositions(matrix: narrow, rows: 6) },
            reference: { v in
                var y = [Double](repeating: 0, count: 18)
                for target in 0..<6 {
                    for source in 0..<4 {
                        for i in 0..<3 { y[target * 3 + i] += matrix[target * 4 + source] * v[0][source * 3 + i] }
                    }
                }
                return y
            })
    }

    private static func losses() -> [GradientCase] { softCrossEntropy() + prototypeCrossEntropy() }

    private static func softCrossEntropy() -> [GradientCase] {
        [([1, 1], 1.0), ([1, 2], 0.1), ([3, 5], 0.5), ([4, 33], 0.1), ([2, 3, 7], 0.5)].map {
            (shape: [Int], temperature: Double) in
            let width = shape[shape.count - 1]
            let rows = shape.dropLast().reduce(1, *)
            let targets = Reference.rows(randomValues(rows * width, 11), width: width, Reference.softmax).map {
                Float($0)
            }
            let weights = (0..<rows).map { $0 == 1 ? 0 : 0.5 + Float($0) }
            return GradientCase(
                kind: .softCrossEntropy, name: "\(shape) temperature \(temperature)", operands: [shape],
                apply: { tape, v in
                    var rowLosses: [Float] = []
                    return v[0].gelu().reshaped([rows, width]).softCrossEntropy(
                        targets: tape.constant(targets, shape: [rows, width]), weights: weights,
                        temperature: Float(temperature), rowLosses: &rowLosses)
                },
                reference: {
                    [Reference.softCrossEntropy(
                        $0[0].map(Reference.gelu), targets: targets.map { Double($0) },
                        weights: weights.map { Double($0) }, temperature: temperature)]
                },
                tolerance: 3e-5)
        }
    }

    /// Two streams: the first learns from stored and from projected targets, the second from stored ones, several rows
    /// from the same.
    private static func prototypeCrossEntropy() -> [GradientCase] {
        [(1, 1, 1, 1, 64), (2, 3, 5, 7, 1 << 20), (1, 5, 4, 9, 18), (3, 7, 3, 40, 50)].map {
            (stored: Int, projected: Int, d: Int, k: Int, tile: Int) in
            let temperature = 0.5, teacherTemperature = 0.25
            let q = Reference.rows(randomValues(4 * k, 21), width: k, Reference.softmax).map { Float($0) }
            let y = randomValues(projected * d, 22).map { Float($0) }, v = randomValues(k * d, 23).map { Float($0) }
            let center = randomValues(k, 24).map { Float($0) * 0.1 }
            let index = (0..<stored).map { Int32(3 - $0) }, second: [Int32] = [1, 1, 0]
            let weights = (0..<stored + projected).map { $0 == 1 ? 0 : 0.5 + Float($0) }
            return GradientCase(
                kind: .prototypeCrossEntropy,
                name: "\(stored) + \(projected) rows of \(d), \(k) prototypes, tiles of \(tile)",
                operands: [[stored + projected, d], [3, d], [k, d]],
                apply: { tape, operands in
                    // The targets are on a tape of their own, as a teacher's are.
                    let teacher = Tape(mode: .inference, pool: tape.pool)
                    let distributions = teacher.constant(q, shape: [4, k])
                    var rowLosses: [[Float]] = []
                    return operands[2].prototypeCrossEntropy(
                        of: [
                            PrototypeRows(rows: operands[0], targets: [
                                .distributions(distributions, index: index),
                                .projections(
                                    teacher.constant(y, shape: [projected, d]),
                                    prototypes: teacher.constant(v, shape: [k, d]), center: center,
                                             temperature: Float(teacherTemperature)),
                            ], weights: weights),
                            PrototypeRows(
                                rows: operands[1], targets: [.distributions(distributions, index: second)],
                                weights: [1, 2, 3]),
                        ],
                        temperature: Float(temperature), rowLosses: &rowLosses, tileElements: tile)
                },
                reference: { operands in
                    let logits = Reference.linear(y.map { Double($0) }, v.map { Double($0) }, nil, inputs: d)
                    let targets = (index.flatMap { q[Int($0) * k..<(Int($0) + 1) * k] }).map { Double($0) }
                        + Reference.rows(logits, width: k) { row in
                            Reference.softmax(row.indices.map { (row[$0] - Double(center[$0])) / teacherTemperature })
                        }
                    let others = (second.flatMap { q[Int($0) * k..<(Int($0) + 1) * k] }).map { Double($0) }
                    return [Reference.softCrossEntropy(
                        Reference.linear(operands[0], operands[2], nil, inputs: d), targets: targets,
                        weights: weights.map { Double($0) }, temperature: temperature)
                        + Reference.softCrossEntropy(
                            Reference.linear(operands[1], operands[2], nil, inputs: d), targets: others,
                            weights: [1, 2, 3], temperature: temperature)]
                },
                tolerance: 3e-5)
        }
    }
}
