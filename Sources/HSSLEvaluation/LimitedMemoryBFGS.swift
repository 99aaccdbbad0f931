/// Minimises one smooth convex function by L-BFGS, turned inside out: whoever holds it evaluates loss and gradient at
/// `point` and hands them in, so that many functions can be evaluated together.
///
/// Steps are halved until the loss falls enough (Armijo); the history holds ten pairs.
///
/// Source: Nocedal and Wright, Numerical Optimization, algorithms 7.4 and 7.5.
struct LimitedMemoryBFGS {
    enum Outcome: Equatable {
        /// The gradient is small, or the loss falls no more in float32.
        case converged
        case outOfIterations
    }

    /// Where loss and gradient are wanted next; after the end, the best point.
    private(set) var point: [Float]
    /// nil while it goes on.
    private(set) var outcome: Outcome?
    /// Accepted steps.
    private(set) var iterations = 0

    private let tolerance: Double
    private let limit: Int
    private var accepted: (point: [Float], loss: Double, gradient: [Float])?
    private var direction: [Float] = []
    private var slope = 0.0
    private var step = 1.0
    private var halvings = 0
    /// Newest last: steps, changes y of the gradient, 1/⟨step, y⟩ and ⟨y, H₀·y⟩.
    private var history: [(step: [Float], change: [Float], inverse: Double, scaled: Double)] = []
    /// H₀, up to a factor; nil: the identity.
    private let inverseCurvature: (([Float]) -> [Float])?

    private static let historyLength = 10
    private static let sufficientDecrease = 1e-4
    private static let mostHalvings = 25
    /// A mean of float32 losses says no more than this of its fall.
    private static let lossResolution = 1e-8

    /// - Parameters:
    ///   - start: the first point to evaluate.
    ///   - tolerance: of the largest element of the gradient.
    ///   - limit: of accepted steps.
    ///   - inverseCurvature: multiplies by a guess of the inverse of the second derivatives.
    init(
        start: [Float], tolerance: Double, limit: Int, inverseCurvature: (([Float]) -> [Float])? = nil
    ) {
        point = start
        self.inverseCurvature = inverseCurvature
        self.tolerance = tolerance
        self.limit = limit
    }

    /// Takes the loss and its gradient at `point`, and chooses the next point or the outcome.
    mutating func advance(loss: Double, gradient: [Float]) {
        guard outcome == nil else { return }
        guard let last = accepted else {
            take(loss, gradient, falling: true)
            return
        }
        guard loss <= last.loss + Self.sufficientDecrease * step * slope else {
            halvings += 1
            step /= 2
            if halvings > Self.mostHalvings {
                point = last.point
                outcome = .converged
            } else {
                point = Self.sum(last.point, step, direction)
            }
            return
        }
        iterations += 1
        let move = Self.difference(point, last.point), change = Self.difference(gradient, last.gradient)
        let curvature = Self.dot(move, change)
        if curvature > 1e-12 * Self.dot(change, change) {
            if history.count == Self.historyLength { history.removeFirst() }
            let scaled = inverseCurvature.map { Self.dot(change, $0(change)) } ?? Self.dot(change, change)
            history.append((move, change, 1 / curvature, scaled))
        }
        take(loss, gradient, falling: last.loss - loss > Self.lossResolution * abs(last.loss))
    }

    private mutating func take(_ loss: Double, _ gradient: [Float], falling: Bool) {
        accepted = (point, loss, gradient)
        let steepest = gradient.reduce(0.0) { max($0, abs(Double($1))) }
        if steepest <= tolerance || !falling {
            outcome = .converged
            return
        }
        if iterations >= limit {
            outcome = .outOfIterations
            return
        }
        direction = downhill(gradient)
        slope = Self.dot(direction, gradient)
        if slope >= 0 {
            history.removeAll()
            direction = downhill(gradient)
            slope = Self.dot(direction, gradient)
        }
        // Without a history or a guess the gradient says nothing of the length of the step.
        step = history.isEmpty && inverseCurvature == nil ? 1 / max(1, (-slope).squareRoot()) : 1
        halvings = 0
        point = Self.sum(point, step, direction)
    }

    /// −H·gradient by the two loops.
    private func downhill(_ gradient: [Float]) -> [Float] {
        var q = gradient
        var shares = [Double](repeating: 0, count: history.count)
        for (i, pair) in history.enumerated().reversed() {
            shares[i] = pair.inverse * Self.dot(pair.step, q)
            Self.add(-shares[i], pair.change, to: &q)
        }
        if let inverseCurvature { q = inverseCurvature(q) }
        if let newest = history.last {
            let scale = 1 / (newest.inverse * newest.scaled)
            for i in q.indices { q[i] = Float(Double(q[i]) * scale) }
        }
        for (i, pair) in history.enumerated() {
            Self.add(shares[i] - pair.inverse * Self.dot(pair.change, q), pair.step, to: &q)
        }
        for i in q.indices { q[i] = -q[i] }
        return q
    }

    static func dot(_ a: [Float], _ b: [Float]) -> Double {
        a.withUnsafeBufferPointer { a in
            b.withUnsafeBufferPointer { b in
                // Four sums, so that one addition need not wait for the last.
                var sums = SIMD4<Double>(repeating: 0)
                let whole = a.count & ~3
                for i in stride(from: 0, to: whole, by: 4) {
                    let x = SIMD4(Double(a[i]), Double(a[i + 1]), Double(a[i + 2]), Double(a[i + 3]))
                    sums += x * SIMD4(Double(b[i]), Double(b[i + 1]), Double(b[i + 2]), Double(b[i + 3]))
                }
                return (whole..<a.count).reduce(sums.sum()) { $0 + Double(a[$1]) * Double(b[$1]) }
            }
        }
    }

    private static func add(_ factor: Double, _ x: [Float], to y: inout [Float]) {
        let factor = Float(factor)
        x.withUnsafeBufferPointer { x in
            y.withUnsafeMutableBufferPointer { y in
                for i in x.indices { y[i] += factor * x[i] }
            }
        }
    }

    private static func sum(_ x: [Float], _ factor: Double, _ direction: [Float]) -> [Float] {
        var result = x
        add(factor, direction, to: &result)
        return result
    }

    private static func difference(_ a: [Float], _ b: [Float]) -> [Float] {
        var result = a
        add(-1, b, to: &result)
        return result
    }
}
