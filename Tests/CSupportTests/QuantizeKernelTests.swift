import CSupport
import KernelOracle
import TestSupport
import XCTest

final class QuantizeKernelTests: XCTestCase {
    static let families = [
        "quantize_rows", "quantize_rows_f16", "quantize_rows_alike", "quantize_row_stochastic", "dequantize_row",
        "count_codes",
    ]

    override func setUp() {
        XCTAssertEqual(hssl_initialize(nil, 0), 0)
        hssl_set_threads(2)
    }

    /// Every width 1…200 and some of which fewer rows make a block, padding included, byte for byte, in buffers that
    /// end at guard pages.
    func testAgainstTheDefinition() {
        let rows = 11, limit = 7000
        let x = GuardedBuffer<Float>(capacity: rows * limit), codes = GuardedBuffer<UInt8>(capacity: rows * (limit + 3))
        let scale =
            GuardedBuffer<Float>(capacity: rows), y = GuardedBuffer<Float>(capacity: rows * limit),
            columns = GuardedBuffer<Float>(capacity: limit)
        let half = GuardedBuffer<UInt16>(capacity: rows * limit)
        oracle_fill_f32(limit, 4, columns.tail(limit))
        withEachInstructionSet { isa in
            for K in Array(1...200) + [1000, 1537, limit] {
                let ldq =
                    (K + 3) / 4 * 4, count = rows * K, bytes = codes.tail(rows * ldq), s = scale.tail(rows),
                    values = x.tail(count)
                oracle_fill_f32(count, UInt64(K), values)
                for k in 0..<K { values[K + k] = 0; values[2 * K + k] *= 1e-38 }
                values[3 * K] = K % 2 == 0 ? .nan : .infinity
                hssl_quantize_rows_u8(rows, K, values, K, 128, bytes, ldq, s)
                XCTAssertEqual(oracle_quantize(rows, K, values, K, 128, bytes, ldq, s), 0, "\(isa), u8, K = \(K)")
                XCTAssertFalse(s[3].isFinite, "a non-finite activation must stay visible")
                let z = y.tail(count)
                hssl_dequantize_rows_u8(rows, K, bytes, ldq, s, z, K)
                for i in [0, K - 1, 4 * K, 10 * K - 1, count - 1] {
                    XCTAssertEqual(z[i], Float(Int(bytes[i / K * ldq + i % K]) - 128) * s[i / K])
                }
                bytes.withMemoryRebound(to: Int8.self, capacity: rows * ldq) {
                    hssl_quantize_rows_s8(rows, K, values, K, $0, ldq, s)
                }
                XCTAssertEqual(oracle_quantize(rows, K, values, K, 0, bytes, ldq, s), 0, "\(isa), s8, K = \(K)")
                bytes.withMemoryRebound(to: Int8.self, capacity: rows * ldq) {
                    hssl_dequantize_rows_s8(rows, K, $0, ldq, s, z, K)
                }
                XCTAssertEqual(z[count - 1], Float(Int8(bitPattern: bytes[(rows - 1) * ldq + K - 1])) * s[rows - 1])
                let halves = half.tail(count), widened = y.tail(count)
                hssl_convert_f32_f16(count, values, halves)
                hssl_convert_f16_f32(count, halves, widened)
                hssl_quantize_rows_f16_u8(rows, K, halves, K, 128, bytes, ldq, s)
                XCTAssertEqual(
                    oracle_quantize(rows, K, widened, K, 128, bytes, ldq, s), 0, "\(isa), binary16, K = \(K)")
                XCTAssertFalse(s[3].isFinite, "a non-finite activation must stay visible")
                let scaleByColumn = K % 3 == 0 ? nil : columns.tail(K)
                hssl_quantize_rows_u8_stochastic(rows, K, values, K, scaleByColumn, 99, bytes, ldq, s)
                XCTAssertEqual(
                    oracle_quantize_stochastic(rows, K, values, K, scaleByColumn, 99, bytes, ldq, s), 0,
                    "\(isa), stochastic, K = \(K)")
            }
        }
    }

    /// Rows of one scale are what one row of all their elements is; infinities and NaN stay visible.
    func testRowsAlikeAreOneRow() {
        let rows = 5
        withEachInstructionSet { isa in
            let cases: [(Int, UInt8)] = [(1, 128), (12, 128), (63, 20), (64, 128), (65, 20), (200, 128), (512, 20)]
            for (K, zero) in cases {
                let count = rows * K, ldq = (K + 3) / 4 * 4
                let x = GuardedBuffer<Float>(capacity: count), codes = GuardedBuffer<UInt8>(capacity: rows * ldq)
                let whole = GuardedBuffer<UInt8>(capacity: (count + 3) / 4 * 4)
                let scale = GuardedBuffer<Float>(capacity: rows), scaleOfAll = GuardedBuffer<Float>(capacity: 1)
                let values = x.tail(count), alike = codes.tail(rows * ldq), scales = scale.tail(rows)
                let expected = whole.tail((count + 3) / 4 * 4), expectedScale = scaleOfAll.tail(1)
                oracle_fill_f32(count, UInt64(K), values)
                // Around a low zero as after ReLU, where the largest element is all that counts.
                for i in 0..<count where zero < 128 { values[i] = max(values[i], 0) }
                for last in [Float(0.5), .nan, .infinity] {
                    values[count - 1] = last
                    let largest = (0..<count).reduce(Float(0)) {
                        $0.isNaN || values[$1].isNaN ? .nan : max($0, abs(values[$1]))
                    }
                    hssl_quantize_rows_u8(1, count, values, count, zero, expected, (count + 3) / 4 * 4, expectedScale)
                    hssl_quantize_rows_alike_u8(rows, K, values, K, largest, zero, alike, ldq, scales)
                    for r in 0..<rows {
                        XCTAssertEqual(scales[r].bitPattern, expectedScale[0].bitPattern, "\(isa), K = \(K), \(last)")
                        for k in 0..<ldq where last.isFinite {
                            let code = k < K ? expected[r * K + k] : zero
                            XCTAssertEqual(alike[r * ldq + k], code, "\(isa), K = \(K), row \(r), \(k)")
                        }
                    }
                    XCTAssertEqual(scales[0].isFinite, last.isFinite)
                }
            }
        }
    }

    /// Codes around any zero, byte for byte, of rows on both sides of 0, on one, and as GELU leaves them; every element
    /// is within half a step of its code, rounding aside.
    func testOtherZerosAgainstTheDefinition() {
        let rows = 11, limit = 1537
        let x = GuardedBuffer<Float>(capacity: rows * limit), codes = GuardedBuffer<UInt8>(capacity: rows * (limit + 3))
        let scale = GuardedBuffer<Float>(capacity: rows), half = GuardedBuffer<UInt16>(capacity: rows * limit)
        withEachInstructionSet { isa in
            for K in Array(1...140) + [1000, limit] {
                let ldq = (K + 3) / 4 * 4, count = rows * K, bytes = codes.tail(rows * ldq), s = scale.tail(rows)
                let values = x.tail(count), halves = half.tail(count)
                oracle_fill_f32(count, UInt64(K), values)
                for k in 0..<K {
                    values[K + k] = 0
                    values[2 * K + k] *= 1e-38
                    values[4 * K + k] = -values[4 * K + k].magnitude
                    values[5 * K + k] = values[5 * K + k].magnitude
                    values[6 * K + k] = Float(k) - 3
                }
                hssl_gelu(4 * K, values + 7 * K, values + 7 * K)
                values[3 * K + K / 2] = [.nan, -.nan, .infinity, -.infinity][K % 4]
                for zero: UInt8 in [2, 20, 127, 200, 254] {
                    hssl_quantize_rows_u8(rows, K, values, K, zero, bytes, ldq, s)
                    XCTAssertEqual(
                        oracle_quantize(rows, K, values, K, zero, bytes, ldq, s), 0, "\(isa), zero \(zero), K = \(K)")
                    XCTAssertFalse(s[3].isFinite, "a non-finite activation must stay visible")
                    for r in 0..<rows where r != 3 {
                        let far = (0..<K).filter {
                            let value = Float(Int(bytes[r * ldq + $0]) - Int(zero)) * s[r]
                            return !((value - values[r * K + $0]).magnitude <= 0.5001 * s[r])
                        }
                        XCTAssertEqual(far, [], "\(isa), zero \(zero), K = \(K), row \(r)")
                    }
                    hssl_convert_f32_f16(count, values, halves)
                    let widened = [Float](unsafeUninitializedCapacity: count) { buffer, initialized in
                        if let base = buffer.baseAddress { hssl_convert_f16_f32(count, halves, base) }
                        initialized = count
                    }
                    hssl_quantize_rows_f16_u8(rows, K, halves, K, zero, bytes, ldq, s)
                    XCTAssertEqual(
                        oracle_quantize(rows, K, widened, K, zero, bytes, ldq, s), 0,
                        "\(isa), binary16, zero \(zero), K = \(K)")
                    XCTAssertFalse(s[3].isFinite, "a non-finite activation must stay visible")
                }
            }
        }
    }

    /// Widths around the register and beyond what byte counters hold; padding is not counted.
    func testCountsOfCodes() {
        let rows = 3, widths = Array(1...140) + [255 * 16, 255 * 32 + 7, 255 * 64 + 65], limit = 255 * 64 + 65 + 3
        let buffer = GuardedBuffer<UInt8>(capacity: rows * limit)
        withEachInstructionSet { isa in
            for K in widths {
                let ldq = (K + 3) / 4 * 4, codes = buffer.tail(rows * ldq)
                for i in 0..<rows * ldq {
                    // Row 0: mixed; row 1: all zero; row 2: all ±127.
                    let mixed: [UInt8] = [1, 128, 255, 0, 2, 254, 127, 129, 128]
                    codes[i] = i < ldq ? mixed[(i * 7 + i / 9) % 9] : i < 2 * ldq ? 128 : i % 2 == 0 ? 1 : 255
                }
                var saturated = [Int32](repeating: -1, count: rows), zeros = saturated
                hssl_count_codes_u8(rows, K, codes, ldq, &saturated, &zeros)
                let row = (0..<K).map { codes[$0] }
                XCTAssertEqual(
                    saturated, [Int32(row.filter { $0 == 1 || $0 == 255 }.count), 0, Int32(K)], "\(isa), K = \(K)")
                XCTAssertEqual(zeros, [Int32(row.filter { $0 == 128 }.count), Int32(K), 0], "\(isa), K = \(K)")
            }
        }
    }

    /// The mean of many roundings is the value: |mean − x| within 5 standard errors of a variable of variance ≤ ¼.
    func testStochasticRoundingIsUnbiasedAndThreadsDoNotMatter() {
        let rows = 4096, K = 64
        let row = (0..<K).map { $0 == 0 ? Float(1) : Float($0) / 63.7 - 0.5 }
        let x = (0..<rows).flatMap { _ in row }
        var codes = [UInt8](repeating: 0, count: rows * K), again = codes, scale = [Float](repeating: 0, count: rows)
        hssl_set_threads(1)
        hssl_quantize_rows_u8_stochastic(rows, K, x, K, nil, 7, &codes, K, &scale)
        hssl_set_threads(2)
        hssl_quantize_rows_u8_stochastic(rows, K, x, K, nil, 7, &again, K, &scale)
        XCTAssertEqual(codes, again)
        for k in 0..<K {
            var sum = 0
            for r in 0..<rows { sum += Int(codes[r * K + k]) - 128 }
            XCTAssertEqual(
                Double(sum) / Double(rows), Double(row[k]) * 127, accuracy: 5 * 0.5 / Double(rows).squareRoot() + 1e-4,
                "column \(k)")
        }
    }
}
