import CSupport
import Foundation
import HSSLData
import HSSLFormats
import HSSLGraph
import HSSLModels
import HSSLRuntime
import Synchronization
import XCTest

@testable import HSSLPretraining

/// Runs of a distillation: what the teacher is shown, what a run keeps of it.
final class DistillTrainerTests: TrainerTestCase {
    /// A ViT with random weights and colours of its own, 8 pixels in 2×2 cells.
    private func teacherFile(_ name: String = "teacher", seed: UInt64 = 5) throws -> ModelFile {
        let path = "\(root)/\(name).safetensors"
        let architecture = try ModelArchitecture(
            VisionTransformer.Configuration(imageSize: 8, patchSize: 4, embedDim: 18, depth: 2, numHeads: 3))
        let parameters = ParameterSet()
        _ = architecture.makeBase(ParameterScope(parameters), .deployment)
        parameters.allocate(from: BufferPool())
        parameters.initialize(seed: seed)
        var provenance = ModelProvenance(
            method: "test", head: "none", data: "none", epochs: 0, precision: "float32", version: "0")
        provenance.license = "Apache-2.0"
        try ModelFile.write(
            path: path, architecture: architecture,
            preprocessing: Preprocessing(resize: 8, crop: 8, mean: [0.1, 0.2, 0.3], std: [0.5, 0.6, 0.7]),
            provenance: provenance, precision: .float32, parameters: parameters, prefix: "")
        return try ModelFile(path: path)
    }

    private func distilling(_ overrides: String...) throws -> Recipe {
        try Recipe.parse(
            """
            model:      {architecture: vit_nano, image_size: 12, patch_size: 4}
            schedule:   {epochs: 3, batch_size: 16}
            distill:    {anchors: 24}
            evaluation: {knn_every_epochs: 0}
            checkpoint: {every_steps: 3}
            """, file: "distil.yaml", architectures: ModelArchitecture.names, overrides: overrides)
    }

    private func frozen(_ file: ModelFile? = nil, source: (any TeacherSource)? = nil) throws -> FrozenTeacher {
        try FrozenTeacher(
            file: file ?? teacherFile(), precision: .int8, threads: 2, wantsCells: true, source: source)
    }

    private func trainer(
        _ recipe: Recipe, _ run: String, _ teacher: FrozenTeacher, resume: Bool = false, maxSteps: Int? = nil,
        memoryLimit: Int? = nil
    ) throws -> Trainer {
        var options = PretrainingOptions()
        options.threads = Int(hssl_get_threads())
        (options.resume, options.maxSteps, options.memoryLimit) = (resume, maxSteps, memoryLimit)
        return try Trainer(
            recipe: recipe, dataset: Dataset(path: root + "/train"), output: "\(root)/\(run)", options: options,
            teacher: teacher)
    }

    /// Remembers what it is asked, as a bank of three draws would be.
    private class Bank: TeacherSource, @unchecked Sendable {
        let (width, rank) = (5, 3)
        let grid = Grid(height: 2, width: 2)
        let draws: Int? = 3
        let asked = Mutex<[ViewKey]>([])
        /// What every global feature is multiplied by.
        var scale: Float { 1 }

        func answers(for keys: [ViewKey], views: TeacherViews) throws -> TeacherAnswers {
            asked.withLock { $0 += keys }
            return TeacherAnswers(
                globals: keys.flatMap { [1, Float($0.index), 2, Float($0.draw), 3].map { $0 * scale } },
                cells: keys.flatMap { key in (0..<12).map { Float(($0 * 7 + key.index) % 5) - 2 } })
        }
    }

    private final class LoudBank: Bank, @unchecked Sendable {
        override var scale: Float { 1e30 }
    }

    func testATeacherThatCannotBeEvenedOutIsRefused() throws {
        XCTAssertEqual(
            message { try trainer(distilling(), "loud", frozen(source: LoudBank())).runQuietly() },
            "ROOT/teacher.safetensors: what it says of 192 views has no finite covariance: distill.whitening cannot "
                + "even it out")
        // Who learns from cells alone does not look at globals.
        let recipe = try distilling("distill.global_weight=0", "distill.similarity_weight=0"), bank = LoudBank()
        try trainer(recipe, "cells", frozen(source: bank)).runQuietly()
        XCTAssertEqual(bank.asked.withLock { $0.count }, 3 * 64)
    }

    func testTheTeacherSeesTheStudentsDraw() throws {
        let recipe = try distilling(), file = try teacherFile(), dataset = try Dataset(path: root + "/train")
        let teacher = try frozen(file), learner = try Learner(recipe: recipe, teacher: teacher.shape)
        let source = BatchSource(
            recipe: recipe, grid: learner.globalGrid, dataset: dataset, microBatch: 6, teacher: teacher.viewing(recipe))
        let batch = try source.make(step: 5, part: 1).batch
        XCTAssertEqual(batch.keys.map(\.draw), [Int](repeating: 1, count: 6), "step 5 is in epoch 1")
        XCTAssertEqual(Set(batch.keys).count, 6)
        var data = recipe.data
        (data.mean, data.std) = ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
        let views = MultiCropAugmentation(data, imageSize: 8)
        let own = MultiCropAugmentation(recipe.data, imageSize: 12)
        for (place, key) in batch.keys.enumerated() {
            let image = try dataset.image(key.index)
            let draw = MultiCropAugmentation.Key(seed: recipe.schedule.seed, epoch: key.draw, index: key.index)
            for (augmentation, crops) in [(views, batch.teacherViews), (own, batch.globals)] {
                var expected = [Float](repeating: 0, count: augmentation.count(ofView: 0))
                augmentation.make(view: 0, of: image, key: draw, into: &expected)
                XCTAssertEqual(Array(crops[place * expected.count..<(place + 1) * expected.count]), expected)
            }
        }
        // Its answers are the model's, whatever the threads; without cells, the same globals.
        let model = try Model(file: file, precision: .int8), session = try Session(model: model, threads: 1)
        let answers = try teacher.source.answers(for: batch.keys) { batch.teacherViews }
        XCTAssertEqual(answers.globals, try session.extract(images: batch.teacherViews, count: 6))
        XCTAssertEqual(answers.cells, try session.extract(images: batch.teacherViews, count: 6, features: .patch))
        let brief = try RunningTeacher(model: model, threads: 1, wantsCells: false)
        let globals = try brief.answers(for: batch.keys) { batch.teacherViews }
        XCTAssertEqual(globals.globals, answers.globals)
        XCTAssertEqual(globals.cells, [])
    }

    func testABankIsAskedForItsDraws() throws {
        let bank = Bank(), recipe = try distilling("schedule.epochs=5", "distill.mse_weight=0.01")
        XCTAssertEqual(try trainer(recipe, "bank", frozen(source: bank)).runQuietly().ending, .finished)
        let all = bank.asked.withLock { $0 }
        XCTAssertEqual(all.count, (3 + 5) * 64)
        // Every view there is says how targets are evened out.
        XCTAssertEqual(Set(all.prefix(3 * 64)).count, 3 * 64)
        let asked = Array(all.dropFirst(3 * 64))
        for epoch in 0..<5 {
            let keys = asked[epoch * 64..<(epoch + 1) * 64]
            XCTAssertEqual(Set(keys.map(\.draw)), [epoch % 3])
            XCTAssertEqual(keys.map(\.index).sorted(), Array(0..<64))
        }
        XCTAssertEqual(
            message { _ = try trainer(recipe, "bank", frozen(), resume: true) },
            "ROOT/bank/checkpoint.safetensors: learnt from a bank of 3 draws, not a teacher that runs (--bank)")
    }

    func testStoppedRunsGoOnBitForBit() throws {
        for (precision, more) in [("float32", "auxiliary.family=convnext"), ("int8", "distill.mse_weight=0.5")] {
            let whitening = "distill.whitening=\(precision == "int8" ? 0.5 : 0.1)"
            let recipe = try distilling("schedule.precision=\(precision)", more, whitening, "auxiliary.depth=null")
            let file = try teacherFile()
            try trainer(recipe, "straight-\(precision)", frozen(file)).runQuietly()
            for stop in [2, 3, 7] {
                let run = "\(precision)-\(stop)"
                try trainer(recipe, run, frozen(file), maxSteps: stop).runQuietly()
                hssl_set_threads(2)
                defer { hssl_set_threads(1) }
                try trainer(recipe, run, frozen(file), resume: true).runQuietly()
                try assertSameCheckpoint("straight-\(precision)", run, "stopped at step \(stop)")
            }
        }
    }

    func testWhoTaughtIsKeptAndAskedFor() throws {
        let recipe = try distilling(), file = try teacherFile()
        try trainer(recipe, "run", frozen(file), maxSteps: 4).runQuietly()
        let checkpoint = try SafetensorsFile(path: root + "/run/checkpoint.safetensors")
        let kept = try XCTUnwrap(Checkpoint.position(of: checkpoint).teacher)
        XCTAssertEqual(
            kept, .init(file: "teacher.safetensors", hash: file.fingerprint, license: "Apache-2.0", precision: "int8"))
        let exported = root + "/small.safetensors"
        try BaseExport.export(
            checkpoint: checkpoint.path, role: "teacher", to: exported, precision: .float32)
        let provenance = try ModelFile(path: exported).provenance
        XCTAssertEqual(provenance.teacher, kept)
        XCTAssertEqual(provenance.method, "distill")
        XCTAssertEqual(provenance.teacher?.summary,
                       "teacher.safetensors (int8, licence Apache-2.0, hash \(file.fingerprint))")
        let other = try teacherFile("other", seed: 6)
        XCTAssertEqual(
            message { _ = try trainer(recipe, "run", frozen(other), resume: true) },
            "ROOT/run/checkpoint.safetensors: was distilled from another teacher: teacher.safetensors, hash "
                + "\(file.fingerprint); other.safetensors has \(other.fingerprint)")
        // A copy by another name is the same teacher.
        try FileManager.default.copyItem(atPath: file.path, toPath: root + "/copy.safetensors")
        let copy = try ModelFile(path: root + "/copy.safetensors")
        XCTAssertTrue(try trainer(recipe, "run", frozen(copy), resume: true).isResumed)
        XCTAssertEqual(
            message { _ = try trainer(self.recipe(), "none", frozen(file)) },
            "objective.name is ibot; hssl distill takes recipes of objective distill (hssl pretrain runs this one)")
        XCTAssertEqual(
            message { _ = try trainer(recipe, "none") },
            "objective.name is distill, which needs a teacher: hssl distill RECIPE --teacher FILE")
        XCTAssertFalse(exists("none"))
    }

    func testTheGapIsMeasuredOnceAndKept() throws {
        let recipe = try distilling("evaluation.knn_every_epochs=1"), file = try teacherFile()
        // A trainer holds its folder as long as it is there.
        func run(resume: Bool = false, maxSteps: Int? = nil) throws -> KNNGap {
            let trainer = try trainer(recipe, "run", frozen(file), resume: resume, maxSteps: maxSteps)
            try trainer.runQuietly()
            return try XCTUnwrap(trainer.gap)
        }
        let gap = try run(maxSteps: 5)
        let text = try String(contentsOfFile: root + "/run/metrics.jsonl", encoding: .utf8)
        let metrics = text.split(separator: "\n").compactMap { Metrics(json: $0) }
        XCTAssertEqual(metrics.map(\.step), [0, 1, 2, 3, 4, 5])
        XCTAssertEqual(metrics[0].gap, gap)
        XCTAssertEqual(metrics[4].gapClosed, metrics[4].knnTop1.flatMap { gap.closed(by: $0) })
        XCTAssertNil(metrics[3].gapClosed)
        XCTAssertEqual(try run(resume: true), gap)
        let after = try String(contentsOfFile: root + "/run/metrics.jsonl", encoding: .utf8)
        XCTAssertEqual(after.components(separatedBy: "knn_untrained").count, 2, "measured once")
        XCTAssertEqual(KNNGap(untrained: 0.4, teacher: 0.6).closed(by: 0.55) ?? 0, 0.75, accuracy: 1e-12)
        XCTAssertNil(KNNGap(untrained: 0.6, teacher: 0.6).closed(by: 0.5))
    }

    func testAStopDoesNotWaitForTheGap() throws {
        let recipe = try distilling("evaluation.knn_every_epochs=1"), file = try teacherFile()
        for stop in [2, 3, 5, 7] {
            var asked = 0
            let trainer = try trainer(recipe, "stop-\(stop)", frozen(file))
            let summary = try trainer.run(shouldStop: {
                asked += 1
                return asked >= stop
            }, progress: { _, _ in }, notice: { _ in })
            XCTAssertEqual([summary.step, asked], [0, stop + 1], "asked again only whether to begin")
            XCTAssertNil(trainer.gap)
        }
        XCTAssertTrue(exists("stop-3/checkpoint.safetensors"))
    }

    /// A run that stops while it looks at the teacher's answers has learnt nothing yet, and looks again.
    func testAStopDoesNotWaitForTheSample() throws {
        let recipe = try distilling(), file = try teacherFile()
        try trainer(recipe, "straight", frozen(file)).runQuietly()
        var asked = 0
        let stopped = try trainer(recipe, "stopped", frozen(file)).run(shouldStop: {
            asked += 1
            return asked >= 2
        }, progress: { _, _ in }, notice: { _ in })
        XCTAssertEqual(stopped.step, 0)
        try trainer(recipe, "stopped", frozen(file), resume: true).runQuietly()
        try assertSameCheckpoint("straight", "stopped", "stopped before step 1")
        let checkpoint = try SafetensorsFile(path: root + "/stopped/checkpoint.safetensors")
        let map = try XCTUnwrap(checkpoint.tensors.map(\.name).first { $0.hasSuffix("whitening.map") })
        let values = try checkpoint.floats(map, shape: [18 * 18])
        XCTAssertNotEqual(values[1], 0, "a map that mixes channels")
    }

    func testTheMemoryPlanCountsTheAnswers() throws {
        let file = try teacherFile(), recipe = try distilling("distill.anchors=4096")
        func plan(_ anchors: Int, otherViewBytes: Int = 0) throws -> MicroBatchPlan {
            let recipe = try distilling("distill.anchors=\(anchors)")
            let learner = try Learner(recipe: recipe, teacher: frozen(file).shape)
            return MicroBatchPlan.probe(
                learner, recipe: recipe, loader: .init(threads: 2, decodeBytes: 0, otherViewBytes: otherViewBytes),
                limit: .max, smallest: 1, largest: 16)
        }
        let (few, many) = (try plan(64), try plan(4096))
        // Distributions and logits of every image over the anchors, though the queue is empty yet.
        XCTAssertGreaterThan(many.bytesPerImage - few.bytesPerImage, 4 * 4 * (4096 - 64))
        XCTAssertGreaterThanOrEqual(try plan(64, otherViewBytes: 1 << 20).bytesPerImage - few.bytesPerImage, 4 << 20)
        let refused = message { _ = try trainer(recipe, "refused", frozen(file), memoryLimit: 1 << 20) }
        XCTAssertTrue(refused.hasPrefix("--memory-limit: 1M is too little"), refused)
        let limited = try trainer(
            recipe, "limited", frozen(file), maxSteps: 3, memoryLimit: many.bytes(microBatch: 6) + (16 << 20))
        try limited.runQuietly()
        XCTAssertLessThan(limited.microBatch, 17)
    }
}
