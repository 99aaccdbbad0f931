import Foundation

@testable import HSSLFormats

/// System calls that are recorded, one of which can be made to fail.
final class FaultySystem: @unchecked Sendable {  // tests use it from one thread
    enum Event: Equatable {
        case open(String, descriptor: Int32)
        case write(Int32, [UInt8])
        case writeAt(Int32, [UInt8], Int)
        case synchronize(Int32)
        case rename(String, String)
        case link(String, String)
        case truncate(Int32, Int)
        case unlink(String)
        case close(Int32)
    }

    private(set) var events: [Event] = []
    /// Calls so far, but for unlink: that is only called to clean up after a failure.
    private(set) var callCount = 0
    /// The call to fail, from 0, and with which errno.
    var failing: (call: Int, code: Int32)?
    /// At most so many bytes are taken by one write.
    var writeLimit = Int.max
    /// Every call fails with EINTR this many times before it runs.
    var interruptions = 0
    private var interrupted = 0

    private func enter() -> Int? {
        if interrupted < interruptions {
            interrupted += 1
            return -Int(EINTR)
        }
        interrupted = 0
        defer { callCount += 1 }
        if let failing, failing.call == callCount { return -Int(failing.code) }
        return nil
    }

    private func isWhole(_ result: Int, _ event: Event) -> Int {
        if result >= 0 { events.append(event) }
        return result
    }

    var calls: SystemCalls {
        let live = SystemCalls.live
        return SystemCalls(
            open: { [self] path, flags, mode in
                if let failure = enter() { return failure }
                let result = live.open(path, flags, mode)
                return isWhole(result, .open(path, descriptor: Int32(result)))
            },
            write: { [self] descriptor, bytes in
                if let failure = enter() { return failure }
                let part = UnsafeRawBufferPointer(rebasing: bytes.prefix(writeLimit))
                return isWhole(live.write(descriptor, part), .write(descriptor, Array(part)))
            },
            writeAt: { [self] descriptor, bytes, offset in
                if let failure = enter() { return failure }
                let part = UnsafeRawBufferPointer(rebasing: bytes.prefix(writeLimit))
                return isWhole(live.writeAt(descriptor, part, offset), .writeAt(descriptor, Array(part), offset))
            },
            synchronize: { [self] descriptor in
                if let failure = enter() { return failure }
                return isWhole(live.synchronize(descriptor), .synchronize(descriptor))
            },
            rename: { [self] old, new in
                // rename and close are not repeated after EINTR: they are not interrupted in practice, or must not be
                // repeated.
                interrupted = interruptions
                if let failure = enter() { return failure }
                return isWhole(live.rename(old, new), .rename(old, new))
            },
            link: { [self] old, new in
                if let failure = enter() { return failure }
                return isWhole(live.link(old, new), .link(old, new))
            },
            truncate: { [self] descriptor, count in
                if let failure = enter() { return failure }
                return isWhole(live.truncate(descriptor, count), .truncate(descriptor, count))
            },
            unlink: { [self] path in isWhole(live.unlink(path), .unlink(path)) },
            close: { [self] descriptor in
                interrupted = interruptions
                if let failure = enter() {
                    _ = live.close(descriptor)  // as Linux does: the descriptor is gone even so
                    return failure
                }
                return isWhole(live.close(descriptor), .close(descriptor))
            }
        )
    }
}

/// What a disk may hold after a power cut: the weakest file system that POSIX allows (OSDI'14, "All file systems are
/// not created equal"). The content of a file is what it was at its last fsync, or anything between that and what was
/// written since; renames reach the disk in order, but none need do so before the fsync of their folder.
struct CrashModel {
    private struct File {
        var written: [UInt8] = []
        var synchronized: [UInt8] = []
    }

    private var files: [File] = []
    private var fileOfDescriptor: [Int32: Int] = [:]
    private var folderOfDescriptor: [Int32: String] = [:]
    /// Names on disk for certain, and operations on names that may or may not be there yet.
    private var names: [String: Int]
    private var current: [String: Int]
    private var pending: [[String: Int]] = []

    init(old: [UInt8]?, at path: String) {
        names = [:]
        if let old {
            files.append(File(written: old, synchronized: old))
            names[path] = 0
        }
        current = names
    }

    mutating func apply(_ event: FaultySystem.Event) {
        switch event {
        case .open(let path, let descriptor):
            var isFolder: ObjCBool = false
            if FileManager.default.fileExists(atPath: path, isDirectory: &isFolder), isFolder.boolValue {
                folderOfDescriptor[descriptor] = path
                return
            }
            folderOfDescriptor[descriptor] = nil
            files.append(File())
            fileOfDescriptor[descriptor] = files.count - 1
            current[path] = files.count - 1
            pending.append(current)
        case .write(let descriptor, let bytes):
            if let file = fileOfDescriptor[descriptor] { files[file].written += bytes }
        case .writeAt(let descriptor, let bytes, let offset):
            if let file = fileOfDescriptor[descriptor] {
                files[file].written.replaceSubrange(offset..<offset + bytes.count, with: bytes)
            }
        case .synchronize(let descriptor):
            if folderOfDescriptor[descriptor] != nil {
                names = current
                pending = []
            } else if let file = fileOfDescriptor[descriptor] {
                files[file].synchronized = files[file].written
            }
        case .rename(let old, let new):
            current[new] = current.removeValue(forKey: old)
            pending.append(current)
        case .link(let old, let new):
            current[new] = current[old]
            pending.append(current)
        case .truncate(let descriptor, let count):
            if let file = fileOfDescriptor[descriptor] {
                files[file].written = Array(files[file].written.prefix(count))
            }
        case .unlink(let path):
            current[path] = nil
            pending.append(current)
        case .close(let descriptor): fileOfDescriptor[descriptor] = nil
        }
    }

    /// What `path` may hold (nil: absent) if the power fails now.
    func contents(of path: String) -> [[UInt8]?] {
        ([names] + pending).flatMap { names -> [[UInt8]?] in
            guard let file = names[path].map({ files[$0] }) else { return [nil] }
            return [file.synchronized, Array(file.written.prefix(file.written.count / 2)), file.written].filter {
                // Nothing is lost of what an fsync covered.
                file.written != file.synchronized || $0 == file.synchronized
            }
        }
    }
}
