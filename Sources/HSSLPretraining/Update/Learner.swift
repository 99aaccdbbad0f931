import CSupport
import HSSLGraph
import HSSLModels

/// Everything that an update changes: student, teacher, moments, what the objective itself learns.
package final class Learner {
    package let pool: BufferPool
    package let student: Network
    /// Nil where nothing follows the student.
    package let teacher: Network?
    package let optimizer: AdamW
    package var objective: any Objective
    /// Largest L2 norm of one tensor's gradient; 0 does not clip.
    package let clipGradient: Float
    /// Parameters that no update changes.
    private let frozen: Set<String>
    private let sizes: NetworkSizes
    /// Global views of an image that the objective learns from.
    private let objectiveViews: Int
    /// What learns beside the base in the same updates; nil: nothing does.
    package private(set) var companion: (any Companion)?

    /// The teacher starts as a copy of the student.
    ///
    /// - Parameters:
    ///   - moments: how the optimizer keeps large moments; nil: as goes with the precision.
    ///   - freezesPatchEmbedding: whether the base's patch embedding stays as it was drawn.
    ///   - memoryLimit: bytes that the process may have; nil: any.
    /// - Throws: `PretrainingError` where weights alone take more than the limit.
    package init(sizes: NetworkSizes, objective: any ObjectiveSettings, settings: StepSettings, clipGradient: Float,
                 moments: MomentStorage? = nil, freezesPatchEmbedding: Bool = false, memoryLimit: Int? = nil) throws {
        // Without it every kernel would silently be the scalar one.
        try Processor.initialize()
        self.sizes = sizes
        objectiveViews = objective.globalViews
        pool = BufferPool()
        student = try Network(sizes)
        teacher = objective.hasTeacher(hasAuxiliary: sizes.auxiliary != nil) ? try Network(sizes) : nil
        self.objective = objective.makeObjective(student: student, teacher: teacher, settings: settings)
        let storage = moments ?? MomentStorage(for: settings.precision)
        var floor = MemoryFloor()
        floor.add(student: student.parameters, teacher: teacher?.parameters, storage: storage)
        try floor.check(limit: memoryLimit)
        student.parameters.allocate(from: pool)
        student.initialize(seed: settings.seed)
        if let teacher {
            teacher.parameters.allocate(from: pool)
            teacher.copy(from: student)
        }
        optimizer = AdamW(
            student: student.parameters, teacher: teacher?.parameters, storage: storage, seed: settings.seed,
            pool: pool)
        self.clipGradient = clipGradient
        let embedding = type(of: sizes.base.configuration).patchEmbedding.map { "base." + $0 }
        frozen = freezesPatchEmbedding
            ? Set(student.parameters.all.map(\.name).filter { name in embedding.map(name.hasPrefix) ?? false }) : []
    }

    package var architecture: ModelArchitecture { sizes.base }

    /// Cells of the base's last grid for a global view: what masks cover.
    package var globalGrid: Grid { student.base.grid(height: sizes.base.imageSize, width: sizes.base.imageSize) }

    package var hasAuxiliary: Bool { sizes.auxiliary != nil }

    /// With the prefix of their names in a checkpoint.
    package var networks: [(network: Network, role: String)] {
        [(student, "student.")] + (teacher.map { [($0, "teacher.")] } ?? [])
    }

    /// Lets something learn beside the base from now on.
    package func accompany(by companion: any Companion) {
        self.companion = companion
        objective.observer = companion
    }

    /// Global views of an image in a micro-batch.
    package var globalViews: Int { companion == nil ? objectiveViews : MultiCropAugmentation.globalViews }

    /// Every parameter that has memory here.
    package var parameters: [Parameter] {
        checkpointParts.flatMap { $0.networks.flatMap(\.parameters.all) }
    }

    package func newSums() -> UpdateSums { objective.newSums() }

    /// Learns from one micro-batch of an update. The one with which its images are complete ends the pass: then every
    /// gradient is there.
    package func accumulate(_ batch: CropBatch, context: StepContext, into sums: inout UpdateSums) {
        objective.accumulate(batch, context: context, pool: pool, into: &sums)
        sums.images += batch.images
        if sums.images == context.batchImages { objective.finish(context: context, pool: pool, into: &sums) }
    }

    /// What an update did.
    package struct Outcome: Sendable {
        package var loss: Double
        /// √Σ‖g‖² over all tensors, before clipping.
        package var gradientNorm: Double
        /// A non-finite loss or gradient: nothing was changed.
        package var skipped: Bool
    }

    /// Ends an update: clip, AdamW, EMA, the objective's own state; clears the gradients. A non-finite loss, gradient
    /// or centre leaves everything as it was.
    package func update(_ sums: UpdateSums, schedule: StepSchedule) -> Outcome {
        defer { student.parameters.clearGradients() }
        companion?.update(schedule: schedule, pool: pool)
        let norms = optimizer.gradientNorms()
        let loss = sums.losses.total
        let total = norms.reduce(0.0) { $0 + ($1 ?? 0) * ($1 ?? 0) }.squareRoot()
        guard loss.isFinite, total.isFinite, objective.isFinite(sums) else {
            return Outcome(loss: loss, gradientNorm: total, skipped: true)
        }
        objective.updateState(sums, pool: pool)
        optimizer.update(norms: norms, learningRate: Float(schedule.learningRate),
                         weightDecay: Float(schedule.weightDecay), clip: clipGradient,
                         frozen: frozen.union(objective.frozen(schedule).map(\.name)),
                         momentum: Float(schedule.teacherMomentum))
        objective.didUpdate(pool: pool)
        return Outcome(loss: loss, gradientNorm: total, skipped: false)
    }
}
