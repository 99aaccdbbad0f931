import Foundation
import HSSLData
import HSSLFormats
import HSSLModels
import HSSLRuntime
import XCTest

final class ExtractCommandTests: XCTestCase {
    private var folder = ""
    private var model: String { folder + "/model.safetensors" }

    override func setUpWithError() throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("hssl-extract-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        try writeRandomModel(model)
    }

    override func tearDownWithError() throws { try FileManager.default.removeItem(atPath: folder) }

    private func extract(_ arguments: [String], input: Data = Data(), environment: [String: String] = [:]) throws
        -> CommandResult
    {
        try runCommand(
            "hssl-extract", ["--model", model] + arguments, input: input, environment: environment, in: folder)
    }

    private func write(_ data: Data, _ name: String) throws -> String {
        let path = folder + "/" + name
        try FileManager.default.createDirectory(
            atPath: (path as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
        try data.write(to: URL(fileURLWithPath: path))
        return path
    }

    /// The features of one image by the library.
    private func expected(_ path: String, _ features: Features = .cls, normalize: Bool = false, reduced: Bool = false)
        throws -> [Float]
    {
        let file = try ModelFile(path: model)
        let session = try Session(model: Model(file: file), threads: 1)
        let prepared = file.preprocessing
        let image: [Float] = try prepared.apply(
            to: ImageDecoder.decode(path: path, limits: DecodeLimits(reducedSide: reduced ? 2 * prepared.resize : 0)))
        return try session.extract(images: image, count: 1, features: features, normalize: normalize)
    }

    /// Shape and values of a float32 .npy.
    private func npy(_ path: String) throws -> (shape: [Int], values: [Float]) {
        let data = try Data(contentsOf: URL(fileURLWithPath: path))
        let length = Int(data[8]) | Int(data[9]) << 8
        let header = String(decoding: data[10..<10 + length], as: UTF8.self)
        XCTAssertTrue(header.contains("'<f4'") && header.contains("'fortran_order': False"), header)
        let shape = header.components(separatedBy: "(")[1].components(separatedBy: ")")[0].split(separator: ",")
            .compactMap { Int($0.trimmingCharacters(in: .whitespaces)) }
        return (
            shape,
            data[(10 + length)...].withUnsafeBytes { bytes in
                (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
            }
        )
    }

    private func jsonLines(_ text: String) throws -> [[String: Any]] {
        try text.split(separator: "\n").map {
            try XCTUnwrap(JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])
        }
    }

    private func index(_ output: String) throws -> [[String: Any]] {
        try jsonLines(String(contentsOfFile: output + ".index.jsonl", encoding: .utf8))
    }

    /// A transparent picture is on black, on what the model's file says, or on what the flag says.
    func testBackground() throws {
        let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../HSSLDataTests/Fixtures").standardized.path
        let picture = fixtures + "/rgba.png", output = folder + "/out.npy"
        func features(_ options: [String]) throws -> [Float] {
            let result = try extract([picture, "--output", output] + options)
            XCTAssertEqual(result.status, 0, result.error)
            return try npy(output).values
        }
        func expected(on background: RGBColor) throws -> [Float] {
            let file = try ModelFile(path: model)
            let image = try ImageDecoder.decode(path: picture, background: background)
            return try Session(model: Model(file: file), threads: 1)
                .extract(images: file.preprocessing.apply(to: image), count: 1, features: .cls)
        }
        let onBlack = try expected(on: .black), onWhite = try expected(on: .white)
        XCTAssertNotEqual(onBlack, onWhite)
        XCTAssertEqual(try features([]), onBlack)
        XCTAssertEqual(try features(["--background", "white"]), onWhite)
        XCTAssertEqual(try features(["--background", "#FFFFFF"]), onWhite)
        try writeRandomModel(model, background: .white)
        XCTAssertEqual(try features([]), onWhite)
        XCTAssertEqual(try features(["--background", "black"]), onBlack)
        let result = try extract([picture, "--output", output, "--background", "pink"])
        XCTAssertEqual(result.status, 64)
        XCTAssertTrue(result.error.contains("--background"), result.error)
    }

    /// Exact unless fast is asked for; fast changes large JPEGs only.
    func testJPEGDecode() throws {
        let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent(
            "../HSSLDataTests/Fixtures"
        ).standardized.path
        let (photo, small) = (fixtures + "/photo.jpg", fixtures + "/grey.jpg")
        let output = folder + "/out.npy"
        for (options, reduced) in [
            ([], false), (["--jpeg-decode", "exact"], false), (["--jpeg-decode", "fast"], true),
        ] {
            let result = try extract([photo, small, "--output", output] + options)
            XCTAssertEqual(result.status, 0, result.error)
            XCTAssertEqual(
                try npy(output).values, try expected(photo, reduced: reduced) + expected(small), "\(options)")
        }
        XCTAssertNotEqual(try expected(photo), try expected(photo, reduced: true))
        XCTAssertEqual(try extract([photo, "--output", output, "--jpeg-decode", "slow"]).status, 64)
    }

    // MARK: Many inputs

    func testThousandFilesOfWhichTenAreCorrupt() throws {
        var corrupt: Set<String> = []
        var paths: [String] = []
        for i in 0..<1000 {
            let sizes = [(28, 28), (40, 30), (31, 64), (9, 17)]
            let (width, height) = sizes[i % sizes.count]
            var data = testImage(seed: i, width: width, height: height)
            let name = "images/\(i % 7)/\(1_000_000 + i).\(i % 3 == 0 ? "PNG" : "png")"
            if i % 100 == 37 {
                switch i / 100 % 4 {
                case 0: data = Data()
                case 1: data = data.dropLast(data.count / 2)
                case 2: data = Data("not an image".utf8)
                default: data[60] ^= 0xFF
                }
                corrupt.insert(folder + "/" + name)
            }
            paths.append(try write(data, name))
        }
        let output = folder + "/out.npy"
        let result = try extract([folder + "/images", "--output", output])
        XCTAssertEqual(result.status, 2, result.error)

        let sorted = paths.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        let entries = try index(output)
        XCTAssertEqual(entries.map { $0["path"] as? String }, sorted)
        let failed = entries.filter { $0["error"] != nil }
        XCTAssertEqual(Set(failed.compactMap { $0["path"] as? String }), corrupt)
        XCTAssertTrue(failed.allSatisfy { $0["row"] is NSNull && ($0["error"] as? String)?.isEmpty == false })
        let good = sorted.filter { !corrupt.contains($0) }
        XCTAssertEqual(entries.compactMap { $0["row"] as? Int }, Array(0..<990))

        let (shape, values) = try npy(output)
        XCTAssertEqual(shape, [990, 24])
        for row in stride(from: 0, to: 990, by: 41) {
            XCTAssertEqual(Array(values[row * 24..<(row + 1) * 24]), try expected(good[row]), "row \(row)")
        }
        // Every skipped input is named on standard error, a line each.
        for path in corrupt { XCTAssertEqual(result.error.components(separatedBy: path).count, 2, path) }
    }

    func testBatchSizeAndThreadsDoNotChangeBits() throws {
        for i in 0..<11 { _ = try write(testImage(seed: i, width: 30, height: 30), "images/\(i).png") }
        var outputs: Set<Data> = []
        for (batch, threads) in [(1, 1), (4, 2), (16, 2), (3, 4)] {
            let output = folder + "/b\(batch)t\(threads).npy"
            let result = try extract([
                folder + "/images", "--output", output, "--batch-size", "\(batch)", "--threads", "\(threads)",
            ])
            XCTAssertEqual(result.status, 0, result.error)
            outputs.insert(try Data(contentsOf: URL(fileURLWithPath: output)))
        }
        XCTAssertEqual(outputs.count, 1)
    }

    // MARK: Inputs and outputs

    func testFeaturesAndFormats() throws {
        let images = try (0..<3).map { try write(testImage(seed: $0, width: 40, height: 32), "i\($0).png") }
        for (features, shape) in [
            (Features.cls, [3, 24]), (.mean, [3, 24]), (.clsMean, [3, 48]), (.patch, [3, 16, 24]),
        ] {
            let output = folder + "/\(features.rawValue).npy"
            let result = try extract(images + ["--output", output, "--features", features.rawValue, "--normalize"])
            XCTAssertEqual(result.status, 0, result.error)
            let found = try npy(output)
            XCTAssertEqual(found.shape, shape)
            XCTAssertEqual(found.values, try images.flatMap { try expected($0, features, normalize: true) })
        }
        XCTAssertEqual(try extract(images + ["--output", folder + "/o.csv"]).status, 0)
        let csv = try String(contentsOfFile: folder + "/o.csv", encoding: .utf8).split(separator: "\n")
        XCTAssertTrue(csv[0].hasPrefix("filenames,embedding_0,") && csv.count == 4 && csv[1].hasPrefix(images[0] + ","))
        XCTAssertEqual(csv[3].split(separator: ",").dropFirst().compactMap { Float($0) }, try expected(images[2]))
        XCTAssertEqual(try extract(images + ["--output", folder + "/o.safetensors"]).status, 0)
        XCTAssertEqual(
            try SafetensorsFile(path: folder + "/o.safetensors").floats("embeddings", shape: [3, 24]),
            try images.flatMap { try expected($0) })
    }

    func testPathsOnStandardInput() throws {
        let names = ["b.png", "a\nnewline.png", "c.png"]
        let paths = try names.enumerated().map { try write(testImage(seed: $0, width: 28, height: 28), $1) }
        let result = try extract(["-", "--null", "--output", "-"], input: Data(paths.joined(separator: "\0").utf8))
        XCTAssertEqual(result.status, 0, result.error)
        let lines = try jsonLines(result.output)
        XCTAssertEqual(lines.map { $0["path"] as? String }, paths)
        XCTAssertEqual(lines.map { $0["row"] as? Int }, [0, 1, 2])
        XCTAssertEqual((lines[1]["embedding"] as? [Double])?.map { Float($0) }, try expected(paths[1]))
        let empty = try extract(["-", "--output", "-"])
        XCTAssertEqual(empty.status, 1)
        XCTAssertEqual(empty.error, "hssl-extract: error: there are no inputs: standard input gave no path\n")
    }

    func testIDXPrefix() throws {
        let pixels = (0..<5 * 28 * 28).map { UInt8(truncatingIfNeeded: $0 * 31) }
        _ = try write(Data([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 28, 0, 0, 0, 28] + pixels), "set/test-images-idx3-ubyte")
        let result = try extract([folder + "/set/test", "--output", folder + "/idx.npy"])
        XCTAssertEqual(result.status, 0, result.error)
        XCTAssertEqual(try npy(folder + "/idx.npy").shape, [5, 24])
        XCTAssertEqual(try index(folder + "/idx.npy").count, 5)
        _ = try write(Data([0, 0, 8, 3, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 28]), "set/none-images-idx3-ubyte")
        let empty = try extract([folder + "/set/none", "--output", folder + "/none.npy"])
        XCTAssertEqual(
            empty.error, "hssl-extract: error: there are no inputs: \(folder)/set/none holds no image\n")
    }

    func testHelpAndVersion() throws {
        let help = try extract(["--help"])
        XCTAssertEqual(help.status, 0)
        XCTAssertTrue(help.output.contains("Examples:") && help.output.contains("--memory-limit"))
        let version = try runCommand("hssl-extract", ["--version"], environment: ["HSSL_ISA": "scalar"], in: folder)
        XCTAssertEqual(version.status, 0)
        XCTAssertTrue(
            version.output.hasPrefix("hssl-extract ") && version.output.hasSuffix("(scalar)\n"), version.output)
    }

    // MARK: Errors

    func testUsageErrors() throws {
        let image = try write(testImage(seed: 1, width: 28, height: 28), "i.png")
        for arguments in [
            [image], ["--output", "x.npy"], [image, "--output", "x.npy", "--features", "tokens"],
            [image, "--output", "x.npy", "--batch-size", "0"],
            [image, "--output", "x.parquet"], [image, "--output", "x.csv", "--features", "patch"],
            [image, "--output", "x.npy", "--no-such-flag"],
            [image, "--output", "x.npy", "--threads", "0"], [image, "--output", "x.npy", "--null"],
            [image, "--output", "x.npy", "--memory-limit", "lots"],
        ] {
            let result = try extract(arguments)
            XCTAssertEqual(result.status, 64, "\(arguments)")
            XCTAssertEqual(result.error.split(separator: "\n").count, 1, result.error)
            XCTAssertTrue(result.output.isEmpty)
        }
        XCTAssertTrue(try extract([image, "--output", "x.csv", "--features", "patch"]).error.contains("csv"))
        XCTAssertFalse(FileManager.default.fileExists(atPath: "x.npy"))
    }

    func testFailuresAreOneLineAndLeaveNothing() throws {
        let image = try write(testImage(seed: 1, width: 28, height: 28), "i.png")
        let bad = try write(Data("no".utf8), "bad.png")
        let output = folder + "/out.npy"
        func assertFails(
            _ arguments: [String], _ reason: String, environment: [String: String] = [:], line: UInt = #line
        ) throws {
            let result = try runCommand("hssl-extract", arguments, environment: environment, in: folder)
            XCTAssertEqual(result.status, 1, result.error, line: line)
            let last = result.error.split(separator: "\n").last.map(String.init) ?? ""
            XCTAssertTrue(last.hasPrefix("hssl-extract: error: ") && last.contains(reason), result.error, line: line)
            XCTAssertEqual(
                try FileManager.default.contentsOfDirectory(atPath: folder).filter { $0.contains("out") }, [],
                line: line)
        }
        try assertFails(
            ["--model", folder + "/none.safetensors", image, "--output", output],
            "none.safetensors: cannot open: No such file or directory")
        try assertFails(["--model", image, image, "--output", output], "i.png: ")
        try assertFails(["--model", model, image, "--output", model], "is what is read, and would be lost")
        try assertFails(
            ["--model", model, folder + "/missing.png", "--output", output], "none of the 1 inputs can be used")
        try assertFails(["--model", model, image, bad, "--on-error", "fail", "--output", output], "bad.png")
        try assertFails(["--model", model, image, "--output", folder + "/no/such/out.npy"], "out.npy")
        try assertFails(["--model", model, image, "--output", output], "HSSL_ISA", environment: ["HSSL_ISA": "avx1024"])

        try SafetensorsWriter.write(
            path: folder + "/plain.safetensors",
            tensors: [SafetensorsTensor(name: "norm.bias", shape: [1], values: [0] as [Float])])
        try assertFails(
            ["--model", folder + "/plain.safetensors", image, "--output", output],
            "not an HSSL model: no hssl.architecture in the metadata")
        var damaged = try Data(contentsOf: URL(fileURLWithPath: model))
        damaged[damaged.count - 7] ^= 1
        try assertFails(["--model", write(damaged, "damaged.safetensors"), image, "--output", output], "damaged")
        try assertFails(
            ["--model", write(damaged.dropLast(1000), "short.safetensors"), image, "--output", output],
            "short.safetensors: truncated")
    }

    func testAllBadStopsEarly() throws {
        let paths = try (0..<400).map { try write(Data("no".utf8), "bad/\($0).png") }
        let result = try extract([folder + "/bad", "--output", folder + "/out.npy", "--batch-size", "4"])
        XCTAssertEqual(result.status, 1)
        XCTAssertTrue(result.error.contains("error: none of the first 1"), result.error)
        XCTAssertLessThan(result.error.components(separatedBy: "skipped").count, paths.count / 2)
        XCTAssertFalse(FileManager.default.fileExists(atPath: folder + "/out.npy"))
    }

    func testMemoryLimitIsKeptOrRefused() throws {
        let image = try write(testImage(seed: 1, width: 400, height: 400), "i.png")
        let refused = try extract([image, "--output", folder + "/out.npy", "--memory-limit", "4M"])
        XCTAssertEqual(refused.status, 1)
        XCTAssertTrue(
            refused.error.contains("--memory-limit 4194304 is too small") && refused.error.contains("needs"),
            refused.error)
        let kept = try extract([image, "--output", folder + "/out.npy", "--memory-limit", "400M"])
        XCTAssertEqual(kept.status, 0, kept.error)
    }
}
