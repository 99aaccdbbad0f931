import CSupport
import Foundation
import HSSLFormats
import XCTest

@testable import HSSLPretraining

/// A run that was stopped and resumed ends with the file of a run that was not, byte for byte.
final class ResumeTests: TrainerTestCase {
    func testAStopDoesNotWaitForNeighboursAndTheResumedRunMakesUpForThem() throws {
        let recipe = try recipe("evaluation.knn_every_epochs=1")
        func metrics(_ run: String) throws -> [Metrics] {
            try String(contentsOfFile: "\(root)/\(run)/metrics.jsonl", encoding: .utf8).split(separator: "\n")
                .compactMap { Metrics(json: String($0)) }
        }
        try train(recipe, "straight")
        let straight = try metrics("straight").compactMap(\.knnTop1)
        XCTAssertEqual(straight.count, 2)
        for stop in [4, 8] {
            var reported = 0, isStopped = false
            do {
                let trainer = try trainer(recipe, "stopped-\(stop)")
                // While the neighbours of the images are looked for.
                let summary = try trainer.run(shouldStop: {
                    isStopped = isStopped || (trainer.step == stop && reported < stop)
                    return isStopped
                }, progress: { line, _ in reported = line.step }, notice: { _ in })
                XCTAssertEqual(summary.step, stop)
            }
            XCTAssertNil(try metrics("stopped-\(stop)")[stop - 1].knnTop1, "waited")
            let summary = try train(recipe, "stopped-\(stop)", resume: true)
            XCTAssertEqual(summary.lastTop1, straight[1])
            let after = try metrics("stopped-\(stop)")
            XCTAssertEqual(after.compactMap(\.knnTop1), straight)
            XCTAssertEqual(after.compactMap(\.loss).count, 8)
            try train(recipe, "stopped-\(stop)", resume: true)
            XCTAssertEqual(try metrics("stopped-\(stop)").count, after.count, "made up for once")
            try assertSameCheckpoint("straight", "stopped-\(stop)", "stopped in an evaluation")
        }
    }

    func testResumedRunEqualsTheStraightOne() throws {
        let recipe = try recipe()
        try train(recipe, "straight")
        for stop in [1, 3, 4, 6, 7] {
            let run = "stop\(stop)"
            XCTAssertEqual(try train(recipe, run, maxSteps: stop).ending, .stopped)
            let resumed = try train(recipe, run, resume: true)
            XCTAssertEqual(resumed.ending, .finished)
            XCTAssertEqual(resumed.step, 8)
            try assertSameCheckpoint("straight", run, "stopped at step \(stop)")
            XCTAssertEqual(try Data(contentsOf: URL(fileURLWithPath: root + "/\(run)/model.safetensors")),
                           try Data(contentsOf: URL(fileURLWithPath: root + "/straight/model.safetensors")))
        }
    }

    func testManyStopsThreadsAndLoaderThreads() throws {
        let recipe = try recipe()
        try train(recipe, "straight", loaderThreads: 1)
        for threads: Int32 in [2, 4] {
            hssl_set_threads(threads)
            try train(recipe, "threads\(threads)", loaderThreads: Int(threads))
            try assertSameCheckpoint("straight", "threads\(threads)", "\(threads) threads")
        }
        for (stop, threads) in [(1, 1), (2, 2), (5, 1), (6, 4), (8, 2)] {
            hssl_set_threads(Int32(threads))
            try train(recipe, "mixed", resume: stop > 1, maxSteps: stop, loaderThreads: threads)
        }
        try assertSameCheckpoint("straight", "mixed", "threads changed at every resume")
    }

    func testReducedPrecisions() throws {
        for precision in ["float16", "int8"] {
            let recipe = try recipe("schedule.precision=\(precision)")
            try train(recipe, precision)
            hssl_set_threads(2)
            try train(recipe, precision + "-resumed", maxSteps: 5, loaderThreads: 4)
            hssl_set_threads(1)
            try train(recipe, precision + "-resumed", resume: true, loaderThreads: 1)
            try assertSameCheckpoint(precision, precision + "-resumed", precision)
        }
        try train(recipe(), "float32")
        let (full, half, codes) = (try checkpoint("float32"), try checkpoint("float16"), try checkpoint("int8"))
        XCTAssertFalse(full == half || full == codes || half == codes, "the precision changed nothing")
    }

    /// Moments of 8 bits with float32 products and the reverse: every combination goes on to the bit, whatever the
    /// threads.
    func testMomentStorageIsAChoice() throws {
        var files: [Data] = []
        for states in ["float32", "int8"] {
            for precision in ["float32", "int8"] {
                let recipe = try recipe("schedule.precision=\(precision)", "optimizer.states=\(states)"),
                    run = "\(states)-\(precision)"
                hssl_set_threads(1)
                try train(recipe, run)
                hssl_set_threads(2)
                try train(recipe, run + "-resumed", maxSteps: 5, loaderThreads: 1)
                try train(recipe, run + "-resumed", resume: true)
                try assertSameCheckpoint(run, run + "-resumed", run)
                files.append(try checkpoint(run))
                let coded = try SafetensorsFile(path: root + "/\(run)/checkpoint.safetensors").names.contains {
                    $0.hasPrefix("optimizer.exp_avg_scale.")
                }
                XCTAssertEqual(coded, states == "int8")
            }
        }
        XCTAssertEqual(Set(files).count, 4)
        XCTAssertEqual(try recipe("schedule.precision=int8").optimizer.states, .auto)
        XCTAssertEqual(MomentStorage(for: .int8), .int8)
        XCTAssertEqual(MomentStorage(for: .float16), .float32)
    }

    func testAccumulationAndALearnedGain() throws {
        let recipe = try recipe(
            "schedule.batch_size=8", "schedule.accumulate=2", "head.norm_last_layer=false", "auxiliary.family=none",
            "data.local_crops=0")
        try train(recipe, "straight")
        try train(recipe, "stopped", maxSteps: 3)
        try train(recipe, "stopped", resume: true)
        try assertSameCheckpoint("straight", "stopped")
        let names = try SafetensorsFile(path: root + "/straight/checkpoint.safetensors").names
        XCTAssertTrue(
            names.contains("student.head.prototypes.weight_g") && !names.contains { $0.contains("auxiliary") })
    }

    /// A stop asked for between steps (a signal) saves, whatever `checkpoint.every_steps` says.
    func testStopRequestSaves() throws {
        let recipe = try recipe("checkpoint.every_steps=1000")
        try train(recipe, "straight")
        let summary = try trainer(recipe, "asked").runQuietly(stopAfter: 2)
        XCTAssertEqual(summary.ending, .stopped)
        XCTAssertEqual(summary.step, 2)
        try train(recipe, "asked", resume: true)
        try assertSameCheckpoint("straight", "asked")
    }

    /// A stop before the first step leaves a checkpoint to go on from, and one at step 0 is no finished run.
    func testStopBeforeTheFirstStep() throws {
        let recipe = try recipe()
        XCTAssertEqual(try trainer(recipe, "early").runQuietly(stopAfter: 0).step, 0)
        XCTAssertTrue(exists("early/checkpoint.safetensors"))
        XCTAssertFalse(exists("early/model.safetensors"))
        try train(recipe, "early", resume: true)
        try train(recipe, "straight")
        try assertSameCheckpoint("straight", "early")
    }

    func testMaxStepsChangesNoSchedule() throws {
        let recipe = try recipe()
        try train(recipe, "straight")
        try train(recipe, "short", maxSteps: 6)
        func schedule(_ run: String) throws -> [[Double?]] {
            try RunFolder(path: root + "/" + run, resume: true).readMetrics().map {
                [$0.learningRate, $0.weightDecay, $0.teacherMomentum, $0.teacherTemperature, $0.loss, Double($0.epoch)]
            }
        }
        XCTAssertEqual(try schedule("short"), Array(try schedule("straight").prefix(6)))
        // Beyond the schedule it means nothing.
        XCTAssertEqual(try train(recipe, "long", maxSteps: 100).ending, .finished)
        try assertSameCheckpoint("straight", "long")
        // Below the step that was reached nothing is learnt or lost.
        XCTAssertEqual(try train(recipe, "short", resume: true, maxSteps: 2).step, 6)
        XCTAssertEqual(try metricsSteps("short"), Array(1...6))
    }

    /// A process that dies between checkpoints leaves metrics of steps that are taken again, the last line perhaps half
    /// written.
    func testMetricsHaveNoDuplicatesAfterACrash() throws {
        let recipe = try recipe()
        try train(recipe, "straight")
        try train(recipe, "crash", maxSteps: 3)
        let old = try checkpoint("crash")
        try train(recipe, "crash", resume: true, maxSteps: 5)
        try old.write(to: URL(fileURLWithPath: root + "/crash/checkpoint.safetensors"))
        let metrics = try FileHandle(forWritingTo: URL(fileURLWithPath: root + "/crash/metrics.jsonl"))
        try metrics.seekToEnd()
        try metrics.write(contentsOf: Data("{\"step\":6,\"epo".utf8))
        try metrics.close()
        try train(recipe, "crash", resume: true)
        XCTAssertEqual(try metricsSteps("crash"), Array(1...8))
        try assertSameCheckpoint("straight", "crash")
    }

    func testFinishedRunCanBeResumedAndStaysTheSame() throws {
        let recipe = try recipe("evaluation.knn_every_epochs=1")
        try train(recipe, "run")
        let before = try checkpoint("run")
        let html = try String(contentsOfFile: root + "/run/report.html", encoding: .utf8)
        XCTAssertTrue(html.contains("vit_nano") && html.contains("<svg"), "the report shows neither model nor curves")
        XCTAssertNotNil(try RunFolder(path: root + "/run", resume: true).readMetrics().last?.knnTop1)
        try FileManager.default.removeItem(atPath: root + "/run/model.safetensors")
        XCTAssertEqual(try train(recipe, "run", resume: true).ending, .finished)
        XCTAssertTrue(exists("run/model.safetensors"), "a run killed before its model was written must write it")
        XCTAssertEqual(try checkpoint("run"), before)
        XCTAssertEqual(try metricsSteps("run"), Array(1...8))
    }

    func testAnotherRecipeOrDataSetIsRefused() throws {
        try train(recipe(), "run", maxSteps: 2)
        let checkpoint = "ROOT/run/checkpoint.safetensors"
        XCTAssertEqual(
            message { try train(recipe("optimizer.learning_rate=0.001"), "run", resume: true) },
            "\(checkpoint): the run has another recipe: optimizer.learning_rate is 0.003 there, 0.001 here; resume "
            + "with the recipe it was started with"
        )
        XCTAssertTrue(
            message { try train(recipe("schedule.seed=3"), "run", resume: true) }.contains(
                "schedule.seed is 0 there, 3 here"))
        try Self.writeIDX(prefix: root + "/fewer", count: 60)
        XCTAssertEqual(
            message { try train(recipe(), "run", resume: true, data: "fewer") },
            "\(checkpoint): was trained on 64 images, ROOT/fewer has 60")
        try Self.writeIDX(prefix: root + "/other", count: 64, shade: 1)
        XCTAssertEqual(message { try train(recipe(), "run", resume: true, data: "other") },
                       "\(checkpoint): was trained on other images than those of ROOT/other, though as many")
        // The same images elsewhere are the same data set.
        try Self.writeIDX(prefix: root + "/moved", count: 64)
        XCTAssertEqual(message { try train(recipe(), "run", resume: true, data: "moved") }, "accepted")
    }

    /// What is compared is meaning: a checkpoint whose recipe lacks keys of today, spells out what nobody reads or
    /// differs in what no weight depends on goes on to the same bits, and exports.
    func testARecipeThatMeansTheSameGoesOn() throws {
        let recipe = try recipe("auxiliary.family=none")
        try train(recipe, "straight")
        try train(recipe, "old", maxSteps: 3)
        let path = root + "/old/checkpoint.safetensors"
        // The file is mapped: what is overwritten below must not be what is read.
        try FileManager.default.copyItem(atPath: path, toPath: root + "/original.safetensors")
        let file = try SafetensorsFile(path: root + "/original.safetensors")
        let tensors = file.tensors.map {
            SafetensorsTensor(name: $0.name, dtype: $0.dtype, shape: $0.shape, bytes: $0.bytes)
        }
        func store(_ text: String) throws {
            var metadata = file.metadata
            metadata["hssl.metadata_crc32c"] = nil
            metadata["hssl.crc32c"] = nil
            XCTAssertEqual(metadata["hssl.recipe"], recipe.yaml)
            metadata["hssl.recipe"] = text
            try SafetensorsWriter.write(path: root + "/other.safetensors", tensors: tensors, metadata: metadata)
            try Data(contentsOf: URL(fileURLWithPath: root + "/other.safetensors")).write(
                to: URL(fileURLWithPath: path))
        }
        try store(recipe.yaml + "later: {key: 1}\n")
        for refused in [
            message { try train(recipe, "old", resume: true) },
            message {
                try BaseExport.export(
                    checkpoint: path, role: "teacher", to: root + "/base.safetensors", precision: .float32)
            },
        ] {
            XCTAssertTrue(
                refused.hasPrefix("ROOT/old/checkpoint.safetensors: its recipe is not one of this build"), refused)
            XCTAssertTrue(refused.contains("unknown section later"), refused)
        }
        try store(
            recipe.yaml.replacingOccurrences(of: "  states: auto\n", with: "")
                .replacingOccurrences(
                    of: "  family: none\n",
                    with: "  family: none\n  depth: 2\n  kernel_size: 7\n  first_shortcut: false\n"))
        XCTAssertEqual(
            message {
                try BaseExport.export(
                    checkpoint: path, role: "teacher", to: root + "/base.safetensors", precision: .float32)
            }, "accepted")
        try train(self.recipe("auxiliary.family=none", "checkpoint.every_steps=1"), "old", resume: true, maxSteps: 5)
        XCTAssertTrue(
            message { try train(self.recipe("auxiliary.family=none", "model.drop_path=0"), "old", resume: true) }
                .contains("the run has another recipe: model.drop_path is 0.1 there, 0.0 here;"))
        try train(recipe, "old", resume: true)
        try assertSameCheckpoint("straight", "old")
    }

    func testSecondTrainerIsRefused() throws {
        let recipe = try recipe()
        let first = try trainer(recipe, "run")
        XCTAssertEqual(
            message { _ = try trainer(recipe, "run", resume: true) },
            "ROOT/run: another trainer is running in this folder")
        try first.runQuietly()
        XCTAssertTrue(message { _ = try trainer(recipe, "run") }.contains("give --resume to continue it"))
    }
}
