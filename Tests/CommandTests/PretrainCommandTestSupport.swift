import Foundation
import HSSLFormats
import XCTest

/// Runs the built commands on a tiny data set.
class CommandTestCase: XCTestCase {
    private(set) var root = ""

    struct Result {
        let status: Int32
        let output: String
        let error: String
        /// Lines on standard error that start with `error`, and whatever else a command prints when it fails.
        var errorLines: [Substring] { error.split(separator: "\n") }
    }

    override func setUpWithError() throws {
        root = NSTemporaryDirectory() + "hssl-command-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
        try writeIDX("train", count: 64)
        try writeIDX("t10k", count: 20)
        try Self.yaml.write(toFile: root + "/tiny.yaml", atomically: true, encoding: .utf8)
    }

    override func tearDown() { try? FileManager.default.removeItem(atPath: root) }

    static let yaml = """
        model:      {architecture: vit_nano, image_size: 12, patch_size: 4, drop_path: 0.1}
        auxiliary:  {family: convnext, depth: 1, kernel_size: 3, first_shortcut: false}
        head:       {hidden_dim: 16, bottleneck_dim: 8, prototypes: 16, norm_last_layer: true}
        objective:  {warmup_teacher_temperature_epochs: 1}
        optimizer:  {warmup_epochs: 1, freeze_prototypes_epochs: 1}
        schedule:   {epochs: 2, batch_size: 16}
        data:       {local_crops: 1, local_crops_size: 8}
        evaluation: {knn_every_epochs: 1}
        checkpoint: {every_steps: 1}

        """

    func writeIDX(_ name: String, count: Int, side: Int = 12) throws {
        func header(_ rank: UInt8, _ dimensions: [Int]) -> [UInt8] {
            [0, 0, 8, rank] + dimensions.flatMap { n in
                stride(from: 24, through: 0, by: -8).map { UInt8(truncatingIfNeeded: n >> $0) }
            }
        }
        var images = header(3, [count, side, side]), labels = header(1, [count])
        for image in 0..<count {
            labels.append(UInt8(image % 4))
            for pixel in 0..<side * side {
                images.append(UInt8(
                    truncatingIfNeeded: image * 37 + pixel * (3 + image % 4) + pixel * pixel * image / 7))
            }
        }
        try Data(images).write(to: URL(fileURLWithPath: "\(root)/\(name)-images-idx3-ubyte"))
        try Data(labels).write(to: URL(fileURLWithPath: "\(root)/\(name)-labels-idx1-ubyte"))
    }

    /// The folder that holds the test bundle and the commands.
    static var products: String {
        var folder =
            URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath().deletingLastPathComponent()
        while folder.path != "/", !FileManager.default.isExecutableFile(atPath: folder.path + "/hssl") {
            folder.deleteLastPathComponent()
        }
        return folder.path
    }

    /// - Parameter shell: a line that the shell runs before the command, such as `ulimit -f 100`.
    func start(
        _ tool: String = "hssl", _ arguments: [String], environment: [String: String] = [:], shell: String? = nil,
        input: Data? = nil
    )
        throws -> (process: Process, collect: () throws -> Result)
    {
        let process = Process()
        let path = Self.products + "/" + tool
        try XCTSkipUnless(FileManager.default.isExecutableFile(atPath: path), "\(tool) is not built beside the tests")
        process.executableURL = URL(fileURLWithPath: shell == nil ? path : "/bin/sh")
        process.arguments = shell.map { ["-c", "\($0); exec \"$0\" \"$@\"", path] + arguments } ?? arguments
        process.currentDirectoryURL = URL(fileURLWithPath: root)
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        // Files, not pipes: nobody needs to read while the command runs.
        let name = UUID().uuidString
        for suffix in ["out", "err"] {
            _ = FileManager.default.createFile(atPath: "\(root)/\(name).\(suffix)", contents: nil)
        }
        process.standardOutput = try FileHandle(forWritingTo: URL(fileURLWithPath: "\(root)/\(name).out"))
        process.standardError = try FileHandle(forWritingTo: URL(fileURLWithPath: "\(root)/\(name).err"))
        process.standardInput = FileHandle.nullDevice
        // Under nohup these tests ignore SIGHUP, and so would the command, as it should.
        let inherited = signal(SIGHUP, SIG_DFL)
        defer { signal(SIGHUP, inherited) }
        try process.run()
        let root = self.root
        return (process, {
            process.waitUntilExit()
            let status = process.terminationReason == .exit
                ? process.terminationStatus : 1000 + process.terminationStatus
            return Result(
                status: status, output: try String(contentsOfFile: "\(root)/\(name).out", encoding: .utf8),
                error: try String(contentsOfFile: "\(root)/\(name).err", encoding: .utf8).replacingOccurrences(
                    of: root, with: "ROOT"))
        })
    }

    func run(
        _ tool: String = "hssl", _ arguments: String..., environment: [String: String] = [:], shell: String? = nil
    ) throws -> Result {
        try start(tool, arguments, environment: environment, shell: shell).collect()
    }

    /// Expects failure with exactly one line of error.
    func assertFails(
        _ status: Int32, _ text: String, _ arguments: String..., environment: [String: String] = [:],
        shell: String? = nil, file: StaticString = #filePath, line: UInt = #line
    ) throws {
        let result = try start("hssl", arguments, environment: environment, shell: shell).collect()
        XCTAssertEqual(result.status, status, "\(arguments): \(result.error)", file: file, line: line)
        XCTAssertTrue(
            result.errorLines.last?.hasPrefix("hssl: error: ") == true, "\(arguments): \(result.error)", file: file,
            line: line)
        XCTAssertEqual(
            result.errorLines.filter { $0.contains("error") }.count, 1, "\(arguments): \(result.error)", file: file,
            line: line)
        XCTAssertTrue(
            result.errorLines.last?.contains(text) == true, "\(arguments): \(result.error) does not say '\(text)'",
            file: file, line: line)
        XCTAssertEqual(result.output, "", "\(arguments): an error belongs on standard error", file: file, line: line)
    }

    /// A trained run, made once a test.
    @discardableResult
    func pretrain(_ run: String, _ extra: String...) throws -> Result {
        let result = try start(
            "hssl", ["pretrain", "tiny.yaml", "--data", "train", "--output", run, "--threads", "1"] + extra).collect()
        XCTAssertEqual(result.status, 0, result.error)
        return result
    }

    func bytes(_ path: String) throws -> Data { try Data(contentsOf: URL(fileURLWithPath: root + "/" + path)) }
    func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: root + "/" + path) }
}
