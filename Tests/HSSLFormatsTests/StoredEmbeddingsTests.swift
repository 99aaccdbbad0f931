import Foundation
import XCTest

@testable import HSSLFormats

final class StoredEmbeddingsTests: XCTestCase {
    private func write(_ path: String, rowShape: [Int], rows: [(name: String, values: [Float])]) throws {
        let writer = try EmbeddingFormat.makeWriter(path: path, rowShape: rowShape)
        let index = try EmbeddingIndexWriter(output: path)
        for row in rows {
            try index.append(path: row.name, row: writer.rowCount)
            try writer.append(name: row.name, values: row.values)
        }
        try index.append(path: "broken.jpg", error: "broken.jpg: truncated")
        try writer.finish()
        try index.finish()
    }

    func testWhatExtractionWritesIsReadBack() throws {
        try withTemporaryFolder { folder in
            // A name that is not UTF-8 comes back byte for byte.
            let odd = PathBytes.string([0x61, 0xFF, 0x2F, 0x5C, 0x62])
            for suffix in [".npy", ".safetensors"] {
                let path = folder + "/e" + suffix
                try write(path, rowShape: [3], rows: [("a/1.png", [1, 2, 3]), (odd, [4, 5, 6])])
                let stored = try StoredEmbeddings(path: path)
                XCTAssertEqual(stored.rowShape, [3])
                XCTAssertEqual(stored.values, [1, 2, 3, 4, 5, 6])
                XCTAssertEqual(stored.names, ["a/1.png", odd])
            }
            try write(folder + "/p.npy", rowShape: [2, 2], rows: [("x", [1, 2, 3, 4])])
            XCTAssertEqual(try StoredEmbeddings(path: folder + "/p.npy").rowShape, [2, 2])
        }
    }

    func testWhatDoesNotFitIsRefused() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/e.npy"
            func fails(_ text: String, line: UInt = #line) {
                XCTAssertThrowsError(try StoredEmbeddings(path: path), line: line) {
                    XCTAssertTrue("\($0)".contains(text), "\($0)", line: line)
                }
            }
            fails("cannot open")
            try write(path, rowShape: [2], rows: [("a", [1, 2]), ("b", [3, 4])])
            func index(_ lines: String) throws {
                try lines.write(toFile: path + ".index.jsonl", atomically: true, encoding: .utf8)
            }
            try index(#"{"path":"a","row":0}"#)
            fails("has no image for row 1")
            try index("{\"path\":\"a\",\"row\":0}\n{\"path\":\"b\",\"row\":0}\n")
            fails("line 2: row 0 is there twice")
            try index("{\"path\":\"a\",\"row\":0}\n{\"path\":\"b\",\"row\":2}\n")
            fails("line 2: row 2 is not among the 2 rows")
            try index("{\"path\":\"a\",\"row\":0}\n{\"row\":1}\n")
            fails("line 2: 'path' is missing")
            try index("{\"path\":\"a\",\"path_hex\":\"6g\",\"row\":0}\n")
            fails("'path_hex' is not hexadecimal")
            try index("nonsense")
            fails("index.jsonl: ")
            XCTAssertThrowsError(try StoredEmbeddings(path: folder + "/e.csv")) {
                XCTAssertTrue("\($0)".contains("read from .npy and .safetensors"), "\($0)")
            }
        }
    }
}
