import HSSLFormats
import HSSLGraph
import HSSLModels

extension Recipe {
    /// The base that the recipe asks for.
    ///
    /// - Throws: `ModelError` for sizes that cannot be, or contradict one another.
    package func baseArchitecture() throws -> ModelArchitecture {
        guard let sizes = model.sizes else {
            guard model.architecture != ModelArchitecture.customName else {
                throw ModelError("model.architecture custom needs model.initialize_from, which says its sizes")
            }
            return try ModelArchitecture(
                named: model.architecture, imageSize: model.imageSize, patchSize: model.patchSize)
        }
        let architecture: ModelArchitecture
        do {
            architecture = try ModelArchitecture(json: JSONValue.parse(sizes))
        } catch {
            throw ModelError("model.sizes: \(error)")
        }
        if let objection = objection(to: architecture) { throw ModelError("model.sizes: \(objection)") }
        return architecture
    }

    /// Why a base is not the one of the `model` section; nil: it is.
    fileprivate func objection(to base: ModelArchitecture) -> String? {
        if base.name != model.architecture {
            return
                "is of architecture \(base.name), the recipe asks for \(model.architecture): "
                + "set model.architecture to \(base.name)"
        }
        if base.imageSize != model.imageSize {
            return
                "is for images of \(base.imageSize) pixels, model.image_size is \(model.imageSize): set one to the "
                + "other (hssl import --image-size)"
        }
        if let asked = model.patchSize, let own = base.configuration.patchSizeOfPreset, asked != own {
            return "has patches of \(own) pixels, model.patch_size is \(asked)"
        }
        return nil
    }
}

/// The model file of `model.initialize_from`: what a base starts from.
package struct InitialBase {
    private let file: ModelFile

    /// Opens the file and completes the recipe by the sizes that no named architecture has; nil where the recipe names
    /// no file.
    ///
    /// - Throws: errors naming the file: no model, another architecture than the recipe's, weights that are int8 codes.
    package init?(completing recipe: inout Recipe) throws {
        guard let path = recipe.model.initializeFrom else { return nil }
        file = try ModelFile(path: path)
        guard file.precision != .int8 else {
            throw FileError(
                path: path, reason: "its weights are int8 codes; start from a float32 model (model.initialize_from)")
        }
        if let objection = recipe.objection(to: file.architecture) {
            throw FileError(path: path, reason: objection + " (model.initialize_from)")
        }
        let model = recipe.model
        let named = try? ModelArchitecture(
            named: model.architecture, imageSize: model.imageSize, patchSize: model.patchSize)
        recipe.model.sizes = named == file.architecture ? nil : file.architecture.json.text()
    }

    /// Gives the base of a network its values; what the file does not have (the mask token) stays as it was drawn.
    package func load(into network: Network) throws {
        for parameter in ModelTrace(file.architecture).parameters.all {
            guard let own = network.parameters["base." + parameter.name], own.shape == parameter.shape else {
                throw FileError(path: file.path, reason: "tensor '\(parameter.name)' has no place in the recipe's base")
            }
            try file.values(parameter.name).withUnsafeBufferPointer { source in
                if let start = source.baseAddress { own.values.update(from: start, count: source.count) }
            }
            own.valuesDidChange()
        }
    }

    /// Whether standardising changes nothing of a ResNet with group norms, as of one that was trained here: looked at
    /// is the first convolution. True of other families.
    private var hasStandardizedConvolutions: Bool {
        guard let sizes = file.architecture.configuration as? ResNet.Configuration, sizes.norm == .group,
            let weight = try? file.values("conv1.weight")
        else { return true }
        let width = weight.count / sizes.planes[0]
        return (0..<sizes.planes[0]).allSatisfy { row in
            let values = weight[row * width..<(row + 1) * width].map(Double.init)
            let mean = values.reduce(0, +) / Double(width)
            let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(width)
            return abs(mean) < 0.02 && abs(variance - 1) < 0.05
        }
    }

    /// Lines that a person should read before a run goes on from this base.
    package func warnings(_ recipe: Recipe) -> [String] {
        var warnings: [String] = []
        let rate = recipe.optimizer.learningRate
        let usual = recipe.defaultInitializedRate, most = max(2e-4, usual)
        if rate > most * 1.001 {
            warnings.append(
                "optimizer.learning_rate \(rate) is one for a base that begins with nothing: from "
                    + "\(file.path) it would forget what it knows (at most \(most); the default is \(usual))"
            )
        }
        func differs(_ mine: [Double], _ own: [Float]) -> Bool {
            zip(mine, own).contains { abs($0 - Double($1)) > 1e-4 }
        }
        if differs(recipe.data.mean, file.preprocessing.mean) || differs(recipe.data.std, file.preprocessing.std) {
            warnings.append(
                "data.mean and data.std are not those of \(file.path): \(file.preprocessing.mean), "
                + "\(file.preprocessing.std)"
            )
        }
        if !hasStandardizedConvolutions {
            warnings.append(
                "\(file.path): its convolutions are not standardised, as training makes them: the base begins with "
                    + "other features than the file's")
        }
        if recipe.data.background != file.preprocessing.background {
            warnings.append(
                "data.background is \(recipe.data.background), that of \(file.path) \(file.preprocessing.background)")
        }
        return warnings
    }
}

extension Recipe {
    /// The learning rate of a recipe that goes on from a base and says none.
    fileprivate var defaultInitializedRate: Double {
        var recipe = self
        recipe.fitDefaults()
        return Self.initializedRate(recipe.optimizer.learningRate)
    }
}
