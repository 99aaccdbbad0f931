import CSupport
import XCTest

final class AttentionKernelTests: KernelRowTestCase {
    private struct Shape: CustomStringConvertible {
        var batch: Int, tokens: Int, heads: Int, headDim: Int
        var count: Int { batch * tokens * heads * headDim }
        var description: String { "[\(batch), \(tokens), \(heads)×\(headDim)]" }
    }

    private struct Result {
        var out: [Float], logSumExp: [Float], dqkv: [Float]
    }

    private func attention(_ s: Shape, qkv: [Float], dout: [Float], edge: GuardedFloats.Edge = .end) -> Result {
        let qkv = GuardedFloats(qkv, edge: edge), dout = GuardedFloats(dout, edge: edge)
        let out = GuardedFloats(count: s.count, edge: edge), dqkv = GuardedFloats(count: 3 * s.count, edge: edge)
        let logSumExp = GuardedFloats(count: s.batch * s.heads * s.tokens, edge: edge)
        let forward = GuardedFloats(
            count: hssl_attention_workspace_size(s.batch, s.tokens, s.heads, s.headDim) / 4, edge: edge)
        let backward = GuardedFloats(
            count: hssl_attention_backward_workspace_size(s.batch, s.tokens, s.heads, s.headDim) / 4, edge: edge)
        hssl_attention(
            s.batch, s.tokens, s.heads, s.headDim, qkv.pointer, out.pointer, logSumExp.pointer, forward.pointer)
        hssl_attention_backward(
            s.batch, s.tokens, s.heads, s.headDim, qkv.pointer, out.pointer, logSumExp.pointer, dout.pointer,
            dqkv.pointer, backward.pointer)
        return Result(out: out.values, logSumExp: logSumExp.values, dqkv: dqkv.values)
    }

    private func compareWithScalar(_ shapes: [Shape]) {
        let cases = shapes.enumerated().map { index, shape in
            (shape, uniform(3 * shape.count, seed: index).map { $0 * 2 }, uniform(shape.count, seed: index + 1))
        }
        let expected = withScalarRow { cases.map { attention($0.0, qkv: $0.1, dout: $0.2) } }
        forEachRow(of: "attention") { isa in
            for (index, (shape, qkv, dout)) in cases.enumerated() {
                let actual = attention(shape, qkv: qkv, dout: dout, edge: index % 2 == 0 ? .end : .start)
                assertClose(actual.out, expected[index].out, 3e-6, "out \(shape), row \(isa.rawValue)")
                assertClose(
                    actual.logSumExp, expected[index].logSumExp, 1e-6, "log-sum-exp \(shape), row \(isa.rawValue)")
                assertClose(actual.dqkv, expected[index].dqkv, 5e-6, "dqkv \(shape), row \(isa.rawValue)")
            }
        }
    }

    func testEveryHeadDimension() {
        compareWithScalar((1...70).map { Shape(batch: 1, tokens: 1 + $0 % 11, heads: 1 + $0 % 3, headDim: $0) })
    }

    func testEveryTokenCount() {
        compareWithScalar((1...70).map { Shape(
            batch: 1 + $0 % 2, tokens: $0, heads: 2, headDim: [1, 7, 16, 32][$0 % 4]) })
    }

    func testModelShapesAndSeveralStrips() {
        compareWithScalar([
            Shape(batch: 2, tokens: 50, heads: 3, headDim: 32), Shape(batch: 1, tokens: 197, heads: 2, headDim: 64),
            Shape(batch: 1, tokens: 65, heads: 1, headDim: 24), Shape(batch: 1, tokens: 128, heads: 1, headDim: 48),
            Shape(batch: 1, tokens: 256, heads: 1, headDim: 5), Shape(batch: 1, tokens: 73, heads: 1, headDim: 130),
        ])
    }

    /// An independent float64 formula, differentiated numerically.
    func testMatchesFiniteDifferences() {
        let s = Shape(batch: 1, tokens: 5, heads: 2, headDim: 3)
        let qkv = uniform(3 * s.count, seed: 5), dout = uniform(s.count, seed: 6)
        func forward(_ qkv: [Double]) -> [Double] {
            var out = [Double](repeating: 0, count: s.count)
            func at(_ t: Int, _ which: Int, _ h: Int, _ c: Int) -> Double {
                qkv[((t * 3 + which) * s.heads + h) * s.headDim + c]
            }
            for h in 0..<s.heads {
                for i in 0..<s.tokens {
                    let weights = (0..<s.tokens).map { j in
                        exp((0..<s.headDim).reduce(0.0) { $0 + at(i, 0, h, $1)
                            * at(j, 1, h, $1) } / Double(s.headDim).squareRoot())
                    }
                    let sum = weights.reduce(0, +)
                    for c in 0..<s.headDim {
                        out[(i * s.heads + h) * s.headDim + c] = (0..<s.tokens).reduce(0.0) {
                            $0 + weights[$1] / sum * at($1, 2, h, c)
                        }
                    }
                }
            }
            return out
        }
        let out = forward(qkv.map(Double.init)).map(Float.init)
        let dqkv = centralDifferences(at: qkv, weights: dout, forward)
        func check(_ isa: hssl_isa) {
            let result = attention(s, qkv: qkv, dout: dout)
            assertClose(result.out, out, 1e-6, "out, row \(isa.rawValue)")
            assertClose(result.dqkv, dqkv, 1e-5, "dqkv, row \(isa.rawValue)")
        }
        check(HSSL_ISA_SCALAR)
        forEachRow(of: "attention", check)
    }

    func testExtremeLogitsStayFinite() {
        func check(_ isa: hssl_isa) {
            let s = Shape(batch: 1, tokens: 37, heads: 1, headDim: 16)
            for magnitude: Float in [100, 1e4, 1e15] {
                var qkv = uniform(3 * s.count, seed: 4)
                for t in 0..<s.tokens { for c in 0..<2 * s.headDim { qkv[t * 3 * s.headDim + c] *= magnitude } }
                let result = attention(s, qkv: qkv, dout: uniform(s.count, seed: 5))
                XCTAssertTrue(
                    result.out.allSatisfy { abs($0) <= 1.000001 }, "out, magnitude \(magnitude), row \(isa.rawValue)")
                XCTAssertTrue(
                    result.logSumExp.allSatisfy(\.isFinite), "log-sum-exp, magnitude \(magnitude), row \(isa.rawValue)")
                XCTAssertTrue(result.dqkv.allSatisfy(\.isFinite), "dqkv, magnitude \(magnitude), row \(isa.rawValue)")
            }
        }
        check(HSSL_ISA_SCALAR)
        forEachRow(of: "attention", check)
    }

    func testNaNReachesTheOutput() {
        let s = Shape(batch: 1, tokens: 20, heads: 1, headDim: 8)
        for position in [0, 9, 17] {  // in q, k and v of token 0
            var qkv = uniform(3 * s.count, seed: 4)
            qkv[position] = .nan
            forEachRow(of: "attention") { isa in
                XCTAssertTrue(
                    attention(s, qkv: qkv, dout: uniform(s.count, seed: 5)).out.contains(where: \.isNaN),
                    "row \(isa.rawValue)")
            }
        }
    }

    func testSampleAndHeadDoNotDependOnTheBatch() {
        let s = Shape(batch: 3, tokens: 50, heads: 3, headDim: 32)
        let qkv = uniform(3 * s.count, seed: 1), dout = uniform(s.count, seed: 2)
        forEachRow(of: "attention") { _ in
            let all = attention(s, qkv: qkv, dout: dout)
            let stride = s.count / s.batch
            for b in 0..<s.batch {
                let one = attention(
                    Shape(batch: 1, tokens: s.tokens, heads: s.heads, headDim: s.headDim),
                    qkv: Array(qkv[3 * b * stride..<3 * (b + 1) * stride]),
                    dout: Array(dout[b * stride..<(b + 1) * stride]))
                assertSameBits(one.out, Array(all.out[b * stride..<(b + 1) * stride]), "out of sample \(b)")
                assertSameBits(one.dqkv, Array(all.dqkv[3 * b * stride..<3 * (b + 1) * stride]), "dqkv of sample \(b)")
            }
        }
    }

    func testThreadsDoNotMatter() {
        // Many heads, one head (its queries are split), and an odd number of pairs.
        for s in [
            Shape(batch: 4, tokens: 50, heads: 3, headDim: 32), Shape(batch: 1, tokens: 197, heads: 1, headDim: 64),
            Shape(batch: 1, tokens: 101, heads: 3, headDim: 24)] {
            let qkv = uniform(3 * s.count, seed: 1), dout = uniform(s.count, seed: 2)
            assertThreadsDoNotMatter("attention") {
                let result = attention(s, qkv: qkv, dout: dout)
                return [result.out, result.logSumExp, result.dqkv]
            }
        }
    }

    func testLogSumExpIsOptional() {
        let s = Shape(batch: 1, tokens: 20, heads: 2, headDim: 16)
        let qkv = uniform(3 * s.count, seed: 1)
        forEachRow(of: "attention") { _ in
            let expected = attention(s, qkv: qkv, dout: uniform(s.count, seed: 2)).out
            let workspace = GuardedFloats(count: hssl_attention_workspace_size(1, 20, 2, 16) / 4)
            var out = [Float](repeating: 0, count: s.count)
            hssl_attention(1, 20, 2, 16, qkv, &out, nil, workspace.pointer)
            assertSameBits(out, expected, "without log-sum-exp")
        }
    }
}
