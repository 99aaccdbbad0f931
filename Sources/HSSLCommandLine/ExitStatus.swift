import ArgumentParser
import HSSLFormats
#if canImport(Glibc)
    @preconcurrency import Glibc
#endif

/// Exit statuses of `hssl` and `hssl-extract`.
package enum ExitStatus: Int32, Sendable {
    case done = 0
    case failed = 1
    /// Some inputs were skipped, each named.
    case partly = 2
    /// EX_USAGE of sysexits.h: the command line is wrong.
    case usage = 64
    /// 128 + SIGINT, after saving.
    case interrupted = 130
    /// 128 + SIGTERM, after saving; after SIGHUP too.
    case terminated = 143
}

/// Ends a command with a status that is no error to print: what was to say has been said.
package struct Exit: Error, Equatable {
    package let status: ExitStatus
    package init(_ status: ExitStatus) { self.status = status }
}

/// A wrong command line that the parser could not see (`--heads` without a name, `patch` features into a `.csv`):
/// status 64.
package struct UsageError: Error, Equatable, CustomStringConvertible {
    package let description: String
    /// - Parameter description: one line that names the flag.
    package init(_ description: String) { self.description = description }
}

/// What a finished or failed command leaves: a status and a text for one of the two streams.
package struct Outcome: Equatable, Sendable {
    package var status: ExitStatus
    /// Help or version, asked for.
    package var output = ""
    /// One line, without `tool: error: `.
    package var error = ""

    package init(status: ExitStatus, output: String = "", error: String = "") {
        self.status = status
        self.output = output
        self.error = error
    }

    /// Sorts an error thrown by parsing or running `command`.
    package init(of error: any Error, in command: any ParsableCommand.Type) {
        if let error = error as? Exit {
            self.init(status: error.status)
        } else if let error = error as? UsageError {
            self.init(status: .usage, error: Outcome.oneLine(error.description))
        } else if let code = error as? ExitCode {
            self.init(status: ExitStatus(rawValue: code.rawValue) ?? .failed)
        } else {
            switch command.exitCode(for: error) {
            case .success: self.init(status: .done, output: command.fullMessage(for: error))
            case .validationFailure: self.init(status: .usage, error: Outcome.oneLine(command.message(for: error)))
            // The errors of our own targets describe themselves in one line.
            default: self.init(status: .failed, error: Outcome.oneLine("\(error)"))
            }
        }
    }

    /// The parser's messages may span lines (a suggestion after the fault).
    private static func oneLine(_ text: String) -> String {
        text.split(whereSeparator: \.isNewline).map { line in
            String(line.drop { $0 == " " })
        }.joined(separator: " ")
    }
}

/// Parses the command line, runs the command and ends the process with its status.
///
/// - Parameters:
///   - command: the root command.
///   - tool: the name before `: error: `.
///   - parse: makes the command from the arguments.
package func runTool<Command: ParsableCommand>(
    _ command: Command.Type, tool: String,
    parse: ([String]) throws -> any ParsableCommand = { try Command.parseAsRoot($0) }
) -> Never {
    // A file over the size limit (ulimit -f) is an error to report like a full disk, not a death.
    signal(SIGXFSZ, SIG_IGN)
    do {
        var parsed = try parse(commandLineArguments())
        try parsed.run()
        exit(statusOfPrinted(.done, tool: tool).rawValue)
    } catch {
        let outcome = Outcome(of: error, in: command)
        if !outcome.output.isEmpty { writeAll(Array((outcome.output + "\n").utf8), to: STDOUT_FILENO) }
        if !outcome.error.isEmpty { StandardError.shared.print("\(tool): error: \(outcome.error)") }
        exit(statusOfPrinted(outcome.status, tool: tool).rawValue)
    }
}

/// Figures do not vanish without a word: a full disk below `> file` is a failure like another.
private func statusOfPrinted(_ status: ExitStatus, tool: String) -> ExitStatus {
    let isWhole = fflush(stdout) == 0 && ferror(stdout) == 0
    // Closed at the start, it was opened for reading: nobody wants to know.
    if isWhole || fcntl(STDOUT_FILENO, F_GETFL) & O_ACCMODE == O_RDONLY { return status }
    StandardError.shared.print("\(tool): error: standard output: could not be written whole")
    return status == .done || status == .partly ? .failed : status
}

/// What the command was called with. Paths that are not UTF-8 stay whole (``PathBytes``), which `CommandLine.arguments`
/// would repair.
private func commandLineArguments() -> [String] {
    guard CommandLine.argc > 1 else { return [] }
    return (1..<Int(CommandLine.argc)).compactMap {
        CommandLine.unsafeArgv[$0].map { PathBytes.string(terminated: $0) }
    }
}

/// The text of `--version`: `hssl 0.1.0 (avx512vnni)`.
package func versionText(tool: String, version: String, instructionSet: String) -> String {
    "\(tool) \(version) (\(instructionSet))"
}

/// Writes all bytes to a descriptor. A closed or full stream has nobody left to tell: the rest is dropped and false
/// returned.
@discardableResult
func writeAll(_ bytes: [UInt8], to descriptor: Int32) -> Bool {
    var rest = bytes[...]
    while !rest.isEmpty {
        let written = rest.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        if written < 0 {
            if errno == EINTR { continue }
            return false
        }
        rest = rest.dropFirst(written)
    }
    return true
}
