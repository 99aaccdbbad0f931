#if canImport(Glibc)
import Glibc
#endif

/// A malloc'ed block, freed with the object.
package final class HeapBytes: @unchecked Sendable {  // immutable
    private let start: UnsafeMutableRawPointer?
    fileprivate let count: Int

    /// Takes the block over.
    package init(_ start: UnsafeMutableRawPointer?, count: Int) { (self.start, self.count) = (start, count) }

    fileprivate func copy(_ range: Range<Int>) -> [UInt8] {
        defer { withExtendedLifetime(self) {} }
        return Array(UnsafeRawBufferPointer(start: start, count: count)[range])
    }

    deinit { free(start) }
}

/// An IDX file of unsigned bytes (MNIST's format; http://yann.lecun.com/exdb/mnist): images [count, rows, columns],
/// labels [count].
package struct IDXFile: Sendable {
    private enum Storage: Sendable {
        case array([UInt8])
        case heap(HeapBytes)
        /// Read item by item: a mapping would count as the process's memory, page by page.
        case file(ReadableFile)
    }

    package let dimensions: [Int]
    /// Elements of one item along the first dimension.
    package let itemSize: Int
    private let storage: Storage
    /// Where the elements begin.
    private let start: Int

    /// - Parameters:
    ///   - bytes: the whole file, unzipped.
    ///   - path: what errors name.
    /// - Throws: `FileError` for another magic number or element type, impossible dimensions, missing or trailing
    ///   bytes.
    package init(bytes: [UInt8], path: String) throws(FileError) {
        try self.init(.array(bytes), head: Array(bytes.prefix(Self.longestHeader)), size: bytes.count, path: path)
    }

    package init(_ bytes: HeapBytes, path: String) throws(FileError) {
        let head = bytes.copy(0..<min(bytes.count, Self.longestHeader))
        try self.init(.heap(bytes), head: head, size: bytes.count, path: path)
    }

    /// A file that stays where it is.
    package init(_ file: ReadableFile) throws(FileError) {
        let head = try Self.read(file, 0..<min(file.size, Self.longestHeader))
        try self.init(.file(file), head: head, size: file.size, path: file.path)
    }

    private static let longestHeader = 4 + 4 * 4

    private init(_ storage: Storage, head bytes: [UInt8], size: Int, path: String) throws(FileError) {
        func refuse(_ reason: String) -> FileError { FileError(path: path, reason: reason) }
        guard bytes.count >= 4 else { throw refuse("not an IDX file: \(bytes.count) bytes are too few") }
        if bytes[0] == 0x1f, bytes[1] == 0x8b { throw refuse("not an IDX file: it is compressed with gzip") }
        guard bytes[0] == 0, bytes[1] == 0 else { throw refuse("not an IDX file: wrong magic number") }
        guard bytes[2] == 0x08 else {
            throw refuse("IDX element type 0x\(String(bytes[2], radix: 16)) is not supported, only unsigned bytes")
        }
        let rank = Int(bytes[3])
        guard (1...4).contains(rank) else { throw refuse("an IDX file of \(rank) dimensions, expected 1 to 4") }
        let start = 4 + 4 * rank
        guard size >= start else {
            throw refuse("truncated: the IDX header needs \(start) bytes, the file has \(size)")
        }

        let dimensions = (0..<rank).map { index in
            bytes[4 + 4 * index..<8 + 4 * index].reduce(0) { $0 << 8 | Int($1) }
        }
        var itemSize = 1
        for dimension in dimensions.dropFirst() {
            // No items is an empty dataset, which the dataset reports; items without pixels are not data at all.
            if dimension == 0 { throw refuse("an IDX file with a dimension of 0: \(dimensions)") }
            let (product, overflow) = itemSize.multipliedReportingOverflow(by: dimension)
            if overflow { throw refuse("the IDX dimensions \(dimensions) overflow") }
            itemSize = product
        }
        let (count, overflow) = itemSize.multipliedReportingOverflow(by: dimensions[0])
        if overflow { throw refuse("the IDX dimensions \(dimensions) overflow") }
        let found = size - start
        if found < count {
            throw refuse("truncated: IDX dimensions \(dimensions) need \(count) bytes of data, the file has \(found)")
        }
        if found > count { throw refuse("\(found - count) bytes after the IDX data") }
        self.dimensions = dimensions
        self.itemSize = itemSize
        self.storage = storage
        self.start = start
    }

    /// Items along the first dimension.
    package var count: Int { dimensions[0] }

    /// One item's elements, for an index below `count`.
    package func item(_ index: Int) throws(FileError) -> [UInt8] {
        try elements(index * itemSize..<(index + 1) * itemSize)
    }

    /// All elements, row-major.
    package func elements() throws(FileError) -> [UInt8] { try elements(0..<count * itemSize) }

    private func elements(_ range: Range<Int>) throws(FileError) -> [UInt8] {
        let range = range.lowerBound + start..<range.upperBound + start
        switch storage {
        case .array(let bytes): return Array(bytes[range])
        case .heap(let bytes): return bytes.copy(range)
        case .file(let file): return try Self.read(file, range)
        }
    }

    private static func read(_ file: ReadableFile, _ range: Range<Int>) throws(FileError) -> [UInt8] {
        var failure: FileError?
        let bytes = [UInt8](unsafeUninitializedCapacity: range.count) { buffer, count in
            do throws(FileError) {
                let target = UnsafeMutableRawBufferPointer(UnsafeMutableBufferPointer(rebasing: buffer[..<range.count]))
                try file.read(into: target, at: range.lowerBound)
                count = range.count
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return bytes
    }
}
