import Foundation
import HSSLFormats
import HSSLGraph
import HSSLModels
import XCTest

@testable import HSSLOnnx

/// The files as messages: what onnxruntime and OpenVINO compute from them is compared by tools/check_onnx.
final class OnnxTests: XCTestCase {
    // MARK: Structure

    func testEveryFamilyInEveryPrecision() throws {
        for sample in try SampleModel.all() {
            for precision in Precision.allCases {
                let model = try sample.message(precision)
                try assertSound(model, sample, "\(sample.name) \(precision)")
            }
        }
    }

    /// ONNX's rules for a graph, and our promises about names and shapes.
    private func assertSound(_ model: Onnx_ModelProto, _ sample: SampleModel, _ name: String) throws {
        XCTAssertEqual(model.opsetImport.map(\.version), [17], name)
        let graph = model.graph
        XCTAssertEqual(Set(graph.node.map(\.name)).count, graph.node.count, "\(name): operators by name")
        var known = Set(graph.input.map(\.name) + graph.initializer.map(\.name)), read: Set<String> = []
        XCTAssertEqual(known.count, graph.input.count + graph.initializer.count, "\(name): constants by name")
        for node in graph.node {
            for input in node.input { XCTAssert(known.contains(input), "\(name): \(node.name) reads \(input)") }
            for output in node.output { XCTAssert(known.insert(output).inserted, "\(name): \(output) is made twice") }
            read.formUnion(node.input)
            XCTAssert(Self.operators.contains(node.opType), "\(name): \(node.opType) is none of the opset's")
        }
        read.formUnion(graph.output.map(\.name))
        XCTAssertEqual(known.subtracting(read), [], "\(name): nobody reads these")
        for tensor in graph.initializer {
            let size = try XCTUnwrap(Self.sizes[tensor.dataType], "\(name): type of \(tensor.name)")
            let count = tensor.dims.reduce(1) { $0 * Int($1) }
            XCTAssertEqual(tensor.rawData.count, size * count, "\(name): bytes of \(tensor.name)")
        }
        let side = sample.architecture.imageSize, trace = ModelTrace(sample.architecture)
        XCTAssertEqual(graph.input.map(\.name), ["pixel_values"], name)
        XCTAssertEqual(shape(graph.input[0]), ["batch", "3", "\(side)", "\(side)"], name)
        XCTAssertEqual(graph.output.map(\.name), ["global", "patch"], name)
        let width = "\(trace.global.shape[1])"
        XCTAssertEqual(shape(graph.output[0]), ["batch", width], name)
        XCTAssertEqual(shape(graph.output[1]), ["batch", "\(trace.local.shape[0])", width], name)
        for info in graph.input + graph.output { XCTAssertEqual(info.type.tensorType.elemType, .float, name) }
    }

    private func shape(_ info: Onnx_ValueInfoProto) -> [String] {
        info.type.tensorType.shape.dim.map { dimension in
            switch dimension.value {
            case .dimParam(let name): name
            case .dimValue(let value): "\(value)"
            case nil: "?"
            }
        }
    }

    private static let sizes: [ElementType: Int] = [
        .float: 4, .float16: 2, .int8: 1, .uint8: 1, .int32: 4, .int64: 8,
    ]
    private static let operators: Set = [
        "Add", "AveragePool", "Cast", "Concat", "Conv", "DequantizeLinear", "Div", "Erf", "Expand", "Gather",
        "Identity", "InstanceNormalization", "LayerNormalization", "MatMul", "MaxPool", "Mul", "Pad",
        "QuantizeLinear", "ReduceMean", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split",
        "Transpose",
    ]

    /// What ONNX has is one operator, and what was a parameter keeps its name.
    func testOperatorsAndNames() throws {
        for sample in try SampleModel.all() {
            let graph = try sample.message(.float32).graph
            var counts: [String: Int] = [:]
            for node in graph.node { counts[node.opType, default: 0] += 1 }
            var wanted: [String: Int] = [:]
            let trace = ModelTrace(sample.architecture)
            for node in trace.tape.nodes {
                switch node.operation {
                case .layerNorm: wanted["LayerNormalization", default: 0] += 1
                case .groupNorm: wanted["InstanceNormalization", default: 0] += 1
                case .attention: wanted["Softmax", default: 0] += 1
                case .depthwiseConv: wanted["Conv", default: 0] += 1
                case .pool: wanted["MaxPool", default: 0] += 1
                default: break
                }
            }
            let convolutions = wanted["Conv"] ?? 0
            for (type, count) in wanted where type != "Conv" {
                XCTAssertEqual(counts[type], count, "\(sample.name): \(type)")
            }
            XCTAssertGreaterThan(counts["Conv"] ?? 0, convolutions, "\(sample.name): the embedding is a Conv")
            let names = Set(graph.initializer.map(\.name))
            for parameter in trace.parameters.all where !parameter.name.hasSuffix("gamma") {
                XCTAssert(names.contains(parameter.name), "\(sample.name): \(parameter.name)")
            }
            XCTAssertFalse(names.contains { $0.hasSuffix("gamma") }, "\(sample.name): multiplied into products")
        }
    }

    func testQuantizedProducts() throws {
        for sample in try SampleModel.all() {
            let graph = try sample.message(.int8).graph
            let coded = graph.initializer.filter { $0.dataType == .int8 && !$0.name.hasSuffix("zero_point") }
            XCTAssertEqual(Set(coded.map(\.name)), ModelTrace(sample.architecture).policyWeights, sample.name)
            let constants = Set(graph.initializer.map(\.name))
            for node in graph.node where node.opType == "QuantizeLinear" {
                // Norms, softmax and sums are in float32 on either side of codes.
                XCTAssert(node.input.dropFirst().allSatisfy { constants.contains($0) }, sample.name)
            }
        }
    }

    func testMetadata() throws {
        let sample = try XCTUnwrap(try SampleModel.all().first)
        let entries = try sample.message(.float32).metadataProps
        let metadata = Dictionary(uniqueKeysWithValues: entries.map { ($0.key, $0.value) })
        XCTAssertEqual(metadata["image_mean"], "[0.5, 0.25, 0.5]")
        XCTAssertEqual(metadata["crop_size"], "\(sample.architecture.imageSize)")
        XCTAssertEqual(metadata["interpolation"], "bicubic")
        XCTAssertEqual(metadata["hssl.provenance"]?.contains(#""method":"random""#), true)
        XCTAssertEqual(metadata["hssl.architecture"], sample.architecture.json.text())
    }

    // MARK: Files

    func testFileHoldsTheMessage() throws {
        let folder = try temporaryFolder(), path = folder + "/model.onnx"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let sample = try XCTUnwrap(try SampleModel.all().first)
        try sample.model.write(to: path, SampleModel.provenance, as: .float16)
        let bytes = try [UInt8](Data(contentsOf: URL(fileURLWithPath: path)))
        XCTAssertEqual(try Onnx_ModelProto(serializedBytes: bytes), try sample.message(.float16))
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: folder), ["model.onnx"])
    }

    func testFailureLeavesTheOldFile() throws {
        let folder = try temporaryFolder(), path = folder + "/model.onnx"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try Data("old".utf8).write(to: URL(fileURLWithPath: path))
        let sample = try XCTUnwrap(try SampleModel.all().first)
        let large = OnnxModel(sample.architecture, sample.preprocessing) { name in
            try sample.values(name).map { name == "norm.weight" ? 70_000 * $0 : $0 }
        }
        XCTAssertThrowsError(try large.write(to: path, SampleModel.provenance, as: .float16)) {
            XCTAssert("\($0)".hasPrefix("'norm.weight' holds "), "\($0)")
            XCTAssert("\($0)".hasSuffix(", beyond float16"), "\($0)")
        }
        let broken = OnnxModel(sample.architecture, sample.preprocessing) { throw ModelError("no \($0)") }
        XCTAssertThrowsError(try broken.write(to: path, SampleModel.provenance, as: .float32))
        XCTAssertEqual(try String(contentsOfFile: path, encoding: .utf8), "old")
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: folder), ["model.onnx"])
    }

    func testMoreThanTwoGigabytesAreRefusedUnread() throws {
        let configuration = VisionTransformer.Configuration(
            imageSize: 224, patchSize: 16, embedDim: 4096, depth: 24, numHeads: 32)
        let architecture = try ModelArchitecture(recognising: configuration)
        let preprocessing = try Preprocessing(resize: 224, crop: 224, mean: [0, 0, 0], std: [1, 1, 1])
        let model = OnnxModel(architecture, preprocessing) { name in throw ModelError("\(name) was read") }
        XCTAssertThrowsError(try model.write(to: "/nowhere/x.onnx", SampleModel.provenance, as: .float32)) {
            XCTAssert("\($0)".hasPrefix("/nowhere/x.onnx: the model is larger than"), "\($0)")
        }
    }

    private func temporaryFolder() throws -> String {
        let path = NSTemporaryDirectory() + "hssl-onnx-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }
}
