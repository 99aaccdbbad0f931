import Foundation
import XCTest

/// Folders, lists and machines as people have them.
final class InputCommandTests: CommandTestCase {
    override func setUpWithError() throws {
        try super.setUpWithError()
        try writeRandomModel(root + "/model.safetensors")
    }

    private func write(_ names: [String], side: Int = 12) throws {
        for (seed, name) in names.enumerated() {
            let url = URL(fileURLWithPath: root + "/" + name)
            try FileManager.default.createDirectory(
                at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
            try testImage(seed: seed, width: side, height: side).write(to: url)
        }
    }

    private func extract(_ arguments: String..., environment: [String: String] = [:], shell: String? = nil) throws
        -> Result
    {
        try start(
            "hssl-extract", ["--model", "model.safetensors", "--threads", "2"] + arguments, environment: environment,
            shell: shell
        ).collect()
    }

    func testClosedDescriptorsHoldNoFile() throws {
        try write(["a.png", "b.png"])
        XCTAssertEqual(try extract("a.png", "b.png", "--output", "open.csv").status, 0)
        for closed in ["2>&-", "1>&-", "0<&-", "0<&- 1>&- 2>&-"] {
            let result = try extract("a.png", "b.png", "--output", "closed.csv", shell: "exec \(closed)")
            XCTAssertEqual(result.status, 0, closed)
            XCTAssertEqual(try bytes("closed.csv"), try bytes("open.csv"), closed)
        }
        XCTAssertEqual(try extract("a.png", "--output", "-", shell: "exec 1>&-").status, 1, "nobody gets the lines")
        let run = try start(
            "hssl", ["pretrain", "tiny.yaml", "--data", "train", "--output", "closed", "--max-steps", "1"],
            shell: "exec 2>&-"
        ).collect()
        XCTAssertEqual(run.status, 0)
        XCTAssertTrue(try String(decoding: bytes("closed/metrics.jsonl"), as: UTF8.self).hasPrefix("{\"step\":1"))
    }

    func testOneBadFolderCostsItselfAlone() throws {
        try write(["set/a/1.png", "set/b/2.png", "set/@eaDir/3.png", "set/notes.txt"])
        try FileManager.default.createSymbolicLink(atPath: root + "/set/b/up", withDestinationPath: "..")
        let result = try extract("set", "--output", "o.csv")
        XCTAssertEqual(result.status, 2, result.error)
        XCTAssertEqual(try String(decoding: bytes("o.csv"), as: UTF8.self).split(separator: "\n").count, 3)
        XCTAssertTrue(result.error.contains("skipped set/b/up: symbolic link loop"), result.error)
        XCTAssertTrue(
            result.error.contains(
                "2 images in 2 folders (2 .png); passed over: 1 file (1 .txt), 1 system folder (1 @eaDir)"),
            result.error)
    }

    func testBadFilesThatSortFirst() throws {
        try write((0..<8).map { "set/z\($0).png" })
        for k in 0..<150 { try Data().write(to: URL(fileURLWithPath: "\(root)/set/a\(k).png")) }
        let result = try extract("set", "--output", "o.csv", "--batch-size", "2")
        XCTAssertEqual(result.status, 2, result.error)
        XCTAssertEqual(try String(decoding: bytes("o.csv"), as: UTF8.self).split(separator: "\n").count, 9)
    }

    func testManyArguments() throws {
        try write(["a.png"])
        // Parsed in the square of their number, 20,000 took more than 10 s.
        let paths = (0..<20_000).map { _ in "a.png" }
        let begin = Date()
        let result = try start(
            "hssl-extract",
            ["--model", "model.safetensors"] + paths + ["--threads", "2", "--output", "many.npy", "--", "a.png"]
        ).collect()
        XCTAssertEqual(result.status, 0, result.error)
        XCTAssertEqual(
            try String(decoding: bytes("many.npy.index.jsonl"), as: UTF8.self).split(separator: "\n").count, 20_001)
        XCTAssertLessThan(Date().timeIntervalSince(begin), 60)
        for (arguments, text) in [
            (["--bogus"], "--bogus"), (["--threads"], "--threads"), (["--threads", "0"], "--threads must be"),
            (["--null"], "--null"),
        ] {
            let wrong = try start(
                "hssl-extract", ["--model", "model.safetensors", "--output", "x.npy"] + paths.prefix(100) + arguments
            ).collect()
            XCTAssertEqual(wrong.status, 64, wrong.error)
            XCTAssertTrue(wrong.error.contains(text), wrong.error)
        }
    }

    /// The options that `HSSLExtract.valueOptions` lists are those that take a value.
    func testEveryOptionIsTakenWithItsValue() throws {
        try write(["a.png"])
        let help = try run("hssl-extract", "--experimental-dump-help").output
        let tool = try XCTUnwrap(JSONSerialization.jsonObject(with: Data(help.utf8)) as? [String: Any])
        let arguments = try XCTUnwrap((tool["command"] as? [String: Any])?["arguments"] as? [[String: Any]])
        let options = arguments.filter { $0["kind"] as? String == "option" }.compactMap {
            ($0["preferredName"] as? [String: Any])?["name"] as? String
        }
        XCTAssertGreaterThan(options.count, 5)
        let many = [String](repeating: "a.png", count: 70)
        for option in options {
            // A value that is no file: taken for an input, it would be one more.
            let value = [
                "model": "model.safetensors", "output": "each.csv", "features": "mean", "batch-size": "3",
                "on-error": "fail", "memory-limit": "2G",
                "max-pixels": "300M", "max-decode-memory": "1G", "jpeg-decode": "fast", "background": "white",
                "threads": "1", "log-level": "debug",
            ][option]
            var line = ["--\(option)", try XCTUnwrap(value, option)] + many
            if option != "model" { line += ["--model=model.safetensors"] }
            if option != "output" { line += ["--output=each.csv"] }
            let result = try start("hssl-extract", line).collect()
            XCTAssertEqual(result.status, 0, "\(option): \(result.error)")
        }
    }

    func testOddEnvironmentsAndNoThreads() throws {
        try write((0..<20).map { "set/\($0).png" })
        XCTAssertEqual(try extract("set", "--output", "plain.csv").status, 0)
        for (name, value) in [
            ("OMP_STACKSIZE", "1"), ("OMP_STACKSIZE", "900G"), ("OMP_NUM_THREADS", "x"), ("OMP_NUM_THREADS", "-3"),
            ("KMP_STACKSIZE", "900G"),
            ("GOMP_STACKSIZE", "900G"), ("KMP_STACKOFFSET", "900G"), ("OMP_THREAD_LIMIT", "1"), ("OMP_PLACES", "{0,1"),
        ] {
            let result = try extract("set", "--output", "odd.csv", environment: [name: value])
            XCTAssertEqual(result.status, 0, "\(name)=\(value): \(result.error)")
            XCTAssertEqual(try bytes("odd.csv"), try bytes("plain.csv"), "\(name)=\(value)")
        }
        try XCTSkipIf(getuid() != 0, "setting a limit for another user needs root")
        // A user that has no process yet and may have no second thread.
        XCTAssertEqual(chmod(root, 0o777), 0)
        let limited = try start(
            "hssl-extract", ["--model", "model.safetensors", "--threads", "2", "set", "--output", "limited.csv"],
            shell: #"exec setpriv --reuid=61234 --clear-groups prlimit --nproc=1 "$0" "$@""#
        ).collect()
        try XCTSkipIf(limited.error.contains("setpriv") || limited.error.contains("prlimit"), limited.error)
        XCTAssertEqual(limited.status, 0, limited.error)
        XCTAssertEqual(
            limited.error.components(separatedBy: "the system starts only 0 of 3 threads; going on with 1 of 2").count,
            2, limited.error)
        XCTAssertEqual(try bytes("limited.csv"), try bytes("plain.csv"))
    }

    // MARK: Classes

    func testClassesAreMatchedByName() throws {
        for (side, form) in [("tr", "caf\u{e9}"), ("te", "cafe\u{301}")] {
            for (shade, name) in [form, "cafz", "zoo"].enumerated() {
                for k in 0..<4 {
                    let url = URL(fileURLWithPath: "\(root)/\(side)/\(name)/\(k).png")
                    try FileManager.default.createDirectory(
                        at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
                    let colour = (0..<3).map { UInt8($0 == shade ? 220 : 20 + k) }
                    try encodePNG(width: 8, height: 8, pixels: (0..<64).flatMap { _ in colour }).write(to: url)
                }
            }
        }
        func top1(_ extra: String...) throws -> String {
            let result = try start("hssl", ["evaluate", "knn", "--raw-pixels", "8", "--k", "3", "--json", "-"] + extra)
                .collect()
            return result.status == 0
                ? String(result.output.components(separatedBy: "\"top1\":").last?.prefix(3) ?? "") : result.error
        }
        XCTAssertEqual(try top1("--train", "tr", "--test", "te"), "1.0")
        try FileManager.default.removeItem(atPath: root + "/te/cafz")
        XCTAssertEqual(try top1("--train", "tr", "--test", "te"), "1.0", "fewer classes are fine")
        let refused = try top1("--train", "te", "--test", "tr")
        XCTAssertTrue(refused.contains("tr: 1 of its 3 classes are not in te: 'cafz'"), refused)
        // A stray picture: no longer labels, unless they are asked for.
        try write(["tr/stray.png"], side: 8)
        let stray = try top1("--train", "tr", "--test", "te")
        XCTAssertTrue(stray.contains("tr: has no labels") && stray.contains("--labels folders"), stray)
        XCTAssertEqual(try top1("--train", "tr", "--test", "te", "--labels", "folders"), "1.0")
    }

    // MARK: Runs

    func testPretrainingTakesAllImagesBelow() throws {
        try write((0..<20).map { "nas/\($0).png" } + ["nas/best/x.png", "nas/@eaDir/y.png"])
        try FileManager.default.createDirectory(atPath: root + "/nas/none", withIntermediateDirectories: true)
        let result = try pretrain("nas/run", "--data", "nas", "--max-steps", "1")
        XCTAssertTrue(
            result.error.contains("21 images in 2 folders (21 .png); passed over: 1 system folder (1 @eaDir)"),
            result.error)
        try write(["labelled/a/1.png", "labelled/b/2.png"] + (0..<16).map { "labelled/c/\($0).png" })
        try FileManager.default.createDirectory(atPath: root + "/labelled/void", withIntermediateDirectories: true)
        let labelled = try pretrain("other", "--data", "labelled", "--max-steps", "1")
        XCTAssertTrue(labelled.error.contains("labels: 3 class folders; 18 images"), labelled.error)
        XCTAssertTrue(
            labelled.error.contains("warning: labelled/void: the class folder has no images; it is ignored"),
            labelled.error)
        try write(["bad/\(0).png"] + (1..<20).map { "bad/\($0).png" })
        try FileManager.default.createSymbolicLink(atPath: root + "/bad/loop", withDestinationPath: ".")
        let bad = try start(
            "hssl", ["pretrain", "tiny.yaml", "--data", "bad", "--output", "bad-run", "--max-steps", "1"]
        ).collect()
        XCTAssertEqual(bad.status, 2, bad.error)
        XCTAssertTrue(bad.error.contains("warning: passed over: bad/loop: symbolic link loop"), bad.error)
    }

    func testResumeNeedsARunAndKeepsItsMetrics() throws {
        let base = [
            "pretrain", "tiny.yaml", "--data", "train", "--threads", "1", "--set", "evaluation.knn_every_epochs=0",
            "--output",
        ]
        let typo = try start("hssl", base + ["typo", "--resume"]).collect()
        XCTAssertEqual(typo.status, 1)
        XCTAssertTrue(typo.error.contains("typo: no run to resume; --resume=auto starts one"), typo.error)
        XCTAssertFalse(exists("typo"))
        let begun = try start("hssl", base + ["run", "--resume=auto", "--max-steps", "3"]).collect()
        XCTAssertEqual(begun.status, 0, begun.error)
        XCTAssertTrue(begun.error.contains("run: no checkpoint yet; starting at the first step"), begun.error)
        let resumed = try start("hssl", base + ["run", "--resume=auto", "--max-steps", "5"]).collect()
        XCTAssertTrue(resumed.error.contains("resuming after step 3 of 8"), resumed.error)
        XCTAssertEqual(try start("hssl", base + ["run", "--resume"]).collect().status, 0)
        // Finished, and its checkpoint gone.
        let metrics = try bytes("run/metrics.jsonl")
        try FileManager.default.removeItem(atPath: root + "/run/checkpoint.safetensors")
        for flag in ["--resume", "--resume=auto"] {
            let gone = try start("hssl", base + ["run", flag, "--max-steps", "1"]).collect()
            XCTAssertEqual(gone.status, 1, gone.error)
            XCTAssertTrue(gone.error.contains("run/checkpoint.safetensors: is gone"), gone.error)
            XCTAssertEqual(try bytes("run/metrics.jsonl"), metrics)
        }
    }

    func testBatchSizeMeansImagesOfAnUpdate() throws {
        let base = [
            "pretrain", "tiny.yaml", "--data", "train", "--max-steps", "1", "--set", "evaluation.knn_every_epochs=0",
        ]
        for (run, extra, size, batch, accumulate) in [
            ("a", ["--set", "schedule.batch_size=8", "--batch-size", "32"], 32, 8, 4),
            ("b", ["--batch-size", "24"], 24, 12, 2), ("c", ["--batch-size", "8"], 8, 8, 1),
            ("d", ["--batch-size", "37"], 37, 37, 1),
            ("e", ["--set", "schedule.accumulate=4", "--batch-size", "16"], 16, 4, 4),
        ] {
            let result = try start("hssl", base + ["--output", run] + extra).collect()
            XCTAssertEqual(result.status, 0, result.error)
            XCTAssertTrue(result.error.contains(" steps of \(size) in"), result.error)
            let config = try String(contentsOfFile: "\(root)/\(run)/config.yaml", encoding: .utf8)
            XCTAssertTrue(
                config.contains("batch_size: \(batch)\n") && config.contains("accumulate: \(accumulate)\n"), config)
        }
        try Self.yaml.replacingOccurrences(of: "batch_size: 16", with: "batch_size: 16, accumulate: 4").write(
            toFile: root + "/four.yaml", atomically: true, encoding: .utf8)
        let four = try start(
            "hssl",
            ["pretrain", "four.yaml", "--data", "train", "--max-steps", "1", "--output", "f", "--batch-size", "16"]
        ).collect()
        XCTAssertTrue(four.error.contains(" steps of 16 in"), four.error)
        let odd = try start("hssl", base + ["--output", "g", "--set", "schedule.accumulate=3", "--batch-size", "16"])
            .collect()
        XCTAssertEqual(odd.status, 64)
        XCTAssertTrue(odd.error.contains("--batch-size 16 is no multiple of schedule.accumulate (3)"), odd.error)
    }
}
