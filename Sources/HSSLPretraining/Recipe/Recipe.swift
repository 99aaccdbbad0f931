/// A pretraining recipe: everything that decides a run besides the images. One property for each YAML key of `models/*.yaml`.
///
/// Values of a `Recipe` that came from ``parse(_:file:architectures:objectives:families:overrides:)`` are in range and consistent with one another.
/// Defaults are the published HSSL run (ViT-B/16, 100 epochs, arXiv 2310.05108) unless a comment says otherwise.
public struct Recipe: Equatable, Sendable {
    public var model: Model
    public var auxiliary: Auxiliary
    public var head: Head
    public var objective: Objective
    public var optimizer: Optimizer
    public var schedule: Schedule
    public var data: Data
    public var evaluation: Evaluation
    public var checkpoint: Checkpoint

    /// The base network, the part that is deployed.
    public struct Model: Equatable, Sendable {
        /// One of the names that the caller of `parse` lists, e.g. `vit_tiny`.
        public var architecture: String
        /// Side of a global view, pixels.
        public var imageSize: Int
        /// Side of a patch, pixels; divides `imageSize`.
        public var patchSize: Int
        /// Stochastic-depth rate of the last block; rates rise linearly from 0.
        public var dropPath: Double

        /// Patches along one side of a global view.
        public var gridSize: Int { imageSize / patchSize }
    }

    /// The auxiliary head of another architecture, attached to the base's tokens before the final norm.
    public struct Auxiliary: Equatable, Sendable {
        /// `none` switches HSSL off: plain self-distillation of the base.
        public var family: String
        /// Blocks.
        public var depth: Int
        /// Side of the depthwise kernel; odd.
        public var kernelSize: Int
        /// Whether the first block keeps its shortcut; the paper drops it to enlarge the discrepancy.
        public var firstShortcut: Bool
        public var numHeads: Int?
        public var bottleneckRatio = 0.25
        public var width: Int?

        public static let none = "none"
        public var isEnabled: Bool { family != Auxiliary.none }
    }

    /// Projection MLPs and the shared prototype layer.
    public struct Head: Equatable, Sendable {
        public var hiddenDim: Int
        public var bottleneckDim: Int
        /// K, the number of prototypes.
        public var prototypes: Int
        /// Prototype gains stay 1 when true, else `weight_g` is learned.
        public var normLastLayer: Bool
    }

    public struct Objective: Equatable, Sendable {
        public var name: String
        public var studentTemperature: Double
        /// First and last value of the warm-up over epochs.
        public var teacherTemperature: [Double]
        /// The same for patch targets.
        public var teacherPatchTemperature: [Double]
        public var warmupTeacherTemperatureEpochs: Int
        /// Mean mask ratios; each global view takes one of them with equal odds.
        public var maskRatio: [Double]
        /// Half-widths: the ratio is uniform in `maskRatio[i] ± maskRatioVariance[i]`.
        public var maskRatioVariance: [Double]
        public var maskShape: MaskShape
        /// c ← m·c + (1 − m)·mean of the teacher's logits.
        public var centerMomentum: Double
    }

    public enum MaskShape: String, CaseIterable, Sendable { case block, random }

    public struct Optimizer: Equatable, Sendable {
        /// For an effective batch of 256; scaled by effective batch/256 in `Schedules`.
        public var learningRate: Double
        /// Not scaled by the batch.
        public var minLearningRate: Double
        public var warmupEpochs: Int
        /// First and last value of a cosine over the run.
        public var weightDecay: [Double]
        /// Largest L2 norm of one tensor's gradient; 0 does not clip.
        public var clipGradient: Double
        /// First value of a cosine that ends at 1.
        public var teacherMomentum: Double
        public var freezePrototypesEpochs: Int
        /// How the moments of large matrices are kept.
        public var states: States
    }

    public enum States: String, CaseIterable, Sendable {
        /// int8 where `Schedule.precision` is, else float32.
        case auto
        case float32, int8

        /// Nil: as goes with the precision.
        package var storage: MomentStorage? { MomentStorage(rawValue: rawValue) }
    }

    public struct Schedule: Equatable, Sendable {
        public var epochs: Int
        /// Images of one batch; an update has `accumulate` of them. How many go through the network at once is the trainer's choice.
        public var batchSize: Int
        /// Batches of one update.
        public var accumulate: Int
        public var seed: UInt64
        public var precision: Precision

        /// Images of one update.
        public var effectiveBatch: Int { batchSize * accumulate }
    }

    public enum Precision: String, CaseIterable, Sendable { case float32, float16, int8 }

    public struct Data: Equatable, Sendable {
        /// Area of a global crop as a fraction of the image: smallest, largest.
        public var globalCropsScale: [Double]
        /// Local views of an image.
        public var localCrops: Int
        public var localCropsScale: [Double]
        /// Side of a local view, pixels; a multiple of `patchSize`.
        public var localCropsSize: Int
        /// Per channel (R, G, B), of values in 0…1.
        public var mean: [Double]
        public var std: [Double]
        public var flipProbability: Double
        /// Largest change of brightness, contrast, saturation (factor 1 ± x) and hue (± x turns), as torchvision's `ColorJitter`.
        public var colorJitter: [Double]
        public var colorJitterProbability: Double
        public var grayscaleProbability: Double
        /// Probability in the first global view, the second global view and local views.
        public var blurProbability: [Double]
        /// Gaussian σ in pixels: smallest, largest.
        public var blurRadius: [Double]
        /// In the second global view only.
        public var solarizeProbability: Double
        /// 8-bit values at or above are inverted.
        public var solarizeThreshold: Int
    }

    public struct Evaluation: Equatable, Sendable {
        /// 0: never.
        public var knnEveryEpochs: Int
        public var knnReferenceImages: Int
    }

    public struct Checkpoint: Equatable, Sendable {
        public var everySteps: Int
    }
}

/// Why a recipe or a `--set` was refused: one line that names the file and line (or the option), the key and the reason.
public struct RecipeError: Error, Equatable, CustomStringConvertible {
    /// `FILE:LINE`, `FILE` or `--set KEY`.
    public let place: String
    public let reason: String
    public var description: String { "\(place): \(reason)" }

    package init(place: String, reason: String) {
        self.place = place
        self.reason = reason
    }
}
