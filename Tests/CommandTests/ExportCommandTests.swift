import Foundation
import HSSLFormats
import XCTest

final class ExportCommandTests: CommandTestCase {
    func testPrecisionsAndNetworks() throws {
        try pretrain("run")
        let checkpoint = try SafetensorsFile(path: root + "/run/checkpoint.safetensors")
        for network in ["teacher", "student"] {
            for (precision, largest) in [("float32", 0.0), ("float16", 1.0 / 2048), ("int8", 1.0 / 254)] {
                let name = "\(network)-\(precision).safetensors"
                // Plain codes, which are compared with the weights below.
                let plain = precision == "int8" ? ["--smooth", "off"] : []
                let result = try start(
                    "hssl", ["export", "run", "--output", name, "--network", network, "--precision", precision] + plain
                ).collect()
                XCTAssertEqual(result.status, 0, result.error)
                if precision == "int8" {
                    let figure = #"^int8 against float32: mean cosine (0\.9|1\.0)\d{4}, least \d\.\d{5} over 16 "#
                    XCTAssertNotNil(result.output.range(of: figure, options: .regularExpression), result.output)
                } else {
                    XCTAssertEqual(result.output + result.error, "", "success is silent")
                }
                let file = try SafetensorsFile(path: root + "/" + name)
                XCTAssertFalse(
                    file.names.contains {
                        $0.contains("mask_token") || $0.contains("head") || $0.contains("auxiliary")
                            || $0.contains("prototypes")
                    })
                for (tensor, shape) in [
                    ("cls_token", [1, 1, 96]), ("blocks.3.mlp.fc1.weight", [384, 96]),
                    ("blocks.0.attn.qkv.weight", [288, 96]), ("norm.bias", [96]),
                ] {
                    let wanted = try checkpoint.floats("\(network).base.\(tensor)")
                    let isCoded = precision == "int8" && shape.count == 2
                    let stored = try file.tensor(tensor)
                    XCTAssertEqual(stored.shape, shape)
                    XCTAssertEqual(
                        stored.dtype, isCoded ? .int8 : precision == "float16" ? .float16 : .float32,
                        "\(name) \(tensor)")
                    var found: [Float]
                    if isCoded {
                        let scales = try file.floats(tensor + "_scale", shape: [shape[0], 1])
                        found = try file.values(tensor, as: Int8.self).enumerated().map {
                            Float($0.element) * scales[$0.offset / shape[1]]
                        }
                    } else {
                        found = try file.floats(tensor)
                    }
                    XCTAssertEqual(found.count, wanted.count)
                    // An int8 code is off by half a step of its row at most, a half by half a unit of its row's largest
                    // or of the subnormals.
                    let width = shape.last ?? 1
                    for row in 0..<found.count / width {
                        let (x, y) = (
                            found[row * width..<row * width + width], wanted[row * width..<row * width + width]
                        )
                        let scale = isCoded || precision == "float16" ? y.map(abs).max() ?? 0 : 0
                        let error = zip(x, y).map { abs($0 - $1) }.max() ?? .infinity
                        XCTAssertLessThanOrEqual(
                            Double(error), largest * Double(scale) * 1.01 + (precision == "float16" ? 0x1p-25 : 0),
                            "\(name) \(tensor), row \(row)")
                    }
                }
            }
        }
        XCTAssertTrue(
            try bytes("teacher-float32.safetensors") == bytes("run/model.safetensors"),
            "export of the teacher is the run's model")
        XCTAssertFalse(try bytes("student-float32.safetensors") == bytes("teacher-float32.safetensors"))
        // A checkpoint file will do as well as its folder.
        XCTAssertEqual(
            try run("hssl", "export", "run/checkpoint.safetensors", "--output", "again.safetensors").status, 0)
        XCTAssertTrue(try bytes("again.safetensors") == bytes("run/model.safetensors"))
    }

    func testUnfinishedRunIsExportedWithANote() throws {
        try pretrain("run", "--max-steps", "1")
        let result = try run("hssl", "export", "run", "--output", "early.safetensors")
        XCTAssertEqual(result.status, 0, result.error)
        XCTAssertEqual(result.output, "note: run has done 0 of 2 epochs: hssl pretrain --resume goes on\n")
        XCTAssertEqual(try run("hssl-extract", "--model", "early.safetensors", "t10k", "--output", "e.jsonl").status, 0)
    }

    func testExtractReadsEveryExport() throws {
        try pretrain("run")
        var rows: [String: [[Double]]] = [:]
        for precision in ["float32", "float16", "int8"] {
            XCTAssertEqual(
                try run("hssl", "export", "run", "--output", "\(precision).safetensors", "--precision", precision)
                    .status,
                0)
            let result = try run(
                "hssl-extract", "--model", "\(precision).safetensors", "t10k", "--output", "\(precision).jsonl",
                "--normalize")
            XCTAssertEqual(result.status, 0, result.error)
            rows[precision] = try String(contentsOfFile: "\(root)/\(precision).jsonl", encoding: .utf8).split(
                separator: "\n"
            ).map { line in
                let object = try XCTUnwrap(JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
                return try XCTUnwrap(
                    object.values.compactMap { $0 as? [Double] }.first, "no vector in \(line.prefix(200))")
            }
        }
        let full = try XCTUnwrap(rows["float32"])
        XCTAssertEqual(full.count, 20)
        for (precision, least) in [("float16", 0.99999), ("int8", 0.98)] {
            for (a, b) in zip(full, try XCTUnwrap(rows[precision])) {
                XCTAssertEqual(a.count, 96)
                XCTAssertGreaterThan(zip(a, b).reduce(0) { $0 + $1.0 * $1.1 }, least, precision)
            }
        }
    }

    func testOnnx() throws {
        try pretrain("run")
        XCTAssertEqual(try run("hssl", "export", "run", "--output", "base.safetensors").status, 0)
        for input in ["run", "base.safetensors"] {
            let result = try run("hssl", "export", input, "--output", "\(input).onnx", "--format", "onnx")
            XCTAssertEqual(result.status, 0, result.error)
            XCTAssertEqual(result.output + result.error, "", "success is silent")
        }
        XCTAssertTrue(try bytes("run.onnx") == bytes("base.safetensors.onnx"), "the teacher is the run's model")
        for precision in ["float16", "int8"] {
            let more = precision == "int8" ? ["--calibration", "t10k"] : []
            let result = try start(
                "hssl",
                ["export", "run", "--output", "\(precision).onnx", "--format", "onnx", "--precision", precision] + more
            ).collect()
            XCTAssertEqual(result.status, 0, result.error)
            let figure =
                #"^int8 against float32: mean cosine (0\.99|1\.00)\d{3}, least \d\.\d{5} over 20 images of t10k\n"#
            XCTAssertEqual(
                result.output.range(of: figure, options: .regularExpression) != nil, precision == "int8", result.output)
        }
        let sizes = try ["run", "float16", "int8"].map { try bytes($0 + ".onnx").count }
        XCTAssertGreaterThan(Double(sizes[0]), 1.8 * Double(sizes[1]))
        XCTAssertGreaterThan(Double(sizes[1]), 1.5 * Double(sizes[2]))
        // The version of the format, field 1, comes first.
        XCTAssertEqual(Array(try bytes("int8.onnx").prefix(2)), [0x08, 0x08])

        try assertFails(64, "--format", "export", "run", "--output", "x.onnx", "--format", "tflite")
        try assertFails(
            64, "--calibration is about --precision int8", "export", "run", "--output", "x.onnx", "--format", "onnx",
            "--calibration", "t10k")
        try assertFails(
            1, "none/x.onnx: cannot create a file in its folder", "export", "run", "--output", "none/x.onnx",
            "--format", "onnx")
        try assertFails(
            1, "nope", "export", "run", "--output", "x.onnx", "--format", "onnx", "--precision", "int8",
            "--calibration", "nope")
        XCTAssertEqual(
            try run("hssl", "export", "run", "--output", "int8.safetensors", "--precision", "int8").status, 0)
        try assertFails(
            1, "int8.safetensors: its weights are int8 codes", "export", "int8.safetensors", "--output", "x.onnx",
            "--format", "onnx")
        XCTAssertFalse(exists("x.onnx"))
    }

    /// Weights that are finite, of which float32 makes nothing finite: int8 has nothing to be measured by.
    func testFeaturesThatOverflowAreOneLine() throws {
        try pretrain("run", "--max-steps", "1")
        XCTAssertEqual(try run("hssl", "export", "run", "--output", "base.safetensors").status, 0)
        let base = try SafetensorsFile(path: root + "/base.safetensors")
        var metadata = base.metadata
        metadata["hssl.crc32c"] = nil
        try SafetensorsWriter.write(
            path: root + "/huge.safetensors",
            tensors: base.names.map { name in
                let values = try base.floats(name), isScale = name == "blocks.0.norm1.weight"
                return SafetensorsTensor(
                    name: name, shape: try base.tensor(name).shape, values: isScale ? values.map { _ in 1e38 } : values)
            }, metadata: metadata)
        for format in ["hssl", "hf", "onnx"] {
            try assertFails(
                1, "huge.safetensors: its features are not finite already in float32", "export", "huge.safetensors",
                "--output", "x", "--format", format, "--precision", "int8")
        }
        XCTAssertFalse(exists("x"))
    }

    func testErrors() throws {
        try pretrain("run", "--max-steps", "1")
        try assertFails(
            1, "nope: cannot open: No such file or directory", "export", "nope", "--output", "x.safetensors")
        try assertFails(
            1, "tiny.yaml: not a valid safetensors file", "export", "tiny.yaml", "--output", "x.safetensors")
        try FileManager.default.createDirectory(atPath: root + "/empty", withIntermediateDirectories: true)
        try assertFails(1, "empty/checkpoint.safetensors: cannot open", "export", "empty", "--output", "x.safetensors")
        XCTAssertEqual(try run("hssl", "export", "run", "--output", "base.safetensors").status, 0)
        // A model file is written at another precision; what is int8 stays so.
        let toInt8 = try run(
            "hssl", "export", "base.safetensors", "--output", "int8.safetensors", "--precision", "int8")
        XCTAssertEqual(toInt8.status, 0, toInt8.error)
        XCTAssertTrue(toInt8.output.contains(" over 16 generated images\n"), toInt8.output)
        let calibrated = try run(
            "hssl", "export", "base.safetensors", "--output", "int8.safetensors", "--precision", "int8",
            "--calibration", "t10k", "--smooth", "on")
        XCTAssertEqual(calibrated.status, 0, calibrated.error)
        XCTAssertTrue(calibrated.output.contains(" over 20 images of t10k\nsmoothed: "), calibrated.output)
        try FileManager.default.createDirectory(atPath: root + "/some", withIntermediateDirectories: true)
        for number in 0..<2 {
            try encodePNG(width: 12, height: 12, pixels: [UInt8](repeating: UInt8(90 * number), count: 432))
                .write(to: URL(fileURLWithPath: "\(root)/some/\(number).png"))
        }
        try Data().write(to: URL(fileURLWithPath: root + "/some/bad.png"))
        for format in ["hssl", "onnx"] {
            let some = try run(
                "hssl", "export", "base.safetensors", "--output", "some.out", "--precision", "int8", "--calibration",
                "some", "--format", format)
            XCTAssertEqual(some.status, 0, some.error)
            XCTAssertTrue(
                some.output.contains(" over 2 images of some\n")
                    && some.output.contains("skipped some/bad.png: the file is empty\n"), some.output)
        }
        let stored = try run("hssl", "inspect", "int8.safetensors").output
        XCTAssertTrue(stored.contains(#""calibration":"t10k""#) && stored.contains(#""int8":{"cosine":0.9"#), stored)
        try assertFails(
            1, "nope", "export", "base.safetensors", "--output", "x.safetensors", "--precision", "int8",
            "--calibration", "nope")
        try assertFails(
            64, "--calibration is about --precision int8", "export", "run", "--output", "x.safetensors",
            "--calibration", "t10k")
        try assertFails(64, "--smooth is about", "export", "run", "--output", "x.safetensors", "--smooth", "on")
        try assertFails(
            64, "--smooth", "export", "run", "--output", "x.safetensors", "--precision", "int8", "--smooth", "some")
        try assertFails(
            1, "int8.safetensors: its weights are int8 codes", "export", "int8.safetensors", "--output", "x.safetensors"
        )
        try assertFails(
            1, "none/x.safetensors: cannot create a file in its folder", "export", "run", "--output",
            "none/x.safetensors")
        // What is read is not written over, whatever it is called.
        let checkpoint = try bytes("run/checkpoint.safetensors")
        try FileManager.default.createSymbolicLink(
            atPath: root + "/link.safetensors", withDestinationPath: "base.safetensors")
        for (input, output) in [
            ("run", "run/checkpoint.safetensors"), ("base.safetensors", "base.safetensors"),
            ("base.safetensors", "link.safetensors"), ("link.safetensors", "./base.safetensors"),
        ] {
            for format in ["hssl", "onnx"] {
                try assertFails(
                    1, "\(output): is what is read, and would be lost", "export", input, "--output", output, "--format",
                    format, "--precision", "int8")
            }
        }
        try assertFails(1, "is what is read", "import", "base.safetensors", "--output", "link.safetensors")
        XCTAssertTrue(try bytes("run/checkpoint.safetensors") == checkpoint)
        try assertFails(64, "--precision", "export", "run", "--output", "x.safetensors", "--precision", "int4")
        try assertFails(64, "--network", "export", "run", "--output", "x.safetensors", "--network", "both")
        try assertFails(64, "--output", "export", "run")
        XCTAssertFalse(exists("x.safetensors"))
    }
}
