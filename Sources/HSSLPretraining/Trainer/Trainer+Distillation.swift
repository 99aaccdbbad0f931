import CSupport
import HSSLData
import HSSLModels
import HSSLRuntime

// What a run has to do with a frozen teacher.
extension Trainer {
    /// Views over which the objective sees what the teacher says before the first update.
    private static let sampleViews = 4096

    /// Shows the objective answers about views spread over the data set, where it wants them.
    ///
    /// - Returns: false where `shouldStop` cut it short; a run that goes on from step 0 makes up for it.
    /// - Throws: `PretrainingError` for a teacher that says nothing finite.
    func showTeacherSample(shouldStop: () -> Bool) throws -> Bool {
        guard step == 0, let teacher, learner.objective.wantsTeacherSample else { return true }
        makeRoom()
        let most = (Self.sampleViews + dataset.count - 1) / dataset.count
        let draws = teacher.source.draws ?? min(most, recipe.schedule.epochs)
        let all = dataset.count * draws, count = min(Self.sampleViews, all)
        if teacher.source.draws == nil {
            willBegin?("asking the teacher about \(count) views, to even out what it says")
        }
        let keys = (0..<count).map { place in
            let view = place * all / count
            return ViewKey(index: view / draws, draw: view % draws)
        }.filter { teacher.source.absence(of: $0.index) == nil }
        // Small enough for a plan of memory that counts what waits of micro-batches.
        let source = self.source, chunk = microBatch
        let loader = PrefetchLoader(
            count: (keys.count + chunk - 1) / chunk, threads: loaderThreads, capacity: MicroBatchPlan.prefetched
        ) { part in
            source.teacherViews(keys[part * chunk..<min((part + 1) * chunk, keys.count)])
        }
        defer { loader.stop() }
        var sample = TeacherSample(width: teacher.source.width), isFirst = true
        while let (readable, views) = try loader.next()?.get() {
            if !isFirst, shouldStop() { return false }
            isFirst = false
            if !readable.isEmpty { sample.add(try teacher.source.answers(for: readable) { views }.globals) }
        }
        guard sample.isFinite else {
            throw PretrainingError(
                "\(teacher.file.path): what it says of \(count) views has no finite covariance: distill.whitening "
                    + "cannot even it out")
        }
        learner.objective.learn(from: sample)
        return true
    }

    /// Lets the frozen teacher answer, on all threads, before the student learns.
    func ask(_ batch: CropBatch, into sums: inout UpdateSums) throws {
        guard let teacher else { return }
        let clock = ContinuousClock.now
        batch.answers = try teacher.source.answers(for: batch.keys) { batch.teacherViews }
        batch.teacherViews = []
        sums.time.teacher += ContinuousClock.now - clock
    }

    /// k-NN of the untrained student and of the teacher: what metrics say, or measured before the first update.
    func knownGap(shouldStop: () -> Bool) throws -> KNNGap? {
        guard let teacher, let evaluation, evaluation.isWanted else { return nil }
        let references = evaluation.references
        if let known = try folder.readMetrics().last(where: { $0.knnReferences == references })?.gap { return known }
        if shouldStop() { return nil }
        willBegin?("measuring k-NN of the untrained student and of the teacher")
        makeRoom()
        let untrained = try UntrainedBase.model(recipe: recipe)
        let session = try Session(model: untrained, threads: Int(hssl_get_threads()))
        guard let low = try evaluation.run(session, preprocessing, shouldStop: shouldStop)?.top1 else { return nil }
        let taught = try teacher.withSession(threads: Int(hssl_get_threads())) {
            // Both look at the same pictures.
            var prepared = teacher.file.preprocessing
            prepared.background = preprocessing.background
            return try evaluation.run($0, prepared, shouldStop: shouldStop)?.top1
        }
        guard let high = taught else { return nil }
        let gap = KNNGap(untrained: low, teacher: high)
        var line = Metrics(step: step, epoch: step / schedules.stepsPerEpoch)
        (line.knnUntrained, line.knnTeacher, line.knnReferences) = (low, high, references)
        try folder.append(line)
        return gap
    }
}
