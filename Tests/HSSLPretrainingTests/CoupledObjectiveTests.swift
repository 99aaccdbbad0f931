import CSupport
import Foundation
import HSSLFormats
import HSSLGraph
import HSSLModels
import XCTest

@testable import HSSLPretraining

/// Objectives whose losses see the whole update: MoCo v3, BYOL and SimMIM, beyond the fixtures.
final class CoupledObjectiveTests: TrainerTestCase {
    private static let all: [(any ObjectiveSettings, Bool)] = {
        var plainPredictor = MoCoV3Settings(hidden: 32, output: 16)
        (plainPredictor.predictorLastNorm, plainPredictor.projectorLayers) = (false, 2)
        let settings: [any ObjectiveSettings] = [
            MoCoV3Settings(hidden: 32, output: 16), plainPredictor, BYOLSettings(hidden: 32, output: 16),
            SimMIMSettings(maskStride: 4),
        ]
        return settings.flatMap { [($0, true), ($0, false)] }
    }()

    private func learner(
        _ objective: any ObjectiveSettings, auxiliary: Bool, _ settings: StepSettings = .init(seed: 3),
        image: Int = 16
    ) throws -> Learner {
        let base = try ModelArchitecture(
            VisionTransformer.Configuration(
                imageSize: image, patchSize: 4, embedDim: 24, depth: 2, numHeads: 3))
        var head = HeadSettings(family: "convnext", depth: 2)
        head.kernelSize = 3
        let learner = try Learner(
            sizes: NetworkSizes(base: base, auxiliary: auxiliary ? head : nil),
            objective: objective, settings: settings, clipGradient: 0)
        // Initial weights of σ 0.02 make every image alike to this shallow a network; the teacher must differ.
        for parameter in learner.student.parameters.all where parameter.shape.count > 1 {
            for i in 0..<parameter.count { parameter.values[i] *= 5 }
            parameter.valuesDidChange()
        }
        learner.teacher?.copy(from: learner.student)
        learner.teacher?.perturb("", by: 0.03)
        return learner
    }

    private func batch(_ objective: any ObjectiveSettings, _ range: Range<Int>) -> CropBatch {
        let views = objective.globalViews, cells = 16, size = 3 * 256
        let batch = CropBatch(
            images: range.count, globalViews: views, globalSize: 16, localViews: 0, localSize: 0,
            tokens: cells, firstImage: range.lowerBound)
        for (place, image) in range.enumerated() {
            for view in 0..<views {
                var random = CounterRandom(seed: 8, stream: 2, UInt64(image), UInt64(view))
                for i in 0..<size { batch.globals[(place * views + view) * size + i] = random.normal() }
                for cell in 0..<cells {
                    batch.masks[(place * views + view) * cells + cell] = random.uniform() < 0.6 ? 1 : 0
                }
            }
        }
        return batch
    }

    private func context(_ images: Int, step: Int = 0) -> StepContext {
        StepContext(
            step: step, teacherTemperature: 0, teacherPatchTemperature: 0, batchImages: images,
            prototypesFrozen: false)
    }

    /// Micro-batches of 1, 3 and all give the same gradients; whether tapes are kept changes no bit.
    func testMicroBatchesEqualTheWholeBatch() throws {
        let images = 9
        for (objective, auxiliary) in Self.all {
            for dropPath in [Float(0), 0.5] {
                let learner = try learner(objective, auxiliary: auxiliary, .init(dropPath: dropPath, seed: 3))
                func evaluate(_ sizes: [Int], keptBytes: Int = .max) -> Evaluation {
                    learner.objective.settings.keptBytes = keptBytes
                    var first = 0
                    let batches = sizes.map { size in
                        defer { first += size }
                        return batch(objective, first..<first + size)
                    }
                    let result = learner.evaluate(batches, context: context(images, step: 7))
                    // Batch norm takes a constant away: these gradients are zero but for rounding.
                    let constants = ["base.norm.bias", "auxiliary.norm.bias", "or.0.bias"]
                    let exact = result.gradients.filter { name, _ in
                        objective.name == "simmim" || !constants.contains { name.hasSuffix($0) }
                    }
                    return Evaluation(
                        losses: result.losses, gradients: exact, centers: nil, logits: [:], targetEntropy: 0)
                }
                let whole = evaluate([images]), label = "\(objective.name), head \(auxiliary), drop path \(dropPath)"
                XCTAssertFalse(whole.gradients.isEmpty)
                for sizes in [[Int](repeating: 1, count: images), [3, 3, 3], [2, 1, 4, 2]] {
                    let parts = evaluate(sizes)
                    assertEqual(parts, whole, tolerance: 1e-5, "\(label), \(sizes)")
                    for part in whole.losses.parts {
                        XCTAssertEqual(parts.losses[part.name], part.value, accuracy: 1e-6 * abs(part.value), label)
                    }
                    let again = evaluate(sizes, keptBytes: 0)
                    XCTAssertEqual(again.gradients, parts.gradients, "\(label), \(sizes): tapes are not kept")
                    XCTAssertEqual(again.losses, parts.losses, label)
                }
            }
        }
    }

    /// A small move along the gradient changes the loss by what it says.
    func testGradientsAreThoseOfTheTotalLoss() throws {
        for (objective, auxiliary) in Self.all {
            let learner = try learner(objective, auxiliary: auxiliary)
            let batch = batch(objective, 0..<8)
            let gradients = learner.evaluate([batch], context: context(8)).gradients
            for (name, gradient) in gradients.sorted(by: { $0.key < $1.key })
            where name.hasSuffix("0.weight")
                || name.hasSuffix("qkv.weight")
            {
                let parameter = try XCTUnwrap(learner.student.parameters[name])
                let norm = gradient.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
                func loss(_ step: Double) -> Double {
                    for i in 0..<parameter.count { parameter.values[i] += Float(step / norm) * gradient[i] }
                    parameter.valuesDidChange()
                    defer {
                        for i in 0..<parameter.count { parameter.values[i] -= Float(step / norm) * gradient[i] }
                        parameter.valuesDidChange()
                    }
                    return learner.evaluate([batch], context: context(8)).losses.total
                }
                let step = 1e-3, slope = (loss(step) - loss(-step)) / (2 * step)
                XCTAssertEqual(
                    slope, norm, accuracy: 0.05 * norm + 1e-3, "\(objective.name), head \(auxiliary): \(name)")
            }
        }
    }

    func testOverfittingOneBatchAgainstAFrozenTeacher() throws {
        for (objective, auxiliary) in Self.all {
            for precision in [Precision.float32, .int8] {
                let learner = try learner(objective, auxiliary: auxiliary, .init(precision: precision, seed: 3))
                let batches = [batch(objective, 0..<5), batch(objective, 5..<12)]
                let teacher = learner.state.filter { $0.key.hasPrefix("teacher.") }
                var losses: [Losses] = []
                for step in 0..<(objective.name == "simmim" ? 150 : 60) {
                    var sums = learner.newSums()
                    for batch in batches { learner.accumulate(batch, context: context(12, step: step), into: &sums) }
                    losses.append(sums.losses)
                    let schedule = SmallLearner.schedule(learningRate: 3e-3, weightDecay: 0, momentum: 1)
                    XCTAssertFalse(learner.update(sums, schedule: schedule).skipped)
                }
                for part in losses[0].parts {
                    let last = losses[losses.count - 1][part.name],
                        label = "\(objective.name), head \(auxiliary), \(precision)"
                    print("Overfitting \(label): \(part.name) \(part.value) -> \(last)")
                    // The pixels are noise, which one linear layer has to hold.
                    XCTAssertLessThan(
                        last, (part.name.hasPrefix("pixels") ? 0.7 : 0.1) * part.value, "\(label): \(part.name)")
                }
                XCTAssertEqual(
                    learner.state.filter { $0.key.hasPrefix("teacher.") }, teacher, "momentum 1 freezes the teacher")
            }
        }
    }

    // MARK: Runs

    private func recipe(of objective: String, _ overrides: String...) throws -> Recipe {
        let head = objective == "simmim" ? "{}" : "{hidden_dim: 16, out_dim: 8}"
        let yaml = """
            model:      {architecture: vit_nano, image_size: 12, patch_size: 4, drop_path: 0.1}
            auxiliary:  {family: convnext, depth: 1, kernel_size: 3}
            head:       \(head)
            objective:  {name: \(objective)}
            optimizer:  {warmup_epochs: 1}
            schedule:   {epochs: 2, batch_size: 16}
            evaluation: {knn_every_epochs: 1}
            checkpoint: {every_steps: 3}
            """
        return try Recipe.parse(yaml, file: "tiny.yaml", architectures: ModelArchitecture.names, overrides: overrides)
    }

    func testARunResumesBitForBitAndExports() throws {
        for objective in ["mocov3", "byol", "simmim"] {
            for family in ["convnext", "none"] {
                let name = "\(objective)-\(family)", recipe = try recipe(of: objective, "auxiliary.family=\(family)")
                var notices: [String] = []
                let summary = try trainer(recipe, name).runQuietly { notices.append($0) }
                XCTAssertNotNil(summary.lastTop1, "labels vote for the teacher's base, or the student's")
                let coupled = recipe.objectiveSettings.couplesImages(hasAuxiliary: family != "none")
                XCTAssertEqual(notices.filter { $0.contains("batch norm") }.count, coupled ? 1 : 0)
                try train(recipe, name + "-stopped", maxSteps: 5)
                try train(recipe, name + "-stopped", resume: true)
                XCTAssertTrue(try checkpoint(name) == checkpoint(name + "-stopped"), name)
                let file = try SafetensorsFile(path: "\(root)/\(name)/checkpoint.safetensors")
                XCTAssertEqual(
                    file.names.contains { $0.hasPrefix("teacher.") }, objective != "simmim" || family != "none")
                XCTAssertTrue(exists(name + "/model.safetensors"))
                try BaseExport.export(
                    checkpoint: "\(root)/\(name)/checkpoint.safetensors", role: "teacher",
                    to: "\(root)/\(name)/exported.safetensors", precision: .float32)
                let line = try XCTUnwrap(
                    String(contentsOfFile: "\(root)/\(name)/metrics.jsonl", encoding: .utf8)
                        .split(separator: "\n").first)
                let metrics = try XCTUnwrap(Metrics(json: line))
                XCTAssertEqual(metrics.named["global_base"] != nil, coupled, name)
                XCTAssertEqual(metrics.named["pixels_base"] != nil, objective == "simmim")
                XCTAssertNil(metrics.named["cls_base"])
                XCTAssertNil(metrics.teacherTemperature)
                XCTAssertNotNil(metrics.featureStd)
            }
        }
    }

    func testAMemoryLimitHolds() throws {
        for objective in ["mocov3", "simmim"] {
            let recipe = try recipe(of: objective)
            let learner = try Learner(recipe: recipe)
            let plan = MicroBatchPlan.probe(
                learner, recipe: recipe, loader: .init(threads: 2, decodeBytes: 0), limit: .max,
                smallest: 1, largest: 16)
            let refused = message { _ = try trainer(recipe, "refused", memoryLimit: 1 << 20) }
            XCTAssertTrue(refused.contains("this recipe needs at least "), refused)
            let limited = try trainer(
                recipe, "limited-" + objective, maxSteps: 3,
                memoryLimit: plan.bytes(microBatch: 4) + (8 << 20))
            XCTAssertLessThan(limited.learner.objective.settings.keptBytes, Processor.physicalMemory / 2)
            try limited.runQuietly()
        }
    }

    func testBadInput() throws {
        for (objective, images) in [("mocov3", 8), ("byol", 15), ("simmim", 4)] {
            let few =
                "schedule.batch_size × accumulate is \(images): batch norm over so few images is noise; objective "
                + "\(objective) needs at least 16, better 64"
            XCTAssertEqual(
                message { _ = try trainer(recipe(of: objective, "schedule.batch_size=\(images)"), "few") }, few)
        }
        // No statistic crosses images here.
        _ = try trainer(recipe(of: "simmim", "schedule.batch_size=4", "auxiliary.family=none"), "alone")
        func refusal(_ objective: String, _ more: String) -> String { message { _ = try recipe(of: objective, more) } }
        XCTAssertEqual(
            refusal("mocov3", "data.local_crops=2"),
            "--set data.local_crops: is not known to objective mocov3, "
                + "only to objectives ibot, dino")
        XCTAssertTrue(refusal("byol", "objective.mask_ratio=[0.3]").contains("only to objectives ibot, simmim"))
        XCTAssertTrue(refusal("simmim", "head.prototypes=16").contains("is not known to objective simmim"))
        try train(recipe(of: "byol"), "byol", maxSteps: 1)
        XCTAssertEqual(
            message { _ = try trainer(recipe(of: "mocov3"), "byol", resume: true) }.split(separator: ";").first,
            "ROOT/byol/checkpoint.safetensors: the run has another recipe: objective.name is byol there, mocov3 here"
        )
    }

    /// Defaults are those of the objective.
    func testDefaultsFollowTheObjective() throws {
        let smallest = "model: {architecture: vit_nano, image_size: 224}\nobjective: {name: simmim}"
        func parse(_ text: String) throws -> Recipe {
            try Recipe.parse(text, file: "r.yaml", architectures: ModelArchitecture.names)
        }
        let recipe = try parse(smallest)
        XCTAssertEqual(recipe.objective.maskRatio, [0.6])
        XCTAssertEqual(recipe.objective.maskShape, .random)
        XCTAssertEqual(recipe.data.colorJitterProbability, 0)
        XCTAssertEqual(try parse(recipe.yaml), recipe)
        let moco = try parse(
            smallest.replacingOccurrences(of: "simmim", with: "mocov3") + "\noptimizer: {clip_gradient: 2}")
        XCTAssertEqual(moco.optimizer.clipGradient, 2, "what is said counts")
        XCTAssertEqual(moco.optimizer.teacherMomentum, 0.99)
        XCTAssertEqual(moco.head.hiddenDim, 4096)
        XCTAssertEqual(try Recipe.parseStored(moco.yaml, file: "c", architectures: ModelArchitecture.names), moco)
        var plain = Recipe()
        (plain.model.architecture, plain.model.imageSize) = ("vit_nano", 224)
        XCTAssertEqual(try parse("model: {architecture: vit_nano, image_size: 224}"), plain)
        XCTAssertTrue(Recipe.help(architectures: []).contains("default 0.3 (mocov3: 0.0"))
    }
}
