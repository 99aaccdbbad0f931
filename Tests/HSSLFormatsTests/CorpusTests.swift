import TestSupport
import XCTest

@testable import HSSLFormats

/// What the fuzzers found, through the same parsers: no trap, and what is accepted is whole.
final class CorpusTests: XCTestCase {
    /// - Parameter parse: whether the input was accepted.
    private func replay(_ target: String, parse: (_ bytes: [UInt8], _ name: String) throws -> Bool) throws {
        let inputs = try Corpus.inputs(target)
        var accepted = 0
        for (name, bytes) in inputs where try parse(bytes, "\(target)/\(name)") { accepted += 1 }
        XCTAssertGreaterThan(accepted, 0, target)
        XCTAssertLessThan(accepted, inputs.count, target)
    }

    func testArrays() throws {
        try replay("npy") { bytes, name in
            guard let array = try? NPYArray(bytes: bytes, path: "fuzz.npy") else { return false }
            XCTAssertEqual(array.shape.reduce(1, *), array.values.count, name)
            return true
        }
        try replay("idx") { bytes, name in
            guard let file = try? IDXFile(bytes: bytes, path: "fuzz") else { return false }
            let elements = try file.elements()
            XCTAssertEqual(file.dimensions.reduce(1, *), elements.count, name)
            if file.count > 0 {
                XCTAssertEqual(elements.suffix(file.itemSize), try file.item(file.count - 1)[...], name)
            }
            return true
        }
    }

    func testJSON() throws {
        try replay("json") { bytes, name in
            guard let value = try? JSONValue.parse(bytes: bytes) else { return false }
            XCTAssertEqual(try JSONValue.parse(bytes: value.bytes(keys: .sorted, indent: 1)), value, name)
            return true
        }
    }

    func testSafetensorsHeaders() throws {
        try replay("safetensors") { bytes, name in
            guard bytes.count > 1 else { return false }
            let text = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: bytes.count - 1)
            _ = text.initialize(from: bytes.dropFirst())
            guard let header = try? SafetensorsHeader(takingOver: text, dataBytes: Int(bytes[0])) else { return false }
            var covered = 0
            for entry in header.entries {
                XCTAssertEqual(entry.begin, covered, name)
                XCTAssertEqual(entry.dtype.bytes(header.shape(of: entry).reduce(1, *)), entry.end - entry.begin, name)
                covered = entry.end
            }
            XCTAssertEqual(covered, Int(bytes[0]), name)
            return true
        }
    }
}
