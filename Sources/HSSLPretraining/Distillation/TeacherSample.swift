/// What is known of a teacher's global features over some views: mean and covariance.
package struct TeacherSample {
    package let width: Int
    package private(set) var count = 0
    /// Features are summed less this: their mean may be large beside what they vary by.
    private var origin: [Float] = []
    private var sums: [Double]
    private var moments: CellMoments

    package init(width: Int) {
        self.width = width
        sums = [Double](repeating: 0, count: width)
        moments = CellMoments(width: width)
    }

    /// Takes features [rows, width]. Those that are not finite are left out, as updates and banks leave them out.
    package mutating func add(_ features: [Float]) {
        var moved: [Float] = []
        moved.reserveCapacity(features.count)
        for row in stride(from: 0, to: features.count, by: width) {
            let feature = features[row..<row + width]
            guard feature.allSatisfy(\.isFinite) else { continue }
            if origin.isEmpty { origin = Array(feature) }
            for (channel, value) in feature.enumerated() {
                moved.append(value - origin[channel])
                sums[channel] += Double(value - origin[channel])
            }
            count += 1
        }
        moments.add(moved)
    }

    /// Whether there is a feature, and none so large that its squares overflow.
    var isFinite: Bool { count > 0 && covariance.allSatisfy(\.isFinite) }

    /// [width]; needs at least one feature.
    var mean: [Float] { zip(origin, sums).map { Float(Double($0) + $1 / Double(count)) } }

    /// [width, width]; needs at least one feature.
    var covariance: [Double] {
        let shift = sums.map { $0 / Double(count) }, products = moments.mean
        return products.indices.map { Double(products[$0]) - shift[$0 / width] * shift[$0 % width] }
    }
}
