import CSupport
import XCTest

@testable import HSSLEvaluation

final class LinearProbeTests: XCTestCase {
    private struct Noise {
        var state: UInt64
        mutating func next() -> Float {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Float(state >> 33) / Float(1 << 31) - 0.5
        }
    }

    /// Class centres of one unit with noise around them; features of very different size and offset.
    private func clusters(
        _ count: Int, dimension: Int, classes: Int, noise: Float, seed: UInt64
    ) -> (features: [Float], labels: [Int]) {
        var random = Noise(state: seed)
        var features: [Float] = [], labels: [Int] = []
        for i in 0..<count {
            let label = i % classes
            for d in 0..<dimension {
                let center: Float = d % classes == label ? 1 : 0
                features.append((center + noise * random.next()) * Float(1 << (d % 8)) + Float(d))
            }
            labels.append(label * 3 - 5)
        }
        return (features, labels)
    }

    /// Loss and gradient by their definition, in float64.
    private func plain(
        _ x: [Float], _ labels: [Int], rows: [Int], point: [Float], dimension: Int, classes: Int, strength: Double
    ) -> (loss: Double, gradient: [Double]) {
        var loss = 0.0
        var gradient = [Double](repeating: 0, count: classes * (dimension + 1))
        for row in rows {
            let logits = (0..<classes).map { c in
                (0..<dimension).reduce(Double(point[classes * dimension + c])) {
                    $0 + Double(point[c * dimension + $1]) * Double(x[row * dimension + $1])
                }
            }
            let sum = logits.reduce(0) { $0 + exp($1) }
            loss += log(sum) - logits[labels[row]]
            for c in 0..<classes {
                let error = (exp(logits[c]) / sum - (c == labels[row] ? 1 : 0)) / Double(rows.count)
                for d in 0..<dimension { gradient[c * dimension + d] += error * Double(x[row * dimension + d]) }
                gradient[classes * dimension + c] += error
            }
        }
        loss /= Double(rows.count)
        for i in 0..<(classes * dimension) {
            loss += strength / 2 * Double(point[i]) * Double(point[i])
            gradient[i] += strength * Double(point[i])
        }
        return (loss, gradient)
    }

    func testLossAndGradientOfManyProblemsAtOnce() {
        let (rows, dimension, classes) = (5000, 67, 3)
        var random = Noise(state: 4)
        let features = (0..<rows * dimension).map { _ in random.next() * 3 }
        let labels = (0..<rows).map { $0 * 7 % classes }
        let regression = LogisticRegression(
            features: features, dimension: dimension, labels: labels, classCount: classes,
            folds: (0..<rows).map { $0 % 5 })
        let problems = [(0.5, nil), (0, 2), (0.01, 4)].map {
            LogisticRegression.Problem(strength: $0.0, heldOutFold: $0.1)
        }
        let points = problems.map { _ in (0..<classes * (dimension + 1)).map { _ in random.next() / 4 } }
        let found = regression.evaluate(problems, at: points)
        for (i, problem) in problems.enumerated() {
            let counted = (0..<rows).filter { problem.heldOutFold != $0 % 5 }
            let expected = plain(
                features, labels, rows: counted, point: points[i], dimension: dimension, classes: classes,
                strength: problem.strength)
            XCTAssertEqual(found[i].loss, expected.loss, accuracy: 1e-6 * expected.loss)
            for (a, b) in zip(found[i].gradient, expected.gradient) { XCTAssertEqual(Double(a), b, accuracy: 2e-6) }
        }
    }

    func testMinimumOfAQuadratic() {
        // f = ½·Σ (i+1)·(x_i − i)²: the minimum is at x_i = i whatever the start.
        var optimizer = LimitedMemoryBFGS(start: [Float](repeating: 9, count: 20), tolerance: 1e-5, limit: 200)
        while optimizer.outcome == nil {
            let x = optimizer.point
            let loss = x.indices.reduce(0.0) { $0 + Double($1 + 1) / 2 * pow(Double(x[$1]) - Double($1), 2) }
            optimizer.advance(loss: loss, gradient: x.indices.map { Float($0 + 1) * (x[$0] - Float($0)) })
        }
        XCTAssertEqual(optimizer.outcome, .converged)
        XCTAssertLessThan(optimizer.iterations, 60)
        for (i, value) in optimizer.point.enumerated() { XCTAssertEqual(value, Float(i), accuracy: 1e-3) }
        var short = LimitedMemoryBFGS(start: [4, 4], tolerance: 0, limit: 1)
        while short.outcome == nil {
            short.advance(loss: Double(short.point[0] * short.point[0] + 9 * short.point[1] * short.point[1]),
                          gradient: [2 * short.point[0], 18 * short.point[1]])
        }
        XCTAssertEqual(short.outcome, .outOfIterations)
    }

    /// Two points of two classes on a line, mirrored: the optimum solves λ·w = 1/(1 + exp(2·w)) by symmetry, for w the
    /// weight of class 1 and −w that of class 0 (standardised features are −1 and 1).
    func testTwoPointsByHand() throws {
        let strength = 0.25
        var (low, high) = (0.0, 10.0)
        for _ in 0..<100 {
            let w = (low + high) / 2
            if strength * w < 1 / (1 + exp(2 * w)) { low = w } else { high = w }
        }
        let regression = LogisticRegression(
            features: [-1, 1], dimension: 1, labels: [0, 1], classCount: 2, folds: [0, 1])
        let solution = regression.fit([.init(strength: strength, heldOutFold: nil)])[0]
        XCTAssertTrue(solution.converged)
        XCTAssertEqual(Double(solution.weights[1]), low, accuracy: 1e-3)
        XCTAssertEqual(Double(solution.weights[0]), -low, accuracy: 1e-3)
        XCTAssertEqual(solution.biases[0], solution.biases[1], accuracy: 1e-4)
    }

    func testScalingMakesMeanZeroAndDeviationOne() {
        var features: [Float] = [1, 5, 100, 3, 5, 200, 5, 5, 300]
        let scaling = FeatureScaling(of: features, dimension: 3)
        scaling.apply(to: &features)
        let side = Float(1.5.squareRoot())
        for (a, b) in zip(features, [-side, 0, -side, 0, 0, 0, side, 0, side]) { XCTAssertEqual(a, b, accuracy: 1e-6) }
    }

    func testSeparableClassesAreLearntAndFewLabelsLearnLess() throws {
        let (features, labels) = clusters(600, dimension: 24, classes: 6, noise: 3, seed: 1)
        let (queries, queryLabels) = clusters(300, dimension: 24, classes: 6, noise: 3, seed: 2)
        let probe = try LinearProbe(features: features, dimension: 24, labels: labels)
        let all = try probe.evaluate(queries: queries, queryLabels: queryLabels)
        XCTAssertEqual(all.draws.count, 1)
        XCTAssertEqual(all.draws[0].labels, 600)
        XCTAssertGreaterThan(all.top1, 0.6)
        XCTAssertGreaterThan(all.top5, all.top1)
        XCTAssertEqual(try XCTUnwrap(all.draws[0].heldOutTop1), all.top1, accuracy: 0.1,
            "the held-out part tells the test")
        let few = try probe.evaluate(queries: queries, queryLabels: queryLabels, budget: .perClass(4), draws: 3)
        XCTAssertEqual(few.draws.map(\.labels), [24, 24, 24])
        XCTAssertLessThan(few.top1, all.top1)
        XCTAssertEqual(few.top1, few.draws.reduce(0) { $0 + $1.top1 } / 3, accuracy: 1e-12)
        XCTAssertGreaterThan(try XCTUnwrap(few.top1StandardDeviation), 0)
        let share = try probe.evaluate(queries: queries, queryLabels: queryLabels, budget: .fraction(0.1), draws: 1)
        XCTAssertEqual(share.draws[0].labels, 60)
        // One label a class: nothing can be held out.
        let one = try probe.evaluate(queries: queries, queryLabels: queryLabels, budget: .perClass(1), draws: 2)
        XCTAssertEqual(one.draws.map(\.heldOutTop1), [nil, nil])
        XCTAssertEqual(one.draws.map(\.strength), [0.1, 0.1])
        // A label that nobody trained is an error, not a crash.
        let unknown = try probe.evaluate(
            queries: queries, queryLabels: queryLabels.map { _ in 999 }, strengths: [0.1])
        XCTAssertEqual(unknown.top1, 0)
        XCTAssertEqual(unknown.draws[0].strength, 0.1)
    }

    func testSameBitsAtAnyThreadCountAndSeedsDiffer() throws {
        let (features, labels) = clusters(400, dimension: 70, classes: 6, noise: 4, seed: 3)
        let probe = try LinearProbe(features: features, dimension: 70, labels: labels)
        let threads = hssl_get_threads()
        defer { hssl_set_threads(threads) }
        func figures(_ count: Int32, seed: UInt64 = 0) throws -> LinearProbeResult {
            hssl_set_threads(count)
            return try probe.evaluate(
                queries: features, queryLabels: labels, budget: .perClass(5), draws: 2, seed: seed)
        }
        let one = try figures(1)
        XCTAssertEqual(try figures(2), one)
        XCTAssertEqual(try figures(3), one)
        XCTAssertNotEqual(try figures(2, seed: 1), one)
        XCTAssertNotEqual(one.draws[0], one.draws[1])
    }

    func testPlaces() {
        let values: [Float] = [9, 1, 3, 3, 2]
        XCTAssertEqual((0..<4).map { values[1...].place(of: $0) }, [3, 0, 1, 2])
    }

    func testErrorsAndJSON() throws {
        func message(_ body: () throws -> Void) -> String {
            do { try body() } catch { return "\(error)" }
            return ""
        }
        let values: [Float] = [0, 1, 2, 3]
        XCTAssertEqual(
            message { _ = try LinearProbe(features: values, dimension: 1, labels: [1]) },
            "4 train images have 1 labels")
        XCTAssertEqual(
            message { _ = try LinearProbe(features: values, dimension: 1, labels: [1, 1, 1, 1]) },
            "the train images have one class only: a classifier needs two")
        XCTAssertEqual(
            message { _ = try LinearProbe(features: [0, .infinity], dimension: 1, labels: [0, 1]) },
            "the train features hold NaN or infinity")
        let probe = try LinearProbe(features: values, dimension: 1, labels: [0, 0, 1, 1])
        XCTAssertEqual(
            message { _ = try probe.evaluate(queries: [1], queryLabels: [1, 0]) }, "1 test images have 2 labels")
        XCTAssertEqual(
            message { _ = try probe.evaluate(queries: [1], queryLabels: [1], budget: .perClass(3)) },
            "a class has 2 train images, fewer than the 3 labels asked for")
        XCTAssertEqual(
            message { _ = try probe.evaluate(queries: [1], queryLabels: [1], budget: .fraction(0)) },
            "a fraction is above 0 and at most 1, not 0.0")
        let result = LinearProbeResult(
            trainCount: 4, testCount: 2, classCount: 2, dimension: 1, budget: .perClass(1),
            draws: [
                LinearProbeDraw(labels: 2, strength: 0.1, heldOutTop1: nil, top1: 0.5, top5: 1,
                    iterations: 7, converged: true),
                LinearProbeDraw(labels: 2, strength: 0.1, heldOutTop1: 0.25, top1: 1, top5: 1,
                    iterations: 8, converged: false),
            ])
        XCTAssertEqual(result.top1, 0.75)
        XCTAssertEqual(try XCTUnwrap(result.top1StandardDeviation), 0.125.squareRoot(), accuracy: 1e-12)
        XCTAssertEqual(
            result.json,
            #"{"train_images":4,"test_images":2,"classes":2,"dimension":1,"labels":{"per_class":1},"top1":0.75,"#
                + #""top1_std":0.3535533905932738,"top5":1.0,"draws":[{"labels":2,"l2":0.1,"top1":0.5,"top5":1.0,"#
                + #""iterations":7,"converged":true},{"labels":2,"l2":0.1,"held_out_top1":0.25,"top1":1.0,"top5":1.0,"#
                + #""iterations":8,"converged":false}]}"#)
    }
}
