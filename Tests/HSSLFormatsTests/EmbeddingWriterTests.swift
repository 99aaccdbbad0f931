import Foundation
import XCTest

@testable import HSSLFormats

final class EmbeddingWriterTests: XCTestCase {
    private let rows: [(String, [Float])] = [
        ("a.png", [0, 1, -2.5]), ("b, \"c\"\n.png", [1e-20, 3.4028235e38, 0.1]),
        ("é/漢.png", [-0.0, .leastNonzeroMagnitude, 16_777_216]),
    ]

    private func write(
        _ path: String, rowShape: [Int] = [3], _ rows: [(String, [Float])], calls: SystemCalls = .live
    ) throws {
        let writer = try EmbeddingFormat.makeWriter(path: path, rowShape: rowShape, calls: calls)
        for (name, values) in rows { try writer.append(name: name, values: values) }
        XCTAssertEqual(writer.rowCount, rows.count)
        try writer.finish()
    }

    func testNPY() throws {
        try withTemporaryFolder { folder in
            for count in 0...3 {
                try write(folder + "/a.npy", Array(rows.prefix(count)))
                let bytes = try readFile(at: folder + "/a.npy")
                let array = try NPYArray(bytes: bytes, path: "a.npy")
                XCTAssertEqual(array.shape, [count, 3])
                XCTAssertEqual(array.values.map(\.bitPattern), rows.prefix(count).flatMap(\.1).map(\.bitPattern))
                XCTAssertEqual((bytes.count - 12 * count) % 64, 0)
            }
            try write(folder + "/p.npy", rowShape: [3, 1], rows)
            XCTAssertEqual(try NPYArray(bytes: readFile(at: folder + "/p.npy"), path: "p.npy").shape, [3, 3, 1])
        }
    }

    func testCSV() throws {
        try withTemporaryFolder { folder in
            try write(folder + "/a.csv", rows)
            XCTAssertEqual(
                String(decoding: try readFile(at: folder + "/a.csv"), as: UTF8.self),
                """
                filenames,embedding_0,embedding_1,embedding_2
                a.png,0.0,1.0,-2.5
                "b, ""c""\n.png",1e-20,3.4028235e+38,0.1
                é/漢.png,-0.0,1e-45,16777216.0

                """)
            XCTAssertThrowsError(try write(folder + "/p.csv", rowShape: [3, 1], rows)) {
                XCTAssertTrue("\($0)".contains("csv holds one vector an image, not features of shape [3, 1]"), "\($0)")
            }
        }
    }

    func testJSONLines() throws {
        try withTemporaryFolder { folder in
            try write(folder + "/a.jsonl", rows)
            let lines = String(decoding: try readFile(at: folder + "/a.jsonl"), as: UTF8.self).split(separator: "\n")
            XCTAssertEqual(lines.first, #"{"path":"a.png","row":0,"embedding":[0.0,1.0,-2.5]}"#)
            for (index, line) in lines.enumerated() {
                let value = try JSONValue.parse(String(line))
                XCTAssertEqual(try value.string("path", in: ""), rows[index].0)
                XCTAssertEqual(try value.integer("row", in: ""), index)
                XCTAssertEqual(try value.numbers("embedding", in: "").map { Float($0) }, rows[index].1)
            }
            try write(folder + "/p.jsonl", rowShape: [2, 2], [("a", [1, 2, 3, 4])])
            XCTAssertEqual(
                String(decoding: try readFile(at: folder + "/p.jsonl"), as: UTF8.self),
                "{\"path\":\"a\",\"row\":0,\"embedding\":[[1.0,2.0],[3.0,4.0]]}\n")
            try write(folder + "/q.jsonl", rowShape: [2, 1], [("a", [1, 2])])
            XCTAssertEqual(
                String(decoding: try readFile(at: folder + "/q.jsonl"), as: UTF8.self),
                "{\"path\":\"a\",\"row\":0,\"embedding\":[[1.0],[2.0]]}\n")
        }
    }

    func testSafetensors() throws {
        try withTemporaryFolder { folder in
            for count in 0...3 {
                let path = folder + "/a.SAFETENSORS"
                try write(path, Array(rows.prefix(count)))
                let file = try SafetensorsFile(path: path)
                XCTAssertEqual(file.names, ["embeddings"])
                XCTAssertEqual(try file.floats("embeddings", shape: [count, 3]), rows.prefix(count).flatMap(\.1))
                XCTAssertNotNil(file.metadata["hssl.crc32c"])
            }
        }
    }

    func testStandardOutputGetsWholeLinesAtOnce() throws {
        let written = Written()
        var calls = SystemCalls.live
        calls.write = { descriptor, bytes in
            XCTAssertEqual(descriptor, 1)
            written.pieces.append(String(decoding: bytes, as: UTF8.self))
            return bytes.count
        }
        let writer = try EmbeddingFormat.makeWriter(path: "-", rowShape: [1], calls: calls)
        try writer.append(name: "a", values: [1])
        XCTAssertEqual(written.pieces, ["{\"path\":\"a\",\"row\":0,\"embedding\":[1.0]}\n"])
        try writer.append(name: "b", values: [2])
        try writer.finish()
        XCTAssertEqual(written.pieces.count, 2)

        calls.write = { _, _ in -Int(EPIPE) }
        let closed = try EmbeddingFormat.makeWriter(path: "-", rowShape: [1], calls: calls)
        XCTAssertThrowsError(try closed.append(name: "a", values: [1])) {
            XCTAssertEqual("\($0)", "standard output: cannot write: Broken pipe")
        }
    }

    private final class Written: @unchecked Sendable {
        var pieces: [String] = []
    }

    func testARowThatIsRefusedLeavesTheFileGood() throws {
        try withTemporaryFolder { folder in
            for suffix in ["npy", "csv", "jsonl", "safetensors"] {
                let path = folder + "/a." + suffix
                let writer = try EmbeddingFormat.makeWriter(path: path, rowShape: [2])
                try writer.append(name: "good", values: [1, 2])
                for bad in [[.nan, 1], [1, .infinity], [-.infinity, 0]] as [[Float]] {
                    XCTAssertThrowsError(try writer.append(name: "bad", values: bad)) {
                        XCTAssertTrue("\($0)".contains("'bad' is not written: its feature"), "\($0)")
                    }
                }
                XCTAssertThrowsError(try writer.append(name: "short", values: [1]))
                try writer.append(name: "good", values: [3, 4])
                XCTAssertFalse(FileManager.default.fileExists(atPath: path), "nothing before finish")
                try writer.finish()
                switch suffix {
                case "npy": XCTAssertEqual(try NPYArray(bytes: readFile(at: path), path: path).values, [1, 2, 3, 4])
                case "safetensors": XCTAssertEqual(
                    try SafetensorsFile(path: path).floats("embeddings", shape: [2, 2]), [1, 2, 3, 4])
                default: XCTAssertEqual(
                    try readFile(at: path).count { $0 == UInt8(ascii: "\n") }, suffix == "csv" ? 3 : 2)
                }
            }
        }
    }

    func testSuffixes() throws {
        for path in ["a", "a.txt", "npy", "a.npy.gz", "dir.npy/a", ""] {
            XCTAssertThrowsError(try EmbeddingFormat(path: path), path) { XCTAssertTrue($0 is FileError) }
        }
        for shape in [[], [0], [-1], [.max, 2]] as [[Int]] {
            XCTAssertThrowsError(try EmbeddingFormat.makeWriter(path: "/nowhere/a.npy", rowShape: shape), "\(shape)")
        }
    }

    func testEveryFailingCallLeavesNoPartOfAFile() throws {
        for suffix in ["npy", "csv", "jsonl", "safetensors"] {
            var call = 0
            var finished = false
            while !finished {
                try withTemporaryFolder { folder in
                    let path = folder + "/a." + suffix
                    let system = FaultySystem()
                    system.failing = (call, ENOSPC)
                    do { try write(path, rows, calls: system.calls) } catch {
                        XCTAssertTrue(error is FileError)
                    }
                    finished = call >= system.callCount
                    let entries = try FileManager.default.contentsOfDirectory(atPath: folder)
                    XCTAssertTrue(entries == [] || entries == ["a." + suffix], "\(entries)")
                    let isWhole = system.events.contains { if case .rename = $0 { true } else { false } }
                    XCTAssertEqual(entries.isEmpty, !isWhole)
                }
                call += 1
            }
        }
    }

    func testIndex() throws {
        try withTemporaryFolder { folder in
            let index = try EmbeddingIndexWriter(output: folder + "/a.npy")
            try index.append(path: "a\".png", row: 0)
            try index.append(path: "b.png", error: "b.png: truncated\nimage")
            try index.finish()
            XCTAssertEqual(
                String(decoding: try readFile(at: folder + "/a.npy.index.jsonl"), as: UTF8.self),
                """
                {"path":"a\\".png","row":0}
                {"path":"b.png","row":null,"error":"b.png: truncated\\nimage"}

                """)
        }
    }

    func testFloatTextRoundTrips() throws {
        var generator = SeededGenerator(3)
        for _ in 0..<5000 {
            let value = Float(bitPattern: UInt32(truncatingIfNeeded: generator.next()))
            guard value.isFinite else { continue }
            var text: [UInt8] = []
            text.appendJSON(value)
            XCTAssertEqual(Float(String(decoding: text, as: UTF8.self))?.bitPattern, value.bitPattern)
        }
    }

    /// Files for `tools/check_formats.py`, which reads them with numpy, pandas and safetensors.
    func testWriteSamples() throws {
        guard let folder = ProcessInfo.processInfo.environment["HSSL_WRITE_SAMPLES"] else {
            throw XCTSkip("HSSL_WRITE_SAMPLES is not set")
        }
        let rows = self.rows + (3..<100).map { index in ("\(index).png", (0..<3).map { Float(index * 3 + $0) / 7 }) }
        for suffix in ["npy", "csv", "jsonl", "safetensors"] { try write("\(folder)/vectors.\(suffix)", rows) }
        for suffix in ["npy", "jsonl", "safetensors"] {
            try write("\(folder)/patches.\(suffix)", rowShape: [2, 3], rows.map { ($0, $1 + $1.map { -$0 }) })
        }
        for suffix in ["npy", "csv", "safetensors"] { try write("\(folder)/none.\(suffix)", []) }
        try SafetensorsWriter.write(
            path: folder + "/tensors.safetensors",
            tensors: [
                SafetensorsTensor(name: "f32", shape: [2, 3], values: [1, 2, 3, 4, 5, 6.5] as [Float]),
                SafetensorsTensor(name: "f64", shape: [1], values: [0.1] as [Double]),
                SafetensorsTensor(name: "f16", shape: [3], float16: [0x3C00, 0x0001, 0xFBFF]),
                SafetensorsTensor(name: "bf16", dtype: .bfloat16, shape: [2]) { sink in
                    try [UInt16(0x3F80), 0xC000].withUnsafeBytes(sink)
                },
                SafetensorsTensor(name: "i8", shape: [3], values: [-127, 0, 127] as [Int8]),
                SafetensorsTensor(name: "u8", shape: [2], values: [0, 255] as [UInt8]),
                SafetensorsTensor(name: "i16", shape: [1], values: [-300] as [Int16]),
                SafetensorsTensor(name: "i32", shape: [1], values: [-70_000] as [Int32]),
                SafetensorsTensor(name: "i64", shape: [], values: [1 << 40] as [Int64]),
                SafetensorsTensor(name: "u64", shape: [1], values: [.max] as [UInt64]),
                SafetensorsTensor(name: "bool", dtype: .bool, shape: [2]) { sink in
                    try [UInt8(0), 1].withUnsafeBytes(sink)
                },
                SafetensorsTensor(name: "é \"quoted\"\n", shape: [0, 4], values: [] as [Float]),
            ], metadata: ["format": "pt", "note": "ü\u{1F600}\n"])
    }

    /// Files that other libraries wrote into the same folder.
    func testReadSamples() throws {
        guard let folder = ProcessInfo.processInfo.environment["HSSL_READ_SAMPLES"] else {
            throw XCTSkip("HSSL_READ_SAMPLES is not set")
        }
        let array = try NPYArray(bytes: readFile(at: folder + "/numpy.npy"), path: "numpy.npy")
        XCTAssertEqual(array.shape, [2, 3])
        XCTAssertEqual(array.values, [0, 1, 2, 3, 4, 5])
        let file = try SafetensorsFile(path: folder + "/torch.safetensors")
        XCTAssertEqual(file.metadata, ["format": "pt", "key": "välue"])
        for name in ["f32", "f16", "bf16", "f64"] {
            XCTAssertEqual(try file.floats(name, shape: [2, 2]), [0.5, -1, 2, 3.5], name)
        }
        XCTAssertEqual(try file.values("i64", as: Int64.self), [1 << 40])
        XCTAssertEqual(try file.tensor("scalar").shape, [])
        XCTAssertEqual(try file.tensor("empty").shape, [0, 3])
    }
}
