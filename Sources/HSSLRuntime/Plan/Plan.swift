import CSupport
import HSSLGraph
import HSSLModels

/// The inference of one architecture: steps for every kind of features, the size of every piece of memory known before a weight is read.
package struct Plan {
    /// Steps that fill one row of features, and after them one that normalises it.
    struct Program {
        let steps: [hssl_plan_step]
    }

    let programs: [Features: Program]
    let constants: ConstantTable
    /// Bytes of one thread's arena.
    let arenaBytes: Int
    /// Threads that workspaces are sized for, and the instruction set.
    let context: KernelContext
    var threads: Int { context.threads }
    /// Channels D.
    package let width: Int
    /// Patch tokens N.
    package let tokens: Int
    /// float32 elements of one image.
    package let imageCount: Int

    /// - Parameter threads: 1 … 256; workspaces are sized for as many.
    /// - Throws: `ModelError` or `RuntimeError`.
    package init(_ architecture: ModelArchitecture, precision: Precision, threads: Int) throws {
        let trace = ModelTrace(architecture)
        let (cls, patches) = (trace.global, trace.local)
        let (count, width) = (patches.shape[0], patches.shape[1])
        let mean = patches.reshaped([1, count, width]).meanOverTokens()

        let context = KernelContext(threads: threads)
        var constants = ConstantTable()
        var lowered: [Features: Lowering.Result] = [:]
        for features in Features.allCases {
            let outputs: [(Tensor, Int)] =
                switch features {
                case .cls: [(cls, 0)]
                case .mean: [(mean, 0)]
                case .clsMean: [(cls, 0), (mean, width)]
                case .patch: [(patches, 0)]
                }
            lowered[features] = try context.run { try Lowering.lower(trace.tape, outputs: outputs, precision: precision, constants: &constants) }
        }
        var programs: [Features: Program] = [:]
        for (features, result) in lowered {
            let normalize = PlanStep(
                kind: HSSL_STEP_L2_NORMALIZE, size: Self.normalizedShape(features, tokens: count, width: width), x: .features(offset: 0),
                y: .features(offset: 0), epsilon: 1e-12)
            programs[features] = Program(steps: (result.steps + [normalize]).map { $0.native { Self.address($0, result.arena, constants) } })
        }
        self.programs = programs
        self.constants = constants
        self.context = context
        (self.width, self.tokens) = (width, count)
        imageCount = trace.images.count
        arenaBytes = lowered.values.map(\.arena.byteCount).max() ?? 0
    }

    /// One vector an image, or one a patch.
    private static func normalizedShape(_ features: Features, tokens: Int, width: Int) -> [Int] {
        switch features {
        case .cls, .mean: [1, width]
        case .clsMean: [1, 2 * width]
        case .patch: [tokens, width]
        }
    }

    static func address(_ operand: Operand, _ arena: ArenaLayout, _ constants: ConstantTable) -> hssl_plan_operand {
        switch operand {
        case .none: hssl_plan_operand(space: HSSL_PLAN_NONE, offset: 0)
        case .image(let offset): hssl_plan_operand(space: HSSL_PLAN_IMAGE, offset: offset)
        case .features(let offset): hssl_plan_operand(space: HSSL_PLAN_FEATURES, offset: offset)
        case .constant(let index, let offset): hssl_plan_operand(space: HSSL_PLAN_CONSTANTS, offset: constants.offset(of: index) + offset)
        case .arena(let storage, let offset): hssl_plan_operand(space: HSSL_PLAN_ARENA, offset: (arena.offsets[storage] ?? 0) + offset)
        }
    }

    /// Shape of one row of features.
    package func rowShape(_ features: Features) -> [Int] {
        switch features {
        case .cls, .mean: [width]
        case .clsMean: [2 * width]
        case .patch: [tokens, width]
        }
    }

    /// Operations (a multiply and an add are two) of the products and attentions that one image's features need; what is left out does not count.
    ///
    /// - Parameter asPerformed: those that are done, of which float products may have fewer (`hssl_gemm_multiply_adds`), not those of the definition.
    package func operations(_ features: Features, asPerformed: Bool = false) -> Double {
        context.run {
            (programs[features]?.steps ?? []).reduce(0) { sum, step in
                if step.kind.isLinear {
                    let (rows, outputs, inputs) = (step.size.0, step.size.1, step.size.2)
                    if asPerformed, step.workspace.space != HSSL_PLAN_NONE { return sum + 2 * hssl_gemm_multiply_adds(rows, outputs, inputs) }
                    return sum + 2 * Double(rows) * Double(outputs) * Double(inputs)
                }
                guard [HSSL_STEP_ATTENTION, HSSL_STEP_ATTENTION_INTEGER].contains(step.kind) else { return sum }
                return sum + 4 * Double(step.size.0) * Double(step.size.4 - step.size.3) * Double(step.size.1 * step.size.2)
            }
        }
    }

    /// Bytes that inference keeps: packed weights and one arena a thread. Nothing more is allocated after loading.
    package var residentBytes: Int { constants.byteCount + threads * arenaBytes }

    // MARK: Memory bound

    /// Bytes that a model needs at most: while loading (the packed weights, the part of the mapped file that is being read, the largest tensor in two forms), then while running with a
    /// batch of prepared images and patch features. Known from the file's header alone; what the process has besides is not counted.
    package static func memoryBound(_ model: ModelFile, threads: Int, batch: Int, features: Features = .patch) throws -> Int {
        let plan = try Plan(model.architecture, precision: model.precision, threads: threads)
        return plan.memoryBound(fileBytes: model.byteCount, batch: batch, features: features)
    }

    func memoryBound(fileBytes: Int, batch: Int, features: Features) -> Int {
        // A tensor of the file at a time, in float64 at most, and what its first and last page bring along.
        let mapped = min(fileBytes, 2 * constants.largestTensor + 1 << 20)
        return residentBytes + mapped + 3 * constants.largestTensor + batch * 4 * (imageCount + rowShape(features).reduce(1, *))
    }
}
