import ArgumentParser
import HSSLCommandLine
import HSSLData
import HSSLFormats
import HSSLGraph
import HSSLPretraining
import Logging

struct Bank: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Keep a teacher's answers, so that students learn from them without it.",
        discussion: """
            The folder receives bank.json, a basis for cells and shards of 8 bits a value: what the teacher says of \
            distill.draws views of every image, which students of hssl distill --bank replay. Of a recipe the sections \
            distill and data and the seed decide. Ctrl-C ends after the last whole shard and exits with 130; --resume \
            goes on with the first missing one, to the same bytes.

            Examples:
              hssl bank RECIPE.yaml --teacher dinov2-112.safetensors --data photos/ \\
                  --output banks/photos
              hssl bank RECIPE.yaml --teacher dinov2-112.safetensors --data photos/ \\
                  --output banks/photos --resume=auto
              hssl bank RECIPE.yaml --teacher dinov2-112.safetensors --data photos/ \\
                  --output banks/ten --set distill.draws=10
              hssl inspect banks/photos
            """)

    @Argument(help: ArgumentHelp("Recipe of objective distill: YAML; models/ has one.", valueName: "recipe"))
    var recipe: String

    @Option(name: .long, help: ArgumentHelp("Model file that is asked.", valueName: "file"))
    var teacher: String

    @Option(name: .long, help: ArgumentHelp("How it runs: float32, float16 or int8. (default: int8)", valueName: "p"))
    var teacherPrecision: Precision?

    @Option(name: .long, help: ArgumentHelp("ImageFolder, flat folder or IDX prefix.", valueName: "data"))
    var data: String

    @Option(
        name: .long,
        help: ArgumentHelp("Folder of the bank; one that is there is refused without --resume.", valueName: "folder"))
    var output: String

    @Option(name: .long, help: ArgumentHelp("Seed, instead of the recipe's.", valueName: "n"))
    var seed: UInt64?

    @Flag
    var resume: RunOptions.Resume?

    @Option(name: .long, help: folderLabelsHelp)
    var labels: FolderLabels?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Most resident memory, e.g. 800M; what decoding an image needs beyond it leaves that image out.",
            valueName: "size"))
    var memoryLimit: ByteSize?

    @Option(
        name: .long,
        help: ArgumentHelp("Any recipe key, e.g. --set distill.rank=64. May be repeated.", valueName: "key=value"))
    var set: [String] = []

    @OptionGroup var decode: DecodeOptions
    @OptionGroup var shared: SharedOptions

    func run() throws {
        shared.apply()
        StopSignal.install()
        let log = Logger(label: "hssl")
        let recipe = try Recipe.load(
            path: recipe, set: set + (seed.map { ["schedule.seed=\($0)"] } ?? []), objective: Recipe.distillObjective)
        guard recipe.objective.name == Recipe.distillObjective else {
            throw CommandError(
                "\(self.recipe): objective.name is \(recipe.objective.name); hssl bank takes recipes of objective "
                    + "\(Recipe.distillObjective)")
        }
        let opened = try FrozenTeacher.open(teacher, precision: teacherPrecision)
        let dataset = try RunOptions.dataset(
            data, labels, decode, excluding: output, memoryLimit: memoryLimit, log)

        var options = ViewBankWriter.Options()
        (options.resume, options.startsIfMissing) = (resume != nil, resume == .auto)
        (options.threads, options.loaderThreads) = (shared.threadCount, shared.threadCount)
        options.memoryLimit = memoryLimit?.bytes
        let writer = try ViewBankWriter(
            path: output,
            request: ViewBankRequest(
                recipe: recipe, teacher: opened.file, precision: opened.precision, dataset: dataset),
            options: options)
        try fill(writer, dataset, log)
    }

    private func fill(_ writer: ViewBankWriter, _ dataset: Dataset, _ log: Logger) throws {
        let layout = writer.identity.layout
        if let notice = writer.notice { log.warning("\(notice)") }
        for line in writer.identity.lines { log.info("\(line)") }
        if resume != nil {
            log.info(
                writer.imagesDone > 0
                    ? "resuming after \(writer.imagesDone) of \(layout.images) images"
                    : "\(output): nothing to resume; starting at the first image")
        }
        var bar = ProgressBar(label: "bank", unit: "images", total: layout.images, first: writer.imagesDone)
        var done = writer.imagesDone
        let ending = try writer.run(shouldStop: { StopSignal.isRequested }, progress: { images, _ in
            done = images
            bar.update(done: images)
        }, notice: { log.warning("\($0)") })
        bar.finish(done: done)
        if let text = repairedText(dataset.repairedCount) { log.info("\(text)") }
        guard ending == .finished else {
            log.info("stopped; whole shards are kept, and --resume goes on")
            throw Exit(StopSignal.exitStatus ?? .terminated)
        }
        let bank = try ViewBank(path: output), absent = bank.absentCount
        if let line = bank.keptLine { log.info("\(line)") }
        log.info("finished: \(output)")
        if absent > 0 { log.warning("\(absent) images could not be used: the bank has no answers about them") }
        if absent > 0 || !dataset.faults.isEmpty { throw Exit(.partly) }
    }
}

extension ViewBank {
    /// What is lost with the rank; nil: nothing.
    var keptLine: String? {
        keptShare.map {
            "cells: \(($0 * 1000).rounded() / 10) % of their squared length is along the \(rank) directions kept"
        }
    }
}

extension ViewBankIdentity {
    /// What a bank is, for people.
    var lines: [String] {
        let cells = layout.rank == 0
            ? "no cells"
            : "\(layout.grid.height)×\(layout.grid.width) cells of \(layout.rank) "
                + (layout.rank == layout.width ? "channels" : "of \(layout.width) coordinates")
        let bytes = layout.images * layout.draws * layout.viewBytes
        return [
            "teacher: \(oneLine(teacher.file)), \(oneLine(teacher.architecture)) at \(teacher.imageSize) pixels, "
                + "\(teacher.precision.rawValue), hash \(oneLine(teacher.hash))",
            "data: \(oneLine(data.name)), \(layout.images) images, digest \(oneLine(data.digest))",
            "views: \(layout.draws) draws an image; a global feature of \(layout.width) channels, \(cells); "
                + "\(layout.viewBytes) bytes a view, \(bytes >> 20) MB in all, \(layout.shards) shards",
        ]
    }
}

/// `hssl inspect` of a bank.
struct BankReport {
    let path: String
    let identity: ViewBankIdentity
    let progress: ViewBank.Progress
    /// Nil while it is not complete.
    let bank: ViewBank?

    /// Looks into every shard of a complete bank.
    init(_ path: String) throws {
        self.path = path
        identity = try ViewBank.identity(in: path)
        progress = ViewBank.Progress(path: path, layout: identity.layout)
        bank = progress.isComplete ? try ViewBank(path: path) : nil
    }

    var lines: [String] {
        let drawn = identity.drawn.keys.map { "\(oneLine($0)) \(oneLine(identity.drawn[$0]?.text() ?? ""))" }
        let state = bank.map { "complete, every checksum as recorded; \($0.absentCount) images without answers" }
            ?? "not complete: \(progress.shardsDone) of \(identity.layout.shards) shards, \(progress.imagesDone) images"
        let kept = bank?.keptLine.map { [$0] } ?? []
        return ["view bank: \(state)"] + identity.lines + kept + ["drawn: \(drawn.joined(separator: ", "))"]
    }

    var json: JSONValue {
        [
            "bank": .string(path), "identity": identity.json, "complete": .bool(progress.isComplete),
            "shards": .integer(progress.shardsDone), "images": .integer(progress.imagesDone),
            "bytes_per_view": .integer(identity.layout.viewBytes),
            "images_absent": bank.map { .integer($0.absentCount) } ?? .null,
            "kept_share": bank?.keptShare.map { .number($0) } ?? .null,
        ]
    }
}
