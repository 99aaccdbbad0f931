import CSupport

/// Why an evaluation cannot be done. The description is one line.
public struct EvaluationError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The reason, without a line break.
    public let description: String
    init(_ description: String) { self.description = description }
}

/// A reference image and its cosine to the query.
public struct Neighbor: Equatable, Sendable {
    /// Place of the reference in the order in which references were added, from 0.
    public let index: Int
    /// Cosine to the query, −1 … 1 but for rounding.
    public let similarity: Float
}

/// Exact search of the nearest neighbours by cosine: queries are held, references come and go.
///
/// Memory: the queries, k neighbours of each, and a block of references; it does not grow with their number.
public final class NearestSearch {
    /// Numbers of a feature vector.
    public let dimension: Int
    /// Queries, at least 1.
    public let queryCount: Int
    /// Most neighbours of a query.
    public let k: Int
    /// References so far.
    public private(set) var referenceCount = 0

    /// [queryCount, dimension], L2-normalised.
    private let queries: [Float]
    /// [queryCount, k]: heaps of what was found.
    private var similarities: [Float]
    private var indices: [Int32]
    /// References that wait for a whole block.
    private var pending: [Float] = []
    private var block: [Float]
    private var tile: [Float]
    private let packed: AlignedScratch

    /// References that are multiplied together, and queries of one tile: the tile of similarities stays in the second
    /// cache.
    static let blockRows = 1024
    static let queryRows = 128

    /// - Parameters:
    ///   - queries: [queryCount, dimension], row-major; not necessarily normalised.
    ///   - k: at least 1.
    /// - Throws: ``EvaluationError`` when there are none, when the sizes disagree or when a value is NaN or infinite.
    public init(queries: consuming [Float], dimension: Int, k: Int) throws(EvaluationError) {
        var own = queries
        guard k >= 1 else { throw EvaluationError("k must be at least 1, not \(k)") }
        queryCount = try FeatureRows.count(of: own, dimension: dimension, what: "query")
        self.dimension = dimension
        self.k = k
        let rows = queryCount
        own.withUnsafeMutableBufferPointer { own in
            hssl_l2_normalize(rows, dimension, own.baseAddress, 1e-12, own.baseAddress, nil)
        }
        self.queries = own
        similarities = [Float](repeating: 0, count: queryCount * k)
        indices = [Int32](repeating: 0, count: queryCount * k)
        block = [Float](repeating: 0, count: Self.blockRows * dimension)
        tile = [Float](repeating: 0, count: min(Self.queryRows, queryCount) * Self.blockRows)
        packed = AlignedScratch(bytes: hssl_gemm_f32_packed_size(Self.blockRows, dimension))
    }

    /// Bytes that a search of these sizes will hold, whatever the number of references.
    public static func memory(queries: Int, dimension: Int, k: Int) -> Int {
        let packed = hssl_gemm_f32_packed_size(blockRows, dimension)
        return 4 * queries * dimension + 8 * queries * k + 8 * blockRows * dimension + packed
            + 4 * queryRows * blockRows
    }

    /// Takes further references, whose indices follow those before.
    ///
    /// - Parameter references: [any, dimension], row-major; not necessarily normalised.
    /// - Throws: ``EvaluationError`` when the sizes disagree or when a value is NaN or infinite.
    public func add(_ references: some Collection<Float>) throws(EvaluationError) {
        var rest = Array(references)[...]
        while !rest.isEmpty {
            let room = Self.blockRows * dimension - pending.count
            pending += rest.prefix(room)
            rest = rest.dropFirst(room)
            if pending.count == Self.blockRows * dimension { try search() }
        }
    }

    /// The neighbours of a query among all references, best first; of equal similarities the lowest index first.
    ///
    /// - Parameter query: 0 ..< ``queryCount``.
    /// - Returns: ``k`` neighbours, or all references where there are fewer.
    /// - Throws: ``EvaluationError`` where references that still waited are no whole rows, hold NaN or infinity, or are
    ///   too many (2³¹).
    public func neighbors(of query: Int) throws(EvaluationError) -> [Neighbor] {
        if !pending.isEmpty { try search() }
        let found = (0..<min(k, referenceCount)).map { place in
            Neighbor(index: Int(indices[query * k + place]), similarity: similarities[query * k + place])
        }
        return found.sorted { a, b in
            a.similarity != b.similarity ? a.similarity > b.similarity : a.index < b.index
        }
    }

    private func search() throws(EvaluationError) {
        let rows = try FeatureRows.count(of: pending, dimension: dimension, what: "reference")
        guard referenceCount + rows <= Int(Int32.max) else { throw EvaluationError("more than 2³¹ references") }
        hssl_l2_normalize(rows, dimension, pending, 1e-12, &block, nil)
        hssl_gemm_f32_pack(rows, dimension, block, 1, dimension, packed.start)
        for first in stride(from: 0, to: queryCount, by: Self.queryRows) {
            let used = min(Self.queryRows, queryCount - first)
            queries.withUnsafeBufferPointer { queries in
                hssl_gemm_f32(
                    used, rows, dimension, queries.baseAddress.map { $0 + first * dimension }, dimension, 1,
                    packed.start, &tile, Self.blockRows, false, nil)
            }
            similarities.withUnsafeMutableBufferPointer { similarities in
                indices.withUnsafeMutableBufferPointer { indices in
                    guard let values = similarities.baseAddress, let places = indices.baseAddress else { return }
                    hssl_keep_largest(
                        used, rows, tile, Self.blockRows, Int32(referenceCount), k, min(k, referenceCount),
                        values + first * k, places + first * k)
                }
            }
        }
        referenceCount += rows
        pending.removeAll(keepingCapacity: true)
    }
}

/// Rows of features.
enum FeatureRows {
    /// How many rows `features` are.
    ///
    /// - Throws: ``EvaluationError`` when there are none, when the sizes disagree or when a value is NaN or infinite.
    static func count(of features: [Float], dimension: Int, what: String) throws(EvaluationError) -> Int {
        guard dimension >= 1, !features.isEmpty else { throw EvaluationError("there are no \(what) features") }
        guard features.count % dimension == 0 else {
            throw EvaluationError("\(features.count) \(what) values are not whole rows of \(dimension)")
        }
        guard hssl_all_finite(features.count, features) else {
            throw EvaluationError("the \(what) features hold NaN or infinity")
        }
        return features.count / dimension
    }

    /// y = x / max(‖x‖₂, 1e-12) for `rows` rows from row `first`.
    static func normalize(_ features: [Float], from first: Int, rows: Int, dimension: Int, into result: inout [Float]) {
        features.withUnsafeBufferPointer { features in
            guard let base = features.baseAddress else { return }
            hssl_l2_normalize(rows, dimension, base + first * dimension, 1e-12, &result, nil)
        }
    }
}
