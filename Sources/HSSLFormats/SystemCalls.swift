#if canImport(Glibc)
import Glibc
#endif

/// The system calls that change files, replaceable so that tests can fail the n-th one and check what is left on disk.
///
/// Every closure returns the call's result, or −errno (the kernel's own convention: no global errno to be lost on the
/// way).
package struct SystemCalls: Sendable {
    /// (path, flags, mode) → file descriptor
    package var open: @Sendable (String, Int32, mode_t) -> Int
    package var write: @Sendable (Int32, UnsafeRawBufferPointer) -> Int
    /// (file descriptor, bytes, offset) → bytes written
    package var writeAt: @Sendable (Int32, UnsafeRawBufferPointer, Int) -> Int
    package var synchronize: @Sendable (Int32) -> Int
    package var rename: @Sendable (String, String) -> Int
    /// (old name, new name): both are the file's then.
    package var link: @Sendable (String, String) -> Int
    package var truncate: @Sendable (Int32, Int) -> Int
    package var unlink: @Sendable (String) -> Int
    package var close: @Sendable (Int32) -> Int

    package init(
        open: @escaping @Sendable (String, Int32, mode_t) -> Int,
        write: @escaping @Sendable (Int32, UnsafeRawBufferPointer) -> Int,
        writeAt: @escaping @Sendable (Int32, UnsafeRawBufferPointer, Int) -> Int,
        synchronize: @escaping @Sendable (Int32) -> Int,
        rename: @escaping @Sendable (String, String) -> Int,
        link: @escaping @Sendable (String, String) -> Int,
        truncate: @escaping @Sendable (Int32, Int) -> Int,
        unlink: @escaping @Sendable (String) -> Int,
        close: @escaping @Sendable (Int32) -> Int
    ) {
        self.open = open
        self.write = write
        self.writeAt = writeAt
        self.synchronize = synchronize
        self.rename = rename
        self.link = link
        self.truncate = truncate
        self.unlink = unlink
        self.close = close
    }

    package static let live = SystemCalls(
        open: { path, flags, mode in orErrno(Int(path.withPath { Glibc.open($0, flags, mode) })) },
        write: { descriptor, bytes in orErrno(Glibc.write(descriptor, bytes.baseAddress, bytes.count)) },
        writeAt: { descriptor, bytes, offset in
            orErrno(Glibc.pwrite(descriptor, bytes.baseAddress, bytes.count, offset))
        },
        synchronize: { descriptor in orErrno(Int(Glibc.fsync(descriptor))) },
        rename: { old, new in orErrno(Int(old.withPath { old in new.withPath { Glibc.rename(old, $0) } })) },
        link: { old, new in orErrno(Int(old.withPath { old in new.withPath { Glibc.link(old, $0) } })) },
        truncate: { descriptor, count in orErrno(Int(Glibc.ftruncate(descriptor, count))) },
        unlink: { path in orErrno(Int(path.withPath { Glibc.unlink($0) })) },
        close: { descriptor in orErrno(Int(Glibc.close(descriptor))) }
    )
}

/// Turns the C convention (−1 and errno) into −errno.
func orErrno(_ result: Int) -> Int { result < 0 ? -Int(errno) : result }

/// Repeats a call that a signal interrupted.
func retryingInterrupts(_ call: () -> Int) -> Int {
    while true {
        let result = call()
        if result != -Int(EINTR) { return result }
    }
}

/// Writes all of `bytes`, in as many calls as the system wants. Returns 0 or −errno.
func writeAll(_ bytes: UnsafeRawBufferPointer, _ call: (UnsafeRawBufferPointer, _ done: Int) -> Int) -> Int {
    var done = 0
    while done < bytes.count {
        let written = retryingInterrupts { call(UnsafeRawBufferPointer(rebasing: bytes[done...]), done) }
        if written < 0 { return written }
        // POSIX allows 0 for a non-empty write; repeating it could go on for ever.
        if written == 0 { return -Int(EIO) }
        done += min(written, bytes.count - done)
    }
    return 0
}
