/// How spread out a set of features is: the sign of collapse that needs no labels.
public struct FeatureStatistics: Equatable, Sendable {
    /// Mean over dimensions of the standard deviation (over images) of L2-normalised features. 0: all images look
    /// alike; about 1/√D: spread over the sphere.
    public let meanStandardDeviation: Double

    /// - Parameter features: [count, dimension], row-major; not necessarily normalised.
    /// - Throws: ``EvaluationError`` when there are none, when the sizes disagree or when a value is NaN or infinite.
    public init(features: [Float], dimension: Int) throws(EvaluationError) {
        let count = try FeatureRows.count(of: features, dimension: dimension, what: "image")
        let blockRows = min(count, NearestSearch.blockRows)
        var block = [Float](repeating: 0, count: blockRows * dimension)
        // Welford's update: the difference of large sums would lose the small spread of a collapsing network.
        var mean = [Double](repeating: 0, count: dimension)
        var squares = mean
        var seen = 0.0
        for first in stride(from: 0, to: count, by: blockRows) {
            let rows = min(blockRows, count - first)
            FeatureRows.normalize(features, from: first, rows: rows, dimension: dimension, into: &block)
            for row in 0..<rows {
                seen += 1
                for d in 0..<dimension {
                    let value = Double(block[row * dimension + d])
                    let delta = value - mean[d]
                    mean[d] += delta / seen
                    squares[d] += delta * (value - mean[d])
                }
            }
        }
        meanStandardDeviation = squares.reduce(0) { $0 + ($1 / seen).squareRoot() } / Double(dimension)
    }
}
