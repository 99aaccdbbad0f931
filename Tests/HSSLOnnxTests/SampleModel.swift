import HSSLFormats
import HSSLGraph
import HSSLModels

@testable import HSSLOnnx

/// A small model with random weights that use every branch of its family.
struct SampleModel {
    let name: String
    let architecture: ModelArchitecture
    let preprocessing: Preprocessing
    /// Of a parameter by name.
    let values: (String) throws -> [Float]

    static let provenance = ModelProvenance(
        method: "random", head: "none", data: "none", epochs: 0, precision: "float32", version: "test")

    var model: OnnxModel { OnnxModel(architecture, preprocessing, values: values) }

    /// One of every family and variant.
    static func all() throws -> [Self] {
        var plain = VisionTransformer.Configuration(imageSize: 20, patchSize: 5, embedDim: 24, depth: 2, numHeads: 3)
        plain.layerScale = true
        var gated = plain
        gated.activation = .swiglu
        gated.registerTokens = 2
        gated.positionsCoverClass = false
        var rotary = plain
        rotary.layerScale = false
        rotary.registerTokens = 1
        rotary.positionsCoverClass = false
        rotary.ropeTemperature = 100
        let folded = ResNet.Configuration(imageSize: 32, stem: .imagenet, planes: [4, 8], layers: [1, 1], norm: .none)
        return try [
            Self("layer scale", plain), Self("gate, registers", gated), Self("rotary", rotary),
            Self("swin", ModelArchitecture(named: "swin_micro", imageSize: 28, patchSize: 2)),
            // Grids of 12 and 6 cells in windows of 7.
            Self("padded swin", ModelArchitecture(named: "swin_micro", imageSize: 24, patchSize: 2)),
            Self("convnext", ModelArchitecture(named: "convnext_micro", imageSize: 16, patchSize: 2)),
            Self("resnet", ModelArchitecture(named: "resnet_micro", imageSize: 12)), Self("folded resnet", folded),
        ]
    }

    init(_ name: String, _ configuration: any BaseConfiguration) throws {
        try self.init(name, ModelArchitecture(recognising: configuration))
    }

    init(_ name: String, _ architecture: ModelArchitecture) throws {
        (self.name, self.architecture) = (name, architecture)
        let side = architecture.imageSize
        preprocessing = try Preprocessing(resize: side, crop: side, mean: [0.5, 0.25, 0.5], std: [0.25, 0.25, 0.5])
        let parameters = ModelTrace(architecture).parameters
        values = { name in
            guard let parameter = parameters[name] else { throw ModelError("no parameter '\(name)'") }
            var random = CounterRandom(seed: 1, stream: 5, parameter.nameHash)
            if parameter.name.hasSuffix("gamma") {
                return (0..<parameter.count).map { _ in random.uniform(0.5, 1.5) }
            }
            if parameter.shape.count == 1 {
                let mean: Float = parameter.name.hasSuffix("weight") ? 1 : 0
                return (0..<parameter.count).map { _ in mean + 0.1 * random.normal() }
            }
            let deviation = 1 / Float(max(1, parameter.count / parameter.shape[0])).squareRoot()
            return (0..<parameter.count).map { _ in deviation * random.normal() }
        }
    }

    /// Prepared images, [3, H, W] each.
    func images(_ count: Int) -> [[Float]] {
        (0..<count).map { number in
            var random = CounterRandom(seed: 2, stream: 6, UInt64(number))
            // Every image has a colour of its own, so that features differ.
            let colours = (0..<3).map { _ in random.normal() }
            return colours.flatMap { colour in
                (0..<architecture.imageSize * architecture.imageSize).map { _ in colour + 0.5 * random.normal() }
            }
        }
    }

    func message(_ precision: Precision) throws -> Onnx_ModelProto {
        let weights: OnnxModel.Weights = switch precision {
        case .float32: .float32
        case .float16: .float16
        case .int8: .int8(try model.codes(over: images(4)))
        }
        return try model.model(weights, Self.provenance)
    }
}
