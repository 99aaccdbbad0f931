import HSSLModels
import HSSLRuntime
import XCTest

@testable import HSSLPretraining

/// What a recipe that says little means.
final class RecipeDefaultsTests: TrainerTestCase {
    private func parse(_ text: String, _ overrides: String...) throws -> Recipe {
        try Recipe.parse(text, file: "r.yaml", architectures: ModelArchitecture.names, overrides: overrides)
    }

    func testThePublishedRunIsTheDefaultAtItsOwnSize() throws {
        var published = Recipe()
        published.model.architecture = "vit_base"
        published.model.imageSize = 224
        XCTAssertEqual(try parse("model: {architecture: vit_base, image_size: 224}"), published)
    }

    func testEpochsAreSharedOutAsPublished() throws {
        for (epochs, warmup, frozen, temperature) in [
            (1, 0.1, 0, 1), (2, 0.2, 1, 1), (5, 0.5, 1, 2), (40, 4, 1, 20), (100, 10, 3, 50), (400, 10, 3, 50),
        ] {
            let recipe = try parse("model: {architecture: vit_small, image_size: 224}", "schedule.epochs=\(epochs)")
            XCTAssertEqual(recipe.optimizer.warmupEpochs, warmup, accuracy: 1e-12, "\(epochs) epochs")
            XCTAssertEqual(recipe.optimizer.freezePrototypesEpochs, frozen, "\(epochs) epochs")
            XCTAssertEqual(recipe.objective.warmupTeacherTemperatureEpochs, temperature, "\(epochs) epochs")
        }
    }

    func testWhatIsWrittenBeatsWhatFollows() throws {
        let text = "model: {architecture: vit_nano, image_size: 28, patch_size: 7}"
        let small = try parse(text, "objective.name=mocov3")
        XCTAssertEqual([small.head.hiddenDim, small.head.outDim, small.head.projectorLayers], [512, 128, 2])
        XCTAssertEqual(small.data.blurProbability, [0, 0, 0])
        let written = try parse(text, "objective.name=mocov3", "head.hidden_dim=4096", "optimizer.learning_rate=1.5e-4",
                                "data.blur_probability=[1, 0.1, 0.5]")
        XCTAssertEqual(written.head.hiddenDim, 4096)
        XCTAssertEqual(written.optimizer.learningRate, 1.5e-4)
        XCTAssertEqual(written.data.blurProbability, [1, 0.1, 0.5])
        XCTAssertEqual(try parse(small.yaml), small, "the resolved recipe means the same")
    }

    func testFiveLinesRunUnderEveryObjective() throws {
        for objective in Recipe.selfSupervisedObjectives {
            for epochs in [1, 2] {
                let recipe = try parse("""
                    model:     {architecture: vit_nano, image_size: 12, patch_size: 4}
                    auxiliary: {family: resnet, depth: 1}
                    objective: {name: \(objective)}
                    schedule:  {epochs: \(epochs), batch_size: 32}
                    """)
                let summary = try trainer(recipe, "\(objective)-\(epochs)").runQuietly()
                XCTAssertEqual(summary.ending, .finished)
            }
        }
    }

    /// A file with a section `distill` means that objective, and then has no head unless it names one.
    func testASectionForDistillingChoosesIt() throws {
        let text = "model: {architecture: vit_nano, image_size: 28, patch_size: 7}"
        let recipe = try parse(text + "\ndistill: {anchors: 16}")
        XCTAssertEqual([recipe.objective.name, recipe.auxiliary.family], ["distill", "none"])
        XCTAssertEqual(recipe.optimizer.learningRate, 1e-3)
        XCTAssertEqual(try parse(text + "\ndistill: {anchors: 16}", "distill.anchors=32").distill.anchors, 32)
        XCTAssertEqual(try parse(text, "objective.name=distill", "auxiliary.family=vit").auxiliary.family, "vit")
        XCTAssertEqual(try parse(text, "objective.name=ibot").auxiliary.family, "convnext")
        XCTAssertEqual(try parse(recipe.yaml), recipe)
        XCTAssertThrowsError(try parse(text + "\ndistill: {anchors: 16}", "objective.name=ibot"))
        // Targets of builds before `whitening` were the teacher's answers as they are.
        XCTAssertEqual(recipe.distill.whitening, 0.25)
        let stored = recipe.yaml.replacing("  whitening: 0.25\n", with: "")
        XCTAssertNotEqual(stored, recipe.yaml)
        XCTAssertEqual(
            try Recipe.parseStored(stored, file: "c", architectures: ModelArchitecture.names).distill.whitening, 0)
        for (setting, text, expected) in [
            ("0.25", stored, 0), ("0.5", stored, 0.5), ("0.25", recipe.yaml, 0.25),
        ] {
            var resumed = try parse(recipe.yaml, "distill.whitening=\(setting)")
            try resumed.assumeKeysAbsent(from: text)
            XCTAssertEqual(resumed.distill.whitening, expected, setting)
        }
        XCTAssertThrowsError(try parse(
            text, "objective.name=distill", "distill.global_weight=0", "distill.similarity_weight=0",
            "distill.patch_weight=0"))
    }

    // MARK: The patch embedding of MoCo v3

    func testThePatchEmbeddingIsFrozenWherePublished() throws {
        func frozen(_ architecture: String, _ size: Int, _ objective: String) throws -> Bool {
            try parse("model: {architecture: \(architecture), image_size: \(size)}", "objective.name=\(objective)")
                .model.freezePatchEmbedding
        }
        XCTAssertTrue(try frozen("vit_small", 224, "mocov3"))
        XCTAssertFalse(try frozen("vit_small", 224, "byol"))
        XCTAssertThrowsError(
            try parse("model: {architecture: vit_small, image_size: 224, freeze_patch_embedding: true}"))
        XCTAssertFalse(try frozen("resnet50_gn", 224, "mocov3"))
        XCTAssertFalse(try frozen("vit_nano", 28, "mocov3"))
    }

    func testAFrozenPatchEmbeddingKeepsItsBits() throws {
        let text = "model: {architecture: vit_nano, image_size: 12, patch_size: 4}"
        for (freezes, name) in [(true, "frozen"), (false, "free")] {
            let recipe = try parse(
                text, "objective.name=mocov3", "auxiliary.depth=1", "schedule.batch_size=32", "schedule.epochs=1",
                "model.freeze_patch_embedding=\(freezes)")
            let trainer = try trainer(recipe, name)
            func values(_ suffix: String) throws -> [Float] {
                let parameter = try XCTUnwrap(trainer.learner.student.parameters["base.\(suffix)"])
                return Array(UnsafeBufferPointer(start: parameter.values, count: parameter.count))
            }
            let embedding = try values("patch_embed.proj.weight"), bias = try values("patch_embed.proj.bias")
            let block = try values("blocks.0.mlp.fc1.weight")
            try trainer.runQuietly()
            XCTAssertEqual(try values("patch_embed.proj.weight") == embedding, freezes, name)
            XCTAssertEqual(try values("patch_embed.proj.bias") == bias, freezes, name)
            XCTAssertNotEqual(try values("blocks.0.mlp.fc1.weight"), block, name)
        }
    }

    func testABaseWithoutAPatchEmbeddingRefuses() throws {
        let recipe = try parse("model: {architecture: resnet_micro, image_size: 12}", "objective.name=mocov3",
                               "schedule.batch_size=32", "model.freeze_patch_embedding=true")
        XCTAssertEqual(
            message { _ = try trainer(recipe, "refused") },
            "model.freeze_patch_embedding: resnet_micro (family resnet) has no patch embedding")
    }

    // MARK: Layer scales

    /// Student, teacher and the untrained base begin there; what has none, or brings its own, is refused.
    func testLayerScalesBeginWhereTheRecipeSays() throws {
        let text = "model: {architecture: convnext_micro, image_size: 28}"
        for (setting, expected) in [("model.layer_scale=0.125", Float(0.125)), ("model.layer_scale=null", 1e-6)] {
            let recipe = try parse(text, "objective.name=byol", setting)
            let learner = try Learner(recipe: recipe)
            for (network, role) in learner.networks {
                let scales = network.parameters.all.filter { $0.name.hasSuffix(".gamma") && $0.name.hasPrefix("base.") }
                XCTAssertFalse(scales.isEmpty)
                for scale in scales {
                    for i in 0..<scale.count { XCTAssertEqual(scale.values[i], expected, role + scale.name) }
                }
            }
        }
        func features(_ setting: String) throws -> [Float] {
            let model = try UntrainedBase.model(recipe: parse(text, "objective.name=byol", setting))
            let image = (0..<model.imageCount).map { Float($0 % 17) / 8 - 1 }
            return try Session(model: model, threads: 1).extract(images: image, count: 1)
        }
        XCTAssertEqual(try features("model.layer_scale=null"), try features("model.layer_scale=1.0e-6"))
        XCTAssertNotEqual(try features("model.layer_scale=null"), try features("model.layer_scale=0.1"))
        let recipe = try parse("model: {architecture: vit_nano, image_size: 28, layer_scale: 0.1}")
        XCTAssertEqual(
            message { _ = try Learner(recipe: recipe) },
            "model.layer_scale: vit_nano (family vit) has no layer scales")
        XCTAssertThrowsError(try parse(text, "model.layer_scale=0"))
    }
}
