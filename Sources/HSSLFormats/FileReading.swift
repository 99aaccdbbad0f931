#if canImport(Glibc)
import Glibc
#endif

/// An open regular file, for reading. Folders, pipes and devices are refused (opening never blocks on a FIFO).
package final class ReadableFile: Sendable {
    package let path: String
    /// Bytes when it was opened.
    package let size: Int
    let descriptor: Int32

    package init(path: String) throws(FileError) {
        if path.isEmpty { throw FileError(path: path, reason: "the path is empty") }
        if path.utf8.contains(0) { throw FileError(path: path, reason: "the path holds a NUL character") }
        let opened = retryingInterrupts { orErrno(Int(path.withPath { open($0, O_RDONLY | O_CLOEXEC | O_NONBLOCK) })) }
        if opened < 0 { throw FileError(path: path, action: "cannot open", code: -opened) }
        let descriptor = Int32(opened)
        var status = stat()
        let result = orErrno(Int(fstat(descriptor, &status)))
        let kind = status.st_mode & S_IFMT
        if result < 0 || kind != S_IFREG {
            close(descriptor)
            if result < 0 { throw FileError(path: path, action: "cannot read its size", code: -result) }
            throw FileError(path: path, reason: kind == S_IFDIR ? "is a folder, not a file" : "is not a regular file")
        }
        self.path = path
        self.size = Int(status.st_size)
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    /// Fills `buffer` from `offset`; an error if the file ends before.
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(FileError) {
        var done = 0
        while done < buffer.count {
            let target = UnsafeMutableRawBufferPointer(rebasing: buffer[done...])
            let count = retryingInterrupts {
                orErrno(pread(descriptor, target.baseAddress, target.count, offset + done))
            }
            if count < 0 { throw FileError(path: path, action: "cannot read", code: -count) }
            if count == 0 { throw FileError(path: path, reason: "the file became shorter while it was read") }
            done += count
        }
    }
}

/// The whole of a regular file of at most `limit` bytes.
package func readFile(at path: String, limit: Int = 1 << 30) throws(FileError) -> [UInt8] {
    let file = try ReadableFile(path: path)
    if file.size > limit {
        throw FileError(path: path, reason: "has \(file.size) bytes, more than the limit of \(limit)")
    }
    var failure: FileError?
    let bytes = [UInt8](unsafeUninitializedCapacity: file.size) { buffer, count in
        do throws(FileError) {
            try file.read(
                into: UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[..<file.size]),
                at: 0)
            count = file.size
        } catch {
            failure = error
        }
    }
    if let failure { throw failure }
    return bytes
}

/// A regular file mapped read-only, for as long as the object lives.
///
/// A file that another process truncates while it is mapped raises SIGBUS on access, as with any mapping: replace files
/// by rename (`AtomicFile` does), which leaves existing mappings whole.
package final class MappedFile: @unchecked Sendable {  // immutable after init, and the mapping is read-only
    package let path: String
    /// For those who hold the object; else it may be gone, and its mapping with it, before the bytes are used.
    let bytes: UnsafeRawBufferPointer

    package convenience init(path: String) throws(FileError) {
        try self.init(ReadableFile(path: path))
    }

    package init(_ file: ReadableFile) throws(FileError) {
        path = file.path
        if file.size == 0 {
            bytes = UnsafeRawBufferPointer(start: nil, count: 0)
            return
        }
        guard let address = mmap(nil, file.size, PROT_READ, MAP_PRIVATE, file.descriptor, 0),
              address != MAP_FAILED else {
            throw FileError(path: file.path, action: "cannot map", code: Int(errno))
        }
        bytes = UnsafeRawBufferPointer(start: address, count: file.size)
    }

    /// The bytes for the time of `body`.
    package func withBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        defer { withExtendedLifetime(self) {} }
        return try body(bytes)
    }

    /// Gives the memory of all that was read back; the mapping stays, and what is read again comes again. All of it,
    /// because a page that is touched brings neighbours along.
    func dropResident() {
        if let start = bytes.baseAddress {
            madvise(UnsafeMutableRawPointer(mutating: start), bytes.count, MADV_DONTNEED)
        }
    }

    deinit {
        if let address = bytes.baseAddress { munmap(UnsafeMutableRawPointer(mutating: address), bytes.count) }
    }
}
