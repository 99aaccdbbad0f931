import HSSLFormats
#if canImport(Glibc)
import Glibc
#endif

/// Finding image files: recursive, by suffix in any case, names sorted bytewise. Names that begin with a dot and
/// folders that systems leave about are passed over and counted; a folder that cannot be read costs itself alone.
enum ImageFiles {
    /// Suffixes of what is taken, without the dot, lower case.
    static let suffixes: Set<String> = [
        "jpg", "jpeg", "jpe", "jfif", "pjpeg", "mpo", "png", "webp", "gif", "bmp", "tif", "tiff",
    ]
    static let suffixText = ".jpg, .jpeg, .jpe, .jfif, .pjpeg, .mpo, .png, .webp, .gif, .bmp, .tif, .tiff"

    /// Folders of network storage, archives and recycle bins, compared in lower case: thumbnails, copies and what was
    /// thrown away.
    private static let systemFolders: Set<String> = [
        "@eadir", "__macosx", "#recycle", "@recycle", "$recycle.bin", "lost+found", "system volume information",
        "#snapshot", "@recently-snapshot",
    ]

    /// What is below a folder.
    struct Listing {
        /// Paths relative to the root, sorted bytewise.
        var images = PathList()
        /// Folders right inside the root that were looked into, sorted bytewise.
        var folders: [String] = []
        /// Folders that could not be read, and links that lead back to a folder above them.
        var faults: [DataError] = []
        var summary = FolderSummary()
    }

    /// Images below `root`.
    ///
    /// - Parameter excluding: a folder that is never looked into: a run's own output.
    /// - Throws: ``DataError`` when `root` itself cannot be read.
    static func list(_ root: String, excluding: String? = nil) throws(DataError) -> Listing {
        var walk = Walk(excluded: excluding.flatMap(identity))
        // A slash at the end makes a link to a folder that folder.
        guard let start = identity(of: root) else {
            throw DataError(.unreadable, path: root, action: "cannot read the folder", code: errno)
        }
        walk.ancestors.append(start)
        try walk.visit(root, prefix: "")
        walk.listing.images.sort()
        walk.listing.folders.sort(by: PathBytes.precedes)
        return walk.listing
    }

    static func isFolder(_ path: String) -> Bool {
        var status = stat()
        return path.withPath { stat($0, &status) } == 0 && status.st_mode & S_IFMT == S_IFDIR
    }

    /// Bytes of a file; 0 where it cannot be told.
    static func size(_ path: String) -> Int {
        var status = stat()
        return path.withPath { stat($0, &status) } == 0 ? Int(status.st_size) : 0
    }

    static func join(_ folder: String, _ name: String) -> String {
        folder.utf8.last == UInt8(ascii: "/") ? folder + name : folder + "/" + name
    }

    /// What follows the last dot, lower case; nil without a dot, or where it begins the name.
    static func suffix(of name: String) -> String? {
        let bytes = name.utf8
        guard let dot = bytes.lastIndex(of: UInt8(ascii: ".")), dot != bytes.startIndex else { return nil }
        let text = String(decoding: bytes[bytes.index(after: dot)...], as: UTF8.self)
        return text.isEmpty ? nil : text.lowercased()
    }

    private struct Identity: Equatable {
        let device: UInt64
        let inode: UInt64
    }

    private static func identity(of path: String) -> Identity? {
        var status = stat()
        guard path.withPath({ stat($0, &status) }) == 0 else { return nil }
        return Identity(device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
    }

    private struct Walk {
        let excluded: Identity?
        var ancestors: [Identity] = []
        var listing = Listing()

        init(excluded: Identity?) { self.excluded = excluded }

        /// - Throws: when the folder itself cannot be read (to its end).
        mutating func visit(_ folder: String, prefix: String) throws(DataError) {
            var images = 0
            // Looked into when this folder is read to its end: folders of a million files take no list of them.
            var folders: [String] = []
            defer { if images > 0 { listing.summary.folders += 1 } }
            try ImageFiles.entries(of: folder) { name, kind in
                if name.utf8.first == UInt8(ascii: ".") {
                    listing.summary.hiddenNames += 1
                } else if kind == .loop {
                    let path = join(folder, name)
                    listing.faults.append(DataError(.symbolicLinkLoop, path: path, reason: "symbolic link loop"))
                } else if kind == .special {
                    listing.summary.specialFiles += 1
                } else if kind == .folder {
                    if systemFolders.contains(name.lowercased()) {
                        listing.summary.systemFolders[name, default: 0] += 1
                    } else {
                        folders.append(name)
                    }
                } else if let suffix = suffix(of: name), suffixes.contains(suffix) {
                    listing.images.append(prefix + name)
                    listing.summary.taken[suffix, default: 0] += 1
                    images += 1
                } else {
                    listing.summary.passedOver[suffix(of: name) ?? "", default: 0] += 1
                }
            }
            for name in folders { descend(join(folder, name), prefix: prefix + name + "/") }
        }

        private mutating func descend(_ folder: String, prefix: String) {
            do throws(DataError) {
                guard let identity = identity(of: folder) else {
                    throw DataError(.unreadable, path: folder, action: "cannot read the folder", code: errno)
                }
                if identity == excluded {
                    listing.summary.ownFolders += 1
                    return
                }
                guard !ancestors.contains(identity) else {
                    throw DataError(
                        .symbolicLinkLoop, path: folder,
                        reason: "symbolic link loop: it leads back to a folder above it")
                }
                let place = listing.folders.count, before = listing.images.count
                if ancestors.count == 1 { listing.folders.append(String(prefix.dropLast())) }
                ancestors.append(identity)
                defer { ancestors.removeLast() }
                do throws(DataError) { try visit(folder, prefix: prefix) } catch {
                    // What was read before the error stays.
                    if ancestors.count == 2, listing.images.count == before { listing.folders.remove(at: place) }
                    throw error
                }
            } catch {
                listing.faults.append(error)
            }
        }
    }

    private enum Kind {
        /// `loop`: a link that leads round in a circle; `special`: a pipe, device or socket.
        case file, folder, loop, special
    }

    private static func entries(
        of folder: String, _ body: (_ name: String, _ kind: Kind) -> Void
    ) throws(DataError) {
        guard let stream = folder.withPath({ opendir($0) }) else {
            throw DataError(.unreadable, path: folder, action: "cannot read the folder", code: errno)
        }
        defer { closedir(stream) }
        while true {
            errno = 0
            guard let entry = readdir(stream) else {
                guard errno == 0 else {
                    throw DataError(.unreadable, path: folder, action: "cannot read the folder", code: errno)
                }
                return
            }
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { PathBytes.string(terminated: $0) }
            }
            if name == "." || name == ".." { continue }
            switch Int(entry.pointee.d_type) {
            case Int(DT_DIR):
                body(name, .folder)
            case Int(DT_REG):
                body(name, .file)
            default:  // links, and file systems that do not tell
                var status = stat()
                if join(folder, name).withPath({ stat($0, &status) }) == 0 {
                    let kind = status.st_mode & S_IFMT
                    body(name, kind == S_IFDIR ? .folder : kind == S_IFREG ? .file : .special)
                } else {
                    body(name, errno == ELOOP ? .loop : .file)  // a dangling link: reading it says so
                }
            }
        }
    }
}
