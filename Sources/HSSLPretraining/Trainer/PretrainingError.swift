/// Why a run cannot start or go on, in one line.
public struct PretrainingError: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String
    package init(_ description: String) { self.description = description }
}
