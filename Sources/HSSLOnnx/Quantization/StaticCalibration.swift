import HSSLGraph
import HSSLModels

/// Chooses the codes of a model's products over example images, and which products are left in float32 so that the
/// features stay near those of the float32 model.
///
/// Static codes have one scale a tensor: what is large in one channel costs accuracy in all. So a range is cut where
/// that makes the least error in what products give, and the products that suffer most stay as they are.
struct StaticCalibration {
    private(set) var quantization: StaticQuantization
    /// Cosine between the features of codes and those of float32, image by image.
    private(set) var cosines: [Double] = []
    /// Products that could multiply codes.
    let productCount: Int

    /// This mean cosine is kept, where leaving products in float32 keeps it.
    static let goal = 0.999
    /// Products are taken out a twelfth of all at a time, and at most half of them.
    private static let portions = 12, mostPortions = 6

    var meanCosine: Double { cosines.reduce(0, +) / Double(max(cosines.count, 1)) }

    /// - Parameter images: prepared ones, [C, H, W] each.
    init(_ live: LiveNodes, images: [[Float]]) throws {
        let all = live.policyProducts, replay = Replay(live)
        productCount = all.count
        let seen = Set(all.flatMap { [live.source(of: $0), live.result(of: $0)] })
        var observed: [Int: Observation] = [:]
        let wanted = try images.map { image in
            try replay.global(image) { value, tensor in
                guard seen.contains(value) else { return }
                let empty = Observation(width: tensor.shape.last ?? 1, images: images.count)
                observed[value, default: empty].add(tensor)
            }
        }
        let energies = try Self.energies(all, live)
        let best = observed.reduce(into: [:]) { $0[$1.key] = $1.value.range(energies[$1.key]) }
        quantization = StaticQuantization(products: Set(all.map(\.output)), ranges: best.mapValues(\.codes))

        // Those that lose most first.
        var rest = all.sorted { a, b in
            let losses = [a, b].map { best[live.source(of: $0)]?.error ?? 0 }
            return (losses[0], a.output) > (losses[1], b.output)
        }[...]
        for portion in 0...Self.mostPortions {
            if portion > 0 {
                let taken = rest.prefix((all.count + Self.portions - 1) / Self.portions)
                quantization.products.subtract(taken.map(\.output))
                rest = rest.dropFirst(taken.count)
            }
            cosines = try zip(images, wanted).map { cosine(try replay.global($0, quantization), $1) }
            if meanCosine >= Self.goal { break }
        }
    }

    /// The squared weights by which products multiply each channel of a value, summed.
    private static func energies(_ products: [Node], _ live: LiveNodes) throws -> [Int: [Float]] {
        var result: [Int: [Float]] = [:]
        for product in products {
            let source = live.source(of: product), channels = live.trace.tape.shapes[source].last ?? 1
            var sums = result[source] ?? [Float](repeating: 0, count: channels)
            let weight = try live.constants.values(product.inputs[1])
            weight.withUnsafeBufferPointer { weight in
                // Rows of windows have their channels fastest.
                for first in stride(from: 0, to: weight.count, by: channels) {
                    for channel in 0..<channels { sums[channel] += weight[first + channel] * weight[first + channel] }
                }
            }
            result[source] = sums
        }
        return result
    }
}
