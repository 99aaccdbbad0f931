import CSupport
import KernelOracle
import TestSupport
import XCTest

final class BaseKernelTests: XCTestCase {
    static let families = ["convert_f32_f16", "convert_f16_f32"]

    override func setUp() { XCTAssertEqual(hssl_initialize(nil, 0), 0) }

    /// Known answers of Random123 (kat_vectors, philox4x32 with 10 rounds).
    func testPhiloxKnownAnswers() {
        func words(_ key: UInt64, _ low: UInt64, _ high: UInt64) -> [UInt32] {
            var out = [UInt32](repeating: 0, count: 4)
            hssl_philox(key, low, high, &out)
            return out
        }
        XCTAssertEqual(words(0, 0, 0), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8])
        XCTAssertEqual(words(.max, .max, .max), [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD])
        XCTAssertEqual(
            words(0x299F_31D0_A409_3822, 0x85A3_08D3_243F_6A88, 0x0370_7344_1319_8A2E),
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1])
    }

    /// Every binary16 value, against Swift's own Float16.
    func testEveryHalfWidensAndReturns() {
        let halves =
            GuardedBuffer<UInt16>(capacity: 65536), wide = GuardedBuffer<Float>(capacity: 65536),
            back = GuardedBuffer<UInt16>(capacity: 65536)
        withEachInstructionSet { isa in
            let x = halves.tail(65536), y = wide.tail(65536), z = back.tail(65536)
            for i in 0..<65536 { x[i] = UInt16(i) }
            hssl_convert_f16_f32(65536, x, y)
            hssl_convert_f32_f16(65536, y, z)
            var wrong = 0
            for i in 0..<65536 {
                let value = Float16(bitPattern: UInt16(i))
                if value.isNaN {
                    if !y[i].isNaN || z[i] != UInt16(i) | 0x200 { wrong += 1 }
                } else if y[i] != Float(value) || z[i] != UInt16(i) {
                    wrong += 1
                }
            }
            XCTAssertEqual(wrong, 0, isa)
        }
    }

    /// Ties, neighbours of ties, subnormals, overflow; every length 1…40 up to a guard page.
    func testRoundingToHalf() {
        var values: [Float] = [
            0, -0.0, 65504, 65519.996, 65520, -65520, 1e30, .infinity, -.infinity, .leastNonzeroMagnitude, 0x1p-25,
            0x1.000002p-25, 0x1.8p-24, 0x1p-14]
        for half in stride(from: UInt16(0), to: 0x7BFF, by: 37) {
            let tie = (Float(Float16(bitPattern: half)) + Float(Float16(bitPattern: half + 1))) / 2
            values += [tie, tie.nextUp, tie.nextDown, -tie]
        }
        let x = GuardedBuffer<Float>(capacity: values.count), y = GuardedBuffer<UInt16>(capacity: values.count)
        withEachInstructionSet { isa in
            for n in Array(1...40) + [values.count] {
                x.tail(n).update(from: values, count: n)
                hssl_convert_f32_f16(n, x.tail(n), y.tail(n))
                for i in 0..<n { XCTAssertEqual(y.tail(n)[i], Float16(values[i]).bitPattern, "\(isa): \(values[i])") }
            }
        }
    }

    func testUnsupportedRowsAreRefused() {
        let selected = hssl_isa_selected()
        XCTAssertFalse(hssl_isa_select(HSSL_ISA_NEON))
        XCTAssertEqual(hssl_isa_selected(), selected)
        XCTAssertTrue(hssl_isa_supported(HSSL_ISA_SCALAR))
    }

    /// Every shared task runs once before its owner goes on, and threads without work of their own do take some.
    func testThreadsThatAreDoneTakeTasksOfOthers() {
        let counts = oracle_share(2_000)
        XCTAssertEqual(counts.wrong, 0)
        XCTAssertGreaterThan(counts.helped_first, 0, "the owner waited for a helper in vain")
        XCTAssertGreaterThanOrEqual(counts.helped, counts.helped_first)
    }

    func testProcessFacts() {
        XCTAssertGreaterThan(hssl_peak_rss(), 1 << 20)
        XCTAssertGreaterThanOrEqual(hssl_available_processors(), 1)
        hssl_set_threads(0)
        XCTAssertEqual(hssl_get_threads(), 1)
        hssl_set_threads(2)
    }
}
