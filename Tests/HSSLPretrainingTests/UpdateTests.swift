import Foundation
import HSSLGraph
import HSSLModels
import XCTest

@testable import HSSLPretraining

/// One update: clipping, AdamW, frozen tensors, averaging, centres, and what a bad value must leave alone.
final class UpdateTests: XCTestCase {
    private func accumulate(
        _ learner: Learner, _ batch: CropBatch, frozen: Bool = false, step: Int = 0
    ) -> UpdateSums {
        var sums = learner.newSums()
        learner.accumulate(
            batch, context: SmallLearner.context(step: step, prototypesFrozen: frozen), into: &sums)
        return sums
    }

    // MARK: AdamW

    /// Two updates of every tensor against the equations in float64, with per-tensor clipping and decay.
    func testUpdatesFollowTheEquations() throws {
        // The median norm: half of the tensors are clipped.
        let norms = try SmallLearner.make(learnedGain: true).evaluate(
            [SmallLearner.batch()], context: SmallLearner.context(step: 1)).gradients.values
            .map { $0.reduce(0) { $0 + $1 * $1 }.squareRoot() }.sorted()
        let clip = norms[norms.count / 2]
        let learner = try SmallLearner.make(learnedGain: true, clipGradient: clip)
        var expected = learner.student.parameters.all.map { parameter in
            (0..<parameter.count).map { Double(parameter.values[$0]) }
        }
        var first = expected.map { $0.map { _ in 0.0 } }, second = first
        var clipped = 0, unclipped = 0
        for step in 1...2 {
            let sums = accumulate(learner, SmallLearner.batch(), step: step)
            let gradients = try learner.student.parameters.all.map {
                Array(UnsafeBufferPointer(start: try XCTUnwrap($0.gradient, $0.name), count: $0.count)).map {
                    Double($0)
                }
            }
            let schedule = SmallLearner.schedule(learningRate: 2e-3, weightDecay: 0.3)
            let outcome = learner.update(sums, schedule: schedule)
            XCTAssertEqual(
                outcome.gradientNorm, gradients.joined().reduce(0) { $0 + $1 * $1 }.squareRoot(),
                accuracy: 1e-4 * outcome.gradientNorm)
            for (index, parameter) in learner.student.parameters.all.enumerated() {
                let norm = gradients[index].reduce(0) { $0 + $1 * $1 }.squareRoot()
                let scale = min(1, Double(clip) / (norm + 1e-6))
                if scale < 1 { clipped += 1 } else { unclipped += 1 }
                let decays = parameter.shape.count > 1 && !parameter.name.hasSuffix(".bias")
                var largest = 0.0
                for i in gradients[index].indices {
                    let g = gradients[index][i] * scale
                    first[index][i] = 0.9 * first[index][i] + 0.1 * g
                    second[index][i] = 0.999 * second[index][i] + 0.001 * g * g
                    if decays { expected[index][i] *= 1 - 2e-3 * 0.3 }
                    let (m, v) = (
                        first[index][i] / (1 - pow(0.9, Double(step))),
                        second[index][i] / (1 - pow(0.999, Double(step))))
                    expected[index][i] -= 2e-3 * m / (v.squareRoot() + 1e-8)
                    largest = max(largest, abs(Double(parameter.values[i]) - expected[index][i]))
                }
                XCTAssertLessThanOrEqual(largest, 2e-6, "\(parameter.name) after \(step) updates")
            }
        }
        XCTAssertGreaterThan(clipped, 0, "some tensors exceed the clip")
        XCTAssertGreaterThan(unclipped, 0, "some tensors do not: each is clipped alone")
    }

    func testDecayGroups() throws {
        let learner = try SmallLearner.make(learnedGain: true)
        let decayed = Set(learner.student.parameters.all.filter(AdamW.decays).map(\.name))
        for name in [
            "base.cls_token", "base.pos_embed", "base.mask_token", "base.patch_embed.proj.weight",
            "base.blocks.1.attn.qkv.weight",
                     "auxiliary.blocks.0.dwconv.weight", "head.base_mlp.4.weight", "head.prototypes.weight_v",
                     "head.prototypes.weight_g"] {
            XCTAssertTrue(decayed.contains(name), name)
        }
        for parameter in learner.student.parameters.all where parameter.name.hasSuffix(".bias")
            || parameter.name.contains("norm") {
            XCTAssertFalse(decayed.contains(parameter.name), parameter.name)
        }
        XCTAssertEqual(
            decayed.count + learner.student.parameters.all.filter { $0.name.hasSuffix(".bias")
            || $0.name.contains("norm") }.count,
            learner.student.parameters.all.count)
    }

    /// A mask token that nothing used has a zero gradient, not none: it decays, and its update counts.
    func testTheMaskTokenDecaysWhereNothingIsMasked() throws {
        let learner = try SmallLearner.make()
        let token = try XCTUnwrap(learner.student.parameters["base.mask_token"])
        for i in 0..<token.count { token.values[i] = 1 }
        token.valuesDidChange()
        _ = learner.update(
            accumulate(learner, SmallLearner.batch(masks: .none)),
            schedule: SmallLearner.schedule(learningRate: 0.01, weightDecay: 0.5))
        for i in 0..<token.count { XCTAssertEqual(token.values[i], 0.995, accuracy: 1e-6) }
        XCTAssertEqual(learner.state["step.base.mask_token"], [1])
    }

    /// Frozen prototypes: no decay, no moment, no count, whether or not a gradient was computed; thawed, they start at
    /// step 1.
    func testFrozenPrototypesAreLeftAlone() throws {
        for computed in [false, true] {
            let learner = try SmallLearner.make(learnedGain: true)
            let names = learner.objective.frozen(SmallLearner.schedule(prototypesFrozen: true)).map(\.name)
            XCTAssertEqual(names.count, 2)
            let before = learner.state
            _ = learner.update(
                accumulate(learner, SmallLearner.batch(), frozen: !computed),
                schedule: SmallLearner.schedule(prototypesFrozen: true))
            let frozen = learner.state
            for name in names {
                for key in ["student.", "exp_avg.", "exp_avg_sq.", "step."].map({ $0 + name }) {
                    XCTAssertEqual(frozen[key], before[key], key)
                }
            }
            XCTAssertNotEqual(frozen["student.base.cls_token"], before["student.base.cls_token"])
            _ = learner.update(accumulate(learner, SmallLearner.batch()), schedule: SmallLearner.schedule())
            let thawed = learner.state
            for name in names {
                XCTAssertEqual(thawed["step." + name], [1])
                XCTAssertNotEqual(thawed["student." + name], frozen["student." + name])
            }
            XCTAssertEqual(thawed["step.base.cls_token"], [2])
        }
    }

    // MARK: Teacher and centres

    func testTheTeacherIsTheAverageOfTheUpdatedStudent() throws {
        let learner = try SmallLearner.make()
        let before = learner.state
        _ = learner.update(accumulate(learner, SmallLearner.batch()), schedule: SmallLearner.schedule(momentum: 0.75))
        let after = learner.state
        for parameter in learner.student.parameters.all {
            let old = try XCTUnwrap(before["teacher." + parameter.name]), new = try XCTUnwrap(after[
                "teacher." + parameter.name])
            let student = try XCTUnwrap(after["student." + parameter.name])
            XCTAssertLessThanOrEqual(
                relativeDifference(new, zip(old, student).map { 0.75 * $0 + 0.25 * $1 }), 1e-6, parameter.name)
        }
    }

    /// Centres are of the logits that the old teacher made, over all patches, masked or not.
    func testCentersAverageTheTeachersLogits() throws {
        let learner = try SmallLearner.make()
        learner.objective.settings.plain = true
        for k in 0..<40 { (learner.centers.cls[k], learner.centers.patch[k]) = (Float(k) * 0.01, -0.2) }
        let old = learner.centers
        let sums = accumulate(learner, SmallLearner.batch())
        _ = learner.update(sums, schedule: SmallLearner.schedule(momentum: 0))
        for (name, before, after) in [
            ("teacher.auxiliary_cls", old.cls, learner.centers.cls),
            ("teacher.base_patch", old.patch, learner.centers.patch)] {
            let logits = try XCTUnwrap(sums.logits[name])
            for k in 0..<40 {
                let mean = stride(from: k, to: logits.count, by: 40).reduce(0.0) { $0 + Double(logits[$1]) } / Double(
                    logits.count / 40)
                XCTAssertEqual(Double(after[k]), 0.9 * Double(before[k]) + 0.1 * mean, accuracy: 1e-6, "\(name) \(k)")
            }
        }
    }

    // MARK: Bad values

    /// A NaN or an infinity anywhere in a crop skips the update: weights, teacher, centres, moments and counts stay to
    /// the bit, and the next one works.
    func testANonFiniteCropChangesNothing() throws {
        for precision in Precision.allCases {
            let learner = try SmallLearner.make(settings: .init(precision: precision, seed: 3))
            _ = learner.update(
                accumulate(learner, SmallLearner.batch(localViews: 1)), schedule: SmallLearner.schedule())
            let before = learner.state
            for bad in [Float.nan, .infinity] {
                for place in ["an open patch", "a masked patch", "a local view"] {
                    let batch = SmallLearner.batch(localViews: 1, masks: .one)
                    // Token 5 is row 1, column 1 of 4×4 pixels: the student does not see it, the teacher does.
                    switch place {
                    case "an open patch": batch.globals[0] = bad
                    case "a masked patch": batch.globals[5 * 16 + 5] = bad
                    default: batch.locals[17] = bad
                    }
                    let outcome = learner.update(accumulate(learner, batch, step: 1), schedule: SmallLearner.schedule())
                    XCTAssertTrue(outcome.skipped, "\(precision), \(bad) in \(place)")
                    XCTAssertEqual(learner.state, before, "\(precision), \(bad) in \(place)")
                    XCTAssertTrue(
                        learner.student.parameters.all.allSatisfy { $0.gradient == nil }, "no gradient is carried over")
                }
            }
            let outcome = learner.update(
                accumulate(learner, SmallLearner.batch(localViews: 1), step: 1), schedule: SmallLearner.schedule())
            XCTAssertFalse(outcome.skipped)
            XCTAssertNotEqual(learner.state, before)
            XCTAssertTrue(learner.state.values.allSatisfy { $0.allSatisfy(\.isFinite) })
        }
    }

    /// A micro-batch with a NaN spoils the whole update, not only its share.
    func testOneBadMicroBatchSkipsTheUpdate() throws {
        let learner = try SmallLearner.make()
        let before = learner.state
        let bad = SmallLearner.batch(images: 0..<1)
        bad.globals[3] = .nan
        var sums = learner.newSums()
        for batch in [bad, SmallLearner.batch(images: 1..<3)] {
            learner.accumulate(
                batch, context: SmallLearner.context(), into: &sums)
        }
        XCTAssertTrue(learner.update(sums, schedule: SmallLearner.schedule()).skipped)
        XCTAssertEqual(learner.state, before)
    }

    /// Each guard by itself: a loss, one element of one gradient, a centre.
    func testEachNonFiniteSumSkipsTheUpdate() throws {
        let learner = try SmallLearner.make()
        let before = learner.state
        for place in ["loss", "gradient", "CLS centre", "patch centre"] {
            var sums = accumulate(learner, SmallLearner.batch())
            switch place {
            case "loss": sums.losses.patch = .infinity
            case "gradient": try XCTUnwrap(learner.student.parameters["base.norm.bias"]?.gradient)[23] = .infinity
            case "CLS centre": sums.centers?.cls[39] = .nan
            default: sums.centers?.bottleneck[15] = -.infinity
            }
            let outcome = learner.update(sums, schedule: SmallLearner.schedule())
            XCTAssertTrue(outcome.skipped, place)
            XCTAssertEqual(learner.state, before, place)
        }
    }

    /// After some updates the pool asks the system for nothing; updates that drop branches gather what they keep, in
    /// next to nothing.
    func testLaterUpdatesReserveNothing() throws {
        for precision in Precision.allCases {
            let learner = try SmallLearner.make(settings: .init(
                precision: precision, dropPath: 0, seed: 3))
            let batch = SmallLearner.batch(localViews: 1)
            var reserved = 0, inUse = 0
            for step in 0..<14 {
                learner.objective.settings.dropPath = step < 8 ? 0 : 0.2
                _ = learner.update(accumulate(learner, batch, step: step), schedule: SmallLearner.schedule())
                if step == 3 { (reserved, inUse) = (learner.pool.bytesReserved, learner.pool.bytesInUse) }
                if step == 7 { XCTAssertEqual(learner.pool.bytesReserved, reserved, "\(precision)") }
            }
            XCTAssertLessThanOrEqual(Double(learner.pool.bytesReserved), 1.05 * Double(reserved), "\(precision)")
            XCTAssertEqual(learner.pool.bytesInUse, inUse, "\(precision)")
        }
    }
}
