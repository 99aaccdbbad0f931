import Foundation
import XCTest
@testable import HSSLPretraining

final class ScheduleTests: XCTestCase {
    private struct Fixture: Decodable {
        let epochs: Int, iterations_per_epoch: Int, warmup_epochs: Int, batch_size: Int
        let base_lr: Double, min_lr: Double, weight_decay: [Double], teacher_momentum: Double
        let teacher_temperature: [Double], warmup_teacher_temperature_epochs: Int
        let expected: Expected
        struct Expected: Decodable {
            let lr: [Double], weight_decay: [Double], teacher_momentum: [Double], teacher_temperature_by_epoch: [Double]
        }
    }

    private func recipe(_ overrides: [String]) throws -> Recipe {
        try Recipe.parse(
            "model: {architecture: a, image_size: 8, patch_size: 4}", file: "r", architectures: ["a"],
            overrides: overrides)
    }

    func testEqualsTheReferenceSeries() throws {
        let url = try XCTUnwrap(Bundle.module.url(forResource: "Fixtures/schedules", withExtension: "json"))
        let fixture = try JSONDecoder().decode(Fixture.self, from: Data(contentsOf: url))
        let recipe = try recipe([
            "schedule.epochs=\(fixture.epochs)", "schedule.batch_size=\(fixture.batch_size)",
            "optimizer.warmup_epochs=\(fixture.warmup_epochs)",
            "optimizer.learning_rate=\(fixture.base_lr)", "optimizer.min_learning_rate=\(fixture.min_lr)",
            "optimizer.weight_decay=\(fixture.weight_decay)", "optimizer.teacher_momentum=\(fixture.teacher_momentum)",
            "objective.teacher_temperature=\(fixture.teacher_temperature)",
            "objective.warmup_teacher_temperature_epochs=\(fixture.warmup_teacher_temperature_epochs)",
        ])
        let schedules = Schedules(recipe: recipe, stepsPerEpoch: fixture.iterations_per_epoch)
        XCTAssertEqual(schedules.totalSteps, fixture.expected.lr.count)
        for step in 0..<schedules.totalSteps {
            let values = schedules.values(step: step)
            let epoch = step / fixture.iterations_per_epoch
            XCTAssertEqual(values.epoch, epoch)
            for (name, value, expected) in [
                ("lr", values.learningRate, fixture.expected.lr[step]),
                ("weight decay", values.weightDecay, fixture.expected.weight_decay[step]),
                ("momentum", values.teacherMomentum, fixture.expected.teacher_momentum[step]),
                ("temperature", values.teacherTemperature, fixture.expected.teacher_temperature_by_epoch[epoch]),
            ] {
                XCTAssertLessThanOrEqual(abs(value - expected), 1e-12 * abs(expected), "\(name) at step \(step)")
            }
        }
    }

    func testAccumulationScalesThePeakButNotTheMinimum() throws {
        let recipe = try recipe(
            [
                "schedule.batch_size=64", "schedule.accumulate=8", "optimizer.learning_rate=0.001",
                "optimizer.min_learning_rate=1.0e-5"])
        let schedules = Schedules(recipe: recipe, stepsPerEpoch: 1000)
        XCTAssertEqual(schedules.peakLearningRate, 0.002, accuracy: 1e-15)
        XCTAssertEqual(schedules.values(step: 9_999).learningRate, 0.002, accuracy: 1e-15)
        XCTAssertEqual(schedules.values(step: 10_000).learningRate, 0.002, accuracy: 1e-15)
        XCTAssertEqual(schedules.values(step: schedules.totalSteps - 1).learningRate, 1e-5, accuracy: 1e-9)
    }

    func testPatchTemperatureAndFreezingFollowEpochs() throws {
        let recipe = try recipe([
            "schedule.epochs=6", "optimizer.warmup_epochs=0", "optimizer.freeze_prototypes_epochs=2",
            "objective.teacher_patch_temperature=[0.02, 0.08]", "objective.warmup_teacher_temperature_epochs=4",
        ])
        let schedules = Schedules(recipe: recipe, stepsPerEpoch: 3)
        let patch = (0..<6).map { schedules.values(step: 3 * $0 + 2).teacherPatchTemperature }
        for (value, expected) in zip(patch, [0.02, 0.04, 0.06, 0.08, 0.08, 0.08]) {
            XCTAssertEqual(value, expected, accuracy: 1e-15)
        }
        XCTAssertEqual((0..<18).map { schedules.values(step: $0).prototypesFrozen }, (0..<18).map { $0 < 6 })
        XCTAssertEqual(
            schedules.values(step: 0).learningRate, schedules.peakLearningRate, "no warm-up starts at the peak")
    }

    /// The average of a distillation follows closely at first, then as its recipe says, to the end.
    func testAnAverageHasAConstantMomentum() throws {
        let recipe = try Recipe.parse(
            "model: {architecture: vit_nano, image_size: 28, patch_size: 7}\ndistill: {draws: 4}", file: "r.yaml",
            architectures: ["vit_nano"], overrides: ["optimizer.teacher_momentum=0.9", "schedule.epochs=20"])
        let schedules = Schedules(recipe: recipe, stepsPerEpoch: 10)
        let momenta = (0..<200).map { schedules.values(step: $0).teacherMomentum }
        XCTAssertEqual(momenta[0], 0.1, accuracy: 1e-15)
        XCTAssertEqual(momenta[8], 0.5, accuracy: 1e-15)
        XCTAssertEqual(Set(momenta[80...]), [0.9])
        XCTAssertEqual(momenta, momenta.sorted())
    }

    func testDegenerateWarmups() throws {
        let allWarmup = Schedules(
            recipe: try recipe(["schedule.epochs=1", "optimizer.warmup_epochs=1"]), stepsPerEpoch: 1)
        XCTAssertEqual(allWarmup.values(step: 0).learningRate, 0, "linspace(0, lr, 1)")
        let oneEpoch = Schedules(
            recipe: try recipe(["objective.warmup_teacher_temperature_epochs=1"]), stepsPerEpoch: 2)
        XCTAssertEqual(oneEpoch.values(step: 0).teacherTemperature, 0.04)
        XCTAssertEqual(oneEpoch.values(step: 2).teacherTemperature, 0.07)
        let none = Schedules(recipe: try recipe(["objective.warmup_teacher_temperature_epochs=0"]), stepsPerEpoch: 2)
        XCTAssertEqual(none.values(step: 0).teacherTemperature, 0.07)
    }
}
