import HSSLGraph
import HSSLModels

extension NetworkSizes {
    /// The networks that a recipe asks for.
    ///
    /// - Throws: `ModelError` for sizes, or a combination of base, head and objective, that cannot be.
    package init(recipe: Recipe) throws {
        let base = try recipe.baseArchitecture()
        self.init(base: base, auxiliary: recipe.auxiliary.isEnabled ? HeadSettings(recipe.auxiliary) : nil)
        layerScale = recipe.model.layerScale.map { Float($0) }
        if let objection = objection(to: recipe) { throw ModelError(objection) }
    }

    /// Why base, head and objective do not go together; nil: they do.
    private func objection(to recipe: Recipe) -> String? {
        let name = recipe.model.architecture, objective = recipe.objective.name
        let model = base.makeBase(ParameterScope(ParameterSet()), .pretraining)
        if recipe.objectiveSettings.masksPatches, model.maskToken == nil {
            return
                "objective.name \(objective) masks patches, and \(name) (family \(base.family)) has no token stage "
                + "where a mask could stand; use dino, mocov3 or byol"
        }
        let parameters = ParameterSet()
        _ = base.makeBase(ParameterScope(parameters)("base"), .pretraining)
        if recipe.model.freezePatchEmbedding, type(of: base.configuration).patchEmbedding == nil {
            return "model.freeze_patch_embedding: \(name) (family \(base.family)) has no patch embedding"
        }
        if layerScale != nil {
            if Network.layerScales(parameters).isEmpty {
                return "model.layer_scale: \(name) (family \(base.family)) has no layer scales"
            }
            if recipe.model.initializeFrom != nil {
                return "model.layer_scale: the model of initialize_from has its own"
            }
        }
        if objective == Recipe.distillObjective, recipe.distill.cells {
            let cells = model.grid(height: base.imageSize, width: base.imageSize)
            if cells.count < 2 {
                return "distill.patch_weight compares cells, and \(name)'s last grid has one; set it to 0"
            }
        }
        guard recipe.data.localCrops > 0 else { return tooManyRows(recipe, model) }
        let size = recipe.data.localCropsSize
        if let reason = base.configuration.objection(toImageSize: size) {
            return "data.local_crops_size \(size) does not fit \(name): \(reason)"
        }
        let local = model.grid(height: size, width: size),
            global = model.grid(height: base.imageSize, width: base.imageSize)
        if local.count == 0 { return "data.local_crops_size \(size) leaves no cell of \(name)'s last grid" }
        if let auxiliary, local != global, (try? HeadFamilies.named(auxiliary.family))?.takesAnyGrid == false {
            return
                "auxiliary.family \(auxiliary.family) is bound to the grid of global views "
                + "(\(global.height)×\(global.width) cells) and cannot see local views "
                + "(\(local.height)×\(local.width)); set data.local_crops to 0 or use another family"
        }
        return tooManyRows(recipe, model)
    }

    /// Rows of tokens are indexed with 32 bits.
    private func tooManyRows(_ recipe: Recipe, _ model: any Base) -> String? {
        func tokens(_ side: Int) -> Int { 1 + model.grid(height: side, width: side).count }
        let local = recipe.data.localCrops == 0 ? 0 : recipe.data.localCrops * tokens(recipe.data.localCropsSize)
        let rows = recipe.schedule.batchSize * (2 * tokens(base.imageSize) + local)
        guard rows > Int(Int32.max) else { return nil }
        return "schedule.batch_size (\(recipe.schedule.batchSize)) makes \(rows) token rows in a step; at most "
            + "\(Int32.max)"
    }
}

extension HeadSettings {
    init(_ section: Recipe.Auxiliary) {
        self.init(family: section.family, depth: section.depth)
        kernelSize = section.kernelSize
        firstShortcut = section.firstShortcut
        numHeads = section.numHeads
        bottleneckRatio = section.bottleneckRatio
        width = section.width
    }
}

extension Recipe {
    /// What the recipe asks student and teacher to agree on.
    package var objectiveSettings: any ObjectiveSettings {
        switch objective.name {
        case "mocov3": MoCoV3Settings(self)
        case "byol": BYOLSettings(hidden: head.hiddenDim, output: head.outDim)
        case "simmim": SimMIMSettings(self)
        case Recipe.distillObjective: DistillSettings(self, teacher: nil)
        case "dino": DINOSettings(PrototypeOptions(self))
        default: IBOTSettings(PrototypeOptions(self))
        }
    }
}

extension MoCoV3Settings {
    init(_ recipe: Recipe) {
        self.init(hidden: recipe.head.hiddenDim, output: recipe.head.outDim)
        projectorLayers = recipe.head.projectorLayers
        predictorLastNorm = recipe.head.predictorLastNorm
        temperature = Float(recipe.objective.temperature)
    }
}

extension SimMIMSettings {
    init(_ recipe: Recipe) {
        let model = recipe.model
        let base = try? recipe.baseArchitecture()
        let grid = base?.makeBase(ParameterScope(ParameterSet()), .pretraining)
            .grid(height: model.imageSize, width: model.imageSize)
        self.init(maskStride: model.imageSize / max(1, grid?.height ?? 1))
        globalWeight = Float(recipe.objective.globalWeight)
    }
}

extension PrototypeOptions {
    init(_ recipe: Recipe) {
        self.init(
            hidden: recipe.head.hiddenDim, bottleneck: recipe.head.bottleneckDim, prototypes: recipe.head.prototypes)
        learnedGain = !recipe.head.normLastLayer
        studentTemperature = Float(recipe.objective.studentTemperature)
        centerMomentum = Float(recipe.objective.centerMomentum)
    }
}

extension Learner {
    /// - Parameters:
    ///   - teacher: the frozen one of objective `distill`.
    ///   - memoryLimit: bytes that the process may have; nil: any.
    package convenience init(recipe: Recipe, teacher: TeacherShape? = nil, memoryLimit: Int? = nil) throws {
        var objective = recipe.objectiveSettings
        if recipe.objective.name == Recipe.distillObjective {
            guard let teacher else {
                throw ModelError("objective.name distill needs a teacher: hssl distill has --teacher FILE")
            }
            if recipe.distill.cells, teacher.grid.count < 2 {
                throw ModelError(
                    "distill.patch_weight compares cells, and the teacher's last grid has one; set it to 0")
            }
            objective = DistillSettings(recipe, teacher: teacher)
        }
        try self.init(
            sizes: NetworkSizes(recipe: recipe), objective: objective,
            settings: .init(
                precision: recipe.schedule.precision, dropPath: Float(recipe.model.dropPath),
                seed: recipe.schedule.seed),
            clipGradient: Float(recipe.optimizer.clipGradient), moments: recipe.optimizer.states.storage,
            freezesPatchEmbedding: recipe.model.freezePatchEmbedding, memoryLimit: memoryLimit)
    }
}
