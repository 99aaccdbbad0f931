#if canImport(Glibc)
import Glibc
#endif

/// A folder of a few files that appears under its name whole, or not at all.
///
/// Files are written into a temporary folder beside it (`.name.tmp-PID-N`); `commit()` gives that its name. An earlier
/// folder of the same files is replaced, anything else that is there is an error. Whatever fails before `commit()`
/// leaves what was there and no temporary; so does letting go of the object. A temporary that a killed process left is
/// removed by the next writer of the same folder, as ``AtomicFile`` does it.
package final class AtomicFolder {
    /// As given by the caller: what errors name.
    package let path: String

    private let target: String
    private let names: [String]
    private var temporary: String
    /// Holds the lock; −1 after the end, good or bad.
    private var descriptor: Int32 = -1

    /// - Parameters:
    ///   - names: of the files that may be in it.
    /// - Throws: `FileError`, before any work is done, for what cannot become such a folder.
    package init(path: String, names: [String]) throws(FileError) {
        self.path = path
        self.names = names
        if path.isEmpty { throw FileError(path: path, reason: "the path is empty") }
        if path.utf8.contains(0) { throw FileError(path: path, reason: "the path holds a NUL character") }
        var target = path
        while target.utf8.count > 1, target.utf8.last == UInt8(ascii: "/") { target.removeLast() }
        var status = stat()
        if target.withPath({ stat($0, &status) }) == 0 {
            guard status.st_mode & S_IFMT == S_IFDIR else {
                throw FileError(path: path, reason: "is a file, and a folder is to be written")
            }
            target = resolved(target)
            if let other = try Self.entries(target, path).first(where: { !names.contains($0) }) {
                throw FileError(
                    path: path,
                    reason: "is a folder that holds '\(oneLine(other))', not one of "
                        + "an earlier export: give another name")
            }
        }
        self.target = target
        let name = TemporaryName(target: target)
        for stale in name.stale() { Self.remove(stale, names) }
        temporary = ""
        for _ in 0..<100 {
            temporary = name.next()
            if temporary.withPath({ mkdir($0, 0o777) }) == 0 { break }
            let code = errno
            temporary = ""
            if code != EEXIST {
                throw FileError(path: path, action: "cannot create a folder beside it", code: Int(code))
            }
        }
        guard !temporary.isEmpty else {
            throw FileError(path: path, reason: "cannot create a temporary folder beside it: every name is taken")
        }
        // Where locks are not supported nobody cleans up either, so failing to lock is harmless.
        descriptor = temporary.withPath { open($0, O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
        if descriptor >= 0 { _ = flock(descriptor, LOCK_EX | LOCK_NB) }
    }

    deinit { if !temporary.isEmpty { abort() } }

    /// Where to write the file of this name, one of `names`.
    package func path(of name: String) -> String { "\(temporary)/\(name)" }

    package func commit() throws(FileError) {
        var replaced: String?
        if target.withPath({ access($0, F_OK) }) == 0 {
            let old = TemporaryName(target: target).next()
            try rename(target, to: old, "cannot move the earlier folder away")
            replaced = old
        }
        do {
            try rename(temporary, to: target, "cannot give the new folder its name")
        } catch {
            if let replaced { _ = SystemCalls.live.rename(replaced, target) }
            throw error
        }
        temporary = ""
        closeLock()
        if let replaced { Self.remove(replaced, names) }
        let folder = synchronizeFolder(of: target, .live)
        if folder.result < 0 {
            throw FileError(path: path, action: "written, but cannot make the name durable", code: -folder.result)
        }
    }

    /// Drops what was written; what was there stays. Does nothing after `commit()`.
    package func abort() {
        if !temporary.isEmpty { Self.remove(temporary, names) }
        temporary = ""
        closeLock()
    }

    private func closeLock() {
        if descriptor >= 0 { close(descriptor) }
        descriptor = -1
    }

    private func rename(_ old: String, to new: String, _ action: String) throws(FileError) {
        let result = SystemCalls.live.rename(old, new)
        if result < 0 { throw FileError(path: path, action: action, code: -result) }
    }

    private static func entries(_ folder: String, _ path: String) throws(FileError) -> [String] {
        guard let stream = folder.withPath({ opendir($0) }) else {
            throw FileError(path: path, action: "cannot read the folder", code: Int(errno))
        }
        defer { closedir(stream) }
        return entryNames(stream).filter { $0 != "." && $0 != ".." }
    }

    /// Only files that are ours to remove: anything else keeps the folder alive.
    private static func remove(_ folder: String, _ names: [String]) {
        for name in names { _ = SystemCalls.live.unlink("\(folder)/\(name)") }
        // A killed writer's file, in the middle of being written.
        for name in (try? entries(folder, folder)) ?? [] where name.hasPrefix(".") && name.contains(".tmp-") {
            _ = SystemCalls.live.unlink("\(folder)/\(name)")
        }
        _ = folder.withPath { rmdir($0) }
    }
}

extension TemporaryName {
    /// Folders of these names that no process holds a lock on.
    fileprivate func stale() -> [String] {
        all().filter { path in
            let descriptor = path.withPath { open($0, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) }
            if descriptor < 0 { return false }
            defer { close(descriptor) }
            return flock(descriptor, LOCK_EX | LOCK_NB) == 0
        }
    }
}
