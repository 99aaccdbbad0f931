import CSupport
import HSSLEvaluation
import HSSLGraph
import XCTest

@testable import HSSLPretraining

/// Measures of a search against values that numpy gives by other formulas (matrices with their diagonal taken out,
/// singular values), and the rule that chooses.
final class DiscrepancyTests: XCTestCase {
    private static let rows = 12

    override func setUp() {
        var message = [CChar](repeating: 0, count: 256)
        XCTAssertEqual(hssl_initialize(&message, message.count), 0)
    }

    /// Multiples of 1/8, as the reference has them.
    private func matrix(_ width: Int, _ a: Int, _ b: Int, plus offset: Float = 0) -> [Float] {
        (0..<Self.rows * width).map { place -> Float in
            let (i, j) = (place / width, place % width)
            let phase: Int = i * a + j * b + i * j * (a + 1)
            return Float(phase % 31 - 15) / 8 + offset
        }
    }

    private var x: [Float] { matrix(5, 7, 11) }
    private var y: [Float] { matrix(3, 13, 5, plus: 2) }

    /// K, L: X·Xᵀ, Y·Yᵀ without their diagonals; [tr KL + ΣK·ΣL/((m−1)(m−2)) − 2·1ᵀKL1/(m−2)]/(m(m−3)).
    func testUnbiasedHSICAndCKA() {
        XCTAssertEqual(Discrepancy.hsic(x, y, rows: Self.rows), -1.011241442747801, accuracy: 1e-5)
        XCTAssertEqual(Discrepancy.hsic(x, x, rows: Self.rows), 7.04089659617003, accuracy: 1e-5)
        XCTAssertEqual(Discrepancy.hsic(y, y, rows: Self.rows), 4.957499062894486, accuracy: 1e-5)
        XCTAssertEqual(Discrepancy.cka(x, y, rows: Self.rows), 1.1711628684613757, accuracy: 1e-6)
        // A constant added to every row, a factor, and another order of the columns change nothing.
        let x = self.x
        let other = x.indices.map { place -> Float in
            let column = 4 - place % 5
            return 100 + Float(column) - 3 * x[place - place % 5 + column]
        }
        XCTAssertEqual(Discrepancy.cka(x, other, rows: Self.rows), 0, accuracy: 1e-5)
        XCTAssertEqual(Discrepancy.cka(other, y, rows: Self.rows), 1.1711628684613757, accuracy: 1e-5)
        XCTAssertTrue(Discrepancy.cka([Float](repeating: 1, count: 36), y, rows: Self.rows).isNaN)
    }

    func testIndependentFeaturesHaveNoCKA() {
        var random = CounterRandom(seed: 3, stream: 1)
        // A biased CKA of 40 rows in 24 dimensions would be about 0.4.
        let distances = (0..<40).map { _ in
            Discrepancy.cka(random.normals(40 * 24), random.normals(40 * 24), rows: 40)
        }
        XCTAssertEqual(distances.reduce(0, +) / 40, 1, accuracy: 0.02)
    }

    func testEffectiveRank() {
        XCTAssertEqual(Discrepancy.effectiveRank(x, rows: Self.rows), 3.720855512881209, accuracy: 1e-4)
        XCTAssertEqual(Discrepancy.effectiveRank(y, rows: Self.rows), 2.965784266508927, accuracy: 1e-4)
        let line = (0..<Self.rows).flatMap { [Float($0), Float(2 * $0), Float(-$0)] }
        XCTAssertEqual(Discrepancy.effectiveRank(line, rows: Self.rows), 1, accuracy: 0.02)
        XCTAssertTrue(Discrepancy.effectiveRank([Float](repeating: 2, count: 36), rows: Self.rows).isNaN)
        XCTAssertEqual(Discrepancy.perplexity([1, 1, 1, 1, 0]), 4, accuracy: 1e-12)
        XCTAssertTrue(Discrepancy.perplexity([0, 0]).isNaN)
    }

    func testEigenvalues() {
        let matrix = (0..<36).map { place -> Double in
            let (i, j) = (place / 6, place % 6)
            let phase: Int = i * j * 7 + i * 3 + j * 3
            return Double(phase % 13 - 6)
        }
        let expected = [
            -17.65758261602034, -10.789649623401715, -3.561587386166198, -1.774778259274501, 6.078409730244012,
            11.70518815461874,
        ]
        for (mine, theirs) in zip(SymmetricMatrix.eigenvalues(matrix, order: 6).sorted(), expected) {
            XCTAssertEqual(mine, theirs, accuracy: 1e-12)
        }
        XCTAssertEqual(SymmetricMatrix.eigenvalues([3], order: 1), [3])
        XCTAssertEqual(SymmetricMatrix.eigenvalues([2, 0, 0, 5], order: 2).sorted(), [2, 5])
        XCTAssertEqual(SymmetricMatrix.eigenvalues([Double](repeating: 0, count: 9), order: 3), [0, 0, 0])
        XCTAssertTrue(SymmetricMatrix.eigenvalues([.nan], order: 1)[0].isNaN)
        // Order 120: trace and sum of squares are those of the eigenvalues.
        var random = CounterRandom(seed: 5, stream: 1)
        let (n, half) = (120, random.normals(120 * 120).map { Double($0) })
        let large = (0..<n * n).map { place -> Double in half[place] + half[place % n * n + place / n] }
        let values = SymmetricMatrix.eigenvalues(large, order: n)
        XCTAssertEqual(values.reduce(0, +), (0..<n).reduce(0) { $0 + large[$1 * (n + 1)] }, accuracy: 1e-9)
        XCTAssertEqual(values.reduce(0) { $0 + $1 * $1 }, large.reduce(0) { $0 + $1 * $1 }, accuracy: 1e-7)
    }

    /// Every pair solves A·v = λ·v, and the vectors are orthonormal, also where values coincide or vanish.
    func testEigenvectors() {
        func check(_ a: [Double], _ n: Int, _ what: String) {
            let (values, vectors) = SymmetricMatrix.eigenvectors(a, order: n)
            let size = max(1, a.map { abs($0) }.max() ?? 0)
            XCTAssertEqual(
                values.sorted().map { ($0 / size * 1e9).rounded() },
                SymmetricMatrix.eigenvalues(a, order: n).sorted().map { ($0 / size * 1e9).rounded() }, what)
            for k in 0..<n {
                let v = vectors[k * n..<(k + 1) * n].map { $0 }
                for i in 0..<n {
                    let product = (0..<n).reduce(0.0) { $0 + a[i * n + $1] * v[$1] }
                    XCTAssertEqual(product, values[k] * v[i], accuracy: 1e-12 * size * Double(n), "\(what): \(k)")
                }
                for l in 0...k {
                    let product = (0..<n).reduce(0.0) { $0 + v[$1] * vectors[l * n + $1] }
                    XCTAssertEqual(product, k == l ? 1 : 0, accuracy: 1e-12 * Double(n), "\(what): \(k), \(l)")
                }
            }
        }
        var random = CounterRandom(seed: 3, stream: 1)
        for n in [1, 2, 3, 8, 31] {
            var a = [Double](repeating: 0, count: n * n)
            for i in 0..<n {
                for j in 0...i {
                    a[i * n + j] = Double(random.normal())
                    a[j * n + i] = a[i * n + j]
                }
            }
            check(a, n, "random \(n)")
            check(a.map { $0 * 1e-30 }, n, "small \(n)")
            let x = (0..<n).map { _ in Double(random.normal()) }
            check((0..<n * n).map { x[$0 / n] * x[$0 % n] }, n, "rank 1, \(n)")
            check((0..<n * n).map { $0 / n == $0 % n ? 2 : 0 }, n, "a multiple of the identity, \(n)")
        }
    }

    // MARK: The rule

    private func row(
        _ head: String, gap: Double, error: Double = 0.01, classes: Double = 100, rank: Double = 20, cost: Int = 1000
    ) -> SearchResult.Row {
        SearchResult.Row(
            head: head, gap: gap, gapError: error, headLoss: 1, cosineDistance: 0.5, ckaDistance: 0.3,
            targetPerplexity: classes, effectiveRank: rank, parameters: cost, multiplyAdds: 10 * cost)
    }

    private func winner(_ rows: SearchResult.Row...) -> String? {
        SearchResult(rows: rows, base: row("base", gap: 0), images: 100).winner?.head
    }

    func testTheLargestGapWinsUnlessACheaperHeadIsAsGood() {
        XCTAssertEqual(winner(row("vit", gap: 0.5), row("mlp", gap: 0.9), row("swin", gap: 0.7)), "mlp")
        XCTAssertEqual(winner(row("vit", gap: 0.895, cost: 500), row("mlp", gap: 0.9)), "vit")
        XCTAssertEqual(winner(row("vit", gap: 0.885, cost: 500), row("mlp", gap: 0.9)), "mlp")
        XCTAssertEqual(winner(row("vit", gap: 0.899, cost: 2000), row("mlp", gap: 0.9)), "mlp")
    }

    /// After too few updates every head may be behind the base's own feature: then the winner says little.
    func testAWinnerBehindTheBaseIsDoubted() {
        func doubt(_ gap: Double, base: Double) -> String? {
            SearchResult(rows: [row("mlp", gap: gap)], base: row("base", gap: base), images: 100).doubt
        }
        XCTAssertNil(doubt(0.02, base: 0.01))
        XCTAssertTrue(doubt(0.004, base: 0.01)?.hasPrefix("mlp wins, but ") == true)
        XCTAssertNotNil(doubt(-0.04, base: -0.05))
    }

    func testACollapsedHeadIsNotEligible() {
        XCTAssertEqual(winner(row("vit", gap: 5, classes: 24), row("mlp", gap: 0.9)), "mlp")
        XCTAssertEqual(winner(row("vit", gap: 5, rank: 4.9), row("mlp", gap: 0.9)), "mlp")
        XCTAssertEqual(winner(row("vit", gap: 5, classes: 25, rank: 5), row("mlp", gap: 0.9)), "vit")
        XCTAssertEqual(winner(row("vit", gap: 5, rank: .nan), row("mlp", gap: 0.9)), "mlp")
        XCTAssertEqual(winner(row("vit", gap: .nan), row("mlp", gap: 0.9)), "mlp")
        XCTAssertNil(winner(row("vit", gap: 5, classes: 1)))
        let nobody = SearchResult(rows: [row("vit", gap: 5, classes: 1)], base: row("base", gap: 0), images: 9)
        XCTAssertEqual(nobody.failure, "no head is eligible (vit: targets collapsed)")
        let result = SearchResult(
            rows: [row("vit", gap: .nan), row("mlp", gap: 5, classes: 1), row("swin", gap: 0.1)],
            base: row("base", gap: 0), images: 100)
        XCTAssertEqual(result.rows.map(\.head), ["mlp", "swin", "vit"], "what is not a number comes last")
        XCTAssertTrue(result.table.contains("targets collapsed") && result.table.contains("not finite"), result.table)
        XCTAssertEqual(result.table.split(separator: "\n").count, 5)
    }

    func testHeadLists() throws {
        XCTAssertEqual(try SearchOptions(heads: "vit, convnext,resnet").heads, ["convnext", "resnet", "vit"])
        func message(_ list: String) -> String {
            do { _ = try SearchOptions(heads: list) } catch { return "\(error)" }
            return "accepted"
        }
        XCTAssertEqual(message("convnxt,vit"), "unknown head 'convnxt'; did you mean convnext?")
        XCTAssertEqual(message("vit,mlp,vit"), "head 'vit' is given twice")
        XCTAssertTrue(message("").hasPrefix("names no head; heads are convnext, "), message(""))
        XCTAssertEqual(message("vit,,mlp"), "names no head before or after a comma")
        XCTAssertTrue(message("none").hasPrefix("unknown head 'none'"), message("none"))
    }
}

extension CounterRandom {
    fileprivate mutating func normals(_ count: Int) -> [Float] { (0..<count).map { _ in normal() } }
}
