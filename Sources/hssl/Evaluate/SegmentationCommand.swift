import ArgumentParser
import HSSLCommandLine
import HSSLEvaluation
import HSSLFormats
import HSSLRuntime
import Logging

struct SegmentationCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "segmentation",
        abstract: "Mean intersection over union of a linear head on frozen patch features.",
        discussion: """
            Masks are images with the names of theirs but for the suffix; each colour (or grey value) is a class. A \
            patch learns the class of most of its pixels; logits are interpolated to the pixels of the model's input, \
            to which masks are resized and cropped as images are. Figures in JSON are fractions.

            Examples:
              hssl evaluate segmentation --model base.safetensors \\
                  --train-images DATA/train/images --train-masks DATA/train/masks \\
                  --test-images DATA/val/images --test-masks DATA/val/masks --ignore 255
              # the same base before training
              hssl evaluate segmentation --untrained RECIPE.yaml …
            """)

    @Option(name: .long, help: ArgumentHelp("Model file (hssl export).", valueName: "file"))
    var model: String?

    @Option(
        name: .long,
        help: ArgumentHelp("Instead of a model: a recipe's base with its initial weights.", valueName: "recipe"))
    var untrained: String?

    @Option(name: .long, help: ArgumentHelp("Images to learn from.", valueName: "folder"))
    var trainImages: String

    @Option(name: .long, help: ArgumentHelp("Their masks.", valueName: "folder"))
    var trainMasks: String

    @Option(name: .long, help: ArgumentHelp("Images to judge by.", valueName: "folder"))
    var testImages: String

    @Option(name: .long, help: ArgumentHelp("Their masks.", valueName: "folder"))
    var testMasks: String

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Colours that are no class, separated by commas: grey values 0 to 255, or RRGGBB.", valueName: "colour,…")
    )
    var ignore: String?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Write the figures as one JSON document to a file, or - for standard output.", valueName: "file"))
    var json: String?

    @OptionGroup var background: BackgroundOptions
    @OptionGroup var shared: SharedOptions

    func validate() throws {
        if (model == nil) == (untrained == nil) { throw ValidationError("give one of --model and --untrained") }
        if ignored == nil {
            throw ValidationError("--ignore must be grey values or RRGGBB separated by commas, not '\(ignore ?? "")'")
        }
    }

    private var ignored: [Int]? {
        guard let ignore else { return [] }
        return Evaluate.list(ignore) { text in
            if text.utf8.count == 6 { return Int(text, radix: 16) }
            return Int(text).flatMap { (0...255).contains($0) ? $0 << 16 | $0 << 8 | $0 : nil }
        }
    }

    func run() throws {
        shared.apply()
        let target = try json.map { try JSONTarget($0, reading: [self.model, untrained]) }
        let train = try MaskedImages(images: trainImages, masks: trainMasks)
        let test = try MaskedImages(images: testImages, masks: testMasks)
        let model = try FeatureOptions.base(model: self.model, untrained: untrained)
        guard var preprocessing = model.preprocessing else {
            throw CommandError("the model does not say how its images are prepared")
        }
        background.apply(to: &preprocessing)
        let session = try Session(model: model, threads: shared.threadCount)
        let shape = model.rowShape(.patch)
        let grid = Int(Double(shape[0]).squareRoot().rounded())
        guard grid * grid == shape[0] else { throw CommandError("the model's \(shape[0]) patches are not a square") }
        var segmentation = Segmentation(
            grid: grid, side: preprocessing.crop, dimension: shape[1], ignored: Set(ignored ?? []))
        var isComplete = try forEachImage(train, "train", session, preprocessing) { patches, index in
            segmentation.train(patches, mask: try train.mask(index, preprocessing))
        }
        var bar = ProgressLabel("fit", shared).map { ProgressBar(label: $0.text, unit: "walks", total: 0) }
        var walks = 0
        var head = try segmentation.head {
            walks = $0
            bar?.update(done: $0)
        }
        bar?.finish(done: walks)
        let hasAll = try forEachImage(test, "test", session, preprocessing) { patches, index in
            try head.judge(patches, mask: try test.mask(index, preprocessing), name: test.images.name(index))
        }
        isComplete = isComplete && hasAll
        let result = head.result
        let counts = "\(result.testCount) images, \(result.classes.count) classes, head of \(result.trainCount) images"
        let classes = result.classes.map { entry in
            let iou = entry.iou.map(Pretrain.percent) ?? "not among the test images"
            return "\(SegmentationResult.name(of: entry.color)): \(iou)"
        }
        let lines = [
            "\(counts), \(result.dimension) dimensions, λ = \(result.strength)",
            "mIoU \(Pretrain.percent(result.meanIoU)), pixels right \(Pretrain.percent(result.pixelAccuracy))",
        ] + classes
        try JSONTarget.report(lines, result.json, to: target)
        if !isComplete { throw Exit(.partly) }
    }

    /// Patch features of every image that can be read; the others are named.
    ///
    /// - Returns: whether none was skipped.
    private func forEachImage(
        _ images: MaskedImages, _ progress: String, _ session: Session, _ preprocessing: Preprocessing,
        _ body: (ArraySlice<Float>, Int) throws -> Void
    ) throws -> Bool {
        let width = session.model.rowCount(.patch)
        var bar = ProgressLabel(progress, shared)?.bar(total: images.images.count)
        var done = 0
        let unreadable = try DatasetFeatures.stream(
            images.images, session: session, preprocessing: preprocessing, features: .patch,
            loaderThreads: shared.threadCount
        ) { values, places in
            for (place, index) in places.enumerated() {
                let first = values.startIndex + place * width
                try body(values[first..<(first + width)], index)
            }
            done += places.count
            bar?.update(done: done)
        }
        bar?.finish(done: done)
        for image in unreadable { Logger(label: "hssl").warning("skipped \(image.reason)") }
        for fault in images.images.faults { Logger(label: "hssl").warning("skipped \(fault)") }
        guard done > 0 else { throw CommandError("\(images.images.path): no image could be read") }
        return unreadable.isEmpty && images.images.faults.isEmpty
    }
}
