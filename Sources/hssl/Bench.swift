import ArgumentParser
import HSSLBenchmarks
import HSSLCommandLine
import HSSLFormats
import HSSLGraph
import HSSLModels
import HSSLPretraining

struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Time kernels, feature extraction or pretraining steps on this machine.",
        discussion: """
            Random weights, real work. images/s counts images, not views.

            Examples:
              hssl bench gemm
              hssl bench extract --architecture vit_small --image-size 224 \\
                  --precision int8 --batch-size 16 --json -
              hssl bench pretrain --architecture vit_nano --image-size 28 --patch-size 4 \\
                  --batch-size 128 --prototypes 512 --steps 5
            """,
        subcommands: [Gemm.self, Extract.self, Pretraining.self])

    struct Model: ParsableArguments {
        @Option(
            name: .long,
            help: ArgumentHelp(
                "Any that `hssl recipe` names, e.g. vit_small, swin_tiny, convnext_tiny, resnet50_gn.",
                valueName: "a"))
        var architecture = "vit_small"

        @Option(name: .long, help: ArgumentHelp("Pixels of an image's side.", valueName: "n"))
        var imageSize = 224

        @Option(name: .long, help: ArgumentHelp("Pixels of a patch's side.", valueName: "n"))
        var patchSize: Int?

        func resolve() throws -> ModelArchitecture {
            try ModelArchitecture(named: architecture, imageSize: imageSize, patchSize: patchSize)
        }
    }

    struct Work: ParsableArguments {
        @Option(name: .long, help: ArgumentHelp("float32, float16 or int8.", valueName: "p"))
        var precision: Precision = .float32

        @Option(name: .long, help: ArgumentHelp("Images of a call or update.", valueName: "n"))
        var batchSize = 8

        @Option(name: .long, help: ArgumentHelp("Timed calls or updates; one more warms up.", valueName: "n"))
        var steps = 5

        func validate() throws {
            if !(1...4096).contains(batchSize) {
                throw ValidationError("--batch-size must be from 1 to 4096, not \(batchSize)")
            }
            if !(1...100_000).contains(steps) {
                throw ValidationError("--steps must be from 1 to 100000, not \(steps)")
            }
        }
    }

    struct Gemm: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Every matrix-product kernel at ViT shapes against the machine's peak.")

        @OptionGroup var model: Model

        @Option(name: .long, help: ArgumentHelp("Timed repetitions of a row.", valueName: "n"))
        var steps = 9

        @Option(
            name: .long,
            help: ArgumentHelp("Write one JSON document to a file, or - for standard output.", valueName: "file"))
        var json: String?

        @OptionGroup var shared: SharedOptions

        func run() throws {
            shared.apply()
            let target = try json.map { try JSONTarget($0) }
            let architecture = try model.resolve()
            let rows = GemmBenchmark(repeats: max(1, steps)).run(architecture)
            let document = JSONValue.array(
                rows.map { row in
                    [
                        "kind": .string(row.kind), "isa": .string(row.isa), "m": .integer(row.m),
                        "n": .integer(row.n), "k": .integer(row.k),
                        "operations_per_second": .number(row.operationsPerSecond),
                        "peak_fraction": .number(row.peakFraction),
                    ]
                })
            let lines = rows.map { row in
                "\(row.isa)  \(row.kind)  \(row.m)×\(row.n)×\(row.k)  \(Int(row.operationsPerSecond / 1e9)) Gop/s  "
                + "\(Int((row.peakFraction * 100).rounded())) % of peak"
            }
            try JSONTarget.report(lines, document.text(), to: target)
        }
    }

    struct Extract: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Images a second of feature extraction.")

        @OptionGroup var model: Model
        @OptionGroup var work: Work

        @Option(
            name: .long,
            help: ArgumentHelp("Write one JSON document to a file, or - for standard output.", valueName: "file"))
        var json: String?

        @OptionGroup var shared: SharedOptions

        func run() throws {
            shared.apply()
            let target = try json.map { try JSONTarget($0) }
            let result = try ExtractBenchmark(
                architecture: model.resolve(), precision: work.precision, batchSize: work.batchSize, steps: work.steps
            ).run()
            let document: JSONValue = [
                "images_per_second": .number(result.imagesPerSecond), "peak_rss_bytes": .integer(result.peakRSSBytes),
                "peak_fraction": .number(result.peakFraction),
                "operations_per_image": .number(result.operationsPerImage),
                "threads": .integer(shared.threadCount),
            ]
            let line =
                "\((result.imagesPerSecond * 10).rounded() / 10) images/s, "
                + "\(Int((result.peakFraction * 100).rounded())) % of the \(work.precision.rawValue) peak, "
                + "\(result.peakRSSBytes >> 20) MB"
            try JSONTarget.report([line], document.text(), to: target)
        }
    }

    struct Pretraining: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "pretrain", abstract: "Images a second of whole pretraining steps.")

        @OptionGroup var model: Model
        @OptionGroup var work: Work

        @Option(
            name: .long,
            help: ArgumentHelp(
                "\(Recipe.selfSupervisedObjectives.joined(separator: ", ")) (default: ibot, dino for a ResNet).",
                valueName: "o"))
        var objective: String?

        @Option(name: .long, help: ArgumentHelp("Prototypes K.", valueName: "k"))
        var prototypes = 8192

        @Option(
            name: .long,
            help: ArgumentHelp("Images of a micro-batch (default: chosen for the cache).", valueName: "n"))
        var microBatch: Int?

        @Option(name: .long, help: ArgumentHelp("float32 or int8 moments (default: int8 with int8).", valueName: "p"))
        var optimizerStates: MomentStorage?

        @Flag(
            name: .long,
            help: "Evaluate the published definition, without the savings that leave the results as they are.")
        var plain = false

        @Option(
            name: .long,
            help: ArgumentHelp("Write one JSON document to a file, or - for standard output.", valueName: "file"))
        var json: String?

        @OptionGroup var shared: SharedOptions

        func validate() throws {
            if !(1...1_000_000).contains(prototypes) {
                throw ValidationError("--prototypes must be from 1 to 1000000, not \(prototypes)")
            }
            if let objective, !Recipe.selfSupervisedObjectives.contains(objective) {
                throw ValidationError(
                    "--objective must be one of \(Recipe.selfSupervisedObjectives.joined(separator: ", ")), "
                    + "not \(objective)"
                )
            }
            if let microBatch, microBatch < 1 {
                throw ValidationError("--micro-batch must be at least 1, not \(microBatch)")
            }
        }

        func run() throws {
            shared.apply()
            let target = try json.map { try JSONTarget($0) }
            let benchmark = try PretrainBenchmark(
                architecture: model.resolve(), precision: work.precision, batchSize: work.batchSize,
                prototypes: prototypes,
                steps: work.steps, moments: optimizerStates, objective: objective)
            let result = try benchmark.run(microBatch: microBatch, plain: plain)
            var parts = JSONObject()
            for (part, share) in result.shares { parts[part] = .number(share) }
            let document: JSONValue = [
                "images_per_second": .number(result.imagesPerSecond), "peak_rss_bytes": .integer(result.peakRSSBytes),
                "micro_batch": .integer(result.microBatch), "optimizer_states": .string(benchmark.moments.rawValue),
                "time": .object(parts), "threads": .integer(shared.threadCount),
            ]
            let lines =
                [
                    "\((result.imagesPerSecond * 100).rounded() / 100) images/s in micro-batches of "
                    + "\(result.microBatch), \(result.peakRSSBytes >> 20) MB"
                ]
                + result.shares.map { part, share in "  \(part): \((share * 1000).rounded() / 10) %" }
            try JSONTarget.report(lines, document.text(), to: target)
        }
    }
}

extension MomentStorage: ExpressibleByArgument {}
