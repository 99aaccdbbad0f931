import ArgumentParser
import HSSLCommandLine
import HSSLEvaluation

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

    @OptionGroup var source: FeatureOptions

    @OptionGroup var sets: TrainAndTest

    @Option(name: .long, help: ArgumentHelp("Neighbours, separated by commas.", valueName: "k,…"))
    var k: String = WeightedKNN.defaultNeighbors.map(String.init).joined(separator: ",")

    @Option(name: .long, help: ArgumentHelp("Temperature of the votes.", valueName: "t"))
    var temperature: Double = WeightedKNN.defaultTemperature

    @Option(
        name: .long,
        help: ArgumentHelp("Write the figures as one JSON document to a file, or - for standard output.", valueName: "file"))
    var json: String?

    @OptionGroup var shared: SharedOptions

    func validate() throws {
        if neighbors == nil { throw ValidationError("--k must be counts separated by commas, not '\(k)'") }
        if !(temperature > 0 && temperature.isFinite) {
            throw ValidationError("--temperature must be above 0, not \(temperature)")
        }
    }

    private var neighbors: [Int]? { Evaluate.list(k) { Int($0).flatMap { $0 >= 1 ? $0 : nil } } }

    func run() throws {
        shared.apply()
        let target = try json.map { try JSONTarget($0) }
        let data = try sets.load(source, shared)
        let index = try FeatureIndex(features: data.train, dimension: data.dimension)
        let result = try WeightedKNN.evaluate(
            index: index, labels: data.trainLabels, queries: data.test, queryLabels: data.testLabels,
            neighbors: neighbors ?? [], temperature: temperature)
        let counts = "\(result.queryCount) images against \(result.referenceCount), \(result.dimension) dimensions"
        let lines = ["\(counts), temperature \(temperature)"] + result.accuracies.map { accuracy in
            "k = \(accuracy.k): top-1 \(Pretrain.percent(accuracy.top1)), top-5 \(Pretrain.percent(accuracy.top5))"
        }
        try JSONTarget.report(lines, result.json, to: target)
        if !data.isComplete { throw Exit(.partly) }
    }
}
