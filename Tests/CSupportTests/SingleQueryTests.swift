import CSupport
import KernelOracle
import XCTest

/// One query's attention without keys and values: the definition in double precision, and the same bits on every row and thread count.
final class SingleQueryTests: KernelRowTestCase {
    fileprivate struct Problem: CustomStringConvertible {
        let tokens: Int, heads: Int, headDim: Int, width: Int, query: Int
        let element: hssl_element
        let hasBias: Bool
        let x: [Float], weight: [Float], scale: [Float], bias: [Float]
        var inner: Int { heads * headDim }
        var description: String { "[\(tokens), \(heads)×\(headDim)] of \(width), query \(query), element \(element.rawValue)" }

        init(_ tokens: Int, _ heads: Int, _ headDim: Int, _ width: Int, query: Int, _ element: hssl_element, seed: Int) {
            (self.tokens, self.heads, self.headDim, self.width, self.query, self.element, hasBias) = (tokens, heads, headDim, width, query, element, seed % 3 != 0)
            func random(_ count: Int, _ key: Int) -> [Float] {
                var values = [Float](repeating: 0, count: count)
                oracle_fill_f32(count, UInt64(key), &values)
                return values
            }
            let rows = 3 * heads * headDim
            x = random(tokens * width, seed).map { $0 * 3 }
            scale = element == HSSL_ELEMENT_S8 ? random(rows, seed + 1).map { ($0 + 2) / 500 } : [Float](repeating: 1, count: rows)
            bias = random(rows, seed + 2)
            // What each element holds exactly.
            weight = random(rows * width, seed + 3).map { element == HSSL_ELEMENT_S8 ? ($0 * 127).rounded() : ($0 * 1024).rounded() / 2048 }
        }

        var expected: [Float] {
            func row(_ r: Int, _ t: Int) -> Double {
                (0..<width).reduce(0.0) { $0 + Double(weight[r * width + $1]) * Double(x[t * width + $1]) } * Double(scale[r]) + (hasBias ? Double(bias[r]) : 0)
            }
            return (0..<heads).flatMap { h -> [Float] in
                let channels = h * headDim..<(h + 1) * headDim
                let q = channels.map { row($0, query) }
                let scores = (0..<tokens).map { t in channels.reduce(0.0) { $0 + q[$1 - h * headDim] * row(inner + $1, t) } / Double(headDim).squareRoot() }
                let largest = scores.max() ?? 0, powers = scores.map { exp($0 - largest) }, sum = powers.reduce(0, +)
                return channels.map { c in Float((0..<tokens).reduce(0.0) { $0 + powers[$1] / sum * row(2 * inner + c, $1) }) }
            }
        }
    }

    private func run(_ p: Problem, edge: GuardedFloats.Edge) -> [Float] {
        let ld = hssl_row_elements(p.width), rows = 3 * p.inner
        let x = GuardedFloats(p.x, edge: edge), out = GuardedFloats(count: p.inner, edge: edge), bias = GuardedFloats(p.bias, edge: edge), scale = GuardedFloats(p.scale)
        let workspace = GuardedFloats(count: hssl_attention_single_query_workspace_size(p.tokens, p.headDim, p.width) / 4)
        var padded = [Float](repeating: 0, count: rows * ld)
        for r in 0..<rows { for c in 0..<p.width { padded[r * ld + c] = p.weight[r * p.width + c] } }
        func call(_ weight: UnsafeRawPointer) {
            hssl_attention_single_query(
                p.tokens, p.heads, p.headDim, p.width, p.query, x.pointer, p.element, weight, p.element == HSSL_ELEMENT_S8 ? scale.pointer : nil,
                p.hasBias ? bias.pointer : nil, out.pointer, workspace.pointer)
        }
        switch p.element {
        case HSSL_ELEMENT_F16:
            let halves = GuardedHalves(count: padded.count)
            hssl_convert_f32_f16(padded.count, padded, halves.pointer)
            withExtendedLifetime(halves) { call(halves.pointer) }
        case HSSL_ELEMENT_S8: call(padded.map { Int8($0) })
        default:
            let floats = GuardedFloats(padded)
            withExtendedLifetime(floats) { call(floats.pointer) }
        }
        return out.values
    }

    private let problems: [Problem] = [
        (1, 1, 1, 1), (2, 1, 3, 5), (17, 2, 8, 16), (50, 3, 32, 96), (197, 2, 64, 128), (33, 2, 20, 37), (70, 1, 80, 100), (16, 4, 7, 131),
    ].enumerated().flatMap { index, s in
        [HSSL_ELEMENT_F32, HSSL_ELEMENT_F16, HSSL_ELEMENT_S8].map { Problem(s.0, s.1, s.2, s.3, query: (index * 5) % s.0, $0, seed: 10 * index) }
    }

    func testTheDefinitionAndTheSameBitsOnEveryRow() {
        for (index, problem) in problems.enumerated() {
            let expected = problem.expected
            var bits: [Float]?
            func check(_ isa: hssl_isa) {
                let found = run(problem, edge: index % 2 == 0 ? .end : .start)
                assertClose(found, expected, 2e-5, floor: 1, "\(problem), row \(isa.rawValue)")
                if let bits { assertSameBits(found, bits, "\(problem), row \(isa.rawValue)") }
                bits = found
            }
            withScalarRow { check(HSSL_ISA_SCALAR) }
            forEachRow(of: "attention", check)
        }
    }

    func testThreadsDoNotMatter() {
        let problem = Problem(197, 6, 64, 384, query: 0, HSSL_ELEMENT_S8, seed: 4)
        assertThreadsDoNotMatter("attention") { [run(problem, edge: .end)] }
    }

    /// Scores far apart: one token has all the weight, and nothing overflows.
    func testSharpScoresTakeOneToken() {
        let p = Problem(40, 1, 16, 32, query: 3, HSSL_ELEMENT_F32, seed: 7)
        for magnitude: Float in [1, 30, 1e4] {
            let sharp = Problem(p, x: p.x.map { $0 * magnitude })
            forEachRow(of: "attention") { isa in
                let found = run(sharp, edge: .end)
                assertClose(found, sharp.expected, 1e-4, floor: Double(magnitude), "magnitude \(magnitude), row \(isa.rawValue)")
            }
        }
    }

    func testNaNReachesTheOutput() {
        var x = problems[9].x
        x[5 * problems[9].width + 2] = .nan
        let spoilt = Problem(problems[9], x: x)
        forEachRow(of: "attention") { _ in XCTAssertTrue(run(spoilt, edge: .end).allSatisfy(\.isNaN)) }
    }
}

extension SingleQueryTests.Problem {
    fileprivate init(_ p: Self, x: [Float]) {
        (tokens, heads, headDim, width, query, element, hasBias) = (p.tokens, p.heads, p.headDim, p.width, p.query, p.element, p.hasBias)
        (self.x, weight, scale, bias) = (x, p.weight, p.scale, p.bias)
    }
}
