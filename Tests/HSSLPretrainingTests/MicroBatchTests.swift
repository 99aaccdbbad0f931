import CSupport
import Foundation
import HSSLFormats
import XCTest

@testable import HSSLPretraining

/// Micro-batches: equal up to the rounding of sums, kept by a resumed run, sized by a memory limit.
final class MicroBatchTests: TrainerTestCase {
    /// One update in micro-batches of `size`: losses, and gradient norms by parameter.
    private func update(_ recipe: Recipe, size: Int) throws -> (losses: Losses, norms: [Double?], weights: [[Float]]) {
        let learner = try Learner(recipe: recipe)
        let source = BatchSource(
            recipe: recipe, grid: learner.globalGrid, dataset: try .init(path: root + "/train"), microBatch: size)
        var sums = learner.newSums()
        for part in 0..<source.partsPerStep {
            learner.accumulate(
                try source.make(step: 4, part: part).batch,
                context: .init(
                    step: 4, teacherTemperature: 0.05, teacherPatchTemperature: 0.05, batchImages: source.batchImages,
                    prototypesFrozen: false),
                into: &sums)
        }
        let norms = learner.optimizer.gradientNorms()
        _ = learner.update(sums, schedule: Schedules(recipe: recipe, stepsPerEpoch: 4).values(step: 4))
        return (sums.losses, norms, learner.student.parameters.all.map { p in (0..<p.count).map { p.values[$0] } })
    }

    func testMicroBatchSizesAgreeUpToRounding() throws {
        let recipe = try recipe()
        let whole = try update(recipe, size: 16)
        XCTAssertGreaterThan(whole.losses.clsBase, 0)
        for size in [1, 3, 5, 8] {
            let parts = try update(recipe, size: size)
            XCTAssertEqual(parts.losses.clsBase, whole.losses.clsBase, accuracy: 1e-5 * whole.losses.clsBase)
            XCTAssertEqual(
                parts.losses.clsAuxiliary, whole.losses.clsAuxiliary, accuracy: 1e-5 * whole.losses.clsAuxiliary)
            XCTAssertEqual(parts.losses.patch, whole.losses.patch, accuracy: 1e-5 * whole.losses.patch)
            let largest = whole.norms.compactMap { $0 }.max() ?? 0
            for (a, b) in zip(parts.norms, whole.norms) {
                XCTAssertEqual(a == nil, b == nil)
                XCTAssertEqual(a ?? 0, b ?? 0, accuracy: 1e-3 * (b ?? 0) + 1e-6 * largest, "micro-batches of \(size)")
            }
        }
        // Accumulation is the same update by another name.
        let accumulated = try update(self.recipe("schedule.batch_size=8", "schedule.accumulate=2"), size: 8)
        XCTAssertEqual(accumulated.losses, try update(recipe, size: 8).losses)
        XCTAssertEqual(accumulated.weights, try update(recipe, size: 8).weights)
    }

    func testMemoryLimitSizesTheMicroBatchAndIsKeptByAResume() throws {
        let recipe = try recipe()
        let learner = try Learner(recipe: recipe)
        let plan = MicroBatchPlan.probe(
            learner, recipe: recipe, loader: .init(threads: 2, decodeBytes: 0), limit: .max, smallest: 1, largest: 16)
        XCTAssertTrue(plan.keepsPackedWeights)
        XCTAssertGreaterThan(plan.bytesPerImage, 0)
        XCTAssertNil(plan.microBatch(limit: 1 << 20, largest: 16))
        XCTAssertEqual(plan.microBatch(limit: .max / 2, largest: 16), 16)
        XCTAssertEqual(plan.microBatch(limit: plan.bytes(microBatch: 5), largest: 16), 5)
        XCTAssertEqual(plan.microBatch(limit: plan.bytes(microBatch: 5) - 1, largest: 16), 4)
        // Learning from a probe changes nothing.
        let untouched = try Learner(recipe: recipe)
        for (a, b) in zip(learner.student.parameters.all, untouched.student.parameters.all) {
            XCTAssertTrue((0..<a.count).allSatisfy { a.values[$0] == b.values[$0] } && a.gradient == nil, a.name)
        }

        let refused = message { _ = try trainer(recipe, "refused", memoryLimit: 1 << 20) }
        XCTAssertTrue(
            refused.hasPrefix("--memory-limit: 1M is too little; this recipe needs at least ")
                && refused.hasSuffix("M"), refused)
        // As sharp a limit as this process allows; what is resident moves between the two looks.
        let size: Int
        do {
            let limited = try trainer(
                recipe, "limited", maxSteps: 3, memoryLimit: plan.bytes(microBatch: 4) + (8 << 20))
            try limited.runQuietly()
            size = limited.microBatch
        }
        let resumed = try trainer(recipe, "limited", resume: true)
        XCTAssertEqual(resumed.microBatch, size, "rounding depends on it: a resumed run keeps it")
        try resumed.runQuietly()
    }

    /// Where packed weights do not fit they are made for every product: less memory, the same bits.
    func testPackingForEveryProductChangesNothing() throws {
        for precision in ["float32", "float16", "int8"] {
            let recipe = try recipe("schedule.precision=\(precision)")
            var weights: [[[Float]]] = [], peaks: [Int] = []
            for keeps in [true, false] {
                let learner = try Learner(recipe: recipe)
                learner.pool.keepsPackedWeights = keeps
                let source = BatchSource(
                    recipe: recipe, grid: learner.globalGrid, dataset: try .init(path: root + "/train"), microBatch: 2
                )
                learner.pool.resetPeak()
                var sums = learner.newSums()
                for part in 0..<2 {
                    learner.accumulate(
                        try source.make(step: 4, part: part).batch,
                        context: .init(
                            step: 4, teacherTemperature: 0.05, teacherPatchTemperature: 0.05, batchImages: 4,
                            prototypesFrozen: false),
                        into: &sums)
                }
                _ = learner.update(sums, schedule: Schedules(recipe: recipe, stepsPerEpoch: 4).values(step: 4))
                weights.append(learner.student.parameters.all.map { p in (0..<p.count).map { p.values[$0] } })
                peaks.append(learner.pool.peakBytes)
            }
            XCTAssertTrue(weights[0] == weights[1], precision)
            XCTAssertLessThan(peaks[1], peaks[0], precision)
        }
    }

    func testAMicroBatchThatDoesNotDivideTheBatchResumesBitForBit() throws {
        let recipe = try recipe("schedule.batch_size=20")
        try train(recipe, "straight")
        try train(recipe, "stopped", maxSteps: 4)
        try train(recipe, "stopped", resume: true)
        try assertSameCheckpoint("straight", "stopped")
        XCTAssertEqual(try train(recipe, "straight", resume: true).step, 6, "4 images a epoch are left over")
    }
}
