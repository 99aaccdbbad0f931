import HSSLFormats

/// Many paths in little memory: their bytes one behind the other, and where each ends. A string of its own for each
/// would take four times as much.
struct PathList: Sendable, RandomAccessCollection {
    /// Paths are put into blocks, so that nothing is moved when the list grows.
    private struct Block {
        var bytes: [UInt8] = []
        /// Place behind each path, in `bytes`.
        var ends: [UInt32] = []
        let first: Int
    }

    private static let blockBytes = 1 << 18

    private var blocks: [Block] = []
    /// The order, once it is another than that of appending.
    private var order: [UInt32]?
    private(set) var count = 0

    var startIndex: Int { 0 }
    var endIndex: Int { count }

    /// Bytes of memory, about.
    var memoryBytes: Int {
        blocks.reduce((order?.count ?? 0) * 4) { $0 + $1.bytes.capacity + 4 * $1.ends.capacity }
    }

    init() {}

    init(_ paths: some Sequence<String>) {
        for path in paths { append(path) }
    }

    /// - Precondition: the list was not reordered.
    mutating func append(_ path: String) {
        var path = path
        path.withUTF8 { bytes in
            if blocks.last.map({ $0.bytes.count + bytes.count > Self.blockBytes }) ?? true {
                // The first is small: most lists are.
                var block = Block(first: count)
                block.bytes.reserveCapacity(blocks.isEmpty ? bytes.count : Swift.max(Self.blockBytes, bytes.count))
                blocks.append(block)
            }
            blocks[blocks.count - 1].bytes.append(contentsOf: bytes)
            blocks[blocks.count - 1].ends.append(UInt32(blocks[blocks.count - 1].bytes.count))
        }
        count += 1
    }

    subscript(index: Int) -> String { withBytes(index) { String(decoding: $0, as: UTF8.self) } }

    /// The UTF-8 of a path (of its string: ``PathBytes``).
    func withBytes<Result>(_ index: Int, _ body: (UnsafeBufferPointer<UInt8>) -> Result) -> Result {
        let place = order.map { Int($0[index]) } ?? index
        // The last block that begins at or before it.
        var low = 0, high = blocks.count
        while high - low > 1 {
            let middle = (low + high) / 2
            if blocks[middle].first <= place { low = middle } else { high = middle }
        }
        let block = blocks[low], inside = place - block.first
        let start = inside == 0 ? 0 : Int(block.ends[inside - 1]), end = Int(block.ends[inside])
        return block.bytes.withUnsafeBufferPointer { body(UnsafeBufferPointer(rebasing: $0[start..<end])) }
    }

    /// Puts them in the order of their bytes as the system has them.
    mutating func sort() {
        let list = self
        reorder((0..<UInt32(count)).sorted { a, b in
            list.withBytes(Int(a)) { first in
                list.withBytes(Int(b)) { second in
                    // Escapes of what is no UTF-8 begin F4; in UTF-8's own order they would come last.
                    if first.contains(0xF4) || second.contains(0xF4) {
                        return PathBytes.precedes(
                            String(decoding: first, as: UTF8.self), String(decoding: second, as: UTF8.self))
                    }
                    return first.lexicographicallyPrecedes(second)
                }
            }
        })
    }

    /// Path i becomes what path `places[i]` is now; some may be left out.
    mutating func reorder(_ places: [UInt32]) {
        let old = order
        order = old.map { old in places.map { old[Int($0)] } } ?? places
        count = places.count
    }
}
