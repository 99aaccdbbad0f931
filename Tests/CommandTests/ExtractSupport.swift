import CSupport
import Foundation
import HSSLFormats
import HSSLGraph
import HSSLModels
import XCTest

/// A command that ran to its end.
struct CommandResult {
    let status: Int32
    let output: String
    let error: String
}

/// The executable that was built beside the test bundle.
func builtCommand(_ name: String) -> URL {
    // On Linux the test bundle is the running executable.
    URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
        .appendingPathComponent(name)
}

/// Runs a built command.
///
/// - Parameters:
///   - started: gets the process while it runs (to signal it).
func runCommand(
    _ name: String, _ arguments: [String], input: Data = Data(), environment: [String: String] = [:], in folder: String,
    started: (Process) throws -> Void = { _ in }
) throws -> CommandResult {
    let process = Process()
    process.executableURL = builtCommand(name)
    process.arguments = arguments
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    // Files, not pipes: nothing can fill up while nobody reads.
    let streams = ["in", "out", "err"].map { folder + "/.stream-\(UUID().uuidString)-\($0)" }
    defer { for stream in streams { try? FileManager.default.removeItem(atPath: stream) } }
    try input.write(to: URL(fileURLWithPath: streams[0]))
    for stream in streams.dropFirst() { _ = FileManager.default.createFile(atPath: stream, contents: nil) }
    process.standardInput = FileHandle(forReadingAtPath: streams[0])
    process.standardOutput = FileHandle(forWritingAtPath: streams[1])
    process.standardError = FileHandle(forWritingAtPath: streams[2])
    try process.run()
    try started(process)
    process.waitUntilExit()
    func text(_ path: String) throws -> String {
        String(decoding: try Data(contentsOf: URL(fileURLWithPath: path)), as: UTF8.self)
    }
    return CommandResult(status: process.terminationStatus, output: try text(streams[1]), error: try text(streams[2]))
}

/// A PNG of 8-bit RGB without compression: stored deflate blocks.
func encodePNG(width: Int, height: Int, pixels: [UInt8]) -> Data {
    var rows: [UInt8] = []
    for row in 0..<height {
        rows.append(0)
        rows += pixels[row * width * 3..<(row + 1) * width * 3]
    }
    var compressed: [UInt8] = [0x78, 0x01]
    for start in stride(from: 0, to: rows.count, by: 65535) {
        let block = rows[start..<min(start + 65535, rows.count)]
        let length = UInt16(block.count)
        compressed.append(start + 65535 >= rows.count ? 1 : 0)
        for half in [length, ~length] { compressed += [UInt8(half & 0xFF), UInt8(half >> 8)] }
        compressed += block
    }
    var (a, b) = (UInt32(1), UInt32(0))
    for byte in rows {
        a = (a + UInt32(byte)) % 65521
        b = (b + a) % 65521
    }
    compressed += bigEndian(b << 16 | a)
    var header = bigEndian(UInt32(width))
    header += bigEndian(UInt32(height))
    header += [8, 2, 0, 0, 0]
    var file: [UInt8] = [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]
    for (kind, data) in [("IHDR", header), ("IDAT", compressed), ("IEND", [])] {
        let body = Array(kind.utf8) + data
        file += bigEndian(UInt32(data.count))
        file += body
        file += bigEndian(checksum(body))
    }
    return Data(file)
}

private func bigEndian(_ value: UInt32) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }

/// CRC-32 as PNG has it.
private func checksum(_ bytes: [UInt8]) -> UInt32 {
    var value = ~UInt32(0)
    for byte in bytes {
        value ^= UInt32(byte)
        for _ in 0..<8 { value = value & 1 == 1 ? 0xEDB8_8320 ^ (value >> 1) : value >> 1 }
    }
    return ~value
}

/// A picture that differs from every other by its seed.
func testImage(seed: Int, width: Int, height: Int) -> Data {
    var state = UInt64(seed) &* 0x9E37_79B9_7F4A_7C15 &+ 1
    return encodePNG(width: width, height: height, pixels: (0..<width * height * 3).map { _ in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return UInt8(state >> 56)
    })
}

/// A small vision transformer with random weights.
func writeRandomModel(
    _ path: String, imageSize: Int = 28, embedDim: Int = 24, depth: Int = 1, precision: Precision = .float32,
    background: RGBColor = .black
) throws {
    var message = [CChar](repeating: 0, count: 256)
    XCTAssertEqual(hssl_initialize(&message, message.count), 0)
    let architecture = try ModelArchitecture(
        VisionTransformer.Configuration(
            imageSize: imageSize, patchSize: 7, embedDim: embedDim, depth: depth, numHeads: 3))
    let parameters = ParameterSet()
    _ = architecture.makeBase(ParameterScope(parameters), .deployment)
    parameters.allocate(from: BufferPool())
    parameters.initialize(seed: 1)
    var preprocessing = try Preprocessing(
        resize: imageSize + 4, crop: imageSize, mean: [0.5, 0.4, 0.3], std: [0.2, 0.25, 0.3])
    preprocessing.background = background
    try ModelFile.write(
        path: path, architecture: architecture, preprocessing: preprocessing,
        provenance: ModelProvenance(
            method: "random", head: "none", data: "none", epochs: 0, precision: "float32", version: "test"),
        precision: precision,
        parameters: parameters)
}
