import Foundation
import HSSLFormats
import TestSupport
import XCTest

@testable import HSSLData

/// What the fuzzers found, through the same decoders: pixels, or an error that says why.
final class CorpusTests: XCTestCase {
    func testImages() throws {
        let inputs = try Corpus.inputs("image")
        var decoded = 0
        for (name, bytes) in inputs {
            var limits = DecodeLimits(pixels: 1 << 20, bytes: 64 << 20, scans: 20)
            limits.reducedSide = bytes.count % 2 == 1 ? 4 : 0
            do {
                let image = try ImageDecoder.decode(bytes, name: name, limits: limits)
                XCTAssertEqual(image.pixels.count, 3 * image.width * image.height, name)
                decoded += 1
            } catch {
                XCTAssertTrue(error is DataError && "\(error)".count > name.count + 4, "\(error)")
            }
        }
        XCTAssertGreaterThan(decoded, 0)
        XCTAssertLessThan(decoded, inputs.count)
    }

    func testGzip() throws {
        let path = NSTemporaryDirectory() + "hssl-corpus-\(UUID().uuidString).gz"
        defer { try? FileManager.default.removeItem(atPath: path) }
        var inflated = 0
        for (name, bytes) in try Corpus.inputs("gzip") {
            let limit = 4096 * Int(bytes.last ?? 0)
            try Data(bytes).write(to: URL(fileURLWithPath: path))
            do {
                _ = try gunzip(ReadableFile(path: path), limit: limit)
                inflated += 1
            } catch {
                XCTAssertTrue(error is DataError, "\(name): \(error)")
            }
        }
        XCTAssertGreaterThan(inflated, 0)
    }
}
