import ArgumentParser
import CSupport
import HSSLCommandLine
import HSSLPretraining
import Logging

struct Search: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Find the auxiliary head that suits a base and its images, without labels.",
        discussion: """
            Trains the base by its own objective alone and, beside it, every candidate head on what the base makes of \
            the images, for a part of the recipe's run; then compares the heads on 2,048 images that were held out. \
            The run folder receives recipe.yaml with the head that won, ready for hssl pretrain, and report.html. The \
            recipe's auxiliary section says what the candidates have in common (depth, width). Ctrl-C saves and exits \
            with 130; --resume goes on bit for bit, with the same heads.

            Examples:
              hssl search models/vit_nano-fashion.yaml --data DATA/train \\
                  --heads convnext,resnet,mlp,swin,vit,poolformer --output runs/search
              hssl pretrain runs/search/recipe.yaml --data DATA/train --output runs/first
              hssl search RECIPE.yaml --data photos/ --heads convnext,resnet \\
                  --output runs/search --json - | jq .winner
            """)

    @OptionGroup var options: RunOptions

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Candidates, separated by commas: \(Recipe.headFamilies.joined(separator: ", ")).", valueName: "heads"))
    var heads: String

    @Flag(name: .long, help: "The base learns from the candidates, too: from the mean over them.")
    var coupled = false

    @Option(
        name: .long,
        help: ArgumentHelp("Updates of the search as a part of those of the recipe's run.", valueName: "part"))
    var share: Double = SearchOptions.usualShare

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Write the figures as one JSON document to a file, or - for standard output.", valueName: "file"))
    var json: String?

    func validate() throws {
        if !(share > 0 && share <= 1) { throw ValidationError("--share must be above 0 and at most 1, not \(share)") }
    }

    func run() throws {
        options.shared.apply()
        let target = try json.map { try JSONTarget($0, reading: [options.recipe]) }
        StopSignal.install()
        let log = Logger(label: "hssl")
        var candidates: SearchOptions
        do { candidates = try SearchOptions(heads: heads) } catch { throw UsageError("--heads: \(error)") }
        (candidates.coupled, candidates.share) = (coupled, share)
        var resolved = try options.resolvedRecipe()
        try resolved.validate(path: options.recipe)
        let dataset = try options.dataset(log)
        resolved = try options.resolvedRecipe(resolved, for: dataset, log)
        let search = try SearchTrainer(
            recipe: resolved, dataset: dataset, output: options.output, options: options.pretrainingOptions,
            search: candidates)
        let trainer = search.trainer
        options.announce(
            trainer, recipe: resolved, dataset: dataset, others: "\(candidates.heads.count) candidates", log)

        let last = min(trainer.totalSteps, options.maxSteps ?? trainer.totalSteps)
        var bar = ProgressBar(label: "search", unit: "steps", total: last, first: trainer.step)
        let outcome = try search.run(shouldStop: { StopSignal.isRequested }, progress: { metrics, _ in
            bar.update(done: metrics.step, detail: Pretrain.detail(metrics))
            // The comparison that follows has messages of its own.
            if metrics.step == last { bar.finish(done: last) }
        }, notice: { log.warning("\($0)") })
        if outcome.summary.step < last { bar.finish(done: outcome.summary.step) }

        try JSONTarget.report((outcome.result?.table).map { [$0] } ?? [], outcome.json, to: target)
        if let result = outcome.result {
            guard let winner = result.winner else {
                throw CommandError("\(result.failure ?? ""); \(options.output)/report.html has the figures")
            }
            if let doubt = result.doubt { log.warning("\(doubt)") }
            log.info("finished: \(winner.head) wins; \(options.output)/recipe.yaml, \(options.output)/report.html")
        } else {
            log.info("stopped after step \(outcome.summary.step) of \(trainer.totalSteps), saved; --resume goes on")
        }
        if let status = StopSignal.exitStatus { throw Exit(status) }
        let unreadable = outcome.summary.unreadable.count + outcome.unreadable
        if unreadable > 0 { log.warning("\(unreadable) images could not be read and were replaced or left out") }
        if unreadable > 0 || !dataset.faults.isEmpty { throw Exit(.partly) }
    }
}
