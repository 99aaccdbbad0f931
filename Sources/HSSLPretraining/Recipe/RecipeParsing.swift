import HSSLFormats
import HSSLModels

extension Recipe {
    /// Reads a recipe strictly.
    ///
    /// - Parameters:
    ///   - text: YAML, two levels: sections of keys. ``help(architectures:objectives:families:)`` lists them; only
    ///     `model.architecture` and `image_size` have no default.
    ///   - file: the name for error messages.
    ///   - architectures: the names that `model.architecture` may take.
    ///   - overrides: `section.key=value` as given to `--set`, the value in YAML; the last of equal keys wins, `null`
    ///     takes the key out.
    ///   - objective: where the text names none; nil: `distill` where it has that section, else that of `Recipe()`.
    ///   - images: of the data set, for defaults that follow from it; nil: not known.
    /// - Throws: ``RecipeError`` for the first fault: invalid YAML, a duplicate or unknown key (with the nearest
    ///   known one), a key that the chosen head family or objective does not read, a missing or mistyped value, a
    ///   number out of range, or values that contradict one another.
    public static func parse(
        _ text: String, file: String, architectures: [String], objectives: [String] = supportedObjectives,
        families: [String] = supportedFamilies, overrides: [String] = [], objective: String? = nil,
        images: Int? = nil
    ) throws(RecipeError) -> Recipe {
        let names = Names(architectures: architectures, objectives: objectives, families: families)
        return try read(
            RecipeDocument(text, file: file, overrides: overrides), names, isStored: false, objective: objective,
            images: images)
    }

    /// Reads a file; see `parse` for the rest.
    ///
    /// - Throws: `FileError` when the file cannot be read, else ``RecipeError``.
    public static func load(
        path: String, architectures: [String], overrides: [String] = [], objective: String? = nil,
        images: Int? = nil
    ) throws -> Recipe {
        let bytes = try readFile(at: path, limit: RecipeSyntax.largestText)
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw RecipeError(place: path, reason: "is not UTF-8 text")
        }
        return try parse(
            text, file: path, architectures: architectures, overrides: overrides, objective: objective, images: images)
    }

    /// Reads the recipe that a checkpoint holds. It may come from an earlier build: a key that it does not have means
    /// what files meant before the key was there.
    ///
    /// - Parameter file: the checkpoint's name for error messages.
    /// - Throws: ``RecipeError``; a key or value of a later build is one.
    public static func parseStored(
        _ text: String, file: String, architectures: [String], objectives: [String] = supportedObjectives,
        families: [String] = supportedFamilies
    ) throws(RecipeError) -> Recipe {
        do {
            let names = Names(architectures: architectures, objectives: objectives, families: families)
            return try read(RecipeDocument(text, file: "recipe", overrides: []), names, isStored: true)
        } catch {
            let advice =
                "its recipe is not one of this build (hssl \(HSSLVersion.current)); if a later one wrote it, use that"
            throw RecipeError(place: file, reason: "\(advice): \(error)")
        }
    }

    private static func read(
        _ document: RecipeDocument, _ names: Names, isStored: Bool, objective: String? = nil,
        images: Int? = nil
    ) throws(RecipeError) -> Recipe {
        let sections = Recipe.sections(names)
        try document.refuseUnknownNames(sections)
        var recipe = Recipe(names)
        // A file that says how to distil means to.
        let distills = document.has(section: "distill") && names.objectives.contains(distillObjective)
        recipe.objective.name = objective ?? (distills ? distillObjective : recipe.objective.name)
        var faults = document.faults
        func read(_ key: RecipeKey, of section: RecipeSection) {
            let entry = document.entries[section.name]?[key.name], path = "\(section.name).\(key.name)"
            func refuse(_ reason: String) { faults.append(document.fault(section.name, key.name, reason)) }
            if let (selector, chosen) = recipe.stranger(to: path) {
                guard entry?.node != nil, !chosen.ignoresOthers else { return }
                refuse(selector.refusal(of: path, by: chosen, isOverridden: document.overrides(selector.path)))
            } else if let node = entry?.node {
                if let reason = key.read(node, &recipe) { refuse(reason) }
            } else if key.isRequired {
                refuse("is missing")
            } else if isStored {
                key.assumeAbsent?(&recipe)
            }
        }
        // What a choice decides is known before the keys that depend on it.
        let all = sections.flatMap { section in section.keys.map { (section, $0) } }
        let choosing = Set(selectors.map(\.path) + decidingKeys)
        let first = "objective.name"
        for (section, key) in all where "\(section.name).\(key.name)" == first { read(key, of: section) }
        // A teacher is enough of a foreign view unless somebody wants a head, too.
        if recipe.objective.name == distillObjective, names.families.contains(Auxiliary.none) {
            recipe.auxiliary.family = Auxiliary.none
        }
        for (section, key) in all {
            let path = "\(section.name).\(key.name)"
            if path != first, choosing.contains(path) { read(key, of: section) }
        }
        recipe.fitDefaults()
        if let images { recipe.fitBatch(images: images) }
        if document.entries["model"]?["initialize_from"]?.node != nil {
            recipe.optimizer.learningRate = Self.initializedRate(recipe.optimizer.learningRate)
        }
        for (section, key) in all where !choosing.contains("\(section.name).\(key.name)") { read(key, of: section) }
        if let fault = faults.first { throw fault }

        for (section, key) in all where recipe.reads("\(section.name).\(key.name)") {
            if let reason = key.check(recipe) { throw document.fault(section.name, key.name, reason) }
        }
        if let contradiction = recipe.firstContradiction() {
            throw RecipeError(place: document.file, reason: contradiction)
        }
        return recipe
    }

    /// A tenth of a default learning rate, where the base is not random: at the rates at which one learns from nothing
    /// it forgets what it knows. Of the numbers that are equal to 12 places the one that is written shortest.
    package static func initializedRate(_ rate: Double) -> Double { (rate * 1e11).rounded() / 1e12 }

    /// Defaults that the caller's lists allow.
    private init(_ names: Names) {
        self.init()
        if !names.families.contains(auxiliary.family) { auxiliary.family = names.families.first ?? auxiliary.family }
        if !names.objectives.contains(objective.name) { objective.name = names.objectives.first ?? objective.name }
    }

    /// Faults that no single key has.
    private func firstContradiction() -> String? {
        if optimizer.warmupEpochs > Double(schedule.epochs) {
            return "optimizer.warmup_epochs (\(optimizer.warmupEpochs)) is more than "
                + "schedule.epochs (\(schedule.epochs)); lower it too"
        }
        let peak = optimizer.learningRate * Double(schedule.effectiveBatch) / 256
        if optimizer.minLearningRate > peak {
            return "optimizer.min_learning_rate (\(optimizer.minLearningRate)) is above the peak rate "
                + "learning_rate·batch/256 (\(peak))"
        }
        return nil
    }
}
