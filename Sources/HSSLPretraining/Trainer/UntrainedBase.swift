import HSSLFormats
import HSSLGraph
import HSSLModels
import HSSLRuntime

/// A recipe's base as it is before the first update: what a pretrained one must beat.
public enum UntrainedBase {
    public static func model(recipe: Recipe) throws -> Model {
        var recipe = recipe
        let initial = try InitialBase(completing: &recipe)
        let network = try Network(NetworkSizes(recipe: recipe))
        network.parameters.allocate(from: BufferPool())
        network.initialize(seed: recipe.schedule.seed)
        try initial?.load(into: network)
        let preprocessing = try Preprocessing(recipe: recipe)
        return try Model(
            architecture: NetworkSizes(recipe: recipe).base, parameters: network.parameters, prefix: "base.",
            preprocessing: preprocessing)
    }
}
