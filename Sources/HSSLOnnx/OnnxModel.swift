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
    private let preprocessing: Preprocessing
    private let values: (String) throws -> [Float]
    private let live: LiveNodes
    private var trace: ModelTrace { live.trace }

    /// How a file stores weights and computes.
    package enum Weights {
        case float32, float16
        case int8(Codes)
    }

    /// Codes for one model's products, and what they do to its features.
    package struct Codes {
        let quantization: StaticQuantization
        /// Between the global features of codes and those of float32, image by image.
        package let cosines: [Double]
        /// Products that multiply codes, of those that could.
        package let products: (quantized: Int, all: Int)

        package var meanCosine: Double { cosines.reduce(0, +) / Double(max(cosines.count, 1)) }
    }

    /// A mean cosine that codes are to keep: products whose codes cost more stay in float32.
    package static let goal = StaticCalibration.goal
    /// Version of the operator set; 17 has LayerNormalization.
    static let operatorSet: Int64 = 17
    /// Version of the file format that came with it.
    static let formatVersion: Int64 = 8
    /// What a protobuf message may have.
    private static let largestFile = Int(Int32.max)

    /// - Parameter values: of a parameter of the deployed model, row-major.
    package init(
        _ architecture: ModelArchitecture, _ preprocessing: Preprocessing,
        values: @escaping (String) throws -> [Float]
    ) {
        let trace = ModelTrace(architecture)
        live = LiveNodes(trace, Constants(trace.tape, parameters: values))
        (self.preprocessing, self.values) = (preprocessing, values)
    }

    /// Static codes for the products, from what they read of example images.
    ///
    /// - Parameter images: prepared ones, [C, H, W] each, at least one.
    /// - Throws: ``OverflowError`` where the model's values are not finite; what reading a parameter throws.
    package func codes(over images: [[Float]]) throws -> Codes {
        let calibration = try StaticCalibration(live, images: images)
        return Codes(
            quantization: calibration.quantization, cosines: calibration.cosines,
            products: (calibration.quantization.products.count, calibration.productCount))
    }

    /// Writes the model; atomically.
    ///
    /// - Throws: `FileError`, naming the file, where it cannot be written or would be larger than 2 GB; `ModelError`;
    ///   what reading a parameter throws. The old file then stays as it was.
    package func write(to path: String, _ provenance: ModelProvenance, as weights: Weights) throws {
        try checkSize(path, weights)
        let target = try AtomicFile(path: path)
        let message = try model(weights, provenance)
        let bytes: [UInt8]
        do { bytes = try message.serializedBytes() } catch { throw FileError(path: path, reason: "\(error)") }
        guard bytes.count <= Self.largestFile else { throw Self.tooLarge(path) }
        try target.write(bytes)
        try target.commit()
    }

    /// The file as a message.
    func model(_ weights: Weights, _ provenance: ModelProvenance) throws -> Onnx_ModelProto {
        var emission = switch weights {
        case .float32: Emission(live, element: .float, quantization: nil)
        case .float16: Emission(live, element: .float16, quantization: nil)
        case .int8(let codes): Emission(live, element: .float, quantization: codes.quantization)
        }
        var model = Onnx_ModelProto()
        model.irVersion = Self.formatVersion
        model.producerName = "hssl"
        model.producerVersion = HSSLVersion.current
        var operators = Onnx_OperatorSetIdProto()
        operators.version = Self.operatorSet
        model.opsetImport = [operators]
        model.graph = try emission.run()
        model.metadataProps = metadata(provenance).map { key, value in
            var entry = Onnx_StringStringEntryProto()
            (entry.key, entry.value) = (key, value)
            return entry
        }
        return model
    }

    /// Before anything is read: weights alone decide.
    private func checkSize(_ path: String, _ weights: Weights) throws {
        let coded = trace.policyWeights
        let bytes = trace.parameters.all.reduce(0) { sum, parameter in
            let size = switch weights {
            case .float32: 4
            case .float16: 2
            case .int8: coded.contains(parameter.name) ? 1 : 4
            }
            return sum + size * parameter.count
        }
        if bytes > Self.largestFile { throw Self.tooLarge(path) }
    }

    private static func tooLarge(_ path: String) -> FileError {
        FileError(
            path: path, reason: "the model is larger than an ONNX file may be (2 GB); a lower precision is smaller")
    }

    /// How images are prepared, by the keys of transformers' image processors, and all that a model file says.
    private func metadata(_ provenance: ModelProvenance) -> [(key: String, value: String)] {
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
