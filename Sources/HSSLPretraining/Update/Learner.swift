import CSupport
import HSSLGraph
import HSSLModels

/// Everything that an update changes: student, teacher, moments, centres.
package final class Learner {
    package let pool: BufferPool
    package let student: Network
    package let teacher: Network
    package let optimizer: AdamW
    package var centers: Centers
    package var objective: HSSLObjective
    /// Share of the old centre that an update keeps.
    package let centerMomentum: Float
    /// Largest L2 norm of one tensor's gradient; 0 does not clip.
    package let clipGradient: Float
    private let sizes: NetworkSizes

    /// The teacher starts as a copy of the student.
    ///
    /// - Parameter moments: how the optimizer keeps large moments; nil: as goes with the precision.
    package init(sizes: NetworkSizes, settings: HSSLObjective.Settings, centerMomentum: Float, clipGradient: Float, moments: MomentStorage? = nil) throws {
        // Without it every kernel would silently be the scalar one.
        try Processor.initialize()
        self.sizes = sizes
        pool = BufferPool()
        student = try Network(sizes, pool: pool)
        teacher = try Network(sizes, pool: pool)
        student.parameters.initialize(seed: settings.seed)
        teacher.copy(from: student)
        optimizer = AdamW(student: student, teacher: teacher, storage: moments ?? MomentStorage(for: settings.precision), seed: settings.seed, pool: pool)
        centers = Centers(prototypes: sizes.prototypes, learnsPatches: settings.learnsPatches)
        objective = HSSLObjective(student: student, teacher: teacher, settings: settings)
        self.centerMomentum = centerMomentum
        self.clipGradient = clipGradient
    }

    package func newSums() -> HSSLObjective.Sums { HSSLObjective.Sums(prototypes: sizes.prototypes, bottleneck: sizes.bottleneck) }

    package var architecture: ModelArchitecture { sizes.base }

    /// Cells of the base's last grid for a global view: what masks cover.
    package var globalGrid: Grid { student.base.grid(height: sizes.base.imageSize, width: sizes.base.imageSize) }

    package var hasAuxiliary: Bool { sizes.auxiliary != nil }

    /// What an update did.
    package struct Outcome: Sendable {
        package var loss: Double
        /// √Σ‖g‖² over all tensors, before clipping.
        package var gradientNorm: Double
        /// A non-finite loss or gradient: nothing was changed.
        package var skipped: Bool
    }

    /// Ends an update: clip, AdamW, EMA, centres; clears the gradients. A non-finite loss, gradient or centre leaves everything as it was.
    package func update(_ sums: HSSLObjective.Sums, schedule: StepSchedule) -> Outcome {
        defer { student.parameters.clearGradients() }
        let norms = optimizer.gradientNorms()
        let loss = sums.losses.total(hasAuxiliary: hasAuxiliary)
        let total = norms.reduce(0.0) { $0 + ($1 ?? 0) * ($1 ?? 0) }.squareRoot()
        guard loss.isFinite, total.isFinite, sums.centers.isFinite else { return Outcome(loss: loss, gradientNorm: total, skipped: true) }
        let frozen = schedule.prototypesFrozen ? Set(student.head.prototypes.parameters.map(\.name)) : []
        // The centre of the patch logits needs the prototypes that made them.
        let prototypes = teacher.head.prototypes.weight(Tape(mode: .inference, pool: pool)).array()
        optimizer.update(norms: norms, learningRate: Float(schedule.learningRate), weightDecay: Float(schedule.weightDecay), clip: clipGradient,
                         frozen: frozen, momentum: Float(schedule.teacherMomentum))
        centers.update(with: sums.centers, prototypes: prototypes, momentum: centerMomentum)
        return Outcome(loss: loss, gradientNorm: total, skipped: false)
    }
}
