/// A safetensors file that cannot be used, and why. The description is one line: `path: reason`.
public struct SafetensorsError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The file, as the caller named it.
    public let path: String
    /// What is wrong with the file, or with what was asked of it.
    public let fault: Fault

    public var description: String { "\(oneLine(path, limit: 4096)): \(fault.reason)" }

    /// What is wrong. Names of tensors, fields and metadata are kept short and on one line, whatever the file holds.
    public enum Fault: Error, Equatable, Sendable {
        /// The system refused: missing, a folder, no permission, I/O error.
        case unreadable(String)
        /// Another format, with what to do.
        case foreign(String)
        /// Fewer bytes than the length of a header takes.
        case tooShort(bytes: Int)
        /// The file begins with the length of a header above the limit, bytes.
        case headerTooLong(bytes: UInt64, limit: Int)
        /// The header's length goes beyond the end of the file.
        case headerBeyondFile(headerBytes: UInt64, fileBytes: Int)
        /// The header does not begin with `{`.
        case headerNotAnObject
        /// The header is no JSON, or has values of another type than safetensors wants.
        case malformedHeader(JSONError)
        /// Something other than spaces follows the header's last brace, at this byte of the header.
        case textAfterHeader(offset: Int)
        /// More tensors than are read.
        case tooManyTensors(limit: Int)
        /// More entries of `__metadata__` than are read.
        case tooManyMetadataEntries(limit: Int)
        /// Two tensors of one name, or two metadata entries of one key.
        case duplicateName(String)
        /// The name of a tensor is empty or holds a NUL character.
        case invalidName(String)
        /// A tensor has a field besides `dtype`, `shape` and `data_offsets`.
        case unknownField(tensor: String, field: String)
        /// A tensor has a field twice.
        case duplicateField(tensor: String, field: String)
        /// A tensor lacks `dtype`, `shape` or `data_offsets`.
        case missingField(tensor: String, field: String)
        /// A tensor's `dtype` is none of ``SafetensorsDType``.
        case unknownDType(tensor: String, dtype: String)
        /// A tensor's shape has more sizes than are read.
        case tooManyDimensions(tensor: String, limit: Int)
        /// The elements or bytes that a shape asks for overflow 64 bits.
        case sizeOverflow(tensor: String)
        /// Elements of less than a byte that end within one.
        case partialByte(tensor: String)
        /// A tensor's data offsets span another number of bytes than its shape and dtype need.
        case sizeMismatch(tensor: String, expected: Int, found: Int)
        /// A tensor ends behind the last byte of the data section: the file is truncated.
        case offsetsBeyondData(tensor: String, end: Int, dataBytes: Int)
        /// A tensor begins before the one in front of it ends.
        case overlap(tensor: String)
        /// Bytes between two tensors, or before the first, belong to none.
        case hole(tensor: String)
        /// So many bytes follow the last tensor.
        case trailingBytes(Int)
        /// The metadata entry `hssl.crc32c` is not 8 hexadecimal digits.
        case malformedChecksum(String)
        /// The data's CRC-32C is not the one that the metadata record: the file is damaged.
        case checksumMismatch(recorded: String, computed: String)
        // Of a valid file, asked for what it does not hold:
        /// The file has no tensor of the name asked for.
        case noSuchTensor(String)
        /// A tensor has another dtype than was asked for.
        case unexpectedDType(tensor: String, expected: String, found: SafetensorsDType)
        /// A tensor has another shape than was asked for.
        case unexpectedShape(tensor: String, expected: [Int], found: [Int])
        /// A tensor holds NaN or infinity, first at this element (row-major, from 0).
        case notFinite(tensor: String, index: Int)

        /// The fault in one line, without the path.
        public var reason: String {
            switch self {
            case .unreadable(let reason): reason
            case .foreign(let format): "not a safetensors file but \(format)"
            case .tooShort(let bytes): "not a safetensors file: \(bytes) bytes are too few for a header"
            case .headerTooLong(let bytes, let limit):
                "not a valid safetensors file: a header of \(bytes) bytes, more than the limit of \(limit)"
            case .headerBeyondFile(let header, let file):
                "truncated, or not a safetensors file: a header of \(header) bytes in a file of \(file)"
            case .headerNotAnObject: "not a safetensors file: the header does not start with '{'"
            case .malformedHeader(let error): "malformed safetensors header: \(error)"
            case .textAfterHeader(let offset): "malformed safetensors header: text after its end, at byte \(offset)"
            case .tooManyTensors(let limit): "more than \(limit) tensors"
            case .tooManyMetadataEntries(let limit): "more than \(limit) metadata entries"
            case .duplicateName(let name): "duplicate name '\(name)' in the header"
            case .invalidName(let name): "invalid tensor name '\(name)' (empty, or with a NUL character)"
            case .unknownField(let tensor, let field): "tensor '\(tensor)' has an unknown field '\(field)'"
            case .duplicateField(let tensor, let field): "tensor '\(tensor)' has the field '\(field)' twice"
            case .missingField(let tensor, let field): "tensor '\(tensor)' lacks the field '\(field)'"
            case .unknownDType(let tensor, let dtype): "tensor '\(tensor)' has the unsupported dtype '\(dtype)'"
            case .tooManyDimensions(let tensor, let limit): "tensor '\(tensor)' has more than \(limit) dimensions"
            case .sizeOverflow(let tensor): "the size of tensor '\(tensor)' overflows"
            case .partialByte(let tensor): "tensor '\(tensor)' does not end at a whole byte"
            case .sizeMismatch(let tensor, let expected, let found):
                "tensor '\(tensor)' has \(found) bytes, its shape and dtype need \(expected)"
            case .offsetsBeyondData(let tensor, let end, let data):
                "truncated: tensor '\(tensor)' ends at byte \(end) of \(data) data bytes"
            case .overlap(let tensor): "tensor '\(tensor)' overlaps another"
            case .hole(let tensor): "unused bytes before tensor '\(tensor)'"
            case .trailingBytes(let count): "\(count) bytes after the last tensor"
            case .malformedChecksum(let text): "the metadata entry hssl.crc32c is '\(text)', not 8 hexadecimal digits"
            case .checksumMismatch(let recorded, let computed):
                "damaged: the data have checksum \(computed), the header says \(recorded)"
            case .noSuchTensor(let name): "has no tensor '\(name)'"
            case .unexpectedDType(let tensor, let expected, let found):
                "tensor '\(tensor)' is \(found), expected \(expected)"
            case .unexpectedShape(let tensor, let expected, let found):
                "tensor '\(tensor)' has shape \(found), expected \(expected)"
            case .notFinite(let tensor, let index): "tensor '\(tensor)' holds NaN or infinity at element \(index)"
            }
        }
    }
}

/// Element types of safetensors, as its version 0.8 names them.
public enum SafetensorsDType: String, Sendable, CaseIterable, CustomStringConvertible {
    // In the library's order: its writer places larger ranks first, which keeps every tensor aligned to its element.
    /// One byte that is 0 or 1; floats of 4 and 6 bits, packed; integers of 8 bits.
    case bool = "BOOL", float4 = "F4", float6e2m3 = "F6_E2M3", float6e3m2 = "F6_E3M2", uint8 = "U8", int8 = "I8"
    /// 8-bit floats of the OCP formats; `float8e8m0` is a power of two, the scale of a block.
    case float8e5m2 = "F8_E5M2", float8e4m3 = "F8_E4M3", float8e8m0 = "F8_E8M0"
    /// 8-bit floats without infinities and without a negative zero.
    case float8e4m3fnuz = "F8_E4M3FNUZ", float8e5m2fnuz = "F8_E5M2FNUZ"
    /// Integers and floats of 16 bits, integers of 32.
    case int16 = "I16", uint16 = "U16", float16 = "F16", bfloat16 = "BF16", int32 = "I32", uint32 = "U32"
    /// Floats of 32 and 64 bits, integers of 64; `complex64` is two float32.
    case float32 = "F32", complex64 = "C64", float64 = "F64", int64 = "I64", uint64 = "U64"

    /// Bits of one element; those of less than a byte are packed.
    public var bits: Int {
        switch self {
        case .float4: 4
        case .float6e2m3, .float6e3m2: 6
        case .bool, .uint8, .int8, .float8e5m2, .float8e4m3, .float8e8m0, .float8e4m3fnuz, .float8e5m2fnuz: 8
        case .int16, .uint16, .float16, .bfloat16: 16
        case .int32, .uint32, .float32: 32
        case .complex64, .float64, .int64, .uint64: 64
        }
    }

    /// Bytes of so many elements; nil where they overflow or end within a byte.
    package func bytes(_ elements: Int) -> Int? {
        if bits % 8 == 0 {
            let (bytes, overflow) = elements.multipliedReportingOverflow(by: bits / 8)
            return overflow ? nil : bytes
        }
        let (all, overflow) = elements.multipliedReportingOverflow(by: bits)
        return overflow || all % 8 != 0 ? nil : all / 8
    }

    public var description: String { rawValue }

    /// Place in the library's order of types.
    var rank: Int { Self.ranks[self] ?? 0 }
    private static let ranks = Dictionary(uniqueKeysWithValues: allCases.enumerated().map { ($1, $0) })
}

/// A Swift type that is stored as it is under one dtype.
package protocol SafetensorsElement: BitwiseCopyable {
    static var dtype: SafetensorsDType { get }
}

extension UInt8: SafetensorsElement { package static var dtype: SafetensorsDType { .uint8 } }
extension Int8: SafetensorsElement { package static var dtype: SafetensorsDType { .int8 } }
extension Int16: SafetensorsElement { package static var dtype: SafetensorsDType { .int16 } }
extension UInt16: SafetensorsElement { package static var dtype: SafetensorsDType { .uint16 } }
extension Int32: SafetensorsElement { package static var dtype: SafetensorsDType { .int32 } }
extension UInt32: SafetensorsElement { package static var dtype: SafetensorsDType { .uint32 } }
extension Float: SafetensorsElement { package static var dtype: SafetensorsDType { .float32 } }
extension Double: SafetensorsElement { package static var dtype: SafetensorsDType { .float64 } }
extension Int64: SafetensorsElement { package static var dtype: SafetensorsDType { .int64 } }
extension UInt64: SafetensorsElement { package static var dtype: SafetensorsDType { .uint64 } }
