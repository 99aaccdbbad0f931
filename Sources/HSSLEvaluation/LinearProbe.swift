import CSupport
import HSSLGraph
#if canImport(Glibc)
import Glibc
#endif

/// Which labels a linear probe may see.
public enum LabelBudget: Equatable, Sendable {
    /// The labels of all training images.
    case all
    /// This share of the images of every class, above 0 and at most 1; rounded, at least one image.
    case fraction(Double)
    /// So many images of every class, at least 1; a class with fewer is an error.
    case perClass(Int)
}

/// A linear classifier on frozen features: multinomial logistic regression on standardised features, the strength of
/// its L2 penalty chosen by a part of the training images that is held out, then fitted to all of them.
///
/// A fifth of the images (of every class alike) is held out; with fewer than ``crossValidationLimit`` each fifth in
/// turn, as few images say little. The strength with the highest accuracy there wins, of equals the one with the lower
/// loss. DINOv2 probes few labels so; on all labels it and DINO choose a learning rate of SGD the same way, which
/// reaches the same classifier in minutes.
public struct LinearProbe: Sendable {
    /// Strengths λ of the penalty λ/2·‖W‖² beside the mean loss of an image.
    public static let defaultStrengths = [10, 1, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    /// Without two labels a class nothing can be held out: then this.
    public static let fallbackStrength = 0.1
    /// Labelled images from which one held-out fifth is enough; with fewer every fifth is held out in turn.
    public static let crossValidationLimit = 5_000
    static let foldCount = 5
    /// Steps of each candidate: stopping there is a penalty of its own, and what comes behind it changes no choice.
    static let candidateIterations = 100

    /// Standardised, [count, dimension].
    private let features: [Float]
    private let scaling: FeatureScaling
    /// 0 ..< classCount.
    private let classes: [Int]
    /// The labels in rising order: class c is labels[c].
    private let labels: [Int]

    /// Numbers of an image's features.
    public let dimension: Int
    /// Training images.
    public var count: Int { classes.count }
    /// Distinct labels among the training images, at least 2.
    public var classCount: Int { labels.count }

    /// - Parameters:
    ///   - features: [count, dimension], row-major: of all training images, also of those whose labels are not used.
    ///     Their means and deviations standardise.
    ///   - labels: one for each row; any integers.
    /// - Throws: ``EvaluationError`` for sizes that disagree, values that are not finite, or fewer than two classes.
    public init(features: consuming [Float], dimension: Int, labels: [Int]) throws(EvaluationError) {
        var own = features
        let count = try FeatureRows.count(of: own, dimension: dimension, what: "train")
        guard labels.count == count else {
            throw EvaluationError("\(count) train images have \(labels.count) labels")
        }
        let distinct = Set(labels).sorted()
        guard distinct.count >= 2 else {
            throw EvaluationError("the train images have one class only: a classifier needs two")
        }
        let classOf = Dictionary(uniqueKeysWithValues: zip(distinct, 0...))
        classes = labels.map { classOf[$0] ?? 0 }
        self.labels = distinct
        self.dimension = dimension
        scaling = FeatureScaling(of: own, dimension: dimension)
        scaling.apply(to: &own)
        self.features = own
    }

    /// Bytes that a probe and its ``evaluate(queries:queryLabels:budget:draws:seed:strengths:progress:)`` hold, the
    /// features of both sets included.
    public static func memory(
        trainCount: Int, testCount: Int, dimension: Int, classCount: Int, strengths: [Double] = defaultStrengths,
        budget: LabelBudget = .all
    ) -> Int {
        let labels: Int
        switch budget {
        case .all: labels = trainCount
        case .fraction(let share): labels = min(trainCount, Int(share * Double(trainCount)) + classCount)
        case .perClass(let count): labels = min(trainCount, min(count, trainCount) * classCount)
        }
        let rows = trainCount + testCount + (budget == .all ? 0 : labels)
        // Every problem keeps ten pairs of L-BFGS, a few points and its solution; those of one walk their gradients.
        let problems = max(1, strengths.count * (labels < crossValidationLimit ? foldCount : 1))
        let size = classCount * (dimension + 1)
        let together = min(problems, max(1, LogisticRegression.columns / max(classCount, 1)))
        let walk = 8 * together * size + 4 * max(LogisticRegression.tileFloats, 16 * together * classCount)
        // A packed inverse for every strength, and what it is made of, in float64.
        let guess = dimension <= CurvatureGuess.largestDimension ? dimension * dimension : 0
        return 4 * (rows * dimension + 30 * problems * size + walk) + (4 * (strengths.count + 1) + 40) * guess
            + 40 * (trainCount + testCount)
    }

    /// Fits and judges a classifier, or one for each draw of a part of the labels.
    ///
    /// - Parameters:
    ///   - queries: [queryCount, dimension], as they come from the model.
    ///   - queryLabels: one for each query; a label that no train image has counts as an error.
    ///   - draws: random choices of the labels, each from the seed and its number; all labels have one.
    ///   - progress: told after every walk over the features which draw it is and how many walks that makes.
    /// - Throws: ``EvaluationError`` for sizes that disagree, values that are not finite, or a class with too few
    ///   images.
    public func evaluate(
        queries: [Float], queryLabels: [Int], budget: LabelBudget = .all, draws: Int = 5, seed: UInt64 = 0,
        strengths: [Double] = defaultStrengths, progress: (_ draw: Int, _ walks: Int) -> Void = { _, _ in }
    ) throws(EvaluationError) -> LinearProbeResult {
        let queryCount = try FeatureRows.count(of: queries, dimension: dimension, what: "test")
        guard queryLabels.count == queryCount else {
            throw EvaluationError("\(queryCount) test images have \(queryLabels.count) labels")
        }
        guard !strengths.isEmpty, strengths.allSatisfy({ $0 >= 0 && $0.isFinite }) else {
            throw EvaluationError("the strengths must be at least 0, not \(strengths)")
        }
        guard draws >= 1 else { throw EvaluationError("draws must be at least 1, not \(draws)") }
        let guesses = guesses(strengths)
        var results: [LinearProbeDraw] = []
        for draw in 0..<(budget == .all ? 1 : draws) {
            let (rows, folds) = try chosen(budget, seed: seed, draw: draw)
            let regression = regression(rows: rows, folds: folds)
            let (solution, strength, heldOut) = fit(regression, strengths, guesses) { progress(draw, $0) }
            let (top1, top5) = judge(solution, queries, queryLabels)
            results.append(
                LinearProbeDraw(
                    labels: folds.count, strength: strength, heldOutTop1: heldOut, top1: top1, top5: top5,
                    iterations: solution.iterations, converged: solution.converged))
        }
        return LinearProbeResult(
            trainCount: count, testCount: queryCount, classCount: classCount, dimension: dimension, budget: budget,
            draws: results)
    }

    /// A classifier of all rows.
    ///
    /// - Parameter folds: one for each row, 0 ..< 5: rows that are held out together, as patches of an image are.
    func classifier(
        folds: [Int], strengths: [Double], progress: (Int) -> Void
    ) -> (LogisticRegression.Solution, strength: Double, heldOutTop1: Double?) {
        fit(regression(rows: nil, folds: folds), strengths, guesses(strengths), progress: progress)
    }

    /// Rows as they come from the model, standardised as the training rows were.
    func standardize(_ rows: inout [Float]) { scaling.apply(to: &rows) }

    private func guesses(_ strengths: [Double]) -> [Double: CurvatureGuess] {
        var guesses: [Double: CurvatureGuess] = [:]
        if dimension <= CurvatureGuess.largestDimension {
            let covariance = CurvatureGuess.covariance(of: features, dimension: dimension)
            // Of the weakest one serves all.
            for strength in Set((strengths + [Self.fallbackStrength]).map { max($0, CurvatureGuess.leastStrength) }) {
                guesses[strength] = CurvatureGuess(
                    covariance: covariance, dimension: dimension, classCount: classCount, strength: strength)
            }
        }
        return guesses
    }

    /// The rows whose labels are used (nil: all) and the fold of each: classes are spread evenly over the folds.
    private func chosen(
        _ budget: LabelBudget, seed: UInt64, draw: Int
    ) throws(EvaluationError) -> (rows: [Int]?, folds: [Int]) {
        var members = [[Int]](repeating: [], count: classCount)
        for (row, label) in classes.enumerated() { members[label].append(row) }
        var foldOf: [Int: Int] = [:]
        var next = 0
        for (label, rows) in members.enumerated() {
            let wanted: Int
            switch budget {
            case .all: wanted = rows.count
            case .fraction(let share):
                guard share > 0, share <= 1 else {
                    throw EvaluationError("a fraction is above 0 and at most 1, not \(share)")
                }
                wanted = max(1, Int((share * Double(rows.count)).rounded()))
            case .perClass(let count):
                guard count >= 1 else { throw EvaluationError("labels a class must be at least 1, not \(count)") }
                guard count <= rows.count else {
                    throw EvaluationError(
                        "a class has \(rows.count) train images, fewer than the \(count) labels asked for")
                }
                wanted = count
            }
            var random = CounterRandom(seed: seed, stream: 0x4C50_524F, UInt64(draw), UInt64(label))
            for row in random.shuffled(rows).prefix(wanted) {
                foldOf[row] = next % Self.foldCount
                next += 1
            }
        }
        let rows = foldOf.keys.sorted()
        return (rows.count == count ? nil : rows, rows.map { foldOf[$0] ?? 0 })
    }

    private func regression(rows: [Int]?, folds: [Int]) -> LogisticRegression {
        guard let rows else {
            return LogisticRegression(
                features: features, dimension: dimension, labels: classes, classCount: classCount, folds: folds)
        }
        var part: [Float] = []
        part.reserveCapacity(rows.count * dimension)
        for row in rows { part += features[(row * dimension)..<((row + 1) * dimension)] }
        return LogisticRegression(
            features: part, dimension: dimension, labels: rows.map { classes[$0] }, classCount: classCount,
            folds: folds)
    }

    private func fit(
        _ regression: LogisticRegression, _ strengths: [Double], _ guesses: [Double: CurvatureGuess],
        progress: (Int) -> Void
    ) -> (LogisticRegression.Solution, strength: Double, heldOutTop1: Double?) {
        func guess(_ problem: LogisticRegression.Problem) -> CurvatureGuess? {
            guesses[max(problem.strength, CurvatureGuess.leastStrength)]
        }
        let rows = regression.labels.count
        var perClass = [Int](repeating: 0, count: classCount)
        for label in regression.labels { perClass[label] += 1 }
        let canHoldOut = perClass.allSatisfy { $0 >= 2 } && Set(regression.folds).count > 1
        guard strengths.count > 1, canHoldOut else {
            let strength = strengths.count == 1 ? strengths[0] : Self.fallbackStrength
            let problem = LogisticRegression.Problem(strength: strength, heldOutFold: nil)
            return (regression.fit([problem], guesses: [guess(problem)], progress: progress)[0], strength, nil)
        }
        let folds = rows < Self.crossValidationLimit ? Set(regression.folds).sorted() : [0]
        let problems = strengths.flatMap { strength in
            folds.map { LogisticRegression.Problem(strength: strength, heldOutFold: $0) }
        }
        var walks = 0
        let solutions = regression.fit(
            problems, guesses: problems.map(guess), limit: Self.candidateIterations
        ) {
            walks = $0
            progress($0)
        }
        let scores = strengths.indices.map { s in
            folds.indices.reduce(into: HeldOutScore()) { score, f in
                let number = s * folds.count + f
                regression.score(solutions[number], fold: folds[f], into: &score)
            }
        }
        let best = scores.indices.reduce(0) { scores[$1].isBetter(than: scores[$0]) ? $1 : $0 }
        let problem = LogisticRegression.Problem(strength: strengths[best], heldOutFold: nil)
        // What was found without the held-out part is close to what all of it gives.
        let start = solutions[best * folds.count]
        let whole = regression.fit([problem], start: [start], guesses: [guess(problem)]) { progress(walks + $0) }
        return (whole[0], strengths[best], scores[best].accuracy)
    }

    private func judge(
        _ solution: LogisticRegression.Solution, _ queries: [Float], _ queryLabels: [Int]
    ) -> (top1: Double, top5: Double) {
        let layer = LinearLayer(weights: solution.weights, biases: solution.biases, dimension: dimension)
        let classOf = Dictionary(uniqueKeysWithValues: zip(labels, 0...))
        let block = max(16, (1 << 18) / max(dimension, classCount))
        var logits = [Float](repeating: 0, count: block * classCount)
        var hits = (0, 0)
        for first in stride(from: 0, to: queryLabels.count, by: block) {
            let rows = min(block, queryLabels.count - first)
            var tile = Array(queries[(first * dimension)..<((first + rows) * dimension)])
            scaling.apply(to: &tile)
            layer.apply(to: tile, rows: rows, into: &logits)
            for row in 0..<rows {
                guard let truth = classOf[queryLabels[first + row]] else { continue }
                let place = logits[(row * classCount)..<((row + 1) * classCount)].place(of: truth)
                hits.0 += place == 0 ? 1 : 0
                hits.1 += place < 5 ? 1 : 0
            }
        }
        let total = Double(queryLabels.count)
        return (Double(hits.0) / total, Double(hits.1) / total)
    }
}

extension ArraySlice where Element == Float {
    /// How many elements come before element `label`: those above it, and equal ones in front of it.
    func place(of label: Int) -> Int {
        let own = self[startIndex + label]
        return indices.count { self[$0] > own || (self[$0] == own && $0 < startIndex + label) }
    }
}

struct HeldOutScore {
    var hits = 0
    var count = 0
    var loss = 0.0

    var accuracy: Double { count > 0 ? Double(hits) / Double(count) : 0 }

    func isBetter(than other: HeldOutScore) -> Bool {
        hits != other.hits ? hits > other.hits : loss < other.loss
    }
}

extension LogisticRegression {
    /// Adds what a solution says of the images of a fold.
    func score(_ solution: Solution, fold: Int, into score: inout HeldOutScore) {
        let layer = LinearLayer(weights: solution.weights, biases: solution.biases, dimension: dimension)
        let block = max(16, (1 << 18) / max(dimension, classCount))
        let rows = labels.indices.filter { folds[$0] == fold }
        var tile = [Float](repeating: 0, count: min(block, rows.count) * dimension)
        var logits = [Float](repeating: 0, count: min(block, rows.count) * classCount)
        for first in stride(from: 0, to: rows.count, by: block) {
            let part = rows[first..<min(first + block, rows.count)]
            hssl_gather_rows(part.count, dimension, part.map(Int32.init), features, &tile)
            layer.apply(to: tile, rows: part.count, into: &logits)
            for (place, row) in part.enumerated() {
                let line = logits[(place * classCount)..<((place + 1) * classCount)]
                let largest = line.max() ?? 0
                let sum = line.reduce(0.0) { $0 + exp(Double($1 - largest)) }
                score.loss += log(sum) + Double(largest - line[line.startIndex + labels[row]])
                score.hits += line.place(of: labels[row]) == 0 ? 1 : 0
                score.count += 1
            }
        }
    }
}
