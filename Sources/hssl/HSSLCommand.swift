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
            abstract:
                "Self-supervised pretraining of vision models on a CPU, with an "
                + "auxiliary head of another architecture.",
            discussion: """
                Examples:
                  hssl pretrain models/vit_nano-fashion.yaml \\
                      --data /usr/share/datasets/fashion-mnist/train --output runs/first
                  hssl search models/vit_nano-fashion.yaml --data DATA/train \\
                      --heads convnext,resnet,mlp --output runs/search
                  hssl distill models/vit_tiny-distil-clipart.yaml \\
                      --teacher dinov2-112.safetensors --data photos/ --output runs/small
                  hssl export runs/first --output base-int8.safetensors --precision int8
                  hssl evaluate knn --model base-int8.safetensors --train DATA/train \\
                      --test DATA/t10k
                  hssl inspect base-int8.safetensors
                """,
            version: versionText(
                tool: "hssl", version: HSSLVersion.current,
                instructionSet: String(cString: hssl_isa_name(hssl_isa_selected()))),
            subcommands: [
                Pretrain.self, Distill.self, Bank.self, Search.self, RecipeCommand.self, Export.self, Import.self,
                Evaluate.self, ReportCommand.self,
                Inspect.self, Bench.self,
            ])
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
    /// A pipe or device, which is opened once.
    private let stream: AtomicFile?

    /// Call before the work begins and before anything is printed: what cannot be written is refused here.
    ///
    /// - Parameter inputs: files that the command reads, none of which shall be lost; nil ones are not given.
    init(_ path: String, reading inputs: [String?] = []) throws {
        self.path = path
        output = path == "-" ? JSONOutput() : nil
        if path == "-" {
            stream = nil
            if output == nil { throw CommandError("--json -: standard output cannot be kept") }
        } else {
            do {
                let isStream = try OutputTarget(path).isStraight
                try refuseOverwriting(path, of: inputs.compactMap { $0 }, option: "file")
                let file = try AtomicFile(path: path)
                // A long run that is killed shall not leave a temporary: the file is made again at the end.
                if !isStream { file.abort() }
                stream = isStream ? file : nil
            } catch {
                throw CommandError("--json \(error)")
            }
        }
    }

    func write(_ document: String) throws {
        if let output {
            guard output.write(document) else { throw CommandError("--json -: standard output is closed or full") }
        } else {
            let bytes = Array((document + "\n").utf8)
            do {
                if let stream {
                    try stream.write(bytes)
                    try stream.commit()
                } else {
                    try AtomicFile.write(bytes, to: path)
                }
            } catch {
                throw CommandError("--json \(error)")
            }
        }
    }

    /// Shows what a command found: `lines` for people on standard output, unless the document is there; then the
    /// document. Figures that cost an hour are shown also where the document cannot be written.
    static func report(_ lines: [String], _ document: @autoclosure () -> String, to target: JSONTarget?) throws {
        let isDocument = target?.output != nil
        if !isDocument { for line in lines { print(line) } }
        do { try target?.write(document()) } catch {
            if isDocument { for line in lines { StandardError.shared.print(line) } }
            throw error
        }
    }
}

/// Why a command cannot do its work, in one line.
struct CommandError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}
