import CSupport
import Foundation
import HSSLData
import HSSLFormats
import HSSLGraph
import XCTest

@testable import HSSLModels
@testable import HSSLPretraining

/// A folder, a data set of 64 grey 12 × 12 images in 4 classes and a recipe that takes milliseconds a step.
class TrainerTestCase: XCTestCase {
    private(set) var root = ""
    static let imageCount = 64

    override func setUpWithError() throws {
        var message = [CChar](repeating: 0, count: 256)
        XCTAssertEqual(hssl_initialize(&message, message.count), 0)
        hssl_set_threads(1)
        root = NSTemporaryDirectory() + "hssl-trainer-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
        try Self.writeIDX(prefix: root + "/train", count: Self.imageCount)
    }

    override func tearDown() {
        hssl_set_threads(1)
        try? FileManager.default.removeItem(atPath: root)
    }

    /// - Parameter shade: another value gives other pixels.
    static func writeIDX(prefix: String, count: Int, shade: Int = 0, classes: Int = 4) throws {
        let side = 12
        func header(_ magic: UInt8, _ dimensions: [Int]) -> [UInt8] {
            [0, 0, 8, magic] + dimensions.flatMap { n in
                stride(from: 24, through: 0, by: -8).map { UInt8(truncatingIfNeeded: n >> $0) }
            }
        }
        var images = header(3, [count, side, side]), labels = header(1, [count])
        for image in 0..<count {
            labels.append(UInt8(image % classes))
            for pixel in 0..<side * side {
                images.append(UInt8(
                    truncatingIfNeeded: (
                        image * 37 + pixel * (3 + image % classes) + pixel * pixel * image / 7 + shade) & 0xFF))
            }
        }
        try Data(images).write(to: URL(fileURLWithPath: prefix + "-images-idx3-ubyte"))
        try Data(labels).write(to: URL(fileURLWithPath: prefix + "-labels-idx1-ubyte"))
    }

    /// 2 epochs of 4 steps of 16 images, 9 patches each.
    static let yaml = """
        model:      {architecture: vit_nano, image_size: 12, patch_size: 4, drop_path: 0.1}
        auxiliary:  {family: convnext, depth: 1, kernel_size: 3, first_shortcut: false}
        head:       {hidden_dim: 16, bottleneck_dim: 8, prototypes: 16, norm_last_layer: true}
        objective:  {warmup_teacher_temperature_epochs: 1}
        optimizer:  {warmup_epochs: 1, freeze_prototypes_epochs: 1}
        schedule:   {epochs: 2, batch_size: 16}
        data:       {local_crops: 1, local_crops_size: 8}
        evaluation: {knn_every_epochs: 0}
        checkpoint: {every_steps: 3}
        """

    func recipe(_ overrides: String...) throws -> Recipe {
        try Recipe.parse(Self.yaml, file: "tiny.yaml", architectures: ModelArchitecture.names, overrides: overrides)
    }

    /// A trainer of `root/train` unless `data` says otherwise.
    func trainer(
        _ recipe: Recipe, _ run: String, resume: Bool = false, maxSteps: Int? = nil, loaderThreads: Int = 2,
        memoryLimit: Int? = nil, data: String = "train"
    ) throws -> Trainer {
        var options = PretrainingOptions()
        options.threads = Int(hssl_get_threads())
        options.resume = resume
        options.maxSteps = maxSteps
        options.loaderThreads = loaderThreads
        options.memoryLimit = memoryLimit
        return try Trainer(
            recipe: recipe, dataset: Dataset(path: root + "/" + data), output: root + "/" + run, options: options)
    }

    @discardableResult
    func train(_ recipe: Recipe, _ run: String, resume: Bool = false, maxSteps: Int? = nil, loaderThreads: Int = 2,
               data: String = "train") throws -> Trainer.Summary {
        try trainer(recipe, run, resume: resume, maxSteps: maxSteps, loaderThreads: loaderThreads, data: data)
            .runQuietly()
    }

    func checkpoint(_ run: String) throws -> Data {
        try Data(contentsOf: URL(fileURLWithPath: "\(root)/\(run)/checkpoint.safetensors"))
    }

    /// Compares whole files, and names the tensor or entry that differs.
    func assertSameCheckpoint(
        _ a: String, _ b: String, _ what: String = "", file: StaticString = #filePath, line: UInt = #line
    ) throws {
        let first = try SafetensorsFile(path: "\(root)/\(a)/checkpoint.safetensors"), second = try SafetensorsFile(
            path: "\(root)/\(b)/checkpoint.safetensors")
        XCTAssertEqual(first.names, second.names, what, file: file, line: line)
        XCTAssertGreaterThan(first.count, 100, "a checkpoint without its tensors", file: file, line: line)
        XCTAssertEqual(first.metadata, second.metadata, what, file: file, line: line)
        for name in first.names {
            let (x, y) = (try first.tensor(name), try second.tensor(name))
            XCTAssertTrue(Data(x.bytes) == Data(y.bytes), "\(what): \(name) differs", file: file, line: line)
        }
        XCTAssertTrue(try checkpoint(a) == checkpoint(b), "\(what): the files differ", file: file, line: line)
    }

    func message(_ body: () throws -> Void) -> String {
        do { try body() } catch { return "\(error)".replacingOccurrences(of: root, with: "ROOT") }
        return "accepted"
    }

    func metricsSteps(_ run: String) throws -> [Int] {
        try String(contentsOfFile: "\(root)/\(run)/metrics.jsonl", encoding: .utf8).split(separator: "\n").map { line in
            try XCTUnwrap(Metrics(json: line), "not a line of metrics: \(line)").step
        }
    }

    /// Writes a model with random weights; layer scale and registers make it one that no named architecture has.
    func writeBase(
        _ name: String, isCustom: Bool = false, imageSize: Int = 12, precision: HSSLGraph.Precision = .float32,
        seed: UInt64 = 77
    ) throws {
        var sizes = VisionTransformer.Configuration(
            imageSize: imageSize, patchSize: 4, embedDim: 96, depth: 4, numHeads: 3)
        if isCustom { (sizes.layerScale, sizes.registerTokens, sizes.positionsCoverClass) = (true, 2, false) }
        let architecture = try ModelArchitecture(recognising: sizes)
        XCTAssertEqual(architecture.name, isCustom ? "custom" : "vit_nano")
        let parameters = ParameterSet()
        _ = architecture.makeBase(ParameterScope(parameters), .deployment)
        parameters.allocate(from: BufferPool())
        parameters.initialize(seed: seed)
        try ModelFile.write(
            path: root + "/" + name, architecture: architecture,
            preprocessing: Preprocessing(
                resize: imageSize, crop: imageSize, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]),
            provenance: ModelProvenance(method: "", head: "", data: "", epochs: 0, precision: "", version: ""),
            precision: precision, parameters: parameters)
    }

    func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: root + "/" + path) }
}

extension Trainer {
    @discardableResult
    func runQuietly(stopAfter: Int? = nil, notices: (String) -> Void = { _ in }) throws -> Summary {
        try run(shouldStop: { stopAfter.map { self.step >= $0 } ?? false }, progress: { _, _ in }, notice: notices)
    }
}
