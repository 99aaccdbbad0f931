/// Writes one row of features an image, as they come. The number of rows need not be known beforehand.
package protocol EmbeddingWriter: AnyObject {
    /// Rows written so far: the number of the next row.
    var rowCount: Int { get }

    /// Writes a row.
    ///
    /// - Parameters:
    ///   - name: the input's path.
    ///   - values: as many as the row shape says, row-major.
    /// - Throws: `FileError`. A row with NaN or infinity is refused, and the writer goes on without it.
    func append(name: String, values: UnsafeBufferPointer<Float>) throws(FileError)

    /// Completes the file. Without it nothing appears under the file's name.
    func finish() throws(FileError)
}

extension EmbeddingWriter {
    package func append(name: String, values: [Float]) throws(FileError) {
        var failure: FileError?
        values.withUnsafeBufferPointer { values in
            do throws(FileError) { try append(name: name, values: values) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}

/// File formats of embeddings, chosen by the suffix of the output's name.
package enum EmbeddingFormat: Sendable {
    case npy, csv, jsonLines, safetensors

    /// The output that stands for standard output, as JSON lines.
    package static let standardOutput = "-"

    /// - Throws: `FileError` for an unknown suffix.
    package init(path: String) throws(FileError) {
        if path == Self.standardOutput {
            self = .jsonLines
            return
        }
        let suffix = path.utf8.lastIndex(of: UInt8(ascii: ".")).map { path[$0...].lowercased() }
        switch suffix {
        case ".npy": self = .npy
        case ".csv": self = .csv
        case ".jsonl": self = .jsonLines
        case ".safetensors": self = .safetensors
        default: throw FileError(
            path: path, reason: "unknown output format: end the name in .npy, .csv, .jsonl or .safetensors, or give -")
        }
    }

    /// Opens a writer for `path`.
    ///
    /// - Parameter rowShape: [D], or [N, D] for patch features, which csv cannot hold.
    package static func makeWriter(
        path: String, rowShape: [Int], calls: SystemCalls = .live
    ) throws(FileError) -> any EmbeddingWriter {
        let row = try EmbeddingRow(path: path, shape: rowShape)
        let format = try EmbeddingFormat(path: path)
        if path == standardOutput { return try JSONLinesWriter(row: row, sink: StandardOutput(calls: calls), rows: 0) }
        let file = try AtomicFile(path: path, needsSeeking: format.headerSize(row) > 0, calls: calls)
        return try makeWriter(format, row, sink: file, rows: 0, checksum: CRC32C())
    }

    /// A writer into `sink`, which may hold the beginning of the file already.
    ///
    /// - Parameters:
    ///   - rows: how many are there.
    ///   - checksum: of what is there behind the header.
    static func makeWriter(
        _ format: EmbeddingFormat, _ row: EmbeddingRow, sink: any SeekableSink, rows: Int, checksum: CRC32C
    ) throws(FileError) -> any EmbeddingWriter {
        switch format {
        case .npy: try NPYWriter(row: row, sink: sink, rows: rows)
        case .csv: try CSVWriter(row: row, sink: sink, rows: rows)
        case .jsonLines: try JSONLinesWriter(row: row, sink: sink, rows: rows)
        case .safetensors: try SafetensorsEmbeddingWriter(row: row, sink: sink, rows: rows, checksum: checksum)
        }
    }

    /// Bytes before the first row that are known at the end only; 0 for text.
    ///
    /// - Throws: `FileError` where the format cannot hold such rows.
    func headerSize(_ row: EmbeddingRow) throws(FileError) -> Int {
        switch self {
        case .npy: return try NPYWriter.headerSize(row)
        case .safetensors: return SafetensorsEmbeddingWriter.headerSize(row)
        case .csv:
            try CSVWriter.check(row)
            return 0
        case .jsonLines: return 0
        }
    }
}

/// What every row of one output must be.
struct EmbeddingRow {
    let path: String
    let shape: [Int]
    let count: Int

    init(path: String, shape: [Int]) throws(FileError) {
        self.path = path
        self.shape = shape
        var count = 1
        for dimension in shape {
            let (product, overflow) = count.multipliedReportingOverflow(by: dimension)
            if overflow || dimension <= 0 {
                throw FileError(path: path, reason: "a row of shape \(shape) cannot be written")
            }
            count = product
        }
        if shape.isEmpty { throw FileError(path: path, reason: "a row without dimensions cannot be written") }
        self.count = count
    }

    func check(_ name: String, _ values: UnsafeBufferPointer<Float>) throws(FileError) {
        if values.count != count {
            throw FileError(
                path: path,
                reason: "'\(oneLine(name))' has \(values.count) values, a row of shape \(shape) has \(count)")
        }
        if let index = firstNonFinite(values) {
            throw FileError(
                path: path, reason: "'\(oneLine(name))' is not written: its feature \(index) is \(values[index])")
        }
    }
}

/// `FILE.index.jsonl`: one object an input, `{"path":…,"row":…}` or `{"path":…,"row":null,"error":"…"}`. A path that is
/// not UTF-8 has `"path_hex"` behind it.
package final class EmbeddingIndexWriter {
    private let file: any ByteSink

    /// - Parameter output: the embeddings' file; the index stands beside it.
    package convenience init(output: String, calls: SystemCalls = .live) throws(FileError) {
        self.init(sink: try AtomicFile(path: Self.path(output: output), calls: calls))
    }

    init(sink: any ByteSink) { file = sink }

    package static func path(output: String) -> String { output + ".index.jsonl" }

    package func append(path: String, row: Int) throws(FileError) {
        var line = Array("{\"path\":".utf8)
        line.appendJSON(path: path)
        line.append(contentsOf: ",\"row\":\(row)}\n".utf8)
        try file.write(line)
    }

    package func append(path: String, error: String) throws(FileError) {
        var line = Array("{\"path\":".utf8)
        line.appendJSON(path: path)
        line.append(contentsOf: ",\"row\":null,\"error\":".utf8)
        line.appendJSON(PathBytes.readable(error))
        line.append(contentsOf: "}\n".utf8)
        try file.write(line)
    }

    package func finish() throws(FileError) { try file.commit() }
}
