import ArgumentParser
import CSupport
import HSSLCommandLine
import HSSLFormats
import HSSLGraph
import HSSLModels
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
            StandardError.shared.print("hssl: error: \(error)")
            exit(ExitStatus.failed.rawValue)
        }
        // A flag with an optional value would take the recipe behind it for one, so this spelling is another flag's.
        runTool(HSSLCommand.self, tool: "hssl") {
            try HSSLCommand.parseAsRoot($0.map { $0 == "--resume=auto" ? "--resume-auto" : $0 })
        }
    }
}

struct HSSLCommand: ParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: "hssl",
            abstract: "Self-supervised pretraining of vision models on a CPU, with an auxiliary head of another architecture.",
            discussion: """
                Examples:
                  hssl pretrain models/vit_nano-fashion.yaml --data /usr/share/datasets/fashion-mnist/train --output runs/first
                  hssl export runs/first --output base-int8.safetensors --precision int8
                  hssl evaluate knn --model base-int8.safetensors --train DATA/train --test DATA/t10k
                  hssl inspect base-int8.safetensors
                """,
            version: versionText(tool: "hssl", version: HSSLVersion.current, instructionSet: String(cString: hssl_isa_name(hssl_isa_selected()))),
            subcommands: [Pretrain.self, RecipeCommand.self, Export.self, Evaluate.self, ReportCommand.self, Inspect.self, Bench.self])
    }
}

extension SharedOptions {
    /// Applies `--threads` and `--log-level`.
    func apply() {
        ThreadCount.decide(threads ?? Int(hssl_available_processors())) { Int(hssl_startable_threads(Int32($0))) }
        hssl_set_threads(Int32(ThreadCount.current))
        StandardErrorLogHandler.bootstrap(level: logLevel)
    }

    var threadCount: Int { ThreadCount.current }
}

/// Writes a JSON document where `--json` says: a file, or `-` for standard output.
struct JSONTarget {
    private let path: String
    private let output: JSONOutput?

    /// Call before anything else is printed.
    init(_ path: String) throws {
        self.path = path
        output = path == "-" ? JSONOutput() : nil
        if path == "-", output == nil { throw CommandError("--json -: standard output cannot be kept") }
    }

    func write(_ document: String) throws {
        if let output {
            guard output.write(document) else { throw CommandError("--json -: standard output is closed or full") }
        } else {
            try AtomicFile.write(Array((document + "\n").utf8), to: path)
        }
    }
}

/// Why a command cannot do its work, in one line.
struct CommandError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}
