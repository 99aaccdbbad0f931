#if canImport(Glibc)
import Glibc
#endif

/// Position embeddings at another grid, as DINO's `interpolate_pos_encoding`: bicubic with a = −0.75, no antialias.
package enum PositionResampling {
    /// The map from `side`² source rows to `grid.count` target rows, [targets, sources] row-major.
    package static func matrix(from side: Int, to grid: Grid) -> [Float] {
        let rows = axis(from: side, to: grid.height)
        let columns = axis(from: side, to: grid.width)
        var matrix = [Float](repeating: 0, count: grid.count * side * side)
        for i in 0..<grid.height {
            for j in 0..<grid.width {
                let target = (i * grid.width + j) * side * side
                for (u, wu) in rows[i] { for (v, wv) in columns[j] { matrix[target + u * side + v] += Float(wu * wv) } }
            }
        }
        return matrix
    }

    /// Taps of one axis: src = (i + ½)·N/(n + 0.1) − ½; indices are clamped to the edge. The 0.1 is DINO's guard
    /// against rounding in the scale factor.
    private static func axis(from source: Int, to target: Int) -> [[(Int, Double)]] {
        (0..<target).map { i in
            let position = (Double(i) + 0.5) * Double(source) / (Double(target) + 0.1) - 0.5
            let floor = Glibc.floor(position)
            return (-1...2).map { offset in
                let index = min(max(Int(floor) + offset, 0), source - 1)
                return (index, cubic(position - floor - Double(offset)))
            }
        }
    }

    private static func cubic(_ distance: Double) -> Double {
        let a = -0.75
        let x = abs(distance)
        if x <= 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
        if x < 2 { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a }
        return 0
    }
}
