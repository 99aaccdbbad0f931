import Foundation
import XCTest

/// Extraction that is interrupted keeps what it did, and goes on to the same bytes.
final class ResumeExtractTests: CommandTestCase {
    private let count = 300

    /// Slow enough to be met at work: seconds on the scalar row.
    private func makeInputs() throws {
        try writeRandomModel(root + "/model.safetensors", imageSize: 28, embedDim: 96, depth: 24)
        try FileManager.default.createDirectory(atPath: root + "/images", withIntermediateDirectories: false)
        for i in 0..<count {
            let data = i % 50 == 7 ? Data("no image".utf8) : testImage(seed: i, width: 16, height: 16)
            try data.write(to: URL(fileURLWithPath: "\(root)/images/\(1000 + i).png"))
        }
    }

    private func extract(
        _ output: String, _ extra: String..., input: String = "images", shell: String? = nil
    ) throws -> (process: Process, collect: () throws -> Result) {
        try start(
            "hssl-extract",
            ["--model", "model.safetensors", input, "--output", output, "--batch-size", "4", "--threads", "1"] + extra,
            environment: ["HSSL_ISA": "scalar"], shell: shell)
    }

    private func journal(_ output: String) -> Data? { try? bytes(output + ".partial.journal") }

    /// Until this process has made something durable, beyond what an earlier one left.
    private func waitForJournal(of output: String, _ process: Process, earlier: Data? = nil) throws {
        let deadline = Date().addingTimeInterval(120)
        while Date() < deadline, process.isRunning, journal(output) ?? earlier == earlier { usleep(5_000) }
        XCTAssertNotEqual(journal(output), earlier, "nothing was made durable while it ran")
    }

    private func assertEqual(_ output: String, _ straight: String, line: UInt = #line) throws {
        for suffix in ["", ".index.jsonl"] {
            XCTAssertTrue(
                try bytes(output + suffix) == bytes(straight + suffix), "\(output)\(suffix) differs", line: line)
        }
        let name = (output as NSString).lastPathComponent, folder = (output as NSString).deletingLastPathComponent
        let left = try FileManager.default.contentsOfDirectory(atPath: "\(root)/\(folder)").filter { $0.contains(name) }
        XCTAssertEqual(left.sorted(), [name, name + ".index.jsonl"], line: line)
    }

    func testSignalsAndKillsGoOnToTheSameBytes() throws {
        try makeInputs()
        let cases: [(String, [Int32])] = [
            ("npy", [SIGINT, SIGKILL]), ("safetensors", [SIGKILL, SIGTERM]), ("csv", [SIGHUP]), ("jsonl", [SIGKILL]),
        ]
        for (suffix, signals) in cases {
            let straight = try extract("straight." + suffix).collect()
            XCTAssertEqual(straight.status, 2, straight.error)
            let output = "out." + suffix
            for signal in signals {
                let earlier = journal(output)
                let (process, collect) = try extract(output, "--resume")
                try waitForJournal(of: output, process, earlier: earlier)
                kill(process.processIdentifier, signal)
                let result = try collect()
                let statuses: [Int32: Int32] = [SIGKILL: 1000 + SIGKILL, SIGINT: 130]
                XCTAssertEqual(result.status, statuses[signal] ?? 143, result.error)
                XCTAssertFalse(exists(output) || exists(output + ".index.jsonl"))
                if signal != SIGKILL {
                    XCTAssertTrue(
                        result.error.contains(" of 300 inputs are kept in out.\(suffix).partial; --resume goes on"),
                        result.error)
                }
            }
            let plain = try extract(output).collect()
            XCTAssertEqual(plain.status, 1)
            XCTAssertTrue(plain.error.contains("out.\(suffix).partial: an interrupted run left "), plain.error)
            for (flags, reason) in [
                (["--features", "mean"], "was begun with --features cls, not mean"),
                (["--normalize"], "was begun with --normalize off, not on"),
                (["--jpeg-decode", "fast"], "was begun with --jpeg-decode exact, not fast"),
            ] {
                let other = try start(
                    "hssl-extract", ["--model", "model.safetensors", "images", "--output", output, "--resume"] + flags,
                    environment: ["HSSL_ISA": "scalar"]).collect()
                XCTAssertEqual(other.status, 1)
                XCTAssertTrue(other.error.contains(reason), other.error)
            }
            let resumed = try extract(output, "--resume").collect()
            XCTAssertEqual(resumed.status, 2, resumed.error)
            XCTAssertTrue(resumed.error.contains("resuming after "), resumed.error)
            try assertEqual(output, "straight." + suffix)

            let again = try extract(output, "--resume").collect()
            XCTAssertEqual(again.status, 2, again.error)
            XCTAssertTrue(
                again.error.contains("out.\(suffix) is complete already: 294 rows of 300 inputs"), again.error)
            let other = try extract(output, "--resume", "--features", "mean").collect()
            XCTAssertEqual(other.status, 1)
            XCTAssertTrue(other.error.contains("holds other features than this model"), other.error)
        }
    }

    func testOtherModelsListsAndInputsAreRefused() throws {
        try makeInputs()
        let (process, collect) = try extract("out.npy")
        try waitForJournal(of: "out.npy", process)
        kill(process.processIdentifier, SIGKILL)
        _ = try collect()
        func assertRefused(_ reason: String, line: UInt = #line) throws {
            let result = try extract("out.npy", "--resume").collect()
            XCTAssertEqual(result.status, 1, line: line)
            XCTAssertTrue(result.errorLines.last?.contains(reason) == true, result.error, line: line)
        }
        let model = URL(fileURLWithPath: root + "/model.safetensors"), kept = try Data(contentsOf: model)
        try writeRandomModel(model.path, imageSize: 28, embedDim: 96, depth: 3)
        try assertRefused("was begun with another model")
        try kept.write(to: model)
        try testImage(seed: 1, width: 4, height: 4).write(to: URL(fileURLWithPath: root + "/images/2000.png"))
        try assertRefused("was begun with another list of inputs")
        try FileManager.default.removeItem(atPath: root + "/images/2000.png")
        try testImage(seed: 9, width: 5, height: 5).write(to: URL(fileURLWithPath: root + "/images/1000.png"))
        try assertRefused("inputs that an interrupted run read have changed since")
    }

    func testAFullDiskKeepsWhatItHeld() throws {
        try makeInputs()
        _ = try extract("straight.npy").collect()
        // 100 kB in blocks of 512 bytes: some 130 of the 294 rows.
        let full = try extract("out.npy", shell: "ulimit -f 200").collect()
        XCTAssertEqual(full.status, 1, full.error)
        let line = full.errorLines.last ?? ""
        XCTAssertTrue(
            line.contains("out.npy: cannot write: File too large (")
                && line.contains("are kept in out.npy.partial; --resume goes on)"),
            full.error)
        let resumed = try extract("out.npy", "--resume").collect()
        XCTAssertEqual(resumed.status, 2, resumed.error)
        try assertEqual("out.npy", "straight.npy")
        // A fault in an input keeps the rows before it, once they have taken longer than making them durable.
        let failed = try extract("strict.npy", "--on-error", "fail").collect()
        XCTAssertEqual(failed.status, 1)
        XCTAssertTrue(failed.error.contains("1007.png"), failed.error)
        XCTAssertEqual(
            failed.error.contains("7 of 300 inputs are kept"), exists("strict.npy.partial"), failed.error)
        XCTAssertFalse(exists("strict.npy") || exists("strict.npy.index.jsonl"))
    }

    /// Both appear, or neither.
    func testAnIndexThatCannotBeNamedTakesTheEmbeddingsWithIt() throws {
        try writeRandomModel(root + "/model.safetensors")
        let index = root + "/out.npy.index.jsonl"
        try FileManager.default.createDirectory(atPath: index, withIntermediateDirectories: false)
        let result = try extract("out.npy", input: "t10k").collect()
        XCTAssertEqual(result.status, 1)
        XCTAssertTrue(result.error.contains("out.npy.index.jsonl: is a folder, not a file"), result.error)
        XCTAssertFalse(exists("out.npy") || exists("out.npy.partial"))
    }

    func testPipesAndMountedFiles() throws {
        try writeRandomModel(root + "/model.safetensors")
        XCTAssertEqual(mkfifo(root + "/pipe.npy", 0o600), 0)
        let pipe = try extract("pipe.npy", input: "t10k").collect()
        XCTAssertEqual(pipe.status, 1)
        XCTAssertTrue(pipe.error.contains("pipe.npy: is a pipe, and this format completes its beginning"), pipe.error)
        for arguments in [["--output", "-", "--resume"]] {
            let usage = try start("hssl-extract", ["--model", "model.safetensors", "t10k"] + arguments).collect()
            XCTAssertEqual(usage.status, 64, usage.error)
        }
        for name in ["out.npy", "from.npy"] { try Data().write(to: URL(fileURLWithPath: "\(root)/\(name)")) }
        let probe = try start("hssl", ["--version"], shell: "unshare -m true || exit 99").collect()
        try XCTSkipUnless(probe.status == 0, "mounting needs root")
        let script = "exec unshare -m sh -c 'mount --bind from.npy out.npy && exec \"$0\" \"$@\"' \"$0\" \"$@\""
        let mounted = try extract("out.npy", input: "t10k", shell: script).collect()
        XCTAssertEqual(mounted.status, 1, mounted.error)
        XCTAssertTrue(mounted.error.contains("out.npy: is mounted by itself"), mounted.error)
        XCTAssertTrue(mounted.error.contains("mount its folder instead"), mounted.error)
        XCTAssertFalse(exists("out.npy.partial"))
    }
}
