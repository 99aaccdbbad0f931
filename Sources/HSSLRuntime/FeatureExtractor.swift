import CSupport
import HSSLFormats
import HSSLGraph
import HSSLModels
#if canImport(Glibc)
import Glibc
#endif

/// Runs a deployed model: images → features.
///
/// Everything is allocated when it is made; extracting allocates nothing. An image's features have the same bits at any batch size, position in the batch and
/// number of threads. One call at a time: it is not thread-safe.
public final class FeatureExtractor {
    /// How images must be prepared; nil for a model in memory that did not say.
    public let preprocessing: Preprocessing?
    public let architecture: ModelArchitecture
    public let precision: Precision
    private let plan: Plan
    private let constants: AlignedMemory
    private let arenas: AlignedMemory
    /// Kept, since a shape is an array: making one for every call would allocate.
    private let rowCounts: [Features: Int]

    /// Channels D of a token.
    public var width: Int { plan.width }
    /// Patch tokens N.
    public var tokens: Int { plan.tokens }
    /// float32 elements of one image [channels, H, W].
    public var imageCount: Int { plan.imageCount }
    public var threads: Int { plan.threads }
    /// Bytes of packed weights and arenas.
    public var residentBytes: Int { plan.residentBytes }
    /// Operations of the products and attentions behind one image's features.
    package func operations(_ features: Features, asPerformed: Bool = false) -> Double { plan.operations(features, asPerformed: asPerformed) }

    /// Shape of the features of one image.
    public func rowShape(_ features: Features) -> [Int] { plan.rowShape(features) }
    /// float32 elements of the features of one image.
    public func rowCount(_ features: Features) -> Int { rowCounts[features] ?? 0 }

    /// Loads a model file.
    ///
    /// - Parameters:
    ///   - threads: default: as set for the process.
    ///   - maxBatch: images that are in memory at a time, for the memory limit.
    ///   - memoryLimit: bytes; a model that may need more is refused before its weights are read.
    /// - Throws: `SafetensorsError`, `FileError`, `ModelError` or `RuntimeError`.
    public convenience init(modelPath: String, threads: Int? = nil, maxBatch: Int = 1, memoryLimit: Int? = nil) throws {
        try self.init(model: ModelFile(path: modelPath), threads: threads, maxBatch: maxBatch, memoryLimit: memoryLimit)
    }

    /// Loads a model file that is already open.
    public convenience init(model: ModelFile, threads: Int? = nil, maxBatch: Int = 1, memoryLimit: Int? = nil) throws {
        let threads = try Self.prepare(threads)
        let plan = try Plan(model.architecture, precision: model.precision, threads: threads)
        if let memoryLimit {
            let bound = plan.memoryBound(fileBytes: model.byteCount, batch: maxBatch, features: .patch)
            guard bound <= memoryLimit else {
                throw RuntimeError("\(model.path): needs up to \(bound) bytes with \(threads) threads and \(maxBatch) images at a time, more than the limit of \(memoryLimit)")
            }
        }
        try self.init(plan, model.architecture, model.precision, model.preprocessing, model)
    }

    /// A model from parameters in memory: a teacher while training, or random weights. The values are copied.
    ///
    /// - Parameters:
    ///   - prefix: of the base's parameters in `parameters`, e.g. `base.`.
    public convenience init(
        model: ModelArchitecture, parameters: ParameterSet, prefix: String = "", precision: Precision = .float32,
        preprocessing: Preprocessing? = nil, threads: Int? = nil
    ) throws {
        let plan = try Plan(model, precision: precision, threads: Self.prepare(threads))
        try self.init(plan, model, precision, preprocessing, ParameterWeights(parameters: parameters, prefix: prefix))
    }

    private init(
        _ plan: Plan, _ architecture: ModelArchitecture, _ precision: Precision, _ preprocessing: Preprocessing?, _ weights: some WeightSource
    ) throws {
        (self.plan, self.architecture, self.precision, self.preprocessing) = (plan, architecture, precision, preprocessing)
        rowCounts = Dictionary(uniqueKeysWithValues: Features.allCases.map { ($0, plan.rowShape($0).reduce(1, *)) })
        constants = try AlignedMemory(byteCount: plan.constants.byteCount, isFilled: true)
        arenas = try AlignedMemory(byteCount: plan.threads * plan.arenaBytes)
        try plan.constants.fill(constants.pointer, from: weights)
    }

    private static func prepare(_ threads: Int?) throws -> Int {
        try Processor.initialize()
        let count = threads ?? Int(hssl_get_threads())
        guard (1...256).contains(count) else { throw RuntimeError("threads must be from 1 to 256, not \(count)") }
        return count
    }

    /// Features of images that were prepared as `preprocessing` says.
    ///
    /// - Parameters:
    ///   - images: [count, channels, H, W].
    ///   - normalize: every vector divided by its L2 norm (the whole 2·D vector of `clsMean`; each patch by itself).
    ///   - output: receives [count] + `rowShape(features)`.
    public func extract(
        images: UnsafePointer<Float>, count: Int, features: Features = .cls, normalize: Bool = false, into output: UnsafeMutablePointer<Float>
    ) {
        guard count > 0, let program = plan.programs[features] else { return }
        program.steps.withUnsafeBufferPointer { steps in
            var native = hssl_plan(
                steps: steps.baseAddress, step_count: steps.count - (normalize ? 0 : 1), constants: constants.pointer,
                image_bytes: plan.imageCount * 4, features_bytes: rowCount(features) * 4, arena_bytes: plan.arenaBytes)
            plan.context.run { hssl_plan_run(&native, count, images, output, arenas.pointer) }
        }
    }
}

/// 64-byte-aligned memory for the life of an extractor.
private final class AlignedMemory {
    let pointer: UnsafeMutableRawPointer

    /// - Parameter isFilled: all of it will be written at once. Then the kernel may give pages of 2 MB where they are whole: a page fault every 4 KB costs
    ///   as much as packing what goes there, and products walk through the weights with fewer misses of the TLB.
    init(byteCount: Int, isFilled: Bool = false) throws {
        let isLarge = isFilled && byteCount >= Self.largePage
        var raw: UnsafeMutableRawPointer?
        guard posix_memalign(&raw, isLarge ? Self.largePage : 64, max(byteCount, 64)) == 0, let raw else {
            throw RuntimeError("out of memory: \(byteCount) bytes for the model")
        }
        pointer = raw
        // Whole pages only: the rest of the last one would cost memory. Without such pages this fails, and nothing is lost.
        if isLarge { madvise(raw, byteCount / Self.largePage * Self.largePage, MADV_HUGEPAGE) }
    }

    /// x86-64, and arm64 with pages of 4 KB.
    private static let largePage = 2 << 20

    deinit { free(pointer) }
}
