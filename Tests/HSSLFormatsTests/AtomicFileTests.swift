import Foundation
import XCTest

@testable import HSSLFormats

final class AtomicFileTests: XCTestCase {
    private let old = Array("the old content".utf8)
    private let new = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }

    /// Small and large writes, and a header completed at the end: every path of the writer.
    private func save(_ path: String, _ calls: SystemCalls) throws {
        let file = try AtomicFile(path: path, calls: calls)
        try file.write([0, 0, 0, 0])
        try file.write(Array(new[4..<100]))
        try new[100...].withUnsafeBytes { try file.write($0) }
        try file.overwrite(Array(new[..<4]), at: 0)
        try file.commit()
    }

    private func read(_ path: String) -> [UInt8]? { FileManager.default.contents(atPath: path).map { Array($0) } }

    private func entries(_ folder: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: folder).sorted()
    }

    func testEveryFailingCallLeavesTheOldOrTheNewFileAndNoTemporary() throws {
        for code in [ENOSPC, EIO, EDQUOT] {
            for existing in [true, false] {
                var call = 0
                var finished = false
                while !finished {
                    try withTemporaryFolder { folder in
                        let path = folder + "/model.safetensors"
                        if existing { try AtomicFile.write(old, to: path) }
                        let system = FaultySystem()
                        system.failing = (call, code)
                        system.writeLimit = 70_000
                        var failure: Error?
                        do { try save(path, system.calls) } catch { failure = error }
                        finished = call >= system.callCount
                        let content = read(path)
                        if let failure {
                            XCTAssertTrue(failure is FileError)
                            XCTAssertTrue("\(failure)".hasPrefix(path + ": "), "\(failure)")
                            // After the rename only the durability of the name can fail.
                            let renamed = system.events.contains { if case .rename = $0 { true } else { false } }
                            XCTAssertEqual(content, renamed ? new : existing ? old : nil, "call \(call)")
                        } else {
                            XCTAssertEqual(content, new, "call \(call)")
                        }
                        XCTAssertEqual(try entries(folder), content == nil ? [] : ["model.safetensors"], "call \(call)")
                    }
                    call += 1
                }
                XCTAssertGreaterThan(call, 9)
            }
        }
    }

    func testShortWritesAndInterruptionsAreContinued() throws {
        try withTemporaryFolder { folder in
            let system = FaultySystem()
            system.writeLimit = 777
            system.interruptions = 2
            try save(folder + "/a", system.calls)
            XCTAssertEqual(read(folder + "/a"), new)
        }
    }

    /// A power cut after every single call.
    private func crashOutcomes(
        dropping isDropped: (FaultySystem.Event, _ folders: Set<Int32>) -> Bool
    ) throws -> (torn: Int, lost: Bool) {
        try withTemporaryFolder { folder in
            let path = folder + "/checkpoint"
            try AtomicFile.write(old, to: path)
            let system = FaultySystem()
            try save(path, system.calls)
            var model = CrashModel(old: old, at: path)
            var folders = Set<Int32>()
            var torn = 0
            for event in system.events {
                if case .open(folder, let descriptor) = event { folders.insert(descriptor) }
                if !isDropped(event, folders) { model.apply(event) }
                torn += model.contents(of: path).count { $0 != old && $0 != new }
            }
            return (torn, model.contents(of: path).contains { $0 != new })
        }
    }

    func testAPowerCutLeavesTheOldOrTheNewFile() throws {
        let outcome = try crashOutcomes { _, _ in false }
        XCTAssertEqual(outcome.torn, 0)
        XCTAssertFalse(outcome.lost, "after commit the new file is durable")
    }

    /// The harness itself: it must notice a writer that forgets either fsync.
    func testAMissingFsyncIsNoticed() throws {
        let withoutFileSync = try crashOutcomes { event, folders in
            if case .synchronize(let descriptor) = event { !folders.contains(descriptor) } else { false }
        }
        XCTAssertGreaterThan(withoutFileSync.torn, 0)
        let withoutFolderSync = try crashOutcomes { event, folders in
            if case .synchronize(let descriptor) = event { folders.contains(descriptor) } else { false }
        }
        XCTAssertEqual(withoutFolderSync.torn, 0)
        XCTAssertTrue(withoutFolderSync.lost)
    }

    func testTheOrderOfCalls() throws {
        try withTemporaryFolder { folder in
            let system = FaultySystem()
            try AtomicFile.write([1, 2, 3], to: folder + "/a", calls: system.calls)
            let kinds = system.events.map { String("\($0)".prefix { $0 != "(" }) }
            XCTAssertEqual(kinds, ["open", "write", "synchronize", "rename", "close", "open", "synchronize", "close"])
        }
    }

    func testLettingGoKeepsTheOldFile() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/a"
            try AtomicFile.write(old, to: path)
            do {
                let file = try AtomicFile(path: path)
                try file.write(new)
                XCTAssertEqual(try entries(folder).count, 2)
            }
            XCTAssertEqual(read(path), old)
            XCTAssertEqual(try entries(folder), ["a"])
        }
    }

    func testTheTemporaryOfAKilledWriterIsRemovedAndThatOfALiveOneIsNot() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/a"
            let stale = [".a.tmp-1-1", ".a.tmp-999999-3"]  // process 1 lives: a number proves nothing, the lock does
            for name in stale { _ = FileManager.default.createFile(atPath: folder + "/" + name, contents: Data(new)) }
            let foreign = [".a.tmp-notes", ".ab.tmp-1-1", "a.tmp-1-1"]
            for name in foreign { _ = FileManager.default.createFile(atPath: folder + "/" + name, contents: Data()) }
            let live = try AtomicFile(path: path)
            let liveName = try XCTUnwrap(entries(folder).first { !stale.contains($0) && !foreign.contains($0) })
            try AtomicFile.write(old, to: path)
            XCTAssertEqual(try entries(folder), (foreign + ["a", liveName]).sorted())
            try live.write(new)
            try live.commit()
            XCTAssertEqual(read(path), new)
        }
    }

    func testAKilledProcessLeavesWhatTheNextWriterRemoves() throws {
        try withTemporaryFolder { folder in
            let name = TemporaryName(target: folder + "/a")
            // A child holds the lock until it is killed.
            let temporary = name.next()
            _ = FileManager.default.createFile(atPath: temporary, contents: Data())
            let child = Process()
            child.executableURL = URL(fileURLWithPath: "/usr/bin/flock")
            child.arguments = ["--no-fork", "--exclusive", temporary, "sleep", "60"]
            guard FileManager.default.isExecutableFile(atPath: "/usr/bin/flock") else {
                throw XCTSkip("needs util-linux")
            }
            try child.run()
            let deadline = Date().addingTimeInterval(10)
            func isLocked() -> Bool {
                let descriptor = open(temporary, O_WRONLY)
                defer { close(descriptor) }
                return flock(descriptor, LOCK_EX | LOCK_NB) != 0
            }
            while !isLocked(), Date() < deadline { usleep(10_000) }
            try AtomicFile.write(new, to: folder + "/a")
            XCTAssertEqual(try entries(folder).count, 2, "a live writer keeps its temporary")
            kill(child.processIdentifier, SIGKILL)
            child.waitUntilExit()
            try AtomicFile.write(new, to: folder + "/a")
            XCTAssertEqual(try entries(folder), ["a"])
        }
    }

    func testLinksPermissionsAndLongNames() throws {
        try withTemporaryFolder { folder in
            try FileManager.default.createDirectory(atPath: folder + "/sub", withIntermediateDirectories: false)
            try AtomicFile.write(old, to: folder + "/sub/real")
            chmod(folder + "/sub/real", 0o640)
            try FileManager.default.createSymbolicLink(atPath: folder + "/link", withDestinationPath: "sub/real")
            try AtomicFile.write(new, to: folder + "/link")
            XCTAssertEqual(read(folder + "/sub/real"), new)
            XCTAssertEqual(try FileManager.default.destinationOfSymbolicLink(atPath: folder + "/link"), "sub/real")
            var status = stat()
            stat(folder + "/sub/real", &status)
            XCTAssertEqual(status.st_mode & 0o777, 0o640)
            let long = folder + "/" + String(repeating: "é", count: 127)
            try AtomicFile.write(new, to: long)
            XCTAssertEqual(read(long), new)
        }
    }

    func testPathsThatCannotBeWritten() throws {
        try withTemporaryFolder { folder in
            for (path, reason) in [
                ("", "the path is empty"), (folder, "is a folder, not a file"),
                (folder + "/new/", "is a folder, not a file"),
                (folder + "/a\0b", "the path holds a NUL character"),
                (folder + "/none/a", "cannot create a file in its folder: No such file or directory"),
                ("/dev/full", "cannot write: No space left on device"),
            ] {
                XCTAssertThrowsError(try AtomicFile.write(old, to: path)) { error in
                    XCTAssertEqual((error as? FileError)?.reason, reason)
                    XCTAssertFalse("\(error)".contains("\0"))
                }
            }
            XCTAssertNoThrow(try AtomicFile.write(old, to: "/dev/null"))
            XCTAssertTrue(FileManager.default.fileExists(atPath: "/dev/null"))
        }
    }

    func testAfterAFailureOrCommitNothingIsWritten() throws {
        try withTemporaryFolder { folder in
            let file = try AtomicFile(path: folder + "/a")
            try file.write(old)
            try file.commit()
            XCTAssertThrowsError(try file.write(new))
            XCTAssertThrowsError(try file.commit())
            XCTAssertEqual(read(folder + "/a"), old)
        }
    }

    func testReading() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/a"
            try AtomicFile.write(new, to: path)
            XCTAssertEqual(try readFile(at: path), new)
            XCTAssertEqual(try MappedFile(path: path).withBytes(Array.init), new)
            XCTAssertThrowsError(try readFile(at: path, limit: 100)) {
                XCTAssertEqual(($0 as? FileError)?.reason, "has 200000 bytes, more than the limit of 100")
            }
            XCTAssertThrowsError(try readFile(at: folder)) {
                XCTAssertEqual(($0 as? FileError)?.reason, "is a folder, not a file")
            }
            XCTAssertThrowsError(try readFile(at: folder + "/b")) {
                XCTAssertEqual(($0 as? FileError)?.reason, "cannot open: No such file or directory")
            }
            mkfifo(folder + "/pipe", 0o600)
            XCTAssertThrowsError(try readFile(at: folder + "/pipe")) {
                XCTAssertEqual(($0 as? FileError)?.reason, "is not a regular file")
            }
            try AtomicFile.write([], to: folder + "/empty")
            XCTAssertEqual(try readFile(at: folder + "/empty"), [])
            XCTAssertEqual(try MappedFile(path: folder + "/empty").withBytes(\.count), 0)
        }
    }
}
