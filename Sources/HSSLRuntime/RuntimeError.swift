/// Why a model cannot be run here, in one line.
public struct RuntimeError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The reason, without a line break, e.g. `threads must be from 1 to 256, not 0`.
    public let description: String
    package init(_ description: String) { self.description = description }
}
