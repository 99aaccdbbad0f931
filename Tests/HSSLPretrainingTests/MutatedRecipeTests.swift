import Foundation
import HSSLModels
import TestSupport
import XCTest
@testable import HSSLPretraining

/// Recipes that are nearly right. HSSL_MUTATIONS=1000000 tries so many.
final class MutatedRecipeTests: XCTestCase {
    func testAnyTextIsARecipeOrOneLine() throws {
        let models = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("models")
        var texts = try FileManager.default.contentsOfDirectory(at: models, includingPropertiesForKeys: nil)
            .filter { $0.pathExtension == "yaml" }.map { try String(contentsOf: $0, encoding: .utf8) }
        XCTAssertGreaterThan(texts.count, 3)
        texts += try texts.map { try parse($0).yaml }
        let count = ProcessInfo.processInfo.environment["HSSL_MUTATIONS"].flatMap(Int.init) ?? 1500
        var accepted = 0
        for bytes in Mutations(of: texts, seed: 1).prefix(count) {
            let text = String(decoding: bytes, as: UTF8.self)
            do {
                let recipe = try parse(text)
                accepted += 1
                XCTAssertEqual(try parse(recipe.yaml), recipe, text)
                // Sizes that no model can have are refused here, not where memory is asked for.
                do { _ = try NetworkSizes(recipe: recipe) } catch { XCTAssertFalse("\(error)".contains("\n"), text) }
            } catch {
                XCTAssertTrue(error is RecipeError, "\(error) of \(text)")
                XCTAssertFalse("\(error)".contains { $0.isNewline }, "\(error)")
            }
        }
        XCTAssertGreaterThan(accepted, count / 100, "mutations that all break the text test only its syntax")
    }

    private func parse(_ text: String) throws -> Recipe {
        try Recipe.parse(text, file: "r.yaml", architectures: ModelArchitecture.names)
    }
}
