import HSSLFormats

/// A file of `torch.save` (PyTorch 1.6 or later): a zip archive of a pickle and the bytes of its storages. Mapped:
/// a tensor costs memory when its values are asked for.
final class TorchFile: @unchecked Sendable {  // immutable after init
    let path: String
    let content: PickleContent
    private let file: MappedFile
    private let storages: [String: ZipEntry]

    init(path: String, _ file: MappedFile) throws {
        (self.path, self.file) = (path, file)
        do {
            (content, storages) = try file.withBytes { bytes in try Self.read(bytes) }
        } catch let fault as ForeignFault {
            throw FileError(path: path, reason: fault.reason)
        }
    }

    static func read(
        _ bytes: UnsafeRawBufferPointer
    ) throws(ForeignFault) -> (PickleContent, storages: [String: ZipEntry]) {
        let entries = try ZipDirectory.entries(bytes)
        let pickles = entries.filter { $0.name.hasSuffix("/data.pkl") && $0.name.split(separator: "/").count == 2 }
        guard pickles.count == 1, let pickle = pickles.first else {
            throw ForeignFault("is a zip without a PyTorch pickle (FOLDER/data.pkl)")
        }
        let folder = pickle.name.dropLast("data.pkl".count)
        let named = Dictionary(entries.map { ($0.name, $0) }) { first, _ in first }
        guard named[folder + "constants.pkl"] == nil else {
            throw ForeignFault("is a TorchScript archive; save the state dict of the model in Python instead")
        }
        if let order = named[folder + "byteorder"] {
            let text = String(decoding: bytes[order.range].prefix(16), as: UTF8.self)
            guard text == "little" else {
                throw ForeignFault("holds \(oneLine(text))-endian tensors; only little-endian ones are read")
            }
        }
        let content = try PickleReader.read(UnsafeRawBufferPointer(rebasing: bytes[pickle.range]))
        guard ZipDirectory.checksum(UnsafeRawBufferPointer(rebasing: bytes[pickle.range])) == pickle.checksum else {
            throw ForeignFault("'\(oneLine(pickle.name))' in the zip is damaged: its CRC-32 is another")
        }
        var storages: [String: ZipEntry] = [:]
        for tensor in content.tensors where storages[tensor.storage.key] == nil {
            guard let entry = named["\(folder)data/\(tensor.storage.key)"] else {
                throw ForeignFault("storage '\(oneLine(tensor.storage.key))' is not in the zip")
            }
            storages[tensor.storage.key] = entry
        }
        for tensor in content.tensors {
            let wanted = tensor.storage.count * tensor.storage.type.size
            let held = storages[tensor.storage.key]?.range.count ?? 0
            guard held == wanted else {
                throw ForeignFault(
                    "storage '\(oneLine(tensor.storage.key))' has \(held) bytes, its pickle says \(wanted)")
            }
        }
        return (content, storages)
    }

    /// The values as float32, row-major.
    func floats(_ tensor: TorchTensor, name: String) throws -> [Float] {
        guard let entry = storages[tensor.storage.key] else {
            throw FileError(path: path, reason: "storage '\(oneLine(tensor.storage.key))' is not in the zip")
        }
        return try file.withBytes { bytes in
            let data = UnsafeRawBufferPointer(rebasing: bytes[entry.range])
            guard ZipDirectory.checksum(data) == entry.checksum else {
                throw FileError(
                    path: path, reason: "'\(oneLine(entry.name))' in the zip is damaged: its CRC-32 is another")
            }
            guard let values = tensor.floats(data) else {
                throw FileError(
                    path: path,
                    reason:
                        "tensor '\(oneLine(name))' is \(tensor.type.name); float32, "
                        + "float64, float16 and bfloat16 are read"
                )
            }
            return values
        }
    }
}

extension TorchTensor {
    /// Nil for a type that is not converted.
    fileprivate func floats(_ data: UnsafeRawBufferPointer) -> [Float]? {
        switch type.name {
        case "float32": gathered(data) { Float(bitPattern: UInt32(littleEndian: $0)) }
        case "float64": gathered(data) { Float(Double(bitPattern: UInt64(littleEndian: $0))) }
        case "float16": gathered(data) { float32(fromFloat16: UInt16(littleEndian: $0)) }
        case "bfloat16": gathered(data) { Float(bitPattern: UInt32(UInt16(littleEndian: $0)) << 16) }
        default: nil
        }
    }

    /// Elements in the order of the shape. Bounds were verified by `init`.
    private func gathered<Raw: FixedWidthInteger>(
        _ data: UnsafeRawBufferPointer, _ convert: (Raw) -> Float
    ) -> [Float] {
        let total = count
        let width = MemoryLayout<Raw>.size
        guard total > 0 else { return [] }
        let row = shape.last ?? 1
        let step = strides.last ?? 1
        var index = [Int](repeating: 0, count: shape.count)
        return [Float](unsafeUninitializedCapacity: total) { target, initialized in
            var place = offset
            while initialized < total {
                for i in 0..<row {
                    let at = (place + i * step) * width
                    target[initialized + i] = convert(data.loadUnaligned(fromByteOffset: at, as: Raw.self))
                }
                initialized += row
                var axis = shape.count - 2
                while axis >= 0 {
                    index[axis] += 1
                    place += strides[axis]
                    if index[axis] < shape[axis] { break }
                    place -= index[axis] * strides[axis]
                    index[axis] = 0
                    axis -= 1
                }
            }
        }
    }
}
