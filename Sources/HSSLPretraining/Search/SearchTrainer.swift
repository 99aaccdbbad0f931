import HSSLData
import HSSLFormats
import HSSLGraph
import HSSLModels

/// Ranks auxiliary heads for a base without labels: trains them all at once beside the base, then compares them on
/// images that nobody learnt from.
public final class SearchTrainer {
    /// The run itself: its steps, whether it goes on from a checkpoint.
    public let trainer: Trainer
    private let recipe: Recipe
    private let options: SearchOptions
    private let candidates: CandidateSet
    private let heldOut: [Int]

    package var learner: Learner { trainer.learner }

    /// How a search ended, and what it found.
    public struct Outcome: Sendable {
        /// How the run of the base ended: finished or stopped, and after how many updates.
        public let summary: Trainer.Summary
        /// Nil where the search was stopped before its end.
        public let result: SearchResult?
        /// Held-out images that could not be read.
        public let unreadable: Int
    }

    /// - Parameters:
    ///   - recipe: of the run that a head is searched for; its `auxiliary` section says what the candidates have in
    ///     common.
    ///   - output: run folder. Nothing is written before the recipe, the heads and the images have been found usable.
    /// - Throws: one line naming what cannot be, as `Trainer` does, and also: a recipe without a head, a head that the
    ///   recipe's run could not have, too few images, a checkpoint of another search or of a pretraining run.
    public init(
        recipe: Recipe, dataset: Dataset, output: String, options: PretrainingOptions, search: SearchOptions
    ) throws {
        guard recipe.auxiliary.isEnabled else {
            throw PretrainingError(
                "auxiliary.family is none: a search takes depth and widths of its candidates from that "
                    + "section; name a family, e.g. --set auxiliary.family=\(search.heads.first ?? "convnext")")
        }
        guard search.share > 0, search.share <= 1 else {
            throw PretrainingError("a search takes a part of a run above 0 and at most 1, not \(search.share)")
        }
        for head in search.heads {
            do { _ = try Network(NetworkSizes(recipe: recipe.with(head: head))) } catch let error as ModelError {
                throw PretrainingError("head \(head): \(error)")
            }
        }
        let batch = recipe.schedule.effectiveBatch
        guard dataset.count >= search.heldOutImages + batch else {
            throw PretrainingError("\(dataset.path): \(dataset.count) images are too few for a search: "
                + "\(search.heldOutImages) are held out, and an update takes \(batch)")
        }
        if RunFolder.hasForeignWinner(output) {
            throw PretrainingError("\(output)/recipe.yaml: is there already, and the search would "
                + "replace it; give another --output")
        }
        var random = CounterRandom(seed: recipe.schedule.seed, stream: 0x4845_4C44)
        let order = random.shuffled(0..<dataset.count)
        heldOut = order.prefix(search.heldOutImages).sorted()

        var candidates: CandidateSet?
        let perEpoch = (search.share * Double(dataset.count / batch)).rounded()
        let setup = SearchSetup(
            base: recipe.aloneForSearch, identity: SearchIdentity(search),
            images: order.dropFirst(search.heldOutImages).sorted(), stepsPerEpoch: max(1, Int(perEpoch)),
            companion: { learner in
                let made = try CandidateSet(
                    search, recipe: recipe, learner: learner, memoryLimit: options.memoryLimit)
                candidates = made
                return made
            })
        trainer = try Trainer(recipe: recipe, dataset: dataset, output: output, options: options, search: setup)
        guard let candidates else { preconditionFailure("the trainer has made its companion") }
        (self.recipe, self.options, self.candidates) = (recipe, search, candidates)
    }

    /// Trains until the schedule ends, `maxSteps` or `shouldStop`; at the end compares the candidates and writes
    /// `recipe.yaml` and `report.html`.
    ///
    /// Without an eligible candidate there is no `recipe.yaml`.
    ///
    /// - Throws: as `Trainer.run`.
    public func run(shouldStop: () -> Bool, progress: Trainer.Progress, notice: Trainer.Notice) throws -> Outcome {
        let summary = try trainer.run(shouldStop: shouldStop, progress: progress, notice: notice)
        guard summary.ending == .finished else {
            try report(nil)
            return Outcome(summary: summary, result: nil, unreadable: 0)
        }
        let (result, unreadable) = try trainer.context.run { try measure(notice) }
        try report(result)
        let outcome = Outcome(summary: summary, result: result, unreadable: unreadable)
        guard let winner = result.winner else { return outcome }
        let note = "# The head that hssl search chose of \(options.heads.joined(separator: ", ")) on "
            + "\(oneLine(trainer.datasetName)): gap \(fixed(winner.gap, places: 4)) ± "
            + "\(fixed(winner.gapError, places: 4)) nats.\n"
        try AtomicFile.write(Array((note + recipe.with(head: winner.head).yaml).utf8), to: trainer.folder.winnerPath)
        return outcome
    }

    private func report(_ result: SearchResult?) throws {
        try SearchReport(
            recipe: recipe, datasetName: trainer.datasetName, options: options,
            metrics: trainer.folder.readMetrics(), result: result
        ).write(to: trainer.folder.reportPath)
    }

    /// The candidates on the held-out images.
    private func measure(_ notice: Trainer.Notice) throws -> (SearchResult, unreadable: Int) {
        trainer.makeRoom()
        let learner = trainer.learner, pool = learner.pool, settings = learner.objective.settings
        let temperature = Float(trainer.lastSchedule.teacherTemperature)
        let source = trainer.source, heldOut = self.heldOut, size = trainer.microBatch
        let loader = PrefetchLoader(
            count: (heldOut.count + size - 1) / size, threads: trainer.loaderThreads,
            capacity: MicroBatchPlan.prefetched
        ) { source.pairs(of: heldOut[$0 * size..<min(($0 + 1) * size, heldOut.count)]) }
        defer { loader.stop() }
        let all = candidates.all
        var measures = all.map { CandidateMeasure(prototypes: $0.shared.prototypes) }
        var unreadable = 0
        // The reference's head is the base: its features are the base's.
        while let pairs = try loader.next()?.get() {
            for image in pairs.unreadable { notice("skipped \(image.reason)") }
            unreadable += pairs.unreadable.count
            guard pairs.batch.images > 0 else { continue }
            func see(_ network: Network) -> SeenBase {
                let tape = Tape(mode: .inference, precision: settings.precision, pool: pool)
                let output = network.base(pairs.batch.globalInput(tape), mask: nil, Pass())
                return SeenBase(output: output, global: network.base.global(output))
            }
            let student = see(learner.student)
            let seen = Observation(
                student: student, teacher: learner.teacher.map(see) ?? student, settings: settings)
            for (place, candidate) in all.enumerated() {
                measures[place].add(candidate, seen, temperature: temperature, pool: pool)
            }
        }
        let images = heldOut.count - unreadable
        guard images > 3, let reference = measures.last else {
            throw PretrainingError(
                "\(trainer.dataset.path): only \(images) of \(heldOut.count) held-out images can be read")
        }
        let rows = zip(all, measures).map { $1.row($0, base: reference.globals) }
        return (SearchResult(rows: Array(rows.dropLast()), base: rows[rows.count - 1], images: images), unreadable)
    }
}

extension SearchTrainer.Outcome {
    /// For `--json`: the result, or how far the search came.
    public var json: String {
        var object = JSONObject()
        object["finished"] = .bool(summary.ending == .finished)
        object["step"] = .integer(summary.step)
        if case .object(let found)? = result?.json { for key in found.keys { object[key] = found[key] } }
        return JSONValue.object(object).text(indent: 2)
    }
}
