extension Recipe {
    /// Canonical YAML: every key that the chosen family and objective read, equal recipes giving equal text. `parse`
    /// gives back an equal recipe.
    public var yaml: String {
        var text = ""
        for (section, keys) in fields {
            text += "\(section):\n"
            for (key, value) in keys { text += "  \(key): \(value.yaml)\n" }
        }
        return text
    }

    /// Section → key and value, in canonical order; also what the report's table shows.
    package var fields: [(section: String, keys: [(key: String, value: Field)])] {
        Recipe.sections().compactMap { section in
            let keys = section.keys.filter { reads("\(section.name).\($0.name)") }
                .compactMap { key in key.field(self).map { (key: key.name, value: $0) } }
            return keys.isEmpty ? nil : (section.name, keys)
        }
    }

    /// The first key by which two recipes give a run other weights, and both values.
    package func firstDifference(to other: Recipe) -> (key: String, mine: String, others: String)? {
        let keys = Recipe.sections().filter(\.decidesWeights)
            .flatMap { section in section.keys.map { (path: "\(section.name).\($0.name)", key: $0) } }
        // A choice says more than the keys that come or go with it.
        let choices = Set(Recipe.selectors.map(\.path))
        for (path, key) in keys.filter({ choices.contains($0.path) }) + keys {
            func value(_ recipe: Recipe) -> Field? { recipe.reads(path) ? key.meaning(recipe) : nil }
            let mine = value(self), others = value(other)
            if mine != others { return (path, mine?.yaml ?? "absent", others?.yaml ?? "absent") }
        }
        return nil
    }

    /// Takes what a stored recipe meant by keys that are younger than it, where this one has their defaults: a run goes
    /// on with the recipe that it was started with, which does not have them either.
    ///
    /// - Parameter text: of the stored recipe.
    package mutating func assumeKeysAbsent(from text: String) throws(RecipeError) {
        let document = try RecipeDocument(text, file: "recipe", overrides: [])
        for section in Recipe.sections() {
            for key in section.keys where document.entries[section.name]?[key.name] == nil {
                if key.field(self) == key.field(Recipe()) { key.assumeAbsent?(&self) }
            }
        }
    }

    /// What a recipe may say: every section and key, with what it takes, its default and who reads it. For a
    /// terminal.
    public static func help(
        architectures: [String], objectives: [String] = supportedObjectives, families: [String] = supportedFamilies
    ) -> String {
        var text = """
            A recipe is YAML: sections of keys, `section: {key: value, …}`. Keys that are not required may be left \
            out. On
            the command line, --set section.key=value gives a key another value; the value null takes the key out.
            --resume takes a recipe that means the same as the run's; keys marked * may differ, for no weight depends
            on them. Defaults are the published run's (224 pixels, 100 epochs); some follow from the objective, the \
            image
            size and the epochs, as `hssl recipe RECIPE.yaml` shows.

            """
        for section in sections(Names(architectures: architectures, objectives: objectives, families: families)) {
            text += "\n\(section.name): \(section.help)\n"
            for key in section.keys {
                let path = "\(section.name).\(key.name)"
                text += "  \(key.name)\(section.decidesWeights ? "" : " *")\n"
                text += wrapped(key.help)
                let usual = key.defaultText.map { "default \($0)" + otherDefaults(key, path, objectives) } ?? "required"
                text += wrapped("Takes: \(key.values); \(usual).")
                for selector in selectors {
                    let variants = selector.variants.filter { (objectives + families).contains($0.name) }
                    let users = variants.filter { $0.keys.contains(path) }.map(\.name)
                    if !users.isEmpty, users.count < variants.filter({ !$0.ignoresOthers }).count {
                        let noun = users.count == 1 ? selector.noun.one : selector.noun.many
                        text += wrapped("Only with \(noun) \(users.joined(separator: ", ")).")
                    }
                    for variant in variants where selector.path == path {
                        text += wrapped("\(variant.name): \(variant.help).", indentation: 8)
                    }
                }
            }
        }
        return text
    }

    /// What objectives and small images change about a default: ` (byol: …; images of at most 64 pixels: …)`.
    private static func otherDefaults(_ key: RecipeKey, _ path: String, _ objectives: [String]) -> String {
        func value(_ objective: String, imageSize: Int) -> Field? {
            var recipe = Recipe()
            recipe.objective.name = objective
            recipe.model.imageSize = imageSize
            recipe.fitDefaults()
            return recipe.reads(path) && path != "objective.name" ? key.field(recipe) : nil
        }
        let usual = key.field(Recipe()), published = 224
        let names = objectiveVariants.map(\.name).filter { objectives.contains($0) }
        var others: [String] = []
        var small: [(name: String, yaml: String)] = []
        for name in names {
            guard let field = value(name, imageSize: published) else { continue }
            if field != usual { others.append("\(name): \(field.yaml)") }
            if let reduced = value(name, imageSize: smallImage), reduced != field { small.append((name, reduced.yaml)) }
        }
        if let first = small.first {
            let isCommon = small.allSatisfy { $0.yaml == first.yaml }
            let text = isCommon ? first.yaml : small.map { "\($0.yaml) for \($0.name)" }.joined(separator: ", ")
            others.append("images of at most \(smallImage) pixels: \(text)")
        }
        return others.isEmpty ? "" : " (\(others.joined(separator: "; ")))"
    }

    /// Lines of at most 100 characters.
    private static func wrapped(_ text: String, indentation: Int = 6) -> String {
        let margin = String(repeating: " ", count: indentation)
        var lines: [String] = []
        for word in text.split(separator: " ") {
            if let last = lines.last, last.count + 1 + word.count <= 100 {
                lines[lines.count - 1] = last + " " + word
            } else {
                lines.append(margin + word)
            }
        }
        return lines.map { $0 + "\n" }.joined()
    }
}
