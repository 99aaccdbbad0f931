import ArgumentParser
import HSSLFormats
import Logging
import Synchronization

/// Options of every command.
package struct SharedOptions: ParsableArguments {
    @Option(
        name: .long,
        help: ArgumentHelp(
            "Threads of the kernels (default: every processor that affinity and CPU quota allow).", valueName: "n"))
    package var threads: Int?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Least severe message shown: trace, debug, info, notice, warning, error or critical.", valueName: "level"))
    package var logLevel: LogLevel = .info

    package init() {}

    package func validate() throws {
        if let threads, !(1...256).contains(threads) {
            throw ValidationError("--threads must be from 1 to 256, not \(threads)")
        }
    }
}

/// What decoding an image may cost.
package struct DecodeOptions: ParsableArguments {
    @Option(
        name: .long,
        help: ArgumentHelp(
            "Most pixels of an image, e.g. 300M; larger ones are refused, each by name (default: 256M).",
            valueName: "n"))
    package var maxPixels: PixelCount?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Most memory for decoding, shared by the images that are decoded at a time; an image that needs more is "
            + "refused (default: 1G).",
            valueName: "size"))
    package var maxDecodeMemory: ByteSize?

    package init() {}
}

/// What is behind transparent pictures.
package struct BackgroundOptions: ParsableArguments {
    @Option(
        name: .long,
        help: ArgumentHelp(
            "What is seen where a picture is transparent: black, white or RRGGBB "
            + "(default: what the model says, else black).",
            valueName: "color"))
    package var background: RGBColor?

    package init() {}

    /// With this background, where one was given.
    package func apply(to preprocessing: inout Preprocessing) {
        if let background { preprocessing.background = background }
    }
}

extension RGBColor: ExpressibleByArgument {
    public init?(argument: String) { self.init(argument) }
}

/// The line about images whose end marker is missing; nil when there were none.
package func repairedText(_ count: Int) -> String? {
    count == 0
        ? nil
        : "repaired: \(count) image\(count == 1 ? "" : "s") whose pixels are whole but whose end marker is missing"
}

/// A number of pixels as users write it: `300000000`, `300M`, `0.3G`; powers of 1000.
package struct PixelCount: ExpressibleByArgument, Equatable, Sendable {
    package let count: Int

    package init?(argument: String) {
        let units: [Character: Double] = ["k": 1e3, "m": 1e6, "g": 1e9]
        var digits = argument.lowercased()[...]
        let unit = digits.last.flatMap { units[$0] }
        if unit != nil { digits.removeLast() }
        guard digits.first?.isNumber == true, digits.allSatisfy({ $0.isASCII && ($0.isNumber || $0 == ".") }),
              let value = Double(digits) else { return nil }
        let count = (value * (unit ?? 1)).rounded()
        guard count >= 1, count <= 0x1p53 else { return nil }
        self.count = Int(count)
    }
}

/// How many threads this process uses, decided once.
package enum ThreadCount {
    private static let decided = Atomic<Int>(1)

    package static var current: Int { decided.load(ordering: .relaxed) }

    /// Takes `wanted` threads, or as many as may be started, which is said then: kernels have all but one of them
    /// beside the first, and as many decode images.
    ///
    /// - Parameter startable: how many of so many further threads the system would start.
    package static func decide(_ wanted: Int, startable: (Int) -> Int) {
        let needed = 2 * wanted - 1
        let started = startable(needed)
        let count = started >= needed ? wanted : max(1, (started + 1) / 2)
        if started < needed {
            StandardError.shared.print(
                "warning: the system starts only \(started) of \(needed) threads; going on with \(count) of \(wanted)")
        }
        decided.store(count, ordering: .relaxed)
    }
}

/// `--log-level`, named as in swift-log.
package enum LogLevel: String, ExpressibleByArgument, CaseIterable, Sendable {
    case trace, debug, info, notice, warning, error, critical

    package var loggerLevel: Logger.Level {
        switch self {
        case .trace: .trace
        case .debug: .debug
        case .info: .info
        case .notice: .notice
        case .warning: .warning
        case .error: .error
        case .critical: .critical
        }
    }
}

/// A number of bytes as users write it: `800M`, `1G`, `1.5GiB`, `64KB`, `4096`.
///
/// A bare letter or `iB` counts in powers of 1024, `B` after the letter in powers of 1000, as in GNU coreutils. Case
/// does not matter.
package struct ByteSize: ExpressibleByArgument, Equatable, Sendable {
    package let bytes: Int
    package init(bytes: Int) { self.bytes = bytes }

    package init?(argument: String) {
        let text = argument.lowercased()
        let digits = text.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
        guard digits.first?.isNumber == true, digits.last != ".", let value = Double(digits) else { return nil }
        let suffix = text.dropFirst(digits.count)
        guard let unit = ByteSize.units[String(suffix)] else { return nil }
        let bytes = (value * unit).rounded()
        guard bytes >= 1, bytes <= 0x1p53 else { return nil }
        self.bytes = Int(bytes)
    }

    package var defaultValueDescription: String { "\(bytes)" }

    private static let units: [String: Double] = {
        var units: [String: Double] = ["": 1, "b": 1]
        for (power, letter) in ["k", "m", "g", "t"].enumerated() {
            var binary = 1024.0, decimal = 1000.0
            for _ in 0..<power {
                binary *= 1024
                decimal *= 1000
            }
            units[letter] = binary
            units[letter + "ib"] = binary
            units[letter + "b"] = decimal
        }
        return units
    }()
}

/// Sends swift-log's messages to standard error, one a line, without Foundation: `warning: text key=value`.
package struct StandardErrorLogHandler: LogHandler {
    package var logLevel: Logger.Level
    package var metadata: Logger.Metadata = [:]
    package var metadataProvider: Logger.MetadataProvider?

    /// Makes every `Logger` of this process write here. Call once, before the first logger is made.
    package static func bootstrap(level: LogLevel) {
        LoggingSystem.bootstrap { _ in StandardErrorLogHandler(logLevel: level.loggerLevel) }
    }

    package init(logLevel: Logger.Level) { self.logLevel = logLevel }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) { StandardError.shared.print(line(for: event)) }

    func line(for event: LogEvent) -> String {
        let all = metadata.merging(metadataProvider?.get() ?? [:]) { $1 }.merging(event.metadata ?? [:]) { $1 }
        let pairs = all.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
        // Information is what the user asked for; only what is unusual is labelled.
        let label = event.level == .info || event.level == .notice ? "" : "\(event.level): "
        let text = "\(label)\(event.message)\(pairs)"
        return text.contains(where: \.isNewline) ? text.split(whereSeparator: \.isNewline).joined(separator: " ") : text
    }
}
