import ArgumentParser
import CSupport
import HSSLCommandLine
import HSSLData
import HSSLEvaluation
import HSSLModels
import HSSLRuntime

struct KNN: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "knn",
        abstract: "Weighted k-nearest-neighbour accuracy, as DINO's eval_knn.",
        discussion: """
            Features are L2-normalised; the k nearest of the train images vote with exp(cosine/temperature). Figures in JSON are fractions. \
            The test images' features are held, those of the train images pass by.

            Examples:
              hssl evaluate knn --model base-int8.safetensors --train DATA/train --test DATA/t10k
              hssl evaluate knn --model base.safetensors --train photos/train --test photos/val --k 20 --json -
              hssl evaluate knn --raw-pixels 28 --train DATA/train --test DATA/t10k          # the baseline without a model
              hssl evaluate knn --untrained RECIPE.yaml --train DATA/train --test DATA/t10k  # the same base before training
              hssl-extract --model base.safetensors DATA/train --output train.npy            # features once, figures often
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
        help: ArgumentHelp("Write the figures as one JSON document to a file, or - for standard output.", valueName: "file"))
    var json: String?

    @Option(
        name: .long,
        help: ArgumentHelp("Most memory to use, e.g. 300M: kept, or refused with the figure that is needed.", valueName: "size"))
    var memoryLimit: ByteSize?

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
        let target = try json.map { try JSONTarget($0) }
        let data = try sets.open(source, shared, limits: decodeLimits)
        let largest = min(neighbors?.max() ?? 1, data.trainCount)
        try checkMemory(data, k: largest)
        var test = try data.test.load(nil, "test", shared)
        let search = try NearestSearch(queries: test.values.take(), dimension: data.test.dimension, k: largest)
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

    /// Half of the limit may go into decoding, which needs some three times the pixels of an image on every thread.
    private var decodeLimits: DecodeLimits {
        var limits = source.decode.limits
        guard let limit = memoryLimit?.bytes else { return limits }
        let bytes = limit / 2 / shared.threadCount / 3
        if bytes < limits.bytes { (limits.bytes, limits.name) = (bytes, "--memory-limit") }
        return limits
    }

    /// Refuses a limit that what is known to be needed exceeds.
    private func checkMemory(_ data: OpenSets, k: Int) throws {
        guard let limit = memoryLimit?.bytes else { return }
        let threads = shared.threadCount
        // The process as it is (lists, IDX files, the model or the embeddings), stacks, and images on their way.
        let present = Int(hssl_peak_rss()) + (8 << 20) + threads << 20
        let images = sets.trainEmbeddings == nil ? try imagesInFlight(threads) : 0
        let labels = 24 * (data.trainCount + data.test.count)
        let needed = present + images + labels
            + NearestSearch.memory(queries: data.test.count, dimension: data.test.dimension, k: k)
        guard needed <= limit else {
            throw CommandError("--memory-limit \(limit) is too small: \(data.test.count) test images of \(data.test.dimension) features with \(k) neighbours need \(needed) bytes")
        }
    }

    /// Prepared images that wait, what decodes, and the model's work on one batch.
    private func imagesInFlight(_ threads: Int) throws -> Int {
        let decoding = threads * 3 * min(decodeLimits.bytes, 9 << 20)
        if let side = source.rawPixels { return decoding + 3 * threads * 16 * 12 * side * side }
        guard let path = source.model else { return decoding + 64 << 20 }
        let file = try ModelFile(path: path)
        return try decoding + 3 * threads * 16 * 4 * file.preprocessing.count
            + Plan.memoryBound(file, threads: threads, batch: 16, features: source.features ?? .cls)
    }
}
