import CSupport
import Foundation
import HSSLFormats
import HSSLGraph
import XCTest

@testable import HSSLModels
@testable import HSSLPretraining

/// Every base with every head under every objective, by walking the registries: a new family is covered by being
/// registered.
final class PairTests: TrainerTestCase {
    /// The smallest model of each family.
    private let architectures = BaseFamilies.all.compactMap { $0.presets.first }
    private let prototypes = ["ibot", "dino"]
    private let heads = [Recipe.Auxiliary.none] + HeadFamilies.all.map { $0.family }

    /// 4 images of 12 pixels an update; local views where the pair can see them.
    private func pair(_ architecture: String, _ head: String, _ objective: String, _ more: String...) throws -> Recipe {
        let auxiliary = head == Recipe.Auxiliary.none ? "{family: none}" : "{family: \(head), depth: 2}"
        let (head, data) =
            switch objective {
            case "ibot", "dino":
                (
                    "{hidden_dim: 16, bottleneck_dim: 8, prototypes: 16}",
                    "{local_crops: \(head == "mlp" ? 0 : 1), local_crops_size: 8}"
                )
            case "simmim", Recipe.distillObjective: ("{}", "{}")
            default: ("{hidden_dim: 16, out_dim: 8}", "{}")
            }
        let hasPrototypes = ["ibot", "dino"].contains(objective)
        let yaml = """
            model:      {architecture: \(architecture), image_size: 12, drop_path: 0.2}
            auxiliary:  \(auxiliary)
            head:       \(head)
            objective:  {name: \(objective)\(hasPrototypes ? ", warmup_teacher_temperature_epochs: 1" : "")}
            optimizer:  {warmup_epochs: 0\(hasPrototypes ? ", freeze_prototypes_epochs: 0" : "")}
            schedule:   {epochs: 1, batch_size: 4}
            data:       \(data)
            evaluation: {knn_every_epochs: 0}
            """
        return try Recipe.parse(yaml, file: "pair.yaml", architectures: ModelArchitecture.names, overrides: more)
    }

    /// Updates `steps` of a run.
    private func learn(_ learner: Learner, _ recipe: Recipe, steps: Range<Int>) throws {
        let source = BatchSource(
            recipe: recipe, grid: learner.globalGrid, dataset: try .init(path: root + "/train"), microBatch: 3)
        for step in steps {
            var sums = learner.newSums()
            for part in 0..<source.partsPerStep {
                let batch = try source.make(step: step, part: part).batch
                if recipe.objective.name == Recipe.distillObjective { batch.answer(step: step) }
                learner.accumulate(
                    batch,
                    context: .init(
                        step: step, teacherTemperature: 0.05, teacherPatchTemperature: 0.05,
                        batchImages: source.batchImages,
                        prototypesFrozen: false),
                    into: &sums)
            }
            XCTAssertFalse(learner.update(sums, schedule: SmallLearner.schedule()).skipped)
        }
    }

    /// Two updates on one thread equal an update on two threads, a save, a load and another update: to the bit, at
    /// every precision.
    func testEveryPairLearnsResumesAndIgnoresThreads() throws {
        var pairs = 0
        for (a, architecture) in architectures.enumerated() {
            for (h, head) in heads.enumerated() {
                for (o, objective) in Recipe.supportedObjectives.enumerated() {
                    // Every precision with iBOT and DINO, the others in turn.
                    let everyPrecision = prototypes.contains(objective)
                    for (p, precision) in Precision.allCases.enumerated() where everyPrecision || (a + h + o) % 3 == p
                    {
                        let recipe = try pair(architecture, head, objective, "schedule.precision=\(precision)"),
                            name = "\(architecture) \(head) \(objective) \(precision)"
                        guard (try? NetworkSizes(recipe: recipe)) != nil else { continue }
                        pairs += 1
                        hssl_set_threads(1)
                        let straight = try Learner(recipe: recipe, teacher: .small)
                        let before = straight.state
                        try learn(straight, recipe, steps: 0..<2)
                        hssl_set_threads(2)
                        let first = try Learner(recipe: recipe, teacher: .small)
                        try learn(first, recipe, steps: 0..<1)
                        try Checkpoint.save(
                            first,
                            position: .init(
                                step: 1, epoch: 0, samplerPosition: 4, seed: 0, microBatch: 3, skippedSteps: 0,
                                datasetCount: 64,
                                datasetName: "train", recipe: recipe.yaml), to: root + "/pair.safetensors")
                        let resumed = try Learner(recipe: recipe, teacher: .small)
                        try Checkpoint.load(SafetensorsFile(path: root + "/pair.safetensors"), into: resumed)
                        try learn(resumed, recipe, steps: 1..<2)
                        XCTAssertTrue(straight.state == resumed.state, "\(name): bits differ")
                        for (parameter, values) in straight.state where parameter.hasPrefix("student.") {
                            XCTAssertTrue(values.allSatisfy(\.isFinite), "\(name): \(parameter)")
                            // What the objective does not use stays: DINO masks nothing.
                            if !recipe.objectiveSettings.masksPatches, parameter.hasSuffix("mask_token") { continue }
                            // Batch norm takes a constant away: the exact gradient is zero.
                            if objective == "byol", parameter.hasSuffix("or.0.bias") { continue }
                            XCTAssertFalse(values == before[parameter], "\(name): \(parameter) does not learn")
                        }
                    }
                }
            }
        }
        // All but ResNet with masks.
        let masking = Recipe.supportedObjectives.filter { ["ibot", "simmim"].contains($0) }.count
        let once = architectures.count * Recipe.supportedObjectives.count - masking
        XCTAssertEqual(pairs, (once + 2 * (architectures.count * prototypes.count - 1)) * heads.count)
    }

    /// The reduced precisions' gradients point where float32's do, tensor by tensor.
    func testGradientsOfEveryPairAtReducedPrecision() throws {
        for architecture in architectures {
            let masks = !architecture.hasPrefix("resnet")
            let coupled = ["mocov3", "byol", Recipe.distillObjective] + (masks ? ["simmim"] : [])
            let cases =
                heads.map { ($0, masks ? "ibot" : "dino") } + coupled.flatMap { [("convnext", $0), ("none", $0)] }
            for (head, objective) in cases {
                let images = coupled.contains(objective) ? 64 : 8
                var gradients: [Precision: [String: [Float]]] = [:]
                for precision in Precision.allCases {
                    let recipe = try pair(
                        architecture, head, objective, "schedule.precision=\(precision)", "model.drop_path=0",
                        "schedule.batch_size=\(images)")
                    let learner = try Learner(recipe: recipe, teacher: .small)
                    // Initial weights of σ 0.02 and a layer scale of 1e-6 would leave most of the model unused.
                    for parameter in learner.student.parameters.all {
                        let gain: Float =
                            parameter.name.contains("gamma")
                            ? 1e6 : parameter.shape.count == 2 && !parameter.name.contains("head.") ? 4 : 1
                        if gain != 1 { for i in 0..<parameter.count { parameter.values[i] *= gain } }
                        parameter.valuesDidChange()
                    }
                    learner.teacher?.copy(from: learner.student)
                    let source = BatchSource(
                        recipe: recipe, grid: learner.globalGrid, dataset: try .init(path: root + "/train"),
                        microBatch: images)
                    let batch = try source.make(step: 0, part: 0).batch
                    if objective == Recipe.distillObjective { batch.answer(step: 0) }
                    gradients[precision] =
                        learner.evaluate([batch], context: SmallLearner.context(images: images)).gradients
                }
                // An untrained base says nearly the same of every image here, and batch norm enlarges what little
                // differs between images together with its rounding: the bounds say how far that goes, not that it is
                // good.
                let normalizesBatch = objective == "mocov3" || objective == "byol"
                // A distillation compares cells, which an untrained ResNet makes nearly alike.
                let comparesCells = objective == Recipe.distillObjective
                let bounds = normalizesBatch
                    ? (half: 0.99, int8: 0.8) : comparesCells ? (half: 0.999, int8: 0.98) : (half: 0.9999, int8: 0.99)
                for (precision, bound) in [(Precision.float16, bounds.half), (.int8, bounds.int8)] {
                    var least = (cosine: 1.0, name: "-"), whole: ([Float], [Float]) = ([], [])
                    for (name, exact) in gradients[.float32] ?? [:] {
                        guard let reduced = gradients[precision]?[name] else {
                            XCTFail("\(name) has no gradient")
                            continue
                        }
                        let (a, b) = (withoutKeys(name, reduced), withoutKeys(name, exact))
                        whole.0 += a
                        whole.1 += b
                        let similarity = cosine(a, b)
                        if similarity < least.cosine { least = (similarity, name) }
                    }
                    let similarity = cosine(whole.0, whole.1)
                    print(
                        "Pair \(architecture) \(head) \(objective) \(precision): least cosine "
                        + "\(least), of the whole model \(similarity)"
                    )
                    XCTAssertGreaterThan(similarity, bound, "\(architecture) \(head) \(objective) \(precision)")
                }
            }
        }
    }

    func testPairsThatMakeNoSenseAreRefused() throws {
        func refusal(_ architecture: String, _ head: String, _ objective: String, _ more: String) throws -> String {
            let recipe = try Recipe.parse(
                pair(architecture, head, objective).yaml, file: "pair.yaml", architectures: ModelArchitecture.names,
                overrides: [more])
            return message { _ = try Learner(recipe: recipe) }
        }
        let seed = "schedule.seed=1"
        XCTAssertEqual(
            try refusal("resnet_micro", "convnext", "ibot", seed),
            "objective.name ibot masks patches, and resnet_micro (family resnet) has no token stage where a mask "
            + "could stand; use dino, mocov3 or byol"
        )
        XCTAssertEqual(
            try refusal("resnet_micro", "convnext", "simmim", seed),
            "objective.name simmim masks patches, and resnet_micro (family resnet) has no token stage where a mask "
            + "could stand; use dino, mocov3 or byol"
        )
        XCTAssertEqual(
            try refusal("vit_nano", "mlp", "dino", "data.local_crops=2"),
            "auxiliary.family mlp is bound to the grid of global views (3×3 cells) and cannot see local views (2×2); "
            + "set data.local_crops to 0 or use another family"
        )
        XCTAssertEqual(try refusal("vit_nano", "mlp", "dino", seed), "accepted")
        XCTAssertEqual(
            try refusal("convnext_micro", "vit", "dino", "data.local_crops_size=6"),
            "data.local_crops_size 6 does not fit convnext_micro: image_size 6 is not a multiple of 4, the pixels of "
            + "a cell of the last grid"
        )
        XCTAssertEqual(
            try refusal("swin_micro", "vit", "dino", "auxiliary.num_heads=5"),
            "auxiliary.num_heads (5) does not divide the head's width (96)")
        XCTAssertEqual(
            try refusal("resnet_micro", "vit", "dino", "model.patch_size=4"),
            "resnet_micro has no patches: model.patch_size is not for it")
    }
}
