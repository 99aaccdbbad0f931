import HSSLGraph
import HSSLModels

/// A model whose values are not finite in float32: nothing can be near to it.
package struct OverflowError: Error {}

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

    /// This mean cosine is kept, where leaving products in float32 keeps it: other images than those that codes were
    /// made for lose a little more, and are to have 0.999.
    static let goal = 0.9993
    /// Images over which the products are compared.
    private static let probes = 4

    var meanCosine: Double { cosines.reduce(0, +) / Double(max(cosines.count, 1)) }

    /// - Parameter images: prepared ones, [C, H, W] each.
    /// - Throws: ``OverflowError``; what reading a parameter throws.
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
        guard wanted.allSatisfy({ $0.allSatisfy(\.isFinite) }), observed.values.allSatisfy(\.isFinite) else {
            throw OverflowError()
        }
        let energies = try Self.energies(all, live)
        let ranges = observed.reduce(into: [:]) { $0[$1.key] = $1.value.range(energies[$1.key]) }
        quantization = StaticQuantization(products: Set(all.map(\.output)), ranges: ranges)

        func cosines(_ quantization: StaticQuantization, _ count: Int) throws -> [Double] {
            try zip(images, wanted).prefix(count).map { cosine(try replay.global($0, quantization), $1) }
        }
        self.cosines = try cosines(quantization, images.count)
        if meanCosine >= Self.goal { return }

        // What each product costs by itself; the costs add up, nearly. Those that cost most first.
        var rest = try all.map { product in
            let alone = StaticQuantization(products: [product.output], ranges: quantization.ranges)
            let few = try cosines(alone, Self.probes)
            return (output: product.output, cost: few.reduce(0) { $0 + 1 - $1 } / Double(few.count))
        }.sorted { ($0.cost, $0.output) > ($1.cost, $1.output) }[...]
        let total = rest.reduce(0) { $0 + $1.cost }, loss = 1 - meanCosine
        // At most half of them, and a twenty-fourth of all where the sum was too good.
        while meanCosine < Self.goal, rest.count > all.count / 2 {
            var taken = 0
            repeat {
                guard let worst = rest.popFirst() else { break }
                quantization.products.remove(worst.output)
                taken += 1
                let left = rest.reduce(0) { $0 + $1.cost } * loss / max(total, .leastNormalMagnitude)
                if left <= 1 - Self.goal, taken >= all.count / 24 { break }
            } while rest.count > all.count / 2
            self.cosines = try cosines(quantization, images.count)
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
