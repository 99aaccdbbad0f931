import CSupport

/// Multinomial logistic regressions on the same features, fitted side by side: one walk over the features gives losses
/// and gradients of all of them, so that ten strengths of the penalty cost little more than one.
///
/// Each minimises the mean cross-entropy over its images + λ/2·‖W‖², the bias free, by L-BFGS: scikit-learn's
/// `LogisticRegression` with C = 1/(λ·images).
struct LogisticRegression {
    /// What one of the regressions is fitted to.
    struct Problem {
        /// λ.
        let strength: Double
        /// Images of this fold do not count; nil: all do.
        let heldOutFold: Int?
    }

    /// Weights [classes, dimension] and biases [classes].
    struct Solution {
        var weights: [Float]
        var biases: [Float]
        var iterations: Int
        var converged: Bool
    }

    /// [count, dimension], row-major, standardised.
    let features: [Float]
    let dimension: Int
    /// One for each row, 0 ..< classCount.
    let labels: [Int]
    let classCount: Int
    /// One for each row: the parts that may be held out.
    let folds: [Int]

    /// Of the largest element of the gradient: scikit-learn's.
    static let tolerance = 1e-4
    static let mostIterations = 300
    /// Columns (problems × classes) that are evaluated together, if more than one problem has them: a bound on memory.
    static let columns = 1024
    /// Floats of a tile of features or logits.
    static let tileFloats = 1 << 18

    private var count: Int { labels.count }

    /// - Parameters:
    ///   - start: where to begin, one for each problem; nil: at 0.
    ///   - guesses: one for each problem.
    ///   - limit: of the steps of each.
    ///   - progress: told after every walk over the features how many there were.
    func fit(
        _ problems: [Problem], start: [Solution]? = nil, guesses: [CurvatureGuess?] = [],
        limit: Int = mostIterations, progress: (Int) -> Void = { _ in }
    ) -> [Solution] {
        let size = classCount * (dimension + 1)
        var optimizers = problems.indices.map { i in
            LimitedMemoryBFGS(
                start: start.map { $0[i].weights + $0[i].biases } ?? [Float](repeating: 0, count: size),
                tolerance: Self.tolerance, limit: limit,
                inverseCurvature: guesses.isEmpty ? nil : guesses[i].map { guess in { guess.times($0) } })
        }
        let together = max(1, Self.columns / classCount)
        var walks = 0
        for first in stride(from: 0, to: problems.count, by: together) {
            let group = first..<min(first + together, problems.count)
            while true {
                let active = group.filter { optimizers[$0].outcome == nil }
                if active.isEmpty { break }
                let values = evaluate(active.map { problems[$0] }, at: active.map { optimizers[$0].point })
                for (i, value) in zip(active, values) {
                    optimizers[i].advance(loss: value.loss, gradient: value.gradient)
                }
                walks += 1
                progress(walks)
            }
        }
        return optimizers.map { optimizer in
            Solution(
                weights: Array(optimizer.point[..<(classCount * dimension)]),
                biases: Array(optimizer.point[(classCount * dimension)...]),
                iterations: optimizer.iterations, converged: optimizer.outcome == .converged)
        }
    }

    /// Loss and gradient of every problem at its point (weights, then biases).
    func evaluate(_ problems: [Problem], at points: [[Float]]) -> [(loss: Double, gradient: [Float])] {
        let columns = problems.count * classCount
        let classifier = LinearLayer(
            weights: points.flatMap { $0[..<(classCount * dimension)] },
            biases: points.flatMap { $0[(classCount * dimension)...] }, dimension: dimension)
        let shares = problems.map { problem in
            let counted = problem.heldOutFold.map { fold in folds.count { $0 != fold } } ?? count
            return counted > 0 ? 1 / Double(counted) : 0
        }
        let rows = min(count, max(16, Self.tileFloats / max(dimension, columns)))
        var tile = Tile(rows: rows, problems: problems.count, classes: classCount)
        var gradient = [Float](repeating: 0, count: columns * dimension)
        var biasGradient = [Float](repeating: 0, count: columns)
        let workspace = AlignedScratch(bytes: hssl_gemm_f32_unpacked_workspace_size(columns, dimension, rows))
        var losses = [Double](repeating: 0, count: problems.count)
        for first in stride(from: 0, to: count, by: rows) {
            let used = min(rows, count - first)
            features.withUnsafeBufferPointer { features in
                guard let x = features.baseAddress.map({ $0 + first * dimension }) else { return }
                classifier.apply(to: x, rows: used, into: &tile.logits)
                tile.setTargets(labels[first..<(first + used)])
                for row in 0..<used {
                    for (p, problem) in problems.enumerated() {
                        tile.share[row * problems.count + p] =
                            problem.heldOutFold == folds[first + row] ? 0 : Float(shares[p])
                    }
                }
                tile.lossAndGradient(rows: used)
                hssl_gemm_f32_unpacked(
                    columns, dimension, used, tile.logits, 1, columns, x, dimension, 1, &gradient, dimension, first > 0,
                    nil, workspace.start)
            }
            hssl_sum_rows(used, columns, tile.logits, &biasGradient)
            for row in 0..<used {
                for (p, problem) in problems.enumerated() where problem.heldOutFold != folds[first + row] {
                    losses[p] += Double(tile.loss[row * problems.count + p])
                }
            }
        }
        return problems.indices.map { p in
            let weightRange = p * classCount * dimension..<(p + 1) * classCount * dimension
            var whole = Array(gradient[weightRange])
            let strength = Float(problems[p].strength)
            hssl_axpy(whole.count, strength, points[p], &whole)
            whole += biasGradient[p * classCount..<(p + 1) * classCount]
            let squares = hssl_sum_squares(classCount * dimension, points[p])
            return (losses[p] * shares[p] + problems[p].strength / 2 * squares, whole)
        }
    }

    /// One step's values of some rows.
    private struct Tile {
        let problems: Int
        let classes: Int
        /// [rows, problems, classes]: logits, then their gradient.
        var logits: [Float]
        /// Of the same shape: 1 at the label.
        private var targets: [Float]
        private var set: [Int] = []
        /// [rows, problems]: what a row's loss counts for.
        var share: [Float]
        private(set) var loss: [Float]
        private var logSumExp: [Float]

        init(rows: Int, problems: Int, classes: Int) {
            (self.problems, self.classes) = (problems, classes)
            logits = [Float](repeating: 0, count: rows * problems * classes)
            targets = logits
            share = [Float](repeating: 0, count: rows * problems)
            (loss, logSumExp) = (share, share)
        }

        mutating func setTargets(_ labels: ArraySlice<Int>) {
            for place in set { targets[place] = 0 }
            set.removeAll(keepingCapacity: true)
            for (row, label) in labels.enumerated() {
                for p in 0..<problems { set.append((row * problems + p) * classes + label) }
            }
            for place in set { targets[place] = 1 }
        }

        mutating func lossAndGradient(rows: Int) {
            hssl_soft_cross_entropy(rows * problems, classes, targets, logits, 1, &loss, &logSumExp)
            logits.withUnsafeMutableBufferPointer { logits in
                hssl_soft_cross_entropy_backward(
                    rows * problems, classes, targets, logits.baseAddress, 1, logSumExp, share, logits.baseAddress)
            }
        }
    }
}

/// x·Wᵀ + b with W [outputs, dimension], packed.
package final class LinearLayer {
    private let dimension: Int
    private let biases: [Float]
    private let packed: AlignedScratch

    package init(weights: [Float], biases: [Float], dimension: Int) {
        self.dimension = dimension
        self.biases = biases
        packed = AlignedScratch(bytes: hssl_gemm_f32_packed_size(biases.count, dimension))
        hssl_gemm_f32_pack(biases.count, dimension, weights, 1, dimension, packed.start)
    }

    /// - Parameters:
    ///   - x: [rows, dimension].
    ///   - result: its first rows · outputs elements are written.
    package func apply(to x: UnsafePointer<Float>, rows: Int, into result: inout [Float]) {
        biases.withUnsafeBufferPointer { biases in
            var output = hssl_gemm_output()
            output.bias = biases.baseAddress
            hssl_gemm_f32(
                rows, biases.count, dimension, x, dimension, 1, packed.start, &result, biases.count, false, &output)
        }
    }
}

/// Memory for kernels, on cache lines.
final class AlignedScratch {
    let start: UnsafeMutableRawPointer

    init(bytes: Int) { start = .allocate(byteCount: max(bytes, 64), alignment: 64) }

    deinit { start.deallocate() }
}
