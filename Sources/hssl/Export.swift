import ArgumentParser
import HSSLCommandLine
import HSSLGraph
import HSSLPretraining
#if canImport(Glibc)
import Glibc
#endif

struct Export: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Write the compact base model of a run, or a model at another precision.",
        discussion: """
            The auxiliary head, the projection and the mask token are left behind: what remains is a plain model under timm's names.

            Examples:
              hssl export runs/first --output base.safetensors
              hssl export runs/first --output base-int8.safetensors --precision int8
              hssl export runs/first/checkpoint.safetensors --output student.safetensors --network student --precision float16
              hssl export base.safetensors --output base-int8.safetensors --precision int8
            """)

    @Argument(help: ArgumentHelp("Run folder, checkpoint file or model file.", valueName: "run|checkpoint|model"))
    var input: String

    @Option(name: .long, help: ArgumentHelp("Model file to write.", valueName: "file"))
    var output: String

    @Option(name: .long, help: ArgumentHelp("float32, float16 or int8.", valueName: "p"))
    var precision: Precision = .float32

    @Option(name: .long, help: ArgumentHelp("teacher (the better features) or student.", valueName: "network"))
    var network: NetworkRole = .teacher

    @OptionGroup var shared: SharedOptions

    enum NetworkRole: String, ExpressibleByArgument, CaseIterable { case teacher, student }

    func run() throws {
        shared.apply()
        var status = stat()
        let isFolder = input.withPath { stat($0, &status) } == 0 && status.st_mode & S_IFMT == S_IFDIR
        if !isFolder, try BaseExport.isModel(input) {
            return try BaseExport.export(model: input, to: output, precision: precision)
        }
        let checkpoint = isFolder ? input + "/checkpoint.safetensors" : input
        try BaseExport.export(checkpoint: checkpoint, role: network.rawValue, to: output, precision: precision)
    }
}

extension Precision: ExpressibleByArgument {
    public static var allValueStrings: [String] { allCases.map(\.rawValue) }
}
