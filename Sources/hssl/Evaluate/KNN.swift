import ArgumentParser
import HSSLCommandLine
import HSSLEvaluation

struct KNN: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "knn",
        abstract: "Weighted k-nearest-neighbour accuracy, as DINO's eval_knn.",
        discussion: """
            Features are L2-normalised; the k nearest of the train images vote with exp(cosine/temperature). Figures \
            in JSON are fractions. The test images' features are held, those of the train images pass by.

            Examples:
              hssl evaluate knn --model base-int8.safetensors --train DATA/train \\
                  --test DATA/t10k
              hssl evaluate knn --model base.safetensors --train photos/train \\
                  --test photos/val --k 20 --json -
              # the baseline without a model
              hssl evaluate knn --raw-pixels 28 --train DATA/train --test DATA/t10k
              # the same base before training
              hssl evaluate knn --untrained RECIPE.yaml --train DATA/train \\
                  --test DATA/t10k
              # features once, figures often
              hssl-extract --model base.safetensors DATA/train --output train.npy
              hssl-extract --model base.safetensors DATA/t10k --output t10k.npy
              hssl evaluate knn --train-embeddings train.npy --test-embeddings t10k.npy
            """)

    @OptionGroup var source: FeatureOptions

    @OptionGroup var sets: TrainAndTest

    @Option(name: .long, help: ArgumentHelp("Neighbours, separated by commas.", valueName: "k,…"))
    var k: String = WeightedKNN.defaultNeighbors.map(String.init).joined(separator: ",")

    @Option(name: .long, help: ArgumentHelp("Temperature of the votes.", valueName: "t"))
    var temperature: Double = WeightedKNN.defaultTemperature

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Write the figures as one JSON document to a file, or - for standard output.", valueName: "file"))
    var json: String?

    @OptionGroup var memory: MemoryOptions

    @OptionGroup var shared: SharedOptions

    func validate() throws {
        try sets.check(source)
        if neighbors == nil { throw ValidationError("--k must be counts separated by commas, not '\(k)'") }
        if !(temperature > 0 && temperature.isFinite) {
            throw ValidationError("--temperature must be above 0, not \(temperature)")
        }
    }

    private var neighbors: [Int]? { Evaluate.list(k) { Int($0).flatMap { $0 >= 1 ? $0 : nil } } }

    func run() throws {
        shared.apply()
        let target = try json.map { try JSONTarget($0, reading: sets.files + source.files) }
        let data = try sets.open(source, shared, memory)
        let largest = min(neighbors?.max() ?? 1, data.trainCount)
        let (count, dimension) = (data.test.count, data.test.dimension)
        try memory.plan(
            [data.train, data.test], shared,
            holding: NearestSearch.memory(queries: count, dimension: dimension, k: largest),
            for: "\(count) test images of \(dimension) features with \(largest) neighbours")
        var test = try data.test.load(nil, "test", shared)
        let search = try NearestSearch(queries: test.values.take(), dimension: dimension, k: largest)
        var labels: [Int] = []
        let hasAll = try data.train.forEachBlock(data.shuffledTrainIndices(), "train", shared) {
            try search.add($0)
            labels += $1
        }
        let result = try WeightedKNN.evaluate(
            search, labels: data.trainLabels(labels), queryLabels: data.testLabels(test.labels),
            neighbors: neighbors ?? [], temperature: temperature)
        let counts = "\(result.queryCount) images against \(result.referenceCount), \(result.dimension) dimensions"
        let lines = ["\(counts), temperature \(temperature)"] + result.accuracies.map { accuracy in
            "k = \(accuracy.k): top-1 \(Pretrain.percent(accuracy.top1)), top-5 \(Pretrain.percent(accuracy.top5))"
        }
        try JSONTarget.report(lines, result.json, to: target)
        if !(test.isComplete && hasAll) { throw Exit(.partly) }
    }
}
