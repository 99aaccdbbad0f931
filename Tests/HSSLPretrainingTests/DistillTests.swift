import CSupport
import Foundation
import HSSLGraph
import HSSLModels
import XCTest

@testable import HSSLPretraining

/// The objective of a distillation, beyond the fixtures.
final class DistillTests: TrainerTestCase {
    private func settings(_ side: Int = 4, mse: Float = 0.5) -> DistillSettings {
        var teacher = TeacherShape.small
        teacher.grid = Grid(height: side, width: side)
        var settings = DistillSettings(teacher: teacher)
        (settings.anchors, settings.mseWeight) = (12, mse)
        settings.similarityTemperature = (0.2, 0.1)
        // Odd sides with an orthogonal projection, even ones with a free one.
        settings.isOrthogonal = side % 2 == 1
        settings.whitening = side == 6 ? 0.25 : 0
        return settings
    }

    private func learner(
        _ settings: DistillSettings, auxiliary: Bool = true, _ step: StepSettings = .init(seed: 3)
    ) throws -> Learner {
        let base = try ModelArchitecture(
            VisionTransformer.Configuration(imageSize: 16, patchSize: 4, embedDim: 24, depth: 2, numHeads: 3))
        var head = HeadSettings(family: "convnext", depth: 2)
        head.kernelSize = 3
        let learner = try Learner(
            sizes: NetworkSizes(base: base, auxiliary: auxiliary ? head : nil), objective: settings, settings: step,
            clipGradient: 0)
        // Initial weights of σ 0.02 make every image alike to this shallow a network.
        for parameter in learner.student.parameters.all where parameter.shape.count > 1 {
            for i in 0..<parameter.count { parameter.values[i] *= 5 }
            parameter.valuesDidChange()
        }
        return learner
    }

    private func batch(_ settings: DistillSettings, _ range: Range<Int>, step: Int = 0) throws -> CropBatch {
        let batch = CropBatch(
            images: range.count, globalViews: 1, globalSize: 16, localViews: 0, localSize: 0, tokens: 16,
            firstImage: range.lowerBound)
        for (place, image) in range.enumerated() {
            var random = CounterRandom(seed: 8, stream: 2, UInt64(image), UInt64(step))
            for i in 0..<3 * 256 { batch.globals[place * 3 * 256 + i] = random.normal() }
        }
        batch.answer(try XCTUnwrap(settings.teacher), step: step)
        return batch
    }

    private func context(_ images: Int, step: Int = 0) -> StepContext {
        StepContext(
            step: step, teacherTemperature: 0, teacherPatchTemperature: 0, batchImages: images, prototypesFrozen: false)
    }

    /// Fills some of the anchors, as updates do.
    private func fill(_ learner: Learner, _ settings: DistillSettings, images: Int = 5) throws {
        var sums = learner.newSums()
        learner.accumulate(try batch(settings, 0..<images, step: 9), context: context(images), into: &sums)
        learner.objective.updateState(sums, pool: learner.pool)
        learner.student.parameters.clearGradients()
        guard learner.objective.wantsTeacherSample else { return }
        var sample = TeacherSample(width: try XCTUnwrap(settings.teacher).width)
        sample.add(try XCTUnwrap(batch(settings, 0..<80, step: 4).answers).globals)
        learner.objective.learn(from: sample)
    }

    func testMicroBatchesEqualTheWholeBatch() throws {
        let images = 7
        for (side, auxiliary) in [(4, true), (3, false), (6, true)] {
            let settings = settings(side)
            let learner = try learner(settings, auxiliary: auxiliary, .init(dropPath: 0.3, seed: 3))
            try fill(learner, settings)
            func evaluate(_ sizes: [Int]) throws -> Evaluation {
                var first = 0
                let batches = try sizes.map { size in
                    defer { first += size }
                    return try batch(settings, first..<first + size)
                }
                return learner.evaluate(batches, context: context(images, step: 7))
            }
            let whole = try evaluate([images])
            for sizes in [[Int](repeating: 1, count: images), [3, 4], [2, 1, 4]] {
                let parts = try evaluate(sizes)
                assertEqual(parts, whole, tolerance: 2e-5, "teacher side \(side), head \(auxiliary), \(sizes)")
                for part in whole.losses.parts {
                    XCTAssertGreaterThan(part.value, 0, part.name)
                    XCTAssertEqual(parts.losses[part.name], part.value, accuracy: 1e-5 * part.value, part.name)
                }
            }
            hssl_set_threads(2)
            defer { hssl_set_threads(1) }
            XCTAssertEqual(try evaluate([images]).gradients, whole.gradients, "threads change a gradient")
        }
    }

    /// A small move along the gradient changes the loss by what it says.
    func testGradientsAreThoseOfTheTotalLoss() throws {
        for side in [4, 3] {
            let settings = settings(side), learner = try learner(settings)
            try fill(learner, settings)
            let batch = try batch(settings, 0..<4)
            let gradients = learner.evaluate([batch], context: context(4)).gradients
            for name in [
                "head.base_projection.weight", "head.auxiliary_projection.weight", "base.blocks.0.attn.qkv.weight",
                "auxiliary.blocks.0.pwconv1.weight", "base.norm.weight", "base.patch_embed.proj.weight",
            ] {
                let parameter = try XCTUnwrap(learner.student.parameters[name])
                let gradient = try XCTUnwrap(gradients[name])
                let norm = gradient.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
                func loss(_ step: Double) -> Double {
                    func move(_ by: Double) {
                        for i in 0..<parameter.count { parameter.values[i] += Float(by / norm) * gradient[i] }
                        parameter.valuesDidChange()
                    }
                    move(step)
                    defer { move(-step) }
                    return learner.evaluate([batch], context: context(4)).losses.total
                }
                let step = 2e-3
                let slope = (loss(step) - loss(-step)) / (2 * step)
                XCTAssertEqual(slope, norm, accuracy: 0.02 * norm, "\(name), teacher side \(side)")
            }
        }
    }

    /// A student that says what the teacher says has nothing to learn.
    func testPerfectStudentHasNoLoss() throws {
        var settings = settings(4, mse: 1)
        settings.similarityTemperature = (0.1, 0.1)
        let probe = try learner(settings, auxiliary: false)
        let width = 24
        settings.teacher = TeacherShape(width: width, rank: width, grid: Grid(height: 4, width: 4))
        let learner = try learner(settings, auxiliary: false)
        // The projection is the identity, and the answers are the student's own.
        let projection = try XCTUnwrap(learner.student.parameters["head.base_projection.weight"])
        for i in 0..<width { for j in 0..<width { projection.values[i * width + j] = i == j ? 1 : 0 } }
        projection.valuesDidChange()
        XCTAssertEqual(probe.student.parameters["base.norm.weight"]?.count, width)
        let batch = try batch(settings, 0..<3)
        let tape = Tape(mode: .inference, pool: learner.pool)
        let output = learner.student.base(batch.globalInput(tape), mask: nil, Pass())
        let globals = learner.student.base.global(output).array()
        batch.answers = TeacherAnswers(globals: globals, cells: learner.student.base.local(output, cells: nil).array())
        try fill(learner, settings)
        let found = learner.evaluate([batch], context: context(3)).losses
        for part in found.parts { XCTAssertEqual(part.value, 0, accuracy: 1e-5, part.name) }
        XCTAssertEqual(found.parts.map(\.name), ["global_base", "similarity_base", "mse_base", "patch"])
    }

    /// An orthogonal projection has orthonormal columns, or rows, after a few updates, whatever these do to it.
    func testAnOrthogonalProjectionKeepsAngles() throws {
        for width in [20, 30] {
            var settings = settings(3)
            settings.teacher?.width = width
            let learner = try learner(settings)
            for step in 0..<25 {
                var sums = learner.newSums()
                learner.accumulate(try batch(settings, 0..<4, step: step), context: context(4), into: &sums)
                XCTAssertFalse(learner.update(sums, schedule: SmallLearner.schedule(learningRate: 2e-3)).skipped)
            }
            for stream in ["base", "auxiliary"] {
                XCTAssertNil(learner.student.parameters["head.\(stream)_projection.bias"])
                let weight = try XCTUnwrap(learner.student.parameters["head.\(stream)_projection.weight"])
                let (m, n) = (weight.shape[0], weight.shape[1])
                func element(_ i: Int, _ k: Int) -> Double {
                    Double(m >= n ? weight.values[k * n + i] : weight.values[i * n + k])
                }
                for i in 0..<min(m, n) {
                    for j in 0..<min(m, n) {
                        let product = (0..<max(m, n)).reduce(0.0) { $0 + element(i, $1) * element(j, $1) }
                        XCTAssertEqual(product, i == j ? 1 : 0, accuracy: 1e-3, "\(stream), \(m)×\(n): \(i), \(j)")
                    }
                }
            }
        }
    }

    func testTheQueueTakesTheLastImagesInOrder() throws {
        var queue = AnchorQueue(capacity: 3, width: 2)
        queue.append([1, 1, 2, 2])
        XCTAssertEqual(queue.count, 2)
        queue.append([3, 3, 4, 4])
        XCTAssertEqual(queue.vectors, [4, 4, 2, 2, 3, 3])
        var other = AnchorQueue(capacity: 3, width: 2)
        for (name, values) in queue.state { other.restore(name, values) }
        XCTAssertEqual(other, queue)
        other.restore("anchors.place", [.nan, 7])
        XCTAssertEqual(other.count, 0, "a damaged place is no index")
        // Whatever the order of micro-batches.
        let settings = settings(), learner = try learner(settings)
        func state(_ ranges: [Range<Int>]) throws -> [Float] {
            let learner = try self.learner(settings)
            var sums = learner.newSums()
            for range in ranges {
                learner.accumulate(try batch(settings, range), context: context(4), into: &sums)
            }
            learner.objective.updateState(sums, pool: learner.pool)
            return learner.objective.state[0].values
        }
        XCTAssertEqual(try state([0..<2, 2..<4]), try state([2..<4, 0..<2]))
        XCTAssertEqual(learner.objective.state.map(\.name), ["anchors.vectors", "anchors.place"])
    }

    /// Cells at another grid are those of PyTorch's `interpolate(…, mode="bilinear", antialias=True)`.
    func testBilinearTaps() {
        // 4 → 2: each target averages four cells with 1/8, 3/8, 3/8, 1/8, cut at the edge.
        let row = PositionResampling.matrix(from: 4, to: Grid(height: 2, width: 2), .bilinear)
        let taps: [Double] = [3.0 / 7, 3.0 / 7, 1.0 / 7, 0]
        for u in 0..<4 {
            for v in 0..<4 { XCTAssertEqual(Double(row[u * 4 + v]), taps[u] * taps[v], accuracy: 1e-6) }
        }
    }

    /// Twenty steps on one batch bring every part down, at every precision.
    func testItLearns() throws {
        for precision in Precision.allCases {
            let settings = settings(3, mse: 0.1)
            let learner = try learner(settings, .init(precision: precision, seed: 3))
            try fill(learner, settings)
            let kept = learner.objective.state
            func step() throws -> Losses {
                var sums = learner.newSums()
                learner.accumulate(try batch(settings, 0..<6), context: context(6), into: &sums)
                XCTAssertFalse(learner.update(sums, schedule: SmallLearner.schedule(learningRate: 3e-3)).skipped)
                for (name, values) in kept { learner.objective.restore(name, values) }
                return sums.losses
            }
            let first = try step()
            var last = first
            for _ in 0..<30 { last = try step() }
            for part in first.parts { XCTAssertLessThan(last[part.name], part.value, "\(part.name), \(precision)") }
            XCTAssertLessThan(last.total, 0.8 * first.total, "\(precision)")
        }
    }
}
