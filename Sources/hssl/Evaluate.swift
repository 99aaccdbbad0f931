import ArgumentParser
import HSSLCommandLine
import HSSLData
import HSSLEvaluation
import HSSLFormats
import HSSLGraph
import HSSLModels
import HSSLPretraining
import HSSLRuntime
import Logging

struct Evaluate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Judge features by the labels of a data set.",
        discussion: """
            Examples:
              hssl evaluate knn --model base.safetensors --train DATA/train --test DATA/t10k
              hssl evaluate knn --raw-pixels 28 --train DATA/train --test DATA/t10k
            """,
        subcommands: [KNN.self])
}

struct KNN: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "knn",
        abstract: "Weighted k-nearest-neighbour accuracy, as DINO's eval_knn.",
        discussion: """
            Features are L2-normalised; the k nearest of the train images vote with exp(cosine/temperature). Figures in JSON are fractions.

            Examples:
              hssl evaluate knn --model base-int8.safetensors --train DATA/train --test DATA/t10k
              hssl evaluate knn --model base.safetensors --train photos/train --test photos/val --k 20 --json -
              hssl evaluate knn --raw-pixels 28 --train DATA/train --test DATA/t10k          # the baseline without a model
              hssl evaluate knn --untrained RECIPE.yaml --train DATA/train --test DATA/t10k  # the same base before training
            """)

    @Option(name: .long, help: ArgumentHelp("Model file (hssl export).", valueName: "file"))
    var model: String?

    @Option(name: .long, help: ArgumentHelp("Instead of a model: pixels, resized and cropped to a square of this side.", valueName: "side"))
    var rawPixels: Int?

    @Option(name: .long, help: ArgumentHelp("Instead of a model: a recipe's base with its initial weights.", valueName: "recipe"))
    var untrained: String?

    @Option(name: .long, help: ArgumentHelp("Labelled reference images: ImageFolder or IDX prefix.", valueName: "data"))
    var train: String

    @Option(name: .long, help: ArgumentHelp("Labelled images to classify.", valueName: "data"))
    var test: String

    @Option(name: .long, help: folderLabelsHelp)
    var labels: FolderLabels?

    @Option(name: .long, help: ArgumentHelp("Neighbours, separated by commas.", valueName: "k,…"))
    var k: String = WeightedKNN.defaultNeighbors.map(String.init).joined(separator: ",")

    @Option(name: .long, help: ArgumentHelp("Temperature of the votes.", valueName: "t"))
    var temperature: Double = WeightedKNN.defaultTemperature

    @Option(name: .long, help: ArgumentHelp("Use only the first n train images, in a fixed shuffled order.", valueName: "n"))
    var trainImages: Int?

    @Option(name: .long, help: ArgumentHelp("cls, mean or cls+mean.", valueName: "features"))
    var features: Features = .cls

    @Option(name: .long, help: ArgumentHelp("Write the figures as one JSON document to a file, or - for standard output.", valueName: "file"))
    var json: String?

    @OptionGroup var shared: SharedOptions

    func validate() throws {
        if [model != nil, rawPixels != nil, untrained != nil].filter({ $0 }).count != 1 {
            throw ValidationError("give one of --model, --raw-pixels and --untrained")
        }
        if let rawPixels, !(1...1024).contains(rawPixels) { throw ValidationError("--raw-pixels must be from 1 to 1024, not \(rawPixels)") }
        if let trainImages, trainImages < 1 { throw ValidationError("--train-images must be at least 1, not \(trainImages)") }
        if neighbors == nil { throw ValidationError("--k must be counts separated by commas, not '\(k)'") }
        if features == .patch { throw ValidationError("--features patch has a vector a patch; k-NN needs one an image") }
        if !(temperature > 0 && temperature.isFinite) { throw ValidationError("--temperature must be above 0, not \(temperature)") }
    }

    private var neighbors: [Int]? {
        let parts = k.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) }
        return parts.allSatisfy { ($0 ?? 0) >= 1 } ? parts.compactMap { $0 } : nil
    }

    func run() throws {
        shared.apply()
        let target = try json.map { try JSONTarget($0) }
        let log = Logger(label: "hssl")
        let reference = try labelled(train), query = try labelled(test)
        let classes = try ClassMatching(reference: reference.classNames, query: query.classNames)
        try requireClasses(of: query, in: reference, classes)
        let extract = try featureSource()
        for dataset in [reference, query] { log.info("\(dataset.summary)") }
        let references = try extract(reference, subset(of: reference)), queries = try extract(query, nil)
        let unreadable = [reference, query].flatMap { $0.faults.map { "\($0)" } }
            + references.unreadable.map(\.reason) + queries.unreadable.map(\.reason)
        for reason in unreadable { log.warning("skipped \(reason)") }
        guard !references.indices.isEmpty, !queries.indices.isEmpty else { throw CommandError("\(references.indices.isEmpty ? train : test): no image could be read") }
        let index = try FeatureIndex(features: references.values, dimension: references.dimension)
        let result = try WeightedKNN.evaluate(index: index, labels: references.indices.compactMap { reference.label($0).map { classes.referenceLabels[$0] } },
                                              queries: queries.values, queryLabels: queries.indices.compactMap { query.label($0).flatMap { classes.queryLabels[$0] } },
                                              neighbors: neighbors ?? [],
                                              temperature: temperature)
        let lines = ["\(queries.indices.count) images against \(references.indices.count), \(references.dimension) dimensions, temperature \(temperature)"]
            + result.accuracies.map { accuracy in
                "k = \(accuracy.k): top-1 \(Pretrain.percent(accuracy.top1)), top-5 \(Pretrain.percent(accuracy.top5))"
            }
        try JSONTarget.report(lines, result.json, to: target)
        if !unreadable.isEmpty { throw Exit(.partly) }
    }

    private func labelled(_ path: String) throws -> Dataset {
        let dataset = try Dataset(path: path, folderLabels: labels)
        guard dataset.hasLabels else {
            throw CommandError("\(path): has no labels; k-NN needs an ImageFolder with class folders or an IDX pair (\(dataset.summary))")
        }
        if let empty = dataset.emptyClasses.first { throw CommandError("\(empty): the class folder has no images") }
        return dataset
    }

    /// Every class that has test images must have reference images; the test set may have fewer classes.
    private func requireClasses(of query: Dataset, in reference: Dataset, _ classes: ClassMatching) throws {
        let known = Set((0..<reference.count).compactMap { reference.label($0).map { classes.referenceLabels[$0] } })
        let asked = Set((0..<query.count).compactMap { query.label($0) }).sorted()
        let missing = asked.filter { label in classes.queryLabels[label].map { !known.contains($0) } ?? true }
        guard !missing.isEmpty else { return }
        let names = missing.prefix(5).map { "'\(query.classNames[$0])'" }.joined(separator: ", ") + (missing.count > 5 ? ", …" : "")
        throw CommandError("\(test): \(missing.count) of its \(asked.count) classes are not in \(train): \(names)")
    }

    /// A fixed random subset of the reference images, in the data set's order.
    private func subset(of dataset: Dataset) -> [Int]? {
        guard let trainImages, trainImages < dataset.count else { return nil }
        var random = CounterRandom(seed: 0, stream: 0x5355_4253)
        return random.shuffled(0..<dataset.count).prefix(trainImages).sorted()
    }

    private func featureSource() throws -> (Dataset, [Int]?) throws -> DatasetFeatures {
        let threads = shared.threadCount
        if let rawPixels {
            let preprocessing = try Preprocessing(resize: rawPixels, crop: rawPixels, mean: [0, 0, 0], std: [1, 1, 1])
            return { try DatasetFeatures(pixelsOf: $0, indices: $1, preprocessing: preprocessing, loaderThreads: threads) }
        }
        let source: Model
        if let model { source = try Model(path: model) } else {
            source = try UntrainedBase.model(recipe: Recipe.load(path: untrained ?? "", architectures: ModelArchitecture.names))
        }
        guard let preprocessing = source.preprocessing else { throw CommandError("the model does not say how its images are prepared") }
        let features = self.features
        let session = try Session(model: source, threads: threads)
        return { try DatasetFeatures($0, indices: $1, session: session, preprocessing: preprocessing, features: features, loaderThreads: threads) }
    }
}

extension Features: ExpressibleByArgument {}

extension FolderLabels: ExpressibleByArgument {}

let folderLabelsHelp = ArgumentHelp("""
    folders: the folders right inside DATA are classes, and images beside them are passed over; none: every image below \
    DATA is taken, without labels. Default: folders are classes where no image lies beside them.
    """, valueName: "folders|none")
