import CSupport
import HSSLFormats
import HSSLGraph
import HSSLModels

/// A deployed model, ready to run: the plan of its inference and its packed weights. It never changes, so any number of
/// sessions may share it.
public final class Model: Sendable {
    public let architecture: ModelArchitecture
    /// How images must be prepared; nil for a model in memory that did not say.
    public let preprocessing: Preprocessing?
    public let precision: Precision
    let plan: Plan
    let constants: AlignedMemory

    /// Channels D of a token.
    public var width: Int { plan.width }
    /// Cells N of the last grid: patches of a ViT.
    public var tokens: Int { plan.tokens }
    /// Shape of one prepared image: [channels, H, W].
    public var imageShape: [Int] { [architecture.channels, architecture.imageSize, architecture.imageSize] }
    /// float32 elements of one prepared image.
    public var imageCount: Int { plan.imageCount }
    /// Bytes of packed weights.
    public var byteCount: Int { plan.constantBytes }
    /// Shape of the features of one image.
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
    ///   - memoryLimit: bytes; a model that with one session may need more is refused before its weights are read.
    ///   - threads: of that session, 1 … 256; nil: one a processor.
    ///   - batch: images that are in memory at a time, for the memory limit.
    /// - Throws: `SafetensorsError`, `FileError`, `ModelError` or `RuntimeError`.
    public convenience init(path: String, memoryLimit: Int? = nil, threads: Int? = nil, batch: Int = 1) throws {
        try self.init(file: ModelFile(path: path), memoryLimit: memoryLimit, threads: threads, batch: batch)
    }

    /// Loads a model file that is already open. Parameters and errors as of `init(path:)`.
    ///
    /// - Parameter precision: in which it runs; nil: the file's. Weights are converted as they are packed, which does
    ///   not bring back what an int8 file has lost.
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
    /// - Parameter prefix: of the base's parameters in `parameters`, e.g. `base.`.
    /// - Throws: `RuntimeError`.
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
