#if canImport(Glibc)
import Glibc
#endif

/// Accuracy at one number of neighbours, as fractions.
public struct KNNAccuracy: Equatable, Sendable {
    /// Neighbours that voted: the k asked for, or the number of references if that is less.
    public let k: Int
    /// Fraction of the queries whose class has most votes, 0 … 1.
    public let top1: Double
    /// Fraction of the queries whose class is among the five with most votes, 0 … 1.
    public let top5: Double
}

/// What `hssl evaluate knn` reports.
public struct KNNResult: Equatable, Sendable {
    /// Images that voted.
    public let referenceCount: Int
    /// Images that were classified.
    public let queryCount: Int
    /// Classes among the references.
    public let classCount: Int
    /// Numbers of an image's features.
    public let dimension: Int
    /// T of the votes' weights exp(similarity/T).
    public let temperature: Double
    /// In rising k.
    public let accuracies: [KNNAccuracy]

    /// The figure for `metrics.jsonl`: at 20 neighbours as DINO reports, or else at the next larger or largest k
    /// measured.
    public var headline: KNNAccuracy? { accuracies.first { $0.k >= 20 } ?? accuracies.last }

    /// One JSON object, without a line break.
    public var json: String {
        let rows = accuracies.map { "{\"k\":\($0.k),\"top1\":\($0.top1),\"top5\":\($0.top5)}" }.joined(separator: ",")
        return
            "{\"train_images\":\(referenceCount),\"test_images\":\(queryCount),\"classes\":\(classCount),"
            + "\"dimension\":\(dimension),\"temperature\":\(temperature),\"knn\":[\(rows)]}"
    }
}

/// DINO's weighted k-nearest-neighbour classifier.
///
/// Features are L2-normalised; each of a query's k nearest references by cosine votes for its class with weight
/// exp(similarity/T). A query counts for top-5 if its class is among the five with most votes (fewer if fewer classes
/// got a vote); of equal votes the lower label wins. A class without a vote is never a hit.
///
/// Source: `eval_knn.py` of DINO (Caron et al. 2021), after Wu et al. 2018.
public enum WeightedKNN {
    /// The k that are evaluated unless others are asked for, as in DINO.
    public static let defaultNeighbors = [10, 20, 100, 200]
    /// T unless another is asked for, as in DINO.
    public static let defaultTemperature = 0.07

    /// Classifies every query by its neighbours' votes, once for each k.
    ///
    /// - Parameters:
    ///   - search: of the queries, with all references added; its k is at least the largest of `neighbors` or the
    ///     number of references.
    ///   - labels: one for each reference; any integers.
    ///   - queryLabels: one for each query.
    ///   - neighbors: the k to evaluate, each at least 1; those beyond the reference count become it, repeats are
    ///     dropped.
    ///   - temperature: T of the votes' weights, above 0.
    /// - Throws: ``EvaluationError`` for sizes that disagree, values that are not finite, a k or temperature that is
    ///   not positive, or a search of fewer neighbours than `neighbors` asks for.
    public static func evaluate(
        _ search: NearestSearch, labels: [Int], queryLabels: [Int], neighbors: [Int] = defaultNeighbors,
        temperature: Double = defaultTemperature
    ) throws(EvaluationError) -> KNNResult {
        guard temperature > 0, temperature.isFinite else {
            throw EvaluationError("the temperature must be above 0, not \(temperature)")
        }
        if let bad = neighbors.first(where: { $0 < 1 }) { throw EvaluationError("k must be at least 1, not \(bad)") }
        // The first query's neighbours bring in what still waits.
        let first = try search.neighbors(of: 0)
        guard labels.count == search.referenceCount else {
            throw EvaluationError("\(search.referenceCount) references have \(labels.count) labels")
        }
        guard queryLabels.count == search.queryCount else {
            throw EvaluationError("\(search.queryCount) queries have \(queryLabels.count) labels")
        }
        let counts = Set(neighbors.map { min($0, labels.count) }).sorted()
        guard let largest = counts.last else { throw EvaluationError("no k was given") }
        guard largest <= first.count else {
            throw EvaluationError("a search of \(search.k) neighbours cannot say what \(largest) are")
        }

        // Labels become 0 ..< classes in rising order, so that ties go to the lower label whatever the numbers are.
        let distinct = Set(labels).sorted()
        let classOf = Dictionary(uniqueKeysWithValues: zip(distinct, 0...))
        let classes = labels.map { classOf[$0] ?? 0 }
        var ballot = Ballot(classCount: distinct.count)
        var hits1 = [Int](repeating: 0, count: counts.count)
        var hits5 = hits1

        for query in 0..<search.queryCount {
            let found = try search.neighbors(of: query)
            guard let truth = classOf[queryLabels[query]], let best = found.first else { continue }
            var next = 0
            for (rank, neighbor) in found.enumerated() {
                // Relative to the best: the same order of votes, and no overflow at small temperatures.
                ballot.add(
                    exp(Double(neighbor.similarity - best.similarity) / temperature), to: classes[neighbor.index])
                if rank + 1 == counts[next] {
                    if let place = ballot.place(of: truth) {
                        hits1[next] += place == 0 ? 1 : 0
                        hits5[next] += place < 5 ? 1 : 0
                    }
                    next += 1
                    if next == counts.count { break }
                }
            }
            ballot.clear()
        }
        let accuracies = counts.indices.map { i in
            KNNAccuracy(
                k: counts[i], top1: Double(hits1[i]) / Double(queryLabels.count),
                top5: Double(hits5[i]) / Double(queryLabels.count))
        }
        return KNNResult(
            referenceCount: labels.count, queryCount: queryLabels.count, classCount: distinct.count,
            dimension: search.dimension, temperature: temperature, accuracies: accuracies)
    }
}

/// Votes by class; clearing costs the number of classes with a vote, not of all classes.
private struct Ballot {
    private var votes: [Double]
    private var hasVote: [Bool]
    private var voted: [Int] = []

    init(classCount: Int) {
        votes = [Double](repeating: 0, count: classCount)
        hasVote = [Bool](repeating: false, count: classCount)
    }

    mutating func add(_ weight: Double, to label: Int) {
        if !hasVote[label] {
            hasVote[label] = true
            voted.append(label)
        }
        votes[label] += weight
    }

    /// How many classes come before `label`; nil without a vote.
    func place(of label: Int) -> Int? {
        guard hasVote[label] else { return nil }
        return voted.count { votes[$0] > votes[label] || (votes[$0] == votes[label] && $0 < label) }
    }

    mutating func clear() {
        for label in voted {
            votes[label] = 0
            hasVote[label] = false
        }
        voted.removeAll(keepingCapacity: true)
    }
}
