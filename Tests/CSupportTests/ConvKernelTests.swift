import CSupport
import XCTest

final class ConvKernelTests: KernelRowTestCase {
    private struct Shape: CustomStringConvertible {
        var batch: Int, h: Int, w: Int, C: Int, k: Int
        var count: Int { batch * h * w * C }
        var taps: Int { C * k * k }
        var description: String { "[\(batch), \(h), \(w), \(C)] k \(k)" }
    }

    private struct Result {
        var y: [Float], dx: [Float], dweight: [Float], dbias: [Float]
    }

    private func conv(
        _ s: Shape, x: [Float], weight: [Float], bias: [Float]?, dy: [Float], edge: GuardedFloats.Edge = .end
    ) -> Result {
        let x = GuardedFloats(x, edge: edge), weight = GuardedFloats(weight, edge: edge), dy = GuardedFloats(
            dy, edge: edge)
        let bias = bias.map { GuardedFloats($0, edge: edge) }
        let y = GuardedFloats(count: s.count, edge: edge), dx = GuardedFloats(count: s.count, edge: edge)
        let dweight = GuardedFloats(uniform(s.taps, seed: 71), edge: edge), dbias = GuardedFloats(
            uniform(s.C, seed: 72), edge: edge)
        let workspace = GuardedFloats(count: hssl_depthwise_conv_workspace_size(s.C, s.k) / 4, edge: edge)
        hssl_depthwise_conv(
            s.batch, s.h, s.w, s.C, s.k, x.pointer, weight.pointer, bias?.pointer, y.pointer, workspace.pointer)
        hssl_depthwise_conv_backward_input(
            s.batch, s.h, s.w, s.C, s.k, dy.pointer, weight.pointer, dx.pointer, workspace.pointer)
        hssl_depthwise_conv_backward_weight(
            s.batch, s.h, s.w, s.C, s.k, x.pointer, dy.pointer, dweight.pointer, dbias.pointer, workspace.pointer)
        return Result(y: y.values, dx: dx.values, dweight: dweight.values, dbias: dbias.values)
    }

    private func conv(_ s: Shape, seed: Int, edge: GuardedFloats.Edge = .end) -> Result {
        conv(
            s, x: uniform(s.count, seed: seed), weight: uniform(s.taps, seed: seed + 1),
            bias: seed % 3 == 0 ? nil : uniform(s.C, seed: seed + 2), dy: uniform(s.count, seed: seed + 3), edge: edge)
    }

    private func compareWithScalar(_ shapes: [Shape]) {
        let expected = withScalarRow { shapes.enumerated().map { conv($1, seed: $0) } }
        forEachRow(of: "conv") { isa in
            for (index, shape) in shapes.enumerated() {
                let actual = conv(shape, seed: index, edge: index % 2 == 0 ? .end : .start)
                assertClose(actual.y, expected[index].y, 2e-6, "y \(shape), row \(isa.rawValue)")
                assertClose(actual.dx, expected[index].dx, 2e-6, "dx \(shape), row \(isa.rawValue)")
                assertClose(actual.dweight, expected[index].dweight, 2e-6, "dweight \(shape), row \(isa.rawValue)")
                assertClose(actual.dbias, expected[index].dbias, 2e-6, "dbias \(shape), row \(isa.rawValue)")
            }
        }
    }

    func testEveryGridAndKernelSize() {
        compareWithScalar([1, 3, 5, 7, 9].flatMap { k in
            (1...15).map { Shape(batch: 2, h: $0, w: 1 + ($0 * 4 + k) % 15, C: $0 % 2 == 0 ? 16 : 35, k: k) }
        })
    }

    func testEveryChannelCount() {
        compareWithScalar((1...70).map { Shape(batch: 1, h: 3, w: 4, C: $0, k: [1, 3, 5, 7][$0 % 4]) })
    }

    func testModelShapes() {
        compareWithScalar([Shape(batch: 3, h: 7, w: 7, C: 96, k: 7), Shape(batch: 1, h: 14, w: 14, C: 96, k: 7)])
    }

    /// An independent float64 formula, differentiated numerically.
    func testMatchesFiniteDifferences() {
        let s = Shape(batch: 2, h: 3, w: 4, C: 2, k: 3)
        let x =
            uniform(s.count, seed: 1), weight = uniform(s.taps, seed: 2), bias = uniform(s.C, seed: 3),
            dy = uniform(s.count, seed: 4)
        func forward(_ x: [Double], _ weight: [Double], _ bias: [Double]) -> [Double] {
            (0..<s.count).map { at in
                let c = at % s.C, j = at / s.C % s.w, i = at / (s.C * s.w) % s.h, b = at / (s.C * s.w * s.h)
                var sum = bias[c]
                for u in 0..<s.k {
                    for v in 0..<s.k {
                        let row = i + u - s.k / 2, column = j + v - s.k / 2
                        guard (0..<s.h).contains(row), (0..<s.w).contains(column) else { continue }
                        sum += weight[(c * s.k + u) * s.k + v] * x[((b * s.h + row) * s.w + column) * s.C + c]
                    }
                }
                return sum
            }
        }
        let wide = (x: x.map(Double.init), weight: weight.map(Double.init), bias: bias.map(Double.init))
        let y = forward(wide.x, wide.weight, wide.bias).map(Float.init)
        let dx = centralDifferences(at: x, weights: dy) { forward($0, wide.weight, wide.bias) }
        let dweight = centralDifferences(at: weight, weights: dy) { forward(wide.x, $0, wide.bias) }
        let dbias = centralDifferences(at: bias, weights: dy) { forward(wide.x, wide.weight, $0) }
        func check(_ isa: hssl_isa) {
            let result = conv(s, x: x, weight: weight, bias: bias, dy: dy)
            assertClose(result.y, y, 1e-6, "y, row \(isa.rawValue)")
            assertClose(result.dx, dx, 1e-6, "dx, row \(isa.rawValue)")
            assertClose(
                zip(result.dweight, uniform(s.taps, seed: 71)).map(-), dweight, 1e-6, "dweight, row \(isa.rawValue)")
            assertClose(zip(result.dbias, uniform(s.C, seed: 72)).map(-), dbias, 1e-6, "dbias, row \(isa.rawValue)")
        }
        check(HSSL_ISA_SCALAR)
        forEachRow(of: "conv", check)
    }

    func testSampleDoesNotDependOnTheBatch() {
        let s = Shape(batch: 3, h: 7, w: 7, C: 40, k: 7)
        let x =
            uniform(s.count, seed: 1), weight = uniform(s.taps, seed: 2), bias = uniform(s.C, seed: 3),
            dy = uniform(s.count, seed: 4)
        forEachRow(of: "conv") { _ in
            let all = conv(s, x: x, weight: weight, bias: bias, dy: dy)
            let part = s.count / 3..<2 * s.count / 3
            let one = conv(
                Shape(batch: 1, h: 7, w: 7, C: 40, k: 7), x: Array(x[part]), weight: weight, bias: bias,
                dy: Array(dy[part]))
            assertSameBits(one.y, Array(all.y[part]), "y")
            assertSameBits(one.dx, Array(all.dx[part]), "dx")
        }
    }

    func testThreadsDoNotMatter() {
        // Six channel groups, and one (kernel rows are split).
        for s in [Shape(batch: 5, h: 7, w: 7, C: 96, k: 7), Shape(batch: 23, h: 7, w: 7, C: 16, k: 7)] {
            assertThreadsDoNotMatter("conv") {
                let result = conv(s, seed: 4)
                return [result.y, result.dx, result.dweight, result.dbias]
            }
        }
    }
}
