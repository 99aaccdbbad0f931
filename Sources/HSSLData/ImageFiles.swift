#if canImport(Glibc)
import Glibc
#endif

/// Finding image files: recursive, `.jpg .jpeg .png` in any case, names sorted bytewise, hidden names passed over.
enum ImageFiles {
    /// Images below `root`, as paths relative to it, sorted bytewise.
    ///
    /// - Throws: ``DataError``: a folder that cannot be read, or a symbolic link back to a folder above it.
    static func images(below root: String) throws(DataError) -> [String] {
        var found: [String] = []
        var ancestors: [Identity] = []
        try walk(root, prefix: "", ancestors: &ancestors, found: &found)
        return sortedBytewise(found)
    }

    /// Folders right inside `root`, sorted bytewise.
    static func folders(in root: String) throws(DataError) -> [String] {
        sortedBytewise(try entries(of: root).filter(\.isFolder).map(\.name))
    }

    static func hasImageExtension(_ name: some StringProtocol) -> Bool {
        guard let dot = name.lastIndex(of: "."), dot != name.startIndex else { return false }
        return ["jpg", "jpeg", "png"].contains(name[name.index(after: dot)...].lowercased())
    }

    static func isFolder(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }

    /// String's own order is by Unicode canonical equivalence; file lists want bytes.
    static func sortedBytewise(_ names: [String]) -> [String] {
        names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    private struct Identity: Equatable {
        let device: UInt64
        let inode: UInt64
    }

    private struct Entry {
        let name: String
        let isFolder: Bool
    }

    private static func walk(
        _ folder: String, prefix: String, ancestors: inout [Identity], found: inout [String]
    ) throws(DataError) {
        var status = stat()
        guard stat(folder, &status) == 0 else {
            throw DataError(.unreadable, path: folder, action: "cannot read the folder", code: errno)
        }
        let identity = Identity(device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
        guard !ancestors.contains(identity) else {
            throw DataError(
                .symbolicLinkLoop, path: folder, reason: "symbolic link loop: it leads back to a folder above it")
        }
        ancestors.append(identity)
        defer { ancestors.removeLast() }
        for entry in try entries(of: folder) {
            if entry.isFolder {
                try walk(
                    join(folder, entry.name), prefix: prefix + entry.name + "/", ancestors: &ancestors, found: &found)
            } else if hasImageExtension(entry.name) {
                found.append(prefix + entry.name)
            }
        }
    }

    private static func entries(of folder: String) throws(DataError) -> [Entry] {
        guard let stream = opendir(folder) else {
            throw DataError(.unreadable, path: folder, action: "cannot read the folder", code: errno)
        }
        defer { closedir(stream) }
        var result: [Entry] = []
        while true {
            errno = 0
            guard let entry = readdir(stream) else {
                guard errno == 0 else {
                    throw DataError(.unreadable, path: folder, action: "cannot read the folder", code: errno)
                }
                return result
            }
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name.hasPrefix(".") { continue }
            switch Int(entry.pointee.d_type) {
            case Int(DT_DIR):
                result.append(Entry(name: name, isFolder: true))
            case Int(DT_REG):
                result.append(Entry(name: name, isFolder: false))
            default:  // links, and file systems that do not tell
                let path = join(folder, name)
                var status = stat()
                if stat(path, &status) == 0 {
                    let kind = status.st_mode & S_IFMT
                    if kind == S_IFDIR || kind == S_IFREG {
                        result.append(Entry(name: name, isFolder: kind == S_IFDIR))
                    }
                } else if errno == ELOOP {
                    throw DataError(.symbolicLinkLoop, path: path, reason: "symbolic link loop")
                } else {
                    result.append(Entry(name: name, isFolder: false))  // a dangling link: reading it says so
                }
            }
        }
    }

    static func join(_ folder: String, _ name: String) -> String {
        folder.hasSuffix("/") ? folder + name : folder + "/" + name
    }
}
