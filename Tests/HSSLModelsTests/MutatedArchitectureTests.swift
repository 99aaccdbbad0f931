import Foundation
import HSSLFormats
import TestSupport
import XCTest
@testable import HSSLModels

/// `hssl.architecture` of files that are nearly right. HSSL_MUTATIONS=1000000 tries so many.
final class MutatedArchitectureTests: XCTestCase {
    func testAnyTextIsAnArchitectureOrOneLine() throws {
        let texts = try BaseFamilies.all.flatMap { family in
            try family.presets.prefix(3).map { try ModelArchitecture(named: $0, imageSize: 224).json.text() }
        }
        let count = ProcessInfo.processInfo.environment["HSSL_MUTATIONS"].flatMap(Int.init) ?? 3000
        var accepted = 0
        for bytes in Mutations(of: texts, seed: 2).prefix(count) {
            guard let json = try? JSONValue.parse(bytes: bytes) else { continue }
            do {
                let architecture = try ModelArchitecture(json: json)
                accepted += 1
                XCTAssertEqual(try ModelArchitecture(json: architecture.json), architecture)
                // Whatever is accepted can be laid out: no size of it overflows.
                XCTAssertGreaterThan(ModelTrace(architecture).tape.nodes.count, 0)
            } catch {
                XCTAssertTrue(error is ModelError || error is JSONError, "\(error)")
                XCTAssertFalse("\(error)".contains { $0.isNewline }, "\(error)")
            }
        }
        XCTAssertGreaterThan(accepted, count / 100, "mutations that all break the text test only its syntax")
    }
}
