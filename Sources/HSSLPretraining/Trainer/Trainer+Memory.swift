import CSupport
import HSSLData
import HSSLModels

// How many images are learnt from at a time, and what decoding may take, under a limit of memory or without.
extension Trainer {
    /// Memory for decoding: for the largest image and for a usual one a thread, but at most a quarter of the limit;
    /// what does not fit then is refused image by image, with what it needs. It depends on limit and data alone, so
    /// that a resumed run refuses the same images.
    private static func decodeBytes(_ dataset: Dataset, side: Int, threads: Int, limit: Int) -> Int {
        let usual = samples(of: dataset).compactMap { dataset.decodeBytes($0, side: side) }.max() ?? 0
        let largest = dataset.largestFiles(8).compactMap { dataset.decodeBytes($0, side: side) }.max() ?? 0
        return max(leastDecodeBytes, min(max(largest, threads * usual), limit / 4))
    }

    static let leastDecodeBytes = 1 << 20

    /// Images of a micro-batch: what the memory limit allows, or few enough for their activations to stay near the
    /// cache. Under a limit, decoding gets its part too.
    ///
    /// - Parameters:
    ///   - teacherSide: of the views that a running teacher sees; 0: none does.
    ///   - answerBytes: what a source of answers takes.
    static func microBatch(
        _ learner: Learner, recipe: Recipe, options: PretrainingOptions, resumed: Checkpoint.Position?,
        dataset: Dataset, teacherSide: Int, answerBytes: Int
    ) throws -> Int {
        let preferred = defaultMicroBatch(learner.architecture, views: learner.globalViews)
        var size = resumed?.microBatch ?? min(recipe.schedule.batchSize, preferred)
        if let limit = options.memoryLimit {
            learner.pool.reserveLimit = limit
            let needed = resumed == nil ? limit : limit + MicroBatchPlan.jitterBytes
            let decoding = decodeBytes(
                dataset, side: max(recipe.model.imageSize, teacherSide), threads: options.loaderThreads,
                limit: min(limit, 4 * dataset.limits.bytes))
            let loader = MicroBatchPlan.Loader(
                threads: options.loaderThreads, decodeBytes: decoding + answerBytes,
                otherViewBytes: 4 * 3 * teacherSide * teacherSide)
            let plan = MicroBatchPlan.probe(
                learner, recipe: recipe, loader: loader, limit: needed, smallest: resumed?.microBatch ?? 1,
                largest: size)
            guard let fitting = plan.microBatch(limit: needed, largest: size) else {
                // A larger limit may give decoding more, up to a third of everything else.
                let others = plan.bytes(microBatch: 1) - decoding
                let least =
                    others + (4 * decoding < limit ? decoding : max(decoding, others / 3))
                    + MicroBatchPlan.jitterBytes
                throw PretrainingError(MemoryFloor.refusal(of: limit, "this recipe", needs: least))
            }
            if resumed != nil, fitting < size {
                throw PretrainingError(
                    "--memory-limit: the run was started with micro-batches of \(size) images, which need "
                    + "\(MemoryFloor.megabytes(plan.bytes(microBatch: size)))"
                )
            }
            size = fitting
            dataset.limitDecoding(toBytes: decoding, name: "--memory-limit")
            learner.pool.reserveLimit = plan.poolBytes(limit: limit, microBatch: size)
            // What one micro-batch and the head need stays free.
            learner.objective.settings.keptBytes = limit - plan.bytes(microBatch: size) + learner.pool.bytesInUse
        }
        return size
    }

    /// So many images that the largest activation of their views (in a transformer the MLP's hidden layer) takes about
    /// 4 MB.
    package static func defaultMicroBatch(_ architecture: ModelArchitecture, views: Int) -> Int {
        let nodes = ModelTrace(architecture).tape.nodes
        let largest = nodes.reduce(1) { max($0, $1.shape.reduce(1, *)) }
        return max(1, (4 << 20) / (views * largest * MemoryLayout<Float>.stride))
    }
}
