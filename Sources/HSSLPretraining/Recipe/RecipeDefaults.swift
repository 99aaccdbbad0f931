import HSSLModels

// Defaults that follow from what a recipe says, so that five lines are a recipe: the published run's values belong to
// 224 pixels and 100 epochs, and neither fit a run of minutes on small images.

extension Recipe {
    /// Images of at most so many pixels a side take `fitSmallImages`.
    static let smallImage = 64

    /// Keys that others' defaults follow from, besides the selecting ones.
    static let decidingKeys = ["model.architecture", "model.image_size", "schedule.epochs"]

    /// Sets what the chosen objective, the size of images and the number of epochs decide, before other keys are read.
    mutating func fitDefaults() {
        for selector in Recipe.selectors {
            selector.variants.first { $0.name == self[keyPath: selector.chosen] }?.defaults(&self)
        }
        fitEpochs()
        if model.imageSize <= Recipe.smallImage { fitSmallImages() }
        // MoCo v3 trains transformers of published sizes more stably with their random patch embedding left alone.
        let isTransformer = model.architecture.hasPrefix("\(VisionTransformer.Configuration.family)_")
        model.freezePatchEmbedding = objective.name == "mocov3" && isTransformer
            && model.imageSize > Recipe.smallImage
    }

    /// The published shares of 100 epochs, and no more epochs than published.
    private mutating func fitEpochs() {
        let epochs = schedule.epochs
        optimizer.warmupEpochs = min(10, Double(epochs) / 10)
        optimizer.freezePrototypesEpochs = epochs == 1 ? 0 : min(3, max(1, epochs * 3 / 100))
        objective.warmupTeacherTemperatureEpochs = min(50, max(1, epochs / 2))
    }

    /// What served best on Fashion-MNIST (docs/results.md, "Recipes, one factor at a time"): small projections, a
    /// large step, mild views. Twenty-eight pixels leave nothing to blur, and a small crop shows no object.
    private mutating func fitSmallImages() {
        let hasPrototypes = objective.name == "ibot" || objective.name == "dino"
        let predicts = objective.name == "mocov3" || objective.name == "byol"
        model.dropPath = 0
        head.hiddenDim = hasPrototypes ? 256 : 512
        head.bottleneckDim = 64
        head.prototypes = 512
        head.outDim = 128
        head.projectorLayers = 2
        optimizer.learningRate = ["simmim", Recipe.distillObjective].contains(objective.name) ? 1e-3 : 3e-3
        optimizer.minLearningRate = 1e-6
        if predicts { optimizer.weightDecay = [0.04, 0.04] }
        if hasPrototypes { optimizer.teacherMomentum = 0.99 }
        data.globalCropsScale = [max(0.4, data.globalCropsScale[0]), 1]
        data.blurProbability = [0, 0, 0]
        data.solarizeProbability = 0
    }
}
