import CSupport
import HSSLGraph
import HSSLModels

/// An objective as a recipe describes it, before there are networks: what it looks at, and what it adds to base and
/// auxiliary head.
package protocol ObjectiveSettings: Sendable {
    /// As `objective.name` of a recipe.
    var name: String { get }
    /// Global views of an image: two that are to agree, or a single one.
    var globalViews: Int { get }
    /// Whether the student does not see some cells of its global views.
    var masksPatches: Bool { get }
    /// Whether statistics of the loss cross images (batch norm, InfoNCE): too small an update then is none.
    func couplesImages(hasAuxiliary: Bool) -> Bool
    /// Whether a teacher follows the student.
    func hasTeacher(hasAuxiliary: Bool) -> Bool
    /// Parts of the loss that a report draws beside the total, in the order of its legend.
    var curves: [LossCurve] { get }
    /// Declares the projections in both networks, which get their memory afterwards.
    func makeObjective(student: Network, teacher: Network?, settings: StepSettings) -> any Objective
}

extension ObjectiveSettings {
    package var globalViews: Int { 2 }
    package var masksPatches: Bool { false }
    package func couplesImages(hasAuxiliary: Bool) -> Bool { false }
    package func hasTeacher(hasAuxiliary: Bool) -> Bool { true }
}

/// A part of the loss, as metrics and reports show it.
package struct LossCurve: Sendable {
    /// As `Losses` has it, e.g. `cls_auxiliary`.
    package let part: String
    /// In a legend, e.g. `CLS auxiliary`.
    package let label: String

    package init(_ part: String, _ label: String) { (self.part, self.label) = (part, label) }

    /// In `metrics.jsonl`, e.g. `cls_aux`.
    package var key: String { Self.key(of: part) }

    package static func key(of part: String) -> String {
        let long = "_auxiliary"
        return part.hasSuffix(long) ? part.dropLast(long.count) + "_aux" : part
    }
}

/// How steps are computed, whatever the objective.
package struct StepSettings: Sendable {
    package var precision: Precision
    /// Rate of stochastic depth in the last block.
    package var dropPath: Float
    package var seed: UInt64
    /// Evaluates the plain definition where a cheaper one gives the same in real arithmetic, and keeps raw outputs: the
    /// oracle in tests.
    package var plain = false
    /// Bytes in use up to which the tapes of micro-batches are kept until the whole update is there, where an objective
    /// needs that; beyond it a forward pass is run again, to the same bits.
    package var keptBytes = Processor.physicalMemory / 2

    package init(precision: Precision = .float32, dropPath: Float = 0, seed: UInt64 = 0) {
        (self.precision, self.dropPath, self.seed) = (precision, dropPath, seed)
    }

    /// Of the projections that see one row a crop. An int8 run computes them in float16: what follows (low
    /// temperatures, batch norm) multiplies the rounding, no mean over patches hides it, and so few rows cost nothing.
    /// (iBOT: least cosine of a gradient on the multi-crop fixture 0.9984 otherwise, 0.9991 so.)
    var projectionPrecision: Precision { precision == .int8 ? .float16 : precision }
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
    /// Weight of the term that a base imitates a head with (`simmim`); nil: the objective's own.
    package var globalWeight: Float?

    package init(step: Int, teacherTemperature: Float, teacherPatchTemperature: Float, batchImages: Int,
                 prototypesFrozen: Bool) {
        self.step = step
        self.teacherTemperature = teacherTemperature
        self.teacherPatchTemperature = teacherPatchTemperature
        self.batchImages = batchImages
        self.prototypesFrozen = prototypesFrozen
    }

    package init(step: Int, schedule: StepSchedule, batchImages: Int) {
        self.init(step: step, teacherTemperature: Float(schedule.teacherTemperature),
                  teacherPatchTemperature: Float(schedule.teacherPatchTemperature), batchImages: batchImages,
                  prototypesFrozen: schedule.prototypesFrozen)
    }
}

/// A self-supervised objective over a student and its teacher: losses and gradients of one update, micro-batch by
/// micro-batch, and what else it learns (centres).
package protocol Objective {
    var student: Network { get }
    /// Nil where nothing follows the student.
    var teacher: Network? { get }
    var settings: StepSettings { get set }
    /// Looks on; nil: nobody does.
    var observer: (any BaseObserver)? { get set }

    func newSums() -> UpdateSums
    /// Adds one micro-batch: losses and statistics to `sums`, gradients to the student's parameters. Objectives that
    /// couple images may leave the gradients to `finish`.
    func accumulate(_ batch: CropBatch, context: StepContext, pool: BufferPool, into sums: inout UpdateSums)
    /// Called when every image of the update was there.
    func finish(context: StepContext, pool: BufferPool, into sums: inout UpdateSums)
    /// Parameters that an update leaves alone entirely: no decay, no moment, no count.
    func frozen(_ schedule: StepSchedule) -> [Parameter]

    /// What the objective learns besides weights, by its names in a checkpoint.
    var state: [(name: String, values: [Float])] { get }
    /// - Parameter values: as many as `state` has under this name.
    mutating func restore(_ name: String, _ values: [Float])
    func isFinite(_ sums: UpdateSums) -> Bool
    /// Takes what an update measured into `state`. The teacher is still the one that made it.
    mutating func updateState(_ sums: UpdateSums, pool: BufferPool)
    /// Called after an update of the student's parameters: brings back those that must stay in a set.
    func didUpdate(pool: BufferPool)

    /// Whether a frozen teacher's cells are learnt from.
    var wantsCells: Bool { get }
    /// Whether the objective is to see what a frozen teacher says of the data set, before the first update.
    var wantsTeacherSample: Bool { get }
    /// - Parameter sample: of views spread over the data set, finite.
    mutating func learn(from sample: TeacherSample)
    /// Stands for a frozen teacher's answers where memory is measured; nil: none teaches here.
    func silentAnswers(images: Int) -> TeacherAnswers?

    /// Memory outside the pool while micro-batches are learnt from, bytes: of an update, and of an image.
    var heapBytes: (fixed: Int, perImage: Int) { get }
    /// Whether micro-batches wait until the whole update is there.
    var waits: Bool { get }
    /// Does what an update of so many images needs besides its micro-batches, so that its memory can be measured.
    /// Gradients are left behind.
    func rehearse(images: Int, pool: BufferPool)
}

extension Objective {
    package func finish(context: StepContext, pool: BufferPool, into sums: inout UpdateSums) {}
    package func frozen(_ schedule: StepSchedule) -> [Parameter] { [] }
    package var state: [(name: String, values: [Float])] { [] }
    package mutating func restore(_ name: String, _ values: [Float]) {}
    package func isFinite(_ sums: UpdateSums) -> Bool { true }
    package mutating func updateState(_ sums: UpdateSums, pool: BufferPool) {}
    package func didUpdate(pool: BufferPool) {}
    package var wantsCells: Bool { false }
    package var wantsTeacherSample: Bool { false }
    package mutating func learn(from sample: TeacherSample) {}
    package func silentAnswers(images: Int) -> TeacherAnswers? { nil }
    package var heapBytes: (fixed: Int, perImage: Int) { (0, 0) }
    package var waits: Bool { false }
    package func rehearse(images: Int, pool: BufferPool) {}

    /// Whether micro-batches come with a frozen teacher's answers.
    var wantsAnswers: Bool { silentAnswers(images: 0) != nil }

    /// The model that is exported and evaluated.
    package var deployed: Network { teacher ?? student }

    var hasAuxiliary: Bool { student.auxiliary != nil }

    /// loss = mean over the streams of their global terms + patch terms.
    var streamWeight: Float { hasAuxiliary ? 0.5 : 1 }

    var projectionPrecision: Precision { settings.projectionPrecision }

    /// The auxiliary head's global feature; nil without a head.
    func auxiliaryGlobal(_ network: Network, _ output: BaseOutput, _ pass: Pass) -> Tensor? {
        guard let auxiliary = network.auxiliary else { return nil }
        return auxiliary.global(output.cells, afterBase(pass, network))
    }

    /// The same pass as blocks after the base see it.
    func afterBase(_ pass: Pass, _ network: Network) -> Pass {
        var pass = pass
        pass.firstBlock = network.base.blocks
        return pass
    }

    /// - Parameter part: sets the tapes of one micro-batch apart.
    func trainingTape(_ batch: CropBatch, _ context: StepContext, part: UInt64, pool: BufferPool,
                      _ statistics: QuantizationStatistics?) -> Tape {
        let key = CounterRandom.combine([settings.seed, UInt64(context.step), UInt64(batch.firstImage), part])
        let tape = Tape(mode: .training, precision: settings.precision, pool: pool, roundingKey: key)
        tape.statistics = statistics
        return tape
    }

    /// The student's pass over some views of a micro-batch.
    func pass(_ batch: CropBatch, views: Range<Int>, _ context: StepContext) -> Pass {
        guard settings.dropPath > 0 else { return Pass(plain: settings.plain) }
        let samples = views.flatMap { view in (0..<batch.images).map { view << 32 | (batch.firstImage + $0) } }
        let depth = StochasticDepth(rate: settings.dropPath, blocks: student.blocks, seed: settings.seed,
                                    step: context.step, samples: samples)
        return Pass(stochasticDepth: depth, plain: settings.plain)
    }

    /// Fresh statistics for the micro-batch that holds the last image of an int8 update (one is enough to see the codes
    /// drift), else nil.
    func statistics(_ batch: CropBatch, _ context: StepContext) -> QuantizationStatistics? {
        let isLast = batch.firstImage + batch.images >= context.batchImages
        return settings.precision == .int8 && isLast ? QuantizationStatistics() : nil
    }
}
