import CSupport

/// What the int8 codes of many matrices look like.
package struct CodeStatistics: Equatable, Sendable {
    package private(set) var codes = 0
    /// Codes at ±127. Scales are dynamic: the largest value of a row is there by construction.
    package private(set) var saturated = 0
    package private(set) var zeros = 0
    /// Over rows that are not zero altogether (those have no scale).
    package private(set) var scaledRows = 0
    package private(set) var scaleSum = 0.0
    package private(set) var largestScale = 0.0

    package init() {}

    package var saturation: Double? { codes > 0 ? Double(saturated) / Double(codes) : nil }
    package var zeroShare: Double? { codes > 0 ? Double(zeros) / Double(codes) : nil }
    package var meanScale: Double? { scaledRows > 0 ? scaleSum / Double(scaledRows) : nil }
    package var maximumScale: Double? { scaledRows > 0 ? largestScale : nil }

    /// - Parameters:
    ///   - codes: u8 [rows, leading], of which `width` columns count.
    ///   - scale: [rows].
    package mutating func add(rows: Int, width: Int, codes: Buffer, leading: Int, scale: Buffer, pool: BufferPool) {
        let (ends, middle) = (pool.allocate(byteCount: 4 * rows), pool.allocate(byteCount: 4 * rows))
        defer { withExtendedLifetime((ends, middle)) {} }
        let (saturated, zeros) = (
            ends.pointer.assumingMemoryBound(to: Int32.self), middle.pointer.assumingMemoryBound(to: Int32.self))
        hssl_count_codes_u8(rows, width, codes.bytes, leading, saturated, zeros)
        self.codes += rows * width
        for row in 0..<rows {
            self.saturated += Int(saturated[row])
            self.zeros += Int(zeros[row])
            if Int(zeros[row]) == width { continue }
            scaledRows += 1
            scaleSum += Double(scale.floats[row])
            // Not max(): a NaN must stay visible.
            if !(Double(scale.floats[row]) <= largestScale) { largestScale = Double(scale.floats[row]) }
        }
    }
}

/// Collects over the tapes that it is given to.
package final class QuantizationStatistics {
    /// Inputs of the forward products.
    package var activations = CodeStatistics()
    /// Output gradients, channel scales folded in, as the input-gradient products read them.
    package var gradients = CodeStatistics()

    package init() {}
}
