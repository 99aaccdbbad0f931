import CSupport
import HSSLGradients
import HSSLGraph
import HSSLModels

/// A way to say that predictions of one view and the teacher's projections of the other agree.
package protocol AgreementSettings: ObjectiveSettings {
    /// Of a stream's feature.
    func projector(_ scope: ParameterScope, width: Int) -> BatchNormMLP
    /// Of the student's projections.
    func predictor(_ scope: ParameterScope) -> BatchNormMLP
    /// - Parameters:
    ///   - predictions: unit vectors of one view [images, d].
    ///   - targets: the teacher's, of the other view, in the same order.
    ///   - weight: of this direction in the loss.
    func agreement(of predictions: Tensor, with targets: Tensor, weight: Float) -> Agreement
}

extension AgreementSettings {
    package var curves: [LossCurve] {
        [LossCurve("global_base", "global base"), LossCurve("global_auxiliary", "global auxiliary")]
    }
    package func couplesImages(hasAuxiliary: Bool) -> Bool { true }

    package func makeObjective(student: Network, teacher: Network?, settings: StepSettings) -> any Objective {
        guard let teacher else { preconditionFailure("\(name) has a teacher") }
        return JointEmbeddingObjective(student: student, teacher: teacher, self, settings: settings)
    }
}

package struct Agreement {
    /// Mean over the images, unweighted.
    let loss: Double
    /// Where the backward pass begins, and with what: weighted.
    let seed: (value: Tensor, gradient: Buffer)
}

/// MoCo v3 and BYOL, of a base alone or with an auxiliary head: a predictor over the projection of one view finds the
/// teacher's projection of the other. Every stream learns from the teacher's auxiliary head (without one: its base).
///
/// Projections see the whole update, so an update has three parts: features of teacher and student by micro-batch;
/// head, loss and their gradients once over all features; then each micro-batch backwards from the gradient of its
/// features. Its tape is kept while memory allows (`StepSettings.keptBytes`), else its forward pass is run again, to
/// the same bits.
package struct JointEmbeddingObjective: Objective {
    package let student: Network
    package let teacher: Network?
    package var settings: StepSettings
    package var observer: (any BaseObserver)?
    private let method: any AgreementSettings
    private let teacherNetwork: Network
    /// Of the stream that the targets come from.
    private let teacherProjector: BatchNormMLP
    private let streams: [Stream]

    private struct Stream {
        let name: String
        let projector: BatchNormMLP
        let predictor: BatchNormMLP
    }

    private static let views = 2

    init(student: Network, teacher: Network, _ method: any AgreementSettings, settings: StepSettings) {
        (self.student, self.teacher, teacherNetwork) = (student, teacher, teacher)
        (self.method, self.settings) = (method, settings)
        let widths = [("base", student.base.width)] + (student.auxiliary.map { [("auxiliary", $0.width)] } ?? [])
        let heads = [student, teacher].map { ParameterScope($0.parameters)("head") }
        streams = widths.map { name, width in
            Stream(
                name: name, projector: method.projector(heads[0]("\(name)_projector"), width: width),
                predictor: method.predictor(heads[0]("\(name)_predictor")))
        }
        // The teacher follows every projector, though only the last one is asked.
        let projectors = widths.map { method.projector(heads[1]("\($0)_projector"), width: $1) }
        teacherProjector = projectors[projectors.count - 1]
    }

    package func newSums() -> UpdateSums {
        UpdateSums(losses: Losses(streams.map { ("global_" + $0.name, streamWeight) }))
    }

    // MARK: Features

    package func accumulate(_ batch: CropBatch, context: StepContext, pool: BufferPool, into sums: inout UpdateSums) {
        let waiting = sums.waiting ?? newWaiting(images: context.batchImages, pool: pool)
        sums.waiting = waiting
        // One is enough, and the last is always recorded just once.
        let isLast = sums.images + batch.images == context.batchImages
        sums.quantization = settings.precision == .int8 && isLast ? QuantizationStatistics() : nil
        let clock = ContinuousClock.now
        let teacher = teach(batch, pool: pool, into: &sums, waiting)
        let taught = ContinuousClock.now
        let pass = studentPass(batch, context, pool: pool, sums.quantization)
        for (rows, feature) in zip(waiting.student, pass.features) { rows.put(feature, images: batch.range) }
        let keeps = isLast || pool.bytesInUse <= settings.keptBytes
        var observed: ObservedGradient?
        if let observer, let teacher, let student = pass.base {
            let seen = Observation(student: student, teacher: teacher, settings: settings)
            observed = observer.observe(seen, batch, context: context, pool: pool)
        }
        waiting.parts.append(
            .init(images: batch.range, batch: keeps ? nil : batch, pass: keeps ? pass : nil, observed: observed))
        sums.time.teacher += taught - clock
        sums.time.forward += ContinuousClock.now - taught
    }

    private func newWaiting(images: Int, pool: BufferPool) -> WaitingBatches {
        func rows(_ width: Int) -> WholeBatchRows {
            WholeBatchRows(views: Self.views, images: images, width: width, pool: pool)
        }
        let widths = [student.base.width] + (student.auxiliary.map { [$0.width] } ?? [])
        return WaitingBatches(teacher: rows(widths[widths.count - 1]), student: widths.map(rows))
    }

    /// - Returns: what an observer may see; nil where nobody looks on.
    private func teach(
        _ batch: CropBatch, pool: BufferPool, into sums: inout UpdateSums, _ waiting: WaitingBatches
    ) -> SeenBase? {
        let tape = Tape(mode: .inference, precision: settings.precision, pool: pool), pass = Pass(plain: settings.plain)
        let output = teacherNetwork.base(batch.globalInput(tape), mask: nil, pass)
        let base = teacherNetwork.base.global(output)
        waiting.teacher?.put(auxiliaryGlobal(teacherNetwork, output, pass) ?? base, images: batch.range)
        sums.features.add(base.l2Normalized())
        return observer == nil ? nil : SeenBase(output: output, global: base)
    }

    private func studentPass(
        _ batch: CropBatch, _ context: StepContext, pool: BufferPool,
        _ statistics: QuantizationStatistics?
    ) -> StudentPass {
        let tape = trainingTape(batch, context, part: 0, pool: pool, statistics)
        let pass = pass(batch, views: 0..<Self.views, context)
        let output = student.base(batch.globalInput(tape), mask: nil, pass)
        let global = student.base.global(output)
        return StudentPass(
            base: observer == nil ? nil : SeenBase(output: output, global: global),
            features: [global] + [auxiliaryGlobal(student, output, pass)].compactMap { $0 })
    }

    // MARK: Head and gradients

    package func finish(context: StepContext, pool: BufferPool, into sums: inout UpdateSums) {
        guard let waiting = sums.waiting else { return }
        sums.waiting = nil
        let clock = ContinuousClock.now, backward = sums.time.backward
        learn(waiting, images: context.batchImages, pool: pool, into: &sums)
        // The last tape is always there; of the others the first ones are kept.
        while let part = waiting.parts.popLast() {
            guard let pass = part.pass ?? part.batch.map({ studentPass($0, context, pool: pool, nil) }) else {
                continue
            }
            let start = ContinuousClock.now
            let seeds = zip(pass.features, waiting.student).map { feature, rows in
                (feature, rows.gradient(images: part.images, pool: pool))
            }
            BackwardPass.run(from: seeds + (pass.base.flatMap { part.observed?.seeds($0) } ?? []))
            sums.time.backward += ContinuousClock.now - start
        }
        sums.time.forward += ContinuousClock.now - clock - (sums.time.backward - backward)
    }

    /// Losses, and gradients of projectors, predictors and features.
    private func learn(_ waiting: WaitingBatches, images: Int, pool: BufferPool, into sums: inout UpdateSums) {
        guard let teacher = waiting.teacher else { return }
        let inference = Tape(mode: .inference, precision: projectionPrecision, pool: pool)
        let keys = teacherProjector(teacher.constant(inference), views: Self.views).l2Normalized()
        let tape = Tape(mode: .training, precision: projectionPrecision, pool: pool)
        func view(_ rows: Tensor, _ view: Int) -> Tensor {
            rows.gatheringRows((view * images..<(view + 1) * images).map { Int32($0) })
        }
        var seeds: [(value: Tensor, gradient: Buffer)] = []
        for (stream, rows) in zip(streams, waiting.student) {
            let projection = stream.projector(tape.parameter(rows.leaf), views: Self.views)
            let prediction = stream.predictor(projection, views: Self.views)
            if settings.plain { sums.logits["student.\(stream.name)_prediction"] = prediction.array() }
            let unit = prediction.l2Normalized()
            var loss = 0.0
            for (mine, other) in [(0, 1), (1, 0)] {
                let agreement = method.agreement(
                    of: view(unit, mine), with: view(keys, other).detached(on: tape),
                    weight: streamWeight)
                loss += agreement.loss
                seeds.append(agreement.seed)
            }
            sums.losses["global_" + stream.name] = loss
        }
        let clock = ContinuousClock.now
        BackwardPass.run(from: seeds)
        sums.time.backward += ContinuousClock.now - clock
    }

    package var waits: Bool { true }

    package func rehearse(images: Int, pool: BufferPool) {
        var sums = newSums()
        let waiting = newWaiting(images: images, pool: pool)
        learn(waiting, images: images, pool: pool, into: &sums)
    }
}
