import HSSLGraph
import HSSLModels
import HSSLRuntime

/// A recipe's base as it is before the first update: what a pretrained one must beat.
public enum UntrainedBase {
    public static func extractor(recipe: Recipe) throws -> FeatureExtractor {
        let network = try Network(NetworkSizes(recipe: recipe), pool: BufferPool())
        network.parameters.initialize(seed: recipe.schedule.seed)
        let preprocessing = ModelPreprocessing(resize: recipe.model.imageSize, crop: recipe.model.imageSize, mean: recipe.data.mean.map { Float($0) },
                                               std: recipe.data.std.map { Float($0) })
        return try FeatureExtractor(model: NetworkSizes(recipe: recipe).base, parameters: network.parameters, prefix: "base.", preprocessing: preprocessing)
    }
}
