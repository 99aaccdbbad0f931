import CSupport
import HSSLFormats
import HSSLGraph

/// A deployed model in one safetensors file: timm's tensor names, and in the metadata what the model is and how its
/// images are prepared.
///
/// float32 and float16 files hold every tensor in that type. In int8 files a Linear weight `X.weight` is I8 `[out, in]`
/// with codes in ±127 and `X.weight_scale` F32 `[out, 1]`, w ≈ code·scale; all else is F32.
///
/// Everything but the values is verified when it is opened: a missing, unexpected, misshapen or mistyped tensor is an
/// error that names it.
public struct ModelFile: Sendable {
    /// Major version of the layout described above.
    static let formatVersion = "1"
    static let formatVersionKey = "hssl.format_version"
    /// What checkpoints have instead.
    package static let checkpointVersionKey = "hssl.checkpoint_version"

    public let path: String
    public let architecture: ModelArchitecture
    public let preprocessing: Preprocessing
    public let provenance: ModelProvenance
    public let precision: Precision
    /// Bytes of the file.
    public let byteCount: Int

    private let file: SafetensorsFile
    private let shapes: [String: [Int]]
    private let quantized: Set<String>
    private let allowsNonFinite: Bool

    /// Opens and verifies a model; the values are read when asked for.
    ///
    /// - Parameter allowingNonFinite: NaN and infinity among the weights are an error unless true.
    /// - Throws: `SafetensorsError` or `FileError`, naming the file.
    public init(path: String, allowingNonFinite: Bool = false) throws {
        self.path = path
        file = try SafetensorsFile(path: path)
        byteCount = file.byteCounts.header + file.byteCounts.data
        allowsNonFinite = allowingNonFinite
        do {
            try Self.checkVersion(file.metadata)
            architecture = try ModelArchitecture(json: Self.json(ModelArchitecture.key, file.metadata))
            preprocessing = try Preprocessing(json: Self.json(Preprocessing.key, file.metadata))
            provenance = try ModelProvenance(json: Self.json(ModelProvenance.key, file.metadata))
            try preprocessing.validate(for: architecture)
            // Before anything is computed from sizes that the file may have made up.
            try Self.checkShapes(file, architecture)
            let trace = ModelTrace(architecture)
            let policyWeights = trace.policyWeights
            precision = try Self.storedPrecision(file, policyWeights)
            quantized = precision == .int8 ? policyWeights : []
            shapes = Dictionary(uniqueKeysWithValues: trace.parameters.all.map { ($0.name, $0.shape) })
            try Self.checkTensors(file, trace.parameters.all, precision, quantized)
        } catch let error as ModelError {
            throw FileError(path: path, reason: error.description)
        } catch let error as JSONError {
            throw FileError(path: path, reason: error.description)
        }
    }

    /// Tells this file from another one.
    package var fingerprint: String { file.fingerprint }

    /// Whether the metadata say that this is a deployed model.
    package static func isModel(_ file: SafetensorsFile) -> Bool { file.metadata[ModelArchitecture.key] != nil }

    // MARK: Values

    /// A tensor as it is stored.
    package enum StoredTensor {
        case float32([Float])
        case float16([UInt16])
        /// codes [out, in] row-major, in place in the file; scale [out].
        case int8(codes: TensorView, scale: [Float])
    }

    /// The values of a parameter as stored, verified to be finite and, where quantised, in range.
    ///
    /// - Throws: `SafetensorsError` or `FileError`, naming file and tensor.
    package func stored(_ name: String) throws -> StoredTensor {
        let shape = shapes[name]
        if quantized.contains(name) {
            let codes = try file.tensor(name)
            if let index = codes.withBytes(Self.firstBadCode) {
                throw refuse(name, "holds the code -128 at element \(index); codes are in ±127")
            }
            let scaleName = Self.scaleName(name)
            let scale = try file.floats(scaleName, allowingNonFinite: allowsNonFinite)
            if let index = scale.firstIndex(where: { $0 < 0 }) {
                throw refuse(scaleName, "holds a negative scale at element \(index)")
            }
            return .int8(codes: codes, scale: scale)
        }
        if precision == .float16 {
            let tensor = try file.tensor(name)
            let values = tensor.withBytes { bytes in
                (0..<bytes.count / 2).map {
                    UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 2 * $0, as: UInt16.self))
                }
            }
            tensor.dropResident()
            if !allowsNonFinite, let index = values.firstIndex(where: { $0 & 0x7C00 == 0x7C00 }) {
                throw Self.refused(path, .notFinite(tensor: oneLine(name), index: index))
            }
            return .float16(values)
        }
        return .float32(try file.floats(name, shape: shape, allowingNonFinite: allowsNonFinite))
    }

    /// The values of a parameter as float32 (float16 widened, int8 codes times scale), row-major.
    ///
    /// - Throws: `SafetensorsError` or `FileError`, naming file and tensor.
    public func values(_ name: String) throws -> [Float] {
        switch try stored(name) {
        case .float32(let values): return values
        case .float16(let halves):
            return [Float](unsafeUninitializedCapacity: halves.count) { values, count in
                if let base = values.baseAddress { hssl_convert_f16_f32(halves.count, halves, base) }
                count = halves.count
            }
        case .int8(let codes, let scale):
            let inputs = codes.elementCount / max(scale.count, 1)
            defer { codes.dropResident() }
            return [Float](unsafeUninitializedCapacity: codes.elementCount) { values, count in
                codes.withBytes { bytes in
                    guard let base = values.baseAddress,
                          let codes = bytes.assumingMemoryBound(to: Int8.self).baseAddress else {
                        return
                    }
                    hssl_dequantize_rows_s8(scale.count, inputs, codes, inputs, scale, base, inputs)
                }
                count = codes.elementCount
            }
        }
    }

    /// The first code -128.
    private static func firstBadCode(_ codes: UnsafeRawBufferPointer) -> Int? {
        // Eight codes a word: a byte of the exclusive or is 0 where a code is 0x80, and a borrow then reaches its top
        // bit.
        var found: UInt64 = 0
        var offset = 0
        while offset + 8 <= codes.count {
            let word = codes.loadUnaligned(fromByteOffset: offset, as: UInt64.self) ^ 0x8080_8080_8080_8080
            found |= (word &- 0x0101_0101_0101_0101) & ~word & 0x8080_8080_8080_8080
            offset += 8
        }
        if found == 0, !codes[offset...].contains(0x80) { return nil }
        return codes.firstIndex(of: 0x80)
    }

    /// A fault in the words that the safetensors reader has for it.
    private static func refused(_ path: String, _ fault: SafetensorsError.Fault) -> FileError {
        FileError(path: path, reason: fault.reason)
    }

    private func refuse(_ tensor: String, _ reason: String) -> FileError {
        FileError(path: path, reason: "tensor '\(oneLine(tensor))' \(reason)")
    }

    // MARK: Verification

    /// `blocks.0.attn.qkv.weight` → `blocks.0.attn.qkv.weight_scale`.
    static func scaleName(_ weight: String) -> String { weight + "_scale" }

    private static func checkVersion(_ metadata: [String: String]) throws {
        guard metadata[ModelArchitecture.key] != nil else {
            guard metadata[checkpointVersionKey] == nil else {
                throw ModelError(
                    "not an HSSL model but a run's checkpoint: hssl export RUN --output FILE makes one of it")
            }
            throw ModelError("not an HSSL model: no \(ModelArchitecture.key) in the metadata")
        }
        guard let version = metadata[formatVersionKey] else {
            throw ModelError("no \(formatVersionKey) in the metadata")
        }
        // A minor version may only add what a reader can do without.
        guard version == formatVersion || version.hasPrefix(formatVersion + ".") else {
            throw ModelError(
                "\(formatVersionKey) \(oneLine(version)) is not supported (this program reads \(formatVersion))")
        }
    }

    private static func json(_ key: String, _ metadata: [String: String]) throws -> JSONValue {
        guard let text = metadata[key] else { throw ModelError("no \(key) in the metadata") }
        do { return try JSONValue.parse(text) } catch { throw ModelError("\(key): \(error)") }
    }

    /// The type of the weights that follow the policy says what the file is.
    private static func storedPrecision(_ file: SafetensorsFile, _ policyWeights: Set<String>) throws -> Precision {
        guard let name = policyWeights.min() else { return .float32 }
        let dtype = try file.tensor(name).dtype
        switch dtype {
        case .float32: return .float32
        case .float16: return .float16
        case .int8: return .int8
        default: throw refused(file.path, .unexpectedDType(tensor: name, expected: "F32, F16 or I8", found: dtype))
        }
    }

    /// Looks only at what the sizes declare: names and shapes.
    private static func checkShapes(_ file: SafetensorsFile, _ architecture: ModelArchitecture) throws {
        let declared = ParameterSet()
        _ = architecture.makeBase(ParameterScope(declared), .deployment)
        for parameter in declared.all { try check(file.tensor(parameter.name), parameter.shape, in: file) }
    }

    private static func check(_ tensor: TensorView, _ shape: [Int], in file: SafetensorsFile) throws {
        guard tensor.shape == shape else {
            throw refused(file.path, .unexpectedShape(tensor: tensor.name, expected: shape, found: tensor.shape))
        }
    }

    private static func checkTensors(
        _ file: SafetensorsFile, _ parameters: [Parameter], _ precision: Precision, _ quantized: Set<String>
    ) throws {
        var expected: Set<String> = []
        func check(_ name: String, _ shape: [Int], _ dtype: SafetensorsDType) throws {
            expected.insert(name)
            let tensor = try file.tensor(name)
            try Self.check(tensor, shape, in: file)
            guard tensor.dtype == dtype else {
                throw refused(file.path, .unexpectedDType(tensor: name, expected: dtype.rawValue, found: tensor.dtype))
            }
        }
        for parameter in parameters {
            if quantized.contains(parameter.name) {
                try check(parameter.name, parameter.shape, .int8)
                try check(scaleName(parameter.name), [parameter.shape[0], 1], .float32)
            } else {
                try check(parameter.name, parameter.shape, precision == .float16 ? .float16 : .float32)
            }
        }
        for name in file.names where !expected.contains(name) {
            throw FileError(
                path: file.path, reason: "unexpected tensor '\(oneLine(name))': the model has none of this name")
        }
    }
}
