import Foundation
import XCTest

@testable import HSSLFormats

/// Interrupted extraction goes on to the same bytes; embeddings and index appear together or not at all.
final class EmbeddingOutputTests: XCTestCase {
    private static let suffixes = ["npy", "csv", "jsonl", "safetensors"]
    /// nil: an input without a row.
    private let inputs: [(String, [Float]?)] = (0..<7).map { (index: Int) -> (String, [Float]?) in
        let values: [Float] = [Float(index), -0.5, 1 / Float(index + 1)]
        return ("dir/\(index).png", index == 2 ? nil : values)
    }
    private let run = EmbeddingRun([.init("model", "a-1"), .init("--features", "cls")], inputCount: 7)

    private func open(
        _ path: String, resume: Bool = true, run: EmbeddingRun? = nil, calls: SystemCalls = .live
    ) throws -> EmbeddingOutput {
        try EmbeddingOutput(path: path, rowShape: [3], run: run ?? self.run, resume: resume, calls: calls)
    }

    /// Appends the inputs from where `output` is up to `end`.
    private func append(to output: EmbeddingOutput, upTo end: Int, checkpoints: Bool = false) throws {
        for (path, values) in inputs[output.position.inputs..<end] {
            if let values {
                try values.withUnsafeBufferPointer { try output.append(path: path, values: $0, stamp: 5) }
            } else {
                try output.append(path: path, error: "\(path): bad", stamp: 5)
            }
            if checkpoints, output.position.inputs % 3 == 1 { try output.checkpoint() }
        }
    }

    private func whole(_ path: String, resume: Bool = false, calls: SystemCalls = .live) throws {
        let output = try open(path, resume: resume, calls: calls)
        try append(to: output, upTo: inputs.count)
        try output.finish()
    }

    private func entries(_ folder: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: folder).sorted()
    }

    private func pair(_ path: String) throws -> [[UInt8]?] {
        [path, path + ".index.jsonl"].map { path in
            FileManager.default.fileExists(atPath: path) ? try? readFile(at: path) : nil
        }
    }

    func testGoesOnFromEveryInput() throws {
        try withTemporaryFolder { folder in
            for suffix in Self.suffixes {
                let straight = "\(folder)/straight.\(suffix)", path = "\(folder)/a.\(suffix)"
                try whole(straight)
                for stop in 1...inputs.count {
                    for beyond in [0, 2] {
                        var output: EmbeddingOutput? = try open(path, resume: false)
                        try output.map { try append(to: $0, upTo: stop) }
                        try output?.checkpoint()
                        // What a kill lets happen behind the last durable position.
                        try output.map { try append(to: $0, upTo: min(stop + beyond, inputs.count)) }
                        XCTAssertTrue(
                            output?.kept?.hasPrefix("\(stop) of 7 inputs are kept in \(path).partial") == true)
                        output = nil
                        XCTAssertFalse(FileManager.default.fileExists(atPath: path), "nothing before the end")

                        let resumed = try open(path)
                        XCTAssertEqual(resumed.start, .partial)
                        XCTAssertEqual(resumed.position.inputs, stop)
                        XCTAssertEqual(resumed.position.skipped, stop > 2 ? 1 : 0)
                        try append(to: resumed, upTo: inputs.count)
                        try resumed.finish()
                        XCTAssertEqual(try pair(path), try pair(straight), "\(suffix) from \(stop)")
                        for name in [path, path + ".index.jsonl"] { try FileManager.default.removeItem(atPath: name) }
                        XCTAssertEqual(try entries(folder).filter { $0.hasPrefix("a.") || $0.hasPrefix(".") }, [])
                    }
                }
            }
        }
    }

    func testWhatIsLeftIsNeitherReplacedNorMistaken() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/a.npy"
            func interrupt() throws {
                let output = try open(path, resume: true)
                try append(to: output, upTo: 4)
                try output.checkpoint()
            }
            func assertRefused(_ reason: String, resume: Bool = true, run: EmbeddingRun? = nil, line: UInt = #line) {
                XCTAssertThrowsError(try open(path, resume: resume, run: run), line: line) {
                    XCTAssertTrue("\($0)".contains("a.npy.partial: \(reason)"), "\($0)", line: line)
                    XCTAssertFalse("\($0)".contains("\n"), line: line)
                }
            }
            try interrupt()
            assertRefused("an interrupted run left 4 of its inputs here; --resume goes on", resume: false)
            let parts = run.parts
            assertRefused(
                "was begun with another model;", run: EmbeddingRun([.init("model", "b-1"), parts[1]], inputCount: 7))
            assertRefused(
                "was begun with --features cls, not mean;",
                run: EmbeddingRun([parts[0], .init("--features", "mean")], inputCount: 7))
            assertRefused(
                "was begun with another list;", run: EmbeddingRun(parts + [.init("list", "x")], inputCount: 7))
            // One at a time.
            do {
                let held = try open(path)
                assertRefused("another process is writing it")
                withExtendedLifetime(held) {}
            }
            // Damage within what the journal covers, and a file that lost its end.
            let partial = path + ".partial"
            var bytes = try readFile(at: partial)
            bytes[bytes.count - 5] ^= 1
            try Data(bytes).write(to: URL(fileURLWithPath: partial))
            assertRefused("does not hold what its journal says")
            bytes[bytes.count - 5] ^= 1
            try Data(bytes.dropLast(3)).write(to: URL(fileURLWithPath: partial))
            assertRefused("does not hold what its journal says")
            try Data(bytes).write(to: URL(fileURLWithPath: partial))
            XCTAssertEqual(try open(path).position.inputs, 4)
            // Without the file itself there is nothing to go on with, and what else is left goes.
            try FileManager.default.removeItem(atPath: partial)
            XCTAssertEqual(try open(path, resume: false).start, .nothing)
            XCTAssertEqual(try entries(folder), [])
            try whole(path)
            XCTAssertEqual(try open(path).start, .finished)
            XCTAssertEqual(try entries(folder), ["a.npy", "a.npy.index.jsonl"])
        }
    }

    /// Whichever call fails: both files are the old ones or both the new ones, and what is kept goes on to the same
    /// bytes.
    func testEveryFailingCall() throws {
        for suffix in ["npy", "jsonl"] {
            var call = 0
            var finished = false
            while !finished {
                try withTemporaryFolder { folder in
                    let straight = "\(folder)/straight.\(suffix)", path = "\(folder)/a.\(suffix)"
                    try whole(straight)
                    let old: [[UInt8]?] = [Array("old".utf8), Array("old index".utf8)]
                    for (name, bytes) in zip([path, path + ".index.jsonl"], old) {
                        try AtomicFile.write(bytes ?? [], to: name)
                    }
                    let system = FaultySystem()
                    system.failing = (call, ENOSPC)
                    do {
                        let output = try open(path, resume: false, calls: system.calls)
                        try append(to: output, upTo: inputs.count, checkpoints: true)
                        try output.finish()
                    } catch {
                        XCTAssertTrue(error is FileError, "\(error)")
                    }
                    finished = call >= system.callCount
                    let new = try pair(straight)
                    let found = try pair(path)
                    XCTAssertTrue(found == old || found == new, "\(suffix), call \(call): one without the other")
                    XCTAssertEqual(try entries(folder).filter { $0.hasPrefix(".") }, [], "\(suffix), call \(call)")
                    let isKept = try PartialFile.exists(for: path)
                    let resumed = try open(path)
                    XCTAssertEqual(resumed.start, isKept ? .partial : .finished, "\(suffix), call \(call)")
                    try append(to: resumed, upTo: inputs.count)
                    try resumed.finish()
                    XCTAssertEqual(try pair(path), new, "\(suffix), call \(call)")
                    XCTAssertEqual(try entries(folder).count, 4, "\(suffix), call \(call)")
                }
                call += 1
            }
            XCTAssertGreaterThan(call, 25)
        }
    }

    /// A kill between the two names, and one behind both.
    func testKillsWhileNamesAreGiven() throws {
        try withTemporaryFolder { folder in
            let straight = folder + "/straight.npy", path = folder + "/a.npy"
            try whole(straight)
            for published in [1, 2] {
                let output = try open(path, resume: false)
                try append(to: output, upTo: inputs.count)
                try output.checkpoint()
                let journal = try readFile(at: path + ".partial.journal")
                try output.finish()
                if published == 1 { rename(path, path + ".partial") }
                try Data(journal).write(to: URL(fileURLWithPath: path + ".partial.journal"))
                let resumed = try open(path)
                XCTAssertEqual(resumed.start, published == 1 ? .partial : .finished)
                if published == 1 { try resumed.finish() } else { resumed.discard() }
                XCTAssertEqual(try pair(path), try pair(straight))
                XCTAssertEqual(try entries(folder).count, 4)
                for name in [path, path + ".index.jsonl"] { try FileManager.default.removeItem(atPath: name) }
            }
        }
    }

    func testFinishedOutputsAreCompared() throws {
        try withTemporaryFolder { folder in
            for suffix in Self.suffixes {
                let path = "\(folder)/a.\(suffix)"
                try whole(path)
                func verify(
                    _ inputs: [(String, [Float]?)], at path: String, change: (inout [[Float]]) -> Void = { _ in }
                ) throws {
                    let finished = try FinishedEmbeddings(path: path, rowShape: [3], inputs: inputs.count) {
                        inputs[$0].0
                    }
                    XCTAssertEqual(finished.rowCount, 6)
                    var rows = finished.sample.compactMap { inputs[$0].1 }
                    change(&rows)
                    try finished.verify(names: finished.sample.map { inputs[$0].0 }, values: rows)
                }
                try verify(inputs, at: path)
                XCTAssertThrowsError(try verify(Array(inputs.dropLast()), at: path)) {
                    XCTAssertTrue("\($0)".contains("index.jsonl: is of other inputs"), "\($0)")
                }
                XCTAssertThrowsError(try verify(inputs.dropLast() + [("other", [1, 2, 3])], at: path))
                for row in [0, 5] {
                    XCTAssertThrowsError(try verify(inputs, at: path) { $0[row][1] += 1 }) {
                        XCTAssertTrue("\($0)".contains("holds other features than this model"), "\($0)")
                    }
                }
                let bytes = try readFile(at: path)
                try AtomicFile.write(Array(bytes.dropLast(4)), to: path)
                XCTAssertThrowsError(try verify(inputs, at: path), suffix)
            }
        }
    }

    func testPipesAndTerminals() throws {
        try withTemporaryFolder { folder in
            for (suffix, seeks) in [("npy", true), ("safetensors", true), ("csv", false), ("jsonl", false)] {
                let path = "\(folder)/pipe.\(suffix)"
                XCTAssertEqual(mkfifo(path, 0o600), 0)
                // A reader, so that opening does not wait for one.
                let reader = Glibc.open(path, O_RDONLY | O_NONBLOCK)
                defer { close(reader) }
                if seeks {
                    XCTAssertThrowsError(try open(path, resume: false), suffix) {
                        XCTAssertTrue("\($0)".contains("is a pipe, and this format completes its beginning"), "\($0)")
                    }
                } else {
                    try whole(path)
                    XCTAssertThrowsError(try open(path, resume: true)) {
                        XCTAssertTrue("\($0)".contains("is a stream, of which nothing is left to --resume"), "\($0)")
                    }
                }
            }
            XCTAssertThrowsError(
                try SafetensorsWriter.write(path: folder + "/pipe.safetensors", tensors: [], metadata: [:]))
        }
    }

    func testDanglingLinksAreFollowed() throws {
        try withTemporaryFolder { folder in
            try FileManager.default.createDirectory(atPath: folder + "/sub", withIntermediateDirectories: false)
            for (link, target) in [("a.npy", "sub/b.npy"), ("c.npy", "a2.npy"), ("a2.npy", folder + "/sub/d.npy")] {
                try FileManager.default.createSymbolicLink(atPath: "\(folder)/\(link)", withDestinationPath: target)
            }
            try whole(folder + "/a.npy")
            try AtomicFile.write([1], to: folder + "/c.npy")
            XCTAssertEqual(try entries(folder + "/sub"), ["b.npy", "d.npy"])
            XCTAssertEqual(try FileManager.default.destinationOfSymbolicLink(atPath: folder + "/a.npy"), "sub/b.npy")
            XCTAssertTrue(FileManager.default.fileExists(atPath: folder + "/a.npy.index.jsonl"))
            try FileManager.default.createSymbolicLink(atPath: folder + "/x", withDestinationPath: "y")
            try FileManager.default.createSymbolicLink(atPath: folder + "/y", withDestinationPath: "x")
            XCTAssertThrowsError(try AtomicFile.write([1], to: folder + "/x")) {
                XCTAssertTrue("\($0)".contains("symbolic links"), "\($0)")
            }
        }
    }
}
