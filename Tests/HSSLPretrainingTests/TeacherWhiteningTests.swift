import HSSLEvaluation
import HSSLGraph
import XCTest

@testable import HSSLPretraining

final class TeacherWhiteningTests: XCTestCase {
    /// Rows that vary by 9, 3 and 0.1 along three skew orthonormal directions, far from 0.
    private func sample(_ rows: Int) -> [Float] {
        let directions: [[Float]] = [[2, 1, 2], [1, 2, -2], [2, -2, -1]].map { $0.map { $0 / 3 } }
        var random = CounterRandom(seed: 6, stream: 4)
        return (0..<rows).flatMap { _ -> [Float] in
            let along: [Float] = [9, 3, 0.1].map { $0 * random.normal() }
            return (0..<3).map { i in 20 + (0..<3).reduce(0) { $0 + along[$1] * directions[$1][i] } }
        }
    }

    /// Taken in pieces, one row that is not finite among them.
    private func whitening(of rows: [Float], _ power: Double) -> TeacherWhitening {
        var sample = TeacherSample(width: 3)
        for first in stride(from: 0, to: rows.count, by: 3 * 7) {
            sample.add(Array(rows[first..<min(first + 3 * 7, rows.count)]))
        }
        sample.add([1, .nan, 3])
        XCTAssertEqual(sample.count, rows.count / 3)
        return TeacherWhitening(of: sample, power: power)
    }

    private func variances(_ rows: [Float]) -> [Double] {
        let count = rows.count / 3
        let mean = (0..<3).map { d in (0..<count).reduce(0.0) { $0 + Double(rows[$1 * 3 + d]) } / Double(count) }
        for value in mean { XCTAssertEqual(value, 0, accuracy: 1e-4) }
        var covariance = [Double](repeating: 0, count: 9)
        for row in 0..<count {
            for i in 0..<3 {
                for j in 0..<3 {
                    covariance[i * 3 + j] += Double(rows[row * 3 + i]) * Double(rows[row * 3 + j]) / Double(count)
                }
            }
        }
        return SymmetricMatrix.eigenvalues(covariance, order: 3).sorted(by: >)
    }

    func testDirectionsAreDividedByTheirVarianceToAPower() {
        let rows = sample(3000)
        let plain = variances(whitening(of: rows, 0).apply(to: rows))
        let average = plain.reduce(0, +) / 3
        XCTAssertEqual(plain[0], 81, accuracy: 6)
        for power in [0.25, 0.5] {
            let found = variances(whitening(of: rows, power).apply(to: rows))
            for (value, variance) in zip(found, plain) {
                let scale = pow(variance / average + 0.01, -power)
                XCTAssertEqual(value, variance * scale * scale, accuracy: 1e-3 * value, "\(power)")
            }
        }
    }

    func testItComesBackFromItsState() {
        let rows = sample(50), made = whitening(of: rows, 0.25)
        var other = TeacherWhitening(width: 3)
        XCTAssertEqual(other.apply(to: rows), rows, "without a sample nothing changes")
        XCTAssertEqual(other.state.map(\.name), made.state.map(\.name))
        for (name, values) in made.state { XCTAssertTrue(other.restore(name, values)) }
        XCTAssertFalse(other.restore("anchors.vectors", []))
        XCTAssertEqual(other.apply(to: rows), made.apply(to: rows))
    }

    /// A teacher that says the same of everything, or of one image only, gives finite targets.
    func testSamplesThatSayNothing() {
        let same = [Float](repeating: 2, count: 30)
        let targets = whitening(of: same, 0.5).apply(to: same)
        XCTAssertTrue(targets.allSatisfy { abs($0) < 1e-5 })
        for few: [Float] in [[], [1, 2, 3]] {
            XCTAssertEqual(whitening(of: few, 0.5).apply(to: [4, 5, 6]), [4, 5, 6])
        }
    }
}
