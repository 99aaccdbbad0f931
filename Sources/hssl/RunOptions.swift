import ArgumentParser
import CSupport
import HSSLCommandLine
import HSSLData
import HSSLGraph
import HSSLModels
import HSSLPretraining
import Logging

/// What commands that run a recipe over images take: `pretrain` and `search`.
struct RunOptions: ParsableArguments {
    @Argument(help: ArgumentHelp("Recipe: YAML; models/ has some.", valueName: "recipe"))
    var recipe: String

    @Option(name: .long, help: ArgumentHelp("ImageFolder, flat folder or IDX prefix.", valueName: "data"))
    var data: String

    @Option(
        name: .long, help: ArgumentHelp("Run folder; an existing run is refused without --resume.", valueName: "run"))
    var output: String

    @Option(
        name: .long,
        help: ArgumentHelp("Epochs, instead of the recipe's (schedules stretch with it).", valueName: "n"))
    var epochs: Int?

    @Option(name: .long, help: ArgumentHelp("Stop after n updates in all; changes no schedule.", valueName: "n"))
    var maxSteps: Int?

    @Option(name: .long, help: ArgumentHelp("Images of an update, instead of the recipe's.", valueName: "n"))
    var batchSize: Int?

    @Option(name: .long, help: ArgumentHelp("float32, float16 or int8, instead of the recipe's.", valueName: "p"))
    var precision: Precision?

    @Option(name: .long, help: ArgumentHelp("Seed, instead of the recipe's.", valueName: "n"))
    var seed: UInt64?

    @Flag
    var resume: Resume?

    @Option(name: .long, help: folderLabelsHelp)
    var labels: FolderLabels?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Most resident memory, e.g. 800M: picks the micro-batch that fits, or says what would.", valueName: "size"
        ))
    var memoryLimit: ByteSize?

    @Option(
        name: .long,
        help: ArgumentHelp(
            """
            Any recipe key (hssl recipe lists them), e.g. --set objective.mask_shape=random; null takes it out. May be \
            repeated.
            """, valueName: "key=value"))
    var set: [String] = []

    @OptionGroup var decode: DecodeOptions
    @OptionGroup var shared: SharedOptions

    enum Resume: EnumerableFlag {
        case existing, auto

        static func name(for value: Resume) -> NameSpecification {
            switch value {
            case .existing: .customLong("resume")
            case .auto: .customLong("resume-auto")
            }
        }

        static func help(for value: Resume) -> ArgumentHelp? {
            switch value {
            case .existing: "Go on from the run's checkpoint; an error where there is no run."
            case .auto:
                """
                The same, or begin the run where there is none (also --resume=auto): for jobs that may be restarted \
                at any time.
                """
            }
        }
    }

    /// Images of an update.
    private static let batchSizes = 1...1 << 20

    func validate() throws {
        if let epochs, epochs < 1 { throw ValidationError("--epochs must be at least 1, not \(epochs)") }
        if let batchSize, !Self.batchSizes.contains(batchSize) {
            throw ValidationError(
                "--batch-size must be from \(Self.batchSizes.lowerBound) to \(Self.batchSizes.upperBound), "
                    + "not \(batchSize)")
        }
        if let maxSteps, maxSteps < 1 { throw ValidationError("--max-steps must be at least 1, not \(maxSteps)") }
    }

    /// The recipe with everything that flags say about it.
    ///
    /// - Parameters:
    ///   - objective: where the recipe names none; nil: the usual one.
    ///   - images: of the data set, for defaults that follow from it.
    func resolvedRecipe(objective: String? = nil, images: Int? = nil) throws -> Recipe {
        let flags: [(String, String?)] = [
            ("schedule.epochs", epochs.map(String.init)), ("schedule.precision", precision?.rawValue),
            ("schedule.seed", seed.map(String.init)),
        ] + (try updateSize(objective: objective))
        return try Recipe.load(
            path: recipe, set: set + flags.compactMap { key, value in value.map { "\(key)=\($0)" } },
            objective: objective, images: images)
    }

    /// The same once the images are known.
    func resolvedRecipe(_ recipe: Recipe, for dataset: Dataset, _ log: Logger) throws -> Recipe {
        let fitted = try resolvedRecipe(objective: recipe.objective.name, images: dataset.count)
        if fitted.schedule.batchSize != recipe.schedule.batchSize {
            log.info("schedule.batch_size \(fitted.schedule.batchSize), for \(dataset.count) images")
        }
        return fitted
    }

    /// The images; what is passed over is said.
    func dataset(_ log: Logger) throws -> Dataset {
        try Self.dataset(data, labels, decode, excluding: output, memoryLimit: memoryLimit, log)
    }

    static func dataset(
        _ path: String, _ labels: FolderLabels?, _ decode: DecodeOptions, excluding output: String,
        memoryLimit: ByteSize?, _ log: Logger
    ) throws -> Dataset {
        // Half of what the limit leaves, for the networks come on top.
        let inflated = memoryLimit.map { max(0, ($0.bytes - Int(hssl_peak_rss())) / 2) } ?? .max
        let dataset = try Dataset(
            path: path, limits: decode.limits, folderLabels: labels, excluding: output, inflatedBytes: inflated)
        log.info("\(dataset.summary)")
        for fault in dataset.faults { log.warning("passed over: \(fault)") }
        for folder in dataset.emptyClasses { log.warning("\(folder): the class folder has no images; it is ignored") }
        return dataset
    }

    var pretrainingOptions: PretrainingOptions {
        var options = PretrainingOptions()
        options.resume = resume != nil
        options.startsIfMissing = resume == .auto
        options.maxSteps = maxSteps
        options.memoryLimit = memoryLimit?.bytes
        options.threads = shared.threadCount
        options.loaderThreads = shared.threadCount
        return options
    }

    /// What `--batch-size` makes of the recipe's schedule: images of an update are `batch_size · accumulate`. As few
    /// batches as make parts no larger than the recipe's, if they come out even; else one.
    private func updateSize(objective: String?) throws -> [(String, String?)] {
        guard let batchSize else { return [] }
        let schedule = try Recipe.load(path: recipe, set: set, objective: objective).schedule
        var accumulate = 1
        if set.contains(where: { $0.hasPrefix("schedule.accumulate=") }) {
            accumulate = schedule.accumulate
            guard batchSize % accumulate == 0 else {
                throw UsageError(
                    "--batch-size \(batchSize) is no multiple of schedule.accumulate "
                    + "(\(accumulate)), the batches of one update"
                )
            }
        } else if batchSize > schedule.batchSize {
            let even = (2...).lazy.map { $0 }.prefix { $0 <= batchSize }
                .first { batchSize % $0 == 0 && batchSize / $0 <= schedule.batchSize }
            if let even, 2 * (batchSize / even) > schedule.batchSize { accumulate = even }
        }
        return [("schedule.batch_size", "\(batchSize / accumulate)"), ("schedule.accumulate", "\(accumulate)")]
    }
}
