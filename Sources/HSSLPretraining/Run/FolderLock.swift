import Glibc
import HSSLFormats

/// A folder that one process at a time writes, by a lock on its file `.lock`. The lock dies with its process, so a
/// leftover file means nothing; it stays, for removing it would let two processes lock two files of one name. Only a
/// folder that was made for nothing goes, with its lock: who opened the file just before finds it gone, and says so.
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
        // Its last holder may have removed the folder between our opening the file and our locking it.
        var held = stat(), there = stat()
        guard fstat(descriptor, &held) == 0, path.withPath({ stat($0, &there) }) == 0, held.st_ino == there.st_ino
        else {
            close(descriptor)
            throw FileError(path: folder, reason: "another \(holder) has just removed this folder; try again")
        }
    }

    deinit { close(descriptor) }
}
