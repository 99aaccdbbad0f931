import HSSLEvaluation
#if canImport(Glibc)
import Glibc
#endif

/// An affine map that evens out the directions of a teacher's global features.
///
/// A teacher's features share a mean and a few directions of large variance, which say little about what an image
/// shows (its ground, how much of it is filled) and yet decide most of a cosine: over Debian's clip art DINOv2
/// ViT-S/14 spends half its variance on 2 of 384 directions. With the covariance C = V·diag(λ)·Vᵀ over a sample and
/// λ̄ the mean of λ, a feature t becomes V·diag((λ/λ̄ + ε)^−p)·Vᵀ·(t − mean): at p = ½ every direction counts alike,
/// below it the strong ones still count more. Nothing of it is left in the student.
struct TeacherWhitening {
    /// Directions of hardly any variance are noise: none is enlarged by more than ε^−p.
    private static let ridge = 0.01

    let width: Int
    /// [width]
    private var mean: [Float]
    /// [width, width], symmetric.
    private var map: [Float]
    private var layer: LinearLayer

    /// Changes nothing: what a sample is still to be taken for.
    init(width: Int) {
        var identity = [Float](repeating: 0, count: width * width)
        for i in 0..<width { identity[i * width + i] = 1 }
        self.init(mean: [Float](repeating: 0, count: width), map: identity)
    }

    /// - Parameter power: p, 0 … ½.
    init(of sample: TeacherSample, power: Double) {
        let width = sample.width
        guard sample.count > 1 else {
            self.init(width: width)
            return
        }
        let (values, vectors) = SymmetricMatrix.eigenvectors(sample.covariance, order: width)
        let average = values.reduce(0, +) / Double(width)
        var map = [Double](repeating: 0, count: width * width)
        for k in 0..<width {
            let share = average > 0 ? max(0, values[k]) / average : 1
            let scale = pow(share + Self.ridge, -power)
            vectors.withUnsafeBufferPointer { vectors in
                map.withUnsafeMutableBufferPointer { map in
                    for i in 0..<width {
                        let factor = scale * vectors[k * width + i]
                        for j in 0..<width { map[i * width + j] += factor * vectors[k * width + j] }
                    }
                }
            }
        }
        self.init(mean: sample.mean, map: map.map { Float($0) })
    }

    private init(mean: [Float], map: [Float]) {
        (width, self.mean, self.map) = (mean.count, mean, map)
        layer = Self.layer(mean, map)
    }

    /// map·t − map·mean.
    private static func layer(_ mean: [Float], _ map: [Float]) -> LinearLayer {
        let width = mean.count
        let shift = (0..<width).map { i in
            -Float((0..<width).reduce(0.0) { $0 + Double(map[i * width + $1]) * Double(mean[$1]) })
        }
        return LinearLayer(weights: map, biases: shift, dimension: width)
    }

    /// Features [rows, width] → [rows, width].
    func apply(to features: [Float]) -> [Float] {
        var result = [Float](repeating: 0, count: features.count)
        features.withUnsafeBufferPointer { features in
            if let start = features.baseAddress { layer.apply(to: start, rows: features.count / width, into: &result) }
        }
        return result
    }

    /// The map as it stands and as it is packed, and what making it takes: the sample, and in float64 its covariance,
    /// eigenvectors, the reflections that led there and the map.
    var bytes: Int { (3 * 4 + 4 * 8) * width * width }

    // MARK: In a checkpoint

    private static let (meanName, mapName) = ("whitening.mean", "whitening.map")

    var state: [(name: String, values: [Float])] { [(Self.meanName, mean), (Self.mapName, map)] }

    /// - Returns: whether the name is one of its own.
    mutating func restore(_ name: String, _ values: [Float]) -> Bool {
        switch name {
        case Self.meanName: mean = values
        case Self.mapName: map = values
        default: return false
        }
        layer = Self.layer(mean, map)
        return true
    }
}
