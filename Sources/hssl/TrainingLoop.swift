import CSupport
import HSSLCommandLine
import HSSLData
import HSSLPretraining
import Logging

extension RunOptions {
    /// Runs a trainer to its end, to `--max-steps` or to a signal: progress, messages, exit status.
    func train(_ trainer: Trainer, recipe: Recipe, dataset: Dataset, label: String, _ log: Logger) throws {
        announce(trainer, recipe: recipe, dataset: dataset, log)

        let last = min(trainer.totalSteps, maxSteps ?? trainer.totalSteps)
        // From the first step on: what is measured before it says nothing of the others' time.
        var bar: ProgressBar?
        func begin(at first: Int, elapsed: Double = 0) -> ProgressBar {
            ProgressBar(label: label, unit: "steps", total: last, first: first, elapsed: elapsed)
        }
        trainer.willBegin = { log.info("\($0)") }
        let summary = try trainer.run(shouldStop: { StopSignal.isRequested }, progress: { metrics, _ in
            if let rate = metrics.imagesPerSecond {
                let seconds = Double(recipe.schedule.effectiveBatch) / rate
                if bar == nil { bar = begin(at: metrics.step - 1, elapsed: seconds) }
                bar?.update(done: metrics.step, detail: Pretrain.detail(metrics))
            }
            if let line = Self.knnLine(metrics, trainer.gap) { log.info("\(line)") }
        }, notice: { log.warning("\($0)") })
        if bar == nil { bar = begin(at: summary.step) }
        bar?.finish(done: summary.step)

        switch summary.ending {
        case .finished: log.info("finished: \(output)/model.safetensors, \(output)/report.html")
        case .stopped: log.info("stopped after step \(summary.step) of \(trainer.totalSteps), saved; --resume goes on")
        }
        if let text = repairedText(dataset.repairedCount) { log.info("\(text)") }
        if let status = StopSignal.exitStatus { throw Exit(status) }
        if !summary.unreadable.isEmpty {
            log.warning("\(summary.unreadable.count) images could not be read and were replaced")
        }
        if !summary.unreadable.isEmpty || !dataset.faults.isEmpty { throw Exit(.partly) }
    }

    /// What is about to be done, and from where.
    ///
    /// - Parameter others: what else learns, e.g. `6 candidates`.
    func announce(_ trainer: Trainer, recipe: Recipe, dataset: Dataset, others: String? = nil, _ log: Logger) {
        let facts =
            [
                "\(dataset.count) images",
                "\(trainer.totalSteps) steps of \(recipe.schedule.effectiveBatch) in micro-batches of "
                + "\(trainer.microBatch)",
            ] + [others].compactMap { $0 } + [
                recipe.schedule.precision.rawValue, "\(shared.threadCount) threads",
                String(cString: hssl_isa_name(hssl_isa_selected())),
            ]
        log.info("\(facts.joined(separator: ", "))")
        if let notice = trainer.notice { log.warning("\(notice)") }
        if trainer.isResumed {
            log.info("resuming after step \(trainer.step) of \(trainer.totalSteps)")
        } else if resume != nil {
            log.info("\(output): no checkpoint yet; starting at the first step")
        }
    }

    /// What an evaluation said; nil where there was none.
    private static func knnLine(_ metrics: Metrics, _ gap: KNNGap?) -> String? {
        guard let top1 = metrics.knnTop1 else { return nil }
        let line = "epoch \(metrics.epoch + 1): k-NN top-1 \(Pretrain.percent(top1))"
        guard let gap else { return line }
        let ends = "\(Pretrain.percent(gap.untrained)) (untrained) and \(Pretrain.percent(gap.teacher)) (teacher)"
        // A teacher that is no better than chance weights has no gap to close.
        guard let closed = metrics.gapClosed else { return line + " beside \(ends)" }
        return line + ", \(Pretrain.percent(closed)) of the gap between \(ends)"
    }
}
