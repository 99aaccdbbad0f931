import ArgumentParser
import HSSLCommandLine
import HSSLEvaluation
import Logging

struct Linear: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "linear",
        abstract: "Accuracy of a linear classifier on frozen features.",
        discussion: """
            Multinomial logistic regression (L-BFGS) on standardised features. Of several strengths of the L2 penalty \
            the best on a held-out fifth of the train images is taken and fitted to all of them; with fewer than 5,000 \
            labels each fifth is held out in turn. With few labels the figure is the mean over several draws. Figures \
            in JSON are fractions. It takes seconds once features are there, so it has nothing to resume.

            Examples:
              hssl evaluate linear --model base-int8.safetensors --train DATA/train \\
                  --test DATA/t10k
              hssl evaluate linear --model base.safetensors --train photos/train \\
                  --test photos/val --fraction 0.01 --json -
              hssl evaluate linear --model base.safetensors --train DATA/train \\
                  --test DATA/t10k --labels-per-class 10
              # the baseline without a model
              hssl evaluate linear --raw-pixels 28 --train DATA/train --test DATA/t10k
              # what hssl-extract wrote
              hssl evaluate linear --train-embeddings train.npy \\
                  --test-embeddings t10k.npy
            """)

    @OptionGroup var source: FeatureOptions

    @OptionGroup var sets: TrainAndTest

    @Option(
        name: .long, help: ArgumentHelp("Use the labels of this share of every class, e.g. 0.01.", valueName: "share")
    )
    var fraction: Double?

    @Option(name: .long, help: ArgumentHelp("Use the labels of so many images of every class.", valueName: "n"))
    var labelsPerClass: Int?

    @Option(name: .long, help: ArgumentHelp("Random choices of few labels whose mean is given.", valueName: "n"))
    var draws: Int = 5

    @Option(name: .long, help: ArgumentHelp("Seed of what is chosen and held out.", valueName: "n"))
    var seed: UInt64 = 0

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Strengths λ of the penalty λ/2·‖W‖² beside the mean loss, separated by commas.", valueName: "λ,…"))
    var l2: String = LinearProbe.defaultStrengths.map { $0 < 1 ? "\($0)" : "\(Int($0))" }.joined(separator: ",")

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Write the figures as one JSON document to a file, or - for standard output.", valueName: "file"))
    var json: String?

    @OptionGroup var memory: MemoryOptions

    @OptionGroup var shared: SharedOptions

    func validate() throws {
        try sets.check(source)
        if fraction != nil, labelsPerClass != nil {
            throw ValidationError("give one of --fraction and --labels-per-class")
        }
        if let fraction, !(fraction > 0 && fraction <= 1) {
            throw ValidationError("--fraction must be above 0 and at most 1, not \(fraction)")
        }
        if let labelsPerClass, labelsPerClass < 1 {
            throw ValidationError("--labels-per-class must be at least 1, not \(labelsPerClass)")
        }
        if !(1...1000).contains(draws) { throw ValidationError("--draws must be from 1 to 1000, not \(draws)") }
        if strengths == nil {
            throw ValidationError("--l2 must be numbers of at least 0 separated by commas, not '\(l2)'")
        }
    }

    private var strengths: [Double]? {
        Evaluate.list(l2) { Double($0).flatMap { $0 >= 0 && $0.isFinite ? $0 : nil } }
    }

    private var budget: LabelBudget {
        if let labelsPerClass { return .perClass(labelsPerClass) }
        if let fraction, fraction < 1 { return .fraction(fraction) }
        return .all
    }

    func run() throws {
        shared.apply()
        let target = try json.map { try JSONTarget($0, reading: sets.files + source.files) }
        let data = try sets.open(source, shared, memory)
        let (count, dimension) = (data.trainCount, data.train.dimension)
        try memory.plan(
            [data.train, data.test], shared,
            holding: LinearProbe.memory(
                trainCount: count, testCount: data.test.count, dimension: dimension,
                classCount: data.train.classNames.count, strengths: strengths ?? [], budget: budget),
            for: "\(count) train and \(data.test.count) test images of \(dimension) features")
        var train = try data.train.load(data.trainIndices, "train", shared)
        let probe = try LinearProbe(
            features: train.values.take(), dimension: data.train.dimension, labels: data.trainLabels(train.labels))
        let test = try data.test.load(nil, "test", shared)
        var bar = ProgressLabel("fit", shared).map { ProgressBar(label: $0.text, unit: "walks", total: 0) }
        var (walks, lastDraw, before) = (0, 0, 0)
        let result = try probe.evaluate(
            queries: test.values, queryLabels: data.testLabels(test.labels), budget: budget, draws: draws, seed: seed,
            strengths: strengths ?? []
        ) { draw, count in
            if draw != lastDraw { (lastDraw, before) = (draw, walks) }
            walks = before + count
            bar?.update(done: walks)
        }
        bar?.finish(done: walks)
        for draw in result.draws where !draw.converged {
            Logger(label: "hssl").warning("λ = \(draw.strength): not converged after \(draw.iterations) steps")
        }
        try JSONTarget.report(lines(result), result.json, to: target)
        if !(train.isComplete && test.isComplete) { throw Exit(.partly) }
    }

    private func lines(_ result: LinearProbeResult) -> [String] {
        let used = result.draws[0].labels
        let labels =
            switch result.budget {
            case .all: "all \(used) labels"
            case .fraction, .perClass: "\(used) of \(result.trainCount) labels, mean of \(result.draws.count) draws"
            }
        let spread = result.top1StandardDeviation.map { " ± \(Pretrain.percent($0))" } ?? ""
        let strengths = Set(result.draws.map(\.strength)).sorted().map { "\($0)" }.joined(separator: ", ")
        let heldOut = result.draws.compactMap(\.heldOutTop1)
        let how = heldOut.isEmpty
            ? "given" : "top-1 \(Pretrain.percent(heldOut.reduce(0, +) / Double(heldOut.count))) on what was held out"
        return [
            "\(result.testCount) images, \(result.classCount) classes, \(labels), \(result.dimension) dimensions",
            "linear: top-1 \(Pretrain.percent(result.top1))\(spread), top-5 \(Pretrain.percent(result.top5))",
            "λ = \(strengths) (\(how))",
        ]
    }
}
