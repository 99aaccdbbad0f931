import HSSLFormats
#if canImport(Glibc)
import Glibc
#endif

/// What a resumed run must find unchanged of the inputs that an earlier one read: sizes and times of their files.
struct InputStamp {
    private var checksum = CRC32C()
    /// The file looked at last: all images of an IDX file are of one.
    private var last: (path: String, values: [Int64])?

    var value: UInt32 { checksum.value }

    /// - Parameter path: as the list of inputs names it: a file, or `FILE#n`.
    mutating func add(_ path: String) {
        let values = look(path)
        values.withUnsafeBytes { checksum.update($0) }
    }

    private mutating func look(_ path: String) -> [Int64] {
        if let found = Self.status(path) { return found }
        guard let mark = path.utf8.lastIndex(of: UInt8(ascii: "#")) else { return [] }
        let file = String(path[..<mark])
        if let last, last.path == file { return last.values }
        let values = Self.status(file) ?? []
        last = (file, values)
        return values
    }

    private static func status(_ path: String) -> [Int64]? {
        var status = stat()
        guard path.withPath({ stat($0, &status) }) == 0 else { return nil }
        return [Int64(status.st_size), Int64(status.st_mtim.tv_sec), Int64(status.st_mtim.tv_nsec)]
    }
}
