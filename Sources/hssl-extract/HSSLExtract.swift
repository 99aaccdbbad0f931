import ArgumentParser
import CSupport
import HSSLCommandLine
import HSSLData
import HSSLFormats
import HSSLGraph
import HSSLModels
import HSSLRuntime
#if canImport(Glibc)
import Glibc
#endif

@main
enum Entry {
    static func main() {
        openStandardDescriptors()
        removeHarmfulThreadSettings()
        // The version names the instruction set, so the CPU is looked at before anything is parsed.
        do {
            try Processor.initialize()
        } catch {
            StandardError.shared.print("hssl-extract: error: \(error)")
            exit(ExitStatus.failed.rawValue)
        }
        runTool(HSSLExtract.self, tool: "hssl-extract", parse: HSSLExtract.parse)
    }
}

struct HSSLExtract: ParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: "hssl-extract",
            abstract: "Embeddings of images by a pretrained model.",
            discussion: """
                Rows follow the order of the inputs; folders are read recursively, sorted bytewise. Beside FILE, \
                FILE.index.jsonl says for every input which row it has or why it has none. Exit status: 0 done, 1 \
                failed, 2 some inputs skipped, 64 usage, 130 or 143 stopped by a signal; unless the status is 0 or 2 \
                neither file is. What an interrupted run did (a signal, a full disk, a kill) stays in FILE.partial, \
                and --resume goes on from there, to the same bytes. A byte of a path that is not UTF-8 is written \
                \\xNN; the JSON lines also have path_hex.

                Examples:
                  hssl-extract --model base-int8.safetensors photos/ --output embeddings.npy
                  hssl-extract --model base.safetensors a.jpg b.png --features cls+mean \\
                      --normalize --output two.csv
                  hssl-extract --model base.safetensors DATA/t10k --features patch \\
                      --output patches.safetensors
                  # after an interruption, or begin
                  hssl-extract --model base.safetensors photos/ --output embeddings.npy \\
                      --resume
                  find photos -name '*.jpg' -print0 \\
                      | hssl-extract --model base.safetensors - --null --output - | jq .path
                """,
            version: versionText(
                tool: "hssl-extract", version: HSSLVersion.current,
                instructionSet: String(cString: hssl_isa_name(hssl_isa_selected()))))
    }

    @Option(name: .long, help: ArgumentHelp("Model file (hssl export).", valueName: "file"))
    var model: String

    @Argument(
        help: ArgumentHelp(
            "Images, folders, prefixes of IDX files, or - for paths on standard input, one a line.",
            valueName: "input"))
    var inputs: [String]

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Embeddings: .npy, .csv, .jsonl or .safetensors; - streams JSON lines to standard output.",
            valueName: "file"))
    var output: String

    @Option(
        name: .long,
        help: ArgumentHelp("cls, mean (of the patch tokens), cls+mean, patch or cls+patch.", valueName: "features"))
    var features: Features = .cls

    @Flag(name: .long, help: "Divide every vector by its L2 norm.")
    var normalize = false

    @Option(
        name: .long,
        help: ArgumentHelp("Images that are run together. The embeddings do not depend on it.", valueName: "n"))
    var batchSize = 16

    @Option(name: .long, help: ArgumentHelp("An input that cannot be used: skip it, or fail.", valueName: "skip|fail"))
    var onError: ErrorPolicy = .skip

    @Flag(
        name: .long,
        help: """
            Go on with what an interrupted run of the same command left in FILE.partial; begin where there is nothing, \
            do nothing where FILE is complete.
            """)
    var resume = false

    @Flag(name: .long, help: "Paths on standard input end in NUL instead of a newline.")
    var null = false

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Most memory to use, e.g. 300M: kept, or refused with the figure that is needed.", valueName: "size"))
    var memoryLimit: ByteSize?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "exact: Pillow's pixels. fast: JPEGs at least 4 times as large as the model resizes to are decoded at "
            + "1/2, 1/4 or 1/8 of their size, in less time and memory.",
            valueName: "exact|fast"))
    var jpegDecode: JPEGDecode = .exact

    @OptionGroup var background: BackgroundOptions
    @OptionGroup var decode: DecodeOptions
    @OptionGroup var shared: SharedOptions

    enum JPEGDecode: String, CaseIterable, ExpressibleByArgument {
        case exact, fast
    }

    enum ErrorPolicy: String, CaseIterable, ExpressibleByArgument {
        case skip, fail
    }

    func validate() throws {
        if inputs.isEmpty {
            throw ValidationError(
                "give at least one input: an image, a folder, an IDX prefix, or - for paths on standard input")
        }
        if !(1...4096).contains(batchSize) {
            throw ValidationError("--batch-size must be from 1 to 4096, not \(batchSize)")
        }
        if resume, output == EmbeddingFormat.standardOutput {
            throw ValidationError("--resume goes on with a file; --output - streams")
        }
        if null, !inputs.contains("-") {
            throw ValidationError("--null is about paths on standard input: give - as an input")
        }
        do {
            let format = try EmbeddingFormat(path: output)
            if format == .csv, features.isMatrix {
                throw ValidationError(
                    "--features \(features.rawValue) has a matrix an image, which csv cannot "
                    + "hold: use .npy, .jsonl or .safetensors"
                )
            }
        } catch let error as FileError {
            throw ValidationError("--output \(error)")
        }
    }

    func run() throws {
        StandardErrorLogHandler.bootstrap(level: shared.logLevel)
        ThreadCount.decide(shared.threads ?? Int(hssl_available_processors())) {
            Int(hssl_startable_threads(Int32($0)))
        }
        hssl_set_threads(Int32(threads))
        let extraction = try Extraction(self)
        StopSignal.install()
        try extraction.run()
    }

    var threads: Int { ThreadCount.current }
}

extension HSSLExtract {
    /// Options whose value is the next argument.
    static let valueOptions: Set<String> = [
        "--model", "--output", "--features", "--batch-size", "--on-error", "--memory-limit", "--jpeg-decode",
        "--background", "--max-pixels", "--max-decode-memory", "--threads", "--log-level",
    ]

    /// Parses a command line. The parser's time grows with the square of the arguments (45 s for 40,000 paths), so of
    /// many inputs it sees one.
    static func parse(_ arguments: [String]) throws -> any ParsableCommand {
        guard arguments.count > 64 else { return try parseAsRoot(arguments) }
        var options: [String] = [], inputs: [String] = []
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            if argument == "--" {
                inputs += rest
                break
            }
            if argument == "-" || argument.utf8.first != UInt8(ascii: "-") {
                inputs.append(argument)
            } else {
                options.append(argument)
                if valueOptions.contains(argument), let value = rest.popFirst() { options.append(value) }
            }
        }
        let seen = inputs.contains("-") ? ["-"] : inputs.prefix(1)
        let parsed = try parseAsRoot(options + ["--"] + seen)
        guard var command = parsed as? HSSLExtract else { return parsed }
        command.inputs = inputs
        return command
    }
}

extension Features: ExpressibleByArgument {}
