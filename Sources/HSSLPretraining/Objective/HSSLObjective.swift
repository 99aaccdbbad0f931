import CSupport
#if canImport(Glibc)
import Glibc
#endif
import HSSLGradients
import HSSLGraph
import HSSLModels

/// The iBOT objective with an auxiliary head: both CLS streams learn from the teacher's auxiliary head, patches from the teacher's base.
///
/// Source: arXiv 2310.05108; shared/method.md "One training step" gives the equations that the comments below name.
package struct HSSLObjective {
    package let student: Network
    package let teacher: Network
    package var settings: Settings

    package struct Settings: Sendable {
        package var studentTemperature: Float
        package var precision: Precision
        package var dropPath: Float
        package var seed: UInt64
        /// Evaluates the plain definition: every token through both projections, block by block. The oracle of the cheaper evaluation in tests.
        package var plain = false

        package init(studentTemperature: Float, precision: Precision = .float32, dropPath: Float = 0, seed: UInt64 = 0) {
            self.studentTemperature = studentTemperature
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

        package init(prototypes: Int, bottleneck: Int) { centers = CenterSums(prototypes: prototypes, bottleneck: bottleneck) }
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
        let masks = batch.viewMajorMasks()
        let selection = TokenSelection(batch: batch, masks: masks, plain: settings.plain)
        let targets = teach(batch, selection, context: context, centers: centers, pool: pool, into: &sums)
        learnGlobal(batch, masks, selection, targets, context: context, pool: pool, into: &sums)
        if batch.localViews > 0 { learnLocal(batch, targets, context: context, pool: pool, into: &sums) }
    }

    // MARK: Teacher

    /// Target distributions of one micro-batch.
    private struct Targets {
        /// [2·images, K], view-major
        let cls: [Float]
        /// [selected patches, K]
        let patch: [Float]
    }

    private func teach(_ batch: CropBatch, _ selection: TokenSelection, context: StepContext, centers: Centers, pool: BufferPool,
                       into sums: inout Sums) -> Targets {
        let tape = Tape(mode: .inference, precision: settings.precision, pool: pool)
        let grid = teacher.base.grid(height: batch.globalSize, width: batch.globalSize)
        let tokens = teacher.base.tokens(batch.globalInput(tape), mask: nil, stochasticDepth: nil)
        let prototypes = teacher.head.prototypes.weight(tape)
        let crops = tokens.shape[0]

        let patches = teacher.head.base(teacher.base.norm(tokens.gatheringRows(selection.allPatchRows)))
        let clsBottleneck: Tensor
        if let auxiliary = teacher.auxiliary, let mlp = teacher.head.auxiliary {
            let global = cls(auxiliary, tokens, grid, nil, teacher)
            clsBottleneck = tape.computing(at: globalPrecision) { mlp(global) }
        } else {
            let global = teacher.base.norm(tokens.gatheringRows(selection.clsRows))
            clsBottleneck = tape.computing(at: globalPrecision) { teacher.head.base(global) }
        }
        let clsLogits = clsBottleneck.linear(weight: prototypes, bias: nil, role: .full)
        sums.centers.add(clsLogits: clsLogits, patchBottleneck: patches)

        let count = centers.cls.count
        var qCLS = [Float](repeating: 0, count: crops * count)
        hssl_softmax(crops, count, clsLogits.values, centers.cls, 1 / context.teacherTemperature, &qCLS)
        sums.targetEntropy += entropy(qCLS)
        sums.targets += crops

        sums.features.add(teacher.base.norm(tokens.gatheringRows(selection.clsRows)).l2Normalized())

        var qPatch: [Float] = []
        if !selection.patchOfGrid.isEmpty {
            let logits = patches.gatheringRows(selection.patchOfGrid).linear(weight: prototypes, bias: nil, role: .full)
            if settings.plain { sums.logits["teacher.base_patch"] = logits.array() }
            qPatch = [Float](repeating: 0, count: logits.count)
            hssl_softmax(logits.rows, count, logits.values, centers.patch, 1 / context.teacherPatchTemperature, &qPatch)
        }
        if settings.plain { sums.logits["teacher.auxiliary_cls"] = clsLogits.array() }
        return Targets(cls: qCLS, patch: qPatch)
    }

    private func entropy(_ distribution: [Float]) -> Double {
        distribution.reduce(0.0) { $1 > 0 ? $0 - Double($1) * Double(logf($1)) : $0 }
    }

    // MARK: Student

    private func learnGlobal(_ batch: CropBatch, _ masks: [UInt8], _ selection: TokenSelection, _ targets: Targets, context: StepContext,
                             pool: BufferPool, into sums: inout Sums) {
        let tape = trainingTape(batch, context, part: 0, pool: pool)
        let grid = student.base.grid(height: batch.globalSize, width: batch.globalSize)
        let depth = stochasticDepth(batch, views: 0..<CropBatch.globalViews, context)
        let tokens = student.base.tokens(batch.globalInput(tape), mask: masks, stochasticDepth: depth)
        let prototypes = student.head.prototypes.weight(tape)
        let crops = tokens.shape[0]
        let count = prototypes.shape[0]

        // Target view u ≠ student view v: with two global views each learns from the other.
        var otherView = [Float](repeating: 0, count: crops * count)
        for row in 0..<crops {
            let other = row < batch.images ? row + batch.images : row - batch.images
            otherView.withUnsafeMutableBufferPointer { target in
                targets.cls.withUnsafeBufferPointer { source in
                    guard let t = target.baseAddress, let s = source.baseAddress else { return }
                    (t + row * count).update(from: s + other * count, count: count)
                }
            }
        }
        let clsShare = 1 / (Float(pairs(batch)) * Float(context.batchImages))

        // Base stream: CLS rows, then the selected patches, through one projection.
        let base = student.head.base(student.base.norm(tokens.gatheringRows(selection.clsRows + selection.patchRows)))
        let logits = base.linear(weight: prototypes, bias: nil, role: .full)
        let patchShare = 1 / (Float(CropBatch.globalViews) * Float(context.batchImages))
        let weights = [Float](repeating: clsFactor * clsShare, count: crops) + selection.patchWeights.map { patchFactor * patchShare * $0 }
        var rowLosses: [Float] = []
        var losses = [logits.softCrossEntropy(targets: tape.constant(otherView + targets.patch, shape: logits.shape), weights: weights,
                                              temperature: settings.studentTemperature, rowLosses: &rowLosses)]
        for row in 0..<crops { sums.losses.clsBase += Double(rowLosses[row] * clsShare) }
        for (row, weight) in selection.patchWeights.enumerated() { sums.losses.patch += Double(rowLosses[crops + row] * weight * patchShare) }
        if settings.plain {
            let array = logits.array()
            sums.logits["student.base_cls"] = Array(array[..<(crops * count)])
            sums.logits["student.base_patch"] = Array(array[(crops * count)...])
        }

        if let auxiliary = student.auxiliary, let mlp = student.head.auxiliary {
            let global = cls(auxiliary, tokens, grid, depth, student)
            let logits = tape.computing(at: globalPrecision) { mlp(global) }.linear(weight: prototypes, bias: nil, role: .full)
            losses.append(logits.softCrossEntropy(targets: tape.constant(otherView, shape: logits.shape),
                                                  weights: [Float](repeating: clsFactor * clsShare, count: crops),
                                                  temperature: settings.studentTemperature, rowLosses: &rowLosses))
            for loss in rowLosses { sums.losses.clsAuxiliary += Double(loss * clsShare) }
            if settings.plain { sums.logits["student.auxiliary_cls"] = logits.array() }
        }
        BackwardPass.run(from: losses)
    }

    /// Local views learn the image's global content: their target is the mean over both teacher views (H is linear in q).
    private func learnLocal(_ batch: CropBatch, _ targets: Targets, context: StepContext, pool: BufferPool, into sums: inout Sums) {
        let tape = trainingTape(batch, context, part: 1, pool: pool)
        let grid = student.base.grid(height: batch.localSize, width: batch.localSize)
        let views = CropBatch.globalViews
        let depth = stochasticDepth(batch, views: views..<(views + batch.localViews), context)
        let tokens = student.base.tokens(batch.localInput(tape), mask: nil, stochasticDepth: depth)
        let prototypes = student.head.prototypes.weight(tape)
        let crops = tokens.shape[0]
        let count = prototypes.shape[0]

        var mean = [Float](repeating: 0, count: crops * count)
        for row in 0..<crops {
            let image = row % batch.images
            for k in 0..<count {
                mean[row * count + k] = 0.5 * (targets.cls[image * count + k] + targets.cls[(batch.images + image) * count + k])
            }
        }
        let target = tape.constant(mean, shape: [crops, count])
        let share = Float(views) / (Float(pairs(batch)) * Float(context.batchImages))
        let weights = [Float](repeating: clsFactor * share, count: crops)
        let clsRows = (0..<crops).map { Int32($0 * tokens.shape[1]) }

        var rowLosses: [Float] = []
        let base = student.head.base(student.base.norm(tokens.gatheringRows(clsRows))).linear(weight: prototypes, bias: nil, role: .full)
        var losses = [base.softCrossEntropy(targets: target, weights: weights, temperature: settings.studentTemperature, rowLosses: &rowLosses)]
        for loss in rowLosses { sums.losses.clsBase += Double(loss * share) }
        if let auxiliary = student.auxiliary, let mlp = student.head.auxiliary {
            let global = cls(auxiliary, tokens, grid, depth, student)
            let logits = tape.computing(at: globalPrecision) { mlp(global) }.linear(weight: prototypes, bias: nil, role: .full)
            losses.append(logits.softCrossEntropy(targets: target, weights: weights, temperature: settings.studentTemperature, rowLosses: &rowLosses))
            for loss in rowLosses { sums.losses.clsAuxiliary += Double(loss * share) }
        }
        BackwardPass.run(from: losses)
    }

    // MARK: Shared

    /// Of the projections that see one row a crop. An int8 run computes them in float16: the temperatures multiply the rounding of the bottleneck by up to 25,
    /// no mean over patches hides it, and so few rows cost nothing. (Least cosine of a gradient on the multi-crop fixture 0.9984 otherwise, 0.9991 so.)
    private var globalPrecision: Precision { settings.precision == .int8 ? .float16 : settings.precision }

    /// loss = ½·[(cls_base + cls_aux) + 2·patch]; without a head, cls_base + patch.
    private var clsFactor: Float { hasAuxiliary ? 0.5 : 1 }
    private var patchFactor: Float { 1 }

    /// (target view, student view) pairs with u ≠ v over which a CLS loss is averaged.
    private func pairs(_ batch: CropBatch) -> Int { CropBatch.globalViews * (CropBatch.globalViews + batch.localViews) - CropBatch.globalViews }

    private func cls(_ head: any AuxiliaryHead, _ tokens: Tensor, _ grid: Grid, _ depth: StochasticDepth?, _ network: Network) -> Tensor {
        settings.plain ? head.plainCLS(tokens, grid: grid, stochasticDepth: depth, firstBlock: network.base.depth)
            : head.cls(tokens, grid: grid, stochasticDepth: depth, firstBlock: network.base.depth)
    }

    private func trainingTape(_ batch: CropBatch, _ context: StepContext, part: UInt64, pool: BufferPool) -> Tape {
        Tape(mode: .training, precision: settings.precision, pool: pool,
             roundingKey: CounterRandom.combine([settings.seed, UInt64(context.step), UInt64(batch.firstImage), part]))
    }

    private func stochasticDepth(_ batch: CropBatch, views: Range<Int>, _ context: StepContext) -> StochasticDepth? {
        guard settings.dropPath > 0 else { return nil }
        let samples = views.flatMap { view in (0..<batch.images).map { view << 32 | (batch.firstImage + $0) } }
        return StochasticDepth(rate: settings.dropPath, blocks: student.blocks, seed: settings.seed, step: context.step, samples: samples)
    }
}

/// The parts of the loss, means over the images of an update.
package struct Losses: Equatable, Sendable {
    package var clsBase = 0.0
    package var clsAuxiliary = 0.0
    package var patch = 0.0

    package func total(hasAuxiliary: Bool) -> Double { hasAuxiliary ? 0.5 * (clsBase + clsAuxiliary + 2 * patch) : clsBase + patch }
}
