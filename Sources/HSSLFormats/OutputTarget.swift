#if canImport(Glibc)
import Glibc
#endif

/// Where a path that is to be written leads: symbolic links are followed, also one whose file is yet to be made.
package struct OutputTarget {
    /// The file itself.
    package let path: String
    /// Of the file that is there already.
    package let permissions: mode_t?
    /// A device or pipe: written straight, not replaced.
    package let isStraight: Bool

    /// - Parameter needsSeeking: the format completes its beginning at the end, which a pipe cannot take.
    /// - Throws: `FileError`, before any work is done, for what cannot become a file.
    package init(_ path: String, needsSeeking: Bool = false) throws(FileError) {
        if path.isEmpty { throw FileError(path: path, reason: "the path is empty") }
        if path.utf8.contains(0) { throw FileError(path: path, reason: "the path holds a NUL character") }
        var status = stat()
        let exists = path.withPath { stat($0, &status) } == 0
        let kind = status.st_mode & S_IFMT
        if exists && kind == S_IFDIR || path.utf8.last == UInt8(ascii: "/") {
            throw FileError(path: path, reason: "is a folder, not a file")
        }
        isStraight = exists && kind != S_IFREG
        permissions = exists && !isStraight ? status.st_mode & 0o777 : nil
        if isStraight {
            self.path = path
            if needsSeeking, kind == S_IFIFO || kind == S_IFSOCK || Self.isTerminal(path) {
                throw FileError(
                    path: path,
                    reason: "is a pipe, and this format completes its beginning at the end: "
                        + "write to a file, or as .csv or .jsonl")
            }
        } else {
            self.path = exists ? resolved(path) : try Self.dangling(path)
            if exists, Self.isMountPoint(self.path) {
                throw FileError(
                    path: path,
                    reason: "is mounted by itself, so that it cannot be replaced whole: mount its folder instead")
            }
        }
    }

    private static func isTerminal(_ path: String) -> Bool {
        let descriptor = path.withPath { open($0, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK) }
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        return isatty(descriptor) == 1
    }

    /// What a chain of links ends at where nothing is yet.
    private static func dangling(_ path: String) throws(FileError) -> String {
        var current = path
        for _ in 0..<40 {
            var target = [CChar](repeating: 0, count: Int(PATH_MAX))
            let length = target.withUnsafeMutableBufferPointer { buffer in
                guard let base = buffer.baseAddress else { return -1 }
                return current.withPath { readlink($0, base, buffer.count) }
            }
            if length < 0 { return current }
            let next = PathBytes.string(target.prefix(length).map(UInt8.init(bitPattern:)))
            current = next.utf8.first == UInt8(ascii: "/") ? next : enclosingFolder(of: current) + "/" + next
        }
        throw FileError(path: path, action: "cannot follow its symbolic links", code: Int(ELOOP))
    }

    /// Whether something is mounted at the very path of a file, as containers do with single files. Where the system
    /// does not tell, renaming will.
    private static func isMountPoint(_ path: String) -> Bool {
        guard let stream = fopen("/proc/self/mountinfo", "re") else { return false }
        defer { fclose(stream) }
        let wanted = PathBytes.bytes(resolved(path))
        var line: UnsafeMutablePointer<CChar>?
        var capacity = 0
        defer { free(line) }
        while getline(&line, &capacity, stream) > 0, let text = line {
            let bytes = UnsafeRawBufferPointer(start: text, count: strlen(text))
            // "36 35 98:0 /source /mount/point …", spaces and the like as three octal digits.
            let fields = bytes.split(separator: UInt8(ascii: " "), maxSplits: 5)
            if fields.count > 4, unescaped(fields[4]) == wanted { return true }
        }
        return false
    }

    private static func unescaped(_ field: Slice<UnsafeRawBufferPointer>) -> [UInt8] {
        var result: [UInt8] = []
        var rest = field[...]
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            if byte == UInt8(ascii: "\\"), digits.count == 3, digits.allSatisfy({ (0x30...0x37).contains($0) }) {
                result.append(digits.reduce(0) { $0 &* 8 &+ ($1 - 0x30) })
                rest = rest.dropFirst(3)
            } else {
                result.append(byte)
            }
        }
        return result
    }
}

/// Refuses to write over a file that is read as well: it would be lost, also where it is called by another name.
///
/// - Parameter option: that names the output.
/// - Throws: `FileError`, before any work is done.
package func refuseOverwriting(
    _ output: String, of inputs: [String], option: String = "--output"
) throws(FileError) {
    func file(_ path: String) -> (dev_t, ino_t)? {
        var status = stat()
        guard path.withPath({ stat($0, &status) }) == 0, status.st_mode & S_IFMT == S_IFREG else { return nil }
        return (status.st_dev, status.st_ino)
    }
    guard let target = file(output) else { return }
    if inputs.contains(where: { input in file(input).map { $0 == target } ?? false }) {
        throw FileError(path: output, reason: "is what is read, and would be lost: give another \(option)")
    }
}

/// The folder that holds `path` ("." for a bare name).
func enclosingFolder(of path: String) -> String {
    guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")) else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
}

/// The file that a symbolic link leads to, or `path` itself.
func resolved(_ path: String) -> String {
    guard let real = path.withPath({ realpath($0, nil) }) else { return path }
    defer { free(real) }
    return PathBytes.string(terminated: real)
}

/// Makes names in the folder of `path` durable. Returns 0 or −errno, and whether the folder could be opened.
func synchronizeFolder(of path: String, _ calls: SystemCalls) -> (result: Int, isOpened: Bool) {
    let opened = retryingInterrupts { calls.open(enclosingFolder(of: path), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0) }
    if opened < 0 { return (opened, false) }
    let result = retryingInterrupts { calls.synchronize(Int32(opened)) }
    _ = calls.close(Int32(opened))
    // EINVAL: a file system without fsync of folders.
    return (result == -Int(EINVAL) ? 0 : result, true)
}
