#if canImport(Glibc)
import Glibc
#endif

/// Embeddings and their index as they come to be: both appear under their names together, when both are complete, or
/// not at all.
///
/// Until then they are `FILE.partial` and `FILE.index.jsonl.partial`. Now and then they are made durable, and
/// `FILE.partial.journal` says how far they reach, so that a later process goes on where one was killed. Standard
/// output and pipes are written straight.
package final class EmbeddingOutput {
    /// What the inputs so far came to.
    package struct Position: Equatable {
        package var inputs = 0
        package var rows = 0
        package var skipped = 0
        /// CRC-32C of what a later run must find unchanged of them.
        package var stamp: UInt32 = 0
    }

    /// What is there when a run begins.
    package enum Start: Equatable {
        case nothing
        /// An interrupted run goes on.
        case partial
        /// The file and its index are there, with nothing partial to go on with.
        case finished
    }

    package let start: Start
    package private(set) var position = Position()
    /// The last position that a later run could go on from.
    package private(set) var durable = Position()

    private let path: String
    private let run: EmbeddingRun
    private let writer: any EmbeddingWriter
    private let index: EmbeddingIndexWriter?
    /// nil when written straight.
    private let files: (embeddings: PartialFile, index: PartialFile)?
    private var isClosed = false
    private let calls: SystemCalls
    private let clock = ContinuousClock()
    private var due: ContinuousClock.Instant

    /// Between two durable positions. At most a twentieth of the time goes into them.
    private static let interval = Duration.milliseconds(100)

    /// - Parameters:
    ///   - run: what the result depends on.
    ///   - resume: go on with what an interrupted run left; without it, what is left is refused.
    /// - Throws: `FileError` for what cannot be written, and for a partial file that is not of this run.
    package init(
        path: String, rowShape: [Int], run: EmbeddingRun, resume: Bool, calls: SystemCalls = .live
    ) throws(FileError) {
        self.path = path
        self.run = run
        self.calls = calls
        due = clock.now.advanced(by: Self.interval)
        let format = try EmbeddingFormat(path: path)
        let row = try EmbeddingRow(path: path, shape: rowShape)
        let headerSize = try format.headerSize(row)
        guard try Self.isReplaced(path, needsSeeking: headerSize > 0) else {
            if resume {
                throw FileError(path: path, reason: "is a stream, of which nothing is left to --resume")
            }
            start = .nothing
            files = nil
            writer = try EmbeddingFormat.makeWriter(path: path, rowShape: rowShape, calls: calls)
            index = path == EmbeddingFormat.standardOutput
                ? nil : try EmbeddingIndexWriter(output: path, calls: calls)
            return
        }
        let indexPath = EmbeddingIndexWriter.path(output: path)
        let isInterrupted = try PartialFile.exists(for: path)
        let isFinished = Self.exists(path) && Self.exists(indexPath)
        let embeddings = try PartialFile(path: path, headerSize: headerSize, calls: calls)
        let entries: PartialFile
        do {
            entries = try PartialFile(path: indexPath, headerSize: 0, calls: calls)
        } catch {
            if !isInterrupted { embeddings.discard() }
            throw error
        }
        files = (embeddings, entries)
        TemporaryName(target: embeddings.target).removeStale(calls)
        TemporaryName(target: entries.target).removeStale(calls)

        // A partial file without a journal was killed before there was anything to go on with.
        let journalPath = EmbeddingJournal.path(partial: embeddings.partial)
        let journal = isInterrupted ? try? EmbeddingJournal(path: journalPath) : nil
        if let journal, journal.position.inputs > 0 {
            start = .partial
            guard resume else {
                throw FileError(
                    path: embeddings.partial,
                    reason: "an interrupted run left \(journal.position.inputs) of its inputs here; "
                        + "--resume goes on, removing the file begins anew")
            }
            if let difference = run.difference(from: journal.run) {
                throw FileError(
                    path: embeddings.partial,
                    reason: "was begun with \(difference); remove it to begin anew")
            }
            try Self.reopen(embeddings, entries, journal)
            position = journal.position
            durable = journal.position
        } else {
            start = isFinished ? .finished : .nothing
            // A finished output may be what was wanted: until that is known nothing is written.
            do throws(FileError) {
                try embeddings.begin()
                try entries.begin()
            } catch {
                entries.discard()
                embeddings.discard()
                throw error
            }
        }
        writer = try EmbeddingFormat.makeWriter(
            format, row, sink: embeddings, rows: position.rows, checksum: embeddings.checksum)
        index = EmbeddingIndexWriter(sink: entries)
    }

    private static func isReplaced(_ path: String, needsSeeking: Bool) throws(FileError) -> Bool {
        if path == EmbeddingFormat.standardOutput { return false }
        return try !OutputTarget(path, needsSeeking: needsSeeking).isStraight
    }

    private static func exists(_ path: String) -> Bool { path.withPath { access($0, F_OK) } == 0 }

    private static func reopen(
        _ embeddings: PartialFile, _ entries: PartialFile, _ journal: EmbeddingJournal
    ) throws(FileError) {
        guard try embeddings.resume(journal.embeddings) else {
            throw FileError(
                path: embeddings.partial, reason: "does not hold what its journal says; remove it to begin anew")
        }
        if try entries.resume(journal.index) { return }
        // The index gets its name first: whoever died behind that left none.
        guard entries.count == 0, try PartialFile.isPublished(entries.path, journal.index) else {
            throw FileError(
                path: entries.partial,
                reason: "does not hold what the journal says; remove \(embeddings.partial) to begin anew")
        }
        try entries.copyPublished()
        guard try entries.resume(journal.index) else {
            throw FileError(path: entries.path, reason: "changed while it was read")
        }
    }

    deinit { close() }

    // MARK: Writing

    /// Writes the row of the next input.
    ///
    /// - Parameter stamp: what a later run must find unchanged of the inputs up to this one.
    package func append(path: String, values: UnsafeBufferPointer<Float>, stamp: UInt32) throws(FileError) {
        let row = writer.rowCount
        try writer.append(name: path, values: values)
        try index?.append(path: path, row: row)
        position.inputs += 1
        position.rows += 1
        position.stamp = stamp
    }

    /// Says why the next input has no row.
    package func append(path: String, error: String, stamp: UInt32) throws(FileError) {
        try index?.append(path: path, error: error)
        position.inputs += 1
        position.skipped += 1
        position.stamp = stamp
    }

    /// Makes what is written durable, where that was long enough ago.
    package func checkpointIfDue() throws(FileError) {
        if files != nil, clock.now >= due { try checkpoint() }
    }

    /// Makes what is written durable: from here a later run goes on.
    package func checkpoint() throws(FileError) {
        guard let files, position.inputs > 0 else { return }
        let began = clock.now
        try files.embeddings.commit()
        try files.index.commit()
        let journal = EmbeddingJournal(
            run: run.parts, position: position, embeddings: files.embeddings.extent, index: files.index.extent)
        try journal.write(to: journalPath(files.embeddings), calls: calls)
        durable = position
        let now = clock.now
        due = now.advanced(by: max(Self.interval, began.duration(to: now) * 20))
    }

    private func journalPath(_ embeddings: PartialFile) -> String {
        EmbeddingJournal.path(partial: embeddings.partial)
    }

    /// Completes both files and gives them their names.
    package func finish() throws(FileError) {
        guard let files else {
            try writer.finish()
            try index?.finish()
            return
        }
        try checkpoint()
        try writer.finish()
        try index?.finish()
        try files.index.publish(keepingOld: true)
        do {
            try files.embeddings.publish(keepingOld: false)
        } catch {
            files.index.unpublish()
            throw error
        }
        files.index.dropOld()
        _ = calls.unlink(journalPath(files.embeddings))
        isClosed = true
        files.embeddings.close()
        files.index.close()
        for file in [files.index, files.embeddings] {
            let folder = synchronizeFolder(of: file.target, calls)
            if folder.result < 0 {
                throw FileError(
                    path: file.path, action: "written, but cannot make the name durable", code: -folder.result)
            }
        }
    }

    // MARK: The end without an end

    /// The file to remove for beginning anew.
    package var partialPath: String { files?.embeddings.partial ?? path }

    /// What is kept for `--resume`, in words; nil where nothing is.
    package var kept: String? {
        guard let files, !isClosed, durable.inputs > 0 else { return nil }
        return "\(durable.inputs) of \(run.inputCount) inputs are kept in \(files.embeddings.partial); --resume goes on"
    }

    /// Leaves nothing to go on with.
    package func discard() {
        durable = Position()
        close()
    }

    private func close() {
        guard let files, !isClosed else { return }
        isClosed = true
        if durable.inputs > 0 {
            files.embeddings.close()
            files.index.close()
        } else {
            let journal = journalPath(files.embeddings)
            _ = calls.unlink(journal)
            TemporaryName(target: journal).removeStale(calls)
            files.index.discard()
            files.embeddings.discard()
        }
    }
}
