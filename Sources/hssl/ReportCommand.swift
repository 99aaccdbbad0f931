import ArgumentParser
import HSSLCommandLine
import HSSLEvaluation
import HSSLFormats
import Logging

struct ReportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "report",
        abstract: "Pages about what was computed.",
        subcommands: [Embeddings.self])

    struct Embeddings: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "embeddings",
            abstract: "One self-contained page about a file of embeddings.",
            discussion: """
                A map by the first two principal components with thumbnails, nearest neighbours, near-duplicates; of \
                patch features their first three principal components as colours beside each image. Images are read \
                again where FILE.index.jsonl says they are; what cannot be read is named (exit status 2) and shown \
                without a picture.

                Examples:
                  hssl-extract --model base.safetensors photos/ --output photos.npy
                  hssl report embeddings photos.npy --output photos.html
                  hssl-extract --model base.safetensors photos/ --features patch \\
                      --output patches.safetensors
                  hssl report embeddings patches.safetensors --pictures 48
                """)

        @Argument(
            help: ArgumentHelp("What hssl-extract wrote (.npy or .safetensors, with its index).", valueName: "file"))
        var file: String

        @Option(name: .long, help: ArgumentHelp("The page (default: FILE.html).", valueName: "file"))
        var output: String?

        @Option(
            name: .long,
            help: ArgumentHelp("Thumbnails on the map; of patch features at most 96 images.", valueName: "n"))
        var pictures = EmbeddingReport.Settings().pictures

        @Option(name: .long, help: ArgumentHelp("Images whose neighbours are shown.", valueName: "n"))
        var neighborhoods = EmbeddingReport.Settings().neighborhoods

        @Option(name: .long, help: ArgumentHelp("Least cosine of near-duplicates.", valueName: "cosine"))
        var duplicates = EmbeddingReport.Settings().duplicateCosine

        @OptionGroup var memory: MemoryOptions

        @OptionGroup var shared: SharedOptions

        func validate() throws {
            if !(1...5000).contains(pictures) {
                throw ValidationError("--pictures must be from 1 to 5000, not \(pictures)")
            }
            if !(0...1000).contains(neighborhoods) {
                throw ValidationError("--neighborhoods must be from 0 to 1000, not \(neighborhoods)")
            }
            if !(duplicates > -1 && duplicates <= 1) {
                throw ValidationError("--duplicates must be a cosine above -1 and at most 1, not \(duplicates)")
            }
        }

        func run() throws {
            shared.apply()
            var settings = EmbeddingReport.Settings()
            (settings.pictures, settings.neighborhoods) = (pictures, neighborhoods)
            settings.duplicateCosine = duplicates
            let target = output ?? file + ".html"
            try refuseOverwriting(target, of: [file, file + ".index.jsonl"])
            try memory.require(embeddings: file)
            let stored = try StoredEmbeddings(path: file)
            let left = try memory.require(
                EmbeddingReport.memory(stored, settings: settings),
                for: "a page of \(stored.count) images of \(stored.values.count / stored.count) features")
            if let left { settings.limits.lower(toBytes: left, name: "--memory-limit") }
            let report = try EmbeddingReport(stored, settings: settings)
            try AtomicFile.write(Array(report.html.utf8), to: target)
            let log = Logger(label: "hssl")
            for fault in report.faults { log.warning("skipped \(fault)") }
            log.info("\(target): written")
            if !report.faults.isEmpty { throw Exit(.partly) }
        }
    }
}
