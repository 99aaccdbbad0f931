import Foundation
import HSSLFormats
import XCTest

/// `hssl distill` as a user meets it.
final class DistillCommandTests: CommandTestCase {
    /// A teacher of 12 pixels and patches of 4 (3×3 cells), and a recipe of a student with other cells.
    override func setUpWithError() throws {
        try super.setUpWithError()
        try pretrain("taught", "--max-steps", "1")
        let result = try run("hssl", "export", "taught", "--output", "teacher.safetensors")
        XCTAssertEqual(result.status, 0, result.error)
        try Self.recipe.write(toFile: root + "/distil.yaml", atomically: true, encoding: .utf8)
    }

    private static let recipe = """
        model:      {architecture: vit_nano, image_size: 16, patch_size: 8}
        schedule:   {epochs: 2, batch_size: 16}
        distill:    {anchors: 24, mse_weight: 0.1}
        checkpoint: {every_steps: 2}

        """

    private static let head = ["--set", "auxiliary.family=convnext", "--set", "auxiliary.depth=1"]

    @discardableResult
    private func distill(_ run: String, _ extra: [String] = [], status: Int32 = 0) throws -> Result {
        let result = try start(
            "hssl",
            ["distill", "distil.yaml", "--teacher", "teacher.safetensors", "--data", "train", "--output", run,
             "--threads", "1"] + extra).collect()
        XCTAssertEqual(result.status, status, result.error)
        return result
    }

    func testAnUnfinishedRunNamesItsCommandAtExport() throws {
        try distill("part", ["--max-steps", "1"])
        let result = try run("hssl", "export", "part", "--output", "early.safetensors")
        XCTAssertEqual(result.status, 0, result.error)
        let note = "note: part has done 0 of 2 epochs: hssl distill --resume goes on\n"
        XCTAssertTrue(result.output.hasPrefix(note), result.output)
    }

    func testARunSaysWhatItLearntAndFromWhom() throws {
        let result = try distill("run")
        XCTAssertTrue(
            result.error.contains("teacher: teacher.safetensors (int8, licence not stated, hash "), result.error)
        // k-NN before the first step is no part of that step's time.
        let first = try XCTUnwrap(result.errorLines.first { $0.contains(" 1/8 steps ") }).split(separator: " ")
        let rate = try XCTUnwrap(first.first { $0.hasSuffix("/s") }.flatMap { Double($0.dropLast(2)) })
        let images = try XCTUnwrap(first.firstIndex(of: "images/s").flatMap { Double(first[$0 - 1]) })
        // Both are rounded: to a whole number, to three digits (below 1 to two).
        XCTAssertEqual(rate * 16, images, accuracy: 0.6 + 0.03 * images, result.error)
        XCTAssertTrue(
            result.error.contains("8/8 steps") && result.error.contains("k-NN top-1")
                && result.error.contains(" (untrained) and "), result.error)
        for name in ["config.yaml", "metrics.jsonl", "checkpoint.safetensors", "model.safetensors", "report.html"] {
            XCTAssertTrue(exists("run/" + name), name)
        }
        let lines = try String(contentsOfFile: root + "/run/metrics.jsonl", encoding: .utf8).split(separator: "\n")
        func line(_ index: Int) throws -> [String: Any] {
            try XCTUnwrap(JSONSerialization.jsonObject(with: Data(lines[index].utf8)) as? [String: Any])
        }
        XCTAssertEqual(lines.count, 9, "one line for what the figures lie between, one an update")
        for key in ["knn_untrained", "knn_teacher", "knn_references"] { XCTAssertNotNil(try line(0)[key], key) }
        for key in ["loss", "global_base", "similarity_base", "mse_base", "patch", "feature_std", "knn_top1"] {
            XCTAssertNotNil(try line(8)[key], key)
        }
        XCTAssertNil(try line(8)["cls_base"])
        let report = try String(contentsOfFile: root + "/run/report.html", encoding: .utf8)
        XCTAssertTrue(report.contains("teacher.safetensors"))

        // Who taught it is in the checkpoint, in the run's model and in every export.
        let exported = try run("hssl", "export", "run", "--output", "small-int8.safetensors", "--precision", "int8")
        XCTAssertTrue(
            exported.output.contains("distilled from teacher.safetensors (int8, licence not stated"), exported.output)
        for file in ["run/checkpoint.safetensors", "run/model.safetensors", "small-int8.safetensors"] {
            let shown = try run("hssl", "inspect", file)
            XCTAssertTrue(shown.output.contains("\"file\":\"teacher.safetensors\""), "\(file): \(shown.output)")
        }
        let evaluated = try run(
            "hssl", "evaluate", "knn", "--model", "run/model.safetensors", "--train", "train", "--test", "t10k")
        XCTAssertEqual(evaluated.status, 0, evaluated.error)
        // A student of a student.
        let second = try run(
            "hssl", "distill", "distil.yaml", "--teacher", "small-int8.safetensors", "--data", "train", "--output",
            "second", "--max-steps", "1", "--set", "model.architecture=resnet_micro", "--set", "model.patch_size=null")
        XCTAssertEqual(second.status, 0, second.error)
    }

    func testStoppedAndResumedRunsEqualTheStraightOne() throws {
        try distill("straight", Self.head)
        for (stop, threads) in [("1", "2"), ("5", "1")] {
            try distill("stopped", ["--resume=auto", "--max-steps", stop, "--threads", threads] + Self.head)
        }
        try distill("stopped", ["--resume"] + Self.head)
        XCTAssertTrue(try bytes("straight/checkpoint.safetensors") == bytes("stopped/checkpoint.safetensors"))
        XCTAssertTrue(try bytes("straight/model.safetensors") == bytes("stopped/model.safetensors"))
        // The figures that others lie between were measured once.
        let metrics = try String(contentsOfFile: root + "/stopped/metrics.jsonl", encoding: .utf8)
        XCTAssertEqual(metrics.split(separator: "\n").filter { $0.contains("knn_teacher") }.count, 1)
    }

    func testWhatCannotBeIsOneLine() throws {
        let command = ["distill", "distil.yaml", "--data", "train", "--output", "run"]
        let taught = command + ["--teacher", "teacher.safetensors"]
        func fails(_ status: Int32, _ text: String, _ arguments: [String]) throws {
            let result = try start("hssl", arguments).collect()
            XCTAssertEqual(result.status, status, "\(arguments): \(result.error)")
            XCTAssertEqual(result.errorLines.filter { $0.contains("error") }.count, 1, result.error)
            XCTAssertTrue(result.errorLines.last?.contains(text) == true, "\(result.error) does not say '\(text)'")
        }
        try fails(64, "--teacher", command)
        try fails(
            1, "nope.safetensors: cannot open: No such file or directory",
            command + ["--teacher", "nope.safetensors"])
        try fails(
            1, "taught/checkpoint.safetensors: not an HSSL model",
            command + ["--teacher", "taught/checkpoint.safetensors"])
        try fails(64, "--teacher-precision", taught + ["--teacher-precision", "int4"])
        try fails(
            1, "tiny.yaml: objective.name is ibot; hssl distill takes recipes of objective distill",
            ["distill", "tiny.yaml", "--teacher", "teacher.safetensors", "--data", "train", "--output", "run",
             "--set", "objective.name=ibot"])
        try fails(
            1, "distil.yaml: objective.name is distill, which needs a teacher: hssl distill distil.yaml --teacher FILE",
            ["pretrain", "distil.yaml", "--data", "train", "--output", "run"])
        try fails(64, "is not known to objective ibot, only to objective distill",
                  ["recipe", "tiny.yaml", "--set", "distill.anchors=3"])
        XCTAssertTrue(try run("hssl", "recipe", "distil.yaml").output.contains("  mse_weight: 0.1\n"))
        try fails(64, "distill.draws: must be from 1 to 4096, not 4097", taught + ["--set", "distill.draws=4097"])
        try fails(64, "did you mean anchors?", taught + ["--set", "distill.anchor=3"])
        let codes = try run("hssl", "export", "taught", "--output", "codes.safetensors", "--precision", "int8")
        XCTAssertEqual(codes.status, 0, codes.error)
        try fails(
            1, "codes.safetensors: its weights are int8 codes: the teacher cannot run in float32",
            command + ["--teacher", "codes.safetensors", "--teacher-precision", "float32"])
        XCTAssertFalse(exists("run"), "what fails before the first step leaves nothing behind")
        try fails(
            1, "distill.patch_weight compares cells, and vit_nano's last grid has one",
            taught + ["--set", "model.patch_size=16"])

        try distill("run", ["--max-steps", "2"])
        try fails(1, "run/checkpoint.safetensors: was distilled from another teacher: teacher.safetensors, hash ",
                  command + ["--resume", "--teacher", "codes.safetensors"])
        try fails(1, "run/checkpoint.safetensors: its teacher ran in int8, not float32 (--teacher-precision)",
                  taught + ["--resume", "--teacher-precision", "float32"])
        try fails(1, "was trained on 64 images, t10k has 20",
                  taught + ["--resume", "--data", "t10k"])
        try fails(1, "the run has another recipe: distill.anchors is 24 there, 25 here",
                  taught + ["--resume", "--set", "distill.anchors=25"])
        try fails(1, "--memory-limit: 1M is too little",
                  taught + ["--output", "other", "--memory-limit", "1M"])
    }
}
