import CSupport
import HSSLGraph
#if canImport(Glibc)
import Glibc
#endif

/// How many images a micro-batch may have under a memory limit.
///
/// Memory grows linearly with the micro-batch (every activation does), so two probes on synthetic views give the line: a fixed part and a part an image.
package struct MicroBatchPlan {
    /// Bytes that do not depend on the micro-batch: the process, weights, moments, gradients, packed weights.
    package let fixedBytes: Int
    package let bytesPerImage: Int
    /// Bytes outside the learner's pool: the process and the images of the data set, and the views of an image with all that the loader holds.
    private let outsideFixedBytes: Int
    private let outsideBytesPerImage: Int

    package func bytes(microBatch: Int) -> Int { fixedBytes + microBatch * bytesPerImage }

    /// Micro-batches that the loader may hold besides the one being learnt from; with more threads, one a thread.
    package static let prefetched = 3

    /// Probes a learner that has not been trained; weights stay as they are, the probe's gradients are dropped.
    package init(probing learner: Learner, recipe: Recipe, loaderThreads: Int) {
        learner.pool.trim()
        let outside = Self.residentBytes() - learner.pool.bytesReserved + Self.unseenBytes
        let peaks = [1, 2].map { Self.peak(learner, recipe: recipe, images: $0) }
        let grid = recipe.model.imageSize / recipe.model.patchSize
        let crops = 4 * 3 * (2 * recipe.model.imageSize * recipe.model.imageSize + recipe.data.localCrops * recipe.data.localCropsSize * recipe.data.localCropsSize)
            + 2 * grid * grid
        let perImage = max(0, peaks[1] - peaks[0])
        outsideFixedBytes = outside
        outsideBytesPerImage = (1 + max(Self.prefetched, loaderThreads)) * crops
        // Size classes round up by as much as an eighth.
        bytesPerImage = perImage + perImage / 8 + outsideBytesPerImage
        fixedBytes = outside + peaks[0] - perImage
        learner.pool.trim()
    }

    /// The largest micro-batch within `limit`, at most `largest`; nil when not even one image fits.
    package func microBatch(limit: Int, largest: Int) -> Int? {
        let fitting = bytesPerImage > 0 ? (limit - fixedBytes) / bytesPerImage : largest
        return fitting >= 1 ? min(fitting, largest) : nil
    }

    /// What the pool may keep so that the process stays within `limit`.
    package func poolBytes(limit: Int, microBatch: Int) -> Int { limit - outsideFixedBytes - microBatch * outsideBytesPerImage }

    /// Code that the probe does not touch, thread stacks, saving and the report's pictures: measured at 3 to 6 MB.
    private static let unseenBytes = 8 << 20

    private static func peak(_ learner: Learner, recipe: Recipe, images: Int) -> Int {
        let grid = recipe.model.imageSize / recipe.model.patchSize
        let batch = CropBatch(images: images, globalSize: recipe.model.imageSize, localViews: recipe.data.localCrops, localSize: recipe.data.localCropsSize,
                              tokens: grid * grid, firstImage: 0)
        // As many masked patches as the recipe can draw: they enter the projection head.
        let ratio = zip(recipe.objective.maskRatio, recipe.objective.maskRatioVariance).map { $0 + $1 }.max() ?? 0
        let masked = min(grid * grid, Int((ratio * Double(grid * grid)).rounded(.up)))
        for crop in 0..<images * CropBatch.globalViews {
            for token in 0..<masked { batch.masks[crop * grid * grid + token] = 1 }
        }
        // A dropped branch takes no memory; another step may drop none.
        let dropPath = learner.objective.settings.dropPath
        learner.objective.settings.dropPath = 0
        defer { learner.objective.settings.dropPath = dropPath }
        learner.pool.trim()
        learner.pool.resetPeak()
        var sums = learner.newSums()
        learner.objective.accumulate(batch, context: .init(step: 0, teacherTemperature: 0.04, teacherPatchTemperature: 0.04, batchImages: images,
                                                           prototypesFrozen: false),
                                     centers: learner.centers, pool: learner.pool, into: &sums)
        learner.student.parameters.clearGradients()
        return learner.pool.peakBytes
    }

    /// Resident set now.
    private static func residentBytes() -> Int {
        guard let file = fopen("/proc/self/statm", "r") else { return 0 }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        guard fgets(&line, Int32(line.count), file) != nil else { return 0 }
        let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let fields = text.split(separator: " ")
        return fields.count > 1 ? (Int(fields[1]) ?? 0) * Int(getpagesize()) : 0
    }
}
