import CSupport
import XCTest

/// Attention over integer codes (int8 models): near the float32 product, the same bits on every row, range and thread
/// count.
final class AttentionIntegerTests: KernelRowTestCase {
    private struct Shape: CustomStringConvertible {
        var tokens: Int, heads: Int, headDim: Int
        var count: Int { tokens * heads * headDim }
        var description: String { "[\(tokens), \(heads)×\(headDim)]" }
    }

    private func integers(
        _ s: Shape, qkv: [Float], queries: Range<Int>? = nil, edge: GuardedFloats.Edge = .end
    ) -> [Float] {
        let input = GuardedHalves(count: qkv.count, edge: edge), out = GuardedHalves(count: s.count, edge: edge)
        hssl_convert_f32_f16(qkv.count, qkv, input.pointer)
        let workspace = GuardedFloats(count: hssl_attention_integer_workspace_size(s.tokens, s.headDim) / 4, edge: edge)
        let queries = queries ?? 0..<s.tokens
        hssl_attention_integer(
            s.tokens, s.heads, s.headDim, queries.lowerBound, queries.upperBound, input.pointer, out.pointer,
            workspace.pointer)
        return out.widened
    }

    private func floats(_ s: Shape, qkv: [Float]) -> [Float] {
        let workspace = GuardedFloats(count: hssl_attention_workspace_size(1, s.tokens, s.heads, s.headDim) / 4)
        var out = [Float](repeating: 0, count: s.count)
        hssl_attention(1, s.tokens, s.heads, s.headDim, qkv, &out, nil, workspace.pointer)
        return out
    }

    private let shapes = (1...70).map { Shape(tokens: 1 + $0 * 7 % 75, heads: 1 + $0 % 3, headDim: $0) } + [
        Shape(tokens: 197, heads: 2, headDim: 64), Shape(tokens: 50, heads: 3, headDim: 32),
        Shape(tokens: 257, heads: 1, headDim: 80),
        Shape(tokens: 128, heads: 1, headDim: 48), Shape(tokens: 1025, heads: 1, headDim: 16),
    ]

    func testNearFloat32OnEveryRow() {
        let inputs = shapes.enumerated().map { index, shape in uniform(3 * shape.count, seed: index).map { $0 * 2 } }
        let expected = withScalarRow { zip(shapes, inputs).map { floats($0, qkv: $1) } }
        var worst: Float = 0, worstMean: Float = 0
        func check(_ isa: hssl_isa) {
            for (index, shape) in shapes.enumerated() {
                let actual = integers(shape, qkv: inputs[index], edge: index % 2 == 0 ? .end : .start)
                // Values are in ±2; everything has 7 bits, probabilities 8.
                for (a, b) in zip(actual, expected[index]) { worst = max(worst, abs(a - b)) }
                assertClose(actual, expected[index], 1.8e-2, floor: 2, "\(shape), row \(isa.rawValue)")
                worstMean = max(worstMean, rootMeanSquare(zip(actual, expected[index]).map(-)))
            }
        }
        withScalarRow { check(HSSL_ISA_SCALAR) }
        forEachRow(of: "attention", check)
        print(
            "attention over integer codes: largest difference to float32 \(worst), root mean square at most "
            + "\(worstMean), values within ±2"
        )
        XCTAssertLessThan(worstMean, 6e-3)
    }

    /// More threads than heads, and than cores: those without a head take strips of the heads that others are at, as
    /// often as not while these end.
    func testManyThreadsShareTheStripsOfFewHeads() {
        for s in [Shape(tokens: 257, heads: 1, headDim: 16), Shape(tokens: 73, heads: 3, headDim: 8)] {
            let qkv = uniform(3 * s.count, seed: s.tokens)
            hssl_set_threads(1)
            let (expectedIntegers, expectedFloats) = (integers(s, qkv: qkv), floats(s, qkv: qkv))
            hssl_set_threads(5)
            for round in 0..<100 {
                assertSameBits(integers(s, qkv: qkv), expectedIntegers, "\(s), integers, round \(round)")
                assertSameBits(floats(s, qkv: qkv), expectedFloats, "\(s), floats, round \(round)")
            }
        }
    }

    private func rootMeanSquare(_ x: [Float]) -> Float { sqrt(x.reduce(0) { $0 + $1 * $1 } / Float(x.count)) }

    /// Queries and keys that 8 bits hold exactly leave the error of softmax, probabilities and values.
    func testExactScoresLeaveTheErrorOfValues() {
        var worstMean: Float = 0
        for s in shapes where s.tokens % 2 == 0 || s.tokens == 197 {
            var qkv = uniform(3 * s.count, seed: s.tokens).map { $0 * 2 }
            let width = s.heads * s.headDim
            // On a grid of 1/64, the largest code in every query and every head's keys; token t + 1 has the opposite
            // key, an odd last one none: their mean is 0.
            for t in 0..<s.tokens {
                for c in 0..<width {
                    let q = t * 3 * width + c, isFirst = c % s.headDim == 0
                    qkv[q] = isFirst ? 127.0 / 64 : max(-127, min(127, (qkv[q] * 64).rounded())) / 64
                    let k = q + width
                    if t % 2 == 1 { qkv[k] = -qkv[k - 3 * width] } else {
                        qkv[k] = isFirst && t == 0 ? 127.0 / 64 : max(-127, min(127, (qkv[k] * 64).rounded())) / 64
                    }
                    if t == s.tokens - 1 && t % 2 == 0 { qkv[k] = 0 }
                }
            }
            let expected = withScalarRow { floats(s, qkv: qkv) }
            func check(_ isa: hssl_isa) {
                let actual = integers(s, qkv: qkv)
                // Half a step of values where one token has all the weight, half a step of every probability where many
                // have some.
                assertClose(actual, expected, 1.5e-2, floor: 2, "\(s), row \(isa.rawValue)")
                worstMean = max(worstMean, rootMeanSquare(zip(actual, expected).map(-)))
            }
            withScalarRow { check(HSSL_ISA_SCALAR) }
            forEachRow(of: "attention", check)
        }
        print(
            "attention over integer codes, exact scores: root mean square of the "
            + "error at most \(worstMean), values within ±2"
        )
        XCTAssertLessThan(worstMean, 5e-3)
    }

    /// Probabilities below a 510th of the largest have code 0: what they weigh together goes to the mean of the values,
    /// which is theirs.
    func testManySmallProbabilitiesKeepTheirWeight() {
        let s = Shape(tokens: 1025, heads: 1, headDim: 16)
        var qkv = uniform(3 * s.count, seed: 5)
        for t in 0..<s.tokens {
            for c in 0..<s.headDim {
                qkv[t * 48 + c] = 1
                // a score of 6.4: 600 times the weight of another, which are 1024
                qkv[t * 48 + 16 + c] = t == 500 ? 1.6 : 0
                qkv[t * 48 + 32 + c] += Float(c % 3)
            }
        }
        let expected = floats(s, qkv: qkv)
        forEachRow(of: "attention") { isa in
            assertClose(integers(s, qkv: qkv), expected, 5e-3, floor: 1, "row \(isa.rawValue)")
        }
    }

    /// Whatever a unit of score is worth, from a few thousandths of an octave to more than 16: each query has a key of
    /// its own, and its value.
    func testSharpScoresTakeOneValue() {
        let s = Shape(tokens: 40, heads: 1, headDim: 40)
        func check(_ isa: hssl_isa) {
            for magnitude: Float in [12, 30, 100, 300, 1e3, 1e4, 6e4] {
                var qkv = uniform(3 * s.count, seed: 6)
                for t in 0..<s.tokens {
                    for c in 0..<s.headDim {
                        qkv[t * 120 + c] = c == t ? magnitude : 0
                        qkv[t * 120 + 40 + c] = c == t ? magnitude : 0
                    }
                }
                let values = (0..<s.tokens).flatMap { t in qkv[t * 120 + 80..<t * 120 + 120] }
                assertClose(
                    integers(s, qkv: qkv), values, 1e-2, floor: 1, "magnitude \(magnitude), row \(isa.rawValue)")
            }
        }
        withScalarRow { check(HSSL_ISA_SCALAR) }
        forEachRow(of: "attention", check)
    }

    /// What all keys have in common moves no probability, and must not take bits from what they differ in; scores as
    /// sharp as trained models have them.
    func testCommonPartOfTheKeysCostsNoAccuracy() {
        let s = Shape(tokens: 197, heads: 1, headDim: 64)
        var qkv = uniform(3 * s.count, seed: 12).map { $0 * 4 }
        func error(_ isa: hssl_isa) -> Float {
            let expected = floats(s, qkv: qkv)
            return rootMeanSquare(zip(integers(s, qkv: qkv), expected).map(-)) / rootMeanSquare(expected)
        }
        forEachRow(of: "attention") { isa in
            let without = error(isa)
            for t in 0..<s.tokens { for c in 0..<4 { qkv[(t * 3 + 1) * s.headDim + c] += 100 } }
            let with = error(isa)
            for t in 0..<s.tokens { for c in 0..<4 { qkv[(t * 3 + 1) * s.headDim + c] -= 100 } }
            print(
                "attention over integer codes: relative error \(without), with a common "
                + "part of the keys \(with), row \(isa.rawValue)"
            )
            XCTAssertLessThan(without, 0.05)
            XCTAssertLessThan(with, 1.2 * without)
        }
    }

    /// The sums are exact, and the softmax is 16-bit arithmetic.
    func testRowsAgreeToTheBit() {
        for (index, shape) in shapes.enumerated() {
            let qkv = uniform(3 * shape.count, seed: 3 * index).map { $0 * Float(1 + index % 5) }
            let expected = withScalarRow { integers(shape, qkv: qkv) }
            forEachRow(of: "attention") { isa in
                assertSameBits(integers(shape, qkv: qkv), expected, "\(shape), row \(isa.rawValue)")
            }
        }
    }

    func testQueryDoesNotDependOnTheRange() {
        let s = Shape(tokens: 101, heads: 2, headDim: 24)
        let qkv = uniform(3 * s.count, seed: 8)
        forEachRow(of: "attention") { isa in
            let all = integers(s, qkv: qkv)
            for range in [0..<1, 5..<44, 100..<101] {
                let width = s.heads * s.headDim
                let some = integers(s, qkv: qkv, queries: range)
                assertSameBits(
                    Array(some[range.lowerBound * width..<range.upperBound * width]),
                    Array(all[range.lowerBound * width..<range.upperBound * width]),
                               "queries \(range), row \(isa.rawValue)")
            }
        }
    }

    func testThreadsDoNotMatter() {
        for s in [
            Shape(tokens: 197, heads: 6, headDim: 64), Shape(tokens: 197, heads: 1, headDim: 64),
            Shape(tokens: 301, heads: 3, headDim: 24)] {
            let qkv = uniform(3 * s.count, seed: 1)
            assertThreadsDoNotMatter("attention") { [integers(s, qkv: qkv)] }
        }
    }

    func testExtremesStayFiniteAndZerosAreZero() {
        let s = Shape(tokens: 37, heads: 1, headDim: 16)
        func check(_ isa: hssl_isa) {
            for magnitude: Float in [1e-7, 100, 1e4, 65504] {
                var qkv = uniform(3 * s.count, seed: 4)
                for t in 0..<s.tokens { for c in 0..<2 * s.headDim { qkv[t * 3 * s.headDim + c] *= magnitude } }
                XCTAssertTrue(
                    integers(s, qkv: qkv).allSatisfy { abs($0) <= 1.008 },
                    "magnitude \(magnitude), row \(isa.rawValue)")
            }
            XCTAssertTrue(
                integers(s, qkv: [Float](repeating: 0, count: 3 * s.count)).allSatisfy { $0 == 0 },
                "zeros, row \(isa.rawValue)")
        }
        withScalarRow { check(HSSL_ISA_SCALAR) }
        forEachRow(of: "attention", check)
    }

    func testNaNAndInfinityReachTheOutput() {
        let s = Shape(tokens: 20, heads: 1, headDim: 8)
        for spoilt: Float in [.nan, .infinity] {
            for position in [0, 9, 17] {  // in q, k and v of token 0
                var qkv = uniform(3 * s.count, seed: 4)
                qkv[position] = spoilt
                func check(_ isa: hssl_isa) {
                    XCTAssertTrue(
                        integers(s, qkv: qkv).contains { !$0.isFinite },
                        "\(spoilt) at \(position), row \(isa.rawValue)")
                }
                withScalarRow { check(HSSL_ISA_SCALAR) }
                forEachRow(of: "attention", check)
            }
        }
    }
}
