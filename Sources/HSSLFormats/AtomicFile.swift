#if canImport(Glibc)
import Glibc
#endif

/// Where writers of formats send their bytes.
package protocol ByteSink: AnyObject {
    func write(_ bytes: UnsafeRawBufferPointer) throws(FileError)
    /// Makes what was written final.
    func commit() throws(FileError)
}

extension ByteSink {
    package func write(_ bytes: [UInt8]) throws(FileError) {
        // A typed error cannot cross `withUnsafeBytes` of the standard library.
        var failure: FileError?
        bytes.withUnsafeBytes { bytes in
            do throws(FileError) { try write(bytes) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}

/// A sink that can go back.
package protocol SeekableSink: ByteSink {
    /// Bytes written so far.
    var count: Int { get }
    /// Replaces bytes that were written before (a header that is known at the end).
    func overwrite(_ bytes: [UInt8], at offset: Int) throws(FileError)
}

/// A file that appears under its name whole, or not at all.
///
/// Bytes go to a temporary in the same folder (`.name.tmp-PID-N`); `commit()` does fsync, rename, fsync of the folder.
/// Whatever fails before the rename leaves the old file as it was and no temporary; so does letting go of the object
/// without `commit()`. A temporary that a killed process left is removed by the next writer of the same file: its
/// writer held a lock on it, which died with the process. A symbolic link is followed, one that dangles too. A device
/// or pipe (`/dev/stdout`) is written straight.
package final class AtomicFile: SeekableSink {
    /// As given by the caller: what errors name.
    package let path: String

    private let calls: SystemCalls
    private let target: String
    /// nil when written straight.
    private let temporary: String?
    /// nil after the end, good or bad.
    private var bytes: BufferedDescriptor?
    /// Bytes written so far.
    package private(set) var count = 0

    /// - Parameter needsSeeking: ``overwrite(_:at:)`` will be called, which a pipe cannot take.
    package init(path: String, needsSeeking: Bool = false, calls: SystemCalls = .live) throws(FileError) {
        self.path = path
        self.calls = calls
        let target = try OutputTarget(path, needsSeeking: needsSeeking)
        self.target = target.path
        if target.isStraight {
            temporary = nil
            let opened = retryingInterrupts { calls.open(path, O_WRONLY | O_CLOEXEC, 0) }
            if opened < 0 { throw FileError(path: path, action: "cannot open for writing", code: -opened) }
            bytes = BufferedDescriptor(Int32(opened), calls: calls)
        } else {
            let name = TemporaryName(target: target.path)
            name.removeStale(calls)
            let opened = try Self.create(name, path: path, calls)
            temporary = opened.path
            bytes = BufferedDescriptor(opened.descriptor, calls: calls)
            // A replaced file keeps its permissions; without the right to set them it gets the usual ones.
            if let permissions = target.permissions { _ = fchmod(opened.descriptor, permissions) }
        }
    }

    deinit { abort() }

    /// Writes `bytes` as the whole file at `path`.
    package static func write(_ bytes: [UInt8], to path: String, calls: SystemCalls = .live) throws(FileError) {
        let file = try AtomicFile(path: path, calls: calls)
        try file.write(bytes)
        try file.commit()
    }

    package func write(_ bytes: UnsafeRawBufferPointer) throws(FileError) {
        count += bytes.count
        try perform("cannot write") { $0.write(bytes) }
    }

    /// Replaces bytes that were written before (a header that is known at the end).
    package func overwrite(_ bytes: [UInt8], at offset: Int) throws(FileError) {
        try perform("cannot write") { $0.overwrite(bytes, at: offset) }
    }

    package func commit() throws(FileError) {
        try perform("cannot write") { $0.flush() }
        guard let descriptor = bytes?.descriptor else { return }
        guard let temporary else {
            let result = calls.close(descriptor)
            bytes = nil
            if result < 0 { throw FileError(path: path, action: "cannot close", code: -result) }
            return
        }
        try perform("cannot write to disk") { $0.synchronize() }
        try perform("cannot rename the temporary file to it") { _ in calls.rename(temporary, target) }
        // The data are on disk and have their name: a failing close can take nothing back. It comes after the rename to
        // hold the lock.
        _ = calls.close(descriptor)
        bytes = nil
        let folder = synchronizeFolder(of: target, calls)
        if folder.result < 0 {
            let what = folder.isOpened ? "make the name durable" : "open its folder to make the name durable"
            throw FileError(path: path, action: "written, but cannot \(what)", code: -folder.result)
        }
    }

    /// Drops what was written; the old file stays. Does nothing after `commit()`.
    package func abort() {
        guard let descriptor = bytes?.descriptor else { return }
        if let temporary { _ = calls.unlink(temporary) }
        _ = calls.close(descriptor)
        bytes = nil
    }

    /// What fails ends the file.
    private func perform(_ action: String, _ body: (inout BufferedDescriptor) -> Int) throws(FileError) {
        guard let result = bytes?.perform(body) else {
            throw FileError(path: path, reason: "an earlier write failed, or the file is complete")
        }
        if result >= 0 { return }
        abort()
        throw FileError(path: path, action: action, code: -result)
    }

    private static func create(
        _ name: TemporaryName, path: String, _ calls: SystemCalls
    ) throws(FileError) -> (path: String, descriptor: Int32) {
        // Taken names are those of other threads, or of a process with our number that cannot be locked: a few tries
        // suffice.
        for _ in 0..<100 {
            let temporary = name.next()
            let opened = retryingInterrupts { calls.open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666) }
            if opened == -Int(EEXIST) { continue }
            if opened < 0 { throw FileError(path: path, action: "cannot create a file in its folder", code: -opened) }
            let descriptor = Int32(opened)
            // Where locks are not supported nobody cleans up either, so failing to lock is harmless.
            _ = flock(descriptor, LOCK_EX | LOCK_NB)
            // Between our open and lock a cleaner may have taken the new file for a stale one.
            var status = stat()
            if fstat(descriptor, &status) == 0 && status.st_nlink == 0 {
                _ = calls.close(descriptor)
                continue
            }
            return (temporary, descriptor)
        }
        throw FileError(path: path, reason: "cannot create a temporary file in its folder: every name is taken")
    }
}

/// Names of temporaries of one target: `.name.tmp-PID-N`.
struct TemporaryName {
    private let folder: String
    private let prefix: String

    init(target: String) {
        folder = enclosingFolder(of: target)
        let name = target.split(separator: "/").last.map(String.init) ?? target
        // A name of 255 bytes is allowed; ours must leave room for what is added.
        prefix = "." + PathBytes.string(PathBytes.bytes(name).prefix(200)) + ".tmp-"
    }

    func next() -> String { "\(folder)/\(prefix)\(getpid())-\(temporaryCounter.next())" }

    /// Removes what killed writers of the same target left: files of these names that no process holds a lock on.
    func removeStale(_ calls: SystemCalls) {
        for path in all() {
            let descriptor = path.withPath { open($0, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) }
            if descriptor < 0 { continue }
            if flock(descriptor, LOCK_EX | LOCK_NB) == 0 { _ = calls.unlink(path) }
            close(descriptor)
        }
    }

    /// What has such a name.
    func all() -> [String] {
        guard let stream = folder.withPath({ opendir($0) }) else { return [] }
        defer { closedir(stream) }
        return entryNames(stream).filter {
            $0.hasPrefix(prefix) && $0.dropFirst(prefix.count).allSatisfy { $0.isNumber || $0 == "-" }
        }.map { "\(folder)/\($0)" }
    }
}

/// What a folder holds.
func entryNames(_ stream: OpaquePointer) -> [String] {
    var names: [String] = []
    while let entry = readdir(stream) {
        names.append(withUnsafeBytes(of: &entry.pointee.d_name) { PathBytes.string($0.prefix { $0 != 0 }) })
    }
    return names
}

/// Tells apart the temporaries of one process.
private final class TemporaryCounter: @unchecked Sendable {
    private var mutex = pthread_mutex_t()
    private var value = 0

    init() { pthread_mutex_init(&mutex, nil) }

    func next() -> Int {
        pthread_mutex_lock(&mutex)
        defer { pthread_mutex_unlock(&mutex) }
        value += 1
        return value
    }
}

private let temporaryCounter = TemporaryCounter()
