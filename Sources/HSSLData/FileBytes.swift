#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The text of a system error number, thread-safe.
func systemMessage(_ code: Int32) -> String {
    var buffer = [CChar](repeating: 0, count: 128)
    guard strerror_r(code, &buffer, buffer.count) == 0 else { return "error \(code)" }
    return buffer.withUnsafeBufferPointer { $0.baseAddress.map { String(cString: $0) } ?? "" }
}

/// The whole of a regular file.
///
/// - Throws: ``DataError`` `.unreadable`, or `.tooLarge` for more than `limit` bytes, before reading.
func readFile(_ path: String, limit: Int) throws -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw DataError(.unreadable, path: path, reason: systemMessage(errno)) }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw DataError(.unreadable, path: path, reason: systemMessage(errno)) }
    guard status.st_mode & S_IFMT == S_IFREG else { throw DataError(.unreadable, path: path, reason: "not a regular file") }
    let size = Int(status.st_size)
    guard size <= limit else { throw DataError(.tooLarge, path: path, reason: "\(size) bytes are more than the limit of \(limit)") }
    var failure: Int32 = 0
    let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
        while count < size {
            let n = read(descriptor, buffer.baseAddress.map { $0 + count }, size - count)
            if n > 0 {
                count += n
            } else if n == 0 {
                break  // the file shrank: the decoder judges what is left
            } else if errno != EINTR {
                failure = errno
                break
            }
        }
    }
    guard failure == 0 else { throw DataError(.unreadable, path: path, reason: systemMessage(failure)) }
    return bytes
}
