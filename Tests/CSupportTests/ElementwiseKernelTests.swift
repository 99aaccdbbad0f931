import CSupport
import XCTest

final class ElementwiseKernelTests: KernelRowTestCase {
    /// Runs `call` on a guarded copy of `inputs` and a guarded output, and returns the output.
    private func run(_ inputs: [[Float]], count: Int, initial: [Float]? = nil, edge: GuardedFloats.Edge = .end,
                     _ call: ([UnsafeMutablePointer<Float>], UnsafeMutablePointer<Float>) -> Void) -> [Float] {
        let buffers = inputs.map { GuardedFloats($0, edge: edge) }
        let output = initial.map { GuardedFloats($0, edge: edge) } ?? GuardedFloats(count: count, edge: edge)
        call(buffers.map(\.pointer), output.pointer)
        return output.values
    }

    private func edge(_ n: Int) -> GuardedFloats.Edge { n % 2 == 0 ? .start : .end }

    // MARK: GELU

    /// Arguments that cover ±12 and the special values.
    private var argumentsOfGELU: [Float] {
        uniform(40_001, seed: 3).map { $0 * 12 } + [
            0, -0.0, 1e-30, -1e-30, Float(bitPattern: 700), 9.5, -9.5, 9.6, -9.6, 100, -100, 1e30, -1e30]
    }

    func testGELUErrorBound() {
        let x = argumentsOfGELU
        let exact = x.map { 0.5 * Double($0) * erfc(-Double($0) * 0.5.squareRoot()) }
        func check(_ isa: hssl_isa) {
            var y = [Float](repeating: 0, count: x.count)
            hssl_gelu(x.count, x, &y)
            var worst = 0.0
            for i in x.indices { worst = max(worst, abs(Double(y[i]) - exact[i]) / max(1, abs(Double(x[i])))) }
            XCTAssertLessThan(worst, 1e-6, "row \(isa.rawValue)")
        }
        check(HSSL_ISA_SCALAR)
        forEachRow(of: "elementwise", check)
    }

    func testGELUSlopeErrorBound() {
        let x = argumentsOfGELU
        let exact = x.map { value -> Double in
            let t = Double(value)
            return 0.5 * erfc(-t * 0.5.squareRoot()) + t * exp(-0.5 * t * t) / (2 * Double.pi).squareRoot()
        }
        func check(_ isa: hssl_isa) {
            var dx = [Float](repeating: 2, count: x.count)
            hssl_gelu_backward(x.count, x, dx, &dx)
            var worst = 0.0
            for i in x.indices { worst = max(worst, abs(Double(dx[i]) - 2 * exact[i]) / 2) }
            XCTAssertLessThan(worst, 1.2e-6, "row \(isa.rawValue)")
        }
        check(HSSL_ISA_SCALAR)
        forEachRow(of: "elementwise", check)
    }

    func testGELUKeepsNaN() {
        forEachRow(of: "elementwise") { _ in
            var y: [Float] = [0, 0, 0]
            hssl_gelu(3, [.nan, .infinity, 1], &y)
            XCTAssertTrue(y[0].isNaN)
            XCTAssertEqual(y[1], .infinity)
            hssl_gelu_backward(3, [.nan, 1, 1], [1, .nan, 1], &y)
            XCTAssertTrue(y[0].isNaN && y[1].isNaN && y[2].isFinite)
        }
    }

    // MARK: Every length, against the scalar row

    func testEveryLengthMatchesScalar() {
        forEachRow(of: "elementwise") { isa in
            for n in 1...70 {
                let x = uniform(n, seed: n).map { $0 * 4 }, y = uniform(n, seed: n + 1)
                func both(_ label: String, _ bound: Double, _ call: (GuardedFloats.Edge) -> [Float]) {
                    assertClose(
                        call(edge(n)), withScalarRow { call(.end) }, bound, "\(label), n \(n), row \(isa.rawValue)")
                }
                both("gelu", 0) { run([x], count: n, edge: $0) { hssl_gelu(n, $0[0], $1) } }
                both("gelu backward", 2e-6) {
                    run([x, y], count: n, edge: $0) { hssl_gelu_backward(n, $0[0], $0[1], $1) }
                }
                both("add", 0) { run([x, y], count: n, edge: $0) { hssl_add(n, $0[0], $0[1], $1) } }
                both("scale", 0) { run([], count: n, initial: x, edge: $0) { hssl_scale(n, 0.3, $1) } }
                both("axpy", 0) { run([x], count: n, initial: y, edge: $0) { hssl_axpy(n, -1.7, $0[0], $1) } }
                both("add broadcast", 0) {
                    run([uniform(3 * n, seed: 2), y], count: 3 * n, edge: $0) {
                        hssl_add_broadcast(3, n, $0[0], $0[1], $1)
                    }
                }
                both("scaled samples", 0) {
                    run([uniform(2 * n, seed: 2), uniform(2 * n, seed: 3), [0.5, 0]], count: 2 * n, edge: $0) {
                        hssl_add_scaled_samples(2, n, $0[0], $0[1], $0[2], $1)
                    }
                }
                both("residual", 0) {
                    run([uniform(2 * n, seed: 2), uniform(2 * n, seed: 3)], count: 2 * n, edge: $0) {
                        hssl_add_scaled_samples(2, n, $0[0], $0[1], nil, $1)
                    }
                }
                both("scale samples", 0) {
                    run([[2, -3], uniform(2 * n, seed: 3)], count: 2 * n, edge: $0) {
                        hssl_scale_samples(2, n, $0[0], $0[1], $1)
                    }
                }
                both("sum rows", 1e-6) {
                    run([uniform(75 * n, seed: 4)], count: n, initial: y, edge: $0) { hssl_sum_rows(75, n, $0[0], $1) }
                }
                both("mean tokens", 1e-6) {
                    run([uniform(2 * 13 * n, seed: 5)], count: 2 * n, edge: $0) {
                        hssl_mean_tokens(2, 13, n, $0[0], $1)
                    }
                }
            }
        }
    }

    /// The scalar row itself, by the formulas.
    func testScalarFormulas() {
        let x: [Float] = [1, 2, 3, 4, 5, 6], v: [Float] = [10, 20, 30]
        XCTAssertTrue(hssl_isa_select(HSSL_ISA_SCALAR))
        XCTAssertEqual(run([x, v], count: 6) { hssl_add_broadcast(2, 3, $0[0], $0[1], $1) }, [11, 22, 33, 14, 25, 36])
        XCTAssertEqual(run([x], count: 3, initial: v) { hssl_sum_rows(2, 3, $0[0], $1) }, [15, 27, 39])
        XCTAssertEqual(run([x], count: 2) { hssl_mean_tokens(1, 3, 2, $0[0], $1) }, [3, 4])
        XCTAssertEqual(run([x], count: 3) { hssl_mean_tokens(3, 2, 1, $0[0], $1) }, [1.5, 3.5, 5.5])
        XCTAssertEqual(
            run([x, x, [2, 0]], count: 6) { hssl_add_scaled_samples(2, 3, $0[0], $0[1], $0[2], $1) },
            [3, 6, 9, 4, 5, 6])
        XCTAssertEqual(
            run([[2, -1], x], count: 6) { hssl_scale_samples(2, 3, $0[0], $0[1], $1) }, [2, 4, 6, -4, -5, -6])
    }

    func testGatherAndScatterAreTransposes() {
        let D = 21, index: [Int32] = [3, 0, 3, 1]
        forEachRow(of: "elementwise") { _ in
            let x = uniform(5 * D, seed: 1), g = uniform(4 * D, seed: 2)
            let gathered = run([x], count: 4 * D) { hssl_gather_rows(4, D, index, $0[0], $1) }
            for (i, source) in index.enumerated() {
                XCTAssertEqual(Array(gathered[i * D..<(i + 1) * D]), Array(x[Int(source) * D..<(Int(source) + 1) * D]))
            }
            let scattered = run([g], count: 5 * D, initial: x) { hssl_scatter_add_rows(4, D, index, $0[0], $1) }
            for c in 0..<D {
                XCTAssertEqual(scattered[3 * D + c], x[3 * D + c] + g[c] + g[2 * D + c])
                XCTAssertEqual(scattered[c], x[c] + g[D + c])
                XCTAssertEqual(scattered[2 * D + c], x[2 * D + c])
            }
        }
    }

    func testPatchifyOrder() {
        let batch = 2, channels = 3, H = 9, W = 7, p = 2
        let image = (0..<batch * channels * H * W).map(Float.init)
        let patches = run([image], count: batch * 4 * 3 * channels * p * p) {
            hssl_patchify(batch, channels, H, W, p, $0[0], $1)
        }
        for (at, value) in patches.enumerated() {
            let x = at % p, y = at / p % p, c = at / (p * p) % channels, patch = at / (p * p * channels)
            let column = patch % 3, row = patch / 3 % 4, b = patch / 12
            XCTAssertEqual(value, image[((b * channels + c) * H + row * p + y) * W + column * p + x])
        }
    }

    // MARK: Softmax and cross entropy

    private func softmaxes(_ rows: Int, _ K: Int, magnitude: Float, edge: GuardedFloats.Edge) -> [[Float]] {
        let z = uniform(rows * K, seed: K).map { $0 * magnitude }, center = uniform(K, seed: K + 1), weight = uniform(
            rows, seed: 3)
        let plain = run([z], count: rows * K, edge: edge) { hssl_softmax(rows, K, $0[0], nil, 1.3, $1) }
        let q = run([z, center], count: rows * K, edge: edge) { hssl_softmax(rows, K, $0[0], $0[1], 2.5, $1) }
        let lse = GuardedFloats(count: rows, edge: edge)
        let loss = run([q, z], count: rows, edge: edge) {
            hssl_soft_cross_entropy(rows, K, $0[0], $0[1], 3, $1, lse.pointer)
        }
        let dz = run([q, z, lse.values, weight], count: rows * K, edge: edge) {
            hssl_soft_cross_entropy_backward(rows, K, $0[0], $0[1], 3, $0[2], $0[3], $1)
        }
        return [plain, q, loss, lse.values, dz]
    }

    func testSoftmaxAndCrossEntropyMatchScalar() {
        // probabilities cancel in the last
        let bounds = [2e-6, 2e-6, 4e-6, 2e-6, 4e-6], floors = [1e-30, 1e-30, 1, 1, 1]
        forEachRow(of: "elementwise") { isa in
            for K in Array(1...70) + [512, 1003, 8192] {
                let actual = softmaxes(2, K, magnitude: 3, edge: edge(K))
                let expected = withScalarRow { softmaxes(2, K, magnitude: 3, edge: .end) }
                for (index, bound) in bounds.enumerated() {
                    assertClose(
                        actual[index], expected[index], bound, floor: floors[index],
                        "output \(index), K \(K), row \(isa.rawValue)")
                }
            }
        }
    }

    func testTheGradientMayTakeThePlaceOfTheLogits() {
        forEachRow(of: "elementwise") { isa in
            for K in [1, 7, 16, 37, 100] {
                let z = uniform(2 * K, seed: K), q = uniform(2 * K, seed: K + 1)
                var apart = [Float](repeating: 0, count: 2 * K), ofLogits = z, ofTargets = q
                hssl_soft_cross_entropy_backward(2, K, q, z, 3, [0.5, 1], [1, 2], &apart)
                ofLogits.withUnsafeMutableBufferPointer {
                    hssl_soft_cross_entropy_backward(2, K, q, $0.baseAddress, 3, [0.5, 1], [1, 2], $0.baseAddress)
                }
                ofTargets.withUnsafeMutableBufferPointer {
                    hssl_soft_cross_entropy_backward(2, K, $0.baseAddress, z, 3, [0.5, 1], [1, 2], $0.baseAddress)
                }
                XCTAssertEqual(ofLogits, apart, "K \(K), row \(isa.rawValue)")
                XCTAssertEqual(ofTargets, apart, "K \(K), row \(isa.rawValue)")
            }
        }
    }

    func testSoftmaxTakesExtremeLogits() {
        func check(_ isa: hssl_isa) {
            let K = 37
            for magnitude: Float in [1e4, 1e30] {
                let outputs = softmaxes(3, K, magnitude: magnitude, edge: .end)
                for values in outputs {
                    XCTAssertTrue(values.allSatisfy(\.isFinite), "magnitude \(magnitude), row \(isa.rawValue)")
                }
                XCTAssertEqual(outputs[0][0..<K].reduce(0, +), 1, accuracy: 1e-5)
            }
            var y: [Float] = [0, 0, 0]
            hssl_softmax(1, 3, [0, -.infinity, 0], nil, 1, &y)
            XCTAssertEqual(y, [0.5, 0, 0.5])
            hssl_softmax(1, 3, [0, .nan, 0], nil, 1, &y)
            XCTAssertTrue(y.allSatisfy(\.isNaN))
        }
        check(HSSL_ISA_SCALAR)
        forEachRow(of: "elementwise", check)
    }

    func testCrossEntropyBackwardMatchesFiniteDifferences() {
        let K = 19, temperature: Float = 0.5
        var q = [Float](repeating: 0, count: K)
        hssl_softmax(1, K, uniform(K, seed: 7), nil, 1, &q)
        let z = uniform(K, seed: 8)
        func loss(_ z: [Double]) -> Double {
            let scaled = z.map { $0 / Double(temperature) }
            let logSumExp = log(scaled.reduce(0) { $0 + exp($1) })
            return -zip(q, scaled).reduce(0) { $0 + Double($1.0) * ($1.1 - logSumExp) }
        }
        let expected = centralDifferences(at: z, weights: [1.5]) { [loss($0)] }
        func check(_ isa: hssl_isa) {
            var value: Float = 0, logSumExp: Float = 0
            hssl_soft_cross_entropy(1, K, q, z, 1 / temperature, &value, &logSumExp)
            XCTAssertEqual(Double(value), loss(z.map(Double.init)), accuracy: 1e-5)
            var dz = [Float](repeating: 0, count: K)
            hssl_soft_cross_entropy_backward(1, K, q, z, 1 / temperature, [logSumExp], [1.5], &dz)
            assertClose(dz, expected, 1e-5, "row \(isa.rawValue)")
        }
        check(HSSL_ISA_SCALAR)
        forEachRow(of: "elementwise", check)
    }

    // MARK: Invariance

    func testElementDoesNotDependOnItsPlace() {
        let x = uniform(70, seed: 1).map { $0 * 6 }
        forEachRow(of: "elementwise") { _ in
            let all = run([x], count: 70) { hssl_gelu(70, $0[0], $1) }
            let slope = run([x, x], count: 70) { hssl_gelu_backward(70, $0[0], $0[1], $1) }
            for i in [0, 5, 63, 69] {
                assertSameBits(run([[x[i]]], count: 1) { hssl_gelu(1, $0[0], $1) }, [all[i]], "gelu at \(i)")
                assertSameBits(
                    run([[x[i]], [x[i]]], count: 1) { hssl_gelu_backward(1, $0[0], $0[1], $1) }, [slope[i]],
                    "slope at \(i)")
            }
            let z = uniform(5 * 53, seed: 9)
            let rows = run([z], count: 5 * 53) { hssl_softmax(5, 53, $0[0], nil, 4, $1) }
            let one = run([Array(z[3 * 53..<4 * 53])], count: 53) { hssl_softmax(1, 53, $0[0], nil, 4, $1) }
            assertSameBits(one, Array(rows[3 * 53..<4 * 53]), "softmax row")
        }
    }

    func testThreadsDoNotMatter() {
        let n = 240_003, wide = 300, tall = 801
        let x = uniform(n, seed: 1), y = uniform(n, seed: 2), table = uniform(wide * tall, seed: 3)
        let index = (0..<Int32(tall)).map { $0 * 7 % 50 }
        assertThreadsDoNotMatter("elementwise") {
            [
                run([x], count: n) { hssl_gelu(n, $0[0], $1) },
                run([x, y], count: n) { hssl_gelu_backward(n, $0[0], $0[1], $1) },
                run([x, y], count: n) { hssl_add(n, $0[0], $0[1], $1) },
                run([x], count: n, initial: y) { hssl_axpy(n, 0.7, $0[0], $1) },
                run([table, y], count: tall * wide) { hssl_add_broadcast(tall, wide, $0[0], $0[1], $1) },
                run([table], count: wide, initial: Array(y[0..<wide])) { hssl_sum_rows(tall, wide, $0[0], $1) },
                run([table], count: 9 * wide) { hssl_mean_tokens(9, 89, wide, $0[0], $1) },
                run([table], count: tall * wide) { hssl_gather_rows(tall, wide, index, $0[0], $1) },
                run([table], count: 50 * wide, initial: Array(y[0..<50
                * wide])) { hssl_scatter_add_rows(tall, wide, index, $0[0], $1) },
                run([table, table, y], count: tall
                * wide) { hssl_add_scaled_samples(tall, wide, $0[0], $0[1], $0[2], $1) },
                run([table, table], count: tall
                * wide) { hssl_add_scaled_samples(1, tall * wide, $0[0], $0[1], nil, $1) },
            ] + softmaxes(tall / 3, wide, magnitude: 3, edge: .end)
        }
    }
}
