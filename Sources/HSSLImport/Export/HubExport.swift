import HSSLFormats
import HSSLGraph
import HSSLModels

/// A model of ours as a folder that another library loads: `config.json`, how images are prepared, and
/// `model.safetensors` under its names.
package struct HubExport {
    /// Whose loader takes it.
    package enum Library: Sendable {
        /// `timm.create_model("local-dir:DIR", pretrained=True)`.
        case timm
        /// `AutoModel.from_pretrained(DIR)` and `AutoImageProcessor.from_pretrained(DIR)`.
        case transformers
    }

    package static let weights = "model.safetensors"
    private static let config = "config.json"
    private static let processor = "preprocessor_config.json"
    /// The model card: a hub shows it.
    package static let card = "README.md"
    /// Of all files that such a folder may hold.
    package static let names = [weights, config, processor, card]

    /// What the library computes otherwise, one line each.
    package var notes: [String] { layout.notes }

    private let layout: HubLayout
    private let precision: Precision
    private let policyWeights: Set<String>

    /// - Parameters:
    ///   - values: of a parameter of the deployed model, row-major; asked for more than once.
    /// - Throws: `ModelError`, naming what the library has no network for; what `values` throws.
    package init(
        _ library: Library, _ architecture: ModelArchitecture, _ preprocessing: Preprocessing, precision: Precision,
        values: @escaping (String) throws -> [Float]
    ) throws {
        let trace = ModelTrace(architecture)
        let tensors = trace.parameters.all.map { parameter in
            HubLayout.Own(name: parameter.name, shape: parameter.shape) { try values(parameter.name) }
        }
        self.precision = precision
        let linear = trace.policyWeights.filter { trace.parameters[$0]?.shape.count == 2 }
        policyWeights = precision == .int8 ? linear : []
        switch library {
        case .timm:
            guard precision != .int8 else {
                throw ModelError("timm has no int8: --format hf and --format hssl have")
            }
            layout = try TimmLayout(architecture, preprocessing, tensors).layout()
        case .transformers:
            var layout = try TransformersLayout(
                architecture, preprocessing, tensors, isQuantized: precision == .int8
            ).layout()
            layout.config["dtype"] = .string(precision == .float16 ? "float16" : "float32")
            if precision == .int8 {
                guard !policyWeights.isEmpty else {
                    throw ModelError(
                        "a \(architecture.family) has convolutions only, and the compressed-tensors convention has "
                        + "int8 for linear layers")
                }
                layout.config["quantization_config"] = Self.quantization(ignoring: layout.floats)
            }
            self.layout = layout
        }
    }

    /// The compressed-tensors convention: weights as codes with a scale a row, inputs quantised a token as they come.
    private static func quantization(ignoring modules: [String]) -> JSONValue {
        func codes(_ strategy: String, isDynamic: Bool) -> JSONValue {
            [
                "num_bits": 8, "type": "int", "symmetric": true, "strategy": .string(strategy),
                "dynamic": .bool(isDynamic),
            ]
        }
        return [
            "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
            "config_groups": [
                "group_0": [
                    "targets": ["Linear"], "weights": codes("channel", isDynamic: false),
                    "input_activations": codes("token", isDynamic: true),
                ]
            ],
            "ignore": .array(modules.map { .string($0) }),
        ]
    }

    /// Writes the files into a folder that is there.
    ///
    /// - Parameter metadata: of the safetensors file, besides `format`.
    /// - Throws: `FileError`, where a value is not finite or overflows the stored type too; what reading throws.
    package func write(into folder: AtomicFolder, metadata: [String: String]) throws {
        let tensors = try layout.tensors(precision, path: folder.path + "/" + Self.weights, coded: policyWeights)
        try SafetensorsWriter.write(
            path: folder.path(of: Self.weights), tensors: tensors,
            metadata: metadata.merging(["format": "pt"]) { own, _ in own })
        try AtomicFile.write(
            Array((JSONValue.object(layout.config).text(indent: 2) + "\n").utf8), to: folder.path(of: Self.config))
        if let processor = layout.processor {
            try AtomicFile.write(
                Array((processor.text(indent: 2) + "\n").utf8), to: folder.path(of: Self.processor))
        }
    }
}

/// How a library stores a model of ours.
struct HubLayout {
    /// A tensor under our name.
    struct Own {
        let name: String
        let shape: [Int]
        let values: () throws -> [Float]

        /// Other values of another shape.
        func changed(_ shape: [Int], _ change: @escaping ([Float]) -> [Float]) -> Own {
            Own(name: name, shape: shape) { change(try values()) }
        }
    }

    /// The library's class.
    let model: String
    let map: NameMap
    var spell: (String) -> String = { $0 }
    var config: JSONObject
    var processor: JSONValue?
    /// Ours, as far as the library has them.
    var own: [Own]
    /// Tensors that we have none of, under the library's names.
    var added: [Own] = []
    /// Counters of batches, which batch norms have.
    var counters: [String] = []
    /// Linear layers of the library that stay as they are in int8, by module.
    var floats: [String] = []
    var notes: [String] = []

    /// - Parameters:
    ///   - path: of the file, for errors.
    ///   - coded: our names of the weights that int8 stores as codes.
    func tensors(_ precision: Precision, path: String, coded: Set<String>) throws -> [SafetensorsTensor] {
        var tensors: [SafetensorsTensor] = []
        for own in own {
            let sources = map.sources(own.name)
            guard let count = sources.first?.of, own.shape[0] % count == 0 else {
                throw ModelError("'\(own.name)' has no name in the library")
            }
            let shape = [own.shape[0] / count] + own.shape.dropFirst()
            let size = shape.reduce(1, *)
            if sources.count < count {
                let values = try own.values()
                for part in 0..<count where !sources.contains(where: { $0.part == part }) {
                    guard values[part * size..<(part + 1) * size].allSatisfy({ $0 == 0 }) else {
                        throw ModelError(
                            "'\(own.name)': the library has no place for part \(part + 1) of \(count), which is not 0")
                    }
                }
            }
            for source in sources {
                let part = Own(name: spell(source.name), shape: shape) {
                    let values = try own.values()
                    return count == 1 ? values : Array(values[source.part * size..<(source.part + 1) * size])
                }
                tensors += part.stored(precision, path, isCoded: coded.contains(own.name))
            }
        }
        tensors += added.flatMap { $0.stored(precision, path, isCoded: false) }
        return tensors + counters.map { SafetensorsTensor(name: $0, shape: [], values: [Int64(0)]) }
    }

    /// The names that the library has for what we compute otherwise: zeros, ones.
    static func constant(_ name: String, _ shape: [Int], _ value: Float) -> Own {
        Own(name: name, shape: shape) { [Float](repeating: value, count: shape.reduce(1, *)) }
    }
}

extension HubLayout.Own {
    fileprivate func stored(_ precision: Precision, _ path: String, isCoded: Bool) -> [SafetensorsTensor] {
        if shape.contains(0) {
            return [
                SafetensorsTensor(name: name, dtype: precision == .float16 ? .float16 : .float32, shape: shape) { _ in }
            ]
        }
        return TensorValues(path: path, name: name, shape: shape) { try values().withUnsafeBufferPointer($0) }
            .tensors(precision, isCoded: isCoded)
    }
}

extension [HubLayout.Own] {
    subscript(_ name: some StringProtocol) -> HubLayout.Own? { first { $0.name == name } }

    /// Positions with a row for CLS, which has none of its own: a row of zeros.
    func positionsCoveringClass(_ sizes: VisionTransformer.Configuration) -> Self {
        map { tensor in
            guard tensor.name == "pos_embed", !sizes.positionsCoverClass else { return tensor }
            let (rows, width) = (tensor.shape[1], sizes.embedDim)
            return tensor.changed([1, rows + 1, width]) { [Float](repeating: 0, count: width) + $0 }
        }
    }

    /// An imported ResNet, whose batch norms became part of its convolutions: norms that only add the bias.
    ///
    /// - Returns: tensors with those of the norms, and the norms.
    func withBatchNorms() -> (tensors: Self, norms: [String]) {
        var (result, norms): (Self, [String]) = ([], [])
        for tensor in self {
            let (_, kind, norm) = Assembly.batchNorm(of: tensor.name)
            guard kind == "bias" else {
                result.append(tensor)
                continue
            }
            norms.append(norm)
            result.append(HubLayout.Own(name: "\(norm).bias", shape: tensor.shape, values: tensor.values))
            // With what the norm adds to it the variance is 1.
            let variance = 1 - Assembly.batchNormEpsilon
            for (statistic, value) in [("weight", 1), ("running_mean", 0), ("running_var", variance)] {
                result.append(HubLayout.constant("\(norm).\(statistic)", tensor.shape, Float(value)))
            }
        }
        return (result, norms)
    }
}
