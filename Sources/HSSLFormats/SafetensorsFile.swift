#if canImport(Glibc)
import Glibc
#endif

/// A safetensors file, validated when it is opened, and mapped: a tensor costs memory only when its bytes are read.
package final class SafetensorsFile: @unchecked Sendable {  // immutable after init
    /// What the format allows for our own files; a foreign model file may be given `foreignHeaderLimit`.
    package static let headerLimit = 8 << 20
    package static let foreignHeaderLimit = 100 << 20
    /// Metadata entry: CRC-32C of the data section, 8 hexadecimal digits.
    package static let checksumKey = "hssl.crc32c"

    package let path: String
    package let metadata: [String: String]
    private let header: SafetensorsHeader
    private let mapping: MappedFile
    /// Where the data section starts in the file, bytes.
    private let dataStart: Int

    /// Opens and validates a file: header, layout and, when the metadata have `hssl.crc32c`, the checksum of the data.
    ///
    /// - Parameter verifyingChecksum: false leaves the data unread (listing a huge file).
    /// - Throws: `SafetensorsError`; for a hostile header within 100 ms and 16 MB.
    package init(
        path: String, headerLimit: Int = SafetensorsFile.headerLimit, verifyingChecksum: Bool = true
    ) throws(SafetensorsError) {
        self.path = path
        do throws(SafetensorsError.Fault) {
            let file = try Self.readable { () throws(FileError) in try ReadableFile(path: path) }
            (header, dataStart) = try Self.readHeader(file, limit: headerLimit)
            if verifyingChecksum { try Self.verifyChecksum(header, file, from: dataStart) }
            mapping = try Self.readable { () throws(FileError) in try MappedFile(file) }
            metadata = try header.metadata()
        } catch {
            throw SafetensorsError(path: path, fault: Self.named(error, path))
        }
    }

    /// A header that is none may be the beginning of something that we know.
    private static func named(_ fault: SafetensorsError.Fault, _ path: String) -> SafetensorsError.Fault {
        switch fault {
        case .tooShort, .headerTooLong, .headerBeyondFile, .headerNotAnObject, .malformedHeader:
            foreignFormat(at: path).map { .foreign($0) } ?? fault
        default: fault
        }
    }

    // MARK: Content

    /// In the order of their data.
    package var names: [String] { header.entries.map(header.name(of:)) }
    package var count: Int { header.entries.count }
    /// Bytes of the header with its length, and of all tensors.
    package var byteCounts: (header: Int, data: Int) { (dataStart, mapping.bytes.count - dataStart) }

    /// Tells this file from another one, without a second look at data whose checksum the header has.
    package var fingerprint: String {
        mapping.withBytes { bytes in
            let isCovered = metadata[Self.checksumKey] != nil
            let covered = UnsafeRawBufferPointer(rebasing: isCovered ? bytes[..<dataStart] : bytes[...])
            return "\(CRC32C(covered).hexadecimal)-\(bytes.count)"
        }
    }

    package func contains(_ name: String) -> Bool { header.index(of: name) != nil }

    /// One tensor, its bytes in place.
    package func tensor(_ name: String) throws(SafetensorsError) -> TensorView {
        guard let index = header.index(of: name) else { throw error(.noSuchTensor(oneLine(name))) }
        return view(at: index)
    }

    /// All tensors in the order of their data.
    package var tensors: [TensorView] { header.entries.indices.map(view(at:)) }

    /// The values of a floating-point tensor (F64, F32, F16 or BF16) as float32.
    ///
    /// - Parameters:
    ///   - shape: what it must be, when given.
    ///   - allowingNonFinite: NaN and infinity are an error unless true.
    package func floats(
        _ name: String, shape: [Int]? = nil, allowingNonFinite: Bool = false
    ) throws(SafetensorsError) -> [Float] {
        let tensor = try checkedTensor(name, shape)
        guard let values = tensor.floats() else {
            throw error(.unexpectedDType(tensor: oneLine(name), expected: "F32, F16, BF16 or F64", found: tensor.dtype))
        }
        if !allowingNonFinite, let index = values.withUnsafeBufferPointer(firstNonFinite) {
            throw error(.notFinite(tensor: oneLine(name), index: index))
        }
        return values
    }

    /// The values of a tensor that is stored as `Element` (no conversion).
    package func values<Element: SafetensorsElement>(
        _ name: String, as type: Element.Type, shape: [Int]? = nil
    ) throws(SafetensorsError) -> [Element] {
        let tensor = try checkedTensor(name, shape)
        guard tensor.dtype == Element.dtype else {
            throw error(.unexpectedDType(tensor: oneLine(name), expected: Element.dtype.rawValue, found: tensor.dtype))
        }
        return tensor.copy(as: Element.self)
    }

    private func checkedTensor(_ name: String, _ shape: [Int]?) throws(SafetensorsError) -> TensorView {
        let tensor = try tensor(name)
        if let shape, shape != tensor.shape {
            throw error(.unexpectedShape(tensor: oneLine(name), expected: shape, found: tensor.shape))
        }
        return tensor
    }

    private func view(at index: Int) -> TensorView {
        let entry = header.entries[index]
        let bytes = UnsafeRawBufferPointer(rebasing: mapping.bytes[dataStart + entry.begin..<dataStart + entry.end])
        return TensorView(
            name: header.name(of: entry), dtype: entry.dtype, shape: header.shape(of: entry), bytes: bytes,
            owner: mapping)
    }

    private func error(_ fault: SafetensorsError.Fault) -> SafetensorsError {
        SafetensorsError(path: path, fault: fault)
    }

    // MARK: Opening

    private static func readable<T>(_ body: () throws(FileError) -> T) throws(SafetensorsError.Fault) -> T {
        do throws(FileError) { return try body() } catch { throw .unreadable(error.reason) }
    }

    private static func readHeader(
        _ file: ReadableFile, limit: Int
    ) throws(SafetensorsError.Fault) -> (SafetensorsHeader, dataStart: Int) {
        guard file.size >= 8 else { throw .tooShort(bytes: file.size) }
        var length: UInt64 = 0
        try readable { () throws(FileError) in
            var failure: FileError?
            withUnsafeMutableBytes(of: &length) { buffer in
                do throws(FileError) { try file.read(into: buffer, at: 0) } catch { failure = error }
            }
            if let failure { throw failure }
        }
        length = UInt64(littleEndian: length)
        // Entries hold offsets into the header as 32 bits.
        let limit = min(limit, Int(UInt32.max))
        if length > UInt64(limit) { throw .headerTooLong(bytes: length, limit: limit) }
        if length > UInt64(file.size - 8) { throw .headerBeyondFile(headerBytes: length, fileBytes: file.size) }
        if length == 0 { throw .headerNotAnObject }

        // A private copy: the parser changes it, and a file that changes under the mapping cannot change what was
        // validated.
        let text = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: Int(length))
        do throws(SafetensorsError.Fault) {
            try readable { () throws(FileError) in try file.read(into: UnsafeMutableRawBufferPointer(text), at: 8) }
        } catch {
            text.deallocate()
            throw error
        }
        let dataStart = 8 + Int(length)
        return (try SafetensorsHeader(takingOver: text, dataBytes: file.size - dataStart), dataStart)
    }

    /// Reads the data in pieces rather than through the mapping: a damaged file of any size costs one piece of memory.
    private static func verifyChecksum(
        _ header: SafetensorsHeader, _ file: ReadableFile, from start: Int
    ) throws(SafetensorsError.Fault) {
        guard let recorded = header.metadataValue(checksumKey) else { return }
        guard recorded.utf8.count == 8, !recorded.hasPrefix("+"), let expected = UInt32(recorded, radix: 16) else {
            throw .malformedChecksum(oneLine(recorded))
        }
        var checksum = CRC32C()
        let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 18, alignment: 64)
        defer { piece.deallocate() }
        var offset = start
        while offset < file.size {
            let part = UnsafeMutableRawBufferPointer(rebasing: piece[..<min(piece.count, file.size - offset)])
            try readable { () throws(FileError) in try file.read(into: part, at: offset) }
            checksum.update(UnsafeRawBufferPointer(part))
            offset += part.count
        }
        if checksum.value != expected { throw .checksumMismatch(recorded: recorded, computed: checksum.hexadecimal) }
    }
}

/// A tensor in a mapped file. The view holds the mapping.
package struct TensorView: @unchecked Sendable {  // read-only memory
    package let name: String
    package let dtype: SafetensorsDType
    package let shape: [Int]
    /// Little-endian elements in row-major order; in foreign files not always aligned to the element. Valid while the
    /// view or the file lives: take them through `withBytes` unless something else keeps the file.
    package let bytes: UnsafeRawBufferPointer
    private let owner: MappedFile

    init(name: String, dtype: SafetensorsDType, shape: [Int], bytes: UnsafeRawBufferPointer, owner: MappedFile) {
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.bytes = bytes
        self.owner = owner
    }

    package var elementCount: Int { bytes.count * 8 / dtype.bits }

    /// The bytes for the time of `body`, with the mapping held.
    package func withBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try owner.withBytes { _ throws(Failure) in try body(bytes) }
    }

    /// Floating-point elements as float32 (F64 is rounded to nearest even); nil for other dtypes.
    package func floats() -> [Float]? {
        switch dtype {
        case .float32: copy(as: Float.self)
        case .float64: copy(as: Double.self).map(Float.init)
        case .float16: copy(as: UInt16.self).map(float32(fromFloat16:))
        case .bfloat16: copy(as: UInt16.self).map { Float(bitPattern: UInt32($0) << 16) }
        default: nil
        }
    }

    func copy<Element: BitwiseCopyable>(as type: Element.Type) -> [Element] {
        let elements: [Element] = withBytes { bytes in
            let count = bytes.count / MemoryLayout<Element>.stride
            return [Element](unsafeUninitializedCapacity: count) { target, initialized in
                if count > 0 { UnsafeMutableRawBufferPointer(target).copyMemory(from: bytes) }
                initialized = count
            }
        }
        dropResident()
        return elements
    }

    /// For who has made something else of the bytes: then they are not held twice. They come back from the file should
    /// they be read again.
    package func dropResident() { owner.dropResident() }
}

/// IEEE binary16 → binary32, exact. (`Float16` would call a soft-float routine on x86 without F16C.)
package func float32(fromFloat16 half: UInt16) -> Float {
    let sign = UInt32(half & 0x8000) << 16
    let magnitude = UInt32(half & 0x7fff)
    if magnitude >= 0x7c00 { return Float(bitPattern: sign | 0x7f80_0000 | (magnitude & 0x3ff) << 13) }
    // Moves the exponent by multiplying with 2^112: right for subnormals too.
    let value = Float(bitPattern: magnitude << 13) * Float(bitPattern: 0x7780_0000)
    return Float(bitPattern: sign | value.bitPattern)
}

/// The first NaN or infinity.
package func firstNonFinite(_ values: UnsafeBufferPointer<Float>) -> Int? {
    // An exponent of all ones carries into the sign bit, or-ed over all values: no branch an element.
    var found: UInt32 = 0
    for value in values { found |= (value.bitPattern & 0x7f80_0000) &+ 0x0080_0000 }
    return found & 0x8000_0000 == 0 ? nil : values.firstIndex { !$0.isFinite }
}
