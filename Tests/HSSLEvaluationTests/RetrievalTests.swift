import CSupport
import XCTest

@testable import HSSLEvaluation

final class RetrievalTests: XCTestCase {
    /// Directions at 0°, 10°, 25°, 90° and 180°.
    private let fan: [Float] = [0, 10, 25, 90, 180].flatMap { (degrees: Double) in
        [3 * Float(cos(degrees * .pi / 180)), 3 * Float(sin(degrees * .pi / 180))]
    }

    func testFiveDirectionsByHand() throws {
        // Rankings (others from near to far) and what is relevant, for labels A B A B C:
        // 0°:  10 25 90 180 → B [A] …: AP 1/2, first at rank 1
        // 10°: 0 25 90 180  → A A [B]: AP 1/3, first at rank 2
        // 25°: 10 0 90 180  → B [A]:   AP 1/2, first at rank 1
        // 90°: 25 10 0 180  → 25° at 65, 10° at 80: A [B]: AP 1/2, first at rank 1
        // 180°: alone in its class: no query
        let result = try Retrieval.evaluate(features: fan, dimension: 2, labels: [1, 7, 1, 7, 9], counts: [3, 1, 2])
        XCTAssertEqual(result.imageCount, 5)
        XCTAssertEqual(result.queryCount, 4)
        XCTAssertEqual(result.classCount, 3)
        XCTAssertEqual(result.meanAveragePrecision, (0.5 + 1.0 / 3 + 0.5 + 0.5) / 4, accuracy: 1e-12)
        XCTAssertEqual(
            result.recalls, [.init(k: 1, recall: 0), .init(k: 2, recall: 0.75), .init(k: 3, recall: 1)])
        XCTAssertEqual(
            RetrievalResult(
                imageCount: 3, queryCount: 2, classCount: 2, dimension: 1, meanAveragePrecision: 0.5,
                recalls: [.init(k: 1, recall: 0.25)]
            ).json,
            #"{"images":3,"queries":2,"classes":2,"dimension":1,"map":0.5,"recall":[{"k":1,"recall":0.25}]}"#)
    }

    func testEqualCosinesKeepTheOrderOfTheImages() throws {
        // All alike: for every query the others come in their order. Labels 0 1 1 0:
        // image 0: 1 1 [0] → 1/3; 1: 0 [1] → 1/2; 2: 0 [1] → 1/2; 3: [0] → 1.
        let result = try Retrieval.evaluate(
            features: [2, 2, 2, 2], dimension: 1, labels: [0, 1, 1, 0], counts: [1])
        XCTAssertEqual(result.meanAveragePrecision, (1.0 / 3 + 0.5 + 0.5 + 1) / 4, accuracy: 1e-12)
        XCTAssertEqual(result.recalls[0].recall, 0.25)
    }

    func testSeveralRelevantImagesAcrossTilesAtAnyThreadCount() throws {
        var state: UInt64 = 8
        func noise() -> Double {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Double(state >> 33) / Double(1 << 31) - 0.5
        }
        let (count, dimension) = (150, 6)
        let labels = (0..<count).map { $0 % 7 }
        let features = labels.flatMap { label in
            (0..<dimension).map { Float((($0 + label) % 7 == 0 ? 1 : 0) + noise()) }
        }
        // The definition in float64.
        let rows = (0..<count).map { row -> [Double] in
            let x = features[(row * dimension)..<((row + 1) * dimension)].map(Double.init)
            let norm = x.reduce(0) { $0 + $1 * $1 }.squareRoot()
            return x.map { $0 / norm }
        }
        var sum = 0.0
        for query in 0..<count {
            let cosine = rows.map { zip($0, rows[query]).reduce(0) { $0 + $1.0 * $1.1 } }
            let order = (0..<count).filter { $0 != query }.sorted { cosine[$0] > cosine[$1] }
            let ranks = order.indices.filter { labels[order[$0]] == labels[query] }
            sum += ranks.enumerated().reduce(0) { $0 + Double($1.offset + 1) / Double($1.element + 1) }
                / Double(ranks.count)
        }
        let threads = hssl_get_threads()
        defer { hssl_set_threads(threads) }
        var results: [RetrievalResult] = []
        for count: Int32 in [1, 2, 3] {
            hssl_set_threads(count)
            results.append(try Retrieval.evaluate(features: features, dimension: dimension, labels: labels))
        }
        XCTAssertEqual(results[0].meanAveragePrecision, sum / Double(count), accuracy: 1e-9)
        XCTAssertEqual(results[1], results[0])
        XCTAssertEqual(results[2], results[0])
    }

    func testBadInput() {
        func message(_ body: () throws -> Void) -> String {
            do { try body() } catch { return "\(error)" }
            return "accepted"
        }
        XCTAssertEqual(
            message { _ = try Retrieval.evaluate(features: [1, 2], dimension: 1, labels: [1]) },
            "2 images have 1 labels")
        XCTAssertEqual(
            message { _ = try Retrieval.evaluate(features: [1, 2], dimension: 1, labels: [1, 2]) },
            "no class has two images: nothing can be retrieved")
        XCTAssertEqual(
            message { _ = try Retrieval.evaluate(features: [1, 2], dimension: 1, labels: [1, 1], counts: [0]) },
            "k must be at least 1")
        XCTAssertEqual(
            message { _ = try Retrieval.evaluate(features: [1, .nan], dimension: 1, labels: [1, 1]) },
            "the image features hold NaN or infinity")
    }
}
