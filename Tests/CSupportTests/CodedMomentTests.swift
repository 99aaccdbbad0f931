import CSupport
import XCTest

/// AdamW on 8-bit moments: the format against its definition, rounding that is unbiased, rows and threads that do not
/// show.
final class CodedMomentTests: KernelRowTestCase {
    private static let block = Int(HSSL_MOMENT_BLOCK)

    /// One tensor under training.
    private struct Tensor: Equatable {
        var p: [Float], teacher: [Float]
        var m: [UInt8], v: [UInt8]
        var mScale: [Float], vScale: [Float]

        init(_ p: [Float]) {
            (self.p, teacher) = (p, p)
            m = [UInt8](repeating: 0, count: p.count)
            v = m
            mScale = [Float](repeating: 0, count: (p.count + block - 1) / block)
            vScale = mScale
        }

        mutating func update(_ g: [Float], key: UInt64, _ settings: hssl_update_settings) {
            var settings = settings
            hssl_update_coded(p.count, &p, &teacher, g, &m, &mScale, &v, &vScale, key, &settings)
        }

        func first(_ i: Int) -> Float { CodedMomentTests.first(m[i]) * mScale[i / block] }
        func second(_ i: Int) -> Float { CodedMomentTests.second(v[i]) * vScale[i / block] }

        /// Bits, so that NaN equals itself.
        var bits: [[UInt32]] {
            [p, teacher, mScale, vScale].map { $0.map(\.bitPattern) } + [m, v].map { $0.map(UInt32.init) }
        }
    }

    /// The format as README.md states it.
    private static func first(_ code: UInt8) -> Float {
        let magnitude = code & 127
        guard magnitude > 0 else { return 0 }
        let ratio = Float(
            sign: .plus, exponent: (Int(magnitude) + 889) / 8 - 127,
            significand: 1 + Float((Int(magnitude) + 889) % 8) / 8)
        return code < 128 ? ratio : -ratio
    }
    private static func second(_ code: UInt8) -> Float {
        guard code > 0 else { return 0 }
        return Float(
            sign: .plus, exponent: (Int(code) + 761) / 8 - 127, significand: 1 + Float((Int(code) + 761) % 8) / 8)
    }

    /// β of 0: the new moments are g and g², to be rounded at once.
    private let fresh = hssl_update_settings(
        gradient_scale: 1, lr: 0.01, weight_decay: 0, beta1: 0, beta2: 0, epsilon: 1e-8, correction1: 1, correction2: 1,
        momentum: 0.9)

    private func adam(_ step: Int, lr: Float = 1e-3, momentum: Float = 0.99) -> hssl_update_settings {
        hssl_update_settings(
            gradient_scale: 1, lr: lr, weight_decay: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8,
            correction1: Float(1 - pow(0.9, Double(step))), correction2: Float(1 - pow(0.999, Double(step))),
            momentum: momentum)
    }

    private func forEveryRow(_ body: (hssl_isa) -> Void) {
        body(HSSL_ISA_SCALAR)
        forEachRow(of: "optimizer", body)
    }

    /// Magnitudes over 40 octaves, both signs, zeros.
    private func wide(_ n: Int, seed: Int) -> [Float] {
        zip(uniform(n, seed: seed), uniform(n, seed: seed + 1)).enumerated().map { i, x in
            i % 17 == 3 ? 0 : x.0 * exp2(x.1 * 20)
        }
    }

    /// Each code is one of the two neighbours of the ratio; the largest magnitude of a block is kept exactly, the sign
    /// always; a v above 0 stays so.
    func testCodesAreNeighbours() {
        let magnitudes = (1...127).map { Self.first(UInt8($0)) }, squares = (1...255).map { Self.second(UInt8($0)) }
        XCTAssertEqual(magnitudes.last, 1)
        XCTAssertEqual(squares.last, 1)
        XCTAssertEqual(magnitudes, magnitudes.sorted())
        forEveryRow { isa in
            let g = wide(3 * Self.block + 77, seed: 3)
            var tensor = Tensor(uniform(g.count, seed: 9))
            tensor.update(g, key: 5, fresh)
            for first in stride(from: 0, to: g.count, by: Self.block) {
                let last = min(g.count, first + Self.block), block = first / Self.block
                let largest = g[first..<last].map(abs).max() ?? 0
                XCTAssertEqual(tensor.mScale[block], largest)
                XCTAssertEqual(tensor.vScale[block], largest * largest)
                for i in first..<last {
                    let m = Self.first(tensor.m[i]), ratio = abs(g[i]) / largest
                    let above =
                        magnitudes.first { $0 >= ratio * 0.999999 } ?? 1,
                        below = magnitudes.last { $0 <= ratio * 1.000001 } ?? 0
                    XCTAssertTrue(abs(m) == above || abs(m) == below, "row \(isa.rawValue): \(ratio) became \(m)")
                    XCTAssertTrue(m == 0 || (m < 0) == (g[i] < 0))
                    let v = Self.second(tensor.v[i]), square = ratio * ratio
                    let up =
                        squares.first { $0 >= square * 0.999999 } ?? 1,
                        down = squares.last { $0 <= square * 1.000001 } ?? squares[0]
                    XCTAssertTrue(
                        g[i] == 0 ? v == 0 : v == up || v == down, "row \(isa.rawValue): \(square) became \(v)")
                    XCTAssertEqual(tensor.v[i] == 0, g[i] == 0, "a positive second moment was lost")
                }
            }
        }
    }

    /// The mean over keys is the value: between codes, across octaves, and below the smallest code of m.
    func testRoundingIsUnbiased() {
        let ratios: [Float] = [1, 0.97, 0.9375, 0.7, 0.51, 0.3, 0.126, 0.01, 3.3e-4, 2.1e-5, 1.8e-5, 4e-6, 1e-7]
        let g = (0..<Self.block).map { i in ratios[i % ratios.count] * (i % 3 == 0 ? -3 : 3) }
        var first = [Double](repeating: 0, count: ratios.count), second = first, squares = first
        var counts = [Double](repeating: 0, count: ratios.count)
        _ = hssl_isa_select(HSSL_ISA_AVX512)
        for key in 0..<400 {
            var tensor = Tensor([Float](repeating: 0, count: g.count))
            tensor.update(g, key: UInt64(key) &* 0x9E37_79B9_7F4A_7C15, fresh)
            for i in 0..<g.count {
                let m = Double(tensor.first(i) / g[i]) * Double(ratios[i % ratios.count])
                first[i % ratios.count] += m
                squares[i % ratios.count] += m * m
                second[i % ratios.count] += Double(tensor.second(i)) / 9
                counts[i % ratios.count] += 1
            }
        }
        for (k, ratio) in ratios.enumerated() {
            let mean =
                first[k] / counts[k],
                deviation = (max(0, squares[k] / counts[k] - mean * mean) / counts[k]).squareRoot()
            // 16 random bits end a unit of 2⁻¹⁷ of the smallest code from the exact odds.
            XCTAssertEqual(
                mean, Double(ratio), accuracy: 4.5 * deviation + 2e-10 + 1e-7 * Double(ratio), "m of \(ratio)")
            let square = Double(ratio) * Double(ratio)
            guard square > 3e-10 else { continue }
            XCTAssertEqual(
                second[k] / counts[k], square, accuracy: 5 * 0.0625 * square / counts[k].squareRoot() + 1e-6 * square,
                "v of \(square)")
        }
    }

    func testRowsAndThreadsGiveTheSameBytes() {
        let block = Self.block
        for n in [1, 3, 4, 7, 8, 15, 16, 17, 63, 64, 65, 100, block - 1, block, block + 1, 2 * block + 33] {
            func train() -> Tensor {
                var tensor = Tensor(uniform(n, seed: 1))
                for step in 1...3 { tensor.update(wide(n, seed: 2 * step), key: UInt64(step), adam(step)) }
                return tensor
            }
            let expected = withScalarRow(train)
            forEachRow(of: "optimizer") { isa in
                let found = train()
                XCTAssertTrue(found.bits == expected.bits, "n \(n), row \(isa.rawValue)")
            }
        }
        assertThreadsDoNotMatter("optimizer") {
            var tensor = Tensor(uniform(300_007, seed: 1))
            for step in 1...2 { tensor.update(wide(300_007, seed: step), key: UInt64(step), adam(step)) }
            return [
                tensor.p, tensor.teacher, tensor.mScale, tensor.vScale, tensor.m.map(Float.init),
                tensor.v.map(Float.init)]
        }
    }

    /// Nothing outside the tensor is touched; where guard pages end the test otherwise.
    func testStaysInsideItsMemory() {
        forEveryRow { _ in
            for n in [1, 5, 16, 31, 70, Self.block + 5] {
                for edge in GuardedFloats.Edge.allCases {
                    let blocks = (n + Self.block - 1) / Self.block
                    let p = GuardedFloats(uniform(n, seed: 1), edge: edge), teacher = GuardedFloats(
                        uniform(n, seed: 2), edge: edge)
                    let g = GuardedFloats(uniform(n, seed: 3), edge: edge)
                    let m = GuardedFloats(count: (n + 3) / 4, edge: edge), v = GuardedFloats(
                        count: (n + 3) / 4, edge: edge)
                    let scales = (0..<2).map { _ in GuardedFloats([Float](repeating: 0, count: blocks), edge: edge) }
                    func bytes(_ buffer: GuardedFloats) -> UnsafeMutablePointer<UInt8> {
                        let start = UnsafeMutableRawPointer(buffer.pointer).assumingMemoryBound(to: UInt8.self)
                        return edge == .start ? start : start + (4 * buffer.count - n)
                    }
                    var settings = adam(1)
                    hssl_update_coded(
                        n, p.pointer, teacher.pointer, g.pointer, bytes(m), scales[0].pointer, bytes(v),
                        scales[1].pointer, 1, &settings)
                    XCTAssertGreaterThan(scales[1].values.min() ?? 0, 0)
                }
            }
        }
    }

    /// Zeros stay zeros, tiny blocks become zeros without harm, and a spoilt block stays visible in its scale, and in
    /// its scale alone.
    func testZeroTinyAndSpoiltBlocks() {
        forEveryRow { isa in
            let n = 3 * Self.block
            var tensor = Tensor(uniform(n, seed: 1))
            let start = tensor
            tensor.update([Float](repeating: 0, count: n), key: 1, fresh)
            XCTAssertEqual(tensor, start, "a zero gradient without decay")
            tensor.update([Float](repeating: 1e-30, count: n), key: 2, fresh)
            XCTAssertTrue(
                tensor.v.allSatisfy { $0 == 0 } && tensor.vScale.allSatisfy { $0 == 0 },
                "g² below the normal numbers counts as 0")
            XCTAssertTrue((tensor.p + tensor.mScale).allSatisfy(\.isFinite))
            for bad in [Float.nan, .infinity, -.infinity, 1e25] {
                var spoilt = Tensor(uniform(n, seed: 1))
                var g = uniform(n, seed: 4)
                g[Self.block + 5] = bad
                spoilt.update(g, key: 3, adam(1))
                XCTAssertEqual(spoilt.vScale.map(\.isFinite), [true, false, true], "\(bad), row \(isa.rawValue)")
                XCTAssertEqual(spoilt.mScale[1].isFinite, bad == 1e25)
                spoilt.update(uniform(n, seed: 6), key: 4, adam(2))
                XCTAssertEqual(spoilt.vScale.map(\.isFinite), [true, false, true], "later updates do not hide it")
            }
        }
    }

    /// The codes follow the float32 moments without drifting: over 1500 updates with Gaussian-like gradients whose
    /// sizes span 4 octaves.
    func testMomentsFollowFloat32() {
        _ = hssl_isa_select(HSSL_ISA_AVX512)
        let n = 2 * Self.block
        var tensor = Tensor([Float](repeating: 0, count: n))
        var p = tensor.p, teacher = tensor.p, m = p, v = p
        let sizes = (0..<n).map { exp2(-Float($0 % 5)) }
        for step in 1...1500 {
            let parts = (0..<4).map { uniform(n, seed: 4 * step + $0) }
            let g = (0..<n).map { i in
                (parts[0][i] + parts[1][(i + 7 * step) % n] + parts[2][(i + 13) % n] + parts[3][i]) * sizes[i]
            }
            var settings = adam(step, lr: 0)
            tensor.update(g, key: UInt64(step), settings)
            hssl_update(n, &p, &teacher, g, &m, &v, &settings)
        }
        let ratios = (0..<n).map { Double(tensor.second($0) / v[$0]) }
        let mean =
            ratios.reduce(0, +) / Double(n),
            error = (ratios.reduce(0) { $0 + ($1 - 1) * ($1 - 1) } / Double(n)).squareRoot()
        XCTAssertEqual(mean, 1, accuracy: 0.03, "second moments drift")
        XCTAssertLessThan(error, 0.3)
        let noise = (0..<n).map { Double((tensor.first($0) - m[$0]) / sizes[$0]) }
        let size = (0..<n).map { Double(m[$0] / sizes[$0]) }
        let relative = (noise.reduce(0) { $0 + $1 * $1 } / size.reduce(0) { $0 + $1 * $1 }).squareRoot()
        XCTAssertEqual(noise.reduce(0, +) / Double(n), 0, accuracy: 0.01, "first moments drift")
        XCTAssertLessThan(relative, 0.15)
        print("coded moments beside float32: v relative error \(error) (mean \(mean)), m \(relative)")
    }

    /// A noisy least-squares problem, columns of very different sizes: 8-bit moments reach float32's loss.
    func testConvergesLikeFloat32() {
        _ = hssl_isa_select(HSSL_ISA_AVX512)
        let n = Self.block + 100
        let goal = uniform(n, seed: 1)
        let curvature = (0..<n).map { exp2(Float($0 % 11) - 5) }
        func distance(_ p: [Float]) -> Double {
            zip(p, goal).reduce(0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) } / Double(n)
        }
        func train(_ update: (inout [Float], [Float], hssl_update_settings, Int) -> Void) -> Double {
            var p = [Float](repeating: 0, count: n)
            for step in 1...600 {
                let noise = uniform(n, seed: 1000 + step)
                let g = (0..<n).map { curvature[$0] * (p[$0] - goal[$0] + 0.3 * noise[($0 * 31 + step) % n]) }
                var settings = adam(step, lr: 0.02 * (1 - Float(step) / 601))
                settings.weight_decay = 0
                update(&p, g, settings, step)
            }
            return distance(p)
        }
        var tensor = Tensor([Float](repeating: 0, count: n))
        let coded = train { p, g, settings, step in
            tensor.p = p
            tensor.update(g, key: UInt64(step), settings)
            p = tensor.p
        }
        var teacher = [Float](repeating: 0, count: n), m = teacher, v = teacher
        let full = train { p, g, settings, _ in
            var settings = settings
            hssl_update(n, &p, &teacher, g, &m, &v, &settings)
        }
        XCTAssertLessThan(full, 0.01 * distance([Float](repeating: 0, count: n)), "the problem is not solved at all")
        XCTAssertLessThan(coded, 1.15 * full)
        print("least squares: distance \(coded) with 8-bit moments, \(full) with float32")
    }
}
