import CSupport
import XCTest

final class SelectKernelTests: XCTestCase {
    /// Few different values, so that there are many ties, and both zeros.
    private func values(_ count: Int, seed: UInt64) -> [Float] {
        var state = seed
        return (0..<count).map { _ in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            let value = Float(Int(state >> 40) % 200 - 100) / 16
            return value == 0 && state & 1 << 30 != 0 ? -0.0 : value
        }
    }

    private func order(_ row: ArraySlice<Float>) -> [Int] {
        row.indices.sorted { row[$0] != row[$1] ? row[$0] > row[$1] : $0 < $1 }.map { $0 - row.startIndex }
    }

    func testSortedAsByDefinition() {
        let threads = hssl_get_threads()
        defer { hssl_set_threads(threads) }
        for (rows, columns) in [(1, 1), (3, 7), (40, 1000), (5, 5000)] {
            let x = values(rows * columns, seed: 5)
            for count: Int32 in [1, 3] {
                hssl_set_threads(count)
                var found = [Int32](repeating: -1, count: rows * columns)
                let workspace = UnsafeMutableRawPointer.allocate(
                    byteCount: hssl_sort_descending_workspace_size(columns), alignment: 64)
                defer { workspace.deallocate() }
                hssl_sort_descending(rows, columns, x, columns, &found, workspace)
                for row in 0..<rows {
                    let part = row * columns..<(row + 1) * columns
                    XCTAssertEqual(found[part].map(Int.init), order(x[part]))
                }
            }
        }
    }

    func testExtremesAreSorted() {
        let x: [Float] = [0, -.infinity, 3e-45, .infinity, -1, -3e-45, .greatestFiniteMagnitude, -0.0, 1]
        var found = [Int32](repeating: 0, count: x.count)
        let workspace = UnsafeMutableRawPointer.allocate(
            byteCount: hssl_sort_descending_workspace_size(x.count), alignment: 64)
        defer { workspace.deallocate() }
        hssl_sort_descending(1, x.count, x, x.count, &found, workspace)
        XCTAssertEqual(found, [3, 6, 8, 2, 0, 7, 5, 4, 1])
    }

    func testLargestOfAStreamInPieces() {
        let threads = hssl_get_threads()
        defer { hssl_set_threads(threads) }
        let (rows, columns) = (37, 700)
        let x = values(rows * columns, seed: 9)
        for count: Int32 in [1, 3] {
            hssl_set_threads(count)
            for k in [1, 2, 33, 700, 900] {
                var best = [Float](repeating: 0, count: rows * k)
                var index = [Int32](repeating: -1, count: rows * k)
                var done = 0
                for piece in [1, 31, 64, 5, 599] {
                    x.withUnsafeBufferPointer { x in
                        hssl_keep_largest(
                            rows, piece, x.baseAddress.map { $0 + done }, columns, Int32(done), k, min(k, done), &best,
                            &index)
                    }
                    done += piece
                }
                for row in 0..<rows {
                    let kept = min(k, columns)
                    let expected = order(x[(row * columns)..<((row + 1) * columns)]).prefix(kept)
                    XCTAssertEqual(Set(index[(row * k)..<(row * k + kept)].map(Int.init)), Set(expected), "k \(k)")
                    for place in row * k..<row * k + kept {
                        XCTAssertEqual(best[place], x[row * columns + Int(index[place])])
                    }
                }
            }
        }
    }
}
