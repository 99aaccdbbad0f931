import Glibc
import HSSLFormats

/// The output folder of one pretraining run, held by one trainer at a time.
///
/// | file | |
/// |---|---|
/// | `config.yaml` | resolved recipe |
/// | `metrics.jsonl` | one line an update |
/// | `checkpoint.safetensors` | all that a resumed run needs |
/// | `model.safetensors` | teacher base, at the end |
/// | `report.html` | curves and neighbours |
/// | `recipe.yaml` | of a search, in place of the model: the recipe with the head that won |
/// | `.lock` | locked while a trainer runs; the lock dies with its process, so a leftover file means nothing |
public final class RunFolder {
    public let path: String
    public var configPath: String { path + "/config.yaml" }
    public var metricsPath: String { path + "/metrics.jsonl" }
    public var checkpointPath: String { path + "/checkpoint.safetensors" }
    public var modelPath: String { path + "/model.safetensors" }
    public var reportPath: String { path + "/report.html" }
    /// Of a search: what to pretrain next.
    public var winnerPath: String { path + "/recipe.yaml" }

    private let lock: FolderLock
    /// Folders that were made for this run, the outermost first: they go again if nothing is ever written there.
    private let made: [String]
    /// Where the file system has no locks: what a person should know.
    public var lockNotice: String? { lock.notice }
    private var metrics: Int32 = -1

    /// Creates the folder for a new run, or opens an existing one with `resume`, and locks it.
    ///
    /// A folder that exists and holds nothing of a run counts as new. A run killed before its first checkpoint resumes
    /// from the start.
    ///
    /// - Parameters:
    ///   - startsIfMissing: with `resume`: a new run where there is none, instead of an error.
    ///   - flock: the system's; replaceable for tests. Returns 0 or an errno.
    /// - Throws: `FileError` when a run is there and `resume` is false, when none is there and it is true, when another
    ///   trainer holds it, or when the system refuses.
    public init(
        path: String, resume: Bool, startsIfMissing: Bool = false,
        flock: (Int32) -> Int32 = RunFolder.lockNow
    ) throws(FileError) {
        // A trailing slash would change nothing but the messages.
        var path = path
        while path.count > 1, path.hasSuffix("/") { path.removeLast() }
        self.path = path
        let found = RunFolder.traces.first { name in (path + "/" + name).withPath { access($0, F_OK) } == 0 }
        if resume, !startsIfMissing, found == nil {
            throw FileError(path: path, reason: "no run to resume; --resume=auto starts one where there is none")
        }
        made = try RunFolder.createFolder(path)
        // Refuse before making anything in a folder that may be someone else's.
        if !resume, let found {
            throw FileError(
                path: path, reason: "holds a run (\(found)); give --resume to continue it, or another --output")
        }
        lock = try FolderLock(path, holder: "trainer", flock: flock)
        removeStaleTemporaries()
    }

    deinit {
        if metrics >= 0 {
            close(metrics)
        } else if !made.isEmpty, lock.notice == nil {
            // A run that was refused leaves nothing behind; a folder that holds anything else stays, and so does one
            // that another trainer may have begun to use where there are no locks.
            removeIfEmpty()
        }
    }

    private static let traces = [
        "config.yaml", "metrics.jsonl", "checkpoint.safetensors", "model.safetensors", "report.html",
    ]

    /// Whether somebody else's `recipe.yaml` is where a search would write its own: there is one, but no checkpoint.
    static func hasForeignWinner(_ path: String) -> Bool {
        func isThere(_ name: String) -> Bool { (path + "/" + name).withPath { access($0, F_OK) } == 0 }
        return isThere("recipe.yaml") && !isThere("checkpoint.safetensors")
    }
    public var hasCheckpoint: Bool { checkpointPath.withPath { access($0, F_OK) } == 0 }

    /// Whether the run once had a checkpoint, by what it left: its end, a report, or lines of steps after which one is
    /// written.
    func hadCheckpoint(every steps: Int) throws(FileError) -> Bool {
        let later = [modelPath, reportPath].contains { (path: String) -> Bool in
            path.withPath { access($0, F_OK) } == 0
        }
        if later { return true }
        return try (readMetrics().last?.step ?? 0) > steps
    }

    public func writeConfiguration(_ recipe: Recipe) throws(FileError) {
        try AtomicFile.write(Array(recipe.yaml.utf8), to: configPath)
    }

    // MARK: metrics.jsonl

    /// Opens `metrics.jsonl` for appending after the lines of steps 1 … `step`; later lines and a half line at the end
    /// are dropped. A damaged line among the others stays where it is.
    ///
    /// A run that resumes from its checkpoint of `step` will measure the later steps again; a run that starts anew
    /// passes 0.
    public func openMetrics(after step: Int) throws(FileError) {
        if metrics >= 0 { close(metrics) }
        metrics = metricsPath.withPath { open($0, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0o644) }
        guard metrics >= 0 else { throw FileError(path: metricsPath, action: "cannot open", code: Int(errno)) }
        let bytes = try readFile(at: metricsPath)
        var keep = 0
        while let end = bytes[keep...].firstIndex(of: UInt8(ascii: "\n")) {
            if let line = Metrics(json: String(decoding: bytes[keep..<end], as: UTF8.self)), line.step > step { break }
            keep = end + 1
        }
        if keep < bytes.count, ftruncate(metrics, keep) != 0 {
            throw FileError(path: metricsPath, action: "cannot truncate", code: Int(errno))
        }
    }

    /// Appends one line in one system call, so that a killed process leaves whole lines (or, on a full disk, a half
    /// line that the next `openMetrics` drops).
    public func append(_ line: Metrics) throws(FileError) {
        guard metrics >= 0 else { throw FileError(path: metricsPath, reason: "is not open") }
        var pending = Array((line.json + "\n").utf8)[...]
        while !pending.isEmpty {
            let written = pending.withUnsafeBytes { Glibc.write(metrics, $0.baseAddress, $0.count) }
            if written < 0 {
                if errno == EINTR { continue }
                throw FileError(path: metricsPath, action: "cannot append", code: Int(errno))
            }
            pending = pending.dropFirst(written)
        }
    }

    /// Makes the lines so far survive a power failure; call with every checkpoint.
    public func synchronizeMetrics() throws(FileError) {
        if metrics >= 0, fsync(metrics) != 0 {
            throw FileError(path: metricsPath, action: "cannot synchronize", code: Int(errno))
        }
    }

    /// Every whole line of `metrics.jsonl`, in order; none when there is no file.
    public func readMetrics() throws(FileError) -> [Metrics] {
        guard metricsPath.withPath({ access($0, F_OK) }) == 0 else { return [] }
        return try readFile(at: metricsPath).split(separator: UInt8(ascii: "\n")).compactMap {
            Metrics(json: String(decoding: $0, as: UTF8.self))
        }
    }

    // MARK: folder

    /// As `mkdir -p`.
    ///
    /// - Returns: the folders that were not there before, the outermost first.
    @discardableResult
    static func createFolder(_ path: String) throws(FileError) -> [String] {
        if path.isEmpty { throw FileError(path: path, reason: "the path is empty") }
        var status = stat()
        if path.withPath({ stat($0, &status) }) == 0 {
            if status.st_mode & S_IFMT != S_IFDIR { throw FileError(path: path, reason: "exists and is not a folder") }
            return []
        }
        var made: [String] = []
        // `--output runs/today/first` should just work.
        if let slash = path.lastIndex(of: "/"), slash > path.startIndex {
            made = try createFolder(String(path[..<slash]))
        }
        if path.withPath({ mkdir($0, 0o777) }) == 0 {
            made.append(path)
        } else if errno != EEXIST {
            throw FileError(path: path, action: "cannot create the folder", code: Int(errno))
        }
        return made
    }

    /// Removes the lock's file and the folders that were made for it, while the lock is held and if there is nothing
    /// else.
    private func removeIfEmpty() {
        guard Self.names(in: path) == [".lock"] else { return }
        _ = (path + "/.lock").withPath { unlink($0) }
        for folder in made.reversed() {
            // The system refuses where others have put something there.
            guard folder.withPath({ rmdir($0) }) == 0 else { return }
        }
    }

    /// Of everything in a folder but `.` and `..`; none where it cannot be read.
    private static func names(in folder: String) -> [String] {
        guard let folder = folder.withPath({ opendir($0) }) else { return [] }
        defer { closedir(folder) }
        var names: [String] = []
        while let entry = readdir(folder) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    /// 0 or an errno.
    public static func lockNow(_ descriptor: Int32) -> Int32 { flock(descriptor, LOCK_EX | LOCK_NB) == 0 ? 0 : errno }

    /// Removes what killed writers of this run's files left (`.NAME.tmp-…`). Nobody else writes here: the folder is
    /// locked.
    private func removeStaleTemporaries() {
        for name in Self.names(in: path)
        where (RunFolder.traces + ["recipe.yaml"]).contains(where: { name.hasPrefix(".\($0).tmp-") }) {
            _ = (path + "/" + name).withPath { unlink($0) }
        }
    }
}
