import HSSLGraph
import HSSLModels
#if canImport(Glibc)
import Glibc
#endif

/// Scales moved from channels to the products that read them, so that no channel is so large that the others vanish in
/// its 8-bit codes.
///
/// Source: Xiao et al., "SmoothQuant", ICML 2023, with migration strength 1/2: a channel is divided by
/// √(max|x|/max|w|), here rounded to a power of two, so that no value is rounded anew before it is quantised.
struct ChannelScaling {
    private var divided: [String: [(rows: Range<Int>, scale: [Float])]] = [:]
    private var multiplied: [String: [Float]] = [:]
    /// Groups of channels that are scaled at all.
    private(set) var groupCount = 0

    /// - Parameters:
    ///   - ranges: the largest magnitude in each column of a product's input, by the name of its weight.
    ///   - values: of a parameter, row-major.
    init(
        _ trace: ModelTrace, ranges: [String: [Float]], values: (String) throws -> [Float]
    ) rethrows {
        for group in trace.channelGroups {
            let scale = try Self.scale(group, trace, ranges, values)
            if scale.allSatisfy({ $0 == 1 }) { continue }
            groupCount += 1
            for maker in group.makers { divided[maker.name, default: []].append((maker.rows, scale)) }
            for reader in group.readers { multiplied[reader] = scale }
        }
    }

    private static func scale(
        _ group: ChannelGroup, _ trace: ModelTrace, _ ranges: [String: [Float]], _ values: (String) throws -> [Float]
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
        let ratios = zip(inputs, weights).map { x, w in x > 0 && w > 0 ? (x / w).squareRoot() : 0 }
        // Around 1: what is large against the other channels is what matters.
        let logarithms = ratios.filter { $0 > 0 && $0.isFinite }.map { log2($0) }
        guard !logarithms.isEmpty else { return [Float](repeating: 1, count: channels) }
        let mean = logarithms.reduce(0, +) / Float(logarithms.count)
        return ratios.map { ratio in
            ratio > 0 && ratio.isFinite ? exp2((log2(ratio) - mean).rounded()) : 1
        }
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
