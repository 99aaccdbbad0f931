import CSupport
import HSSLFormats
import HSSLGraph
import TestSupport
import XCTest

@testable import HSSLModels

final class ModelFileTests: XCTestCase {
    private var folder = ""
    private let pool = BufferPool()
    private func preprocessing() throws -> Preprocessing {
        try Preprocessing(resize: 18, crop: 16, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225])
    }
    private let provenance = {
        var provenance = ModelProvenance(
            method: "hssl", head: "convnext2", data: "fashion", epochs: 10, precision: "float32", version: "0.1.0")
        provenance.schedule = .init(batchSize: 128, learningRate: 0.0025, seed: .max)
        return provenance
    }()

    override func setUpWithError() throws {
        var message = [CChar](repeating: 0, count: 256)
        XCTAssertEqual(hssl_initialize(&message, message.count), 0)
        folder =
            FileManager.default.temporaryDirectory.appendingPathComponent("hssl-model-file-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    }

    override func tearDownWithError() throws { try FileManager.default.removeItem(atPath: folder) }

    private var path: String { folder + "/model.safetensors" }

    private func architecture() throws -> ModelArchitecture {
        try ModelArchitecture(VisionTransformer.Configuration(
            imageSize: 16, patchSize: 4, embedDim: 24, depth: 2, numHeads: 3))
    }

    /// A student whose base has a mask token and a sibling that must not be exported.
    private func network() throws -> ParameterSet {
        let set = ParameterSet()
        _ = try architecture().makeBase(ParameterScope(set)("base"), .pretraining)
        _ = Linear(ParameterScope(set)("head"), inputs: 24, outputs: 8)
        set.allocate(from: pool)
        set.initialize(seed: 4)
        return set
    }

    private func write(_ precision: Precision, _ set: ParameterSet) throws {
        try ModelFile.write(
            path: path, architecture: architecture(), preprocessing: preprocessing(), provenance: provenance,
            precision: precision, parameters: set, prefix: "base.")
    }

    // MARK: Round trip

    func testRoundTrip() throws {
        let set = try network()
        for precision in Precision.allCases {
            try write(precision, set)
            let file = try ModelFile(path: path)
            XCTAssertEqual(file.architecture, try architecture())
            XCTAssertEqual(file.preprocessing, try preprocessing())
            XCTAssertEqual(file.preprocessing.background, .black)
            XCTAssertEqual(file.provenance, provenance)
            XCTAssertEqual(file.precision, precision)
            for parameter in set.all where parameter.name.hasPrefix("base.") && parameter.name != "base.mask_token" {
                let name = String(parameter.name.dropFirst("base.".count))
                let values = try file.values(name)
                XCTAssertEqual(values.count, parameter.count)
                for i in 0..<parameter.count {
                    let (found, expected) = (values[i], parameter.values[i])
                    switch precision {
                    case .float32: XCTAssertEqual(found, expected, name)
                    case .float16: XCTAssertEqual(
                        found, expected, accuracy: max(abs(expected) * 0x1p-11, 0x1p-25), name)
                    case .int8:
                        // Half a step of the row's scale, max|w| / 127, where the weight is a Linear's.
                        let inputs = parameter.count / parameter.shape[0]
                        let row = (0..<inputs).map { abs(parameter.values[i / inputs * inputs + $0]) }
                        let quantized = parameter.shape.count == 2
                        XCTAssertEqual(found, expected, accuracy: quantized ? (row.max() ?? 0) / 254 * 1.001 : 0, name)
                    }
                }
            }
        }
    }

    func testTensorsOfEachPrecision() throws {
        let set = try network()
        let linears = (0..<2).flatMap { block in
            ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"].map { "blocks.\(block).\($0).weight" }
        }
        for precision in Precision.allCases {
            try write(precision, set)
            let file = try SafetensorsFile(path: path)
            XCTAssertEqual(file.metadata["format"], "pt")
            XCTAssertEqual(file.metadata["hssl.format_version"], "1")
            XCTAssertFalse(file.names.contains { $0.contains("mask_token") || $0.contains("head") })
            XCTAssertEqual(try file.tensor("patch_embed.proj.weight").shape, [24, 3, 4, 4])
            XCTAssertEqual(try file.tensor("pos_embed").shape, [1, 17, 24])
            for tensor in file.tensors {
                let expected: SafetensorsDType =
                    switch precision {
                    case .float32: .float32
                    case .float16: .float16
                    case .int8: linears.contains(tensor.name) ? .int8 : .float32
                    }
                XCTAssertEqual(tensor.dtype, expected, tensor.name)
            }
            // 4 outside the blocks and the final norm's 2; 12 a block.
            XCTAssertEqual(file.count, 4 + 2 + 2 * 12 + (precision == .int8 ? linears.count : 0))
            if precision == .int8 { XCTAssertEqual(try file.tensor("blocks.1.mlp.fc2.weight_scale").shape, [24, 1]) }
        }
    }

    func testUnusableValuesAreNotWritten() throws {
        let set = try network()
        try write(.float32, set)
        let before = try Data(contentsOf: URL(fileURLWithPath: path))
        let weight = try XCTUnwrap(set["base.blocks.0.mlp.fc1.weight"])
        weight.values[5] = .nan
        for precision in Precision.allCases {
            XCTAssertThrowsError(try write(precision, set)) {
                XCTAssertTrue("\($0)".contains("'blocks.0.mlp.fc1.weight' holds NaN or infinity"), "\($0)")
            }
        }
        weight.values[5] = 70_000
        XCTAssertThrowsError(try write(.float16, set)) { XCTAssertTrue("\($0)".contains("beyond float16"), "\($0)") }
        XCTAssertEqual(try Data(contentsOf: URL(fileURLWithPath: path)), before)
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: folder), ["model.safetensors"])
    }

    // MARK: Files that must be refused

    /// Writes the good file with changes, its checksum right.
    private func rewrite(
        _ precision: Precision = .float32, metadata change: (inout [String: String]) -> Void = { _ in },
        tensors edit: (inout [SafetensorsTensor]) -> Void = { _ in }
    ) throws {
        try write(precision, network())
        let file = try SafetensorsFile(path: path)
        var metadata = file.metadata
        metadata["hssl.crc32c"] = nil
        change(&metadata)
        var tensors = file.tensors.map { tensor in
            SafetensorsTensor(name: tensor.name, dtype: tensor.dtype, shape: tensor.shape) { sink in
                try tensor.withBytes { try sink($0) }
            }
        }
        edit(&tensors)
        let other = folder + "/changed.safetensors"
        try SafetensorsWriter.write(path: other, tensors: tensors, metadata: metadata)
        try FileManager.default.removeItem(atPath: path)
        try FileManager.default.moveItem(atPath: other, toPath: path)
    }

    private func assertRefused(_ reason: String, line: UInt = #line) {
        XCTAssertThrowsError(try ModelFile(path: path), line: line) { error in
            XCTAssertEqual("\(error)", "\(path): \(reason)", line: line)
        }
    }

    func testTensorsMustBeThoseOfTheModel() throws {
        try rewrite(tensors: { $0.removeAll { $0.name == "norm.bias" } })
        assertRefused("has no tensor 'norm.bias'")
        try rewrite(tensors: { $0.append(SafetensorsTensor(
            name: "head.weight", shape: [2], values: [1, 2] as [Float])) })
        assertRefused("unexpected tensor 'head.weight': the model has none of this name")
        try rewrite(tensors: { tensors in
            tensors.removeAll { $0.name == "norm.bias" }
            tensors.append(SafetensorsTensor(
                name: "norm.bias", shape: [1, 24], values: [Float](repeating: 0, count: 24)))
        })
        assertRefused("tensor 'norm.bias' has shape [1, 24], expected [24]")
        try rewrite(tensors: { tensors in
            tensors.removeAll { $0.name == "norm.bias" }
            tensors.append(SafetensorsTensor(
                name: "norm.bias", shape: [24], float16: [UInt16](repeating: 0, count: 24)))
        })
        assertRefused("tensor 'norm.bias' is F16, expected F32")
        try rewrite(.int8, tensors: { $0.removeAll { $0.name == "blocks.0.mlp.fc1.weight_scale" } })
        assertRefused("has no tensor 'blocks.0.mlp.fc1.weight_scale'")
    }

    func testMetadataMustBeUnderstood() throws {
        try rewrite(metadata: { $0 = ["format": "pt"] })
        assertRefused("not an HSSL model: no hssl.architecture in the metadata")
        try rewrite(metadata: { $0["hssl.format_version"] = "2" })
        assertRefused("hssl.format_version 2 is not supported (this program reads 1)")
        try rewrite(metadata: { $0["hssl.format_version"] = "1.3" })
        XCTAssertNoThrow(try ModelFile(path: path))
        try rewrite(metadata: { $0["hssl.preprocessing"] = nil })
        assertRefused("no hssl.preprocessing in the metadata")

        func change(_ key: String, _ from: String, _ to: String) throws {
            try rewrite(metadata: { $0[key] = $0[key]?.replacingOccurrences(of: from, with: to) })
        }
        try change("hssl.architecture", "\"depth\"", "\"dept\"")
        assertRefused("hssl.architecture: 'depth' is missing")
        try change("hssl.architecture", "\"depth\"", "\"layers\":3,\"depth\"")
        assertRefused("hssl.architecture: unknown key 'layers'")
        try change("hssl.architecture", "\"vit\"", "\"mamba\"")
        assertRefused("hssl.architecture: unknown model family 'mamba' (known: vit, swin, convnext, resnet)")
        try change("hssl.architecture", "\"vit\"", "\"swin\"")
        assertRefused("hssl.architecture: 'depths' is missing")
        try change("hssl.architecture", "\"mlp_ratio\":4", "\"mlp_ratio\":65")
        assertRefused("hssl.architecture: mlp_ratio 65.0 is not supported (above 0, at most 64)")
        try change("hssl.architecture", "\"mlp_ratio\":4", "\"mlp_ratio\":4,\"mlp\":\"relu\"")
        assertRefused("hssl.architecture: unknown mlp 'relu' (known: gelu, swiglu)")
        try change("hssl.architecture", "\"mlp_ratio\":4", "\"mlp_ratio\":4,\"reg_tokens\":2")
        assertRefused(
            "hssl.architecture: reg_tokens 2 need no_embed_class: neither they nor CLS have positions")
        try change("hssl.preprocessing", "\"crop\":16", "\"crop\":8")
        assertRefused("hssl.preprocessing: crop 8 differs from the model's image_size 16")
        try change("hssl.preprocessing", "bicubic", "nearest")
        assertRefused("hssl.preprocessing: unknown interpolation 'nearest' (known: bicubic, bilinear)")
        try change("hssl.preprocessing", "0.229", "0.0")
        assertRefused("hssl.preprocessing: mean must be finite and std positive")
    }

    /// Sizes that the tensors do not have, and tables that a file of some bytes asks for, are refused before anything
    /// is computed from them.
    func testSizesAreNotBelievedBeforeTheTensorsAreLookedAt() throws {
        func write(_ sizes: String, crop: Int) throws {
            try rewrite(metadata: {
                $0["hssl.architecture"] = sizes
                $0["hssl.preprocessing"] = $0["hssl.preprocessing"]?.replacingOccurrences(
                    of: "\"crop\":16", with: "\"crop\":\(crop)"
                ).replacingOccurrences(of: "\"resize\":18", with: "\"resize\":\(crop)")
            })
        }
        let clock = ContinuousClock.now
        try write("""
            {"family":"vit","name":"custom","image_size":512,"patch_size":2,"embed_dim":768,"depth":512,\
            "num_heads":12,"mlp_ratio":4,"in_chans":3}
            """, crop: 512)
        assertRefused("tensor 'cls_token' has shape [1, 1, 24], expected [1, 1, 768]")
        try write("""
            {"family":"vit","name":"custom","image_size":256,"patch_size":1,"embed_dim":16384,"depth":512,\
            "num_heads":1,"mlp_ratio":4,"no_embed_class":true,"reg_tokens":1024,"rope_temperature":100,"in_chans":3}
            """, crop: 256)
        assertRefused(
            "hssl.architecture: rotary positions of 1090535424 elements; at most 67108864 are supported")
        try write("""
            {"family":"swin","name":"custom","image_size":1024,"patch_size":4,"embed_dim":96,"depths":[512],\
            "num_heads":[3],"window_size":7,"mlp_ratio":4,"in_chans":3}
            """, crop: 1024)
        assertRefused(
            "hssl.architecture: window_size 7 makes 1686616064 elements of masks and biases; at most 67108864 are "
                + "supported")
        XCTAssertLessThan(ContinuousClock.now - clock, .seconds(5))
    }

    /// What transparent pictures are on is kept; files without it, and those on black, are as they were.
    func testBackground() throws {
        let set = try network()
        func write(_ background: RGBColor) throws -> ModelFile {
            var images = try preprocessing()
            images.background = background
            try ModelFile.write(
                path: path, architecture: architecture(), preprocessing: images, provenance: provenance,
                precision: .float32, parameters: set, prefix: "base.")
            return try ModelFile(path: path)
        }
        func add(background: String) throws {
            let key = "hssl.preprocessing", crop = "\"crop\":16"
            try rewrite(metadata: {
                $0[key] = $0[key]?.replacingOccurrences(of: crop, with: crop + ",\"background\":" + background)
            })
        }
        XCTAssertEqual(try write(.black).preprocessing.background, .black)
        try add(background: "[0,0,0]")
        XCTAssertEqual(try ModelFile(path: path).preprocessing.background, .black)
        let orange = RGBColor(red: 255, green: 128, blue: 0)
        XCTAssertEqual(try write(orange).preprocessing.background, orange)
        for wrong in ["[255,128]", "[255,128,0,0]", "[256,0,0]", "[-1,0,0]"] {
            try add(background: wrong)
            assertRefused("hssl.preprocessing: background must be three integers from 0 to 255")
        }
        try add(background: "\"white\"")
        assertRefused("hssl.preprocessing: 'background' must be an array, found a string")
    }

    func testHostileSizesAreRefusedAtOnce() throws {
        for (from, to) in [
            ("\"depth\":2", "\"depth\":2147483648"), ("\"depth\":2", "\"depth\":-1"),
            ("\"embed_dim\":24", "\"embed_dim\":0"),
            ("\"embed_dim\":24", "\"embed_dim\":9223372036854775807"),
            ("\"image_size\":16", "\"image_size\":4611686018427387904"),
            ("\"num_heads\":3", "\"num_heads\":5"), ("\"patch_size\":4", "\"patch_size\":0"),
            ("\"in_chans\":3", "\"in_chans\":1"),
            // Sizes that are allowed, but not those of the tensors: 512 blocks of width 16384.
            ("\"embed_dim\":24,\"depth\":2,\"num_heads\":3", "\"embed_dim\":16384,\"depth\":512,\"num_heads\":16"),
        ] {
            try rewrite(metadata: { metadata in
                let text = metadata["hssl.architecture"] ?? ""
                XCTAssertTrue(text.contains(from))
                metadata["hssl.architecture"] = text.replacingOccurrences(of: from, with: to)
            })
            let start = processorTime()
            XCTAssertThrowsError(try ModelFile(path: path), to) { XCTAssertTrue("\($0)".hasPrefix(path), "\($0)") }
            if !isInstrumented { XCTAssertLessThan(processorTime() - start, 0.5, to) }
        }
    }

    func testValuesMustBeFiniteAndInRange() throws {
        try rewrite(tensors: { tensors in
            tensors.removeAll { $0.name == "norm.bias" }
            tensors.append(SafetensorsTensor(
                name: "norm.bias", shape: [24], values: [Float](repeating: .infinity, count: 24)))
        })
        XCTAssertThrowsError(try ModelFile(path: path).values("norm.bias")) {
            XCTAssertTrue("\($0)".contains("'norm.bias' holds NaN or infinity"), "\($0)")
        }
        XCTAssertEqual(try ModelFile(path: path, allowingNonFinite: true).values("norm.bias")[0], .infinity)
        try rewrite(.float16, tensors: { tensors in
            tensors.removeAll { $0.name == "norm.bias" }
            tensors.append(SafetensorsTensor(
                name: "norm.bias", shape: [24], float16: [UInt16](repeating: 0x7E00, count: 24)))
        })
        XCTAssertThrowsError(try ModelFile(path: path).values("norm.bias")) {
            XCTAssertTrue("\($0)".contains("'norm.bias' holds NaN or infinity"), "\($0)")
        }
        let name = "blocks.0.attn.proj.weight"
        try rewrite(.int8, tensors: { tensors in
            tensors.removeAll { $0.name == name }
            tensors.append(SafetensorsTensor(name: name, shape: [24, 24], values: [Int8](repeating: -128, count: 576)))
        })
        XCTAssertThrowsError(try ModelFile(path: path).values(name)) {
            XCTAssertTrue("\($0)".contains("-128"), "\($0)")
        }
        try rewrite(.int8, tensors: { tensors in
            tensors.removeAll { $0.name == name + "_scale" }
            tensors.append(SafetensorsTensor(
                name: name + "_scale", shape: [24, 1], values: [Float](repeating: -1, count: 24)))
        })
        XCTAssertThrowsError(try ModelFile(path: path).values(name)) {
            XCTAssertTrue("\($0)".contains("negative scale"), "\($0)")
        }
    }

    func testPolicyWeightsComeFromTheTrace() throws {
        let policy = try ModelTrace(architecture()).policyWeights
        XCTAssertEqual(policy.count, 8)
        XCTAssertFalse(policy.contains("patch_embed.proj.weight"))
        XCTAssertTrue(policy.contains("blocks.1.attn.qkv.weight"))
    }
}
