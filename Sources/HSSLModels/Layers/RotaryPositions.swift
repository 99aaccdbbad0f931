#if canImport(Glibc)
import Glibc
#endif

/// Angles by which queries and keys of patches are turned, as DINOv3: coordinates of a patch's centre in −1 … 1 along
/// each axis, times 2π, times frequencies that fall from 1 to 1/temperature.
///
/// Source: Siméoni et al., "DINOv3", 2025; Hugging Face `modeling_dinov3_vit.py`.
package enum RotaryPositions {
    /// [prefix + grid.count, width]: cosines of width/2 angles (those of the vertical coordinate first), then their
    /// sines. Tokens of the prefix are not turned.
    ///
    /// - Parameter width: elements of a head, a multiple of 4.
    package static func table(prefix: Int, grid: Grid, width: Int, temperature: Double) -> [Float] {
        let quarter = width / 4, half = width / 2
        let frequencies = (0..<quarter).map { 1 / pow(temperature, 4 * Double($0) / Double(width)) }
        var table = [Float](repeating: 0, count: (prefix + grid.count) * width)
        for token in 0..<prefix { for j in 0..<half { table[token * width + j] = 1 } }
        func coordinate(_ index: Int, of count: Int) -> Double { 2 * (Double(index) + 0.5) / Double(count) - 1 }
        for i in 0..<grid.height {
            for j in 0..<grid.width {
                let row = (prefix + i * grid.width + j) * width
                let axes = [coordinate(i, of: grid.height), coordinate(j, of: grid.width)]
                for (axis, coordinate) in axes.enumerated() {
                    for (k, frequency) in frequencies.enumerated() {
                        let angle = 2 * Double.pi * coordinate * frequency
                        table[row + axis * quarter + k] = Float(cos(angle))
                        table[row + half + axis * quarter + k] = Float(sin(angle))
                    }
                }
            }
        }
        return table
    }
}
