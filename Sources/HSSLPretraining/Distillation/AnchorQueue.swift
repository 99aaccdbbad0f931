/// The teacher's global features of the last images, as unit vectors: what similarities of an image are taken to.
///
/// Full after `capacity` images; the oldest make room. It changes between updates only, so that all micro-batches of
/// one see the same anchors.
struct AnchorQueue: Equatable, Sendable {
    let width: Int
    let capacity: Int
    /// [capacity, width]; what is behind `count` is 0.
    private(set) var vectors: [Float]
    private(set) var count = 0
    /// Where the next one goes.
    private var next = 0

    init(capacity: Int, width: Int) {
        (self.capacity, self.width) = (capacity, width)
        vectors = [Float](repeating: 0, count: capacity * width)
    }

    /// Takes unit vectors [n, width]; of more than the queue holds, the last ones stay.
    mutating func append(_ rows: [Float]) {
        guard capacity > 0 else { return }
        for row in 0..<rows.count / width {
            vectors.replaceSubrange(next * width..<(next + 1) * width, with: rows[row * width..<(row + 1) * width])
            next = (next + 1) % capacity
            count = min(count + 1, capacity)
        }
    }

    // MARK: In a checkpoint

    private static let (vectorsName, placeName) = ("anchors.vectors", "anchors.place")

    /// By their names; numbers up to 2^24 are whole in float32, and a queue has fewer places.
    var state: [(name: String, values: [Float])] {
        capacity == 0 ? [] : [(Self.vectorsName, vectors), (Self.placeName, [Float(count), Float(next)])]
    }

    mutating func restore(_ name: String, _ values: [Float]) {
        guard name == Self.placeName else {
            vectors = values
            return
        }
        func whole(_ value: Float, _ limit: Int) -> Int { value >= 0 && value <= Float(limit) ? Int(value) : 0 }
        (count, next) = (whole(values[0], capacity), whole(values[1], capacity - 1))
    }
}
