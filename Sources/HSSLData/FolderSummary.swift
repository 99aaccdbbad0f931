import HSSLFormats

/// What was found in folders: what is taken and what is passed over, for one line that says so.
public struct FolderSummary: Equatable, Sendable {
    /// Folders that hold images.
    public internal(set) var folders = 0
    /// Images by suffix, lower case, without the dot.
    public internal(set) var taken: [String: Int] = [:]
    /// Other files by suffix; "" has none.
    public internal(set) var passedOver: [String: Int] = [:]
    /// Folders of network storage, archives and recycle bins, by name.
    public internal(set) var systemFolders: [String: Int] = [:]
    /// Pipes, devices and sockets.
    public internal(set) var specialFiles = 0
    /// Files and folders whose name begins with a dot.
    public internal(set) var hiddenNames = 0
    /// The run's own output, where it is inside the data.
    public internal(set) var ownFolders = 0
    /// Images beside class folders, where folders are labels.
    public internal(set) var besideClasses = 0

    /// Nothing found yet.
    public init() {}

    /// Images that are taken, of all suffixes together.
    public var images: Int { taken.values.reduce(0, +) }

    mutating func add(_ other: FolderSummary) {
        folders += other.folders
        taken.merge(other.taken, uniquingKeysWith: +)
        passedOver.merge(other.passedOver, uniquingKeysWith: +)
        systemFolders.merge(other.systemFolders, uniquingKeysWith: +)
        specialFiles += other.specialFiles
        hiddenNames += other.hiddenNames
        ownFolders += other.ownFolders
        besideClasses += other.besideClasses
    }

    /// Takes back images that lie beside class folders.
    mutating func passOver(besideClasses images: some Sequence<String>) {
        for image in images {
            besideClasses += 1
            guard let suffix = ImageFiles.suffix(of: image), let count = taken[suffix] else { continue }
            taken[suffix] = count > 1 ? count - 1 : nil
        }
        if besideClasses > 0 { folders -= 1 }
    }

    /// `71 images in 2 folders (71 .png); passed over: 2 system folders (1 @eaDir, 1 __MACOSX), 3 files (2 .mp4, 1
    /// .txt)`.
    public var text: String {
        let images = self.images
        var text = "\(counted(images, "image")) in \(counted(folders, "folder"))"
        if images > 0 { text += " (\(Self.list(taken, dotted: true)))" }
        let rest = passedOverText
        return rest.isEmpty ? text : "\(text); passed over: \(rest)"
    }

    /// Empty when nothing was passed over.
    private var passedOverText: String {
        var parts: [String] = []
        if besideClasses > 0 { parts.append("\(counted(besideClasses, "image")) beside the class folders") }
        let files = passedOver.values.reduce(0, +), system = systemFolders.values.reduce(0, +)
        if files > 0 { parts.append("\(counted(files, "file")) (\(Self.list(passedOver, dotted: true)))") }
        if system > 0 {
            parts.append("\(counted(system, "system folder")) (\(Self.list(systemFolders, dotted: false)))")
        }
        if specialFiles > 0 {
            parts.append(
                "\(specialFiles) that "
                + "\(specialFiles == 1 ? "is a pipe, device or socket" : "are pipes, devices or sockets")"
            )
        }
        if hiddenNames > 0 {
            parts.append("\(counted(hiddenNames, "name")) that begin\(hiddenNames == 1 ? "s" : "") with a dot")
        }
        if ownFolders > 0 { parts.append("the run's own folder") }
        return parts.joined(separator: ", ")
    }

    private func counted(_ count: Int, _ word: String) -> String { "\(count) \(word)\(count == 1 ? "" : "s")" }

    /// The most frequent first, and not more than a line holds.
    private static func list(_ counts: [String: Int], dotted: Bool) -> String {
        let sorted = counts.sorted { ($1.value, $0.key) < ($0.value, $1.key) }
        func shown(_ name: String) -> String {
            guard dotted else { return oneLine(name, limit: 40) }
            return name.isEmpty ? "without suffix" : "." + oneLine(name, limit: 16)
        }
        let most = sorted.prefix(8).map { name, count in "\(count) \(shown(name))" }
        return (most + (sorted.count > 8 ? ["…"] : [])).joined(separator: ", ")
    }
}
