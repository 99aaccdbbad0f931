import ArgumentParser
import CSupport
import HSSLCommandLine
import HSSLPretraining
import Logging

struct Pretrain: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Pretrain a base model without labels.",
        discussion: """
            The run folder receives config.yaml, metrics.jsonl, checkpoint.safetensors and, at the end, \
            model.safetensors (the teacher's base) and report.html. Ctrl-C ends the current step, saves and exits with \
            130; --resume goes on bit for bit, with a recipe that means the same as the run's; its evaluation and \
            checkpoint sections may differ. hssl recipe lists the keys.

            Examples:
              hssl pretrain models/vit_nano-fashion.yaml \\
                  --data /usr/share/datasets/fashion-mnist/train --output runs/first
              hssl pretrain models/vit_small-photos.yaml --data photos/ \\
                  --output runs/photos --max-steps 20 --memory-limit 4G
              hssl pretrain models/vit_nano-fashion.yaml --data DATA/train \\
                  --output runs/first --resume
              hssl pretrain models/vit_nano-fashion.yaml --data DATA/train \\
                  --output runs/none --set auxiliary.family=none --seed 3
            """)

    @OptionGroup var options: RunOptions

    func run() throws {
        options.shared.apply()
        StopSignal.install()
        let log = Logger(label: "hssl")
        var resolved = try options.resolvedRecipe()
        guard resolved.objective.name != Recipe.distillObjective else {
            throw CommandError(
                "\(options.recipe): objective.name is \(Recipe.distillObjective), which needs a teacher: "
                    + "hssl distill \(options.recipe) --teacher FILE …")
        }
        try resolved.validate(path: options.recipe)
        let dataset = try options.dataset(log)
        resolved = try options.resolvedRecipe(resolved, for: dataset, log)
        let trainer = try Trainer(
            recipe: resolved, dataset: dataset, output: options.output, options: options.pretrainingOptions)
        try options.train(trainer, recipe: resolved, dataset: dataset, label: "pretrain", log)
    }

    static func detail(_ metrics: Metrics) -> String {
        func fixed(_ value: Double?, _ places: Int) -> String {
            guard let value, value.isFinite else { return "–" }
            let scale = places == 0 ? 1.0 : 1000.0
            return places == 0 ? "\(Int(value.rounded()))" : "\((value * scale).rounded() / scale)"
        }
        return
            "loss \(fixed(metrics.loss, 3))  \(fixed(metrics.imagesPerSecond, 0)) images/s  "
            + "\((metrics.peakRSSBytes ?? 0) >> 20) MB"
    }

    static func percent(_ fraction: Double) -> String { "\((fraction * 10_000).rounded() / 100) %" }
}
