import CSupport
import HSSLGraph
import HSSLModels
import HSSLPretraining

/// Whole pretraining steps on synthetic views: random weights, real work.
public struct PretrainBenchmark {
    public let architecture: ModelArchitecture
    public let precision: Precision
    public let batchSize: Int
    public let prototypes: Int
    public let steps: Int
    public let moments: MomentStorage
    /// As `objective.name` of a recipe; nil: `ibot`, or `dino` for a model that has no place for masks.
    public let objective: String?

    /// - Parameter moments: of the optimizer; nil: as goes with the precision.
    public init(
        architecture: ModelArchitecture, precision: Precision, batchSize: Int, prototypes: Int, steps: Int,
        moments: MomentStorage? = nil, objective: String? = nil
    ) {
        self.objective = objective
        (self.architecture, self.precision, self.batchSize, self.prototypes, self.steps) = (
            architecture, precision, batchSize, prototypes, steps
        )
        self.moments = moments ?? MomentStorage(for: precision)
    }

    public struct Result: Sendable {
        /// Median over the steps; images, not views.
        public let imagesPerSecond: Double
        public let peakRSSBytes: Int
        public let microBatch: Int
        /// Seconds of each timed step.
        public let stepSeconds: [Double]
        /// Share of the time: teacher, student forward, backward, update; the rest of a step is below a percent.
        public let shares: [(part: String, share: Double)]
    }

    /// Two global views an image, half of the crops masked at 30 %, stochastic depth 0.1; the published head sizes
    /// unless the model is `vit_nano`.
    ///
    /// - Parameter plain: evaluates the published definition: every token through both projections, block by block,
    ///   logits stored.
    public func run(microBatch: Int? = nil, plain: Bool = false) throws -> Result {
        // A model for small images gets the heads of the recipes for them.
        let nano = architecture.imageSize < 64
        let base = architecture.makeBase(ParameterScope(ParameterSet()), .pretraining)
        let cells = base.grid(height: architecture.imageSize, width: architecture.imageSize).count
        let sizes = NetworkSizes(base: architecture, auxiliary: HeadSettings(family: "convnext", depth: nano ? 2 : 3))
        let objective = try settings(base, nano: nano)
        let learner = try Learner(
            sizes: sizes, objective: objective, settings: .init(precision: precision, dropPath: 0.1),
            clipGradient: 0.3, moments: moments)
        learner.objective.settings.plain = plain
        let usual = Trainer.defaultMicroBatch(architecture, views: objective.globalViews)
        let micro = min(batchSize, microBatch ?? usual)
        let parts = stride(from: 0, to: batchSize, by: micro).map {
            views(cells, first: $0, count: min(micro, batchSize - $0), objective)
        }
        var seconds: [Double] = [], update = 0.0
        var time = UpdateSums.Time()
        for step in 0...steps {
            let start = ContinuousClock.now
            var sums = learner.newSums()
            for part in parts {
                learner.accumulate(
                    part,
                    context: .init(
                        step: step, teacherTemperature: 0.04, teacherPatchTemperature: 0.04,
                        batchImages: batchSize, prototypesFrozen: false), into: &sums)
            }
            let middle = ContinuousClock.now
            _ = learner.update(
                sums,
                schedule: StepSchedule(
                    epoch: 0, learningRate: 1e-4, weightDecay: 0.04, teacherMomentum: 0.996, teacherTemperature: 0.04,
                    teacherPatchTemperature: 0.04, prototypesFrozen: false))
            let end = ContinuousClock.now
            // The first step fills the pool.
            if step == 0 { continue }
            seconds.append(Self.seconds(end - start))
            time.teacher += sums.time.teacher
            time.forward += sums.time.forward
            time.backward += sums.time.backward
            update += Self.seconds(end - middle)
        }
        let median = seconds.sorted()[seconds.count / 2]
        let total = max(seconds.reduce(0, +), 1e-9)
        return Result(
            imagesPerSecond: Double(batchSize) / median, peakRSSBytes: Int(hssl_peak_rss()), microBatch: micro,
            stepSeconds: seconds,
            shares: [
                ("teacher", Self.seconds(time.teacher) / total),
                ("student forward", Self.seconds(time.forward) / total),
                ("student backward", Self.seconds(time.backward) / total), ("update", update / total),
            ])
    }

    /// The published head sizes, or those of the recipes for small images.
    private func settings(_ base: any Base, nano: Bool) throws -> any ObjectiveSettings {
        let (hidden, output) = (nano ? 512 : 4096, nano ? 128 : 256), side = architecture.imageSize
        let name = objective ?? (base.maskToken == nil ? "dino" : "ibot")
        if base.maskToken == nil, ["ibot", "simmim"].contains(name) {
            throw ModelError("objective \(name) masks patches, and \(architecture.name) has no place for a mask")
        }
        switch name {
        case "mocov3": return MoCoV3Settings(hidden: hidden, output: output)
        case "byol": return BYOLSettings(hidden: hidden, output: output)
        case "simmim": return SimMIMSettings(maskStride: side / base.grid(height: side, width: side).height)
        default:
            let options = PrototypeOptions(
                hidden: nano ? 256 : 2048, bottleneck: nano ? 64 : 256, prototypes: prototypes)
            return name == "ibot" ? IBOTSettings(options) : DINOSettings(options)
        }
    }

    private func views(_ tokens: Int, first: Int, count: Int, _ objective: any ObjectiveSettings) -> CropBatch {
        let views = objective.globalViews, ratio: Float = views == 1 ? 0.6 : 0.3
        let batch = CropBatch(
            images: count, globalViews: views, globalSize: architecture.imageSize, localViews: 0, localSize: 0,
            tokens: tokens,
            firstImage: first)
        var random = CounterRandom(seed: 1, stream: UInt64(first))
        for i in batch.globals.indices { batch.globals[i] = random.uniform(-2, 2) }
        for crop in stride(from: 0, to: views * count, by: views) {
            for token in 0..<tokens where random.uniform() < ratio { batch.masks[crop * tokens + token] = 1 }
        }
        return batch
    }

    static func seconds(_ duration: Duration) -> Double {
        Double(duration.components.seconds) + Double(duration.components.attoseconds) * 1e-18
    }
}
