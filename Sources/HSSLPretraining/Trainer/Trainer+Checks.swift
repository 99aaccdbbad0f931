import HSSLData
import HSSLFormats
import HSSLModels

extension Recipe {
    /// Refuses what no run could begin with, whatever its images: a base, a head and an objective that do not go
    /// together, or too few images in an update. What a file of `model.initialize_from` says is not looked at.
    ///
    /// - Throws: `ModelError` or `PretrainingError` with the reason.
    public func validate() throws {
        if model.initializeFrom == nil { _ = try Network(NetworkSizes(recipe: self)) }
        _ = try Trainer.isSmallForBatchNorm(self)
    }
}

// Whether a run can begin, or go on from its checkpoint.
extension Trainer {
    /// A distillation has a teacher, and nothing else has one.
    static func check(_ recipe: Recipe, teacher: FrozenTeacher?) throws {
        let (name, distill) = (recipe.objective.name, Recipe.distillObjective)
        if teacher == nil, name == distill {
            throw PretrainingError(
                "objective.name is \(distill), which needs a teacher: hssl distill RECIPE --teacher FILE")
        }
        if teacher != nil, name != distill {
            throw PretrainingError("objective.name is \(name); hssl distill takes recipes of objective \(distill) "
                + "(hssl pretrain runs this one)")
        }
    }

    /// Whether batch norm would do better with more images in an update.
    ///
    /// - Throws: `PretrainingError` where they are so few that it makes no sense.
    static func isSmallForBatchNorm(_ recipe: Recipe) throws -> Bool {
        guard recipe.objectiveSettings.couplesImages(hasAuxiliary: recipe.auxiliary.isEnabled) else { return false }
        let batch = recipe.schedule.effectiveBatch
        guard batch >= smallestCoupledBatch else {
            throw PretrainingError(
                "schedule.batch_size × accumulate is \(batch): batch norm over so few images is noise; "
                + "objective \(recipe.objective.name) needs at least \(smallestCoupledBatch), better "
                + "\(advisedCoupledBatch)"
            )
        }
        return batch < advisedCoupledBatch
    }

    /// - Parameter images: of the data set that are learnt from.
    static func check(_ position: Checkpoint.Position, against recipe: Recipe, dataset: Dataset, digest: String,
                              schedules: Schedules, images: Int, path: String) throws {
        guard position.datasetCount == dataset.count else {
            throw PretrainingError(
                "\(path): was trained on \(position.datasetCount) images, \(dataset.path) has \(dataset.count)")
        }
        guard position.datasetDigest ?? digest == digest else {
            throw PretrainingError("\(path): was trained on other images than those of \(dataset.path), though as many")
        }
        var stored = try Recipe.parseStored(position.recipe, file: path, architectures: ModelArchitecture.names)
        // An architecture's own patch size, written out or left to it, is the same model.
        if let there = try? NetworkSizes(recipe: stored).base, let here = try? NetworkSizes(recipe: recipe).base,
            there == here
        {
            stored.model.patchSize = recipe.model.patchSize
        }
        if let (key, there, here) = stored.firstDifference(to: recipe) {
            throw PretrainingError("\(path): the run has another recipe: \(key) is \(there) there, \(here) here; "
                + "resume with the recipe it was started with")
        }
        let batch = recipe.schedule.effectiveBatch
        guard position.step <= schedules.totalSteps, position.seed == recipe.schedule.seed,
            position.microBatch <= batch, position.epoch == position.step / schedules.stepsPerEpoch,
            position.samplerPosition == position.step % (images / batch) * batch
        else {
            throw PretrainingError(
                "\(path): its metadata contradict its recipe: step \(position.step), epoch "
                + "\(position.epoch), seed \(position.seed)"
            )
        }
    }

    /// CRC-32C of the labels and of the pixels of some images spread over the data set: a run goes on only with the
    /// images it began with, wherever they are kept.
    static func digest(of dataset: Dataset) -> String {
        var digest = CRC32C()
        for index in 0..<dataset.count {
            withUnsafeBytes(of: Int32(truncatingIfNeeded: dataset.label(index) ?? -1).littleEndian) {
                digest.update($0)
            }
        }
        for index in samples(of: dataset) {
            // An image that cannot be read stands for itself by adding nothing.
            try? dataset.withImage(index, side: 0) { image in image.pixels.withUnsafeBytes { digest.update($0) } }
        }
        return digest.hexadecimal
    }

    static func samples(of dataset: Dataset) -> [Int] {
        let samples = min(8, dataset.count)
        return (0..<samples).map { $0 * dataset.count / samples }
    }
}
