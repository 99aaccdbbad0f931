import CSupport
import HSSLGraph
import HSSLModels

/// The inference of one architecture: steps for every kind of features, the size of every piece of memory known before
/// a weight is read.
package struct Plan: Sendable {
    /// Steps that fill one row of features, and after them one that normalises it.
    struct Program: Sendable {
        let steps: [hssl_plan_step]
    }

    let programs: [Features: Program]
    /// Bytes of packed weights, biases and positions.
    let constantBytes: Int
    private let largestTensor: Int
    private let transientBytes: Int
    /// Bytes of the values of one image; a session has as many images at a time as threads.
    let arenaBytes: Int
    /// Bytes of scratch of a thread that is at a step of an image.
    private let threadBytes: Int
    /// The selected instruction set when this was made: sizes of workspaces depend on it.
    let isa: hssl_isa
    private let rowCounts: [Features: Int]
    /// Channels D.
    package let width: Int
    /// Patch tokens N.
    package let tokens: Int
    /// float32 elements of one image.
    package let imageCount: Int

    /// - Throws: `RuntimeError`.
    package init(_ architecture: ModelArchitecture, precision: Precision) throws {
        var constants = ConstantTable()
        try self.init(architecture, precision: precision, constants: &constants)
    }

    /// - Parameter constants: receives what the steps read besides the image, empty before.
    init(_ architecture: ModelArchitecture, precision: Precision, constants: inout ConstantTable) throws {
        try Processor.initialize()
        let trace = ModelTrace(architecture)
        let (cls, patches) = (trace.global, trace.local)
        let (count, width) = (patches.shape[0], patches.shape[1])
        let mean = patches.reshaped([1, count, width]).meanOverTokens()

        isa = hssl_isa_selected()
        // Workspaces of one thread: a session multiplies.
        let context = KernelContext(threads: 1, isa: isa)
        var lowered: [Features: Lowering.Result] = [:]
        for features in Features.allCases {
            let outputs: [(Tensor, Int)] =
                switch features {
                case .cls: [(cls, 0)]
                case .mean: [(mean, 0)]
                case .clsMean: [(cls, 0), (mean, width)]
                case .patch: [(patches, 0)]
                case .clsPatch: [(cls, 0), (patches, width)]
                }
            lowered[features] = try context.run {
                try Lowering.lower(trace.tape, outputs: outputs, precision: precision, constants: &constants)
            }
        }
        var programs: [Features: Program] = [:]
        for (features, result) in lowered {
            let normalize = PlanStep(
                kind: HSSL_STEP_L2_NORMALIZE, size: Self.normalizedShape(features, tokens: count, width: width),
                x: .features(offset: 0),
                y: .features(offset: 0), epsilon: 1e-12)
            programs[features] = Program(
                steps: (result.steps + [normalize]).map { $0.native { Self.address($0, result.arena, constants) } })
        }
        self.programs = programs
        constantBytes = constants.byteCount
        largestTensor = constants.largestTensor
        transientBytes = constants.transientBytes
        threadBytes = ArenaLayout.aligned(lowered.values.map(\.workspaceBytes).max() ?? 0)
        (self.width, self.tokens) = (width, count)
        imageCount = trace.images.count
        arenaBytes = lowered.values.map(\.arena.byteCount).max() ?? 0
        rowCounts = [
            .cls: width, .mean: width, .clsMean: 2 * width, .patch: count * width, .clsPatch: (1 + count) * width,
        ]
    }

    /// One vector an image, or one a patch.
    private static func normalizedShape(_ features: Features, tokens: Int, width: Int) -> [Int] {
        switch features {
        case .cls, .mean: [1, width]
        case .clsMean: [1, 2 * width]
        case .patch: [tokens, width]
        case .clsPatch: [1 + tokens, width]
        }
    }

    static func address(_ operand: Operand, _ arena: ArenaLayout, _ constants: ConstantTable) -> hssl_plan_operand {
        switch operand {
        case .none: hssl_plan_operand(space: HSSL_PLAN_NONE, offset: 0)
        case .image(let offset): hssl_plan_operand(space: HSSL_PLAN_IMAGE, offset: offset)
        case .features(let offset): hssl_plan_operand(space: HSSL_PLAN_FEATURES, offset: offset)
        case .constant(let index, let offset):
            hssl_plan_operand(space: HSSL_PLAN_CONSTANTS, offset: constants.offset(of: index) + offset)
        case .workspace: hssl_plan_operand(space: HSSL_PLAN_WORKSPACE, offset: 0)
        case .arena(let storage, let offset):
            hssl_plan_operand(space: HSSL_PLAN_ARENA, offset: (arena.offsets[storage] ?? 0) + offset)
        }
    }

    /// Shape of one row of features.
    package func rowShape(_ features: Features) -> [Int] {
        switch features {
        case .cls, .mean: [width]
        case .clsMean: [2 * width]
        case .patch: [tokens, width]
        case .clsPatch: [1 + tokens, width]
        }
    }

    /// float32 elements of one row of features.
    package func rowCount(_ features: Features) -> Int { rowCounts[features] ?? 0 }

    /// Operations (a multiply and an add are two) of the products and attentions that one image's features need; what
    /// is left out does not count.
    ///
    /// - Parameter asPerformed: those that are done, of which float products may have fewer
    ///   (`hssl_gemm_multiply_adds`), not those of the definition.
    package func operations(_ features: Features, asPerformed: Bool = false) -> Double {
        KernelContext(threads: 1, isa: isa).run {
            (programs[features]?.steps ?? []).reduce(0) { sum, step in
                if step.kind.isLinear {
                    let (rows, outputs, inputs) = (step.size.0, step.size.1, step.size.2)
                    if asPerformed, step.workspace.space != HSSL_PLAN_NONE {
                        return sum + 2 * hssl_gemm_multiply_adds(rows, outputs, inputs)
                    }
                    return sum + 2 * Double(rows) * Double(outputs) * Double(inputs)
                }
                let s = step.size
                switch step.kind {
                case HSSL_STEP_ATTENTION: return sum + 4 * Double(s.0 * (s.4 - s.3)) * Double(s.1 * s.2 * s.5)
                case HSSL_STEP_ATTENTION_INTEGER: return sum + 4 * Double(s.0 * (s.4 - s.3)) * Double(s.1 * s.2)
                case HSSL_STEP_ATTENTION_BIASED: return sum + 4 * Double(s.0 * s.1 * s.1) * Double(s.2 * s.3)
                default: return sum
                }
            }
        }
    }

    /// Bytes of the values of all images that are computed at a time, and of scratch.
    func sessionBytes(threads: Int) -> Int { threads * (arenaBytes + workspaceBytes(threads: threads)) }

    /// Bytes of scratch of an image, at a step of which all threads may be.
    func workspaceBytes(threads: Int) -> Int { threads * threadBytes }

    // MARK: Memory bound

    /// Bytes that a model needs at most: while loading (the packed weights, the part of the mapped file that is being
    /// read, the largest tensor in the forms that it takes), then while running with a batch of prepared images and
    /// patch features. Known from the file's header alone; what the process has besides is not counted.
    ///
    /// - Parameter precision: in which it will run; nil: the file's.
    package static func memoryBound(
        _ model: ModelFile, precision: Precision? = nil, threads: Int, batch: Int, features: Features = .patch
    ) throws -> Int {
        try Plan(model.architecture, precision: precision ?? model.precision).memoryBound(
            fileBytes: model.byteCount, threads: threads, batch: batch, features: features)
    }

    func memoryBound(fileBytes: Int, threads: Int, batch: Int, features: Features) -> Int {
        // A tensor of the file at a time, in float64 at most, and what its first and last page bring along.
        let mapped = min(fileBytes, 2 * largestTensor + 1 << 20)
        return constantBytes + sessionBytes(threads: threads) + mapped + transientBytes + batch * 4
            * (imageCount + rowCount(features))
    }
}
