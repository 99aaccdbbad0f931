import CSupport

/// How many of the images whose first neighbours were looked at found one of their class.
public struct RecallAtK: Equatable, Sendable {
    /// How many first neighbours were looked at.
    public let k: Int
    /// Fraction of the queries with an image of their class among these, 0 … 1.
    public let recall: Double
}

/// What `hssl evaluate retrieval` reports. Figures are fractions.
public struct RetrievalResult: Equatable, Sendable {
    /// Images of the set.
    public let imageCount: Int
    /// Images with another one of their class: only these count.
    public let queryCount: Int
    /// Distinct labels, those of one image included.
    public let classCount: Int
    /// Numbers of an image's features.
    public let dimension: Int
    /// Mean over the queries of their average precision, 0 … 1.
    public let meanAveragePrecision: Double
    /// In rising k.
    public let recalls: [RecallAtK]

    /// One JSON object, without a line break.
    public var json: String {
        let rows = recalls.map { "{\"k\":\($0.k),\"recall\":\($0.recall)}" }.joined(separator: ",")
        return "{\"images\":\(imageCount),\"queries\":\(queryCount),\"classes\":\(classCount),"
            + "\"dimension\":\(dimension),\"map\":\(meanAveragePrecision),\"recall\":[\(rows)]}"
    }
}

/// Each image of a set as the query for the others, ranked by cosine; those of its class are what it should find.
///
/// Average precision of a query: the mean over the relevant images of the share of relevant ones up to it. Recall at k:
/// the share of queries with a relevant image among the first k, as in metric learning (Song et al. 2016). Equal
/// cosines keep the order of the images. An image without another one of its class is no query.
public enum Retrieval {
    /// The k of recall at k unless others are asked for.
    public static let defaultCounts = [1, 5, 10]
    /// Queries that are ranked together.
    private static let queryRows = 64

    /// Bytes that ``evaluate(features:dimension:labels:counts:progress:)`` holds, the features included.
    public static func memory(count: Int, dimension: Int) -> Int {
        4 * count * dimension + hssl_gemm_f32_packed_size(count, dimension)
            + 8 * min(queryRows, count) * count + hssl_sort_descending_workspace_size(count) + 32 * count
    }

    /// Ranks the set for every image and averages.
    ///
    /// - Parameters:
    ///   - features: [count, dimension], row-major; not necessarily normalised.
    ///   - labels: one for each row; any integers.
    ///   - counts: the k of recall at k, each at least 1; repeats are dropped.
    ///   - progress: told how many queries are done.
    /// - Throws: ``EvaluationError`` for sizes that disagree, values that are not finite, a k below 1 or none at all,
    ///   or classes of one image only.
    public static func evaluate(
        features: consuming [Float], dimension: Int, labels: [Int], counts: [Int] = defaultCounts,
        progress: (Int) -> Void = { _ in }
    ) throws(EvaluationError) -> RetrievalResult {
        var own = features
        let count = try FeatureRows.count(of: own, dimension: dimension, what: "image")
        guard labels.count == count else { throw EvaluationError("\(count) images have \(labels.count) labels") }
        guard let least = counts.min(), least >= 1 else { throw EvaluationError("k must be at least 1") }
        guard count <= Int(Int32.max) else { throw EvaluationError("more than 2³¹ images") }
        own.withUnsafeMutableBufferPointer { own in
            hssl_l2_normalize(count, dimension, own.baseAddress, 1e-12, own.baseAddress, nil)
        }
        let packed = AlignedScratch(bytes: hssl_gemm_f32_packed_size(count, dimension))
        hssl_gemm_f32_pack(count, dimension, own, 1, dimension, packed.start)
        let workspace = AlignedScratch(bytes: hssl_sort_descending_workspace_size(count))
        var tile = [Float](repeating: 0, count: min(queryRows, count) * count)
        var order = [Int32](repeating: 0, count: tile.count)
        var members: [Int: Int] = [:]
        for label in labels { members[label, default: 0] += 1 }

        var (precisions, queries) = (0.0, 0)
        let counts = Set(counts).sorted()
        var hits = [Int](repeating: 0, count: counts.count)
        for first in stride(from: 0, to: count, by: queryRows) {
            let rows = min(queryRows, count - first)
            own.withUnsafeBufferPointer { own in
                hssl_gemm_f32(
                    rows, count, dimension, own.baseAddress.map { $0 + first * dimension }, dimension, 1, packed.start,
                    &tile, count, false, nil)
            }
            hssl_sort_descending(rows, count, tile, count, &order, workspace.start)
            for row in 0..<rows {
                let relevant = (members[labels[first + row]] ?? 1) - 1
                guard relevant > 0 else { continue }
                let (precision, firstRank) = order.withUnsafeBufferPointer { order in
                    walk(order[(row * count)..<((row + 1) * count)], query: first + row, labels, relevant)
                }
                precisions += precision
                queries += 1
                for (place, k) in counts.enumerated() where firstRank < k { hits[place] += 1 }
            }
            progress(first + rows)
        }
        guard queries > 0 else { throw EvaluationError("no class has two images: nothing can be retrieved") }
        return RetrievalResult(
            imageCount: count, queryCount: queries, classCount: members.count, dimension: dimension,
            meanAveragePrecision: precisions / Double(queries),
            recalls: zip(counts, hits).map { RecallAtK(k: $0, recall: Double($1) / Double(queries)) })
    }

    /// The average precision of a ranking without the query itself, and the rank of the first relevant image from 0.
    private static func walk(
        _ order: Slice<UnsafeBufferPointer<Int32>>, query: Int, _ labels: [Int], _ relevant: Int
    ) -> (precision: Double, firstRank: Int) {
        labels.withUnsafeBufferPointer { labels in
            var (rank, found, sum, firstRank) = (0, 0, 0.0, 0)
            for place in order {
                let image = Int(place)
                if image == query { continue }
                rank += 1
                guard labels[image] == labels[query] else { continue }
                found += 1
                if found == 1 { firstRank = rank - 1 }
                sum += Double(found) / Double(rank)
                if found == relevant { break }
            }
            return (sum / Double(relevant), firstRank)
        }
    }
}
