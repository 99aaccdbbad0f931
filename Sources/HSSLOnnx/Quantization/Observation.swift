import HSSLGraph

/// What was seen of a value over example images: its extremes and a sample of its rows.
struct Observation {
    private var least: Float = 0, most: Float = 0
    /// [rows, width].
    private var rows: [Float] = []
    private let width: Int
    private let rowsOfImage: Int

    /// Rows that are kept in all.
    private static let sample = 64

    init(width: Int, images: Int) {
        self.width = width
        rowsOfImage = max(2, Self.sample / max(images, 1))
    }

    /// Of one image: the first row (CLS, where there is one) and others evenly spread.
    mutating func add(_ tensor: Tensor) {
        tensor.withUnsafeValues { values in
            for value in values {
                if value < least { least = value }
                if value > most { most = value }
            }
            let count = values.count / width
            let step = max(1, count / rowsOfImage)
            for row in stride(from: 0, to: count, by: step).prefix(rowsOfImage) {
                rows += values[row * width..<(row + 1) * width]
            }
        }
    }

    var isFinite: Bool { least.isFinite && most.isFinite && rows.allSatisfy(\.isFinite) }

    /// The codes with the least error in what products make of the value.
    ///
    /// - Parameter energies: how much a channel's squared error counts; nil: all the same.
    func range(_ energies: [Float]?) -> CodeRange {
        var best = (codes: CodeRange(least: least, most: most), error: Double.infinity)
        for step in 0..<14 {
            let share = 1 - 0.05 * Float(step)
            let codes = CodeRange(least: share * least, most: share * most)
            let error = self.error(codes, energies)
            if error < best.error { best = (codes, error) }
        }
        return best.codes
    }

    private func error(_ codes: CodeRange, _ energies: [Float]?) -> Double {
        var sum = 0.0
        rows.withUnsafeBufferPointer { rows in
            for first in stride(from: 0, to: rows.count, by: width) {
                var error: Float = 0
                for channel in 0..<width {
                    let value = rows[first + channel]
                    let difference = value - codes.rounded(value)
                    error += (energies?[channel] ?? 1) * difference * difference
                }
                sum += Double(error)
            }
        }
        return sum
    }
}
