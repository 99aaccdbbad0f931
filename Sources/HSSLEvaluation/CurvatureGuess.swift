import CSupport
#if canImport(Glibc)
import Glibc
#endif

/// A guess of the inverse second derivatives of a logistic regression, by which L-BFGS needs a third of its steps where
/// features are correlated: (c·Σ + λ·I)⁻¹ for the weights of every class, with Σ the mean of x·xᵀ and c = (1 − 1/C)/C,
/// the derivative of a softmax that knows nothing yet.
///
/// Source: Böhning, Multinomial logistic regression algorithm, 1992 (there with a bound for c).
final class CurvatureGuess {
    /// Beyond it the factorisation, dimension³ operations of one thread, would take longer than it saves.
    static let largestDimension = 1024
    /// Directions in which features hardly vary are left as flat as this: their gradient is rounding.
    static let leastStrength = 1e-4

    private let dimension: Int
    private let classCount: Int
    private let biasFactor: Float
    private let packed: AlignedScratch

    /// Σ of standardised features [count, dimension]: [dimension, dimension].
    static func covariance(of features: [Float], dimension: Int) -> [Float] {
        let count = features.count / dimension
        var result = [Float](repeating: 0, count: dimension * dimension)
        let rows = min(count, 2048)
        let workspace = AlignedScratch(bytes: hssl_gemm_f32_unpacked_workspace_size(dimension, dimension, rows))
        features.withUnsafeBufferPointer { features in
            guard let start = features.baseAddress else { return }
            for first in stride(from: 0, to: count, by: rows) {
                let x = start + first * dimension
                hssl_gemm_f32_unpacked(
                    dimension, dimension, min(rows, count - first), x, 1, dimension, x, dimension, 1, &result,
                    dimension, first > 0, nil, workspace.start)
            }
        }
        hssl_scale(result.count, 1 / Float(count), &result)
        return result
    }

    /// Bytes that ``covariance(of:dimension:)`` takes.
    static func bytes(_ dimension: Int) -> Int {
        4 * dimension * dimension + hssl_gemm_f32_unpacked_workspace_size(dimension, dimension, 2048)
    }

    /// - Parameter strength: λ.
    init(covariance: [Float], dimension: Int, classCount: Int, strength: Double) {
        self.dimension = dimension
        self.classCount = classCount
        let share = (1 - 1 / Double(classCount)) / Double(classCount)
        biasFactor = Float(1 / share)
        let root = Self.inverseOfRoot(covariance, dimension, share, max(strength, Self.leastStrength))
        // (L·Lᵀ)⁻¹ = (L⁻¹)ᵀ·L⁻¹.
        var inverse = [Float](repeating: 0, count: dimension * dimension)
        let workspace = AlignedScratch(bytes: hssl_gemm_f32_unpacked_workspace_size(dimension, dimension, dimension))
        hssl_gemm_f32_unpacked(
            dimension, dimension, dimension, root, 1, dimension, root, dimension, 1, &inverse, dimension, false, nil,
            workspace.start)
        packed = AlignedScratch(bytes: hssl_gemm_f32_packed_size(dimension, dimension))
        hssl_gemm_f32_pack(dimension, dimension, inverse, dimension, 1, packed.start)
    }

    /// The product with weights [classes, dimension] and biases [classes].
    func times(_ point: [Float]) -> [Float] {
        var result = [Float](repeating: 0, count: point.count)
        hssl_gemm_f32(
            classCount, dimension, dimension, point, dimension, 1, packed.start, &result, dimension, false, nil)
        for i in (classCount * dimension)..<point.count { result[i] = point[i] * biasFactor }
        return result
    }

    /// L⁻¹ where L·Lᵀ = share·Σ + strength·I, row-major with zeros above the diagonal.
    private static func inverseOfRoot(
        _ covariance: [Float], _ n: Int, _ share: Double, _ strength: Double
    ) -> [Float] {
        var root = [Double](repeating: 0, count: n * n)
        var inverse = root
        root.withUnsafeMutableBufferPointer { root in
            inverse.withUnsafeMutableBufferPointer { inverse in
                for i in 0..<n {
                    for j in 0...i {
                        var sum = 0.0
                        for k in 0..<j { sum += root[i * n + k] * root[j * n + k] }
                        let value = share * Double(covariance[i * n + j]) + (i == j ? strength : 0) - sum
                        // Positive but for rounding.
                        root[i * n + j] = i == j ? max(value, strength / 2).squareRoot() : value / root[j * n + j]
                    }
                }
                for i in 0..<n {
                    inverse[i * n + i] = 1
                    for k in 0..<i {
                        let factor = root[i * n + k]
                        for j in 0...k { inverse[i * n + j] -= factor * inverse[k * n + j] }
                    }
                    let scale = 1 / root[i * n + i]
                    for j in 0...i { inverse[i * n + j] *= scale }
                }
            }
        }
        return inverse.map { Float($0) }
    }
}
