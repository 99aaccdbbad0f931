import Foundation
import HSSLFormats
import XCTest

/// `hssl import` of what other libraries save, and the way there and back through `hssl export --format`.
final class ImportCommandTests: CommandTestCase {
    /// A tiny ViT as DINO saves it (tools/make_import_fixture.py): element i of the n-th tensor is n + i/1000.
    private func fixture() throws -> [UInt8] {
        let folder = try XCTUnwrap(Bundle.module.resourcePath)
        return try Array(Data(contentsOf: URL(fileURLWithPath: folder + "/Fixtures/dino.pth")))
    }

    private func write(_ bytes: [UInt8], _ name: String) throws {
        try Data(bytes).write(to: URL(fileURLWithPath: "\(root)/\(name)"))
    }

    func testACheckpointOfPyTorch() throws {
        try write(fixture(), "dino.pth")
        // Nothing in the file tells heads: a width of 8 is none that is published.
        try assertFails(1, "dino.pth: names and shapes do not tell", "import", "dino.pth", "--output", "m.safetensors")
        try write(Array(#"{"num_heads": 2}"#.utf8), "config.json")
        let result = try run("hssl", "import", "dino.pth", "--output", "m.safetensors")
        XCTAssertEqual(result.status, 0, result.error)
        for part in [
            "conventions of dino, in 'teacher', prefix 'backbone.'", "left out:", "\"image_size\":8",
            "written: m.safetensors, float32",
        ] { XCTAssertTrue(result.output.contains(part), "\(part): \(result.output)") }
        let file = try SafetensorsFile(path: root + "/m.safetensors")
        XCTAssertEqual(file.names.count, 18)
        for (number, name) in file.names.sorted().enumerated() {
            let values = try file.floats(name)
            for (index, value) in values.enumerated() {
                XCTAssertEqual(value, Float(number) + Float(index) / 1000, accuracy: 2e-6, "\(name)[\(index)]")
            }
        }
        XCTAssertEqual(
            try run("hssl-extract", "--model", "m.safetensors", "t10k", "--output", "f.npy").status, 0,
            "an imported model is served")

        let int8 = try run(
            "hssl", "import", "dino.pth", "--output", "int8.safetensors", "--image-size", "12", "--precision", "int8",
            "--calibration", "t10k", "--smooth", "on")
        XCTAssertEqual(int8.status, 0, int8.error)
        XCTAssertTrue(int8.output.contains("positions 2×2 → 3×3: bicubic with DINO's offset"), int8.output)
        XCTAssertTrue(int8.output.contains(" over 20 images of t10k\n"), int8.output)
        let stored = try SafetensorsFile(path: root + "/int8.safetensors")
        XCTAssertEqual(try stored.tensor("blocks.0.mlp.fc1.weight").dtype, .int8)
    }

    func testThereAndBack() throws {
        try pretrain("run", "--max-steps", "1")
        XCTAssertEqual(try run("hssl", "export", "run", "--output", "base.safetensors").status, 0)
        let base = try SafetensorsFile(path: root + "/base.safetensors")
        for format in ["timm", "hf"] {
            let export = try run("hssl", "export", "run", "--output", format, "--format", format)
            XCTAssertEqual(export.status, 0, export.error)
            XCTAssertEqual(
                try FileManager.default.contentsOfDirectory(atPath: root + "/" + format).sorted(),
                ["README.md", "config.json", "model.safetensors"] + (format == "hf" ? ["preprocessor_config.json"] : [])
                    .sorted(), format)
            let result = try run("hssl", "import", "\(format)/model.safetensors", "--output", "back.safetensors")
            XCTAssertEqual(result.status, 0, result.error)
            let back = try SafetensorsFile(path: root + "/back.safetensors")
            XCTAssertEqual(Set(back.names), Set(base.names))
            for name in base.names { XCTAssertEqual(try back.floats(name), try base.floats(name), "\(format) \(name)") }
            XCTAssertEqual(back.metadata["hssl.architecture"], base.metadata["hssl.architecture"])
            XCTAssertEqual(back.metadata["hssl.preprocessing"], base.metadata["hssl.preprocessing"])
        }
    }

    func testFoldersAndCards() throws {
        try pretrain("run", "--max-steps", "1")
        XCTAssertEqual(try run("hssl", "export", "run", "--output", "base.safetensors", "--no-card").status, 0)
        XCTAssertFalse(exists("base.md"))
        XCTAssertEqual(try run("hssl", "export", "run", "--output", "base.safetensors").status, 0)
        let card = try String(contentsOfFile: root + "/base.md", encoding: .utf8)
        for part in ["# base\n", "hssl-extract --model base.safetensors", "auxiliary head convnext1", "image_size 12"] {
            XCTAssertTrue(card.contains(part), "\(part): \(card)")
        }
        // A card that a person wrote is kept, in a folder too.
        try write(Array("mine".utf8), "base.md")
        let kept = try run("hssl", "export", "run", "--output", "base.safetensors")
        XCTAssertEqual(
            kept.output, "note: base.md was not written by hssl export and is kept\n"
                + "note: run has done 0 of 2 epochs: hssl pretrain --resume goes on\n")
        XCTAssertEqual(try String(contentsOfFile: root + "/base.md", encoding: .utf8), "mine")
        XCTAssertEqual(try run("hssl", "export", "run", "--output", "hf", "--format", "hf").status, 0)
        try write(Array("mine".utf8), "hf/README.md")
        // An earlier export is replaced whole: timm has no file for the preparation of images.
        XCTAssertEqual(try run("hssl", "export", "run", "--output", "hf/", "--format", "timm").status, 0)
        XCTAssertEqual(try String(contentsOfFile: root + "/hf/README.md", encoding: .utf8), "mine")
        XCTAssertFalse(exists("hf/preprocessor_config.json"))
        let int8 = try run(
            "hssl", "export", "run", "--output", "int8", "--format", "hf", "--precision", "int8", "--calibration",
            "t10k")
        XCTAssertEqual(int8.status, 0, int8.error)
        let measured = try String(contentsOfFile: root + "/int8/README.md", encoding: .utf8)
        XCTAssertTrue(measured.contains("over 20 images of t10k"), measured)
        XCTAssertTrue(measured.hasPrefix("---\nlibrary_name: transformers\n"), measured)

        try write([1], "hf/thesis.tex")
        try assertFails(
            1, "hf: is a folder that holds 'thesis.tex'", "export", "run", "--output", "hf", "--format", "hf")
        // Nor is a download, whose names are the same, replaced.
        try FileManager.default.createDirectory(atPath: root + "/download", withIntermediateDirectories: true)
        try write([1], "download/model.safetensors")
        try assertFails(
            1, "download/model.safetensors: was not written by hssl export", "export", "run", "--output", "download",
            "--format", "hf")
        try assertFails(
            1, "run: --format timm: timm has no int8", "export", "run", "--output", "x", "--format", "timm",
            "--precision", "int8")
        try assertFails(
            1, "base.safetensors: is a file, and a folder is to be written", "export", "run", "--output",
            "base.safetensors", "--format", "hf")
        try assertFails(64, "--format", "export", "run", "--output", "x", "--format", "tf")
        XCTAssertFalse(exists("x"))
        let left = try FileManager.default.contentsOfDirectory(atPath: root).filter { $0.contains(".tmp-") }
        XCTAssertEqual(left, [])
    }

    func testLicenceAndTeacherReachTheCard() throws {
        try write(fixture(), "dino.pth")
        try write(Array(#"{"num_heads": 2}"#.utf8), "config.json")
        try write(Array("---\ntags:\n- x\nlicense: apache-2.0\n---\n# DINO\n".utf8), "README.md")
        XCTAssertEqual(try run("hssl", "import", "dino.pth", "--output", "m.safetensors").status, 0)
        // As distillation leaves it.
        let model = try SafetensorsFile(path: root + "/m.safetensors")
        var metadata = model.metadata
        metadata["hssl.crc32c"] = nil
        let provenance = try XCTUnwrap(metadata["hssl.provenance"])
        let teacher = #""teacher":{"file":"dinov2.safetensors","hash":"12ab","#
            + #""license":"Apache-2.0","precision":"int8"}"#
        metadata["hssl.provenance"] = provenance.dropLast() + "," + teacher + "}"
        try SafetensorsWriter.write(
            path: root + "/student.safetensors",
            tensors: model.names.map {
                SafetensorsTensor(name: $0, shape: try model.tensor($0).shape, values: try model.floats($0))
            }, metadata: metadata)
        XCTAssertEqual(try run("hssl", "export", "student.safetensors", "--output", "s", "--format", "hf").status, 0)
        let card = try String(contentsOfFile: root + "/s/README.md", encoding: .utf8)
        for part in [
            "license: \"apache-2.0\"", "**Licence:** apache-2.0, as the source",
            "**Teacher:** dinov2.safetensors (int8, licence Apache-2.0, hash 12ab)",
        ] { XCTAssertTrue(card.contains(part), "\(part): \(card)") }
        XCTAssertEqual(
            try run("hssl", "export", "student.safetensors", "--output", "half.safetensors", "--precision", "float16")
                .status, 0)
        let half = try XCTUnwrap(try SafetensorsFile(path: root + "/half.safetensors").metadata["hssl.provenance"])
        XCTAssertTrue(half.contains(teacher), half)
    }

    func testWhatIsSaidOfANameIsOneLine() throws {
        try write(fixture(), "dino.pth")
        try write(Array(#"{"num_heads": 2}"#.utf8), "config.json")
        let result = try run("hssl", "import", "dino.pth", "--output", "a\n\u{202e}b.safetensors")
        XCTAssertEqual(result.status, 0, result.error)
        XCTAssertTrue(
            result.output.hasSuffix("\nwritten: a\\u{a}\\u{202e}b.safetensors, float32\n"), result.output)
        XCTAssertTrue(exists("a\n\u{202e}b.safetensors"))
    }

    func testErrors() throws {
        let bytes = try fixture()
        try write(bytes, "dino.pth")
        try write(Array(bytes.prefix(bytes.count / 2)), "half.pth")
        try write(Array("no checkpoint".utf8), "text.pth")
        try write(Array("{".utf8), "broken.json")
        func fails(_ status: Int32, _ reason: String, _ arguments: String...) throws {
            let result = try start("hssl", ["import"] + arguments).collect()
            XCTAssertEqual(result.status, status, "\(arguments): \(result.error)")
            XCTAssertTrue(result.error.contains(reason), "\(arguments): \(result.error)")
            if status == 1 { XCTAssertEqual(result.errorLines.count, 1, result.error) }
            XCTAssertFalse(exists("x.safetensors"), "\(arguments)")
        }
        try fails(1, "nope.pth: cannot open", "nope.pth", "--output", "x.safetensors")
        try fails(1, "half.pth: ", "half.pth", "--output", "x.safetensors")
        try fails(1, "text.pth: is neither safetensors nor a zip", "text.pth", "--output", "x.safetensors")
        try fails(
            1, "--architecture: unknown architecture", "dino.pth", "--output", "x.safetensors", "--architecture", "vit")
        try fails(1, "--source: unknown source", "dino.pth", "--output", "x.safetensors", "--source", "me")
        try fails(64, "--image-size", "dino.pth", "--output", "x.safetensors", "--image-size", "0")
        try fails(64, "--calibration is about", "dino.pth", "--output", "x.safetensors", "--calibration", "t10k")
        try fails(64, "--smooth is about", "dino.pth", "--output", "x.safetensors", "--smooth", "on")
        try fails(64, "--output", "dino.pth")
        try write(Array(#"{"num_heads": 2}"#.utf8), "config.json")
        try fails(
            1, "holds a network of family vit", "dino.pth", "--output", "x.safetensors", "--architecture", "swin_tiny")
        try fails(1, "image_size 9 is not a multiple", "dino.pth", "--output", "x.safetensors", "--image-size", "9")
        try fails(1, "none/x.safetensors: cannot create a file", "dino.pth", "--output", "none/x.safetensors")
        try fails(
            1, "nope", "dino.pth", "--output", "x.safetensors", "--precision", "int8", "--calibration", "nope")
        try write(Array("{".utf8), "config.json")
        try fails(1, "config.json: ", "dino.pth", "--output", "x.safetensors")
    }
}
