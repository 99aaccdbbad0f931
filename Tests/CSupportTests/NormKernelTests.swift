import CSupport
import XCTest

final class NormKernelTests: KernelRowTestCase {
    private let epsilon: Float = 1e-6

    private struct LayerNorm {
        var y: [Float], mean: [Float], rstd: [Float], dx: [Float], dweight: [Float], dbias: [Float]
    }

    private func layerNorm(
        rows: Int, D: Int, x: [Float], weight: [Float], bias: [Float], dy: [Float], edge: GuardedFloats.Edge
    ) -> LayerNorm {
        let x = GuardedFloats(x, edge: edge), weight = GuardedFloats(weight, edge: edge), bias = GuardedFloats(
            bias, edge: edge)
        let dy = GuardedFloats(dy, edge: edge), y = GuardedFloats(count: rows * D, edge: edge), dx = GuardedFloats(
            count: rows * D, edge: edge)
        let mean = GuardedFloats(count: rows, edge: edge), rstd = GuardedFloats(count: rows, edge: edge)
        let dweight = GuardedFloats(uniform(D, seed: 91), edge: edge), dbias = GuardedFloats(
            uniform(D, seed: 92), edge: edge)
        hssl_layer_norm(
            rows, D, x.pointer, weight.pointer, bias.pointer, epsilon, y.pointer, mean.pointer, rstd.pointer)
        hssl_layer_norm_backward(
            rows, D, x.pointer, weight.pointer, mean.pointer, rstd.pointer, dy.pointer, dx.pointer, dweight.pointer,
            dbias.pointer)
        return LayerNorm(
            y: y.values, mean: mean.values, rstd: rstd.values, dx: dx.values, dweight: dweight.values,
            dbias: dbias.values)
    }

    private func exactLayerNorm(
        rows: Int, D: Int, x: [Float], weight: [Float], bias: [Float]
    ) -> (y: [Float], mean: [Float], rstd: [Float]) {
        var result = (y: [Float](), mean: [Float](), rstd: [Float]())
        for r in 0..<rows {
            let row = x[r * D..<(r + 1) * D].map(Double.init)
            let mean = row.reduce(0, +) / Double(D)
            let rstd = 1 / (row.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(D) + Double(epsilon)).squareRoot()
            result.y += row.indices.map { Float((row[$0] - mean) * rstd * Double(weight[$0]) + Double(bias[$0])) }
            result.mean.append(Float(mean))
            result.rstd.append(Float(rstd))
        }
        return result
    }

    func testLayerNormRowsMatchScalar() {
        forEachRow(of: "norm") { isa in
            for D in Array(1...130) + [384, 771] {
                let rows = D % 3 == 0 ? 35 : 3, edge: GuardedFloats.Edge = D % 2 == 0 ? .start : .end
                let x = uniform(rows * D, seed: D), dy = uniform(rows * D, seed: D + 1)
                let weight = uniform(D, seed: D + 2), bias = uniform(D, seed: D + 3)
                let actual = layerNorm(rows: rows, D: D, x: x, weight: weight, bias: bias, dy: dy, edge: edge)
                let expected = withScalarRow {
                    layerNorm(rows: rows, D: D, x: x, weight: weight, bias: bias, dy: dy, edge: edge)
                }
                let label = "D \(D), row \(isa.rawValue)"
                // A row of two nearly equal values has a large rstd, which magnifies the rounding of the mean.
                let bound = D < 4 ? 1e-4 : 2e-6
                // All rows share one order of sums; what they should be near is the formula in float64.
                assertSameBits(actual.y, expected.y, "y, \(label)")
                assertSameBits(actual.mean, expected.mean, "mean, \(label)")
                assertSameBits(actual.rstd, expected.rstd, "rstd, \(label)")
                let exact = exactLayerNorm(rows: rows, D: D, x: x, weight: weight, bias: bias)
                assertClose(actual.y, exact.y, bound, "y, \(label)")
                assertClose(actual.mean, exact.mean, 1e-6, "mean, \(label)")
                assertClose(actual.rstd, exact.rstd, bound, "rstd, \(label)")
                if D > 2 { assertClose(actual.dx, expected.dx, bound, "dx, \(label)") }
                assertClose(actual.dweight, expected.dweight, bound, "dweight, \(label)")
                assertClose(actual.dbias, expected.dbias, 1e-6, "dbias, \(label)")
            }
        }
    }

    func testLayerNormOfOneElementIsTheBias() {
        forEachRow(of: "norm") { _ in
            let result = layerNorm(rows: 2, D: 1, x: [3.3, -1e20], weight: [0.7], bias: [0.1], dy: [0.3, 5], edge: .end)
            XCTAssertEqual(result.y, [0.1, 0.1])
            XCTAssertEqual(result.dx, [0, 0])
        }
    }

    /// Includes the scalar row, which the other rows are compared with.
    func testLayerNormBackwardMatchesFiniteDifferences() {
        let rows = 2
        for D in [3, 8, 21] {
            let x = uniform(rows * D, seed: 1), weight = uniform(D, seed: 2), bias = uniform(D, seed: 3), dy = uniform(
                rows * D, seed: 4)
            func forward(_ x: [Double], _ weight: [Double]) -> [Double] {
                (0..<rows).flatMap { r -> [Double] in
                    let row = x[r * D..<(r + 1) * D]
                    let mean = row.reduce(0, +) / Double(D)
                    let variance = row.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(D)
                    return zip(row, weight).map { ($0 - mean) / (variance + Double(epsilon)).squareRoot() * $1 }
                }
            }
            let dx = centralDifferences(at: x, weights: dy) { forward($0, weight.map(Double.init)) }
            let dweight = centralDifferences(at: weight, weights: dy) { forward(x.map(Double.init), $0) }
            func check(_ isa: hssl_isa) {
                let result = layerNorm(rows: rows, D: D, x: x, weight: weight, bias: bias, dy: dy, edge: .end)
                assertClose(result.dx, dx, 1e-5, "dx, D \(D), row \(isa.rawValue)")
                assertClose(
                    zip(result.dweight, uniform(D, seed: 91)).map(-), dweight, 1e-5,
                    "dweight, D \(D), row \(isa.rawValue)")
                let dbias = (0..<D).map { dy[$0] + dy[D + $0] }
                assertClose(
                    zip(result.dbias, uniform(D, seed: 92)).map(-), dbias, 1e-5, "dbias, D \(D), row \(isa.rawValue)")
            }
            check(HSSL_ISA_SCALAR)
            forEachRow(of: "norm", check)
        }
    }

    func testOptionalOutputsAndInPlace() {
        let rows = 3, D = 37
        let input = uniform(rows * D, seed: 5), weight = uniform(D, seed: 6), bias = uniform(D, seed: 7), dy = uniform(
            rows * D, seed: 8)
        forEachRow(of: "norm") { _ in
            let full = layerNorm(rows: rows, D: D, x: input, weight: weight, bias: bias, dy: dy, edge: .end)
            var x = input
            hssl_layer_norm(rows, D, x, weight, bias, epsilon, &x, nil, nil)
            assertSameBits(x, full.y, "in place")
            var dx = [Float](repeating: 0, count: rows * D)
            hssl_layer_norm_backward(rows, D, input, weight, full.mean, full.rstd, dy, &dx, nil, nil)
            assertSameBits(dx, full.dx, "without weight gradients")
        }
    }

    func testRowDoesNotDependOnItsBatch() {
        let rows = 9, D = 101
        let x = uniform(rows * D, seed: 11), weight = uniform(D, seed: 12), bias = uniform(D, seed: 13), dy = uniform(
            rows * D, seed: 14)
        forEachRow(of: "norm") { _ in
            let all = layerNorm(rows: rows, D: D, x: x, weight: weight, bias: bias, dy: dy, edge: .start)
            for r in [0, 4, 8] {
                let part = r * D..<(r + 1) * D
                let one = layerNorm(
                    rows: 1, D: D, x: Array(x[part]), weight: weight, bias: bias, dy: Array(dy[part]), edge: .end)
                assertSameBits(one.y, Array(all.y[part]), "y of row \(r)")
                assertSameBits(one.dx, Array(all.dx[part]), "dx of row \(r)")
            }
        }
    }

    func testThreadsDoNotMatter() {
        let rows = 2201, D = 100
        let x = uniform(rows * D, seed: 21), weight = uniform(D, seed: 22), bias = uniform(D, seed: 23), dy = uniform(
            rows * D, seed: 24)
        assertThreadsDoNotMatter("norm") {
            let layer = layerNorm(rows: rows, D: D, x: x, weight: weight, bias: bias, dy: dy, edge: .end)
            let unit = l2(rows: rows, D: D, x: x, dy: dy, edge: .end)
            return [layer.y, layer.mean, layer.rstd, layer.dx, layer.dweight, layer.dbias] + unit
        }
    }

    private func l2(rows: Int, D: Int, x: [Float], dy: [Float], edge: GuardedFloats.Edge) -> [[Float]] {
        let x = GuardedFloats(x, edge: edge), dy = GuardedFloats(dy, edge: edge)
        let y = GuardedFloats(count: rows * D, edge: edge), dx = GuardedFloats(count: rows * D, edge: edge)
        let inverse = GuardedFloats(count: rows, edge: edge)
        hssl_l2_normalize(rows, D, x.pointer, 1e-12, y.pointer, inverse.pointer)
        hssl_l2_normalize_backward(rows, D, y.pointer, inverse.pointer, dy.pointer, dx.pointer)
        return [y.values, inverse.values, dx.values]
    }

    func testL2NormalizeMatchesScalarAndFiniteDifferences() {
        forEachRow(of: "norm") { isa in
            for D in Array(1...70) + [256] {
                let x = uniform(3 * D, seed: D), dy = uniform(3 * D, seed: D + 9)
                let actual = l2(rows: 3, D: D, x: x, dy: dy, edge: D % 2 == 0 ? .start : .end)
                let expected = withScalarRow { l2(rows: 3, D: D, x: x, dy: dy, edge: .end) }
                assertClose(actual[0], expected[0], 1e-6, "y, D \(D), row \(isa.rawValue)")
                assertClose(actual[1], expected[1], 1e-6, "inverse norm, D \(D), row \(isa.rawValue)")
                if D > 1 { assertClose(actual[2], expected[2], 5e-6, "dx, D \(D), row \(isa.rawValue)") }
            }
        }
        let x = uniform(7, seed: 3), dy = uniform(7, seed: 4)
        let dx = centralDifferences(at: x, weights: dy) { x in
            let norm = x.reduce(0) { $0 + $1 * $1 }.squareRoot()
            return x.map { $0 / norm }
        }
        assertClose(l2(rows: 1, D: 7, x: x, dy: dy, edge: .end)[2], dx, 1e-5, "scalar row")
    }

    func testL2NormalizeOfZeroIsZero() {
        forEachRow(of: "norm") { _ in
            XCTAssertEqual(l2(rows: 1, D: 5, x: [0, 0, 0, 0, 0], dy: [1, 1, 1, 1, 1], edge: .end)[0], [0, 0, 0, 0, 0])
        }
    }
}
