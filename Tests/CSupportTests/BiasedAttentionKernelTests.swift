import CSupport
import XCTest

/// softmax(Q·Kᵀ/√d + bias + mask)·V and its gradients, against float64.
final class BiasedAttentionKernelTests: KernelRowTestCase {
    private struct Shape: CustomStringConvertible {
        var batch: Int, tokens: Int, heads: Int, headDim: Int
        var bias = true, windows = 0  // 0: no mask
        var count: Int { batch * tokens * heads * headDim }
        var scores: Int { tokens * tokens }
        var description: String { "[\(batch), \(tokens), \(heads)×\(headDim)], bias \(bias), \(windows) windows" }
    }

    private struct Input {
        var qkv: [Float], bias: [Float]?, mask: [Float]?, dout: [Float]
    }

    private struct Result {
        var out: [Float], logSumExp: [Float], dqkv: [Float], dbias: [Float]
        var all: [[Float]] { [out, logSumExp, dqkv, dbias] }
    }

    private func input(_ s: Shape, seed: Int) -> Input {
        // Roughly a third is masked, as a shifted window is, but no query loses its own key.
        let mask = uniform(s.windows * s.scores, seed: seed + 2).enumerated().map { index, value -> Float in
            let i = index / s.tokens % s.tokens, j = index % s.tokens
            return i != j && value < -0.3 ? (index % 7 == 0 ? -.infinity : -100) : 0
        }
        return Input(
            qkv: uniform(3 * s.count, seed: seed).map { $0 * 2 },
            bias: s.bias ? uniform(s.heads * s.scores, seed: seed + 1) : nil, mask: s.windows > 0 ? mask : nil,
            dout: uniform(s.count, seed: seed + 3))
    }

    private func attention(_ s: Shape, _ input: Input, edge: GuardedFloats.Edge = .end) -> Result {
        let qkv = GuardedFloats(input.qkv, edge: edge), dout = GuardedFloats(input.dout, edge: edge)
        let bias = input.bias.map { GuardedFloats($0, edge: edge) }, mask = input.mask.map {
            GuardedFloats($0, edge: edge)
        }
        let out = GuardedFloats(count: s.count, edge: edge), dqkv = GuardedFloats(count: 3 * s.count, edge: edge)
        let logSumExp = GuardedFloats(count: s.batch * s.heads * s.tokens, edge: edge)
        let dbias = GuardedFloats(uniform(s.heads * s.scores, seed: 71), edge: edge)
        func workspace(_ bytes: Int) -> GuardedFloats {
            GuardedFloats([Float](repeating: .nan, count: bytes / 4), edge: edge)
        }
        let forward = workspace(hssl_attention_biased_workspace_size(s.batch, s.tokens, s.heads, s.headDim))
        let backward = workspace(hssl_attention_biased_backward_workspace_size(s.batch, s.tokens, s.heads, s.headDim))
        hssl_attention_biased(
            s.batch, s.tokens, s.heads, s.headDim, bias?.pointer, mask?.pointer, s.windows, qkv.pointer, out.pointer,
            logSumExp.pointer, forward.pointer)
        hssl_attention_biased_backward(
            s.batch, s.tokens, s.heads, s.headDim, bias?.pointer, mask?.pointer, s.windows, qkv.pointer, out.pointer,
            logSumExp.pointer, dout.pointer, dqkv.pointer, dbias.pointer, backward.pointer)
        return Result(out: out.values, logSumExp: logSumExp.values, dqkv: dqkv.values, dbias: dbias.values)
    }

    /// The formulas, one head of one sample at a time.
    private func exact(_ s: Shape, _ input: Input) -> Result {
        let N = s.tokens, d = s.headDim, scale = 1 / Double(d).squareRoot(), width = s.heads * d
        var out = [Double](repeating: 0, count: s.count), dqkv = [Double](repeating: 0, count: 3 * s.count)
        var logSumExp = [Float](), dbias = uniform(s.heads * s.scores, seed: 71).map(Double.init)
        for b in 0..<s.batch {
            for h in 0..<s.heads {
                func at(_ t: Int, _ which: Int) -> Int { (b * N + t) * 3 * width + which * width + h * d }
                func dot(_ x: Int, _ y: Int) -> Double {
                    var sum = 0.0
                    for c in 0..<d { sum += Double(input.qkv[x + c]) * Double(input.qkv[y + c]) }
                    return sum
                }
                for i in 0..<N {
                    let to = (b * N + i) * width + h * d
                    var p = (0..<N).map { dot(at(i, 0), at($0, 1)) * scale }
                    for j in 0..<N {
                        if let bias = input.bias { p[j] += Double(bias[(h * N + i) * N + j]) }
                        if let mask = input.mask { p[j] += Double(mask[(b % s.windows * N + i) * N + j]) }
                    }
                    let top = p.max() ?? 0
                    let sum = p.reduce(0) { $0 + exp($1 - top) }
                    logSumExp.append(Float(top + log(sum)))
                    for j in 0..<N {
                        p[j] = exp(p[j] - top) / sum
                        for c in 0..<d { out[to + c] += p[j] * Double(input.qkv[at(j, 2) + c]) }
                    }
                    var correction = 0.0
                    for c in 0..<d { correction += Double(input.dout[to + c]) * out[to + c] }
                    for j in 0..<N {
                        var dp = 0.0
                        for c in 0..<d { dp += Double(input.dout[to + c]) * Double(input.qkv[at(j, 2) + c]) }
                        let ds = p[j] * (dp - correction)
                        dbias[(h * N + i) * N + j] += ds
                        for c in 0..<d {
                            dqkv[at(i, 0) + c] += ds * scale * Double(input.qkv[at(j, 1) + c])
                            dqkv[at(j, 1) + c] += ds * scale * Double(input.qkv[at(i, 0) + c])
                            dqkv[at(j, 2) + c] += p[j] * Double(input.dout[to + c])
                        }
                    }
                }
            }
        }
        return Result(
            out: out.map(Float.init), logSumExp: logSumExp, dqkv: dqkv.map(Float.init), dbias: dbias.map(Float.init))
    }

    private func check(_ shapes: [Shape]) {
        let bounds = [("out", 3e-6), ("log-sum-exp", 2e-6), ("dqkv", 5e-6), ("dbias", 5e-6)]
        for (index, s) in shapes.enumerated() {
            let input = input(s, seed: index)
            let expected = exact(s, input).all
            forEveryRow(of: "attention") { isa in
                let actual = attention(s, input, edge: index % 2 == 0 ? .end : .start).all
                for (output, (name, bound)) in bounds.enumerated() {
                    assertClose(
                        actual[output], expected[output], bound, floor: 0.1, "\(name) \(s), row \(isa.rawValue)")
                }
            }
        }
    }

    func testEveryTokenCount() {
        check((1...52).map { Shape(
            batch: 1 + $0 % 3, tokens: $0, heads: 1 + $0 % 2, headDim: [1, 7, 16, 32][$0 % 4], bias: $0 % 5 != 0,
            windows: $0 % 3) })
    }

    func testEveryHeadDimension() {
        check((1...40).map { Shape(batch: 2, tokens: 1 + $0 % 11, heads: 2, headDim: $0, windows: 1 + $0 % 2) })
    }

    /// Windows of models, more samples than chunks, and sequences of several strips.
    func testModelShapes() {
        check([
            Shape(batch: 8, tokens: 49, heads: 3, headDim: 32, windows: 4),
            Shape(batch: 35, tokens: 5, heads: 2, headDim: 8, windows: 7),
            Shape(batch: 1, tokens: 197, heads: 2, headDim: 64),
            Shape(batch: 2, tokens: 65, heads: 1, headDim: 24, windows: 1),
            Shape(batch: 2, tokens: 128, heads: 1, headDim: 16, bias: false, windows: 2),
        ])
    }

    /// Padded columns must not count: a bias that lifts every score changes nothing but the log-sum-exp.
    func testCommonPartOfTheBiasesDoesNotMatter() {
        let s = Shape(batch: 1, tokens: 49, heads: 1, headDim: 32)
        for offset: Float in [-1000, 1000] {
            var input = input(s, seed: 3)
            let plain = exact(s, input)
            input.bias = input.bias?.map { $0 + offset }
            forEveryRow(of: "attention") { isa in
                let lifted = attention(s, input)
                assertClose(lifted.out, plain.out, 2e-4, "out, row \(isa.rawValue)")
                assertClose(
                    lifted.logSumExp, plain.logSumExp.map { $0 + offset }, 1e-6, "log-sum-exp, row \(isa.rawValue)")
                assertClose(lifted.dqkv, plain.dqkv, 2e-4, "dqkv, row \(isa.rawValue)")
            }
        }
    }

    func testWithoutBiasAndMaskItIsPlainAttention() {
        let s = Shape(batch: 3, tokens: 50, heads: 2, headDim: 24, bias: false)
        let input = input(s, seed: 9)
        forEveryRow(of: "attention") { isa in
            var out = [Float](repeating: 0, count: s.count)
            let workspace = GuardedFloats(count: hssl_attention_workspace_size(
                s.batch, s.tokens, s.heads, s.headDim) / 4)
            hssl_attention(s.batch, s.tokens, s.heads, s.headDim, input.qkv, &out, nil, workspace.pointer)
            assertClose(attention(s, input).out, out, 1e-6, "row \(isa.rawValue)")
        }
    }

    func testNaNReachesTheOutput() {
        let s = Shape(batch: 1, tokens: 20, heads: 1, headDim: 8, windows: 1)
        forEveryRow(of: "attention") { isa in
            for place in 0..<2 {
                var input = input(s, seed: 4)
                if place == 0 { input.bias?[25] = .nan } else { input.qkv[9] = .nan }
                XCTAssertTrue(attention(s, input).out.contains(where: \.isNaN), "place \(place), row \(isa.rawValue)")
            }
        }
    }

    func testOptionalOutputs() {
        let s = Shape(batch: 2, tokens: 20, heads: 2, headDim: 16, windows: 1)
        let input = input(s, seed: 1)
        forEveryRow(of: "attention") { _ in
            let full = attention(s, input)
            let forward = GuardedFloats(count: hssl_attention_biased_workspace_size(
                s.batch, s.tokens, s.heads, s.headDim) / 4)
            let backward = GuardedFloats(count: hssl_attention_biased_backward_workspace_size(
                s.batch, s.tokens, s.heads, s.headDim) / 4)
            var out = [Float](repeating: 0, count: s.count), dqkv = [Float](repeating: 0, count: 3 * s.count)
            hssl_attention_biased(
                s.batch, s.tokens, s.heads, s.headDim, input.bias, input.mask, s.windows, input.qkv, &out, nil,
                forward.pointer)
            assertSameBits(out, full.out, "without log-sum-exp")
            hssl_attention_biased_backward(
                s.batch, s.tokens, s.heads, s.headDim, input.bias, input.mask, s.windows, input.qkv, full.out,
                full.logSumExp, input.dout, &dqkv, nil, backward.pointer)
            assertSameBits(dqkv, full.dqkv, "without dbias")
        }
    }

    func testThreadsDoNotMatter() {
        for s in [
            Shape(batch: 37, tokens: 49, heads: 3, headDim: 32, windows: 4),
            Shape(batch: 3, tokens: 100, heads: 1, headDim: 24)] {
            let input = input(s, seed: 2)
            assertThreadsDoNotMatter("attention", counts: [2, 4]) { attention(s, input).all }
        }
    }
}
