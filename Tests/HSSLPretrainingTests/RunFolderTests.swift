import Foundation
import XCTest
@testable import HSSLPretraining

final class RunFolderTests: XCTestCase {
    private var root = ""

    override func setUpWithError() throws {
        root = NSTemporaryDirectory() + "hssl-run-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
    }

    override func tearDown() { try? FileManager.default.removeItem(atPath: root) }

    private func message(_ body: () throws -> Void) -> String {
        do { try body() } catch { return "\(error)" }
        return "accepted"
    }

    private func line(_ step: Int) -> Metrics {
        var line = Metrics(step: step, epoch: step / 10)
        line.loss = 1.5 / Double(step)
        line.peakRSSBytes = 123_456_789
        return line
    }

    func testExistingRunNeedsResume() throws {
        let path = root + "/runs/a/b/"
        do {
            let run = try RunFolder(path: path, resume: false)
            let recipe = try Recipe.parse(
                "model: {architecture: a, image_size: 8, patch_size: 4}", file: "r", architectures: ["a"])
            try run.writeConfiguration(recipe)
            let text = try String(contentsOfFile: run.configPath, encoding: .utf8)
            XCTAssertEqual(try Recipe.parse(text, file: "c", architectures: ["a"]), recipe)
            XCTAssertFalse(run.hasCheckpoint)
        }
        XCTAssertEqual(
            message { _ = try RunFolder(path: path, resume: false) },
            "\(root)/runs/a/b: holds a run (config.yaml); give --resume to continue it, or another --output")
        _ = try RunFolder(path: path, resume: true)
    }

    func testEmptyFolderIsNewAndAFileIsRefused() throws {
        _ = try RunFolder(path: root, resume: false)
        // The lock file of a run that never began is no run.
        _ = try RunFolder(path: root, resume: false)
        _ = FileManager.default.createFile(atPath: root + "/file", contents: nil)
        XCTAssertEqual(
            message { _ = try RunFolder(path: root + "/file", resume: false) },
            "\(root)/file: exists and is not a folder")
        XCTAssertEqual(message { _ = try RunFolder(path: "", resume: false) }, ": the path is empty")
    }

    func testSecondTrainerIsRefusedUntilTheFirstEnds() throws {
        var first: RunFolder? = try RunFolder(path: root, resume: false)
        XCTAssertNotNil(first)
        try first?.openMetrics(after: 0)
        for resume in [false, true] {
            XCTAssertEqual(
                message { _ = try RunFolder(path: root + "/.", resume: resume, startsIfMissing: true) },
                resume
                    ? "\(root)/.: another trainer is running in this folder"
                    : "\(root)/.: holds a run (metrics.jsonl); give --resume to continue it, or another --output")
        }
        first = nil
        _ = try RunFolder(path: root, resume: true)
    }

    func testMissingRunIsNotBegunByResume() throws {
        let path = root + "/typo/run"
        XCTAssertEqual(
            message { _ = try RunFolder(path: path, resume: true) },
            "\(path): no run to resume; --resume=auto starts one where there is none")
        XCTAssertFalse(FileManager.default.fileExists(atPath: root + "/typo"), "a refused run must leave nothing")
        XCTAssertEqual(
            message { _ = try RunFolder(path: root, resume: true) },
            "\(root): no run to resume; --resume=auto starts one where there is none")
        var run: RunFolder? = try RunFolder(path: path, resume: true, startsIfMissing: true)
        XCTAssertTrue(FileManager.default.fileExists(atPath: path))
        XCTAssertNotNil(run)
        run = nil
        XCTAssertFalse(FileManager.default.fileExists(atPath: root + "/typo"), "nothing was written, nothing is left")
    }

    /// Only what a run made goes with it, and only where it is empty.
    func testFoldersOfOthersStay() throws {
        try FileManager.default.createDirectory(atPath: root + "/there", withIntermediateDirectories: false)
        _ = try RunFolder(path: root + "/there", resume: false)
        XCTAssertTrue(FileManager.default.fileExists(atPath: root + "/there"), "it was there before")

        var run: RunFolder? = try RunFolder(path: root + "/new/run", resume: false)
        try "mine".write(toFile: root + "/new/note.txt", atomically: true, encoding: .utf8)
        XCTAssertNotNil(run)
        run = nil
        XCTAssertFalse(FileManager.default.fileExists(atPath: root + "/new/run"))
        XCTAssertTrue(FileManager.default.fileExists(atPath: root + "/new/note.txt"))

        run = try RunFolder(path: root + "/begun", resume: false)
        try run?.openMetrics(after: 0)
        run = nil
        XCTAssertTrue(FileManager.default.fileExists(atPath: root + "/begun/metrics.jsonl"))
    }

    func testFileSystemsWithoutLocksTrainWithANotice() throws {
        for code in [ENOLCK, ENOSYS, ENOTSUP] {
            let run = try RunFolder(path: root, resume: false, flock: { _ in code })
            XCTAssertEqual(run.lockNotice?.contains("no locks"), true)
        }
        XCTAssertNil(try RunFolder(path: root, resume: false).lockNotice)
        XCTAssertTrue(
            message { _ = try RunFolder(path: root, resume: false, flock: { _ in EIO }) }.contains("cannot lock"))
    }

    /// Lines up to the checkpoint's step stay whatever is wrong with one of them.
    func testADamagedLineDoesNotCutMetrics() throws {
        let run = try RunFolder(path: root, resume: false)
        try run.openMetrics(after: 0)
        for step in 1...9 { try run.append(line(step)) }
        let path = root + "/metrics.jsonl"
        var lines = try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n").map(String.init)
        lines[3] = "\0\0\0\0"
        try (lines.joined(separator: "\n") + "\n").write(toFile: path, atomically: false, encoding: .utf8)
        try run.openMetrics(after: 8)
        XCTAssertEqual(try run.readMetrics().map(\.step), [1, 2, 3, 5, 6, 7, 8])
    }

    func testMetricsResumeWithoutDuplicatesOrHalfLines() throws {
        var run: RunFolder? = try RunFolder(path: root, resume: false)
        try run?.openMetrics(after: 0)
        for step in 1...25 { try run?.append(line(step)) }
        run = nil
        // As kill −9 on a full disk would leave it.
        let path = root + "/metrics.jsonl"
        let handle = try XCTUnwrap(FileHandle(forWritingAtPath: path))
        try handle.seekToEnd()
        try handle.write(contentsOf: Data("{\"step\":26,\"epo".utf8))
        try handle.close()

        let resumed = try RunFolder(path: root, resume: true)
        try resumed.openMetrics(after: 20)
        XCTAssertEqual(try resumed.readMetrics(), (1...20).map(line))
        for step in 21...30 { try resumed.append(line(step)) }
        try resumed.synchronizeMetrics()
        XCTAssertEqual(try resumed.readMetrics(), (1...30).map(line))
        let text = try String(contentsOfFile: path, encoding: .utf8)
        XCTAssertEqual(text.split(separator: "\n").count, 30)
        for row in text.split(separator: "\n") {
            XCTAssertNoThrow(try JSONSerialization.jsonObject(with: Data(row.utf8)))
        }
        try resumed.openMetrics(after: 0)
        XCTAssertEqual(try resumed.readMetrics(), [])
    }

    func testStaleTemporariesAreRemovedAndOthersKept() throws {
        for name in [".checkpoint.safetensors.tmp-1-2", ".model.safetensors.tmp-9-0", ".other.tmp-1-2", "notes.txt"] {
            _ = FileManager.default.createFile(atPath: root + "/" + name, contents: Data([1]))
        }
        _ = try RunFolder(path: root, resume: false)
        XCTAssertEqual(
            Set(try FileManager.default.contentsOfDirectory(atPath: root)), [".other.tmp-1-2", "notes.txt", ".lock"])
    }

    func testMetricsKeysAreThoseOfTheInterface() throws {
        var full = Metrics(step: 3, epoch: 1)
        full.loss = 1
        full.named = ["cls_base": 2, "cls_aux": 3, "patch": 4]
        full.learningRate = 1e-9; full.weightDecay = 0.1
        full.teacherMomentum = 0.99
        full.teacherTemperature = 0.04; full.gradientNorm = 5; full.teacherEntropy = 6; full.featureStd = 7
        full.imagesPerSecond = 8; full.peakRSSBytes = 9; full.skippedSteps = 0; full.knnTop1 = 0.5
        full.int8Saturation = 0.01
        full.int8GradientSaturation = 0.02; full.int8GradientZeros = 0.3; full.int8GradientScaleMean = 1e-7
        full.int8GradientScaleMax = 1e-5
        let object = try XCTUnwrap(JSONSerialization.jsonObject(with: Data(full.json.utf8)) as? [String: Any])
        XCTAssertEqual(
            Set(object.keys),
            [
                "step", "epoch", "loss", "cls_base", "cls_aux", "patch", "lr", "weight_decay", "teacher_momentum",
                "teacher_temperature",
                "gradient_norm", "teacher_entropy", "feature_std", "images_per_second", "peak_rss_bytes",
                "skipped_steps",
                "knn_top1",
                "int8_saturation", "int8_gradient_saturation", "int8_gradient_zeros", "int8_gradient_scale_mean",
                "int8_gradient_scale_max",
            ])
        XCTAssertEqual(Metrics(json: full.json), full)
        var broken = Metrics(step: 1, epoch: 0)
        broken.loss = .nan
        XCTAssertEqual(broken.json, "{\"step\":1,\"epoch\":0,\"loss\":null}")
        var named = Metrics(step: 1, epoch: 0)
        named.named = ["extra": 2]
        XCTAssertEqual(Metrics(json: " { \"step\": 1, \"epoch\": 0, \"extra\": 2 }\r"), named)
        for bad in [
            "", "{", "{}", "{\"step\":1}", "[1]", "{\"step\":1,\"epoch\":0,\"lo", "{\"step\":1.5,\"epoch\":0}",
        ] {
            XCTAssertNil(Metrics(json: bad), bad)
        }
    }
}
