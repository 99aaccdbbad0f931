import ArgumentParser
import HSSLCommandLine
import HSSLModels
import HSSLPretraining

struct RecipeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "recipe",
        abstract: "List the keys of recipes, or show a recipe with every value.",
        discussion: """
            Without a recipe: every key with its meaning, values and default. With one: what it resolves to, as the \
            config.yaml of its run will say, or why no run could begin with it.

            Examples:
              hssl recipe | less
              hssl recipe models/vit_nano-fashion.yaml
              hssl recipe models/vit_nano-fashion.yaml --set auxiliary.family=none
            """)

    @Argument(help: ArgumentHelp("Recipe: YAML; models/ has some.", valueName: "recipe"))
    var recipe: String?

    @Option(name: .long, help: ArgumentHelp("A recipe key, e.g. --set schedule.seed=3. May be repeated.",
                                            valueName: "key=value"))
    var set: [String] = []

    @OptionGroup var shared: SharedOptions

    func validate() throws {
        if recipe == nil, !set.isEmpty { throw ValidationError("--set needs a recipe") }
    }

    func run() throws {
        shared.apply()
        guard let recipe else {
            print(Recipe.help(architectures: ModelArchitecture.names), terminator: "")
            return
        }
        let resolved = try Recipe.load(path: recipe, set: set)
        try resolved.validate(path: recipe)
        print(resolved.yaml, terminator: "")
    }
}

extension Recipe {
    /// The same with the name of the file in front of what is wrong.
    func validate(path: String) throws {
        do { try validate() } catch { throw CommandError("\(path): \(error)") }
    }

    /// A wrong `--set` is a wrong command line; a wrong recipe is a file that failed.
    static func load(path: String, set overrides: [String], objective: String? = nil, images: Int? = nil)
        throws -> Recipe
    {
        do {
            return try load(
                path: path, architectures: ModelArchitecture.names, overrides: overrides, objective: objective,
                images: images)
        } catch let error as RecipeError where error.place.hasPrefix("--set") {
            throw UsageError(error.description)
        }
    }
}
