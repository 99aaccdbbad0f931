import ArgumentParser
import HSSLGraph
import HSSLPretraining
import Logging

/// What every command that writes int8 takes.
struct Int8CommandOptions: ParsableArguments {
    @Option(
        name: .long,
        help: ArgumentHelp(
            "Images to measure int8 over: ImageFolder, flat folder or IDX prefix (default: generated ones).",
            valueName: "data"))
    var calibration: String?

    @Option(
        name: .long,
        help: ArgumentHelp(
            """
            Move the scales of int8's outlier channels into the weights behind them, with the function unchanged \
            (SmoothQuant): where it helps, always or never. (default: auto)
            """,
            valueName: "auto|on|off"))
    var smooth: Smoothing?

    var options: Int8Options { Int8Options(calibration: calibration, smoothing: smooth ?? .auto) }

    /// - Throws: `ValidationError` where there is no int8.
    func validate(_ precision: Precision) throws {
        if precision == .int8 { return }
        if calibration != nil {
            throw ValidationError("--calibration is about --precision int8, not \(precision.rawValue)")
        }
        if smooth != nil { throw ValidationError("--smooth is about --precision int8, not \(precision.rawValue)") }
    }
}

extension Int8Measurement {
    /// On stdout, with a warning where too much is lost.
    func show() {
        for line in lines { print(line) }
        if let warning { Logger(label: "hssl").warning("\(warning)") }
    }
}

extension Smoothing: ExpressibleByArgument {
    public static var allValueStrings: [String] { allCases.map(\.rawValue) }
}

extension Precision: ExpressibleByArgument {
    public static var allValueStrings: [String] { allCases.map(\.rawValue) }
}
