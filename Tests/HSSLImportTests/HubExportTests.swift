import CSupport
import Foundation
import HSSLFormats
import HSSLGraph
import XCTest

@testable import HSSLImport
@testable import HSSLModels

/// What is exported to another library is imported again as it was: names, splits and folds have an inverse.
final class HubExportTests: XCTestCase {
    private var root = ""

    override func setUpWithError() throws {
        XCTAssertEqual(hssl_initialize(nil, 0), 0)
        root = NSTemporaryDirectory() + "hssl-hub-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
    }

    override func tearDown() { try? FileManager.default.removeItem(atPath: root) }

    private func vit(_ change: (inout VisionTransformer.Configuration) -> Void = { _ in }) -> any BaseConfiguration {
        var sizes = VisionTransformer.Configuration(imageSize: 16, patchSize: 4, embedDim: 24, depth: 2, numHeads: 3)
        change(&sizes)
        return sizes
    }

    /// By the names of what they stand for.
    private var architectures: [(name: String, sizes: any BaseConfiguration)] {
        [
            ("vit", vit()),
            ("dinov2", vit { $0.layerScale = true }),
            (
                "registers",
                vit { ($0.layerScale, $0.registerTokens, $0.positionsCoverClass) = (true, 2, false) }
            ),
            ("gates", vit { ($0.layerScale, $0.activation, $0.mlpRatio) = (true, .swiglu, 8.0 / 3) }),
            (
                "dinov3",
                vit {
                    ($0.layerScale, $0.registerTokens, $0.positionsCoverClass) = (true, 2, false)
                    ($0.ropeTemperature, $0.normEpsilon) = (100, 1e-5)
                }
            ),
            (
                "dinov3 gates",
                vit {
                    ($0.layerScale, $0.registerTokens, $0.positionsCoverClass) = (true, 2, false)
                    ($0.ropeTemperature, $0.normEpsilon, $0.activation) = (100, 1e-5, .swiglu)
                }
            ),
            (
                "swin",
                Swin.Configuration(
                    imageSize: 56, patchSize: 4, embedDim: 12, depths: [1, 2], numHeads: [1, 2], windowSize: 7)
            ),
            (
                "convnext",
                ConvNeXt.Configuration(imageSize: 64, patchSize: 4, depths: [1, 1, 1, 1], dims: [4, 8, 8, 12])
            ),
            (
                "resnet",
                ResNet.Configuration(
                    imageSize: 64, stem: .imagenet, planes: [64, 8, 8, 8], layers: [1, 2, 1, 1], norm: .none)
            ),
            (
                "group norms",
                ResNet.Configuration(
                    imageSize: 64, stem: .imagenet, planes: [64, 32, 32, 32], layers: [1, 2, 1, 1], norm: .group)
            ),
        ]
    }

    private func export(
        _ library: HubExport.Library, _ sizes: any BaseConfiguration, precision: Precision = .float32
    ) throws -> (folder: String, values: [String: [Float]], architecture: ModelArchitecture) {
        let architecture = try ModelArchitecture(recognising: sizes)
        var values: [String: [Float]] = [:]
        for parameter in ModelTrace(architecture).parameters.all {
            let seed = Float(parameter.nameHash % 100)
            values[parameter.name] = (0..<parameter.count).map { 1 / (1 + seed) + Float($0 % 97 - 48) / 128 }
            // timm's DINOv3 has no bias of keys, and what is kept of one is nothing.
            if parameter.name.hasSuffix("attn.qkv.bias") {
                let width = parameter.count / 3
                for index in width..<2 * width { values[parameter.name]?[index] = 0 }
            }
        }
        let size = architecture.imageSize
        let preprocessing = try Preprocessing(
            resize: size + 3, crop: size, interpolation: .bilinear, mean: [0.1, 0.2, 0.3], std: [0.4, 0.5, 0.6])
        let folder = "\(root)/\(UUID().uuidString)"
        let target = try AtomicFolder(path: folder, names: HubExport.names)
        let known = values
        try HubExport(library, architecture, preprocessing, precision: precision) { try XCTUnwrap(known[$0]) }
            .write(into: target, metadata: ["a": "b"])
        try target.commit()
        return (folder, values, architecture)
    }

    func testEveryFamilyComesBack() throws {
        for library in [HubExport.Library.timm, .transformers] {
            for (name, sizes) in architectures where library == .timm || name != "group norms" {
                let (folder, values, architecture) = try export(library, sizes)
                let model = try ForeignModel(path: folder + "/model.safetensors", imageSize: architecture.imageSize)
                XCTAssertEqual(model.architecture.family, architecture.family, "\(library) \(name)")
                XCTAssertEqual(
                    Set(ModelTrace(model.architecture).parameters.all.map(\.name)), Set(values.keys.map { $0 }),
                    "\(library) \(name)")
                for (tensor, wanted) in values {
                    var found = try model.values(tensor)
                    // Positions that cover CLS are those of the library; its row adds nothing.
                    if found.count > wanted.count { found = Array(found.suffix(wanted.count)) }
                    let error = zip(found, wanted).map { abs($0 - $1) }.max() ?? .infinity
                    XCTAssertEqual(found.count, wanted.count, "\(library) \(name) \(tensor)")
                    // Only a batch norm computes: with a variance of 1.
                    XCTAssertLessThanOrEqual(error, name == "resnet" ? 1e-6 : 0, "\(library) \(name) \(tensor)")
                }
                XCTAssertEqual(model.preprocessing.crop, architecture.imageSize)
                XCTAssertEqual(model.preprocessing.resize, architecture.imageSize + 3, "\(library) \(name)")
                XCTAssertEqual(model.preprocessing.interpolation, .bilinear)
                XCTAssertEqual(model.preprocessing.mean, [0.1, 0.2, 0.3])
                XCTAssertEqual(model.preprocessing.std, [0.4, 0.5, 0.6])
            }
        }
    }

    func testInt8IsThatOfCompressedTensors() throws {
        let (folder, values, _) = try export(.transformers, vit { $0.layerScale = true }, precision: .int8)
        let file = try SafetensorsFile(path: folder + "/model.safetensors")
        let query = "encoder.layer.1.attention.attention.query.weight"
        let (codes, scales) = (try file.values(query, as: Int8.self), try file.floats(query + "_scale", shape: [24, 1]))
        let wanted = try XCTUnwrap(values["blocks.1.attn.qkv.weight"])
        for (index, code) in codes.enumerated() {
            XCTAssertEqual(Float(code) * scales[index / 24], wanted[index], accuracy: scales[index / 24] * 0.501)
        }
        // Layer scale is in the product, which has codes; the pooler has none.
        let product = "encoder.layer.0.output.dense.weight"
        let found = try file.values(product, as: Int8.self), rows = try file.floats(product + "_scale")
        let (weight, gamma) = (
            try XCTUnwrap(values["blocks.0.mlp.fc2.weight"]), try XCTUnwrap(values["blocks.0.ls2.gamma"])
        )
        for index in weight.indices {
            XCTAssertEqual(
                Float(found[index]) * rows[index / 96], weight[index] * gamma[index / 96],
                accuracy: rows[index / 96] * 0.501)
        }
        XCTAssertEqual(try file.tensor("pooler.dense.weight").dtype, .float32)
        XCTAssertFalse(file.names.contains { $0.contains("lambda1") })
        let config = try JSONValue.parse(bytes: readFile(at: folder + "/config.json", limit: 1 << 20))
        let quantization = try config.value("quantization_config", in: "config.json")
        XCTAssertEqual(try quantization.string("format", in: ""), "int-quantized")
        XCTAssertEqual(try quantization.strings("ignore", in: ""), ["pooler.dense"])
    }

    func testWhatALibraryHasNotIsRefused() throws {
        let images = try Preprocessing(
            resize: 56, crop: 56, interpolation: .bicubic, mean: [0, 0, 0], std: [1, 1, 1])
        func refusal(
            _ library: HubExport.Library, _ sizes: any BaseConfiguration, _ precision: Precision = .float32
        ) -> String {
            do {
                let architecture = try ModelArchitecture(recognising: sizes)
                _ = try HubExport(library, architecture, images, precision: precision) { _ in [] }
                return "accepted"
            } catch { return "\(error)" }
        }
        let group = ResNet.Configuration(imageSize: 56, stem: .imagenet, planes: [64, 8], layers: [1, 1])
        XCTAssertTrue(refusal(.transformers, group).contains("group norms"), refusal(.transformers, group))
        XCTAssertTrue(refusal(.timm, group).contains("four stages"), refusal(.timm, group))
        var folded = group
        folded.norm = .none
        XCTAssertTrue(refusal(.transformers, folded, .int8).contains("convolutions only"))
        let short = ConvNeXt.Configuration(imageSize: 56, patchSize: 4, depths: [1, 1], dims: [4, 8])
        XCTAssertTrue(refusal(.timm, short).contains("four stages, this one 2"), refusal(.timm, short))
        XCTAssertEqual(refusal(.transformers, short), "accepted")
        var padded = Swin.Configuration(
            imageSize: 64, patchSize: 4, embedDim: 12, depths: [1, 1], numHeads: [1, 2], windowSize: 7)
        XCTAssertTrue(refusal(.transformers, padded).contains("pads a grid before"), refusal(.transformers, padded))
        padded.padsFirst = true
        XCTAssertTrue(refusal(.timm, padded).contains("rolls a grid before"), refusal(.timm, padded))
        XCTAssertTrue(refusal(.timm, vit(), .int8).contains("timm has no int8"))
        let gates = vit { ($0.layerScale, $0.activation, $0.mlpRatio) = (true, .swiglu, 1.5) }
        XCTAssertTrue(refusal(.transformers, gates).contains("whole multiple"), refusal(.transformers, gates))
    }
}
