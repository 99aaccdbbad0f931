import Foundation
import XCTest
@testable import HSSLPretraining

/// Keys that only some heads or objectives read, recipes of other builds, and what recipes are compared by.
final class RecipeMeaningTests: XCTestCase {
    private static let architectures = ["vit_nano", "swin_micro"]
    private static let smallest = "model: {architecture: vit_nano, image_size: 28, patch_size: 4}"

    private func parse(_ text: String, set overrides: [String] = []) throws -> Recipe {
        try Recipe.parse(text, file: "r.yaml", architectures: Self.architectures, overrides: overrides)
    }

    private func stored(_ text: String) throws -> Recipe {
        try Recipe.parseStored(text, file: "c.safetensors", architectures: Self.architectures)
    }

    private func refusal(_ body: () throws -> Recipe, line: UInt = #line) -> String {
        do {
            _ = try body()
            XCTFail("accepted", line: line)
            return ""
        } catch {
            XCTAssertTrue(error is RecipeError, line: line)
            return "\(error)"
        }
    }

    /// The file that a build before heads had families of their own wrote for every key.
    private static func earlier(family: String, states: Bool) -> String {
        """
        model:
          architecture: vit_nano
          image_size: 28
          patch_size: 4
          drop_path: 0.05
        auxiliary:
          family: \(family)
          depth: 2
          kernel_size: 7
          first_shortcut: false
        head:
          hidden_dim: 256
          bottleneck_dim: 64
          prototypes: 512
          norm_last_layer: true
        objective:
          name: ibot
          student_temperature: 0.1
          teacher_temperature: [0.04, 0.04]
          teacher_patch_temperature: [0.04, 0.04]
          warmup_teacher_temperature_epochs: 1
          mask_ratio: [0.0, 0.3]
          mask_ratio_variance: [0.0, 0.2]
          mask_shape: block
          center_momentum: 0.9
        optimizer:
          learning_rate: 0.002
          min_learning_rate: 1.0e-06
          warmup_epochs: 1
          weight_decay: [0.04, 0.4]
          clip_gradient: 0.3
          teacher_momentum: 0.994
          freeze_prototypes_epochs: 1
        \(states ? "  states: auto\n" : "")schedule:
          epochs: 2
          batch_size: 64
          accumulate: 1
          seed: 0
          precision: float32
        data:
          global_crops_scale: [0.4, 1.0]
          local_crops: 0
          local_crops_scale: [0.05, 0.4]
          local_crops_size: 96
          mean: [0.286, 0.286, 0.286]
          std: [0.353, 0.353, 0.353]
          flip_probability: 0.5
          color_jitter: [0.4, 0.4, 0.0, 0.0]
          color_jitter_probability: 0.8
          grayscale_probability: 0.0
          blur_probability: [0.0, 0.0, 0.0]
          blur_radius: [0.1, 2.0]
          solarize_probability: 0.0
          solarize_threshold: 128
        evaluation:
          knn_every_epochs: 1
          knn_reference_images: 20000
        checkpoint:
          every_steps: 200

        """
    }

    // MARK: declarations

    func testDeclarationsAreSound() throws {
        let sections = Recipe.sections()
        var paths: Set<String> = []
        for section in sections {
            XCTAssertEqual(section.keys.map(\.name).count, Set(section.keys.map(\.name)).count, section.name)
            for key in section.keys {
                paths.insert("\(section.name).\(key.name)")
                XCTAssertTrue(key.help.hasSuffix(".") && key.help.first?.isLowercase == false, key.name)
                XCTAssertFalse(key.values.isEmpty, key.name)
                XCTAssertTrue(key.isRequired || key.defaultText?.isEmpty == false, key.name)
            }
        }
        for selector in Recipe.selectors {
            XCTAssertTrue(paths.contains(selector.path))
            let names = selector.variants.map(\.name)
            XCTAssertTrue(names.contains(Recipe()[keyPath: selector.chosen]), "the default is a variant")
            for variant in selector.variants {
                for key in variant.keys { XCTAssertTrue(paths.contains(key), "\(variant.name): \(key)") }
            }
        }
        XCTAssertEqual(Recipe.sections().filter { !$0.decidesWeights }.map(\.name), ["evaluation", "checkpoint"])
    }

    /// Every default is a value that the key takes, and no key is lost on the way to text and back.
    func testEveryPairReadsBackEqual() throws {
        for family in Recipe.supportedFamilies {
            for objective in Recipe.supportedObjectives {
                let text = Self.smallest + "\nauxiliary: {family: \(family)}\nobjective: {name: \(objective)}"
                let recipe = try parse(text)
                XCTAssertEqual(try parse(recipe.yaml), recipe)
                XCTAssertEqual(try stored(recipe.yaml), recipe)
                XCTAssertEqual(try parse(recipe.yaml).yaml, recipe.yaml)
                let written = Set(recipe.fields.flatMap { section, keys in keys.map { "\(section).\($0.key)" } })
                for path in ["auxiliary.kernel_size", "auxiliary.bottleneck_ratio", "objective.mask_ratio",
                             "head.prototypes"] {
                    XCTAssertEqual(written.contains(path), recipe.reads(path), "\(family), \(objective): \(path)")
                }
            }
        }
        var recipe = try parse(Self.smallest, set: ["auxiliary.family=swin", "auxiliary.num_heads=4",
                                                    "auxiliary.width=64"])
        XCTAssertEqual(recipe.auxiliary.numHeads, 4)
        XCTAssertEqual(recipe.auxiliary.width, 64)
        XCTAssertEqual(try parse(recipe.yaml), recipe)
        recipe = try parse(Self.smallest, set: ["auxiliary.family=resnet", "auxiliary.bottleneck_ratio=0.5"])
        XCTAssertEqual(recipe.auxiliary.bottleneckRatio, 0.5)
        XCTAssertEqual(try parse(recipe.yaml), recipe)
    }

    func testHelpListsEveryKey() {
        let help = Recipe.help(architectures: Self.architectures)
        for section in Recipe.sections() {
            XCTAssertTrue(help.contains("\n\(section.name): \(section.help)\n"))
            for key in section.keys {
                XCTAssertTrue(help.contains("\n  \(key.name)\(section.decidesWeights ? "" : " *")\n"), key.name)
            }
        }
        XCTAssertTrue(help.contains("one of vit_nano, swin_micro, custom; required"))
        XCTAssertTrue(help.contains("1 to 1024; default width/32, at least 1.\n      Only with families swin, vit."))
        XCTAssertTrue(help.contains("Only with objective ibot."))
        XCTAssertTrue(help.split(separator: "\n").allSatisfy { $0.count < 120 })
        // A list of the caller's own bounds what is said.
        let narrow = Recipe.help(architectures: [], objectives: ["ibot"], families: ["convnext", "none"])
        XCTAssertFalse(narrow.contains("swin"))
    }

    // MARK: keys of some

    func testAKeyOfOthersSaysWhose() throws {
        let cases = [
            ("auxiliary: {family: mlp, kernel_size: 7}",
             "r.yaml:2: auxiliary.kernel_size is not known to family mlp, only to family convnext"),
            ("auxiliary: {family: convnext, num_heads: 3}",
             "r.yaml:2: auxiliary.num_heads is not known to family convnext, only to families swin, vit"),
            ("auxiliary: {bottleneck_ratio: 0.5}",
             "r.yaml:2: auxiliary.bottleneck_ratio is not known to family convnext, only to family resnet"),
            ("objective: {name: dino, mask_ratio: [0.3]}",
             "r.yaml:2: objective.mask_ratio is not known to objective dino, only to objectives ibot, simmim"),
            ("objective: {name: dino, teacher_patch_temperature: [0.04, 0.07]}",
             "r.yaml:2: objective.teacher_patch_temperature is not known to objective dino, only to objective ibot"),
            ("auxiliary: {family: mlpp, kernel_size: 7}",
             "r.yaml:2: auxiliary.family must be one of convnext, resnet, mlp, swin, vit, poolformer, none, not "
                 + "mlpp; did you mean mlp?"),
            ("auxiliary: {family: mlp, num_head: 7}",
             "r.yaml:2: unknown key auxiliary.num_head; did you mean num_heads?"),
        ]
        for (text, expected) in cases { XCTAssertEqual(refusal { try parse(Self.smallest + "\n" + text) }, expected) }
        let dino = "\nobjective: {name: dino, center_momentum: 0.8}\nhead: {prototypes: 16}"
        XCTAssertNoThrow(try parse(Self.smallest + dino))
    }

    /// `--set` may choose another head than the file was written for; a key that stands in its way is taken out.
    func testNullTakesAKeyOut() throws {
        let text = Self.smallest + "\nauxiliary: {family: convnext, kernel_size: 5}"
        XCTAssertEqual(refusal { try parse(text, set: ["auxiliary.family=mlp"]) },
                       "r.yaml:2: auxiliary.kernel_size is not known to family mlp, only to family convnext; "
                           + "--set auxiliary.kernel_size=null takes it out")
        let mlp = try parse(text, set: ["auxiliary.family=mlp", "auxiliary.kernel_size=null"])
        XCTAssertEqual(mlp.auxiliary.family, "mlp")
        XCTAssertEqual(try parse(text, set: ["auxiliary.kernel_size=null"]).auxiliary.kernelSize, 7)
        XCTAssertNil(try parse(text, set: ["model.patch_size=~"]).model.patchSize)
        XCTAssertEqual(refusal { try parse(text, set: ["model.image_size=null"]) },
                       "--set model.image_size: is missing")
        XCTAssertTrue(refusal { try parse(text, set: ["auxiliary.kernel_siz=null"]) }
            .contains("did you mean kernel_size?"))
        // In a file it is no value.
        XCTAssertEqual(refusal { try parse(Self.smallest + "\nauxiliary: {depth: null}") },
                       "r.yaml:2: auxiliary.depth must be an integer")
    }

    func testNoHeadIgnoresTheKeysOfHeads() throws {
        let plain = try parse(Self.smallest + "\nauxiliary: {family: none}")
        for (keys, overrides) in [("family: none, depth: 1, kernel_size: 6, num_heads: 2", []),
                                  ("depth: 1, bottleneck_ratio: 1", ["auxiliary.family=none"])] {
            XCTAssertEqual(try parse(Self.smallest + "\nauxiliary: {\(keys)}", set: overrides), plain)
        }
        XCTAssertTrue(plain.yaml.contains("auxiliary:\n  family: none\nhead:"))
        XCTAssertTrue(refusal { try parse(Self.smallest + "\nauxiliary: {family: none, deph: 1}") }
            .contains("did you mean depth?"))
    }

    func testPatchSizeMayBeTheArchitecturesOwn() throws {
        let recipe = try parse("""
            model: {architecture: swin_micro, image_size: 30}
            data: {local_crops: 2, local_crops_size: 13}
            """)
        XCTAssertNil(recipe.model.patchSize)
        XCTAssertFalse(recipe.yaml.contains("patch_size"))
        XCTAssertEqual(try parse(recipe.yaml), recipe)
        XCTAssertEqual(try parse(recipe.yaml, set: ["model.patch_size=1"]).model.patchSize, 1)
    }

    /// Names of the caller's own, which no declaration knows, read every key.
    func testListsOfTheCaller() throws {
        func parse(_ text: String) throws -> Recipe {
            try Recipe.parse(Self.smallest + text, file: "r.yaml", architectures: Self.architectures,
                             objectives: ["other", "dino"], families: ["own"])
        }
        let recipe = try parse("\nauxiliary: {kernel_size: 3}\nobjective: {mask_shape: random}")
        XCTAssertEqual(recipe.auxiliary.family, "own")
        XCTAssertEqual(recipe.objective.name, "other")
        XCTAssertTrue(refusal { try parse("\nauxiliary: {family: none}") }.contains("must be one of own, not none"))
    }

    // MARK: files of other builds

    func testRecipesOfEarlierBuildsMeanTheSame() throws {
        for family in ["convnext", "none"] {
            let old = Self.earlier(family: family, states: true)
            let recipe = try stored(old)
            XCTAssertEqual(recipe, try parse(old), "what they wrote is a recipe still")
            XCTAssertNil(recipe.firstDifference(to: try parse(old)))
            XCTAssertNil(recipe.firstDifference(to: try parse(recipe.yaml)))
            // Not only in meaning, for a head's file: checkpoints of such a run keep their bytes.
            XCTAssertEqual(recipe.yaml == old, family == "convnext")
        }
    }

    /// `optimizer.states` is younger than the format: before it, moments were float32 whatever the precision.
    func testAnAbsentKeyMeansWhatItMeantThen() throws {
        let old = Self.earlier(family: "convnext", states: false)
        XCTAssertEqual(try stored(old).optimizer.states, .float32)
        XCTAssertEqual(try parse(old).optimizer.states, .auto, "in a recipe of a user it is the default")
        XCTAssertNil(try stored(old).firstDifference(to: parse(old)), "auto means float32 at float32")
        let codes = old.replacingOccurrences(of: "precision: float32", with: "precision: int8")
        let difference = try XCTUnwrap(try stored(codes).firstDifference(to: parse(codes)))
        XCTAssertEqual(difference.key, "optimizer.states")
        XCTAssertEqual(difference.mine, "float32")
        XCTAssertEqual(difference.others, "int8")
        XCTAssertNil(try stored(codes).firstDifference(to: parse(codes, set: ["optimizer.states=float32"])))
    }

    func testRecipesOfLaterBuildsAreNamed() {
        let advice = "c.safetensors: its recipe is not one of this build (hssl "
        let text = Self.earlier(family: "convnext", states: true)
        for (old, new, named) in [
            ("  depth: 2", "  depth: 2\n  gamma: 1", "unknown key auxiliary.gamma"),
            ("  name: ibot", "  name: later", "must be one of ibot, dino, mocov3, byol, simmim, distill, not later"),
            ("checkpoint:", "later: {a: 1}\ncheckpoint:", "unknown section later"),
        ] {
            let message = refusal { try stored(text.replacingOccurrences(of: old, with: new)) }
            XCTAssertTrue(message.hasPrefix(advice), message)
            XCTAssertTrue(message.contains("a later one wrote it, use that: recipe:"), message)
            XCTAssertTrue(message.contains(named), message)
        }
        XCTAssertTrue(refusal { try stored("") }.hasPrefix(advice))
    }

    func testDifferences() throws {
        let recipe = try parse(Self.smallest)
        func difference(_ overrides: String...) throws -> String? {
            let other = try parse(Self.smallest, set: overrides)
            return recipe.firstDifference(to: other).map { "\($0.key): \($0.mine) → \($0.others)" }
        }
        XCTAssertNil(try difference())
        XCTAssertNil(try difference("evaluation.knn_every_epochs=3", "evaluation.knn_reference_images=5",
                                    "checkpoint.every_steps=7"))
        XCTAssertNil(try difference("optimizer.states=float32"))
        XCTAssertNil(try difference("optimizer.learning_rate=0.0030000000000000005"))
        XCTAssertEqual(try difference("schedule.seed=3", "optimizer.learning_rate=0.001"),
                       "optimizer.learning_rate: 0.003 → 0.001")
        XCTAssertEqual(try difference("objective.mask_ratio=[0, 0.4]"),
                       "objective.mask_ratio: [0.0, 0.3] → [0.0, 0.4]")
        XCTAssertEqual(try difference("auxiliary.family=none"), "auxiliary.family: convnext → none")
        XCTAssertEqual(try difference("auxiliary.width=64"), "auxiliary.width: absent → 64")
        XCTAssertEqual(try difference("model.patch_size=null"), "model.patch_size: 4 → absent")
        // The first in canonical order.
        XCTAssertEqual(try difference("schedule.precision=float16", "model.architecture=swin_micro"),
                       "model.architecture: vit_nano → swin_micro")
    }
}
