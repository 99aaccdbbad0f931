import CSupport
import HSSLGraph

/// How many images a micro-batch may have under a memory limit, and whether packed weights can be kept beside them.
///
/// Memory at any moment of a step grows linearly with the micro-batch (every activation does), so two probes on
/// synthetic views give the line: a fixed part and a part an image. The peak is the largest of several moments, of
/// which weights rule the first and activations the later ones: sizes are doubled while the line so far says that they
/// fit, and the last two count.
package struct MicroBatchPlan {
    /// Bytes that do not depend on the micro-batch: the process, weights, moments, gradients, packed weights if they
    /// are kept.
    package let fixedBytes: Int
    package let bytesPerImage: Int
    /// See `BufferPool.keepsPackedWeights`.
    package let keepsPackedWeights: Bool
    /// Bytes outside the learner's pool: the process and the images of the data set, and the views of an image with all
    /// that the loader holds.
    private let outsideFixedBytes: Int
    private let outsideBytesPerImage: Int

    package func bytes(microBatch: Int) -> Int { fixedBytes + microBatch * bytesPerImage }

    /// Micro-batches that the loader may hold besides the one being learnt from; with more threads, one a thread.
    package static let prefetched = 3

    /// What decodes images beside the learner.
    package struct Loader {
        package let threads: Int
        /// What all images take that are decoded at a time.
        package let decodeBytes: Int
        /// What the views of an image take that somebody else than the learner sees.
        package let otherViewBytes: Int

        package init(threads: Int, decodeBytes: Int, otherViewBytes: Int = 0) {
            (self.threads, self.decodeBytes, self.otherViewBytes) = (threads, decodeBytes, otherViewBytes)
        }
    }

    /// The plan for micro-batches of `smallest` to `largest` images within `limit`, packing for every product only
    /// where that alone fits. The plan may turn out not to fit: it is then the most frugal one.
    ///
    /// Probes a learner that has not been trained; weights stay as they are, the probe's gradients are dropped. Leaves
    /// the pool as the plan says.
    package static func probe(
        _ learner: Learner, recipe: Recipe, loader: Loader, limit: Int, smallest: Int, largest: Int
    ) -> MicroBatchPlan {
        let frugal = MicroBatchPlan(
            learner, recipe: recipe, loader: loader, limit: limit, largest: largest, keepsPackedWeights: false)
        // At most so many bytes: not every parameter is packed. Looked at first because the probe itself must stay
        // within the limit.
        let size = switch recipe.schedule.precision { case .float32: 4; case .float16: 2; case .int8: 1 }
        let beside = learner.companion?.trainedCount ?? 0
        let packs =
            (2 * learner.student.parameters.count + (learner.teacher?.parameters.count ?? 0) + 3 * beside) * size
        guard limit - packs >= frugal.bytes(microBatch: smallest) else { return frugal }
        let plan = MicroBatchPlan(
            learner, recipe: recipe, loader: loader, limit: limit, largest: largest, keepsPackedWeights: true)
        if plan.bytes(microBatch: smallest) <= limit { return plan }
        learner.pool.keepsPackedWeights = false
        for parameter in learner.parameters { parameter.valuesDidChange() }
        learner.pool.trim()
        return frugal
    }

    private init(
        _ learner: Learner, recipe: Recipe, loader: Loader, limit: Int, largest: Int, keepsPackedWeights: Bool
    ) {
        let pool = learner.pool
        pool.keepsPackedWeights = keepsPackedWeights
        self.keepsPackedWeights = keepsPackedWeights
        pool.trim()
        let outside = Int(hssl_present_rss()) - pool.bytesReserved + Self.unseenBytes + loader.decodeBytes
            + learner.objective.heapBytes.fixed + (learner.companion?.heapBytes ?? 0)
        let side = recipe.model.imageSize, cells = learner.globalGrid.count
        let views = learner.globalViews
        let crops =
            4 * 3
            * (views * side * side + recipe.data.localCrops * recipe.data.localCropsSize * recipe.data.localCropsSize)
            + views * cells + loader.otherViewBytes
        let outsidePerImage = (1 + max(Self.prefetched, loader.threads)) * crops + learner.objective.heapBytes.perImage
        let whole = learner.objective.waits ? Self.whole(learner, recipe: recipe, crops: crops) : 0
        // All that comes with one image bounds what another can need; gradients come with the first and are no part of
        // it.
        let gradients =
            (learner.student.parameters.count + (learner.companion?.trainedCount ?? 0)) * MemoryLayout<Float>.stride
        var images = 1
        var peaks = (pool.bytesInUse + gradients, Self.peak(learner, recipe: recipe, images: 1))
        func line() -> (fixed: Int, perImage: Int) {
            let perImage = max(0, peaks.1 - peaks.0) / (images - images / 2)
            // Size classes round up by as much as an eighth.
            return (outside + whole + peaks.1 - images * perImage, perImage + perImage / 8 + outsidePerImage)
        }
        while 2 * images <= largest, line().fixed + 2 * images * line().perImage <= limit {
            images *= 2
            peaks = (peaks.1, Self.peak(learner, recipe: recipe, images: images))
        }
        (fixedBytes, bytesPerImage) = line()
        outsideFixedBytes = outside + (learner.objective.waits ? recipe.schedule.effectiveBatch * crops : 0)
        outsideBytesPerImage = outsidePerImage
        pool.trim()
    }

    /// The largest micro-batch within `limit`, at most `largest`; nil when not even one image fits.
    package func microBatch(limit: Int, largest: Int) -> Int? {
        let fitting = bytesPerImage > 0 ? (limit - fixedBytes) / bytesPerImage : largest
        return fitting >= 1 ? min(fitting, largest) : nil
    }

    /// What the pool may keep so that the process stays within `limit`.
    package func poolBytes(limit: Int, microBatch: Int) -> Int {
        limit - outsideFixedBytes - microBatch * outsideBytesPerImage
    }

    /// As many masked patches of a view as the recipe can draw: they enter the projection head.
    private static func mostMasked(_ recipe: Recipe, of tokens: Int) -> Int {
        let ratio = zip(recipe.objective.maskRatio, recipe.objective.maskRatioVariance).map { $0 + $1 }.max() ?? 0
        return min(tokens, Int((ratio * Double(tokens)).rounded(.up)))
    }

    /// Code that the probe does not touch, thread stacks, saving and the report's pictures: measured at 3 to 6 MB.
    static let unseenBytes = 10 << 20
    /// By how much what is resident differs from one start of the program to the next: what a resumed run may need
    /// beyond what it was started with.
    package static let jitterBytes = 4 << 20

    private static func peak(_ learner: Learner, recipe: Recipe, images: Int) -> Int {
        let cells = learner.globalGrid.count
        let views = learner.globalViews
        let batch = CropBatch(
            images: images, globalViews: views, globalSize: recipe.model.imageSize,
            localViews: recipe.data.localCrops, localSize: recipe.data.localCropsSize,
            tokens: cells, firstImage: 0)
        (batch.answers, batch.isRehearsal) = (learner.objective.silentAnswers(images: images), true)
        for crop in 0..<images * views {
            for token in 0..<mostMasked(recipe, of: cells) { batch.masks[crop * cells + token] = 1 }
        }
        // A dropped branch takes no memory; another step may drop none.
        let dropPath = learner.objective.settings.dropPath
        learner.objective.settings.dropPath = 0
        defer { learner.objective.settings.dropPath = dropPath }
        learner.pool.trim()
        // Twice: from an update's second micro-batch on, every gradient is there from the start.
        for _ in 0..<2 {
            learner.pool.resetPeak()
            var sums = learner.newSums()
            learner.accumulate(
                batch,
                context: .init(
                    step: 0, teacherTemperature: 0.04, teacherPatchTemperature: 0.04, batchImages: images,
                    prototypesFrozen: false), into: &sums)
        }
        learner.student.parameters.clearGradients()
        learner.companion?.discard()
        return learner.pool.peakBytes
    }

    /// What an update needs besides its micro-batches: views that wait for it, rows and head of the whole batch.
    private static func whole(_ learner: Learner, recipe: Recipe, crops: Int) -> Int {
        let images = recipe.schedule.effectiveBatch, pool = learner.pool
        pool.resetPeak()
        let before = pool.bytesInUse
        learner.objective.rehearse(images: images, pool: pool)
        learner.student.parameters.clearGradients()
        return pool.peakBytes - before + images * crops
    }
}
