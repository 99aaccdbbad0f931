/// An IDX file of unsigned bytes (MNIST's format; http://yann.lecun.com/exdb/mnist): images [count, rows, columns],
/// labels [count].
package struct IDXFile: Sendable {
    package let dimensions: [Int]
    /// Elements of one item along the first dimension.
    package let itemSize: Int
    /// Row-major elements; shares the memory of the bytes that were parsed.
    package let elements: ArraySlice<UInt8>

    /// - Parameters:
    ///   - bytes: the whole file, unzipped.
    ///   - path: what errors name.
    /// - Throws: `FileError` for another magic number or element type, impossible dimensions, missing or trailing
    ///   bytes.
    package init(bytes: [UInt8], path: String) throws(FileError) {
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
        guard bytes.count >= start else {
            throw refuse("truncated: the IDX header needs \(start) bytes, the file has \(bytes.count)")
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
        let found = bytes.count - start
        if found < count {
            throw refuse("truncated: IDX dimensions \(dimensions) need \(count) bytes of data, the file has \(found)")
        }
        if found > count { throw refuse("\(found - count) bytes after the IDX data") }
        self.dimensions = dimensions
        self.itemSize = itemSize
        elements = bytes[start...]
    }

    /// Items along the first dimension.
    package var count: Int { dimensions[0] }
    /// One item's elements, for an index below `count`.
    package func item(_ index: Int) -> ArraySlice<UInt8> {
        let start = elements.startIndex + index * itemSize
        return elements[start..<start + itemSize]
    }
}
