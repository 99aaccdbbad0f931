import HSSLFormats
import Yams

extension Recipe {
    /// Objectives and head families that the trainer has. The caller of `parse` may list others.
    public static let supportedObjectives = ["ibot", "dino"]
    public static let supportedFamilies = [Auxiliary.none, "convnext", "resnet", "mlp", "swin", "vit", "poolformer"]

    /// Reads a recipe strictly.
    ///
    /// - Parameters:
    ///   - text: YAML; see `shared/interfaces.md`, Recipes. Only `model.architecture`, `image_size` and `patch_size` have no default.
    ///   - file: the name for error messages.
    ///   - architectures: the names that `model.architecture` may take.
    ///   - overrides: `section.key=value` as given to `--set`, the value in YAML; the last of equal keys wins.
    /// - Throws: ``RecipeError`` for the first fault: invalid YAML, a duplicate or unknown key (with the nearest known one), a missing or
    ///   mistyped value, a number out of range, or values that contradict one another.
    public static func parse(
        _ text: String, file: String, architectures: [String], objectives: [String] = supportedObjectives,
        families: [String] = supportedFamilies, overrides: [String] = []
    ) throws(RecipeError) -> Recipe {
        let overrides = try parseOverrides(overrides)
        guard let root = try RecipeSyntax.compose(text, file: file) else { throw RecipeError(place: file, reason: "is empty") }
        guard case .mapping(let top) = root else { throw RecipeError(place: file, reason: "must be a mapping of sections") }

        var sections: [String: Node] = [:]
        for (key, value) in top {
            guard case .scalar(let name) = key else {
                throw RecipeError(place: SectionReader.place(file, key), reason: "a section name must be a plain word")
            }
            sections[name.string] = value
        }
        var readers: [SectionReader] = []
        func read<Section>(_ name: String, _ body: (inout SectionReader) -> Section) -> Section {
            var reader = SectionReader(section: name, file: file, mapping: sections[name], overrides: overrides[name] ?? [:])
            let section = body(&reader)
            readers.append(reader)
            return section
        }

        let model = read("model") { Model(&$0, architectures: architectures) }
        let recipe = Recipe(
            model: model,
            auxiliary: read("auxiliary") { Auxiliary(&$0, families: families) },
            head: read("head") { Head(&$0) },
            objective: read("objective") { Objective(&$0, names: objectives) },
            optimizer: read("optimizer") { Optimizer(&$0) },
            schedule: read("schedule") { Schedule(&$0) },
            data: read("data") { Data(&$0, patchSize: model.patchSize) },
            evaluation: read("evaluation") { Evaluation(&$0) },
            checkpoint: read("checkpoint") { Checkpoint(&$0) })

        try refuseUnknownNames(sections: sections, overrides: overrides, readers: readers, file: file)
        if let fault = readers.lazy.compactMap(\.faults.first).first { throw fault }
        if let contradiction = recipe.firstContradiction() { throw RecipeError(place: file, reason: contradiction) }
        return recipe
    }

    /// Reads and parses a file; see `parse` for the rest.
    ///
    /// - Throws: `FileError` when the file cannot be read, else ``RecipeError``.
    public static func load(path: String, architectures: [String], overrides: [String] = []) throws -> Recipe {
        let bytes = try readFile(at: path, limit: RecipeSyntax.largestText)
        guard let text = String(validating: bytes, as: UTF8.self) else { throw RecipeError(place: path, reason: "is not UTF-8 text") }
        return try parse(text, file: path, architectures: architectures, overrides: overrides)
    }

    /// - Returns: section → key → value.
    private static func parseOverrides(_ overrides: [String]) throws(RecipeError) -> [String: [String: Node]] {
        var result: [String: [String: Node]] = [:]
        for override in overrides {
            let place = "--set \(SectionReader.printable(override))"
            guard let equals = override.firstIndex(of: "="), override[..<equals].split(separator: ".", omittingEmptySubsequences: false).count == 2,
                  let dot = override[..<equals].firstIndex(of: ".") else {
                throw RecipeError(place: place, reason: "must be section.key=value, for example schedule.seed=3")
            }
            let value = String(override[override.index(after: equals)...])
            let node: Node?
            do {
                // As the value of a key, so that text such as `a: b` is refused as it would be in a file.
                node = try RecipeSyntax.compose("value: \(value)", file: place)?["value"]
            } catch {
                throw RecipeError(place: place, reason: error.reason)
            }
            guard let node, !value.isEmpty, !value.contains(where: \.isNewline) else {
                throw RecipeError(place: place, reason: "must be section.key=value on one line")
            }
            result[String(override[..<dot]), default: [:]][String(override[override.index(after: dot)..<equals])] = node
        }
        return result
    }

    private static func refuseUnknownNames(
        sections: [String: Node], overrides: [String: [String: Node]], readers: [SectionReader], file: String
    ) throws(RecipeError) {
        let names = readers.map(\.section)
        let strangers = overrides.keys.filter { !names.contains($0) }.sorted().map { ($0, "--set \($0)") }
            + sections.filter { !names.contains($0.key) }.map { ($0.key, SectionReader.place(file, $0.value)) }.sorted { $0.0 < $1.0 }
        if let (name, place) = strangers.first {
            let hint = NearestName.of(name, in: names).map { "did you mean \($0)?" }
                ?? readers.first { $0.known.contains(name) }.map { "did you mean \($0.section).\(name)?" }
                ?? "sections are \(names.joined(separator: ", "))"
            throw RecipeError(place: place, reason: "unknown section \(SectionReader.printable(name)); \(hint)")
        }
        for reader in readers {
            guard let (key, place) = reader.unknown.first else { continue }
            // A key of another section beats a similar name in this one.
            let elsewhere = readers.first { $0.known.contains(key) }.map { "\($0.section).\(key)" }
            let hint = (elsewhere ?? NearestName.of(key, in: reader.known)).map { "did you mean \($0)?" }
                ?? "keys are \(reader.known.joined(separator: ", "))"
            throw RecipeError(place: place, reason: "unknown key \(reader.section).\(SectionReader.printable(key)); \(hint)")
        }
    }

    /// Faults that no single key has.
    private func firstContradiction() -> String? {
        if optimizer.warmupEpochs > schedule.epochs {
            return "optimizer.warmup_epochs (\(optimizer.warmupEpochs)) is more than schedule.epochs (\(schedule.epochs)); lower it too"
        }
        let peak = optimizer.learningRate * Double(schedule.effectiveBatch) / 256
        if optimizer.minLearningRate > peak {
            return "optimizer.min_learning_rate (\(optimizer.minLearningRate)) is above the peak rate learning_rate·batch/256 (\(peak))"
        }
        // Token rows are indexed with 32 bits.
        let localTokens = data.localCrops == 0 ? 0 : data.localCrops * (1 + (data.localCropsSize / model.patchSize) * (data.localCropsSize / model.patchSize))
        let rows = schedule.batchSize * (2 * (1 + model.gridSize * model.gridSize) + localTokens)
        if rows > Int(Int32.max) {
            return "schedule.batch_size (\(schedule.batchSize)) makes \(rows) token rows in a step; at most \(Int32.max)"
        }
        return nil
    }
}

// MARK: sections

extension Recipe.Model {
    fileprivate init(_ reader: inout SectionReader, architectures: [String]) {
        architecture = reader.choice("architecture", default: nil, of: architectures)
        imageSize = reader.integer("image_size", default: nil, in: 1...2048)
        patchSize = reader.integer("patch_size", default: nil, in: 1...256)
        dropPath = reader.number("drop_path", default: 0.1, in: .fraction)
        if imageSize % patchSize != 0 { reader.fault("image_size", "(\(imageSize)) must be a multiple of model.patch_size (\(patchSize))") }
    }
}

extension Recipe.Auxiliary {
    fileprivate init(_ reader: inout SectionReader, families: [String]) {
        family = reader.choice("family", default: families.contains("convnext") ? "convnext" : families.first, of: families)
        depth = reader.integer("depth", default: 3, in: 1...64)
        kernelSize = reader.integer("kernel_size", default: 7, in: 1...63)
        firstShortcut = reader.flag("first_shortcut", default: false)
        if kernelSize % 2 == 0 { reader.fault("kernel_size", "must be odd, not \(kernelSize)") }
    }
}

extension Recipe.Head {
    fileprivate init(_ reader: inout SectionReader) {
        hiddenDim = reader.integer("hidden_dim", default: 2048, in: 1...65_536)
        bottleneckDim = reader.integer("bottleneck_dim", default: 256, in: 1...65_536)
        prototypes = reader.integer("prototypes", default: 8192, in: 2...1_048_576)
        normLastLayer = reader.flag("norm_last_layer", default: true)
    }
}

extension Recipe.Objective {
    fileprivate init(_ reader: inout SectionReader, names: [String]) {
        name = reader.choice("name", default: names.first, of: names)
        studentTemperature = reader.number("student_temperature", default: 0.1, in: .from(0.001, to: 100))
        teacherTemperature = reader.numbers("teacher_temperature", default: [0.04, 0.07], count: 2...2, in: .from(0.001, to: 100))
        teacherPatchTemperature = reader.numbers("teacher_patch_temperature", default: [0.04, 0.07], count: 2...2, in: .from(0.001, to: 100))
        warmupTeacherTemperatureEpochs = reader.integer("warmup_teacher_temperature_epochs", default: 50, in: 0...1_000_000)
        maskRatio = reader.numbers("mask_ratio", default: [0, 0.3], count: 1...16, in: .probability)
        maskRatioVariance = reader.numbers("mask_ratio_variance", default: [0, 0.2], count: 1...16, in: .probability)
        maskShape = reader.choice("mask_shape", default: Recipe.MaskShape.block)
        centerMomentum = reader.number("center_momentum", default: 0.9, in: .probability)
        if maskRatioVariance.count != maskRatio.count {
            reader.fault("mask_ratio_variance", "must have as many numbers as objective.mask_ratio (\(maskRatio.count))")
        } else if let (ratio, variance) = zip(maskRatio, maskRatioVariance).first(where: { $0 < $1 || $0 + $1 > 1 }) {
            reader.fault("mask_ratio_variance", "\(variance) takes the ratio \(ratio) outside 0…1")
        }
    }
}

extension Recipe.Optimizer {
    fileprivate init(_ reader: inout SectionReader) {
        learningRate = reader.number("learning_rate", default: 7.5e-4, in: .positive(upTo: 1000))
        minLearningRate = reader.number("min_learning_rate", default: 2e-6, in: .from(0, to: 1000))
        warmupEpochs = reader.integer("warmup_epochs", default: 10, in: 0...1_000_000)
        weightDecay = reader.numbers("weight_decay", default: [0.04, 0.4], count: 2...2, in: .from(0, to: 100))
        clipGradient = reader.number("clip_gradient", default: 0.3, in: .from(0, to: 1e6))
        teacherMomentum = reader.number("teacher_momentum", default: 0.996, in: .probability)
        freezePrototypesEpochs = reader.integer("freeze_prototypes_epochs", default: 3, in: 0...1_000_000)
        states = reader.choice("states", default: Recipe.States.auto)
    }
}

extension Recipe.Schedule {
    fileprivate init(_ reader: inout SectionReader) {
        epochs = reader.integer("epochs", default: 100, in: 1...1_000_000)
        batchSize = reader.integer("batch_size", default: 256, in: 1...65_536)
        accumulate = reader.integer("accumulate", default: 1, in: 1...65_536)
        seed = reader.unsigned("seed", default: 0)
        precision = reader.choice("precision", default: Recipe.Precision.float32)
    }
}

extension Recipe.Data {
    fileprivate init(_ reader: inout SectionReader, patchSize: Int) {
        globalCropsScale = reader.interval("global_crops_scale", default: [0.14, 1], in: Bounds(lowest: 0, highest: 1, excludesLowest: true))
        localCrops = reader.integer("local_crops", default: 0, in: 0...64)
        localCropsScale = reader.interval("local_crops_scale", default: [0.05, 0.4], in: Bounds(lowest: 0, highest: 1, excludesLowest: true))
        localCropsSize = reader.integer("local_crops_size", default: 96, in: 1...2048)
        mean = reader.numbers("mean", default: [0.485, 0.456, 0.406], count: 3...3, in: .probability)
        std = reader.numbers("std", default: [0.229, 0.224, 0.225], count: 3...3, in: .from(0.001, to: 1000))
        flipProbability = reader.number("flip_probability", default: 0.5, in: .probability)
        colorJitter = reader.numbers("color_jitter", default: [0.4, 0.4, 0.2, 0.1], count: 4...4, in: .probability)
        colorJitterProbability = reader.number("color_jitter_probability", default: 0.8, in: .probability)
        grayscaleProbability = reader.number("grayscale_probability", default: 0.2, in: .probability)
        blurProbability = reader.numbers("blur_probability", default: [1, 0.1, 0.5], count: 3...3, in: .probability)
        blurRadius = reader.interval("blur_radius", default: [0.1, 2], in: .positive(upTo: 64))
        solarizeProbability = reader.number("solarize_probability", default: 0.2, in: .probability)
        solarizeThreshold = reader.integer("solarize_threshold", default: 128, in: 0...256)
        if colorJitter[3] > 0.5 { reader.fault("color_jitter", "hue (the fourth number) must be at most 0.5, not \(colorJitter[3])") }
        // Unused without local crops; its default need not fit every patch size.
        if localCrops > 0, localCropsSize % patchSize != 0 {
            reader.fault("local_crops_size", "(\(localCropsSize)) must be a multiple of model.patch_size (\(patchSize))")
        }
    }
}

extension Recipe.Evaluation {
    fileprivate init(_ reader: inout SectionReader) {
        knnEveryEpochs = reader.integer("knn_every_epochs", default: 1, in: 0...1_000_000)
        knnReferenceImages = reader.integer("knn_reference_images", default: 20_000, in: 1...100_000_000)
    }
}

extension Recipe.Checkpoint {
    fileprivate init(_ reader: inout SectionReader) {
        everySteps = reader.integer("every_steps", default: 200, in: 1...1_000_000_000)
    }
}
