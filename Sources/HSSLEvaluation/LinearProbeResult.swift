/// One classifier and how it did. Accuracies are fractions.
public struct LinearProbeDraw: Equatable, Sendable {
    /// Train images whose labels were used.
    public let labels: Int
    /// λ of the penalty.
    public let strength: Double
    /// Accuracy on what was held out, by which the strength was chosen; nil when nothing was.
    public let heldOutTop1: Double?
    public let top1: Double
    public let top5: Double
    /// Of L-BFGS, in the last fit.
    public let iterations: Int
    public let converged: Bool

    var json: String {
        let heldOut = heldOutTop1.map { "\"held_out_top1\":\($0)," } ?? ""
        return "{\"labels\":\(labels),\"l2\":\(strength),\(heldOut)\"top1\":\(top1),\"top5\":\(top5),"
            + "\"iterations\":\(iterations),\"converged\":\(converged)}"
    }
}

/// What `hssl evaluate linear` reports.
public struct LinearProbeResult: Equatable, Sendable {
    public let trainCount: Int
    public let testCount: Int
    public let classCount: Int
    public let dimension: Int
    public let budget: LabelBudget
    /// At least one.
    public let draws: [LinearProbeDraw]

    /// Means over the draws.
    public var top1: Double { mean(\.top1) }
    public var top5: Double { mean(\.top5) }
    /// Over the draws, with one less than their number below; nil for one.
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
