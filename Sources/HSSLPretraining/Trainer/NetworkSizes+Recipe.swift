import HSSLGraph
import HSSLModels

extension NetworkSizes {
    /// The networks that a recipe asks for.
    package init(recipe: Recipe) throws {
        guard ["convnext", Recipe.Auxiliary.none].contains(recipe.auxiliary.family), recipe.auxiliary.width == nil,
              recipe.objective.name == "ibot" else {
            throw ModelError("head \(recipe.auxiliary.family) with objective \(recipe.objective.name) cannot be built yet")
        }
        let base = try ModelArchitecture(named: recipe.model.architecture, imageSize: recipe.model.imageSize,
                                         patchSize: recipe.model.patchSize ?? 16)
        let auxiliary = recipe.auxiliary.isEnabled
            ? Auxiliary(depth: recipe.auxiliary.depth, kernel: recipe.auxiliary.kernelSize, firstShortcut: recipe.auxiliary.firstShortcut) : nil
        self.init(base: base, auxiliary: auxiliary, hidden: recipe.head.hiddenDim, bottleneck: recipe.head.bottleneckDim,
                  prototypes: recipe.head.prototypes, learnedGain: !recipe.head.normLastLayer)
    }
}

extension Learner {
    package convenience init(recipe: Recipe) throws {
        guard let precision = Precision(rawValue: recipe.schedule.precision.rawValue) else {
            throw ModelError("precision \(recipe.schedule.precision.rawValue) is not known")
        }
        try self.init(sizes: NetworkSizes(recipe: recipe),
                      settings: .init(studentTemperature: Float(recipe.objective.studentTemperature), precision: precision,
                                      dropPath: Float(recipe.model.dropPath), seed: recipe.schedule.seed),
                      centerMomentum: Float(recipe.objective.centerMomentum), clipGradient: Float(recipe.optimizer.clipGradient),
                      moments: recipe.optimizer.states.storage)
    }
}
