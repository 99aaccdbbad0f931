/// What the k-NN top-1 of a distilled student lies between, both as fractions.
package struct KNNGap: Equatable, Sendable {
    /// Of the student before its first update.
    package var untrained: Double
    package var teacher: Double

    package init(untrained: Double, teacher: Double) { (self.untrained, self.teacher) = (untrained, teacher) }

    /// Which part of the gap a figure has closed: 0 as untrained, 1 as the teacher; nil where there is no gap.
    package func closed(by top1: Double) -> Double? {
        teacher > untrained ? (top1 - untrained) / (teacher - untrained) : nil
    }
}
