import CSupport
import Foundation
import HSSLData
import HSSLFormats
import XCTest

@testable import HSSLPretraining

/// Faults while training: spoilt updates, images that cannot be read, data sets that are too small.
final class TrainerFaultTests: TrainerTestCase {
    private func spoil(_ trainer: Trainer, at steps: ClosedRange<Int>, with value: Float = .nan) {
        trainer.willLearn = { step, batch in
            if steps.contains(step) { batch.globals[batch.globals.count / 2] = value }
        }
    }

    /// All that an update may change.
    private func state(_ learner: Learner) -> [[UInt32]] {
        var result: [[UInt32]] = []
        for parameter in learner.student.parameters.all + (learner.teacher?.parameters.all ?? []) {
            result.append((0..<parameter.count).map { parameter.values[$0].bitPattern })
        }
        for (parameter, state) in zip(learner.optimizer.parameters, learner.optimizer.states) {
            let (first, second) = state.values(count: parameter.count)
            result.append(first.map(\.bitPattern) + [UInt32(state.step)])
            result.append(second.map(\.bitPattern))
        }
        result.append(learner.centers.cls.map(\.bitPattern))
        result.append(learner.centers.patch.map(\.bitPattern))
        return result
    }

    func testSpoiltUpdatesAreSkippedAndCounted() throws {
        for (value, precision) in [(Float.nan, "float32"), (.infinity, "int8")] {
            let run = "\(value)-\(precision)"
            let trainer = try trainer(recipe("schedule.precision=\(precision)"), run)
            spoil(trainer, at: 3...4, with: value)
            var states: [Int: [[UInt32]]] = [:]
            var notices: [String] = []
            _ = try trainer.run(shouldStop: {
                if (2...6).contains(trainer.step) { states[trainer.step] = self.state(trainer.learner) }
                return false
            }, progress: { _, _ in }, notice: { notices.append($0) })
            XCTAssertNotEqual(states[2], states[3], "a good update must change the weights")
            XCTAssertEqual(states[3], states[4], "a spoilt update changed something")
            XCTAssertEqual(states[4], states[5])
            XCTAssertNotEqual(states[5], states[6])
            XCTAssertEqual(notices, ["step 4: the loss or a gradient is not finite; the update was skipped",
                                     "step 5: the loss or a gradient is not finite; the update was skipped"])
            XCTAssertEqual(try trainer.folder.readMetrics().map(\.skippedSteps), [0, 0, 0, 1, 2, 2, 2, 2])
            XCTAssertTrue(exists("\(run)/model.safetensors"))
        }
    }

    /// The count survives a resume, and a checkpoint between two spoilt updates continues like the straight run.
    func testSkippedUpdatesSurviveAResume() throws {
        let recipe = try recipe()
        let straight = try trainer(recipe, "straight")
        spoil(straight, at: 1...4)
        try straight.runQuietly()
        let first = try trainer(recipe, "stopped", maxSteps: 3)
        spoil(first, at: 1...4)
        try first.runQuietly()
        try FileManager.default.createDirectory(atPath: root + "/resumed", withIntermediateDirectories: true)
        for name in ["checkpoint.safetensors", "metrics.jsonl", "config.yaml"] {
            try FileManager.default.copyItem(atPath: "\(root)/stopped/\(name)", toPath: "\(root)/resumed/\(name)")
        }
        let second = try trainer(recipe, "resumed", resume: true)
        spoil(second, at: 1...4)
        try second.runQuietly()
        try assertSameCheckpoint("straight", "resumed")
        XCTAssertEqual(try second.folder.readMetrics().last?.skippedSteps, 4)
    }

    func testTooManySpoiltUpdatesStopTheRun() throws {
        let recipe = try recipe("schedule.epochs=5", "checkpoint.every_steps=1")
        let trainer = try trainer(recipe, "run")
        var good: Data?
        trainer.willLearn = { [self] step, batch in
            if step == 4 { good = try? checkpoint("run") }
            if step >= 4 { batch.globals[0] = .nan }
        }
        XCTAssertEqual(
            message { try trainer.runQuietly() },
            "10 updates in a row were not finite; ROOT/run/checkpoint.safetensors holds the last good state")
        XCTAssertTrue(try checkpoint("run") == good, "the last good checkpoint was replaced")
        let early = try self.trainer(recipe, "early")
        spoil(early, at: 0...20)
        XCTAssertEqual(
            message { try early.runQuietly() },
            "10 updates in a row were not finite; ROOT/early has no checkpoint yet")
    }

    /// A checkpoint that could not be loaded again never replaces one that can.
    func testNonFiniteWeightsAreNotSaved() throws {
        for states in ["float32", "int8"] {
            let recipe = try recipe("checkpoint.every_steps=1", "optimizer.states=\(states)")
            var good: Data?
            do {
                let trainer = try trainer(recipe, states)
                let coded = try XCTUnwrap(
                    trainer.learner.optimizer.states.firstIndex {
                        if case .int8 = $0.moments { true } else { states == "float32" }
                    })
                trainer.willLearn = { [self, unowned trainer] step, _ in
                    guard step == 2 else { return }
                    good = try? checkpoint(states)
                    switch trainer.learner.optimizer.states[coded].moments {
                    case .float32(_, let second): second.floats[0] = .infinity
                    case .int8(_, let second): second.scale.floats[0] = .infinity
                    }
                }
                XCTAssertEqual(
                    message { try trainer.runQuietly() },
                    "ROOT/\(states)/checkpoint.safetensors: step 3 left weights that "
                    + "are not finite; the file stays as it was"
                )
            }
            XCTAssertTrue(try checkpoint(states) == good)
            XCTAssertEqual(message { try train(recipe, states, resume: true) }, "accepted")
        }
    }

    // MARK: Images

    /// A flat folder of PNGs, copies of one fixture, in which some are spoilt.
    private func writeFolder(_ name: String, count: Int, spoilt: Set<Int>) throws {
        try FileManager.default.createDirectory(atPath: root + "/" + name, withIntermediateDirectories: true)
        for index in 0..<count {
            let pixels = (0..<12 * 12 * 3).map { UInt8(truncatingIfNeeded: $0 * (index + 3) + index * 11) }
            var png = try ImageEncoder.png(RGBImage(width: 12, height: 12, pixels: pixels), name: "\(index)")
            if spoilt.contains(index) { png.removeLast(png.count / 2) }
            try Data(png).write(to: URL(fileURLWithPath: "\(root)/\(name)/\(String(format: "%03d", index)).png"))
        }
    }

    func testUnreadableImagesAreReplacedAndNamed() throws {
        try writeFolder("photos", count: 64, spoilt: [5, 6, 40])
        var notices: [String] = []
        let summary = try trainer(recipe(), "run", data: "photos").runQuietly { notices.append($0) }
        XCTAssertEqual(summary.ending, .finished)
        XCTAssertEqual(summary.unreadable.map(\.name), ["005", "006", "040"].map { "\(root)/photos/\($0).png" })
        XCTAssertEqual(notices.count, 3, "each is named once: \(notices)")
        for name in ["005.png", "006.png", "040.png"] { XCTAssertTrue(notices.contains { $0.contains(name) }, name) }
        // What stands in for an image does not depend on threads or stops.
        hssl_set_threads(2)
        try train(recipe(), "stopped", maxSteps: 3, loaderThreads: 4, data: "photos")
        try train(recipe(), "stopped", resume: true, loaderThreads: 1, data: "photos")
        try assertSameCheckpoint("run", "stopped")
    }

    /// Bad files that lie together are met at once when the first one's turn comes: that alone is no reason to stop.
    func testARunOfBadFilesIsNotAShare() throws {
        try writeFolder("photos", count: 320, spoilt: Set(100..<125))
        let summary = try train(recipe("schedule.epochs=1"), "run", data: "photos")
        XCTAssertEqual(summary.ending, .finished)
        XCTAssertEqual(summary.unreadable.count, 25)
    }

    func testTooManyOrAllBadStopTheRun() throws {
        try writeFolder("bad", count: 20, spoilt: Set(0..<20))
        let all = message { try train(recipe(), "all", data: "bad") }
        XCTAssertTrue(all.hasPrefix("ROOT/bad: 20 images in a row cannot be read, the last: ROOT/bad/"), all)
        try writeFolder("half", count: 64, spoilt: Set(0..<32))
        let half = message { try train(recipe(), "half", data: "half") }
        XCTAssertTrue(
            half.hasPrefix("ROOT/half: ") && half.contains("images could not be read, the last: ROOT/half/0"), half)
        XCTAssertFalse(exists("all/model.safetensors") || exists("half/model.safetensors"))
    }

    func testFewerImagesThanABatch() throws {
        try Self.writeIDX(prefix: root + "/few", count: 15)
        XCTAssertEqual(
            message { try train(recipe(), "run", data: "few") },
            "ROOT/few: 15 images are fewer than one batch of 16 (schedule.batch_size × accumulate)")
        XCTAssertEqual(
            message { try train(recipe("schedule.batch_size=8", "schedule.accumulate=2"), "run", data: "few") },
            "ROOT/few: 15 images are fewer than one batch of 16 (schedule.batch_size × accumulate)")
        XCTAssertFalse(exists("run"), "a refused run must leave nothing")
        // Exactly one batch an epoch, and images left over.
        try Self.writeIDX(prefix: root + "/enough", count: 17)
        XCTAssertEqual(try train(recipe(), "run", data: "enough").step, 2)
    }
}
