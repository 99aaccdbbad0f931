import HSSLGraph
import HSSLModels

/// What all candidates of a search share: sizes of their projections and how they learn.
struct CandidateSettings {
    var hidden, bottleneck, prototypes: Int
    var learnedGain = false
    var studentTemperature: Float = 0.1
    var centerMomentum: Float = 0.9
    /// Largest L2 norm of one tensor's gradient; 0 does not clip.
    var clipGradient: Float = 0.3
    var moments: MomentStorage
    var seed: UInt64

    /// The recipe's, where its objective has prototypes; else those of the recipes that have some, by the base's width.
    ///
    /// - Parameter width: channels of the base.
    init(_ recipe: Recipe, width: Int) {
        moments = recipe.optimizer.states.storage
            ?? MomentStorage(for: recipe.schedule.precision)
        seed = recipe.schedule.seed
        guard let own = (recipe.objectiveSettings as? any PrototypeSettings)?.options else {
            // 256, 64, 512 of the recipes for a width of 96; published for 768: 2048, 256, 8192.
            let scale = min(8, max(1, (width + 48) / 96))
            (hidden, bottleneck, prototypes) = (256 * scale, min(256, 64 * scale), 512 * scale)
            return
        }
        (hidden, bottleneck, prototypes, learnedGain) = (own.hidden, own.bottleneck, own.prototypes, own.learnedGain)
        (studentTemperature, centerMomentum) = (own.studentTemperature, own.centerMomentum)
        clipGradient = Float(recipe.optimizer.clipGradient)
    }
}

extension Recipe {
    /// The recipe with another head; keys of the old one that the new one does not read are as if left out.
    func with(head family: String) -> Recipe {
        var recipe = self
        recipe.auxiliary.family = family
        return recipe
    }

    /// What the base of a search learns by: its own objective alone. Where that has no prototypes, those of the
    /// candidates learn from the first step on, towards targets of DINO's first temperature.
    var aloneForSearch: Recipe {
        var recipe = with(head: Auxiliary.none)
        guard !(objectiveSettings is any PrototypeSettings) else { return recipe }
        recipe.optimizer.freezePrototypesEpochs = 0
        recipe.objective.teacherTemperature = [0.04, 0.04]
        return recipe
    }
}
