import ArgumentParser
import CSupport
import HSSLCommandLine
import HSSLData
import HSSLEvaluation
import HSSLFormats
import HSSLModels
import HSSLPretraining
import HSSLRuntime
import Logging

/// Where the vectors of images come from, if not from a file of embeddings.
struct FeatureOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("Model file (hssl export).", valueName: "file"))
    var model: String?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Instead of a model: pixels, resized and cropped to a square of this side.", valueName: "side"))
    var rawPixels: Int?

    @Option(
        name: .long,
        help: ArgumentHelp("Instead of a model: a recipe's base with its initial weights.", valueName: "recipe"))
    var untrained: String?

    @Option(name: .long, help: ArgumentHelp("cls (the default), mean or cls+mean.", valueName: "features"))
    var features: Features?

    @Option(name: .long, help: folderLabelsHelp)
    var labels: FolderLabels?

    @OptionGroup var background: BackgroundOptions
    @OptionGroup var decode: DecodeOptions

    func validate() throws {
        if let rawPixels, !(1...1024).contains(rawPixels) {
            throw ValidationError("--raw-pixels must be from 1 to 1024, not \(rawPixels)")
        }
        if let features, features.isMatrix {
            throw ValidationError("--features \(features.rawValue) has a vector a patch; this needs one an image")
        }
    }

    /// Files that are read, where they are given.
    var files: [String?] { [model, untrained] }

    /// Either embeddings, by the flag named, or one source of features.
    func check(embeddings: String?) throws {
        let given = [
            ("--model", model != nil), ("--raw-pixels", rawPixels != nil), ("--untrained", untrained != nil),
            ("--features", features != nil), ("--labels", labels != nil),
            ("--background", background.background != nil),
        ].filter(\.1)
        if let embeddings, let first = given.first {
            throw ValidationError("\(embeddings) has features and names already: \(first.0) would do nothing")
        }
        if embeddings == nil, [model != nil, rawPixels != nil, untrained != nil].count(where: { $0 }) != 1 {
            throw ValidationError("give one of --model, --raw-pixels and --untrained, or embeddings")
        }
    }

    /// A labelled data set: an error where it has no labels or a class without images.
    func labelled(_ path: String, _ memory: MemoryOptions) throws -> Dataset {
        let dataset = try Dataset(
            path: path, limits: decode.limits, folderLabels: labels, inflatedBytes: memory.inflatedBytes)
        guard dataset.hasLabels else {
            throw CommandError(
                "\(path): has no labels; this needs an ImageFolder with class folders or an IDX pair "
                + "(\(dataset.summary))"
            )
        }
        if let empty = dataset.emptyClasses.first { throw CommandError("\(empty): the class folder has no images") }
        return dataset
    }

    /// Labelled images of data sets, whose features are computed when they are asked for.
    func open(_ paths: [String], _ shared: SharedOptions, _ memory: MemoryOptions) throws -> [LabelledImages] {
        let datasets = try paths.map { try labelled($0, memory) }
        let extract = try extractor(threads: shared.threadCount, isGrey: datasets.allSatisfy(\.isGrey))
        for dataset in datasets { Logger(label: "hssl").info("\(dataset.summary)") }
        return datasets.map { dataset in
            LabelledImages(
                source: dataset.path, classNames: dataset.classNames, count: dataset.count,
                dimension: extract.dimension, faults: dataset.faults.map { "\($0)" },
                label: { dataset.label($0) ?? 0 }, bytesInFlight: { try bytesInFlight(shared.threadCount) },
                limitDecoding: { bytes in
                    if bytes < dataset.limits.bytes { dataset.limitDecoding(toBytes: bytes, name: "--memory-limit") }
                },
                stream: { try extract.run(dataset, $0, $1).map(\.reason) })
        }
    }

    private typealias Body = (ArraySlice<Float>, [Int]) throws -> Void
    private typealias Extractor = (
        dimension: Int, run: (Dataset, [Int]?, Body) throws -> [(index: Int, reason: String)]
    )

    /// - Parameter isGrey: all images that will come are grey: of raw pixels one channel is enough.
    private func extractor(threads: Int, isGrey: Bool) throws -> Extractor {
        if let rawPixels {
            var preprocessing = try Preprocessing(
                resize: rawPixels, crop: rawPixels, mean: [0, 0, 0], std: [1, 1, 1])
            background.apply(to: &preprocessing)
            let channels = isGrey ? 1 : 3
            return (rawPixels * rawPixels * channels, { dataset, indices, body in
                try DatasetFeatures.streamPixels(
                    of: dataset, indices: indices, preprocessing: preprocessing, channels: channels,
                    loaderThreads: threads, body)
            })
        }
        let source = try Self.base(model: model, untrained: untrained)
        guard var preprocessing = source.preprocessing else {
            throw CommandError("the model does not say how its images are prepared")
        }
        background.apply(to: &preprocessing)
        let features = self.features ?? .cls
        let session = try Session(model: source, threads: threads)
        return (source.rowCount(features), { dataset, indices, body in
            try DatasetFeatures.stream(
                dataset, indices: indices, session: session, preprocessing: preprocessing, features: features,
                loaderThreads: threads, body)
        })
    }

    /// Prepared images that wait, and the model's work on one batch.
    private func bytesInFlight(_ threads: Int) throws -> Int {
        if let side = rawPixels { return 3 * threads * 16 * 12 * side * side }
        guard let path = model else { return 64 << 20 }
        let file = try ModelFile(path: path)
        return try 3 * threads * 16 * 4 * file.preprocessing.count
            + Plan.memoryBound(file, threads: threads, batch: 16, features: features ?? .cls)
    }

    /// The model of `--model` or `--untrained`.
    static func base(model: String?, untrained: String?) throws -> Model {
        if let model { return try Model(path: model) }
        return try UntrainedBase.model(
            recipe: Recipe.load(path: untrained ?? "", architectures: ModelArchitecture.names))
    }
}

/// Images with labels and, as a stream, features.
struct LabelledImages {
    /// What errors name.
    let source: String
    let classNames: [String]
    let count: Int
    let dimension: Int
    let faults: [String]
    let label: (Int) -> Int
    /// Of memory, while features are computed.
    let bytesInFlight: () throws -> Int
    /// Bounds the memory of decoding; nil where nothing is decoded.
    let limitDecoding: ((_ bytes: Int) -> Void)?
    /// Gives [images, dimension] and their places for all images or those asked for, and returns why some had none.
    let stream: ([Int]?, (ArraySlice<Float>, [Int]) throws -> Void) throws -> [String]

    init(
        source: String, classNames: [String], count: Int, dimension: Int, faults: [String],
        label: @escaping (Int) -> Int, bytesInFlight: @escaping () throws -> Int = { 0 },
        limitDecoding: ((Int) -> Void)? = nil,
        stream: @escaping ([Int]?, (ArraySlice<Float>, [Int]) throws -> Void) throws -> [String]
    ) {
        (self.source, self.classNames, self.count, self.dimension) = (source, classNames, count, dimension)
        (self.faults, self.label, self.stream) = (faults, label, stream)
        (self.bytesInFlight, self.limitDecoding) = (bytesInFlight, limitDecoding)
    }

    /// The rows of an embeddings file, with the classes that its index tells.
    init(embeddings path: String, _ memory: MemoryOptions) throws {
        try memory.require(embeddings: path)
        let stored = try StoredEmbeddings(path: path)
        guard stored.rowShape.count == 1 else {
            throw CommandError(
                "\(path): has rows of shape \(stored.rowShape): patch features; this needs one vector an image")
        }
        let known = try ImageLabels(
            names: stored.names, source: path, inflatedBytes: memory.inflatedBytes)
        let dimension = stored.rowShape[0]
        self.init(
            source: path, classNames: known.classNames, count: stored.count, dimension: dimension, faults: [],
            label: { known.labels[$0] },
            stream: { indices, body in
                guard let indices else {
                    for first in stride(from: 0, to: stored.count, by: 1024) {
                        let rows = first..<min(first + 1024, stored.count)
                        try body(
                            stored.values[(rows.lowerBound * dimension)..<(rows.upperBound * dimension)], Array(rows))
                    }
                    return []
                }
                for row in indices { try body(stored.values[(row * dimension)..<((row + 1) * dimension)], [row]) }
                return []
            })
        Logger(label: "hssl").info("\(path): \(count) embeddings, labels: \(classNames.count) classes")
    }

    /// The features of all images or of those asked for, their labels, and whether none was skipped; what was is said.
    ///
    /// - Parameter body: gets [images, dimension] and the labels.
    func forEachBlock(
        _ indices: [Int]?, _ progress: String, _ shared: SharedOptions,
        _ body: (ArraySlice<Float>, [Int]) throws -> Void
    ) throws -> Bool {
        var bar = ProgressLabel(progress, shared)?.bar(total: indices?.count ?? count)
        var done = 0
        let unreadable = try stream(indices) { values, places in
            try body(values, places.map(label))
            done += places.count
            bar?.update(done: done)
        }
        bar?.finish(done: done)
        for reason in faults + unreadable { Logger(label: "hssl").warning("skipped \(reason)") }
        guard done > 0 else { throw CommandError("\(source): no image could be read") }
        return faults.isEmpty && unreadable.isEmpty
    }

    /// The same at once: [images, dimension] and the labels.
    func load(
        _ indices: [Int]?, _ progress: String, _ shared: SharedOptions
    ) throws -> (values: [Float], labels: [Int], isComplete: Bool) {
        var values: [Float] = [], labels: [Int] = []
        values.reserveCapacity((indices?.count ?? count) * dimension)
        let isComplete = try forEachBlock(indices, progress, shared) {
            values += $0
            labels += $1
        }
        return (values, labels, isComplete)
    }
}

/// What a progress bar says is going on.
struct ProgressLabel {
    let text: String

    /// nil where information is not shown.
    init?(_ text: String, _ shared: SharedOptions) {
        guard shared.logLevel.loggerLevel <= .info else { return nil }
        self.text = text
    }

    func bar(total: Int) -> ProgressBar { ProgressBar(label: text, unit: "images", total: total) }
}
