#if canImport(Glibc)
import Glibc
#endif

/// A file on its way to its name, kept beside it as `FILE.partial`: it outlives its writer, and another one goes on
/// with it. Nobody else may write it meanwhile (a lock, where the file system has locks).
final class PartialFile: SeekableSink {
    /// As given by the caller: what errors name.
    let path: String
    /// Where the bytes are until ``publish()``.
    let partial: String
    let target: String
    /// CRC-32C of the bytes that were written behind the header, which is completed at the end.
    private(set) var checksum = CRC32C()
    /// The old file under another name, while it may have to come back.
    private var backup: String?

    private let calls: SystemCalls
    private let headerSize: Int
    /// nil after the end.
    private var bytes: BufferedDescriptor?
    private var hasFailed = false

    /// What a file was when its writer last made it durable.
    struct Extent: Equatable {
        var count: Int
        var checksum: UInt32
    }

    /// Whether something is there to go on with.
    static func exists(for path: String) throws(FileError) -> Bool {
        let partial = name(for: try OutputTarget(path).path)
        return partial.withPath { access($0, F_OK) } == 0
    }

    /// Bytes of a name that leave room for `.partial.journal` within 255.
    private static let longestName = 239

    /// `FILE.partial`. Long names are cut.
    static func name(for target: String) -> String {
        let slash = target.utf8.lastIndex(of: UInt8(ascii: "/"))
        let start = slash.map { target.utf8.index(after: $0) } ?? target.startIndex
        let name = PathBytes.bytes(String(target[start...])).prefix(longestName)
        return "\(target[..<start])\(PathBytes.string(name)).partial"
    }

    /// Opens the partial file, or makes it; its content stays as it is until ``begin()`` or ``resume(_:)``.
    ///
    /// - Parameter headerSize: bytes at the beginning that ``overwrite(_:at:)`` completes.
    init(path: String, headerSize: Int, calls: SystemCalls) throws(FileError) {
        self.path = path
        self.calls = calls
        self.headerSize = headerSize
        let target = try OutputTarget(path)
        self.target = target.path
        partial = Self.name(for: target.path)
        let descriptor = try Self.openLocked(partial, path: path, calls)
        bytes = BufferedDescriptor(descriptor, calls: calls)
        // A replaced file keeps its permissions; without the right to set them it gets the usual ones.
        if let permissions = target.permissions { _ = fchmod(descriptor, permissions) }
    }

    private static func openLocked(_ partial: String, path: String, _ calls: SystemCalls) throws(FileError) -> Int32 {
        while true {
            let opened = retryingInterrupts { calls.open(partial, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o666) }
            if opened < 0 { throw FileError(path: path, action: "cannot create a file in its folder", code: -opened) }
            let descriptor = Int32(opened)
            // Where locks are not supported nobody else is kept away either.
            if flock(descriptor, LOCK_EX | LOCK_NB) != 0, errno == EWOULDBLOCK {
                _ = calls.close(descriptor)
                throw FileError(path: partial, reason: "another process is writing it")
            }
            // Between our open and lock its writer may have given it its name, or removed it.
            var ours = stat(), named = stat()
            if fstat(descriptor, &ours) == 0, partial.withPath({ lstat($0, &named) }) == 0,
               ours.st_ino == named.st_ino {
                return descriptor
            }
            _ = calls.close(descriptor)
        }
    }

    deinit { close() }

    // MARK: Beginning

    /// Starts with nothing.
    func begin() throws(FileError) {
        try perform("cannot write") { calls.truncate($0.descriptor, 0) }
    }

    /// Goes on behind `extent`; what comes after it is dropped.
    ///
    /// - Returns: false if the file does not hold what it should.
    func resume(_ extent: Extent) throws(FileError) -> Bool {
        guard let descriptor = bytes?.descriptor else { return false }
        guard let found = try Self.checksum(descriptor, path: path, from: headerSize, to: extent.count),
              found.value == extent.checksum else { return false }
        try perform("cannot write") { calls.truncate($0.descriptor, extent.count) }
        if lseek(descriptor, off_t(extent.count), SEEK_SET) < 0 {
            throw FileError(path: path, action: "cannot go to its end", code: Int(errno))
        }
        bytes = BufferedDescriptor(descriptor, count: extent.count, calls: calls)
        checksum = found
        return true
    }

    /// Whether the file under its own name is what `extent` says: it got its name before its writer died.
    static func isPublished(_ path: String, _ extent: Extent) throws(FileError) -> Bool {
        let file = try ReadableFile(path: path)
        guard file.size == extent.count else { return false }
        return try checksum(file.descriptor, path: path, from: 0, to: extent.count)?.value == extent.checksum
    }

    /// Makes the content of the published file this one's.
    func copyPublished() throws(FileError) {
        try begin()
        let file = try ReadableFile(path: path)
        var piece = [UInt8](repeating: 0, count: min(file.size, 1 << 18))
        while count < file.size {
            let part = min(piece.count, file.size - count)
            var failure: FileError?
            piece.withUnsafeMutableBytes { buffer in
                let buffer = UnsafeMutableRawBufferPointer(rebasing: buffer[..<part])
                do throws(FileError) {
                    try file.read(into: buffer, at: count)
                    try write(UnsafeRawBufferPointer(buffer))
                } catch { failure = error }
            }
            if let failure { throw failure }
        }
        try commit()
    }

    /// nil where the file is shorter than `end`.
    private static func checksum(
        _ descriptor: Int32, path: String, from start: Int, to end: Int
    ) throws(FileError) -> CRC32C? {
        var checksum = CRC32C()
        var piece = [UInt8](repeating: 0, count: 1 << 18)
        var offset = start
        while offset < end {
            let wanted = min(piece.count, end - offset)
            let count = piece.withUnsafeMutableBytes { buffer in
                retryingInterrupts { orErrno(pread(descriptor, buffer.baseAddress, wanted, off_t(offset))) }
            }
            if count < 0 { throw FileError(path: path, action: "cannot read what is there of it", code: -count) }
            if count == 0 { return nil }
            piece.withUnsafeBytes { checksum.update(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
            offset += count
        }
        return checksum
    }

    // MARK: Writing

    /// Bytes written so far, those of earlier writers among them.
    var count: Int { bytes?.count ?? 0 }

    var extent: Extent { Extent(count: count, checksum: checksum.value) }

    func write(_ new: UnsafeRawBufferPointer) throws(FileError) {
        if count >= headerSize { checksum.update(new) }
        try perform("cannot write") { $0.write(new) }
    }

    func overwrite(_ new: [UInt8], at offset: Int) throws(FileError) {
        try perform("cannot write") { $0.overwrite(new, at: offset) }
    }

    /// Makes durable what was written.
    func commit() throws(FileError) {
        try perform("cannot write") { $0.flush() }
        try perform("cannot write to disk") { $0.synchronize() }
    }

    private func perform(_ action: String, _ body: (inout BufferedDescriptor) -> Int) throws(FileError) {
        guard !hasFailed, let result = bytes?.perform(body) else {
            throw FileError(path: path, reason: "an earlier write failed, or the file is complete")
        }
        if result >= 0 { return }
        hasFailed = true
        throw FileError(path: path, action: action, code: -result)
    }

    // MARK: The end

    /// Keeps the old file at hand and gives this one its name.
    func publish(keepingOld: Bool) throws(FileError) {
        if keepingOld { try setOldAside() }
        let result = calls.rename(partial, target)
        if result < 0 {
            restoreOld()
            throw FileError(path: path, action: "cannot rename \(partial) to it", code: -result)
        }
    }

    /// Takes ``publish(keepingOld:)`` back.
    func unpublish() {
        _ = calls.rename(target, partial)
        restoreOld()
    }

    /// After the last of several files has its name.
    func dropOld() {
        if let backup { _ = calls.unlink(backup) }
        backup = nil
    }

    private func setOldAside() throws(FileError) {
        let name = TemporaryName(target: target).next()
        var result = calls.link(target, name)
        if result == -Int(ENOENT) { return }
        // File systems without a second name for a file.
        if result < 0 { result = calls.rename(target, name) }
        if result < 0 { throw FileError(path: path, action: "cannot set the old file aside", code: -result) }
        backup = name
    }

    private func restoreOld() {
        if let backup {
            _ = calls.rename(backup, target)
            // Two names of one file stay as they are.
            _ = calls.unlink(backup)
        }
        backup = nil
    }

    /// Lets go; what is there stays.
    func close() {
        guard let descriptor = bytes?.descriptor else { return }
        _ = calls.close(descriptor)
        bytes = nil
    }

    /// Lets go and leaves nothing.
    func discard() {
        _ = calls.unlink(partial)
        close()
    }
}
