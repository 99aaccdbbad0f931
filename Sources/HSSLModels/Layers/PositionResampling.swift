#if canImport(Glibc)
import Glibc
#endif

/// Position embeddings, or other vectors of cells, at another grid: as PyTorch's `interpolate`.
package enum PositionResampling {
    package enum Method: Sendable {
        /// DINO's and DINOv2's `interpolate_pos_encoding`: a = −0.75, no antialias, 0.1 added to the target's side.
        case dino
        /// The same without the 0.1.
        case plain
        /// `antialias=True`: a = −0.5, and taps that widen where the grid shrinks; timm's, and DINOv2's with registers.
        case antialiased
        /// Linear, taps widening where the grid shrinks: `mode="bilinear", antialias=True`.
        case bilinear
    }

    /// The map from `side`² source rows to `grid.count` target rows, [targets, sources] row-major.
    package static func matrix(from side: Int, to grid: Grid, _ method: Method = .dino) -> [Float] {
        let rows = axis(from: side, to: grid.height, method)
        let columns = axis(from: side, to: grid.width, method)
        var matrix = [Float](repeating: 0, count: grid.count * side * side)
        for i in 0..<grid.height {
            for j in 0..<grid.width {
                let target = (i * grid.width + j) * side * side
                for (u, wu) in rows[i] { for (v, wv) in columns[j] { matrix[target + u * side + v] += Float(wu * wv) } }
            }
        }
        return matrix
    }

    /// `cells` [side², width] at another grid: [grid.count, width].
    package static func resampled(
        _ cells: [Float], from side: Int, to grid: Grid, width: Int, _ method: Method
    ) -> [Float] {
        let matrix = matrix(from: side, to: grid, method), sources = side * side
        var result = [Float](repeating: 0, count: grid.count * width)
        for target in 0..<grid.count {
            for source in 0..<sources where matrix[target * sources + source] != 0 {
                let weight = matrix[target * sources + source]
                for i in 0..<width { result[target * width + i] += weight * cells[source * width + i] }
            }
        }
        return result
    }

    /// Taps of one axis: src = (i + ½)·N/(n + 0.1) − ½; indices are clamped to the edge. The 0.1 is DINO's guard
    /// against rounding in the scale factor.
    private static func axis(from source: Int, to target: Int, _ method: Method) -> [[(Int, Double)]] {
        if method == .antialiased {
            return antialiasedAxis(from: source, to: target, reach: 2) { cubic($0, a: -0.5) }
        }
        if method == .bilinear { return antialiasedAxis(from: source, to: target, reach: 1) { max(0, 1 - abs($0)) } }
        let guarded = Double(target) + (method == .dino ? 0.1 : 0)
        return (0..<target).map { i in
            let position = (Double(i) + 0.5) * Double(source) / guarded - 0.5
            let floor = Glibc.floor(position)
            return (-1...2).map { offset in
                let index = min(max(Int(floor) + offset, 0), source - 1)
                return (index, cubic(position - floor - Double(offset)))
            }
        }
    }

    /// Taps within so many source cells, or target cells where those are larger; their weights add up to 1, at edges
    /// too.
    private static func antialiasedAxis(
        from source: Int, to target: Int, reach cells: Double, _ kernel: (Double) -> Double
    ) -> [[(Int, Double)]] {
        let scale = Double(source) / Double(target), stretch = max(scale, 1), reach = cells * stretch
        return (0..<target).map { i in
            let center = scale * (Double(i) + 0.5)
            let first = max(Int(center - reach + 0.5), 0), end = min(Int(center + reach + 0.5), source)
            let weights = (first..<end).map { kernel((Double($0) - center + 0.5) / stretch) }
            let sum = weights.reduce(0, +)
            return weights.enumerated().map { (first + $0, $1 / sum) }
        }
    }

    private static func cubic(_ distance: Double, a: Double = -0.75) -> Double {
        let x = abs(distance)
        if x <= 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
        if x < 2 { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a }
        return 0
    }
}
