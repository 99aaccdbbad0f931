import HSSLGraph
#if canImport(Glibc)
import Glibc
#endif

/// The part of an image that a crop shows, in whole pixels.
struct CropRectangle: Equatable, Sendable {
    var left: Int
    var top: Int
    var width: Int
    var height: Int
}

/// torchvision's `RandomResizedCrop.get_params`: area uniform in `scale` of the image, aspect (width/height)
/// log-uniform in 3/4…4/3. After ten draws that do not fit, the centre with the nearest allowed aspect.
struct RandomResizedCrop: Sendable {
    /// Fraction of the image's area: smallest, largest.
    let scale: ClosedRange<Double>

    static let attempts = 10
    static let aspect: ClosedRange<Double> = 3.0 / 4.0...4.0 / 3.0

    func draw(width: Int, height: Int, _ random: inout CounterRandom) -> CropRectangle {
        let area = Double(width) * Double(height)
        for _ in 0..<Self.attempts {
            let target = area * Self.uniform(scale.lowerBound, scale.upperBound, &random)
            let aspect = exp(Self.uniform(log(Self.aspect.lowerBound), log(Self.aspect.upperBound), &random))
            let w = Self.rounded((target * aspect).squareRoot())
            let h = Self.rounded((target / aspect).squareRoot())
            guard w >= 1, w <= width, h >= 1, h <= height else { continue }
            let top = random.integer(below: height - h + 1)
            let left = random.integer(below: width - w + 1)
            return CropRectangle(left: left, top: top, width: w, height: h)
        }
        return Self.fallback(width: width, height: height)
    }

    static func fallback(width: Int, height: Int) -> CropRectangle {
        let ratio = Double(width) / Double(height)
        var (w, h) = (width, height)
        if ratio < aspect.lowerBound {
            h = min(max(rounded(Double(w) / aspect.lowerBound), 1), height)
        } else if ratio > aspect.upperBound {
            w = min(max(rounded(Double(h) * aspect.upperBound), 1), width)
        }
        return CropRectangle(left: (width - w) / 2, top: (height - h) / 2, width: w, height: h)
    }

    /// Python's round: halves to even.
    private static func rounded(_ x: Double) -> Int { Int(x.rounded(.toNearestOrEven)) }

    private static func uniform(_ a: Double, _ b: Double, _ random: inout CounterRandom) -> Double {
        a + (b - a) * Double(random.uniform())
    }
}
