/// `filenames,embedding_0,embedding_1,…`, then one line an image. Names are quoted as RFC 4180 says, and escaped as
/// ``PathBytes/escaped(_:)`` says where they are not UTF-8; lines end in LF.
final class CSVWriter: EmbeddingWriter {
    private(set) var rowCount: Int
    private let row: EmbeddingRow
    private let file: any SeekableSink

    /// - Parameter rows: how many `sink` holds already.
    init(row: EmbeddingRow, sink: any SeekableSink, rows: Int) throws(FileError) {
        try Self.check(row)
        self.row = row
        rowCount = rows
        file = sink
        if sink.count > 0 { return }
        var line = Array("filenames".utf8)
        for column in 0..<row.count { line.append(contentsOf: ",embedding_\(column)".utf8) }
        line.append(UInt8(ascii: "\n"))
        try file.write(line)
    }

    static func check(_ row: EmbeddingRow) throws(FileError) {
        if row.shape.count == 1 { return }
        throw FileError(
            path: row.path,
            reason: "csv holds one vector an image, not features of shape \(row.shape): use .npy or .safetensors")
    }

    func append(name: String, values: UnsafeBufferPointer<Float>) throws(FileError) {
        try row.check(name, values)
        var line: [UInt8] = []
        let name = PathBytes.escaped(name)
        let quoted = name.utf8.contains {
            $0 == UInt8(ascii: ",") || $0 == UInt8(ascii: "\"") || $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r")
        }
        if quoted {
            line.append(UInt8(ascii: "\""))
            for byte in name.utf8 {
                if byte == UInt8(ascii: "\"") { line.append(byte) }
                line.append(byte)
            }
            line.append(UInt8(ascii: "\""))
        } else {
            line.append(contentsOf: name.utf8)
        }
        for value in values {
            line.append(UInt8(ascii: ","))
            line.appendJSON(value)
        }
        line.append(UInt8(ascii: "\n"))
        try file.write(line)
        rowCount += 1
    }

    func finish() throws(FileError) { try file.commit() }
}

/// One object a line: `{"path":…,"row":0,"embedding":[…]}`; patch features as an array of vectors.
final class JSONLinesWriter: EmbeddingWriter {
    private(set) var rowCount: Int
    private let row: EmbeddingRow
    private let sink: any ByteSink

    /// - Parameter rows: how many `sink` holds already.
    init(row: EmbeddingRow, sink: any ByteSink, rows: Int) throws(FileError) {
        self.row = row
        rowCount = rows
        self.sink = sink
    }

    func append(name: String, values: UnsafeBufferPointer<Float>) throws(FileError) {
        try row.check(name, values)
        var line = Array("{\"path\":".utf8)
        line.appendJSON(path: name)
        line.append(contentsOf: ",\"row\":\(rowCount),\"embedding\":".utf8)
        // Elements of one array at each level: an array starts and ends at their multiples.
        let sizes = row.shape.indices.map { row.shape[$0...].reduce(1, *) }
        for (index, value) in values.enumerated() {
            if index > 0 { line.append(UInt8(ascii: ",")) }
            for size in sizes where index % size == 0 { line.append(UInt8(ascii: "[")) }
            line.appendJSON(value)
            for size in sizes where (index + 1) % size == 0 { line.append(UInt8(ascii: "]")) }
        }
        line.append(contentsOf: "}\n".utf8)
        try sink.write(line)
        rowCount += 1
    }

    func finish() throws(FileError) { try sink.commit() }
}

/// Standard output, unbuffered: a reader gets every line when it is complete.
final class StandardOutput: ByteSink {
    private let calls: SystemCalls

    init(calls: SystemCalls = .live) { self.calls = calls }

    func write(_ bytes: UnsafeRawBufferPointer) throws(FileError) {
        let result = writeAll(bytes) { part, _ in calls.write(1, part) }
        if result < 0 { throw FileError(path: "standard output", action: "cannot write", code: -result) }
    }

    func commit() throws(FileError) {}
}
