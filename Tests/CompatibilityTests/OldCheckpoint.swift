import Foundation

/// The layout of a safetensors file, read here so that a fault of the project's own reader cannot hide.
struct TensorLayout {
    struct Entry {
        let name: String
        let dtype: String
        let shape: [Int]
        /// In the data section.
        let bytes: Range<Int>
    }
    /// In the order of their bytes.
    let entries: [Entry]
    let metadata: [String: String]
    /// Bytes before the data section.
    let start: Int

    init(_ file: Data) throws {
        guard file.count >= 8 else { throw CompatibilityError("the safetensors file is cut off") }
        start = 8 + (0..<8).reduce(0) { $0 | Int(file[file.startIndex + $1]) << (8 * $1) }
        guard file.count >= start else { throw CompatibilityError("the safetensors header is cut off") }
        let text = file.prefix(start).dropFirst(8)
        guard var header = try JSONSerialization.jsonObject(with: text) as? [String: Any] else {
            throw CompatibilityError("the safetensors header is no object")
        }
        metadata = header.removeValue(forKey: "__metadata__") as? [String: String] ?? [:]
        entries = try header.map { name, value in
            guard let value = value as? [String: Any], let dtype = value["dtype"] as? String,
                  let shape = value["shape"] as? [Int], let offsets = value["data_offsets"] as? [Int],
                  offsets.count == 2, offsets[0] <= offsets[1] else {
                throw CompatibilityError("the safetensors entry '\(name)' is malformed")
            }
            return Entry(name: name, dtype: dtype, shape: shape, bytes: offsets[0]..<offsets[1])
        }.sorted { ($0.bytes.lowerBound, $0.name) < ($1.bytes.lowerBound, $1.name) }
    }
}

/// A checksum of names, types, shapes and bytes, whatever their order in the file: of all tensors (`tensors`), or by
/// the word before the first dot (`student`, `teacher`, `optimizer`, `center`).
func tensorChecksums(_ file: Data, byGroup: Bool) throws -> [String: String] {
    let layout = try TensorLayout(file)
    let groups = Dictionary(grouping: layout.entries) { byGroup ? String($0.name.prefix { $0 != "." }) : "tensors" }
    return groups.mapValues { entries in
        var bytes = Data()
        for entry in entries.sorted(by: { $0.name < $1.name }) {
            let start = file.startIndex + layout.start
            bytes.append(Data("\(entry.name) \(entry.dtype) \(entry.shape)\n".utf8))
            bytes.append(file[start + entry.bytes.lowerBound..<start + entry.bytes.upperBound])
        }
        return checksum(bytes)
    }
}

/// A checkpoint of megabytes from the kilobytes with which it begins.
///
/// `runs/*/checkpoint.begin` is the beginning of a checkpoint as the old build wrote it: the header (metadata with the
/// recipe, names, types, shapes, offsets) and the step counts. The rest, random weights that nothing compresses, is
/// made here by a formula.
enum OldCheckpoint {
    /// Bytes of a checkpoint that become the fixture: up to the first tensor that is not a step count.
    static func beginning(of file: Data) throws -> Data {
        let layout = try TensorLayout(file)
        guard let first = layout.entries.first(where: { $0.dtype != "I64" }) else {
            throw CompatibilityError("the checkpoint has counts alone")
        }
        return file.prefix(layout.start + first.bytes.lowerBound)
    }

    /// The whole file. All is as in `beginning` but the checksum of the data section, which is that of the new data.
    static func whole(_ beginning: Data) throws -> Data {
        let layout = try TensorLayout(beginning)
        var file = beginning
        for entry in layout.entries where layout.start + entry.bytes.upperBound > beginning.count {
            guard layout.start + entry.bytes.lowerBound == file.count else {
                throw CompatibilityError("\(entry.name) does not begin at \(file.count)")
            }
            switch entry.dtype {
            case "F32": values(entry).withUnsafeBytes { file.append(contentsOf: $0) }
            case "U8": file.append(contentsOf: codes(entry))
            default: throw CompatibilityError("\(entry.name) is \(entry.dtype), for which there is no formula")
            }
            guard layout.start + entry.bytes.upperBound == file.count else {
                throw CompatibilityError("\(entry.name) \(entry.shape) does not end at \(file.count)")
            }
        }
        func entry(_ checksum: String) -> Data { Data("\"hssl.crc32c\":\"\(checksum)\"".utf8) }
        guard let recorded = layout.metadata["hssl.crc32c"],
              let place = file.range(of: entry(recorded), in: 0..<layout.start) else {
            throw CompatibilityError("the checkpoint has no hssl.crc32c")
        }
        file.replaceSubrange(place, with: entry(checksum(file[layout.start...])))
        return file
    }

    /// Weights of the size that training gives them, moments of gradients of about 2⁻¹².
    private static func values(_ entry: TensorLayout.Entry) -> [Float] {
        var pattern = Pattern(entry.name)
        let count = entry.shape.reduce(1, *)
        let isVector = entry.shape.count == 1
        let isGain = isVector && entry.name.hasSuffix(".weight") || entry.name.hasSuffix("weight_g")
        let (offset, scale, positive): (Float, Float, Bool) =
            // Never near 0: the update divides by its root.
            if entry.name.hasPrefix("optimizer.exp_avg_sq") { (0x1p-20, 0x1p-20, true) }
            else if entry.name.hasPrefix("optimizer.exp_avg_scale.") { (0x1p-12, 0x1p-12, true) }
            else if entry.name.hasPrefix("optimizer.") { (0, 0x1p-12, false) }
            else if entry.name.hasPrefix("center.") { (0, 0x1p-3, false) }
            else if isGain { (1, 0x1p-3, false) }
            else { (0, isVector ? 0x1p-5 : 0x1p-4, false) }
        return [Float](unsafeUninitializedCapacity: count) { values, initialized in
            for index in 0..<count {
                let value = pattern.next()
                values[index] = offset + scale * (positive ? abs(value) : value)
            }
            initialized = count
        }
    }

    /// Any byte is a code of a first moment; those of a second moment stay within 8 octaves of the largest.
    private static func codes(_ entry: TensorLayout.Entry) -> [UInt8] {
        var pattern = Pattern(entry.name)
        let isSecond = entry.name.hasPrefix("optimizer.exp_avg_sq")
        return (0..<entry.shape.reduce(1, *)).map { _ in
            let byte = UInt8(truncatingIfNeeded: pattern.bits() >> 56)
            return isSecond ? 0xC0 | byte >> 2 : byte
        }
    }

    /// SplitMix64 (Steele, Lea & Flood, 2014) from the FNV-1a hash of a name.
    struct Pattern {
        private var state: UInt64 = 0xCBF2_9CE4_8422_2325

        init(_ name: String) {
            for byte in name.utf8 { state = (state ^ UInt64(byte)) &* 0x100_0000_01B3 }
        }

        mutating func bits() -> UInt64 {
            state &+= 0x9E37_79B9_7F4A_7C15
            var z = (state ^ state >> 30) &* 0xBF58_476D_1CE4_E5B9
            z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
            return z ^ z >> 31
        }

        /// In [−1, 1), a multiple of 2⁻²³: exact.
        mutating func next() -> Float { Float(Int32(bits() >> 40) - 0x80_0000) * 0x1p-23 }
    }
}
