import Glibc

/// The values that one update runs with.
public struct StepSchedule: Equatable, Sendable {
    /// Completed epochs before this step, from 0.
    public var epoch: Int
    /// AdamW's rate for this update, after the batch rule.
    public var learningRate: Double
    /// AdamW's decay: an update multiplies a weight by 1 − rate · decay (of tensors of rank 2 and more).
    public var weightDecay: Double
    /// Share of the teacher that the update keeps, 0 … 1; the rest is the student.
    public var teacherMomentum: Double
    /// Divides the teacher's logits of global features.
    public var teacherTemperature: Double
    /// Divides the teacher's logits of patches.
    public var teacherPatchTemperature: Double
    /// Whether the prototype layer gets no update.
    public var prototypesFrozen: Bool

    package init(
        epoch: Int, learningRate: Double, weightDecay: Double, teacherMomentum: Double, teacherTemperature: Double,
        teacherPatchTemperature: Double, prototypesFrozen: Bool
    ) {
        self.epoch = epoch
        self.learningRate = learningRate
        self.weightDecay = weightDecay
        self.teacherMomentum = teacherMomentum
        self.teacherTemperature = teacherTemperature
        self.teacherPatchTemperature = teacherPatchTemperature
        self.prototypesFrozen = prototypesFrozen
    }
}

/// Every scheduled value as a function of the step alone, so a resumed run follows the same curves.
///
/// With T steps in all, S steps an epoch, W = warm-up epochs · S and step t in 0 ..< T:
///
/// - learning rate: `linspace(0, lr, W)` (both ends, so step W−1 already has the peak), then
///   min + ½(lr − min)(1 + cos(π(t − W)/(T − W))), where lr = base · effective batch/256; min is not scaled;
/// - weight decay and teacher momentum: end + ½(start − end)(1 + cos(πt/T)), momentum ending at 1;
/// - of a distillation, whose teacher is somebody else and whose average is what is deployed: momentum constant, but at
///   most (t + 1)/(t + 10), so that an average of few updates holds little of the first weights;
/// - temperatures, by epoch e: `linspace(first, last, E_w)[e]`, then `last`.
///
/// Source: DINO's `cosine_scheduler` and iBOT's temperature schedule, which take the values at t, never at T: the last
/// step is not quite at the end value.
public struct Schedules: Sendable {
    /// Passes over the images.
    public let epochs: Int
    /// Updates of a pass.
    public let stepsPerEpoch: Int
    /// Peak learning rate, after the batch rule.
    public let peakLearningRate: Double
    private let optimizer: Recipe.Optimizer
    private let objective: Recipe.Objective
    /// Whether the follower is an average to be deployed, not somebody to learn from.
    private var isAverage: Bool { objective.name == Recipe.distillObjective }

    /// Updates of the whole run, T.
    public var totalSteps: Int { epochs * stepsPerEpoch }

    /// - Parameter stepsPerEpoch: updates an epoch, at least 1. `--max-steps` does not enter: stopping early changes no
    ///   curve.
    public init(recipe: Recipe, stepsPerEpoch: Int) {
        self.init(optimizer: recipe.optimizer, objective: recipe.objective, epochs: recipe.schedule.epochs,
                  effectiveBatch: recipe.schedule.effectiveBatch, stepsPerEpoch: stepsPerEpoch)
    }

    /// The schedules of these settings.
    ///
    /// - Parameters:
    ///   - optimizer: rates, warm-up, decay and teacher's momentum.
    ///   - objective: temperatures, and whether the run is a distillation.
    ///   - epochs: at least 1.
    ///   - effectiveBatch: images of an update.
    ///   - stepsPerEpoch: updates an epoch, at least 1.
    public init(
        optimizer: Recipe.Optimizer, objective: Recipe.Objective, epochs: Int, effectiveBatch: Int, stepsPerEpoch: Int
    ) {
        precondition(stepsPerEpoch >= 1 && epochs >= 1, "a schedule needs at least one step")
        self.optimizer = optimizer
        self.objective = objective
        self.epochs = epochs
        self.stepsPerEpoch = stepsPerEpoch
        peakLearningRate = optimizer.learningRate * Double(effectiveBatch) / 256
    }

    /// The values of one update.
    ///
    /// - Parameter step: updates done before this one, 0 ..< ``totalSteps``.
    public func values(step: Int) -> StepSchedule {
        let epoch = step / stepsPerEpoch
        return StepSchedule(
            epoch: epoch,
            learningRate: learningRate(step: step),
            weightDecay: Self.cosine(
                from: optimizer.weightDecay[0], to: optimizer.weightDecay[1], step: step, of: totalSteps),
            teacherMomentum: isAverage
                ? min(optimizer.teacherMomentum, Double(step + 1) / Double(step + 10))
                : Self.cosine(from: optimizer.teacherMomentum, to: 1, step: step, of: totalSteps),
            teacherTemperature: temperature(objective.teacherTemperature, epoch: epoch),
            teacherPatchTemperature: temperature(objective.teacherPatchTemperature, epoch: epoch),
            prototypesFrozen: epoch < optimizer.freezePrototypesEpochs)
    }

    private func learningRate(step: Int) -> Double {
        let warmup = Int((optimizer.warmupEpochs * Double(stepsPerEpoch)).rounded())
        if step < warmup {
            // numpy's linspace(0, lr, 1) is [0].
            return warmup == 1 ? 0 : peakLearningRate * Double(step) / Double(warmup - 1)
        }
        return Self.cosine(
            from: peakLearningRate, to: optimizer.minLearningRate, step: step - warmup, of: totalSteps - warmup)
    }

    private func temperature(_ ends: [Double], epoch: Int) -> Double {
        let warmup = objective.warmupTeacherTemperatureEpochs
        guard epoch < warmup else { return ends[1] }
        return warmup == 1 ? ends[0] : ends[0] + (ends[1] - ends[0]) * Double(epoch) / Double(warmup - 1)
    }

    private static func cosine(from start: Double, to end: Double, step: Int, of count: Int) -> Double {
        end + 0.5 * (start - end) * (1 + cos(Double.pi * Double(step) / Double(count)))
    }
}
