import XCTest
@testable import HSSLEvaluation

final class WeightedKNNTests: XCTestCase {
    /// Features in clusters around class centres, with noise enough that the classifier errs.
    private func clusters(
        _ count: Int, dimension: Int, classes: Int, noise: Double, seed: UInt64
    ) -> (features: [Float], labels: [Int]) {
        var state = seed
        func uniform() -> Double {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Double(state >> 33) / Double(1 << 31) - 0.5
        }
        var features: [Float] = [], labels: [Int] = []
        for i in 0..<count {
            let label = i * 7 % classes
            let scale = 1 + abs(uniform()) * 10   // not normalised
            for d in 0..<dimension {
                let center = Double((label &* 2_654_435_761 &+ d &* 40_503) >> 3 & 255) / 255 - 0.5
                features.append(Float(scale * (center + noise * uniform())))
            }
            labels.append(label * 3 - 5)   // any integers
        }
        return (features, labels)
    }

    /// The definition, written plainly: every similarity in float64, a full sort, a dictionary of votes.
    private func naive(
        _ reference: [Float], _ labels: [Int], _ queries: [Float], _ queryLabels: [Int], dimension: Int, k: Int,
        temperature: Double
    )
        -> (top1: Int, top5: Int)
    {
        func normalized(_ x: ArraySlice<Float>) -> [Double] {
            let norm = max(x.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot(), 1e-12)
            return x.map { Double($0) / norm }
        }
        let rows = stride(from: 0, to: reference.count, by: dimension).map {
            normalized(reference[$0..<($0 + dimension)])
        }
        var top1 = 0, top5 = 0
        for (q, truth) in queryLabels.enumerated() {
            let query = normalized(queries[(q * dimension)..<((q + 1) * dimension)])
            let similarities = rows.map { row in zip(row, query).reduce(0) { $0 + $1.0 * $1.1 } }
            let order = similarities.indices.sorted { (similarities[$1], $0) < (similarities[$0], $1) }
            var votes: [Int: Double] = [:]
            for i in order.prefix(k) { votes[labels[i], default: 0] += exp(similarities[i] / temperature) }
            let ranking = votes.keys.sorted { (votes[$1] ?? 0, $0) < (votes[$0] ?? 0, $1) }
            top1 += ranking.first == truth ? 1 : 0
            top5 += ranking.prefix(5).contains(truth) ? 1 : 0
        }
        return (top1, top5)
    }

    /// References come in pieces that are no blocks.
    private func search(_ references: [Float], _ queries: [Float], dimension: Int, k: Int) throws -> NearestSearch {
        let search = try NearestSearch(queries: queries, dimension: dimension, k: k)
        for first in stride(from: 0, to: references.count, by: 300 * dimension) {
            try search.add(references[first..<min(first + 300 * dimension, references.count)])
        }
        return search
    }

    func testEqualsANaiveReferenceAcrossBlockBoundaries() throws {
        // More references than one block and queries than one tile, neither a multiple.
        let dimension = 12
        let (reference, labels) = clusters(
            NearestSearch.blockRows + 77, dimension: dimension, classes: 23, noise: 2.2, seed: 1)
        let (queries, queryLabels) = clusters(
            NearestSearch.queryRows + 9, dimension: dimension, classes: 23, noise: 2.2, seed: 2)
        let found = try search(reference, queries, dimension: dimension, k: labels.count)
        let result = try WeightedKNN.evaluate(
            found, labels: labels, queryLabels: queryLabels, neighbors: [200, 1, 10, 5000],
            temperature: 0.07)
        XCTAssertEqual(result.accuracies.map(\.k), [1, 10, 200, labels.count], "sorted, and clipped to the references")
        XCTAssertEqual(result.classCount, 23)
        for accuracy in result.accuracies {
            let expected = naive(
                reference, labels, queries, queryLabels, dimension: dimension, k: accuracy.k, temperature: 0.07)
            XCTAssertEqual(
                accuracy.top1, Double(expected.top1) / Double(queryLabels.count), accuracy: 1e-12, "k \(accuracy.k)")
            XCTAssertEqual(
                accuracy.top5, Double(expected.top5) / Double(queryLabels.count), accuracy: 1e-12, "k \(accuracy.k)")
        }
        // The comparison means something only if the classifier is neither perfect nor blind.
        let top1 = result.accuracies.map(\.top1)
        XCTAssertTrue(top1.allSatisfy { $0 > 0.1 && $0 < 0.99 }, "\(top1)")
    }

    func testNeighborsAreSortedAndTiesGoToTheLowestIndex() throws {
        // References 0…99 are the same direction at different lengths; 100…109 another.
        var reference: [Float] = []
        for i in 0..<100 { reference += [Float(1 << (i % 4)), 0] }
        for _ in 0..<10 { reference += [0, 2] }
        let seven = try search(reference, [5, 0, 0, 1, 1, 0], dimension: 2, k: 7)
        let found = try (0..<3).map { try seven.neighbors(of: $0) }
        XCTAssertEqual(found[0].map(\.index), [0, 1, 2, 3, 4, 5, 6])
        XCTAssertEqual(found[1].map(\.index), [100, 101, 102, 103, 104, 105, 106])
        XCTAssertEqual(found[2], found[0])
        XCTAssertEqual(found[0].first?.similarity, 1)
        let all = try search(reference, [0, 1], dimension: 2, k: 1000).neighbors(of: 0)
        XCTAssertEqual(all.map(\.index), Array(100..<110) + Array(0..<100))
    }

    func testSmallTemperatureWeighsOnlyTheNearest() throws {
        let found = try search([1, 0, 0.9, 0.1, 0.9, 0.1, 0.9, 0.1], [1, 0], dimension: 2, k: 4)
        let labels = [7, 4, 4, 4]
        let sharp = try WeightedKNN.evaluate(
            found, labels: labels, queryLabels: [7], neighbors: [4], temperature: 1e-6)
        XCTAssertEqual(sharp.accuracies, [KNNAccuracy(k: 4, top1: 1, top5: 1)])
        let flat = try WeightedKNN.evaluate(
            found, labels: labels, queryLabels: [7], neighbors: [4], temperature: 100)
        XCTAssertEqual(flat.accuracies, [KNNAccuracy(k: 4, top1: 0, top5: 1)])
    }

    func testEqualVotesGoToTheLowerLabelAndStrangersNeverHit() throws {
        let found = try search([1, 0, 1, 0], [1, 0, 1, 0, 1, 0], dimension: 2, k: 2)
        let result = try WeightedKNN.evaluate(
            found, labels: [9, 3], queryLabels: [3, 9, 42], neighbors: [2])
        XCTAssertEqual(result.accuracies, [KNNAccuracy(k: 2, top1: 1.0 / 3, top5: 2.0 / 3)])
        XCTAssertEqual(
            result.json,
            "{\"train_images\":2,\"test_images\":3,\"classes\":2,\"dimension\":2,\"temperature\":0.07,"
            + "\"knn\":[{\"k\":2,\"top1\":0.3333333333333333,\"top5\":0.6666666666666666}]}")
    }

    func testHeadlineIsTwentyNeighbors() throws {
        func result(_ ks: [Int]) -> KNNResult {
            KNNResult(referenceCount: 0, queryCount: 0, classCount: 0, dimension: 1, temperature: 1,
                      accuracies: ks.map { KNNAccuracy(k: $0, top1: 0, top5: 0) })
        }
        XCTAssertEqual(result([10, 20, 100]).headline?.k, 20)
        XCTAssertEqual(result([10, 100]).headline?.k, 100)
        XCTAssertEqual(result([3]).headline?.k, 3)
        XCTAssertNil(result([]).headline)
    }

    func testBadInputIsRefusedWithOneLine() throws {
        func message(_ body: () throws -> Void) -> String {
            do { try body() } catch { return "\(error)" }
            return "accepted"
        }
        func opened(_ queries: [Float], _ dimension: Int, k: Int = 1) throws -> NearestSearch {
            try NearestSearch(queries: queries, dimension: dimension, k: k)
        }
        XCTAssertEqual(message { _ = try opened([], 3) }, "there are no query features")
        XCTAssertEqual(message { _ = try opened([1, 2], 3) }, "2 query values are not whole rows of 3")
        XCTAssertEqual(message { _ = try opened([1, .nan], 2) }, "the query features hold NaN or infinity")
        XCTAssertEqual(message { _ = try opened([1, 2], 2, k: 0) }, "k must be at least 1, not 0")
        XCTAssertEqual(
            message { _ = try search([1, .infinity], [1, 2], dimension: 2, k: 1).neighbors(of: 0) },
            "the reference features hold NaN or infinity")
        XCTAssertEqual(
            message { _ = try search([1, 2, 3], [1, 2], dimension: 2, k: 1).neighbors(of: 0) },
            "3 reference values are not whole rows of 2")
        func refused(_ labels: [Int], _ queryLabels: [Int], k: [Int] = [1], temperature: Double = 1) -> String {
            message {
                _ = try WeightedKNN.evaluate(
                    search([1, 2, 2, 1], [1, 1], dimension: 2, k: 1), labels: labels, queryLabels: queryLabels,
                    neighbors: k, temperature: temperature)
            }
        }
        XCTAssertEqual(refused([1], [1]), "2 references have 1 labels")
        XCTAssertEqual(refused([1, 2], []), "1 queries have 0 labels")
        XCTAssertEqual(refused([1, 2], [1], k: [0]), "k must be at least 1, not 0")
        XCTAssertEqual(refused([1, 2], [1], k: []), "no k was given")
        XCTAssertEqual(refused([1, 2], [1], k: [2]), "a search of 1 neighbours cannot say what 2 are")
        XCTAssertEqual(refused([1, 2], [1], temperature: 0), "the temperature must be above 0, not 0.0")
    }

    func testFeatureSpread() throws {
        // Two opposite directions: after normalisation each is (±1, 0).
        let opposite = try FeatureStatistics(features: [3, 0, -5, 0], dimension: 2)
        XCTAssertEqual(opposite.meanStandardDeviation, 0.5, accuracy: 1e-7)
        let collapsed = try FeatureStatistics(features: [1, 2, 2, 4, 3, 6], dimension: 2)
        XCTAssertEqual(collapsed.meanStandardDeviation, 0, accuracy: 1e-6)
        let zero = try FeatureStatistics(features: [0, 0], dimension: 2)
        XCTAssertEqual(zero.meanStandardDeviation, 0)
    }
}
