import HSSLModels

// Defaults that follow from what a recipe says, so that five lines are a recipe: the published run's values belong to
// 224 pixels and 100 epochs, and neither fit a run of minutes on small images.

extension Recipe {
    /// Images of at most so many pixels a side take `fitSmallImages`.
    static let smallImage = 64

    /// Keys that others' defaults follow from, besides the selecting ones.
    static let decidingKeys = ["model.architecture", "model.image_size", "model.patch_size", "schedule.epochs"]

    /// Sets what the chosen objective, the size of images and the number of epochs decide, before other keys are read.
    mutating func fitDefaults() {
        let chosen = Recipe.selectors.compactMap { selector in
            selector.variants.first { $0.name == self[keyPath: selector.chosen] }
        }
        for variant in chosen { variant.defaults(&self) }
        fitEpochs()
        if model.imageSize <= Recipe.smallImage {
            fitSmallImages()
            for variant in chosen { variant.smallDefaults(&self) }
        }
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

    /// What served best on Fashion-MNIST (docs/results.md, "Recipes, one factor at a time"), whatever the objective: no
    /// dropped branches, a large step, mild views. Twenty-eight pixels leave nothing to blur, and a small crop shows no
    /// object.
    private mutating func fitSmallImages() {
        model.dropPath = 0
        optimizer.learningRate = 3e-3
        optimizer.minLearningRate = 1e-6
        data.globalCropsScale = [max(0.4, data.globalCropsScale[0]), 1]
        data.blurProbability = [0, 0, 0]
        data.solarizeProbability = 0
        // Half a side, in whole patches.
        let patch = model.patchSize ?? 4
        data.localCropsSize = max(1, model.imageSize / 2 / patch) * patch
    }

    /// Of a data set with fewer images than a default batch: four updates an epoch, but batches of 16 at least.
    mutating func fitBatch(images: Int) {
        guard images < schedule.batchSize else { return }
        while schedule.batchSize > 16, 4 * schedule.batchSize > images { schedule.batchSize /= 2 }
    }
}
