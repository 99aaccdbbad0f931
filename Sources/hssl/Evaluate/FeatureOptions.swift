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

/// Where the vectors of images come from.
struct FeatureOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("Model file (hssl export).", valueName: "file"))
    var model: String?

    @Option(
        name: .long,
        help: ArgumentHelp("Instead of a model: pixels, resized and cropped to a square of this side.", valueName: "side"))
    var rawPixels: Int?

    @Option(
        name: .long,
        help: ArgumentHelp("Instead of a model: a recipe's base with its initial weights.", valueName: "recipe"))
    var untrained: String?

    @Option(name: .long, help: ArgumentHelp("cls, mean or cls+mean.", valueName: "features"))
    var features: Features = .cls

    @Option(name: .long, help: folderLabelsHelp)
    var labels: FolderLabels?

    @OptionGroup var decode: DecodeOptions

    func validate() throws {
        if [model != nil, rawPixels != nil, untrained != nil].count(where: { $0 }) != 1 {
            throw ValidationError("give one of --model, --raw-pixels and --untrained")
        }
        if let rawPixels, !(1...1024).contains(rawPixels) {
            throw ValidationError("--raw-pixels must be from 1 to 1024, not \(rawPixels)")
        }
        if features == .patch {
            throw ValidationError("--features patch has a vector a patch; this needs one an image")
        }
    }

    /// A labelled data set: an error where it has no labels or a class without images.
    func labelled(_ path: String) throws -> Dataset {
        let dataset = try Dataset(path: path, limits: decode.limits, folderLabels: labels)
        guard dataset.hasLabels else {
            throw CommandError(
                "\(path): has no labels; this needs an ImageFolder with class folders or an IDX pair (\(dataset.summary))")
        }
        if let empty = dataset.emptyClasses.first { throw CommandError("\(empty): the class folder has no images") }
        return dataset
    }

    /// Opens the model, if there is one, and gives what makes vectors of a data set's images.
    ///
    /// - Parameter isGrey: all images that will come are grey: of raw pixels one channel is enough.
    func extractor(threads: Int, isGrey: Bool) throws -> (Dataset, [Int]?, ProgressLabel?) throws -> DatasetFeatures {
        if let rawPixels {
            let preprocessing = try Preprocessing(
                resize: rawPixels, crop: rawPixels, mean: [0, 0, 0], std: [1, 1, 1])
            return { dataset, indices, label in
                var bar = label?.bar(total: indices?.count ?? dataset.count)
                let result = try DatasetFeatures(
                    pixelsOf: dataset, indices: indices, preprocessing: preprocessing, channels: isGrey ? 1 : 3,
                    loaderThreads: threads) { bar?.update(done: $0) }
                bar?.finish(done: result.indices.count)
                return result
            }
        }
        let source: Model
        if let model {
            source = try Model(path: model)
        } else {
            source = try UntrainedBase.model(
                recipe: Recipe.load(path: untrained ?? "", architectures: ModelArchitecture.names))
        }
        guard let preprocessing = source.preprocessing else {
            throw CommandError("the model does not say how its images are prepared")
        }
        let features = self.features
        let session = try Session(model: source, threads: threads)
        return { dataset, indices, label in
            var bar = label?.bar(total: indices?.count ?? dataset.count)
            let result = try DatasetFeatures(
                dataset, indices: indices, session: session, preprocessing: preprocessing, features: features,
                loaderThreads: threads) { bar?.update(done: $0) }
            bar?.finish(done: result.indices.count)
            return result
        }
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

/// A labelled set of images to learn from and one to judge by.
struct TrainAndTest: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("Labelled images to learn from: ImageFolder or IDX prefix.", valueName: "data"))
    var train: String

    @Option(name: .long, help: ArgumentHelp("Labelled images to classify.", valueName: "data"))
    var test: String

    @Option(
        name: .long, help: ArgumentHelp("Use only the first n train images, in a fixed shuffled order.", valueName: "n"))
    var trainImages: Int?

    func validate() throws {
        if let trainImages, trainImages < 1 {
            throw ValidationError("--train-images must be at least 1, not \(trainImages)")
        }
    }

    /// Features and labels of both sets; classes of the test set that the train set lacks are refused.
    func load(_ options: FeatureOptions, _ shared: SharedOptions) throws -> LabelledSets {
        let log = Logger(label: "hssl")
        let train = try options.labelled(train), test = try options.labelled(test)
        let classes = try ClassMatching(reference: train.classNames, query: test.classNames)
        try requireClasses(of: test, in: train, classes)
        let extract = try options.extractor(threads: shared.threadCount, isGrey: train.isGrey && test.isGrey)
        for dataset in [train, test] { log.info("\(dataset.summary)") }
        let trainFeatures = try extract(train, subset(of: train), ProgressLabel("train", shared))
        let testFeatures = try extract(test, nil, ProgressLabel("test", shared))
        let faults = [train, test].flatMap { $0.faults.map { "\($0)" } }
            + trainFeatures.unreadable.map(\.reason) + testFeatures.unreadable.map(\.reason)
        for reason in faults { log.warning("skipped \(reason)") }
        if let text = repairedText(train.repairedCount + test.repairedCount) { log.info("\(text)") }
        guard !trainFeatures.indices.isEmpty, !testFeatures.indices.isEmpty else {
            throw CommandError("\(trainFeatures.indices.isEmpty ? self.train : self.test): no image could be read")
        }
        return LabelledSets(
            train: trainFeatures.values,
            trainLabels: trainFeatures.indices.compactMap { train.label($0).map { classes.referenceLabels[$0] } },
            test: testFeatures.values,
            testLabels: testFeatures.indices.compactMap { test.label($0).flatMap { classes.queryLabels[$0] } },
            dimension: trainFeatures.dimension, isComplete: faults.isEmpty)
    }

    /// Every class that has test images must have train images; the test set may have fewer classes.
    private func requireClasses(of test: Dataset, in train: Dataset, _ classes: ClassMatching) throws {
        let known = Set((0..<train.count).compactMap { train.label($0).map { classes.referenceLabels[$0] } })
        let asked = Set((0..<test.count).compactMap { test.label($0) }).sorted()
        let missing = asked.filter { label in classes.queryLabels[label].map { !known.contains($0) } ?? true }
        guard !missing.isEmpty else { return }
        let names = missing.prefix(5).map { "'\(test.classNames[$0])'" }.joined(separator: ", ")
            + (missing.count > 5 ? ", …" : "")
        throw CommandError("\(self.test): \(missing.count) of its \(asked.count) classes are not in \(self.train): \(names)")
    }

    /// A fixed random subset of the train images, in the data set's order.
    private func subset(of dataset: Dataset) -> [Int]? {
        guard let trainImages, trainImages < dataset.count else { return nil }
        var random = CounterRandom(seed: 0, stream: 0x5355_4253)
        return random.shuffled(0..<dataset.count).prefix(trainImages).sorted()
    }
}

/// Vectors [count, dimension] of two sets and their labels, in the train set's numbers.
struct LabelledSets {
    var train: [Float]
    let trainLabels: [Int]
    let test: [Float]
    let testLabels: [Int]
    let dimension: Int
    /// No image was skipped.
    let isComplete: Bool

    /// Moves the train vectors out, so that whoever gets them may change them in place.
    mutating func takeTrain() -> [Float] {
        var taken: [Float] = []
        swap(&taken, &train)
        return taken
    }
}
