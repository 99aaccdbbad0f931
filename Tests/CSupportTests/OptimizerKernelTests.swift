import CSupport
import XCTest

final class OptimizerKernelTests: KernelRowTestCase {
    private let settings = hssl_update_settings(
        gradient_scale: 0.5, lr: 1e-3, weight_decay: 0.05, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, correction1: 0.19,
        correction2: 0.002, momentum: 0.996)

    /// Student, teacher and moments after one update.
    private func update(_ n: Int, edge: GuardedFloats.Edge) -> [[Float]] {
        let p = GuardedFloats(uniform(n, seed: 1), edge: edge), g = GuardedFloats(uniform(n, seed: 2), edge: edge)
        let m = GuardedFloats(uniform(n, seed: 3), edge: edge), v = GuardedFloats(
            uniform(n, seed: 4).map(abs), edge: edge)
        let teacher = GuardedFloats(uniform(n, seed: 5), edge: edge)
        var settings = settings
        hssl_update(n, p.pointer, teacher.pointer, g.pointer, m.pointer, v.pointer, &settings)
        return [p.values, teacher.values, m.values, v.values]
    }

    private func ema(_ n: Int, momentum: Float, edge: GuardedFloats.Edge) -> [Float] {
        let teacher = GuardedFloats(uniform(n, seed: 5), edge: edge), student = GuardedFloats(
            uniform(n, seed: 6), edge: edge)
        hssl_ema(n, teacher.pointer, student.pointer, momentum)
        return teacher.values
    }

    func testUpdatesHaveTheScalarBits() {
        forEachRow(of: "optimizer") { isa in
            for n in 1...70 {
                let edge: GuardedFloats.Edge = n % 2 == 0 ? .start : .end
                let expected = withScalarRow { update(n, edge: .end) }
                for (a, b) in zip(update(n, edge: edge), expected) {
                    assertSameBits(a, b, "update, n \(n), row \(isa.rawValue)")
                }
                assertSameBits(
                    ema(n, momentum: 0.996, edge: edge), withScalarRow { ema(n, momentum: 0.996, edge: .end) },
                    "EMA, n \(n)")
            }
        }
    }

    func testUpdateFollowsItsFormula() {
        let n = 19
        let p = uniform(n, seed: 1), g = uniform(n, seed: 2), m = uniform(n, seed: 3), v = uniform(n, seed: 4).map(abs)
        let expected: [Float] = (0..<n).map { i in
            let gradient = Double(g[i]) * 0.5
            let first = 0.9 * Double(m[i]) + 0.1 * gradient
            let second = 0.999 * Double(v[i]) + 0.001 * gradient * gradient
            return Float(
                Double(p[i]) * (1 - 1e-3 * 0.05) - 1e-3 * (first / 0.19) / ((second / 0.002).squareRoot() + 1e-8))
        }
        assertClose(update(n, edge: .end)[0], expected, 1e-6, "scalar row")
        forEachRow(of: "optimizer") { assertClose(update(n, edge: .end)[0], expected, 1e-6, "row \($0.rawValue)") }
    }

    /// One walk gives the bits of two: AdamW as written out here, operation by operation, then the EMA of its result.
    func testOneWalkHasTheBitsOfTwo() {
        let n = 133
        let g = uniform(n, seed: 2), s = settings
        var p = uniform(n, seed: 1), m = uniform(n, seed: 3), v = uniform(n, seed: 4).map(abs)
        for i in 0..<n {
            let gradient = g[i] * s.gradient_scale
            m[i] = ((1 - s.beta1) * gradient).addingProduct(s.beta1, m[i])
            v[i] = ((1 - s.beta2) * gradient * gradient).addingProduct(s.beta2, v[i])
            let step = s.lr * (m[i] / s.correction1) / ((v[i] / s.correction2).squareRoot() + s.epsilon)
            p[i] = p[i] * (1 - s.lr * s.weight_decay) - step
        }
        func check(_ isa: hssl_isa) {
            var teacher = uniform(n, seed: 5)
            hssl_ema(n, &teacher, p, s.momentum)
            for (a, b) in zip(update(n, edge: .end), [p, teacher, m, v]) { assertSameBits(a, b, "row \(isa.rawValue)") }
        }
        check(HSSL_ISA_SCALAR)
        forEachRow(of: "optimizer", check)
    }

    func testEMAEndpoints() {
        forEachRow(of: "optimizer") { _ in
            assertSameBits(ema(33, momentum: 1, edge: .end), uniform(33, seed: 5), "momentum 1 keeps the teacher")
            assertSameBits(ema(33, momentum: 0, edge: .end), uniform(33, seed: 6), "momentum 0 copies the student")
        }
    }

    func testSumOfSquares() {
        forEachRow(of: "optimizer") { isa in
            for n in Array(0...70) + [4095, 4096, 4097, 10_000] {
                let x = GuardedFloats(uniform(n, seed: n), edge: n % 2 == 0 ? .start : .end)
                let expected = x.values.reduce(0.0) { $0 + Double($1) * Double($1) }
                XCTAssertEqual(
                    hssl_sum_squares(n, x.pointer), expected, accuracy: 1e-12 * expected, "n \(n), row \(isa.rawValue)")
            }
            XCTAssertEqual(hssl_sum_squares(1, [1e30]), 1e60, accuracy: 1e53)
        }
    }

    func testAllFiniteFindsEveryPosition() {
        func check(_ isa: hssl_isa) {
            for n in 0...70 {
                let x = GuardedFloats(uniform(n, seed: n), edge: n % 2 == 0 ? .start : .end)
                XCTAssertTrue(hssl_all_finite(n, x.pointer))
                for i in 0..<n {
                    let old = x.pointer[i]
                    for bad in [Float.nan, .infinity, -.infinity] {
                        x.pointer[i] = bad
                        XCTAssertFalse(
                            hssl_all_finite(n, x.pointer), "n \(n), position \(i), \(bad), row \(isa.rawValue)")
                    }
                    x.pointer[i] = old
                }
            }
            XCTAssertTrue(hssl_all_finite(
                3, [.greatestFiniteMagnitude, -.greatestFiniteMagnitude, .leastNonzeroMagnitude]))
        }
        check(HSSL_ISA_SCALAR)
        forEachRow(of: "optimizer", check)
    }

    func testThreadsDoNotMatter() {
        let n = 300_007
        assertThreadsDoNotMatter("optimizer") {
            let x = uniform(n, seed: 8)
            let sum = hssl_sum_squares(n, x)
            return update(n, edge: .end) + [
                ema(n, momentum: 0.99, edge: .end), [Float(bitPattern: UInt32(truncatingIfNeeded: sum.bitPattern))]]
        }
    }
}
