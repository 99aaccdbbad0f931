/// Says once when the gradients of an int8 run vanish in rounding for many updates in a row.
///
/// Stochastic rounding keeps them right on average, but where nearly every code is 0 what arrives is noise of a few
/// values.
struct UnderflowWatch {
    static let share = 0.99
    static let patience = 20
    private var inARow = 0
    private var warned = false

    /// - Parameter metrics: of an update that was applied.
    mutating func warning(_ metrics: Metrics) -> String? {
        guard !warned, let zeros = metrics.int8GradientZeros else { return nil }
        inARow = zeros > Self.share ? inARow + 1 : 0
        guard inARow >= Self.patience else { return nil }
        warned = true
        return
            "gradients underflow: \(fixed(zeros * 100, places: 1)) % of their int8 codes are 0, for \(inARow) "
            + "updates; schedule.precision float16 keeps them"
    }
}
