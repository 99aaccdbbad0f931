import HSSLGraph

/// Mean over the dimensions of the standard deviation of unit feature vectors, accumulated over micro-batches.
///
/// Near 1/√D for healthy features, 0 when all images look the same to the model.
package struct FeatureSpread: Sendable {
    private var sums: [Double] = []
    private var squares: [Double] = []
    private var count = 0

    mutating func add(_ features: Tensor) {
        let width = features.width
        if sums.isEmpty {
            sums = [Double](repeating: 0, count: width)
            squares = sums
        }
        for row in 0..<features.rows {
            let values = features.values + row * width
            for i in 0..<width {
                sums[i] += Double(values[i])
                squares[i] += Double(values[i]) * Double(values[i])
            }
        }
        count += features.rows
    }

    package var meanStandardDeviation: Double {
        guard count > 1 else { return 0 }
        let n = Double(count)
        let deviations = zip(sums, squares).map { sum, square in
            max(0, square / n - (sum / n) * (sum / n)).squareRoot()
        }
        return deviations.reduce(0, +) / Double(deviations.count)
    }
}
