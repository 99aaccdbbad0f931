/// One classifier and how it did. Accuracies are fractions.
public struct LinearProbeDraw: Equatable, Sendable {
    /// Train images whose labels were used.
    public let labels: Int
    /// λ of the penalty.
    public let strength: Double
    /// Accuracy on what was held out, by which the strength was chosen; nil when nothing was.
    public let heldOutTop1: Double?
    /// Share of the test images whose class has the highest logit, 0 … 1.
    public let top1: Double
    /// Share of the test images whose class is among the five highest logits, 0 … 1.
    public let top5: Double
    /// Of L-BFGS, in the last fit.
    public let iterations: Int
    /// Whether that fit ended by itself: false where it ran out of iterations.
    public let converged: Bool

    var json: String {
        let heldOut = heldOutTop1.map { "\"held_out_top1\":\($0)," } ?? ""
        return "{\"labels\":\(labels),\"l2\":\(strength),\(heldOut)\"top1\":\(top1),\"top5\":\(top5),"
            + "\"iterations\":\(iterations),\"converged\":\(converged)}"
    }
}

/// What `hssl evaluate linear` reports.
public struct LinearProbeResult: Equatable, Sendable {
    /// Training images, those whose labels were not used included.
    public let trainCount: Int
    /// Test images.
    public let testCount: Int
    /// Distinct labels among the training images.
    public let classCount: Int
    /// Numbers of an image's features.
    public let dimension: Int
    /// Which labels the classifiers saw.
    public let budget: LabelBudget
    /// At least one.
    public let draws: [LinearProbeDraw]

    /// Mean over the draws of the share of test images whose class comes first, 0 … 1.
    public var top1: Double { mean(\.top1) }
    /// Mean over the draws of the share of test images whose class is among the first five, 0 … 1.
    public var top5: Double { mean(\.top5) }
    /// Sample standard deviation of top-1 over the draws (divided by one less than their number); nil for one draw.
    public var top1StandardDeviation: Double? {
        guard draws.count > 1 else { return nil }
        let mean = top1
        let squares = draws.reduce(0) { $0 + ($1.top1 - mean) * ($1.top1 - mean) }
        return (squares / Double(draws.count - 1)).squareRoot()
    }

    private func mean(_ value: KeyPath<LinearProbeDraw, Double>) -> Double {
        draws.reduce(0) { $0 + $1[keyPath: value] } / Double(draws.count)
    }

    /// One JSON object, without a line break.
    public var json: String {
        let chosen =
            switch budget {
            case .all: "\"all\""
            case .fraction(let share): "{\"fraction\":\(share)}"
            case .perClass(let count): "{\"per_class\":\(count)}"
            }
        let deviation = top1StandardDeviation.map { "\"top1_std\":\($0)," } ?? ""
        return "{\"train_images\":\(trainCount),\"test_images\":\(testCount),\"classes\":\(classCount),"
            + "\"dimension\":\(dimension),\"labels\":\(chosen),\"top1\":\(top1),\(deviation)\"top5\":\(top5),"
            + "\"draws\":[\(draws.map(\.json).joined(separator: ","))]}"
    }
}
