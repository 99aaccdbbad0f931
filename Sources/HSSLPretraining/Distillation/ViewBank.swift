import HSSLData
import HSSLFormats
import HSSLGraph
import HSSLModels
import Synchronization

/// A teacher's answers about K draws of every image of a data set, kept in a folder: students replay the very views
/// without the teacher, any number of them at a time.
///
/// A view is a counter-based draw, so no pixel is kept. The folder has `bank.json` (what the answers depend on),
/// `basis.safetensors` (where cells are kept as coordinates) and shards, each with a checksum.
package final class ViewBank: TeacherSource {
    static let fileName = "bank.json"

    package let path: String
    package let identity: ViewBankIdentity
    package var width: Int { identity.layout.width }
    package var rank: Int { identity.layout.rank }
    package var grid: Grid { identity.layout.grid }
    package var draws: Int? { identity.layout.draws }
    /// Part of the cells' squared length that their coordinates keep, over the images that decided the basis; nil: all.
    package let keptShare: Double?
    private let shards: [ViewBankShard]
    /// Whether answers have cells.
    private let wantsCells: Bool

    /// Pages of shards that were read since memory was last given back.
    private struct Resident {
        var bytes = 0
        var shards: Set<Int> = []
    }
    private let resident = Mutex(Resident())
    /// Of shards, which are in the system's cache anyway.
    package let residentBytes = 16 << 20
    /// What the system may bring along with a page.
    private static let pageCluster = 64 << 10

    /// Opens a complete bank. Every shard is read once, for its checksum.
    ///
    /// - Parameter wantsCells: whether answers are to have cells.
    /// - Throws: `FileError` or `SafetensorsError` of one line: no bank, incomplete, damaged.
    package init(path: String, wantsCells: Bool = true) throws {
        let path = Self.withoutSlash(path)
        self.path = path
        identity = try Self.identity(in: path)
        self.wantsCells = wantsCells && identity.layout.rank > 0
        let progress = Progress(path: path, layout: identity.layout)
        guard progress.isComplete else {
            throw FileError(
                path: path,
                reason: "the bank is not complete: it has \(progress.shardsDone) of \(identity.layout.shards) "
                    + "shards (hssl bank --resume goes on)")
        }
        let identity = identity
        keptShare = identity.layout.hasBasis
            ? try CellBasis(path: path + "/" + CellBasis.fileName, bank: identity).share : nil
        shards = try (0..<identity.layout.shards).map { try ViewBankShard($0, folder: path, bank: identity) }
    }

    /// The bank for a run: opened if it is there, filled before if it is not, or not to the end.
    ///
    /// - Returns: nil where `shouldStop` ended the filling; what is there stays.
    /// - Throws: errors of one line: a bank of another teacher, data set or recipe; one that another process fills; a
    ///   damaged shard; what filling meets.
    package static func open(
        _ path: String, orFill request: ViewBankRequest, options: ViewBankWriter.Options, shouldStop: () -> Bool,
        progress: ViewBankWriter.Report, notice: (String) -> Void
    ) throws -> ViewBank? {
        let path = withoutSlash(path)
        var options = options
        (options.resume, options.startsIfMissing) = (true, true)
        if try isComplete(path) {
            try ViewBankWriter.check(identity(in: path), request, path: path)
        } else {
            let writer = try ViewBankWriter(path: path, request: request, options: options)
            if let text = writer.notice { notice(text) }
            guard try writer.run(shouldStop: shouldStop, progress: progress, notice: notice) == .finished else {
                return nil
            }
        }
        let bank = try ViewBank(path: path, wantsCells: request.settings.cells)
        if bank.absentCount > 0 {
            notice(
                "\(path): has no answers about \(bank.absentCount) images that could "
                + "not be read; others stand in for them"
            )
        }
        return bank
    }

    /// Whether a folder is a bank's, complete or not.
    package static func isBank(_ path: String) -> Bool { fileExists(withoutSlash(path) + "/" + fileName) }

    static func isComplete(_ path: String) throws -> Bool {
        guard isBank(path) else { return false }
        return Progress(path: path, layout: try identity(in: path).layout).isComplete
    }

    package static func identity(in path: String) throws(FileError) -> ViewBankIdentity {
        guard isBank(path) else {
            throw FileError(path: path, reason: "is no view bank: there is no \(fileName) in it")
        }
        return try ViewBankIdentity(path: path + "/" + fileName)
    }

    // MARK: Answers

    /// - Throws: `FileError` for an image or draw that the bank does not have.
    package func answers(for keys: [ViewKey], views: TeacherViews) throws -> TeacherAnswers {
        let layout = identity.layout
        var answers = TeacherAnswers(globals: [], cells: [])
        answers.globals.reserveCapacity(keys.count * width)
        if wantsCells { answers.cells.reserveCapacity(keys.count * layout.cellCodes) }
        for key in keys {
            guard key.index >= 0, key.index < layout.images, key.draw >= 0, key.draw < layout.draws else {
                throw FileError(path: path, reason: "has no draw \(key.draw) of an image \(key.index)")
            }
            let shard = shards[layout.shard(ofImage: key.index)]
            if let reason = shard.absent[key.index] {
                throw FileError(path: path, reason: "has no answers about image \(key.index): \(reason)")
            }
            shard.appendGlobal(image: key.index, draw: key.draw, to: &answers.globals)
            if wantsCells { shard.appendCells(image: key.index, draw: key.draw, to: &answers.cells) }
        }
        giveBack(after: keys)
        return answers
    }

    /// Why there are no answers about an image: it could not be read. Nil: there are.
    package func absence(of index: Int) -> String? {
        guard index >= 0, index < identity.layout.images else { return "the bank \(path) has no such image" }
        return shards[identity.layout.shard(ofImage: index)].absent[index]
    }

    package var absentCount: Int { shards.reduce(0) { $0 + $1.absent.count } }

    private func giveBack(after keys: [ViewKey]) {
        let layout = identity.layout
        let touched = wantsCells ? layout.viewBytes + 2 * Self.pageCluster : layout.width + Self.pageCluster
        resident.withLock { resident in
            for key in keys { resident.shards.insert(layout.shard(ofImage: key.index)) }
            resident.bytes += keys.count * touched
            guard resident.bytes > residentBytes else { return }
            for shard in resident.shards { self.shards[shard].dropResident() }
            resident = Resident()
        }
    }

    // MARK: The folder

    /// How far a bank is.
    package struct Progress {
        package let shardsDone: Int
        package let imagesDone: Int
        /// In the order of the images.
        let missing: [Int]
        package let isComplete: Bool

        package init(path: String, layout: ViewBankLayout) {
            missing = (0..<layout.shards).filter { !fileExists(path + "/" + ViewBankLayout.fileName(ofShard: $0)) }
            shardsDone = layout.shards - missing.count
            imagesDone = layout.images - missing.reduce(0) { $0 + layout.images(ofShard: $1).count }
            isComplete = missing.isEmpty && (!layout.hasBasis || fileExists(path + "/" + CellBasis.fileName))
        }
    }

    static func withoutSlash(_ path: String) -> String {
        var path = path
        while path.count > 1, path.hasSuffix("/") { path.removeLast() }
        return path
    }
}
