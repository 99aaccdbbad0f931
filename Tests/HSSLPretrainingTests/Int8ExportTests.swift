import CSupport
import Foundation
import HSSLFormats
import HSSLGraph
import HSSLRuntime
import XCTest

@testable import HSSLModels
@testable import HSSLPretraining

/// int8 exports are measured, and channels that drown the others in their codes are made small where that is free.
final class Int8ExportTests: XCTestCase {
    private var root = ""

    override func setUpWithError() throws {
        var message = [CChar](repeating: 0, count: 256)
        XCTAssertEqual(hssl_initialize(&message, message.count), 0)
        root = NSTemporaryDirectory() + "hssl-int8-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
    }

    override func tearDown() { try? FileManager.default.removeItem(atPath: root) }

    private let architectures: [(name: String, groups: Int)] = [
        // norm1 and norm2 and V of 4 blocks; the same of 4 blocks and a merging norm; 4 blocks and a downsampling norm;
        // two of three norms of 4 blocks and the stem's.
        ("vit_nano", 12), ("swin_micro", 13), ("convnext_micro", 5), ("resnet_micro", 9),
    ]

    /// A deployed model with random weights.
    private final class Network {
        let architecture: ModelArchitecture
        let trace: ModelTrace
        let preprocessing: Preprocessing
        let parameters = ParameterSet()

        init(_ name: String) throws {
            architecture = try ModelArchitecture(named: name, imageSize: 28, patchSize: name == "vit_nano" ? 4 : nil)
            trace = ModelTrace(architecture)
            preprocessing = try Preprocessing(resize: 28, crop: 28, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25])
            _ = architecture.makeBase(ParameterScope(parameters), .deployment)
            parameters.allocate(from: BufferPool())
            parameters.initialize(seed: 3)
            var random = CounterRandom(seed: 3, stream: 5, 0)
            // Weights of the size that training gives them, layer scale that lets its branch through.
            for parameter in parameters.all {
                let spread: Float = parameter.name.hasSuffix("gamma") ? 0.5 : 0.05
                for i in 0..<parameter.count { parameter.values[i] += random.uniform(-spread, spread) }
            }
        }

        func values(_ name: String) -> [Float] {
            guard let parameter = parameters[name] else { return [] }
            return Array(UnsafeBufferPointer(start: parameter.values, count: parameter.count))
        }

        /// Multiplies one channel of a group where it is made and divides it where it is read.
        func addOutlier(_ group: ChannelGroup, channel: Int, factor: Float) {
            for maker in group.makers {
                guard let parameter = parameters[maker.name] else { continue }
                let width = parameter.count / parameter.shape[0]
                for i in 0..<width { parameter.values[(maker.rows.lowerBound + channel) * width + i] *= factor }
            }
            for reader in group.readers {
                guard let parameter = parameters[reader] else { continue }
                let area = parameter.shape.count == 4 ? parameter.shape[2] * parameter.shape[3] : 1
                for i in 0..<parameter.count where i / area % group.channels == channel {
                    parameter.values[i] /= factor
                }
            }
            for parameter in parameters.all { parameter.valuesDidChange() }
        }

        func write(_ path: String) throws {
            try ModelFile.write(
                path: path, architecture: architecture, preprocessing: preprocessing,
                provenance: ModelProvenance(method: "", head: "", data: "", epochs: 0, precision: "", version: ""),
                precision: .float32, parameters: parameters)
        }
    }

    private func images(_ count: Int) -> [Float] {
        var random = CounterRandom(seed: 9, stream: 1, 1)
        return (0..<count * 3 * 28 * 28).map { _ in random.normal() }
    }

    private func features(_ path: String) throws -> [[Float]] {
        let session = try Session(model: Model(path: path), threads: 1)
        let all = try session.extract(images: images(4), count: 4)
        let width = all.count / 4
        return (0..<4).map { Array(all[$0 * width..<($0 + 1) * width]) }
    }

    func testGroupsAreFoundAndTheirScalesMoveExactly() throws {
        for (name, count) in architectures {
            let network = try Network(name)
            let groups = network.trace.channelGroups
            XCTAssertEqual(groups.count, count, "\(name): \(groups.map { $0.makers[0].name })")
            if name == "vit_nano" {
                XCTAssertEqual(groups[0].makers.map(\.name), ["blocks.0.norm1.weight", "blocks.0.norm1.bias"])
                XCTAssertEqual(groups[0].readers, ["blocks.0.attn.qkv.weight"])
                XCTAssertEqual(groups[1].makers.map(\.name), ["blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias"])
                XCTAssertEqual(groups[1].makers.map(\.rows), [192..<288, 192..<288])
                XCTAssertEqual(groups[1].readers, ["blocks.0.attn.proj.weight"])
                XCTAssertEqual(groups[2].readers, ["blocks.0.mlp.fc1.weight"])
            }
            for (index, group) in groups.enumerated() {
                network.addOutlier(group, channel: index % group.channels, factor: 64)
            }
            let calibration = Calibration(network.architecture, values: network.values)
            let prepared = CalibrationImages(generatedFor: network.preprocessing).images
            XCTAssertEqual(prepared.count, 16)
            XCTAssertTrue(prepared.allSatisfy { $0.count == 3 * 28 * 28 })
            XCTAssertGreaterThan(prepared.map { Set($0).count }.min() ?? 0, 20, "pictures of something")
            XCTAssertGreaterThan(Set(prepared.flatMap { $0 }).count, 200)
            let scaling = ChannelScaling(
                network.trace, ranges: calibration.ranges(Array(prepared.prefix(2))), values: network.values)
            XCTAssertEqual(scaling.groupCount, count, name)
            try network.write(root + "/before.safetensors")
            let before = try features(root + "/before.safetensors")
            for parameter in network.parameters.all {
                let moved = scaling.values(network.values(parameter.name), of: parameter.name, shape: parameter.shape)
                parameter.values.update(from: moved, count: moved.count)
            }
            try network.write(root + "/after.safetensors")
            // Powers of two; sums alone may be rounded otherwise (products of sums of columns).
            for (x, y) in zip(before, try features(root + "/after.safetensors")) {
                let largest = x.map(abs).max() ?? 0
                let error = zip(x, y).map { abs($0 - $1) }.max() ?? .infinity
                XCTAssertLessThan(error, 1e-4 * largest, "\(name): another function")
            }
        }
    }

    func testOutlierChannelsAreMeasuredAndRemedied() throws {
        for (name, _) in architectures {
            for factor in name == "vit_nano" ? [Float(1), 100, 1000] : [1000] {
                let network = try Network(name)
                if factor > 1 {
                    for group in network.trace.channelGroups { network.addOutlier(group, channel: 3, factor: factor) }
                }
                let plain = root + "/plain.safetensors"
                try network.write(plain)
                let wanted = try features(plain)
                var found: [Smoothing: Double] = [:]
                for smoothing in [Smoothing.off, .auto] {
                    let output = root + "/\(smoothing).safetensors"
                    let measured = try XCTUnwrap(
                        BaseExport.export(
                            model: plain, to: output, precision: .int8, int8: Int8Options(smoothing: smoothing)))
                    // Other images than those measured over.
                    let seen = try zip(wanted, features(output)).map { cosine($0, $1) }
                    let mean = seen.reduce(0, +) / Double(seen.count)
                    found[smoothing] = mean
                    let label =
                        "\(name) × \(factor), \(smoothing): measured \(measured.figures.meanCosine), seen \(mean)"
                    print(label)
                    if smoothing != .off {
                        XCTAssertEqual(measured.figures.meanCosine, mean, accuracy: 0.001, label)
                    }
                    XCTAssertLessThanOrEqual(measured.figures.leastCosine, measured.figures.meanCosine)
                    XCTAssertEqual(try ModelFile(path: output).provenance.int8, measured.figures)
                    XCTAssertEqual(try ModelFile(path: output).precision, .int8)
                    XCTAssertEqual(measured.warning == nil, measured.figures.meanCosine >= 0.99, label)
                    XCTAssertTrue(measured.lines[0].hasPrefix("int8 against float32: mean cosine "))
                    if smoothing == .off {
                        XCTAssertEqual(measured.figures.smoothedGroups, 0)
                        if factor == 1000 { XCTAssertLessThan(mean, 0.99, label) }
                        if factor == 1000, name == "vit_nano" {
                            let reader = ".attn.qkv.weight 0."
                            XCTAssertTrue(
                                measured.warning?.contains(reader) == true,
                                "\(measured.warning ?? "") should name \(reader)")
                        }
                    } else {
                        XCTAssertGreaterThanOrEqual(measured.figures.meanCosine, 0.999, label)
                        XCTAssertGreaterThanOrEqual(mean, 0.999, label)
                        if measured.figures.smoothedGroups > 0, smoothing == .auto {
                            XCTAssertGreaterThan(mean, found[.off] ?? 1, label)
                        }
                    }
                    if smoothing == .auto, factor == 1, measured.figures.smoothedGroups == 0 {
                        XCTAssertEqual(try readFile(at: output), try readFile(at: root + "/off.safetensors"))
                    }
                }
            }
        }
    }
}
