import Foundation
import XCTest

/// A comparison that cannot fail guards nothing: one bit turned over in any golden file is noticed.
final class ComparerTests: CompatibilityTestCase {
    private func flipped(_ data: Data, bit: Int) -> Data {
        var data = data
        data[data.startIndex + bit / 8] ^= 1 << UInt8(bit % 8)
        return data
    }

    /// Some bits of a file: the first, the last, and others spread over it.
    private func someBits(_ count: Int) -> [Int] { [0, 8 * count - 1] + (1..<8).map { 8 * count / 8 * $0 + $0 % 8 } }

    func testAFlippedBitOfAnyFileIsNoticed() throws {
        let original = try Fixtures()
        XCTAssertTrue(original.names.contains("golden.json"))
        for name in original.names {
            let copy = "\(root)/copy"
            try? FileManager.default.removeItem(atPath: copy)
            try FileManager.default.copyItem(atPath: original.folder, toPath: copy)
            let data = try original.data(name)
            for bit in someBits(data.count) {
                try flipped(data, bit: bit).write(to: URL(fileURLWithPath: "\(copy)/\(name)"))
                XCTAssertThrowsError(try Fixtures(folder: copy).data(name), "\(name), bit \(bit)")
            }
            try data.write(to: URL(fileURLWithPath: "\(copy)/\(name)"))
            XCTAssertEqual(try Fixtures(folder: copy).data(name), data)
        }
    }

    /// Every bit of the list of checksums matters: it is not vouched for by another.
    func testAFlippedBitOfTheChecksumsIsNoticed() throws {
        let folder = "\(root)/small"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        for name in ["a.npy", "b.json"] { try Data(name.utf8).write(to: URL(fileURLWithPath: "\(folder)/\(name)")) }
        try Fixtures.writeChecksums(folder: folder)
        let path = URL(fileURLWithPath: "\(folder)/\(Fixtures.checksumName)"), list = try Data(contentsOf: path)
        func readAll() throws {
            let fixtures = try Fixtures(folder: folder)
            for name in ["a.npy", "b.json"] { _ = try fixtures.data(name) }
        }
        XCTAssertNoThrow(try readAll())
        for bit in 0..<8 * list.count {
            try flipped(list, bit: bit).write(to: path)
            XCTAssertThrowsError(try readAll(), "bit \(bit)")
        }
        try list.write(to: path)
        try Data().write(to: URL(fileURLWithPath: "\(folder)/stranger"))
        XCTAssertThrowsError(try readAll(), "a file that is not listed")
    }

    func testAFlippedBitOfFeaturesIsNoticed() throws {
        let fixtures = try Fixtures(), golden = try GoldenTable(fixtures)
        for testCase in Self.featureCases {
            let data = try fixtures.data(testCase.file)
            let expected = try XCTUnwrap(golden.value(testCase.key, row: Self.referenceRow), testCase.key)
            XCTAssertEqual(expected, checksum(data), "\(testCase.key): golden.json and the file disagree")
            XCTAssertNil(try fault(of: data, expected: expected, reference: data))
            XCTAssertNil(try fault(of: data, expected: nil, reference: data))
            if testCase.everyRowAgrees {
                let rows = golden.entries[testCase.key]?.keys.sorted()
                XCTAssertEqual(rows, [GoldenTable.everyRow], "\(testCase.key) depends on the row")
            }
            for bit in someBits(data.count) {
                // Either it can no longer be read, or it differs.
                let wrong = Result { try fault(of: flipped(data, bit: bit), expected: expected, reference: data) }
                if case .success(nil) = wrong { XCTFail("\(testCase.file), bit \(bit)") }
            }
            for bit in 0..<32 {
                XCTAssertNotNil(try fault(of: data, expected: flippedDigit(expected, bit: bit), reference: data))
            }
        }
    }

    private func flippedDigit(_ checksum: String, bit: Int) -> String {
        let value = (UInt32(checksum, radix: 16) ?? 0) ^ (1 << UInt32(bit)), digits = String(value, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }

    func testFeaturesOfAnotherRowMayDifferByRounding() throws {
        func npy(_ values: [Float]) -> Data {
            let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (\(values.count / 3), 3), }"
            let text = header + String(repeating: " ", count: 53 + 64 - header.count) + "\n"
            let start = Data([0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(text.utf8.count), 0]) + Data(text.utf8)
            return start + values.withUnsafeBytes { Data($0) }
        }
        let reference = npy([1, 2, 3, -3, 1, 0.5])
        XCTAssertNil(try fault(of: npy([1.0001, 2, 3, -3, 1.0001, 0.5]), expected: nil, reference: reference))
        XCTAssertNotNil(try fault(of: npy([1, 2, 3, -3, 1.02, 0.5]), expected: nil, reference: reference))
        XCTAssertNotNil(try fault(of: npy([1, 2, 3, -3, .nan, 0.5]), expected: nil, reference: reference))
        XCTAssertNotNil(try fault(of: npy([1, 2, 3]), expected: nil, reference: reference))
        let array = try Embeddings(npy: npy([1, 2, 4, -3, 1, 0.5]))
        let moved = try Embeddings(npy: npy([1, 2, 4.25, -3, 1, 0.5]))
        XCTAssertEqual(array.distance(from: array), "0 of 6 values differ, by at most 0.0; least cosine 1.0")
        XCTAssertTrue(array.distance(from: moved).hasPrefix("1 of 6 values differ, by at most 0.25; least cosine 0.99"))
        XCTAssertThrowsError(try fault(of: reference.dropLast(), expected: nil, reference: reference))
    }

    func testLossesOfAnotherRowMayDifferByRounding() {
        XCTAssertNil(fault(ofLosses: "1.5 2", expected: "1.5 2", reference: "3 4", tolerance: 0))
        XCTAssertNotNil(fault(ofLosses: "1.5 2", expected: "1.5 2.0000000001", reference: "1.5 2", tolerance: 1))
        XCTAssertNil(fault(ofLosses: "1.5 2", expected: nil, reference: "1.501 2", tolerance: 1e-3))
        XCTAssertNotNil(fault(ofLosses: "1.5 2", expected: nil, reference: "1.503 2", tolerance: 1e-3))
        XCTAssertNotNil(fault(ofLosses: "1.5 nan", expected: nil, reference: "1.5 2", tolerance: 1e-3))
        XCTAssertNotNil(fault(ofLosses: "1.5", expected: nil, reference: "1.5 2", tolerance: 1e-3))
    }

    /// The checksums of a checkpoint's groups see every tensor.
    func testAFlippedBitOfACheckpointIsNoticed() throws {
        let fixtures = try Fixtures()
        let beginning = try fixtures.data("runs/int8/checkpoint.begin"), whole = try wholeCheckpoint("int8", fixtures)
        let old = try TensorLayout(beginning), layout = try TensorLayout(whole)
        XCTAssertEqual(layout.start + (layout.entries.last?.bytes.upperBound ?? 0), whole.count)
        XCTAssertEqual(Set(layout.entries.map(\.dtype)), ["F32", "I64", "U8"])
        for metadata in [old.metadata, layout.metadata] { XCTAssertEqual(metadata.count, 15) }
        XCTAssertEqual(layout.metadata.filter { $0 != $1 && old.metadata[$0] != $1 }.map(\.key), ["hssl.crc32c"])
        XCTAssertEqual(try OldCheckpoint.beginning(of: whole).count, beginning.count, "ends where the formula begins")
        let golden = try tensorChecksums(whole, byGroup: true)
        XCTAssertEqual(golden.keys.sorted(), ["center", "optimizer", "student", "teacher"])
        for (group, _) in golden {
            for entry in layout.entries.filter({ $0.name.hasPrefix(group) }).prefix(3) {
                let last = 8 * (layout.start + entry.bytes.upperBound) - 1
                let found = try tensorChecksums(flipped(whole, bit: last), byGroup: true)
                XCTAssertEqual(golden.keys.filter { golden[$0] != found[$0] }, [group], entry.name)
            }
        }
    }
}
