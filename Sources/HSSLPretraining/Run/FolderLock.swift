import Glibc
import HSSLFormats

/// A folder that one process at a time writes, by a lock on its file `.lock`. The lock dies with its process, so a
/// leftover file means nothing; it stays, for removing it would let two processes lock two files of one name.
final class FolderLock: Sendable {
    /// Where the file system has no locks: what a person should know.
    let notice: String?
    private let descriptor: Int32

    /// - Parameters:
    ///   - holder: who writes there, for messages.
    ///   - flock: the system's; replaceable for tests. Returns 0 or an errno.
    /// - Throws: `FileError` where somebody else holds it, or the system refuses.
    init(_ folder: String, holder: String, flock: (Int32) -> Int32 = RunFolder.lockNow) throws(FileError) {
        let path = folder + "/.lock"
        descriptor = path.withPath { open($0, O_RDWR | O_CREAT | O_CLOEXEC, 0o644) }
        guard descriptor >= 0 else { throw FileError(path: path, action: "cannot open", code: Int(errno)) }
        let code = flock(descriptor)
        if [ENOLCK, ENOSYS, ENOTSUP, EINVAL].contains(code) {
            notice = "\(folder): this file system has no locks, so a second \(holder) in it would not be noticed"
            return
        }
        guard code == 0 else {
            close(descriptor)
            if code == EWOULDBLOCK {
                throw FileError(path: folder, reason: "another \(holder) is running in this folder")
            }
            throw FileError(path: path, action: "cannot lock", code: Int(code))
        }
        notice = nil
    }

    deinit { close(descriptor) }
}
