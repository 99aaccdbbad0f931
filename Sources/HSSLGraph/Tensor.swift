/// A value of a recording: float32, dense, row-major, tokens and grids channels-last.
///
/// Applying an operation computes the result at once (unless the tape records shapes only) and appends a node to the
/// tape.
public struct Tensor {
    public let shape: [Int]
    /// Identity of the value on its tape.
    package let id: Int
    package let storage: Buffer?
    package let tape: Tape
    package let requiresGradient: Bool

    public var count: Int { shape.reduce(1, *) }

    /// The elements. Only where the tape computes (`inference`, `training`).
    package var values: UnsafeMutablePointer<Float> {
        guard let storage else { preconditionFailure("a tape that records shapes holds no values") }
        return storage.floats
    }

    /// A copy of the elements.
    public func array() -> [Float] { Array(UnsafeBufferPointer(start: values, count: count)) }

    /// The elements in place.
    package func withUnsafeValues<T>(_ body: (UnsafeBufferPointer<Float>) throws -> T) rethrows -> T {
        try withExtendedLifetime(storage) { try body(UnsafeBufferPointer(start: values, count: count)) }
    }

    /// The same elements seen in another shape.
    public func reshaped(_ newShape: [Int]) -> Tensor {
        precondition(newShape.reduce(1, *) == count, "cannot reshape \(shape) to \(newShape)")
        return newShape == shape ? self : tape.recordReshape(self, shape: newShape)
    }

    /// Elements in the last axis.
    package var width: Int { shape[shape.count - 1] }
    /// Number of rows when seen as [rows, width].
    package var rows: Int { count / max(width, 1) }

    /// The same values without history: no gradient flows through.
    package func detached() -> Tensor { detached(on: tape) }

    /// The same values as a constant of another tape.
    package func detached(on other: Tape) -> Tensor { other.constant(shape: shape, storage: storage) }
}
