import Foundation
import HSSLFormats
import HSSLGraph
import HSSLModels
import XCTest

@testable import HSSLPretraining

/// The objective beyond the fixtures: micro-batches, masks, who learns from whom, the cheaper evaluation.
final class ObjectiveTests: XCTestCase {
    private func fixtures() throws -> [(String, ReferenceTrajectory)] {
        try ["hssl-global", "hssl-multicrop"].map { name in
            let path = try XCTUnwrap(
                Bundle.module.path(forResource: name, ofType: "safetensors", inDirectory: "Fixtures"))
            return (name, try ReferenceTrajectory(path: path))
        }
    }

    // MARK: Micro-batches

    /// No statistic crosses images: gradient accumulation equals the whole batch.
    func testMicroBatchesOfTheFixturesEqualTheWholeBatch() throws {
        for (name, reference) in try fixtures() {
            let images = reference.configuration.images
            let learner = try reference.makeLearner()
            let whole = learner.evaluate([try reference.batch(step: 0)], context: reference.context(step: 0))
            for cuts in [Array(0...images), [0, 1, images], [0, images - 1, images]] {
                let batches = try zip(cuts, cuts.dropFirst()).filter { $0 < $1 }.map {
                    try reference.batch(step: 0, images: $0..<$1)
                }
                let parts = learner.evaluate(batches, context: reference.context(step: 0))
                assertEqual(parts, whole, "\(name) cut at \(cuts)")
                assertEqualCenters(parts.centers, whole.centers, "\(name) cut at \(cuts)")
            }
        }
    }

    func testUnevenMicroBatchesEqualTheWholeBatch() throws {
        for dropPath in [Float(0), 0.5] {
            let learner = try SmallLearner.make(settings: .init(dropPath: dropPath, seed: 3))
            let context = SmallLearner.context(images: 5, step: 7)
            let whole = learner.evaluate([SmallLearner.batch(images: 0..<5, localViews: 2)], context: context)
            for cuts in [[0, 1, 5], [0, 3, 4, 5], [0, 2, 5]] {
                let parts = learner.evaluate(
                    zip(cuts, cuts.dropFirst()).map { SmallLearner.batch(images: $0..<$1, localViews: 2) },
                    context: context)
                assertEqual(parts, whole, "drop path \(dropPath), cut at \(cuts)")
                assertEqualCenters(parts.centers, whole.centers, "drop path \(dropPath), cut at \(cuts)")
            }
        }
    }

    private func assertEqualCenters(_ ours: CenterSums?, _ reference: CenterSums?, _ label: String) {
        guard let ours, let reference else { return XCTFail("no centres, \(label)") }
        XCTAssertEqual(ours.clsRows, reference.clsRows, label)
        XCTAssertEqual(ours.patchRows, reference.patchRows, label)
        XCTAssertLessThanOrEqual(relativeDifference(ours.cls, reference.cls), 1e-5, label)
        XCTAssertLessThanOrEqual(relativeDifference(ours.bottleneck, reference.bottleneck), 1e-5, label)
    }

    // MARK: The cheaper evaluation

    func testTheCheaperEvaluationEqualsThePlainOne() throws {
        for masks in [SmallLearner.Masks.none, .one, .all, .random] {
            for (auxiliary, localViews, frozen) in [
                (true, 0, false), (true, 2, false), (true, 2, true), (false, 0, true), (false, 2, false),
            ] {
                let learner = try SmallLearner.make(auxiliary: auxiliary, learnedGain: localViews == 0)
                var random = CounterRandom(seed: 5, stream: 6)
                for k in 0..<40 {
                    (learner.centers.cls[k], learner.centers.patch[k]) = (
                        random.normal() * 0.05, random.normal() * 0.05
                    )
                }
                let batch = SmallLearner.batch(localViews: localViews, masks: masks),
                    context = SmallLearner.context(prototypesFrozen: frozen)
                let cheap = learner.evaluate([batch], context: context)
                learner.objective.settings.plain = true
                let plain = learner.evaluate([batch], context: context)
                let label = "masks \(masks), auxiliary \(auxiliary), \(localViews) local views, frozen \(frozen)"
                assertEqual(cheap, plain, tolerance: 5e-5, label)
                assertEqualCenters(cheap.centers, plain.centers, label)
                XCTAssertEqual(cheap.gradients.keys.contains("head.prototypes.weight_v"), !frozen, label)
            }
        }
    }

    // MARK: The loss

    /// The losses recomputed in float64 from the plain evaluation's logits, with and without an auxiliary head (then:
    /// iBOT).
    func testLossesFollowTheEquationsOfTheLogits() throws {
        for auxiliary in [true, false] {
            let learner = try SmallLearner.make(auxiliary: auxiliary)
            learner.objective.settings.plain = true
            var random = CounterRandom(seed: 5, stream: 5)
            for k in 0..<40 {
                (learner.centers.cls[k], learner.centers.patch[k]) = (random.normal() * 0.05, random.normal() * 0.05)
            }
            let batch = SmallLearner.batch()
            let result = learner.evaluate([batch], context: SmallLearner.context())
            func rows(_ name: String) throws -> [[Double]] {
                let values = try XCTUnwrap(result.logits[name], name).map { Double($0) }
                return stride(from: 0, to: values.count, by: 40).map { Array(values[$0..<$0 + 40]) }
            }
            func softmax(_ z: [Double], _ center: [Float]?, _ temperature: Double) -> [Double] {
                let scaled = z.indices.map { (z[$0] - Double(center?[$0] ?? 0)) / temperature }
                let largest = scaled.max() ?? 0
                let sum = scaled.reduce(0) { $0 + exp($1 - largest) }
                return scaled.map { exp($0 - largest) / sum }
            }
            func entropy(_ q: [Double], _ z: [Double]) -> Double {
                zip(q, softmax(z, nil, 0.1)).reduce(0) { $0 - $1.0 * log($1.1) }
            }

            let targets = try rows(auxiliary ? "teacher.auxiliary_cls" : "teacher.base_cls").map {
                softmax($0, learner.centers.cls, 0.04)
            }
            XCTAssertEqual(
                result.targetEntropy, targets.joined().reduce(0.0) { $1 > 0 ? $0 - $1 * log($1) : $0 } / 6,
                accuracy: 1e-4)
            func cls(_ name: String) throws -> Double {
                let student = try rows(name)
                // Views u ≠ v: row r of view 1 learns from view 2 and the other way round; mean over 2 pairs and 3
                // images.
                return (0..<6).reduce(0.0) { $0 + entropy(targets[($1 + 3) % 6], student[$1]) } / 6
            }
            XCTAssertEqual(result.losses.clsBase, try cls("student.base_cls"), accuracy: 1e-4)
            XCTAssertEqual(result.losses.clsAuxiliary, auxiliary ? try cls("student.auxiliary_cls") : 0, accuracy: 1e-4)

            let student = try rows("student.base_patch"), teacher = try rows("teacher.base_patch")
            let masks = batch.viewMajorMasks()
            var patch = 0.0
            for crop in 0..<6 {
                let masked = (0..<16).filter { masks[crop * 16 + $0] != 0 }
                let sum = masked.reduce(0.0) {
                    $0
                        + entropy(
                            softmax(teacher[crop * 16 + $1], learner.centers.patch, 0.06), student[crop * 16 + $1])
                }
                patch += sum / Double(max(1, masked.count)) / 6
            }
            XCTAssertGreaterThan(patch, 0)
            XCTAssertEqual(result.losses.patch, patch, accuracy: 1e-4)

            let expected =
                auxiliary
                ? 0.5 * (result.losses.clsBase + result.losses.clsAuxiliary + 2 * patch)
                : result.losses.clsBase + patch
            XCTAssertEqual(result.losses.total, expected, accuracy: 1e-4)
        }
    }

    /// Gradients are those of the total loss: a small move along one changes the loss by what it says.
    func testGradientsAreThoseOfTheTotalLoss() throws {
        for auxiliary in [true, false] {
            let learner = try SmallLearner.make(auxiliary: auxiliary, learnedGain: true, firstShortcut: true)
            let batch = SmallLearner.batch(localViews: 1)
            let gradients = learner.evaluate([batch], context: SmallLearner.context()).gradients
            for name in [
                "base.cls_token", "base.mask_token", "base.blocks.0.attn.qkv.weight", "base.norm.weight",
                "head.prototypes.weight_v",
                "head.prototypes.weight_g", "head.base_mlp.2.bias",
            ] + (auxiliary ? ["auxiliary.blocks.0.dwconv.weight", "head.auxiliary_mlp.4.weight"] : []) {
                let parameter = try XCTUnwrap(learner.student.parameters[name])
                let gradient = try XCTUnwrap(gradients[name], name)
                let norm = gradient.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
                XCTAssertGreaterThan(norm, 0, name)
                func loss(_ step: Double) -> Double {
                    for i in 0..<parameter.count { parameter.values[i] += Float(step / norm) * gradient[i] }
                    parameter.valuesDidChange()
                    let total = learner.evaluate([batch], context: SmallLearner.context()).losses.total
                    for i in 0..<parameter.count { parameter.values[i] -= Float(step / norm) * gradient[i] }
                    parameter.valuesDidChange()
                    return total
                }
                let step = 1e-2
                XCTAssertEqual((loss(step) - loss(-step)) / (2 * step), norm, accuracy: 0.03 * norm + 1e-4, name)
            }
        }
    }

    // MARK: Who learns from whom

    func testMaskingChangesTheStudentAndTeachesTheMaskToken() throws {
        let learner = try SmallLearner.make()
        learner.objective.settings.plain = true
        let open = learner.evaluate([SmallLearner.batch(masks: .none)], context: SmallLearner.context())
        let masked = learner.evaluate([SmallLearner.batch(masks: .one)], context: SmallLearner.context())
        XCTAssertNotEqual(open.logits["student.base_cls"], masked.logits["student.base_cls"])
        XCTAssertNotEqual(open.logits["student.base_patch"], masked.logits["student.base_patch"])
        XCTAssertEqual(
            open.logits["teacher.auxiliary_cls"], masked.logits["teacher.auxiliary_cls"],
            "the teacher sees whole views")
        XCTAssertEqual(
            open.logits["teacher.base_patch"], masked.logits["teacher.base_patch"], "the teacher sees whole views")
        XCTAssertTrue(try XCTUnwrap(masked.gradients["base.mask_token"]).contains { $0 != 0 })
        XCTAssertEqual(try XCTUnwrap(open.gradients["base.mask_token"]), [Float](repeating: 0, count: 24))
        XCTAssertEqual(open.losses.patch, 0)
        // All patches masked: the images enter by no way.
        let all = learner.evaluate([SmallLearner.batch(masks: .all)], context: SmallLearner.context())
        XCTAssertEqual(try XCTUnwrap(all.gradients["base.patch_embed.proj.weight"]).contains { $0 != 0 }, false)
    }

    func testBothCLSStreamsLearnFromTheTeachersAuxiliaryHead() throws {
        let learner = try SmallLearner.make()
        let batch = SmallLearner.batch(localViews: 1)
        let before = learner.evaluate([batch], context: SmallLearner.context()).losses
        func losses(perturbing prefix: String) -> Losses {
            let copy = (learner.teacher?.parameters.all ?? []).map {
                Array(UnsafeBufferPointer(start: $0.values, count: $0.count))
            }
            learner.teacher?.perturb(prefix)
            let result = learner.evaluate([batch], context: SmallLearner.context()).losses
            for (parameter, values) in zip((learner.teacher?.parameters.all ?? []), copy) {
                parameter.values.update(from: values, count: values.count)
                parameter.valuesDidChange()
            }
            return result
        }
        for stream in ["auxiliary.", "head.auxiliary_mlp."] {
            let after = losses(perturbing: stream)
            XCTAssertNotEqual(after.clsBase, before.clsBase, stream)
            XCTAssertNotEqual(after.clsAuxiliary, before.clsAuxiliary, stream)
            XCTAssertEqual(after.patch, before.patch, stream)
        }
        for stream in ["base.norm.", "head.base_mlp."] {
            let after = losses(perturbing: stream)
            XCTAssertEqual(after.clsBase, before.clsBase, stream)
            XCTAssertEqual(after.clsAuxiliary, before.clsAuxiliary, stream)
            XCTAssertNotEqual(after.patch, before.patch, stream)
        }
        XCTAssertEqual(losses(perturbing: "base.mask_token"), before, "the teacher masks nothing")
    }

    /// Family `none` is iBOT: the base CLS is the teacher's own, and nothing auxiliary exists.
    func testWithoutAnAuxiliaryHeadTheTargetIsTheTeachersBase() throws {
        let learner = try SmallLearner.make(auxiliary: false)
        XCTAssertFalse(learner.student.parameters.all.contains { $0.name.contains("auxiliary") })
        let batch = SmallLearner.batch()
        let before = learner.evaluate([batch], context: SmallLearner.context())
        XCTAssertEqual(
            Set(before.gradients.keys), Set(learner.student.parameters.all.map(\.name)), "every tensor learns")
        learner.teacher?.perturb("head.base_mlp.")
        let after = learner.evaluate([batch], context: SmallLearner.context()).losses
        XCTAssertNotEqual(after.clsBase, before.losses.clsBase)
        XCTAssertNotEqual(after.patch, before.losses.patch)
        XCTAssertEqual(after.clsAuxiliary, 0)
    }

    func testEveryParameterLearns() throws {
        let learner = try SmallLearner.make(learnedGain: true)
        let gradients = learner.evaluate([SmallLearner.batch(localViews: 1)], context: SmallLearner.context()).gradients
        XCTAssertEqual(Set(gradients.keys), Set(learner.student.parameters.all.map(\.name)))
        for (name, gradient) in gradients {
            XCTAssertTrue(gradient.contains { $0 != 0 } && gradient.allSatisfy(\.isFinite), name)
        }
        XCTAssertTrue(
            (learner.teacher?.parameters.all ?? []).allSatisfy { $0.gradient == nil },
            "the teacher learns by averaging only")
    }

    func testFrozenPrototypesGetNoGradientAndDoNotChangeTheOthers() throws {
        let learner = try SmallLearner.make(learnedGain: true)
        let free = learner.evaluate([SmallLearner.batch()], context: SmallLearner.context())
        let frozen = learner.evaluate([SmallLearner.batch()], context: SmallLearner.context(prototypesFrozen: true))
        XCTAssertEqual(
            Set(free.gradients.keys).subtracting(frozen.gradients.keys),
            ["head.prototypes.weight_v", "head.prototypes.weight_g"])
        for (name, gradient) in frozen.gradients { XCTAssertEqual(gradient, free.gradients[name], name) }
        XCTAssertEqual(frozen.losses, free.losses)
        let thawed = learner.evaluate([SmallLearner.batch()], context: SmallLearner.context())
        XCTAssertEqual(thawed.gradients, free.gradients)
    }

    // MARK: Overfitting

    /// Against a frozen teacher the divergence from the targets falls to a fraction; the loss itself may not, as the
    /// targets' entropy stays.
    func testOverfittingOneBatchAgainstAFrozenTeacher() throws {
        let cases: [(Precision, Bool)] = [(.float32, true), (.int8, true), (.float32, false), (.int8, false)]
        for (precision, learnsPatches) in cases {
            let learner = try SmallLearner.make(
                settings: .init(precision: precision, seed: 3), centerMomentum: 1, learnsPatches: learnsPatches)
            // A soft teacher, so that the divergence is not only that of a few sharp targets.
            var context = SmallLearner.context()
            context.teacherTemperature = 0.1
            context.teacherPatchTemperature = 0.1
            let batch = SmallLearner.batch(images: 0..<3, masks: .random)
            let teacher = learner.state.filter { $0.key.hasPrefix("teacher.") }
            var divergences: [Double] = [], losses: [Losses] = []
            for _ in 0..<60 {
                var sums = learner.newSums()
                learner.accumulate(batch, context: context, into: &sums)
                losses.append(sums.losses)
                divergences.append(sums.losses.clsBase - sums.targetEntropy / Double(sums.targets))
                let outcome = learner.update(
                    sums, schedule: SmallLearner.schedule(learningRate: 3e-3, weightDecay: 0, momentum: 1))
                XCTAssertFalse(outcome.skipped)
            }
            print(
                "Overfitting \(precision): divergence \(divergences[0]) -> \(divergences[divergences.count - 1]) nats"
            )
            XCTAssertGreaterThan(divergences[0], 0)
            XCTAssertLessThan(divergences[divergences.count - 1], 0.2 * divergences[0], "\(precision)")
            let counted = losses[0].parts.filter { $0.value > 0 }
            XCTAssertEqual(counted.count, learnsPatches ? 3 : 2)
            // The entropy of the targets, which stays, is part of each.
            for part in counted {
                let last = losses[losses.count - 1][part.name]
                print("Overfitting \(precision): \(part.name) \(part.value) -> \(last)")
                XCTAssertLessThan(last, 0.8 * part.value, "\(precision) \(part.name)")
            }
            XCTAssertEqual(
                learner.state.filter { $0.key.hasPrefix("teacher.") }, teacher, "momentum 1 freezes the teacher")
        }
    }
}
