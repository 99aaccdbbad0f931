import CSupport

/// Runs a model: images → features.
///
/// Everything is allocated when it is made; extracting allocates nothing. An image's features have the same bits at any
/// batch size, position in the batch and number of threads, and whatever other sessions do meanwhile. One call at a
/// time: give every thread a session of its own.
public final class Session {
    /// The model that runs here, shared with any number of other sessions.
    public let model: Model
    /// Threads that one call uses, 1 … 256.
    public var threads: Int { context.threads }
    private let context: KernelContext
    private let arenas: AlignedMemory

    /// Bytes of intermediate values, of as many images at a time as there are threads; the model's weights not counted.
    public var byteCount: Int { model.plan.sessionBytes(threads: threads) }

    /// - Parameters:
    ///   - model: whose features are wanted; it stays shared, not copied.
    ///   - threads: 1 … 256; nil: one a processor, at most 256.
    /// - Throws: `RuntimeError` for a number of threads out of this range, or where there is not enough memory;
    ///   `ProcessorError` where the kernels cannot run on this machine (making the model has then failed before).
    public init(model: Model, threads: Int? = nil) throws {
        self.model = model
        context = KernelContext(threads: try KernelContext.threads(threads), isa: model.plan.isa)
        arenas = try AlignedMemory(byteCount: model.plan.sessionBytes(threads: context.threads))
    }

    /// Features of images that were prepared as `model.preprocessing` says.
    ///
    /// - Parameters:
    ///   - images: [count, channels, H, W] float32, row-major; what is behind them is ignored.
    ///   - normalize: every vector divided by its L2 norm (the whole 2·D vector of `clsMean`; each token by itself).
    /// - Returns: [count] + `model.rowShape(features)`.
    /// - Throws: `RuntimeError` for fewer values than `count` images have.
    public func extract(
        images: [Float], count: Int, features: Features = .cls, normalize: Bool = false
    ) throws -> [Float] {
        // Before memory is asked for: a wrong count must not become a wrong size.
        try check(images, count)
        var output = [Float](repeating: 0, count: count * model.rowCount(features))
        try extract(images: images, count: count, features: features, normalize: normalize, into: &output)
        return output
    }

    /// The same into memory that is there, without allocating.
    ///
    /// - Parameter output: receives [count] + `model.rowShape(features)`; what is behind them stays.
    /// - Throws: `RuntimeError` for fewer values than `count` images have, or fewer than their features take.
    public func extract(
        images: [Float], count: Int, features: Features = .cls, normalize: Bool = false, into output: inout [Float]
    ) throws {
        try check(images, count)
        let (wanted, room) = (model.imageCount, model.rowCount(features))
        guard output.count / room >= count else {
            throw RuntimeError("\(output.count) values have no room for \(count) times \(room) features")
        }
        guard count > 0, let program = model.plan.programs[features] else { return }
        images.withUnsafeBufferPointer { images in
            output.withUnsafeMutableBufferPointer { output in
                program.steps.withUnsafeBufferPointer { steps in
                    guard let images = images.baseAddress, let output = output.baseAddress else { return }
                    var native = hssl_plan(
                        steps: steps.baseAddress, step_count: steps.count - (normalize ? 0 : 1),
                        constants: model.constants.pointer,
                        image_bytes: wanted * 4, features_bytes: room * 4, arena_bytes: model.plan.arenaBytes,
                        workspace_bytes: model.plan.workspaceBytes(threads: threads))
                    context.run { hssl_plan_run(&native, count, images, output, arenas.pointer) }
                }
            }
        }
    }

    private func check(_ images: [Float], _ count: Int) throws {
        guard count >= 0, images.count / model.imageCount >= count else {
            throw RuntimeError("\(images.count) values are not \(count) images of \(model.imageCount)")
        }
    }
}
