import ArgumentParser
import HSSLCommandLine
import HSSLData
import HSSLEvaluation
import HSSLGraph

/// A labelled set of images to learn from and one to judge by.
struct TrainAndTest: ParsableArguments {
    @Option(
        name: .long,
        help: ArgumentHelp("Labelled images to learn from: ImageFolder or IDX prefix.", valueName: "data"))
    var train: String?

    @Option(name: .long, help: ArgumentHelp("Labelled images to classify.", valueName: "data"))
    var test: String?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Instead of --train and a model: what hssl-extract wrote (.npy or .safetensors, with its index).",
            valueName: "file"))
    var trainEmbeddings: String?

    @Option(name: .long, help: ArgumentHelp("The same instead of --test.", valueName: "file"))
    var testEmbeddings: String?

    @Option(
        name: .long,
        help: ArgumentHelp("Use only the first n train images, in a fixed shuffled order.", valueName: "n"))
    var trainImages: Int?

    func validate() throws {
        if let trainImages, trainImages < 1 {
            throw ValidationError("--train-images must be at least 1, not \(trainImages)")
        }
        let (data, embeddings) = ([train, test].compactMap { $0 }, [trainEmbeddings, testEmbeddings].compactMap { $0 })
        if !(data.count == 2 && embeddings.isEmpty) && !(data.isEmpty && embeddings.count == 2) {
            throw ValidationError("give --train and --test, or --train-embeddings and --test-embeddings")
        }
    }

    /// Files that are read whole, where they are given.
    var files: [String?] { [trainEmbeddings, testEmbeddings] }

    func check(_ options: FeatureOptions) throws {
        try options.check(embeddings: trainEmbeddings == nil ? nil : "--train-embeddings")
    }

    /// Opens both sets; classes of the test set that the train set lacks are refused.
    func open(
        _ options: FeatureOptions, _ shared: SharedOptions, _ memory: MemoryOptions
    ) throws -> OpenSets {
        let train: LabelledImages, test: LabelledImages
        if let trainEmbeddings, let testEmbeddings {
            (train, test) = (
                try LabelledImages(embeddings: trainEmbeddings, memory),
                try LabelledImages(embeddings: testEmbeddings, memory))
            guard train.dimension == test.dimension else {
                throw CommandError(
                    "\(testEmbeddings): \(test.dimension) features a row, \(trainEmbeddings) has \(train.dimension)")
            }
        } else {
            let both = try options.open([self.train, self.test].compactMap { $0 }, shared, memory)
            (train, test) = (both[0], both[1])
        }
        let classes = try ClassMatching(reference: train.classNames, query: test.classNames)
        try Self.requireClasses(of: test, in: train, classes)
        return OpenSets(train: train, test: test, classes: classes, trainIndices: subset(of: train.count))
    }

    /// Every class that has test images must have train images; the test set may have fewer classes.
    private static func requireClasses(
        of test: LabelledImages, in train: LabelledImages, _ classes: ClassMatching
    ) throws {
        let known = Set((0..<train.count).map { classes.referenceLabels[train.label($0)] })
        let asked = Set((0..<test.count).map { test.label($0) }).sorted()
        let missing = asked.filter { label in classes.queryLabels[label].map { !known.contains($0) } ?? true }
        guard !missing.isEmpty else { return }
        let names = missing.prefix(5).map { "'\(test.classNames[$0])'" }.joined(separator: ", ")
            + (missing.count > 5 ? ", …" : "")
        throw CommandError(
            "\(test.source): \(missing.count) of its \(asked.count) classes are not in \(train.source): \(names)")
    }

    /// A fixed random subset of the train images, in the data set's order.
    private func subset(of count: Int) -> [Int]? {
        guard let trainImages, trainImages < count else { return nil }
        var random = CounterRandom(seed: 0, stream: 0x5355_4253)
        return random.shuffled(0..<count).prefix(trainImages).sorted()
    }
}

/// Two sets of images and how their classes go together.
struct OpenSets {
    let train: LabelledImages
    let test: LabelledImages
    fileprivate let classes: ClassMatching
    /// The train images to use; nil: all.
    let trainIndices: [Int]?

    var trainCount: Int { trainIndices?.count ?? train.count }

    /// The train images to use, in a fixed shuffled order. Of references that are equally near, as copies of one
    /// picture are, the first ones are kept: in the data set's order they would all be of the class whose name sorts
    /// first.
    func shuffledTrainIndices() -> [Int] {
        var random = CounterRandom(seed: 0, stream: 0x5449_4553)
        return random.shuffled(trainIndices ?? Array(0..<train.count))
    }

    /// Labels of the train set in the numbers that both sets share.
    func trainLabels(_ labels: [Int]) -> [Int] { labels.map { classes.referenceLabels[$0] } }
    /// The same for the test set, of which every class is known.
    func testLabels(_ labels: [Int]) -> [Int] { labels.compactMap { classes.queryLabels[$0] } }
}
