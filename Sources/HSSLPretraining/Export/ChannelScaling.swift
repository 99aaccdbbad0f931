import HSSLGraph
import HSSLModels
#if canImport(Glibc)
import Glibc
#endif

/// Scales moved from channels to the products that read them, so that no channel is so large that the others vanish in
/// its 8-bit codes.
///
/// Source: Xiao et al., "SmoothQuant", ICML 2023: a channel is divided by max|x|^α / max|w|^(1 − α), here rounded to a
/// power of two, so that no value is rounded anew before it is quantised. Small strengths α even out the weights more
/// than what they read.
struct ChannelScaling {
    private var divided: [String: [(rows: Range<Int>, scale: [Float])]] = [:]
    private var multiplied: [String: [Float]] = [:]
    /// Groups of channels that are scaled at all.
    private(set) var groupCount = 0

    /// - Parameters:
    ///   - strength: α.
    ///   - ranges: the largest magnitude in each column of a product's input, by the name of its weight.
    ///   - values: of a parameter, row-major.
    init(
        _ trace: ModelTrace, strength: Float, ranges: [String: [Float]], values: (String) throws -> [Float]
    ) rethrows {
        for group in trace.channelGroups {
            let scale = try Self.scale(group, trace, strength, ranges, values)
            if scale.allSatisfy({ $0 == 1 }) { continue }
            groupCount += 1
            for maker in group.makers { divided[maker.name, default: []].append((maker.rows, scale)) }
            for reader in group.readers { multiplied[reader] = scale }
        }
    }

    private static func scale(
        _ group: ChannelGroup, _ trace: ModelTrace, _ strength: Float, _ ranges: [String: [Float]],
        _ values: (String) throws -> [Float]
    ) rethrows -> [Float] {
        let channels = group.channels
        var inputs = [Float](repeating: 0, count: channels), weights = inputs
        for reader in group.readers {
            for (column, range) in (ranges[reader] ?? []).enumerated() {
                inputs[column % channels] = max(inputs[column % channels], range)
            }
            let shape = trace.parameters[reader]?.shape ?? []
            for (index, value) in try values(reader).enumerated() {
                let channel = channel(of: index, shape: shape, channels: channels)
                weights[channel] = max(weights[channel], abs(value))
            }
        }
        let logarithms = zip(inputs, weights).map { x, w in
            x > 0 && w > 0 ? strength * log2(x) - (1 - strength) * log2(w) : -.infinity
        }
        // Around 1: what is large against the other channels is what matters.
        let known = logarithms.filter(\.isFinite)
        guard !known.isEmpty else { return [Float](repeating: 1, count: channels) }
        let mean = known.reduce(0, +) / Float(known.count)
        return logarithms.map { $0.isFinite ? exp2(($0 - mean).rounded()) : 1 }
    }

    /// Of an element of a weight [N, K] or [N, C, k, k].
    private static func channel(of index: Int, shape: [Int], channels: Int) -> Int {
        shape.count == 4 ? index / (shape[2] * shape[3]) % channels : index % channels
    }

    /// The values of a parameter with their scales moved.
    ///
    /// - Parameter values: row-major, of a parameter of this name and shape.
    func values(_ values: [Float], of name: String, shape: [Int]) -> [Float] {
        var result = values
        if let scale = multiplied[name] {
            for index in result.indices {
                result[index] *= scale[Self.channel(of: index, shape: shape, channels: scale.count)]
            }
        }
        for (rows, scale) in divided[name] ?? [] {
            let width = values.count / shape[0]
            for row in rows {
                for index in row * width..<(row + 1) * width { result[index] /= scale[row - rows.lowerBound] }
            }
        }
        return result
    }
}
