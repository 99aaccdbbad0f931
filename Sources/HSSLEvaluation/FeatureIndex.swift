import CSupport
#if canImport(Glibc)
import Glibc
#endif

/// Why an evaluation cannot be done. The description is one line.
public struct EvaluationError: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}

/// A reference image and its cosine to the query.
public struct Neighbor: Equatable, Sendable {
    public let index: Int
    public let similarity: Float
}

/// Reference features, L2-normalised and packed, for exact nearest-neighbour search by cosine.
///
/// Memory: one packed copy of the features, plus a tile of similarities that does not grow with the number of
/// references or queries.
public final class FeatureIndex: @unchecked Sendable {  // immutable after init
    public let count: Int
    public let dimension: Int
    /// Blocks of `blockRows` references as packed B matrices [dimension, rows].
    private let packed: UnsafeMutableRawPointer
    private let blockBytes: Int

    static let blockRows = 1024
    static let queryRows = 128

    /// - Parameters:
    ///   - features: [count, dimension], row-major; not necessarily normalised.
    /// - Throws: ``EvaluationError`` when there are none, when the sizes disagree or when a value is NaN or infinite.
    public init(features: [Float], dimension: Int) throws(EvaluationError) {
        count = try FeatureIndex.rows(of: features, dimension: dimension, what: "reference")
        self.dimension = dimension
        let blockRows = min(FeatureIndex.blockRows, count)
        // Packed blocks start on cache lines.
        blockBytes = (hssl_gemm_f32_packed_size(blockRows, dimension) + 63) & ~63
        let blocks = (count + FeatureIndex.blockRows - 1) / FeatureIndex.blockRows
        packed = UnsafeMutableRawPointer.allocate(byteCount: blocks * blockBytes, alignment: 64)
        var normalized = [Float](repeating: 0, count: blockRows * dimension)
        for block in 0..<blocks {
            let first = block * FeatureIndex.blockRows
            let rows = min(FeatureIndex.blockRows, count - first)
            FeatureIndex.normalize(features, from: first, rows: rows, dimension: dimension, into: &normalized)
            hssl_gemm_f32_pack(rows, dimension, normalized, 1, dimension, packed + block * blockBytes)
        }
    }

    deinit { packed.deallocate() }

    /// The `k` most similar references of every query, best first; of equal similarities the lowest index first.
    ///
    /// - Parameters:
    ///   - queries: [queryCount, dimension], row-major; not necessarily normalised.
    ///   - k: at least 1; more than `count` gives `count`.
    ///   - body: called once a query, in order.
    public func nearest(
        queries: [Float], k: Int, _ body: (_ query: Int, _ neighbors: [Neighbor]) -> Void
    ) throws(EvaluationError) {
        guard k >= 1 else { throw EvaluationError("k must be at least 1, not \(k)") }
        let queryCount = try FeatureIndex.rows(of: queries, dimension: dimension, what: "query")
        let k = min(k, count)
        var normalized = [Float](repeating: 0, count: min(FeatureIndex.queryRows, queryCount) * dimension)
        var similarities = [Float](
            repeating: 0, count: min(FeatureIndex.queryRows, queryCount) * FeatureIndex.blockRows)
        for firstQuery in stride(from: 0, to: queryCount, by: FeatureIndex.queryRows) {
            let queryRows = min(FeatureIndex.queryRows, queryCount - firstQuery)
            FeatureIndex.normalize(queries, from: firstQuery, rows: queryRows, dimension: dimension, into: &normalized)
            var selections = [TopSelection](repeating: TopSelection(capacity: k), count: queryRows)
            for first in stride(from: 0, to: count, by: FeatureIndex.blockRows) {
                let rows = min(FeatureIndex.blockRows, count - first)
                hssl_gemm_f32(
                    queryRows, rows, dimension, normalized, dimension, 1,
                    packed + first / FeatureIndex.blockRows * blockBytes, &similarities, FeatureIndex.blockRows, false,
                    nil)
                similarities.withUnsafeBufferPointer { tile in
                    for q in 0..<queryRows {
                        let row = UnsafeBufferPointer(rebasing: tile[
                            (q * FeatureIndex.blockRows)..<(q * FeatureIndex.blockRows + rows)])
                        selections[q].offer(row, firstIndex: first)
                    }
                }
            }
            for q in 0..<queryRows { body(firstQuery + q, selections[q].sorted()) }
        }
    }

    /// The same as a list a query: for a handful of them, such as the report's pictures.
    public func nearest(queries: [Float], k: Int) throws(EvaluationError) -> [[Neighbor]] {
        var result: [[Neighbor]] = []
        try nearest(queries: queries, k: k) { _, neighbors in result.append(neighbors) }
        return result
    }

    static func rows(of features: [Float], dimension: Int, what: String) throws(EvaluationError) -> Int {
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

/// The best `capacity` of a stream of similarities: a binary heap with the worst kept one at the root.
///
/// Indices arrive in rising order, so a newcomer that only equals the worst kept one loses: of equals the lowest index
/// stays.
struct TopSelection {
    private let capacity: Int
    private var heap: [Neighbor] = []

    init(capacity: Int) {
        self.capacity = capacity
        heap.reserveCapacity(capacity)
    }

    mutating func offer(_ similarities: UnsafeBufferPointer<Float>, firstIndex: Int) {
        var i = 0
        while heap.count < capacity, i < similarities.count {
            heap.append(Neighbor(index: firstIndex + i, similarity: similarities[i]))
            siftUp()
            i += 1
        }
        guard i < similarities.count else { return }
        var worst = heap[0].similarity
        while i < similarities.count {
            if similarities[i] > worst {
                heap[0] = Neighbor(index: firstIndex + i, similarity: similarities[i])
                siftDown()
                worst = heap[0].similarity
            }
            i += 1
        }
    }

    func sorted() -> [Neighbor] { heap.sorted { TopSelection.isWorse($1, than: $0) } }

    private static func isWorse(_ a: Neighbor, than b: Neighbor) -> Bool {
        a.similarity != b.similarity ? a.similarity < b.similarity : a.index > b.index
    }

    private mutating func siftUp() {
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard TopSelection.isWorse(heap[child], than: heap[parent]) else { return }
            heap.swapAt(child, parent)
            child = parent
        }
    }

    private mutating func siftDown() {
        var parent = 0
        while true {
            var worst = parent
            for child in (2 * parent + 1)..<(2 * parent + 3) where child < heap.count
                && TopSelection.isWorse(heap[child], than: heap[worst]) {
                worst = child
            }
            if worst == parent { return }
            heap.swapAt(parent, worst)
            parent = worst
        }
    }
}
