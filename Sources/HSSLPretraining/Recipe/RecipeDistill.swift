import HSSLModels

// The section of a distillation, and what its objective changes about other defaults.

extension Recipe {
    /// Keys of the section `distill`: which terms a student's loss has and how much each counts. Weights are
    /// 0 … 1000, one of them above 0; the terms are written out where the objective is (`DistillObjective`).
    public struct Distill: Equatable, Sendable {
        /// `draws`: views of an image that a bank keeps, 1 … 4096; epoch e replays draw e modulo this.
        public var draws = 4
        /// `rank`: coordinates of a cell that a bank keeps, 0 … 65536; 0: all of the teacher's channels.
        public var rank = 32
        /// `whitening`: power of its variance by which each direction of the teacher's global features is divided,
        /// after their mean was taken off, 0 … 0.5; 0.5 whitens, 0 takes them as they are.
        public var whitening = 0.25
        /// `global_weight`: of 1 − cosine of the global features, the student's through a linear layer.
        public var globalWeight = 1.0
        /// `similarity_weight`: of the divergence (KL) of the similarities to the anchors.
        public var similarityWeight = 1.0
        /// `anchors`: of how many last images the teacher's global features are the anchors, 2 … 65536.
        public var anchors = 2048
        /// `similarity_temperature`: divides the similarities to the anchors, of the student and of the teacher; 0.001
        /// … 100 each.
        public var similarityTemperature = [0.05, 0.05]
        /// `patch_weight`: of the divergence (KL) of the similarities between the cells of an image.
        public var patchWeight = 1.0
        /// `patch_temperature`: divides the similarities of cells, of student and teacher alike; 0.001 … 100.
        public var patchTemperature = 0.1
        /// `mse_weight`: of the mean square of the difference to the teacher's global features, lengths included.
        public var mseWeight = 0.0
        /// `projection`: the layer from the student's global feature to the teacher's width.
        public var projection = Projection.orthogonal

        /// What the layer from the student's width to the teacher's may be.
        public enum Projection: String, CaseIterable, Sendable { case orthogonal, linear }

        /// Whether the teacher's cells are learnt from.
        public var cells: Bool { patchWeight > 0 }
    }

    /// The objective of `hssl distill`; nothing else has a teacher's file.
    public static let distillObjective = "distill"

    /// Objectives that teach themselves: those of `hssl pretrain`.
    public static var selfSupervisedObjectives: [String] { supportedObjectives.filter { $0 != distillObjective } }

    static var distillSection: RecipeSection {
        let weight = Bounds.from(0, to: 1000), temperature = Bounds.from(0.001, to: 100)
        let help = "what a student takes over from the teacher of hssl distill"
        return RecipeSection(name: "distill", help: help, keys: [
            .integer(
                "draws", \.distill.draws, in: 1...ViewBankLayout.mostDraws,
                "Views of an image that a bank keeps: epoch e replays draw e modulo "
                    + "this. Without a bank every epoch draws anew."),
            .integer("rank", \.distill.rank, in: 0...65_536,
                     "Coordinates of a cell that a bank keeps; 0: all of the teacher's channels."),
            .number(
                "whitening", \.distill.whitening, in: .from(0, to: 0.5), absentMeans: 0,
                "Power of its variance by which each direction of the teacher's global features is divided, after "
                    + "their mean was taken off: 0.5 whitens, 0 takes them as they are."),
            .number("global_weight", \.distill.globalWeight, in: weight,
                    "Of 1 − cosine of the global features, the student's through a linear layer.").checked(idleFault),
            .number("similarity_weight", \.distill.similarityWeight, in: weight,
                    "Of the divergence of similarities to the teacher's global features of the last images."),
            .integer("anchors", \.distill.anchors, in: 2...65_536, "How many images these are."),
            .numbers(
                "similarity_temperature", \.distill.similarityTemperature, count: 2...2, in: temperature,
                "Divides these similarities: the student's, the teacher's."),
            .number(
                "patch_weight", \.distill.patchWeight, in: weight,
                "Of the divergence of the similarities between the cells of an "
                    + "image, on the smaller grid of the two."),
            .number(
                "patch_temperature", \.distill.patchTemperature, in: temperature,
                "Divides the similarities of cells, the student's and the teacher's."),
            .number("mse_weight", \.distill.mseWeight, in: weight,
                    "Of the mean square of the difference to the teacher's (evened out) global features, lengths "
                        + "included."),
            .choice("projection", \.distill.projection,
                    "The layer that takes the student's global feature to the teacher's width: orthogonal keeps angles "
                        + "(orthonormal columns, no bias), linear is free."),
        ])
    }

    private static func idleFault(_ recipe: Recipe) -> String? {
        let distill = recipe.distill
        let weights = [distill.globalWeight, distill.similarityWeight, distill.patchWeight, distill.mseWeight]
        return weights.contains { $0 > 0 } ? nil : "is 0, as the other weights are: nothing would be learnt"
    }

    static var distillVariant: RecipeVariant {
        RecipeVariant(
            name: distillObjective,
            help: "a student of any family learns what a frozen teacher says of the same view: hssl distill",
            keys: distillSection.keys.map { "distill.\($0.name)" }, defaults: distilled,
            smallDefaults: { $0.optimizer.learningRate = 1e-3 })
    }

    /// A student has clear targets from the first step: a larger rate than without a teacher, no dropped branches,
    /// views that leave the object in sight.
    private static func distilled(_ recipe: inout Recipe) {
        recipe.model.dropPath = 0
        recipe.optimizer.learningRate = 1e-3
        recipe.optimizer.minLearningRate = 1e-6
        recipe.optimizer.weightDecay = [0.05, 0.05]
        recipe.optimizer.clipGradient = 1
        recipe.optimizer.teacherMomentum = 0.99
        recipe.data.globalCropsScale = [0.3, 1]
        recipe.data.colorJitterProbability = 0.5
        recipe.data.grayscaleProbability = 0.1
        recipe.data.blurProbability = [0, 0, 0]
        recipe.data.solarizeProbability = 0
    }
}

extension DistillSettings {
    init(_ recipe: Recipe, teacher: TeacherShape?) {
        self.init(teacher: teacher)
        let section = recipe.distill
        whitening = section.whitening
        globalWeight = Float(section.globalWeight)
        similarityWeight = Float(section.similarityWeight)
        anchors = section.anchors
        similarityTemperature = (Float(section.similarityTemperature[0]), Float(section.similarityTemperature[1]))
        patchWeight = Float(section.patchWeight)
        patchTemperature = Float(section.patchTemperature)
        mseWeight = Float(section.mseWeight)
        isOrthogonal = section.projection == .orthogonal
    }
}
