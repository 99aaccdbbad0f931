import CSupport
import HSSLData
import HSSLFormats
import HSSLGraph
import HSSLModels
import HSSLRuntime
#if canImport(Glibc)
import Glibc
#endif

/// What `hssl pretrain` was asked for besides the recipe.
public struct PretrainingOptions: Sendable {
    public var resume = false
    /// With `resume`: begins a run where there is none.
    public var startsIfMissing = false
    /// Stops after so many updates in all; no schedule changes.
    public var maxSteps: Int?
    /// Bytes of resident memory that the run may use.
    public var memoryLimit: Int?
    /// Threads that learn, 1 … 256; nil: one a processor. Results do not depend on them.
    public var threads: Int?
    /// Threads that decode and augment.
    public var loaderThreads = 2

    public init() {}
}

/// Runs a recipe: batches, updates, metrics, evaluation, checkpoints, until the schedule ends or the caller asks to
/// stop.
public final class Trainer {
    /// Updates in a row that may be skipped for a loss or gradient that is not finite.
    package static let patience = 10
    /// Share of images replaced for being unreadable above which a run stops, once there were `unreadableFloor`.
    package static let unreadableShare = 0.1
    package static let unreadableFloor = 20

    /// Images of an update below which batch norm in the projections makes no sense, or is worth a word.
    package static let smallestCoupledBatch = 16
    package static let advisedCoupledBatch = 64
    private let isSmallForBatchNorm: Bool
    /// What the base of `model.initialize_from` gives reason to say.
    private let initialWarnings: [String]

    /// What the base learns by.
    package let recipe: Recipe
    /// What the run was asked for: the same, but for the head that a search leaves out.
    private let ordered: Recipe
    /// Nil: the run pretrains.
    private let search: SearchSetup?
    /// Whom the base is distilled from; nil: it learns without one.
    let teacher: FrozenTeacher?
    /// What the k-NN figures of a distillation lie between; nil until measured.
    package private(set) var gap: KNNGap?
    package let learner: Learner
    package let folder: RunFolder
    let dataset: Dataset
    let source: BatchSource
    let schedules: Schedules
    private let options: PretrainingOptions
    /// Threads and instruction set of this run, whatever else the process does.
    let context: KernelContext
    let evaluation: OnlineEvaluation?
    let preprocessing: Preprocessing
    /// Updates done.
    public private(set) var step = 0
    /// Whether it goes on from a checkpoint.
    public let isResumed: Bool
    /// What a person should know before the run.
    public var notice: String? { folder.lockNotice }
    private var skippedSteps = 0
    private var unreadable: [Int: String] = [:]
    private var imagesSeen = 0
    /// Images whose turn it was and that another one replaced.
    private var imagesReplaced = 0
    private let datasetDigest: String
    /// For tests of what a run does with a spoilt update: called with the step and each micro-batch before it is learnt
    /// from.
    package var willLearn: ((_ step: Int, _ batch: CropBatch) -> Void)?

    /// Loader threads.
    var loaderThreads: Int { options.loaderThreads }

    /// Returns idle activations before work that has memory of its own, where memory is limited.
    func makeRoom() { if options.memoryLimit != nil { learner.pool.trim() } }

    /// How a run ended.
    public enum Ending: Equatable, Sendable {
        case finished
        /// `maxSteps` was reached, or the caller asked to stop: resumable.
        case stopped
    }

    public struct Summary: Sendable {
        public let ending: Ending
        public let step: Int
        /// Images that could not be read, with the reason: they were replaced by their neighbours.
        public let unreadable: [(name: String, reason: String)]
        public let lastTop1: Double?
    }

    /// Called after every update, with what was measured.
    public typealias Progress = (_ metrics: Metrics, _ totalSteps: Int) -> Void
    /// Called with a line that a person should read.
    public typealias Notice = (String) -> Void
    /// Told what begins before the first update, where that takes its time.
    public var willBegin: Notice?

    public let microBatch: Int
    public var totalSteps: Int { schedules.totalSteps }
    /// Of the last update.
    var lastSchedule: StepSchedule { schedules.values(step: schedules.totalSteps - 1) }

    /// Opens data set and run folder, builds or restores the networks. Nothing is written before all of this succeeds.
    public convenience init(recipe: Recipe, dataset: Dataset, output: String, options: PretrainingOptions) throws {
        try self.init(recipe: recipe, dataset: dataset, output: output, options: options, search: nil)
    }

    /// A distillation.
    package convenience init(
        recipe: Recipe, dataset: Dataset, output: String, options: PretrainingOptions, teacher: FrozenTeacher
    ) throws {
        try self.init(
            recipe: recipe, dataset: dataset, output: output, options: options, search: nil, teacher: teacher)
    }

    /// - Parameters:
    ///   - search: what else learns in the run, and from which images.
    ///   - teacher: of objective `distill`.
    init(
        recipe ordered: Recipe, dataset: Dataset, output: String, options: PretrainingOptions, search: SearchSetup?,
        teacher: FrozenTeacher? = nil
    ) throws {
        try Self.check(ordered, teacher: teacher)
        context = KernelContext(threads: try KernelContext.threads(options.threads), isa: hssl_isa_selected())
        self.teacher = teacher
        var recipe = search?.base ?? ordered
        // The C heap would keep a decoded photograph for every thread.
        if options.memoryLimit != nil { hssl_return_freed_memory() }
        let batch = recipe.schedule.effectiveBatch
        guard dataset.count >= batch else {
            throw PretrainingError(
                "\(dataset.path): \(dataset.count) images are fewer than one batch of "
                + "\(batch) (schedule.batch_size × accumulate)"
            )
        }
        isSmallForBatchNorm = try Self.isSmallForBatchNorm(recipe)
        self.dataset = dataset
        self.options = options
        folder = try RunFolder(path: output, resume: options.resume, startsIfMissing: options.startsIfMissing)
        var initial: InitialBase?
        var ordered = ordered
        if options.resume, folder.hasCheckpoint {
            // The weights are in the checkpoint, and so are the sizes of a base that was imported.
            let stored = try Checkpoint.position(
                of: SafetensorsFile(path: folder.checkpointPath, verifyingChecksum: false)
            ).recipe
            recipe.model.sizes = try Recipe.parseStored(
                stored, file: folder.checkpointPath, architectures: ModelArchitecture.names).model.sizes
            try recipe.assumeKeysAbsent(from: stored)
            try ordered.assumeKeysAbsent(from: stored)
        } else {
            initial = try InitialBase(completing: &recipe)
        }
        initialWarnings = initial?.warnings(recipe) ?? []
        ordered.model.sizes = recipe.model.sizes
        (self.recipe, self.ordered, self.search) = (recipe, ordered, search)
        learner = try Learner(recipe: recipe, teacher: teacher?.shape, memoryLimit: options.memoryLimit)
        if let initial {
            for (network, _) in learner.networks { try initial.load(into: network) }
        }
        if let search { learner.accompany(by: try search.companion(learner)) }
        if let limit = options.memoryLimit {
            // Until the plan says what decoding may take; nothing else is under way.
            let left = limit - Int(hssl_peak_rss()) - MicroBatchPlan.unseenBytes
            dataset.limitDecoding(
                toBytes: min(dataset.limits.bytes, max(left, Self.leastDecodeBytes)), name: "--memory-limit")
        }
        datasetDigest = Self.digest(of: dataset)
        schedules = Schedules(recipe: recipe, stepsPerEpoch: search?.stepsPerEpoch ?? dataset.count / batch)
        preprocessing = try Preprocessing(recipe: recipe)
        evaluation =
            search != nil
            ? nil
            : try OnlineEvaluation(
                recipe: recipe, dataset: dataset, architecture: NetworkSizes(recipe: recipe).base,
                preprocessing: preprocessing)

        var resumed: Checkpoint.Position?
        if options.resume, folder.hasCheckpoint {
            let file = try SafetensorsFile(path: folder.checkpointPath)
            let position = try Checkpoint.position(of: file)
            try SearchIdentity.check(position.search, against: search?.identity, path: folder.checkpointPath)
            try position.checkTeacher(teacher, path: folder.checkpointPath)
            try Self.check(position, against: ordered, dataset: dataset, digest: datasetDigest, schedules: schedules,
                           images: search?.images.count ?? dataset.count, path: folder.checkpointPath)
            try Checkpoint.load(file, into: learner)
            resumed = position
        } else if options.resume, try folder.hadCheckpoint(every: recipe.checkpoint.everySteps) {
            throw PretrainingError(
                "\(folder.checkpointPath): is gone, though the run had one; put it back or give another --output")
        }
        isResumed = resumed != nil
        let viewing = teacher?.viewing(recipe), begun = resumed
        microBatch = try context.run { [learner] in
            try Self.microBatch(
                learner, recipe: recipe, options: options, resumed: begun, dataset: dataset,
                teacherSide: viewing?.augmentation?.globalSize ?? 0, answerBytes: teacher?.source.residentBytes ?? 0)
        }
        source = BatchSource(recipe: recipe, grid: learner.globalGrid, dataset: dataset, images: search?.images,
                             microBatch: microBatch, globalViews: learner.globalViews, teacher: viewing)
        step = resumed?.step ?? 0
        skippedSteps = resumed?.skippedSteps ?? 0
        try folder.writeConfiguration(ordered)
        try folder.openMetrics(after: step)
    }

    // MARK: The loop

    /// Trains until the schedule ends, `maxSteps` or `shouldStop`.
    ///
    /// - Throws: when a run cannot go on; the last checkpoint stays.
    public func run(shouldStop: () -> Bool, progress: Progress, notice: Notice) throws -> Summary {
        try context.run { try train(shouldStop: shouldStop, progress: progress, notice: notice) }
    }

    private func train(shouldStop: () -> Bool, progress: Progress, notice: Notice) throws -> Summary {
        let last = min(schedules.totalSteps, options.maxSteps ?? .max)
        for warning in initialWarnings { notice(warning) }
        if isSmallForBatchNorm {
            notice("schedule.batch_size × accumulate is \(recipe.schedule.effectiveBatch): batch norm of objective "
                + "\(recipe.objective.name) works better with \(Self.advisedCoupledBatch) images or more")
        }
        var skippedInARow = 0
        var lastTop1: Double?
        var lastSaved = step
        var warnedOfCollapse = false
        var underflow = UnderflowWatch()
        var loadingWatch = LoadingWatch(
            neededSide: source.neededSide, threads: max(context.threads, options.loaderThreads))
        let parts = source.partsPerStep
        let first = step
        let source = self.source
        let loader = PrefetchLoader(
            count: max(0, last - first) * parts, threads: options.loaderThreads, capacity: MicroBatchPlan.prefetched
        ) { item in
            try source.make(step: first + item / parts, part: item % parts)
        }
        defer { loader.stop() }
        if step < last { gap = try knownGap(shouldStop: shouldStop) }
        if isResumed, let top1 = try top1LeftOut(shouldStop: shouldStop) {
            lastTop1 = top1
            var line = Metrics(step: step, epoch: (step - 1) / schedules.stepsPerEpoch)
            line.knnTop1 = top1
            line.set(gap)
            try folder.append(line)
            progress(line, schedules.totalSteps)
        }
        var stopped = shouldStop()
        if step < last, !stopped { stopped = try !showTeacherSample(shouldStop: shouldStop) }
        while step < last, !stopped {
            let schedule = schedules.values(step: step)
            let clock = ContinuousClock.now
            let context = StepContext(step: step, schedule: schedule, batchImages: source.batchImages)
            var sums = learner.newSums()
            var loading = 0.0, sides = 0
            for _ in 0..<parts {
                guard let part = try loader.next()?.get() else {
                    throw PretrainingError("the loader ended before the schedule")
                }
                loading += part.seconds
                sides += part.shorterSides
                imagesSeen += part.batch.images
                try note(part, notice)
                willLearn?(step, part.batch)
                try ask(part.batch, into: &sums)
                learner.accumulate(part.batch, context: context, into: &sums)
            }
            let outcome = learner.update(sums, schedule: schedule)
            step += 1
            skippedInARow = outcome.skipped ? skippedInARow + 1 : 0
            if outcome.skipped {
                skippedSteps += 1
                notice("step \(step): the loss or a gradient is not finite; the update was skipped")
                if skippedInARow >= Self.patience {
                    let left =
                        folder.hasCheckpoint
                        ? "\(folder.checkpointPath) holds the last good state"
                        : "\(folder.path) has no checkpoint yet"
                    throw PretrainingError("\(skippedInARow) updates in a row were not finite; \(left)")
                }
            }
            let took = seconds(since: clock)
            var metrics = metrics(outcome, sums, schedule, seconds: took)
            let loadingShare = loadingWatch.share(of: loading, in: took)
            metrics.loadingShare = loadingShare
            if let top1 = try top1IfDue(shouldStop: shouldStop) {
                lastTop1 = top1
                metrics.knnTop1 = top1
                metrics.set(gap)
            }
            if !warnedOfCollapse, !outcome.skipped, let warning = collapse(metrics) {
                warnedOfCollapse = true
                notice("step \(step): \(warning)")
            }
            if !outcome.skipped, let warning = underflow.warning(metrics) { notice("step \(step): \(warning)") }
            let side = Double(sides) / Double(source.batchImages)
            if let warning = loadingWatch.warning(seconds: took, share: loadingShare, side: side) { notice(warning) }
            try folder.append(metrics)
            progress(metrics, schedules.totalSteps)
            stopped = shouldStop()
            if step % recipe.checkpoint.everySteps == 0 || step == last || stopped, skippedInARow == 0 || stopped {
                try save()
                lastSaved = step
            }
        }
        if lastSaved != step || !folder.hasCheckpoint { try save() }
        let finished = step >= schedules.totalSteps
        // What a search found is its owner's to say.
        guard search == nil else { return summary(finished, lastTop1) }
        // A stopped run has its curves too; neighbours need the features of thousands of images, which nobody who
        // pressed Ctrl-C waits for.
        if finished { try finish(shouldStop: shouldStop) } else { try writeReport() }
        return summary(finished, lastTop1)
    }

    private func summary(_ finished: Bool, _ lastTop1: Double?) -> Summary {
        Summary(
            ending: finished ? .finished : .stopped, step: step,
            unreadable: unreadable.sorted { $0.key < $1.key }.map { (dataset.name($0.key), $0.value) },
            lastTop1: lastTop1)
    }

    private func seconds(since start: ContinuousClock.Instant) -> Double { (ContinuousClock.now - start) / .seconds(1) }

    private func metrics(_ outcome: Learner.Outcome, _ sums: UpdateSums, _ schedule: StepSchedule, seconds: Double)
        -> Metrics
    {
        var metrics = Metrics(step: step, epoch: schedule.epoch)
        metrics.loss = outcome.loss
        for part in sums.losses.parts { metrics.named[LossCurve.key(of: part.name)] = part.value }
        metrics.learningRate = schedule.learningRate
        metrics.weightDecay = schedule.weightDecay
        metrics.teacherMomentum = learner.teacher == nil ? nil : schedule.teacherMomentum
        metrics.teacherTemperature = recipe.reads("objective.teacher_temperature") ? schedule.teacherTemperature : nil
        metrics.gradientNorm = outcome.gradientNorm
        metrics.teacherEntropy = sums.targets > 0 ? sums.targetEntropy / Double(sums.targets) : nil
        metrics.featureStd = sums.features.meanStandardDeviation
        metrics.int8Saturation = sums.quantization?.activations.saturation
        metrics.int8GradientSaturation = sums.quantization?.gradients.saturation
        metrics.int8GradientZeros = sums.quantization?.gradients.zeroShare
        metrics.int8GradientScaleMean = sums.quantization?.gradients.meanScale
        metrics.int8GradientScaleMax = sums.quantization?.gradients.maximumScale
        metrics.imagesPerSecond = Double(source.batchImages) / max(seconds, 1e-9)
        metrics.peakRSSBytes = Int(hssl_peak_rss())
        metrics.skippedSteps = skippedSteps
        metrics.named.merge(learner.companion?.figures ?? [:]) { mine, _ in mine }
        return metrics
    }

    /// A line about a teacher that says the same of every image, or nil. Looked at after the first epoch: before it,
    /// little is known.
    private func collapse(_ metrics: Metrics) -> String? {
        guard step >= schedules.stepsPerEpoch, let spread = metrics.featureStd else { return nil }
        let healthy = 1 / Double(learner.student.base.width).squareRoot()
        if spread < 0.02 * healthy {
            return "features have collapsed: their spread is \(spread), a healthy one about \(healthy)"
        }
        if let entropy = metrics.teacherEntropy, entropy < 1e-3 {
            return "the teacher has collapsed onto single prototypes: the entropy of its targets is \(entropy)"
        }
        return nil
    }

    private func note(_ part: BatchSource.Part, _ notice: Notice) throws {
        for failure in part.unreadable where unreadable[failure.index] == nil {
            unreadable[failure.index] = failure.reason
            notice("skipped \(failure.reason)")
        }
        // Turns, not files: bad files that lie together are all met when the first one's turn comes.
        imagesReplaced += part.replaced
        // Three standard deviations above the share, by which a few updates can miss it.
        let seen = Double(imagesSeen), share = Self.unreadableShare
        let bound = share * seen + 3 * (share * (1 - share) * seen).squareRoot()
        if imagesReplaced >= Self.unreadableFloor, Double(imagesReplaced) > bound {
            throw PretrainingError(
                "\(dataset.path): \(imagesReplaced) of \(imagesSeen) images could not be read, the last: "
                + "\(part.unreadable.last?.reason ?? "")"
            )
        }
    }

    // MARK: Evaluation

    /// k-NN of the base where an epoch with an evaluation has just ended. Nil too once it shall stop: who stops does
    /// not wait for it, and the resumed run makes up for it.
    private func top1IfDue(shouldStop: () -> Bool) throws -> Double? {
        let epoch = step / schedules.stepsPerEpoch
        guard let evaluation, step > 0, step % schedules.stepsPerEpoch == 0,
              evaluation.isDue(epoch: epoch, last: step == schedules.totalSteps) else { return nil }
        makeRoom()
        return try evaluation.run(learner.objective.deployed, shouldStop: shouldStop)?.top1
    }

    /// The evaluation that a stop cut off at the step that a run goes on from.
    private func top1LeftOut(shouldStop: () -> Bool) throws -> Double? {
        let lines = try folder.readMetrics().filter { $0.step == step }
        guard lines.contains(where: { $0.loss != nil }), lines.allSatisfy({ $0.knnTop1 == nil }) else { return nil }
        return try top1IfDue(shouldStop: shouldStop)
    }

    // MARK: Files

    private func save() throws {
        // First: a checkpoint never stands without the lines of its steps, while lines beyond it are dropped.
        try folder.synchronizeMetrics()
        try Checkpoint.save(
            learner,
            position: .init(
                step: step, epoch: step / schedules.stepsPerEpoch,
                samplerPosition: step % source.stepsPerEpoch * source.batchImages, seed: recipe.schedule.seed,
                microBatch: microBatch, skippedSteps: skippedSteps, datasetCount: dataset.count,
                datasetDigest: datasetDigest, datasetName: datasetName,
                recipe: ordered.yaml, search: search?.identity, teacher: teacher?.identity,
                draws: teacher?.source.draws), to: folder.checkpointPath)
    }

    /// The base model of the teacher and the report, without neighbours once it shall stop.
    private func finish(shouldStop: () -> Bool) throws {
        makeRoom()
        let base = try BaseExport(
            recipe: recipe, datasetName: datasetName, epochs: step / schedules.stepsPerEpoch,
            teacher: teacher?.identity)
        try base.write(learner.objective.deployed, to: folder.modelPath, precision: .float32)
        let found = try evaluation?.run(learner.objective.deployed, illustrations: 8, shouldStop: shouldStop)
        try writeReport(neighborhoods: neighborhoods(found?.neighbors ?? []))
    }

    private func writeReport(neighborhoods: [Report.Neighborhood] = []) throws {
        var report = Report(
            title: "\(recipe.model.architecture) on \(datasetName)", recipe: recipe, metrics: try folder.readMetrics()
        )
        report.results = [
            ("data", "\(datasetName): \(dataset.count) images"), ("images unreadable", "\(unreadable.count)"),
        ]
        if let teacher { report.results += [("teacher", teacher.identity.summary)] }
        report.neighborhoods = neighborhoods
        try report.write(to: folder.reportPath)
    }

    /// Last component of the data set's path.
    var datasetName: String { dataset.path.split(separator: "/").suffix(2).joined(separator: "/") }

    private func neighborhoods(_ found: [(query: Int, nearest: [Int])]) throws -> [Report.Neighborhood] {
        found.compactMap { query, nearest -> Report.Neighborhood? in
            picture(query).map { Report.Neighborhood(query: $0, neighbors: nearest.compactMap { picture($0) }) }
        }
    }

    /// What the model sees of an image (resized and cropped), captioned with its class or name.
    private func picture(_ index: Int) -> Report.Picture? {
        guard let image = try? dataset.image(index, background: preprocessing.background) else { return nil }
        let side = preprocessing.crop
        let pixels = preprocessing.apply(to: image)
        var rgb = [UInt8](repeating: 0, count: 3 * side * side)
        for channel in 0..<3 {
            for i in 0..<side * side {
                let value =
                    (pixels[channel * side * side + i] * preprocessing.std[channel] + preprocessing.mean[channel])
                    * 255
                rgb[3 * i + channel] = UInt8(min(255, max(0, value.rounded())))
            }
        }
        let label = dataset.label(index)
        let caption =
            label.map { $0 < dataset.classNames.count ? dataset.classNames[$0] : "class \($0)" }
            ?? dataset.name(index)
        return Report.Picture(rgb: rgb, width: side, height: side, caption: caption)
    }
}
