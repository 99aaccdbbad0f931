/// Embeddings and their index that an earlier run finished: whether they are what this run would make. No file but
/// these says what run that was, so the index is compared with the inputs, and the first and last rows with what this
/// run makes of them.
package struct FinishedEmbeddings {
    /// Inputs that have a row.
    package let rowCount: Int
    /// Inputs whose rows are to be compared, in order.
    package let sample: [Int]

    private let path: String
    private let row: EmbeddingRow
    private let format: EmbeddingFormat
    private static let sampleCount = 8

    /// - Parameters:
    ///   - rowShape: of this run.
    ///   - inputs: how many this run has.
    ///   - name: the path of each.
    /// - Throws: `FileError`: cannot be read, or are of other inputs.
    package init(path: String, rowShape: [Int], inputs: Int, name: (Int) -> String) throws(FileError) {
        self.path = path
        row = try EmbeddingRow(path: path, shape: rowShape)
        format = try EmbeddingFormat(path: path)
        let indexPath = EmbeddingIndexWriter.path(output: path)
        let items = try MappedFile(path: indexPath).withBytes { Self.rowItems(of: $0, inputs: inputs, name: name) }
        guard let items else { throw FileError(path: indexPath, reason: "is of other inputs; \(Self.remedy)") }
        rowCount = items.count
        let ends = items.count > 2 * Self.sampleCount
            ? items.prefix(Self.sampleCount) + items.suffix(Self.sampleCount) : items[...]
        sample = Array(ends)
    }

    private static let remedy = "remove it, or leave out --resume to replace it"

    /// The inputs that have rows, in the order of these; nil where the index is not of these inputs.
    private static func rowItems(of index: UnsafeRawBufferPointer, inputs: Int, name: (Int) -> String) -> [Int]? {
        var items: [Int] = []
        var rest = index[...]
        for item in 0..<inputs {
            var start = Array("{\"path\":".utf8)
            start.appendJSON(path: name(item))
            start.append(contentsOf: ",\"row\":".utf8)
            guard let end = rest.firstIndex(of: UInt8(ascii: "\n")), rest[..<end].starts(with: start) else {
                return nil
            }
            let entry = rest[..<end].dropFirst(start.count)
            if entry.elementsEqual("\(items.count)}".utf8) {
                items.append(item)
            } else if !entry.starts(with: "null,".utf8) {
                return nil
            }
            rest = rest[(end + 1)...]
        }
        return rest.isEmpty ? items : nil
    }

    /// Compares the rows of ``sample``.
    ///
    /// - Parameters:
    ///   - names: their paths.
    ///   - values: their rows by this run.
    /// - Throws: `FileError` where the file holds others.
    package func verify(names: [String], values: [[Float]]) throws(FileError) {
        let rows = Array(zip(names, values))
        let head = try encoded(rows.prefix(Self.sampleCount), first: 0)
        let start = try format.headerSize(row)
        let isAll = rowCount <= Self.sampleCount
        let tail = isAll ? [] : try encoded(rows.suffix(Self.sampleCount), first: rowCount - Self.sampleCount)
        let isEqual = try MappedFile(path: path).withBytes { bytes in
            (start == 0 || bytes.count == start + 4 * row.count * rowCount) && (!isAll || bytes.count == head.count)
                && bytes.dropFirst(start).starts(with: head.dropFirst(start))
                && bytes.suffix(tail.count).elementsEqual(tail)
        }
        if isEqual { return }
        throw FileError(
            path: path,
            reason: "holds other features than this model, these flags and this instruction set make; \(Self.remedy)")
    }

    /// Rows as the format writes them; behind its header where the first is row 0.
    private func encoded(_ rows: ArraySlice<(String, [Float])>, first: Int) throws(FileError) -> [UInt8] {
        let sink = MemorySink(isBeginning: first == 0)
        let writer = try EmbeddingFormat.makeWriter(format, row, sink: sink, rows: first, checksum: CRC32C())
        for (name, values) in rows { try writer.append(name: name, values: values) }
        return sink.bytes
    }

    private final class MemorySink: SeekableSink {
        private(set) var bytes: [UInt8] = []
        private let isBeginning: Bool
        init(isBeginning: Bool) { self.isBeginning = isBeginning }
        var count: Int { isBeginning ? bytes.count : 1 + bytes.count }
        func write(_ new: UnsafeRawBufferPointer) { bytes.append(contentsOf: new) }
        func overwrite(_ new: [UInt8], at offset: Int) {}
        func commit() {}
    }
}
