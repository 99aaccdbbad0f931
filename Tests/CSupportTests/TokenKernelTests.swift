import CSupport
import TestSupport
import XCTest

/// ReLU, layer scale, and the moves of whole tokens.
final class TokenKernelTests: KernelRowTestCase {
    private func run(_ inputs: [[Float]], _ output: [Float], edge: GuardedFloats.Edge,
                     _ body: ([UnsafeMutablePointer<Float>], UnsafeMutablePointer<Float>) -> Void) -> [Float] {
        let inputs = inputs.map { GuardedFloats($0, edge: edge) }, y = GuardedFloats(output, edge: edge)
        body(inputs.map(\.pointer), y.pointer)
        return y.values
    }
    private func empty(_ count: Int) -> [Float] { [Float](repeating: .nan, count: count) }

    func testReLU() {
        forEveryRow(of: "elementwise") { isa in
            for n in Array(1...70) + [1000] {
                let edge: GuardedFloats.Edge = n % 2 == 0 ? .start : .end
                let x = uniform(n, seed: n), dy = uniform(n, seed: n + 1)
                let y = run([x], empty(n), edge: edge) { hssl_relu(n, $0[0], $1) }
                XCTAssertEqual(y, x.map { $0 > 0 ? $0 : 0 }, "row \(isa.rawValue)")
                let dx = run([y, dy], empty(n), edge: edge) { hssl_relu_backward(n, $0[0], $0[1], $1) }
                XCTAssertEqual(dx, zip(y, dy).map { $0 > 0 ? $1 : 0 }, "row \(isa.rawValue)")
                XCTAssertEqual(run([], x, edge: edge) { hssl_relu(n, $1, $1) }, y, "in place, row \(isa.rawValue)")
                XCTAssertEqual(
                    run([y], dy, edge: edge) { hssl_relu_backward(n, $0[0], $1, $1) }, dx,
                    "in place, row \(isa.rawValue)")
            }
            for n in [1, 16, 19] {
                XCTAssertTrue(
                    run([empty(n)], uniform(n, seed: 1), edge: .end) { hssl_relu(n, $0[0], $1) }.allSatisfy(\.isNaN))
            }
        }
    }

    func testLayerScaleAndItsGradient() {
        forEveryRow(of: "elementwise") { isa in
            for C in Array(1...70) + [384] {
                let rows = C % 3 == 0 ? 67 : 2, edge: GuardedFloats.Edge = C % 2 == 0 ? .start : .end
                let x = uniform(rows * C, seed: C), dy = uniform(rows * C, seed: C + 1), scale = uniform(C, seed: C + 2)
                let y = run([scale, x], empty(rows * C), edge: edge) { hssl_scale_channels(rows, C, $0[0], $0[1], $1) }
                XCTAssertEqual(y, x.indices.map { x[$0] * scale[$0 % C] }, "row \(isa.rawValue)")
                XCTAssertEqual(
                    run([scale], x, edge: edge) { hssl_scale_channels(rows, C, $0[0], $1, $1) }, y,
                    "in place, row \(isa.rawValue)")
                var sums = scale.map(Double.init)
                for i in x.indices { sums[i % C] += Double(x[i]) * Double(dy[i]) }
                let actual = run([x, dy], scale, edge: edge) { hssl_multiply_sum_rows(rows, C, $0[0], $0[1], $1) }
                assertClose(actual, sums.map(Float.init), 1e-6, "C \(C), row \(isa.rawValue)")
            }
        }
    }

    /// A window's runs of neighbours, repeats, and −1 at the ends.
    private let index: [Int32] = [-1, 2, 3, 4, -1, -1, 0, 1, 4, 4, 6, 5, -1]

    func testPermuteTokens() {
        let from = 7, to = index.count
        for (batch, D) in [(1, 1), (2, 3), (3, 17), (1, 64), (2, 96)] {
            for edge in GuardedFloats.Edge.allCases {
                let x = uniform(batch * from * D, seed: D), dy = uniform(batch * to * D, seed: D + 1)
                var expected = [Float](repeating: 0, count: batch * to * D), dx = [Double](
                    repeating: 0, count: batch * from * D)
                for b in 0..<batch {
                    for (i, source) in index.enumerated() where source >= 0 {
                        for d in 0..<D {
                            expected[(b * to + i) * D + d] = x[(b * from + Int(source)) * D + d]
                            dx[(b * from + Int(source)) * D + d] += Double(dy[(b * to + i) * D + d])
                        }
                    }
                }
                let order = GuardedBuffer<Int32>(capacity: to)
                order.tail(to).update(from: index, count: to)
                let y = run([x], empty(expected.count), edge: edge) {
                    hssl_permute_tokens(batch, from, to, D, order.tail(to), $0[0], $1)
                }
                XCTAssertEqual(y, expected, "batch \(batch), D \(D)")
                let gradient = run([dy], empty(dx.count), edge: edge) {
                    hssl_permute_tokens_backward(batch, from, to, D, order.tail(to), $0[0], $1)
                }
                assertClose(gradient, dx.map(Float.init), 1e-6, "batch \(batch), D \(D)")
            }
        }
    }

    func testTransposeTokens() {
        for (batch, N, D) in [(1, 1, 1), (2, 3, 5), (1, 49, 17), (3, 50, 64), (1, 4, 16), (2, 7, 35)] {
            for edge in GuardedFloats.Edge.allCases {
                let x = uniform(batch * N * D, seed: N)
                let y = run([x], empty(x.count), edge: edge) { hssl_transpose_tokens(batch, N, D, $0[0], $1) }
                XCTAssertEqual(y, x.indices.map { x[($0 / (N * D) * N + $0 % N) * D + $0 / N % D] }, "\([batch, N, D])")
            }
        }
    }

    func testThreadsDoNotMatter() {
        for batch in [1, 5] {
            let N = 13 * 40, D = 150
            let order: [Int32] = (0..<40).flatMap {
                block -> [Int32] in index.map { $0 < 0 ? $0 : $0 + Int32(7 * block) }
            }
            let x = uniform(batch * N * D, seed: 1), dy = uniform(batch * N * D, seed: 2), scale = uniform(D, seed: 3)
            assertThreadsDoNotMatter("elementwise", counts: [2, 4]) {
                [
                    run([x], empty(x.count), edge: .end) { hssl_relu(x.count, $0[0], $1) },
                    run([x, dy], empty(x.count), edge: .end) { hssl_relu_backward(x.count, $0[0], $0[1], $1) },
                    run([scale, x], empty(x.count), edge: .end) { hssl_scale_channels(batch * N, D, $0[0], $0[1], $1) },
                    run([x, dy], scale, edge: .end) { hssl_multiply_sum_rows(batch * N, D, $0[0], $0[1], $1) },
                    run([x], empty(x.count), edge: .end) { hssl_permute_tokens(batch, N, N, D, order, $0[0], $1) },
                    run([dy], empty(x.count), edge: .end) {
                        hssl_permute_tokens_backward(batch, N, N, D, order, $0[0], $1)
                    },
                    run([x], empty(x.count), edge: .end) { hssl_transpose_tokens(batch, N, D, $0[0], $1) },
                ]
            }
        }
    }
}
