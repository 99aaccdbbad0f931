import ArgumentParser
import HSSLCommandLine
import HSSLEvaluation

struct RetrievalCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "retrieval",
        abstract: "Images of the same class found by cosine: mean average precision and recall at k.",
        discussion: """
            Each image is the query for all others (leave one out). Recall at k is the share of queries with an image \
            of their class among the first k. An image without another one of its class is no query. Figures in JSON \
            are fractions.

            Examples:
              hssl evaluate retrieval --model base-int8.safetensors --data DATA/t10k
              hssl evaluate retrieval --embeddings t10k.npy --k 1,5,10,50 --json -
              # the baseline without a model
              hssl evaluate retrieval --raw-pixels 28 --data DATA/t10k
            """)

    @OptionGroup var source: FeatureOptions

    @Option(name: .long, help: ArgumentHelp("Labelled images: ImageFolder or IDX prefix.", valueName: "data"))
    var data: String?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Instead of --data and a model: what hssl-extract wrote (.npy or .safetensors, with its index).",
            valueName: "file"))
    var embeddings: String?

    @Option(name: .long, help: ArgumentHelp("Ranks of recall, separated by commas.", valueName: "k,…"))
    var k: String = Retrieval.defaultCounts.map(String.init).joined(separator: ",")

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Write the figures as one JSON document to a file, or - for standard output.", valueName: "file"))
    var json: String?

    @OptionGroup var memory: MemoryOptions

    @OptionGroup var shared: SharedOptions

    func validate() throws {
        if (data == nil) == (embeddings == nil) { throw ValidationError("give --data or --embeddings") }
        try source.check(embeddings: embeddings == nil ? nil : "--embeddings")
        if counts == nil { throw ValidationError("--k must be counts separated by commas, not '\(k)'") }
    }

    private var counts: [Int]? { Evaluate.list(k) { Int($0).flatMap { $0 >= 1 ? $0 : nil } } }

    func run() throws {
        shared.apply()
        let target = try json.map { try JSONTarget($0, reading: [embeddings] + source.files) }
        let images: LabelledImages
        if let embeddings {
            images = try LabelledImages(embeddings: embeddings, memory)
        } else {
            images = try source.open([data ?? ""], shared, memory)[0]
        }
        try memory.plan(
            [images], shared, holding: Retrieval.memory(count: images.count, dimension: images.dimension),
            for: "\(images.count) images of \(images.dimension) features")
        var loaded = try images.load(nil, "features", shared)
        var bar = ProgressLabel("rank", shared)?.bar(total: loaded.labels.count)
        let result = try Retrieval.evaluate(
            features: loaded.values.take(), dimension: images.dimension, labels: loaded.labels, counts: counts ?? []
        ) { bar?.update(done: $0) }
        bar?.finish(done: loaded.labels.count)
        let counts = "\(result.queryCount) of \(result.imageCount) images as queries, \(result.classCount) classes"
        let lines =
            ["\(counts), \(result.dimension) dimensions", "mAP \(Pretrain.percent(result.meanAveragePrecision))"]
            + result.recalls.map { "recall at \($0.k): \(Pretrain.percent($0.recall))" }
        try JSONTarget.report(lines, result.json, to: target)
        if !loaded.isComplete { throw Exit(.partly) }
    }
}
