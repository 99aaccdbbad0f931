import Foundation
import XCTest

@testable import HSSLFormats

/// A good file, damaged.
final class SafetensorsDamageTests: XCTestCase {
    private func goodFile(_ folder: String) throws -> Data {
        let path = folder + "/good.safetensors"
        try SafetensorsWriter.write(
            path: path,
            tensors: [
                SafetensorsTensor(name: "blocks.0.weight", shape: [3, 4], values: (0..<12).map { Float($0) * 0.37 }),
                SafetensorsTensor(name: "codes", shape: [5], values: [1, -2, 3, -4, 5] as [Int8]),
                SafetensorsTensor(name: "half", shape: [2], float16: [0x3C00, 0x4000]),
            ], metadata: ["format": "pt"])
        return try Data(contentsOf: URL(fileURLWithPath: path))
    }

    private func open(_ content: Data, _ folder: String) throws -> SafetensorsFile {
        let path = folder + "/damaged.safetensors"
        try content.write(to: URL(fileURLWithPath: path))
        return try SafetensorsFile(path: path)
    }

    func testTruncatedAtEveryByte() throws {
        try withTemporaryFolder { folder in
            let good = try goodFile(folder)
            for count in 0..<good.count {
                XCTAssertThrowsError(try open(good.prefix(count), folder), "\(count) bytes") {
                    XCTAssertTrue($0 is SafetensorsError)
                }
            }
            XCTAssertNoThrow(try open(good, folder))
            XCTAssertThrowsError(try open(good + [0], folder))
        }
    }

    func testEveryBitOfTheDataIsGuarded() throws {
        try withTemporaryFolder { folder in
            let good = try goodFile(folder)
            let dataStart = try SafetensorsFile(path: folder + "/good.safetensors").byteCounts.header
            for bit in dataStart * 8..<good.count * 8 {
                var damaged = good
                damaged[bit / 8] ^= 1 << UInt8(bit % 8)
                XCTAssertThrowsError(try open(damaged, folder)) {
                    guard case .checksumMismatch = ($0 as? SafetensorsError)?.fault else { return XCTFail("\($0)") }
                }
            }
        }
    }

    /// A flipped bit in the header is refused, or it changes a name, a dtype of the same size, a shape of the same size
    /// or the metadata: never the data, and never a crash. Models check names and shapes against what their
    /// architecture needs.
    func testFlippedBitsOfTheHeader() throws {
        try withTemporaryFolder { folder in
            let good = try goodFile(folder)
            let original = try SafetensorsFile(path: folder + "/good.safetensors")
            func content(_ file: SafetensorsFile) -> [String] {
                file.tensors.map { tensor in "\(tensor.name) \(tensor.dtype) \(tensor.shape)" }
                    + file.metadata.map { "\($0) \($1)" }.sorted()
            }
            var accepted = 0
            for bit in 0..<original.byteCounts.header * 8 {
                var damaged = good
                damaged[bit / 8] ^= 1 << UInt8(bit % 8)
                guard let file = try? open(damaged, folder) else { continue }
                accepted += 1
                XCTAssertNotEqual(content(file), content(original), "bit \(bit)")
                XCTAssertEqual(
                    file.tensors.map { $0.withBytes(Array.init) }, original.tensors.map { $0.withBytes(Array.init) },
                    "bit \(bit)")
            }
            XCTAssertLessThan(accepted, original.byteCounts.header * 4)
        }
    }

    func testRandomMutationsNeverCrash() throws {
        try withTemporaryFolder { folder in
            let good = Array(try goodFile(folder))
            var generator = SeededGenerator(7)
            let alphabet = Array("{}[]\",:0123456789-+.eE\\u \0".utf8) + [0xff, 0xc3, 0x80]
            let deadline = ContinuousClock.now + .seconds(2)
            var rounds = 0
            var refused = 0
            while ContinuousClock.now < deadline {
                var mutated = good
                for _ in 0...Int.random(in: 0..<6, using: &generator) where !mutated.isEmpty {
                    let place = Int.random(in: 0..<mutated.count, using: &generator)
                    switch Int.random(in: 0..<5, using: &generator) {
                    case 0: mutated[place] = alphabet.randomElement(using: &generator) ?? 0
                    case 1: mutated.remove(at: place)
                    case 2: mutated.insert(alphabet.randomElement(using: &generator) ?? 0, at: place)
                    case 3: mutated.removeLast(min(mutated.count - 1, Int.random(in: 0..<20, using: &generator)))
                    default:
                        let end = min(mutated.count, place + Int.random(in: 1..<30, using: &generator))
                        mutated.insert(contentsOf: mutated[place..<end], at: place)
                    }
                }
                // Half of them with a length that fits, so that the parser is reached.
                if mutated.count > 8, Bool.random(using: &generator) {
                    let length = UInt64(max(0, mutated.count - (good.count - Int(good[0]) - Int(good[1]) << 8)))
                    for byte in 0..<8 { mutated[byte] = UInt8(truncatingIfNeeded: length >> (8 * UInt64(byte))) }
                }
                rounds += 1
                do {
                    let file = try open(Data(mutated), folder)
                    for tensor in file.tensors {
                        XCTAssertEqual(tensor.dtype.bytes(tensor.shape.reduce(1, *)), tensor.bytes.count)
                    }
                } catch {
                    XCTAssertTrue(error is SafetensorsError, "\(error)")
                    refused += 1
                }
            }
            XCTAssertGreaterThan(refused, rounds / 2)
        }
    }

    func testAskingForWhatIsNotThere() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/a"
            try SafetensorsWriter.write(
                path: path,
                tensors: [
                    SafetensorsTensor(name: "x", shape: [2], values: [1, .nan] as [Float]),
                    SafetensorsTensor(name: "i", shape: [1], values: [1] as [Int64]),
                ])
            let file = try SafetensorsFile(path: path)
            func fault(_ body: () throws -> Void) -> SafetensorsError.Fault? {
                do { try body() } catch { return (error as? SafetensorsError)?.fault }
                return nil
            }
            XCTAssertEqual(fault { _ = try file.tensor("y") }, .noSuchTensor("y"))
            XCTAssertEqual(fault { _ = try file.floats("x") }, .notFinite(tensor: "x", index: 1))
            XCTAssertEqual(try file.floats("x", allowingNonFinite: true)[0], 1)
            XCTAssertEqual(
                fault { _ = try file.floats("x", shape: [1, 2]) },
                .unexpectedShape(tensor: "x", expected: [1, 2], found: [2]))
            XCTAssertEqual(
                fault { _ = try file.floats("i") },
                .unexpectedDType(tensor: "i", expected: "F32, F16, BF16 or F64", found: .int64))
            XCTAssertEqual(
                fault { _ = try file.values("i", as: Int8.self) },
                .unexpectedDType(tensor: "i", expected: "I8", found: .int64))
        }
    }

    func testEveryHalfIsExact() {
        for bits in UInt16.min ... .max {
            let value = float32(fromFloat16: bits)
            let expected = Float(Float16(bitPattern: bits))
            XCTAssertTrue(value.bitPattern == expected.bitPattern || value.isNaN && expected.isNaN, "\(bits)")
        }
    }

    /// RFC 3720, appendix B.4, and pieces of every length.
    func testChecksum() {
        func checksum(_ bytes: [UInt8]) -> UInt32 { bytes.withUnsafeBytes { CRC32C($0).value } }
        XCTAssertEqual(checksum([UInt8](repeating: 0, count: 32)), 0x8A91_36AA)
        XCTAssertEqual(checksum([UInt8](repeating: 0xff, count: 32)), 0x62A8_AB43)
        XCTAssertEqual(checksum(Array(0..<32)), 0x46DD_794E)
        XCTAssertEqual(checksum(Array("123456789".utf8)), 0xE306_9283)
        XCTAssertEqual(checksum([]), 0)
        let bytes = (0..<300).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        for split in 0...bytes.count {
            var pieces = CRC32C()
            bytes[..<split].withUnsafeBytes { pieces.update($0) }
            bytes[split...].withUnsafeBytes { pieces.update($0) }
            XCTAssertEqual(pieces.value, checksum(bytes))
        }
    }

    /// Long pieces are taken as strands side by side: the same value as bit by bit.
    func testChecksumOfLongPieces() {
        let bytes = (0..<70_003).map { UInt8(truncatingIfNeeded: ($0 &* $0) >> 3 ^ $0) }
        var crc: UInt32 = ~0
        var expected: [Int: UInt32] = [:]
        for (index, byte) in bytes.enumerated() {
            crc ^= UInt32(byte)
            for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0x82F6_3B78 : crc >> 1 }
            expected[index + 1] = ~crc
        }
        for count in [16_383, 16_384, 16_385, 32_768, 49_160, 70_003] {
            XCTAssertEqual(bytes[..<count].withUnsafeBytes { CRC32C($0).value }, expected[count], "\(count) bytes")
        }
        var pieces = CRC32C()
        bytes[..<5].withUnsafeBytes { pieces.update($0) }
        bytes[5...].withUnsafeBytes { pieces.update($0) }
        XCTAssertEqual(pieces.value, expected[bytes.count])
    }

    func testTheWriterRefuses() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/a"
            func tensor(_ name: String, _ shape: [Int] = [1]) -> SafetensorsTensor {
                SafetensorsTensor(name: name, shape: shape, values: [1] as [Float])
            }
            for (tensors, reason) in [
                ([tensor("a"), tensor("a")], "tensor 'a' is given twice"),
                ([tensor("")], "tensor '' has an invalid name"),
                ([tensor("a\0")], "tensor 'a\\u{0}' has an invalid name"),
                ([tensor("__metadata__")], "tensor '__metadata__' has an invalid name"),
                ([tensor("a", [2])], "tensor 'a' [2] needs 8 bytes, was given 4"),
                ([tensor("a", [-1])], "tensor 'a' has an impossible shape [-1]"),
                ([tensor("a", [.max])], "tensor 'a' has an impossible shape [9223372036854775807]"),
            ] {
                XCTAssertThrowsError(try SafetensorsWriter.write(path: path, tensors: tensors)) {
                    XCTAssertEqual(($0 as? FileError)?.reason, reason)
                }
            }
            XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: folder), [])
        }
    }

    func testASaveThatFailsAnywhereKeepsTheOldCheckpoint() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/checkpoint.safetensors"
            func save(_ value: Float, _ calls: SystemCalls = .live) throws {
                let values = [Float](repeating: value, count: 50_000)
                try SafetensorsWriter.write(
                    path: path, tensors: [SafetensorsTensor(name: "w", shape: [50_000], values: values)], calls: calls)
            }
            try save(1)
            var call = 0
            while true {
                let system = FaultySystem()
                system.failing = (call, ENOSPC)
                var failed = false
                do { try save(2, system.calls) } catch { failed = true }
                let value = try SafetensorsFile(path: path).floats("w")[49_999]
                XCTAssertTrue(value == 1 || value == 2)
                if !failed { XCTAssertEqual(value, 2) }
                XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: folder), ["checkpoint.safetensors"])
                try save(1)
                if call >= system.callCount { break }
                call += 1
            }
            XCTAssertGreaterThan(call, 7)
        }
    }
}
