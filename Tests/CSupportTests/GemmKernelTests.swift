import CSupport
import Foundation
import KernelOracle
import TestSupport
import XCTest

final class GemmKernelTests: XCTestCase {
    static let families = [
        "gemm_f32", "gemm_u8s8", "gemm_output_f32", "gemm_output_s32", "peak_f32", "peak_u8s8", "quantize_columns",
        "largest_of_rows",
    ]

    override func setUp() {
        XCTAssertEqual(hssl_initialize(nil, 0), 0)
        hssl_set_threads(2)
    }

    /// Fails at the first few wrong cases of each row.
    private func check(_ cases: some Sequence<GemmCase>, limit: (M: Int, N: Int, K: Int)) {
        let checker = GemmChecker(M: limit.M, N: limit.N, K: limit.K)
        withEachInstructionSet { isa in
            var failures: [String] = []
            for g in cases where failures.count < 5 { failures += checker.all(g) }
            for failure in failures { XCTFail("\(isa): \(failure)") }
        }
    }

    /// Every M, N pair with a K that walks through 1…70, and every K at the sizes around tile edges.
    /// `HSSL_EXHAUSTIVE=1`: the whole cube.
    func testEverySmallSize() {
        var cases: [GemmCase] = []
        if ProcessInfo.processInfo.environment["HSSL_EXHAUSTIVE"] == "1" {
            for M in 1...70 { for N in 1...70 { for K in 1...70 { cases.append(.mixed(M, N, K, seed: cases.count)) } } }
        } else {
            for M in 1...70 { for N in
                1...70 { cases.append(.mixed(M, N, 1 + (M * 29 + N * 13) % 70, seed: cases.count)) }
            }
            for K in 1...70 { for M in
                [1, 6, 7] { for N in [1, 15, 16, 17, 63, 64, 65] { cases.append(.mixed(M, N, K, seed: cases.count)) } }
            }
        }
        check(cases, limit: (70, 70, 70))
    }

    func testTransformerShapes() {
        let shapes = [
            (197, 1152, 384), (197, 384, 384), (50, 1536, 384), (50, 384, 1536), (1, 384, 384), (102, 96, 257),
            (7, 130, 769)]
        check(
            shapes.enumerated().flatMap { i, s in [GemmCase(M: s.0, N: s.1, K: s.2), .mixed(s.0, s.1, s.2, seed: 31
            + i)] },
            limit: (197, 1536, 1536))
    }

    /// Rows with and without a group, K blocks whole and short, every stage that inference has, the rows in pieces as
    /// threads take them. Shapes that the scheme does not fit are products all the same.
    func testProductsOfInference() {
        let checker = GemmChecker(M: 197, N: 256, K: 1152)
        let stages: [(inout GemmCase) -> Void] = [
            { _ in }, { $0.bias = true }, { ($0.bias, $0.gelu) = (true, true) },
            { ($0.bias, $0.residual) = (true, true) },
            { ($0.bias, $0.residual, $0.residualIsC) = (true, true, true) },
            { ($0.bias, $0.gelu, $0.coarse) = (true, true, true) },
            { ($0.bias, $0.gelu, $0.residual) = (true, true, true) },
        ]
        withEachInstructionSet { isa in
            for M in [23, 24, 48, 53, 71, 99, 197] {
                for (N, K) in [(64, 384), (192, 48), (192, 400), (256, 1152), (192, 770), (100, 384), (192, 385)] {
                    for (number, stage) in stages.enumerated() {
                        var g = GemmCase(M: M, N: N, K: K)
                        stage(&g)
                        for float16 in [false, true] {
                            if let failure = checker.rows(g, float16: float16, parts: 1 + (M + number) % 3) {
                                return XCTFail("\(isa): \(failure)")
                            }
                        }
                    }
                }
            }
        }
    }

    /// Neither the threads nor where rows are cut change a bit.
    func testCutsAndThreadsDoNotMatter() {
        let N = 192, K = 770
        var b = [Float](repeating: 0, count: N * K), halves = [UInt16](repeating: 0, count: N * K)
        var packed = [UInt8](repeating: 0, count: hssl_gemm_f32_packed_size(N, K)), packedHalves = [UInt8](
            repeating: 0, count: hssl_gemm_f16_packed_size(N, K))
        oracle_fill_f32(b.count, 2, &b)
        hssl_convert_f32_f16(b.count, b, &halves)
        hssl_gemm_f32_pack(N, K, b, 1, K, &packed)
        hssl_gemm_f16_pack(N, K, halves, 1, K, &packedHalves)
        for (M, float16) in [50, 99, 197].flatMap({ [($0, false), ($0, true)] }) {
            var a = [Float](repeating: 0, count: M * K)
            oracle_fill_f32(a.count, 1, &a)
            withEachInstructionSet { isa in
                var scratch = [Float](repeating: 0, count: max(16, hssl_gemm_workspace_size(M, N, K) / 4))
                func product(threads: Int32, parts: Int) -> [UInt32] {
                    hssl_set_threads(threads)
                    defer { hssl_set_threads(2) }
                    var c = [Float](repeating: .nan, count: M * N)
                    for part in 0..<parts {
                        let first = hssl_gemm_cut(M, M * part / parts), end = hssl_gemm_cut(M, M * (part + 1) / parts)
                        (float16 ? hssl_gemm_f16_rows : hssl_gemm_f32_rows)(
                            M, first, end, N, K, a, float16 ? packedHalves : packed, &c, N, nil, &scratch)
                    }
                    return c.map(\.bitPattern)
                }
                let one = product(threads: 1, parts: 1)
                for (threads, parts) in [(2, 1), (4, 1), (1, 2), (1, 3), (2, 5), (1, M)] {
                    XCTAssertEqual(
                        one, product(threads: Int32(threads), parts: parts),
                        "\(isa), \(float16 ? "float16" : "float32"): \(M) rows in \(parts) parts")
                }
            }
        }
    }

    /// Weight gradients: A is dYᵀ, K the tokens.
    func testWeightGradientShapes() {
        check(
            [
                GemmCase(M: 384, N: 130, K: 1576, transposedA: true, transposedB: true),
                GemmCase(M: 200, N: 64, K: 600, transposedA: true, transposedB: true, accumulate: true, gap: 3)],
            limit: (384, 130, 1576))
    }

    /// Whether a tile goes through the output stage on its own or while the next one is multiplied.
    func testInt8ProductsHaveTheSameBitsOnEveryRow() {
        var expected: [[UInt32]] = []
        let sizes = [1, 5, 6, 7, 12, 13, 18, 23, 99].flatMap { M in
            [64, 100, 128].flatMap { N in [4, 92, 96, 100, 384].map { (M, N, $0) } }
        }
        withEachInstructionSet { isa in
            var found: [[UInt32]] = []
            for (index, (M, N, K)) in sizes.enumerated() {
                var a = [UInt8](repeating: 0, count: M * K), b = [UInt8](repeating: 0, count: N * K), packed = [UInt8](
                    repeating: 0, count: hssl_gemm_u8s8_packed_size(N, K))
                oracle_fill_bytes(a.count, UInt64(index), 1, 255, &a)
                oracle_fill_bytes(b.count, UInt64(1000 + index), -127, 127, &b)
                let zero: UInt8 = index % 3 == 0 ? 20 : 128
                hssl_gemm_u8s8_pack(N, K, b.map { Int8(bitPattern: $0) }, 1, K, zero, &packed)
                // Some ±2 after scaling, as hidden values are.
                var scales =
                    [Float](repeating: 0, count: M + N), residual = [Float](repeating: 0, count: M * N),
                    bias = [Float](repeating: 0, count: N)
                oracle_fill_f32(scales.count, 3, &scales)
                oracle_fill_f32(residual.count, 4, &residual)
                oracle_fill_f32(bias.count, 5, &bias)
                scales = scales.map { ($0 + 2) / (90 * Float(K).squareRoot()) }
                for (activation, hasResidual) in [
                    (HSSL_ACTIVATION_NONE, false), (HSSL_ACTIVATION_NONE, true), (HSSL_ACTIVATION_GELU_COARSE, false),
                                                  (HSSL_ACTIVATION_GELU_COARSE, true), (HSSL_ACTIVATION_GELU, false)] {
                    var c = residual
                    c.withUnsafeMutableBufferPointer { c in
                        bias.withUnsafeBufferPointer { bias in
                            var output = hssl_gemm_output()
                            (output.bias, output.activation) = (bias.baseAddress, activation)
                            if hasResidual { (output.residual, output.ld_residual) = (UnsafePointer(c.baseAddress), N) }
                            hssl_gemm_u8s8_f32(
                                M, N, K, a, K, scales, packed, Array(scales[M...]), c.baseAddress, N, false, &output)
                        }
                    }
                    found.append(c.map(\.bitPattern))
                }
            }
            if expected.isEmpty { expected = found }
            for (index, (one, other)) in zip(expected, found).enumerated() where one != other {
                XCTFail("\(isa): \(sizes[index / 5]), stage \(index % 5)")
            }
        }
        XCTAssertEqual(expected.count, 5 * sizes.count)
    }

    /// Binary16 outputs are the float32 ones, rounded toward zero, on every row: nothing finite becomes infinite, and
    /// NaN and infinities stay.
    func testBinary16OutputsAreTheFloat32OnesTowardZero() {
        for (index, (M, N, K)) in [1, 5, 6, 13, 99].flatMap(
            { M in [1, 64, 100, 131, 256].flatMap { N in [4, 96, 100, 384].map { (M, N, $0) } } }).enumerated() {
            var a = [UInt8](repeating: 0, count: M * K), b = [UInt8](repeating: 0, count: N * K), packed = [UInt8](
                repeating: 0, count: hssl_gemm_u8s8_packed_size(N, K))
            oracle_fill_bytes(a.count, UInt64(index), 1, 255, &a)
            oracle_fill_bytes(b.count, UInt64(1000 + index), -127, 127, &b)
            hssl_gemm_u8s8_pack(N, K, b.map { Int8(bitPattern: $0) }, 1, K, 128, &packed)
            var scales = [Float](repeating: 0, count: M + N), bias = [Float](repeating: 0, count: N)
            oracle_fill_f32(scales.count, 3, &scales)
            oracle_fill_f32(bias.count, 5, &bias)
            scales = scales.map { ($0 + 2) / (90 * Float(K).squareRoot()) }
            (scales[M - 1], bias[0], bias[N - 1]) = (M % 2 == 0 ? 1e3 : scales[M - 1], .nan, -.infinity)
            if N > 4 { (bias[1], bias[2], bias[3], bias[4]) = (65519, -1e9, 3e-6, .infinity) }
            let columns = Array(scales[M...]), ldc = N + index % 3
            withEachInstructionSet { isa in
                for (hasBias, activation) in [
                    (true, HSSL_ACTIVATION_NONE), (true, HSSL_ACTIVATION_GELU_COARSE), (true, HSSL_ACTIVATION_GELU),
                    (false, HSSL_ACTIVATION_NONE)] {
                    let size = (M - 1) * ldc + N, halves = GuardedBuffer<UInt16>(capacity: size), out = halves.tail(
                        size)
                    out.update(repeating: 0xABCD, count: size)
                    var floats = [Float](repeating: 0, count: size)
                    bias.withUnsafeBufferPointer { bias in
                        var output = hssl_gemm_output()
                        (output.bias, output.activation) = (hasBias ? bias.baseAddress : nil, activation)
                        hssl_gemm_u8s8_f32(M, N, K, a, K, scales, packed, columns, &floats, ldc, false, &output)
                        hssl_gemm_u8s8_f16(M, N, K, a, K, scales, packed, columns, out, ldc, &output)
                    }
                    var wrong = 0
                    for i in 0..<size {
                        if i % ldc >= N { wrong += out[i] == 0xABCD ? 0 : 1 } else {
                            wrong += isTowardZero(out[i], floats[i]) ? 0 : 1
                        }
                    }
                    XCTAssertEqual(wrong, 0, "\(isa), \((M, N, K)), bias \(hasBias), activation \(activation.rawValue)")
                }
            }
        }
    }

    /// Whether `half` is the binary16 of largest magnitude that is not beyond `value`.
    private func isTowardZero(_ half: UInt16, _ value: Float) -> Bool {
        func widened(_ half: UInt16) -> Float {
            var float: Float = 0
            withUnsafePointer(to: half) { hssl_convert_f16_f32(1, $0, &float) }
            return float
        }
        let float = widened(half)
        if value.isNaN { return float.isNaN }
        if value.isInfinite { return float == value }
        return float.isFinite && (float.sign == value.sign) && float.magnitude <= value.magnitude
            && widened(half + 1).magnitude > value.magnitude
    }

    /// Codes none of which is far below 0, or all there are around another zero, and weights up to those whose pairs a
    /// row could not add in 16 bits: whatever short cut a row takes is exact.
    func testCodesThatReachLittleBelowZeroAreExact() {
        let M = 11, N = 70, K = 1100, lda = K + 4
        var a = [UInt8](repeating: 0, count: M * lda), b = [Int8](repeating: 0, count: N * K), c = [Int32](
            repeating: 0, count: M * N)
        var packed = [UInt8](repeating: 0, count: hssl_gemm_u8s8_packed_size(N, K))
        let ranges = [0, 1, 2, 7, 31, 40, 41, 127].map { (least: $0, most: Int32(255), zero: UInt8(128)) }
        // Few codes of the third are large: the largest sums, and some others.
        for (least, most, zero) in ranges + [(127, 255, 20), (127, 90, 20), (127, 130, 2), (40, 255, 254)] {
            for largest in [127, 126, 106, 98, 97, 64, 1] {
                oracle_fill_bytes(a.count, UInt64(least), Int32(128 - least), most, &a)
                if most == 90 { for i in stride(from: 5, to: a.count, by: 320) { a[i] = UInt8(191 + i / 320 % 65) } }
                b.withUnsafeMutableBytes {
                    oracle_fill_bytes(
                        N * K, UInt64(largest), Int32(-largest), Int32(largest),
                        $0.baseAddress?.assumingMemoryBound(to: UInt8.self))
                }
                for k in 0..<4 {  // the largest sums there are
                    for m in 0..<M { a[m * lda + 8 + k] = m % 4 == 1 ? UInt8(128 - least) : 255 }
                    for n in 0..<N { b[n * K + 8 + k] = Int8(n % 3 == 0 ? -largest : largest) }
                }
                hssl_gemm_u8s8_pack(N, K, b, 1, K, zero, &packed)
                withEachInstructionSet { isa in
                    let old = c
                    hssl_gemm_u8s8_s32(M, N, K, a, lda, packed, &c, N)
                    XCTAssertEqual(
                        oracle_gemm_u8s8_s32(M, N, K, a, lda, zero, b, 1, K, old, &c, N), 0,
                        "\(isa), codes from −\(least), weights to \(largest), zero \(zero)")
                }
            }
        }
    }

    /// Row i of a product is the same row computed alone, and neither rows nor threads change a bit.
    func testRowsAndThreadsDoNotMatter() {
        let M = 197, N = 200, K = 700
        var a = [Float](repeating: 0, count: M * K), b = [Float](repeating: 0, count: N * K)
        oracle_fill_f32(a.count, 1, &a)
        oracle_fill_f32(b.count, 2, &b)
        var packed = [UInt8](repeating: 0, count: hssl_gemm_f32_packed_size(N, K))
        hssl_gemm_f32_pack(N, K, b, 1, K, &packed)
        var scratch = [Float](repeating: 0, count: hssl_gemm_f32_unpacked_workspace_size(M, N, K) / 4)
        withEachInstructionSet { isa in
            func product(threads: Int32, _ multiply: (inout [Float]) -> Void) -> [UInt32] {
                hssl_set_threads(threads)
                defer { hssl_set_threads(2) }
                var c = [Float](repeating: 0, count: M * N)
                multiply(&c)
                return c.map(\.bitPattern)
            }
            let one = product(threads: 1) { hssl_gemm_f32(M, N, K, a, K, 1, packed, &$0, N, false, nil) }
            XCTAssertEqual(
                one, product(threads: 2) { hssl_gemm_f32(M, N, K, a, K, 1, packed, &$0, N, false, nil) }, isa)
            XCTAssertEqual(
                one, product(threads: 4) { hssl_gemm_f32(M, N, K, a, K, 1, packed, &$0, N, false, nil) }, isa)
            XCTAssertEqual(
                one,
                product(threads: 2) { hssl_gemm_f32_unpacked(M, N, K, a, K, 1, b, 1, K, &$0, N, false, nil, &scratch) },
                isa)
            XCTAssertEqual(one, product(threads: 1) { c in
                a.withUnsafeBufferPointer { rows in
                    for m in 0..<M {
                        c.withUnsafeMutableBufferPointer {
                            hssl_gemm_f32(
                                1, N, K, rows.baseAddress! + m * K, K, 1, packed, $0.baseAddress! + m * N, N, false,
                                nil)
                        }
                    }
                }
            }, isa)
        }
    }

    /// The definition of the gradient of a weight from codes: tokens in the order of their largest element's binary
    /// exponent, of each 128 a scale an output channel, exact sums of their codes, added to C in order.
    private func gradient(
        _ M: Int, _ N: Int, tokens: Int, dy: [Float], x: [UInt8], ldx: Int, scale: [Float], c: inout [Float], ldc: Int
    ) {
        let exponent = (0..<tokens).map { token in
            ((0..<M).reduce(Float(0)) { max($0, abs(dy[token * M + $1])) } * scale[token]).bitPattern >> 23
        }
        let order = (0..<tokens).sorted { (exponent[$0], $0) < (exponent[$1], $1) }
        for first in stride(from: 0, to: tokens, by: 128) {
            let block = order[first..<min(tokens, first + 128)]
            for m in 0..<M {
                let column = block.map { dy[$0 * M + m] * scale[$0] }
                let largest = column.reduce(0) { max($0, abs($1)) }
                let isZero = largest < 127 * Float.leastNormalMagnitude
                let inverse = isZero ? 0 : 127 / largest, step = isZero ? 1 : largest / 127
                let codes = column.map { Int32(($0 * inverse).rounded(.toNearestOrEven)) }
                for n in 0..<N {
                    var sum: Int32 = 0
                    for (code, token) in zip(codes, block) { sum += code * (Int32(x[token * ldx + n]) - 128) }
                    c[m * ldc + n] = Float(sum) * step + c[m * ldc + n]
                }
            }
        }
    }

    /// To the bit on every row and at any thread count; NaN stays, in its own row of C.
    func testGradientsOfWeightsFromCodes() {
        let sizes = [
            (1, 1, 1), (6, 64, 2), (7, 65, 3), (13, 130, 255), (96, 48, 257), (97, 64, 128), (100, 130, 300),
            (16, 70, 126),
        ]
        for (M, N, tokens) in sizes {
            let ldc = N + 3, ldx = (N + 3) / 4 * 4
            var dy = [Float](repeating: 0, count: tokens * M), before = [Float](repeating: 0, count: M * ldc)
            var scale = [Float](repeating: 0, count: tokens), x = [UInt8](repeating: 0, count: tokens * ldx)
            oracle_fill_f32(dy.count, 1, &dy)
            oracle_fill_f32(before.count, 2, &before)
            oracle_fill_f32(tokens, 3, &scale)
            oracle_fill_bytes(x.count, 4, 1, 255, &x)
            scale = scale.map { abs($0) }
            if M > 2 { for token in 0..<tokens { dy[token * M + 2] = token < 128 ? 0 : dy[token * M + 2] * 1e-38 } }
            var expected = before
            gradient(M, N, tokens: tokens, dy: dy, x: x, ldx: ldx, scale: scale, c: &expected, ldc: ldc)
            var scratch = [UInt64](repeating: .max, count: hssl_gemm_u8_gradient_workspace_size(M, N, tokens) / 8 + 8)
            func product(_ dy: [Float], threads: Int32) -> [Float] {
                hssl_set_threads(threads)
                defer { hssl_set_threads(2) }
                var c = before
                scratch.withUnsafeMutableBytes {
                    let start = $0.baseAddress!.alignedUp(toMultipleOf: 64)
                    hssl_gemm_u8_gradient(M, N, tokens, dy, M, x, ldx, scale, &c, ldc, start)
                }
                return c
            }
            withEachInstructionSet { isa in
                for threads in [1, 2, 3] as [Int32] {
                    XCTAssertEqual(product(dy, threads: threads), expected, "\(isa), \(M) × \(N) of \(tokens)")
                }
                var bad = dy
                bad[M * (tokens - 1)] = .nan
                let spoilt = product(bad, threads: 2)
                XCTAssertTrue(spoilt[..<N].allSatisfy(\.isNaN), isa)
                if M > 1 { XCTAssertFalse(spoilt[ldc..<(ldc + N)].contains(where: \.isNaN), isa) }
            }
        }
    }

    /// The polynomials behind every GELU here, at their stated accuracy and with the same bits on every row; zeros and
    /// identities far out, and NaN kept.
    func testGELUAccuracy() {
        let count = 1 << 20
        var x = (0..<count).map { Float($0) / Float(count) * 24 - 12 }
        x += [-1e30, -100, 0, 100, 1e30, Float.leastNormalMagnitude, .nan]
        let K = 1, N = 1, one: [Float] = [1]
        var packed = [UInt8](repeating: 0, count: hssl_gemm_f32_packed_size(N, K))
        hssl_gemm_f32_pack(N, K, one, 1, 1, &packed)
        for (activation, bound) in [(HSSL_ACTIVATION_GELU, 3e-7), (HSSL_ACTIVATION_GELU_COARSE, 2.1e-4)] {
            var first: [UInt32]?
            withEachInstructionSet { isa in
                var y = x
                var output = hssl_gemm_output()
                output.activation = activation
                hssl_gemm_f32(x.count, N, K, x, 1, 1, packed, &y, 1, false, &output)
                var worst: Float = 0
                let error = oracle_gelu_error(x.count - 1, x, y, &worst)
                XCTAssertLessThan(error, bound, "\(isa), at \(worst)")
                XCTAssertEqual(y[count], 0, accuracy: activation == HSSL_ACTIVATION_GELU ? 0 : 1e-9, isa)
                XCTAssertEqual(y[count + 4], 1e30, isa)
                XCTAssertTrue(y[count + 6].isNaN, isa)
                let bits = y.dropLast().map(\.bitPattern)
                XCTAssertEqual(bits, first ?? bits, isa)
                first = bits
            }
        }
    }

    func testPeakProbesRun() {
        withEachInstructionSet { isa in
            XCTAssertGreaterThan(hssl_peak_f32(0.001), 0, isa)
            XCTAssertGreaterThan(hssl_peak_u8s8(0.001), 0, isa)
        }
    }
}

/// The checkers see what they must see.
final class PlantedFaultTests: XCTestCase {
    private let checker = GemmChecker(M: 70, N: 70, K: 70)

    func testOffByOneIsCaught() {
        for (M, N, K) in [(1, 1, 1), (7, 17, 33), (70, 70, 70)] {
            XCTAssertNotNil(checker.float32(GemmCase(M: M, N: N, K: K), faulty_gemm_f32_off_by_one))
        }
    }

    func testDroppedTailIsCaught() {
        for (M, N, K) in [(1, 1, 1), (7, 17, 33), (70, 70, 70)] {
            XCTAssertNotNil(checker.float32(GemmCase(M: M, N: N, K: K), faulty_gemm_f32_dropped_tail))
        }
    }

    func testWrongZeroPointIsCaught() {
        for (M, N, K) in [(1, 1, 1), (7, 17, 33), (70, 70, 70)] {
            XCTAssertNotNil(checker.accumulators(GemmCase(M: M, N: N, K: K), faulty_gemm_u8s8_s32_zero_point))
        }
    }
}
