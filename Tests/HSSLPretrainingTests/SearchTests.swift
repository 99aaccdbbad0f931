import CSupport
import Foundation
import HSSLData
import HSSLFormats
import HSSLGraph
import HSSLModels
import XCTest

@testable import HSSLPretraining

final class SearchTests: TrainerTestCase {
    private static let objectives = [
        "ibot": "head: {hidden_dim: 16, bottleneck_dim: 8, prototypes: 16}",
        "dino": "head: {hidden_dim: 16, bottleneck_dim: 8, prototypes: 16}",
        "mocov3": "head: {hidden_dim: 16, out_dim: 8, projector_layers: 3}",
        "byol": "head: {hidden_dim: 16, out_dim: 8}",
        "simmim": "optimizer: {learning_rate: 1.0e-3}",
    ]

    private func recipe(objective: String, _ overrides: String...) throws -> Recipe {
        let yaml = """
            model: {architecture: vit_nano, image_size: 12, patch_size: 4, drop_path: 0.1}
            auxiliary: {family: convnext, depth: 1, kernel_size: 3}
            schedule: {epochs: 2, batch_size: 16}
            checkpoint: {every_steps: 2}
            objective: {name: \(objective)}
            \(Self.objectives[objective] ?? "")

            """
        let always = ["optimizer.warmup_epochs=1"]
            + (["ibot", "dino"].contains(objective) ? ["optimizer.freeze_prototypes_epochs=1"] : [])
        return try Recipe.parse(
            yaml, file: objective, architectures: ModelArchitecture.names, overrides: always + overrides)
    }

    /// 16 images held out, 4 updates in all.
    private func options(_ heads: String, coupled: Bool = false) throws -> SearchOptions {
        var options = try SearchOptions(heads: heads)
        options.heldOutImages = 16
        options.share = 0.5
        options.coupled = coupled
        return options
    }

    @discardableResult
    private func search(
        _ recipe: Recipe, _ run: String, heads: String = "convnext,mlp", coupled: Bool = false, resume: Bool = false,
        maxSteps: Int? = nil, loaderThreads: Int = 2, memoryLimit: Int? = nil
    ) throws -> SearchTrainer.Outcome {
        var pretraining = PretrainingOptions()
        pretraining.threads = Int(hssl_get_threads())
        pretraining.resume = resume
        pretraining.maxSteps = maxSteps
        pretraining.loaderThreads = loaderThreads
        pretraining.memoryLimit = memoryLimit
        let trainer = try SearchTrainer(
            recipe: recipe, dataset: Dataset(path: root + "/train"), output: root + "/" + run, options: pretraining,
            search: options(heads, coupled: coupled))
        return try trainer.run(shouldStop: { false }, progress: { _, _ in }, notice: { _ in })
    }

    /// Names of the tensors that differ.
    private func differences(_ a: String, _ b: String, where wanted: (String) -> Bool) throws -> [String] {
        let files = try [a, b].map { try SafetensorsFile(path: "\(root)/\($0)/checkpoint.safetensors") }
        let names = files.map { $0.names.filter(wanted) }
        XCTAssertEqual(Set(names[0]), Set(names[1]))
        XCTAssertGreaterThan(names[0].count, 3)
        return try names[0].filter { Data(try files[0].tensor($0).bytes) != Data(try files[1].tensor($0).bytes) }
    }

    private func isBase(_ name: String) -> Bool { !name.hasPrefix("candidate.") }

    // MARK: Isolation

    func testCandidatesLeaveTheBaseAlone() throws {
        for objective in ["ibot", "mocov3", "simmim"] {
            let recipe = try recipe(objective: objective)
            try search(recipe, objective + "-two")
            try search(recipe, objective + "-other", heads: "vit,swin,poolformer")
            XCTAssertEqual(try differences(objective + "-two", objective + "-other", where: isBase), [], objective)
            // And candidates leave each other alone.
            try search(recipe, objective + "-one", heads: "mlp")
            let ofMLP = { (name: String) in name.hasPrefix("candidate.mlp.") || name.hasPrefix("candidate.base.") }
            XCTAssertEqual(try differences(objective + "-two", objective + "-one", where: ofMLP), [], objective)
        }
    }

    func testCoupledCandidatesTeachTheBase() throws {
        for objective in ["dino", "byol", "simmim"] {
            let recipe = try recipe(objective: objective)
            try search(recipe, objective + "-alone", maxSteps: 1)
            try search(recipe, objective + "-coupled", coupled: true, maxSteps: 1)
            // The first rate is 0: what the gradients were, the moments say.
            let ofBase = { (name: String) in name.hasPrefix("optimizer.exp_avg.base.") }
            let changed = try differences(objective + "-alone", objective + "-coupled", where: ofBase)
            XCTAssertTrue(changed.contains { $0.hasSuffix("blocks.0.attn.qkv.weight") }, "\(objective): \(changed)")
            XCTAssertTrue(changed.contains { $0.hasSuffix("base.norm.weight") }, "\(objective): \(changed)")
            let candidates = { (name: String) in !self.isBase(name) }
            let others = try differences(objective + "-alone", objective + "-coupled", where: candidates)
            XCTAssertEqual(others, [], objective)
        }
    }

    /// The directional derivative of own loss + mean over candidates of ½(head + probe) is the gradient's length.
    func testCoupledGradientsAreThoseOfTheLoss() throws {
        for objective in ["ibot", "mocov3", "simmim"] {
            let recipe = try recipe(objective: objective, "model.drop_path=0")
            let learner = try Learner(recipe: recipe.aloneForSearch)
            let set = try CandidateSet(options("convnext,vit", coupled: true), recipe: recipe, learner: learner)
            learner.accompany(by: set)
            // Forward passes are run again for the gradients.
            learner.objective.settings.keptBytes = 0
            let source = BatchSource(
                recipe: recipe.aloneForSearch, grid: learner.globalGrid, dataset: try Dataset(path: root + "/train"),
                microBatch: 5, globalViews: learner.globalViews)
            let parts = try (0..<source.partsPerStep).map { try source.make(step: 0, part: $0).batch }
            let context = StepContext(
                step: 0, teacherTemperature: 0.1, teacherPatchTemperature: 0.1, batchImages: 16,
                prototypesFrozen: false)
            // Away from the start, where student and teacher agree and vanishing norms make the loss rough.
            var random = CounterRandom(seed: 1, stream: 2)
            for parameter in learner.parameters where parameter.shape.count > 1 {
                for i in 0..<parameter.count { parameter.values[i] += 0.05 * random.normal() }
                parameter.valuesDidChange()
            }
            func loss() -> Double {
                var sums = learner.newSums()
                for part in parts { learner.accumulate(part, context: context, into: &sums) }
                let candidates = set.candidates.map { ($0.losses.head + $0.losses.probe) / 2 }
                set.discard()
                return sums.losses.total + candidates.reduce(0, +) / Double(candidates.count)
            }
            let parameters = learner.student.parameters.all.filter { $0.name.hasPrefix("base.") }
            _ = loss()
            let gradients = parameters.map { parameter in
                parameter.gradient.map { Array(UnsafeBufferPointer(start: $0, count: parameter.count)) }
            }
            learner.student.parameters.clearGradients()
            let length = gradients.compactMap { $0 }.joined().reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
            func move(_ step: Double) {
                for (parameter, gradient) in zip(parameters, gradients) {
                    guard let gradient else { continue }
                    for i in gradient.indices { parameter.values[i] += Float(step / length) * gradient[i] }
                    parameter.valuesDidChange()
                }
            }
            let step = 2e-4
            move(step)
            let above = loss()
            move(-2 * step)
            let below = loss()
            XCTAssertEqual((above - below) / (2 * step), length, accuracy: 0.02 * length, objective)
        }
    }

    // MARK: Runs

    func testResumedSearchEqualsTheStraightOneAtAnyThreads() throws {
        for (objective, coupled) in [("ibot", false), ("mocov3", true)] {
            let recipe = try recipe(objective: objective), name = objective
            let straight = try search(recipe, name, coupled: coupled, loaderThreads: 1)
            for stop in [1, 3, 4] {
                let run = "\(name)-\(stop)"
                hssl_set_threads(2)
                let stopped = try search(recipe, run, coupled: coupled, maxSteps: stop, loaderThreads: 3)
                XCTAssertEqual(stopped.result == nil, stop < 4)
                hssl_set_threads(1)
                let resumed = try search(recipe, run, coupled: coupled, resume: true)
                XCTAssertEqual(resumed.summary.ending, .finished)
                XCTAssertEqual(resumed.result, straight.result)
                try assertSameCheckpoint(name, run, "stopped at \(stop)")
                XCTAssertEqual(try metricsSteps(run), [1, 2, 3, 4])
            }
            let result = try XCTUnwrap(straight.result), winner = try XCTUnwrap(result.winner)
            XCTAssertEqual(result.images, 16)
            let chosen = try Recipe.load(path: "\(root)/\(name)/recipe.yaml", architectures: ModelArchitecture.names)
            XCTAssertEqual(chosen.auxiliary.family, winner.head)
            let wanted = recipe.with(head: winner.head)
            XCTAssertNil(chosen.firstDifference(to: wanted), "the rest of the recipe is as it was")
            let page = try String(contentsOfFile: "\(root)/\(name)/report.html", encoding: .utf8)
            for text in ["Gap of the heads", "Loss of the heads", "<td>convnext</td>", "multiply-adds"] {
                XCTAssertTrue(page.contains(text), text)
            }
            for address in ["http://", "https://", "<script", "<link", "url("] {
                XCTAssertFalse(page.contains(address), address)
            }
        }
    }

    func testReducedPrecisionsAndMemoryLimit() throws {
        for precision in ["float16", "int8"] {
            let recipe = try recipe(objective: "mocov3", "schedule.precision=\(precision)")
            let straight = try search(recipe, precision, coupled: true)
            try search(recipe, precision + "-resumed", coupled: true, maxSteps: 3)
            let resumed = try search(recipe, precision + "-resumed", coupled: true, resume: true)
            XCTAssertEqual(resumed.result, straight.result)
            try assertSameCheckpoint(precision, precision + "-resumed", precision)
        }
        let recipe = try recipe(objective: "dino")
        XCTAssertNotNil(try search(recipe, "limited", memoryLimit: 1 << 30).result)
        let tight = message { try self.search(recipe, "tight", memoryLimit: 20 << 20) }
        XCTAssertTrue(tight.hasPrefix("--memory-limit: "), tight)
    }

    func testTheReferenceIsTheBase() throws {
        let result = try XCTUnwrap(try search(recipe(objective: "byol"), "run", heads: "resnet").result)
        XCTAssertEqual(result.base.ckaDistance, 0, accuracy: 1e-5)
        XCTAssertEqual(result.base.parameters, 0)
        // One bottleneck block of width 96 over 3 × 3 cells: 96·24 + 24·24·9 + 24·96 weights, norms, the last norm.
        XCTAssertEqual(result.rows[0].parameters, 2 * 96 * 24 + 24 * 24 * 9 + 2 * (24 + 24 + 96) + 2 * 96)
        XCTAssertEqual(result.rows[0].multiplyAdds, 9 * (2 * 96 * 24 + 24 * 24 * 9))
    }

    // MARK: Bad input

    func testWhatCannotBeSearched() throws {
        let recipe = try recipe(objective: "dino")
        let alone = message { try self.search(recipe.with(head: "none"), "a") }
        XCTAssertTrue(alone.hasPrefix("auxiliary.family is none: "), alone)
        XCTAssertEqual(
            message {
                var options = try SearchOptions(heads: "mlp")
                options.heldOutImages = 49
                _ = try SearchTrainer(
                    recipe: recipe, dataset: Dataset(path: self.root + "/train"), output: self.root + "/a",
                    options: PretrainingOptions(), search: options)
            }, "ROOT/train: 64 images are too few for a search: 49 are held out, and an update takes 16")
        let local = try self.recipe(objective: "dino", "data.local_crops=2", "data.local_crops_size=8")
        let bound = message { try self.search(local, "a") }
        XCTAssertTrue(bound.contains("head mlp: auxiliary.family mlp is bound to the grid"), bound)
        XCTAssertFalse(exists("a"), "nothing was written")

        try FileManager.default.createDirectory(atPath: root + "/mine", withIntermediateDirectories: true)
        try "mine".write(toFile: root + "/mine/recipe.yaml", atomically: true, encoding: .utf8)
        XCTAssertTrue(message { try self.search(recipe, "mine") }.contains("mine/recipe.yaml: is there already"))
        XCTAssertEqual(try String(contentsOfFile: root + "/mine/recipe.yaml", encoding: .utf8), "mine")
    }

    func testResumingAsSomethingElse() throws {
        let recipe = try recipe(objective: "dino")
        try search(recipe, "run", maxSteps: 2)
        let file = try checkpoint("run")
        XCTAssertEqual(
            message { try self.search(recipe, "run", heads: "convnext,vit", resume: true) },
            "ROOT/run/checkpoint.safetensors: the search has other heads: convnext,mlp there, convnext,vit here; "
                + "resume with what it was started with")
        func refuses(_ text: String, line: UInt = #line, _ body: () throws -> Void) {
            let message = message(body)
            XCTAssertTrue(message.contains(text), message, line: line)
        }
        refuses("other coupling: none there, --coupled here") {
            try search(recipe, "run", coupled: true, resume: true)
        }
        refuses("is a search's; hssl search --resume") { try train(recipe, "run", resume: true) }
        refuses("is a search's; pretrain its recipe.yaml") {
            try BaseExport.export(
                checkpoint: root + "/run/checkpoint.safetensors", role: "teacher", to: root + "/x.safetensors",
                precision: .float32)
        }
        refuses("holds a run") { try search(recipe, "run") }
        XCTAssertTrue(try checkpoint("run") == file, "nothing is lost")
        try train(recipe, "pretrained", maxSteps: 1)
        refuses("is a pretraining run's") { try search(recipe, "pretrained", resume: true) }
        let resumed = try search(recipe, "run", heads: "mlp, convnext", resume: true)
        XCTAssertNotNil(resumed.result, "the order does not matter")
    }
}
