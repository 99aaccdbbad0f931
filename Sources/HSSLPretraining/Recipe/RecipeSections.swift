import HSSLFormats
import HSSLGraph
import HSSLModels

// Each section: its properties (with the published run's values) and, below them, the declarations of its keys.

extension Recipe {
    /// The names that some keys may take; the caller of `parse` lists them.
    struct Names {
        var architectures: [String] = []
        var objectives = Recipe.supportedObjectives
        var families = Recipe.supportedFamilies
    }

    /// The sections in canonical order.
    static func sections(_ names: Names = Names()) -> [RecipeSection] {
        [
            modelSection(names), auxiliarySection(names), headSection, objectiveSection(names), distillSection,
            optimizerSection, scheduleSection, dataSection, evaluationSection, checkpointSection,
        ]
    }
}

// MARK: model

extension Recipe {
    /// Keys of the section `model`: the base network, the part that is deployed.
    public struct Model: Equatable, Sendable {
        /// `architecture`: a name of `ModelArchitecture.names`, or `custom`: as the file of `initialize_from`.
        public var architecture = ""
        /// `image_size`: side of a global view, pixels, 1 … 2048; 0 is not set.
        public var imageSize = 0
        /// `patch_size`: side of a patch, pixels, 1 … 256, a divisor of `image_size`; nil: the architecture's own.
        public var patchSize: Int?
        /// `drop_path`: stochastic-depth rate of the last block, at least 0 and below 1; rates rise linearly from 0.
        public var dropPath = 0.1
        /// `layer_scale`: where the scales of residual branches begin, 1e-6 … 1; nil: the family's own.
        public var layerScale: Double?
        /// `freeze_patch_embedding`: whether the patch embedding stays as it was drawn (MoCo v3).
        public var freezePatchEmbedding = false
        /// `initialize_from`: path of the model file in which the base begins; nil: at random.
        public var initializeFrom: String?
        /// `sizes`: JSON of the base's sizes as `hssl.architecture` holds them; nil: those of `architecture`.
        public var sizes: String?
    }

    private static func modelSection(_ names: Names) -> RecipeSection {
        RecipeSection(name: "model", help: "the base network, the part that is deployed", keys: [
            .choice("architecture", \.model.architecture, of: names.architectures + [ModelArchitecture.customName],
                    required: true, "The base; custom: as the file of initialize_from."),
            .integer("image_size", \.model.imageSize, in: 1...2048, required: true,
                     "Side of a global view, pixels.").checked {
                guard let patch = $0.model.patchSize, $0.model.imageSize % patch != 0 else { return nil }
                return "(\($0.model.imageSize)) must be a multiple of model.patch_size (\(patch))"
            },
            .integer("patch_size", \.model.patchSize, in: 1...256, otherwise: "the architecture's own",
                     "Side of a patch, pixels; divides image_size."),
            .number("drop_path", \.model.dropPath, in: .fraction,
                    "Stochastic-depth rate of the last block; rates rise linearly from 0."),
            .number(
                "layer_scale", \.model.layerScale, in: .from(1e-6, to: 1), otherwise: "the family's own",
                "Where the scales of residual branches begin, in a family that has them: from ConvNeXt's own 1e-6 a "
                    + "branch takes hundreds of updates to count, which a short run does not have."),
            // Builds before this key trained every patch embedding.
            .flag(
                "freeze_patch_embedding", \.model.freezePatchEmbedding, absentMeans: false,
                "Whether the patch embedding stays as it was drawn; true for a ViT, unless its images are small."),
            .text(
                "initialize_from", \.model.initializeFrom, values: "the path of a model file",
                otherwise: "random",
                "Model of hssl import or hssl export in which the base of student and teacher begins; head and "
                    + "projections are new. The default learning rate is then a tenth."),
            .text(
                "sizes", \.model.sizes, values: "JSON", otherwise: "the architecture's",
                "What hssl.architecture of that file says; hssl writes it where "
                + "no named architecture has these sizes."
            ),
        ])
    }
}

// MARK: auxiliary

extension Recipe {
    /// Keys of the section `auxiliary`: the head of another architecture, attached to the base's last grid before the
    /// final norm. Each family reads some of them. Source: arXiv 2310.05108.
    public struct Auxiliary: Equatable, Sendable {
        /// `family`: of the head, one of ``Recipe/supportedFamilies``.
        public var family = "convnext"
        /// `depth`: blocks, 1 … 64.
        public var depth = 3
        /// `kernel_size`: side of the depthwise kernel, cells, odd, 1 … 63.
        public var kernelSize = 7
        /// `first_shortcut`: whether the first block keeps its residual connections.
        public var firstShortcut = false
        /// `num_heads`: attention heads, 1 … 1024, a divisor of the width; nil: width/32, at least 1.
        public var numHeads: Int?
        /// `bottleneck_ratio`: inner width of a bottleneck block over its outer, above 0 and at most 4.
        public var bottleneckRatio = 0.25
        /// `width`: channels of the head, at least 1; nil: the base's, at most 768.
        public var width: Int?

        /// The `family` without a head.
        public static let none = "none"
        /// Whether there is a head.
        public var isEnabled: Bool { family != Auxiliary.none }
    }

    private static func auxiliarySection(_ names: Names) -> RecipeSection {
        let help = "the head of another architecture, attached to the base's grid before the final norm"
        return RecipeSection(name: "auxiliary", help: help, keys: [
            .choice(
                "family", \.auxiliary.family, of: names.families,
                "The head; none switches HSSL off, and is the default of objective distill."),
            .integer("depth", \.auxiliary.depth, in: 1...64, "Blocks."),
            .integer(
                "kernel_size", \.auxiliary.kernelSize, in: 1...63,
                "Side of the depthwise kernel; odd."
            ).checked {
                $0.auxiliary.kernelSize % 2 == 0 ? "must be odd, not \($0.auxiliary.kernelSize)" : nil
            },
            .flag(
                "first_shortcut", \.auxiliary.firstShortcut,
                "Whether the first block keeps its shortcuts; without them the head differs more from the base."),
            .integer(
                "num_heads", \.auxiliary.numHeads, in: 1...1024, otherwise: "width/32, at least 1",
                "Attention heads; divides the width."),
            .number(
                "bottleneck_ratio", \.auxiliary.bottleneckRatio, in: .positive(upTo: 4),
                "Inner width of a bottleneck block as a part of its outer."),
            .integer("width", \.auxiliary.width, in: 1...ModelBounds.groupNormChannels,
                     otherwise: "the base's, at most 768",
                     "Channels; where the base has others, a linear layer goes before the head."),
        ])
    }

    /// What each head family reads.
    static let familyVariants = HeadFamilies.all.map { family in
        let keys = ["depth", "first_shortcut", "width"] + family.ownKeys
        return RecipeVariant(name: family.family, help: family.summary, keys: keys.map { "auxiliary.\($0)" })
    } + [
        // Files of the first builds spell out a head's keys beside `none`.
        RecipeVariant(name: Auxiliary.none, help: "no head: the base alone; other keys of the section are ignored",
                      keys: [], ignoresOthers: true),
    ]
}

// MARK: head and objective

extension Recipe {
    /// Keys of the section `head`: sizes of what is put on base and auxiliary head while training (MLPs, prototypes,
    /// predictors). Each objective reads some of them.
    public struct Head: Equatable, Sendable {
        /// `hidden_dim`: width of an MLP's hidden layers, 1 … 65536.
        public var hiddenDim = 2048
        /// `bottleneck_dim`: width of an MLP's output, which is compared with the prototypes, 1 … 65536.
        public var bottleneckDim = 256
        /// `prototypes`: how many there are, 2 … 1048576.
        public var prototypes = 8192
        /// `norm_last_layer`: whether prototypes keep length 1; if not, each has a gain that is learnt.
        public var normLastLayer = true
        /// `out_dim`: width of projections and predictions, 1 … 65536.
        public var outDim = 256
        /// `projector_layers`: linear layers of a projector, 2 … 8.
        public var projectorLayers = 3
        /// `predictor_last_norm`: whether predictors end in batch norm.
        public var predictorLastNorm = true
    }

    private static var headSection: RecipeSection {
        let help = "what the objective's projections need: MLPs, and a shared layer of prototypes or predictors"
        return RecipeSection(name: "head", help: help, keys: [
            .integer("hidden_dim", \.head.hiddenDim, in: 1...65_536, "Width of an MLP's hidden layers."),
            .integer("bottleneck_dim", \.head.bottleneckDim, in: 1...65_536,
                     "Width of an MLP's output, which is compared with the prototypes."),
            .integer("prototypes", \.head.prototypes, in: 2...1_048_576, "Number of prototypes."),
            .flag("norm_last_layer", \.head.normLastLayer, "Prototypes keep length 1; false learns a gain for each."),
            .integer("out_dim", \.head.outDim, in: 1...65_536, "Width of projections and predictions."),
            .integer("projector_layers", \.head.projectorLayers, in: 2...8, "Linear layers of a projector."),
            .flag("predictor_last_norm", \.head.predictorLastNorm,
                  "Whether predictors end in batch norm (MoCo v3: with a ViT, not with a ResNet)."),
        ])
    }

    /// Keys of the section `objective`: what student and teacher are to agree on. Each objective reads some.
    public struct Objective: Equatable, Sendable {
        /// `name`: one of ``Recipe/supportedObjectives``.
        public var name = "ibot"
        /// `student_temperature`: divides the student's logits, 0.001 … 100.
        public var studentTemperature = 0.1
        /// `teacher_temperature`: divides the teacher's logits of global features: first and last value of its warm-up,
        /// 0.001 … 100 each.
        public var teacherTemperature = [0.04, 0.07]
        /// `teacher_patch_temperature`: the same for logits of patches.
        public var teacherPatchTemperature = [0.04, 0.07]
        /// `warmup_teacher_temperature_epochs`: epochs from the first of these values to the last, 0 … 10⁶.
        public var warmupTeacherTemperatureEpochs = 50
        /// `mask_ratio`: mean fractions of masked patches, 1 to 16 of them in 0 … 1; each global view takes one of
        /// them with equal odds.
        public var maskRatio = [0, 0.3]
        /// `mask_ratio_variance`: half-widths, one for each of `mask_ratio`: a view's fraction is uniform in ratio ±
        /// half-width, which must stay in 0 … 1.
        public var maskRatioVariance = [0, 0.2]
        /// `mask_shape`: whether rectangles of patches are masked or single ones.
        public var maskShape = MaskShape.block
        /// `center_momentum`: share of the old centre that an update keeps, 0 … 1; the rest is the mean of the
        /// teacher's logits.
        public var centerMomentum = 0.9
        /// `temperature`: divides similarities to keys (MoCo v3), 0.001 … 100.
        public var temperature = 0.2
        /// `global_weight`: of the term by which the base imitates the head (SimMIM with a head), 0 … 1000.
        public var globalWeight = 1.0
    }

    /// What is masked of a view: `block` draws rectangles of patches (BEiT), `random` single patches (SimMIM).
    public enum MaskShape: String, CaseIterable, Sendable { case block, random }

    private static func objectiveSection(_ names: Names) -> RecipeSection {
        let temperature = Bounds.from(0.001, to: 100), epochs = 0...1_000_000
        return RecipeSection(name: "objective", help: "what student and teacher are to agree on", keys: [
            .choice("name", \.objective.name, of: names.objectives, "The self-supervised objective."),
            .number("student_temperature", \.objective.studentTemperature, in: temperature,
                    "Divides the student's logits."),
            .numbers("teacher_temperature", \.objective.teacherTemperature, count: 2...2, in: temperature,
                     "Divides the teacher's logits: first and last value of the warm-up."),
            .numbers("teacher_patch_temperature", \.objective.teacherPatchTemperature, count: 2...2, in: temperature,
                     "The same for patch targets."),
            .integer("warmup_teacher_temperature_epochs", \.objective.warmupTeacherTemperatureEpochs, in: epochs,
                     "Epochs over which the teacher's temperatures go from the first "
                        + "value to the last; half of fewer than 100."),
            .numbers("mask_ratio", \.objective.maskRatio, count: 1...16, in: .probability,
                     "Mean shares of masked patches; each global view takes one of them with equal odds."),
            .numbers("mask_ratio_variance", \.objective.maskRatioVariance, count: 1...16, in: .probability,
                     "Half-widths, one for each mask_ratio: a view's share is uniform in ratio ± half-width.")
                .checked(maskRatioFault),
            .choice("mask_shape", \.objective.maskShape, "Whether rectangles of patches are masked or single ones."),
            .number("center_momentum", \.objective.centerMomentum, in: .probability,
                    "Share of the old centre that an update keeps; the rest is the mean of the teacher's logits."),
            .number("temperature", \.objective.temperature, in: temperature, "Divides similarities to keys."),
            .number("global_weight", \.objective.globalWeight, in: .from(0, to: 1000),
                    "Of the term by which the base imitates the head; only where there is a head."),
        ])
    }

    private static func maskRatioFault(_ recipe: Recipe) -> String? {
        let ratios = recipe.objective.maskRatio, variances = recipe.objective.maskRatioVariance
        guard ratios.count == variances.count else {
            return "must have as many numbers as objective.mask_ratio (\(ratios.count))"
        }
        let outside = zip(ratios, variances).first { $0 < $1 || $0 + $1 > 1 }
        return outside.map { "\($1) takes the ratio \($0) outside 0…1" }
    }

    /// What each objective reads.
    static let objectiveVariants = [
        RecipeVariant(
            name: "ibot", help: "global features of two views agree, masked patches are predicted (arXiv 2111.07832)",
            keys: distillationKeys + [
                "objective.teacher_patch_temperature",
            ] + maskKeys, smallDefaults: fewPrototypes),
        RecipeVariant(
            name: "dino", help: "global features of two views agree (arXiv 2104.14294); iBOT without its patch term",
            keys: distillationKeys, smallDefaults: fewPrototypes),
        RecipeVariant(
            name: "mocov3",
            help: "of all images of an update, a view recognises the other of its own (arXiv 2104.02057)",
            keys: embeddingKeys + [
                "head.projector_layers", "head.predictor_last_norm", "objective.temperature",
                "model.freeze_patch_embedding",
            ], defaults: jointEmbedding, smallDefaults: narrowEmbedding),
        RecipeVariant(
            name: "byol", help: "a view predicts the teacher's projection of the other (arXiv 2006.07733)",
            keys: embeddingKeys, defaults: jointEmbedding, smallDefaults: narrowEmbedding),
        RecipeVariant(
            name: "simmim", help: "pixels of masked cells are predicted (arXiv 2111.09886); under HSSL the base also "
                + "imitates the head", keys: maskKeys + ["objective.global_weight"], defaults: maskedImages,
            smallDefaults: { $0.optimizer.learningRate = 1e-3 }),
        distillVariant,
    ]

    private static let maskKeys = ["objective.mask_ratio", "objective.mask_ratio_variance", "objective.mask_shape"]
    private static let embeddingKeys = ["head.hidden_dim", "head.out_dim"]

    /// As MoCo v3 was published (BYOL with AdamW alike).
    private static func jointEmbedding(_ recipe: inout Recipe) {
        recipe.head.hiddenDim = 4096
        recipe.optimizer.learningRate = 1.5e-4
        recipe.optimizer.minLearningRate = 0
        recipe.optimizer.weightDecay = [0.1, 0.1]
        recipe.optimizer.clipGradient = 0
        recipe.optimizer.teacherMomentum = 0.99
        recipe.data.globalCropsScale = [0.08, 1]
    }

    private static func fewPrototypes(_ recipe: inout Recipe) {
        recipe.head.hiddenDim = 256
        recipe.head.bottleneckDim = 64
        recipe.head.prototypes = 512
        recipe.optimizer.teacherMomentum = 0.99
    }

    private static func narrowEmbedding(_ recipe: inout Recipe) {
        recipe.head.hiddenDim = 512
        recipe.head.outDim = 128
        recipe.head.projectorLayers = 2
        recipe.optimizer.weightDecay = [0.04, 0.04]
    }

    /// As SimMIM was published: crop and flip only. (Its rate was 1e-4 for 512 images.)
    private static func maskedImages(_ recipe: inout Recipe) {
        recipe.objective.maskRatio = [0.6]
        recipe.objective.maskRatioVariance = [0]
        recipe.objective.maskShape = .random
        recipe.optimizer.learningRate = 5e-5
        recipe.optimizer.minLearningRate = 0
        recipe.optimizer.weightDecay = [0.05, 0.05]
        recipe.optimizer.clipGradient = 0
        recipe.optimizer.teacherMomentum = 0.99
        recipe.data.globalCropsScale = [0.67, 1]
        recipe.data.colorJitterProbability = 0
        recipe.data.grayscaleProbability = 0
        recipe.data.blurProbability = [0, 0, 0]
        recipe.data.solarizeProbability = 0
    }

    /// Keys of objectives that assign images to prototypes.
    private static let distillationKeys = [
        "head.hidden_dim", "head.bottleneck_dim", "head.prototypes", "head.norm_last_layer",
        "objective.student_temperature", "objective.teacher_temperature",
        "objective.warmup_teacher_temperature_epochs", "objective.center_momentum",
        "optimizer.freeze_prototypes_epochs",
        "data.local_crops", "data.local_crops_scale", "data.local_crops_size",
    ]
}

// MARK: optimizer

extension Recipe {
    /// Keys of the section `optimizer`: AdamW, and how the teacher follows the student.
    public struct Optimizer: Equatable, Sendable {
        /// `learning_rate`: peak rate for an update of 256 images, above 0 and at most 1000; scaled by images/256 for
        /// others.
        public var learningRate = 7.5e-4
        /// `min_learning_rate`: last rate of the cosine, 0 … 1000; not scaled.
        public var minLearningRate = 2e-6
        /// `warmup_epochs`: epochs, whole or not, over which the rate rises linearly from 0; 0 … 10⁶.
        public var warmupEpochs = 10.0
        /// `weight_decay`: first and last value of a cosine over the run, 0 … 100 each.
        public var weightDecay = [0.04, 0.4]
        /// `clip_gradient`: largest L2 norm of one tensor's gradient, 0 … 10⁶; 0 does not clip.
        public var clipGradient = 0.3
        /// `teacher_momentum`: share of the teacher that an update keeps, 0 … 1: first value of a cosine that ends at
        /// 1; of objective `distill` constant, but less in the first updates.
        public var teacherMomentum = 0.996
        /// `freeze_prototypes_epochs`: first epochs in which the prototypes stay as they are, 0 … 10⁶.
        public var freezePrototypesEpochs = 3
        /// `states`: how AdamW's moments of large matrices are kept.
        public var states = States.auto
    }

    /// How AdamW's moments of large matrices are kept; those of vectors and small tensors are float32 always.
    public enum States: String, CaseIterable, Sendable {
        /// As goes with `Schedule.precision`: int8 for int8, else float32.
        case auto
        /// `float32`: as they are. `int8`: codes of one byte and their scales.
        case float32, int8

        /// Nil: as goes with the precision.
        package var storage: MomentStorage? { MomentStorage(rawValue: rawValue) }
    }

    private static var optimizerSection: RecipeSection {
        RecipeSection(name: "optimizer", help: "AdamW, and how the teacher follows the student", keys: [
            .number("learning_rate", \.optimizer.learningRate, in: .positive(upTo: 1000),
                    "Peak rate for an update of 256 images; scaled by images/256 for others.")
                // Builds before wrote the default of `initialize_from` with an error in the last digit.
                .meaning { .number(($0.optimizer.learningRate * 1e12).rounded() / 1e12) },
            .number("min_learning_rate", \.optimizer.minLearningRate, in: .from(0, to: 1000),
                    "Last rate of the cosine; not scaled."),
            .count("warmup_epochs", \.optimizer.warmupEpochs, in: .from(0, to: 1_000_000),
                   "Epochs, or a part of one, over which the rate rises linearly from 0; a tenth of fewer than 100."),
            .numbers("weight_decay", \.optimizer.weightDecay, count: 2...2, in: .from(0, to: 100),
                     "First and last value of a cosine over the run."),
            .number("clip_gradient", \.optimizer.clipGradient, in: .from(0, to: 1e6),
                    "Largest L2 norm of one tensor's gradient; 0 does not clip."),
            .number(
                "teacher_momentum", \.optimizer.teacherMomentum, in: .probability,
                "First value of a cosine that ends at 1; of objective distill "
                + "constant, but less in the first updates."
            ),
            .integer(
                "freeze_prototypes_epochs", \.optimizer.freezePrototypesEpochs, in: 0...1_000_000,
                "First epochs in which the prototypes stay as they are; fewer in less than 100 epochs."),
            // Builds before this key kept every moment in float32.
            .choice(
                "states", \.optimizer.states, absentMeans: .float32,
                "How moments of large matrices are kept; auto: int8 where schedule.precision is, else float32."
            )
            .meaning {
                let automatic = $0.schedule.precision == .int8 ? States.int8 : .float32
                return .text(($0.optimizer.states == .auto ? automatic : $0.optimizer.states).rawValue)
            },
        ])
    }
}

// MARK: schedule

extension Recipe {
    /// Keys of the section `schedule`: how long a run is, and in what arithmetic.
    public struct Schedule: Equatable, Sendable {
        /// `epochs`: passes over the images, 1 … 10⁶; every schedule stretches with it.
        public var epochs = 100
        /// `batch_size`: images of a batch, 1 … 65536.
        public var batchSize = 256
        /// `accumulate`: batches of one update, 1 … 65536.
        public var accumulate = 1
        /// `seed`: of weights, order of images, augmentations and masks; any 64 bits.
        public var seed: UInt64 = 0
        /// `precision`: arithmetic of the matrix products.
        public var precision = Precision.float32

        /// Images of one update: ``batchSize`` times ``accumulate``.
        public var effectiveBatch: Int { batchSize * accumulate }
    }

    /// Arithmetic of the matrix products while training.
    public typealias Precision = HSSLGraph.Precision

    private static var scheduleSection: RecipeSection {
        RecipeSection(name: "schedule", help: "how long, and in what arithmetic", keys: [
            .integer("epochs", \.schedule.epochs, in: 1...1_000_000,
                     "Passes over the images; every schedule stretches with it."),
            .integer("batch_size", \.schedule.batchSize, in: 1...65_536,
                     "Images of a batch; fewer by default where the data set has fewer. How many go through the "
                         + "network at once is the trainer's choice."),
            .integer("accumulate", \.schedule.accumulate, in: 1...65_536, "Batches of one update."),
            .unsigned("seed", \.schedule.seed, "Of weights, order of images, augmentations and masks."),
            .choice("precision", \.schedule.precision, "Arithmetic of the matrix products."),
        ])
    }
}

// MARK: data

extension Recipe {
    /// Keys of the section `data`: views of an image, and how their pixels are normalised.
    public struct Data: Equatable, Sendable {
        /// `background`: what is seen where a picture is transparent, by the deployed model too.
        public var background = RGBColor.black
        /// `global_crops_scale`: smallest and largest area of a global view as a fraction of the image, above 0, at
        /// most 1.
        public var globalCropsScale = [0.14, 1]
        /// `local_crops`: local views of an image, 0 … 64.
        public var localCrops = 0
        /// `local_crops_scale`: smallest and largest area of a local view as a fraction of the image, above 0, at most
        /// 1.
        public var localCropsScale = [0.05, 0.4]
        /// `local_crops_size`: side of a local view, pixels, 1 … 2048.
        public var localCropsSize = 96
        /// `mean`: subtracted from red, green, blue in 0 … 1; three numbers in 0 … 1.
        public var mean = [0.485, 0.456, 0.406]
        /// `std`: then divides them; three numbers in 0.001 … 1000.
        public var std = [0.229, 0.224, 0.225]
        /// `flip_probability`: of a horizontal flip, 0 … 1.
        public var flipProbability = 0.5
        /// `color_jitter`: largest change of brightness, contrast, saturation (factor 1 ± x, x in 0 … 1) and hue
        /// (± x turns, at most 0.5).
        public var colorJitter = [0.4, 0.4, 0.2, 0.1]
        /// `color_jitter_probability`: of a change of colours, 0 … 1.
        public var colorJitterProbability = 0.8
        /// `grayscale_probability`: of losing the colours, 0 … 1.
        public var grayscaleProbability = 0.2
        /// `blur_probability`: of a Gaussian blur in the first global view, the second and local views, 0 … 1 each.
        public var blurProbability = [1, 0.1, 0.5]
        /// `blur_radius`: least and largest standard deviation of the blur, pixels, above 0 and at most 64.
        public var blurRadius = [0.1, 2]
        /// `solarize_probability`: of solarisation, in the second global view only, 0 … 1.
        public var solarizeProbability = 0.2
        /// `solarize_threshold`: 8-bit values at or above are inverted, 0 … 256.
        public var solarizeThreshold = 128
    }

    private static var dataSection: RecipeSection {
        let area = Bounds.positive(upTo: 1)
        return RecipeSection(name: "data", help: "views of an image: crops, colours, normalisation", keys: [
            .color("background", \.data.background, unsaid: .black,
                   "What is seen where a picture is transparent: before anything else, and by the deployed model too."),
            .interval("global_crops_scale", \.data.globalCropsScale, in: area,
                      "Area of a global view as a fraction of the image."),
            .integer("local_crops", \.data.localCrops, in: 0...64, "Local views of an image."),
            .interval("local_crops_scale", \.data.localCropsScale, in: area,
                      "Area of a local view as a fraction of the image."),
            .integer("local_crops_size", \.data.localCropsSize, in: 1...2048,
                     "Side of a local view, pixels; a multiple of the patch size.").checked {
                // Unused without local crops; its default need not fit every patch size.
                guard let patch = $0.model.patchSize, $0.data.localCrops > 0,
                      $0.data.localCropsSize % patch != 0 else { return nil }
                return "(\($0.data.localCropsSize)) must be a multiple of model.patch_size (\(patch))"
            }.meaning { $0.data.localCrops == 0 ? nil : .integer($0.data.localCropsSize) },
            .numbers("mean", \.data.mean, count: 3...3, in: .probability, "Subtracted from red, green, blue in 0…1."),
            .numbers("std", \.data.std, count: 3...3, in: .from(0.001, to: 1000), "Then divides them."),
            .number("flip_probability", \.data.flipProbability, in: .probability, "Of a horizontal flip."),
            .numbers("color_jitter", \.data.colorJitter, count: 4...4, in: .probability,
                     "Largest change of brightness, contrast, saturation (factor 1 ± x) and hue (± x turns).")
                .checked {
                    let hue = $0.data.colorJitter[3]
                    return hue > 0.5 ? "hue (the fourth number) must be at most 0.5, not \(hue)" : nil
                },
            .number("color_jitter_probability", \.data.colorJitterProbability, in: .probability,
                    "Of a change of colours."),
            .number("grayscale_probability", \.data.grayscaleProbability, in: .probability, "Of losing the colours."),
            .numbers("blur_probability", \.data.blurProbability, count: 3...3, in: .probability,
                     "Of a blur in the first global view, the second and local views."),
            .interval("blur_radius", \.data.blurRadius, in: .positive(upTo: 64),
                      "Standard deviation of the blur, pixels."),
            .number("solarize_probability", \.data.solarizeProbability, in: .probability,
                    "Of solarisation, in the second global view only."),
            .integer("solarize_threshold", \.data.solarizeThreshold, in: 0...256,
                     "8-bit values at or above are inverted."),
        ])
    }
}

// MARK: evaluation and checkpoint

extension Recipe {
    /// Keys of the section `evaluation`: k-NN during the run, where images have labels. They decide no weight.
    public struct Evaluation: Equatable, Sendable {
        /// `knn_every_epochs`: epochs between two evaluations, 0 … 10⁶; 0: never.
        public var knnEveryEpochs = 1
        /// `knn_reference_images`: most images that vote, 1 … 10⁸.
        public var knnReferenceImages = 20_000
    }

    private static var evaluationSection: RecipeSection {
        let help = "k-NN during the run, where images have labels"
        return RecipeSection(name: "evaluation", help: help, decidesWeights: false, keys: [
            .integer("knn_every_epochs", \.evaluation.knnEveryEpochs, in: 0...1_000_000,
                     "Epochs between two evaluations; 0: never."),
            .integer("knn_reference_images", \.evaluation.knnReferenceImages, in: 1...100_000_000,
                     "Images that vote."),
        ])
    }

    /// Keys of the section `checkpoint`: when the run is saved. They decide no weight.
    public struct Checkpoint: Equatable, Sendable {
        /// `every_steps`: updates between two checkpoints, 1 … 10⁹.
        public var everySteps = 200
    }

    private static var checkpointSection: RecipeSection {
        RecipeSection(name: "checkpoint", help: "when the run is saved", decidesWeights: false, keys: [
            .integer("every_steps", \.checkpoint.everySteps, in: 1...1_000_000_000,
                     "Updates between two checkpoints."),
        ])
    }
}

// MARK: selectors

extension Recipe {
    /// Names of objectives that have a declaration above, `distill` among them. The caller of `parse` may list others.
    public static let supportedObjectives = objectiveVariants.map(\.name)
    /// Names of head families that have a declaration above, and `none`. The caller of `parse` may list others.
    public static let supportedFamilies = familyVariants.map(\.name)
    /// The ``supportedFamilies`` that are heads: all but `none`.
    public static var headFamilies: [String] { supportedFamilies.filter { $0 != Auxiliary.none } }

    static var selectors: [RecipeSelector] {
        [
            RecipeSelector(path: "auxiliary.family", chosen: \.auxiliary.family, noun: ("family", "families"),
                           variants: familyVariants),
            RecipeSelector(path: "objective.name", chosen: \.objective.name, noun: ("objective", "objectives"),
                           variants: objectiveVariants),
        ]
    }

    /// The choice that does not read a key; nil: the key is read.
    func stranger(to path: String) -> (selector: RecipeSelector, chosen: RecipeVariant)? {
        for selector in Recipe.selectors {
            if let chosen = selector.stranger(to: path, in: self) { return (selector, chosen) }
        }
        return nil
    }

    /// Whether the chosen family and objective read a key.
    func reads(_ path: String) -> Bool { stranger(to: path) == nil }
}
