import HSSLGraph
import XCTest

final class CounterRandomTests: XCTestCase {
    /// Epochs of stopped runs go on with the order that they began with: the permutation of a seed never changes.
    func testShuffleIsFisherYatesFromTheEnd() {
        for count in [0, 1, 2, 7, 1000] {
            var random = CounterRandom(seed: 3, stream: 0x5045_524D, 5), same = random
            var expected = Array(0..<Int32(count))
            for i in stride(from: count - 1, to: 0, by: -1) { expected.swapAt(i, random.integer(below: i + 1)) }
            XCTAssertEqual(same.shuffled(0..<Int32(count)), expected)
            XCTAssertEqual(same.nextUInt32(), random.nextUInt32(), "as many numbers were drawn")
            XCTAssertEqual(expected.sorted(), Array(0..<Int32(count)))
        }
        var random = CounterRandom(seed: 0, stream: 1)
        XCTAssertEqual(random.shuffled(0..<8), [3, 4, 0, 7, 5, 6, 1, 2])
    }
}
