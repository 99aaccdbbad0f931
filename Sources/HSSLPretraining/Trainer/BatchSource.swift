import HSSLData
import HSSLGraph
import HSSLModels
import Synchronization

/// Where micro-batches come from: the epoch's permutation, decoding, augmentation and masks.
///
/// A micro-batch is a pure function of (recipe, data set, step, part), whatever thread makes it and whatever came
/// before.
struct BatchSource: Sendable {
    let dataset: Dataset
    /// Places in the data set of the images to learn from; nil: all.
    private let images: [Int]?
    let augmentation: MultiCropAugmentation
    let masks: MaskGenerator
    private let masksPatches: Bool
    private let globalViews: Int
    let seed: UInt64
    /// Images of one update.
    let batchImages: Int
    /// Images of one micro-batch; the last of an update may be smaller.
    let microBatch: Int
    /// Updates an epoch: images beyond a whole batch wait for the next epoch's permutation.
    let stepsPerEpoch: Int
    private let globalSize: Int
    private let localViews: Int
    private let localSize: Int
    /// What a frozen teacher is asked about; nil: none teaches.
    private let teacher: TeacherViewing?
    /// Places in the data set by epoch: filled by `Permutations`, shared by the loader's threads.
    private let permutations: Permutations

    /// - Parameters:
    ///   - grid: of the cells that masks cover, for a global view.
    ///   - images: places in the data set of those to learn from; nil: all.
    ///   - globalViews: of an image; nil: as many as the objective learns from.
    ///   - teacher: a frozen one, which sees the same views.
    init(
        recipe: Recipe, grid: Grid, dataset: Dataset, images: [Int]? = nil, microBatch: Int, globalViews: Int? = nil,
        teacher: TeacherViewing? = nil
    ) {
        self.dataset = dataset
        self.teacher = teacher
        self.images = images
        let count = images?.count ?? dataset.count
        augmentation = MultiCropAugmentation(recipe.data, imageSize: recipe.model.imageSize)
        masks = MaskGenerator(objective: recipe.objective, height: grid.height, width: grid.width)
        masksPatches = recipe.objectiveSettings.masksPatches
        self.globalViews = globalViews ?? recipe.objectiveSettings.globalViews
        seed = recipe.schedule.seed
        batchImages = recipe.schedule.effectiveBatch
        self.microBatch = min(microBatch, batchImages)
        stepsPerEpoch = count / batchImages
        globalSize = recipe.model.imageSize
        localViews = recipe.data.localCrops
        localSize = recipe.data.localCropsSize
        permutations = Permutations(count: count, seed: recipe.schedule.seed)
    }

    /// Of what is made of an image.
    private var largestSide: Int { max(globalSize, teacher?.augmentation?.globalSize ?? 0) }

    /// Pixels of an image's shorter side below which the smallest crops are enlarged, for the teacher too.
    var neededSide: Int { max(augmentation.neededSide, teacher?.augmentation?.neededSide ?? 0) }

    /// Images to learn from.
    private var count: Int { images?.count ?? dataset.count }

    var partsPerStep: Int { (batchImages + microBatch - 1) / microBatch }

    /// Makes one micro-batch.
    ///
    /// An image that cannot be read is replaced by the next readable one of the data set and named in `unreadable`.
    func make(step: Int, part: Int) throws -> Part {
        let begin = LoadingWatch.threadSeconds()
        let epoch = step / stepsPerEpoch
        let order = permutations.epoch(epoch)
        let first = part * microBatch
        let count = min(microBatch, batchImages - first)
        let batch = CropBatch(
            images: count, globalViews: globalViews, globalSize: globalSize, localViews: localViews,
            localSize: localSize, tokens: masks.height * masks.width,
            firstImage: first)
        var unreadable: [Unreadable] = []
        var replaced = 0, sides = 0
        // A bank keeps so many draws of an image, which come again and again.
        let draw = teacher?.draws.map { epoch % $0 } ?? epoch
        if let views = teacher?.augmentation {
            batch.teacherViews = [Float](repeating: 0, count: count * views.count(ofView: 0))
        }
        for place in 0..<count {
            let wanted = Int(order[(step % stepsPerEpoch) * batchImages + first + place])
            let found = try readable(from: wanted, unreadable: &unreadable) { index, image in
                sides += min(image.width, image.height)
                let key = MultiCropAugmentation.Key(seed: seed, epoch: draw, index: index)
                write(augmentation, of: image, key: key, place: place, into: batch)
                if let views = teacher?.augmentation {
                    write(teacherView: views, of: image, key: key, place, into: batch)
                }
            }
            if teacher != nil { batch.keys.append(ViewKey(index: found, draw: draw)) }
            if found != wanted { replaced += 1 }
            for view in 0..<globalViews where masksPatches {
                batch.masks.withUnsafeMutableBufferPointer { buffer in
                    let tokens = masks.height * masks.width
                    let start = (place * globalViews + view) * tokens
                    masks.draw(seed: seed, step: step, image: first + place, view: view,
                               into: UnsafeMutableBufferPointer(rebasing: buffer[start..<start + tokens]))
                }
            }
        }
        return Part(
            step: step, part: part, batch: batch, unreadable: unreadable, replaced: replaced, shorterSides: sides,
            seconds: LoadingWatch.threadSeconds() - begin)
    }

    /// Some draws as a teacher that runs sees them, [views, 3, side, side]; none for one that has seen them. What
    /// cannot be read is left out.
    func teacherViews(_ keys: ArraySlice<ViewKey>) -> (readable: [ViewKey], views: [Float]) {
        guard let augmentation = teacher?.augmentation else { return (Array(keys), []) }
        let size = augmentation.count(ofView: 0)
        var views: [Float] = []
        let readable = keys.filter { key in
            var view = [Float](repeating: 0, count: size)
            let made: Void? = try? dataset.withImage(
                key.index, side: augmentation.globalSize, background: augmentation.background
            ) { image in
                augmentation.make(
                    view: 0, of: image, key: .init(seed: seed, epoch: key.draw, index: key.index), into: &view)
            }
            if made != nil { views += view }
            return made != nil
        }
        return (readable, views)
    }

    /// Both global views of some images of the data set, each its own in epoch 0, without masks. What cannot be read is
    /// left out and named.
    func pairs(of places: ArraySlice<Int>) -> Pairs {
        var unreadable: [Unreadable] = []
        let found = places.compactMap { place -> (Int, RGBImage)? in
            do { return (place, try dataset.image(place, background: augmentation.background)) } catch {
                unreadable.append(Unreadable(index: place, reason: "\(error)"))
                return nil
            }
        }
        let batch = CropBatch(
            images: found.count, globalViews: MultiCropAugmentation.globalViews, globalSize: globalSize, localViews: 0,
            localSize: localSize, tokens: masks.height * masks.width, firstImage: 0)
        let size = 3 * globalSize * globalSize
        batch.globals.withUnsafeMutableBufferPointer { globals in
            guard let start = globals.baseAddress else { return }
            for (place, (index, image)) in found.enumerated() {
                for view in 0..<MultiCropAugmentation.globalViews {
                    augmentation.make(
                        view: view, of: image, key: .init(seed: seed, epoch: 0, index: index),
                        into: start + (place * MultiCropAugmentation.globalViews + view) * size)
                }
            }
        }
        return Pairs(batch: batch, unreadable: unreadable)
    }

    struct Pairs: Sendable {
        let batch: CropBatch
        let unreadable: [Unreadable]
    }

    private func write(
        _ augmentation: MultiCropAugmentation, of image: RGBImage, key: MultiCropAugmentation.Key, place: Int,
        into batch: CropBatch
    ) {
        batch.globals.withUnsafeMutableBufferPointer { globals in
            batch.locals.withUnsafeMutableBufferPointer { locals in
                let twoViews = MultiCropAugmentation.globalViews
                for view in 0..<augmentation.viewCount where view < globalViews || view >= twoViews {
                    let isGlobal = view < globalViews
                    let place = isGlobal ? place * globalViews + view : place * localViews + view - twoViews
                    guard let start = isGlobal ? globals.baseAddress : locals.baseAddress else { continue }
                    augmentation.make(
                        view: view, of: image, key: key, into: start + place * augmentation.count(ofView: view))
                }
            }
        }
    }

    /// The teacher's rendering of the same draw.
    private func write(
        teacherView views: MultiCropAugmentation, of image: RGBImage, key: MultiCropAugmentation.Key, _ place: Int,
        into batch: CropBatch
    ) {
        batch.teacherViews.withUnsafeMutableBufferPointer { buffer in
            guard let start = buffer.baseAddress else { return }
            views.make(view: 0, of: image, key: key, into: start + place * views.count(ofView: 0))
        }
    }

    /// So many images after an unreadable one are tried, then others spread over the data set: bad files that lie
    /// together do not end a run.
    private static let neighbors = 100
    private static let spread = 1000

    /// Hands the first image from `wanted` on that can be read to `body`, and returns its place.
    private func readable(
        from wanted: Int, unreadable: inout [Unreadable], _ body: (Int, RGBImage) -> Void
    ) throws -> Int {
        var index = wanted
        var lastError: (any Error)?
        let tries = min(Self.neighbors + Self.spread, count)
        for attempt in 1...tries {
            let place = images?[index] ?? index
            do {
                if let reason = teacher?.absence(place) { throw PretrainingError(reason) }
                try dataset.withImage(place, side: largestSide, background: augmentation.background) {
                    body(place, $0)
                }
                return index
            } catch {
                lastError = error
                unreadable.append(Unreadable(index: place, reason: "\(error)"))
            }
            let step = attempt < Self.neighbors || tries == count ? 1 : max(1, count / Self.spread)
            index = (index + step) % count
        }
        throw PretrainingError(
            "\(dataset.path): \(tries) images \(tries > Self.neighbors ? "all over it" : "in a row") cannot be read, "
            + "the last: \(lastError.map { "\($0)" } ?? "")"
        )
    }

    struct Unreadable: Sendable {
        let index: Int
        let reason: String
    }

    struct Part: Sendable {
        let step: Int
        let part: Int
        let batch: CropBatch
        let unreadable: [Unreadable]
        /// Images of `batch` that stand in for one that could not be read.
        let replaced: Int
        /// Sum of the images' shorter sides, pixels.
        let shorterSides: Int
        /// Processor time that making it took.
        let seconds: Double
    }
}

/// The order of the images in an epoch, kept for the two epochs that loader threads may be in.
private final class Permutations: Sendable {
    private let count: Int
    private let seed: UInt64
    private let known = Mutex<[Int: [Int32]]>([:])

    init(count: Int, seed: UInt64) {
        self.count = count
        self.seed = seed
    }

    /// A function of (seed, epoch).
    func epoch(_ epoch: Int) -> [Int32] {
        known.withLock { known in
            if let order = known[epoch] { return order }
            var random = CounterRandom(seed: seed, stream: 0x5045_524D, UInt64(epoch))
            let order = random.shuffled(0..<Int32(count))
            known = known.filter { abs($0.key - epoch) <= 1 }
            known[epoch] = order
            return order
        }
    }
}
