import CSupport
import HSSLGradients
import HSSLGraph
import HSSLModels

/// DINO's objective, and iBOT's where masked patches learn too, of a base alone or with an auxiliary head: every global stream learns from the teacher's
/// auxiliary head (without one: from the teacher's base), patches learn from the teacher's base.
///
/// Source: arXiv 2310.05108, Caron et al. (DINO, ICCV 2021), Zhou et al. (iBOT, ICLR 2022); docs/method.md has the equations.
package struct HSSLObjective {
    package let student: Network
    package let teacher: Network
    package var settings: Settings

    package struct Settings: Sendable {
        package var studentTemperature: Float
        /// Whether masked patches learn: iBOT; else DINO.
        package var learnsPatches = true
        package var precision: Precision
        package var dropPath: Float
        package var seed: UInt64
        /// Evaluates the plain definition: every token through both projections, block by block. The oracle of the cheaper evaluation in tests.
        package var plain = false

        package init(studentTemperature: Float, learnsPatches: Bool = true, precision: Precision = .float32, dropPath: Float = 0, seed: UInt64 = 0) {
            self.studentTemperature = studentTemperature
            self.learnsPatches = learnsPatches
            self.precision = precision
            self.dropPath = dropPath
            self.seed = seed
        }
    }

    /// What changes from step to step.
    package struct StepContext: Sendable {
        package var step: Int
        package var teacherTemperature: Float
        package var teacherPatchTemperature: Float
        /// Images of the whole update: losses are means over them.
        package var batchImages: Int
        /// Frozen prototypes need no gradient.
        package var prototypesFrozen: Bool

        package init(step: Int, teacherTemperature: Float, teacherPatchTemperature: Float, batchImages: Int, prototypesFrozen: Bool) {
            self.step = step
            self.teacherTemperature = teacherTemperature
            self.teacherPatchTemperature = teacherPatchTemperature
            self.batchImages = batchImages
            self.prototypesFrozen = prototypesFrozen
        }
    }

    /// Sums over the micro-batches of one update.
    package struct Sums {
        package var losses = Losses()
        package var centers: CenterSums
        /// Σ over CLS targets of their entropy, nats.
        package var targetEntropy = 0.0
        package var targets = 0
        /// Spread of the teacher's normalised base CLS features: a collapse shows here first.
        package var features = FeatureSpread()
        /// Raw logits of the last micro-batch by the fixtures' names (plain evaluation only).
        package var logits: [String: [Float]] = [:]
        /// int8: the student's codes in the last micro-batch of the update (one is enough to see them drift).
        package var quantization: QuantizationStatistics?

        /// Where the time went.
        package var time = Time()

        package init(prototypes: Int, bottleneck: Int) { centers = CenterSums(prototypes: prototypes, bottleneck: bottleneck) }
    }

    /// Wall time by part of the objective; the student's losses count as its forward pass.
    package struct Time: Sendable {
        package var teacher = Duration.zero
        package var forward = Duration.zero
        package var backward = Duration.zero

        package init() {}
    }

    package init(student: Network, teacher: Network, settings: Settings) {
        self.student = student
        self.teacher = teacher
        self.settings = settings
    }

    private var hasAuxiliary: Bool { student.auxiliary != nil }

    /// Adds one micro-batch: losses and centre statistics to `sums`, gradients to the student's parameters.
    package func accumulate(_ batch: CropBatch, context: StepContext, centers: Centers, pool: BufferPool, into sums: inout Sums) {
        for parameter in student.head.prototypes.parameters { parameter.requiresGradient = !context.prototypesFrozen }
        let isLast = batch.firstImage + batch.images >= context.batchImages
        sums.quantization = settings.precision == .int8 && isLast ? QuantizationStatistics() : nil
        let masks = settings.learnsPatches ? batch.viewMajorMasks() : []
        let selection = TokenSelection(masks: masks, cells: batch.tokens, plain: settings.plain)
        let clock = ContinuousClock.now, backward = sums.time.backward
        let targets = teach(batch, selection, context: context, centers: centers, pool: pool, into: &sums)
        let taught = ContinuousClock.now
        learnGlobal(batch, masks.isEmpty ? nil : masks, selection, targets, context: context, centers: centers, pool: pool, into: &sums)
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
    }

    private func teach(_ batch: CropBatch, _ selection: TokenSelection, context: StepContext, centers: Centers, pool: BufferPool,
                       into sums: inout Sums) -> Targets {
        let tape = Tape(mode: .inference, precision: settings.precision, pool: pool)
        let output = teacher.base(batch.globalInput(tape), mask: nil, Pass(plain: settings.plain))

        let patches = settings.learnsPatches ? teacher.head.base(teacher.base.local(output, cells: nil)) : nil
        let baseGlobal = teacher.base.global(output)
        let (global, mlp) = auxiliary(teacher, output, Pass(plain: settings.plain)) ?? (baseGlobal, teacher.head.base)
        let bottleneck = tape.computing(at: globalPrecision) { mlp(global) }
        let logits = bottleneck.linear(weight: teacher.head.prototypes.weight(tape), bias: nil, role: .full)
        sums.centers.add(clsLogits: logits, patchBottleneck: patches)
        if settings.plain { sums.logits["teacher.\(hasAuxiliary ? "auxiliary" : "base")_cls"] = logits.array() }

        let targets = tape.input(shape: logits.shape)
        hssl_softmax(logits.rows, logits.width, logits.values, centers.cls, 1 / context.teacherTemperature, targets.values)
        sums.targetEntropy += entropy(of: targets, logits: logits, center: centers.cls, temperature: context.teacherTemperature)
        sums.targets += targets.rows

        sums.features.add(baseGlobal.l2Normalized())
        return Targets(cls: targets, patches: selection.cells.isEmpty ? nil : patches?.gatheringRows(selection.cells))
    }

    /// Σ over rows of the entropy of q = softmax((logits − center)/temperature), which is its cross-entropy with itself. Overwrites the logits.
    private func entropy(of q: Tensor, logits: Tensor, center: [Float], temperature: Float) -> Double {
        hssl_add_broadcast(logits.rows, logits.width, logits.values, center.map { -$0 }, logits.values)
        var entropies = [Float](repeating: 0, count: logits.rows), logSumExp = entropies
        hssl_soft_cross_entropy(logits.rows, logits.width, q.values, logits.values, 1 / temperature, &entropies, &logSumExp)
        return entropies.reduce(0.0) { $0 + Double($1) }
    }

    // MARK: Student

    private func learnGlobal(_ batch: CropBatch, _ masks: [UInt8]?, _ selection: TokenSelection, _ targets: Targets, context: StepContext, centers: Centers,
                             pool: BufferPool, into sums: inout Sums) {
        let tape = trainingTape(batch, context, part: 0, pool: pool, sums.quantization)
        let pass = pass(batch, views: 0..<CropBatch.globalViews, context)
        let output = student.base(batch.globalInput(tape), mask: masks, pass)
        let crops = output.count

        // Target view u ≠ student view v: with two global views each learns from the other.
        let fromOtherView = PrototypeTargets.distributions(targets.cls, index: (0..<crops).map { Int32(($0 + batch.images) % crops) })
        let share = 1 / (Float(pairs(batch)) * Float(context.batchImages))
        let patchShare = 1 / (Float(CropBatch.globalViews) * Float(context.batchImages))
        var streams = globalStreams(output, pass, tape, targets: fromOtherView, weight: share)
        if let patches = targets.patches {
            streams.append(PrototypeRows(
                rows: student.head.base(student.base.local(output, cells: selection.cells)),
                targets: [.projections(patches, prototypes: teacher.head.prototypes.weight(Tape(mode: .inference, pool: pool)), center: centers.patch,
                                       temperature: context.teacherPatchTemperature)],
                weights: selection.weights.map { patchShare * $0 }))
        }
        let (rowLosses, backward) = learn(streams, tape) { plain in
            sums.logits["teacher.base_patch"] = settings.learnsPatches ? plain.teacherLogits : nil
            let names = ["base_cls"] + (hasAuxiliary ? ["auxiliary_cls"] : []) + (settings.learnsPatches ? ["base_patch"] : [])
            for (name, logits) in zip(names, plain.logits) { sums.logits["student." + name] = logits }
        }
        sums.time.backward += backward
        addGlobalLosses(rowLosses, share: share, to: &sums)
        guard targets.patches != nil, let losses = rowLosses.last else { return }
        for (loss, weight) in zip(losses, selection.weights) { sums.losses.patch += Double(loss * weight * patchShare) }
    }

    /// Local views learn the image's global content: their target is the mean over both teacher views (H is linear in q).
    private func learnLocal(_ batch: CropBatch, _ targets: Targets, context: StepContext, pool: BufferPool, into sums: inout Sums) {
        let tape = trainingTape(batch, context, part: 1, pool: pool, sums.quantization)
        let views = CropBatch.globalViews
        let pass = pass(batch, views: views..<(views + batch.localViews), context)
        let output = student.base(batch.localInput(tape), mask: nil, pass)

        let mean = tape.input(shape: [batch.images, targets.cls.width])
        hssl_add(mean.count, targets.cls.values, targets.cls.values + mean.count, mean.values)
        hssl_scale(mean.count, 0.5, mean.values)
        let ofTheImage = PrototypeTargets.distributions(mean, index: (0..<output.count).map { Int32($0 % batch.images) })
        let share = Float(views) / (Float(pairs(batch)) * Float(context.batchImages))
        let (rowLosses, backward) = learn(globalStreams(output, pass, tape, targets: ofTheImage, weight: share), tape)
        sums.time.backward += backward
        addGlobalLosses(rowLosses, share: share, to: &sums)
    }

    /// One row a view: the base's global feature through the base's projection, then the auxiliary head's through its own.
    private func globalStreams(_ output: BaseOutput, _ pass: Pass, _ tape: Tape, targets: PrototypeTargets, weight: Float) -> [PrototypeRows] {
        let base = student.base.global(output)
        return ([(base, student.head.base)] + [auxiliary(student, output, pass)].compactMap { $0 }).map { feature, mlp in
            PrototypeRows(rows: tape.computing(at: globalPrecision) { mlp(feature) }, targets: [targets],
                          weights: [Float](repeating: globalFactor * weight, count: output.count))
        }
    }

    private func addGlobalLosses(_ rowLosses: [[Float]], share: Float, to sums: inout Sums) {
        for loss in rowLosses[0] { sums.losses.clsBase += Double(loss * share) }
        if hasAuxiliary { for loss in rowLosses[1] { sums.losses.clsAuxiliary += Double(loss * share) } }
    }

    /// Losses of every row of the streams (base, then auxiliary) through the student's prototypes; their gradients go to the parameters.
    ///
    /// - Parameter plain: receives the plain evaluation where the settings ask for one.
    private func learn(_ streams: [PrototypeRows], _ tape: Tape, plain: (PlainLosses) -> Void = { _ in }) -> (rowLosses: [[Float]], backward: Duration) {
        let prototypes = student.head.prototypes.weight(tape)
        var rowLosses: [[Float]] = []
        let losses: [Tensor]
        if settings.plain {
            let evaluation = PlainLosses(streams, prototypes: prototypes, temperature: settings.studentTemperature)
            plain(evaluation)
            (rowLosses, losses) = (evaluation.rowLosses, evaluation.losses)
        } else {
            losses = [prototypes.prototypeCrossEntropy(of: streams, temperature: settings.studentTemperature, rowLosses: &rowLosses)]
        }
        let clock = ContinuousClock.now
        BackwardPass.run(from: losses)
        return (rowLosses, ContinuousClock.now - clock)
    }

    // MARK: Shared

    /// Of the projections that see one row a crop. An int8 run computes them in float16: the temperatures multiply the rounding of the bottleneck by up to 25,
    /// no mean over patches hides it, and so few rows cost nothing. (Least cosine of a gradient on the multi-crop fixture 0.9984 otherwise, 0.9991 so.)
    private var globalPrecision: Precision { settings.precision == .int8 ? .float16 : settings.precision }

    /// loss = mean over the streams of their global terms + the base's patch term.
    private var globalFactor: Float { hasAuxiliary ? 0.5 : 1 }

    /// (target view, student view) pairs with u ≠ v over which a CLS loss is averaged.
    private func pairs(_ batch: CropBatch) -> Int { CropBatch.globalViews * (CropBatch.globalViews + batch.localViews) - CropBatch.globalViews }

    /// The auxiliary head's global feature and its projection; nil without a head.
    private func auxiliary(_ network: Network, _ output: BaseOutput, _ pass: Pass) -> (Tensor, ProjectionHead.MLP)? {
        guard let auxiliary = network.auxiliary, let mlp = network.head.auxiliary else { return nil }
        var pass = pass
        pass.firstBlock = network.base.blocks
        return (auxiliary.global(output.cells, pass), mlp)
    }

    private func trainingTape(_ batch: CropBatch, _ context: StepContext, part: UInt64, pool: BufferPool, _ statistics: QuantizationStatistics?) -> Tape {
        let tape = Tape(mode: .training, precision: settings.precision, pool: pool,
                        roundingKey: CounterRandom.combine([settings.seed, UInt64(context.step), UInt64(batch.firstImage), part]))
        tape.statistics = statistics
        return tape
    }

    private func pass(_ batch: CropBatch, views: Range<Int>, _ context: StepContext) -> Pass {
        guard settings.dropPath > 0 else { return Pass(plain: settings.plain) }
        let samples = views.flatMap { view in (0..<batch.images).map { view << 32 | (batch.firstImage + $0) } }
        let depth = StochasticDepth(rate: settings.dropPath, blocks: student.blocks, seed: settings.seed, step: context.step, samples: samples)
        return Pass(stochasticDepth: depth, plain: settings.plain)
    }
}

/// The parts of the loss, means over the images of an update.
package struct Losses: Equatable, Sendable {
    package var clsBase = 0.0
    package var clsAuxiliary = 0.0
    package var patch = 0.0

    package func total(hasAuxiliary: Bool) -> Double { hasAuxiliary ? 0.5 * (clsBase + clsAuxiliary + 2 * patch) : clsBase + patch }
}
