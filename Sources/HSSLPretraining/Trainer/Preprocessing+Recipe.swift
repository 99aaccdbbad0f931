import HSSLFormats

extension Preprocessing {
    /// Of the model that a recipe trains: the whole image, its shorter side at the model's image size.
    package init(recipe: Recipe) throws(PreprocessingError) {
        try self.init(
            resize: recipe.model.imageSize, crop: recipe.model.imageSize, mean: recipe.data.mean.map { Float($0) },
            std: recipe.data.std.map { Float($0) })
        background = recipe.data.background
    }
}
