import ArgumentParser
import HSSLCommandLine
import HSSLGraph
import HSSLPretraining
import Logging
#if canImport(Glibc)
import Glibc
#endif

struct Export: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Write the compact base model of a run, or a model at another precision.",
        discussion: """
            The auxiliary head, the projection and the mask token are left behind: what remains is a plain model under timm's names. \
            int8 is measured against float32, and the mean cosine of the features is shown and stored; below 0.99 the layers that lose most are named.

            Examples:
              hssl export runs/first --output base.safetensors
              hssl export runs/first --output base-int8.safetensors --precision int8
              hssl export runs/first/checkpoint.safetensors --output student.safetensors --network student --precision float16
              hssl export base.safetensors --output base-int8.safetensors --precision int8 --calibration photos/
            """)

    @Argument(help: ArgumentHelp("Run folder, checkpoint file or model file.", valueName: "run|checkpoint|model"))
    var input: String

    @Option(name: .long, help: ArgumentHelp("Model file to write.", valueName: "file"))
    var output: String

    @Option(name: .long, help: ArgumentHelp("float32, float16 or int8.", valueName: "p"))
    var precision: Precision = .float32

    @Option(name: .long, help: ArgumentHelp("teacher (the better features) or student.", valueName: "network"))
    var network: NetworkRole = .teacher

    @Option(name: .long, help: ArgumentHelp("Images to measure int8 over: ImageFolder, flat folder or IDX prefix (default: generated ones).", valueName: "data"))
    var calibration: String?

    @Option(name: .long, help: ArgumentHelp("Move the scales of int8's outlier channels into the weights behind them, with the function unchanged (SmoothQuant): where it helps, always or never. (default: auto)", valueName: "auto|on|off"))
    var smooth: Smoothing?

    @OptionGroup var shared: SharedOptions

    enum NetworkRole: String, ExpressibleByArgument, CaseIterable { case teacher, student }

    func validate() throws {
        if precision == .int8 { return }
        if calibration != nil { throw ValidationError("--calibration is about --precision int8, not \(precision.rawValue)") }
        if smooth != nil { throw ValidationError("--smooth is about --precision int8, not \(precision.rawValue)") }
    }

    func run() throws {
        shared.apply()
        let measurement = try export(Int8Options(calibration: calibration, smoothing: smooth ?? .auto))
        for line in measurement?.lines ?? [] { print(line) }
        if let teacher = try BaseExport.teacherSummary(of: output) { print("distilled from \(teacher)") }
        if let warning = measurement?.warning { Logger(label: "hssl").warning("\(warning)") }
    }

    private func export(_ int8: Int8Options) throws -> Int8Measurement? {
        var status = stat()
        let isFolder = input.withPath { stat($0, &status) } == 0 && status.st_mode & S_IFMT == S_IFDIR
        if !isFolder, try BaseExport.isModel(input) {
            return try BaseExport.export(model: input, to: output, precision: precision, int8: int8)
        }
        let checkpoint = isFolder ? input + "/checkpoint.safetensors" : input
        return try BaseExport.export(
            checkpoint: checkpoint, role: network.rawValue, to: output, precision: precision, int8: int8)
    }
}

extension Smoothing: ExpressibleByArgument {
    public static var allValueStrings: [String] { allCases.map(\.rawValue) }
}

extension Precision: ExpressibleByArgument {
    public static var allValueStrings: [String] { allCases.map(\.rawValue) }
}
