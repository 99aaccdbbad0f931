import ArgumentParser
import HSSLCommandLine
import HSSLGraph
import HSSLPretraining
import Logging

struct Distill: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Teach a small base what a large one knows, without labels.",
        discussion: """
            The teacher is any model file of hssl import or hssl export; it stays as it is and sees the very views \
            that the student learns from, at its own size. The student is any base of a recipe of objective distill \
            (which is the default here); its section distill says what is learnt. The run folder is as of hssl \
            pretrain, and model.safetensors is the student's average. Where images have labels, the log says which \
            part of the k-NN gap between the untrained student and the teacher is closed; it may be more than all of \
            it, since the student learns targets whose directions were evened out (distill.whitening).

            With --bank the teacher answers once, about distill.draws views of an image, and any number of students \
            replay them.

            Examples:
              hssl import dinov2-small/model.safetensors --output dinov2-112.safetensors \\
                  --image-size 112
              hssl distill models/vit_tiny-distil-clipart.yaml \\
                  --teacher dinov2-112.safetensors --data photos/ --output runs/small
              hssl distill RECIPE.yaml --teacher dinov2-112.safetensors --data photos/ \\
                  --output runs/small --bank banks/photos --resume=auto
              hssl export runs/small --output small-int8.safetensors --precision int8
            """)

    @OptionGroup var options: RunOptions

    @Option(name: .long, help: ArgumentHelp("Model file that the student learns from.", valueName: "file"))
    var teacher: String

    @Option(
        name: .long,
        help: ArgumentHelp("How the teacher runs: float32, float16 or int8. (default: int8)", valueName: "p"))
    var teacherPrecision: Precision?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Folder of its answers (hssl bank), filled before where it is not complete: the student then learns "
            + "without running the teacher.",
            valueName: "folder"))
    var bank: String?

    func run() throws {
        options.shared.apply()
        StopSignal.install()
        let log = Logger(label: "hssl")
        var recipe = try options.resolvedRecipe(objective: Recipe.distillObjective)
        guard recipe.objective.name == Recipe.distillObjective else {
            throw CommandError(
                "\(options.recipe): objective.name is \(recipe.objective.name); hssl distill takes recipes of "
                + "objective \(Recipe.distillObjective)")
        }
        try recipe.validate(path: options.recipe)
        let opened = try FrozenTeacher.open(teacher, precision: teacherPrecision)
        let dataset = try options.dataset(log)
        recipe = try options.resolvedRecipe(recipe, for: dataset, log)
        let answers = try bank.map { folder in
            try fill(folder, ViewBankRequest(
                recipe: recipe, teacher: opened.file, precision: opened.precision, dataset: dataset), log)
        }
        let frozen = try FrozenTeacher(
            file: opened.file, precision: opened.precision, threads: options.shared.threadCount,
            wantsCells: recipe.distill.cells, source: answers)
        let shape = frozen.file.architecture
        log.info("teacher: \(frozen.identity.summary), \(shape.name) at \(shape.imageSize) pixels")
        let trainer = try Trainer(
            recipe: recipe, dataset: dataset, output: options.output, options: options.pretrainingOptions,
            teacher: frozen)
        try options.train(trainer, recipe: recipe, dataset: dataset, label: "distil", log)
    }

    /// Opens the bank, and fills it before where something is missing.
    private func fill(_ folder: String, _ request: ViewBankRequest, _ log: Logger) throws -> ViewBank {
        var filling = ViewBankWriter.Options()
        (filling.threads, filling.loaderThreads) = (options.shared.threadCount, options.shared.threadCount)
        filling.memoryLimit = options.memoryLimit?.bytes
        var bar: ProgressBar?, done = 0
        let bank = try ViewBank.open(folder, orFill: request, options: filling, shouldStop: { StopSignal.isRequested },
            progress: { images, total in
                if bar == nil { bar = ProgressBar(label: "bank", unit: "images", total: total, first: images - 1) }
                done = images
                bar?.update(done: images)
            }, notice: { log.warning("\($0)") })
        bar?.finish(done: done)
        guard let bank else {
            log.info("stopped; whole shards of \(folder) are kept, and the same command goes on")
            throw Exit(StopSignal.exitStatus ?? .terminated)
        }
        for line in bank.identity.lines { log.info("\(line)") }
        return bank
    }
}
