import Foundation
import HSSLFormats
import XCTest
@testable import HSSLPretraining

final class RecipeTests: XCTestCase {
    private static let architectures = ["vit_nano", "vit_tiny", "vit_small", "vit_base", "vit_large"]

    /// The example of the interface, plus every augmentation key away from its default.
    private static let full = """
        # Header: 10 epochs * 60000 images, R&D.
        model:      {architecture: vit_nano, image_size: 28, patch_size: 4, drop_path: 0.1}
        auxiliary:  {family: convnext, depth: 2, kernel_size: 7, first_shortcut: false}     # family: none switches \
        HSSL off
        head:       {hidden_dim: 256, bottleneck_dim: 64, prototypes: 512, norm_last_layer: true}
        objective:  {name: ibot, student_temperature: 0.1, teacher_temperature: [0.04, 0.07], \
        teacher_patch_temperature: [0.04, 0.07],
                     warmup_teacher_temperature_epochs: 3, mask_ratio: [0, 0.3], mask_ratio_variance: [0, 0.2], \
                     mask_shape: block, center_momentum: 0.9}
        optimizer:  {learning_rate: 1.0e-3, min_learning_rate: 1.0e-6, warmup_epochs: 1, weight_decay: [0.04, 0.4], \
        clip_gradient: 0.3,
                     teacher_momentum: 0.992, freeze_prototypes_epochs: 1, states: float32}
        schedule:   {epochs: 10, batch_size: 128, accumulate: 1, seed: 18446744073709551615, precision: float32}
        data:
          background: FFA500
          global_crops_scale: [0.3, 1.0]
          local_crops: 2
          local_crops_scale: [0.05, 0.4]
          local_crops_size: 16
          mean: [0.286, 0.286, 0.286]
          std: [0.353, 0.353, 0.353]
          flip_probability: 0.25
          color_jitter: [0.1, 0.2, 0.3, 0.05]
          color_jitter_probability: 0.7
          grayscale_probability: 0.15
          blur_probability: [0.9, 0.2, 0.4]
          blur_radius: [0.2, 1.5]
          solarize_probability: 0.3
          solarize_threshold: 100
        evaluation: {knn_every_epochs: 2, knn_reference_images: 123}
        checkpoint: {every_steps: 77}
        """

    private func parse(_ text: String, set overrides: [String] = []) throws -> Recipe {
        try Recipe.parse(text, file: "r.yaml", architectures: Self.architectures, overrides: overrides)
    }

    private func refusal(_ text: String, set overrides: [String] = [], line: UInt = #line) -> String {
        do {
            _ = try parse(text, set: overrides)
            XCTFail("accepted", line: line)
            return ""
        } catch {
            XCTAssertTrue(error is RecipeError, line: line)
            XCTAssertFalse("\(error)".contains("\n"), line: line)
            return "\(error)"
        }
    }

    private static let smallest = "model: {architecture: vit_tiny, image_size: 224, patch_size: 16}"

    func testEveryKeyIsRead() throws {
        let recipe = try parse(Self.full)
        XCTAssertEqual(recipe.model, .init(architecture: "vit_nano", imageSize: 28, patchSize: 4, dropPath: 0.1))
        XCTAssertEqual(recipe.auxiliary, .init(family: "convnext", depth: 2, kernelSize: 7, firstShortcut: false))
        XCTAssertEqual(
            recipe.head,
            .init(
                hiddenDim: 256, bottleneckDim: 64, prototypes: 512, normLastLayer: true, outDim: 256,
                projectorLayers: 3))
        XCTAssertEqual(
            recipe.objective,
            .init(
                name: "ibot", studentTemperature: 0.1, teacherTemperature: [0.04, 0.07],
                teacherPatchTemperature: [0.04, 0.07],
                warmupTeacherTemperatureEpochs: 3, maskRatio: [0, 0.3], maskRatioVariance: [0, 0.2],
                maskShape: .block, centerMomentum: 0.9))
        XCTAssertEqual(
            recipe.optimizer,
            .init(
                learningRate: 1e-3, minLearningRate: 1e-6, warmupEpochs: 1, weightDecay: [0.04, 0.4],
                clipGradient: 0.3, teacherMomentum: 0.992,
                freezePrototypesEpochs: 1, states: .float32))
        XCTAssertEqual(
            recipe.schedule, .init(epochs: 10, batchSize: 128, accumulate: 1, seed: .max, precision: .float32))
        XCTAssertEqual(
            recipe.data,
            .init(
                background: RGBColor(red: 255, green: 165, blue: 0), globalCropsScale: [0.3, 1], localCrops: 2,
                localCropsScale: [0.05, 0.4], localCropsSize: 16, mean: [0.286, 0.286, 0.286],
                std: [0.353, 0.353, 0.353], flipProbability: 0.25, colorJitter: [0.1, 0.2, 0.3, 0.05],
                colorJitterProbability: 0.7,
                grayscaleProbability: 0.15, blurProbability: [0.9, 0.2, 0.4], blurRadius: [0.2, 1.5],
                solarizeProbability: 0.3,
                solarizeThreshold: 100))
        XCTAssertEqual(recipe.evaluation, .init(knnEveryEpochs: 2, knnReferenceImages: 123))
        XCTAssertEqual(recipe.checkpoint, .init(everySteps: 77))
    }

    func testCanonicalTextReadsBackEqual() throws {
        for text in [Self.full, Self.smallest] {
            let recipe = try parse(text)
            XCTAssertEqual(try parse(recipe.yaml), recipe)
            XCTAssertEqual(try parse(recipe.yaml).yaml, recipe.yaml)
        }
        // A YAML 1.1 reader takes 1e-06 for text.
        XCTAssertTrue(try parse(Self.full).yaml.contains("min_learning_rate: 1.0e-06\n"))
    }

    func testDefaultsArePublishedRun() throws {
        let recipe = try parse(Self.smallest)
        XCTAssertEqual(recipe.head.prototypes, 8192)
        XCTAssertEqual(recipe.optimizer.learningRate, 7.5e-4)
        XCTAssertEqual(recipe.optimizer.states, .auto)
        XCTAssertEqual(recipe.schedule.epochs, 100)
        XCTAssertEqual(recipe.data.globalCropsScale, [0.14, 1])
        XCTAssertEqual(recipe.data.blurProbability, [1, 0.1, 0.5])
    }

    func testUnknownNamesSuggestTheNearest() {
        XCTAssertEqual(
            refusal(Self.smallest + "\nobjective:\n  mask_shap: block\n"),
            "r.yaml:3: unknown key objective.mask_shap; did you mean mask_shape?")
        XCTAssertEqual(
            refusal(Self.smallest + "\nschedule: {learning_rate: 1.0e-3}"),
            "r.yaml:2: unknown key schedule.learning_rate; did you mean optimizer.learning_rate?")
        XCTAssertEqual(
            refusal(Self.smallest + "\noptimiser: {}"), "r.yaml:2: unknown section optimiser; did you mean optimizer?"
        )
        XCTAssertEqual(
            refusal(Self.smallest + "\nepochs: 3"), "r.yaml:2: unknown section epochs; did you mean schedule.epochs?")
        // The misspelling is named, not the missing key that it causes.
        XCTAssertEqual(
            refusal("model: {architecure: vit_tiny, image_size: 224, patch_size: 16}"),
            "r.yaml:1: unknown key model.architecure; did you mean architecture?")
        XCTAssertEqual(
            refusal("model: {architecture: vit_tinny, image_size: 224, patch_size: 16}"),
            "r.yaml:1: model.architecture must be one of vit_nano, vit_tiny, vit_small, vit_base, vit_large, custom, "
            + "not vit_tinny; did you mean vit_tiny?"
        )
        XCTAssertTrue(
            refusal(Self.smallest + "\nhead: {zzzzzzzzzz: 1}").contains("keys are hidden_dim, bottleneck_dim"))
    }

    func testWrongTypesAndRangesNameTheKeyAndLine() {
        let cases: [(String, String)] = [
            ("head: {prototypes: many}", "head.prototypes must be an integer"),
            ("data: {background: pink}", "data.background must be black, white or RRGGBB"),
            ("data: {background: [0, 0, 0]}", "data.background must be black, white or RRGGBB"),
            ("head: {prototypes: '512'}", "head.prototypes must be an integer"),
            ("head: {prototypes: 1.5}", "head.prototypes must be an integer, not 1.5"),
            ("head: {prototypes: 1}", "head.prototypes must be from 2 to 1048576, not 1"),
            (
                "head: {prototypes: 99999999999999999999999999}",
                "head.prototypes must be from 2 to 1048576, not 99999999999999999999999999"
            ),
            ("head: {norm_last_layer: yes}", "head.norm_last_layer must be true or false"),
            ("model: 3", "model must be a mapping of keys to values"),
            ("auxiliary: {kernel_size: 6}", "auxiliary.kernel_size must be odd, not 6"),
            ("optimizer: {learning_rate: 0}", "optimizer.learning_rate must be above 0 and at most 1000, not 0"),
            ("optimizer: {learning_rate: .nan}", "optimizer.learning_rate must be a number"),
            (
                "optimizer: {learning_rate: 1e999}",
                "optimizer.learning_rate must be above 0 and at most 1000, not 1e999"
            ),
            ("optimizer: {states: int4}", "optimizer.states must be one of auto, float32, int8, not int4"),
            ("optimizer: {weight_decay: 0.1}", "optimizer.weight_decay must be a list of 2 numbers"),
            ("optimizer: {weight_decay: [0.1, x]}", "optimizer.weight_decay each number must be a number"),
            (
                "objective: {mask_ratio: [0, 0.1]}",
                "objective.mask_ratio_variance 0.2 takes the ratio 0.1 outside 0…1"
            ),
            (
                "objective: {mask_ratio: [0.3]}",
                "objective.mask_ratio_variance must have as many numbers as objective.mask_ratio (1)"
            ),
            (
                "data: {global_crops_scale: [0.9, 0.1]}",
                "data.global_crops_scale must be [smallest, largest], not [0.9, 0.1]"
            ),
            ("data: {flip_probability: 1.1}", "data.flip_probability must be at least 0 and at most 1, not 1.1"),
            (
                "data: {local_crops: 2, local_crops_size: 90}",
                "data.local_crops_size (90) must be a multiple of model.patch_size (16)"
            ),
            ("data: {color_jitter: [0.4, 0.4, 0.2, 0.6]}", "data.color_jitter hue"),
            ("schedule: {seed: -1}", "schedule.seed must be an integer from 0 to 18446744073709551615"),
            (
                "schedule: {precision: bfloat16}",
                "schedule.precision must be one of float32, float16, int8, not bfloat16"
            ),
            ("schedule: [1, 2]", "schedule must be a mapping of keys to values"),
        ]
        for (line, expected) in cases {
            let text = line.hasPrefix("model") ? line : line + "\n" + Self.smallest
            let message = refusal(text)
            XCTAssertTrue(
                message.hasPrefix("r.yaml:1: \(expected)")
                    || (line.hasPrefix("objective") && message.contains(expected)), "\(line) → \(message)")
        }
        XCTAssertEqual(
            refusal("model: {architecture: vit_tiny, image_size: 225, patch_size: 16}"),
            "r.yaml:1: model.image_size (225) must be a multiple of model.patch_size (16)")
        XCTAssertEqual(
            refusal("model: {architecture: vit_tiny, patch_size: 16}"), "r.yaml: model.image_size is missing")
    }

    func testContradictionsAndOverflowsAreRefused() {
        let longWarmup = refusal(Self.smallest, set: ["schedule.epochs=5", "optimizer.warmup_epochs=10"])
        XCTAssertTrue(
            longWarmup.contains("optimizer.warmup_epochs (10.0) is more than schedule.epochs (5)"), longWarmup)
        XCTAssertTrue(refusal(Self.smallest, set: ["optimizer.min_learning_rate=1"]).contains("min_learning_rate"))
        XCTAssertTrue(
            refusal(Self.smallest, set: ["auxiliary.width=8193"]).contains("8192"), "a group norm's channels")
    }

    /// Defaults that follow from the number of images, and from the size of patches.
    func testDefaultsFollowFromTheData() throws {
        func batch(_ images: Int, _ settings: String...) throws -> Int {
            try Recipe.parse(
                Self.smallest, file: "r.yaml", architectures: ["vit_tiny", "vit_nano"], overrides: settings,
                images: images
            ).schedule.batchSize
        }
        let usual = try parse(Self.smallest).schedule.batchSize
        XCTAssertEqual(usual, 256)
        XCTAssertEqual(try [usual, 255, 200, 100, 80, 20, 5].map { try batch($0) }, [256, 32, 32, 16, 16, 16, 16])
        XCTAssertEqual(try batch(80, "schedule.batch_size=64"), 64, "what is said stays")
        func crop(_ model: String) throws -> Int { try parse("model: {\(model)}").data.localCropsSize }
        XCTAssertEqual(try crop("architecture: vit_nano, image_size: 28, patch_size: 7"), 14)
        XCTAssertEqual(try crop("architecture: vit_nano, image_size: 28"), 12)
        XCTAssertEqual(try crop("architecture: vit_tiny, image_size: 224"), 96)
    }

    /// What no single key has wrong is known once there are networks.
    func testRecipesThatNoRunCouldBeginWithAreRefused() throws {
        let large = "model: {architecture: vit_tiny, image_size: 1024, patch_size: 4}"
        func objection(_ text: String, _ settings: String...) throws -> String {
            let recipe = try parse(text, set: settings)
            do { try recipe.validate() } catch { return "\(error)" }
            return ""
        }
        XCTAssertTrue(try objection(large, "schedule.batch_size=65536").contains("token rows"))
        XCTAssertEqual(try objection(large), "")
        XCTAssertEqual(
            try objection(Self.smallest, "auxiliary.family=vit", "auxiliary.num_heads=7"),
            "auxiliary.num_heads (7) does not divide the head's width (192)")
        XCTAssertTrue(try objection(Self.smallest, "objective.name=mocov3", "schedule.batch_size=8").contains("noise"))
        // The preset's own patches count, not the smallest that there could be.
        XCTAssertEqual(
            try objection("model: {architecture: vit_base, image_size: 2048}", "schedule.batch_size=1100"), "")
    }

    func testOverrides() throws {
        let recipe = try parse(
            Self.full,
            set: [
                "schedule.seed=3", "objective.mask_ratio=[0.5]", "objective.mask_ratio_variance=[0]",
                "schedule.seed=4",
            ])
        XCTAssertEqual(recipe.schedule.seed, 4)
        XCTAssertEqual(recipe.objective.maskRatio, [0.5])
        XCTAssertEqual(
            refusal(Self.full, set: ["schedule.sead=3"]),
            "--set schedule.sead: unknown key schedule.sead; did you mean seed?")
        XCTAssertEqual(
            refusal(Self.full, set: ["shedule.seed=3"]),
            "--set shedule: unknown section shedule; did you mean schedule?")
        XCTAssertEqual(refusal(Self.full, set: ["schedule.epochs=x"]), "--set schedule.epochs: must be an integer")
        for bad in [
            "", "seed=3", "schedule.seed", "schedule.seed=", "schedule.seed=1\nmodel: 3", "a.b.c=1",
            "schedule.seed=a: b", "schedule.seed=[1",
        ] {
            XCTAssertTrue(refusal(Self.full, set: [bad]).hasPrefix("--set "), bad)
        }
    }

    func testFilesAreReadOrNamed() throws {
        let path = NSTemporaryDirectory() + "hssl-recipe-\(UUID().uuidString).yaml"
        defer { try? FileManager.default.removeItem(atPath: path) }
        XCTAssertThrowsError(try Recipe.load(path: path, architectures: Self.architectures)) {
            XCTAssertTrue("\($0)".hasPrefix(path + ": "), "\($0)")
        }
        try Data([0x6D, 0xFF]).write(to: URL(fileURLWithPath: path))
        XCTAssertThrowsError(try Recipe.load(path: path, architectures: Self.architectures)) {
            XCTAssertEqual("\($0)", path + ": is not UTF-8 text")
        }
        try Data(Self.smallest.utf8).write(to: URL(fileURLWithPath: path))
        XCTAssertEqual(try Recipe.load(path: path, architectures: Self.architectures), try parse(Self.smallest))
    }

    func testInvalidYAMLIsNamedWithItsLine() {
        XCTAssertEqual(refusal(""), "r.yaml: is empty")
        XCTAssertEqual(refusal("# only a comment\n"), "r.yaml: is empty")
        XCTAssertEqual(refusal("[1, 2]"), "r.yaml: must be a mapping of sections")
        XCTAssertTrue(refusal("model: {a: 1\nhead: 2").hasPrefix("r.yaml:2: is not valid YAML: "))
        XCTAssertTrue(refusal("model: {image_size: 1, image_size: 2}").hasPrefix("r.yaml:1: duplicate key image_size"))
        XCTAssertTrue(refusal(Self.smallest + "\nmodel: {}").contains("duplicate key model"))
        XCTAssertTrue(refusal("a: 1\n---\nb: 2").contains("not valid YAML"))
        XCTAssertTrue(refusal("? [a]\n: 1").contains("plain word"))
        XCTAssertTrue(refusal(String(repeating: "[", count: 100_000)).contains("not valid YAML"))
        XCTAssertTrue(refusal(String(repeating: "#", count: 1 << 20)).contains("too large"))
        XCTAssertTrue(refusal("a: \u{0}").contains("YAML"))
    }

    func testAliasBombsAreRefusedBeforeTheyGrow() {
        var bomb = "a0: &a0 [x, x]\n"
        for i in 1..<40 { bomb += "a\(i): &a\(i) [*a\(i - 1), *a\(i - 1)]\n" }
        XCTAssertEqual(refusal(bomb), "r.yaml:2: recipes use no aliases (*a0)")
        // Hidden from a naive scanner by quotes that YAML takes as plain text.
        XCTAssertTrue(refusal("k: [x 'y, &q [a], *q ]\n").contains("no aliases"))
    }

    /// Damaged recipes give an error or a recipe, never a trap.
    func testDamagedTextNeverTraps() {
        var random = SystemRandomNumberGenerator()
        let source = Array(Self.full.utf8)
        for _ in 0..<400 {
            var bytes = source
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                let i = Int.random(in: bytes.indices, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes[i] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.remove(at: i)
                default: bytes.insert(Array("{}[]:,-'\"\n9e.&*!|>%#".utf8).randomElement(using: &random) ?? 0, at: i)
                }
            }
            do {
                let recipe = try parse(String(decoding: bytes, as: UTF8.self))
                XCTAssertEqual(try parse(recipe.yaml), recipe)
            } catch {
                XCTAssertTrue(error is RecipeError)
            }
        }
    }

    func testEditDistance() {
        XCTAssertEqual(NearestName.distance("kitten", "sitting"), 3)
        XCTAssertEqual(NearestName.distance("", "abc"), 3)
        XCTAssertNil(NearestName.of("colour_space", in: ["epochs", "seed"]))
    }
}
