import FoundationEssentials
import HSSLFormats
import HSSLGraph
import HSSLModels
import SwiftProtobuf

/// A deployed model as an ONNX file of opset 17: `pixel_values` [batch, 3, H, W] → `global` [batch, D] and `patch`
/// [batch, N, D].
///
/// Inputs are prepared images, as the metadata say. All inputs and outputs are float32.
package struct OnnxModel {
    private let trace: ModelTrace
    private let preprocessing: Preprocessing
    private let provenance: ModelProvenance
    private let values: (String) throws -> [Float]

    /// Version of the operator set; 17 has LayerNormalization.
    static let operatorSet: Int64 = 17
    /// Version of the file format that came with it.
    static let formatVersion: Int64 = 8
    /// What a protobuf message may have.
    static let largestFile = Int(Int32.max)

    /// - Parameter values: of a parameter of the deployed model, row-major.
    package init(
        _ architecture: ModelArchitecture, _ preprocessing: Preprocessing, _ provenance: ModelProvenance,
        values: @escaping (String) throws -> [Float]
    ) {
        trace = ModelTrace(architecture)
        (self.preprocessing, self.provenance, self.values) = (preprocessing, provenance, values)
    }

    /// Writes the model; atomically.
    ///
    /// - Throws: `FileError`, naming the file, where it cannot be written or would be larger than 2 GB; `ModelError`;
    ///   what reading a parameter throws. The old file then stays as it was.
    package func write(to path: String, precision: Precision) throws {
        try checkSize(path, precision)
        let target = try AtomicFile(path: path)
        let message = try model(precision)
        do {
            let bytes: [UInt8] = try message.serializedBytes()
            guard bytes.count <= Self.largestFile else { throw Self.tooLarge(path) }
            try target.write(bytes)
        } catch let error as BinaryEncodingError {
            throw FileError(path: path, reason: "cannot be encoded: \(error)")
        }
        try target.commit()
    }

    /// The file as a message.
    func model(_ precision: Precision) throws -> Onnx_ModelProto {
        var emission = Emission(
            trace, element: precision == .float16 ? .float16 : .float, quantization: nil, parameters: values)
        var model = Onnx_ModelProto()
        model.irVersion = Self.formatVersion
        model.producerName = "hssl"
        model.producerVersion = HSSLVersion.current
        var operators = Onnx_OperatorSetIdProto()
        operators.version = Self.operatorSet
        model.opsetImport = [operators]
        model.graph = try emission.run()
        model.metadataProps = metadata.map { key, value in
            var entry = Onnx_StringStringEntryProto()
            (entry.key, entry.value) = (key, value)
            return entry
        }
        return model
    }

    /// Before anything is read: weights alone decide.
    private func checkSize(_ path: String, _ precision: Precision) throws {
        let weights = trace.policyWeights
        let bytes = trace.parameters.all.reduce(0) { sum, parameter in
            let size = precision == .float16 ? 2 : precision == .int8 && weights.contains(parameter.name) ? 1 : 4
            return sum + size * parameter.count
        }
        if bytes > Self.largestFile { throw Self.tooLarge(path) }
    }

    private static func tooLarge(_ path: String) -> FileError {
        FileError(path: path, reason: "the model is larger than an ONNX file may be (2 GB); a lower precision is smaller")
    }

    /// How images are prepared, by the keys of transformers' image processors, and all that a model file says.
    private var metadata: [(key: String, value: String)] {
        func list(_ values: [Float]) -> String { "[" + values.map(\.description).joined(separator: ", ") + "]" }
        return [
            ("image_mean", list(preprocessing.mean)), ("image_std", list(preprocessing.std)),
            ("resize_shortest_edge", "\(preprocessing.resize)"), ("crop_size", "\(preprocessing.crop)"),
            ("interpolation", preprocessing.interpolation.rawValue), ("rescale_factor", "1/255"),
            (ModelArchitecture.key, trace.architecture.json.text()), (Preprocessing.key, preprocessing.json.text()),
            (ModelProvenance.key, provenance.json.text()),
        ]
    }
}
