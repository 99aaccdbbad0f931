import Foundation
import XCTest

@testable import HSSLFormats

/// A folder appears whole, replaces its like, and nothing else.
final class AtomicFolderTests: XCTestCase {
    private var root = ""

    override func setUpWithError() throws {
        root = NSTemporaryDirectory() + "hssl-folder-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
    }

    override func tearDown() { try? FileManager.default.removeItem(atPath: root) }

    private func contents(_ path: String = "") throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: root + path).sorted()
    }

    private func write(_ text: String, commit: Bool = true, path: String = "/out") throws {
        let folder = try AtomicFolder(path: root + path, names: ["a", "b"])
        try AtomicFile.write(Array(text.utf8), to: folder.path(of: "a"))
        if commit { try folder.commit() }
    }

    private func refusal(_ path: String) -> String {
        do { return try write("x", path: path) == () ? "accepted" : "" } catch { return "\(error)" }
    }

    func testAppearsWholeOrNotAtAll() throws {
        try write("one", commit: false)
        XCTAssertEqual(try contents(), [], "neither folder nor temporary")
        try write("one", path: "/out/")
        XCTAssertEqual(try contents(), ["out"])
        XCTAssertEqual(try contents("/out"), ["a"])
        try write("two", commit: false)
        XCTAssertEqual(try String(contentsOfFile: root + "/out/a", encoding: .utf8), "one")
        try write("two")
        XCTAssertEqual(try String(contentsOfFile: root + "/out/a", encoding: .utf8), "two")
        XCTAssertEqual(try contents(), ["out"])
        try FileManager.default.createDirectory(atPath: root + "/empty", withIntermediateDirectories: true)
        try write("three", path: "/empty")
        XCTAssertEqual(try contents("/empty"), ["a"])
    }

    func testOthersFilesAreLeftAlone() throws {
        try write("one")
        try AtomicFile.write([1], to: root + "/out/thesis.tex")
        XCTAssertTrue(refusal("/out").contains("holds 'thesis.tex'"), refusal("/out"))
        XCTAssertEqual(try contents("/out"), ["a", "thesis.tex"])
        XCTAssertTrue(refusal("/out/a").contains("is a file, and a folder is to be written"), refusal("/out/a"))
        XCTAssertTrue(refusal("/none/out").contains("cannot create a folder beside it"), refusal("/none/out"))
        XCTAssertEqual(try contents(), ["out"])
    }

    func testAKilledWritersFolderIsRemoved() throws {
        let stale = root + "/.out.tmp-1-1"
        try FileManager.default.createDirectory(atPath: stale, withIntermediateDirectories: true)
        try AtomicFile.write([1], to: stale + "/b")
        try AtomicFile.write([1], to: stale + "/.a.tmp-1-2")
        try write("one")
        XCTAssertEqual(try contents(), ["out"])
    }
}
