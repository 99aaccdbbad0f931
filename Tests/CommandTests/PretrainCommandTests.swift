import Foundation
import XCTest

final class PretrainCommandTests: CommandTestCase {
    func testRunFolderHoldsWhatItPromises() throws {
        let result = try pretrain("runs/first")
        XCTAssertEqual(result.output, "")
        for name in ["config.yaml", "metrics.jsonl", "checkpoint.safetensors", "model.safetensors", "report.html"] {
            XCTAssertTrue(exists("runs/first/" + name), name)
        }
        XCTAssertTrue(result.error.contains("8/8 steps") && result.error.contains("k-NN top-1"), result.error)
        let lines = try String(contentsOfFile: root + "/runs/first/metrics.jsonl", encoding: .utf8).split(
            separator: "\n")
        XCTAssertEqual(lines.count, 8)
        let last = try XCTUnwrap(JSONSerialization.jsonObject(with: Data(lines[7].utf8)) as? [String: Any])
        for key in [
            "step", "epoch", "loss", "cls_base", "cls_aux", "patch", "lr", "weight_decay", "teacher_momentum",
            "teacher_temperature", "gradient_norm",
            "teacher_entropy", "feature_std", "images_per_second", "peak_rss_bytes", "skipped_steps", "knn_top1",
        ] {
            XCTAssertNotNil(last[key], key)
        }
        // What config.yaml says is the same run.
        let again = try run(
            "hssl", "pretrain", "runs/first/config.yaml", "--data", "train", "--output", "again", "--threads", "2")
        XCTAssertEqual(again.status, 0, again.error)
        XCTAssertTrue(
            try bytes("again/checkpoint.safetensors") == bytes("runs/first/checkpoint.safetensors"),
            "config.yaml or threads change the result")
    }

    func testWrongCommandLines() throws {
        try assertFails(64, "--data", "pretrain", "tiny.yaml", "--output", "run")
        try assertFails(64, "--bogus", "pretrain", "tiny.yaml", "--data", "train", "--output", "run", "--bogus")
        for (flag, value) in [
            ("--epochs", "0"), ("--batch-size", "0"), ("--max-steps", "0"), ("--threads", "0"),
            ("--precision", "int4"), ("--memory-limit", "1x"),
            ("--log-level", "loud"), ("--seed", "x"),
        ] {
            try assertFails(64, flag, "pretrain", "tiny.yaml", "--data", "train", "--output", "run", flag, value)
        }
        try assertFails(
            64, "--set bogus: must be section.key=value", "pretrain", "tiny.yaml", "--data", "train", "--output",
            "run", "--set", "bogus")
        try assertFails(
            64, "did you mean architecture?", "pretrain", "tiny.yaml", "--data", "train", "--output", "run", "--set",
            "model.archtecture=vit_tiny")
        // Far beyond what a batch can be: refused, not searched for divisors.
        for size in ["1048577", "1000000007", "9223372036854775807"] {
            try assertFails(
                64, "--batch-size must be from 1 to 1048576, not \(size)", "pretrain", "tiny.yaml", "--data", "train",
                "--output", "run", "--batch-size", size)
        }
        XCTAssertFalse(exists("run"), "a wrong command line must leave nothing behind")
    }

    func testRecipesAreListedAndResolved() throws {
        let list = try run("hssl", "recipe")
        XCTAssertEqual(list.status, 0, list.error)
        XCTAssertTrue(
            list.output.contains("one of vit_nano") && list.output.contains("\n  knn_every_epochs *\n"), list.output)
        let resolved = try run("hssl", "recipe", "tiny.yaml", "--set", "schedule.seed=3")
        XCTAssertTrue(
            resolved.output.hasPrefix("model:\n  architecture: vit_nano\n")
                && resolved.output.contains("  seed: 3\n"), resolved.output)
        try resolved.output.write(toFile: root + "/resolved.yaml", atomically: true, encoding: .utf8)
        XCTAssertEqual(try run("hssl", "recipe", "resolved.yaml").output, resolved.output)
        try assertFails(64, "--set needs a recipe", "recipe", "--set", "schedule.seed=3")
        try assertFails(64, "did you mean seed?", "recipe", "tiny.yaml", "--set", "schedule.sed=3")
        try assertFails(1, "nope.yaml: cannot open", "recipe", "nope.yaml")
        // What pretrain would refuse whatever the images.
        try assertFails(
            1, "tiny.yaml: objective.name ibot masks patches, and resnet_micro", "recipe", "tiny.yaml",
            "--set", "model.architecture=resnet_micro", "--set", "model.patch_size=null")
    }

    func testWrongFiles() throws {
        try assertFails(
            1, "nope.yaml: cannot open: No such file or directory", "pretrain", "nope.yaml", "--data", "train",
            "--output", "run")
        try Self.yaml.replacingOccurrences(of: "depth: 1", with: "deph: 1").write(
            toFile: root + "/typo.yaml", atomically: true, encoding: .utf8)
        try assertFails(
            1, "typo.yaml:2: unknown key auxiliary.deph; did you mean depth?", "pretrain", "typo.yaml", "--data",
            "train", "--output", "run")
        try assertFails(
            1, "nope: neither a folder nor the prefix of an IDX pair", "pretrain", "tiny.yaml", "--data", "nope",
            "--output", "run")
        try FileManager.default.createDirectory(atPath: root + "/empty", withIntermediateDirectories: true)
        try assertFails(
            1, "empty: the data set has no images", "pretrain", "tiny.yaml", "--data", "empty", "--output", "run")
        try assertFails(
            1, "20 images are fewer than one batch of 32", "pretrain", "tiny.yaml", "--data", "t10k", "--output",
            "run", "--batch-size", "32")
        XCTAssertFalse(exists("run"))
        try assertFails(
            1, "/proc/run: cannot create the folder", "pretrain", "tiny.yaml", "--data", "train", "--output",
            "/proc/run")
        try assertFails(
            1, "tiny.yaml: exists and is not a folder", "pretrain", "tiny.yaml", "--data", "train", "--output",
            "tiny.yaml")
    }

    func testExistingRunAndDamagedCheckpoint() throws {
        try pretrain("run", "--max-steps", "2")
        try assertFails(
            1, "run: holds a run (config.yaml); give --resume to continue it", "pretrain", "tiny.yaml", "--data",
            "train", "--output", "run")
        try assertFails(
            1, "run/checkpoint.safetensors: the run has another recipe: head.prototypes is 16 there, 32 here",
            "pretrain", "tiny.yaml",
            "--data", "train", "--output", "run", "--resume", "--set", "head.prototypes=32")
        let whole = try bytes("run/checkpoint.safetensors")
        try whole.prefix(whole.count / 2).write(to: URL(fileURLWithPath: root + "/run/checkpoint.safetensors"))
        try assertFails(
            1, "run/checkpoint.safetensors: ", "pretrain", "tiny.yaml", "--data", "train", "--output", "run",
            "--resume")
        try assertFails(1, "run/checkpoint.safetensors: ", "export", "run", "--output", "base.safetensors")
        try assertFails(1, "run/checkpoint.safetensors: ", "inspect", "run/checkpoint.safetensors")
        var flipped = whole
        flipped[whole.count - 1000] ^= 4
        try flipped.write(to: URL(fileURLWithPath: root + "/run/checkpoint.safetensors"))
        for command in [
            ["pretrain", "tiny.yaml", "--data", "train", "--output", "run", "--resume"],
            ["export", "run", "--output", "base.safetensors"],
            ["inspect", "run/checkpoint.safetensors"],
        ] {
            let result = try start("hssl", command).collect()
            XCTAssertEqual(result.status, 1, result.error)
            XCTAssertTrue(
                result.error.contains("run/checkpoint.safetensors: ") && result.error.contains("checksum"),
                result.error)
        }
        XCTAssertFalse(exists("base.safetensors"))
    }

    func testUnreadableImagesEndWithStatusTwo() throws {
        let folder = root + "/photos"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let png = try XCTUnwrap(Data(base64Encoded: Self.redPNG))
        for index in 0..<32 { try png.write(to: URL(fileURLWithPath: "\(folder)/\(index).png")) }
        try Data().write(to: URL(fileURLWithPath: folder + "/bad.png"))
        let result = try start("hssl", ["pretrain", "tiny.yaml", "--data", "photos", "--output", "run"]).collect()
        XCTAssertEqual(result.status, 2, result.error)
        XCTAssertTrue(
            result.error.contains("photos/bad.png") && result.error.contains("1 images could not be read"),
            result.error)
        XCTAssertTrue(exists("run/model.safetensors"))
    }

    /// 12 × 12, red.
    private static let redPNG =
        "iVBORw0KGgoAAAANSUhEUgAAAAwAAAAMCAIAAADZF8uwAAAAF0lEQVR4nGM8IafBQAgwEVQxqmgAFAEA6WcBJrp8EXsAAAAASUVORK5CYII="

    func testMemoryLimitIsKeptOrRefused() throws {
        try writeIDX("large", count: 128, side: 28)
        let base = [
            "pretrain", "tiny.yaml", "--data", "large", "--threads", "2", "--set", "model.image_size=28",
            "--batch-size", "64", "--epochs", "1",
        ]
        let refused = try start("hssl", base + ["--output", "refused", "--memory-limit", "20M"]).collect()
        XCTAssertEqual(refused.status, 1)
        let needed = try XCTUnwrap(
            refused.error.range(of: #"needs at least (\d+)M"#, options: .regularExpression).map { refused.error[$0] })
        let least = try XCTUnwrap(Int(needed.filter(\.isNumber)))
        for (name, extra, precision) in [("least", 1, "float32"), ("int8", 30, "int8")] {
            let limit = least + extra
            let result = try start(
                "hssl", base + ["--output", name, "--memory-limit", "\(limit)M", "--precision", precision]
            ).collect()
            XCTAssertEqual(result.status, 0, result.error)
            let last = try XCTUnwrap(
                String(contentsOfFile: "\(root)/\(name)/metrics.jsonl", encoding: .utf8).split(separator: "\n").last)
            let metrics = try XCTUnwrap(JSONSerialization.jsonObject(with: Data(last.utf8)) as? [String: Any])
            let peak = try XCTUnwrap(metrics["peak_rss_bytes"] as? Int)
            XCTAssertLessThanOrEqual(peak, limit << 20, "\(name): --memory-limit was not kept")
            XCTAssertGreaterThan(peak, 10 << 20)
        }
    }

    /// What can never fit is refused before memory is asked for: 1 GB of address space is not enough for the weights.
    func testWeightsBeyondTheLimitAreNotAllocated() throws {
        try writeIDX("large", count: 2500, side: 28)
        let shared = [
            "tiny.yaml", "--data", "large", "--output", "refused", "--memory-limit", "500M", "--threads", "1",
            "--batch-size", "64", "--set", "model.image_size=32", "--set", "model.patch_size=8",
        ]
        for command in [
            ["pretrain", "--set", "model.architecture=vit_base"],
            ["search", "--heads", "convnext,vit", "--set", "auxiliary.width=2048", "--set", "auxiliary.depth=4"],
        ] {
            let refused = try start("hssl", command + shared, shell: "ulimit -v 1000000").collect()
            XCTAssertEqual(refused.status, 1, refused.error)
            XCTAssertTrue(
                refused.error.contains("for weights, gradients and moments alone"), "\(command[0]): \(refused.error)")
        }
    }

    // MARK: A disk that is full

    func testFileSizeLimitWhileSaving() throws {
        try pretrain("run", "--max-steps", "2")
        let before = try bytes("run/checkpoint.safetensors")
        // 1 MiB in blocks of 512 bytes: less than a checkpoint.
        try assertFails(
            1, "run/checkpoint.safetensors: cannot write: File too large", "pretrain", "tiny.yaml", "--data", "train",
            "--output", "run", "--resume",
            "--threads", "1", shell: "ulimit -f 2048")
        try assertWhole("run", before)
    }

    func testFullDiskWhileSaving() throws {
        let disk = root + "/disk"
        try FileManager.default.createDirectory(atPath: disk, withIntermediateDirectories: true)
        func shell(_ command: String) -> Int32 {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/bin/sh")
            process.arguments = ["-c", command]
            process.standardError = FileHandle.nullDevice
            do { try process.run() } catch { return -1 }
            process.waitUntilExit()
            return process.terminationStatus
        }
        // Room for one checkpoint of 8.6 MB, not for a second one beside it.
        try XCTSkipUnless(shell("mount -t tmpfs -o size=12m none '\(disk)'") == 0, "mounting a small disk needs root")
        defer { _ = shell("umount '\(disk)'") }
        try pretrain("disk/run", "--max-steps", "1")
        let before = try bytes("disk/run/checkpoint.safetensors")
        try assertFails(
            1, "disk/run/checkpoint.safetensors: cannot write: No space left on device", "pretrain", "tiny.yaml",
            "--data", "train", "--output",
            "disk/run", "--resume", "--threads", "1")
        try assertWhole("disk/run", before, resumes: false)
        try assertFails(
            1, "disk/base.safetensors: cannot write: No space left on device", "export", "disk/run", "--output",
            "disk/base.safetensors",
            shell: "dd if=/dev/zero of=disk/filler 2>/dev/null")
        XCTAssertFalse(exists("disk/base.safetensors"))
    }

    /// The old checkpoint is there, nothing temporary is, and the run goes on once there is room.
    private func assertWhole(_ run: String, _ before: Data, resumes: Bool = true) throws {
        XCTAssertTrue(try bytes(run + "/checkpoint.safetensors") == before, "the old checkpoint changed")
        let left = try FileManager.default.contentsOfDirectory(atPath: root + "/" + run).filter { $0.contains(".tmp-") }
        XCTAssertEqual(left, [])
        guard resumes else { return }
        try pretrain(run, "--resume")
        try pretrain("straight")
        XCTAssertTrue(try bytes(run + "/checkpoint.safetensors") == bytes("straight/checkpoint.safetensors"))
    }
}
