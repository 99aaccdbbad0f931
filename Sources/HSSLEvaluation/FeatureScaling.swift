/// Every feature less its mean, divided by its standard deviation. A constant feature becomes 0.
struct FeatureScaling: Sendable {
    let mean: [Float]
    private let inverse: [Float]
    private var dimension: Int { mean.count }

    /// - Parameter features: [count, dimension], at least one row.
    init(of features: [Float], dimension: Int) {
        let count = Double(features.count / dimension)
        // Two walks: the difference of large sums would lose a small deviation.
        var sums = [Double](repeating: 0, count: dimension)
        features.withUnsafeBufferPointer { features in
            sums.withUnsafeMutableBufferPointer { sums in
                for row in stride(from: 0, to: features.count, by: dimension) {
                    for d in 0..<dimension { sums[d] += Double(features[row + d]) }
                }
            }
        }
        let means = sums.map { $0 / count }
        var squares = [Double](repeating: 0, count: dimension)
        features.withUnsafeBufferPointer { features in
            squares.withUnsafeMutableBufferPointer { squares in
                means.withUnsafeBufferPointer { means in
                    for row in stride(from: 0, to: features.count, by: dimension) {
                        for d in 0..<dimension {
                            let difference = Double(features[row + d]) - means[d]
                            squares[d] += difference * difference
                        }
                    }
                }
            }
        }
        mean = means.map { Float($0) }
        inverse = zip(means, squares).map { mean, square in
            let deviation = (square / count).squareRoot()
            // Below the resolution of float32 the feature is constant.
            return deviation > 1e-7 * abs(mean) ? Float(1 / deviation) : 0
        }
    }

    /// - Parameter features: [any, dimension].
    func apply(to features: inout [Float]) {
        features.withUnsafeMutableBufferPointer { features in
            mean.withUnsafeBufferPointer { mean in
                inverse.withUnsafeBufferPointer { inverse in
                    for row in stride(from: 0, to: features.count, by: dimension) {
                        for d in 0..<dimension { features[row + d] = (features[row + d] - mean[d]) * inverse[d] }
                    }
                }
            }
        }
    }
}
