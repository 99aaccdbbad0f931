import CSupport
import HSSLGradients
import HSSLGraph
import HSSLModels

/// A head that a search tries: with projection, prototypes, centre and a teacher of its own it learns DINO's objective
/// over tokens that it cannot change, and its probe learns to say from the base's feature what the head will say.
final class Candidate {
    let name: String
    let student, teacher: CandidateNetwork
    let cost: HeadCost
    let shared: CandidateSettings
    private(set) var centers: Centers
    private let optimizer: AdamW
    private let blocks: (base: Int, all: Int)
    private var sums: CenterSums
    /// Means over the images of the update, as far as it was observed.
    private(set) var losses: (head: Double, probe: Double) = (0, 0)
    private let stream: UInt64

    init(_ pair: CandidatePair, over base: Network, _ shared: CandidateSettings, pool: BufferPool) {
        (name, student, teacher, cost, self.shared) = (pair.name, pair.student, pair.teacher, pair.cost, shared)
        centers = Centers(prototypes: shared.prototypes, learnsPatches: false)
        sums = CenterSums(prototypes: shared.prototypes, bottleneck: 0)
        blocks = (base.base.blocks, base.base.blocks + (student.head?.depth ?? 0))
        stream = name.utf8.reduce(0x5345_4152_4348) { $0 &* 0x100_0000_01B3 ^ UInt64($1) }
        student.parameters.allocate(from: pool)
        student.parameters.initialize(seed: shared.seed)
        teacher.parameters.allocate(from: pool)
        teacher.parameters.copy(from: student.parameters)
        optimizer = AdamW(
            student: student.parameters, teacher: teacher.parameters, storage: shared.moments, seed: shared.seed,
            pool: pool)
    }

    var checkpointPart: CheckpointPart {
        CheckpointPart(
            prefix: "candidate.\(name).",
            networks: [(student.parameters, "student."), (teacher.parameters, "teacher.")],
            optimizer: optimizer, state: centers.named, restore: { self.centers.cls = $1 })
    }

    // MARK: Learning

    /// Adds what some images teach to gradients and sums.
    ///
    /// - Parameter leaves: where the gradients of the base's output go; nil: nowhere.
    func learn(
        _ seen: Observation, _ batch: CropBatch, context: StepContext, pool: BufferPool, leaves: BaseLeaves?
    ) {
        let settings = seen.settings
        for parameter in student.prototypes.parameters { parameter.requiresGradient = !context.prototypesFrozen }
        let targets = targets(seen.teacher, settings, temperature: context.teacherTemperature, pool: pool) {
            sums.add(clsLogits: $0, patchBottleneck: nil)
        }.targets
        let key = CounterRandom.combine([shared.seed, UInt64(context.step), UInt64(batch.firstImage), stream])
        let tape = Tape(mode: .training, precision: settings.precision, pool: pool, roundingKey: key)
        let base = DetachedBase(seen.student, on: tape, leaves: leaves)
        let global = student.global(base, pass(batch, settings, context))
        let (own, probe) = projections(global, base, settings)

        let rows = targets.rows
        // Each view learns from the other.
        let other = PrototypeTargets.distributions(
            targets, index: (0..<rows).map { Int32(($0 + batch.images) % rows) })
        let share = 1 / (Float(MultiCropAugmentation.globalViews) * Float(context.batchImages))
        let prototypes = student.prototypes.weight(tape)
        func loss(_ rows: Tensor, through prototypes: Tensor) -> (Tensor, mean: Double) {
            var rowLosses: [[Float]] = []
            let weights = [Float](repeating: share, count: rows.rows)
            let loss = prototypes.prototypeCrossEntropy(
                of: [PrototypeRows(rows: rows, targets: [other], weights: weights)],
                temperature: shared.studentTemperature, rowLosses: &rowLosses)
            return (loss, rowLosses.joined().reduce(0.0) { $0 + Double($1 * share) })
        }
        let head = loss(own, through: prototypes), probing = loss(probe, through: prototypes.detached())
        losses = (losses.head + head.mean, losses.probe + probing.mean)
        BackwardPass.run(from: [head.0, probing.0])
    }

    /// The teacher's distributions [views · images, K] and the head's global features that they come from.
    ///
    /// - Parameter logits: receives the logits, before centre and temperature.
    func targets(
        _ seen: SeenBase, _ settings: StepSettings, temperature: Float, pool: BufferPool,
        logits receive: (Tensor) -> Void = { _ in }
    ) -> (targets: Tensor, global: Tensor) {
        let tape = Tape(mode: .inference, precision: settings.precision, pool: pool)
        let global = teacher.global(DetachedBase(seen, on: tape), Pass(plain: settings.plain))
        let rows = tape.computing(at: settings.projectionPrecision) { teacher.mlp(global) }
        let logits = rows.linear(weight: teacher.prototypes.weight(tape), bias: nil, role: .full)
        receive(logits)
        let targets = tape.input(shape: logits.shape)
        hssl_softmax(logits.rows, logits.width, logits.values, centers.cls, 1 / temperature, targets.values)
        return (targets, global)
    }

    /// Unit vectors of the student's head and of its probe.
    func projections(
        _ global: Tensor, _ base: DetachedBase, _ settings: StepSettings
    ) -> (head: Tensor, probe: Tensor) {
        guard let probe = student.probe else { preconditionFailure("a candidate's student has a probe") }
        return global.tape.computing(at: settings.projectionPrecision) { (student.mlp(global), probe(base.global)) }
    }

    /// Blocks of the head are dropped as they would be behind this base; every candidate by the same draws.
    private func pass(_ batch: CropBatch, _ settings: StepSettings, _ context: StepContext) -> Pass {
        guard settings.dropPath > 0 else { return Pass(firstBlock: blocks.base, plain: settings.plain) }
        let samples = (0..<MultiCropAugmentation.globalViews).flatMap { view in
            (0..<batch.images).map { view << 32 | (batch.firstImage + $0) }
        }
        let depth = StochasticDepth(
            rate: settings.dropPath, blocks: blocks.all, seed: settings.seed, step: context.step, samples: samples)
        return Pass(stochasticDepth: depth, firstBlock: blocks.base, plain: settings.plain)
    }

    // MARK: Update

    /// Ends an update. What is not finite leaves everything of this candidate as it was, and nobody else notices.
    ///
    /// - Returns: the update's losses.
    func update(schedule: StepSchedule) -> (head: Double, probe: Double) {
        defer { discard() }
        let norms = optimizer.gradientNorms()
        let isFinite = norms.allSatisfy { $0?.isFinite ?? true } && losses.head.isFinite && losses.probe.isFinite
        guard isFinite, sums.isFinite else { return losses }
        centers.update(with: sums, prototypes: [], momentum: shared.centerMomentum)
        let frozen = schedule.prototypesFrozen ? student.prototypes.parameters.map(\.name) : []
        optimizer.update(
            norms: norms, learningRate: Float(schedule.learningRate), weightDecay: Float(schedule.weightDecay),
            clip: shared.clipGradient, frozen: Set(frozen), momentum: Float(schedule.teacherMomentum))
        return losses
    }

    func discard() {
        student.parameters.clearGradients()
        sums = CenterSums(prototypes: shared.prototypes, bottleneck: 0)
        losses = (0, 0)
    }
}

/// What a head costs: its blocks and norms, without projections.
package struct HeadCost: Equatable, Sendable {
    package let parameters: Int
    /// Of one image's forward pass.
    package let multiplyAdds: Int

    /// - Parameter settings: nil: no head, no cost.
    init(_ settings: HeadSettings?, over shape: GridShape) throws {
        guard let settings else {
            (parameters, multiplyAdds) = (0, 0)
            return
        }
        let declared = ParameterSet(), tape = Tape(mode: .shapes, pool: BufferPool())
        let head = try AuxiliaryHead(ParameterScope(declared)("auxiliary"), over: shape, settings)
        _ = head.global(tape.input(shape: [1, shape.grid.height, shape.grid.width, shape.width]), Pass())
        (parameters, multiplyAdds) = (declared.count, tape.multiplyAdds)
    }
}
