import CSupport
import HSSLGraph

/// The directions in which rows of features vary most, and where the rows lie along them.
public struct PrincipalComponents: Sendable {
    /// Where each row lies along each component, from the mean of all rows: [rows, count].
    public let coordinates: [Float]
    /// Components: as many as asked for, or the dimension if that is less.
    public let count: Int
    /// Fraction of the variance that each component has, 0 … 1, the largest first.
    public let shares: [Double]

    private static let iterations = 200

    /// - Parameters:
    ///   - features: [rows, dimension], row-major; centred here.
    ///   - count: of components; no more than `dimension`.
    /// - Throws: ``EvaluationError`` for sizes that disagree or values that are not finite.
    public init(features: consuming [Float], dimension: Int, count: Int) throws(EvaluationError) {
        var own = features
        let rows = try FeatureRows.count(of: own, dimension: dimension, what: "row")
        let count = min(count, dimension)
        self.count = count
        FeatureScaling(of: own, dimension: dimension).center(&own)
        let covariance = CurvatureGuess.covariance(of: own, dimension: dimension)
        let total = (0..<dimension).reduce(0.0) { $0 + Double(covariance[$1 * dimension + $1]) }

        let (basis, variances) = Self.leading(covariance, dimension: dimension, count: count)
        shares = variances.map { total > 0 ? $0 / total : 0 }
        let layer = LinearLayer(
            weights: basis.flatMap { $0.map { Float($0) } }, biases: [Float](repeating: 0, count: count),
            dimension: dimension)
        var coordinates = [Float](repeating: 0, count: rows * count)
        own.withUnsafeBufferPointer { own in
            if let start = own.baseAddress { layer.apply(to: start, rows: rows, into: &coordinates) }
        }
        self.coordinates = coordinates
    }

    /// Leading eigenvectors of a symmetric matrix without negative eigenvalues, and how far it stretches each.
    ///
    /// - Parameters:
    ///   - matrix: [dimension, dimension].
    ///   - count: no more than `dimension`.
    ///   - tolerance: what the last step may still change of a value, as a part of the sum of all.
    package static func leading(
        _ matrix: [Float], dimension: Int, count: Int, tolerance: Double = 1e-10
    ) -> (vectors: [[Double]], values: [Double]) {
        let total = (0..<dimension).reduce(0.0) { $0 + Double(matrix[$1 * dimension + $1]) }
        // Subspace iteration: multiply, then make orthonormal again.
        var random = CounterRandom(seed: 0, stream: 0x5043_41)
        var basis = (0..<count).map { _ in (0..<dimension).map { _ in Double(random.normal()) } }
        var values = [Double](repeating: 0, count: count)
        orthonormalize(&basis)
        for _ in 0..<iterations {
            let before = values
            for c in 0..<count {
                let moved = times(matrix, basis[c])
                values[c] = zip(moved, basis[c]).reduce(0) { $0 + $1.0 * $1.1 }
                basis[c] = moved
            }
            orthonormalize(&basis)
            if zip(values, before).allSatisfy({ abs($0 - $1) <= tolerance * total }) { break }
        }
        for c in 0..<count {
            // A direction and its opposite are one: the largest weight is positive.
            let largest = basis[c].max { abs($0) < abs($1) } ?? 0
            if largest < 0 { basis[c] = basis[c].map { -$0 } }
        }
        return (basis, values)
    }

    private static func times(_ matrix: [Float], _ x: [Double]) -> [Double] {
        let n = x.count
        return matrix.withUnsafeBufferPointer { matrix in
            x.withUnsafeBufferPointer { x in
                (0..<n).map { i in
                    var sum = 0.0
                    for j in 0..<n { sum += Double(matrix[i * n + j]) * x[j] }
                    return sum
                }
            }
        }
    }

    /// Gram–Schmidt, twice for rounding; what vanishes becomes an axis of its own.
    private static func orthonormalize(_ basis: inout [[Double]]) {
        for c in basis.indices {
            for _ in 0..<2 {
                for earlier in 0..<c {
                    let share = zip(basis[c], basis[earlier]).reduce(0) { $0 + $1.0 * $1.1 }
                    for i in basis[c].indices { basis[c][i] -= share * basis[earlier][i] }
                }
                let norm = basis[c].reduce(0) { $0 + $1 * $1 }.squareRoot()
                if norm > 1e-300 {
                    for i in basis[c].indices { basis[c][i] /= norm }
                } else {
                    for i in basis[c].indices { basis[c][i] = i == c ? 1 : 0 }
                }
            }
        }
    }
}

extension FeatureScaling {
    /// Every feature less its mean, in its own size.
    func center(_ features: inout [Float]) {
        features.withUnsafeMutableBufferPointer { features in
            mean.withUnsafeBufferPointer { mean in
                for row in stride(from: 0, to: features.count, by: mean.count) {
                    for d in mean.indices { features[row + d] -= mean[d] }
                }
            }
        }
    }
}
