import CSupport
import HSSLGradients
import HSSLGraph
import HSSLModels

/// A way to send two views of an image to the same prototypes: DINO's, and iBOT's, where masked patches learn too.
package protocol PrototypeSettings: ObjectiveSettings {
    var options: PrototypeOptions { get }
    /// Whether masked patches learn from what the teacher makes of them unmasked.
    var learnsPatches: Bool { get }
}

extension PrototypeSettings {
    package var masksPatches: Bool { learnsPatches }

    package func makeObjective(student: Network, teacher: Network?, settings: StepSettings) -> any Objective {
        guard let teacher else { preconditionFailure("\(name) has a teacher") }
        return PrototypeObjective(student: student, teacher: teacher, self, settings: settings)
    }
}

/// Sizes of the projections, and how targets and predictions are made of them.
package struct PrototypeOptions: Sendable {
    /// Widths of the MLPs' hidden layers and of their output.
    package var hidden, bottleneck: Int
    package var prototypes: Int
    /// Whether `prototypes.weight_g` exists (`norm_last_layer: false`).
    package var learnedGain = false
    package var studentTemperature: Float = 0.1
    /// Share of the old centre that an update keeps.
    package var centerMomentum: Float = 0.9

    package init(hidden: Int, bottleneck: Int, prototypes: Int) {
        (self.hidden, self.bottleneck, self.prototypes) = (hidden, bottleneck, prototypes)
    }
}

/// DINO and iBOT of a base alone or with an auxiliary head: every global stream learns from the teacher's auxiliary
/// head (without one: from the teacher's base), patches learn from the teacher's base.
///
/// Source: arXiv 2310.05108, Caron et al. (DINO, ICCV 2021), Zhou et al. (iBOT, ICLR 2022); docs/method.md has the
/// equations.
package struct PrototypeObjective: Objective {
    package let student: Network
    package let teacher: Network?
    package var settings: StepSettings
    package var observer: (any BaseObserver)?
    package let options: PrototypeOptions
    private let learnsPatches: Bool
    private let globalViews: Int
    package var centers: Centers
    package let studentHead: ProjectionHead
    private let teacherHead: ProjectionHead
    private let teacherNetwork: Network

    package init(student: Network, teacher: Network, _ method: any PrototypeSettings, settings: StepSettings) {
        let options = method.options
        func head(_ network: Network) -> ProjectionHead {
            ProjectionHead(ParameterScope(network.parameters)("head"), baseWidth: network.base.width,
                           auxiliaryWidth: network.auxiliary?.width, hidden: options.hidden,
                           bottleneck: options.bottleneck, prototypes: options.prototypes,
                           learnedGain: options.learnedGain)
        }
        (self.student, self.teacher, teacherNetwork) = (student, teacher, teacher)
        (self.settings, self.options) = (settings, options)
        (learnsPatches, globalViews) = (method.learnsPatches, method.globalViews)
        (studentHead, teacherHead) = (head(student), head(teacher))
        centers = Centers(prototypes: options.prototypes, learnsPatches: learnsPatches)
    }

    package func newSums() -> UpdateSums {
        let streams = [("cls_base", streamWeight), ("cls_auxiliary", streamWeight), ("patch", 1)]
        var sums = UpdateSums(losses: Losses(streams))
        sums.centers = CenterSums(prototypes: options.prototypes, bottleneck: options.bottleneck)
        return sums
    }

    package func frozen(_ schedule: StepSchedule) -> [Parameter] {
        schedule.prototypesFrozen ? studentHead.prototypes.parameters : []
    }

    // MARK: State

    package var state: [(name: String, values: [Float])] { centers.named }

    package mutating func restore(_ name: String, _ values: [Float]) {
        if name == "center.cls" { centers.cls = values } else { centers.patch = values }
    }

    package func isFinite(_ sums: UpdateSums) -> Bool { sums.centers?.isFinite ?? true }

    package mutating func updateState(_ sums: UpdateSums, pool: BufferPool) {
        guard let step = sums.centers else { return }
        // The centre of the patch logits needs the prototypes that made them.
        let prototypes = teacherHead.prototypes.weight(Tape(mode: .inference, pool: pool)).array()
        centers.update(with: step, prototypes: prototypes, momentum: options.centerMomentum)
    }

    /// The copy with which an update moves the centres; and the teacher's CLS distributions, once more in the order of
    /// the student's rows.
    package var heapBytes: (fixed: Int, perImage: Int) {
        (4 * options.prototypes * options.bottleneck, 4 * 2 * globalViews * options.prototypes)
    }

    // MARK: One micro-batch

    package func accumulate(_ batch: CropBatch, context: StepContext, pool: BufferPool, into sums: inout UpdateSums) {
        for parameter in studentHead.prototypes.parameters { parameter.requiresGradient = !context.prototypesFrozen }
        sums.quantization = statistics(batch, context)
        let masks = learnsPatches ? batch.viewMajorMasks() : []
        let selection = TokenSelection(masks: masks, cells: batch.tokens, plain: settings.plain)
        let clock = ContinuousClock.now, backward = sums.time.backward
        let targets = teach(batch, selection, context: context, pool: pool, into: &sums)
        let taught = ContinuousClock.now
        learnGlobal(batch, masks.isEmpty ? nil : masks, selection, targets, context: context, pool: pool, into: &sums)
        if batch.localViews > 0 { learnLocal(batch, targets, context: context, pool: pool, into: &sums) }
        sums.time.teacher += taught - clock
        sums.time.forward += ContinuousClock.now - taught - (sums.time.backward - backward)
    }

    // MARK: Teacher

    /// What one micro-batch learns from.
    private struct Targets {
        /// Distributions [2·images, K], view-major.
        let cls: Tensor
        /// Bottleneck vectors of the selected patches; nil where there are none.
        let patches: Tensor?
        /// For an observer; nil where nobody looks on.
        let seen: SeenBase?
    }

    private func teach(_ batch: CropBatch, _ selection: TokenSelection, context: StepContext, pool: BufferPool,
                       into sums: inout UpdateSums) -> Targets {
        let tape = Tape(mode: .inference, precision: settings.precision, pool: pool)
        let base = teacherNetwork.base
        let output = base(batch.globalInput(tape), mask: nil, Pass(plain: settings.plain))

        let patches = learnsPatches ? teacherHead.base(base.local(output, cells: nil)) : nil
        let baseGlobal = base.global(output)
        let (global, mlp) = auxiliary(teacherNetwork, teacherHead, output, Pass(plain: settings.plain))
            ?? (baseGlobal, teacherHead.base)
        let bottleneck = tape.computing(at: projectionPrecision) { mlp(global) }
        let logits = bottleneck.linear(weight: teacherHead.prototypes.weight(tape), bias: nil, role: .full)
        sums.centers?.add(clsLogits: logits, patchBottleneck: patches)
        if settings.plain { sums.logits["teacher.\(hasAuxiliary ? "auxiliary" : "base")_cls"] = logits.array() }

        let targets = tape.input(shape: logits.shape), temperature = context.teacherTemperature
        hssl_softmax(logits.rows, logits.width, logits.values, centers.cls, 1 / temperature, targets.values)
        sums.targetEntropy += entropy(of: targets, logits: logits, center: centers.cls, temperature: temperature)
        sums.targets += targets.rows

        sums.features.add(baseGlobal.l2Normalized())
        return Targets(
            cls: targets, patches: selection.cells.isEmpty ? nil : patches?.gatheringRows(selection.cells),
            seen: observer == nil ? nil : SeenBase(output: output, global: baseGlobal))
    }

    /// Σ over rows of the entropy of q = softmax((logits − center)/temperature), which is its cross-entropy with
    /// itself.
    /// Overwrites the logits.
    private func entropy(of q: Tensor, logits: Tensor, center: [Float], temperature: Float) -> Double {
        hssl_add_broadcast(logits.rows, logits.width, logits.values, center.map { -$0 }, logits.values)
        var entropies = [Float](repeating: 0, count: logits.rows), logSumExp = entropies
        hssl_soft_cross_entropy(logits.rows, logits.width, q.values, logits.values, 1 / temperature, &entropies,
                                &logSumExp)
        return entropies.reduce(0.0) { $0 + Double($1) }
    }

    // MARK: Student

    private func learnGlobal(_ batch: CropBatch, _ masks: [UInt8]?, _ selection: TokenSelection, _ targets: Targets,
                             context: StepContext, pool: BufferPool, into sums: inout UpdateSums) {
        let tape = trainingTape(batch, context, part: 0, pool: pool, sums.quantization)
        let pass = pass(batch, views: 0..<batch.globalViews, context)
        let output = student.base(batch.globalInput(tape), mask: masks, pass)
        let crops = output.count, global = student.base.global(output)
        let seen = SeenBase(output: output, global: global)
        let observed = targets.seen.flatMap { teacher in
            observer?.observe(
                .init(student: seen, teacher: teacher, settings: settings), batch, context: context, pool: pool)
        }

        // Target view u ≠ student view v: with two global views each learns from the other.
        let others = (0..<crops).map { Int32(($0 + batch.images) % crops) }
        let fromOtherView = PrototypeTargets.distributions(targets.cls, index: others)
        let share = 1 / (Float(pairs(batch)) * Float(context.batchImages))
        let patchShare = 1 / (Float(batch.globalViews) * Float(context.batchImages))
        var streams = globalStreams(output, global, pass, tape, targets: fromOtherView, weight: share)
        if let patches = targets.patches {
            let prototypes = teacherHead.prototypes.weight(Tape(mode: .inference, pool: pool))
            streams.append(PrototypeRows(
                rows: studentHead.base(student.base.local(output, cells: selection.cells)),
                targets: [.projections(patches, prototypes: prototypes, center: centers.patch,
                                       temperature: context.teacherPatchTemperature)],
                weights: selection.weights.map { patchShare * $0 }))
        }
        let (rowLosses, backward) = learn(streams, tape, and: observed?.seeds(seen) ?? []) { plain in
            sums.logits["teacher.base_patch"] = learnsPatches ? plain.teacherLogits : nil
            let names = ["base_cls"] + (hasAuxiliary ? ["auxiliary_cls"] : [])
                + (learnsPatches ? ["base_patch"] : [])
            for (name, logits) in zip(names, plain.logits) { sums.logits["student." + name] = logits }
        }
        sums.time.backward += backward
        addGlobalLosses(rowLosses, share: share, to: &sums)
        guard targets.patches != nil, let losses = rowLosses.last else { return }
        var patch = sums.losses["patch"]
        for (loss, weight) in zip(losses, selection.weights) { patch += Double(loss * weight * patchShare) }
        sums.losses["patch"] = patch
    }

    /// Local views learn the image's global content: their target is the mean over both teacher views (H is
    /// linear in q).
    private func learnLocal(_ batch: CropBatch, _ targets: Targets, context: StepContext, pool: BufferPool,
                            into sums: inout UpdateSums) {
        let tape = trainingTape(batch, context, part: 1, pool: pool, sums.quantization)
        let views = batch.globalViews
        let pass = pass(batch, views: views..<(views + batch.localViews), context)
        let output = student.base(batch.localInput(tape), mask: nil, pass)

        let mean = tape.input(shape: [batch.images, targets.cls.width])
        hssl_add(mean.count, targets.cls.values, targets.cls.values + mean.count, mean.values)
        hssl_scale(mean.count, 0.5, mean.values)
        let images = (0..<output.count).map { Int32($0 % batch.images) }
        let ofTheImage = PrototypeTargets.distributions(mean, index: images)
        let share = Float(views) / (Float(pairs(batch)) * Float(context.batchImages))
        let streams = globalStreams(
            output, student.base.global(output), pass, tape, targets: ofTheImage, weight: share)
        let (rowLosses, backward) = learn(streams, tape)
        sums.time.backward += backward
        addGlobalLosses(rowLosses, share: share, to: &sums)
    }

    /// One row a view: the base's global feature through the base's projection, then the auxiliary head's through
    /// its own.
    private func globalStreams(_ output: BaseOutput, _ base: Tensor, _ pass: Pass, _ tape: Tape,
                               targets: PrototypeTargets, weight: Float) -> [PrototypeRows] {
        let streams = [(base, studentHead.base)] + [auxiliary(student, studentHead, output, pass)].compactMap { $0 }
        return streams.map { feature, mlp in
            PrototypeRows(rows: tape.computing(at: projectionPrecision) { mlp(feature) }, targets: [targets],
                          weights: [Float](repeating: streamWeight * weight, count: output.count))
        }
    }

    private func addGlobalLosses(_ rowLosses: [[Float]], share: Float, to sums: inout UpdateSums) {
        for (name, losses) in zip(["cls_base"] + (hasAuxiliary ? ["cls_auxiliary"] : []), rowLosses) {
            var sum = sums.losses[name]
            for loss in losses { sum += Double(loss * share) }
            sums.losses[name] = sum
        }
    }

    /// Losses of every row of the streams (base, then auxiliary) through the student's prototypes; their gradients go
    /// to the parameters.
    ///
    /// - Parameters:
    ///   - seeds: gradients of other values of the tape.
    ///   - plain: receives the plain evaluation where the settings ask for one.
    private func learn(_ streams: [PrototypeRows], _ tape: Tape, and seeds: [(value: Tensor, gradient: Buffer)] = [],
                       plain: (PlainLosses) -> Void = { _ in }) -> (rowLosses: [[Float]], backward: Duration) {
        let prototypes = studentHead.prototypes.weight(tape), temperature = options.studentTemperature
        var rowLosses: [[Float]] = []
        let losses: [Tensor]
        if settings.plain {
            let evaluation = PlainLosses(streams, prototypes: prototypes, temperature: temperature)
            plain(evaluation)
            (rowLosses, losses) = (evaluation.rowLosses, evaluation.losses)
        } else {
            losses = [prototypes.prototypeCrossEntropy(of: streams, temperature: temperature, rowLosses: &rowLosses)]
        }
        let clock = ContinuousClock.now
        BackwardPass.run(from: losses, and: seeds)
        return (rowLosses, ContinuousClock.now - clock)
    }

    // MARK: Shared

    /// (target view, student view) pairs with u ≠ v over which a CLS loss is averaged.
    private func pairs(_ batch: CropBatch) -> Int {
        batch.globalViews * (batch.globalViews + batch.localViews) - batch.globalViews
    }

    /// The auxiliary head's global feature and its projection; nil without a head.
    private func auxiliary(_ network: Network, _ head: ProjectionHead, _ output: BaseOutput,
                           _ pass: Pass) -> (Tensor, ProjectionHead.MLP)? {
        guard let mlp = head.auxiliary, let global = auxiliaryGlobal(network, output, pass) else { return nil }
        return (global, mlp)
    }
}
