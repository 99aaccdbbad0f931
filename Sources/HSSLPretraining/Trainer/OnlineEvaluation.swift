import HSSLData
import HSSLEvaluation
import HSSLGraph
import HSSLModels

/// k-NN on the teacher's base while it trains: labelled images of the data set, a part as reference and others as queries.
///
/// The labels are never seen by the objective. The queries are training images too, so this curve compares runs; `hssl evaluate knn` on held-out data judges
/// a model.
struct OnlineEvaluation {
    static let queries = 2_000
    static let batch = 64

    private let dataset: Dataset
    /// 0: never, or no labels.
    private let everyEpochs: Int
    private let reference: [Int]
    private let query: [Int]
    private let preprocessing: Preprocessing
    /// Preprocessed pixels are cheap to make again and dear to keep: decoded anew at each evaluation.
    private let imageSize: Int

    /// Nil where the data set has too few images to hold some back.
    init?(recipe: Recipe, dataset: Dataset, preprocessing: Preprocessing) {
        guard dataset.count >= 10 else { return nil }
        everyEpochs = dataset.hasLabels ? recipe.evaluation.knnEveryEpochs : 0
        self.dataset = dataset
        self.preprocessing = preprocessing
        imageSize = recipe.model.imageSize
        var random = CounterRandom(seed: recipe.schedule.seed, stream: 0x4B4E_4E)
        var order = Array(0..<dataset.count)
        for i in stride(from: order.count - 1, to: 0, by: -1) { order.swapAt(i, random.integer(below: i + 1)) }
        let queries = min(Self.queries, dataset.count / 5)
        query = Array(order.prefix(queries))
        reference = Array(order.dropFirst(queries).prefix(recipe.evaluation.knnReferenceImages))
    }

    /// Whether to evaluate when `epoch` epochs are done (and at the very end).
    func isDue(epoch: Int, last: Bool) -> Bool { everyEpochs > 0 && (epoch % everyEpochs == 0 || last) }

    struct Result {
        /// Fraction; nil without labels.
        let top1: Double?
        /// For the report: query images with their nearest reference images.
        let neighbors: [(query: Int, nearest: [Int])]
    }

    /// - Parameter illustrations: how many queries come back with their neighbours.
    func run(_ network: Network, pool: BufferPool, illustrations: Int = 0) throws -> Result {
        let (referenceFeatures, referenceIndices) = features(of: reference, network, pool)
        let (queryFeatures, queryIndices) = features(of: query, network, pool)
        let width = network.base.width
        let index = try FeatureIndex(features: referenceFeatures, dimension: width)
        var top1: Double?
        if dataset.hasLabels {
            top1 = try WeightedKNN.evaluate(index: index, labels: referenceIndices.map { dataset.label($0) ?? 0 }, queries: queryFeatures,
                                            queryLabels: queryIndices.map { dataset.label($0) ?? 0 }, neighbors: [20]).headline?.top1
        }
        var neighbors: [(query: Int, nearest: [Int])] = []
        if illustrations > 0 {
            let shown = min(illustrations, queryIndices.count)
            let nearest = try index.nearest(queries: Array(queryFeatures[..<(shown * width)]), k: 8)
            neighbors = zip(queryIndices, nearest).map { (query: $0, nearest: $1.map { referenceIndices[$0.index] }) }
        }
        return Result(top1: top1, neighbors: neighbors)
    }

    /// CLS features after the final norm [rows, D] of the readable images, and which those are.
    private func features(of indices: [Int], _ network: Network, _ pool: BufferPool) -> ([Float], [Int]) {
        let pixels = 3 * imageSize * imageSize
        var features: [Float] = [], kept: [Int] = []
        features.reserveCapacity(indices.count * network.base.width)
        var start = 0
        while start < indices.count {
            let end = min(start + Self.batch, indices.count)
            var readable: [(Int, RGBImage)] = []
            for index in indices[start..<end] { if let image = try? dataset.image(index) { readable.append((index, image)) } }
            start = end
            if readable.isEmpty { continue }
            let tape = Tape(mode: .inference, pool: pool)
            let input = tape.input(shape: [readable.count, 3, imageSize, imageSize])
            for (place, (index, image)) in readable.enumerated() {
                preprocessing.apply(to: image, into: input.values + place * pixels)
                kept.append(index)
            }
            let tokens = network.base.tokens(input, mask: nil, stochasticDepth: nil)
            let cls = tokens.gatheringRows((0..<readable.count).map { Int32($0 * tokens.shape[1]) })
            features += network.base.norm(cls).array()
        }
        return (features, kept)
    }
}
