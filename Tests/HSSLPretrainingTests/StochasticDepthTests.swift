import HSSLGraph
import HSSLModels
import XCTest

@testable import HSSLPretraining

/// Which branches are dropped, how often, and of whom.
final class StochasticDepthTests: XCTestCase {
    private func depth(rate: Float = 0.4, blocks: Int = 5, step: Int = 0, samples: Int = 4000) -> StochasticDepth {
        StochasticDepth(rate: rate, blocks: blocks, seed: 11, step: step, samples: Array(0..<samples))
    }

    func testRatesRiseLinearlyFromZero() {
        let depth = depth()
        for (block, rate) in [Float(0), 0.1, 0.2, 0.3, 0.4].enumerated() {
            XCTAssertEqual(depth.rate(block: block), rate, accuracy: 1e-6)
        }
        XCTAssertNil(depth.scale(block: 0, branch: 0), "the first block is never dropped")
        XCTAssertNil(self.depth(rate: 0).scale(block: 4, branch: 0))
        XCTAssertEqual(self.depth(blocks: 1).rate(block: 0), 0)
    }

    /// Dropped with the stated rate (5 standard errors of 4000 draws), kept branches divided by the keep probability.
    func testBranchesAreDroppedWithTheStatedRate() throws {
        let depth = depth()
        for block in 1..<5 {
            for branch in 0..<2 {
                let scale = try XCTUnwrap(depth.scale(block: block, branch: branch))
                let rate = Double(depth.rate(block: block))
                let dropped = Double(scale.filter { $0 == 0 }.count) / 4000
                XCTAssertEqual(
                    dropped, rate, accuracy: 5 * (rate * (1 - rate) / 4000).squareRoot(),
                    "block \(block) branch \(branch)")
                for value in scale where value != 0 { XCTAssertEqual(Double(value), 1 / (1 - rate), accuracy: 1e-6) }
            }
        }
    }

    /// Draws of attention and MLP, of blocks, steps and samples are independent: they agree as often as chance has it.
    func testDrawsAreSeparate() throws {
        func dropped(_ depth: StochasticDepth, _ block: Int, _ branch: Int) throws -> [Bool] {
            try XCTUnwrap(depth.scale(block: block, branch: branch)).map { $0 == 0 }
        }
        let reference = try dropped(depth(), 4, 0)
        XCTAssertEqual(try dropped(depth(), 4, 0), reference, "a draw is a function of its key")
        for (name, other, rate) in [
            ("MLP", try dropped(depth(), 4, 1), 0.4), ("block", try dropped(depth(), 3, 0), 0.3),
            ("step", try dropped(depth(step: 1), 4, 0), 0.4),
        ] {
            let both = Double(zip(reference, other).filter { $0 && $1 }.count) / 4000
            let expected = 0.4 * rate
            XCTAssertEqual(both, expected, accuracy: 5 * (expected * (1 - expected) / 4000).squareRoot(), name)
        }
    }

    func testADrawBelongsToItsSample() throws {
        let whole = try XCTUnwrap(depth(samples: 10).scale(block: 4, branch: 1))
        let part = StochasticDepth(rate: 0.4, blocks: 5, seed: 11, step: 0, samples: [7, 2])
        XCTAssertEqual(part.scale(block: 4, branch: 1), [whole[7], whole[2]])
    }

    // MARK: In the networks

    /// The residual scales that a recorded forward pass holds, in order.
    private func scales(_ learner: Learner, rate: Float) -> [[Float]?] {
        let tape = Tape(mode: .shapes, pool: BufferPool())
        let depth = StochasticDepth(
            rate: rate, blocks: learner.student.blocks, seed: 1, step: 0, samples: Array(0..<64))
        let output = learner.student.base(
            tape.input(shape: [64, 3, 16, 16]), mask: nil, Pass(stochasticDepth: depth))
        _ = learner.student.auxiliary?.global(
            output.cells, Pass(stochasticDepth: depth, firstBlock: learner.student.base.blocks))
        var scales: [[Float]?] = []
        for node in tape.nodes {
            switch node.operation {
            case .residual(let scale): scales.append(scale)
            case .residualOfSamples(let index, let kept):
                // The dropped samples did not enter the branch.
                var scale = [Float](repeating: 0, count: 64)
                for (sample, value) in zip(index, kept) { scale[Int(sample)] = value }
                scales.append(scale)
            default: break
            }
        }
        return scales
    }

    /// The drop rate in percent that a residual's 1/keep tells.
    private func percentDropped(_ scale: [Float]?) -> Int {
        let largest = scale?.max() ?? 1
        return Int((100 * (1 - 1 / largest)).rounded())
    }

    /// Base of 2 blocks (two branches each), head of 2: rates 0, ⅓, ⅔, 1 of the whole; a first head block without
    /// shortcut has no residual to drop, but keeps its place in the sequence.
    func testTheHeadContinuesTheRatesOfTheBase() throws {
        let rate: Float = 0.6
        let published = scales(try SmallLearner.make(), rate: rate)
        XCTAssertEqual(published.count, 5, "two residuals a base block, one in the second head block")
        XCTAssertEqual(published.map(percentDropped), [0, 0, 20, 20, 60])
        let shortcut = scales(try SmallLearner.make(firstShortcut: true), rate: rate)
        XCTAssertEqual(shortcut.map(percentDropped), [0, 0, 20, 20, 40, 60])
        XCTAssertNotEqual(published[2], published[3], "attention and MLP are drawn apart")
    }

    /// The student is thinned, by seed and step; the teacher never is.
    func testOnlyTheStudentIsThinned() throws {
        func evaluate(rate: Float, seed: UInt64 = 3, step: Int = 0) throws -> Evaluation {
            let learner = try SmallLearner.make()
            learner.objective.settings = .init(dropPath: rate, seed: seed)
            learner.objective.settings.plain = true
            return learner.evaluate([SmallLearner.batch()], context: SmallLearner.context(step: step))
        }
        let none = try evaluate(rate: 0), some = try evaluate(rate: 0.5)
        XCTAssertEqual(some.logits["teacher.auxiliary_cls"], none.logits["teacher.auxiliary_cls"])
        XCTAssertEqual(some.logits["teacher.base_patch"], none.logits["teacher.base_patch"])
        XCTAssertNotEqual(some.logits["student.base_cls"], none.logits["student.base_cls"])
        XCTAssertEqual(try evaluate(rate: 0.5).logits, some.logits)
        XCTAssertNotEqual(try evaluate(rate: 0.5, step: 1).logits["student.base_cls"], some.logits["student.base_cls"])
        XCTAssertNotEqual(try evaluate(rate: 0.5, seed: 4).logits["student.base_cls"], some.logits["student.base_cls"])
    }
}
