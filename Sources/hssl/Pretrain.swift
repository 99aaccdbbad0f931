import ArgumentParser
import CSupport
import HSSLCommandLine
import HSSLPretraining
import Logging

struct Pretrain: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Pretrain a base model without labels.",
        discussion: """
            The run folder receives config.yaml, metrics.jsonl, checkpoint.safetensors and, at the end, model.safetensors (the teacher's base) and report.html. \
            Ctrl-C ends the current step, saves and exits with 130; --resume goes on bit for bit, with a recipe that \
            means the same as the run's; its evaluation and checkpoint sections may differ. hssl recipe lists the keys.

            Examples:
              hssl pretrain models/vit_nano-fashion.yaml --data /usr/share/datasets/fashion-mnist/train --output runs/first
              hssl pretrain models/vit_small-photos.yaml --data photos/ --output runs/photos --max-steps 20 --memory-limit 4G
              hssl pretrain models/vit_nano-fashion.yaml --data DATA/train --output runs/first --resume
              hssl pretrain models/vit_nano-fashion.yaml --data DATA/train --output runs/none --set auxiliary.family=none --seed 3
            """)

    @OptionGroup var options: RunOptions

    func run() throws {
        options.shared.apply()
        StopSignal.install()
        let log = Logger(label: "hssl")
        let resolved = try options.resolvedRecipe()
        let dataset = try options.dataset(log)
        let trainer = try Trainer(
            recipe: resolved, dataset: dataset, output: options.output, options: options.pretrainingOptions)
        log.info("\(dataset.count) images, \(trainer.totalSteps) steps of \(resolved.schedule.effectiveBatch) in micro-batches of \(trainer.microBatch), \(resolved.schedule.precision.rawValue), \(options.shared.threadCount) threads, \(String(cString: hssl_isa_name(hssl_isa_selected())))")

        if let notice = trainer.notice { log.warning("\(notice)") }
        if trainer.isResumed {
            log.info("resuming after step \(trainer.step) of \(trainer.totalSteps)")
        } else if options.resume != nil {
            log.info("\(options.output): no checkpoint yet; starting at the first step")
        }

        let last = min(trainer.totalSteps, options.maxSteps ?? trainer.totalSteps)
        var bar = ProgressBar(label: "pretrain", unit: "steps", total: last, first: trainer.step)
        let summary = try trainer.run(shouldStop: { StopSignal.isRequested }, progress: { metrics, _ in
            bar.update(done: metrics.step, detail: Self.detail(metrics))
            if let top1 = metrics.knnTop1 { log.info("epoch \(metrics.epoch + 1): k-NN top-1 \(Self.percent(top1))") }
        }, notice: { log.warning("\($0)") })
        bar.finish(done: summary.step)

        switch summary.ending {
        case .finished: log.info("finished: \(options.output)/model.safetensors, \(options.output)/report.html")
        case .stopped: log.info("stopped after step \(summary.step) of \(trainer.totalSteps), saved; --resume goes on")
        }
        if let text = repairedText(dataset.repairedCount) { log.info("\(text)") }
        if let status = StopSignal.exitStatus { throw Exit(status) }
        if !summary.unreadable.isEmpty {
            log.warning("\(summary.unreadable.count) images could not be read and were replaced")
        }
        if !summary.unreadable.isEmpty || !dataset.faults.isEmpty { throw Exit(.partly) }
    }

    static func detail(_ metrics: Metrics) -> String {
        func fixed(_ value: Double?, _ places: Int) -> String {
            guard let value, value.isFinite else { return "–" }
            let scale = places == 0 ? 1.0 : 1000.0
            return places == 0 ? "\(Int(value.rounded()))" : "\((value * scale).rounded() / scale)"
        }
        return "loss \(fixed(metrics.loss, 3))  \(fixed(metrics.imagesPerSecond, 0)) images/s  \((metrics.peakRSSBytes ?? 0) >> 20) MB"
    }

    static func percent(_ fraction: Double) -> String { "\((fraction * 10_000).rounded() / 100) %" }
}
