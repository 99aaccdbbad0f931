import CSupport
import HSSLFormats
import HSSLGraph
import HSSLModels

/// A deployed model, ready to run: the plan of its inference and its packed weights. It never changes, so any number of
/// sessions may share it.
public final class Model: Sendable {
    /// Family and sizes of the model.
    public let architecture: ModelArchitecture
    /// How images must be prepared, as its file says; nil for a model in memory that did not say.
    public let preprocessing: Preprocessing?
    /// Precision in which it runs: its file's, unless another was asked for. Features are float32 in any.
    public let precision: Precision
    let plan: Plan
    let constants: AlignedMemory

    /// Channels D of a token: the length of one feature vector (of `clsMean`: half of it).
    public var width: Int { plan.width }
    /// Cells N of the last grid (of a ViT: patches); the CLS token and registers do not count.
    public var tokens: Int { plan.tokens }
    /// Shape of one prepared image: [channels, H, W].
    public var imageShape: [Int] { [architecture.channels, architecture.imageSize, architecture.imageSize] }
    /// float32 elements of one prepared image.
    public var imageCount: Int { plan.imageCount }
    /// Bytes of packed weights in memory; a session has its intermediate values beside them.
    public var byteCount: Int { plan.constantBytes }
    /// Shape of the features of one image: [D], [2·D], [N, D] or [1 + N, D].
    public func rowShape(_ features: Features) -> [Int] { plan.rowShape(features) }
    /// float32 elements of the features of one image.
    public func rowCount(_ features: Features) -> Int { plan.rowCount(features) }

    /// Operations (a multiply and an add are two) of the products and attentions behind one image's features; see
    /// `Plan.operations`.
    package func operations(_ features: Features, asPerformed: Bool = false) -> Double {
        plan.operations(features, asPerformed: asPerformed)
    }

    /// Loads a model file.
    ///
    /// - Parameters:
    ///   - path: of a safetensors file as `ModelFile` describes it.
    ///   - memoryLimit: bytes; a model that with one session may need more is refused before its weights are packed.
    ///   - threads: of that session, 1 … 256; nil: one a processor. The model itself can have sessions of any number.
    ///   - batch: images that are in memory at a time, for the memory limit.
    /// - Throws: `SafetensorsError` or `FileError`, naming the file, where it cannot be read or is no valid model;
    ///   `RuntimeError` for threads out of range, a need above `memoryLimit`, too little memory, or layers that cannot
    ///   run here; `ProcessorError` where the environment variable `HSSL_ISA` names no instruction set of this machine.
    public convenience init(path: String, memoryLimit: Int? = nil, threads: Int? = nil, batch: Int = 1) throws {
        try self.init(file: ModelFile(path: path), memoryLimit: memoryLimit, threads: threads, batch: batch)
    }

    /// Loads a model file that is already open.
    ///
    /// - Parameters:
    ///   - precision: in which it runs; nil: the file's. Weights are converted as they are packed, which does not bring
    ///     back what an int8 file has lost.
    ///   - memoryLimit: bytes, as of `init(path:)`.
    ///   - threads: of the session that the limit counts, 1 … 256; nil: one a processor.
    ///   - batch: images that are in memory at a time, for the memory limit.
    /// - Throws: as `init(path:)`; `SafetensorsError` and `FileError` here for weights that cannot be read or are not
    ///   finite.
    public convenience init(
        file: ModelFile, precision: Precision? = nil, memoryLimit: Int? = nil, threads: Int? = nil, batch: Int = 1
    ) throws {
        let threads = try KernelContext.threads(threads), precision = precision ?? file.precision
        var table = ConstantTable()
        let plan = try Plan(file.architecture, precision: precision, constants: &table)
        if let memoryLimit {
            let bound = plan.memoryBound(fileBytes: file.byteCount, threads: threads, batch: batch, features: .patch)
            guard bound <= memoryLimit else {
                throw RuntimeError(
                    "\(file.path): needs up to \(bound) bytes with \(threads) threads and \(batch) images at a time, "
                    + "more than the limit of \(memoryLimit)"
                )
            }
        }
        try self.init(plan, file.architecture, precision, file.preprocessing, table, file)
    }

    /// A model from parameters in memory: a teacher while training, or random weights. The values are copied.
    ///
    /// - Parameters:
    ///   - parameters: float32, under timm's names behind `prefix`.
    ///   - prefix: of the base's parameters in `parameters`, e.g. `base.`.
    ///   - precision: in which it runs; weights are converted as they are packed.
    ///   - preprocessing: kept for ``preprocessing``; nothing here applies it.
    /// - Throws: `RuntimeError` for a parameter that is missing or has no values yet, too little memory, or layers that
    ///   cannot run here; `ProcessorError` as of `init(path:)`.
    public convenience init(
        architecture: ModelArchitecture, parameters: ParameterSet, prefix: String = "", precision: Precision = .float32,
        preprocessing: Preprocessing? = nil
    ) throws {
        var table = ConstantTable()
        let plan = try Plan(architecture, precision: precision, constants: &table)
        try self.init(
            plan, architecture, precision, preprocessing, table,
            ParameterWeights(parameters: parameters, prefix: prefix))
    }

    private init(
        _ plan: Plan, _ architecture: ModelArchitecture, _ precision: Precision, _ preprocessing: Preprocessing?,
        _ table: ConstantTable,
        _ weights: some WeightSource
    ) throws {
        (self.plan, self.architecture, self.precision, self.preprocessing) = (
            plan, architecture, precision, preprocessing
        )
        constants = try AlignedMemory(byteCount: table.byteCount, isFilled: true)
        try table.fill(constants.pointer, from: weights)
    }
}
