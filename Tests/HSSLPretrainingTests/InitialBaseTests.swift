import CSupport
import Foundation
import HSSLFormats
import HSSLGraph
import XCTest

@testable import HSSLModels
@testable import HSSLPretraining

/// Runs that go on from a base: `model.initialize_from`.
final class InitialBaseTests: TrainerTestCase {
    private func from(_ name: String, _ overrides: String...) throws -> Recipe {
        try Recipe.parse(
            Self.yaml, file: "tiny.yaml", architectures: ModelArchitecture.names,
            overrides: ["model.initialize_from=\(root)/\(name)"] + overrides)
    }

    func testStudentAndTeacherBeginWithTheFileAndHeadsAreNew() throws {
        try writeBase("base.safetensors")
        let file = try ModelFile(path: root + "/base.safetensors")
        let learner = try trainer(from("base.safetensors"), "run").learner
        let plain = try Learner(recipe: recipe())
        for (network, _) in learner.networks {
            for parameter in ModelTrace(file.architecture).parameters.all {
                let own = try XCTUnwrap(network.parameters["base." + parameter.name])
                XCTAssertEqual(
                    Array(UnsafeBufferPointer(start: own.values, count: own.count)), try file.values(parameter.name))
            }
        }
        for parameter in plain.student.parameters.all where !parameter.name.hasPrefix("base.") {
            let own = try XCTUnwrap(learner.student.parameters[parameter.name])
            XCTAssertEqual(memcmp(own.values, parameter.values, 4 * parameter.count), 0, parameter.name)
        }
    }

    func testResumeIsBitForBitAlsoWithoutTheFile() throws {
        for isCustom in [false, true] {
            let name = "base\(isCustom).safetensors"
            let architecture = isCustom ? "custom" : "vit_nano"
            try writeBase(name, isCustom: isCustom)
            let recipe = try from(name, "model.architecture=\(architecture)")
            try train(recipe, "straight\(isCustom)")
            try train(recipe, "stopped\(isCustom)", maxSteps: 3)
            try FileManager.default.removeItem(atPath: root + "/" + name)
            try train(recipe, "stopped\(isCustom)", resume: true)
            try assertSameCheckpoint("straight\(isCustom)", "stopped\(isCustom)", architecture)
            // The base goes on to be exported and imported as the file says.
            XCTAssertEqual(
                try ModelFile(path: "\(root)/straight\(isCustom)/model.safetensors").architecture.name, architecture)
        }
    }

    func testDefaultLearningRateIsATenthAndHighRatesAreWarnedOf() throws {
        try writeBase("base.safetensors")
        XCTAssertEqual(
            try from("base.safetensors").optimizer.learningRate, try recipe().optimizer.learningRate / 10,
            accuracy: 1e-12)
        let text = try from("base.safetensors").yaml
        XCTAssertTrue(text.contains(" learning_rate: 0.0003\n"), text)
        XCTAssertEqual(
            [7.5e-4, 1e-3, 3e-3, 1.5e-4, 5e-5].map(Recipe.initializedRate), [7.5e-5, 1e-4, 3e-4, 1.5e-5, 5e-6])
        XCTAssertEqual(try from("base.safetensors", "optimizer.learning_rate=1e-3").optimizer.learningRate, 1e-3)
        var notices: [String] = []
        try trainer(from("base.safetensors"), "low", maxSteps: 1).runQuietly { notices.append($0) }
        XCTAssertEqual(notices.filter { $0.contains("learning_rate") }, [])
        try trainer(
            from("base.safetensors", "optimizer.learning_rate=1e-3", "data.mean=[0.5, 0.5, 0.5]"), "high", maxSteps: 1
        )
        .runQuietly { notices.append($0) }
        XCTAssertEqual(notices.filter { $0.contains("learning_rate") || $0.contains("data.mean") }.count, 2)
    }

    func testMismatchesAreOneLine() throws {
        try writeBase("base.safetensors")
        try writeBase("custom.safetensors", isCustom: true)
        try writeBase("codes.safetensors", precision: .int8)
        for (name, overrides, expected) in [
            (
                "base.safetensors", ["model.architecture=vit_tiny"],
                "is of architecture vit_nano, the recipe asks for vit_tiny"
            ),
            ("custom.safetensors", [], "is of architecture custom, the recipe asks for vit_nano"),
            ("base.safetensors", ["model.image_size=24"], "is for images of 12 pixels, model.image_size is 24"),
            ("base.safetensors", ["model.patch_size=6"], "has patches of 4 pixels, model.patch_size is 6"),
            ("codes.safetensors", [], "its weights are int8 codes"),
            ("absent.safetensors", [], "absent.safetensors"),
        ] {
            let recipe = try Recipe.parse(
                Self.yaml, file: "tiny.yaml", architectures: ModelArchitecture.names,
                overrides: ["model.initialize_from=\(root)/\(name)", "data.local_crops=0"] + overrides)
            let line = message { _ = try self.trainer(recipe, "run\(name)\(overrides.count)") }
            XCTAssertTrue(line.contains(expected) && line.contains(name), line)
            XCTAssertFalse(line.contains("\n"))
        }
        XCTAssertTrue(
            message { _ = try self.trainer(self.recipe("model.architecture=custom"), "none") }.contains(
                "needs model.initialize_from"))
    }
}
