import ArgumentParser
import Foundation
import Logging
import XCTest
@testable import HSSLCommandLine

final class CommandLineTests: XCTestCase {
    private struct Example: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "example", abstract: "Does an example.",
            discussion: """
                Examples:
                  example --threads 2 --memory-limit 800M
                  example --log-level debug
                """,
            version: versionText(tool: "example", version: "1.2.3", instructionSet: "avx2"))
        @OptionGroup var shared: SharedOptions
        @Option var memoryLimit: ByteSize?
    }

    private func outcome(_ arguments: String...) -> Outcome {
        do {
            var command = try Example.parseAsRoot(arguments)
            try command.run()
            return Outcome(status: .done)
        } catch {
            return Outcome(of: error, in: Example.self)
        }
    }

    func testPixelCounts() {
        XCTAssertEqual(PixelCount(argument: "300M")?.count, 300_000_000)
        XCTAssertEqual(PixelCount(argument: "0.25g")?.count, 250_000_000)
        XCTAssertEqual(PixelCount(argument: "12345")?.count, 12345)
        for wrong in ["", "M", "-1", "0", "1e9", "12MB", "1..2", "∞"] {
            XCTAssertNil(PixelCount(argument: wrong), wrong)
        }
    }

    func testUsageErrorsAre64AndOneLineThatNamesTheFlag() {
        XCTAssertEqual(EX_USAGE, ExitStatus.usage.rawValue)
        for (arguments, named) in [
            (["--nope"], "--nope"), (["--threads", "x"], "--threads"),
            (["--threads", "0"], "--threads must be from 1 to 256, not 0"),
            (["--log-level", "loud"], "--log-level"), (["--memory-limit", "lots"], "--memory-limit"),
            (["stray"], "stray"), (["--thread", "2"], "--thread"),
        ] {
            do {
                _ = try Example.parseAsRoot(arguments)
                XCTFail("\(arguments) accepted")
            } catch {
                let result = Outcome(of: error, in: Example.self)
                XCTAssertEqual(result.status, .usage, "\(arguments)")
                XCTAssertTrue(result.error.contains(named), result.error)
                XCTAssertFalse(result.error.contains("\n"))
                XCTAssertEqual(result.output, "")
            }
        }
    }

    func testHelpAndVersionAreNoErrors() {
        let help = outcome("--help")
        XCTAssertEqual(help.status, .done)
        XCTAssertTrue(help.output.contains("\n  example --threads 2 --memory-limit 800M\n"), help.output)
        XCTAssertTrue(help.output.contains("--log-level"))
        XCTAssertEqual(help.error, "")
        XCTAssertEqual(outcome("--version"), Outcome(status: .done, output: "example 1.2.3 (avx2)"))
    }

    func testErrorsOfTheWorkAreSorted() {
        struct Broken: Error, CustomStringConvertible { let description = "a.png:\n  is truncated" }
        XCTAssertEqual(Outcome(of: Broken(), in: Example.self), Outcome(status: .failed, error: "a.png: is truncated"))
        XCTAssertEqual(Outcome(of: Exit(.partly), in: Example.self), Outcome(status: .partly))
        XCTAssertEqual(Outcome(of: Exit(.terminated), in: Example.self), Outcome(status: .terminated))
        XCTAssertEqual(Outcome(of: UsageError("--features patch does not fit .csv"), in: Example.self),
                       Outcome(status: .usage, error: "--features patch does not fit .csv"))
        XCTAssertEqual(Outcome(of: ExitCode(130), in: Example.self), Outcome(status: .interrupted))
    }

    func testByteSizes() {
        for (text, bytes) in [
            ("4096", 4096), ("1b", 1), ("800M", 800 << 20), ("800m", 800 << 20), ("1G", 1 << 30), ("1.5GiB", 3 << 29),
            ("64KB", 64_000), ("2MB", 2_000_000),
            ("0.5k", 512), ("8T", 8 << 40),
        ] { XCTAssertEqual(ByteSize(argument: text)?.bytes, bytes, text) }
        for text in [
            "", "M", "-1", "1.", ".5G", "1 G", "1X", "1GG", "nan", "inf", "0", "1e3", "0x10", "9999999999T", "١G"] {
            XCTAssertNil(ByteSize(argument: text), text)
        }
    }

    func testProgressNeverExceedsTheTerminal() {
        for columns in 0...200 {
            for (done, total, rate, detail) in [
                (0, 600, 0.0, ""), (312, 600, 41.2, "loss 5.132"), (600, 600, 1e6, "loss 5.132"), (77, 0, 3.0, "x"),
                (700, 600, 1, ""),
                (1, 1_000_000_000, 1e-3, "loss nan"),
            ] {
                let line = ProgressBar.line(
                    label: "pretrain", unit: "steps", done: done, total: total, rate: rate, detail: detail,
                    columns: columns)
                XCTAssertLessThanOrEqual(line.count, columns, line)
            }
        }
        XCTAssertEqual(
            ProgressBar.line(
                label: "pretrain", unit: "steps", done: 312, total: 600, rate: 41.2, detail: "loss 5.132", columns: 79),
            "pretrain ━━━━━━━━━─────────  52% 312/600 steps  41.2/s  ETA 0:00:07  loss 5.132")
        XCTAssertEqual(ProgressBar.line(
            label: "extract", unit: "images", done: 5, total: 10, rate: 2, detail: "", columns: nil),
                       "extract 50% 5/10 images  2.00/s  ETA 0:00:03")
    }

    func testWhatWasDoneBeforeTheFirstStepIsNotItsTime() {
        var time = 1000.0
        let bar = ProgressBar(
            label: "distil", unit: "steps", total: 8, first: 2, output: .shared, now: { time }, elapsed: 4)
        XCTAssertEqual(bar.rate(3, at: time), 0.25)
        time += 6
        XCTAssertEqual(bar.rate(4, at: time), 0.2)
    }

    func testNumbersForPeople() {
        XCTAssertEqual(
            [0, 1.234, 12.34, 99.96, 123.4, 1234567].map(ProgressBar.rounded),
            ["0.00", "1.23", "12.3", "100.0", "123", "1234567"])
        XCTAssertEqual(ProgressBar.rounded(.infinity), "?")
        XCTAssertEqual([0, 59.2, 3661, 90_061].map(ProgressBar.clock), ["0:00:00", "0:01:00", "1:01:01", "1d 1:01:01"])
        XCTAssertEqual(ProgressBar.clock(.nan), "?")
    }

    func testLogLinesAreSingleAndLabelled() {
        var handler = StandardErrorLogHandler(logLevel: .info)
        handler[metadataKey: "run"] = "a"
        func line(_ level: Logger.Level, _ text: Logger.Message) -> String {
            handler.line(for: LogEvent(
                level: level, message: text, metadata: ["n": "1"], source: "s", file: "f", function: "g", line: 1))
        }
        XCTAssertEqual(line(.warning, "odd\nthing"), "warning: odd thing n=1 run=a")
        XCTAssertEqual(line(.info, "fine"), "fine n=1 run=a")
    }

    func testJSONOutputKeepsStandardOutputForTheDocument() throws {
        // Standard output of this process becomes a pipe for the length of the test.
        let pipe = Pipe()
        let saved = dup(STDOUT_FILENO)
        let savedError = dup(STDERR_FILENO)
        let null = open("/dev/null", O_WRONLY)
        fflush(nil)
        dup2(pipe.fileHandleForWriting.fileDescriptor, STDOUT_FILENO)
        dup2(null, STDERR_FILENO)
        var output = JSONOutput()
        print("stray text of a library")
        fflush(nil)
        let written = output?.write("{\"a\":1}")
        output = nil
        dup2(saved, STDOUT_FILENO)
        dup2(savedError, STDERR_FILENO)
        for descriptor in [saved, savedError, null] { close(descriptor) }
        try pipe.fileHandleForWriting.close()
        XCTAssertEqual(written, true)
        XCTAssertEqual(
            String(decoding: try pipe.fileHandleForReading.readToEnd() ?? Data(), as: UTF8.self), "{\"a\":1}\n")
    }

    func testSignalsSetTheFlag() {
        StopSignal.install()
        XCTAssertFalse(StopSignal.isRequested)
        XCTAssertNil(StopSignal.exitStatus)
        raise(SIGTERM)
        XCTAssertTrue(StopSignal.isRequested)
        XCTAssertEqual(StopSignal.exitStatus, .terminated)
        StopSignal.install()
        raise(SIGINT)
        XCTAssertEqual(StopSignal.exitStatus, .interrupted)
        signal(SIGINT, SIG_DFL)
        signal(SIGTERM, SIG_DFL)
    }
}
