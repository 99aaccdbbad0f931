/// A tensor to be written: its description, and a source that hands over its bytes in pieces when asked.
package struct SafetensorsTensor {
    package typealias Sink = (UnsafeRawBufferPointer) throws -> Void

    package let name: String
    package let dtype: SafetensorsDType
    package let shape: [Int]
    let source: (Sink) throws -> Void

    /// - Parameter source: called once, when the tensor's turn comes; gives its little-endian bytes to the sink, in any
    ///   number of pieces.
    package init(name: String, dtype: SafetensorsDType, shape: [Int], source: @escaping (Sink) throws -> Void) {
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.source = source
    }

    /// Memory that the caller keeps valid until the file is written.
    package init(name: String, dtype: SafetensorsDType, shape: [Int], bytes: UnsafeRawBufferPointer) {
        self.init(name: name, dtype: dtype, shape: shape) { sink in try sink(bytes) }
    }

    package init<Element: SafetensorsElement>(name: String, shape: [Int], values: [Element]) {
        self.init(name: name, dtype: Element.dtype, shape: shape) { sink in try values.withUnsafeBytes(sink) }
    }

    /// Binary16 bit patterns.
    package init(name: String, shape: [Int], float16 values: [UInt16]) {
        self.init(name: name, dtype: .float16, shape: shape) { sink in try values.withUnsafeBytes(sink) }
    }
}

/// Writes safetensors files: larger elements first, then by name, as the reference library does; atomically, one tensor
/// at a time in memory.
package enum SafetensorsWriter {
    /// - Parameters:
    ///   - metadata: `hssl.crc32c`, the checksum of the data, is added.
    /// - Throws: `FileError`, or what a tensor's source throws. The old file then stays as it was.
    package static func write(
        path: String, tensors: [SafetensorsTensor], metadata: [String: String] = [:], calls: SystemCalls = .live
    ) throws {
        let tensors = tensors.sorted { a, b in
            a.dtype == b.dtype ? a.name.utf8.lexicographicallyPrecedes(b.name.utf8) : a.dtype.rank > b.dtype.rank
        }
        let (header, checksumOffset) = try layout(path: path, tensors: tensors, metadata: metadata)
        let file = try AtomicFile(path: path, needsSeeking: true, calls: calls)
        try file.write(header)
        var checksum = CRC32C()
        for tensor in tensors {
            let start = file.count
            try tensor.source { bytes in
                checksum.update(bytes)
                try file.write(bytes)
            }
            let written = file.count - start
            let expected = tensor.dtype.bytes(tensor.shape.reduce(1, *)) ?? 0
            if written != expected {
                throw FileError(
                    path: path,
                    reason:
                        "tensor '\(oneLine(tensor.name))' \(tensor.shape) needs \(expected) bytes, was given \(written)"
                )
            }
        }
        try file.overwrite(Array(checksum.hexadecimal.utf8), at: checksumOffset)
        try file.commit()
    }

    /// The header with its length, padded with spaces to a multiple of 8, and where in it the 8 digits of the checksum
    /// stand (zeros yet).
    private static func layout(
        path: String, tensors: [SafetensorsTensor], metadata: [String: String]
    ) throws(FileError) -> (bytes: [UInt8], checksumOffset: Int) {
        if tensors.count > SafetensorsHeader.tensorLimit {
            throw FileError(
                path: path, reason: "\(tensors.count) tensors are more than \(SafetensorsHeader.tensorLimit)")
        }
        var text = Array("{\"__metadata__\":{".utf8)
        var checksumOffset = 0
        var metadata = metadata
        metadata[SafetensorsFile.checksumKey] = "00000000"
        for (index, key) in metadata.keys.sorted().enumerated() {
            if index > 0 { text.append(UInt8(ascii: ",")) }
            text.appendJSON(key)
            text.append(UInt8(ascii: ":"))
            if key == SafetensorsFile.checksumKey { checksumOffset = 8 + text.count + 1 }
            text.appendJSON(metadata[key] ?? "")
        }
        text.append(UInt8(ascii: "}"))

        var begin = 0
        var names = Set<[UInt8]>()
        for tensor in tensors {
            let name = Array(tensor.name.utf8)
            func refuse(_ reason: String) -> FileError {
                FileError(path: path, reason: "tensor '\(oneLine(tensor.name))' \(reason)")
            }
            if name.isEmpty || name.contains(0) || tensor.name == "__metadata__" { throw refuse("has an invalid name") }
            if !names.insert(name).inserted { throw refuse("is given twice") }
            if tensor.shape.count > SafetensorsHeader.dimensionLimit { throw refuse("has too many dimensions") }
            var elements = 1
            for dimension in tensor.shape {
                let (product, overflow) = elements.multipliedReportingOverflow(by: dimension)
                if overflow || dimension < 0 { throw refuse("has an impossible shape \(tensor.shape)") }
                elements = product
            }
            guard let bytes = tensor.dtype.bytes(elements) else {
                throw refuse("has an impossible shape \(tensor.shape)")
            }
            let (end, overflow) = begin.addingReportingOverflow(bytes)
            if overflow { throw refuse("makes the file too large") }
            text.append(UInt8(ascii: ","))
            text.appendJSON(tensor.name)
            text.append(contentsOf: ":{\"dtype\":\"\(tensor.dtype.rawValue)\",\"shape\":[".utf8)
            text.append(contentsOf: tensor.shape.map(String.init).joined(separator: ",").utf8)
            text.append(contentsOf: "],\"data_offsets\":[\(begin),\(end)]}".utf8)
            begin = end
        }
        text.append(UInt8(ascii: "}"))
        while text.count % 8 != 0 { text.append(0x20) }
        if text.count > SafetensorsFile.headerLimit {
            throw FileError(
                path: path,
                reason: "a header of \(text.count) bytes is more than the limit of \(SafetensorsFile.headerLimit)")
        }
        let length = withUnsafeBytes(of: UInt64(text.count).littleEndian) { Array($0) }
        return (length + text, checksumOffset)
    }
}
