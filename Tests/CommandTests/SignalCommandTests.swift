import Foundation
import XCTest

/// Signals and kills: what is on disk is whole, and goes on bit for bit.
final class SignalCommandTests: CommandTestCase {
    /// Long enough to be met at work.
    private func begin(
        _ run: String, epochs: Int, resume: Bool = false
    ) throws -> (process: Process, collect: () throws -> Result) {
        try start(
            "hssl",
            [
                "pretrain", "tiny.yaml", "--data", "train", "--output", run, "--threads", "1", "--epochs", "\(epochs)",
                "--set",
                           "evaluation.knn_every_epochs=0"] + (resume ? ["--resume=auto"] : []))
    }

    private func waitForSteps(_ run: String, _ count: Int, _ process: Process) throws {
        let deadline = Date().addingTimeInterval(60)
        while Date() < deadline, process.isRunning {
            if let text = try? String(contentsOfFile: "\(root)/\(run)/metrics.jsonl", encoding: .utf8),
               text.split(separator: "\n").count >= count {
                return
            }
            usleep(2_000)
        }
        XCTFail("no \(count) steps were taken")
    }

    func testSignalsSaveAndResume() throws {
        let epochs = 6
        let straight = try begin("straight", epochs: epochs).collect()
        XCTAssertEqual(straight.status, 0, straight.error)
        for (signal, status) in [(SIGINT, Int32(130)), (SIGTERM, 143), (SIGHUP, 143)] {
            let run = "signal\(signal)"
            let (process, collect) = try begin(run, epochs: epochs)
            try waitForSteps(run, 3, process)
            kill(process.processIdentifier, signal)
            let result = try collect()
            XCTAssertEqual(result.status, status, result.error)
            XCTAssertTrue(
                result.error.contains("stopped after step") && result.error.contains("saved; --resume goes on"),
                result.error)
            XCTAssertFalse(exists(run + "/model.safetensors"))
            let resumed = try begin(run, epochs: epochs, resume: true).collect()
            XCTAssertEqual(resumed.status, 0, resumed.error)
            for file in ["checkpoint.safetensors", "model.safetensors"] {
                XCTAssertTrue(
                    try bytes("\(run)/\(file)") == bytes("straight/\(file)"), "signal \(signal): \(file) differs")
            }
        }
    }

    /// The short form of `tools/kill_test`.
    func testKillsAtAnyMoment() throws {
        let epochs = 6
        let start = Date()
        let straight = try begin("straight", epochs: epochs).collect()
        XCTAssertEqual(straight.status, 0, straight.error)
        // From the loading of the command into its first dozens of saves.
        let longest = Date().timeIntervalSince(start) * 0.6
        for kill in 0..<5 {
            let (process, collect) = try begin("killed", epochs: epochs, resume: kill > 0)
            usleep(UInt32(1e6 * longest * Double(kill + 1) / 5 * Double.random(in: 0.5...1)))
            Foundation.kill(process.processIdentifier, SIGKILL)
            let result = try collect()
            XCTAssertTrue(
                [0, 1000 + SIGKILL].contains(result.status), "a run after a kill was refused: \(result.error)")
            guard exists("killed/checkpoint.safetensors") else { continue }
            let inspected = try run("hssl", "inspect", "killed/checkpoint.safetensors")
            XCTAssertEqual(inspected.status, 0, inspected.error)
        }
        XCTAssertTrue(
            exists("killed/checkpoint.safetensors"), "every kill came before the first save: nothing was proved")
        let resumed = try begin("killed", epochs: epochs, resume: true).collect()
        XCTAssertEqual(resumed.status, 0, resumed.error)
        XCTAssertTrue(
            try bytes("killed/checkpoint.safetensors") == bytes("straight/checkpoint.safetensors"),
            "the killed run ended elsewhere")
        let left = try FileManager.default.contentsOfDirectory(atPath: root + "/killed").filter { $0.contains(".tmp-") }
        XCTAssertEqual(left, [], "temporaries of killed writers stay behind")
        let steps =
            try String(contentsOfFile: root + "/killed/metrics.jsonl", encoding: .utf8).split(separator: "\n").count
        XCTAssertEqual(steps, 4 * epochs, "metrics.jsonl has a line a step")
    }
}
