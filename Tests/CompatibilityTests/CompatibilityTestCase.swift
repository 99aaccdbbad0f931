import Foundation
import XCTest

/// Drives the built command-line programs on fixtures; nothing here knows their Swift interfaces.
///
/// Environment: `HSSL_BINARIES` names a folder with other builds of `hssl` and `hssl-extract`; `HSSL_RECORD` is for
/// `tools/make_golden`.
class CompatibilityTestCase: XCTestCase {
    static let precisions = ["float32", "float16", "int8"]
    static let instructionSets = ["scalar", "avx2", "avx512", "avx512vnni", "neon"]
    /// The row that `features/*.npy` were made on.
    static let referenceRow = "avx512vnni"

    private(set) var root = ""

    override func setUpWithError() throws {
        try skipUnlessComparing()
        try makeRoot()
    }

    override func tearDown() { try? FileManager.default.removeItem(atPath: root) }

    func skipUnlessComparing() throws {
        if ProcessInfo.processInfo.environment["HSSL_RECORD"] != nil { throw XCTSkip("values are being recorded") }
    }

    /// A folder of this test with a small data set, `train`.
    func makeRoot() throws {
        root = NSTemporaryDirectory() + "hssl-compatibility-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
        try writeImages(count: 40, side: 12)
    }

    // MARK: Programs

    private static let binaries: String = {
        if let folder = ProcessInfo.processInfo.environment["HSSL_BINARIES"] {
            return URL(fileURLWithPath: folder).path
        }
        // Beside the test bundle, or above it.
        var folder = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath()
        repeat {
            folder.deleteLastPathComponent()
        } while folder.path != "/" && !FileManager.default.isExecutableFile(atPath: folder.path + "/hssl")
        return folder.path
    }()

    struct Answer {
        let status: Int32
        let output: String
        let error: String
    }

    /// Runs `hssl` or `hssl-extract` in the folder of this test, on an instruction-set row if one is named.
    func run(_ tool: String, _ arguments: [String], row: String? = nil) throws -> Answer {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "\(Self.binaries)/\(tool)")
        process.arguments = arguments
        process.currentDirectoryURL = URL(fileURLWithPath: root)
        process.environment = ProcessInfo.processInfo.environment.merging(row.map { ["HSSL_ISA": $0] } ?? [:]) { $1 }
        // Files, not pipes: nobody needs to read while the program runs.
        let streams = ["out", "err"].map { "\(root)/.stream.\($0)" }
        for stream in streams { _ = FileManager.default.createFile(atPath: stream, contents: nil) }
        process.standardOutput = FileHandle(forWritingAtPath: streams[0])
        process.standardError = FileHandle(forWritingAtPath: streams[1])
        process.standardInput = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        let texts = try streams.map { try String(contentsOfFile: $0, encoding: .utf8) }
        return Answer(status: process.terminationStatus, output: texts[0], error: texts[1])
    }

    /// Runs a program that must succeed.
    @discardableResult
    func succeed(_ tool: String, _ arguments: [String], row: String? = nil) throws -> Answer {
        let result = try run(tool, arguments, row: row)
        guard result.status == 0 else {
            throw CompatibilityError("\(tool) \(arguments) ended with \(result.status): \(result.error)")
        }
        return result
    }

    /// The rows that this machine has.
    func availableRows() throws -> [String] {
        let rows = try Self.instructionSets.filter { try run("hssl", ["--version"], row: $0).status == 0 }
        guard !rows.isEmpty else { throw CompatibilityError("\(Self.binaries)/hssl runs on no instruction set") }
        return rows
    }

    // MARK: Files

    func bytes(_ name: String) throws -> Data { try Data(contentsOf: URL(fileURLWithPath: "\(root)/\(name)")) }

    /// An IDX pair of grey images in four classes. Checkpoints know it by its digest: it may never change.
    private func writeImages(count: Int, side: Int) throws {
        func header(_ rank: UInt8, _ dimensions: [Int]) -> [UInt8] {
            [0, 0, 8, rank] + dimensions.flatMap { n in [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: n >> $0) } }
        }
        var images = header(3, [count, side, side]), labels = header(1, [count])
        for image in 0..<count {
            labels.append(UInt8(image % 4))
            for pixel in 0..<side * side {
                let value = image * 37 + pixel * (3 + image % 4) + pixel * pixel * image / 7
                images.append(UInt8(truncatingIfNeeded: value))
            }
        }
        try Data(images).write(to: URL(fileURLWithPath: "\(root)/train-images-idx3-ubyte"))
        try Data(labels).write(to: URL(fileURLWithPath: "\(root)/train-labels-idx1-ubyte"))
    }

    // MARK: What is computed

    /// A model and one kind of features.
    struct FeatureCase {
        /// `shipped-int8`, or `small-` and a precision.
        let model: String
        let features: String
        var key: String { "features/\(model)/\(features)" }
        /// The reference row's answer.
        var file: String { "features/\(model)-\(features).npy" }
        /// With int8 weights the tokens agree on every bit whatever the row. Their mean does not: the scalar row
        /// sums in double.
        var everyRowAgrees: Bool { model.hasSuffix("int8") && !features.contains("mean") }
    }

    static let featureCases = (["shipped-int8"] + precisions.map { "small-" + $0 }).flatMap { model in
        ["cls", "mean", "cls+mean", "patch"].map { FeatureCase(model: model, features: $0) }
    }

    /// The features of the fixture images, as a `.npy` file.
    func features(_ testCase: FeatureCase, _ fixtures: Fixtures, row: String) throws -> Data {
        let model = try fixtures.path("models/\(testCase.model).safetensors")
        var images = try fixtures.names.filter { $0.hasPrefix("images/") }.map { try fixtures.path($0) }
        // 49 patches of 96 values an image: one is enough.
        if testCase.features == "patch", testCase.model == "shipped-int8" { images = Array(images.prefix(1)) }
        let options = ["--model", model, "--output", "features.npy", "--features", testCase.features]
        try succeed("hssl-extract", options + ["--on-error", "fail", "--threads", "1"] + images, row: row)
        return try bytes("features.npy")
    }

    /// A run that was stopped in the middle of its second epoch, in the folder of this test.
    func restoreRun(_ precision: String, _ fixtures: Fixtures, checkpoint: Data) throws {
        try? FileManager.default.removeItem(atPath: "\(root)/run")
        try FileManager.default.createDirectory(atPath: "\(root)/run", withIntermediateDirectories: true)
        for name in ["config.yaml", "metrics.jsonl"] {
            try fixtures.data("runs/\(precision)/\(name)").write(to: URL(fileURLWithPath: "\(root)/run/\(name)"))
        }
        try checkpoint.write(to: URL(fileURLWithPath: "\(root)/run/checkpoint.safetensors"))
    }

    func wholeCheckpoint(_ precision: String, _ fixtures: Fixtures) throws -> Data {
        try OldCheckpoint.whole(try fixtures.data("runs/\(precision)/checkpoint.begin"))
    }

    /// Trains from the start (`short`) or from `run/checkpoint.safetensors` (`resumed`) to the end, with the
    /// old build's resolved recipe as the recipe.
    ///
    /// - Returns: key of `golden.json` → value.
    func train(_ kind: String, _ precision: String, _ fixtures: Fixtures, row: String) throws -> [String: String] {
        if kind == "short" { try? FileManager.default.removeItem(atPath: "\(root)/run") }
        try fixtures.data("runs/\(precision)/config.yaml").write(to: URL(fileURLWithPath: "\(root)/recipe.yaml"))
        let arguments = ["pretrain", "recipe.yaml", "--data", "train", "--output", "run", "--threads", "1"]
        try succeed("hssl", arguments + (kind == "resumed" ? ["--resume"] : []), row: row)
        let key = "\(kind)/\(precision)"
        var values = ["\(key)/loss": try losses(of: bytes("run/metrics.jsonl"))]
        for (group, value) in try tensorChecksums(bytes("run/checkpoint.safetensors"), byGroup: true) {
            values["\(key)/\(group)"] = value
        }
        values["\(key)/model"] = try tensorChecksums(bytes("run/model.safetensors"), byGroup: false)["tensors"]
        return values
    }

    /// The `loss` of every line, as it is written there.
    func losses(of metrics: Data) throws -> String {
        try String(decoding: metrics, as: UTF8.self).split(separator: "\n").map { line in
            guard let start = line.range(of: "\"loss\":")?.upperBound,
                  let end = line[start...].firstIndex(where: { ",}".contains($0) }) else {
                throw CompatibilityError("a line of metrics without a loss: \(line)")
            }
            return String(line[start..<end])
        }.joined(separator: " ")
    }

    static let exports = ["teacher", "student"].flatMap { network in
        precisions.map { (network: network, precision: $0) }
    }

    /// The base that `hssl export` makes of the checkpoint in `run`: key of `golden.json` and value.
    func export(_ run: String, network: String, precision: String, row: String) throws -> (key: String, value: String) {
        let options = ["--output", "export.safetensors", "--network", network, "--precision", precision]
        try succeed("hssl", ["export", "run"] + options, row: row)
        let value = try tensorChecksums(bytes("export.safetensors"), byGroup: false)["tensors"] ?? ""
        return ("export/\(run)/\(network)-\(precision)", value)
    }
}
