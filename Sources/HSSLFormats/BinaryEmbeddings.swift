/// numpy's format 1.0: float32 [rows, …], C order. The header has room for any number of rows and is completed at the
/// end.
final class NPYWriter: EmbeddingWriter {
    private(set) var rowCount: Int
    private let row: EmbeddingRow
    private let file: any SeekableSink
    private let headerSize: Int

    /// - Parameter rows: how many `sink` holds already.
    init(row: EmbeddingRow, sink: any SeekableSink, rows: Int) throws(FileError) {
        self.row = row
        rowCount = rows
        headerSize = try Self.headerSize(row)
        file = sink
        if sink.count == 0 { try file.write(header()) }
    }

    static func headerSize(_ row: EmbeddingRow) throws(FileError) -> Int {
        // 10 bytes before the text, a newline after it; numpy aligns the data to 64.
        let size = (10 + text(rows: .max, row.shape).utf8.count + 1 + 63) / 64 * 64
        if size - 10 > UInt16.max {
            throw FileError(path: row.path, reason: "a row of \(row.shape.count) dimensions cannot be written")
        }
        return size
    }

    private static func text(rows: Int, _ rowShape: [Int]) -> String {
        "{'descr': '<f4', 'fortran_order': False, 'shape': "
        + "(\(([rows] + rowShape).map(String.init).joined(separator: ", "))), }"
    }

    private func header() -> [UInt8] {
        let length = UInt16(headerSize - 10)
        var header: [UInt8] = [0x93] + Array("NUMPY".utf8) + [
            1, 0, UInt8(truncatingIfNeeded: length), UInt8(length >> 8)]
        header.append(contentsOf: Self.text(rows: rowCount, row.shape).utf8)
        header.append(contentsOf: repeatElement(0x20, count: headerSize - 1 - header.count))
        header.append(UInt8(ascii: "\n"))
        return header
    }

    func append(name: String, values: UnsafeBufferPointer<Float>) throws(FileError) {
        try row.check(name, values)
        try file.write(UnsafeRawBufferPointer(values))
        rowCount += 1
    }

    func finish() throws(FileError) {
        try file.overwrite(header(), at: 0)
        try file.commit()
    }
}

/// A safetensors file with the one tensor `embeddings` [rows, …] of float32.
final class SafetensorsEmbeddingWriter: EmbeddingWriter {
    static let tensorName = "embeddings"
    private(set) var rowCount: Int
    private let row: EmbeddingRow
    private let file: any SeekableSink
    private let headerSize: Int
    private var checksum: CRC32C

    /// - Parameters:
    ///   - rows: how many `sink` holds already.
    ///   - checksum: theirs.
    init(row: EmbeddingRow, sink: any SeekableSink, rows: Int, checksum: CRC32C) throws(FileError) {
        self.row = row
        rowCount = rows
        self.checksum = checksum
        headerSize = Self.headerSize(row)
        file = sink
        if sink.count == 0 { try file.write([UInt8](repeating: 0x20, count: headerSize)) }
    }

    static func headerSize(_ row: EmbeddingRow) -> Int {
        (8 + text(rows: .max, end: .max, row.shape, CRC32C()).utf8.count + 7) / 8 * 8
    }

    private static func text(rows: Int, end: Int, _ rowShape: [Int], _ checksum: CRC32C) -> String {
        """
        {"__metadata__":{"format":"pt","\(SafetensorsFile.checksumKey)":"\(checksum.hexadecimal)"},\
        "embeddings":{"dtype":"F32","shape":[\(([rows] + rowShape).map(String.init).joined(separator: ","))],"data_offsets":[0,\(end)]}}
        """
    }

    func append(name: String, values: UnsafeBufferPointer<Float>) throws(FileError) {
        try row.check(name, values)
        let bytes = UnsafeRawBufferPointer(values)
        checksum.update(bytes)
        try file.write(bytes)
        rowCount += 1
    }

    func finish() throws(FileError) {
        var header = withUnsafeBytes(of: UInt64(headerSize - 8).littleEndian) { Array($0) }
        header.append(contentsOf: Self.text(rows: rowCount, end: file.count - headerSize, row.shape, checksum).utf8)
        header.append(contentsOf: repeatElement(0x20, count: headerSize - header.count))
        try file.overwrite(header, at: 0)
        try file.commit()
    }
}
