import CSupport
import HSSLData
import HSSLEvaluation
import HSSLFormats
import HSSLGraph
import HSSLModels
import HSSLRuntime

/// k-NN on the teacher's base while it trains: labelled images of the data set, a part as reference and others as
/// queries.
///
/// The labels are never seen by the objective. The queries are training images too, so this curve compares runs; `hssl
/// evaluate knn` on held-out data judges a model.
struct OnlineEvaluation {
    static let queries = 2_000
    private static let neighbors = 20
    private static let shownNeighbors = 8

    private let dataset: Dataset
    /// 0: never, or no labels.
    private let everyEpochs: Int
    private let reference: [Int]
    private let query: [Int]
    private let preprocessing: Preprocessing
    private let architecture: ModelArchitecture

    /// Nil where the data set has too few images to hold some back.
    init?(recipe: Recipe, dataset: Dataset, architecture: ModelArchitecture, preprocessing: Preprocessing) {
        guard dataset.count >= 10 else { return nil }
        everyEpochs = dataset.hasLabels ? recipe.evaluation.knnEveryEpochs : 0
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.architecture = architecture
        var random = CounterRandom(seed: recipe.schedule.seed, stream: 0x4B4E_4E)
        let order = random.shuffled(0..<dataset.count)
        let queries = min(Self.queries, dataset.count / 5)
        query = Array(order.prefix(queries))
        reference = Array(order.dropFirst(queries).prefix(recipe.evaluation.knnReferenceImages))
    }

    /// Whether to evaluate when `epoch` epochs are done (and at the very end).
    func isDue(epoch: Int, last: Bool) -> Bool { everyEpochs > 0 && (epoch % everyEpochs == 0 || last) }

    /// Whether it ever is.
    var isWanted: Bool { everyEpochs > 0 }

    /// Images that vote: figures of other numbers are not compared.
    var references: Int { reference.count }

    struct Result {
        /// Fraction; nil without labels.
        let top1: Double?
        /// For the report: query images with their nearest reference images.
        let neighbors: [(query: Int, nearest: [Int])]
    }

    /// - Parameters:
    ///   - illustrations: how many queries come back with their neighbours.
    ///   - shouldStop: asked every few images.
    /// - Returns: nil if it was stopped.
    func run(_ network: Network, illustrations: Int = 0, shouldStop: () -> Bool) throws -> Result? {
        let model = try Model(architecture: architecture, parameters: network.parameters, prefix: "base.")
        return try run(
            Session(model: model, threads: Int(hssl_get_threads())), preprocessing, illustrations: illustrations,
            shouldStop: shouldStop)
    }

    /// The same of any model, whose images are prepared in its own way.
    func run(
        _ session: Session, _ preprocessing: Preprocessing, illustrations: Int = 0, shouldStop: () -> Bool
    ) throws -> Result? {
        do {
            return try result(session, preprocessing, illustrations) { if shouldStop() { throw Stopped() } }
        } catch is Stopped {
            return nil
        }
    }

    private struct Stopped: Error {}

    private func result(
        _ session: Session, _ preprocessing: Preprocessing, _ illustrations: Int, _ goOn: () throws -> Void
    ) throws -> Result {
        func stream(_ indices: [Int], _ body: (ArraySlice<Float>, [Int]) throws -> Void) throws
            -> [(index: Int, reason: String)] {
            try goOn()
            return try DatasetFeatures.stream(
                dataset, indices: indices, session: session, preprocessing: preprocessing
            ) {
                try goOn()
                try body($0, $1)
            }
        }
        let queries = try DatasetFeatures(count: query.count, dimension: session.model.rowCount(.cls)) {
            try stream(query, $0)
        }
        let search = try NearestSearch(queries: queries.values, dimension: queries.dimension, k: Self.neighbors)
        var references: [Int] = []
        _ = try stream(reference) {
            try search.add($0)
            references += $1
        }
        var top1: Double?
        if dataset.hasLabels {
            top1 = try WeightedKNN.evaluate(
                search, labels: references.map { dataset.label($0) ?? 0 },
                queryLabels: queries.indices.map { dataset.label($0) ?? 0 }, neighbors: [Self.neighbors]
            ).headline?.top1
        }
        var neighbors: [(query: Int, nearest: [Int])] = []
        for place in 0..<min(illustrations, queries.indices.count) {
            let nearest = try search.neighbors(of: place).prefix(Self.shownNeighbors)
            neighbors.append((query: queries.indices[place], nearest: nearest.map { references[$0.index] }))
        }
        return Result(top1: top1, neighbors: neighbors)
    }
}
