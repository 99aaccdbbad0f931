/// Why a model cannot be run here, in one line.
public struct RuntimeError: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}
