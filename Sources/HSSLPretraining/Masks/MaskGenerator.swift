import Glibc
import HSSLGraph

/// Draws which patches of a global view the student does not see.
///
/// One of the `ratios` is taken with equal odds, then the ratio itself is uniform in ratio ± variance. Shapes:
///
/// - `block` (BEiT, iBOT): want = ratio·h·w. Repeat: up to 10 attempts at a rectangle of area U((min(h, w)//3)²,
///   remaining) and aspect log-uniform in (0.3, 1/0.3); it is taken if it is smaller than the grid on both sides and
///   masks between 1 and `remaining` new patches. Ten failures in a row end it, so the wanted count is often not
///   reached: that is the method. `remaining` is not rounded.
/// - `random`: exactly ⌊ratio·h·w⌋ patches, each subset equally likely.
///
/// A mask is a pure function of (seed, step, image, view), whatever thread draws it.
public struct MaskGenerator: Sendable {
    /// Patches down a view.
    public let height: Int
    /// Patches across a view.
    public let width: Int
    private let shape: Recipe.MaskShape
    private let ratios: [Double]
    private let variances: [Double]

    static let attempts = 10
    static let smallestAspect = 0.3
    /// Sets these draws apart from the run's other random streams ("mask").
    private static let purpose: UInt64 = 0x6D61_736B

    /// A generator for views of one size.
    ///
    /// - Parameters:
    ///   - objective: with as many of `maskRatio` as of `maskRatioVariance`, at least one.
    ///   - height: patches down a view, at least 1.
    ///   - width: patches across a view, at least 1.
    public init(objective: Recipe.Objective, height: Int, width: Int) {
        precondition(
            height >= 1 && width >= 1 && !objective.maskRatio.isEmpty
                && objective.maskRatio.count == objective.maskRatioVariance.count)
        self.height = height
        self.width = width
        shape = objective.maskShape
        ratios = objective.maskRatio
        variances = objective.maskRatioVariance
    }

    /// Writes the mask of one view, row by row: 1 masked, 0 seen.
    ///
    /// - Parameters:
    ///   - step: the update (or any number that is new for each visit of the image).
    ///   - image: the image's place in the batch, or its identity.
    ///   - view: the global view, 0 or 1.
    ///   - mask: `height · width` bytes.
    /// - Returns: how many patches are masked.
    @discardableResult
    package func draw(seed: UInt64, step: Int, image: Int, view: Int, into mask: UnsafeMutableBufferPointer<UInt8>)
        -> Int
    {
        precondition(mask.count == height * width, "a mask has one byte a patch")
        mask.update(repeating: 0)
        var random = CounterRandom(
            seed: seed, stream: Self.purpose, UInt64(bitPattern: Int64(step)), UInt64(bitPattern: Int64(image)),
            UInt64(bitPattern: Int64(view)))
        let wanted = ratio(&random) * Double(height * width)
        switch shape {
        case .block: return drawBlocks(wanted: wanted, &random, into: mask)
        case .random: return drawSubset(count: Int(wanted), &random, into: mask)
        }
    }

    /// The mask of one view: [height · width] bytes, row by row, 1 masked, 0 seen.
    ///
    /// - Parameters:
    ///   - seed: the recipe's `schedule.seed`.
    ///   - step: the update (or any number that is new for each visit of the image).
    ///   - image: the image's place in the batch, or its identity.
    ///   - view: the global view, 0 or 1.
    public func mask(seed: UInt64, step: Int, image: Int, view: Int) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: height * width) { buffer, count in
            buffer.initialize(repeating: 0)
            draw(
                seed: seed, step: step, image: image, view: view,
                into: UnsafeMutableBufferPointer(rebasing: buffer[..<(height * width)]))
            count = height * width
        }
    }

    private func ratio(_ random: inout CounterRandom) -> Double {
        let i = ratios.count == 1 ? 0 : random.integer(below: ratios.count)
        guard variances[i] > 0 else { return ratios[i] }
        return uniform(ratios[i] - variances[i], ratios[i] + variances[i], &random)
    }

    private func drawBlocks(
        wanted: Double, _ random: inout CounterRandom, into mask: UnsafeMutableBufferPointer<UInt8>
    ) -> Int {
        let smallestArea = Double((min(height, width) / 3) * (min(height, width) / 3))
        let logAspect = log(Self.smallestAspect)
        var masked = 0
        while Double(masked) < wanted {
            var added = 0
            for _ in 0..<Self.attempts where added == 0 {
                let remaining = wanted - Double(masked)
                // Near the end `remaining` is below the smallest area; the bounds are then reversed, as in Python.
                let area = uniform(smallestArea, remaining, &random)
                let aspect = exp(uniform(logAspect, -logAspect, &random))
                let h = Int((area * aspect).squareRoot().rounded(.toNearestOrEven))
                let w = Int((area / aspect).squareRoot().rounded(.toNearestOrEven))
                guard h < height, w < width else { continue }
                let top = random.integer(below: height - h + 1)
                let left = random.integer(below: width - w + 1)
                var fresh = 0
                for y in top..<(top + h) {
                    for x in left..<(left + w) where mask[y * width + x] == 0 { fresh += 1 }
                }
                guard fresh > 0, Double(fresh) <= remaining else { continue }
                for y in top..<(top + h) {
                    for x in left..<(left + w) { mask[y * width + x] = 1 }
                }
                added = fresh
            }
            if added == 0 { break }
            masked += added
        }
        return masked
    }

    /// Selection sampling (Knuth 3.4.2, algorithm S): one pass, no list of patches.
    private func drawSubset(count: Int, _ random: inout CounterRandom, into mask: UnsafeMutableBufferPointer<UInt8>)
        -> Int
    {
        var needed = min(count, mask.count)
        for i in mask.indices where needed > 0 && random.integer(below: mask.count - i) < needed {
            mask[i] = 1
            needed -= 1
        }
        return min(count, mask.count)
    }

    private func uniform(_ a: Double, _ b: Double, _ random: inout CounterRandom) -> Double {
        a + (b - a) * Double(random.nextUInt32()) * 0x1p-32
    }
}
