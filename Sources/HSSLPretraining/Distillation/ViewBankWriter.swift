import CSupport
import HSSLData
import HSSLFormats
import HSSLGraph
import HSSLModels
import HSSLRuntime
#if canImport(Glibc)
import Glibc
#endif

/// Who is asked about which views of which images.
package struct ViewBankRequest: Sendable {
    package let settings: ViewBankSettings
    package let teacher: ModelFile
    /// In which it runs.
    package let precision: Precision
    package let dataset: Dataset

    package init(settings: ViewBankSettings, teacher: ModelFile, precision: Precision, dataset: Dataset) {
        (self.settings, self.teacher, self.precision, self.dataset) = (settings, teacher, precision, dataset)
    }

    /// What the students of a recipe ask for.
    package init(recipe: Recipe, teacher: ModelFile, precision: Precision, dataset: Dataset) {
        let distill = recipe.distill
        self.init(
            settings: ViewBankSettings(
                draws: distill.draws, rank: distill.rank, cells: distill.cells, seed: recipe.schedule.seed,
                augmentation: recipe.data),
            teacher: teacher, precision: precision, dataset: dataset)
    }
}

/// Fills a bank: decodes and draws on loader threads, lets the teacher answer, writes shard by shard.
///
/// What a shard holds depends on the request alone, whatever number of threads made it and wherever earlier writers
/// stopped. A shard appears whole under its name or not at all, so a killed writer's bank goes on with the first
/// missing one.
package final class ViewBankWriter {
    package struct Options: Sendable {
        /// An error where a bank is begun, unless true.
        package var resume = false
        /// With `resume`: begins a bank where there is none.
        package var startsIfMissing = false
        /// Of the teacher.
        package var threads = 1
        /// That decode and draw.
        package var loaderThreads = 1
        /// Bytes of resident memory.
        package var memoryLimit: Int?
        /// Nil: as many as take about 8 MB.
        package var imagesPerShard: Int?
        var calls = SystemCalls.live

        package init() {}
    }

    package enum Ending: Sendable { case finished, stopped }
    /// Images that are done, of all.
    package typealias Report = (_ done: Int, _ total: Int) -> Void

    package let path: String
    package let identity: ViewBankIdentity
    /// What a person should know before the work begins.
    package var notice: String? { lock.notice }
    /// Images that earlier writers did.
    package let imagesDone: Int

    private let request: ViewBankRequest
    private let options: Options
    private let lock: FolderLock
    private let teacher: RunningTeacher
    private let augmentation: MultiCropAugmentation
    private var missing: [Int]

    /// Draws of an image that are made at a time, and views that the teacher answers about at a time.
    private static let drawsAtATime = 8
    private static let viewsAtATime = 16
    /// Images whose cells decide the basis.
    private static let basisImages = 256
    /// Enough for a picture of a few hundred pixels a side: larger ones are left out one by one, with what they need.
    private static let leastDecodeBytes = 1 << 20

    /// Locks the folder, compares what is there with what is wanted, loads the teacher. An error leaves what is there
    /// as it was.
    package init(path: String, request: ViewBankRequest, options: Options) throws {
        let path = ViewBank.withoutSlash(path)
        (self.path, self.request, self.options) = (path, request, options)
        guard (1...ViewBankLayout.mostDraws).contains(request.settings.draws) else {
            throw PretrainingError(
                "distill.draws is \(request.settings.draws); a bank keeps 1 to \(ViewBankLayout.mostDraws) "
                + "draws an image"
            )
        }
        let exists = ViewBank.isBank(path)
        if exists, !options.resume {
            throw FileError(
                path: path,
                reason: "holds a view bank (\(ViewBank.fileName)); give --resume to go on with it, or another folder")
        }
        if !exists, options.resume, !options.startsIfMissing {
            throw FileError(path: path, reason: "no bank to resume; --resume=auto starts one where there is none")
        }
        try RunFolder.createFolder(path)
        lock = try FolderLock(path, holder: "writer of this bank")
        let stored = ViewBank.isBank(path) ? try ViewBank.identity(in: path) : nil
        var wanted = Self.identity(request, imagesPerShard: options.imagesPerShard ?? stored?.layout.imagesPerShard)
        wanted.writer = [
            "version": .string(HSSLVersion.current),
            "instruction set": .string(Processor.inferenceSet),
            // They decide which images are refused.
            "--memory-limit": .string(options.memoryLimit.map { "\($0)" } ?? "none"),
            "--max-pixels": .string("\(request.dataset.limits.pixels)"),
            "--max-decode-memory": .string("\(request.dataset.limits.bytes)"),
        ]
        if let stored {
            if let difference = stored.difference(from: wanted) { throw FileError(path: path, reason: difference) }
            let isWhole = ViewBank.Progress(path: path, layout: stored.layout).isComplete
            if !isWhole, let difference = stored.writerDifference(from: wanted.writer) {
                throw FileError(path: path, reason: difference)
            }
        }
        identity = stored ?? wanted
        let progress = ViewBank.Progress(path: path, layout: identity.layout)
        (missing, imagesDone) = (progress.missing, progress.imagesDone)
        if options.memoryLimit != nil { hssl_return_freed_memory() }
        try Self.planMemory(request, options, identity.layout)
        teacher = try RunningTeacher(
            model: Model(file: request.teacher, precision: request.precision), threads: options.threads,
            wantsCells: request.settings.cells)
        augmentation = FrozenTeacher.augmentation(request.settings.augmentation, for: request.teacher)
        if stored == nil {
            try AtomicFile.write(
                identity.json.bytes(indent: 2) + [UInt8(ascii: "\n")], to: path + "/" + ViewBank.fileName,
                calls: options.calls)
        }
    }

    /// What a bank for a request is.
    private static func identity(_ request: ViewBankRequest, imagesPerShard: Int?) -> ViewBankIdentity {
        let architecture = request.teacher.architecture, side = architecture.imageSize
        let base = architecture.makeBase(ParameterScope(ParameterSet()), .deployment)
        return ViewBankIdentity(
            request, grid: base.grid(height: side, width: side), width: base.width, imagesPerShard: imagesPerShard)
    }

    /// Refuses a bank that is not the request's.
    static func check(_ bank: ViewBankIdentity, _ request: ViewBankRequest, path: String) throws(FileError) {
        let wanted = identity(request, imagesPerShard: bank.layout.imagesPerShard)
        if let difference = bank.difference(from: wanted) { throw FileError(path: path, reason: difference) }
    }

    /// A quarter of `--memory-limit` is for decoding, whatever else there is: a resumed writer leaves out the same
    /// images.
    private static func planMemory(_ request: ViewBankRequest, _ options: Options, _ layout: ViewBankLayout) throws {
        guard let limit = options.memoryLimit else { return }
        let view = 4 * 3 * request.teacher.architecture.imageSize * request.teacher.architecture.imageSize
        let threads = options.loaderThreads, queue = queueCapacity(options) + threads
        let pending = viewsAtATime + drawsAtATime
        let answer = 4 * layout.width * (1 + (layout.rank > 0 ? 3 * layout.grid.count : 0))
        // The second moment, its mean, and the products that make them.
        let basis = layout.hasBasis ? 4 * 4 * layout.width * layout.width : 0
        let running = try Plan.memoryBound(
            request.teacher, precision: request.precision, threads: options.threads, batch: pending,
            features: .clsPatch)
        let needed = Int(hssl_peak_rss()) + MicroBatchPlan.unseenBytes + threads << 20 + running
            + queue * drawsAtATime * view + pending * (view + answer) + basis
            + 2 * ViewBankShardBuffer.bytes(layout, images: min(layout.imagesPerShard, layout.images))
        let decoding = min(request.dataset.limits.bytes, max(limit / 4, leastDecodeBytes))
        guard needed + decoding <= limit else {
            let least = max(needed + leastDecodeBytes, needed + needed / 3)
            throw PretrainingError(MemoryFloor.refusal(of: limit, "filling this bank", needs: least))
        }
        request.dataset.limitDecoding(toBytes: decoding, name: "--memory-limit")
    }

    private static func queueCapacity(_ options: Options) -> Int { options.loaderThreads + 2 }

    // MARK: Filling

    /// Writes what is missing.
    ///
    /// - Parameters:
    ///   - shouldStop: asked between views; a shard that is not complete is dropped.
    ///   - notice: called with a line that a person should read.
    /// - Throws: errors of one line; what is there stays good.
    package func run(shouldStop: () -> Bool, progress: Report, notice: (String) -> Void) throws -> Ending {
        if ViewBank.Progress(path: path, layout: identity.layout).isComplete { return .finished }
        // What is there is known to be good before hours are spent on the rest.
        let there = Set(0..<identity.layout.shards).subtracting(missing)
        for shard in there.sorted() { _ = try ViewBankShard(shard, folder: path, bank: identity) }
        var basis: CellBasis?
        if identity.layout.hasBasis {
            let file = path + "/" + CellBasis.fileName
            if fileExists(file) {
                basis = try CellBasis(path: file, bank: identity)
            } else if let made = try makeBasis(shouldStop) {
                basis = made
                try made.write(to: file, bank: identity, calls: options.calls)
            } else {
                return .stopped
            }
        }
        return try fill(basis, shouldStop, progress, notice)
    }

    private func fill(
        _ basis: CellBasis?, _ shouldStop: () -> Bool, _ progress: Report, _ notice: (String) -> Void
    ) throws -> Ending {
        let layout = identity.layout
        let images = missing.flatMap { Array(layout.images(ofShard: $0)) }
        let parts = (layout.draws + Self.drawsAtATime - 1) / Self.drawsAtATime
        let loader = loader(count: images.count * parts) { item in
            let first = item % parts * Self.drawsAtATime
            return (images[item / parts], first..<min(first + Self.drawsAtATime, layout.draws))
        }
        defer { loader.stop() }
        var done = imagesDone, mayBeAllBad = true
        for number in missing {
            var shard = ViewBankShardBuffer(number, layout: layout)
            var pending = Views()
            func answer() throws {
                try take(pending, basis, into: &shard)
                pending = Views()
            }
            for image in shard.images {
                for _ in 0..<parts {
                    if shouldStop() { return .stopped }
                    guard let made = try loader.next()?.get() else {
                        throw PretrainingError("the loader ended before the images")
                    }
                    if let reason = made.fault {
                        if made.draws.lowerBound == 0 { notice("left out \(reason)") }
                        shard.leaveOut(image: image, reason: reason)
                        continue
                    }
                    pending.append(made)
                    if pending.count >= Self.viewsAtATime { try answer() }
                }
                progress(done + image - shard.images.lowerBound + 1, layout.images)
            }
            try answer()
            if mayBeAllBad {
                mayBeAllBad = shard.absent == shard.images.count
                if mayBeAllBad { try refuseIfNothingCanBeRead() }
            }
            try shard.write(to: path, bank: identity, calls: options.calls)
            done += shard.images.count
        }
        missing = []
        return .finished
    }

    /// Views of some images, and whose they are.
    private struct Views {
        var pixels: [Float] = []
        var parts: [(image: Int, draws: Range<Int>)] = []
        var count = 0

        mutating func append(_ made: Made) {
            pixels += made.pixels
            parts.append((made.image, made.draws))
            count += made.draws.count
        }
    }

    /// Lets the teacher answer and puts codes where they belong.
    private func take(_ views: Views, _ basis: CellBasis?, into shard: inout ViewBankShardBuffer) throws {
        guard views.count > 0 else { return }
        let layout = identity.layout
        let keys = views.parts.flatMap { part in part.draws.map { ViewKey(index: part.image, draw: $0) } }
        let answers = try teacher.answers(for: keys) { views.pixels }
        let cells = basis?.coordinates(of: answers.cells) ?? answers.cells
        var first = 0
        for part in views.parts {
            let (a, b) = (first, first + part.draws.count)
            first = b
            let global = answers.globals[a * layout.width..<b * layout.width]
            let own = cells[a * layout.cellCodes..<b * layout.cellCodes]
            guard global.allFinite, own.allFinite else {
                shard.leaveOut(
                    image: part.image,
                    reason: "\(request.dataset.name(part.image)): the teacher's answer is not finite")
                continue
            }
            shard.take(
                image: part.image, firstDraw: part.draws.lowerBound, draws: part.draws.count, global: global,
                cells: own)
        }
    }

    /// One image whose shard has none that can be read is bad luck or bad data: others spread over all decide.
    private func refuseIfNothingCanBeRead() throws {
        let count = request.dataset.count, sample = min(100, count)
        for place in 0..<sample {
            let isReadable = (try? request.dataset.withImage(place * count / sample, side: 0) { _ in true }) ?? false
            if isReadable { return }
        }
        throw PretrainingError(
            "\(request.dataset.path): no image of the first shard can be read, nor any of \(sample) others")
    }

    // MARK: Views

    /// Some draws of an image, as the teacher sees them.
    private struct Made: Sendable {
        let image: Int
        let draws: Range<Int>
        /// [draws, 3, side, side].
        var pixels: [Float] = []
        /// Why there are none.
        var fault: String?
    }

    private func loader(
        count: Int, _ work: @escaping @Sendable (Int) -> (image: Int, draws: Range<Int>)
    ) -> PrefetchLoader<Made> {
        let dataset = request.dataset, augmentation = augmentation, seed = request.settings.seed
        return PrefetchLoader(
            count: count, threads: options.loaderThreads, capacity: Self.queueCapacity(options)
        ) { item in
            let (image, draws) = work(item)
            var made = Made(image: image, draws: draws)
            do {
                let size = augmentation.count(ofView: 0)
                made.pixels = [Float](repeating: 0, count: draws.count * size)
                try dataset.withImage(
                    image, side: augmentation.globalSize, background: augmentation.background
                ) { picture in
                    made.pixels.withUnsafeMutableBufferPointer { pixels in
                        guard let start = pixels.baseAddress else { return }
                        for (place, draw) in draws.enumerated() {
                            augmentation.make(
                                view: 0, of: picture, key: .init(seed: seed, epoch: draw, index: image),
                                into: start + place * size)
                        }
                    }
                }
            } catch {
                (made.pixels, made.fault) = ([], "\(error)")
            }
            return made
        }
    }

    /// Of the first draw of images spread evenly over the data set; nil where it was stopped.
    private func makeBasis(_ shouldStop: () -> Bool) throws -> CellBasis? {
        let count = request.dataset.count, sample = min(Self.basisImages, count)
        let loader = loader(count: sample) { ($0 * count / sample, 0..<1) }
        defer { loader.stop() }
        var moments = CellMoments(width: identity.layout.width)
        var pending = Views()
        for place in 0..<sample {
            if shouldStop() { return nil }
            guard let made = try loader.next()?.get() else { break }
            if made.fault == nil { pending.append(made) }
            if pending.count >= Self.viewsAtATime || place == sample - 1, pending.count > 0 {
                let keys = pending.parts.map { ViewKey(index: $0.image, draw: 0) }
                let cells = try teacher.answers(for: keys) { pending.pixels }.cells
                if cells[...].allFinite { moments.add(cells) }
                pending = Views()
            }
        }
        guard moments.count > 0 else {
            throw PretrainingError("\(request.dataset.path): none of \(sample) images spread over it can be used")
        }
        return CellBasis(moments, rank: identity.layout.rank)
    }
}

extension ArraySlice<Float> {
    fileprivate var allFinite: Bool {
        withUnsafeBufferPointer { values in
            guard let start = values.baseAddress else { return true }
            return hssl_all_finite(values.count, start)
        }
    }
}

func fileExists(_ path: String) -> Bool { path.withPath { access($0, F_OK) } == 0 }
