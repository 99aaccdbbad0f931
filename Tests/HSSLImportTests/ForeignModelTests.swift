import CSupport
import Foundation
import HSSLFormats
import HSSLGraph
import TestSupport
import XCTest

@testable import HSSLImport
@testable import HSSLModels

/// Networks under foreign names become models; what does not fit is one line that names it.
final class ForeignModelTests: XCTestCase {
    private var root = ""

    override func setUpWithError() throws {
        XCTAssertEqual(hssl_initialize(nil, 0), 0)
        root = NSTemporaryDirectory() + "hssl-import-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
    }

    override func tearDown() { try? FileManager.default.removeItem(atPath: root) }

    /// A ViT of width 192 on 4×4 patches, under timm's names: values tell name and place.
    /// Made once: debug builds fill half a million values slowly.
    private static let vit = try? makeVit()

    private func vit() throws -> [String: (shape: [Int], values: [Float])] { try XCTUnwrap(Self.vit) }

    private static func makeVit() throws -> [String: (shape: [Int], values: [Float])] {
        let sizes = VisionTransformer.Configuration(imageSize: 16, patchSize: 4, embedDim: 192, depth: 1, numHeads: 3)
        let trace = ModelTrace(try ModelArchitecture(sizes))
        return Dictionary(
            uniqueKeysWithValues: trace.parameters.all.map { parameter in
                let seed = Float(parameter.nameHash % 1000)
                return (parameter.name, (parameter.shape, (0..<parameter.count).map { seed + Float($0 % 97) / 128 }))
            })
    }

    private func write(_ tensors: [String: (shape: [Int], values: [Float])], _ name: String = "m.safetensors") throws
        -> String
    {
        let path = "\(root)/\(name)"
        try SafetensorsWriter.write(
            path: path,
            tensors: tensors.map { SafetensorsTensor(name: $0.key, shape: $0.value.shape, values: $0.value.values) },
            metadata: [:])
        return path
    }

    /// As `out.safetensors`.
    private func write(_ model: ForeignModel) throws {
        try ModelFile.write(
            path: root + "/out.safetensors", architecture: model.architecture, preprocessing: model.preprocessing,
            provenance: model.provenance, precision: .float32
        ) { name, body in
            try model.values(name).withUnsafeBufferPointer(body)
        }
    }

    private func refusal(_ path: String, architecture: String? = nil, source: String? = nil, imageSize: Int? = nil)
        -> String
    {
        try? FileManager.default.removeItem(atPath: root + "/out.safetensors")
        do {
            let model = try ForeignModel(path: path, architecture: architecture, source: source, imageSize: imageSize)
            try write(model)
            return "accepted"
        } catch {
            XCTAssertFalse("\(error)".contains("\n"), "\(error)")
            XCTAssertFalse(FileManager.default.fileExists(atPath: root + "/out.safetensors"), "half written")
            return "\(error)"
        }
    }

    func testRoundTripUnderTimmsNames() throws {
        let tensors = try vit()
        let path = try write(tensors)
        let model = try ForeignModel(path: path)
        XCTAssertEqual(model.architecture.imageSize, 16)
        try write(model)
        let file = try ModelFile(path: root + "/out.safetensors")
        for (name, tensor) in tensors { XCTAssertEqual(try file.values(name), tensor.values, name) }
        XCTAssertEqual(file.architecture, model.architecture)
    }

    func testPrefixesTeachersAndHeads() throws {
        var tensors: [String: (shape: [Int], values: [Float])] = [:]
        for (name, tensor) in try vit() {
            tensors["teacher.backbone." + name] = tensor
            tensors["student.backbone." + name] = (tensor.shape, tensor.values.map { -$0 })
        }
        tensors["teacher.dino_head.mlp.0.weight"] = ([1], [1])
        let model = try ForeignModel(path: try write(tensors))
        try write(model)
        let values = try ModelFile(path: root + "/out.safetensors").values("norm.weight")
        XCTAssertEqual(values, try vit()["norm.weight"]?.values)
        XCTAssertTrue(model.report.contains { $0.contains("prefix 'teacher.backbone.'") }, "\(model.report)")
        // Two that nothing ranks.
        var twins: [String: (shape: [Int], values: [Float])] = [:]
        for (name, tensor) in try vit() { (twins["a." + name], twins["b." + name]) = (tensor, tensor) }
        XCTAssertTrue(refusal(try write(twins)).contains("several networks: 'a.' (timm), 'b.' (timm)"))
    }

    func testMissingAndUnexpectedTensorsAreNamed() throws {
        for name in try vit().keys where name != "blocks.0.attn.qkv.bias" {
            var tensors = try vit()
            tensors[name] = nil
            let line = refusal(try write(tensors))
            XCTAssertNotEqual(line, "accepted", name)
            XCTAssertTrue(line.contains("is missing") || line.contains("no network that is known"), line)
        }
        var tensors = try vit()
        tensors["blocks.0.norm1.bias"] = nil
        XCTAssertTrue(refusal(try write(tensors)).contains("'blocks.0.norm1.bias' is missing"))
        tensors = try vit()
        tensors["blocks.0.attn.q_norm.weight"] = ([4], [1, 1, 1, 1])
        XCTAssertTrue(refusal(try write(tensors)).contains("unexpected tensor 'blocks.0.attn.q_norm.weight'"))
        tensors = try vit()
        tensors["blocks.2.norm1.weight"] = tensors["blocks.0.norm1.weight"]
        XCTAssertTrue(refusal(try write(tensors)).contains("unexpected tensor 'blocks.2.norm1.weight'"))
        tensors = try vit()
        tensors["norm.weight"] = ([191], [Float](repeating: 1, count: 191))
        XCTAssertTrue(refusal(try write(tensors)).contains("'norm.weight' has shape [191], not [192]"))
        tensors = try vit()
        tensors["norm.weight"]?.values[5] = .nan
        XCTAssertTrue(refusal(try write(tensors)).contains("'norm.weight' holds NaN or infinity at element 5"))
    }

    func testDoubtsAreNamedAndDecided() throws {
        let path = try write(try vit())
        XCTAssertTrue(
            refusal(path, architecture: "vit_small").contains(
                "--architecture vit_small: its embed_dim is 384, that of"))
        XCTAssertTrue(refusal(path, architecture: "swin_tiny").contains("holds a network of family vit"))
        XCTAssertTrue(refusal(path, architecture: "vit_sml").contains("--architecture: unknown architecture 'vit_sml'"))
        XCTAssertTrue(refusal(path, source: "dyno").contains("--source: unknown source 'dyno'"))
        XCTAssertTrue(refusal(path, imageSize: 18).contains("image_size 18 is not a multiple of patch_size 4"))
        // A width that nobody published says nothing about heads.
        let sizes = VisionTransformer.Configuration(imageSize: 8, patchSize: 4, embedDim: 40, depth: 1, numHeads: 2)
        let trace = ModelTrace(try ModelArchitecture(sizes))
        let odd = try write(
            Dictionary(
                uniqueKeysWithValues: trace.parameters.all.map {
                    ($0.name, ($0.shape, [Float](repeating: 0.5, count: $0.count)))
                }))
        XCTAssertTrue(refusal(odd).contains("do not tell how many heads"))
        try AtomicFile.write(
            Array(#"{"num_attention_heads": 5, "hidden_act": "gelu"}"#.utf8), to: root + "/config.json")
        XCTAssertEqual(refusal(odd), "accepted")
        try AtomicFile.write(
            Array(#"{"num_attention_heads": 5, "hidden_act": "quick_gelu"}"#.utf8), to: root + "/config.json")
        try FileManager.default.removeItem(atPath: root + "/out.safetensors")
        XCTAssertTrue(refusal(odd).contains("hidden_act quick_gelu is not supported"))
        try AtomicFile.write(Array(#"{"#.utf8), to: root + "/config.json")
        XCTAssertTrue(refusal(odd).contains("config.json"))
    }

    func testImagesArePreparedAsTheSourceSays() throws {
        let path = try write(try vit())
        try AtomicFile.write(
            Array(
                #"""
                {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": true,
                 "resample": 2, "image_mean": [0.5, 0.25, 0.125], "image_std": [1, 2, 4]}
                """#.utf8), to: root + "/preprocessor_config.json")
        let native = try ForeignModel(path: path).preprocessing
        XCTAssertEqual([native.resize, native.crop], [20, 16])
        XCTAssertEqual(native.interpolation, .bilinear)
        XCTAssertEqual(native.mean, [0.5, 0.25, 0.125])
        XCTAssertEqual(try ForeignModel(path: path, imageSize: 32).preprocessing.resize, 40)
    }

    func testSidesThatNoImageHasAreOneLine() throws {
        let path = try write(try vit())
        for (file, text, expected) in [
            ("config.json", #"{"pretrained_cfg": {"crop_pct": 1e-300}}"#, "crop_pct 1e-300"),
            ("config.json", #"{"pretrained_cfg": {"crop_pct": 2}}"#, "crop_pct 2.0 is not in 0 … 1"),
            ("config.json", #"{"pretrained_cfg": {"input_size": [3, 9223372036854775807, 9223372036854775807]}}"#,
             "input_size 9223372036854775807 is not in 1 … 16384"),
            ("preprocessor_config.json", #"{"size": 224, "crop_pct": 1e-300}"#, "crop_pct 1e-300"),
            ("preprocessor_config.json", #"{"size": 224, "crop_pct": -1}"#, "crop_pct -1.0 is not in 0 … 1"),
            ("preprocessor_config.json", #"{"size": 9223372036854775807}"#, "size 9223372036854775807 is not in"),
            ("preprocessor_config.json", #"{"size": 4611686018427387904, "crop_size": 1}"#, "size 46"),
            ("preprocessor_config.json", #"{"size": 224, "crop_size": 0}"#, "crop_size 0 is not in"),
            ("preprocessor_config.json", #"{"size": 224, "crop_size": -3}"#, "crop_size -3 is not in"),
            ("preprocessor_config.json", #"{"resample": 99}"#, "resample 99 is not supported"),
        ] {
            try AtomicFile.write(Array(text.utf8), to: root + "/" + file)
            let refused = refusal(path)
            XCTAssertTrue(refused.hasPrefix("\(root)/\(file): ") && refused.contains(expected), "\(text): \(refused)")
            try FileManager.default.removeItem(atPath: root + "/" + file)
        }
    }

    /// HSSL_MUTATIONS=1000000 tries so many.
    func testConfigurationsThatAreNearlyRight() throws {
        let path = try write(try vit())
        let texts = [
            #"""
            {"architecture": "vit_tiny_patch16_224", "image_size": 16, "num_attention_heads": 3,
             "layer_norm_eps": 1e-6, "hidden_act": "gelu"}
            """#,
            #"""
            {"num_heads": 3, "pretrained_cfg": {"input_size": [3, 16, 16], "crop_pct": 0.9, "license": "mit",
             "interpolation": "bicubic", "mean": [0.5, 0.5, 0.5], "std": [1, 2, 4]}}
            """#,
            #"""
            {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": true,
             "resample": 2, "image_mean": [0.5, 0.25, 0.125], "image_std": [1, 2, 4]}
            """#,
            #"{"size": 16, "crop_pct": 0.875, "do_normalize": false}"#,
        ]
        let count = ProcessInfo.processInfo.environment["HSSL_MUTATIONS"].flatMap(Int.init) ?? 600
        var accepted = 0
        for (number, bytes) in Mutations(of: texts, seed: 2).prefix(count).enumerated() {
            let name = number % 2 == 0 ? "/config.json" : "/preprocessor_config.json"
            try AtomicFile.write(bytes, to: root + name)
            do {
                _ = try ForeignModel(path: path, architecture: nil, source: nil, imageSize: number % 3 == 0 ? 32 : nil)
                accepted += 1
            } catch {
                XCTAssertFalse("\(error)".contains { $0.isNewline }, "\(error)")
            }
            try FileManager.default.removeItem(atPath: root + name)
        }
        XCTAssertGreaterThan(accepted, count / 20, "mutations that all break the text test only its syntax")
    }

    func testOldPyTorchAndOtherFormatsAreNamed() throws {
        let legacy: [UInt8] = [
            0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e, 0x80,
        ]
        for (bytes, expected) in [
            (legacy, "before 1.6"), ([0x80, 4, 0x95, 0, 0, 0, 0, 0, 0, 0, 0, 0x4e, 0x2e, 0, 0, 0], "bare pickle"),
            ([0x89, 0x48, 0x44, 0x46, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0], "HDF5"), ([], "file"),
            (Array("PK".utf8) + [3, 4], "cut off"),
        ] as [([UInt8], String)] {
            let path = root + "/x.pth"
            try AtomicFile.write(bytes, to: path)
            XCTAssertTrue(refusal(path).contains(expected), refusal(path))
        }
    }

    func testAntialiasedResamplingKeepsConstantsAndOrder() {
        for (side, target) in [(4, 7), (7, 4), (37, 16), (5, 5)] {
            for method in [PositionResampling.Method.plain, .antialiased] {
                let ones = [Float](repeating: 1, count: side * side)
                let out = PositionResampling.resampled(
                    ones, from: side, to: Grid(height: target, width: target), width: 1, method)
                XCTAssertEqual(out.count, target * target)
                for value in out { XCTAssertEqual(value, 1, accuracy: 1e-5) }
                if side == target {
                    let cells = (0..<side * side).map { Float($0 * $0 % 17) }
                    let same = PositionResampling.resampled(
                        cells, from: side, to: Grid(height: side, width: side), width: 1, method)
                    for (a, b) in zip(cells, same) { XCTAssertEqual(a, b, accuracy: 1e-4) }
                }
            }
        }
    }
}
